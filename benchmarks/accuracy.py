"""Does a noisy student beat its control, and everything else that one would try? On seven data sets with few labels

    python benchmarks/accuracy.py                                    # all data sets, 5 seeds, two processes
    python benchmarks/accuracy.py --data digits wine --seeds 3
    python benchmarks/accuracy.py --data wine --steps 50             # a quick try, which leaves results/ alone
    python benchmarks/accuracy.py --tune --data wine --seeds 8       # validation rows of seeds 100, 101, ...

Results are kept in results/accuracy.csv, seed by seed: what was cut off, was run with other data sets, or lacks a row,
goes on from there; `--again` runs it anew. Each line names its settings by a key: results of other settings are kept
beside it, and not shown. A seed is a split, the starting weights, the noise. Rows of the table:

`plain`          supervised, on the few labels, without noise
`control`        supervised with noise on inputs and dropout, as strong as suits it: the teacher of the first round
`control_m`      the same with noise as strong as students have it
`control_long`   as `control_m`, on as many batches as the teacher and three students see together
`ceiling`        as `control`, where the labels of all unlabeled rows are known
`self_training`  scikit-learn's SelfTrainingClassifier     `spreading`  scikit-learn's LabelSpreading
`tsai`           tsai's callback, on the labels that `one` learns from (made hard, as it does), same noise and batches
`one`, `three`   `self_train`: the student of the first round, and of the third, whatever validation says of it

All networks of a data set are the same one, start from the same weights and, but for `control_long`, see the same
number of batches of 64 rows. A student has a teacher, though: `one` takes the batches of two networks, and `three`
those of four, which `control_long` has, too. The share of the gap that a row closes is (row-control)/(ceiling-control)
of the means over the seeds, where the control is the one of the three that has the highest mean on the test rows: a
choice in the control's favour. Its spread is a standard error: that of a ratio of means, by the delta method, which
does not know of that choice. A second table has differences between two rows, seed by seed, and their standard errors.

What is in `SETTINGS` was chosen on validation rows of seeds from 100 on (2 to 10 seeds, 12 to 1,000 rows), in a loop
that trains the networks of several seeds at once; no test row decided on anything, though seeds 0 to 4 of wine, 0 to
2 of digits and 0 of breast_cancer had been seen before JapaneseVowels and breast_cancer got the settings that they
have, and BasicMotions before scikit-learn's rows got theirs there (they were near chance, and still are). Tried were,
for the control: no noise and one to five strengths of it, on tables also two learning rates and four weight decays,
on digits and JapaneseVowels a second kind of noise, on Fashion-MNIST two rates of dropout. For students, which have
the control's learning rate and dropout: strength, share of rows (the same in each round, or growing), and on tables
also hard labels, temperature, no balancing, other learning rates, more labeled rows in a batch, a network three times
as wide and more batches; in all 3 settings on digits, 6 on JapaneseVowels, 3 on GunPoint, 4 on Fashion-MNIST, 9 on
wine, 25 on breast_cancer, where none gained more than .3 points (its standard error is .5). So students had more
tries than controls on tables and on JapaneseVowels. For scikit-learn's rows: three classifiers, seven kernels, but
only one classifier on Fashion-MNIST. Labels a class were set so that those rows show a gap. BasicMotions has none
even with one: there only the first channel, one axis of the accelerometer, is used. Not tried in this very
combination: digits with 500 steps (300 were), and on BasicMotions students and a control without noise. Nothing was
chosen for `control_long`, which was added when the test rows of all others had been seen.
"""
import argparse
import contextlib
import io
import os
import re
import sys
import textwrap
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from functools import cache
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
from fasttransform import Pipeline, Transform
from matplotlib.figure import Figure
from noisy_student_fastai.data.arrays import ArrayRows, input_type
from noisy_student_fastai.data.datasets import Part, label_scarce
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.noise.images import RandAugment
from noisy_student_fastai.noise.series import SeriesAugment
from noisy_student_fastai.noise.tables import TableNoise
from noisy_student_fastai.rounds.self_training import self_train
from torch import nn

