"An online teacher against loops written by hand: labels, thresholds, alignment, averages; and what else a Learner has"
from collections import Counter
from copy import deepcopy
from zipfile import ZipFile

import fastai.callback.schedule  # noqa: F401  (gives Learners `fine_tune`)
import numpy as np
import pytest
import table_toys
import text_toys
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision, ModelToHalf
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import IntToFloatTensor
from fastai.learner import load_learner
from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
from fastai.tabular.learner import tabular_learner
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.torch_core import TensorImage, set_seed
from fasttransform.transform import Transform
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.data.datasets import label_scarce
from noisy_student_fastai.joining import Endless
from noisy_student_fastai.labels import labeling  # noqa: F401  (compares rows of dl2 with validation rows)
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import Alignment, ClassThresholds, EMATeacher
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from table_toys import encoded, wine_dls, wine_table
from text_toys import text_dls, text_table
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset
from toys import Items, Probe, hard_rows, net, params, points, pts_dls, pts_learner

X = points(90, 2)[0]


def inputs_dl(x=X, bs=16, **kwargs): return DataLoader(list(x), bs=bs, **kwargs)


def student(*cbs, dl2=None, model=None, dls=None, seed=0, l2pl_ratio=1., weight=1., log_losses=False, **kwargs):
    "A Learner whose unlabeled rows are labeled as `kwargs` of `EMATeacher` say"
    cb = NoisyStudent(inputs_dl() if dl2 is None else dl2, l2pl_ratio=l2pl_ratio, pseudolabel_sample_weight=weight,
                      log_losses=log_losses, teacher=EMATeacher(**kwargs))
    return pts_learner(cb, *cbs, model=model or net(bn=True), dls=dls, seed=seed)


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


def average(learn): return learn.noisy_student.online.avg.module


# --- the step, by hand

class ByHand:
    "Trains on the same batches, row by row where that is possible"
    def __init__(self, model, n, decay=.999, temperature=1., min_conf=None, prior=None, soft=True, per_class=False,
                 wait=0, weight=1.):
        self.model, self.n, self.decay, self.temperature, self.min_conf = model, n, decay, temperature, min_conf
        self.prior, self.soft, self.per_class, self.wait, self.weight = prior, soft, per_class, wait, weight
        self.avg, self.t, self.losses = {k: v.clone() for k, v in model.state_dict().items()}, 0, []
        self.means, self.seen, self.last, self.kept = [], np.zeros(3), {}, []

    def predict(self, x):
        teacher = deepcopy(self.model).eval()
        teacher.load_state_dict(self.avg)
        with torch.no_grad(): return teacher(x).double().softmax(1).numpy()

    def align(self, p, y):
        if self.prior is None: return p
        self.means.append(p.mean(0))
        mean = self.means[0]
        for t, o in enumerate(self.means[1:], 2):
            d = min(.99, (t-1)/t)
            mean = d*mean+(1-d)*o
        self.seen += np.bincount(y, minlength=3)
        q = dict(uniform=np.ones(3), labeled=self.seen+1).get(self.prior) if isinstance(self.prior, str) else self.prior
        p = p*(np.asarray(q)/np.sum(q))/mean
        return p/p.sum(1, keepdims=True)

    def least(self, c):
        "FlexMatch: the threshold of class `c`"
        if not self.per_class: return self.min_conf
        counts = Counter(self.last.values())
        most = max([len(X)-len(self.last), *counts.values()])
        b = counts[c]/most
        return self.min_conf*b/(2-b)

    def step(self, x, y, lr):
        p = self.align(self.predict(x[self.n:]), y[:self.n].numpy())
        label, conf, w = p.argmax(1), p.max(1), np.ones(len(p))
        if self.min_conf is not None:
            w = np.array([float(v >= self.least(c)) for v, c in zip(conf, label)])
            for x2, v, c in zip(x[self.n:], conf, label):
                if v >= self.min_conf: self.last[tuple(x2.tolist())] = c
        if self.t < self.wait: w = w*0
        self.kept.append(w.mean())
        q = p**(1/self.temperature)
        q = torch.tensor(q/q.sum(1, keepdims=True)) if self.soft else F.one_hot(torch.tensor(label), 3)
        target = torch.cat([F.one_hot(y[:self.n], 3), q]).float()
        w = torch.cat([torch.ones(self.n), torch.tensor(w).float()*self.weight])
        loss = (-(target*self.model(x).log_softmax(1)).sum(1)*w).sum()/w.sum()
        self.losses.append(loss.item())
        for p, g in zip(self.model.parameters(), torch.autograd.grad(loss, self.model.parameters())): p.data -= lr*g
        self.t += 1
        d = min(self.decay, (1+self.t)/(10+self.t))
        for k, v in self.model.state_dict().items():
            self.avg[k] = v.clone() if k.endswith('tracked') else d*self.avg[k]+(1-d)*v


