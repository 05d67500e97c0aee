"""Does a noisy student beat its control, and everything else that one would try? On seven data sets with few labels

    python benchmarks/accuracy.py                                    # all data sets, 5 seeds, two processes
    python benchmarks/accuracy.py --data digits wine --seeds 3
    python benchmarks/accuracy.py --tune --data wine --seeds 8       # validation rows of seeds 100, 101, ...

Results are kept in results/accuracy.csv, seed by seed: what was cut off, or was run with other data sets, goes on from
there, and `--again` runs it anew. A seed is a split, the starting weights, the noise. Rows of the table:

`plain`          supervised, on the few labels, without noise
`control`        supervised with noise on inputs and dropout: the teacher of the first round
`ceiling`        the same where the labels of all unlabeled rows are known
`self_training`  scikit-learn's SelfTrainingClassifier     `spreading`  scikit-learn's LabelSpreading
`tsai`           tsai's callback, on the labels that `one` learns from (made hard, as it does), same noise and batches
`one`, `three`   `self_train`: the student of the first round, and of the third, whatever validation says of it

All networks of a data set are the same one, start from the same weights and see the same number of batches of 64
rows. The share of the gap that a row closes is (row-control)/(ceiling-control) of the means over the seeds, its
spread a standard error: that of a ratio of means, by the delta method.

What is in `SETTINGS` was chosen on validation rows of seeds from 100 on (2 to 10 seeds, 12 to 1,000 rows), in a loop
that trains the networks of several seeds at once; no test row decided on anything. Tried were, for the control: no
noise and one to four strengths of it, on tables also two learning rates and four weight decays, on digits and
JapaneseVowels a second kind of noise, on Fashion-MNIST two rates of dropout. For students, which have the control's
learning rate and dropout: strength, share of rows, and on tables also hard labels, temperature and no balancing, in
all 3 settings on digits, 4 on JapaneseVowels, 3 on GunPoint, 2 on Fashion-MNIST, 9 on wine, 12 on breast_cancer. For
scikit-learn's rows: three classifiers, seven kernels, but only one classifier on Fashion-MNIST. Labels a class were
set so that those rows show a gap; BasicMotions has none even with one. Not tried in this very combination: digits
with 500 steps (300 were), the students of BasicMotions, breast_cancer and Fashion-MNIST.
"""
import argparse
import contextlib
import io
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import fastai.callback.schedule  # noqa: F401  (gives Learner `fit_one_cycle`)
import numpy as np
import pandas as pd
import torch
from fastai.callback.progress import no_bar  # noqa: F401  (patches Learner)
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import no_random
from fastai.vision.augment import aug_transforms
from fastai.vision.core import TensorImageBW
from fasttransform import Pipeline, Transform
from torch import Tensor, nn

from noisy_student_fastai.datasets import Part, label_scarce
from noisy_student_fastai.image_noise import RandAugment
from noisy_student_fastai.rounds import self_train
from noisy_student_fastai.series_noise import SeriesAugment
from noisy_student_fastai.student_noise import StudentNoise
from noisy_student_fastai.table_noise import TableNoise

RESULTS = Path(__file__).parent/'results'
RUNS = Path('out/runs')  # models, which git ignores; an interrupted run goes on there, and robustness.py needs them too
BS = 64  # rows of a batch
TUNE_FROM = 100  # seeds that are for choosing settings
ROWS = dict(plain='supervised, no noise', control='supervised, noise tuned for it (control)',
            ceiling='all labels known (ceiling)', self_training='SelfTrainingClassifier', spreading='LabelSpreading',
            tsai="tsai's callback, our labels",
            one='ours, one round', three='ours, three rounds')


# networks: small ones, as inputs are small and labels few