RESULTS, PAGE = Path(__file__).parent/'results', Path(__file__).parent/'README.md'
QUICK = Path('out/quick')  # results of other numbers of steps, so that a quick try leaves `RESULTS` alone
RUNS = Path('out/runs')  # models, which git ignores; an interrupted run goes on there, and robustness.py needs them too
BS = 64  # rows of a batch
TUNE_FROM = 100  # seeds that are for choosing settings
N_ROUNDS = 3  # students, one after the other
CONTROLS, OTHERS = ('control', 'control_m', 'control_long'), ('plain', 'self_training', 'spreading', 'tsai')
ROWS = dict(plain='supervised, no noise', control='supervised, noise tuned for it (control)',
            control_m='supervised, noise of students (control)',
            control_long=f'noise of students, {N_ROUNDS+1} x as long (control)', ceiling='all labels known (ceiling)',
            self_training='SelfTrainingClassifier', spreading='LabelSpreading', tsai="tsai's callback, our labels",
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
    channels:int|None = None # The first ones; None: all
    steps:int = 300 # Batches that each network trains on
    lr:float = 1e-2
    dropout:float = .5 # Before the last layer
    n_pl:int = 56 # Pseudolabeled rows among the 64 of a student's batch
    temperature:float = .5 # Of their labels
    share:float|tuple|None = 1. # The surest `share*n/c` rows of each class, for each round; None: all rows, as they are
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
    basic_motions=Setting(series_net, series_noise, 4., 6., n_per_class=1, channels=1, steps=200, base='forest',
                          kernel=dict(kernel='rbf', gamma=1/100)),
    gun_point=Setting(series_net, series_noise, 4., 7., n_per_class=2, base='forest'),
    japanese_vowels=Setting(series_net, series_noise, 3., 4., share=(.3, .5, .7), base='logistic',
                            kernel=dict(kernel='rbf', gamma=10/300)),
    breast_cancer=Setting(table_net, table_noise, .45, .45, temperature=1., share=None, min_conf=0., base='logistic',
                          kernel=dict(kernel='rbf', gamma=10/30)),
    wine=Setting(table_net, table_noise, .1, .3, lr=3e-3, base='logistic', kernel=dict(kernel='rbf', gamma=3/13)))


# data

def with_inputs(data, f):
    "The same rows, inputs changed by `f`"
    return replace(data, **{k: o._replace(x=f(o.x)) for k, o in data.parts.items()})


def prepared(name, s, seed):
    "A split as its setting wants it"
    data = label_scarce(name, s.n_per_class, seed, n_valid=None)
    if s.channels: data = with_inputs(data, lambda x: x[:, :s.channels])
    if s.n_unlabeled: data = replace(data, unlabeled=Part(*(o[:s.n_unlabeled] for o in data.unlabeled)))
    return standardized(data)


def standardized(data):
    "Inputs standardized over all rows that training may see; pictures are left as they are, from 0 to 1"
    x = np.concatenate([data.labeled.x, data.unlabeled.x])
    if x.ndim == 4: return data
    dims = (0, 2) if x.ndim == 3 else 0
    mean, std = x.mean(dims, keepdims=True), x.std(dims, keepdims=True) + 1e-8
    return with_inputs(data, lambda x: ((x-mean)/std).astype(np.float32))


def all_labeled(data):
    "The labeled rows, and the unlabeled ones with their labels"
    return Part(*map(np.concatenate, zip(data.labeled, data.unlabeled)))


def loader(part, n=None, bs=BS):
    "`n` rows for training, repeated if need be; without `n` each row once"
    rows = None if n is None else np.arange(n) % part.n
    ds = ArrayRows(part.x, part.y, rows, n is not None, input_type(part.x))
    kw = dict(bs=512) if n is None else dict(bs=bs, shuffle=True, drop_last=True)
    return TfmdDL(ds, num_workers=0, device=torch.device('cpu'), **kw)


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