def check_steps(seed, n_epoch=2, l2pl_ratio=1., **kwargs):
    "Losses, weights, and the average, after each of some steps"
    weight = kwargs.pop('weight', 1.)
    learn = student(probe := Probe(), seed=seed, l2pl_ratio=l2pl_ratio, weight=weight, **kwargs)
    hand = ByHand(deepcopy(learn.model), learn.noisy_student.sizes(learn.dls.train)[0], weight=weight, **kwargs)
    fit(learn, n_epoch, lr=.1, wd=0.)
    for (x,), (y,) in zip(probe.xs, probe.ys):
        y = y.plain()
        hand.step(x, y if y.ndim == 1 else y.argmax(1), .1)
    assert len(hand.losses) >= 5
    np.testing.assert_allclose(probe.losses, hand.losses, atol=1e-5)
    torch.testing.assert_close(params(learn), torch.cat([o.flatten() for o in hand.model.parameters()]), atol=1e-5,
                               rtol=1e-4)
    for k, v in average(learn).state_dict().items(): torch.testing.assert_close(v, hand.avg[k], atol=1e-5, rtol=1e-4)
    return hand


@pytest.mark.parametrize('seed', range(3))
def test_fixmatch(seed):
    hand = check_steps(seed, decay=0, min_conf=.45, soft=False)
    assert 0 < np.mean(hand.kept) < 1


@pytest.mark.parametrize('seed', range(3))
def test_mean_teacher(seed): check_steps(seed, n_epoch=3, decay=.8, weight=2.)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), decay=st.sampled_from([0, .5, .999]), temperature=st.sampled_from([1., .5, 2.]),
       min_conf=st.sampled_from([None, .4, .6]), prior=st.sampled_from([None, 'labeled', 'uniform', [.2, .3, .5]]),
       soft=st.booleans(), per_class=st.booleans(), wait=st.integers(0, 3), l2pl_ratio=st.sampled_from([1, 1/3]),
       weight=st.sampled_from([1., .3]))
def test_any_settings(min_conf, per_class, **kwargs):
    check_steps(min_conf=min_conf, per_class=per_class and min_conf is not None, **kwargs)


# --- thresholds, alignment

@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), c=st.integers(2, 5), n=st.integers(3, 30))
def test_thresholds(seed, c, n):
    "The authors' code, with a counter over all rows; rows may come twice in a batch, and the last one counts"
    g = np.random.default_rng(seed)
    ts, last = ClassThresholds(.9, n, c), np.full(n, -1)
    for _ in range(6):
        rows, y = g.integers(0, n, 8), g.integers(-1, c, 8)
        ts.learn(rows, torch.tensor(y))
        for i, k in zip(rows, y):
            if k >= 0: last[i] = k
        count = Counter(last.tolist())
        b = np.array([count[k]/max(count.values()) for k in range(c)])
        np.testing.assert_allclose(ts.now(), .9*b/(2-b), rtol=1e-6)
        assert ts.counts.tolist() == [count[k] for k in range(c)]


