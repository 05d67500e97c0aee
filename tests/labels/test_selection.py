"Selections: filter and balance; the student gets rows with their own labels, whatever form the data have"
import sys
from math import nan

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock
from fastai.data.core import TfmdDL
from fastai.learner import Learner
from fastai.tabular.all import Normalize, TabularDataLoaders, tabular_learner
from hypothesis import given, settings
from hypothesis import strategies as st
from label_toys import of_rows, outputs, same, trained, unlabeled
from noisy_student_fastai.all import ArrayLoaders, NoisyStudent, PseudoLabels, Selection
from noisy_student_fastai.labels import selection
from noisy_student_fastai.labels.balance import apportion
from noisy_student_fastai.labels.selection import total_precision
from scipy import stats
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset
from toys import Probe, pts_learner


@pytest.mark.parametrize('kw', [dict(temp=.5), dict(shuffel=True), dict(bs='a'), dict(bs=0)])
def test_misspelled_options_of_dl(kw):
    with pytest.raises((TypeError, ValueError), match=f'{list(kw)[0]}=.*expected'):
        pts_learner().pseudolabel(unlabeled()).dl(**kw)


@pytest.mark.parametrize('kw,w,said', [
    ({}, None, 'soft labels'), (dict(soft=False), None, 'hard labels'),
    (dict(temperature=.25), 'conf', 'soft labels, temperature 0.25, weighted')])
def test_jupyter_says_what_a_loader_holds(kw, w, said):
    "IPython's formatter shows a line in place of an address"
    from IPython.core.formatters import DisplayFormatter
    x = np.random.default_rng(0).random((1200, 2), np.float32)
    pl = PseudoLabels(np.full((1200, 2), .5), x)
    dl = pl.select(0, weights=w).dl(pts_learner().dls, bs=20, **kw)
    shown = DisplayFormatter().format(dl)[0]['text/plain']
    assert shown == f'{type(dl).__name__}: 1,200 rows in batches of 20, {said}'


def test_others_that_are_no_loader():
    pl = pts_learner().pseudolabel(unlabeled())
    for o in (pl, pl.select(0)):
        with pytest.raises(TypeError, match='call its `dl`'): NoisyStudent(o)
    with pytest.raises(TypeError, match='DataLoaders'): pl.dl(pts_learner())


def test_show_of_a_table(monkeypatch):
    df, shown = load_wine(as_frame=True).frame, []
    dls = TabularDataLoaders.from_df(df[:60].assign(kind=list('ab')*30), procs=[Normalize], cont_names=['ash', 'hue'],
                                     y_names='kind', y_block=CategoryBlock(), bs=16)
    pl = tabular_learner(dls, layers=[4]).pseudolabel(df[60:])
    monkeypatch.setattr(selection, 'display_df', shown.append)
    pl.show(max_n=4)
    rows = [int(np.flatnonzero(df.index[60:] == i)[0]) for i in shown[0].index]
    assert shown[0].pseudolabel.tolist() == [pl.note(i) for i in rows] and (np.diff(pl.conf[rows]) <= 0).all()
    other = PseudoLabels(1-np.asarray(pl.probs), vocab=pl.vocab, ids=list(pl.ids))
    truth = ['b']*7 + ['a']*(pl.n-7)
    pl.show(max_n=4, than=other, targs=truth)
    rows = [int(np.flatnonzero(df.index[60:] == i)[0]) for i in shown[1].index]
    assert rows == pl.ranked(than=other)[:4].tolist()
    want = [f'{pl.note(i)}, was {other.note(i)}, is {truth[i]}' for i in rows]
    assert shown[1].pseudolabel.tolist() == want


def of_kind(kind, seed, n=60, c=4):
    "Two generations of labels of the same rows, and the truth; some rows are in other sets or could not be read"
    rng = np.random.default_rng(seed)
    shape = (n, 2, 3) if kind=='values' else (n, c)
    def made():
        p = rng.dirichlet([.5]*c, n) if kind=='single' else rng.random(shape)*(1 if kind=='multi' else 9)
        res = PseudoLabels(p, vocab=list('abcd') if kind=='single' else None, kind=kind)
        res.arrays['leak'] = rng.choice([0, 1, 2, 3], n, p=[.85, .05, .05, .05]).astype(np.uint8)
        return res
    y = dict(single=rng.integers(-1, c, n), multi=rng.integers(-1, 2, shape), values=rng.random(shape)*9)[kind]
    if kind=='values': y[rng.random(n)<.1, 0, 0] = np.nan  # not known
    return made(), made(), y


