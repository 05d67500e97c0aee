"On a GPU, in full precision and in bf16: the same promises as elsewhere. Deselected where there is no GPU"
import copy

import noisy_student_fastai.labels.labeling  # noqa: F401  (gives Learner `pseudolabel`)
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat
from fastai.optimizer import SGD
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.augment import aug_transforms
from noisy_student_fastai.data.datasets import label_scarce
from noisy_student_fastai.noise.images import RandAugment
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from torch.nn import functional as F
from toys import ce, focal, hard_rows, net, points, rows, soft_rows

pytestmark = pytest.mark.cuda
MAKE = dict(hard=hard_rows, soft=soft_rows)


class Seen(Callback):
    "The batches, predictions and losses of the training"
    order, run_valid = 49, False
    def __init__(self): self.seen = []
    def after_loss(self): self.seen.append((self.x.clone(), self.yb[0], self.pred.detach(), self.loss.item()))


def student(*cbs, labels='hard', pls='soft', bf16=False, dl2_device=None, lf=None, seed=0, workers=0, pin=False,
            **kwargs):
    set_seed(seed)
    dls = DataLoaders(TfmdDL(MAKE[labels](64, 1), bs=32, shuffle=True, drop_last=True, num_workers=workers,
                             pin_memory=pin),
                      TfmdDL(hard_rows(50, 7), bs=20, num_workers=0), device='cuda')
    dl2 = DataLoader(MAKE[pls](90, 2), bs=16, device=dl2_device, num_workers=workers, pin_memory=pin)
    cbs = [NoisyStudent(dl2, l2pl_ratio=1/3, **kwargs), *cbs, *([MixedPrecision('bf16')] if bf16 else [])]
    return Learner(dls, net(), loss_func=lf or CrossEntropyLossFlat(), opt_func=SGD, lr=.1, wd=0., cbs=cbs)


def fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)
    return learn


@pytest.mark.parametrize('bf16', [False, True])
@pytest.mark.parametrize('labels,pls', [('hard', 'hard'), ('hard', 'soft'), ('soft', 'hard'), ('soft', 'soft')])
@pytest.mark.parametrize('weight', [0., .3, 1.])
def test_loss(labels, pls, weight, bf16):
    seen = Seen()
    fit(student(seen, labels=labels, pls=pls, bf16=bf16, pseudolabel_sample_weight=weight), 2)
    assert len(seen.seen) == 16
    w = torch.where(torch.arange(32) < 8, 1., weight).cuda()
    for x, y, pred, loss in seen.seen:
        assert x.is_cuda and y.is_cuda and (y.w is None or y.w.is_cuda)
        p = y.plain() if y.soft else F.one_hot(y.plain(), 3)
        want = (w*-(p*pred.float().log_softmax(1)).sum(1)).sum()/w.sum()
        assert loss == pytest.approx(want.item(), rel=1e-2 if bf16 else 1e-4)


