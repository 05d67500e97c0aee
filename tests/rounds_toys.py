"What the tests of `self_train` share: points around three corners of the plane, so that a run takes a second"
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fasttransform.transform import Transform
from noisy_student_fastai.rounds.self_training import self_train
from torch import nn
from torchvision.ops import StochasticDepth
from toys import hard_rows, net, points, pts_dls

UNLABELED, TRUTH = (o.numpy() for o in points(240, 3))
SEEDLESS = ['label_seconds', 'train_seconds']  # columns that no two runs have in common


class Jitter(Transform):
    "Input noise"
    split_idx = 0
    def __init__(self, sd=.3): self.sd = sd
    def encodes(self, x: torch.Tensor): return x+self.sd*torch.randn_like(x) if x.is_floating_point() else x


def make(r=0, dls=None, model=None, **kwargs):
    "A new Learner for any round"
    dls = dls or pts_dls(hard_rows(24, 1), bs=8)
    return Learner(dls, model or net(bn=True), loss_func=CrossEntropyLossFlat(), metrics=accuracy, opt_func=SGD, lr=.2,
                   **kwargs)


def held_out_dl(): return TfmdDL(hard_rows(60, 11), bs=30, num_workers=0)


ARGS = dict(n_rounds=2, n_epoch=4, select=dict(n_per_class=40), student=dict(bs=12, l2pl_ratio=1/2),
            dl=dict(temperature=.5),
            noise=dict(tfms=Jitter(), dropout=.2, stoch_depth=None), ema=.9, weak_teacher='warn')  # some learn little


def train(path=None, make_learner=make, unlabeled=UNLABELED, **kwargs):
    return self_train(make_learner, unlabeled, path=path, **{**ARGS, **kwargs})


def numbers(run): return run.records.drop(columns=SEEDLESS)


def same(a, b): pd.testing.assert_frame_equal(numbers(a), numbers(b), check_exact=True)


def rows(run, role): return run.records[run.records.role == role]


def predictions(learn, dl):
    model = learn.model.eval()
    with torch.no_grad(): return torch.cat([model(x) for x, _ in dl]), torch.cat([y for _, y in dl])


class Seen(Callback):
    "What happens in training, by role"
    order = 49
    log = []

    def before_fit(self):
        if self.learn.lock.locked(): return
        self.now = dict(cbs=[type(o).__name__ for o in self.cbs], n=0, xs=[], n_pl=set(),
                        first=next(self.learn.model.parameters()).detach().clone(),
                        n_epoch=self.n_epoch, drop=None)
        Seen.log.append(self.now)

    def before_batch(self):
        if not self.training: return
        self.now['n'] += 1
        self.now['xs'].append(self.xb[0].clone())
        self.now['n_pl'].add(int(getattr(self.yb[0], 'is_pl', torch.zeros(1)).sum()))
        self.now['drop'] = [m.p for m in self.model.modules() if isinstance(m, torch.nn.Dropout)]


def seen(**kwargs):
    Seen.log.clear()
    res = train(None, lambda r: make(r, cbs=[Seen()]) if kwargs.get('make_learner') is None
                else kwargs['make_learner'](r),
                **{k: v for k, v in kwargs.items() if k != 'make_learner'})
    return res, list(Seen.log)


class Random(nn.Module):
    "A model with all kinds of randomness"
    def __init__(self):
        super().__init__()
        self.up, self.bn, self.drop = nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(.5)
        self.depth = StochasticDepth(.5, 'row')
        self.rnn, self.out = nn.LSTM(8, 8, 2, dropout=.5, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(self.bn(self.up(x)).relu())
        x = x+self.depth(nn.functional.dropout(x, .5, self.training))
        return self.out(self.rnn(x[:, None])[0][:, 0])


class Twice(Callback):
    "Does the model say the same of a training batch, asked twice?"
    same = []
    def before_batch(self):
        if self.training: Twice.same.append(torch.equal(*(self.model(*self.xb) for _ in range(2))))
