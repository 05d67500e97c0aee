"The endless stream and the joined batch: against plain Python, and with loaders that can't be joined"
import copy

import pytest
import torch
from fastai.data.core import TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fasttransform.transform import ItemTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.joining import Endless, Joiner
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives Learners `pseudolabel`)
from noisy_student_fastai.student import NoisyStudent
from torch.utils.data import default_collate
from toys import hard_rows, net, pl_dl, points, pts_dls, pts_learner, soft_rows, torch_dls


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


def test_a_stream_is_copied_where_it_is():
    "A copy goes on from the same row; it gives the same rows as long as nothing is shuffled"
    s = Endless(pl_dl(soft_rows(10, 0), bs=4), 3)
    first = [next(s)[0] for _ in range(2)]
    new = copy.deepcopy(s)
    assert new.pos == s.pos == 6 and new.it is None and len(first[0]) == 3
    assert next(new)[0].shape == (3, 2)


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
    with pytest.raises(ValueError, match="batch transforms make .* can't follow"), learn.no_bar(): learn.fit(1)
    assert all(map(torch.equal, before, learn.model.parameters()))


def named(rows): return dict(zip('xy', default_collate(rows)))


def test_dicts_are_refused():
    dls = torch_dls(*[hard_rows(32, 0)]*2, batch_size=8, collate_fn=named)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), cbs=NoisyStudent(pl_dl()))
    with pytest.raises(TypeError, match='labeled loader gives batches of dict'), learn.no_bar(): learn.fit(1)
    with pytest.raises(TypeError, match='validation loader gives batches of dict'): learn.pseudolabel(points(9, 1)[0])
