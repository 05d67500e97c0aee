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
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.labels.selection import Selection
from noisy_student_fastai.row_order import Follow, collated, sorted_by
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate
from toys import hard_rows, net, pl_dl, torch_dls

own = np.random.default_rng(0)  # of a function, which nobody else knows of
some = settings(max_examples=30, deadline=None, derandomize=True)


# What a function that collates does with its rows: an order of its own, perhaps only some of them ...
def keep(rows): return list(rows)
def backwards(rows): return list(rows)[::-1]
def longest_first(rows): return sorted(rows, key=lambda o: len(o[0]), reverse=True)
def at_random(rows): return [rows[i] for i in torch.randperm(len(rows))]
def by_python(rows): return random.sample(list(rows), len(rows))
def not_short(rows): return [o for o in rows if len(o[0]) > 1] or list(rows)
def by_itself(rows): return [rows[i] for i in own.permutation(len(rows))]
def in_place(rows):
    rows.sort(key=lambda o: -len(o[0]))
    return rows


ORDERS = [keep, backwards, longest_first, at_random, by_python, not_short, in_place]  # and `by_itself`


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
@given(apart=st.sampled_from(APART), seed=st.integers(0, 2**16), n=st.integers(1, 9))
def test_a_generator_of_its_own(apart, seed, n):
    "Each call has another order, whatever is done about global generators; alike rows may stand for each other"
    follow = Follow(lambda rows: apart(by_itself(rows)))
    for k in range(2):
        rows = drawn(n, seed+k)
        b, who = follow([*rows, *rows[:2]])
        assert [int(i) % n for i in who] == b[0][:, 0].long().tolist()
        assert sorted(who.tolist()) == [*range(n+min(n, 2))]


def test_noise_and_an_order_of_its_own():
    "Noise in place is right; noise and an order that is another one each time can't be followed"
    def noisy(rows): return padded([x+own.random() for x, _ in rows]), torch.stack([y for _, y in rows])
    rows = drawn(9, 0)
    assert Follow(noisy)(rows)[1].tolist() == [*range(9)]
    assert Follow(lambda b: noisy(longest_first(b)))(rows)[1].tolist() == \
           sorted(range(9), key=lambda i: -len(rows[i][0]))
    with pytest.raises(ValueError, match="collate_fn.*9 rows for 9.*can't be followed"):
        Follow(lambda b: noisy(by_itself(b)))(rows)


@pytest.mark.parametrize('typ', [np.uint8, np.int8, np.float16, torch.uint8, torch.int8, torch.bool, torch.half])
@pytest.mark.parametrize('n', [120, 300, 2500])
def test_more_rows_than_a_label_s_type_can_count(typ, n):
    of = partial(torch.tensor, dtype=typ) if isinstance(typ, torch.dtype) else typ
    def f(rows):
        xs, ys = zip(*rows[::-1])
        return torch.stack(xs), torch.tensor(np.array([o.item() for o in ys]))
    rows = [(torch.tensor([float(i)]), of(i % 2)) for i in range(n)]
    (x, y), who = Follow(f)(rows)
    assert x[:, 0].tolist() == who.tolist() == [*range(n)][::-1] and (y.long() == who % 2).all()


def test_calls_are_few():
    "One for each batch of rows in their places; a later order is noticed"
    n, order = [0], keep
    def f(rows):
        n[0] += 1
        return two_elements(order(rows))
    follow = Follow(f)
    for k in range(9): assert follow(drawn(8, k))[1].tolist() == [*range(8)]
    assert n[0] <= 10
    order = backwards
    assert follow(drawn(8, 0))[1].tolist() == [*range(8)][::-1]
    order = keep
    rows = [(torch.ones(k), torch.tensor(0)) for k in (3, 1, 2)]  # each is the begin of another
    order = longest_first
    assert follow(rows)[1].tolist() == [0, 2, 1]


def test_a_number_of_the_whole_batch():
    def f(rows): return dict(n=torch.tensor(len(rows)), x=padded([x for x, _ in rows]))
    rows = drawn(5, 0)
    assert Follow(f)(rows)[1].tolist() == [*range(5)]
    with pytest.raises(ValueError, match="can't be followed"): Follow(lambda b: f(b[::-1]))([(x+1, y) for x, y in rows])


@pytest.mark.parametrize('seed', range(5))
def test_rows_that_are_cut_at_random(seed):
    "Cut elsewhere when alone, they may look like others: no error, they are in their places"
    def f(rows):
        xs = [x[(i := int(torch.randint(4, (1,)))):i+2] for x, _ in rows]
        return dict(x=torch.stack(xs), y=torch.tensor([y for _, y in rows]))
    torch.manual_seed(seed)
    rows = [(torch.randint(2, (6,)), i) for i in range(6)]
    assert Follow(f)(rows)[1].tolist() == [*range(6)]


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
