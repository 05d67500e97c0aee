"The endless stream and the joined batch: against plain Python, and with loaders that can't be joined"
import copy
import pickle
import random
import tracemalloc

import numpy as np
import pytest
import torch
from fastai.callback.data import WeightedDL
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fasttransform.transform import ItemTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.joining import (
    Endless,
    Joiner,
    Together,
    check_classes,
    check_probs,
    check_weights,
    join_inputs,
    permuted,
)
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives Learners `pseudolabel`)
from noisy_student_fastai.row_order import pads
from noisy_student_fastai.student import NoisyStudent
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data import DataLoader as TorchDataLoader
from toys import hard_rows, net, pl_dl, points, pts_dls, pts_learner, torch_dls


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 40), bs=st.integers(1, 50), own=st.integers(1, 9),
       stops=st.lists(st.integers(1, 60), max_size=4))
def test_stream(n, bs, own, stops):
    "However batches, passes and fits fall, each row comes once before any comes twice"
    s = Endless(DataLoader(list(torch.arange(n)), bs=own), bs)
    seen = []
    for i in range(1+(3*n)//bs + max(stops, default=0)):
        if i in stops: s.stop()
        b = next(s).tolist()
        assert len(b) == bs
        seen += b
    for i in range(0, len(seen)-n+1, n): assert sorted(seen[i:i+n]) == list(range(n))


@pytest.mark.parametrize('weight,own', [(1., False), (.3, False), (.3, True)])
def test_joined_by_hand(weight, own):
    "Rows, labels and weights of a batch, and the transforms once on all of it"
    torch.manual_seed(0)
    x, y, x2 = torch.randn(3, 2), torch.tensor([0, 2, 1]), torch.randn(5, 2)
    p, w = torch.randn(5, 3).softmax(1), torch.rand(5)
    dl = TfmdDL(hard_rows(8, 0), bs=3, num_workers=0)
    seen = []
    def tfms(b):
        seen.append(len(b[0]))
        return b[0]*2, *b[1:]
    b2 = (x2, p, w) if own else (x2, p)
    xb, yb = Joiner(dl, iter([b2]), tfms=tfms, weight=weight, is_class=True, c=3)((x, y))
    torch.testing.assert_close(xb, torch.cat([x, x2])*2)
    torch.testing.assert_close(yb.plain(), torch.cat([torch.eye(3)[y], p]))
    assert seen == [8] and yb.soft and yb.is_pl.tolist() == [False]*3+[True]*5
    want = torch.cat([torch.ones(3), weight*(w if own else torch.ones(5))])
    if weight == 1: assert yb.w is None
    else: torch.testing.assert_close(yb.w, want)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_stream_is_copied_where_it_is(copied):
    "A copy goes on with the same rows"
    s = Endless(DataLoader(torch.arange(10), bs=4), 3)
    for _ in range(2): next(s)
    new = copied(s)
    assert new.pos == s.pos == 6 and new.it is None
    assert [next(new).tolist() for _ in range(9)] == [next(s).tolist() for _ in range(9)]


# --- the order of the rows

@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.one_of(st.integers(1, 300), st.integers(2**16-2, 2**16+300)), seed=st.integers(0, 2**63-1),
       p=st.integers(0, 9))
def test_an_order_has_each_row_once(n, seed, p):
    "Small or large, and a part of it is what the whole has there"
    whole = permuted(np.arange(n), n, (seed, p))
    assert np.array_equal(np.sort(whole), np.arange(n))
    at = np.random.default_rng(seed).integers(n, size=20)
    assert np.array_equal(permuted(at, n, (seed, p)), whole[at])


@pytest.mark.parametrize('n', [50, 70_000])
def test_orders_are_random(n):
    "The first row, the step to the second, and how many rows stay in place; bounds of one in a million"
    first, second = np.array([permuted(np.arange(2), n, (s, 0)) for s in range(2000)]).T
    for o in (first, (second-first) % n):
        counts = np.histogram(o, 10, (0, n))[0]
        assert ((counts-200)**2/200).sum() < 47  # chi-squared, 9 degrees of freedom
    if n > 50: assert len({*first.tolist()}) > 1900
    still = np.mean([(permuted(np.arange(n), n, (s, 1)) == np.arange(n)).sum() for s in range(30)])
    assert abs(still-1) < 5/30**.5
    a, b = (permuted(np.arange(n), n, (0, s)) for s in range(2))
    assert max(abs(np.corrcoef(*o)[0, 1]) for o in ((a, b), (a, np.arange(n)), (a[1:], a[:-1]))) < 5/n**.5


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 60), n_ranks=st.integers(1, 5), bs=st.integers(1, 20), seed=st.integers(0, 99))
def test_processes_share_a_pass(n, n_ranks, bs, seed):
    "In each step what one process would draw in a batch of that size, and no rank has rows of its own"
    data = torch.arange(n)
    ranks = [Endless(DataLoader(data, bs=4), bs, r, n_ranks, seed=seed) for r in range(n_ranks)]
    one = Endless(DataLoader(data, bs=4), bs*n_ranks, seed=seed)
    steps = 2+3*n//(bs*n_ranks)
    got, seen = [], []
    for i in range(steps):
        got.append(torch.stack([next(o) for o in ranks], 1).ravel())
        seen.append(next(one))
        if i % 3 == 1:
            for o in (*ranks, one): o.stop()
    assert torch.equal(torch.cat(got), torch.cat(seen))
    for i in range(0, steps*bs*n_ranks-n+1, n): assert sorted(torch.cat(got)[i:i+n].tolist()) == [*range(n)]


