"""How networks of the benchmarks are trained: loaders, Learners, a teacher and its students"""
import contextlib
import io
import warnings
from dataclasses import replace
from pathlib import Path

import fastai.callback.schedule  # noqa: F401  (gives Learner `fit_one_cycle`)
import numpy as np
import torch
from fastai.callback.progress import no_bar  # noqa: F401  (patches Learner)
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner, Metric
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import no_random
from noisy_student_fastai.data.arrays import ArrayRows, input_type
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.rounds.self_training import train_anyway

BS = 64  # rows of a batch
N_ROUNDS = 3  # students, one after the other


# loaders and Learners

def loader(part, n=None, bs=BS):
    "`n` rows for training, repeated if need be; without `n` each row once"
    rows = None if n is None else np.arange(n) % part.n
    ds = ArrayRows(part.x, part.y, rows, n is not None, input_type(part.x))
    kw = dict(bs=512) if n is None else dict(bs=bs, shuffle=True, drop_last=True)
    return TfmdDL(ds, num_workers=0, device=torch.device('cpu'), **kw)


def loaders(data, part, n): return DataLoaders(loader(part, n), loader(data.valid), device=torch.device('cpu'))


def learner(data, s, part, n, cbs=None, metrics=accuracy):
    "A new Learner that trains on `part`, `n` rows an epoch"
    net = s.net(data.labeled.x.shape[1:], len(data.vocab))
    return Learner(loaders(data, part, n), net, lr=s.lr, loss_func=CrossEntropyLossFlat(), metrics=metrics, cbs=cbs)


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
    noise, rows = (lambda r: noise_args(s, s.m if r else s.m_control)), (lambda r: select_args(data, s, r))
    def make(r): return learner(data, s, data.labeled, (n_labeled if r else BS)*s.steps)
    return train_anyway(make, data.unlabeled.x, n_rounds, path, n_epoch=1, lr=s.lr, noise=noise, seeds=[seed],
                        pseudolabel=dict(bs=512, dtype='float32', leaks='keep'), select=rows,
                        dl=dict(temperature=s.temperature), student=dict(bs=BS, l2pl_ratio=n_labeled/s.n_pl),
                        patience=None, weak_teacher='warn')[0]


def reached(run, r):
    "The model of round `r`, or the last one before it where a teacher was sure of no row"
    trained = run.records[run.records.n_batches > 0]
    return run.learner(min(r, int(trained['round'].max())))


def at_the_end(run, n_rounds):
    "The model of the last stage, or the last student"
    ends = run.records[run.records.role == 'online']
    return reached(run, n_rounds) if ends.empty else run.learner(int(ends['round'].item()), role='online')


def placed(where):
    "What `propagate` is given: 'teacher', 'inputs', 'both', or nothing"
    return where and dict(on=('teacher', 'inputs') if where == 'both' else where)


def total(s):
    "Batches of a teacher and all students, which every row has that is compared at equal batches"
    return (N_ROUNDS+1)*s.steps


def lengths(s, n_rounds, last=None):
    "Batches of the teacher, a sixth of all, and of each student; a last stage takes half of both"
    parts = 1 if last is None else 2
    n = max(1, round(total(s)/(6*parts)))
    return n, max(1, (total(s)-n)//(n_rounds*parts))


class Later(Metric):
    "The round: better the later it is"
    greater_is_better = True
    def __init__(self, r): self.r = r
    def reset(self): pass
    def accumulate(self, learn): pass
    @property
    def value(self): return float(self.r)


def ours(data, s, seed, o, last=None, runs=None):
    """Teacher and students in `total` batches, and a `last` stage, which is what `self_train` is given as `online`

    `o`: propagate, n_rounds, ema of the weights, n_pl rows of a batch. The metric finds the last student best, so that
    it is what goes on: validation rows, of which there are more than labeled ones, decide nothing here."""
    s = replace(s, n_pl=o['n_pl'])
    n_labeled, n_rounds = BS-s.n_pl, o['n_rounds']
    n, n_student = lengths(s, n_rounds, last)
    budget = dict(teacher=n, students=n_rounds*n_student) | ({} if last is None else dict(online=n_rounds*n_student))
    def make(r):
        rows = max(BS, n_labeled*n_student) if r else BS*n  # one batch of the loader, at least, in a quick try
        return learner(data, s, data.labeled, rows, metrics=[accuracy, Later(r)])
    noise, rows = (lambda r: noise_args(s, s.m if r else s.m_control)), (lambda r: select_args(data, s, r))
    return train_anyway(make, data.unlabeled.x, n_rounds, runs, lr=s.lr, noise=noise, seeds=[seed],
                        n_batches=budget, propagate=placed(o['propagate']), ema=o['ema'], online=last,
                        monitor='later', pseudolabel=dict(bs=512, dtype='float32', leaks='keep'), select=rows,
                        dl=dict(temperature=s.temperature), student=dict(bs=BS, l2pl_ratio=n_labeled/s.n_pl),
                        patience=None, weak_teacher='warn')[0]


# measuring

def percent_right(learn, part):
    "Accuracy in percent"
    with learn.no_bar(): pl = learn.pseudolabel(part.x, bs=512, dtype='float32', leaks='keep')
    return 100*float(np.mean(pl.label == part.y))


@contextlib.contextmanager
def quietly():
    "On one thread, without warnings, and without the lines of `self_train`"
    torch.set_num_threads(1)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield
