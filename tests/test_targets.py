"Labels of two kinds in one tensor, and rows that keep their weight: each against plain Python"
import copy

import pytest
import torch
from fastai.torch_core import TensorCategory
from noisy_student_fastai.checks import ArgumentError
from noisy_student_fastai.targets import RowTargets, join_targets, out_of_range, to_one_hot
from torch import Tensor

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
    (torch.tensor([7]), torch.rand(2, 4), 'class index 7 among the labels, but there are 4 classes')])
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


@pytest.mark.parametrize('f', [lambda y: y+1, lambda y: y[0], lambda y: y.sum(1), lambda y: torch.cat([y, y]),
                               lambda y: y[:, 0].mean()])
def test_anything_else_is_plain(f): assert type(f(row_targets())) is Tensor


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