def slow_ranked(pl, than, y, by):
    "Row by row: what is looked for, and by how much"
    found, ps, qs = {}, np.asarray(pl.preds, float), np.asarray(than.preds, float)
    unit = ps[pl.leak!=3].std(0) if pl.kind=='values' else 1.
    for i in np.flatnonzero(pl.leak==0):
        p, q = ps[i], qs[i]
        single = pl.kind=='single'
        if by=='unsure': found[i] = 1-(max(p) if single else min(max(o, 1-o) for o in p))
        elif by=='changed':
            same = p.argmax()==q.argmax() if single else pl.kind=='multi' and ((p>=.5)==(q>=.5)).all()
            if not same and than.leak[i]!=3: found[i] = (abs(p-q)/unit).mean()
        elif single:
            if y[i]>=0 and y[i]!=p.argmax(): found[i] = max(p)
        else:
            off = (abs(p-y[i])/unit)[y[i]>=0 if pl.kind=='multi' else ...].max(initial=0)
            if off>.5 or pl.kind=='values' and not np.isnan(off): found[i] = off
    return sorted(found, key=lambda i: -np.float32(found[i]))


@pytest.mark.parametrize('kind', ['single', 'multi', 'values'])
@pytest.mark.parametrize('seed', range(3))
def test_rows_worth_a_look(kind, seed, monkeypatch):
    pl, than, y = of_kind(kind, seed)
    monkeypatch.setattr(selection, '_n_per_part', 8*pl.c)  # several chunks
    for by, kw in (('unsure', {}), ('changed', dict(than=than)), ('wrong', dict(targs=y))):
        if by=='unsure' and kind=='values':
            with pytest.raises(ValueError, match='one has no spread'): pl.ranked()
            continue
        rows, want = pl.ranked(**kw), slow_ranked(pl, than, y, by)
        assert rows.tolist()==want and (pl.ranked(by, **kw)==rows).all()
        some = Selection(pl, np.sort(np.resize(want[::2], 40)))  # of a selection only its own rows, each once
        assert some.ranked(**kw).tolist()==want[::2][:40]
    if kind=='single':
        named = [None if k<0 else pl.vocab[k] for k in y]
        assert (pl.ranked(targs=named)==pl.ranked(targs=y)).all() and (pl.ranked(targs=torch.tensor(y))==rows).all()
        assert (pl.top(3).ranked(than=than)==pl.ranked(than=than)).all()


def test_nothing_worth_a_look(capsys):
    pl = pts_learner().pseudolabel(unlabeled())
    pl.show(than=pl)
    pl.show(targs=pl.label)
    assert capsys.readouterr().out=='No label has changed.\nNo label is wrong.\n'


def test_rows_that_cannot_be_ranked():
    pl, than, y = of_kind('single', 0)
    other, teachers = PseudoLabels(np.eye(3)), PseudoLabels([[1.], [5.], [2.]], kind='values')
    teachers.arrays['std'] = np.array([[.1], [.3], [.2]])
    assert teachers.ranked().tolist()==[1, 2, 0]
    bad = [(dict(by='sure'), "by='sure': expected"), (dict(by='changed'), 'than=None: expected'),
           (dict(by='wrong'), 'targs=None: expected'), (dict(targs=y[:5]), 'all 60 rows'),
           (dict(targs=y+9), 'below 4'), (dict(targs=['x']*60), 'names of classes'),
           (dict(than=other), 'n=60 in these labels and 3 in than'), (dict(by='unsure', than=other), '3 in than'),
           (dict(targs=y, than=other), '3 in than'), (dict(than=teachers), "kind 'single'")]
    for kw, text in bad:
        with pytest.raises(ValueError, match=text): pl.ranked(**kw)
    with pytest.raises(TypeError, match="than='str': expected PseudoLabels"): pl.show('dls', than='labels')


