"`NoisyStudent` beside fastai's other callbacks"
import copy

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import fit_one_cycle  # noqa: F401  (patches Learner)
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLossFlat,
    LabelSmoothingCrossEntropyFlat,
    MSELossFlat,
)
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from torch.nn import functional as F
from toys import Probe, ce, focal, hard_rows, params, pl_dl, points, pts_dls, pts_learner, rows, soft_rows


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


@pytest.fixture
def perms(monkeypatch):
    "The permutations that MixUp and CutMix draw"
    seen, randperm = [], torch.randperm
    def recorded(n, **kwargs):
        seen.append(randperm(n, **kwargs))
        return seen[-1]
    monkeypatch.setattr(torch, 'randperm', recorded)
    return seen


class Mixed(Callback):
    "What the mixed batch, its labels and its loss are"
    order, run_valid = 40, False
    def __init__(self): self.seen = []
    def after_loss(self):
        lam = next(cb for cb in self.learn.cbs if hasattr(cb, 'distrib')).lam
        self.seen.append((self.pred.detach(), self.learn.yb[0], lam.clone().reshape(-1), self.loss.item()))


def smooth(logp, p): return .9*-(p*logp).sum(1) - .1/3*logp.sum(1)


def images(n, soft=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(n, 3, generator=g).softmax(1) if soft else torch.randint(3, (n,), generator=g)
    return rows(torch.rand(n, 1, 6, 6, generator=g), y)


@pytest.mark.parametrize('weight', [0., .3, 1., 2.])
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('lf,rowwise',
                         [(CrossEntropyLossFlat, ce), (FocalLossFlat, focal), (LabelSmoothingCrossEntropyFlat, smooth)])
@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mix_row_by_row(mix, lf, rowwise, soft, weight, perms):
    "A mixed row has two labels; each counts with the weight of the row that it came from"
    dls = DataLoaders(TfmdDL(images(32), bs=16, shuffle=True, drop_last=True, num_workers=0),
                      TfmdDL(images(8), bs=8, num_workers=0))
    set_seed(0)
    probe = Mixed()
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), loss_func=lf(), opt_func=SGD, lr=.1,
                    cbs=[mix(), NoisyStudent(pl_dl(images(50, soft, 1)), l2pl_ratio=1/3,
                                             pseudolabel_sample_weight=weight), probe])
    fit(learn, 2)
    assert len(probe.seen) == len(perms) == 16
    w = torch.where(torch.arange(16) < 4, 1., weight)
    for (pred, y, lam, loss), perm in zip(probe.seen, perms):
        p = y.plain() if soft else F.one_hot(y.plain(), 3).float()
        l, l1 = rowwise(pred.log_softmax(1), p), rowwise(pred.log_softmax(1), p[perm])
        want = (lam*w*l + (1-lam)*w[perm]*l1).sum()/w.sum()
        assert loss == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize('weight', [.3, 1.])
@pytest.mark.parametrize('lf,torch_lf', [(BCEWithLogitsLossFlat, F.binary_cross_entropy_with_logits),
                                         (MSELossFlat, F.mse_loss)])
@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mix_of_targets(mix, lf, torch_lf, weight, perms):
    "Targets that are numbers are mixed themselves, and so are the weights"
    def items(n, seed): return [(x, p) for x, p in images(n, True, seed)]
    dls = DataLoaders(TfmdDL(items(32, 0), bs=16, shuffle=True, num_workers=0),
                      TfmdDL(items(8, 1), bs=8, num_workers=0))
    set_seed(0)
    probe, before = Mixed(), Targets()
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), loss_func=lf(), opt_func=SGD, lr=.1,
                    cbs=[mix(), NoisyStudent(pl_dl(items(50, 2)), pseudolabel_sample_weight=weight), probe, before])
    fit(learn, 2)
    w = torch.where(torch.arange(16) < 8, 1., weight)
    for (pred, _, lam, loss), y, perm in zip(probe.seen, before.ys, perms):
        wi = w[perm] + lam*(w-w[perm])
        y = y[perm] + lam[:, None]*(y-y[perm])
        want = (wi*torch_lf(pred, y, reduction='none').mean(1)).sum()/wi.sum()
        assert loss == pytest.approx(want.item(), rel=1e-4)


