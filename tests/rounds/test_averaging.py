"Is the average of `EMACallback` that of an independent computation, step by step, whatever else the Learner has?"
from copy import deepcopy

import fastai.callback.schedule  # noqa: F401  (gives Learners `lr_find`)
import numpy as np
import pytest
import torch
from fastai.callback.core import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
)
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.learner import load_learner
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.student import NoisyStudent
from toys import Items, hard_rows, net, pl_dl, pts_dls, pts_learner


def state(model): return {k: v.detach().double().numpy().copy() for k, v in model.state_dict().items()}


class Track(Callback):
    "The average by hand, from the weights after each step; what the model was at the end of the fit"
    order = EMACallback.order-1

    def __init__(self, decay): self.decay = decay

    def before_fit(self):
        if self.learn.lock.locked(): return
        self.avg, self.t = state(self.model), 0

    def before_step(self): self.skipped = False
    def after_cancel_step(self): self.skipped = True

    def after_step(self):
        if self.skipped: return
        self.t += 1
        d = min(self.decay, (1+self.t)/(10+self.t))
        for k, v in state(self.model).items():
            self.avg[k] = v if k.endswith('num_batches_tracked') else d*self.avg[k]+(1-d)*v

    def after_fit(self):
        if not self.learn.lock.locked(): self.raw = state(self.model)


class Stop(Callback):
    "Raises something at the given batch"
    def __init__(self, error, at, event='after_batch'):
        self.error, self.at, self.n, self.event_name = error, at, 0, event
    def _raise(self, event):
        if event != self.event_name or not self.training: return
        self.n += 1
        if self.n == self.at: raise self.error
    def after_batch(self): self._raise('after_batch')
    def before_step(self): self._raise('before_step')
    def after_loss(self): self._raise('after_loss')


def fitted(*cbs, decay=.9, n_epoch=3, seed=0, **kwargs):
    track = Track(decay)
    learn = pts_learner(EMACallback(decay), track, *cbs, model=net(bn=True), seed=seed, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(n_epoch)
    return learn, track


def close(model, want):
    got = state(model)
    assert got.keys() == want.keys()
    for k in want: np.testing.assert_allclose(got[k], want[k], rtol=1e-4, atol=1e-5, err_msg=k)


@pytest.mark.parametrize('decay', [0, .5, .9, .999])
@pytest.mark.parametrize('seed', [0, 1])
def test_average_is_that_by_hand(decay, seed):
    learn, track = fitted(decay=decay, seed=seed, dls=pts_dls(bs=8))
    assert track.t == 24
    close(learn.model, track.avg)
    count = learn.model.state_dict()['1.num_batches_tracked']
    assert count.dtype == torch.int64 and count == 24
    if decay: assert not np.allclose(track.raw['0.weight'], track.avg['0.weight'])


@pytest.mark.parametrize('cbs', [
    lambda: [StudentNoise(tfms=None, dropout=.3, stoch_depth=None)], lambda: [NoisyStudent(pl_dl())],
    lambda: [StudentNoise(tfms=None, dropout=.3, stoch_depth=None), NoisyStudent(pl_dl()), GradientAccumulation(16)],
    lambda: [MixedPrecision('bf16')], lambda: [GradientAccumulation(16)],
    lambda: [Stop(CancelBatchException(), 3, 'after_loss')],
    lambda: [Stop(CancelStepException(), 3, 'before_step')], lambda: [Stop(CancelEpochException(), 3)]])
def test_beside_other_callbacks(cbs):
    learn, track = fitted(*cbs(), dls=pts_dls(bs=8))
    assert track.t > 5
    close(learn.model, track.avg)


def test_cancelled_fits_have_the_average():
    learn, track = fitted(Stop(CancelFitException(), 5), dls=pts_dls(bs=8))
    assert track.t == 5
    close(learn.model, track.avg)


@pytest.mark.parametrize('error', [KeyboardInterrupt(), RuntimeError('broken')])
def test_a_fit_after_an_error_starts_anew(error):
    stop = Stop(error, 5)
    track = Track(.9)
    learn = pts_learner(EMACallback(.9), track, stop, model=net(bn=True), dls=pts_dls(bs=8))
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(type(error)): learn.fit(1)
        before = state(learn.model)
        learn.validate()
        learn.get_preds()
        close(learn.model, before)  # only a fit averages
        learn.fit(1)
    assert track.t == 8
    close(learn.model, track.avg)


def test_two_fits_average_twice():
    learn, track = fitted(dls=pts_dls(bs=8))
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert track.t == 16
    close(learn.model, track.avg)
    assert learn.ema.avg is None


def test_lr_find_leaves_the_weights():
    learn = pts_learner(EMACallback(.9), model=net(bn=True), dls=pts_dls(bs=8))
    before = state(learn.model)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=10, show_plot=False)
    close(learn.model, before)


class Inside(Callback):
    "Exports in the middle of a fit"
    order = 90  # fastai's Recorder needs the loss, which an export takes
    def after_batch(self):
        if not self.training or self.iter != 2: return
        assert self.learn.ema.avg is not None
        self.learn.export('inside.pkl')


def test_copies_and_exports_hold_no_average(tmp_path):
    dls = pts_dls(Items(hard_rows(64, 1)), bs=8)
    dls.valid.dataset = Items(dls.valid.dataset)
    learn, track = fitted(Inside(), dls=dls, path=tmp_path, n_epoch=1)
    close(learn.model, track.avg)
    copy, inside = deepcopy(learn), load_learner(tmp_path/'inside.pkl')
    assert inside.ema.avg is None and inside.ema.decay == .9
    assert {*inside.model.state_dict()} == {*learn.model.state_dict()}
    copy.remove_cb(Inside)
    with copy.no_bar(), copy.no_logging(): copy.fit(1)
    close(learn.model, track.avg)
    close(copy.model, copy.track.avg)


@pytest.mark.parametrize('decay', [1, -.1, 2., float('nan')])
def test_decay_is_checked(decay):
    with pytest.raises(ValueError, match='decay='): EMACallback(decay)
    with pytest.raises(TypeError, match="decay='a'"): EMACallback('a')


class SaveModel(SaveModelCallback): "As tsai has one"


@pytest.mark.parametrize('cb', [SaveModelCallback, SaveModel])
@pytest.mark.parametrize('when', ['before', 'for a fit'])
def test_a_callback_that_loads_other_weights_is_refused(cb, when, tmp_path):
    "... before anything is trained; one that only saves is not, and what it saves at the end is the average"
    learn = pts_learner(EMACallback(.9), *([cb()] if when == 'before' else []), model=net(), path=tmp_path)
    before, kw = state(learn.model), {} if when == 'before' else dict(cbs=cb())
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=f'{cb.__name__} loads the weights'):
        learn.fit(1, **kw)
    close(learn.model, before)
    for saves in (dict(every_epoch=True), dict(at_end=True)):
        learn, track = fitted(cb(fname='it', **saves), path=tmp_path)
        close(learn.model, track.avg)
    close(learn.load('it').model, track.avg)


def test_a_strangers_callback_of_the_same_name():
    class SaveModel(Callback): "Keeps weights of its own"
    close(*(lambda learn, track: (learn.model, track.avg))(*fitted(SaveModel(), n_epoch=1)))
