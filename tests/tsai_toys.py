"""Series, loaders and Learners of tsai for tests

Importing tsai changes fastai's Learner for the whole process, so tests import this when they run, not at their top.
"""
import numpy as np
import torch
import tsai.inference  # noqa: F401  (gives a Learner its `get_X_preds`)
from data_helpers import Probe, rows_of
from fastai.torch_core import set_seed
from fasttransform import Transform
from noisy_student_fastai.student import NoisyStudent
from tsai.data.core import TSClassification, TSDataLoader, TSDatasets, TSTensor
from tsai.models.FCNPlus import FCNPlus
from tsai.tslearner import TSClassifier

N, N2, N_VALID = 48, 70, 25
SMALL = dict(arch=FCNPlus, arch_config=dict(layers=[8, 8, 8], kss=[5, 5, 3]))  # of a Learner
CLASSES = np.array(['down', 'flat', 'left', 'up'])


def series(n, seed=0, n_vars=3, n_steps=20):
    "`n` series, no two alike, and their classes as strings; every class is there"
    rng = np.random.default_rng(seed)
    y = np.r_[:len(CLASSES), rng.integers(0, len(CLASSES), n-len(CLASSES))]
    x = rng.normal(size=(n, n_vars, n_steps)) + y[:, None, None]
    return x.astype(np.float32), CLASSES[y]


X, Y = series(N+N_VALID)
X2, Y2 = series(N2, seed=1)
SPLITS = list(range(N)), list(range(N, N+N_VALID))
P2 = np.random.default_rng(2).dirichlet(np.ones(len(CLASSES)), N2)


def found(x, known=X):
    "Which rows of the array `known` the series `x` are"
    return rows_of(torch.as_tensor(x).as_subclass(torch.Tensor), torch.tensor(known))


def index(y): return torch.tensor(np.searchsorted(CLASSES, y))
def one_hot(y): return torch.eye(len(CLASSES))[index(y)]


def memmap(x, path):
    "The array `x` in a file, read-only"
    np.save(path, x)
    return np.load(path, mmap_mode='r')


def category(): return TSClassification(vocab=CLASSES)


def soft_dl(x=X2, p=P2, **kwargs): return TSDataLoader(TSDatasets(x, p), **kwargs)
def hard_dl(x=X2, y=Y2, tfm=None, **kwargs):
    return TSDataLoader(TSDatasets(x, y, tfms=[None, tfm or category()]), **kwargs)


def classifier(*cbs, x=X, y=Y, splits=SPLITS, bs=16, seed=0, **kwargs):
    set_seed(seed)
    kwargs = {'tfms': [None, TSClassification()], **SMALL, **kwargs}
    return TSClassifier(x, y, splits=splits, bs=bs, cbs=list(cbs), **kwargs)


def fit(learn, n=1, seed=1, lr=.01):
    if seed is not None: set_seed(seed)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr=lr)
    return learn


def student(dl2, *cbs, n=2, bs=16, **kwargs):
    "A student that has trained on `dl2`, and its probe; `kwargs` for the callback"
    probe = Probe()
    return fit(classifier(NoisyStudent(dl2, **kwargs), probe, *cbs, bs=bs), n), probe


class Logged(Transform):
    "Multiplies series by `by`, and keeps who was called with what"
    def __init__(self, log, order, by=1.):
        super().__init__()
        self.log, self.order, self.by = log, order, by

    def encodes(self, o: TSTensor):
        self.log.append((self.order, o.clone()))
        return o*self.by
