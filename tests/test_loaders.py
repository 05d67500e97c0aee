"Copies of loaders, the endless stream, and what callbacks add: against plain Python and transforms in the loader"
import copy
import pickle

import pytest
import torch
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fasttransform.transform import Pipeline, Transform
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.loaders import AddedTfm, Endless, Joiner, added_to, innermost, rebatch, with_added
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset
from toys import hard_rows, pl_dl, soft_rows

some = settings(max_examples=60, deadline=None, derandomize=True)


@some
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


@some
@given(n=st.integers(1, 50), bs=st.integers(1, 20), new=st.integers(1, 20), drop=st.booleans())
def test_rebatch(n, bs, new, drop):
    dl = DataLoader(list(torch.arange(n)), bs=bs, shuffle=True, drop_last=drop)
    got = [len(b) for b in rebatch(dl, new)]
    assert got == [new]*(n//new) + ([n % new] if n % new and not drop else [])
    assert (dl.bs, dl.drop_last, dl.shuffle) == (bs, drop, True)


class Times(Transform):
    "Multiplies inputs; in training only, and in its place"
    split_idx = 0
    def __init__(self, k, order): self.k, self.order = k, order
    def encodes(self, x: Tensor): return x*self.k if x.is_floating_point() else x


class Plus(Times):
    def encodes(self, x: Tensor): return x+self.k if x.is_floating_point() else x


X = torch.arange(12.)[:, None]


def loader(kind, *tfms):
    items = list(zip(X, torch.arange(12)))
    if kind == 'torch': return TorchDataLoader(TensorDataset(X, torch.arange(12)), batch_size=4)
    if kind == 'function': return DataLoader(items, bs=4, after_batch=lambda b: (b[0]*2, b[1]))
    return TfmdDL(items, bs=4, num_workers=0, after_batch=list(tfms))


def inputs(dl): return torch.cat([b[0] for b in dl])


@pytest.mark.parametrize('kind,want', [('torch', (X+1)*3), ('function', (X*2+1)*3), ('fastai', ((X+1)*3)*.5)])
def test_added_transforms_come_in_their_order(kind, want):
    "After what the loader does by itself, each at its place, and whatever the data set is for"
    own = Times(.5, 90)
    own.split_idx = None  # those that are added run although the data set does not say that it is for training
    dl = loader(kind, own)
    noisy = with_added(dl, [Times(3, 20), Plus(1, 10)])
    before = inputs(dl)
    torch.testing.assert_close(inputs(noisy), want)
    torch.testing.assert_close(inputs(dl), before)
    assert [o.tfm.k for o in added_to(noisy)] == [1, 3] and added_to(dl) == []
    more = added_to(with_added(noisy, [Plus(5, 0)]))
    assert all(isinstance(o, AddedTfm) for o in more) and len(more) == 3


def test_an_added_transform_is_pickled():
    noisy = with_added(loader('fastai'), [Plus(1, 10)])
    back = pickle.loads(pickle.dumps(noisy.after_batch))
    assert isinstance(back, Pipeline) and [o.tfm.k for o in back.fs if isinstance(o, AddedTfm)] == [1]


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


def test_a_stream_is_copied_where_it_is():
    "A copy goes on from the same row; it gives the same rows as long as nothing is shuffled"
    s = Endless(pl_dl(soft_rows(10, 0), bs=4), 3)
    first = [next(s)[0] for _ in range(2)]
    new = copy.deepcopy(s)
    assert new.pos == s.pos == 6 and new.it is None and len(first[0]) == 3
    assert next(new)[0].shape == (3, 2)


def test_innermost():
    class Wrapper:
        def __init__(self, dl): self.dl = dl
    dl = loader('fastai')
    assert innermost(Wrapper(Wrapper(dl))) is dl
