"""Rows of accuracy.py that are not ours: other ways to learn from the same rows

`by_sklearn`   scikit-learn's SelfTrainingClassifier and LabelSpreading
`lp_cosine`    label propagation on the inputs, cosine neighbors, no network; a test row gets what its nearest have
`tsai_student` tsai's callback
`online`       FixMatch, FlexMatch and Mean Teacher: the student, or its average, labels each batch's unlabeled rows

The last three are `NoisyStudent(..., teacher=EMATeacher(...))`. They differ from their papers in this. Batches have 8
labeled and 56 unlabeled rows, or 32 of each, as ours have; the unlabeled rows' loss counts as much as the labeled
rows' (both are means over their own rows), times a weight for Mean Teacher; a batch's loss is divided by the weights
that its rows have, which Adam hardly notices. Labeled rows have as much noise as unlabeled ones. Labels come from rows
without any noise, where FixMatch has flips and shifts and Mean Teacher has noise of another draw, and from a network
in eval mode. Mean Teacher's loss is cross entropy where the paper has squared differences, without a ramp.
"""
from dataclasses import replace

import numpy as np
import torch
from fastai.data.core import TfmdDL
from fasttransform import Pipeline, Transform
from noisy_student_fastai.data.arrays import ArrayRows, input_type
from noisy_student_fastai.labels.graph import class_probs, edges, flow, neighbors
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.student import NoisyStudent
from sets import all_labeled, flat
from training import BS, fitted, learner, noise_args, select_args, supervised, total

# labels in the training

def teacher_of(row, o):
    "What makes it that method"
    if row == 'mean_teacher': return EMATeacher(o['decay'], prior=o['prior'])
    return EMATeacher(0, min_conf=o['min_conf'], prior=o['prior'], soft=False, per_class=row == 'flexmatch')


def ema_of(row, o): return o['decay'] if row == 'mean_teacher' else o['ema']  # of the weights that are used at the end


def unlabeled_dl(part):
    "Inputs alone"
    ds = ArrayRows(part.x, None, None, True, input_type(part.x))
    return TfmdDL(ds, bs=BS, shuffle=True, num_workers=0, device=torch.device('cpu'))


def online(row, data, s, seed, o):
    """`o`: noise `m` and learning rate `lr` as multiples of the students', and what makes the method

    `warm`: begin with what is learned from labeled rows in the first sixth of the batches"""
    first = round(total(s)/6) if o['warm'] else 0
    start = supervised(data, replace(s, steps=first), seed, data.labeled, s.m_control) if first else None
    s, n_labeled = replace(s, lr=s.lr*o['lr'], n_pl=o['n_pl']), BS-o['n_pl']
    ratio, ema = n_labeled/s.n_pl, ema_of(row, o)
    def make():
        own = NoisyStudent(unlabeled_dl(data.unlabeled), BS, ratio, teacher=teacher_of(row, o),
                           pseudolabel_sample_weight=ratio*o.get('weight', 1.))
        cbs = [StudentNoise(**noise_args(s, s.m*o['m'])), own, *([] if ema is None else [EMACallback(ema)])]
        learn = learner(data, s, data.labeled, n_labeled*(total(s)-first), cbs)
        if first: learn.model.load_state_dict(start.model.state_dict())
        return learn
    return fitted(s, seed, make)


def last_stage(row, k, s, o):
    "What `self_train` is given as `online`: a method of `row` with its own settings `k`, in batches of ours, `o`"
    ratio = (BS-o['n_pl'])/o['n_pl']
    return dict(teacher=teacher_of(row, k), lr=s.lr*k['lr']*o['last_lr'], noise=noise_args(s, s.m*k['m']),
                ema=ema_of(row, k), pseudolabel_sample_weight=ratio*k.get('weight', 1.))


# tsai

class OnInputs(Transform):
    "Noise that leaves targets alone: tsai's callback calls a transform for inputs and for targets"
    def __init__(self, tfms):
        super().__init__()
        self.tfms = Pipeline(tfms, split_idx=0)

    def setup(self, items=None, train_setup=False): pass
    def __call__(self, x, **kwargs): return x if x.ndim == 1 else self.tfms((x,))[0]


def tsai_student(data, s, seed, run):
    "A student by tsai's callback, on what our first student learned from"
    from tsai.callback.noisy_student import NoisyStudent
    n_labeled, sel = BS-s.n_pl, run.labels(1, seed).select(**select_args(data, s, 1))
    def make():
        learn = learner(data, s, data.labeled, n_labeled*s.steps, StudentNoise(**noise_args(s, s.m) | dict(tfms=None)))
        learn.add_cb(NoisyStudent(sel.dl(learn.dls, soft=False), BS, n_labeled/s.n_pl, [OnInputs(s.noise(s.m))]))
        return learn
    return fitted(s, seed, make)


# scikit-learn

def bases(seed):
    "What SelfTrainingClassifier may wrap"
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC
    return dict(svc=SVC(C=10, probability=True, random_state=seed), logistic=LogisticRegression(max_iter=500),
                forest=RandomForestClassifier(200, random_state=seed))


def kernel_of(s, o, n):
    "`o`: 'knn', or an `rbf` of so much for all `n` inputs together; nothing: the setting's own"
    if o is None: return s.kernel or kernel_of(s, 'knn', n)
    return dict(kernel='knn', n_neighbors=7) if o == 'knn' else dict(kernel='rbf', gamma=o/n)


def sklearn_model(row, s, seed, o, n):
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
    if row == 'self_training': return SelfTrainingClassifier(bases(seed)[o.get('base', s.base)])
    return LabelSpreading(**kernel_of(s, o.get('kernel'), n), max_iter=100)


def by_sklearn(row, data, s, seed, part, o):
    "Accuracy in percent on `part`"
    y, x = np.concatenate([data.labeled.y, np.full(data.unlabeled.n, -1)]), flat(all_labeled(data))
    model = sklearn_model(row, s, seed, o, x.shape[1]).fit(x, y)
    return 100*float(np.mean(model.predict(flat(part)) == part.y))


# label propagation

def unit(x, mean):
    x = torch.from_numpy(x-mean).float()
    return x/x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def nearest_mean(x, p, new, k, gamma):
    "Of each row of `new` the mean of `p` over its `k` nearest rows of `x`, weighted as neighbors are"
    mean = x.mean(0)
    v, i = (unit(new, mean)@unit(x, mean).T).topk(min(k, len(x)), 1)
    w = v.clamp(min=0)**gamma
    return (w[..., None]*torch.from_numpy(p)[i]).sum(1).numpy()


def lp_cosine(data, o, part):
    "Accuracy in percent on `part`, whose rows are no part of the graph"
    x, c = flat(all_labeled(data)), len(data.vocab)
    y = np.eye(c)[data.labeled.y]
    f = np.zeros((len(x), c))
    f[:len(y)] = y/y.sum(0)
    w = edges(*neighbors(x, o['k']), o['gamma'])
    p = class_probs(flow(w, f, o['alpha']), y.mean(0) if o['prior'] == 'labeled' else None)[0]
    return 100*float(np.mean(nearest_mean(x, p, flat(part), o['k'], o['gamma']).argmax(1) == part.y))
