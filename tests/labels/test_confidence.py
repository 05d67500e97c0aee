"Temperatures, thresholds and reliability against simulated truth, grids and loops"
from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.labels.confidence import calibrate, reliability, suggest_min_conf, temper
from scipy.stats import beta

some = settings(max_examples=80, deadline=None, derandomize=True)


def simulate(n, c, t, seed, scale=2.):
    "Probabilities that are off by a temperature `t`, and classes drawn from the right ones"
    g = torch.Generator().manual_seed(seed)
    z = scale*torch.randn(n, c, generator=g, dtype=torch.float64)
    return (t*z).softmax(1), torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]


@some
@given(n=st.integers(1, 9), c=st.integers(1, 12), t=st.floats(.05, 20), kind=st.sampled_from(['single', 'multi']),
       dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), zeros=st.booleans(),
       seed=st.integers(0, 999))
def test_temper(n, c, t, kind, dtype, zeros, seed):
    "p**(1/t), made to sum to 1; zeros stay zeros, ones of several classes stay ones; no NaN"
    g = np.random.default_rng(seed)
    p = g.dirichlet(np.ones(c), n) if kind == 'single' else g.random((n, c))
    if zeros and c > 1:
        p[:, 0] = 0
        if kind == 'single': p /= p.sum(1, keepdims=True)
        else: p[:, 1] = 1
    p = torch.tensor(p).to(dtype)
    got, x = temper(p, t, kind), p.double().numpy()
    assert got.dtype == dtype and got.shape == p.shape
    a = np.exp(np.log(x, where=x > 0, out=np.full_like(x, -inf))/t-np.log(x.max(1, keepdims=True))/t)
    with np.errstate(divide='ignore', over='ignore'):
        want = a/a.sum(1, keepdims=True) if kind == 'single' else 1/(1+(1/x-1)**(1/t))
    eps = dict(float16=2e-3, bfloat16=1e-2, float32=1e-4, float64=1e-9)[str(dtype)[6:]]
    np.testing.assert_allclose(got.double(), want, atol=eps)
    if zeros and c > 1: assert (got[:, 0] == 0).all() and (kind == 'single' or (got[:, 1] == 1).all())


@pytest.mark.parametrize('t', [.1, .5, 1.01, 10])
def test_temper_orders_and_inverts(t):
    p = simulate(200, 7, 1., 0)[0]
    q = temper(p, t)
    assert torch.equal(p.argsort(1), q.argsort(1))
    torch.testing.assert_close(temper(q, 1/t), p)
    torch.testing.assert_close(temper(temper(p, 2.), t), temper(p, 2*t))


def test_temper_types():
    "Arrays, read-only memory maps, subclasses of Tensor; what comes in is not changed"
    class Sub(torch.Tensor): pass
    p = np.full((4, 2), .5, np.float16)
    p.flags.writeable = False
    assert temper(p, 2.).dtype == np.float16 and type(temper(p, 2.)) is np.ndarray
    assert temper([[.2, .8]], 2.).shape == (1, 2)
    x = torch.rand(4, 3).softmax(1)
    old = x.clone()
    assert isinstance(temper(x.as_subclass(Sub), 3.), Sub) and torch.equal(x, old)
    assert temper(p, 1) is p and temper(x, 1., 'multi') is x


@pytest.mark.parametrize('t', [0, -1, nan, inf])
def test_temper_refuses(t):
    with pytest.raises(ValueError, match=f't={t}: expected a number above 0'): temper(torch.ones(1, 2)/2, t)


@pytest.mark.parametrize('t', [.3, 1., 3.])
@pytest.mark.parametrize('c', [2, 30])
@pytest.mark.parametrize('seed', range(2))
def test_calibrate(t, c, seed):
    "Finds the temperature that the teacher was off by, and the best one of a grid"
    p, y = simulate(6000, c, t, seed)
    got = calibrate(p, y)
    assert abs(np.log(got/t)) < .12
    def nll(t): return -temper(p, t)[torch.arange(len(y)), y].log().mean().item()
    assert nll(got) <= min(map(nll, np.exp(np.linspace(np.log(.05), np.log(20), 150))))+1e-9
    assert abs(np.log(calibrate(temper(p, got), y))) < 1e-3


@pytest.mark.parametrize('t', [.3, 1., 3.])
def test_calibrate_multi(t):
    g = torch.Generator().manual_seed(0)
    z = 2*torch.randn(3000, 5, generator=g, dtype=torch.float64)
    y = torch.bernoulli(z.sigmoid(), generator=g)
    p = (t*z).sigmoid()
    got = calibrate(p, y, 'multi')
    assert abs(np.log(got/t)) < .1
    def nll(t): return torch.nn.functional.binary_cross_entropy(temper(p, t, 'multi'), y).item()
    assert nll(got) <= min(map(nll, np.exp(np.linspace(np.log(.05), np.log(20), 150))))+1e-9


