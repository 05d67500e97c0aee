"What all input noise shares: draws against plain loops, schedules, random numbers in their order, errors with fields"
import pickle
import warnings
from copy import deepcopy
from math import inf

import pytest
import torch
from fastai.callback.schedule import SchedCos, SchedLin
from fastai.torch_core import TensorImage, TensorMask
from fasttransform import Pipeline
from noisy_student_fastai.checks import BadType, BadValue, check_number
from noisy_student_fastai.noise.rows import (
    Draw,
    InputNoise,
    RowNoise,
    Scheduled,
    draw_ops,
    like,
    one_thread,
    same_shape,
    send,
    sign,
    types_and_shapes,
)

OPS = [lambda x, m, u: x+m[:, None], lambda x, m, u: x*(1+u[:, :1]), lambda x, m, u: -x]
SEEDS = range(3)


def draw(seed, rows=30, n_ops=3, **kw):
    torch.manual_seed(seed)
    return draw_ops(rows, n_ops, **{'n': 1, 'm': 2, 'm_std': 2, **kw})[0]


# A draw

@pytest.mark.parametrize('m_std', [0, .5, inf])
@pytest.mark.parametrize('seed', SEEDS)
def test_random_numbers_in_their_order(seed, m_std):
    "Which operation, then at what magnitude, then the uniform numbers; and no number more"
    torch.manual_seed(seed)
    got, after = draw_ops(7, 5, n=3, m=6, m_std=m_std), torch.rand(1)
    torch.manual_seed(seed)
    for d in got:
        assert torch.equal(d.op, torch.randint(5, (7,)))
        want = torch.full((7,), 6.)
        if m_std == inf: want = torch.rand(7)*6
        elif m_std: want = (6+m_std*torch.randn(7)).clamp(0, 30)
        assert torch.equal(d.m, want) and torch.equal(d.u, torch.rand(7, 3))
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize('seed', SEEDS)
def test_who_gets_what(seed):
    "By operation, in order of rows; rows of magnitude 0 get nothing"
    d = draw(seed)
    want = {i: [r for r in range(30) if d.op[r] == i and d.m[r] > 0] for i in range(3)}
    assert 0 < sum(map(len, want.values())) < 30
    assert {i: r.tolist() for i, r in d.groups()} == {i: r for i, r in want.items() if r}
    assert d.order.tolist() == sum(want.values(), [])
    for i, o in d.slices(): assert d.order[o].tolist() == want[i]


@pytest.mark.parametrize('seed', SEEDS)
def test_each_row_under_its_operation(seed):
    d, x = draw(seed), torch.rand(30, 4)
    before = x.clone()
    want = torch.cat([OPS[d.op[r]](x[r:r+1], d.m[r:r+1], d.u[r:r+1]) if d.m[r] > 0 else x[r:r+1] for r in range(30)])
    assert torch.equal(d.apply(x, OPS), want) and torch.equal(x, before)


def test_nobody_gets_anything():
    d = draw(0, m=0, m_std=0)
    assert d.order.tolist() == [] and d.slices() == d.groups() == []
    x = torch.rand(30, 2)
    assert torch.equal(d.apply(x, OPS), x)


def test_what_rows_go_by_comes_to_the_device():
    d = draw(0)
    rows, m, u = d.on('cpu')
    assert rows.dtype == torch.int64 and torch.equal(rows, d.order)
    assert torch.equal(m, d.m[rows]) and torch.equal(u, d.u[rows])
    assert {o.device.type for o in d.on('meta')} == {'meta'} and send(d.m, torch.device('meta')).device.type == 'meta'


# Results

def test_like():
    x = TensorImage(torch.zeros(2), note=3)
    got = like(torch.ones(2), x)
    assert type(got) is TensorImage and got.note == 3 and got.tolist() == [1, 1]
    assert type(like(torch.ones(2), TensorMask(torch.zeros(2)))) is TensorMask
    assert type(like(torch.ones(2), torch.zeros(2))) is torch.Tensor
    got.note = 4
    assert x.note == 3


