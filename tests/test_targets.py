"Labels of two kinds in one tensor, and rows that keep their weight: each against plain Python"
import copy

import pytest
import torch
from fastai.torch_core import TensorCategory, to_concat, to_detach
from fasttransform.cast import retain_type
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.checks import ArgumentError
from noisy_student_fastai.compat import as_type
from noisy_student_fastai.targets import RowTargets, join_targets, out_of_range, to_one_hot
from torch import Tensor
from torch.nn import functional as F

C = 4


def labels(n, kind, seed):
    g = torch.Generator().manual_seed(seed)
    if kind == 'hard': return torch.randint(C, (n,), generator=g)
    if kind == 'column': return torch.randint(C, (n, 1), generator=g)
    if kind == 'one-hot': return torch.eye(C).long()[torch.randint(C, (n,), generator=g)]
    p = torch.randn(n, C, generator=g).softmax(1)
    return p.half() if kind == 'half' else p


def as_probs(y):
    "What each row means, by a loop"
    res = []
    for o in y:
        if o.numel() == C: res.append(o.tolist())
        else: res.append([float(i == int(o)) for i in range(C)])
    return torch.tensor(res)


SOFT = ['soft', 'half', 'one-hot']


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('kind,kind2', [(a, b) for a in ('hard', 'soft', 'half') for b in ('hard', *SOFT)] +
                         [('column', o) for o in ('hard', 'column', 'soft', 'half')] + [('soft', 'column')])
def test_joined(kind, kind2, seed):
    y, y2 = labels(5, kind, seed), labels(7, kind2, seed+10)
    res, soft = join_targets(y, y2)
    hard = kind in ('hard', 'column') and kind2 in ('hard', 'column')
    assert res.is_floating_point() != hard and soft == (not hard and (kind in SOFT) != (kind2 in SOFT))
    torch.testing.assert_close(as_probs(res), torch.cat([as_probs(y), as_probs(y2)]), atol=1e-3, rtol=0)
    if hard: assert res.shape[1:] == y.shape[1:]
    assert type(join_targets(TensorCategory(y), y2)[0]) is TensorCategory


@pytest.mark.parametrize('y,y2,text', [
    (torch.tensor([0, 1]), torch.rand(3), 'class indices go with'),
    (torch.rand(2, 3), torch.rand(2, 4), 'same shape in both'),
    (torch.tensor([7]), torch.rand(2, 4), 'class index 7 among the labels, but there are 4 classes: expected 0 to 3$'),
    (torch.tensor([-1]), torch.rand(2, 4), r"class index -1 .*: expected 0 to 3\. -1 is .* that isn't in the vocab")])
def test_mistakes_have_fields(y, y2, text):
    with pytest.raises(ValueError, match=text) as e: join_targets(y, y2)
    assert isinstance(e.value, ArgumentError) and e.value.argument in ('dl2', 'y') and e.value.value is not None


@pytest.mark.parametrize('axis', [1, -1])
@pytest.mark.parametrize('ignore', [-100, 2])
def test_one_hot(axis, ignore):
    y = torch.randint(C, (3, 5), generator=torch.Generator().manual_seed(0))
    got = to_one_hot(y, C, axis, ignore_index=ignore).movedim(axis, -1)
    for i in range(3):
        for j in range(5): assert got[i, j].tolist() == [float(k == y[i, j] and k != ignore) for k in range(C)]


def test_out_of_range():
    assert out_of_range(torch.tensor([0, 3]), 4) is None and out_of_range(torch.tensor([0, 4]), 4) == 4
    assert out_of_range(torch.tensor([-1, 0]), 4) == -1 and out_of_range(torch.tensor([-1, 0]), 4,
                                                                         ignore_index=-1) is None
    assert out_of_range(torch.tensor([]).long(), 4) is None