FORMS = dict(array=lambda x: x, tensor=torch.tensor, dataset=lambda x: TensorDataset(torch.tensor(x)),
             items=lambda x: list(torch.tensor(x)),
             torch_dl=lambda x: TorchDataLoader(TensorDataset(torch.tensor(x)), batch_size=8, shuffle=True),
             fastai_dl=lambda x: TfmdDL(list(torch.tensor(x)), bs=8, shuffle=True, drop_last=True, num_workers=0))


@pytest.mark.parametrize('form', FORMS)
def test_rows_keep_their_labels(tmp_path, form):
    "Whatever form the data have: on disk and back, selected, repeated, shuffled"
    x, learn = unlabeled(), trained()
    want = outputs(learn, x).softmax(1)
    pl = learn.pseudolabel(FORMS[form](x), tmp_path)
    same(pl, want)
    opened = PseudoLabels.open(tmp_path, FORMS[form](x))
    for sel in (o.select(0, 70, max_repeat=None, weights='conf', seed=1) for o in (pl, opened)):
        assert sel.counts.tolist() == [70]*3
        xs, ys, ws = map(torch.cat, zip(*sel.dl(learn.dls, bs=16, drop_last=False)))
        i = of_rows(x, xs)
        assert sorted(i) == sel.rows.tolist()
        assert np.allclose(ys, want[i], atol=1e-3) and np.allclose(ws, pl.conf[i])
        xs, ys, ws = map(torch.cat, zip(*sel.dl(learn.dls, soft=False, drop_last=False)))
        assert ys.tolist() == pl.label[of_rows(x, xs)].tolist()


def test_a_student_trains(tmp_path):
    x, learn = unlabeled(), trained()
    pl, probe = learn.pseudolabel(x, tmp_path), Probe()
    student = pts_learner(NoisyStudent(pl.select(0, 60, weights='conf').dl(), l2pl_ratio=1/3), probe, seed=3)
    with student.no_bar(), student.no_logging(): student.fit(2)
    assert {len(o) for o, in probe.ys} == {32}
    for (xb,), (y,) in zip(probe.xs, probe.ys):
        i = of_rows(x, xb[y.is_pl])
        assert len(i) == 24
        assert np.allclose(y.plain()[y.is_pl], pl.read(i), atol=1e-6) and np.allclose(y.w[y.is_pl], pl.conf[i])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0., .3, .5, .9, 1.]),
       st.none() | st.integers(1, 30), st.none() | st.integers(1, 4), st.sampled_from([None, 'uniform']))
def test_selections_keep_their_promises(n, c, seed, min_conf, k, cap, prior):
    rng = np.random.default_rng(seed)
    p = np.eye(c)[rng.integers(0, c, n)] if seed % 2 else rng.dirichlet(np.full(c, .3), n)
    pl = PseudoLabels(p)
    used = pl if prior is None else pl.align(prior)
    kept = used.conf >= np.float32(min_conf)
    if not kept.any():
        with pytest.raises(ValueError, match='no row reaches'): pl.select(min_conf, k, max_repeat=cap, prior=prior)
        return
    sel = pl.select(min_conf, k, max_repeat=cap, prior=prior, seed=seed)
    everything = kept.all() and prior is None  # nothing to make good
    has = np.bincount(used.label[kept], minlength=c) > 0
    quota = apportion(int(kept.sum()), has*(p.mean(0) if prior is None else np.ones(c)))
    assert isinstance(sel, Selection) and kept[sel.rows].all() and (np.diff(sel.rows) >= 0).all()
    for i in range(c):
        mine, have = sel.rows[used.label[sel.rows] == i], int((kept & (used.label == i)).sum())
        if k is None: assert len(mine) == (have if everything else min(quota[i], have*(cap or 10**9)*(have > 0)))
        elif not have: assert len(mine) == 0
        else: assert len(mine) == min(k, have*(cap or k))
        most = min(have, quota[i] if k is None else k)
        if most and not (k is None and everything):  # the most confident ones
            assert used.conf[mine].min() >= np.sort(used.conf[kept & (used.label == i)])[-most]
    assert np.array_equal(sel.rows, pl.select(min_conf, k, max_repeat=cap, prior=prior, seed=seed).rows)


