"What the tests of `self_train` share: points around three corners of the plane, so that a run takes a second"
import torch
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fasttransform.transform import Transform
from noisy_student_fastai.rounds.self_training import self_train
from toys import hard_rows, net, points, pts_dls

UNLABELED, TRUTH = (o.numpy() for o in points(240, 3))
SEEDLESS = ['label_seconds', 'train_seconds']  # columns that no two runs have in common


class Jitter(Transform):
    "Input noise"
    split_idx = 0
    def __init__(self, sd=.3): self.sd = sd
    def encodes(self, x: torch.Tensor): return x+self.sd*torch.randn_like(x) if x.is_floating_point() else x


class Items(list):
    "What fastai needs for an export"
    def new_empty(self): return Items()


def make(r=0, dls=None, model=None, **kwargs):
    "A new Learner for any round"
    dls = dls or pts_dls(hard_rows(24, 1), bs=8)
    return Learner(dls, model or net(bn=True), loss_func=CrossEntropyLossFlat(), metrics=accuracy, opt_func=SGD, lr=.2,
                   **kwargs)


def held_out_dl(): return TfmdDL(hard_rows(60, 11), bs=30, num_workers=0)


ARGS = dict(n_rounds=2, n_epoch=4, select=dict(n_per_class=40), student=dict(bs=12, l2pl_ratio=1/2),
            dl=dict(temperature=.5),
            noise=dict(tfms=Jitter(), dropout=.2, stoch_depth=None), ema=.9)


def train(path=None, make_learner=make, unlabeled=UNLABELED, **kwargs):
    return self_train(make_learner, unlabeled, path=path, **{**ARGS, **kwargs})


def numbers(run): return run.records.drop(columns=SEEDLESS)
