"Figures: what is drawn and written against slow counts, and what can't be drawn is refused"
import re
import tracemalloc
from collections import Counter
from math import ceil

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from noisy_student_fastai.labels import figures
from noisy_student_fastai.labels.figures import (
    plot_agreement,
    plot_balance,
    plot_changes,
    plot_confidence,
    plot_confidences,
    plot_map,
    plot_reliability,
)
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.labels.selection import Selection
from noisy_student_fastai.labels.store import MemoryStore
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix

pytestmark = pytest.mark.usefixtures('no_windows')


def labels_of(n, c, seed=0, dtype=np.float32, vocab=None):
    "Random pseudolabels, of uneven classes"
    rng = np.random.default_rng(seed)
    size = rng.lognormal(0, 1.5, c)
    label = rng.choice(c, n, p=size/size.sum())
    skill = rng.uniform(.2, .95, c)[label]
    conf = rng.beta(4*skill, 4*(1-skill)).astype(dtype)
    return made(n, c, vocab, 'single', None, conf, label.astype(np.uint16))


def made(n, c, vocab, kind, ids, conf, label):
    "Labels of these arrays, whatever they hold; figures look at no probabilities"
    arrays = dict(probs=np.broadcast_to(np.float32(0), (n, c)), conf=conf, label=label)
    if ids is not None:
        store = MemoryStore(len(ids), {})
        store.put('ids', ids)
        arrays |= store.arrays
    return PseudoLabels.of(dict(about=dict(kind=kind, vocab=vocab)), arrays)


def changed(o, /, **kwargs):
    "The same labels, or the same selection, with something else in it"
    if isinstance(o, Selection): return Selection(**dict(pl=o.pl, rows=o.rows, w=o.w) | kwargs)
    ids = list(o.ids) if 'ids' in o.arrays else None
    return made(**dict(n=o.n, c=o.c, vocab=o.vocab, kind=o.kind, ids=ids, conf=o.conf, label=o.label) | kwargs)


def moved(pl, share=.2, seed=0):
    "Labels of the next generation"
    rng = np.random.default_rng(seed)
    return changed(pl, label=np.where(rng.random(pl.n)<share, rng.integers(0, pl.c, pl.n), pl.label).astype(np.uint16))


def selection(pl, m, seed=0, w=False):
    "Random rows, some of them several times"
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(pl.n, m))
    return Selection(pl, rows, rng.random(m).astype(np.float32) if w else None)


def classes_of(ax, by_name):
    "Which class stands where; only five have a name where they are many"
    if by_name: return [int(o.get_text()) for o in ax.get_yticklabels()]
    return {int(x): int(o.get_text()) for x, o in zip(ax.get_xticks(), ax.get_xticklabels())}


def notes_of(ax): return [o.get_text() for o in ax.texts]
def values_of(line, by_name): return line.get_xdata() if by_name else line.get_ydata()
def drawn(ax): return ax.figure.canvas.draw()


BY_NAME, MANY = 7, 200
both = pytest.mark.parametrize('c', [BY_NAME, MANY])
seeds = pytest.mark.parametrize('seed', range(3))
dtypes = pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])


def slow_quantile(v, percent): return sorted(v)[ceil(percent*len(v)/100)-1]