@pytest.mark.parametrize('seed', range(3))
def test_aligned_predictions_have_the_shares(seed):
    "Over batches of the same rows, their mean is nearer to the prior than it was"
    g = torch.Generator().manual_seed(seed)
    p = (2*torch.randn(400, 4, generator=g)+torch.tensor([3., 0, 0, -1])).softmax(1)
    prior = torch.tensor([.1, .2, .3, .4])
    align = Alignment(prior.tolist())
    for i in range(0, 400, 40): res = align(p[i:i+40], torch.tensor([0]))
    res = align(p, torch.tensor([0]), learns=False)
    torch.testing.assert_close(res.sum(1), torch.ones(400))
    assert (res.mean(0)-prior).abs().sum() < .6*(p.mean(0)-prior).abs().sum()
    rest = align(p, torch.tensor([0]), learns=False)
    assert torch.equal(res, rest)


def test_labeled_shares():
    "Class indices and soft labels are counted alike, each class once more"
    p, y = torch.full((4, 3), 1/3), torch.tensor([0, 0, 0, 1])
    for y in (y, y[:, None], F.one_hot(y, 3).float()):
        torch.testing.assert_close(Alignment('labeled')(p, y)[0], torch.tensor([4., 2, 1])/7)


# --- what the teacher sees

class Noise(Transform):
    "Of training batches only"
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x+torch.randn_like(x) if x.is_floating_point() else x


class Ten(Transform):
    "As `Normalize`, for both"
    def encodes(self, x: torch.Tensor): return x.mul_(10) if x.is_floating_point() else x


class Spy(nn.Module):
    "Keeps what it gets, and whether it trains; copies share what is kept"
    seen = []
    def __init__(self): super().__init__(); self.net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(.5), nn.Linear(8, 3))
    def forward(self, x):
        Spy.seen.append((x.clone(), self.training, type(x)))
        return self.net(x)


@pytest.mark.parametrize('how', ['loader', 'student', 'own'])
def test_rows_without_noise(how):
    "In eval mode, with the validation loader's transforms, even those that work in place; the student sees noise"
    Spy.seen.clear()
    noise = StudentNoise(Noise() if how == 'student' else None, stoch_depth=None)
    dls = pts_dls(after_batch=[Ten(), *[Noise()]*(how == 'loader')])
    learn = student(noise, MixUp(), dls=dls, model=Spy(), decay=.5)
    if how == 'own': learn.noisy_student.batch_tfms = [Ten(), Noise()]
    fit(learn, 2)
    assert [o[1] for o in Spy.seen[:8]] == [False, True]*4  # one pass more in each step, before that of the student
    steps = [(a, b) for (a, *_), (b, trains, _) in zip(Spy.seen, Spy.seen[1:]) if trains]
    assert len(steps) == 8
    for a, b in steps:
        assert a.shape == (16, 2) and all((10*X == o).all(1).any() for o in a)
        assert b.shape == (32, 2) and not any((10*X == o).all(1).any() for o in b)


def test_item_transforms_are_for_both():
    "A loader that disturbs items gives both the same disturbed ones: the weak view of FixMatch"
    Spy.seen.clear()
    class Disturbed(torch.utils.data.Dataset):
        def __len__(self): return 90
        def __getitem__(self, i): return X[i]+torch.rand(2)
    fit(student(model=Spy(), dl2=DataLoader(Disturbed(), bs=8, num_workers=0)))
    for (a, *_), (b, *_) in zip(Spy.seen[:8:2], Spy.seen[1:8:2]): assert torch.equal(a, b[16:])


@pytest.mark.parametrize('make', [
    lambda: TorchDataLoader(X, batch_size=4), lambda: TfmdDL(list(X), bs=4, num_workers=0),
    lambda: inputs_dl(list(zip(X, torch.arange(90))))])