def conv(i, o, k=3, stride=1, dim=2):
    "Convolution, BatchNorm, ReLU"
    c, b = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv1d, nn.BatchNorm1d)
    return nn.Sequential(c(i, o, k, stride, k//2, bias=False), b(o), nn.ReLU())


def image_net(shape, c, width=1):
    "Convolutions down to 4 x 4, and two linear layers"
    ch, size, _ = shape
    ws = [int(o*width) for o in ((32, 64) if size < 16 else (32, 64, 64))]
    strides = [1 if size < 16 else 2, 2, 2]
    body = [conv(i, o, stride=s) for i, o, s in zip([ch, *ws], ws, strides)]
    side = -(-size//(2 if size < 16 else 8))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(ws[-1]*side*side, 128), nn.ReLU(), nn.Linear(128, c))


class Residual(nn.Module):
    "Two convolutions beside a shortcut"
    def __init__(self, i, o, k):
        super().__init__()
        self.body = nn.Sequential(conv(i, o, k, dim=1), nn.Conv1d(o, o, 3, padding=1, bias=False), nn.BatchNorm1d(o))
        self.shortcut = nn.Identity() if i == o else nn.Sequential(nn.Conv1d(i, o, 1, bias=False), nn.BatchNorm1d(o))

    def forward(self, x): return torch.relu(self.body(x) + self.shortcut(x))


def series_net(shape, c, width=1):
    "A residual network over time"
    ch, n = shape
    w, is_long = int(32*width), n > 50
    first = conv(ch, w, 9 if is_long else 5, 3 if is_long else 1, dim=1)
    return nn.Sequential(first, nn.MaxPool1d(2), Residual(w, w, 5), Residual(w, 2*w, 3), nn.AdaptiveAvgPool1d(1),
                         nn.Flatten(), nn.Linear(2*w, c))


def table_net(shape, c, width=1):
    "A multilayer perceptron"
    ws = [*shape, int(64*width), int(64*width)]
    body = [nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()) for i, o in zip(ws, ws[1:])]
    return nn.Sequential(*body, nn.Linear(ws[-1], c))


# noise: functions of its strength

LOOKS = ['Cutout', 'Brightness', 'Contrast', 'Sharpness']
MOVES = ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY']


def digits_noise(m):
    "Turn, zoom and warp"
    return aug_transforms(m, do_flip=False, max_rotate=15., min_zoom=1-.2*m, max_zoom=1+.2*m, max_lighting=0.,
                          max_warp=.2, p_affine=.9, pad_mode='zeros')


def clothes_noise(m): return [RandAugment(n=2, m=m, ops=[*MOVES, *LOOKS], fill=0.)]
def series_noise(m): return [SeriesAugment(n=2, m=m)]
def table_noise(m): return [TableNoise(p_drop=m, p_swap=m)]


# settings

@dataclass(frozen=True)
class Setting:
    "How a data set is cut, and what was chosen for it on validation rows"
    net:Any # Function of an input's shape, the number of classes and a width that returns a model
    noise:Any # Function of a strength that returns batch transforms
    m_control:float # Strength of the noise: of the control, and the ceiling
    m:float # ... of students
    n_per_class:int|None = None # Labels of each class; None: what `label_scarce` recommends
    n_unlabeled:int|None = None # Rows without labels, at most
    steps:int = 300 # Batches that each network trains on
    lr:float = 1e-2
    dropout:float = .5 # Before the last layer
    n_pl:int = 56 # Pseudolabeled rows among the 64 of a student's batch
    temperature:float = .5 # Of their labels
    share:float|None = 1. # The surest `share*n/c` rows of each class; None: all rows, as they are
    min_conf:float = .3
    prior:str|None = None
    base:str = 'svc' # Of SelfTrainingClassifier
    kernel:dict|None = None # Arguments of LabelSpreading

    @property
    def key(self):
        "Tells results of other settings apart"
        vs = [getattr(self, f.name) for f in fields(self)]
        return f"{crc32(repr([getattr(o, '__name__', o) for o in vs]).encode()):08x}"


SETTINGS = dict(
    digits=Setting(image_net, digits_noise, 1., 1.4, steps=500),
    fashion_mnist=Setting(image_net, clothes_noise, 2., 4., n_per_class=10, n_unlabeled=10_000, dropout=.2,
                          base='logistic'),
    basic_motions=Setting(series_net, series_noise, 4., 6., n_per_class=1, steps=200),
    gun_point=Setting(series_net, series_noise, 4., 7., n_per_class=2, base='forest'),
    japanese_vowels=Setting(series_net, series_noise, 3., 6., share=.5, base='logistic',
                            kernel=dict(kernel='rbf', gamma=10/300)),
    breast_cancer=Setting(table_net, table_noise, .45, .3, share=.5, base='logistic',
                          kernel=dict(kernel='rbf', gamma=10/30)),
    wine=Setting(table_net, table_noise, .1, .3, lr=3e-3, base='logistic', kernel=dict(kernel='rbf', gamma=3/13)))


# data

def prepared(name, s, seed):
    "A split, standardized over all rows that training may see; pictures are left as they are, from 0 to 1"
    data = label_scarce(name, s.n_per_class, seed, n_valid=None)
    if s.n_unlabeled: data = replace(data, unlabeled=Part(*(o[:s.n_unlabeled] for o in data.unlabeled)))
    x = np.concatenate([data.labeled.x, data.unlabeled.x])
    if x.ndim == 4: return data
    dims = (0, 2) if x.ndim == 3 else 0
    mean, std = x.mean(dims, keepdims=True), x.std(dims, keepdims=True) + 1e-8
    return replace(data, **{k: o._replace(x=((o.x-mean)/std).astype(np.float32)) for k, o in data.parts.items()})


def all_labeled(data):
    "The labeled rows, and the unlabeled ones with their labels"
    return Part(*map(np.concatenate, zip(data.labeled, data.unlabeled)))


class Rows:
    "Rows of a part as a data set, repeated until there are `n`"
    def __init__(self, part, n=None):
        self.x, self.y = torch.as_tensor(part.x), torch.as_tensor(part.y)
        self.n, self.split_idx = part.n if n is None else n, int(n is None)
        self.typ = TensorImageBW if self.x.ndim == 4 else Tensor

    def __len__(self): return self.n
    def __getitem__(self, i): return self.x[i % len(self.x)].as_subclass(self.typ), self.y[i % len(self.y)]


def loader(part, n=None, bs=BS):
    "For training, if there is an `n`"
    kw = dict(bs=512) if n is None else dict(bs=bs, shuffle=True, drop_last=True)
    return TfmdDL(Rows(part, n), num_workers=0, device=torch.device('cpu'), **kw)


def loaders(data, part, n): return DataLoaders(loader(part, n), loader(data.valid), device=torch.device('cpu'))


# Learners

def learner(data, s, part, n, cbs=None):
    "A new Learner that trains on `part`, `n` rows an epoch"
    net = s.net(data.labeled.x.shape[1:], len(data.vocab))
    return Learner(loaders(data, part, n), net, lr=s.lr, loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=cbs)


def noise_args(s, m):
    "Arguments of `StudentNoise`"
    return dict(tfms=s.noise(m), dropout=s.dropout, stoch_depth=None)


def fitted(s, seed, make):
    "A Learner that `make` returns, trained in one epoch"
    with no_random(seed, reproducible=False):
        learn = make()
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, s.lr)
    return learn


def supervised(data, s, seed, part, m=None):
    "Trained on labels alone, with noise of strength `m` if there is one"
    cbs = None if m is None else StudentNoise(**noise_args(s, m))
    return fitted(s, seed, lambda: learner(data, s, part, BS*s.steps, cbs))


def select_args(data, s):
    "Arguments of `select`"
    n = None if s.share is None else max(1, int(s.share*data.unlabeled.n/len(data.vocab)))
    return dict(min_conf=s.min_conf, n_per_class=n, prior=s.prior)


def rounds(data, s, seed, runs=None, n_rounds=3):
    "Teacher, which is the control, and students; kept in the folder `runs`"
    n_labeled = BS-s.n_pl  # in a batch
    path = None if runs is None else Path(runs)/f'{data.name}-{seed}-{s.key}'
    return self_train(lambda r: learner(data, s, data.labeled, n_labeled*s.steps), data.unlabeled.x, n_rounds, path,
                      n_epoch=1, lr=s.lr, noise=lambda r: noise_args(s, s.m if r else s.m_control), seeds=[seed],
                      pseudolabel=dict(bs=512, dtype='float32', leaks='keep'), select=select_args(data, s),
                      dl=dict(temperature=s.temperature), student=dict(bs=BS, l2pl_ratio=n_labeled/s.n_pl),
                      patience=None)


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
    n_labeled, sel = BS-s.n_pl, run.labels(1, seed).select(**select_args(data, s))
    def make():
        learn = learner(data, s, data.labeled, n_labeled*s.steps, StudentNoise(**noise_args(s, s.m) | dict(tfms=None)))
        learn.add_cb(NoisyStudent(sel.dl(learn.dls, soft=False), BS, n_labeled/s.n_pl, [OnInputs(s.noise(s.m))]))
        return learn
    return fitted(s, seed, make)


def percent_right(learn, part):
    "Accuracy in percent"
    with learn.no_bar(): pl = learn.pseudolabel(part.x, bs=512, dtype='float32', leaks='keep')
    return 100*float(np.mean(pl.label == part.y))


# scikit-learn

def flat(part): return part.x.reshape(part.n, -1)


def bases(seed):
    "What SelfTrainingClassifier may wrap"
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC
    return dict(svc=SVC(C=10, probability=True, random_state=seed), logistic=LogisticRegression(max_iter=500),
                forest=RandomForestClassifier(200, random_state=seed))


def sklearn_model(row, s, seed):
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
    if row == 'self_training': return SelfTrainingClassifier(bases(seed)[s.base])
    return LabelSpreading(**(s.kernel or dict(kernel='knn', n_neighbors=7)), max_iter=100)


def by_sklearn(row, data, s, seed, part):
    "Accuracy in percent on `part`"
    y = np.concatenate([data.labeled.y, np.full(data.unlabeled.n, -1)])
    model = sklearn_model(row, s, seed).fit(flat(all_labeled(data)), y)
    return 100*float(np.mean(model.predict(flat(part)) == part.y))


# one seed, many seeds

@contextlib.contextmanager
def quietly():
    "On one thread, without warnings, and without the lines of `self_train`"
    torch.set_num_threads(1)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


def run_seed(name, seed, s, part='test', runs=None):
    "Accuracy in percent of all rows of the table, on one split"
    with quietly():
        data = prepared(name, s, seed)
        at, run = getattr(data, part), rounds(data, s, seed, runs)
        res = {k: by_sklearn(k, data, s, seed, at) for k in ('self_training', 'spreading')}
        learns = dict(control=run.learner(0), one=run.learner(1), three=run.learner(3),
                      plain=supervised(data, s, seed, data.labeled),
                      ceiling=supervised(data, s, seed, all_labeled(data), s.m_control))
        if has_tsai(): learns['tsai'] = tsai_student(data, s, seed, run)
        return res | {k: percent_right(v, at) for k, v in learns.items()}


def has_tsai():
    try: import tsai.callback.noisy_student  # noqa: F401
    except ImportError: return False
    return True


def gap_share(row, control, ceiling):
    "Share of the gap between control and ceiling that a row closes, over seeds, and its standard error"
    d, gap = np.subtract(row, control), np.subtract(ceiling, control)
    if gap.mean() <= 0: return np.nan, np.nan
    share = d.mean()/gap.mean()
    rest = d - share*gap
    return share, rest.std(ddof=1)/len(d)**.5/gap.mean() if len(d) > 1 else np.nan


def table(df):
    "A line for each data set and row: mean, standard deviation, and the share of the gap that is closed"
    res = []
    for name, g in df.groupby('data', sort=False):
        accs = g.pivot(index='seed', columns='row', values='accuracy')
        for k in [o for o in ROWS if o in accs]:
            share, err = gap_share(accs[k], accs.control, accs.ceiling)
            res.append(dict(data=name, row=k, seeds=len(accs), mean=accs[k].mean(), std=accs[k].std(), share=share,
                            share_err=err))
    return pd.DataFrame(res)


def shown(o): return '' if np.isnan(o.share) else f'{o.share:+.2f} ± {o.share_err:.2f}'


def as_text(t):
    "The table for a terminal"
    lines = []
    for name, g in t.groupby('data', sort=False):
        lines.append(f'\n{name}, {g.seeds.iloc[0]} seeds{"accuracy in %":>26}   share of the gap')
        lines += [f'  {ROWS[o.row]:34}{o["mean"]:6.1f} ± {o["std"]:4.1f}   {shown(o)}' for _, o in g.iterrows()]
    return '\n'.join(lines)


def as_markdown(t):
    "The table for a page: a line for each row, a column for each data set"
    names = list(dict.fromkeys(t.data))
    lines = ['| accuracy in % (share of the gap) | '+' | '.join(names)+' |', '|---'*(len(names)+1)+'|']
    for k, label in ROWS.items():
        cells = []
        for name in names:
            g = t[(t.data == name) & (t.row == k)]
            for _, o in g.iterrows():
                is_end = k in ('control', 'ceiling') or np.isnan(o.share)
                share = '' if is_end else f' ({o.share:+.2f} ± {o.share_err:.2f})'
                cells.append(f'{o["mean"]:.1f} ± {o["std"]:.1f}{share}')
            if g.empty: cells.append('')
        lines.append(f'| {label} | '+' | '.join(cells)+' |')
    return '\n'.join(lines)+'\n'


# results in a file

COLUMNS = ['data', 'seed', 'row', 'accuracy', 'key', 'seconds']


def read(path):
    "Results so far"
    return pd.read_csv(path, dtype=dict(key=str)) if path.exists() else pd.DataFrame(columns=COLUMNS)


def written(df, path):
    "Write results, so that an interrupt leaves the old file or the new one; data sets in the order of `SETTINGS`"
    order = {k: i for i, k in enumerate(SETTINGS)}
    df = df.sort_values(['data', 'seed'], key=lambda o: o.map(order) if o.name == 'data' else o, kind='stable')
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix('.tmp')
    df.to_csv(tmp, index=False, float_format='%.3f')
    tmp.replace(path)
    return df


def with_new(df, name, seed, s, res, secs):
    "Results with those of one seed, in place of what there was"
    old = df[(df.data != name) | (df.seed != seed)]
    same = dict(data=name, seed=seed, key=s.key, seconds=round(secs, 1))
    new = pd.DataFrame([same | dict(row=k, accuracy=v) for k, v in res.items()], columns=COLUMNS)
    return new if old.empty else pd.concat([old, new], ignore_index=True)


def timed(*args):
    start = time.time()
    return run_seed(*args), time.time()-start


def available(names, settings):
    "Data sets that are installed; says which are not"
    res = []
    for k in names:
        try: label_scarce(k, settings[k].n_per_class, 0, n_valid=None)
        except (FileNotFoundError, ImportError) as e: print(f'{k} is left out: {e}', flush=True)
        else: res.append(k)
    return res


def finished(f, calls, jobs):
    "For each of `calls`, key -> arguments of `f`, its key and result as they come, from `jobs` processes"
    if jobs == 1: yield from ((k, f(*args)) for k, args in calls.items())
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context('spawn')) as pool:
            futures = {pool.submit(f, *args): k for k, args in calls.items()}
            for o in as_completed(futures): yield futures[o], o.result()