def teacher_of(vocab, c=3, seed=0):
    "Array loaders whose classes are called `vocab`, and a Learner on them"
    g = np.random.default_rng(seed)
    x, y = g.random((24, 3), dtype=np.float32), np.arange(24) % c
    dls = ArrayLoaders.from_arrays(x, y, (g.random((6, 3), dtype=np.float32), y[:6]), bs=8, vocab=vocab)
    return Learner(dls, nn.Linear(3, c))


@pytest.mark.parametrize('soft', [True, False])
@pytest.mark.parametrize('vocab, c, said', [(['NA', 'cat', 'dog'], 3, "dl2's vocabulary is not the L.*'cat', 'dog'"),
                                            (None, 4, 'dl2.* 4 classes'), (None, 2, 'dl2.* 2 classes'),
                                            (['NA', 'dog', 'zcat'], 3, None), (None, 3, None)])
def test_labels_of_other_classes(vocab, c, said, soft):
    "Without `dls` no student is known yet when the loader is made: the callback compares"
    teacher, student = teacher_of(vocab, c), teacher_of(['NA', 'dog', 'zcat'])
    x2 = np.random.default_rng(1).random((20, 3), dtype=np.float32)
    pl = teacher.pseudolabel(x2)
    for dl2 in (pl.select(0).dl(soft=soft), pl.dl(soft=soft)):
        with student.no_bar(), student.no_logging():
            if said is None: student.fit(1, cbs=NoisyStudent(dl2))
            else:
                with pytest.raises(ValueError, match=said): student.fit(1, cbs=NoisyStudent(dl2))


def test_class_names_that_are_numbers():
    "A store keeps 1.5 as '1.5', which is the same class"
    teacher, x2 = teacher_of([.5, 1.5, np.int64(2)]), np.random.default_rng(1).random((20, 3), dtype=np.float32)
    with teacher.no_bar(), teacher.no_logging(): teacher.fit(1, cbs=NoisyStudent(teacher.pseudolabel(x2).dl()))


# What a student is shown

def slow_by_class(sel, preds, targs):
    "One class after the other, one validation row after the other"
    res, label, conf = [], preds.argmax(1), preds.max(1)
    w = np.ones(len(sel)) if sel.w is None else sel.w.astype(float)
    def said(k):
        for i in range(len(targs)):
            mine = [(sel.conf[j], w[j]) for j in range(len(sel)) if sel.label[j] == k and sel.conf[j] <= conf[i]]
            if label[i] == k and any(o > 0 for _, o in mine): yield max(mine)[1], label[i] == targs[i]
    rows = [list(said(k)) for k in range(sel.pl.c)]
    for k, r in enumerate(rows):
        mine = [j for j in range(len(sel)) if sel.label[j] == k]
        n = sum(o for o, _ in r)**2/sum(o*o for o, _ in r) if r else 0
        right = n*sum(o*ok for o, ok in r)/sum(o for o, _ in r) if r else 0
        low, high = stats.beta.ppf([.025, .975], right+.5, n-right+.5)
        low, high = (0 if right == 0 else low), (1 if right > n-1e-9 else high)
        times = [list(sel.rows).count(sel.rows[j]) for j in mine]
        res.append(((sel.pl.label == k).sum(), len(mine), len(set(sel.rows[mine])), max(times, default=0),
                    w[mine].sum()/w.sum(), len(r), right/n if r else nan, low, high))
    return np.array(res, dtype=float)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('weights', [None, 'conf', lambda o: o**3])
def test_by_class(seed, weights):
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet([1.5, .8, .3], n).astype(np.float32) for n in (80, 25))
    y = np.array([rng.choice(3, p=o/o.sum()) for o in q.astype(float)])
    sel = PseudoLabels(p).select([.5, .4, .6][seed % 3], weights=weights, seed=seed, n=(None, 70)[seed % 2])
    want = slow_by_class(sel, q, y)
    df = sel.by_class(q, y)
    assert np.allclose(df, want, atol=1e-5, equal_nan=True)
    assert sel.by_class(torch.tensor(q), torch.tensor(y)).equals(df)
    value, low, high = total_precision(df)
    assert value == pytest.approx(want[:, 4]@np.nan_to_num(want[:, 6], nan=.5), abs=1e-5) and low <= value <= high
    unknown = want[np.isnan(want[:, 6]), 4].sum()
    assert high-low >= unknown-1e-9