def test_calibrate_at_the_edges():
    "All right: as sharp as it may be; half precision, with zeros for the true class, gives something finite"
    p, y = simulate(400, 4, 1., 0)
    assert calibrate(p, p.argmax(1)) == pytest.approx(.05, rel=1e-3)
    sharp = (9*p.log()).softmax(1).half()
    assert (sharp[torch.arange(400), y] == 0).any()
    def nll(t): return -temper(sharp.double().clip(2**-24), t)[torch.arange(400), y].log().mean().item()
    t = calibrate(sharp, y)
    assert nll(t) <= min(map(nll, np.exp(np.linspace(np.log(.05), np.log(20), 150))))+1e-9 and 5 < t < 9
    many = (sharp > .5).half()  # as labels of several classes: zeros and ones only
    assert 1 < calibrate(many, torch.eye(4)[y], 'multi') < 20
    assert 1 < calibrate(torch.tensor([[1., 0], [0, 1]]), [1, 1]) <= 20
    assert calibrate(p, y[:, None]) == calibrate(p, y) == calibrate(p.numpy(), y.numpy().astype(np.uint8))


P = np.array([[.7, .3], [.4, .6]])
WRONG = {
    'logits': (P*9-3, [0, 1], ValueError, 'expected probabilities, .* not logits'),
    'log probabilities': (np.log(P), [0, 1], ValueError, 'preds has values from -'),
    'NaN': ([[nan, .5], [.5, .5]], [0, 1], ValueError, 'preds holds nan'),
    'inf': ([[inf, .5], [.5, .5]], [0, 1], ValueError, 'preds has values from 0.5 to inf'),
    'sums': (P/2, [0, 1], ValueError, 'with sums from 0.5 to 0.5'),
    'no rows': (np.zeros((0, 2)), np.zeros(0, int), ValueError, r'preds has shape \(0, 2\)'),
    'no classes': (np.zeros((2, 0)), [0, 1], ValueError, r'preds has shape \(2, 0\)'),
    'classes': ([1, 0], [0, 1], ValueError, r'preds has shape \(2,\)'),
    'whole preds': (np.eye(2, dtype=int), [0, 1], TypeError, 'preds is of type int64'),
    'lengths': (P, [0], ValueError, r'targs has shape \(1,\) and preds \(2, 2\)'),
    'index too great': (P, [0, 2], ValueError, 'targs holds 2: expected a class index from 0 to 1'),
    'negative index': (P, [0, -1], ValueError, 'targs holds -1'),
    'floats': (P, [0., 1.], TypeError, 'targs is of type float64'),
    'one-hot': (P, np.eye(2, dtype=int), ValueError, r'targs has shape \(2, 2\)')}


@pytest.mark.parametrize('func', [calibrate, suggest_min_conf, reliability])
@pytest.mark.parametrize('wrong', WRONG)
def test_errors(func, wrong):
    preds, targs, kind, text = WRONG[wrong]
    with pytest.raises(kind, match=text): func(np.array(preds), np.array(targs))


def test_errors_multi():
    for targs, text in (([0, 1], r'targs has shape \(2,\)'), (P, 'targs holds 0.7'), (P+9, 'targs holds')):
        with pytest.raises(ValueError, match=text): calibrate(P, np.array(targs), 'multi')
    with pytest.raises(ValueError, match='not logits'): calibrate(P*9, np.eye(2), 'multi')
    with pytest.raises(ValueError, match="kind='values'"): calibrate(P, np.eye(2), 'values')


@pytest.mark.parametrize('name,v', [('precision', 0), ('precision', 1.1), ('precision', nan), ('level', 0),
                                    ('level', 1)])
def test_settings_of_suggest(name, v):
    with pytest.raises(ValueError, match=f'{name}={v}'): suggest_min_conf(P, [0, 1], **{name: v})
    with pytest.raises(TypeError, match=f"{name}='a'"): suggest_min_conf(P, [0, 1], **{name: 'a'})


def test_settings_of_reliability():
    for bins, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match=f'bins={bins}'): reliability(P, [0, 1], bins)


def slow_min_conf(conf, hits, precision):
    "(least confidence, rows, right ones) over all confidences that occur"
    res = None
    for o in sorted(set(conf)):
        above = [h for k, h in zip(conf, hits) if k >= o]
        if res is None and sum(above)/len(above) >= precision: res = o, len(above), sum(above)
    return res


