"Whichever way a loader collates, sorts or leaves out rows: each keeps its target, weight and source; and its order"
import random
from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.text.data import Pad_Chunk, SortedDL, TensorText
from fasttransform.transform import ItemTransform
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives Learners `pseudolabel`)
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.labels.selection import Selection
from noisy_student_fastai.loaders import Follow, collated, rebatch, sorted_by
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data import DataLoader as TorchDataLoader
from toys import hard_rows, net, pl_dl, points, pts_dls, pts_learner, torch_dls

some = settings(max_examples=30, deadline=None, derandomize=True)


# What a function that collates does with its rows: an order of its own, perhaps only some of them ...
def keep(rows): return list(rows)
def backwards(rows): return list(rows)[::-1]
def longest_first(rows): return sorted(rows, key=lambda o: len(o[0]), reverse=True)
def at_random(rows): return [rows[i] for i in torch.randperm(len(rows))]
def by_python(rows): return random.sample(list(rows), len(rows))
def not_short(rows): return [o for o in rows if len(o[0]) > 1] or list(rows)
def in_place(rows):
    rows.sort(key=lambda o: -len(o[0]))
    return rows


ORDERS = [keep, backwards, longest_first, at_random, by_python, not_short, in_place]


# ... and how it takes a row apart
def padded(xs): return torch.stack([F.pad(x, (0, max(map(len, xs))-len(x)), value=-1) for x in xs])


def any_elements(rows):
    xs, *more = zip(*rows)
    return (padded(xs), *map(torch.stack, more))


def two_elements(rows):
    xs, ys = zip(*rows)
    return padded(xs), torch.stack(ys)


def by_index(rows): return [padded([o[0] for o in rows]), torch.tensor([o[1] for o in rows])]
def last_is_target(rows): return padded([o[0] for o in rows]), torch.stack([o[-1] for o in rows])
def as_floats(rows): return padded([o[0] for o in rows]), torch.stack([o[1] for o in rows]).float()[:, None]


APART = [any_elements, two_elements, by_index, last_is_target, as_floats]
ways = dict(order=st.sampled_from(ORDERS), apart=st.sampled_from(APART), seed=st.integers(0, 2**16))


def drawn(n, seed, first=0, c=3):
    "Rows of any length, filled with their numbers, and the classes that belong to these"
    lens = np.random.default_rng(seed).integers(1, 9, n)
    return [(torch.full((k,), float(first+i)), torch.tensor((first+i) % c)) for i, k in enumerate(lens)]


@some
@given(**ways, n=st.integers(1, 9))
def test_rows_are_followed(order, apart, seed, n):
    "Each row tells which one it is, by what it holds; what is drawn at random is as in a plain call"
    def f(rows): return apart(order(rows))
    follow = Follow(f)
    for k in range(2):
        rows = drawn(n, seed+k)
        for g in torch.manual_seed, random.seed, np.random.seed: g(seed+k)
        plain, after = f(list(rows)), (torch.rand(1), random.random())
        for g in torch.manual_seed, random.seed, np.random.seed: g(seed+k)
        b, who = follow(rows)
        assert (torch.rand(1), random.random()) == after and len(b) == len(plain)
        assert all(torch.equal(o, p) for o, p in zip(b, plain))
        assert who.tolist() == b[0][:, 0].long().tolist()


@some
@given(order=st.sampled_from([backwards, longest_first]), seed=st.integers(0, 99))
def test_rows_that_cannot_be_followed(order, seed):
    "One-hot targets of a table of names: rows in their places are right, others an error before they are used"
    names = ['a', 'b', 'c']
    def f(rows): return padded([x for x, _ in rows]), torch.stack([torch.eye(3)[names.index(y)] for _, y in rows])
    rows = [(x+1, names[y]) for x, y in drawn(6, seed)]
    assert Follow(f)(rows)[1].tolist() == [*range(6)]
    if [x[0] for x, _ in order(rows)] == [x[0] for x, _ in rows]: return
    follow = Follow(lambda b: f(order(b)))
    with pytest.raises(ValueError, match="collate_fn.*6 rows for 6.*can't be followed"): follow(rows)


