"Propagated labels against a dense solution, and in all the ways in which labels come and go"
import warnings

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from matplotlib import pyplot as plt
from noisy_student_fastai.all import PseudoLabels, calibrate
from noisy_student_fastai.labels.graph import edges, neighbors
from scipy.optimize import brentq
from toys import points, pts_learner

N = 150
X = points(N, 5)[0].numpy()


def made(n=60, m=9, c=3, d=5, seed=0, kind='single', labels=None, **arrays):
    "Labels with places, as `pseudolabel` makes them"
    rng = np.random.default_rng(seed)
    y = rng.integers(c, size=n+m)
    y[:c] = np.arange(c)
    x = (2*rng.normal(size=(c, d))[y]+rng.normal(size=(n+m, d))).astype(np.float32)
    p = rng.dirichlet(np.ones(c), n).astype(np.float32)
    if kind == 'multi': p = rng.random((n, c)).astype(np.float32)
    if labels is None:
        labels = y[:m] if kind == 'single' else rng.integers(2, size=(m, c)) if kind == 'multi' else rng.normal(size=m)
    pl = PseudoLabels(p if kind != 'values' else p[:, :1], kind=kind)
    pl.arrays |= dict(labeled_y=labels, labeled_teacher=x[:m], embed_teacher=x[m:]) | arrays
    return pl


def solved(w, y):
    "Dense"
    d = w.sum(0)+(w.sum(0) == 0)
    full = np.zeros((len(w), y.shape[1]))
    full[:len(y)] = y
    return np.linalg.solve(np.eye(len(w))-.99*w/np.sqrt(np.outer(d, d)), full)[len(y):]


def sharpened(p, conf):
    "By a root finder, on the rows that a temperature can change"
    free = p.max(1) < 1-1e-12  # an exact solution has 0 where a dense one has rounding
    def at(t):
        q = (p/p.max(1, keepdims=True))**(1/t)
        return q/q.sum(1, keepdims=True)
    if not free.any(): return p
    def above(t): return at(t)[free].max(1).mean()-conf[free].mean()
    return at(brentq(above, .001, 1e3)) if above(1e3) < 0 else at(1e3)  # no row is less sure than of one class in c