@both
@seeds
@dtypes
def test_confidence(c, seed, dtype):
    "Quantiles lie within half a bin of the true ones, classes stand in order, the title's numbers are right"
    pl = labels_of(20*c, c, seed, dtype)
    confs = {k: pl.conf[pl.label==k].tolist() for k in range(c)}
    have = [k for k in confs if confs[k]]
    ax = plot_confidence(pl)
    by_name = c==BY_NAME
    median, at = values_of(ax.lines[0], by_name), classes_of(ax, by_name)
    assert len(median)==c and np.isnan(median).sum()==c-len(have)
    assert (np.diff(median[:len(have)])>=0).all()
    np.testing.assert_allclose(median[:len(have)], sorted(slow_quantile(confs[k], 50) for k in have), atol=.00101)
    for x, k in enumerate(at) if by_name else at.items():
        if k in have: assert abs(median[x]-slow_quantile(confs[k], 50))<.00101
    said = re.search(r'Median ([\d.]+)\W+by class from ([\d.]+) .* to ([\d.]+) ', ax.get_title()).groups()
    true = slow_quantile(pl.conf.tolist(), 50), np.nanmin(median), np.nanmax(median)
    np.testing.assert_allclose([float(o) for o in said], true, atol=.0062)
    if by_name:
        for lines, (lo, hi) in zip(ax.collections, [(5, 95), (25, 75)]):
            for k, line in zip(at, lines.get_segments()):
                if k not in have: continue
                np.testing.assert_allclose(line[:, 0], [slow_quantile(confs[k], o) for o in (lo, hi)], atol=.00101)
        assert notes_of(ax) == [f"{len(confs[k])} row{'s'*(len(confs[k])!=1)}" for k in at]
    else:
        for area, (lo, hi) in zip(ax.collections, [(5, 95), (25, 75)]):
            xy = area.get_paths()[0].vertices
            for x, k in at.items():
                if k not in have: continue
                y = xy[xy[:, 0]==x, 1]
                want = [slow_quantile(confs[k], o) for o in (lo, hi)]
                np.testing.assert_allclose([y.min(), y.max()], want, atol=.00101)
    drawn(ax)