class First(nn.Module):
    "Class scores from the first number of a row"
    def __init__(self, c=3):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(c))
    def forward(self, x): return self.w+x[:, :1]*0


class Seen(Callback):
    "The first number of each row, and what belongs to it"
    order, run_valid = 40, False
    def before_fit(self): self.b = []
    def before_batch(self):
        y = self.yb[0]
        w = torch.ones(len(y)) if y.w is None else y.w
        self.b += zip(self.x[:, 0].long().tolist(), y.plain().tolist(), y.is_pl.tolist(), w.tolist())


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('kind', ['torch', 'fastai'])
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(order=st.sampled_from(ORDERS), apart=st.sampled_from(APART[:4]), seed=st.integers(0, 2**16))
def test_weights_and_sources_follow(kind, soft, order, apart, seed):
    "Labels, weights and sources of a student's rows, padded to one length, each by the number that a row holds"
    def f(rows): return apart(order(rows))
    rows, rows2 = drawn(20, seed), drawn(15, seed+1, 100)
    if kind == 'torch': dls = torch_dls(rows, rows, batch_size=8, shuffle=True, collate_fn=f)
    else: dls = DataLoaders(*[DataLoader(rows, bs=8, shuffle=True, create_batch=f) for _ in 'tv'])
    dls.n_inp = 1
    p = torch.eye(3)[torch.tensor([y for _, y in rows2])]*.94+.02
    w = np.linspace(.1, 2, 15, dtype=np.float32)
    pl = PseudoLabels(p, [(x,) for x, _ in rows2])
    torch.manual_seed(seed)
    see = Seen()
    learn = Learner(dls, First(), loss_func=CrossEntropyLossFlat(), cbs=[NoisyStudent(
        Selection(pl, np.arange(15), w).dl(dls, soft=soft), l2pl_ratio=.5), see])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(see.b) > 20
    for i, y, is_pl, weight in see.b:
        assert is_pl == (i >= 100)
        assert weight == pytest.approx(w[i-100] if is_pl else 1)
        assert (int(np.argmax(y)) if soft else y) == i % 3


def test_rows_of_one_length_are_collated_by_workers():
    "A function that neither sorts nor pads needs no rows of both loaders at once"
    def f(rows): return default_collate(rows)
    dls = torch_dls(hard_rows(32, 0), hard_rows(8, 1), batch_size=8, collate_fn=f)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), cbs=NoisyStudent(pl_dl()))
    assert learn.noisy_student.one_batch()[0].shape == (8, 2)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not learn.noisy_student.stream.as_samples


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


def is_read(x, q):
    "In each chunk of `q` words, are the rows that go on the first ones, for which fastai's classifier takes them?"
    return bool(((x[:, ::q] != 1).long().diff(dim=0) <= 0).all())


@some
@given(lens=st.lists(st.integers(1, 25), min_size=1, max_size=6), q=st.integers(2, 6))
def test_texts_of_any_length(lens, q):
    "Sorted, padded as `Pad_Chunk` does, and longer only where the classifier would not read a row"
    rows = [(TensorText(torch.full((n,), 2+i)), torch.tensor(i)) for i, n in enumerate(lens)]
    dl = SortedDL(rows, bs=9, num_workers=0, before_batch=Pad_Chunk(seq_len=q))
    (x, y), order = sorted_by(dl, Follow(partial(collated, dl)), rows)
    assert [lens[i] for i in order] == sorted(lens, reverse=True) and y.tolist() == order.tolist()
    assert [o[o != 1].tolist() for o in x] == [rows[i][0].tolist() for i in order] and is_read(x, q)
    plain = torch.stack([o for o, _ in dl.before_batch([rows[i] for i in order])])
    assert torch.equal(x, plain) if is_read(plain, q) else x.shape[1] == -(-max(lens)//q)*q


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


@some
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
        learn = Learner(torch_dls(dl, ds, batch_size=4), First(), loss_func=CrossEntropyLossFlat(),
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
    with pytest.warns(UserWarning, match='Doubled has an `__iter__` of its own'): rebatch(dl)
    with pytest.raises(TypeError, match='dls.*a DataLoader of fastai, tsai or torch is accepted'): rebatch([1, 2])
