"Unlabeled series beside labeled ones of tsai: arrays, memory maps, tsai's own data sets and loaders"
import importlib
from collections import Counter

import numpy as np
import pytest
import torch
from data_helpers import probs
from noisy_student_fastai.joining import Endless
from noisy_student_fastai.labels.sources import as_source
from noisy_student_fastai.student import NoisyStudent
from source_toys_tsai import FORMS, double
from torch import Tensor

pytestmark = pytest.mark.tsai


@pytest.fixture(scope='module')
def t(): return importlib.import_module('tsai_toys')


@pytest.fixture(scope='module')
def dls(t): return t.classifier().dls


def raw(dl):
    dl.after_batch = lambda b: b
    return list(dl)


def inputs(dl): return torch.cat([b[0].as_subclass(Tensor) for b in dl])


@pytest.mark.parametrize('n', [1, 64, 65, 100, 127, 128, 129, 300])
@pytest.mark.parametrize('form', FORMS, ids=lambda f: f.__name__)
def test_a_teacher_gets_each_row_once_in_order(t, dls, tmp_path, form, n):
    "tsai's own loaders lose rows of 65 to 127 in batches of 64"
    x = t.series(max(n, 4), seed=7)[0][:n]
    src = as_source(form(t, x, tmp_path), dls)
    for bs in (64, 16, 7):
        batches = list(src.eval_dl(dls, bs))
        assert torch.equal(inputs(batches), torch.tensor(x))
        assert all(len(b) == 1 and type(b[0]) is t.TSTensor for b in batches) and len(batches) == -(-n//bs)
        rest = src.eval_dl(dls, bs, start=min(bs, n))
        for a, b in zip(rest, batches[1:], strict=True): assert torch.equal(a[0], b[0])


@pytest.mark.parametrize('kwargs', [
    dict(), dict(batch_tfms='standardize'), dict(tfms='double'), dict(tfms='double', inplace=False),
    dict(sel_vars=[0, 2]), dict(sel_steps=slice(3, 9))], ids=str)
def test_same_inputs_as_new_dl(t, kwargs):
    from tsai.data.preprocessing import TSStandardize
    kwargs = dict(kwargs)
    if 'tfms' in kwargs: kwargs['tfms'] = [double(t), t.TSClassification()]
    if 'batch_tfms' in kwargs: kwargs['batch_tfms'] = TSStandardize(by_var=True)
    sel = {k: kwargs.pop(k) for k in ('sel_vars', 'sel_steps') if k in kwargs}
    if sel:
        from tsai.data.core import TSDataLoaders
        ds = t.TSDatasets(t.X, t.Y, splits=t.SPLITS, tfms=[None, t.TSClassification()], inplace=False, **sel)
        dls = TSDataLoaders.from_dsets(ds.train, ds.valid, bs=16)
    else: dls = t.classifier(**kwargs).dls
    want = dls.valid.new_dl(t.X2, bs=t.N2).one_batch()[0]
    src = as_source(t.X2, dls)
    got = src.eval_dl(dls, 16)
    assert torch.equal(inputs(got).float(), want.as_subclass(Tensor).float())
    rows = np.array([5, 5, 2])
    x = src.train_dl(dls, rows, torch.zeros(3), shuffle=False, bs=3)
    assert torch.equal(inputs(raw(x)).float(), inputs(raw(src.eval_dl(dls, t.N2)))[rows].float())


@pytest.mark.parametrize('form', FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('seed', range(2))
def test_a_student_gets_rows_with_their_own_targets(t, dls, tmp_path, form, seed):
    src = as_source(form(t, t.X2, tmp_path), dls)
    p, w = probs(t.N2, 4, seed), torch.rand(t.N2)
    rows = np.random.default_rng(seed).integers(t.N2, size=110)
    def check(shift=0):
        at = np.roll(rows, shift)
        stream = Endless(src.train_dl(dls, rows, p[at], w[at]), 11)
        x, y, ws = (torch.cat(o) for o in zip(*[next(stream) for _ in range(10)]))
        i = t.found(x, t.X2)
        assert Counter(i) == Counter(rows.tolist())
        return torch.equal(y.as_subclass(Tensor), p[i]) and torch.equal(ws.as_subclass(Tensor), w[i])
    assert check() and not check(1)


@pytest.mark.parametrize('hard', [False, True])
def test_a_student_trains(t, dls, hard):
    p = torch.tensor(t.P2).float()
    rows = np.random.default_rng(0).integers(t.N2, size=90)
    dl2 = as_source(t.X2, dls).train_dl(dls, rows, p[rows].argmax(1) if hard else p[rows])
    learn = t.fit(t.classifier(NoisyStudent(dl2)))
    learn.noisy_student.batch_tfms = []
    x, y = learn.noisy_student.one_batch()
    i = t.found(x[y.is_pl], t.X2)
    got = y.plain()[y.is_pl]
    assert len(i) == 8 and torch.equal(got.float(), (p[i].argmax(1) if hard else p[i]).float())


def test_series_of_one_variable(t):
    x, y = t.series(t.N+t.N_VALID, n_vars=1)
    dls, x2 = t.classifier(x=x, y=y).dls, t.series(30, seed=3, n_vars=1)[0]
    assert torch.equal(inputs(as_source(x2[:, 0], dls).eval_dl(dls)), torch.tensor(x2))


def test_refused(t, dls):
    with pytest.raises(ValueError, match=r'shape \(5, 20\) and a labeled row \(3, 20\)'): as_source(t.X2[:5, 0], dls)
