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
from noisy_student_fastai.joining import Endless, Joiner, Together
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives Learners `pseudolabel`)
from noisy_student_fastai.row_order import pads
from noisy_student_fastai.student import NoisyStudent
from torch.nn import functional as F
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
    said = 'put the rows .* into another order' if tfm is Backwards else r'make \d+ rows of \d+'
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
    with pytest.raises(ValueError, match='into another order'): join(b)


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