@some
@given(n=st.integers(1, 60), c=st.integers(2, 5), ties=st.booleans(),
       precision=st.sampled_from([.2, .5, .75, .9, .95, 1.]),
       level=st.sampled_from([.5, .95]), seed=st.integers(0, 999))
def test_suggest(n, c, ties, precision, level, seed):
    "The threshold is the one of the loop, and its interval that of Clopper and Pearson"
    p, y = simulate(n, c, 1.5, seed)
    if ties: p = torch.tensor([.8]+[.2/(c-1)]*(c-1), dtype=torch.float64)[torch.rand(n, c).argsort(1)]
    conf, hits = p.max(1).values.tolist(), (p.argmax(1) == y).tolist()
    want = slow_min_conf(conf, hits, precision)
    if want is None:
        with pytest.raises(ValueError, match='is not reached at any confidence'):
            suggest_min_conf(p, y, precision, level=level)
        return
    s = suggest_min_conf(p, y, precision, level=level, seed=seed)
    least, m, k = want
    a = (1-level)/2
    assert (s.min_conf, s.kept, s.precision, s.n) == (least, m, k/m, n)
    assert s.low == pytest.approx(beta.ppf(a, k, m-k+1) if k else 0, abs=1e-6)
    assert s.high == pytest.approx(beta.ppf(1-a, k+1, m-k) if k < m else 1, abs=1e-6)
    assert 0 < s.conf_low <= s.conf_high <= 1 and s == suggest_min_conf(p, y, precision, level=level, seed=seed)
    assert '\n' not in repr(s) and f'{m:,} of {n:,} rows' in repr(s)


def test_the_best_is_named():
    with pytest.raises(ValueError,
                       match=r'precision=0\.9 .* The best is 0\.667, of the 3 rows with a confidence of 0\.8 or more'):
        suggest_min_conf(np.array([[.8, .2], [.9, .1], [.85, .15], [.6, .4]]), [0, 1, 0, 1], .9)


def test_bootstrap():
    "A loop that draws the same rows and looks for the threshold in them"
    p, y = simulate(120, 3, 1., 0)
    conf, hits = p.max(1).values.numpy(), (p.argmax(1) == y).numpy()
    order = np.argsort(-conf, kind='stable')
    g, res = np.random.default_rng(3), []
    for _ in range(500):
        rows = order[g.integers(120, size=120)]
        res.append((slow_min_conf(conf[rows].tolist(), hits[rows].tolist(), .8) or [1.])[0])
    s = suggest_min_conf(p, y, .8, seed=3)
    assert [s.conf_low, s.conf_high] == pytest.approx(np.quantile(res, [.025, .975]).tolist())
    assert suggest_min_conf(p, y, .8, seed=4)[6:] != s[6:]


@pytest.mark.parametrize('t', [.5, 3.])
def test_threshold_fits_the_tempered_labels(t):
    "Confidences are those that `temper` gives in the precision of `preds`: the row at the border is above it"
    p, y = simulate(500, 4, 1., 1)
    p = p.float()
    s = suggest_min_conf(p, y, .8, temperature=t)
    assert (temper(p, t).max(1).values.numpy() >= np.float32(s.min_conf)).sum() == s.kept


@some
@given(n=st.integers(1, 200), c=st.integers(1, 6), bins=st.integers(1, 40), seed=st.integers(0, 999))
def test_reliability(n, c, bins, seed):
    p, y = simulate(n, c, 2., seed)
    rel, rows, ece = reliability(p, y, bins), {}, 0
    for i in range(n):
        conf, k = max((float(o), -j) for j, o in enumerate(p[i]))
        rows.setdefault(min(int(conf*bins), bins-1), []).append((conf, -k == y[i].item()))
    for b, conf, acc, m in zip(sorted(rows), rel.conf, rel.acc, rel.n):
        assert (conf, acc, m) == pytest.approx((*np.mean(rows[b], axis=0), len(rows[b])))
        ece += abs(conf-acc)*m/n
    assert len(rel.n) == len(rows) and rel.n.sum() == n and rel.ece == pytest.approx(ece)


def test_certain_rows_share_the_last_bin():
    rel = reliability(np.array([[1., 0], [.99, .01]]), [0, 1], 10)
    assert (rel.conf.tolist(), rel.acc.tolist(), rel.n.tolist()) == ([.995], [.5],
                                                                     [2]) and rel.ece == pytest.approx(.495)


def test_a_true_teacher_is_reliable():
    "Over seeds, a teacher that gives the true probabilities has a small error, and one twice as sure a large one"
    true, sure = ([reliability(*simulate(4000, 5, t, s)).ece for s in range(5)] for t in (1, 2))
    assert max(true) < .03 < .08 < min(sure)