def test_shares_mix_over_passes():
    s = Endless(DataLoader(torch.arange(40), bs=4), 20, 1, 2, seed=0)
    shares = [frozenset(next(s).tolist()) for _ in range(20)]
    assert len({*shares}) > 15 and frozenset.union(*shares) == {*range(40)}


class Numbers(torch.utils.data.Dataset):
    "So many rows, and none of them is anywhere"
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.tensor(i)


@pytest.mark.parametrize('make', [DataLoader, TorchDataLoader])
@pytest.mark.parametrize('rank,n_ranks', [(0, 1), (7, 8)])
def test_the_first_batch_of_many_rows(make, rank, n_ranks):
    "No list of ten million rows"
    kw = dict(bs=64) if make is DataLoader else dict(batch_size=64, shuffle=True)
    dl = make(Numbers(10_000_000), **kw)
    tracemalloc.start()
    b = next(Endless(dl, 64, rank, n_ranks, seed=0))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({*b.tolist()}) == 64 and most < 10e6


def test_seeds_decide():
    "The random numbers with which the loader was made, or those of a fit"
    def order(seed):
        random.seed(seed)
        s = Endless(DataLoader(torch.arange(30), bs=4), 10)
        return torch.cat([next(s) for _ in range(9)]).tolist()
    assert order(1) == order(1) != order(2)


class Heard(DistributedSampler):
    epochs = ()
    def set_epoch(self, epoch):
        self.epochs = *self.epochs, epoch
        super().set_epoch(epoch)


@pytest.mark.parametrize('in_batches', [False, True])
def test_a_distributed_sampler_hears_of_each_pass(in_batches):
    "Its shares are kept as they are, whatever the processes are; without its epoch each pass would be like the first"
    def loader(rank):
        o = Heard(range(20), num_replicas=2, rank=rank, seed=3)
        if in_batches: return o, TorchDataLoader(torch.arange(20), batch_sampler=BatchSampler(o, 4, False))
        return o, TorchDataLoader(torch.arange(20), batch_size=4, sampler=o)
    for rank in range(2):
        sampler, dl = loader(rank)
        s = Endless(dl, 5, rank, 2)
        got = torch.cat([next(s) for _ in range(6)]).tolist()
        assert sampler.epochs == (0, 1, 2)
        for p in range(3):
            plain = DistributedSampler(range(20), num_replicas=2, rank=rank, seed=3)
            plain.set_epoch(p)
            assert got[10*p:10*p+10] == list(plain)


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self): return iter(range(6))


@pytest.mark.parametrize('attr', ['num_replicas', 'world_size'])
def test_an_iterable_in_several_processes(attr):
    def stream(**own):
        ds = Streamed()
        for k, v in own.items(): setattr(ds, k, v)
        return Endless(TorchDataLoader(ds, batch_size=2), 3, 0, 2)
    with pytest.raises(ValueError, match=r'Streamed\) is iterable.*does not say.*num_replicas = 2'): stream()
    with pytest.raises(ValueError, match='shares its rows among 3'): stream(**{attr: 3})
    assert next(stream(**{attr: 2})).tolist() == [0, 1, 2]
    assert next(Endless(TorchDataLoader(Streamed(), batch_size=2), 3)).tolist() == [0, 1, 2]


class Own(DataLoader):
    def get_idxs(self): return [5, 4, 3, 2, 1, 0]


class Backward(DataLoader):
    def shuffle_fn(self, idxs): return idxs[::-1]


def test_an_order_of_their_own():
    "A subclass, a function, one that sorts: asked as ever, and shared by the rows' numbers"
    data = torch.arange(6)
    for dl in (Own(data, bs=2), Backward(data, bs=2), DataLoader(data, bs=2, get_idxs=lambda: [5, 4, 3, 2, 1, 0])):
        assert next(Endless(dl, 9)).tolist() == [5, 4, 3, 2, 1, 0, 5, 4, 3]
        assert [next(Endless(dl, 4, r, 2)).tolist() for r in range(2)] == [[4, 2, 0, 4], [5, 3, 1, 5]]