@pytest.mark.parametrize('kw', [{}, dict(n_per_class=250, max_repeat=None)])
def test_precision_is_of_what_is_shown(kw):
    "A rare class that is filled by repeats: is the estimate right on average, and how often is the truth within?"
    held, rng = [], np.random.default_rng(0)
    def draw(n):
        y = (rng.random(n) < .1).astype(int)
        z = rng.normal(1.6*y-2, 1)
        return np.stack([1/(1+np.exp(z)), 1/(1+np.exp(-z))], 1), y
    for _ in range(60):
        (p, y), valid = draw(500), draw(100)
        sel = PseudoLabels(p).select(**kw)
        value, low, high = total_precision(sel.by_class(*valid))
        truth = (sel.label == y[sel.rows]).mean()
        held.append((low <= truth <= high, value-truth))
    share, off = np.mean(held, 0)
    assert share > .85 and abs(off) < .03


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('n_per_part', [9, 2**22])
def test_parquet_holds_what_df_has(tmp_path, monkeypatch, seed, n_per_part):
    "Part after part, whatever the kind of labels; repeated and weighted rows, too"
    monkeypatch.setattr(selection, '_n_per_part', n_per_part)
    rng = np.random.default_rng(seed)
    single = PseudoLabels(rng.dirichlet(np.ones(3), 40), vocab=['a', 'b', 'ü'], ids=[f'r {i}' for i in range(40)])
    multi = PseudoLabels(rng.random((40, 3)), vocab=list('abc'), kind='multi')
    values = PseudoLabels(rng.normal(size=(40, 2)), kind='values')
    rare = single.select(.4, n_per_class=30, weights='conf')
    for i, o in enumerate((single, multi, values, rare)):
        for probs in {False, o is not values}:
            want = o.df(probs=probs).reset_index()
            pd.testing.assert_frame_equal(pd.read_parquet(o.to_parquet(tmp_path/f'{i}.parquet', probs)), want)


def test_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match='a.parquet can.t be written without pyarrow: `pip install pyarrow`'):
        PseudoLabels([[.5, .5]]).to_parquet(tmp_path/'a.parquet')
    assert not [*tmp_path.iterdir()]


def with_unread(kind, seed, unread):
    "Labels of 30 rows, three of which could not be read, and those of the others alone"
    rng = np.random.default_rng(seed)
    p = dict(single=rng.dirichlet(np.ones(2), 30), multi=rng.random((30, 2)), values=rng.normal(size=(30, 1)))[kind]
    kw = dict(kind=kind, vocab=['a', 'b']) if kind != 'values' else dict(kind=kind)
    good = np.setdiff1d(np.arange(30), unread)
    p[unread] = dict(single=.5, multi=.5, values=0)[kind]  # as they are stored
    pl, rest = PseudoLabels(p, **kw), PseudoLabels(p[good], ids=good, **kw)
    pl.arrays['leak'] = np.isin(np.arange(30), unread).astype(np.uint8)*3
    for o, rows in ((pl, slice(None)), (rest, good)):
        if kind == 'values': o.arrays['std'] = np.linspace(.1, 1, 30)[rows, None]
    return pl, rest, good


@pytest.mark.parametrize('kind', ['single', 'multi', 'values'])
def test_rows_that_could_not_be_read_have_no_label(kind, tmp_path, monkeypatch):
    "They keep their line; all that is counted or averaged is that of the other rows"
    unread = np.array([0, 1, 17])
    pl, rest, good = with_unread(kind, 0, unread)
    probs = kind != 'values'
    df, want = pl.df(probs=probs), rest.df(probs=probs)
    assert df.id.tolist() == [*range(30)] and df.loc[unread].drop(columns='id').isna().all(axis=None)
    pd.testing.assert_frame_equal(df.loc[good], want.set_index(df.index[good]), check_dtype=False)
    sure = repr(rest).split(',')[1]
    assert kind == 'values' or (sure.startswith(' mean confidence') and sure in repr(pl) and sure in repr(pl._all()))
    assert pl.note(1) == 'could not be read'
    assert kind != 'values' or np.allclose(pl.spread[good], rest.spread)
    monkeypatch.setattr(selection, '_n_per_part', 6)  # the first part has unread rows only
    read = pd.read_parquet(pl.to_parquet(tmp_path/'a.parquet', probs))
    pd.testing.assert_frame_equal(read, df.reset_index(), check_dtype=False)


