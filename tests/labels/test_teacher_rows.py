"Each row gets its own prediction, whatever collates a batch: against the model on one row at a time"
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import toys
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader, SkipItemException
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fasttransform.transform import ItemTransform
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives Learners `pseudolabel`)
from torch import nn
from torch.nn import functional as F

N, N2, C = 12, 23, 40


class Ds(torch.utils.data.Dataset):
    "Row i holds its number, at random lengths"
    def __init__(self, n, seed, has_y=True, broken=()):
        self.lens, self.has_y, self.broken = np.random.default_rng(seed).integers(1, 9, n), has_y, broken
    def __len__(self): return len(self.lens)
    def __getitem__(self, i):
        if i in self.broken: raise SkipItemException
        x = torch.full((int(self.lens[i]),), float(i))
        return (x, torch.tensor(i % 3)) if self.has_y else (x,)


class Which(nn.Module):
    "Says which row it sees, and relies on the order that it was promised"
    def __init__(self, longest_first=False):
        super().__init__()
        self.w, self.longest_first = nn.Parameter(torch.ones(1)*9), longest_first
    def forward(self, x):
        n = (x >= 0).sum(1)
        if self.longest_first: assert (n.diff() <= 0).all(), "as pack_padded_sequence wants it"
        return F.one_hot(x[:, 0].long(), C).float()*self.w


def pad(rows):
    n = max(len(o[0]) for o in rows)
    return [(F.pad(o[0], (0, n-len(o[0])), value=-1), *o[1:]) for o in rows]


def longest_first(rows): return sorted(rows, key=lambda o: len(o[0]), reverse=True)
def backwards(rows): return rows[::-1]
def shuffled(rows): return [rows[i] for i in torch.randperm(len(rows))]
def stack(rows): return tuple(torch.stack(o) for o in zip(*pad(rows)))
def stack2(rows):
    xs, ys = zip(*pad(rows))
    return torch.stack(xs), torch.stack(ys)


def torch_dls(f, ds): return toys.torch_dls(*ds, batch_size=5, collate_fn=f)
def fastai_dls(f, ds): return DataLoaders(*[DataLoader(o, bs=5, create_batch=f) for o in ds])
def before_dls(f, ds): return DataLoaders(*[DataLoader(o, bs=5, before_batch=f) for o in ds])


def teacher(dls, *args):
    dls.n_inp = 1
    return Learner(dls, Which(*args), loss_func=CrossEntropyLossFlat())


@pytest.mark.parametrize('make', [torch_dls, fastai_dls, before_dls])
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(order=st.sampled_from([list, longest_first, backwards, shuffled]), apart=st.sampled_from([stack, stack2]),
       seed=st.integers(0, 999), bs=st.integers(1, 30))
def test_own_predictions(make, order, apart, seed, bs):
    def f(rows): return pad(order(rows)) if make is before_dls else apart(order(rows))
    dls, u = make(f, [Ds(N, seed), Ds(N, seed+1)]), Ds(N2, seed+2, has_y=False)
    learn = teacher(dls, order is longest_first)
    pl = learn.pseudolabel(u, bs=bs, leaks='keep')
    assert pl.label.tolist() == [*range(N2)]
    src = labeling.as_source(u, dls)
    rows = [[int(o[0]) for o in b[0]] for b in src.eval_dl(dls, bs)]
    assert sum(rows, []) == [*range(N2)], "what others read is in the order of the rows"


@pytest.mark.parametrize('n_views', [0, 2])
def test_views_of_sorted_rows(n_views):
    "Transforms of a batch come after its rows were sorted"
    class Noise(ItemTransform):
        split_idx = 0
        def encodes(self, b): return (b[0]+torch.rand(1)*.4, *b[1:])
    def f(rows): return pad(longest_first(rows))
    ds = [[tuple(o) for o in Ds(n, 1)] for n in (N, N)]
    dls = DataLoaders(*[TfmdDL(o, bs=5, num_workers=0, before_batch=f, after_batch=[Noise()]) for o in ds])
    u = [o[:1] for o in Ds(N2, 2)]
    pl = teacher(dls, True).pseudolabel(u, n_views=n_views, leaks='keep')
    assert pl.label.tolist() == [*range(N2)]


def without(rows): return stack([o for o in rows if o[0][0] != 7] or rows[:0])


def test_rows_that_are_left_out():
    "The row is named before any label of a later one is written, whatever leaves it out"
    ds = [Ds(N, 0), Ds(N, 1)]
    for dls in torch_dls(without, ds), fastai_dls(without, ds):
        with pytest.raises(ValueError, match='row 7 of unlabeled'):
            teacher(dls).pseudolabel(Ds(N2, 2, has_y=False), leaks='keep')
    with pytest.raises(ValueError, match='row 7 of unlabeled'):
        teacher(fastai_dls(stack, ds)).pseudolabel(Ds(N2, 2, has_y=False, broken=[7]), leaks='keep')
    class Few(ItemTransform):
        def encodes(self, b): return (b[0][:3],)
    dls = DataLoaders(*[TfmdDL([(o[0][:1], o[1]) for o in d], bs=5, num_workers=0, after_batch=[Few()]) for d in ds])
    with pytest.raises(ValueError, match='3 predictions for the 5 rows from row 0 on'):
        teacher(dls).pseudolabel([(o[0][:1],) for o in Ds(N2, 2)], leaks='keep')


def as_dict(rows): return dict(zip('xy', stack2(rows)))
class Apart(ItemTransform):
    "What a dict holds, as a tuple; it knows nothing else"
    def __call__(self, b, **kwargs): return b['x'], b['y']


@pytest.mark.parametrize('n_views', [0, 2])
@pytest.mark.parametrize('cls', [DataLoader, TfmdDL])
def test_dicts_that_a_batch_transform_takes_apart(cls, n_views):
    "As the training loader's batches are read; a model that gets targets, too, would fail"
    ds, kw = [[*map(tuple, Ds(N, i))] for i in (0, 1)], dict(num_workers=0) if cls is TfmdDL else {}
    dls = DataLoaders(*[cls(o, bs=5, create_batch=as_dict, after_batch=Apart(), **kw) for o in ds])
    learn = teacher(dls)
    with learn.no_bar(), pytest.warns(UserWarning, match='do not differ') if n_views else nullcontext():
        pl = learn.pseudolabel([o[:1] for o in Ds(N2, 2)], n_views=n_views, leaks='keep')
    assert pl.label.tolist() == [*range(N2)]


class OfDict(Which):
    def forward(self, d): return super().forward(d['x'])


def test_inputs_in_a_dict():
    "One input that holds several tensors"
    def f(rows):
        x, y = stack2(longest_first(rows))
        return dict(x=x, mask=x >= 0), y
    dls = torch_dls(f, [Ds(N, 0), Ds(N, 1)])
    dls.n_inp = 1
    learn = Learner(dls, OfDict(), loss_func=CrossEntropyLossFlat())
    assert learn.pseudolabel(Ds(N2, 2, has_y=False), leaks='keep').label.tolist() == [*range(N2)]