class Backwards(ItemTransform):
    def encodes(self, b): return tuple(o.flip(0) for o in b)


class Fewer(ItemTransform):
    def encodes(self, b): return tuple(o[::2] for o in b)


@pytest.mark.parametrize('tfm', [Backwards, Fewer])
@pytest.mark.parametrize('own', [False, True])
def test_batch_transforms_that_move_rows(tfm, own):
    "Before the first step"
    kw = dict(batch_tfms=[tfm()], do_setup=False) if own else {}
    learn = pts_learner(NoisyStudent(pl_dl(), **kw), dls=None if own else pts_dls(after_batch=[tfm()]))
    before = [o.clone() for o in learn.model.parameters()]
    said = "change the order of a batch's rows" if tfm is Backwards else r'make \d+ rows of \d+'
    with pytest.raises(ValueError, match=f"batch transforms {said}.* can't follow"), learn.no_bar(): learn.fit(1)
    assert all(map(torch.equal, before, learn.model.parameters()))


def test_batch_transforms_that_move_rows_now_and_then():
    "Not in the first batch of an epoch"
    n = [0]
    def tfms(b):
        n[0] += 1
        return tuple(o.flip(0) if n[0] == 4 else o.clone() for o in b)
    dl, b2 = TfmdDL(hard_rows(8, 0), bs=3, num_workers=0), (torch.randn(3, 2), torch.tensor([2, 2, 0]))
    join = Joiner(dl, iter([b2]*4), tfms=tfms)
    b = torch.randn(3, 2), torch.tensor([0, 1, 2])
    for _ in range(3): join(b)
    with pytest.raises(ValueError, match="change the order of a batch's rows"): join(b)


def thirds(rows):
    n = 3 if rows[0][1] % 2 else 4
    return torch.stack([o[0][:n] for o in rows]), torch.tensor([o[1] for o in rows])


def test_a_function_that_cuts_batches_to_any_shape():
    dl = DataLoader([(torch.zeros(5), 0)]*4, bs=2, create_batch=thirds)
    stream = Endless(DataLoader([(torch.zeros(5), 1)]*4, bs=2, create_batch=thirds), 2)
    with pytest.raises(ValueError, match=r'collates them \(thirds\)'): Joiner(dl, stream)(thirds(dl.dataset))


