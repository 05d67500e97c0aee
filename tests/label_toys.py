"A teacher, unlabeled rows, and what it says of them without fastai"
from copy import deepcopy

import numpy as np
import torch
from toys import points, pts_learner

N = 150


def unlabeled(n=N, seed=5): return points(n, seed)[0].numpy()


def trained():
    learn = pts_learner()
    with learn.no_bar(), learn.no_logging(): learn.fit(6)
    return learn


def outputs(learn, x):
    "What the model says, without fastai"
    m = deepcopy(learn.model).eval()
    with torch.no_grad(): return m(torch.as_tensor(x))


def same(pl, want, atol=6e-4):
    assert np.allclose(pl.probs, want, atol=atol)
    assert np.array_equal(pl.label, want.argmax(1)) and np.allclose(pl.conf, want.amax(1), atol=1e-6)


def of_rows(x, x1):
    "Which rows of `x` those of `x1` are"
    return [int(np.flatnonzero((x == o.numpy()).all(1))[0]) for o in x1]
