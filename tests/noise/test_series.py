"Noise for time series: each operation against a slow version of its own, one step at a time"
import math
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from data_helpers import fit
from fastai.callback.schedule import SchedLin
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorBase, set_seed
from noisy_student_fastai.checks import BadType, BadValue
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.noise.rows import draw_ops
from noisy_student_fastai.noise.series import (
    SeriesAugment,
    horizontal_flip,
    series_ops,
    tsai_op,
    var_out,
    vertical_flip,
)
from noisy_student_fastai.student import NoisyStudent
from torch import nn

OPS = {**series_ops, 'horizontal_flip': horizontal_flip, 'vertical_flip': vertical_flip}
RANDOM = ['gaussian_noise', 'mag_mul_noise', 'time_step_out', 'var_out']  # draw more than `u`
IN_TIME = ['time_warp', 'window_warp', 'random_zoom_in', 'random_zoom_out', 'translate_x', 'down_up_scale',
           'horizontal_flip']


def walks(k=6, c=3, n=48, seed=0, dtype=torch.float32):
    "Random walks with channels of different levels and scales"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(k, c, n, generator=g, dtype=torch.float64).cumsum(-1)
    return (x*torch.tensor([1., 30, .1])[:c, None] + torch.tensor([0., 500, -3])[:c, None]).to(dtype)


def numbers(k, seed=0): return torch.rand(k, 3, generator=torch.Generator().manual_seed(seed))


# the slow versions: one row, `x` a list of channels of numbers (NaN where missing), `m` a number, `u` three

def known(v): return [o for o in v if not math.isnan(o)]
def mean(v): return sum(known(v))/len(known(v)) if known(v) else math.nan
def std(v): return math.sqrt(mean([(o-mean(v))**2 for o in v]))
def sign(u): return -1 if u < .5 else 1


def read(v, pos):
    "The value at place `pos`, between two steps"
    pos = min(max(pos, 0), len(v)-1)
    i = math.floor(pos)
    j, w = min(i+1, len(v)-1), pos-i
    if math.isnan(v[i]) or math.isnan(v[j]): return v[i] if w < .5 else v[j]
    return (1-w)*v[i] + w*v[j]


def blank(x, is_out):
    return [[mean(v) if is_out(t) and not math.isnan(a) else a for t, a in enumerate(v)] for v in x]


def curve(u, n): return [math.sqrt(2/3)*sum(math.sin(2*math.pi*(i*t/n/2+u[i-1])) for i in (1, 2, 3)) for t in range(n)]


def play(x, speed):
    pos = [sum(speed[1:t+1]) for t in range(len(speed))]
    return [[read(v, p/pos[-1]*(len(v)-1)) for p in pos] for v in x]


def scaled(x, factors): return [[mean(v)+(a-mean(v))*f for a, f in zip(v, factors)] for v in x]


def slow_mag_scale(x, m, u): return scaled(x, [2**(sign(u[0])*m/10)]*len(x[0]))
def slow_mag_warp(x, m, u): return scaled(x, [math.exp(.04*m*o) for o in curve(u, len(x[0]))])
def slow_time_warp(x, m, u): return play(x, [math.exp(.04*m*o) for o in curve(u, len(x[0]))])


def slow_window_warp(x, m, u):
    n = len(x[0])
    return play(x, [2**(sign(u[1])*m/10) if .7*u[0] <= (t+.5)/n < .7*u[0]+.3 else 1 for t in range(n)])


def slow_random_zoom_in(x, m, u):
    n, share = len(x[0]), .5**(m/10)
    return [[read(v, (n-1)*(u[0]*(1-share) + share*t/(n-1))) for t in range(n)] for v in x]


def slow_random_zoom_out(x, m, u):
    n, share = len(x[0]), .5**(m/10)
    start = u[0]*(n-1)*(1-share)
    def pos(t): return (t-start)/share
    return [[read(v, pos(t)) if 0 <= pos(t) <= n-1 else mean(v) for t in range(n)] for v in x]


def slow_translate_x(x, m, u):
    n = len(x[0])
    by = sign(u[0])*round(.03*m*n)
    return [[v[t-by] if 0 <= t-by < n else mean(v) for t in range(n)] for v in x]


def slow_cut_out(x, m, u):
    n = len(x[0])
    start = u[0]*(n-.03*m*n)
    return blank(x, lambda t: start <= t < start+.03*m*n)