def test_dicts_of_any_length():
    "Rows that are dicts have no place for what goes with them, so they can't be padded with others"
    def padded(rows): return F.pad(rows[0]['x'], (0, 9))[None], torch.tensor([0])
    dl = DataLoader([dict(x=torch.zeros(3+i//40), y=i) for i in range(90)], bs=1, create_batch=padded)
    assert pads(dl) and not pads(DataLoader([dict(x=torch.zeros(3), y=i) for i in range(90)], create_batch=padded))
    with pytest.raises(TypeError, match='rows are of type dict'): Together(dl)(dl.dataset[:2], dl.dataset[2:3])


def named(rows): return dict(zip('xy', default_collate(rows)))


def test_dicts_are_refused():
    dls = torch_dls(*[hard_rows(32, 0)]*2, batch_size=8, collate_fn=named)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), cbs=NoisyStudent(pl_dl()))
    with pytest.raises(TypeError, match='labeled loader gives batches of dict'), learn.no_bar(): learn.fit(1)
    with pytest.raises(TypeError, match='validation loader gives batches of dict'): learn.pseudolabel(points(9, 1)[0])


def numbers(n): return list(torch.arange(n))


def drawn(s, n): return torch.cat([next(s) for _ in range(n)]).tolist()


@pytest.mark.parametrize('seed', range(5))
def test_a_stream_knows_its_rows(seed):
    "... whose data are their own numbers here, also where fits end and batches become larger"
    set_seed(seed)
    n, bs = random.randint(1, 30), random.randint(1, 40)
    s, seen = Endless(DataLoader(numbers(n), bs=8), bs=bs), []
    for i in range(50):
        b = next(s).tolist()
        assert len(b) == bs and s.rows().tolist() == b
        seen += b
        if i % 7 == 3: s.stop()
        if i == 20: s.resize(bs := bs+1)
    for i in range(0, len(seen)//n*n, n): assert sorted(seen[i:i+n]) == list(range(n))


def test_what_decides_on_the_rows():
    "Samplers, weights and shards do, with workers or without"
    set_seed(0)
    s = Endless(DataLoader(numbers(20), bs=4, num_workers=2), bs=3)
    seen = drawn(s, 40)
    s.stop()
    for i in range(0, 120, 20): assert sorted(seen[i:i+20]) == list(range(20))
    s = Endless(TorchDataLoader(torch.arange(9), batch_size=4), bs=3)
    a, b = drawn(s, 3), drawn(s, 3)
    assert sorted(a) == sorted(b) and a != b
    s = Endless(TorchDataLoader(torch.arange(9), sampler=SubsetRandomSampler(torch.arange(4, 9))), bs=5)
    assert sorted(next(s).tolist()) == [4, 5, 6, 7, 8]
    s = Endless(TorchDataLoader(torch.arange(9), sampler=WeightedRandomSampler([0]*8+[1.], 9)), bs=3)
    assert next(s).tolist() == [8, 8, 8]
    shards = [DistributedSampler(torch.arange(8), num_replicas=2, rank=r) for r in (0, 1)]
    shards = [Endless(TorchDataLoader(torch.arange(8), sampler=o), bs=4, rank=o.rank, n_ranks=2) for o in shards]
    assert sorted(torch.cat([next(o) for o in shards]).tolist()) == list(range(8))
    s = Endless(WeightedDL(numbers(8), bs=4, shuffle=False, num_workers=0), bs=8)
    assert sorted(next(s).tolist()) == list(range(8))
    ws = WeightedDL(numbers(60), bs=4, wgts=np.arange(60) % 3, shuffle=True, num_workers=0)
    for r in range(2): assert {*drawn(Endless(ws, 3, r, 2), 199)} == {i for i in range(r, 60, 2) if i % 3}


class FiveRows(torch.utils.data.IterableDataset):
    def __iter__(self): return iter(range(5))


def test_an_iterable_has_no_order():
    s = Endless(TorchDataLoader(FiveRows(), batch_size=2), bs=3)
    assert [next(s).tolist() for _ in range(3)] == [[0, 1, 2], [3, 4], [0, 1, 2]] and s.rows() is None


X, Y = torch.rand(3, 3), torch.tensor([0, 0, 1])
BAD = [
    (dict(b2=(X,)), 'hold 1 element, all inputs: it has no targets'), (dict(b2=(X, Y, Y, Y)), 'hold 4 elements'),
    (dict(b2=(X, Y), b=(X,), n_inp=1), 'hold 1 input and no targets'),
    (dict(b2=(X, Y+2), c=2, is_class=True), 'class index 2'),
    (dict(b2=(X, torch.rand(3, 5).softmax(1)), c=2, is_class=True), '5 classes and the Learner 2'),
    (dict(b2=(X, torch.randn(3, 2)), c=2, is_class=True), 'softmax'), (dict(b2=(X[:, :2], Y)), 'one shape'),
]


@pytest.mark.parametrize('kw,said', BAD)
def test_batches_that_do_not_fit(kw, said):
    kw = dict(b=(X, Y)) | kw
    dl, b, b2 = TfmdDL(hard_rows(8, 0), bs=3, num_workers=0), kw.pop('b'), kw.pop('b2')
    with pytest.raises(ValueError, match=said): Joiner(dl, iter([b2]), **kw)(b)


WRONG = [
    (lambda: join_inputs(torch.zeros(2, 3), torch.zeros(2, 4)), 'one shape'),
    (lambda: join_inputs(torch.zeros(2, 3), torch.zeros(2, 3).byte()), 'same kind of data'),
    (lambda: join_inputs(torch.zeros(2, 3).long(), torch.zeros(2, 3)), 'same kind of data'),
    (lambda: check_probs(torch.randn(9, 7)), 'probabilities that sum to 1'),
    (lambda: check_probs(torch.tensor([[.5, float('nan')]])), 'hold nan'),
    (lambda: check_classes(torch.tensor([0, 3]), 3), 'class index 3, but there are 3 classes: expected 0 to 2$'),
    (lambda: check_classes(torch.tensor([0, -1]), 3),
     r'class index -1, .*: expected 0 to 2\. -1 is what fastai makes of a label in a table'),
    (lambda: check_weights(torch.tensor([1., -1.]), 2), '0 or more'),
    (lambda: check_weights(torch.rand(2, 3), 2), 'one weight for each'),
]


@pytest.mark.parametrize('f,said', WRONG)
def test_inputs_and_labels_that_do_not_fit(f, said):
    with pytest.raises(ValueError, match=said): f()


def test_weights_of_their_own():
    dl = TfmdDL(hard_rows(8, 0), bs=3, num_workers=0)
    def weights(w, **kw): return Joiner(dl, iter([(X, Y, w)]), **kw)((X[:2], Y[:2]))[1].w.tolist()
    assert weights(torch.tensor([.5, 1, 2]), weight=2.) == [1, 1, 1, 2, 4]
    assert weights(torch.tensor([1, 2, 3]).half()) == [1, 1, 1, 2, 3]
