"What the tests of the kinds of data share: a probe, and a plain Learner on batches that are joined beforehand"
import random
from copy import deepcopy

import torch
from fastai.callback import progress  # gives a Learner its `no_bar`
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import SGD
from fasttransform import ItemTransform
from fasttransform.transform import compose_tfms
from noisy_student_fastai.student import NoisyStudent
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset


class Probe(Callback):
    "What the model gets in each training batch, and the loss and the gradients that come of it"
    order = NoisyStudent.order+1

    def __init__(self): self.xbs, self.ybs, self.losses, self.grads, self.preds = [], [], [], [], []

    def before_batch(self):
        if not self.training: return
        self.xbs.append(tuple(deepcopy(self.xb)))
        self.ybs.append(deepcopy(self.yb[0]))

    def after_loss(self):
        if not self.training: return
        self.losses.append(self.loss_grad.detach().clone())
        self.preds.append(self.pred.detach().clone())

    def before_step(self): self.grads.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])


class Record(ItemTransform):
    "Keeps each batch as it is before the other batch transforms, and seeds these by the batch's number"
    order, split_idx = -100, 0

    def __init__(self): self.raw = []

    def encodes(self, b):
        torch.manual_seed(len(self.raw))
        random.seed(len(self.raw))
        self.raw.append(tuple(o.clone().as_subclass(Tensor) for o in b))
        return b


def fit(dls, model, lf, *cbs, n_epoch=2, lr=.1):
    "A Learner that has trained, and its probe"
    probe = Probe()
    learn = Learner(dls, model, loss_func=lf, cbs=[*cbs, probe], opt_func=SGD, lr=lr)
    with learn.no_bar(), learn.no_logging(): learn.fit(n_epoch)
    return learn, probe


def fit_plain(batches, model, lf, tfms=(), lr=.1, **kwargs):
    "The same without `NoisyStudent`, on a list of whole batches"
    def after_batch(b): return compose_tfms(b, tfms, split_idx=0)
    dl = [DataLoader(o, bs=None, after_batch=after_batch, retain=lambda res, b: res) for o in (batches, batches[:1])]
    return fit(DataLoaders(*dl), model, lf, n_epoch=1, lr=lr, **kwargs)


def same_weights(m1, m2, atol=1e-6, rtol=1e-4):
    "Are all parameters and buffers of two models equal?"
    s1, s2 = m1.state_dict(), m2.state_dict()
    return s1.keys() == s2.keys() and all(torch.allclose(s1[k], s2[k], atol=atol, rtol=rtol) for k in s1)


def probs(n, c, seed=0, temp=1.5):
    "`n` random soft labels over `c` classes"
    return (torch.randn(n, c, generator=torch.Generator().manual_seed(seed))*temp).softmax(1)


def tensors_dl(*ts, bs=8, **kwargs):
    "A torch DataLoader over the rows of tensors"
    return TorchDataLoader(TensorDataset(*ts), batch_size=bs, **kwargs)


def rows_of(raw, known):
    "Which of the `known` rows the rows of `raw` are; a row that is none of them is a KeyError"
    idx = {o.numpy().tobytes(): i for i, o in enumerate(known)}
    assert len(idx) == len(known)
    return [idx[o.contiguous().numpy().tobytes()] for o in raw]
