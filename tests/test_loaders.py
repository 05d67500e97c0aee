"Copies of loaders, what others see of them, and what callbacks add: against plain Python and the loader itself"
import pickle
import random

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.data import WeightedDL
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fasttransform.transform import Pipeline, Transform
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.loaders import AddedTfm, added_to, innermost, no_batch, read_batch, rebatch, with_added
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.student import NoisyStudent
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import DataLoader as TorchDataLoader
from toys import net, torch_dls

some = settings(max_examples=60, deadline=None, derandomize=True)


@some
@given(n=st.integers(1, 50), bs=st.integers(1, 20), new=st.integers(1, 20), drop=st.booleans())
def test_rebatch(n, bs, new, drop):
    dl = DataLoader(list(torch.arange(n)), bs=bs, shuffle=True, drop_last=drop)
    got = [len(b) for b in rebatch(dl, new)]
    assert got == [new]*(n//new) + ([n % new] if n % new and not drop else [])
    assert (dl.bs, dl.drop_last, dl.shuffle) == (bs, drop, True)


def test_why_there_is_no_batch():
    rows, said = list(torch.arange(21.)), "has 21 rows, and drops a batch that is not full: a smaller `bs` than"
    for make in (lambda bs, drop: DataLoader(rows, bs=bs, drop_last=drop),
                 lambda bs, drop: TorchDataLoader(rows, batch_size=bs, drop_last=drop)):
        assert f"{said} 64, or `drop_last=False`" in no_batch(make(64, True))
        assert no_batch(make(64, False)) is no_batch(make(21, True)) is None
        assert f"{said} 21 in each of 2 processes" in no_batch(make(21, True), 2)
    assert 'this one has 0 rows' in no_batch(DataLoader([], bs=4))


def test_a_loader_of_unknown_length_may_give_a_batch():
    class Endless(IterableDataset):
        def __iter__(self): return iter(range(3))
    assert no_batch(TorchDataLoader(Endless(), batch_size=64, drop_last=True)) is None
    assert no_batch(DataLoader(Endless(), bs=64, drop_last=True)) is None


@pytest.mark.parametrize('seed', range(3))
def test_the_order_is_that_of_the_loader(seed):
    "Pass after pass, in one copy or several, and in the loader after them"
    def loader(bs):
        set_seed(seed)
        return DataLoader(list(torch.arange(10)), bs=bs, shuffle=True)
    rows = lambda dl: torch.cat(list(dl)).tolist()
    a = loader(6)
    want = [rows(a) for _ in range(4)]
    b = loader(4)
    c = rebatch(b, 6)
    assert [rows(c), rows(c), rows(rebatch(b, 6)), rows(b)] == want


def test_sampling_weights_stay():
    ws = WeightedDL(list(torch.arange(10)), bs=4, wgts=np.array([1.]+[0]*9), shuffle=True, num_workers=0)
    assert torch.cat(list(rebatch(ws, 5))).tolist() == [0]*10
    ts = TorchDataLoader(torch.arange(10), batch_size=4, sampler=WeightedRandomSampler([1.]+[0]*9, 10))
    assert torch.cat(list(rebatch(ts, 5, shuffle=True))).tolist() == [0]*10


def test_loaders_of_whole_batches():
    x = torch.arange(9)
    for dl in (DataLoader([x], bs=None), TorchDataLoader(x, batch_size=None)):
        with pytest.raises(ValueError, match='whole batches'): rebatch(dl, 2)
    assert torch.equal(list(rebatch(DataLoader([x], bs=None)))[0], x)


@pytest.mark.parametrize('b,said', [({'x': 1}, 'dl2 gives batches of dict'),
                                    ((torch.zeros(2), ('a', 'b')), r'dl2 gives batches of \(Tensor, tuple\)')])
def test_batches_that_cannot_be_read(b, said):
    with pytest.raises(TypeError, match=said): read_batch(b, None, 'dl2')


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


def test_innermost():
    class Wrapper:
        def __init__(self, dl): self.dl = dl
    dl = loader('fastai')
    assert innermost(Wrapper(Wrapper(dl))) is dl


# What others read of a loader

class Counting(DataLoader):
    "Knows how often it was read, and which rows its last batch holds"
    n_passes = n_ended = n_orders = 0
    last = level = None
    def before_iter(self): self.n_passes += 1
    def after_iter(self): self.n_ended += 1
    def get_idxs(self):
        self.n_orders += 1
        return super().get_idxs()
    def create_batch(self, b):
        self.last = [int(o[1]) for o in b]
        self.seen_level = self.level
        return super().create_batch(b)


class Watch(Callback):
    "Looks at the Learner's own loader at each batch, and tells it something"
    order, run_valid = 55, False
    def before_fit(self): self.was = []
    def before_train(self): self.learn.dls.train.level = 100*self.epoch
    def before_batch(self):
        dl = self.learn.dls.train
        self.was.append((dl.n_passes, dl.n_ended, dl.n_orders, dl.last, dl.seen_level, self.x[:, 0].long().tolist()))
        dl.level += 1


def numbered(cls, n=12, **kwargs): return cls([(torch.full((2,), float(i)), i) for i in range(n)], **kwargs)


def watched(cbs, bs, seed, n_fits=2):
    "What is seen of the loader in two fits"
    random.seed(seed)
    torch.manual_seed(seed)
    dl = numbered(Counting, bs=bs, shuffle=True, drop_last=True)
    learn = Learner(DataLoaders(dl, numbered(DataLoader, bs=4)), net(12), loss_func=CrossEntropyLossFlat(), cbs=cbs)
    res = []
    for _ in range(n_fits):
        watch = Watch()
        with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=watch)
        res += watch.was
    return res, dl


