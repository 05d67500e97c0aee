"Teachers: what they predict for each kind of loss, and that they are afterwards as they were"
import random
import warnings

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.data.core import TfmdDL
from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
from fastai.torch_core import set_seed
from fastai.vision.augment import RandTransform
from label_toys import outputs, unlabeled
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives a Learner its `pseudolabel`)
from noisy_student_fastai.labels.teacher import Teacher, check_preds
from torch import Tensor, nn
from toys import net, params, pts_dls, pts_learner

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
    with pytest.raises(ValueError, match='prediction is nan or infinite for row 0 of unlabeled .*expected'):
        learn.pseudolabel(unlabeled(), tmp_path/'labels')


def predict(t, dl, start=0):
    with t.predictor(dl, start) as preds: return torch.cat(list(preds))


class Shift(RandTransform):
    split_idx = 0
    def encodes(self, x: Tensor): return x+torch.randn(1).to(x.device) if x.is_floating_point() else x


@pytest.mark.parametrize('seed', range(3))
def test_views(seed):
    "The mean over batches that went through the training transforms, whatever batch one starts at"
    learn = pts_learner(dls=pts_dls(after_batch=[Shift(p=1.)]), seed=seed, model=net(bn=True))
    dl = learn.dls.valid
    t = Teacher(learn, n_views=3, seed=seed)
    p, x, bs = predict(t, dl), torch.stack([o[0] for o in dl.dataset]), dl.bs
    assert (p-predict(Teacher(learn), dl)).abs().max() > 1e-3
    later = TfmdDL(dl.dataset[2*bs:], bs=bs, num_workers=0)
    assert torch.equal(predict(t, later, start=2), p[2*bs:])
    want = [outputs(learn, o).softmax(1) for o in x.split(bs)]
    for i, o in enumerate(x.split(bs)):
        for v in (1, 2, 3):
            set_seed(seed*1_000_003+i*3+v)
            _ = random.random()  # RandTransform asks whether to act
            want[i] = want[i]+outputs(learn, o+torch.randn(1)).softmax(1)
    torch.testing.assert_close(p, torch.cat(want)/4, atol=1e-5, rtol=0)
    assert (predict(Teacher(learn, n_views=3, seed=seed+1), dl)-p).abs().max() > 1e-4


def test_views_that_do_not_differ():
    learn = pts_learner()
    with pytest.warns(UserWarning, match='n_views=2: the views of a batch do not differ'):
        predict(Teacher(learn, n_views=2), learn.dls.valid)
    learn = pts_learner(dls=pts_dls(after_batch=[Shift(p=1.)]))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        predict(Teacher(learn, n_views=2), learn.dls.valid)


class Count(Callback):
    def __init__(self): self.seen = []
    def __call__(self, e): self.seen.append(e)


def test_callbacks_see_what_they_see_in_get_preds():
    learn = pts_learner(Count())
    learn.count.seen.clear()
    predict(Teacher(learn), learn.dls.valid)
    ours = list(learn.count.seen)
    learn.count.seen.clear()
    with learn.no_bar(): learn.get_preds(dl=learn.dls.valid.new(), reorder=False)
    assert ours == learn.count.seen and 'after_pred' in ours


def test_teachers_that_are_refused():
    learn = pts_learner()
    with pytest.raises(TypeError, match='a Learner'): Teacher(nn.Linear(2, 2))
    for bad, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match='n_views='): Teacher(learn, n_views=bad)
    with pytest.raises(ValueError, match="amp='half'"): Teacher(learn, amp='half')
    flat = pts_learner(model=nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)))
    only_x = TfmdDL([o[0] for o in learn.dls.valid.dataset], bs=20, num_workers=0)
    with pytest.raises(ValueError, match=r'for 20 rows have shape \(60,\)'):
        predict(Teacher(flat, act=torch.exp), only_x)


@pytest.mark.parametrize('p,kind,msg', [
    ([[.5, .5], [float('nan'), 1.]], 'single', 'row 1 .*nan.*sum to 1'), ([[.5, .6]], 'single', 'sum 1.1'),
    ([[0., 0.]], 'single', 'sum 0'), ([[.5, 1.5]], 'multi', '0 to 1'), ([[-.1, .5]], 'multi', 'row 0'),
    ([[float('inf'), 1.]], 'values', 'finite'), ([1., 2.], 'values', 'shape'), ([[]], 'values', 'shape'),
    ([[[.5], [.5]]], 'single', 'For masks'), ([[[0.], [float('inf')]]], 'values', 'row 0 .*inf')])
def test_predictions_that_are_refused(p, kind, msg):
    with pytest.raises(ValueError, match=msg): check_preds(torch.tensor(p), kind)


def test_predictions_that_are_fine():
    for p, kind in ((torch.tensor([[3., -5.]]), 'values'), (torch.randn(2, 3, 5), 'values'),
                    (torch.tensor([[1., 1., 0.]]), 'multi'), (torch.ones(2, 1), 'single')): check_preds(p, kind)
    with pytest.raises(ValueError, match='3 columns, but the vocabulary has 4'):
        check_preds(torch.tensor([[.1, .7, .2]]), 'single', list('abcd'))