@both
@seeds
@pytest.mark.parametrize('own', [False, True])
def test_threshold(c, seed, own):
    "Shares of rows that reach a threshold are exact; a confidence that is stored as the threshold reaches it"
    pl = labels_of(20*c, c, seed)
    least = np.random.default_rng(seed).uniform(.2, .8, c) if own else .9
    pl.conf[::3] = np.asarray(np.broadcast_to(least, c)[pl.label[::3]], np.float32)
    ax = plot_confidence(pl, min_conf=least)
    by_class = np.broadcast_to(np.asarray(least, np.float32), c)
    reached, n = Counter(), Counter()
    for v, k in zip(pl.conf, pl.label):
        n[int(k)] += 1
        reached[int(k)] += bool(v>=by_class[k])
    assert ax.get_title().split('\n')[1].startswith(f'{100*sum(reached.values())//pl.n}% of the rows reach')
    shares = [100*reached[k]//n[k] for k in n]
    assert f'from {min(shares)}% (' in ax.get_title() and f'to {max(shares)}% (' in ax.get_title()
    at = classes_of(ax, c==BY_NAME)
    if c==BY_NAME:
        for k, note in zip(at, notes_of(ax)):
            share = 'less than 1%' if 0<100*reached[k]<n[k] else f'{100*reached[k]//n[k]}%' if n[k] else None
            assert note == f"{n[k]} row{'s'*(n[k]!=1)}" + (f', {share}' if n[k] else '')
        np.testing.assert_allclose([o[0, 0] for o in ax.collections[2].get_segments()], by_class[at], atol=1e-6)
    else:
        for x, k in at.items(): assert ax.lines[1].get_ydata()[x]==by_class[k]


def slow_bins(p, y, bins):
    "Mean confidence, share of right rows and number of rows of each bin that has rows; expected calibration error"
    rows = {}
    for q, k in zip(p.tolist(), y.tolist()):
        conf = max(q)
        rows.setdefault(min(int(conf*bins), bins-1), []).append((conf, q.index(conf)==k))
    table = [(*np.mean(v, axis=0), len(v)) for _, v in sorted(rows.items())]
    return np.array(table), sum(abs(conf-acc)*n for conf, acc, n in table)/len(y)


def slow_temper(p, t):
    p = np.array([[v**(1/t) for v in q] for q in p.tolist()])
    return p/p.sum(1, keepdims=True)


@pytest.mark.parametrize('c', [2, 10, 1000])
@pytest.mark.parametrize('t', [1., .5, 2.])
@pytest.mark.parametrize('bins', [1, 15])
def test_reliability(c, t, bins):
    rng = np.random.default_rng(c)
    n = 300
    y, z = rng.integers(0, c, n), rng.normal(0, 2, (n, c))
    z[range(n), y] += 3
    p = np.exp(z-z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    ax = plot_reliability(p, y, temperature=t, bins=bins)
    want = [slow_bins(o, y, bins) for o in ([p] if t==1 else [p, slow_temper(p, t)])]
    assert len(ax.collections)==len(want)
    for dots, (table, _) in zip(ax.collections, want):
        np.testing.assert_allclose(dots.get_offsets(), table[:, :2], atol=1e-6)
        area = dots.get_sizes()-15
        np.testing.assert_allclose(area/area.sum(), table[:, 2]/n, atol=1e-6)
    said = re.findall(r'by ([\d.]+)', ax.get_title().replace('Off by', 'by'))
    np.testing.assert_allclose([float(o) for o in said], [100*ece for _, ece in want], atol=.051)
    assert (f'temperature {t:.3g}' in ax.get_title()) == (t!=1)
    drawn(ax)


def test_reliability_refuses():
    p = np.full((4, 2), .5)
    for preds, targs in ((p*np.nan, [0]*4), (p*3, [0]*4), (p, [0]*3), (p, [2]*4), (p[:0], [])):
        with pytest.raises(ValueError): plot_reliability(preds, np.array(targs, int))
    with pytest.raises(ValueError, match='temperature|t='): plot_reliability(p, np.zeros(4, int), temperature=-1)


@both
@seeds
@pytest.mark.parametrize('w', [False, True])
def test_balance(c, seed, w):
    pl = labels_of(10*c, c, seed)
    sel = selection(pl, 12*c, seed, w)
    before, after, different = Counter(pl.label.tolist()), Counter(), Counter()
    for i, r in enumerate(sel.rows):
        after[int(pl.label[r])] += float(sel.w[i]) if w else 1
    for r in set(sel.rows.tolist()): different[int(pl.label[r])] += 1
    ax = plot_balance(sel)
    at, by_name = classes_of(ax, c==BY_NAME), c==BY_NAME
    for x, k in enumerate(at) if by_name else at.items():
        got = [values_of(o, by_name)[x] for o in ax.lines]
        np.testing.assert_allclose(got, [before[k], different[k], after[k]], rtol=1e-6)
    first = values_of(ax.lines[0], by_name)
    assert first.tolist() == sorted((before[k] for k in range(c)), reverse=True)
    assert sum(values_of(ax.lines[1], by_name)) == len(set(sel.rows.tolist()))
    lo, hi = ax.get_xlim() if by_name else ax.get_ylim()
    everything = np.concatenate([values_of(o, by_name) for o in ax.lines])
    assert lo<everything.min() and everything.max()<hi
    assert f'{max(before.values()):,} to {min(before[k] for k in range(c)):,} rows before' in ax.get_title()
    said = [float(o.replace(',', '')) for o in re.search(r'([\d.,]+) to ([\d.,]+) after', ax.get_title()).groups()]
    np.testing.assert_allclose(said, [max(after.values()), min(after[k] for k in range(c))], rtol=.05)
    assert [o.get_text() for o in ax.get_legend().get_texts()][2] == ('selected, times weight' if w else 'selected')
    drawn(ax)


def heights(o):
    "Of the steps of an area, whose outline goes there and back"
    y = o.get_paths()[0].vertices[:, 1]
    n = (len(y)-3)//2
    return (y[n+2:2*n+2][::-1]-y[1:n+1])[::2][:-1]


@both
@seeds
def test_agreement(c, seed):
    old = labels_of(15*c, c, seed)
    new = moved(old, seed=seed)
    pairs = Counter(zip(old.label.tolist(), new.label.tolist()))
    n = Counter(old.label.tolist())
    ax = plot_agreement(old, new)
    by_name = c==BY_NAME
    at = classes_of(ax, by_name)
    if by_name: parts = [[o.get_width() for o in bars] for bars in ax.containers]
    else: parts = [heights(o) for o in ax.collections]
    for x, k in enumerate(at) if by_name else at.items():
        gone = sorted((v for (i, j), v in pairs.items() if i==k and j!=k), reverse=True)+[0]
        true = np.array([pairs[k, k], gone[0], sum(gone[1:])])/max(n[k], 1)
        np.testing.assert_allclose([p[x] for p in parts], true, atol=1e-9)
        if not by_name or not gone[0]: continue
        note = re.fullmatch(r'([\d,]+) rows?, (\d+)% to (\d+)', notes_of(ax)[x])
        assert int(note[1])==n[k] and int(note[2])==100*gone[0]//n[k] and pairs[k, int(note[3])]==gone[0]
    assert (np.diff(parts[0][:len(n)])>=0).all() and not any(parts[0][len(n):])
    same = sum(v for (i, j), v in pairs.items() if i==j)
    assert f'On {100*same//old.n}% of {old.n:,} rows' in ax.get_title()
    shares = [100*pairs[k, k]//n[k] for k in n]
    assert f'from {min(shares)}% (' in ax.get_title() and f'to {max(shares)}% (' in ax.get_title()
    if not by_name:
        most = max((v, -i, -j) for (i, j), v in pairs.items() if i!=j)
        assert f'most rows moved: {-most[1]} → {-most[2]} ({most[0]}),' in ax.get_xlabel().replace('\n', ' ')
    drawn(ax)


@pytest.mark.parametrize('c, seed', [(2, 0), (7, 1), (7, 2), (50, 0), (200, 1)])
def test_changes(c, seed):
    "The table is scikit-learn's confusion matrix in percent; of many classes, that of those that moved most"
    old = labels_of(15*c, c, seed)
    new = moved(old, seed=seed)
    want = confusion_matrix(old.label, new.label, labels=range(c))
    gone = want.sum(0)+want.sum(1)-2*want.diagonal()
    ax = plot_changes(old, new)
    shown = [int(o.get_text()) for o in ax.get_yticklabels()]
    assert shown==[int(o.get_text()) for o in ax.get_xticklabels()]==sorted(shown) and len(shown)==(30 if c>50 else c)
    assert sorted(gone[shown])==sorted(gone)[-len(shown):]
    share = 100*want[np.ix_(shown, shown)]/np.maximum(want.sum(1), 1)[shown, None]
    same, rest = (o.get_array() for o in ax.images)
    np.testing.assert_allclose(same.data, share)
    assert (same.mask==~np.eye(len(shown), dtype=bool)).all()
    assert (rest.mask==((share==0) | np.eye(len(shown), dtype=bool))).all()
    assert f'{(old.label!=new.label).sum():,} of {old.n:,} rows changed' in ax.get_title()
    i, j, n = re.search(r'most often (\d+) → (\d+) \(([\d,]+)\)', ax.get_title()).groups()
    off = want-np.diag(want.diagonal())
    assert off[int(i), int(j)]==int(n.replace(',', ''))==off.max()
    if c<=20:
        texts = {(o.get_position()[1], o.get_position()[0]): o.get_text() for o in ax.texts}
        assert texts=={(i, j): '<1' if share[i, j]<1 else str(int(share[i, j])) for i, j in np.argwhere(share>0)}
    drawn(ax)


def test_factors():
    "No class is said to come ×1: what rounds to that is left out, and larger ones are readable"
    c = 4
    pl = changed(labels_of(4000, c), label=np.repeat(np.arange(c), 1000).astype(np.uint16))
    times = [1.04, 1.06, 12.4, 150]
    rows = []
    for k, t in enumerate(times):
        own = np.arange(1000*k, 1000*k+100)
        rows += [*own, *np.resize(own, round(100*t)-100)]
    notes = dict(zip(classes_of(ax := plot_balance(Selection(pl, np.sort(rows))), True), notes_of(ax)))
    said = [notes[k].rpartition('→ ')[2] for k in range(c)]
    assert said==['104', '106, each ×1.1', '1,240, each ×12', '15,000, each ×150']
    assert 'a row up to 150 times on average' in ax.get_title()
    assert 'times' not in plot_balance(Selection(pl, np.sort([*range(4000), 7]))).get_title()


def with_places(pl, d, m, seed=0, on='teacher', y=None):
    "Labels that know where rows are: n x d and m x d numbers"
    rng = np.random.default_rng(seed)
    y = rng.integers(0, pl.c, m) if y is None else y
    places = {f'embed_{on}': rng.normal(size=(pl.n, d))*np.arange(1, d+1), f'labeled_{on}': rng.normal(size=(m, d))}
    return PseudoLabels.of(pl.header, pl.arrays | places | dict(labeled_y=y))


@seeds
@pytest.mark.parametrize('c, d', [(3, 2), (10, 40), (40, 5)])
def test_map(c, d, seed):
    "Points are scikit-learn's PCA of all rows that could be read, each in its class's color, as faint as it is unsure"
    pl = with_places(labels_of(200, c, seed), d, 9, seed)
    pl.arrays['leak'] = np.where(np.arange(200)%50==7, 3, np.arange(200)%3).astype(np.uint8)
    ok = pl.leak!=3
    ax = plot_map(pl)
    x = np.concatenate([pl.arrays['embed_teacher'][ok], pl.arrays['labeled_teacher']])
    pca = PCA(2, random_state=0)
    want = pca.fit_transform(x)
    dots, stars = ax.collections[:2]
    np.testing.assert_allclose(np.abs(stars.get_offsets()), np.abs(want[-9:]), atol=1e-3*np.abs(want).max())
    order = np.argsort(pl.conf[ok], kind='stable')
    got, sure = dots.get_offsets(), (np.maximum(pl.conf[ok], 1/c)-1/c)/(1-1/c)
    np.testing.assert_allclose(dots.get_facecolors()[:, 3], .12+.78*np.sort(sure), atol=1e-5)
    clear = pl.conf[ok][order]>1/c  # those below have one opacity, in their own order
    np.testing.assert_allclose(np.abs(got[clear]), np.abs(want[:-9][order][clear]), atol=1e-3*np.abs(want).max())
    hue = {}
    for k, color in zip(pl.label[ok][order][clear], dots.get_facecolors()[clear]):
        assert hue.setdefault(k, tuple(color[:3]))==tuple(color[:3])
    legend = [o.get_text() for o in ax.get_legend().get_texts()]
    assert len(legend)==(c+1 if c<=10 else 11) and ('other classes' in legend)==(c>10) and legend[-1]=='labeled rows'
    assert len({hue[int(k)] for k in legend[:-2] if int(k) in hue})==len([k for k in legend[:-2] if int(k) in hue])
    assert f'{ok.sum()} rows and 9 labeled ones' in ax.get_title()
    assert f'{pca.explained_variance_ratio_.sum():.0%} of the variance' in ax.get_title()


def test_map_of_some_and_of_values():
    "No more rows than asked for, the same ones for a seed; values have a color scale; t-SNE where it is asked for"
    pl = with_places(labels_of(300, 4), 6, 5, on='inputs')
    def seen(**kw): return plot_map(pl, max_n=50, **kw).collections[0].get_offsets().data.tolist()
    assert len(seen())==50 and seen()==seen(on='inputs')!=seen(seed=1)
    assert len(seen(method='tsne'))==50
    values = PseudoLabels(np.arange(60.)[:, None], kind='values')
    values = with_places(values, 3, 4, y=np.float32([1, 2, 3, 99]))
    dots, stars = plot_map(values).collections[:2]
    assert dots.get_array().tolist()==[*range(60)] and stars.get_array().tolist()==[1, 2, 3, 99]
    assert dots.get_clim()==stars.get_clim()==(0, 99)
    wide = with_places(PseudoLabels(np.zeros((9, 2)), kind='values'), 3, 4, y=np.zeros((4, 2)))
    none = changed(labels_of(9, 3))
    flat = with_places(labels_of(9, 3), 0, 2)
    for bad, text in ((wide, 'one value'), (none, 'without embeddings'), (flat, 'not all the same')):
        with pytest.raises(ValueError, match=text): plot_map(bad)
    assert plot_map(with_places(labels_of(9, 3), 1, 2)).get_xlim()  # one number has a second direction of none


@seeds
def test_confidences_of_several(seed):
    "Quantiles of each, of several together where they count together"
    a, b, c = (labels_of(100, 5, seed+i) for i in range(3))
    ax = plot_confidences({'round 1': [a, b], 'round 2': c})
    want = [slow_quantile([*a.conf, *b.conf], 50), slow_quantile(c.conf.tolist(), 50)]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), want, atol=.00101)
    assert notes_of(ax)==['200 rows', '100 rows']
    assert [o.get_text() for o in ax.get_yticklabels()]==['round 1', 'round 2']
    with pytest.raises(TypeError, match='expected labels'): plot_confidences({})


@pytest.mark.parametrize('c', [1, 10, 51, 1000])
@pytest.mark.parametrize('n', [1, 50])
def test_nearly_nothing(c, n):
    "One row, one class of many, nothing moved: all figures can be drawn, and none speaks of nan"
    pl = changed(labels_of(n, c), label=np.full(n, c//2, np.uint16))
    sel = Selection(pl, np.arange(n))
    for ax in (plot_changes(pl, pl), plot_confidence(pl), plot_confidence(pl, .5), plot_balance(sel),
               plot_agreement(pl, pl)):
        with np.errstate(all='raise'): drawn(ax)
        words = [ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), *notes_of(ax)]
        assert not any('nan' in o for o in words) and 'none' not in ' '.join(words).replace('None of', '').lower()
    assert '100%' in ax.get_title()


@pytest.mark.parametrize('c', [12, 60])
def test_long_names(c):
    "Text stays inside the figure, and no two classes have the same name"
    vocab = [f'Canis lupus familiaris, breed {i} of a great many' for i in range(c)]
    pl = labels_of(4000, c, vocab=vocab)
    for ax in (plot_confidence(pl, .5), plot_balance(selection(pl, 500)), plot_agreement(pl, moved(pl))):
        drawn(ax)
        names = [o.get_text() for o in (ax.get_yticklabels() if c==12 else ax.get_xticklabels())]
        assert len(set(names))==len(names) and max(map(len, names))<=20
        width, height = ax.figure.canvas.get_width_height()
        legend = ax.get_legend()
        for o in [ax.title, ax.xaxis.label, *ax.texts, *ax.get_yticklabels(), *(legend.get_texts() if legend else [])]:
            box = o.get_window_extent()
            assert -1<=box.x0 and box.x1<=width+1 and -1<=box.y0 and box.y1<=height+1, o


@pytest.mark.parametrize('c', [2, 10, 50, 1000])
def test_no_text_on_text(c):
    "Legend, ticks, axis label and title do not overlap"
    pl = labels_of(max(500, 3*c), c, vocab=[f'class {i}' for i in range(c)])
    for ax in (plot_confidence(pl, .5), plot_balance(selection(pl, 500)), plot_agreement(pl, moved(pl))):
        drawn(ax)
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts]
        boxes = [o.get_window_extent() for o in texts if o.get_text()]
        if ax.get_legend(): boxes.append(ax.get_legend().get_window_extent())
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                overlap = min(a.x1, b.x1)-max(a.x0, b.x0), min(a.y1, b.y1)-max(a.y0, b.y0)
                assert min(overlap)<=1, (ax.get_title(), a, b)


@pytest.mark.parametrize('c', [3, 60])
def test_odd_names(c):
    "Signs that matplotlib takes for mathematics, line ends, nothing, and numbers for names"
    vocab = ['$x', '$y_{', '\n', *range(3, c)]
    pl = labels_of(2000, c, vocab=vocab[:c])
    for ax in (plot_confidence(pl, .5), plot_balance(selection(pl, 500)), plot_agreement(pl, moved(pl))): drawn(ax)
    if c==3: assert {o.get_text() for o in ax.get_yticklabels()}=={r'\$x', r'\$y_{', ''}


def test_given_axes():
    "Axes that are given are drawn on, and no other figure is made"
    pl = labels_of(100, 5)
    _, axs = plt.subplots(2, 2)
    axs = axs.ravel()
    p = np.random.default_rng(0).dirichlet([1]*3, 50)
    assert plot_confidence(pl, ax=axs[0]) is axs[0] and plot_balance(selection(pl, 50), ax=axs[1]) is axs[1]
    assert plot_agreement(pl, moved(pl), ax=axs[2]) is axs[2] and plot_reliability(p, p.argmax(1), ax=axs[3]) is axs[3]
    assert len(plt.get_fignums())==1


def test_chunks(monkeypatch):
    "Whatever the size of a chunk, the figure is the same"
    pl = labels_of(1000, 5)
    new, sel = moved(pl), selection(pl, 1500)
    def seen():
        axs = plot_confidence(pl, .5), plot_balance(sel), plot_agreement(pl, new)
        return [(ax.get_title(), notes_of(ax), [o.get_xdata().tolist() for o in ax.lines]) for ax in axs]
    want, slices = seen(), figures.slices
    for size in (1, 7, 999, 1000):
        monkeypatch.setattr(figures, 'slices', lambda n: slices(n, size))
        assert seen()==want


@pytest.mark.parametrize('kind', ['multi', 'values'])
def test_no_classes_to_compare(kind):
    pl = changed(labels_of(10, 3), kind=kind)
    sel = selection(pl, 5)
    for f in (lambda: plot_confidence(pl), lambda: plot_balance(sel), lambda: plot_agreement(pl, pl)):
        with pytest.raises(ValueError, match=f"kind='{kind}'.*expected 'single'"): f()


def test_no_rows():
    pl = labels_of(5, 3)
    none = changed(pl, n=0, conf=pl.conf[:0], label=pl.label[:0])
    with pytest.raises(ValueError, match='pl has no rows'): plot_confidence(none)
    with pytest.raises(ValueError, match='old has no rows'): plot_agreement(none, none)
    with pytest.raises(ValueError, match='sel has no rows'):
        plot_balance(Selection(pl, np.array([], int)))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, -.1, 1.1])