def test_sign(): assert sign(torch.tensor([0., .49, .5, 1])).tolist() == [-1, -1, 1, 1]


def test_an_operation_keeps_the_shape():
    x = torch.zeros(2, 3)
    assert same_shape(x, x) is x
    with pytest.raises(BadValue, match=r"^ops=\(2, 1\): expected .*keeps the shape, \(2, 3\)") as e:
        same_shape(torch.zeros(2, 1), x)
    assert (e.value.argument, e.value.value) == ('ops', (2, 1))


def test_in_words():
    b = torch.zeros(2, 3), 'a word', torch.zeros(1).long()
    assert types_and_shapes(b) == 'torch.float32 of shape (2, 3), a str, torch.int64 of shape (1,)'


def test_one_thread():
    n = torch.get_num_threads()
    with pytest.raises(KeyError):
        with one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
    @one_thread()
    def inside(): return torch.get_num_threads()
    assert [inside(), inside(), torch.get_num_threads()] == [1, 1, n]


# Schedules

class Loud(Scheduled):
    magnitudes = 'm', 'k'
    def __init__(self, m, k=0): self.m, self.k, self.others = m, k, [m]
    def check_value(self, name, v): check_number(name, v, lambda o: o <= 9, "expected at most 9")


@pytest.mark.parametrize('pct', [0., .3, 1.])
def test_now(pct):
    up = Loud(SchedCos(1, 5), 3)
    up.pct = pct
    assert up.now('m') == float(SchedCos(1, 5)(pct)) and up.now('k') == 3 and up.is_sched('m') and not up.is_sched('k')
    assert not up.is_sched('now')  # a function, but no magnitude


def test_without_a_training_a_schedule_is_at_its_end():
    with pytest.warns(UserWarning, match='^m is a schedule, but .* add `StudentNoise` to'):
        assert Loud(SchedLin(0, 8)).now('m') == 8
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert Loud(4).now('m') == 4


@pytest.mark.parametrize('sched, at, v', [
    (SchedLin(10, 0), 0, 10), (SchedLin(0, 20), .5, 10), (SchedLin(0, 10), 1, 10)])
def test_a_schedule_is_looked_at_before(sched, at, v):
    with pytest.raises(BadValue) as e: Loud(2, sched).check_magnitudes()
    assert str(e.value) == f'k={v:.1f}: expected at most 9 (that is the schedule at {at:g} of the training)'
    assert (e.value.argument, e.value.value, e.value.expected) == ('k', v, 'expected at most 9')


def test_a_number_is_looked_at():
    Loud(9, 9).check_magnitudes()
    with pytest.raises(BadValue, match='^m=10: expected at most 9$'): Loud(10).check_magnitudes()
    with pytest.raises(BadType, match="^m='a': "): Loud('a').check_magnitudes()


def test_what_raises_an_error_of_its_own():
    class Odd(Loud):
        def check_value(self, name, v):
            if v == 10: raise ValueError('ten')
    with pytest.raises(ValueError, match=r'^ten \(that is the schedule at 1 of the training\)$'):
        Odd(SchedLin(0, 10)).check_magnitudes()


def test_a_value_on_the_way_is_looked_at():
    up = Loud(lambda pct: 20 if pct == .3 else 0)
    up.check_magnitudes()
    up.pct = .3
    with pytest.raises(BadValue, match='m=20.0'): up.now('m')


def test_pickles_and_copies():
    up = Loud(SchedLin(0, 8), 3)
    up.others = [1]
    new, copied = pickle.loads(pickle.dumps(up)), deepcopy(up)
    assert (new.m, new.k) == (8., 3)
    assert copied.m is up.m and copied.others == [1] and copied.others is not up.others


# Noise of rows

class Shift(RowNoise):
    all_ops = dict(add=OPS[0], grow=OPS[1], neg=OPS[2])
    def takes(self, o): return o.is_floating_point()