class Targets(Callback):
    "The targets before they are mixed"
    order, run_valid = -.5, False
    def __init__(self): self.ys = []
    def before_batch(self): self.ys.append(self.learn.yb[0].plain().clone())


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('n_acc', [1, 2, 4])
def test_gradient_accumulation(n_acc, seed):
    "n small batches and one step: the mean of the gradients, also with weights"
    dls = pts_dls(hard_rows(64, 1), bs=16)
    probe = Probe()
    learn = pts_learner(NoisyStudent(pl_dl()), probe, GradientAccumulation(n_acc*16), dls=dls, seed=seed, wd=0.)
    start, grads = copy.deepcopy(learn.model), []
    class Grads(Callback):
        order = 40
        def before_step(self): grads.append(torch.cat([p.grad.flatten() for p in self.learn.model.parameters()]))
    fit(learn, cbs=Grads())
    first = []
    for (x,), (y,) in list(zip(probe.xs, probe.ys))[:n_acc]: first.append(F.cross_entropy(start(x), y.plain()))
    torch.stack(first).mean().backward()
    torch.testing.assert_close(grads[0], torch.cat([p.grad.flatten() for p in start.parameters()]), rtol=1e-4,
                               atol=1e-6)
    assert len(grads) == 8//n_acc


def test_trackers_loggers_and_schedules(tmp_path):
    learn = pts_learner(NoisyStudent(pl_dl(), log_losses=True))
    learn.path = tmp_path
    cbs = [SaveModelCallback(monitor='accuracy'), EarlyStoppingCallback(monitor='valid_loss', patience=50), CSVLogger(),
           GradientClip(.1)]
    with learn.no_bar(): learn.fit_one_cycle(3, cbs=cbs)
    assert (tmp_path/'models/model.pth').exists()
    head, *lines = (tmp_path/'history.csv').read_text().split()
    assert head == 'epoch,train_loss,valid_loss,accuracy,label_loss,pseudo_loss,time' and len(lines) == 3
    assert len(learn.recorder.lrs) == 12 and learn.recorder.lrs[0] < max(learn.recorder.lrs)
    assert len(learn.recorder.losses) == 12


def test_a_short_epoch():
    probe = Probe()
    learn = pts_learner(NoisyStudent(pl_dl()), probe)
    fit(learn, 2, cbs=ShortEpochCallback(.5, short_valid=False))
    assert [len(x) for x, in probe.xs] == [32]*6 and isinstance(learn.loss_func, CrossEntropyLossFlat)


@pytest.mark.parametrize('seed', range(2))
def test_two_students_do_not_share_anything(seed):
    "The same dl2 in two Learners, one fit after the other, and a copied Learner"
    dl2 = pl_dl()
    a, b = (pts_learner(NoisyStudent(dl2), seed=seed) for _ in range(2))
    fit(a, 2)
    fit(b, 2)
    c = copy.deepcopy(a)
    assert torch.equal(params(a), params(c))
    fit(c)
    assert not torch.equal(params(a), params(c)) and a.noisy_student.dl2 is dl2


@pytest.mark.parametrize('workers', [0, 2])
def test_workers(workers):
    x = points(50, 2)[0]
    seen = []
    dls = pts_dls()
    probe = Probe()
    learn = pts_learner(NoisyStudent(pl_dl(num_workers=workers), l2pl_ratio=1/3), probe, dls=dls)
    fit(learn, 3)
    x = points(90, 2)[0]
    for xb, in probe.xs: seen += [int((x == o).all(1).nonzero()[0]) for o in xb[8:]]
    for i in range(0, len(seen)//90*90, 90): assert sorted(seen[i:i+90]) == list(range(90))
    assert learn.noisy_student.stream.it is None


def test_reproducible():
    "The same seed, the same student"
    def once():
        set_seed(5, reproducible=True)
        dls, dl2 = pts_dls(), pl_dl()
        return params(fit(pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3), MixUp(), dls=dls), 2))
    assert torch.equal(once(), once())


@pytest.mark.parametrize('items', [hard_rows, soft_rows])
def test_training_metrics(items):
    "Metrics on the training batches compare with the most likely class of a soft label"
    probe = Probe()
    learn = pts_learner(NoisyStudent(pl_dl(items(90, 2))), probe)
    learn.recorder.train_metrics = True
    class Right(Callback):
        order, run_valid = 40, False
        def __init__(self): self.n = []
        def after_pred(self):
            y = self.learn.yb[0].plain()
            self.n.append((self.pred.argmax(1) == (y.argmax(1) if y.ndim == 2 else y)).float().mean().item())
    right = Right()
    fit(learn, cbs=right)
    col = learn.recorder.metric_names.index('train_accuracy')-1
    assert learn.recorder.values[0][col] == pytest.approx(sum(right.n)/len(right.n))