def test_bad_confidence(bad):
    pl = labels_of(50, 3)
    pl.conf[17] = bad
    with pytest.raises(ValueError, match=f'pl.conf holds {np.float32(bad):.6g}.*from 0 to 1'): plot_confidence(pl)
    with pytest.raises(ValueError, match='min_conf holds'): plot_confidence(labels_of(5, 3), min_conf=[.1, bad, .2])


def test_bad_arguments():
    pl = labels_of(50, 3)
    for least in ([.1, .2], [], [[.1]*3]):
        with pytest.raises(ValueError, match=r'min_conf has shape \(.*3 of them'): plot_confidence(pl, min_conf=least)
    bad = changed(pl, label=np.where(np.arange(50)==30, 3, pl.label))
    sel = selection(pl, 20)
    for f, name in ((lambda: plot_confidence(bad), 'pl'), (lambda: plot_balance(changed(sel, pl=bad)), 'sel.pl'),
                    (lambda: plot_agreement(bad, pl), 'old'), (lambda: plot_agreement(pl, bad), 'new')):
        with pytest.raises(ValueError, match=f'^{name}.label holds 3: expected 0 to 2'): f()
    with pytest.raises(ValueError, match='sel.rows is not sorted'): plot_balance(changed(sel, rows=sel.rows[::-1]))
    for w in (np.nan, -1, np.inf):
        with pytest.raises(ValueError, match='sel.w holds'): plot_balance(changed(sel, w=np.full(20, w)))