def test_loaders(make):
    "What a row has beside its inputs is not looked at"
    probe = Probe()
    fit(student(probe, dl2=make()))
    assert all((X == o).all(1).any() for (x,) in probe.xs for o in x[16:])
    assert probe.ys[0][0].soft and not probe.ys[0][0].w


def test_inputs_that_are_no_batch_of_theirs():
    with pytest.raises(ValueError, match="dl2's batches hold 1 element, and the labeled ones 2 inputs"):
        dls = DataLoaders(*[TfmdDL([(a, a, b) for a, b in hard_rows(40, 1)], bs=8, num_workers=0)]*2)
        dls.n_inp = 2
        class Two(nn.Linear):
            def forward(self, a, b): return super().forward(a+b)
        fit(student(dls=dls, model=Two(2, 3)))


# --- data of other kinds

def test_texts():
    "Rows are padded and sorted with the labeled ones; labels are what `get_preds` of the average says"
    df = text_table()
    dls = text_dls(df)
    config = awd_lstm_clas_config | dict(emb_sz=8, n_hid=8, n_layers=1)
    test = df.iloc[text_toys.N+8:][['text']]
    cb = NoisyStudent(dls.test_dl(test), teacher=EMATeacher(0, min_conf=.3))
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, seq_len=text_toys.SEQ, lin_ftrs=[8],
                                    cbs=cb)
    fit(learn)
    x, y = cb.one_batch()
    learn.model.load_state_dict(average(learn).state_dict())
    with learn.no_bar(): preds = learn.get_preds(dl=dls.test_dl(test))[0]
    known = {tuple(o.tolist()): p for (o,), p in zip(dls.test_dl(test).dataset, preds)}
    at = y.is_pl.nonzero()[:, 0].tolist()
    assert len(at) == 6 and at != [*range(6, 12)]
    want = torch.stack([known[tuple(t for t in x[i].tolist() if t != 1)] for i in at])
    torch.testing.assert_close(y.plain()[at], want, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match='not sorted by length'):
        cb.teacher.per_class = True
        fit(learn)


def test_tables():
    "Categories and numbers are encoded once for both"
    df = wine_table()
    dls, rest = wine_dls(df), slice(table_toys.N+20, None)
    cb = NoisyStudent(dls.test_dl(df[rest]), teacher=EMATeacher(.5, min_conf=.3, prior='labeled', per_class=True))
    learn = tabular_learner(dls, layers=[8], cbs=[cb, StudentNoise(None, stoch_depth=None)])
    fit(learn)
    cats, conts, y = cb.one_batch()
    model = average(learn)
    with torch.no_grad(): p = cb.online.align(model(cats, conts).softmax(1), None, learns=False)
    torch.testing.assert_close(y.plain()[8:], p[8:])
    _, known, _ = encoded(df)
    stream = Endless(cb.dl2, 8)
    for _ in range(25):
        b = next(stream)
        at = stream.rows()
        got = torch.tensor(b[table_toys.CONTS].values).float()
        torch.testing.assert_close(got, known[rest][at], atol=1e-4, rtol=1e-4)


def test_arrays():
    data = label_scarce('digits', 4)
    stream, x = Endless(data.dls(16, 5).test_dl(data.unlabeled.x), 56), torch.tensor(data.unlabeled.x)
    for _ in range(25): assert torch.equal(next(stream)[0].as_subclass(torch.Tensor), x[stream.rows()])


# --- beside other callbacks

@pytest.mark.parametrize('cbs,n', [(lambda: [], 16), (lambda: [GradientAccumulation(64)], 8),
                                   (lambda: [MixedPrecision('bf16')], 16), (lambda: [MixUp()], 16)])
def test_steps_are_counted(cbs, n):
    "Each step of the optimizer moves the average, and nothing else"
    learn = fit(student(*cbs(), min_conf=.4), 4)
    assert average(learn)[1].num_batches_tracked == 16 and learn.noisy_student.online.avg.n_averaged == n+1