@pytest.mark.parametrize('seed', range(3))
def test_rows_that_could_not_be_read_are_not_counted(seed):
    pl, rest, good = with_unread('single', seed, np.array([3, 4, 29]))
    assert pl.select(.6).by_class().equals(rest.select(.6).by_class())
    assert Selection(pl, np.arange(30)).counts.tolist() == np.bincount(rest.label).tolist()
    other, rest_of_other, _ = with_unread('single', seed+9, np.array([3, 4, 29]))
    for a, b in ((pl.plot_confidence(.6), rest.plot_confidence(.6)),
                 (pl.plot_agreement(other), rest.plot_agreement(rest_of_other)),
                 (pl.select(.6).plot_balance(), rest.select(.6).plot_balance())):
        assert a.get_title() == b.get_title() and [o.get_text() for o in a.texts] == [o.get_text() for o in b.texts]
    plain = PseudoLabels(pl.probs)
    plain.arrays['leak'] = pl.leak
    assert plain.df().label[[3, 4, 29]].isna().all() and (plain.df().label[good] == rest.label).all()


def test_own_rows_are_counted_once():
    rng = np.random.default_rng(0)
    x = rng.random((20, 3), dtype=np.float32)
    dls = ArrayLoaders.from_arrays(x[:8], np.arange(8) % 2, (x[8:12], np.arange(4) % 2), bs=4)
    pl = PseudoLabels(np.eye(2)[np.arange(20) % 2], x, vocab=dls.vocab)
    said = 'of the 20 pseudo.*, 4 are validation rows of the student, such as 8, 8 are label'
    with pytest.raises(ValueError, match=said):
        Selection(pl, np.repeat(np.arange(20), 3)).dl(dls)


@pytest.mark.parametrize('seed', range(3))
def test_nothing_is_dropped_where_nothing_is_left_out(seed, recwarn):
    "Of two classes one has half or more: all rows stay, though the rare one is hardly ever the most probable"
    rare = 1/(1+np.exp(3-np.random.default_rng(seed).normal(size=2000)))
    pl = PseudoLabels(np.c_[1-rare, rare], vocab=['no', 'yes'])
    pl.arrays['leak'] = (np.arange(2000) % 500 == 3).astype(np.uint8)
    assert pl.select().rows.tolist() == pl.select(0).rows.tolist() == np.flatnonzero(pl.leak == 0).tolist()
    assert not recwarn.list


@pytest.mark.parametrize('n', [500, None])
def test_a_shortfall_is_said(n):
    p = np.full(1000, .07)  # of `yes` in all rows but two, which come three times each
    p[:2], p[2:4] = .9, .35
    pl = PseudoLabels(np.c_[1-p, p], vocab=['no', 'yes'])
    want = pl.mean_probs()[1]*(n or 998)
    said = rf'^yes: 6 rows of {want:.0f} wanted: rarely .* up to 3 times .*select\(0\)`, keep'
    with pytest.warns(UserWarning, match=said):
        sel = pl.select(.7, n=n)
    assert sel.counts[1] == 6 and (f'short of the {n} asked for' in repr(sel)) == bool(n)
    assert not n or f', {n-len(sel)} short' in repr(sel)
    with pytest.warns(UserWarning, match=r'^yes: 6 rows of 50 wanted: rarely .*A lower `min_conf` or a larger `max'):
        pl.select(n_per_class=50)


def test_no_shortfall_is_said_of_classes_of_one_size(recwarn):
    rng = np.random.default_rng(0)
    z = 4*np.eye(10)[np.arange(3000) % 10]+rng.normal(size=(3000, 10))
    pl = PseudoLabels(np.exp(z)/np.exp(z).sum(1, keepdims=True))
    for kw in ({}, dict(min_conf=.8), dict(n=900), dict(n_per_class=90), dict(prior='uniform')):
        assert 'short' not in repr(pl.select(**kw))
    assert not recwarn.list


def drawn(n=300, c=10): return PseudoLabels(np.random.default_rng(0).dirichlet(np.full(c, .3), n), vocab='0123456789')