def test_other_rows():
    "Labels of other rows or classes are refused, and the first difference is named"
    ids = [f'{i}.png' for i in range(50)]
    old = changed(labels_of(50, 3), ids=ids, vocab=list('abc'))
    refused = [
        (dict(n=49), 'n=50 in old and 49 in new'), (dict(c=4), 'c=3 in old and 4 in new'),
        (dict(ids=None), "row 0 is 0 in new and '0.png' in old"),
        (dict(vocab=list('acb')), "class 1 is 'c' in new and 'b' in old"),
        (dict(ids=[*ids[:30], 'x.png', *ids[31:]]), "row 30 is 'x.png' in new and '30.png' in old")]
    for kwargs, text in refused:
        for plot in (plot_agreement, plot_changes):
            with pytest.raises(ValueError, match=text): plot(old, changed(old, **kwargs))
    with pytest.raises(ValueError, match='row 0 is 0 in new and 1 in'):
        plot_agreement(changed(old, ids=np.arange(1, 51)), changed(old, ids=np.arange(50)))
    for same in (old, changed(old, ids=np.array(ids)), changed(old, vocab=None)): plot_agreement(old, same)


def test_many_rows():
    "8 million rows of 1,000 classes: no array of their length is made"
    n, c = 8_000_000, 1000
    rng = np.random.default_rng(0)
    pl = made(n, c, None, 'single', None, rng.random(n, np.float32), rng.integers(0, c, n, dtype=np.uint16))
    new, sel = changed(pl, label=(pl.label+(pl.conf<.25))%c), Selection(pl, np.arange(n))
    tracemalloc.start()
    try:
        titles = [ax.get_title() for ax in (plot_confidence(pl, .75), plot_balance(sel), plot_agreement(pl, new))]
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert peak<60*2**20  # chunks take 40, and 4 bytes for each row were 30 more
    assert re.search('2[45]% of the rows reach 0.75', titles[0]) and re.search('On 7[45]% of 8,000,000', titles[2])
    size = np.bincount(pl.label, minlength=c)
    assert f'{size.max():,} to {size.min():,} rows before, {size.max():,} to {size.min():,} after' in titles[1]


