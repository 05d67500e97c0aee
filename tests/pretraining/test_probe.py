"A probe is scikit-learn's linear model on scaled numbers, row by row; its error is that of pairs"
import numpy as np
import pytest
from noisy_student_fastai.pretraining.probe import Probe, row_scores
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score


def embedding(seed, n=80, d=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))*[1, 5, .1, 2]+3
    return x, x@rng.normal(size=(d, 3))+rng.normal(size=(n, 3))


def scaled(a, b): return ((o-a.mean(0))/a.std(0) for o in (a, b))


@pytest.mark.parametrize('seed', range(3))
def test_scores(seed):
    x, s = embedding(seed)
    a, b = scaled(x[:30], x[30:])
    y = s.argmax(1)
    got = row_scores('single', x[:30], y[:30], x[30:], y[30:])
    assert np.array_equal(got, LogisticRegression(max_iter=1000).fit(a, y[:30]).predict(b) == y[30:])
    many = (s > 3).astype(float)
    got = row_scores('multi', x[:30], many[:30], x[30:], many[30:])
    want = []
    for k in range(3):
        known = np.unique(many[:30, k])
        m = LogisticRegression(max_iter=1000)
        pred = np.full(50, known[0]) if len(known) == 1 else m.fit(a, many[:30, k]).predict(b)
        want.append(pred == many[30:, k])
    assert np.allclose(got, np.mean(want, 0))
    got = row_scores('values', x[:30], s[:30], x[30:], s[30:])
    assert got.mean() == pytest.approx(r2_score(s[30:], Ridge().fit(a, s[:30]).predict(b)))
    assert row_scores('values', x[:30], s[:30, 0], x[30:], s[30:, 0]).shape == (50,)


def test_odd_rows():
    x, _ = embedding(0)
    assert row_scores('single', x[:5], np.zeros(5, int), x[5:], np.arange(75) % 2).mean() == pytest.approx(.5, abs=.01)
    x[3, 1] = np.inf
    assert np.isfinite(row_scores('values', x[:30], x[:30, 0], x[30:], x[30:, 0])).all()


def test_the_error_is_that_of_pairs():
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 400)) < [[.6], [.7]]).astype(float)
    p = Probe.of('single', a, b, 40)
    assert (p.before, p.after, p.n_labeled, p.n_valid) == (a.mean(), b.mean(), 40, 400)
    assert p.se == pytest.approx(np.sqrt(np.var(b-a, ddof=1)/400), rel=.01)
    for n in (1, 2, 3, 10):  # a row or two prove nothing, whatever they say
        assert (Probe.of('single', np.zeros(n), np.ones(n), 9).verdict == "it has helped") == (n > 3)
    assert Probe.of('single', b, b, 9).verdict == "which may be chance"
    assert Probe.of('single', np.ones(50), np.zeros(50), 9).verdict == "it has done harm"


def test_in_words():
    p = Probe('single', .5, .6, .02, 40, 200)
    assert str(p) == "a linear probe on 40 labeled rows: 60.0% of 200 validation rows right, 50.0% before, " \
                     "+10.0 +- 2.0 points: it has helped"
    assert 'R2 on 200 validation rows, 0.500 before, +0.100 +- 0.020' in str(Probe('values', .5, .6, .02, 40, 200))