def row_targets(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return RowTargets(torch.rand(n, C, generator=g), w=torch.rand(n, generator=g), is_pl=torch.arange(n) > 2, soft=True)


IDX = torch.tensor([4, 0, 3])
KEEP = {'rows': lambda y: y[IDX], 'a slice': lambda y: y[1:4], 'a mask': lambda y: y[torch.arange(6) % 2 == 0],
        'a list': lambda y: y[[1, 2]],
        'rows and columns': lambda y: y[IDX, :2], 'all': lambda y: y[...],
        'index_select': lambda y: torch.index_select(y, 0, IDX),
        'a mask of numpy': lambda y: y[IDX.numpy()], 'keywords': lambda y: y.index_select(dim=0, index=IDX),
        'from behind': lambda y: y.index_select(-2, IDX), 'flip': lambda y: y.flip(0),
        'cat': lambda y: torch.cat([y, y[IDX]]),
        'split': lambda y: torch.split(y, 4)[1], 'repeat': lambda y: y.repeat(2, 1),
        'half': lambda y: y.half(), 'to': lambda y: y.to(torch.float64), 'clone': lambda y: y.clone(),
        'detach': lambda y: y.detach(),
        'deepcopy': copy.deepcopy, 'as_subclass': lambda y: y.as_subclass(Tensor)}


@pytest.mark.parametrize('name', KEEP)
def test_rows_keep_their_weights(name):
    "Each row of the result has the weight and the source of the row of the same values"
    y = row_targets()
    res = KEEP[name](y)
    assert type(res) is RowTargets and res.soft and len(res.w) == len(res.is_pl) == len(res)
    for o, w, s in zip(res.plain().float(), res.w, res.is_pl):
        i = next(i for i, p in enumerate(y.plain()) if torch.allclose(p[:len(o)], o, atol=1e-3))
        assert w == y.w[i] and s == y.is_pl[i]


@pytest.mark.parametrize('f', [lambda y: y+1, lambda y: y[0], lambda y: y.sum(1), lambda y: torch.stack([y, y]),
                               lambda y: y[:, 0].mean(), lambda y: y.flatten(), lambda y: y.T, lambda y: y.roll(1),
                               lambda y: torch.cat([y, y], 1), lambda y: torch.cat([y, y.plain()]),
                               lambda y: y.unbind(), lambda y: torch.rand(3).to(y), lambda y: y.argmax(1),
                               lambda y: y.sort(0)[0]])
def test_anything_else_is_plain(f):
    res = f(row_targets())
    assert all(type(o) is Tensor for o in (res if isinstance(res, tuple) else [res]))


W3, EMB = torch.tensor([1., 2, 5]), torch.arange(12.).reshape(3, 4)
HELPS = {'index': lambda y: W3[y], 'rows': lambda y: EMB[y], 'index_select': lambda y: torch.index_select(EMB, 0, y),
         'method': lambda y: W3.index_select(0, y), 'take': lambda y: W3.take(y), 'to': lambda y: W3.to(y),
         'gather': lambda y: EMB.gather(1, y[:3, None]), 'embedding': lambda y: F.embedding(y, EMB),
         'one_hot': lambda y: F.one_hot(y, 3), 'eye': lambda y: torch.eye(3)[y], 'twice': lambda y: W3[y][y > 0],
         'a pair': lambda y: EMB[torch.arange(len(y)) % 3, y], 'type_as': lambda y: W3.type_as(y),
         'write': lambda y: torch.zeros(3).index_fill_(0, y, 1.), 'lerp': lambda y: torch.zeros(6).lerp(y.float(), .5)}


@pytest.mark.parametrize('name', HELPS)
def test_targets_that_are_not_what_is_operated_on(name):
    "They help to find or to write other things, which know nothing of rows"
    y = torch.tensor([2, 0, 1, 1, 0, 2])
    targs = RowTargets(y, w=torch.rand(6), is_pl=y > 1)
    got = HELPS[name](targs)
    assert type(got) is Tensor and torch.equal(got, HELPS[name](y))


def in_row(o): return o.reshape(len(o), -1)


# draws an operation that moves values of `n` rows; those with `dim` of rows, or of columns where there are some
def op_of(draw, y):
    n, dim = len(y), draw(st.integers(-y.ndim, y.ndim-1))
    k, perm = draw(st.integers(1, 3)), torch.tensor(draw(st.permutations(range(n))))
    size = y.shape[dim]
    ops = [lambda o: o[perm], lambda o: o[perm[:k].tolist()], lambda o: o[k-1::k], lambda o: o[perm.numpy() > 1],
           lambda o: o.index_select(dim, torch.arange(size).flip(0)), lambda o: o.flip(dim), lambda o: o.roll(k, dim),
           lambda o: torch.roll(o, k), lambda o: o.repeat(k, *[1]*(o.ndim-1)), lambda o: o.tile((k,)),
           lambda o: o.repeat_interleave(k, dim), lambda o: o.narrow(dim, 0, 1), lambda o: o.chunk(2, dim)[-1],
           lambda o: o.split(k, dim)[0], lambda o: o.reshape(n, -1), lambda o: o.view(-1), lambda o: o.unsqueeze(dim),
           lambda o: o.squeeze(), lambda o: torch.cat([o, o[perm]], dim), lambda o: o[None], lambda o: o[..., None],
           lambda o: o[perm, None], lambda o: o[:, None], lambda o: o[perm.sort()[0], ...], lambda o: o[0],
           lambda o: o[..., -1:], lambda o: o.gather(dim, torch.zeros_like(o, dtype=torch.long)), lambda o: o.clone(),
           lambda o: o.double(), lambda o: o.take(perm), lambda o: o.masked_select(o >= 0), lambda o: o*1,
           lambda o: o.sort(dim)[0],
           lambda o: o[perm[:, None]], lambda o: o.mT, lambda o: torch.stack([o, o], dim), lambda o: o.flatten(),
           lambda o: o.argsort(dim), lambda o: o.cumsum(dim)]
    return draw(st.sampled_from(ops))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data(), st.integers(1, 5), st.sampled_from([(), (1,), (3,), (2, 2)]), st.integers(1, 3))
