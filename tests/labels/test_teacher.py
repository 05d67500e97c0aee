"Teachers: what they predict for each kind of loss, and that they are afterwards as they were"
import random

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
from label_toys import outputs, unlabeled
from torch import nn
from toys import net, params, pts_learner

KINDS = [(BCEWithLogitsLossFlat(), 'multi', torch.sigmoid), (nn.BCEWithLogitsLoss(), 'multi', torch.sigmoid),
         (MSELossFlat(), 'values', lambda o: o), (nn.L1Loss(), 'values', lambda o: o)]


@pytest.mark.parametrize('lf,kind,act', KINDS)
def test_kinds(lf, kind, act):
    learn, x = pts_learner(lf=lf, metrics=None), unlabeled()
    pl, want = learn.pseudolabel(x), act(outputs(learn, x))
    assert pl.kind == kind and pl.label is None
    assert np.allclose(pl.preds, want, atol=6e-4)
    assert pl.preds.dtype == (np.float32 if kind == 'values' else np.float16)
    if kind == 'multi': assert np.allclose(pl.conf, torch.maximum(want, 1-want).amin(1), atol=1e-6)
    x1, y1 = pl.dl().one_batch()
    i = [np.flatnonzero((x == o.numpy()).all(1))[0] for o in x1]
    assert np.allclose(y1, want[i], atol=1e-3)
    if kind == 'multi':
        x1, y1 = pl.dl(soft=False).one_batch()
        i = [np.flatnonzero((x == o.numpy()).all(1))[0] for o in x1]
        assert torch.equal(y1, (want[i] >= .5).float())


def test_amp():
    learn, x = pts_learner(), unlabeled()
    want = outputs(learn, x).softmax(1)
    half = learn.pseudolabel(x, amp='bf16', dtype='float32')
    assert 1e-6 < np.abs(half.probs-want.numpy()).max() < .02


class Draw(Callback):
    "A callback with random numbers of its own"
    def after_pred(self): torch.rand(3), np.random.rand(), random.random()


def test_the_learner_is_left_as_it_was():
    "Attributes, callbacks, weights, modes and random numbers; also where an error or an interrupt ends it"
    class Stop(Callback):
        def after_pred(self):
            if self.iter == 1 and self.error: raise self.error
    stop = Stop()
    stop.error = None
    learn = pts_learner(Draw(), stop, model=net(bn=True))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.model[1].eval()

    def state():
        return (dict(vars(learn)), [(o, dict(vars(o))) for o in learn.cbs], [m.training for m in learn.model.modules()],
                params(learn).tolist(), random.getstate(), np.random.get_state()[1].tolist(),
                torch.get_rng_state().tolist())
    before = state()
    for error in (None, ValueError('a fault'), KeyboardInterrupt()):
        stop.error = error
        before[1][[o for o, _ in before[1]].index(stop)][1]['error'] = error
        try: learn.pseudolabel(unlabeled())
        except (ValueError, KeyboardInterrupt) as e: assert e is error
        else: assert error is None
        after = state()
        for a, b in zip(before, after): assert a == b
    assert len(learn.recorder.losses) == 2


class CancelSecond(Callback):
    def before_batch(self):
        if self.iter % 2: raise CancelBatchException


def test_a_cancelled_batch_is_no_prediction():
    with pytest.raises(ValueError, match='cancelled a batch'): pts_learner(CancelSecond()).pseudolabel(unlabeled())


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_broken_teacher(tmp_path, bad):
    learn = pts_learner()
    with torch.no_grad(): learn.model[0].weight[0, 0] = bad
    with pytest.raises(ValueError, match='no numbers .* for row 0 of unlabeled .*expected'):
        learn.pseudolabel(unlabeled(), tmp_path/'labels')