def supervised(data, s, seed, part, m=None, times=1):
    "Trained on labels alone, `times` as long as a student, with noise of strength `m` if there is one"
    cbs = None if m is None else StudentNoise(**noise_args(s, m))
    return fitted(s, seed, lambda: learner(data, s, part, BS*s.steps*times, cbs))


def select_args(data, s, r):
    "Arguments of `select` in round `r`: the paper's equal counts, with repeats without limit, which is not the default"
    share = s.share[r-1] if isinstance(s.share, tuple) else s.share
    n = None if share is None else max(1, int(share*data.unlabeled.n/len(data.vocab)))
    return dict(min_conf=s.min_conf, n_per_class=n, max_repeat=None, prior=s.prior)


def rounds(data, s, seed, runs=None, n_rounds=N_ROUNDS):
    "Teacher, which is the control, and students; kept in the folder `runs`"
    n_labeled = BS-s.n_pl  # in a batch
    path = None if runs is None else Path(runs)/f'{data.name}-{seed}-{s.key}'
    return self_train(lambda r: learner(data, s, data.labeled, n_labeled*s.steps), data.unlabeled.x, n_rounds, path,
                      n_epoch=1, lr=s.lr, noise=lambda r: noise_args(s, s.m if r else s.m_control), seeds=[seed],
                      pseudolabel=dict(bs=512, dtype='float32', leaks='keep'), select=lambda r: select_args(data, s, r),
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
    n_labeled, sel = BS-s.n_pl, run.labels(1, seed).select(**select_args(data, s, 1))
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


def trainers(data, s, seed, runs=None):
    "For each row of the table that is a network, a function that returns it trained; `self_train` runs once, if at all"
    run = cache(lambda: rounds(data, s, seed, runs))
    def alone(part, *args): return supervised(data, s, seed, part, *args)
    return dict(plain=lambda: alone(data.labeled), control=lambda: run().learner(0),
                control_m=lambda: run().learner(0) if s.m == s.m_control else alone(data.labeled, s.m),
                control_long=lambda: alone(data.labeled, s.m, N_ROUNDS+1),
                ceiling=lambda: alone(all_labeled(data), s.m_control), tsai=lambda: tsai_student(data, s, seed, run()),
                one=lambda: run().learner(1), three=lambda: run().learner(N_ROUNDS))


def run_seed(name, seed, s, part, runs, rows):
    "Accuracy in percent of the rows `rows` of the table, on one split"
    with quietly():
        data = prepared(name, s, seed)
        at, nets = getattr(data, part), trainers(data, s, seed, runs)
        def right(k): return percent_right(nets[k](), at) if k in nets else by_sklearn(k, data, s, seed, at)
        return pd.DataFrame(dict(row=k, accuracy=right(k)) for k in ROWS if k in rows)


def has_tsai():
    try: import tsai.callback.noisy_student  # noqa: F401, I001
    except ImportError: return False
    return True


def gap_share(row, control, ceiling):
    "Share of the gap between control and ceiling that a row closes, over seeds, and its standard error"
    d, gap = np.subtract(row, control), np.subtract(ceiling, control)
    if gap.mean() <= 0: return np.nan, np.nan
    share = d.mean()/gap.mean()
    rest = d - share*gap
    return share, rest.std(ddof=1)/len(d)**.5/gap.mean() if len(d) > 1 else np.nan


def best_control(means):
    "The control of the highest mean: what is gained is counted from there"
    return max((k for k in CONTROLS if k in means), key=lambda k: means[k])


def table(df):
    "A line for each data set and row: mean, standard deviation, and the share of the gap that is closed"
    res = []
    for name, g in df.groupby('data', sort=False):
        accs = g.pivot(index='seed', columns='row', values='accuracy')
        base = best_control(accs.mean())
        for k in [o for o in ROWS if o in accs]:
            share, err = gap_share(accs[k], accs[base], accs.ceiling)
            res.append(dict(data=name, row=k, seeds=len(accs), mean=accs[k].mean(), std=accs[k].std(), share=share,
                            share_err=err, is_base=k == base))
    return pd.DataFrame(res)


def shown(o):
    if o.is_base: return 'counted from here'
    return '' if np.isnan(o.share) else f'{o.share:+.2f} ± {o.share_err:.2f}'


def as_text(t):
    "The table for a terminal"
    lines = []
    for name, g in t.groupby('data', sort=False):
        lines.append(f'\n{name}, {g.seeds.iloc[0]} seeds{"accuracy in %":>32}   share of the gap')
        lines += [f'  {ROWS[o.row]:40}{o["mean"]:6.1f} ± {o["std"]:4.1f}   {shown(o)}' for _, o in g.iterrows()]
    return '\n'.join(lines)


def cell(o):
    "What a page shows of a line of the table"
    acc = f'{o["mean"]:.1f} ± {o["std"]:.1f}'
    if o.is_base: return f'**{acc}**'
    return acc if o.row == 'ceiling' or np.isnan(o.share) else f'{acc}<br>{shown(o)}'


def in_words(name): return name.replace('_', ' ')  # a page can break the line there, and before ±


def with_sign(md): return md.replace('± ', '±\N{NO-BREAK SPACE}')


def as_markdown(t):
    "The table for a page: a line for each row, a column for each data set"
    names = list(dict.fromkeys(t.data))
    cells = {(o.data, o.row): cell(o) for _, o in t.iterrows()}
    heads = [f'{in_words(k)}<br>{n} seeds' for k, n in t.groupby('data', sort=False).seeds.first().items()]
    lines = ['| accuracy in %<br>share of the gap | '+' | '.join(heads)+' |', '|---'*(len(names)+1)+'|']
    lines += [f'| {label} | '+' | '.join(cells.get((o, k), '') for o in names)+' |' for k, label in ROWS.items()]
    return with_sign('\n'.join([*lines, '', *textwrap.wrap(verdict(t), 120)])+'\n')


PAIRS = (('three', 'tsai'), ('one', 'tsai'), ('three', 'one'), ('three', 'control_long'))


def ahead(df):
    "A table for a page: by how many points rows are ahead of others, seed by seed, with standard errors"
    names = list(dict.fromkeys(df.data))
    accs, res = df.pivot(index=['data', 'seed'], columns='row', values='accuracy'), []
    for row, other in [o for o in PAIRS if accs.columns.isin(o).sum() == 2]:
        d = (accs[row]-accs[other]).groupby('data').agg(['mean', 'sem'])
        cells = [f'{d["mean"][k]:+.1f} ± {d["sem"][k]:.1f}' for k in names]
        res.append('| '+' | '.join([f'{ROWS[row]} over {ROWS[other]}', *cells])+' |')
    head = ['| points ahead, ± standard error | '+' | '.join(map(in_words, names))+' |', '|---'*(len(names)+1)+'|']
    return with_sign('\n'.join([*head, *res])+'\n')


def page(df):
    "What is published of these results"
    return f'{as_markdown(table(df))}\n{ahead(df)}'


def rivals(t):
    "The rows that three rounds should be ahead of"
    return t[t.row.isin([*CONTROLS, *OTHERS, 'one'])]


def closed(t):
    "Data sets that have a gap, those where three rounds close more than half of it, and those where nothing is as good"
    three = t[(t.row == 'three') & t.share.notna()].set_index('data')
    rest = rivals(t).groupby('data')['mean'].max()
    return list(three.index), list(three.index[three.share > .5]), list(three.index[three['mean'] > rest[three.index]])


def listed(names): return f' ({", ".join(names)})' if names else ''


def verdict(t):
    "What the table says about three rounds, and one, in words"
    gap, half, lead = closed(t)
    rest = rivals(t)
    best = rest.loc[rest.groupby('data', sort=False)['mean'].idxmax()].set_index('data')
    behind = [f'{k} ({ROWS[best.row[k]]}, {best["mean"][k]:.1f})' for k in gap if k not in lead]
    res = [f'Three rounds close more than half of the gap on {len(half)} of {len(gap)} data sets that have '
           f'one{listed(half)}, and are ahead of every other row on {len(lead)}{listed(lead)}.']
    if behind: res.append('Another row is as good or better on ' + ', '.join(behind) + '.')
    one = list(t.data[(t.row == 'one') & (t.share > .5)])
    res.append(f'One round closes more than half of the gap on {len(one)}{listed(one)}.')
    return ' '.join(res)


def points(t, name):
    "What the figure shows of a data set: label -> mean accuracy"
    acc = t[t.data == name].set_index('row')['mean']
    return {'best control': acc[best_control(acc)], 'one round': acc.one, 'three rounds': acc.three,
            'best other row': acc[[k for k in OTHERS if k in acc]].max(), 'all labels known': acc.ceiling}


STYLES = [dict(marker='|', ms=16, mew=3, color='.4'), dict(marker='o', ms=7, color='C0'),
          dict(marker='D', ms=8, color='C3'), dict(marker='x', ms=8, mew=2, color='C2'),
          dict(marker='|', ms=16, mew=3, color='k')]


def figure(t):
    "Does a noisy student beat its control? A line for each data set, with the share that three rounds close"
    names, shares = list(dict.fromkeys(t.data))[::-1], t[t.row == 'three'].set_index('data').share
    pts = pd.DataFrame({k: points(t, k) for k in names})
    fig = Figure(figsize=(9, 1.7+.45*len(names)), layout='constrained')
    ax = fig.subplots()
    for i, k in enumerate(names): ax.plot(pts[k].iloc[[0, -1]], [i, i], color='.85', lw=7, zorder=0)
    for (label, g), style in zip(pts.iterrows(), STYLES): ax.plot(g, range(len(names)), ls='', label=label, **style)
    said = {k: '(no gap)' if np.isnan(v) else f'{v:+.2f}' for k, v in shares.items()}
    ax.set_yticks(range(len(names)), [f'{k}  {said[k]}' for k in names])
    n, n_half, n_lead = map(len, closed(t))
    title = f'Three rounds close more than half of the gap on {n_half} of {n} data sets, and lead on {n_lead}'
    ax.set(xlabel='accuracy on the test set, mean of the seeds (%)', ylabel='share of the gap closed by three rounds',
           ylim=(-.6, len(names)-.4))
    ax.set_title(title, fontsize=11)
    fig.legend(fontsize=9, ncols=5, loc='outside lower center', frameon=False)
    return fig


# results in a file

def read(path):
    "Results so far, of whatever settings"
    if path.exists(): return pd.read_csv(path, dtype=dict(key=str))
    return pd.DataFrame(columns=['data', 'seed', 'row', 'key'])


def written(df, path, settings=SETTINGS):
    "Write results, so that an interrupt leaves the old file or the new one; data sets in the order of `settings`"
    order = {k: i for i, k in enumerate(settings)}
    df = df.sort_values(['data', 'seed'], key=lambda o: o.map(order) if o.name == 'data' else o, kind='stable')
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix('.tmp')
    df.to_csv(tmp, index=False, float_format='%.3f')
    tmp.replace(path)
    return df


def with_new(df, new):
    "Results with those of one seed, in place of what there was of the same rows and settings"
    same = (df[['data', 'seed', 'key']] == new[['data', 'seed', 'key']].iloc[0]).all(axis=1) & df.row.isin(new.row)
    return new if same.all() else pd.concat([df[~same], new], ignore_index=True)


def of_settings(df, settings):
    "The results of these settings: others may be in the file, too"
    return df[df.key == df.data.map({k: s.key for k, s in settings.items()})]


def timed(f, name, seed, s, *args):
    start = time.time()
    return f(name, seed, s, *args).assign(data=name, seed=seed, key=s.key, seconds=round(time.time()-start, 1))


def available(names, settings):
    "Data sets that are installed; says which are not"
    res = []
    for k in names:
        try: label_scarce(k, settings[k].n_per_class, 0, n_valid=None)
        except (FileNotFoundError, ImportError) as e: print(f'{k} is left out: {e}', flush=True)
        else: res.append(k)
    return res


def finished(f, calls, jobs):
    "What `f` returns for each of `calls`, its arguments, as it comes from `jobs` processes"
    if jobs == 1: yield from (f(*args) for args in calls)
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context('spawn')) as pool:
            for o in as_completed([pool.submit(f, *args) for args in calls]): yield o.result()


