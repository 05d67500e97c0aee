"Tensors in loaders of fastai and torch, in any combination, with workers, of any length"
import random

import pytest
import torch
from data_helpers import Probe, fit, fit_plain, probs, rows_of, same_weights, tensors_dl
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from torch import nn
from torch.utils.data import BatchSampler, IterableDataset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler
from torch.utils.data import DataLoader as TorchDataLoader

DEVICES = ['cpu'] + [d for d in ('cuda', 'mps') if getattr(torch, d).is_available()]
C = 3


def points(n, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g), torch.randint(C, (n,), generator=g)


def torch_dl(x, y, bs, **kwargs): return tensors_dl(x, y, bs=bs, **kwargs)
def fastai_dl(x, y, bs, **kwargs): return DataLoader(list(zip(x, y)), bs=bs, **kwargs)
def fastai_of_torch(x, y, bs, **kwargs): return DataLoader(TensorDataset(x, y), bs=bs, **kwargs)
def tfmd_dl(x, y, bs, **kwargs): return TfmdDL(list(zip(x, y)), bs=bs, **{'num_workers': 0, **kwargs})


def torch_by_sampler(x, y, bs, shuffle=True, **kwargs):
    return tensors_dl(x, y, bs=bs, sampler=SubsetRandomSampler(range(len(x))), **kwargs)


def torch_by_batches(x, y, bs, shuffle=True, **kwargs):
    batches = BatchSampler(SubsetRandomSampler(range(len(x))), bs, False)
    return TorchDataLoader(TensorDataset(x, y), batch_sampler=batches, **kwargs)


MAKERS = [torch_dl, fastai_dl, fastai_of_torch, tfmd_dl, torch_by_sampler, torch_by_batches]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, C))


def check(make, make2, n, n2, bs=8, ratio=1, soft=True, n_epoch=2, seed=0, **kwargs):
    "Train, and train a plain Learner on the same rows; labeled rows come once an epoch, pseudolabeled ones evenly"
    (x, y), (x2, y2) = points(n, 1), points(n2, 2)
    if soft: y2 = probs(n2, C)
    random.seed(seed)
    dls = DataLoaders(make(x, y, bs, shuffle=True, **kwargs), fastai_dl(x, y, bs))
    cb = NoisyStudent(make2(x2, y2, 5, **kwargs), bs=bs if make is torch_by_batches else None, l2pl_ratio=ratio)
    learn, probe = fit(dls, net(seed), CrossEntropyLossFlat(), cb, n_epoch=n_epoch)
    n_pl, seen, seen2, batches = int(bs/(1+ratio)), [], [], []
    for (xb,), yb in zip(probe.xbs, probe.ybs):
        k = len(xb)-n_pl
        i, j = rows_of(xb[:k], x), rows_of(xb[k:], x2)
        seen, seen2 = seen+i, seen2+j
        want = torch.cat([torch.eye(C)[y[i]] if soft else y[i], y2[j]])
        assert type(yb) is RowTargets and torch.equal(yb.plain(), want) and yb.is_pl.tolist() == [False]*k+[True]*n_pl
        batches.append((torch.cat([x[i], x2[j]]), want))
    assert seen and len(seen) % n_epoch == 0
    for o in torch.tensor(seen).reshape(n_epoch, -1).tolist(): assert len(set(o)) == len(o) >= n-bs
    for k in range(0, len(seen2), n2): assert len(set(seen2[k:k+n2])) == len(seen2[k:k+n2])
    plain, _ = fit_plain(batches, net(seed), nn.CrossEntropyLoss())
    assert same_weights(learn.model, plain.model)
    return probe


@pytest.mark.parametrize('make2', MAKERS)
@pytest.mark.parametrize('make', MAKERS)
def test_loaders(make, make2):
    for seed in range(2): check(make, make2, 30, 41, soft=seed == 0, seed=seed)


PAIRS = [(torch_dl, torch_dl), (fastai_dl, torch_by_batches), (tfmd_dl, fastai_of_torch)]


@pytest.mark.parametrize('make,make2', PAIRS)
def test_workers(make, make2):
    "Two processes read on each side"
    check(make, make2, 30, 41, num_workers=2)