class Cast(MixedPrecision):
    "fastai's is for GPUs only"
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', torch.bfloat16)


def test_mixed_precision():
    "The teacher is asked in the precision of the student, and labels are whole ones"
    seen = []
    class See(nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x
    learn = fit(student(Cast('bf16'), probe := Probe(), model=nn.Sequential(nn.Linear(2, 8), See(), nn.Linear(8, 3))))
    assert {*seen[:8]} == {torch.bfloat16} and probe.ys[0][0].dtype == torch.float32
    assert all(o.dtype == torch.float32 for o in average(learn).parameters())
    assert not torch.is_autocast_enabled('cpu')


def test_ema_callback():
    "The same average, twice: the second one ends in the model"
    learn = fit(student(EMACallback(.9), decay=.9), 2)
    torch.testing.assert_close(params(learn), torch.cat([o.flatten() for o in average(learn).parameters()]))


def test_fine_tune_and_learning_rates():
    "Frozen, then not, each part with a learning rate of its own: each fit has an average of its own"
    learn = student(decay=.9)
    learn.splitter = lambda m: [[*m[0].parameters()], [*m[1:].parameters()]]
    learn.create_opt()
    starts = []
    class Start(Callback):
        order = 60
        def before_train(self): starts.append((average(self.learn)[0].weight.clone(), self.model[0].weight.clone()))
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(Start()): learn.fine_tune(1, .1, lr_mult=10)
    assert len(starts) == 2 and all(torch.equal(*o) for o in starts)
    assert learn.noisy_student.online.avg.n_averaged == 5
    assert all(o.requires_grad for o in learn.model.parameters())


def test_save_model(tmp_path):
    learn = student()
    learn.path = tmp_path
    fit(learn, 2, cbs=SaveModelCallback())
    assert learn.validate()[1] > 0


def test_columns():
    "`kept` is the smoothed share of rows that count"
    learn = student(probe := Probe(), min_conf=.45, log_losses=True, l2pl_ratio=1/3)
    fit(learn, 2)
    names = learn.recorder.metric_names
    assert names[-4:] == ['label_loss', 'pseudo_loss', 'kept', 'time']
    v = 0.
    for (y,) in probe.ys: v = .98*v+.02*(y.w[y.is_pl] > 0).float().mean().item()
    assert 0 < v and learn.recorder.values[-1][-1] == pytest.approx(v/(1-.98**len(probe.ys)), rel=1e-5)
    learn = fit(student(log_losses=True))
    assert 'kept' not in learn.recorder.metric_names and 'pseudo_loss' in learn.recorder.metric_names


def test_metrics_of_the_training():
    learn = student(min_conf=.4)
    learn.recorder.train_metrics = True
    fit(learn)
    assert 0 < learn.recorder.values[-1][1] <= 1


# --- before, between and after fits

def test_looking_changes_nothing():
    "`one_batch` has the labels of the student as it is; in a fit, those of the average; nothing moves by it"
    learn = student(min_conf=.4, prior='labeled', per_class=True)
    x, y = learn.noisy_student.one_batch()
    assert isinstance(y, RowTargets) and learn.noisy_student.online is None
    fit(learn)
    o = learn.noisy_student.online
    was = deepcopy([o.align.mean, o.align.counts, o.thresholds.last, o.avg.state_dict()])
    x, y = learn.noisy_student.one_batch()
    for a, b in zip(was[:3], [o.align.mean, o.align.counts, o.thresholds.last]): assert torch.equal(a, b)
    for k, v in o.avg.state_dict().items(): assert torch.equal(v, was[3][k])
    plain = student(decay=.5)
    fit(plain)
    x, y = plain.noisy_student.one_batch()
    torch.testing.assert_close(y.plain()[16:], average(plain)(x[16:]).softmax(1))


class Stop(Callback):
    order, run_valid = 45, False
    def after_pred(self):
        if self.train_iter == 2: raise KeyboardInterrupt


def state(learn):
    dl = learn.dls.train
    same = learn.loss_func, dl, dl.after_batch, learn.model, *learn.metrics
    return [*map(id, same), len(learn.cbs), learn.model.training]


def test_interrupt():
    learn = student(StudentNoise(None, stoch_depth=None), min_conf=.4)
    fit(learn)
    was = state(learn)
    with pytest.raises(KeyboardInterrupt): fit(learn, 2, cbs=Stop())
    assert learn.get_preds()[0].shape == (50, 3)
    fit(learn)
    assert state(learn) == was and learn.noisy_student.online.avg.n_averaged == 5
    with pytest.raises(KeyboardInterrupt): fit(learn, 2, cbs=Stop())
    learn.remove_cb(NoisyStudent)
    fit(learn)
    assert state(learn)[:-2] == was[:-2] and len(learn.cbs) == was[-2]-1


def test_noise_is_not_copied():
    "What `StudentNoise` puts into the model for a fit is not in the average, and is in the model meanwhile"
    seen = []
    class See(Callback):
        order = 60
        def before_batch(self): seen.append((average(self.learn)[1].p, self.model[1].p))
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(.1), nn.Linear(8, 3))
    fit(student(StudentNoise(None, dropout=.5, stoch_depth=None), See(), model=model))
    assert seen[0] == (.1, .5) and model[1].p == .1