def test_left_out_without_a_split():
    "It is said once, and not where fastai tries a new loader with one row"
    class Plus(InputNoise):
        def encodes(self, b): return [b[0]+1, *b[1:]]
    noise, b = Plus(), (torch.zeros(3), torch.arange(3))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for one in ((b[0][:1], b[1][:1]), ((b[0][:1],), b[1][:1]), (), 3): Pipeline(noise)(one)
    with pytest.warns(UserWarning, match='^Plus is left out: ') as w:
        for _ in range(3): assert Pipeline(noise)(b)[0] is b[0]
    assert len(w) == 1
    with pytest.warns(UserWarning, match='^Plus is left out: '): Plus()(((b[0], b[0]), b[1]))
    assert Pipeline(noise, split_idx=1)(b)[0] is b[0] and Pipeline(noise, split_idx=0)(b)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize('n', [0, 1, 3])
@pytest.mark.parametrize('seed', SEEDS)
def test_a_batch_is_its_rows(seed, n):
    x, y, z = torch.rand(9, 4), torch.arange(9), torch.rand(9, 2)
    torch.manual_seed(seed)
    got = Shift(n=n, m=4, m_std=2)((x, y, z), split_idx=0)
    torch.manual_seed(seed)
    want = [x.clone(), y, z.clone()]
    for d in draw_ops(9, 3, n, 4, 2) if n else []:
        for r in range(9):
            if d.m[r] == 0: continue
            for o in want[::2]: o[r:r+1] = OPS[d.op[r]](o[r:r+1], d.m[r:r+1], d.u[r:r+1])
    for a, b in zip(got, want): assert torch.equal(a, b)


def test_the_same_draw_for_all_inputs_of_a_row():
    x = torch.rand(20, 3)
    a, b = Shift(m=9)((x, x.clone()), split_idx=0)
    assert torch.equal(a, b) and not torch.equal(a, x)


def test_forms_of_a_batch():
    noise, x = Shift(n=1, m_std=0, ops=['neg']), torch.rand(4, 2)
    assert torch.equal(noise(x, split_idx=0), -x)
    got = noise((x,), split_idx=0)
    assert type(got) is tuple and torch.equal(got[0], -x)
    assert noise((x[:0], torch.arange(0)), split_idx=0)[0].shape == (0, 2)
    assert noise((x, x), split_idx=1)[0] is x


@pytest.mark.parametrize('kw, key, error', [
    (dict(n=-1), 'n', BadValue), (dict(n=1.5), 'n', BadType), (dict(m=31), 'm', BadValue), (dict(m='6'), 'm', BadType),
    (dict(m_std=-1), 'm_std', BadValue), (dict(m_std=None), 'm_std', BadType), (dict(ops=['turn']), 'ops', BadValue),
    (dict(ops=[]), 'ops', BadValue), (dict(ops={}), 'ops', BadValue), (dict(ops='add'), 'ops', BadValue)])
def test_mistakes(kw, key, error):
    with pytest.raises(error, match=f'^{key}=') as e: Shift(**kw)
    assert (e.value.argument, e.value.value) == (key, kw[key]) and 'expected' in e.value.expected


def test_operations_of_ones_own():
    def wide(x, m, u): return x.repeat(1, 2)
    assert list(Shift(ops=['neg', 'add']).ops) == ['neg', 'add'] and list(Shift().ops) == ['add', 'grow', 'neg']
    with pytest.raises(BadValue, match=r'^ops=\(4, 4\)'):
        Shift(n=1, m_std=0, ops=dict(f=wide))((torch.rand(4, 2),), split_idx=0)
    own = Shift(ops=dict(f=wide))
    assert own.ops == dict(f=wide) and 'f' not in Shift.all_ops
    assert repr(own) == 'Shift(n=2, m=6.0, m_std=0.5, 1 operations)' and 'm=schedule' in repr(Shift(m=SchedLin(0, 9)))


def test_draws_are_plain_tuples():
    d = Draw(torch.tensor([0]), torch.tensor([1.]), torch.rand(1, 3))
    assert len(d) == 3 and pickle.loads(pickle.dumps(d)).m == 1