def run_all(names, seeds, settings, path, jobs=2, part='test', runs=None, again=False):
    "Run what `path` lacks, keep it there, and return everything about these data sets and seeds"
    df, names = read(path), available(names, settings)
    keys = {k: settings[k].key for k in names}
    has = set() if again else {(o.data, o.seed) for o in df.itertuples() if keys.get(o.data) == o.key}
    todo = [(k, i) for k in names for i in seeds if (k, i) not in has]
    calls = {(k, i): (k, i, settings[k], part, runs) for k, i in todo}
    for n, ((k, i), (res, secs)) in enumerate(finished(timed, calls, jobs), 1):
        df = written(with_new(df, k, i, settings[k], res, secs), path)
        accs = ', '.join(f'{o} {res[o]:.1f}' for o in ROWS if o in res)
        print(f'{n} of {len(todo)}: {k}, seed {i}, {secs:.0f} s: {accs}', flush=True)
    return df[df.data.isin(names) & df.seed.isin(seeds)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', nargs='*', default=list(SETTINGS), choices=list(SETTINGS))
    p.add_argument('--seeds', type=int, default=5, help='how many')
    p.add_argument('--jobs', type=int, default=2, help='processes, of one thread each')
    p.add_argument('--steps', type=int, help='batches that each network trains on')
    p.add_argument('--out', type=Path, default=RESULTS, help='folder of accuracy.csv and accuracy.md')
    p.add_argument('--runs', type=Path, default=RUNS, help='folder where models are kept')
    p.add_argument('--tune', action='store_true', help=f'report on validation rows of seeds from {TUNE_FROM} on')
    p.add_argument('--again', action='store_true', help='run also what is in accuracy.csv')
    a = p.parse_args()
    settings = {k: s if a.steps is None else replace(s, steps=a.steps) for k, s in SETTINGS.items()}
    first, name, part = (TUNE_FROM, 'tuning', 'valid') if a.tune else (0, 'accuracy', 'test')
    if not has_tsai(): print('tsai is not installed: its row is left out')
    df = run_all(a.data, range(first, first+a.seeds), settings, a.out/f'{name}.csv', a.jobs, part, a.runs, a.again)
    if df.empty: sys.exit('no results')
    t = table(df)
    print(as_text(t))
    (a.out/f'{name}.md').write_text(as_markdown(t))


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
