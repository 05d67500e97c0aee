"Neighbors and flows against plain computations: all pairs, dense matrices, scikit-learn"

import numpy as np
import pytest
import torch
from noisy_student_fastai.labels import graph
from noisy_student_fastai.labels.graph import (
    class_probs,
    directions,
    edges,
    flow,
    neighbors,
    reached,
    same_confidence,
    weighted_mean,
)
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading

SEEDS = range(4)


def blobs(n, seed, c=3, d=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(c, size=n)
    return (2*rng.normal(size=(c, d))[y]+rng.normal(size=(n, d))).astype(np.float32), y


def plain_edges(x, k, gamma):
    "Row by row"
    z = x-x.mean(0)
    z = z/np.linalg.norm(z, axis=1, keepdims=True)
    w = np.zeros((len(x), len(x)))
    for a in range(len(x)):
        s = z@z[a]
        s[a] = -9
        for b in np.argsort(-s)[:k]: w[a, b] = max(s[b], 0)**gamma*(s[b] > 0)
    return w+w.T


def plain_flow(w, y, alpha):
    d = w.sum(0)
    s = w/np.sqrt(np.outer(d, d)+(d == 0)[:, None]+(d == 0)[None])
    return np.linalg.solve(np.eye(len(w))-alpha*s, (1-alpha)*y)


@pytest.mark.parametrize('seed', SEEDS)
def test_neighbors_are_those_of_scikit_learn(seed, monkeypatch):
    x, _ = blobs(200, seed)
    for n_numbers in (2**24, 200*30):  # in one block, and in several
        monkeypatch.setattr(graph, '_blocks', lambda z, n=n_numbers: BLOCKS(z, n))
        i, v = neighbors(x, 7)
        d, j = NearestNeighbors(metric='cosine').fit(x-x.mean(0)).kneighbors(n_neighbors=7)
        z = x-x.mean(0)
        z = z/np.linalg.norm(z, axis=1, keepdims=True)
        exact = np.einsum('nd,nkd->nk', z, z[i])  # of two that are as near to a digit in float32, either may be first
        assert np.allclose(v, 1-d, atol=1e-5) and np.allclose(exact, 1-d, atol=1e-5)
        assert (i == j).mean() > .99 and (i != np.arange(200)[:, None]).all()


BLOCKS = graph._blocks


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('k,gamma,alpha', [(3, 3, .99), (8, 1, .9), (60, 0, .5), (500, 3, .99)])
def test_flow_is_the_solution(seed, k, gamma, alpha):
    x, y = blobs(60, seed)
    w, full = edges(*neighbors(x, k), gamma), np.zeros((60, 3))
    full[range(9), y[:9]] = np.random.default_rng(seed).random(9)
    want = plain_edges(x, min(k, 59), gamma)
    assert np.allclose(w.toarray(), want, atol=1e-5)
    w = w.toarray()
    assert np.allclose(flow(edges(*neighbors(x, k), gamma), full, alpha), plain_flow(w, full, alpha), rtol=1e-6,
                       atol=1e-12)


@pytest.mark.parametrize('seed', SEEDS)
def test_class_probs_are_those_of_label_spreading(seed):
    "On the same graph, without shares"
    x, y = blobs(80, seed)
    w = edges(*neighbors(x, 5))
    known = np.where(np.arange(80) < 12, y, -1)
    full = np.zeros((80, 3))
    full[range(12), y[:12]] = 1
    model = LabelSpreading(kernel=lambda a, b: w.toarray(), alpha=.9, max_iter=3000, tol=1e-12).fit(x, known)
    p, ok = class_probs(flow(w, full, .9))
    assert ok.all() and np.allclose(p, model.label_distributions_, atol=1e-6)


@pytest.mark.parametrize('seed', SEEDS)
def test_weighted_mean(seed):
    "By the inverse matrix; of constants it is the constant"
    x, _ = blobs(50, seed)
    y = np.random.default_rng(seed).normal(size=(8, 2))
    w = edges(*neighbors(x, 6))
    a = np.linalg.inv(np.eye(50)-.99*(w.toarray()/np.sqrt(np.outer(w.sum(0), w.sum(0)))))[8:, :8]
    got, ok = weighted_mean(w, y)
    assert np.allclose(got, (a@y)/a.sum(1, keepdims=True), atol=1e-6) and ok.all()
    assert np.allclose(weighted_mean(w, np.full((8, 1), -3.5))[0], -3.5)


@pytest.mark.parametrize('seed', SEEDS)
def test_mass_follows_the_shares(seed):
    f, q = np.random.default_rng(seed).random((30, 3)), np.array([.2, .5, .3])
    p, ok = class_probs(f, q)
    want = f*q/f.sum(0)
    assert ok.all() and np.allclose(p, want/want.sum(1, keepdims=True))
    f[3] = 0
    p, ok = class_probs(f, q)
    assert not p[3].any() and ok.sum() == 29


def test_islands():
    "Rows that no label reaches, rows without a direction, and rows that are all alike"
    a = np.random.default_rng(0).normal(size=(6, 2))*.01
    x = np.concatenate([a+[1, 0], a+[-1, 0]])
    w = edges(*neighbors(x, 3))
    is_labeled = np.arange(12) == 0
    assert reached(w, is_labeled).tolist() == [True]*6+[False]*6
    y = np.zeros((12, 2))
    y[0, 1] = 1
    p, ok = class_probs(flow(w, y))
    assert np.array_equal(ok, reached(w, is_labeled)) and np.allclose(p[ok], [0, 1])
    assert edges(*neighbors(np.full((5, 3), .1), 2)).nnz == 0
    i, v = neighbors(np.repeat([[1., 0], [0, 1]], 9, 0), 4)  # more copies than neighbors: none is its own
    assert (i != np.arange(18)[:, None]).all() and np.allclose(v, 1) and (i//9 == np.arange(18)[:, None]//9).all()
    assert not directions(np.full((4, 2), 7e4, np.float32)).any()


def test_numbers_of_any_size():
    x, _ = blobs(40, 5)
    for scale in (1e-20, 1e20): assert np.array_equal(neighbors(x*np.float32(scale), 5)[0], neighbors(x, 5)[0])


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('kind', ['single', 'multi'])
def test_same_confidence(seed, kind):
    p = torch.from_numpy(np.random.default_rng(seed).dirichlet([1]*4, 50))
    def conf(p): return p.amax(1).mean() if kind == 'single' else ((p-.5).abs().amin(1)+.5).mean()
    for want in (.6, .9, .99):
        got = same_confidence(p, want, kind)
        assert abs(conf(got)-want) < 1e-4
        assert torch.equal(got.argmax(1), p.argmax(1)) and torch.equal(got >= .5, p >= .5) or kind == 'single'


@pytest.mark.parametrize('seed', SEEDS)
def test_rows_of_one_class_do_not_count(seed):
    rng = np.random.default_rng(seed)
    p, conf = torch.from_numpy(rng.dirichlet([1]*4, 50)), torch.from_numpy(rng.uniform(.4, 1, 70))
    mixed = torch.cat([p, torch.eye(4).double().repeat(5, 1)])
    order = torch.from_numpy(rng.permutation(70))
    got = torch.empty(70, 4, dtype=torch.double)
    got[order] = same_confidence(mixed[order], conf[order])  # in any order
    assert abs(got[:50].amax(1).mean()-conf[:50].mean()) < 1e-4 and torch.equal(got[50:], mixed[50:])
    assert torch.equal(same_confidence(mixed[50:], .5), mixed[50:])


def test_many_rows_without_an_index(monkeypatch):
    "The cost is said"
    monkeypatch.setattr(graph, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'all pairs of 120 rows .*n_exact=120.*faiss-cpu') as e:
        neighbors(blobs(120, 3)[0], 4, n_exact=100)
    assert e.value.argument == 'n_exact'


def of_classes(n, c, seed, order):
    "Rows of `c` classes, sorted by class or not"
    rng = np.random.default_rng(seed)
    y = order(rng.integers(c, size=n))
    return rng.normal(size=(c, 16))[y]+rng.normal(size=(n, 16))/2


@pytest.mark.parametrize('order', [np.sort, np.asarray])
@pytest.mark.parametrize('seed', range(2))
def test_an_index_finds_nearly_all(seed, order, monkeypatch):
    "... where rows are sorted by class, too, and with the cosines of these very rows; always the same ones"
    x = of_classes(4000, 40, seed, order)
    monkeypatch.setattr(graph, '_exactly', None)  # it is not asked
    i, v = neighbors(x, 8, n_exact=1000)
    again = neighbors(x, 8, n_exact=1000)
    monkeypatch.undo()
    want = neighbors(x, 8)[0]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(want, i)]) > .97
    assert (i != np.arange(len(x))[:, None]).all() and (np.diff(v) <= 0).all()
    z = directions(x).numpy()
    assert np.allclose(v, (z[:, None]*z[i]).sum(-1), atol=1e-5)
    assert np.array_equal(i, again[0]) and np.array_equal(v, again[1])


@pytest.mark.parametrize('n', [2, 9, 50])
def test_an_index_of_few_rows(n):
    "Where there is one cell, it finds all"
    x = of_classes(n, 3, 0, np.sort)
    for a, b in zip(neighbors(x, 4), neighbors(x, 4, n_exact=1)): assert np.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize('name,args', [('k', dict(k=0)), ('n_exact', dict(n_exact=-1))])
def test_mistakes(name, args):
    with pytest.raises(ValueError, match=name) as e: neighbors(blobs(9, 0)[0], **dict(k=3) | args)
    assert e.value.argument == name
    with pytest.raises(ValueError, match='row 2 of an embedding'): \
        neighbors(np.r_[np.eye(2), [[np.inf, 1]]], 1)
    w = edges(*neighbors(blobs(9, 0)[0], 3))
    for kw in (dict(alpha=1.), dict(alpha=-.1)):
        with pytest.raises(ValueError, match='alpha'): flow(w, np.eye(9), **kw)
    with pytest.raises(ValueError, match='gamma'): edges(*neighbors(blobs(9, 0)[0], 3), gamma=-1)