@pytest.mark.parametrize('seed', range(3))
def test_a_loader_seen_from_outside(seed):
    "Its numbers and what it holds are those of a fit without callbacks, its last batch that of the labeled rows"
    want, _ = watched([], 3, seed)
    assert watched([StudentNoise(None, None, None)], 3, seed)[0] == want
    dl2 = DataLoader([(torch.full((2,), -1.), 0)]*20, bs=4)
    cbs = [StudentNoise(None, None, None), NoisyStudent(dl2, pseudolabel_sample_weight=0, bs=6)]
    got, dl = watched(cbs, 3, seed)
    assert [(*o[:-1], o[-1][:3]) for o in got] == want and got[-1][-1][3:] == [-1]*3
    assert dl.bs == 3 and 'do_batch' not in vars(dl) and 'it' not in vars(dl)


@settings(some, max_examples=30)
@given(n=st.integers(1, 20), bs=st.integers(1, 6), seed=st.integers(0, 99), depth=st.integers(1, 3))
def test_copies_of_copies(n, bs, seed, depth):
    "Of whatever depth: the original is as if it had been read; unread copies change nothing"
    def read(depth):
        random.seed(seed)
        dl = numbered(Counting, n, bs=bs, shuffle=True)
        top = dl
        for _ in range(depth): top = rebatch(top)
        for _ in range(depth): rebatch(top, bs+1)
        res = [(b[1].tolist(), dl.last, dl.n_passes, dl.n_ended, dl.n_orders) for _ in range(2) for b in top]
        return res, {k: o for k, o in vars(dl).items() if isinstance(o, int) or k == 'last'}
    assert read(depth) == read(0)


# The order of a loader of torch

def python_order(n):
    class Sampler:
        def __iter__(self): return iter(random.sample(range(n), n))
        def __len__(self): return n
    return Sampler()


SAMPLERS = dict(
    shuffle=lambda g: dict(batch_size=4, shuffle=True), replace=lambda g: dict(batch_size=4, sampler=RandomSampler(
        range(12), replacement=True, generator=g)),
    weighted=lambda g: dict(batch_size=4, sampler=WeightedRandomSampler(range(1, 13), 12, generator=g)),
    subset=lambda g: dict(batch_size=4, sampler=SubsetRandomSampler(range(12), generator=g)),
    batches=lambda g: dict(batch_sampler=BatchSampler(RandomSampler(range(12), generator=g), 4, False)),
    python=lambda g: dict(batch_size=4, sampler=python_order(12)))


class Rows(Callback):
    order, run_valid = 55, False
    def before_fit(self): self.seen = []
    def before_batch(self): self.seen += [o for o in self.x[:, 0].long().tolist() if o >= 0]


@pytest.mark.parametrize('own', [False, True], ids=['seed', 'generator'])
@pytest.mark.parametrize('kind', SAMPLERS)
def test_the_order_of_torch(kind, own):
    "For a seed, the labeled rows come in the order of a fit without callbacks, epoch after epoch"
    ds = TensorDataset(torch.arange(12.)[:, None].expand(12, 2), torch.arange(12) % 3)
    ds2 = TensorDataset(torch.full((20, 2), -1.), torch.zeros(20).long())
    def rows(*cbs):
        random.seed(1)
        torch.manual_seed(1)
        g = torch.Generator().manual_seed(5) if own else None
        dl, see = TorchDataLoader(ds, generator=g, **SAMPLERS[kind](g)), Rows()
        learn = Learner(torch_dls(dl, ds, batch_size=4), net(), loss_func=CrossEntropyLossFlat(),
                        cbs=[see, *cbs])
        with learn.no_bar(), learn.no_logging(): learn.fit(3)
        return see.seen
    want = rows()
    assert len(want) == 36 and want[:12] != want[12:24] != want[24:]
    assert rows(StudentNoise(None, None, None)) == want
    for shuffle in False, True:
        dl2 = TorchDataLoader(ds2, batch_size=4, shuffle=shuffle)
        if kind != 'python': assert rows(NoisyStudent(dl2, bs=8, pseudolabel_sample_weight=0)) == want


def test_seeds_of_workers_differ():
    "From epoch to epoch, and not from run to run"
    def seeds(seed):
        torch.manual_seed(seed)
        dl = rebatch(TorchDataLoader(range(6), batch_size=2, shuffle=True))
        res = []
        for _ in range(3):
            list(dl)
            res.append(dl.fake_l.generator.initial_seed())
        return res
    assert len(set(seeds(0))) == 3 and seeds(0) == seeds(0) != seeds(1)


# Loaders that can't be copied, or only in part

def test_a_language_model_s_loader():
    from fastai.text.data import LMDataLoader
    dl = LMDataLoader([torch.arange(i, i+30) for i in range(9)], bs=4, seq_len=5, num_workers=0)
    assert rebatch(dl).bs == rebatch(dl, 4).bs == 4
    with pytest.raises(ValueError, match='bs=4 texts side by side'): rebatch(dl, 2)


class Doubled(TorchDataLoader):
    def __iter__(self): return (o*2 for o in super().__iter__())


def test_a_loader_of_torch_with_batches_of_its_own():
    dl = Doubled(range(6), batch_size=2)
    with pytest.warns(UserWarning, match='Doubled: its own `__iter__` is bypassed') as told:
        for _ in range(3): rebatch(dl)
    assert len(told) == 1
    with pytest.raises(TypeError, match='dls.*a DataLoader of fastai, tsai or torch'): rebatch([1, 2])