def test_export_and_copy(tmp_path):
    "An export has the settings and not the average; a copy trains on"
    dls = pts_dls(Items(hard_rows(64, 1)))
    dls.valid.dataset = Items(dls.valid.dataset)
    learn = fit(student(dls=dls, min_conf=.4, temperature=.5))
    learn.path = tmp_path
    sizes, tensors = [], []
    for o in (None, learn.noisy_student): # with the average of a fit, and without
        if o is None: was, learn.noisy_student.online = learn.noisy_student.online, None
        else: o.online = was
        learn.export()
        sizes.append((tmp_path/'export.pkl').stat().st_size)
        with ZipFile(tmp_path/'export.pkl') as f:
            tensors.append({k.filename: k.CRC for k in f.infolist() if '/data/' in k.filename})
    assert tensors[0] and tensors[0] == tensors[1]
    assert abs(sizes[0]-sizes[1]) <= 64  # the pickle differs by 14 bytes, and parts begin at multiples of 64
    cb = load_learner(tmp_path/'export.pkl').noisy_student
    assert cb.online is None and (cb.teacher.min_conf, cb.teacher.temperature) == (.4, .5)
    new = deepcopy(learn)
    fit(new)
    assert new.noisy_student.online is not learn.noisy_student.online
    assert not torch.equal(params(new), params(learn))


def test_a_copy_in_the_middle_of_a_fit():
    copies = []
    class Copy(Callback):
        order = 46
        def after_pred(self):
            if self.training and self.train_iter == 2: copies.append(deepcopy(self.learn))
    learn = fit(student(Copy(), min_conf=.4), 1)
    copy = copies[0]
    copy.remove_cb(Copy)
    fit(copy)
    assert copy.noisy_student.online.avg.n_averaged == learn.noisy_student.online.avg.n_averaged == 5


def test_one_teacher_for_two_students():
    "Settings are no state"
    t, seen = EMATeacher(decay=.5), []
    for seed in (0, 1, 0):
        set_seed(seed)
        learn = pts_learner(NoisyStudent(inputs_dl(), teacher=t), model=net(bn=True), seed=seed)
        seen.append(params(fit(learn)))
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


# --- mistakes

BAD = [(dict(decay=1), ValueError, 'decay=1'), (dict(decay='a'), TypeError, "decay='a'"),
       (dict(temperature=0), ValueError, 'temperature=0'), (dict(min_conf=95), ValueError, 'min_conf=95'),
       (dict(prior='label'), ValueError, "prior='label'"), (dict(prior=[1, 0]), ValueError, r'prior=\[1, 0\]'),
       (dict(per_class=True), ValueError, 'per_class=True'), (dict(wait=-1), ValueError, 'wait=-1'),
       (dict(act=3), TypeError, 'act=3')]