def test_any_operation_gives_what_plain_targets_give_and_keeps_rows_together(data, n, rest, n_ops):
    "Values that no two rows share say which row is which: it has the weight and source of that row, or none"
    vals = torch.arange(n*torch.Size(rest).numel()).reshape(n, *rest)
    per_row = vals[:1].numel()
    y, plain = RowTargets(vals, w=torch.arange(n)+.5, is_pl=torch.arange(n) % 2 > 0), vals
    for _ in range(n_ops):
        op = op_of(data.draw, plain)
        try: want = op(plain)
        except (IndexError, RuntimeError, TypeError): break
        y, plain = op(y), want
        assert torch.equal(as_type(y, Tensor), plain) and y.dtype == plain.dtype
        if not isinstance(y, RowTargets): break
        assert y.w.shape == y.is_pl.shape == (len(y),)
        if plain.numel():
            row = in_row(plain.long())//per_row
            assert (row == row[:, :1]).all()
            assert y.w.tolist() == [o+.5 for o in row[:, 0].tolist()] and torch.equal(y.is_pl, row[:, 0] % 2 > 0)
        if not plain.numel() or plain.ndim == 0 or plain[:1].numel() != per_row: break


def test_a_cast_says_nothing_of_rows():
    "fastai gives results the type of what they were made from: no weights at all rather than those of other rows"
    y = row_targets()
    for o in (y+1, y.sort(0)[0], torch.rand(3, C)):
        res = retain_type(o, y)
        assert not isinstance(res, RowTargets) or res.w is None and res.is_pl is None
    assert to_concat([y, y[:2]]).w.tolist() == [*y.w.tolist(), *y.w[:2].tolist()]
    assert torch.equal(to_detach([y])[0].w, y.w) and y.w is not None


@pytest.mark.parametrize('lam', [torch.tensor(.3), torch.tensor([.1, .2, .3, .4, .5, .6])])
def test_mixed_rows_mix_their_weights(lam):
    a, b = row_targets(seed=1), row_targets(seed=2)
    res = torch.lerp(a, b, lam.reshape(-1, 1) if lam.ndim else lam)
    for i in range(6):
        t = lam[i] if lam.ndim else lam
        assert res.w[i] == pytest.approx((a.w[i]+t*(b.w[i]-a.w[i])).item(), rel=1e-5)


def test_targets_of_targets_are_others():
    "Rows that are wrapped again share the values and nothing else"
    y = row_targets()
    new = RowTargets(y)
    assert new.w is None and y.w is not None and new.plain().data_ptr() == y.plain().data_ptr()
