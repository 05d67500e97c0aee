"Ways to train: frozen layers, fine-tuning, the search for a learning rate"
import numpy as np
import pytest
import torch
from data_helpers import Probe, probs, rows_of, same_weights, tensors_dl
from fastai.callback import schedule  # gives a Learner its `fine_tune`, `fit_one_cycle` and `lr_find`
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam
from fastai.torch_core import params, set_seed
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from noisy_student_fastai.student import NoisyStudent
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

assert schedule
N, N2, C = 32, 40, 3


def points(n, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g), torch.randint(C, (n,), generator=g)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, C))


def halves(m): return [params(m[0]), params(m[1])]


def student(opt_func=SGD, seed=0, with_cb=True):
    x, y = points(N, 1)
    dls = DataLoaders(DataLoader(list(zip(x, y)), bs=8, shuffle=True), DataLoader(list(zip(x, y)), bs=8))
    dl2 = tensors_dl(points(N2, 2)[0], probs(N2, C), bs=4)
    cbs = [NoisyStudent(dl2), Probe()] if with_cb else [Probe()]
    return Learner(dls, net(seed), loss_func=CrossEntropyLossFlat(), splitter=halves, opt_func=opt_func, cbs=cbs)


class Replay:
    "A loader that gives other batches in each epoch"
    def __init__(self, epochs): self.epochs, self.n = list(epochs), 0
    def __len__(self): return len(self.epochs[0])
    def __iter__(self):
        self.n += 1
        return iter(self.epochs[self.n-1])


def freeze(learn):
    learn.freeze()
    learn.fit(2, lr=.1)


def freeze_unfreeze(learn):
    freeze(learn)
    learn.unfreeze()
    learn.fit(1, lr=slice(1e-2, .1))


def fine_tune(learn): learn.fine_tune(2, base_lr=.05, freeze_epochs=1)
def one_cycle(learn): learn.fit_one_cycle(3, .05)


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('opt_func', [SGD, Adam])
@pytest.mark.parametrize('way', [freeze, freeze_unfreeze, fine_tune, one_cycle])
def test_ways_to_train(way, opt_func, seed):
    "Schedules, layer groups and optimizer take the steps that a plain Learner's take on the same batches"
    learn = student(opt_func, seed)
    with learn.no_bar(), learn.no_logging(): way(learn)
    probe, n = learn.probe, N//4
    (x, y), x2, p = points(N, 1), points(N2, 2)[0], probs(N2, C)
    rows = [(rows_of(xb[:4], x), rows_of(xb[4:], x2)) for xb, in probe.xbs]
    batches = [(torch.cat([x[i], x2[j]]), torch.cat([torch.eye(C)[y[i]], p[j]])) for i, j in rows]
    replay = Replay([batches[k:k+n] for k in range(0, len(batches), n)])
    dls, lf = DataLoaders(replay, []), nn.CrossEntropyLoss()
    plain = Learner(dls, net(seed), loss_func=lf, splitter=halves, opt_func=opt_func)
    with plain.no_bar(), plain.no_logging(): way(plain)
    assert replay.n == len(replay.epochs) == {freeze: 2}.get(way, 3)
    assert same_weights(learn.model, plain.model, atol=1e-5) and not same_weights(learn.model, net(seed), atol=1e-3)
    frozen = torch.equal(learn.model[0][0].weight, net(seed)[0][0].weight)
    assert frozen == (way is freeze)
    np.testing.assert_allclose(learn.recorder.lrs, plain.recorder.lrs)


def test_lr_find():
    "The search sees the labeled loader alone, leaves the model as it was, and training goes on as a student"
    def find(with_cb):
        set_seed(3)
        learn = student(with_cb=with_cb)
        if with_cb: learn.noisy_student.pseudolabel_sample_weight = 2.5
        with learn.no_bar(): at = learn.lr_find(num_it=20, show_plot=False)
        return learn, at, [float(o) for o in learn.recorder.losses]
    (learn, at, losses), (_, at2, losses2) = find(True), find(False)
    assert at == at2 and losses == losses2 and len(losses) > 5
    assert same_weights(learn.model, net()) and len(learn.probe.xbs[0][0]) == 8
    learn.probe.xbs.clear()
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert [len(xb) for xb, in learn.probe.xbs] == [8]*(N//4)


def tiny(pretrained=False):
    "A small network in two parts, as fastai's `vision_learner` cuts them"
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_vision_learner(tmp_path):
    "`vision_learner` with a body that is frozen first, on files, from `fine_tune` to predictions and `export`"
    x, y = load_digits(return_X_y=True)
    for i in range(72): Image.fromarray((x[i].reshape(8, 8)*15).astype(np.uint8)).save(tmp_path/f'{i:03}_{y[i]}.png')
    fs = sorted(tmp_path.glob('*.png'))
    block = DataBlock((ImageBlock, CategoryBlock), get_y=label, splitter=IndexSplitter(range(24, 32)))
    dls = block.dataloaders(fs[:32], bs=8, num_workers=0, path=tmp_path)
    dl2 = dls.test_dl(fs[32:], with_labels=True)
    learn = vision_learner(dls, tiny, pretrained=False, normalize=False, cbs=[NoisyStudent(dl2), probe := Probe()])
    start = learn.model[0][0].weight.clone()
    with learn.no_bar(), learn.no_logging():
        learn.freeze()
        learn.fit_one_cycle(1)
        assert torch.equal(learn.model[0][0].weight, start)
        learn.fine_tune(1)
        assert not torch.equal(learn.model[0][0].weight, start) and len(probe.losses) == 3*6
        p, t = learn.get_preds(dl=dl2)
        assert p.shape == (40, 10) and torch.allclose(p.sum(1), torch.ones(40))
        assert t.tolist() == [list(dls.vocab).index(label(f)) for f in fs[32:]]
        assert learn.predict(fs[40])[0] in dls.vocab


def label(f): return f.stem.split('_')[1]