@pytest.mark.parametrize('kwargs,error,text', BAD)
def test_bad_arguments(kwargs, error, text):
    with pytest.raises(error, match=text) as e: EMATeacher(**kwargs)
    assert 'expected' in str(e.value)


def test_what_can_not_be_labeled():
    values = DataLoaders(*[TfmdDL([(x, x[:1]) for x in X], bs=16, num_workers=0) for _ in range(2)])
    several = DataLoaders(*[TfmdDL([(x, torch.ones(3)) for x in X], bs=16, num_workers=0) for _ in range(2)])
    for dls, lf, kind in ((values, MSELossFlat(), 'values'), (several, BCEWithLogitsLossFlat(), 'multi')):
        cb = NoisyStudent(inputs_dl(), teacher=EMATeacher())
        with pytest.raises(ValueError, match=f"of one class each.*kind '{kind}'"):
            fit(pts_learner(cb, dls=dls, lf=lf, metrics=None))
    two = DataLoaders(*[TfmdDL([(x, 0, 1) for x in X], bs=16, num_workers=0) for _ in range(2)])
    two.n_inp = 1
    with pytest.raises(ValueError, match='2 targets each'): fit(student(dls=two))


@pytest.mark.parametrize('kwargs,cbs,text', [
    (dict(prior=[1, 1]), lambda: [], "prior=.*3 numbers, the shares"),
    (dict(act=lambda o: o.sum(1)), lambda: [], 'have shape'), (dict(act=lambda o: [o]), lambda: [], 'have type list'),
    (dict(), lambda: [ModelToHalf()], 'to_fp16')])
def test_mistakes(kwargs, cbs, text):
    with pytest.raises(ValueError, match=text): fit(student(*cbs(), **kwargs))


def test_thresholds_need_numbers():
    class Stream(IterableDataset):
        def __iter__(self): return iter(X)
    fit(student(dl2=TorchDataLoader(Stream(), batch_size=16), min_conf=.4))
    with pytest.raises(ValueError, match='per_class=True .*a data set with numbered rows'):
        fit(student(dl2=TorchDataLoader(Stream(), batch_size=16), min_conf=.4, per_class=True))


def test_nan():
    learn = student()
    with torch.no_grad(): learn.model[0].weight.fill_(float('nan'))
    with pytest.raises(ValueError, match='predicts nan'): fit(learn)


def test_without_a_teacher():
    with pytest.raises(ValueError, match='teacher=EMATeacher'): fit(pts_learner(NoisyStudent(inputs_dl())))


def test_validation_rows():
    "Unlabeled rows are compared with validation rows as pseudolabeled ones are"
    dls = pts_dls()
    with pytest.warns(UserWarning, match='are among the rows of dl2'):
        fit(student(dls=dls, dl2=inputs_dl([x for x, _ in dls.valid.dataset])))


def test_bytes_are_scaled_once():
    "A transform that works in place on floats does not reach the student's copy"
    Spy.seen.clear()
    x = TensorImage(torch.rand(40, 1, 4, 4)*255)
    class Flat(Spy):
        def forward(self, x): return super().forward(x.flatten(1)[:, :2])
    dls = DataLoaders(*[TfmdDL(list(zip(x, [0, 1, 2, 1]*10)), bs=16, num_workers=0, after_batch=IntToFloatTensor())
                        for _ in range(2)])
    fit(student(dls=dls, model=Flat(), dl2=inputs_dl(x)))
    for (a, *_), (b, *_) in zip(Spy.seen[:8:2], Spy.seen[1:8:2]):
        assert torch.equal(a, b[8:]) and .01 < b.max() <= 1