@pytest.mark.parametrize('bf16', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_student_is_plain_training_on_the_same_batches(seed, bf16):
    seen = Seen()
    learn = student(seen, seed=seed, bf16=bf16)
    model = copy.deepcopy(learn.model).cuda()
    fit(learn, 2)
    opt = torch.optim.SGD(model.parameters(), lr=.1)
    for x, y, *_ in seen.seen:
        with torch.autocast('cuda', torch.bfloat16, enabled=bf16): loss = F.cross_entropy(model(x).float(), y.plain())
        loss.backward()
        opt.step()
        opt.zero_grad()
    for p, q in zip(model.parameters(), learn.model.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-2 if bf16 else 1e-4)


@pytest.mark.parametrize('device', [None, 'cpu', 'cuda'])
@pytest.mark.parametrize('workers,pin', [(0, False), (2, True)])
def test_dl2_on_another_device(device, workers, pin):
    seen = Seen()
    learn = fit(student(seen, dl2_device=device, workers=workers, pin=pin), 3)
    x = points(90, 2)[0].cuda()
    order = [int((x == o).all(1).nonzero()[0]) for b, *_ in seen.seen for o in b[8:]]
    for i in range(0, len(order)//90*90, 90): assert sorted(order[i:i+90]) == list(range(90))
    assert learn.noisy_student.dl2.device == (device and torch.device(device))


@pytest.mark.parametrize('mix', [MixUp, CutMix])
@pytest.mark.parametrize('lf,rowwise', [(CrossEntropyLossFlat, ce), (FocalLossFlat, focal)])
@pytest.mark.parametrize('bf16', [False, True])
def test_mix(mix, lf, rowwise, bf16, monkeypatch):
    perms, randperm = [], torch.randperm
    monkeypatch.setattr(torch, 'randperm', lambda n, **kw: perms.append(randperm(n, **kw)) or perms[-1])
    class Mixed(Callback):
        order, run_valid = 49, False
        def __init__(self): self.seen = []
        def after_loss(self):
            lam = next(cb for cb in self.learn.cbs if hasattr(cb, 'distrib')).lam
            self.seen.append((self.yb[0], self.pred.detach().float(), lam.clone().reshape(-1), self.loss.item()))
    def images(n, soft, seed):
        g = torch.Generator().manual_seed(seed)
        return rows(torch.rand(n, 1, 6, 6, generator=g), torch.randn(n, 3, generator=g).softmax(1) if soft
                    else torch.arange(n) % 3)
    set_seed(0)
    mixed = Mixed()
    dls = DataLoaders(TfmdDL(images(32, False, 0), bs=16, shuffle=True, num_workers=0),
                      TfmdDL(images(8, False, 1), bs=8, num_workers=0),
                      device='cuda')
    cbs = [mix(), NoisyStudent(DataLoader(images(50, True, 2), bs=8), pseudolabel_sample_weight=.3), mixed]
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), loss_func=lf(), opt_func=SGD, lr=.1,
                    cbs=cbs + ([MixedPrecision('bf16')] if bf16 else []))
    fit(learn, 2)
    w = torch.where(torch.arange(16) < 8, 1., .3).cuda()
    assert len(mixed.seen) == len(perms) == 8
    for (y, pred, lam, loss), perm in zip(mixed.seen, perms):
        perm, p, logp = perm.cuda(), y.plain(), pred.log_softmax(1)
        want = (lam*w*rowwise(logp, p) + (1-lam)*w[perm]*rowwise(logp, p[perm])).sum()/w.sum()
        assert loss == pytest.approx(want.item(), rel=1e-2 if bf16 else 1e-4)


def test_image_transforms_run_on_the_device():
    g = torch.Generator().manual_seed(0)
    def items(n, soft):
        return rows(TensorImage(torch.rand(n, 3, 16, 16, generator=g)), torch.rand(n, 3).softmax(1) if soft
                    else torch.arange(n) % 3)
    dls = DataLoaders(TfmdDL(items(32, False), bs=16, shuffle=True, num_workers=0,
                             after_batch=[*aug_transforms(), Normalize()], device='cuda'),
                      TfmdDL(items(8, False), bs=8, num_workers=0), device='cuda')
    seen = Seen()
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), loss_func=CrossEntropyLossFlat(),
                    cbs=[NoisyStudent(DataLoader(items(40, True), bs=8), batch_tfms=[*aug_transforms(), Normalize()]),
                         seen])
    fit(learn, 2)
    assert all(x.is_cuda and abs(x.mean()) < .3 and .5 < x.std() < 1.5 for x, *_ in seen.seen)


def test_predictions_and_copies(tmp_path):
    learn = fit(student(bf16=True, log_losses=True), 2)
    with learn.no_bar(): p = learn.get_preds()[0]
    torch.testing.assert_close(p.sum(1), torch.ones(50), rtol=1e-2, atol=1e-2)
    fit(copy.deepcopy(learn))
    assert len(learn.noisy_student.one_batch()[0]) == 32


def test_loaders_of_arrays(tmp_path):
    "Without a word about devices: the loaders of the package's data, a student, a prediction, an export"
    data = label_scarce('digits')
    dls = data.dls(bs=20, n_batches=4, batch_tfms=RandAugment(2, 2))
    assert dls.one_batch()[0].is_cuda and dls.valid.one_batch()[0].is_cuda
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    x = torch.tensor(data.test.x[:5], device='cuda', requires_grad=True)
    assert torch.equal(dls.test_dl(x).one_batch()[0], x.detach())
    student = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
                      cbs=NoisyStudent(learn.pseudolabel(data.unlabeled.x).select(0).dl()))
    with student.no_bar(), student.no_logging(): student.fit(1)
    with student.no_bar(): want = student.predict(data.test.x[0])
    student.export(tmp_path/'s.pkl')
    with student.no_bar(): got = load_learner(tmp_path/'s.pkl', cpu=False).predict(data.test.x[0])
    assert got[0] == want[0] in data.vocab