def graph_of(pl, k=7, name='teacher'):
    return edges(*neighbors(np.concatenate([pl.arrays[f'labeled_{name}'], pl.arrays[f'embed_{name}']]), k)).toarray()


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('prior', ['labeled', None, [.6, .3, .1], 'uniform'])
def test_one_class_a_row(seed, prior):
    pl = made(seed=seed)
    y = np.eye(3)[pl.arrays['labeled_y']]
    f = solved(graph_of(pl), y/y.sum(0))
    shares = dict(labeled=y.mean(0), uniform=np.full(3, 1/3)).get(prior, prior) if isinstance(prior, str) else prior
    if shares is not None: f = f*np.array(shares)/f.sum(0)
    ok = f.sum(1) > 1e-8*f.sum(1).max()  # some rows are on islands
    nothing = np.asarray(y.mean(0) if shares is None else shares)**.01
    want = np.tile(nothing/nothing.sum(), (60, 1))
    want[ok] = sharpened(f[ok]/f[ok].sum(1, keepdims=True), pl.conf[ok])
    got = pl.propagate(mix=0, prior=prior)
    assert np.allclose(got.probs, want, atol=1e-4)
    assert np.array_equal(got.label[ok], want[ok].argmax(1))
    half = pl.propagate(mix=.5, prior=prior)
    assert np.allclose(half.probs, (want+pl.probs)/2, atol=1e-4)
    assert np.array_equal(half.arrays['teacher_label'], pl.label)
    assert np.allclose(pl.propagate(mix=1, prior=prior).probs, pl.probs, atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_two_places(seed):
    "Graphs have the same weight, and the teacher what is left"
    pl = made(seed=seed)
    other = made(seed=seed+10, d=8)
    pl.arrays |= {k.replace('teacher', 'inputs'): v for k, v in other.arrays.items() if k.endswith('_teacher')}
    a, b = (pl.propagate(mix=0, on=o).probs for o in ('teacher', ('inputs',)))
    assert np.allclose(pl.propagate(mix=1/3).probs, (a+b+pl.probs)/3, atol=1e-5)
    assert np.allclose(pl.propagate().probs, .4*a+.4*b+.2*pl.probs, atol=1e-5)
    assert pl.propagate().about['propagated']['on'] == ['teacher', 'inputs']


@pytest.mark.parametrize('seed', range(3))
def test_several_labels_a_row(seed):
    "As many rows have a label as labeled rows do, those to which most of it flows"
    pl = made(n=200, m=20, seed=seed, kind='multi')
    y = pl.arrays['labeled_y'].astype(float)
    f = solved(graph_of(pl), np.c_[np.ones(20), y])
    mean, got = f[:, 1:]/f[:, :1], pl.propagate(mix=0)
    for c in range(3):
        k = int(round(200*y[:, c].mean()))
        assert abs(int((got.probs[:, c] >= .5).sum())-k) <= 1
        assert np.array_equal(np.argsort(mean[:, c]), np.argsort(got.probs[:, c])) or (
            np.abs(np.diff(np.sort(mean[:, c]))).min() < 1e-6)
    assert abs(got.conf.mean()-pl.conf.mean()) < 1e-3
    as_is = pl.propagate(mix=0, prior=None).probs
    order = np.argsort(mean.ravel())
    assert (np.diff(as_is.ravel()[order]) > -1e-5).all()


@pytest.mark.parametrize('seed', range(3))
def test_values(seed):
    pl = made(seed=seed, kind='values')
    f = solved(graph_of(pl), np.c_[np.ones(9), pl.arrays['labeled_y']])
    want = f[:, 1:]/f[:, :1]
    assert np.allclose(pl.propagate(mix=0).values, want, atol=1e-5)
    assert np.allclose(pl.propagate(mix=.25).values, .25*pl.values+.75*want, atol=1e-5)


def test_soft_labels_of_labeled_rows():
    pl = made()
    y = pl.arrays['labeled_y']
    soft = made(labels=np.eye(3, dtype=np.float32)[y])
    assert np.allclose(soft.propagate().probs, pl.propagate().probs)


def test_rows_that_no_label_reaches():
    "Nothing is said of them, they are selected last, and the teacher decides which class they are"
    pl, far = made(n=80), np.arange(80) < 30
    x = pl.arrays['embed_teacher'].copy()
    x[far] = np.random.default_rng(1).normal(size=(30, 5))*.01-30
    pl.arrays['embed_teacher'] = x
    got = pl.propagate(mix=0)
    q = np.bincount(pl.arrays['labeled_y'], minlength=3)
    assert np.allclose(got.probs[far], 1/3, atol=.01) and got.about['propagated']['unreached'] == 30
    assert got.conf[far].max() < got.conf[~far].min() and (got.label[far] == q.argmax()).all()
    assert got.select(.35).rows.min() >= 30
    assert (pl.propagate(mix=.5).label[far] == pl.label[far]).mean() > .9
    pl.arrays['embed_teacher'] = np.where((np.arange(80) < 70)[:, None], x[:1]*[[1.001]], x).astype(np.float32)
    with pytest.warns(UserWarning, match='no label reaches 70 of 80 rows.*larger `k`'): pl.propagate()


@pytest.mark.parametrize('kind', ['single', 'multi', 'values'])
def test_few_rows(kind):
    "One labeled row, as many neighbors as there are rows and more, copies of rows"
    pl = made(n=6, m=1, c=2, kind=kind, labels=dict(single=np.array([1]), values=np.array([3.])).get(
        kind, np.array([[1, 0]])))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for k in (1, 7, 50): assert np.isfinite(np.asarray(pl.propagate(k).preds, float)).all()
    pl = made(kind=kind, n=60)
    pl.arrays['embed_teacher'] = pl.arrays['embed_teacher'][np.arange(60)//20]
    assert np.isfinite(np.asarray(pl.propagate(5).preds, float)).all()


def test_islands_of_one_class():
    "What reaches them is certain at any temperature: the others are as confident as the teacher is of these"
    pl, island = made(n=90), np.arange(90) < 40
    x, xl = (pl.arrays[k].copy() for k in ('embed_teacher', 'labeled_teacher'))
    x[island] = np.random.default_rng(1).normal(size=(40, 5))*.01-30
    xl[0] = -30
    pl.arrays |= dict(embed_teacher=x, labeled_teacher=xl)
    got = pl.propagate(mix=0)
    assert (got.conf[island] == 1).all() and (got.label[island] == pl.arrays['labeled_y'][0]).all()
    assert abs(got.conf[~island].mean()-pl.conf[~island].mean()) < 1e-3


def test_a_class_without_labeled_rows():
    pl = made(labels=np.array([0, 2]*4+[0]))
    with pytest.warns(UserWarning, match=r'1 of 3 classes have no labeled row.*\[1\]'): got = pl.propagate(mix=0)
    assert not got.probs[:, 1].any()
    with pytest.warns(UserWarning): assert np.allclose(pl.propagate(mix=.5).probs[:, 1], pl.probs[:, 1]/2, atol=1e-6)


@pytest.mark.parametrize('args,match', [
    (dict(k=0), 'k'), (dict(k=2.5), 'k'), (dict(mix=1.1), 'mix'), (dict(mix='a'), 'mix'), (dict(alpha=1), 'alpha'),
    (dict(gamma=-1), 'gamma'), (dict(on='inputs'), 'on'), (dict(on=()), 'on'), (dict(on=('teacher', 'teacher')), 'on'),
    (dict(prior='equal'), 'prior'), (dict(prior=[1, 2]), 'prior'), (dict(n_exact=9), 'n_exact')])
def test_mistakes(args, match, monkeypatch):
    monkeypatch.setattr('noisy_student_fastai.labels.graph.find_spec', lambda name: None)
    with pytest.raises((ValueError, TypeError)) as e: made().propagate(**args)
    assert e.value.argument == match


def test_labels_that_can_not_be_propagated():
    pl = made()
    with pytest.raises(ValueError, match=r'without embeddings.*embed=True') as e: PseudoLabels(pl.probs).propagate()
    assert e.value.argument == 'on'
    with pytest.raises(ValueError, match='propagated already'): pl.propagate().propagate()
    with pytest.raises(ValueError, match='same embedding'):
        made(embed_teacher=np.ones((60, 5)), labeled_teacher=np.ones((9, 5))).propagate()
    bad = pl.arrays['embed_teacher'].copy()
    bad[7, 2] = np.nan
    with pytest.raises(ValueError, match='row 16 of an embedding'): made(embed_teacher=bad).propagate()
    with pytest.raises(ValueError, match='classes from 0 to 2'): made(labels=np.array([0, 1, 3]*3)).propagate()
    for kind in ('multi', 'values'):
        for prior in ('uniform', [1, 1, 1]):
            pl = made(kind=kind)
            if kind == 'values': assert pl.propagate(prior=prior) is not None
            else:
                with pytest.raises(ValueError, match="'labeled' or None"): pl.propagate(prior=prior)


# A Learner's labels

def learner(*cbs, **kwargs): return trained(pts_learner(*cbs, **kwargs))


def trained(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    return learn


def entered(learn, x):
    "What enters the last layer, without fastai"
    m = learn.model.eval()
    with torch.no_grad(): return m[:-1](torch.as_tensor(x)).numpy()


def check_places(pl, learn, x=X):
    assert np.allclose(pl.arrays['embed_teacher'], entered(learn, x), rtol=1e-3, atol=1e-3)
    known = learn.dls.train.dataset
    assert np.allclose(pl.arrays['labeled_teacher'], entered(learn, torch.stack([o for o, _ in known])), rtol=1e-3,
                       atol=1e-3)
    assert pl.arrays['labeled_y'].tolist() == [int(o) for _, o in known]


class Stop(Callback):
    at = None
    def after_pred(self):
        if self.iter == self.at: raise KeyboardInterrupt


def test_in_parts_after_a_kill_and_opened(tmp_path):
    cb = Stop()
    learn = learner(cb)
    pl = learn.pseudolabel(X, embed=True)
    check_places(pl, learn)
    want = pl.propagate()
    cb.at = 5
    with pytest.raises(KeyboardInterrupt): learn.pseudolabel(X, tmp_path/'a', embed=True)
    cb.at = None
    learn.pseudolabel(X, tmp_path/'a', embed=True)
    for i in (1, 0, 2): learn.pseudolabel(X, tmp_path/'b', embed=True, part=(i, 3))
    for i, o in enumerate((X[:40], X[40:100], X[100:])):
        check_places(PseudoLabels.open(tmp_path/'b'/f'part-0000{i}-of-00003'), learn, o)
    PseudoLabels.join([tmp_path/'b'], tmp_path/'c')
    pl.save(tmp_path/'d')
    for o in 'abcd':
        again = PseudoLabels.open(tmp_path/o)
        check_places(again, learn)
        assert np.array_equal(again.propagate().probs, want.probs)
    with pytest.raises(ValueError, match='embed'): learn.pseudolabel(X, tmp_path/'a')
    learn.pseudolabel(X, tmp_path/'e')
    with pytest.raises(ValueError, match='without embeddings.*overwrite=True'):
        PseudoLabels.open(tmp_path/'e').propagate()
    got = want.save(tmp_path/'f')
    assert np.array_equal(PseudoLabels.open(tmp_path/'f', X).probs, want.probs)
    assert got.about['propagated'] == want.about['propagated']



def some_leaks(pl, seed=0):
    "A byte for each row"
    leak = np.random.default_rng(seed).choice(4, pl.n, p=[.7, .1, .1, .1]).astype(np.uint8)
    pl.arrays['leak'] = leak
    return leak > 0


@pytest.mark.parametrize('kind', ['single', 'multi', 'values'])
@pytest.mark.parametrize('seed', range(2))
def test_rows_of_other_sets_take_no_part(kind, seed):
    "As if they were not there; they keep what the teacher says"
    pl = made(seed=seed, kind=kind)
    out = some_leaks(pl, seed)
    alone = PseudoLabels(pl.preds[~out], kind=kind)
    alone.arrays |= {k: pl.arrays[k] for k in ('labeled_y', 'labeled_teacher')} | dict(
        embed_teacher=pl.arrays['embed_teacher'][~out])
    pl.arrays['embed_teacher'] = np.where(out[:, None], np.nan, pl.arrays['embed_teacher'])
    got = pl.propagate()
    assert np.allclose(got.preds[~out], alone.propagate().preds, atol=1e-6)
    assert np.allclose(got.preds[out], pl.preds[out], atol=1e-6) and np.array_equal(got.leak, pl.leak)
    if kind != 'values': assert not out[got.select(0).rows].any()


@pytest.mark.parametrize('seed', range(3))
def test_top_k_and_half_precision(seed):
    "The k most probable classes of the result, as of the teacher's"
    pl = made(c=5, n=80, m=12, seed=seed)
    want = pl.propagate()
    top = PseudoLabels.of(pl.header, dict(pl.arrays)).top(4)
    got = top.propagate()
    assert got.top_k == 4 and np.allclose(got.probs[:], want.probs, atol=.02)
    assert (got.label == want.label).mean() > .97
    half = PseudoLabels(pl.probs.astype(np.float16))
    half.arrays |= {k: v for k, v in pl.arrays.items() if 'ed_' in k}
    got = half.propagate()
    assert got.probs.dtype == np.float16 and np.allclose(got.probs, want.probs, atol=2e-3)
    assert np.array_equal(got.label, want.label)


@pytest.mark.parametrize('seed', range(3))
def test_what_is_done_with_labels_can_be_done_with_these(seed):
    pl = made(n=200, m=30, seed=seed)
    q = np.array([.2, .3, .5])
    got = pl.propagate()
    assert np.allclose(got.align(q).mean_probs(), q, atol=.12) and len(got.select(0, prior=q.tolist())) > 100
    assert np.array_equal(got.temper(3).label, got.label) and got.temper(3).conf.mean() < got.conf.mean()
    assert np.allclose(pl.temper(2).propagate(mix=0).conf.mean(), pl.temper(2).conf.mean(), atol=1e-3)
    y = np.random.default_rng(seed).integers(3, size=200)
    assert .05 <= calibrate(got.probs, y) <= 20
    assert list(got.df().columns)[:3] == ['id', 'label', 'confidence']
    assert 'propagated from 30 labeled rows along 7 neighbors (teacher)' in repr(got)
    moved = (got.label != pl.label).mean()
    title = got.plot_propagation().get_title()
    assert f'{np.floor(100*(1-moved)):.0f}%' in title and 'agree with the teacher' in title
    assert title.split('\n')[1:] == pl.plot_agreement(got).get_title().split('\n')[1:]
    with pytest.raises(ValueError, match="pl holds the teacher's own labels"): pl.plot_propagation()
    plt.close('all')


def test_saved_and_opened(tmp_path):
    "What was propagated, with its provenance; places are not kept twice"
    for kind in ('single', 'multi', 'values'):
        got = made(kind=kind).propagate()
        again = got.save(tmp_path/kind)
        opened = PseudoLabels.open(tmp_path/kind)
        for o in (again, opened):
            assert np.array_equal(o.preds, got.preds) and o.about['propagated'] == got.about['propagated']
            assert not any(k.startswith(('embed', 'labeled')) for k in o.arrays)
            with pytest.raises(ValueError, match='propagated already'): o.propagate()
        if kind == 'single': assert np.array_equal(opened.arrays['teacher_label'], got.arrays['teacher_label'])


@pytest.mark.parametrize('damage', [dict(labeled_teacher=np.ones((9, 4))), dict(labeled_y=np.zeros(8, int)),
                                    dict(embed_teacher=np.ones((60, 5), int)), dict(labeled_y=np.array(['a']*9))])
def test_folders_that_no_labels_have(tmp_path, damage):
    made(**damage).save(tmp_path/'a')
    with pytest.raises(ValueError, match="arrays that aren't of labels"): PseudoLabels.open(tmp_path/'a')
