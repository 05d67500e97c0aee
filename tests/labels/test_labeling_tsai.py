"Series of tsai from a Learner to a student, in numbers that tsai's own loaders lose rows of"
import importlib
from collections import Counter

import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from noisy_student_fastai.all import NoisyStudent, PseudoLabels
from source_toys_tsai import FORMS
from torch import Tensor

pytestmark = pytest.mark.tsai

SIZES = [1, 64, 65, 110, 127]


@pytest.fixture(scope='module')
def t(): return importlib.import_module('tsai_toys')


@pytest.fixture(scope='module')
def learn(t): return t.fit(t.classifier(bs=64))


def outputs(learn, x):
    "What the model says, without loaders"
    with torch.no_grad(): return learn.model.eval()(torch.tensor(x)).as_subclass(Tensor).softmax(1)


def check_batches(t, batches, x, want):
    "Has each series its own target? Which ones are there"
    seen = []
    for xb, y in batches:
        i = t.found(xb, x)
        torch.testing.assert_close(y.as_subclass(Tensor).float(), want[i].float(), rtol=0, atol=1e-3)
        seen += i
    return Counter(seen)


def raw(dl):
    dl.after_batch = lambda b: b
    return list(dl)


@pytest.mark.parametrize('n', SIZES)
def test_each_series_its_own_label(t, learn, tmp_path, n):
    x = t.series(max(n, 4), seed=9)[0][:n]
    want = outputs(learn, x)
    pl = learn.pseudolabel(x, tmp_path/'labels')
    assert np.allclose(learn.pseudolabel(x, dtype='float32').probs, want, rtol=0, atol=1e-5)
    assert np.allclose(pl.probs, want, rtol=2**-11, atol=1e-6) and pl.label.tolist() == want.argmax(1).tolist()
    assert pl.vocab == t.CLASSES.tolist() and len(pl) == n
    if n == 64:  # of the other numbers, tsai's loaders lose some
        assert np.allclose(learn.get_preds(dl=learn.dls.valid.new_dl(x))[0], want, atol=1e-5)
    for o in (pl, PseudoLabels.open(tmp_path/'labels', x)):
        sel = o.select(0, 30)
        got = raw(sel.dl(learn.dls, bs=16, drop_last=False))
        assert check_batches(t, got, x, want) == Counter(sel.rows.tolist())
        if n == 1: continue
        with pytest.raises(AssertionError, match='not close'): check_batches(t, got, x, want.roll(1, 0))
    hard = raw(sel.dl(learn.dls, soft=False, bs=16, drop_last=False))
    assert check_batches(t, hard, x, want.argmax(1)) == Counter(sel.rows.tolist())
    with pytest.raises(ValueError, match='without their rows'): PseudoLabels.open(tmp_path/'labels').dl(learn.dls)


@pytest.fixture(scope='module')
def loaded(t, learn, tmp_path_factory):
    learn.path = tmp_path_factory.mktemp('export')
    learn.export('t.pkl')
    return load_learner(learn.path/'t.pkl')


@pytest.mark.parametrize('form', FORMS, ids=lambda f: f.__name__)
def test_an_export_labels(t, learn, loaded, tmp_path, form):
    "As after a week, with no row left of those that it was trained on"
    x = t.series(30, seed=9)[0]
    pl = loaded.pseudolabel(form(t, x, tmp_path), tmp_path/'labels', leaks='keep', dtype='float32')
    assert np.allclose(pl.probs, outputs(learn, x), rtol=0, atol=1e-5) and pl.vocab == t.CLASSES.tolist()
    with pytest.raises(ValueError, match='1 are held out .*as 0'):
        loaded.pseudolabel(x, held_out=form(t, x[:9], tmp_path))
    with pytest.warns(UserWarning, match='leaks were not looked for'): loaded.pseudolabel(form(t, x, tmp_path))
    assert len(raw(pl.dl(learn.dls, bs=16, drop_last=False))) == len(raw(pl.dl(bs=16, drop_last=False))) == 2


def test_series_of_another_scale_or_length(t, learn):
    x = t.series(30, seed=9)[0]
    for other, word in ((x*1000, 'numbers up to'), (x[..., :15], r'the shape \(3, 20\), these \(3, 15\)')):
        with pytest.warns(UserWarning, match=f'unlabeled looks different.*{word}'): learn.pseudolabel(other)


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('soft', [True, False])
def test_a_student_trains(t, learn, n, soft):
    x = t.series(max(n, 4), seed=9)[0][:n]
    want = outputs(learn, x)
    student = t.fit(t.classifier(NoisyStudent(learn.pseudolabel(x).dl(soft=soft))))
    assert np.isfinite(student.recorder.losses).all()
    cb = student.noisy_student
    cb.batch_tfms = []
    xb, y = cb.one_batch()
    assert 0 < y.is_pl.sum() < len(y)
    check_batches(t, [(xb[y.is_pl], y.plain()[y.is_pl])], x, want if soft else want.argmax(1))
