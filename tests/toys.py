"Small learners that train in milliseconds: points around three corners of the plane"
import fastai.callback.progress  # noqa: F401  (gives Learners `no_bar`)
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader

CORNERS = torch.tensor([[0., 0], [2, 0], [1, 2]])


def points(n, seed):
    "`n` points and their classes"
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=g)
    return CORNERS[y] + .6*torch.randn(n, 2, generator=g), y


def probs(x): return (-((x[:, None]-CORNERS)**2).sum(-1)).softmax(1)


def rows(*ts): return list(zip(*ts))


def hard_rows(n, seed): return rows(*points(n, seed))


def soft_rows(n, seed):
    x = points(n, seed)[0]
    return rows(x, probs(x))


def pl_dl(items=None, bs=16, **kwargs):
    "A loader of pseudolabeled rows"
    return DataLoader(soft_rows(90, 2) if items is None else items, bs=bs, **kwargs)


def pts_dls(items=None, bs=32, shuffle=True, drop_last=None, **kwargs):
    items = hard_rows(64, 1) if items is None else items
    train = TfmdDL(items, bs=bs, shuffle=shuffle, drop_last=shuffle if drop_last is None else drop_last, num_workers=0,
                   **kwargs)
    return DataLoaders(train, TfmdDL(hard_rows(50, 7), bs=20, num_workers=0, **kwargs))


def torch_dls(*dls, **kwargs):
    "DataLoaders of torch's loaders"
    res = DataLoaders(*[TorchDataLoader(o, **kwargs) if not isinstance(o, TorchDataLoader) else o for o in dls])
    res._device = None  # tsai's Learner, which replaces fastai's once it is imported, asks for it
    return res


def net(c=3, bn=False):
    return nn.Sequential(nn.Linear(2, 8), *([nn.BatchNorm1d(8)] if bn else []), nn.ReLU(), nn.Linear(8, c))


def pts_learner(*cbs, dls=None, lf=None, seed=0, model=None, metrics=accuracy, **kwargs):
    set_seed(seed)
    if dls is None: dls = pts_dls()
    return Learner(dls, model or net(), loss_func=lf or CrossEntropyLossFlat(), metrics=metrics, opt_func=SGD, lr=.1,
                   cbs=cbs, **kwargs)


class Probe(Callback):
    "Keeps what the model and the loss get in training, as late as possible"
    order = 49
    def __init__(self): self.xs, self.ys, self.losses, self.rows = [], [], [], []
    def before_batch(self):
        if not self.training: return
        self.xs.append(tuple(o.clone() for o in self.xb))
        self.ys.append(tuple(o.clone() for o in self.yb))
    def after_loss(self):
        if self.training: self.losses.append(self.loss.item())


class Items(list):
    "Rows that fastai can leave out of an export"
    def new_empty(self): return Items()


def ce(logp, p): return -(p*logp).sum(1)
def focal(logp, p): return (p*(1-logp.exp())**2*-logp).sum(1)


def quiet(learn):
    "Without bars and log lines"
    return learn.no_logging(), learn.no_bar()


def params(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