def slow_smooth(x, m, u):
    n, sd = len(x[0]), max(.02*math.sqrt(m/10)*len(x[0]), 1e-3)
    def at(v, t):
        ws = [(math.exp(-.5*((s-t)/sd)**2), v[s]) for s in range(n) if abs(s-t) <= 3*sd and not math.isnan(v[s])]
        return sum(w*a for w, a in ws)/sum(w for w, _ in ws)
    return [[v[t] if math.isnan(v[t]) else at(v, t) for t in range(n)] for v in x]


def slow_down_up_scale(x, m, u):
    n, every = len(x[0]), 4**(m/10)
    return [[v[min(t, math.ceil(t//every*every))] for t in range(n)] for v in x]


def slow_horizontal_flip(x, m, u): return [v[::-1] for v in x] if u[0] < m/20 else x
def slow_vertical_flip(x, m, u): return [[2*mean(v)-a for a in v] for v in x] if u[0] < m/20 else x


SLOW = {k: globals()[f'slow_{k}'] for k in OPS if k not in RANDOM}


def slow(k, x, m, u):
    return torch.tensor([SLOW[k](*o) for o in zip(x.tolist(), m.tolist(), u.tolist())], dtype=torch.float64)


@pytest.mark.parametrize('missing', [False, True])
@pytest.mark.parametrize('k', SLOW)
def test_equals_a_slow_version(k, missing):
    "In float64, where no rounding hides a fault; u and m are float32 as they come from a draw"
    for seed in range(3):
        x, u = walks(12, 2, 30+seed, seed, torch.float64), numbers(12, seed)
        if missing:
            x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < .15] = math.nan
            x[0, 0, 20:] = math.nan
        m = torch.tensor([0, .5, 1, 2, 3, 4.7, 6, 9.3, 10, 14.9, 20, 30])
        got, want = OPS[k](x.clone(), m, u), slow(k, x, m, u)
        assert got.dtype == torch.float64 and got.shape == x.shape
        # a step whose place is a border within float32's rounding may fall on either side of it
        off = ~torch.isclose(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert off.float().mean() < (.004 if k in IN_TIME else 1e-9), (off.nonzero()[:5], got[off][:5], want[off][:5])


def test_random_operations_equal_a_slow_version():
    "The same draws, put to use one value at a time"
    x, u, m = walks(7, 3, 32, dtype=torch.float64), numbers(7), torch.tensor([0., 1, 4, 6, 10, 20, 30])
    rows = list(zip(x.tolist(), m.tolist()))
    torch.manual_seed(3)
    got = OPS['gaussian_noise'](x, m, u)
    torch.manual_seed(3)
    z = torch.randn(7, 3, 32, dtype=torch.float64).tolist()
    want = [[[a+.05*v*std(o)*e for a, e in zip(o, n)] for o, n in zip(r, s)] for (r, v), s in zip(rows, z)]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    torch.manual_seed(3)
    got = OPS['mag_mul_noise'](x, m, u)
    want = [[[a+.02*v*(a-mean(o))*e for a, e in zip(o, n)] for o, n in zip(r, s)] for (r, v), s in zip(rows, z)]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    torch.manual_seed(3)
    got = OPS['time_step_out'](x, m, u)
    torch.manual_seed(3)
    z = torch.rand(7, 1, 32).tolist()
    want = [blank(r, lambda t: s[0][t] < .03*v) for (r, v), s in zip(rows, z)]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize('c', [2, 3, 12])
def test_var_out(c):
    "So many whole channels are at their mean, never all of them, each as often as the others"
    x = torch.randn(4000, c, 5)
    for m in (0., 3., 10., 30.):
        u = torch.rand(len(x), 3)
        got = var_out(x, torch.full((len(x),), m), u)
        out = (got == x.mean(-1, keepdim=True)).all(-1)
        assert torch.equal(got[~out], x[~out])
        assert torch.equal(out.sum(1), (.03*m*c+u[:, 0]).floor().clamp(max=c-1).int())
        p = out.float().mean().item()
        assert (out.float().mean(0)-p).abs().max() < 4*(max(p*(1-p), 1e-9)/len(x))**.5+1e-9
        assert abs(p-min(.03*m, (c-1)/c)) < .03


def test_series_of_one_channel():
    "The only channel is never left out, and nothing is drawn for it in vain"
    x = walks(40, 1, 150)
    tfm = SeriesAugment(n=1, m=30, m_std=0)
    for seed in range(20):
        torch.manual_seed(seed)
        got = tfm((x, 0), split_idx=0)[0]
        assert (got.std(-1) > 0).all() and not (got == x).all(-1).any()
    assert len(tfm.ops_for([x])) == 13 and len(tfm.ops_for([walks()])) == 14
    with pytest.raises(ValueError, match='drops a channel, but these series have only one'):
        SeriesAugment(ops=['var_out'])(x, split_idx=0)


def test_smooth_at_the_ends():
    "Neither end reaches the other, however short the room beyond the row, and a level far from 0 costs no precision"
    m = torch.tensor([6., 30])
    for n in (1, 4, 28, 57, 63, 115, 230):
        x = walks(2, 2, n, n, torch.float64)
        got, want = OPS['smooth'](x, m, numbers(2)), slow('smooth', x, m, numbers(2))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(OPS['smooth'](x.float()+1e5, m, numbers(2)).double()-1e5, want, rtol=0, atol=.05)
    x = torch.randn(2, 3, 2000)+1000
    want = OPS['smooth'](x.double(), m, numbers(2))
    torch.testing.assert_close(OPS['smooth'](x, m, numbers(2)), want.float(), rtol=0, atol=2e-4)


@pytest.mark.parametrize('k', OPS)
def test_no_value_is_read_on_the_host(k):
    "It would make a GPU wait; tensors on `meta` have no values to read"
    x, m, u = (o.to('meta') for o in (walks(), torch.full((6,), 6.), numbers(6)))
    assert OPS[k](x, m, u).shape == x.shape


@pytest.mark.parametrize('k', OPS)
def test_m_0_is_the_identity(k):
    "Exactly, in any length, with missing values, for one row and for several"
    for n in (1, 2, 3, 25, 150, 1001):
        for x in (walks(3, 3, n), walks(1, 1, n, seed=1)):
            if n > 5: x[0, 0, 3:5] = math.nan
            got = OPS[k](x, torch.zeros(len(x)), numbers(len(x), n))
            assert got.dtype == x.dtype and torch.equal(got.nan_to_num(nan=-9), x.nan_to_num(nan=-9))


@pytest.mark.parametrize('k', OPS)
def test_stronger_changes_more(k):
    "The mean absolute change in standard deviations grows with m, the same draw each time"
    x, u = walks(600, 3, 80), numbers(600)
    def change(m):
        torch.manual_seed(0)
        return ((OPS[k](x, torch.full((600,), float(m)), u)-x).abs()/x.std(-1, keepdim=True)).mean().item()
    found = [change(m) for m in (0, 1, 3, 6, 10, 15, 20, 30)]
    assert found[0] == 0 and all(a < b for a, b in zip(found[:5], found[1:5])), found
    assert all(.8*a < b for a, b in zip(found, found[1:])), found  # beyond 10 some have taken all there is to take
    assert .05 < found[4] < 1.2, found  # strong, but something is left of the series


@pytest.mark.parametrize('k', OPS)
def test_a_row_is_treated_as_if_it_were_alone(k):
    "Row by row as in a batch; channels of 16 steps let torch draw the same numbers in either way"
    x, u, m = walks(5, 3, 48), numbers(5), torch.tensor([2., 0, 6, 10, 25])
    def alone(o): return OPS[k](x[o], m[o], u[o])
    torch.manual_seed(0)
    got = alone(slice(None))
    torch.manual_seed(0)
    torch.testing.assert_close(torch.cat([alone(slice(i, i+1)) for i in range(5)]), got)


@pytest.mark.parametrize('k', OPS)
def test_missing_values(k):
    "They stay where they are, or move and stretch with the series; nothing else goes missing"
    x = walks(60, 3, 100)
    x[:, 1, 60:70] = math.nan
    x[:30, 2] = math.nan  # a channel that is missing altogether
    torch.manual_seed(0)
    got = OPS[k](x, torch.full((60,), 10.), numbers(60))
    assert got[:30, 2].isnan().all() and not got[:, 0].isnan().any() and not got[30:, 2].isnan().any()
    if k not in IN_TIME: assert torch.equal(got.isnan(), x.isnan())
    n = got[:, 1].isnan().sum(1)
    assert n.max() <= 21 and n.float().mean() > (4 if k != 'translate_x' else 8)
    flags = got[:, 1].isnan().float().diff().abs().sum(1)
    assert flags.max() <= 2  # one gap, as it was


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_types_and_batches_stay(dtype):
    "Type, metadata, targets, the incoming batch; half precision is float32's result, rounded"
    class Series(TensorBase): pass
    x = walks(16, 3, 40, dtype=dtype).as_subclass(Series)
    x.origin = 'here'
    old, y = x.clone(), walks(16, 3, 40)
    for k, f in OPS.items():
        tfm = SeriesAugment(n=2, m=8, ops={k: f})
        def run(o):
            torch.manual_seed(0)
            return tfm((o, y), split_idx=0)
        got, y2 = run(x)
        assert type(got) is Series and got.dtype == dtype and got.origin == 'here' and y2 is y
        assert torch.equal(x, old) and got.isfinite().all()
        if dtype != torch.float64:
            want = x.as_subclass(torch.Tensor)
            torch.manual_seed(0)
            for d in draw_ops(16, 1, 2, 8, .5): want = f(want.float(), d.m, d.u).to(dtype)
            torch.testing.assert_close(got.as_subclass(torch.Tensor), want)


def test_any_length():
    for n in (1, 2, 3, 7):
        for c in (1, 2):
            for k, f in OPS.items():
                if c > 1 or k != 'var_out': assert f(walks(4, c, n), torch.full((4,), 30.), numbers(4)).isfinite().all()


def test_each_row_gets_its_own():
    "The whole transform against a loop over rows, with operations that need no more than `u`"
    ops, x = {k: OPS[k] for k in SLOW}, walks(24, 3, 48)
    for seed in range(3):
        torch.manual_seed(seed)
        got = SeriesAugment(n=3, m=9, m_std=2., ops=ops)((x, 0), split_idx=0)[0]
        torch.manual_seed(seed)
        want, fs = x.clone(), list(ops.values())
        for d in draw_ops(24, len(fs), 3, 9, 2.):
            for i in range(24): want[i] = fs[d.op[i]](want[i:i+1], d.m[i:i+1], d.u[i:i+1])[0]
        torch.testing.assert_close(got, want)


def test_with_a_seed_it_repeats():
    def draw(seed):
        torch.manual_seed(seed)
        return SeriesAugment()(walks(64), split_idx=0)
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)
    def forward(self, x): return self.lin(x.mean(-1))


def loaders(*ts, after_batch=None, **kwargs):
    items = list(zip(*ts))
    return DataLoaders(*[TfmdDL(items, bs=10, num_workers=0, after_batch=o, **kwargs) for o in (after_batch, None)])


def noise(**kwargs): return StudentNoise(SeriesAugment(**kwargs), dropout=None, stoch_depth=None)


@pytest.mark.parametrize('by_hand', [False, True])
@pytest.mark.filterwarnings('ignore:SeriesAugment is left out')  # by hand: where the loader is asked for its n_inp
def test_with_noisy_student(by_hand):
    "Noise runs on the combined batch, and labels are those of the rows"
    dls = loaders(walks(40), torch.arange(40) % 2, after_batch=[SeriesAugment(m=8)] if by_hand else None)
    x2, p2 = walks(30, seed=1)+1e4, torch.rand(30, 2)
    p2 /= p2.sum(1, keepdim=True)
    cbs = [NoisyStudent(TfmdDL(list(zip(x2, p2)), bs=5)), *([] if by_hand else [noise(m=8)])]
    _, probe = fit(dls, Mean(), CrossEntropyLossFlat(), *cbs, n_epoch=1, lr=0.)
    known = torch.cat([walks(40), x2])
    for (x,), y in zip(probe.xbs, probe.ybs):
        y = y.plain()
        assert x.shape == (10, 3, 48) and (x[:5] < 5e3).all() and (x[5:] > 5e3).all()
        same = (x[:, None] == known[None]).flatten(2).all(-1)
        assert same.sum() <= 2  # hardly a row is as it was
        assert (y[:5].max(1)[0] == 1).all() and all((o == p2).all(1).any() for o in y[5:])


def test_what_is_an_input():
    "All elements but the last, or the only one, unless `n_inp` says otherwise; of these, the series"
    x, p = walks(8), torch.rand(8, 2)
    def changed(*b, **kwargs):
        old = [o.clone() for o in b]
        new = SeriesAugment(n=1, m=9, ops=['mag_scale'], **kwargs)(b, split_idx=0)
        assert type(new) is tuple and all(map(torch.equal, b, old))
        return [not torch.equal(*o) for o in zip(new, b)]
    assert changed(x) == [True]
    assert changed(x, x) == [True, False]  # a forecast
    assert changed(x, x, p) == changed(x, x, x) == [True, True, False]
    assert changed(p, x, p) == [False, True, False]
    assert changed(x, x, n_inp=2) == [True, True]
    assert changed(x, x, p, n_inp=1) == [True, False, False]
    assert changed(x, p, n_inp=5) == [True, False]
    with pytest.raises(TypeError, match='but torch.float32 of shape'): changed(p, x)
    with pytest.raises(TypeError, match='but torch.float32 of shape'): changed(p, x, p, n_inp=1)


@pytest.mark.parametrize('n_inp,n_targs', [(1, 1), (2, 1), (1, 2)])
def test_inputs_in_a_learner(n_inp, n_targs):
    "`StudentNoise` tells how many there are: other series are targets"
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(1))
        def forward(self, *xs): return self.a*xs[0]
    def lf(pred, *ys): return (pred-ys[0]).square().mean()
    xs = [walks(40, seed=i) for i in range(n_inp+n_targs)]
    dls = loaders(*xs)
    dls.train._n_inp = dls.valid._n_inp = n_inp
    _, probe = fit(dls, First(), lf, noise(n=1, m=9, m_std=0, ops=['mag_scale']), n_epoch=1)
    def same(o, x): return (o[:, None] == x[None]).flatten(2).all(-1).any(1)
    for xb, y in zip(probe.xbs, probe.ybs):
        assert len(xb) == n_inp and not any(same(o, x).any() for o, x in zip(xb, xs))
        assert same(y, xs[n_inp]).all()


def test_left_out_by_hand():
    "A list does not say what it is for: without `StudentNoise` a loader's own noise is left out, and says so"
    x = walks(40)
    dls = loaders(x, x, after_batch=[SeriesAugment(m=10)])
    with pytest.warns(match='SeriesAugment is left out.*StudentNoise'): got = dls.one_batch()[0]
    assert torch.equal(got, x[:10])


def test_schedules_and_copies():
    tfm = SeriesAugment(m=SchedLin(0, 12), m_std=0, n=1, ops=['mag_scale'])
    x = walks(64)
    for pct in (0., .5, 1.):
        tfm.pct = pct
        f = ((tfm(x, split_idx=0)-x.mean(-1, keepdim=True)).std(-1)/x.std(-1)).log2().abs()
        torch.testing.assert_close(f, torch.full_like(f, 1.2*pct), atol=1e-3, rtol=1e-3)
    assert deepcopy(tfm).now('m') == 12 and pickle.loads(pickle.dumps(tfm)).m == 12


# tsai

@pytest.fixture
def tsai():
    from tsai.data import transforms
    return transforms


@pytest.mark.tsai
def test_tsai_op(tsai, monkeypatch):
    "Each row is what the transform makes of it alone, with its own magnitude"
    from tsai import utils
    from tsai.data.core import TSTensor
    def seed():
        set_seed(0)
        monkeypatch.setattr(utils, 'rng', np.random.default_rng(0))
    x, m = walks(8, 2, 40), torch.tensor([0., 2, 4, 5, 7, 10, 12, 30])
    for tfm, top in ((tsai.TSTimeNoise, .7), (tsai.TSMagWarp, .2), (tsai.TSRandomTrend, .5), (tsai.TSShuffleSteps, 1.),
                     (tsai.TSInputDropout, .5)):
        seed()
        got = tsai_op(tfm, top)(x, m, numbers(8))
        seed()
        def alone(o, v): return tfm(magnitude=top*min(float(v)/10, 1))(TSTensor(o[None].clone()), split_idx=0)
        want = [alone(o, v) if v else o[None] for o, v in zip(x, m)]
        torch.testing.assert_close(got, torch.cat([o.as_subclass(torch.Tensor) for o in want]).float())
        assert type(got) is torch.Tensor and torch.equal(got[0], x[0])


@pytest.mark.tsai
def test_all_of_tsai(tsai):
    "What keeps the length works; what does not is named; max_magnitude comes from tsai's list"
    x, changed = walks(4, 3, 40), []
    for o in tsai.all_TS_randaugs:
        tfm = getattr(o[0] if isinstance(o, tuple) else o, 'func', o[0] if isinstance(o, tuple) else o)
        op = tsai_op(tfm)
        assert op.max_magnitude == (float(o[2]) if isinstance(o, tuple) else 1.)
        try: got = op(x.clone(), torch.full((4,), 10.), None)
        except ImportError: continue  # without pywt
        except ValueError as e:
            assert tfm.__name__ in str(e) and tfm in (tsai.TSRandomSize, tsai.TSRandomLowRes)
            continue
        assert got.shape == x.shape and got.dtype == x.dtype and not got.requires_grad
        changed.append(not torch.equal(got, x))
    assert sum(changed) > 25


@pytest.mark.tsai
def test_table_of_strengths(tsai):
    "The magnitudes of the page's table change as much as m=10 does, where tsai's are not drawn"
    from tsai.data.core import TSTensor
    x = torch.randn(2000, 1, 60, generator=torch.Generator().manual_seed(0))
    x = (x-x.mean(-1, keepdim=True))/x.std(-1, keepdim=True, correction=0)
    def ours(k, m):
        torch.manual_seed(1)
        return (OPS[k](x, torch.full((2000,), float(m)), numbers(2000))-x).square().mean().sqrt()
    def theirs(tfm, v):
        y = tfm(magnitude=v)(TSTensor(x), split_idx=0).as_subclass(torch.Tensor)
        return (y-x).square().mean().sqrt()
    for k, tfm, vs in (('gaussian_noise', tsai.TSGaussianNoise, (.25, .5)),
                       ('mag_mul_noise', tsai.TSMagMulNoise, (4, 8)), ('time_step_out', tsai.TSTimeStepOut, (.15, .3))):
        for m, v in zip((5, 10), vs): assert abs(ours(k, m)/theirs(tfm, v)-1) < .05, (k, m)
    t = torch.arange(64.)[None, None]  # how many steps are left
    assert len(OPS['down_up_scale'](t, torch.tensor([10.]), numbers(1)).unique()) == 16
    assert len(tsai.TSDownUpScale(magnitude=.75)(TSTensor(t), split_idx=0).unique()) == 16
    for m, v in ((5., .29), (10., .5)):  # the part that is seen
        span = (tsai.TSWindowSlicing(magnitude=v)(TSTensor(t), split_idx=0)[..., [0, -1]]).diff().item()
        assert abs(OPS['random_zoom_in'](t, torch.tensor([m]), numbers(1))[..., [0, -1]].diff().item()-span) < 1.5


@pytest.mark.tsai
def test_in_a_learner_of_tsai(tsai, tmp_path):
    "TSTensor batches stay so; with NoisyStudent; an export with operations of tsai can be loaded"
    import tsai_toys as toys
    ops = {**series_ops, 'TSTimeNoise': tsai_op(tsai.TSTimeNoise)}
    learn = toys.classifier(NoisyStudent(toys.soft_dl(bs=8)), batch_tfms=[SeriesAugment(ops=ops)])
    x, y = learn.dls.one_batch()
    assert type(x).__name__ == 'TSTensor' and torch.isfinite(x).all()
    raw = torch.tensor(toys.X)
    assert not any((o == raw).flatten(1).all(1).any() for o in x.as_subclass(torch.Tensor)[:8])
    toys.fit(learn)
    with learn.no_bar(): want = learn.get_X_preds(toys.X[:10])[0]
    learn.export(tmp_path/'a.pkl')
    new = load_learner(tmp_path/'a.pkl')
    with new.no_bar(): torch.testing.assert_close(new.get_X_preds(toys.X[:10])[0], want)
    assert list(new.dls.train.after_batch.fs[-1].ops) == list(ops)


def test_errors_have_fields():
    x = walks(4, 1, 20)
    for make, b, error, key, value in (
            (SeriesAugment, (x[:, 0],), BadType, 'batch', 'torch.float32 of shape (4, 20)'),
            (lambda: SeriesAugment(ops=['var_out']), (x,), BadValue, 'ops', ['var_out']),
            (lambda: SeriesAugment(n_inp=0), (x,), BadValue, 'n_inp', 0),
            (lambda: tsai_op('TSTimeNoise'), (x,), BadType, 'tfm', 'TSTimeNoise'),
            (lambda: tsai_op(int, -1), (x,), BadValue, 'max_magnitude', -1)):
        with pytest.raises(error) as e: make()(b, split_idx=0)
        assert (e.value.argument, e.value.value) == (key, value)


@pytest.mark.tsai
def test_a_transform_that_changes_the_length(tsai):
    with pytest.raises(BadValue, match=r'^tsai_op\(TSRandomSize, .*\) turns series of 40 steps into series of ') as e:
        for _ in range(20): tsai_op(tsai.TSRandomSize)(walks(4, 1, 40), torch.full((4,), 10.), None)
    assert (e.value.argument, e.value.value) == ('tfm', 'TSRandomSize')