def run_all(f, rows, names, seeds, settings, path, jobs=2, part='test', runs=None, again=False, there=available,
            measure='accuracy'):
    "Run what `path` lacks of the rows `rows`, keep it there, and return what it has of these settings"
    df, names = read(path), there(names, settings)
    old = df.iloc[:0] if again else of_settings(df, settings)
    has = {k: set(g.row) for k, g in old.groupby(['data', 'seed'])}
    todo = [(k, i, rows - has.get((k, i), set())) for i in seeds for k in names]
    calls = [(f, k, i, settings[k], part, runs, lacks) for k, i, lacks in todo if lacks]
    for n, new in enumerate(finished(timed, calls, jobs), 1):
        df, o = written(with_new(df, new), path, settings), new.iloc[0]
        accs = ', '.join(f'{k} {v:.1f}' for k, v in new.groupby('row', sort=False)[measure].mean().items())
        print(f'{n} of {len(calls)}: {o.data}, seed {o.seed}, {o.seconds:.0f} s: {accs}', flush=True)
    return of_settings(df, settings)


def arguments(doc, names, settings=SETTINGS):
    "What the command line says, and the settings that follow from it"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', nargs='*', default=names, choices=names)
    p.add_argument('--seeds', type=int, default=5, help='how many')
    p.add_argument('--jobs', type=int, default=2, help='processes, of one thread each')
    p.add_argument('--steps', type=int, help=f'batches that each network trains on; results go to {QUICK}')
    p.add_argument('--out', type=Path, help=f'folder of the results; default: {RESULTS.name} beside this script')
    p.add_argument('--runs', type=Path, default=RUNS, help='folder where models are kept')
    p.add_argument('--again', action='store_true', help='run also what is there')
    p.add_argument('--tune', action='store_true', help=f'report on validation rows of seeds from {TUNE_FROM} on')
    a = p.parse_args()
    a.out = a.out or (RESULTS if a.steps is None else QUICK)
    a.settings = {k: s if a.steps is None else replace(s, steps=a.steps) for k, s in settings.items()}
    first, a.part = (TUNE_FROM, 'valid') if a.tune else (0, 'test')
    a.seeds = range(first, first+a.seeds)
    return a