def test_colors_on_any_background():
    "Nothing but text and frame takes a style's colors, and all marks stand out from white and from black"
    from noisy_student_fastai.labels.figures import _blue, _gray, _red
    def luminance(color):
        v = np.array(matplotlib.colors.to_rgb(color))
        return np.where(v<=.04045, v/12.92, ((v+.055)/1.055)**2.4)@[.2126, .7152, .0722]
    for color in (_blue, _red, _gray):
        light = luminance(color)
        assert 1.05/(light+.05)>=3 and (light+.05)/.05>=3, color  # WCAG's contrast for graphics


# --- names in letters that no font here has

NOWHERE = ['\U0002fa1d', 'b', '\U0002fa1c fox']  # rare Chinese letters


@pytest.fixture
def names_are_new(monkeypatch): monkeypatch.setattr(figures, '_said', set())


@pytest.mark.filterwarnings('error:Glyph')
def test_names_that_no_font_shows_are_numbers(names_are_new):
    "In each figure the same ones, by their place among all classes; a single warning says which"
    old, new = labels_of(90, 3, 0, vocab=NOWHERE), labels_of(90, 3, 1, vocab=NOWHERE)
    with pytest.warns(UserWarning) as said:
        for ax in (plot_confidence(old), plot_agreement(old, new), plot_changes(old, new)):
            ax.figure.canvas.draw()
            assert {o.get_text() for o in ax.get_yticklabels()} == {'class 0', 'b', 'class 2'}
        assert figures.class_names(NOWHERE[1:], [1, 2]).tolist() == ['b', 'class 2']
    assert [str(o.message) for o in said] == [
        f"No font here has the letters of some names. Figures show numbers instead: class 0 is {NOWHERE[0]!r}, class 2 "
        f"is {NOWHERE[2]!r}. Noto Sans CJK or Noto Emoji, once installed, shows most."]
    with pytest.warns(UserWarning, match='teacher 0 is'):
        ax = plot_confidences({'\U0002fa1b': old, 'a': new})
    assert [o.get_text() for o in ax.get_yticklabels()] == ['teacher 0', 'a']
    many = {f'class {i}': i for i in range(8)}
    assert figures.in_words(many).endswith("class 4 is '4' and 3 more")
    assert figures.in_words(dict(a=1)) == "a is '1'"