def test_weights_that_are_none():
    conf, rows = np.array([.5, .9]), np.array([1, 1, 0])
    for bad in ([1, 2, 3], [-1, 1], [nan, 1.], [0, 0], lambda o: 1.):
        with pytest.raises(ValueError, match='weights='): selection.row_weights(bad, conf, rows, 2)
    with pytest.raises(ValueError, match='have no confidence'): selection.row_weights('conf', None, rows, 2)


def test_batches_hold_the_labels_of_their_rows():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 10
    dls = ArrayLoaders.from_arrays(torch.randn(40, 4), y, (torch.randn(20, 4), y[:20]), vocab=list('0123456789'))
    pl = PseudoLabels(drawn().probs, x.numpy(), vocab='0123456789')
    def rows_of(xb): return [int((x == o.as_subclass(torch.Tensor)).all(1).nonzero()[0]) for o in xb]
    xb, yb, wb = pl.select(.3, weights='conf').dl(dls, bs=64).one_batch()
    i = rows_of(xb)
    assert np.allclose(yb, pl.probs[i], atol=1e-5) and np.allclose(wb, pl.conf[i], atol=1e-6)
    xb, yb = pl.select(.5).dl(dls, soft=False).one_batch()
    assert np.array_equal(yb, pl.label[rows_of(xb)])
    sharp = pl.dl(dls, temperature=.5, shuffle=False).one_batch()[1]
    p = pl.probs[:len(sharp)]**2
    assert np.allclose(sharp, p/p.sum(1, keepdims=True), atol=1e-5)
    few = pl.top(3)
    xb, yb = few.dl(dls, bs=64, temperature=.5).one_batch()
    p = few.read(rows_of(xb)).pow(2)
    assert np.allclose(yb, p/p.sum(1, keepdim=True), atol=1e-5) and few.dl(dls).dataset[0][1].shape == (7,)
    with pytest.raises(ValueError, match='temperature=2'): pl.dl(dls, soft=False, temperature=2)


def test_in_words_and_as_a_table():
    multi = PseudoLabels([[.9, .8], [.4, .9], [.1, .7]], kind='multi')
    assert repr(multi.select(.65)) == "Selection: 2 rows (all different) of 3, mean confidence 0.75"
    rare = Selection(PseudoLabels([[.9, .1], [.6, .4], [.2, .8]], vocab=['no', 'yes']), np.array([0, 1, 2, 2, 2]))
    said = "Selection: 5 rows (3 different, up to 3 times each) of 3, mean confidence 0.78: no 2, yes 3"
    assert repr(rare) == said
    pl = drawn()
    df = pl.select(weights='conf').df(probs=True)
    assert np.array_equal(df.label.astype(int), pl.label[df.index]) and np.array_equal(df.weight, df.confidence)
    assert np.allclose(df[[f'p_{k}' for k in pl.vocab]], pl.probs[df.index], atol=1e-6)
    want = dict(id=[0, 1, 2], label=['0;1', '1', '1'], confidence=multi.conf.tolist())
    want |= {f'p_{k}': np.float32(multi.probs[:, k]).tolist() for k in (0, 1)}
    assert multi.df(probs=True).to_dict('list') == want
    prices = PseudoLabels([[1.], [2.]], kind='values', ids=['a', 'b'])
    assert prices.df().to_dict('list') == dict(id=['a', 'b'], value=[1., 2.])
    assert list(PseudoLabels([[1., 3.]], kind='values').df()) == ['id', 'value_0', 'value_1']


@pytest.mark.parametrize('seed', range(3))
def test_rows_that_are_shown(seed):
    "Different ones, evenly from the most to the least confident"
    pl = drawn()
    sel = pl.select(.3)
    i = sel._by_confidence(9, seed)
    assert (len(i), len(set(i)), set(i) <= set(sel.rows)) == (9, 9, True)
    assert (np.diff(pl.conf[i]) <= 0).all()
    assert len(Selection(pl, np.array([3, 3, 3]))._by_confidence(9, 0)) == 1


def test_names_do_nothing_to_a_terminal():
    "... where a selection is shown"
    p = np.float32([[.9, .1], [.2, .8]])
    pl = PseudoLabels(p, np.zeros((2, 3), np.float32), vocab=['a\x1b[31m', 'b\n'])
    assert repr(pl.select(0., max_repeat=None)).endswith(r': a\x1b[31m 1, b\n 1')
