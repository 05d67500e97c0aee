"What a fit leaves behind: nothing, however it ends and whatever changed meanwhile"
import gc
import multiprocessing
import os
import pickle
import weakref

import pytest
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException, CancelTrainException
from fastai.callback.mixup import CutMix, MixUp
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from toys import Probe, hard_rows, pl_dl, pts_learner, rows, soft_rows


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


class Raise(Callback):
    "Raise `e` in the third training batch"
    order, run_valid = 45, False
    def __init__(self, e): self.e = e
    def after_pred(self):
        if self.train_iter == 2: raise self.e


ENDS = [KeyboardInterrupt, RuntimeError, CancelEpochException, CancelTrainException, CancelFitException]


def fails(learn, e, cbs=()):
    try: fit(learn, cbs=[*cbs, Raise(e('stop'))])
    except (KeyboardInterrupt, RuntimeError): pass


@pytest.mark.parametrize('how', ['remove_cb', 'in fit'])
@pytest.mark.parametrize('end', ENDS)
def test_removed_after_a_fit_that_failed(end, how):
    lf = CrossEntropyLossFlat()
    learn, cb = pts_learner(lf=lf), NoisyStudent(pl_dl(), log_losses=True)
    mets = list(learn.metrics)
    if how == 'in fit': fails(learn, end, [cb])
    else:
        learn.add_cb(cb)
        fails(learn, end)
        learn.remove_cb(cb)
    assert learn.loss_func is lf and list(learn.metrics) == mets
    fit(learn)
    assert learn.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']


@pytest.mark.parametrize('mix', [MixUp, CutMix])
@pytest.mark.parametrize('end', ENDS)
def test_mixup_that_stays_in_the_learner(end, mix):
    "fastai's MixUp leaves its own loss behind after an error; the next fit must mix again all the same"
    def images(n, seed):
        g = torch.Generator().manual_seed(seed)
        return rows(torch.rand(n, 1, 6, 6, generator=g), torch.rand(n, 3, generator=g).softmax(1))
    def items(n, seed): return [(x, p.argmax()) for x, p in images(n, seed)]
    lf = CrossEntropyLossFlat()
    dls = DataLoaders(TfmdDL(items(64, 0), bs=16, shuffle=True, num_workers=0),
                      TfmdDL(items(8, 1), bs=8, num_workers=0))
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), loss_func=lf,
                    cbs=[NoisyStudent(pl_dl(images(50, 2)), pseudolabel_sample_weight=.5), mix()])
    fails(learn, end)
    probe = Probe()
    fit(learn, 2, cbs=probe)
    assert learn.loss_func is lf and len(probe.xs) == 16
    assert getattr(learn, 'mix_up' if mix is MixUp else 'cut_mix').stack_y


@pytest.mark.parametrize('end', [KeyboardInterrupt, RuntimeError])
def test_losses_of_the_rows_are_the_first_thing_asked_for(end):
    learn = pts_learner(NoisyStudent(pl_dl(), log_losses=True))
    fails(learn, end)
    with learn.no_bar(): p, y, l = learn.get_preds(with_loss=True)
    torch.testing.assert_close(l, nn.functional.nll_loss(p.log(), y, reduction='none'), rtol=1e-4, atol=1e-5)
    with learn.no_bar(): assert len(learn.validate()) == 2
    assert type(learn.loss_func) is CrossEntropyLossFlat


def test_losses_of_the_rows_inside_a_fit():
    class InEpoch(Callback):
        order = 70
        def after_validate(self):
            if not self.learn.lock.locked(): self.n = len(self.learn.get_preds(with_loss=True)[2])
    inside = InEpoch()
    fit(pts_learner(NoisyStudent(pl_dl(), pseudolabel_sample_weight=.5, log_losses=True)), 2, cbs=inside)
    assert inside.n == 50


def test_targets_that_lose_their_weights_are_noticed():
    class Plain(Callback):
        order, run_valid = 20, False
        def before_batch(self): self.learn.yb = (self.learn.yb[0].plain(),)
    items = hard_rows(90, 2)
    fit(pts_learner(NoisyStudent(pl_dl(items)), Plain()))  # nothing to lose
    with pytest.raises(ValueError, match='row weights'):
        fit(pts_learner(NoisyStudent(pl_dl(items), pseudolabel_sample_weight=.5), Plain()))


def test_a_finished_fit_can_be_forgotten():
    "Neither the loaders nor the batches of a fit stay alive; workers end"
    learn = pts_learner(NoisyStudent(pl_dl(num_workers=1), log_losses=True))
    refs = []
    class Refs(Callback):
        order, run_valid = 45, False
        def after_pred(self):
            refs.extend(map(weakref.ref,
                            (self.learn.dl, self.learn.loss_func, self.learn.yb[0], self.learn.dl.after_batch)))
    fit(learn, 2, cbs=Refs())
    gc.collect()
    assert len(refs) == 32 and not [o() for o in refs if o() is not None]
    assert learn.noisy_student.stream.it is None


@pytest.fixture
def pickled(monkeypatch, root):
    "Workers get pickles of what they work with, as on macOS and Windows: a server forks them, with all imported"
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(root), str(root/'tests')]))
    monkeypatch.setenv('PYTHONWARNINGS', 'ignore')
    before = multiprocessing.get_start_method()
    multiprocessing.set_forkserver_preload(['toys', 'noisy_student_fastai.all'])
    multiprocessing.set_start_method('forkserver', force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_workers_that_get_pickles(pickled):
    of_torch = TorchDataLoader(soft_rows(90, 2), batch_size=8, num_workers=1)
    for n, dl2 in enumerate([of_torch, pl_dl(num_workers=1)]):
        train = TfmdDL(hard_rows(64, 1), bs=32, shuffle=True, drop_last=True, num_workers=n)
        dls, probe = DataLoaders(train, TfmdDL(hard_rows(50, 7), bs=20, num_workers=0)), Probe()
        fit(pts_learner(NoisyStudent(dl2), probe, dls=dls))
        assert [len(x) for x, in probe.xs] == [32]*4
    with pytest.raises((AttributeError, pickle.PicklingError), match='lambda'):  # they are pickled indeed
        next(iter(TorchDataLoader(soft_rows(9, 2), num_workers=1, collate_fn=lambda o: o)))


def test_mixup_with_torchs_own_loss():
    "`y_int` is for MixUp: it mixes the losses of class indices, which can't be mixed themselves"
    fit(pts_learner(NoisyStudent(pl_dl(hard_rows(90, 2)), pseudolabel_sample_weight=.5), MixUp(),
                    lf=nn.CrossEntropyLoss()), 2)
    fit(pts_learner(NoisyStudent(pl_dl()), MixUp(), lf=nn.CrossEntropyLoss()), 2)