@pytest.mark.parametrize('n,n2', [(8, 200), (200, 3), (30, 1), (9, 10)])
@pytest.mark.parametrize('ratio', [1, 1/3, 7])
def test_lengths(n, n2, ratio):
    "dl2 is much longer or much shorter than the labeled set, down to one row"
    check(torch_dl, fastai_dl, n, n2, ratio=ratio, n_epoch=3)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('device2', DEVICES)
def test_devices(device, device2):
    "The combined batch is where the labeled one is; on a machine without accelerator there is only one place"
    (x, y), (x2, y2) = points(30, 1), points(41, 2)
    dls = DataLoaders(fastai_dl(x, y, 8, device=device), fastai_dl(x, y, 8, device=device))
    for dl2 in (fastai_dl(x2, y2, 5, device=device2), fastai_dl(x2.to(device2), probs(41, C).to(device2), 5)):
        _, probe = fit(dls, net().to(device), CrossEntropyLossFlat(), NoisyStudent(dl2, pseudolabel_sample_weight=.5))
        for (xb,), yb in zip(probe.xbs, probe.ybs):
            assert {o.device.type for o in (xb, yb, yb.w, yb.is_pl)} == {device}
            rows_of(xb[len(xb)-4:].cpu(), x2)


def test_a_sampler_of_dl2_decides():
    "Rows that a sampler leaves out do not come, and rows that it prefers come more often"
    (x, y), (x2, y2) = points(40, 1), points(20, 2)
    dls = DataLoaders(fastai_dl(x, y, 8), fastai_dl(x, y, 8))
    some = SubsetRandomSampler(range(0, 20, 3))
    often = WeightedRandomSampler([0, 9, 1, *[0]*17], 20, generator=torch.Generator().manual_seed(0))
    for sampler, rows in [(some, {*range(0, 20, 3)}), (often, {1, 2})]:
        _, probe = fit(dls, net(), CrossEntropyLossFlat(), NoisyStudent(tensors_dl(x2, y2, bs=4, sampler=sampler)))
        seen = [i for xb, in probe.xbs for i in rows_of(xb[4:], x2)]
        assert len(seen) == 80 and set(seen) == rows  # 20 batches of 4
        if sampler is often: assert seen.count(1) > 3*seen.count(2)


def test_a_labeled_loader_without_batch_size():
    "torch's loader knows no batch size where it has a batch sampler"
    (x, y), (x2, y2) = points(40, 1), points(20, 2)
    dls = DataLoaders(torch_by_batches(x, y, 8), fastai_dl(x, y, 8))
    with pytest.raises(ValueError, match='the labeled loader has no batch size: give `bs`'):
        fit(dls, net(), CrossEntropyLossFlat(), NoisyStudent(torch_dl(x2, y2, 4)))


def test_a_stream_as_dl2():
    "Rows that have no number, of a torch IterableDataset: they come in their order, again and again"
    (x, y), (x2, y2) = points(40, 1), points(10, 2)

    class Stream(IterableDataset):
        def __iter__(self): return zip(x2, y2)

    dls = DataLoaders(fastai_dl(x, y, 8), fastai_dl(x, y, 8))
    _, probe = fit(dls, net(), CrossEntropyLossFlat(), NoisyStudent(TorchDataLoader(Stream(), batch_size=4)))
    seen = [i for xb, in probe.xbs for i in rows_of(xb[4:], x2)]
    assert len(probe.xbs) == 20 and len(seen) > 60 and seen == [*range(10)]*(len(seen)//10)+[*range(len(seen) % 10)]


def test_several_fits_go_on():
    "A second fit takes dl2 on from where the first one ended"
    (x, y), (x2, y2) = points(16, 1), points(48, 2)
    probe = Probe()
    dls = DataLoaders(fastai_dl(x, y, 8), fastai_dl(x, y, 8))
    cb = NoisyStudent(torch_dl(x2, y2, 4))
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=[cb, probe])
    with learn.no_bar(), learn.no_logging():
        for _ in range(3): learn.fit(1)
    seen = [i for xb, in probe.xbs for i in rows_of(xb[4:], x2)]
    assert sorted(seen) == list(range(48))