def results(f, rows, a, name, **kwargs):
    "Run what is missing; all results of the settings, and those that were asked for"
    df = run_all(f, rows, a.data, a.seeds, a.settings, a.out/f'{name}.csv', a.jobs, a.part, a.runs, a.again,
                 **kwargs)
    asked = df[df.data.isin(a.data) & df.seed.isin(a.seeds)]
    if asked.empty: sys.exit('no results')
    return df, asked


def publish(md, out, name):
    "Keep Markdown in a file, and in README.md where that is what is published"
    (out/f'{name}.md').write_text(md, encoding='utf-8')
    if out.resolve() != RESULTS.resolve(): return
    old = PAGE.read_text(encoding='utf-8')
    new = re.sub(rf'(<!-- {name} -->\n).*?(?=<!-- end -->)', lambda m: f'{m[1]}\n{md}\n', old, flags=re.S)
    PAGE.write_text(new, encoding='utf-8')


def main():
    a, rows = arguments(__doc__, list(SETTINGS)), set(ROWS)
    if not has_tsai():
        print('tsai is not installed: its row is left out')
        rows -= {'tsai'}
    name = 'tuning' if a.tune else 'accuracy'
    df, asked = results(run_seed, rows, a, name)
    print(as_text(table(asked)), ahead(asked), sep='\n\n')
    publish(page(df), a.out, name)  # all data sets, whatever was asked for
    figure(table(df)).savefig(a.out/f'{name}.png', dpi=110)


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
