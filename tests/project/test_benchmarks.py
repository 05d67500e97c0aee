"The scripts in benchmarks/ run through at tiny settings, and compute from their numbers what a plain computation does"
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from noisy_student_fastai.labels.pseudolabels import PseudoLabels

sys.path.insert(0, str(ROOT/'benchmarks'))
import accuracy  # noqa: E402
import imbalance  # noqa: E402
import robustness  # noqa: E402

TINY_RARE = {k: replace(s, steps=8, sizes=(40, 60, 40, 40)) for k, s in imbalance.RARE.items()}
TINY = {k: replace(s, steps=8, n_unlabeled=40, min_conf=0.) for k, s in accuracy.SETTINGS.items()}


ALL = set(accuracy.ROWS) - (set() if accuracy.has_tsai() else {'tsai'})


def frame(seed=0, n=4):
    "Made-up results of `n` seeds on two data sets"
    rng = np.random.default_rng(seed)
    ks = [(d, i, r) for d in ('digits', 'wine') for i in range(n) for r in accuracy.ROWS]
    return pd.DataFrame([dict(data=d, seed=i, row=r, accuracy=rng.uniform(50, 100)) for d, i, r in ks])


# the share of the gap

@pytest.mark.parametrize('seed', range(5))
def test_gap_share_against_leaving_seeds_out(seed):
    "Its spread is about what the jackknife says, which knows no formula"
    rng, n = np.random.default_rng(seed), 200
    control = rng.normal(80, 3, n)
    ceiling = control + rng.uniform(5, 9, n)
    row = control + rng.normal(.6, .4, n)*(ceiling-control)
    share, err = accuracy.gap_share(row, control, ceiling)

    def plain(keep): return sum(row[i]-control[i] for i in keep)/sum(ceiling[i]-control[i] for i in keep)
    assert share == pytest.approx(plain(range(n)))
    left = np.array([plain([j for j in range(n) if j != i]) for i in range(n)])
    assert err == pytest.approx(((n-1)/n*((left-left.mean())**2).sum())**.5, rel=.02)


def test_gap_share_of_known_rows():
    c, t = [80., 84.], [90., 96.]
    assert accuracy.gap_share(c, c, t) == (0, 0)
    assert accuracy.gap_share(t, c, t) == (1, 0)
    assert accuracy.gap_share([85., 90.], c, t)[0] == pytest.approx(.5)
    assert np.isnan(accuracy.gap_share([1.], [2.], [2.])[0]), "no gap"
    share, err = accuracy.gap_share([85.], [80.], [90.])
    assert share == .5 and np.isnan(err), "one seed has no spread"


@pytest.mark.parametrize('seed', range(5))
def test_table(seed):
    "Against loops: shares are counted from the best of the three controls"
    df = frame(seed)
    t = accuracy.table(df)
    assert len(t) == 2*len(accuracy.ROWS)
    for _, o in t.iterrows():
        v = {k: [a for d, i, r, a in df.itertuples(index=False) if (d, r) == (o.data, k)] for k in accuracy.ROWS}
        best = max(('control', 'control_m', 'control_long'), key=lambda k: sum(v[k]))
        own, gap = v[o.row], sum(v['ceiling'])-sum(v[best])
        assert o['mean'] == pytest.approx(np.mean(own)) and o['std'] == pytest.approx(np.std(own, ddof=1))
        assert o.is_base == (o.row == best)
        want = (sum(own)-sum(v[best]))/gap if gap > 0 else np.nan
        assert o.share == pytest.approx(want, nan_ok=True)


def test_all_controls_get_their_chance():
    "Which one is best is seen in the table, and depends on the numbers alone"
    for good in accuracy.CONTROLS:
        accs = {k: 70. for k in accuracy.CONTROLS} | {good: 80., 'ceiling': 90., 'three': 85.}
        df = pd.DataFrame([dict(data='wine', seed=0, row=k, accuracy=v) for k, v in accs.items()])
        t = accuracy.table(df).set_index('row')
        assert t.share.three == .5 and t.is_base.sum() == 1 and t.is_base[good]
        assert all(t.share[k] == -1 for k in accuracy.CONTROLS if k != good)
    assert accuracy.best_control(pd.Series(dict(control=70.))) == 'control'


@pytest.mark.parametrize('seed', range(3))
def test_points_ahead(seed):
    "Against loops: differences are taken seed by seed, so that what seeds have in common drops out"
    df = frame(seed)
    acc = {(o.data, o.seed, o.row): o.accuracy for o in df.itertuples()}
    lines = accuracy.ahead(df).replace('\N{NO-BREAK SPACE}', ' ').splitlines()
    assert len(lines) == 2+len(accuracy.PAIRS) and lines[0].endswith('| digits | wine |')
    for line, (row, other) in zip(lines[2:], accuracy.PAIRS):
        label, *cells = line.strip('| ').split(' | ')
        assert label == f'{accuracy.ROWS[row]} over {accuracy.ROWS[other]}'
        for name, cell in zip(('digits', 'wine'), cells):
            d = [acc[name, i, row]-acc[name, i, other] for i in range(4)]
            err = (sum((o-sum(d)/4)**2 for o in d)/3/4)**.5
            assert cell == f'{sum(d)/4:+.1f} ± {err:.1f}'
    common = df.assign(accuracy=df.accuracy+10*df.seed)
    assert accuracy.ahead(common) == accuracy.ahead(df)
    assert len(accuracy.ahead(df[df.row != 'tsai']).splitlines()) == 2+len(accuracy.PAIRS)-2


def test_texts_say_what_the_table_says():
    t = accuracy.table(frame())
    text, page = accuracy.as_text(t), accuracy.as_markdown(t).replace('\N{NO-BREAK SPACE}', ' ')
    lines = page.splitlines()
    assert {o.count('|') for o in lines[:2+len(accuracy.ROWS)]} == {4}
    for _, o in t.iterrows():
        label, value = accuracy.ROWS[o.row], f'{o["mean"]:.1f} ± {o["std"]:.1f}'
        line = next(k for k in lines if k.startswith(f'| {label} |'))
        cell = line.split(' | ')[1 if o.data == 'digits' else 2]
        assert cell.startswith('**' if o.is_base else value) and value in cell
        assert o.is_base or o.row == 'ceiling' or np.isnan(o.share) or f'{o.share:+.2f} ± ' in cell
        assert f'{o["mean"]:6.1f} ± {o["std"]:4.1f}' in text


def test_figure_shows_the_means():
    df = frame(3)
    t = accuracy.table(df)
    ax = accuracy.figure(t).axes[0]
    shown = {o.get_label(): o.get_xdata() for o in ax.lines if not o.get_label().startswith('_')}
    means = df.groupby(['data', 'row']).accuracy.mean()
    for i, name in enumerate(['wine', 'digits']):  # from below
        m = means[name]
        assert shown['three rounds'][i] == pytest.approx(m.three) and shown['one round'][i] == pytest.approx(m.one)
        assert shown['best control'][i] == pytest.approx(max(m.control, m.control_m, m.control_long))
        assert shown['best other row'][i] == pytest.approx(max(m[k] for k in accuracy.OTHERS))
        assert ax.get_yticklabels()[i].get_text().startswith(name)


def test_counting_of_the_title():
    "More than half of the gap, and better than all rows but the ceiling"
    rows = dict(plain=60., control=70., control_m=65., control_long=68., self_training=70., spreading=70., tsai=70.,
                ceiling=90.)
    def closed(**kw):
        df = pd.DataFrame([dict(data='wine', seed=0, row=k, accuracy=v) for k, v in (rows | kw).items()])
        return accuracy.closed(accuracy.table(df))
    yes = ['wine']
    assert closed(one=75., three=81.) == (yes, yes, yes)
    assert closed(one=75., three=80.) == (yes, [], yes)
    assert closed(one=82., three=81.) == (yes, yes, [])
    assert closed(one=75., three=81., tsai=81.) == (yes, yes, [])
    assert closed(one=75., three=81., control_long=76.) == (yes, [], yes)
    for k in accuracy.CONTROLS: assert closed(one=75., three=81., **{k: 92.}) == ([], [], []), "no gap"


def test_verdict():
    rows = dict(plain=60., control=70., control_m=65., control_long=68., self_training=70., spreading=70., tsai=70.,
                ceiling=90.)
    def said(**kw):
        "`kw`: for each data set, accuracies of one round and of three"
        ks = [(d, k, v) for d, (one, three) in kw.items() for k, v in (rows | dict(one=one, three=three)).items()]
        return accuracy.verdict(accuracy.table(pd.DataFrame(ks, columns=['data', 'row', 'accuracy']).assign(seed=0)))
    assert said(wine=(75., 81.), digits=(75., 74.)) == (
        'Three rounds close more than half of the gap on 1 of 2 data sets that have one (wine), and are ahead of every '
        'other row on 1 (wine). Another row is as good or better on digits (ours, one round, 75.0). '
        'One round closes more than half of the gap on 0.')
    assert said(wine=(75., 79.)) == (
        'Three rounds close more than half of the gap on 0 of 1 data sets that have one, and are ahead of every '
        'other row on 1 (wine). One round closes more than half of the gap on 0.')
    assert said(wine=(81., 85.), digits=(80., 86.)).endswith('One round closes more than half of the gap on 1 (wine).')


def test_publish(tmp_path, monkeypatch):
    "Only what is published gets to the page, where its mark is"
    page, text = tmp_path/'README.md', 'a\n<!-- b -->\nold\n<!-- end -->\nc\n<!-- d -->\n<!-- end -->\n'
    page.write_text(text)
    monkeypatch.setattr(accuracy, 'PAGE', page)
    monkeypatch.setattr(accuracy, 'RESULTS', tmp_path)
    (tmp_path/'quick').mkdir()
    accuracy.publish('new\n', tmp_path/'quick', 'b')
    assert page.read_text() == text and (tmp_path/'quick/b.md').read_text() == 'new\n'
    accuracy.publish('new\n', tmp_path, 'b')
    assert page.read_text() == text.replace('\nold\n', '\n\nnew\n\n') and (tmp_path/'b.md').read_text() == 'new\n'


# runs

def tiny(path, names, seeds=(0,), settings=TINY, **kw):
    return accuracy.run_all(accuracy.run_seed, ALL, names, seeds, settings, path, jobs=1, **kw)


def test_accuracy_runs_through_and_goes_on(tmp_path, capsys):
    path = tmp_path/'accuracy.csv'
    one = tiny(path, ['wine'])
    assert set(one.row) == ALL and one.accuracy.between(0, 100).all() and len(one) == len(ALL)
    assert 'wine, seed 0' in capsys.readouterr().out
    both = tiny(path, ['wine', 'gun_point'])
    assert 'wine' not in capsys.readouterr().out, "what is finished is not run again"
    assert set(both.data) == {'wine', 'gun_point'} and len(accuracy.read(path)) == 2*len(ALL)
    pd.testing.assert_series_equal(both[both.data == 'wine'].accuracy.round(3).reset_index(drop=True),
                                   one.accuracy.round(3).reset_index(drop=True))


def fake(name, seed, s, part, runs, rows):
    "Results without a training"
    return pd.DataFrame([dict(row=k, accuracy=float(s.steps)) for k in accuracy.ROWS if k in rows])


def ran(path, settings, rows=ALL, **kw):
    return accuracy.run_all(fake, rows, ['wine'], [0, 1], settings, path, jobs=1, **kw)


def test_other_settings_do_not_replace_results(tmp_path, capsys):
    "Each line of the file says which settings it is of, and a table is of one"
    path, other = tmp_path/'a.csv', {k: replace(s, steps=9) for k, s in TINY.items()}
    assert TINY['wine'].key != other['wine'].key == replace(other['wine']).key
    ran(path, TINY)
    quick = ran(path, other)
    assert quick.accuracy.eq(9).all() and len(quick) == 2*len(accuracy.ROWS)
    assert len(accuracy.read(path)) == 2*len(quick), "both are there"
    capsys.readouterr()
    assert ran(path, TINY).accuracy.eq(8).all() and not capsys.readouterr().out, "nothing is run again"
    assert len(ran(path, TINY, again=True)) == len(quick) and len(accuracy.read(path)) == 2*len(quick)


def test_only_rows_that_are_missing_are_run(tmp_path, capsys):
    path = tmp_path/'a.csv'
    df = ran(path, TINY)
    accuracy.written(df[(df.row != 'control_m') | (df.seed == 1)].assign(accuracy=5.), path)
    capsys.readouterr()
    both = ran(path, TINY).set_index(['seed', 'row']).accuracy
    assert len(both) == len(df) and both[0, 'control_m'] == 8 and both.drop((0, 'control_m')).eq(5).all()
    assert 'seed 0, 0 s: control_m 8.0\n' in (out := capsys.readouterr().out) and 'seed 1' not in out
    accuracy.written(df[df.row != 'tsai'], path)
    capsys.readouterr()
    ran(path, TINY, rows=ALL-{'tsai'})
    assert not capsys.readouterr().out, "what can't be had here is not missed"


def test_a_row_alone_is_as_in_company(tmp_path):
    "What is added later is what it would have been: each row depends on the seed alone"
    s = TINY['wine']
    whole = accuracy.run_seed('wine', 0, s, 'test', None, ALL).set_index('row').accuracy
    for k in sorted(ALL): assert accuracy.run_seed('wine', 0, s, 'test', tmp_path, {k}).accuracy.tolist() == [whole[k]]


def test_a_quick_try_leaves_published_results_alone(monkeypatch):
    "Its files go elsewhere, by the arguments of both scripts"
    monkeypatch.setattr(sys, 'argv', ['x', '--steps', '8', '--data', 'digits'])
    a = accuracy.arguments('', ['digits', 'wine'])
    assert a.out != accuracy.RESULTS and a.settings['digits'].steps == 8
    monkeypatch.setattr(sys, 'argv', ['x'])
    a = accuracy.arguments('', ['digits', 'wine'])
    assert a.out == accuracy.RESULTS and a.settings == accuracy.SETTINGS and list(a.seeds) == list(range(5))
    assert a.part == 'test' and a.data == ['digits', 'wine']
    monkeypatch.setattr(sys, 'argv', ['x', '--tune', '--seeds', '3'])
    a = accuracy.arguments('', ['digits', 'wine'])
    assert a.part == 'valid' and list(a.seeds) == [100, 101, 102], "test rows decide on nothing"


def test_a_quick_try_as_a_command(tmp_path, monkeypatch, capsys):
    "Its page and its figure show all data sets that were run with its settings, whatever was asked for"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accuracy, 'run_seed', fake)
    before = {p: p.read_bytes() for p in accuracy.RESULTS.iterdir()}
    for name in ('wine', 'digits'):
        monkeypatch.setattr(sys, 'argv', ['x', '--steps', '8', '--seeds', '2', '--jobs', '1', '--data', name])
        accuracy.main()
    out = capsys.readouterr().out
    assert 'wine, 2 seeds' in out and 'digits, 2 seeds' in out.split('wine, 2 seeds')[1]
    page = (tmp_path/accuracy.QUICK/'accuracy.md').read_text(encoding='utf-8')
    assert page.splitlines()[0].endswith('| digits<br>2 seeds | wine<br>2 seeds |')
    assert (tmp_path/accuracy.QUICK/'accuracy.png').exists()
    assert before == {p: p.read_bytes() for p in accuracy.RESULTS.iterdir()}


def test_published_results_are_of_these_settings():
    "What the page shows can be made again: all seeds, all rows, by the settings in the script"
    df = accuracy.of_settings(accuracy.read(accuracy.RESULTS/'accuracy.csv'), accuracy.SETTINGS)
    page = (accuracy.RESULTS/'accuracy.md').read_text(encoding='utf-8')
    assert page == accuracy.page(df)
    shown = (ROOT/'benchmarks/README.md').read_text(encoding='utf-8')
    assert page in shown
    assert set(df.data) == set(accuracy.SETTINGS) and df.groupby('data').seed.nunique().eq(5).all()
    assert df.groupby(['data', 'seed']).row.nunique().eq(len(accuracy.ROWS)).all()
    rob = accuracy.of_settings(accuracy.read(accuracy.RESULTS/'robustness.csv'), accuracy.SETTINGS)
    assert robustness.as_markdown(robustness.table(rob)) in shown


def test_missing_data_are_left_out(tmp_path, capsys, monkeypatch):
    def missing(name, *args, **kwargs): raise FileNotFoundError('in the package xyz')
    monkeypatch.setattr(accuracy, 'label_scarce', missing)
    assert tiny(tmp_path/'a.csv', ['fashion_mnist']).empty
    assert 'fashion_mnist is left out: in the package xyz' in capsys.readouterr().out


def test_students_are_trained_as_the_control_is():
    "As many batches, and the same weights to start from"
    s = TINY['wine']
    with accuracy.quietly(): run = accuracy.rounds(accuracy.prepared('wine', s, 0), s, 0, n_rounds=2)
    assert run.records.n_batches.tolist() == [s.steps]*3 and run.records.n_params.nunique() == 1


def test_training_rows_standardize():
    "By what training may see, test rows by the same numbers"
    for name in ('wine', 'gun_point'):
        s = replace(accuracy.SETTINGS[name], n_unlabeled=None)
        data, raw = accuracy.prepared(name, s, 0), accuracy.label_scarce(name, s.n_per_class, 0, n_valid=None)
        x = accuracy.all_labeled(raw).x
        dims = (0, 2) if x.ndim == 3 else 0
        want = (raw.test.x-x.mean(dims, keepdims=True))/x.std(dims, keepdims=True)
        assert np.allclose(data.test.x, want, atol=1e-4)


def test_other_controls_have_the_noise_of_students(monkeypatch):
    "... one is not trained where that is the first one's; the other trains as long as a teacher and three students"
    calls, run = [], type('Run', (), {'learner': lambda self, r: f'round {r}'})()
    monkeypatch.setattr(accuracy, 'supervised', lambda data, s, seed, part, *args: calls.append((part, *args)) or 'new')
    monkeypatch.setattr(accuracy, 'rounds', lambda *args: run)
    data = accuracy.label_scarce('wine')
    def controls(m):
        calls.clear()
        nets = accuracy.trainers(data, replace(accuracy.SETTINGS['wine'], m=m, m_control=.1), 0)
        return [nets[k]() for k in accuracy.CONTROLS]
    assert controls(.3) == ['round 0', 'new', 'new'] and calls == [(data.labeled, .3), (data.labeled, .3, 4)]
    assert controls(.1) == ['round 0', 'round 0', 'new'] and calls == [(data.labeled, .1, 4)]


def test_the_long_control_has_the_batches_of_all_rounds():
    s = TINY['wine']
    with accuracy.quietly():
        data = accuracy.prepared('wine', s, 0)
        run = accuracy.rounds(data, s, 0)
        nets = accuracy.trainers(data, s, 0)
        long, short = nets['control_long'](), nets['control_m']()
    assert len(long.dls.train) == run.records.n_batches.sum() == 4*len(short.dls.train)


@pytest.mark.tsai
def test_noise_for_tsai_leaves_targets_alone():
    tfm, y = accuracy.OnInputs(accuracy.table_noise(.5)), torch.arange(20)
    x = torch.randn(20, 5)
    assert tfm(y, split_idx=0) is y and not torch.equal(tfm(x, split_idx=0), x)


# robustness

@pytest.mark.parametrize('name', list(robustness.CORRUPTIONS))
@pytest.mark.parametrize('size', (8, 28))
def test_corruptions_grow(name, size):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(200, 1, size, size)).astype(np.float32)
    x[:, :, size//4:size//2] = 0  # some structure
    old = x.copy()
    far = [np.abs(robustness.corrupted(x, name, i)-x).mean() for i in range(1, 6)]
    assert far[0] > .001 and all(b > 1.03*a for a, b in zip(far, far[1:])), far
    res = robustness.corrupted(x, name, 5)
    assert res.shape == x.shape and res.dtype == np.float32 and res.min() >= 0 and res.max() <= 1
    assert np.array_equal(x, old) and np.array_equal(res, robustness.corrupted(x, name, 5))


@pytest.mark.parametrize('seed', range(3))
def test_relative_errors(seed):
    "Against loops: by the control that is better on clean pictures, for each data set"
    rng = np.random.default_rng(seed)
    kinds = [('clean', 0), *product(robustness.CORRUPTIONS, range(1, 6))]
    ks = [(*o, *k) for o in product(robustness.DATA, range(3), robustness.MODELS) for k in kinds]
    df = pd.DataFrame(ks, columns=['data', 'seed', 'row', 'corruption', 'severity'])
    df['accuracy'] = rng.uniform(10, 90, len(df))
    rel = robustness.relative_errors(df)
    acc = {k: a for k, a in zip(ks, df.accuracy)}

    def ce(d, i, m, c): return sum(100-acc[d, i, m, c, v] for v in range(1, 6))
    def clean(d, m): return sum(acc[d, i, m, 'clean', 0] for i in range(3))
    for o in rel.itertuples():
        base = max(('control', 'control_m'), key=lambda m: clean(o.data, m))
        each = [100*ce(o.data, o.seed, o.row, c)/ce(o.data, o.seed, base, c) for c in robustness.CORRUPTIONS]
        want = np.mean(each) if o.corruption == 'mean' else each[list(robustness.CORRUPTIONS).index(o.corruption)]
        assert o.relative == pytest.approx(want)
    assert len(rel) == 2*3*len(robustness.MODELS)*6


def test_robustness_runs_through(tmp_path, capsys):
    path, models = tmp_path/'r.csv', set(robustness.MODELS)
    df = accuracy.run_all(robustness.run_seed, models, ['digits'], [0], TINY, path, jobs=1, runs=tmp_path/'runs')
    assert len(df) == len(models)*26 and df.accuracy.between(0, 100).all() and any((tmp_path/'runs').iterdir())
    page = robustness.as_markdown(robustness.table(pd.concat([df, df.assign(seed=1)])))
    assert len(page.splitlines()) == 2+len(models)
    fig = robustness.figure(df, 'digits')
    assert [o.get_title() for o in fig.axes] == list(robustness.CORRUPTIONS)
    line = fig.axes[0].lines[0]
    own = df[(df.row == 'plain') & df.corruption.isin(['clean', 'noise'])].sort_values('severity')
    assert np.allclose(line.get_ydata(), own.accuracy)
    capsys.readouterr()
    accuracy.run_all(robustness.run_seed, models, ['digits'], [0], TINY, path, jobs=1, runs=tmp_path/'runs')
    assert not capsys.readouterr().out, "what is finished is not run again"


# imbalance

@pytest.mark.parametrize('name', ['breast_cancer', 'digits_table', 'digits'])
def test_parts_have_the_shares(name):
    "... no row in common, and each row's own label"
    s = imbalance.RARE[name]
    data, (_, y) = imbalance.drawn(name, s, 3), imbalance.whole(s.source)
    for part, n in zip(data.parts.values(), s.sizes):
        assert part.n == n and np.allclose(np.bincount(part.y)/n, s.shares, atol=.5001/n)
        own = [next((i for i, g in enumerate(s.groups) if g != imbalance.REST and y[j] in g), 1) for j in part.idxs]
        assert part.y.tolist() == own
    at = np.concatenate([o.idxs for o in data.parts.values()])
    assert len(set(at)) == len(at) and data.labeled.x.ndim == (4 if name == 'digits' else 2)
    assert not np.array_equal(at, np.concatenate([o.idxs for o in imbalance.drawn(name, s, 4).parts.values()]))


def test_counts_leave_no_class_out():
    for n, shares in product((7, 300), ((.01, .99), imbalance.TAIL)):
        if n < len(shares): continue
        ks = imbalance.counts(n, shares)
        assert ks.sum() == n and ks.min() >= 1 and np.argmax(ks) == np.argmax(shares)
    assert imbalance.TAIL[-1]/imbalance.TAIL[0] == pytest.approx(50, rel=.02)


def test_pooled():
    x = np.random.default_rng(0).random((3, 1, 8, 8))
    want = [[[x[i, 0, 4*a:4*a+4, 4*b:4*b+4].mean() for b in range(2)] for a in range(2)] for i in range(3)]
    assert np.allclose(imbalance.pooled(x, 4)[:, 0], want) and imbalance.pooled(x, 1) is x


@pytest.mark.parametrize('c', (2, 4))
def test_scores(c):
    "Average precision from the ranks, the others from counts"
    rng = np.random.default_rng(c)
    p, y = rng.dirichlet(np.ones(c), 60), rng.permutation(np.arange(60) % c)
    def ap(i):
        hits = (y == i)[np.argsort(-p[:, i])]
        return np.mean([hits[:k+1].mean() for k in np.flatnonzero(hits)])
    recalls = [np.mean(p[y == i].argmax(1) == i) for i in range(c)]
    means = ap(0) if c == 2 else np.mean([ap(i) for i in range(c)])
    want = dict(ap=means, balanced=np.mean(recalls), recall=recalls[0])
    assert imbalance.scores(p, y) == pytest.approx({k: 100*v for k, v in want.items()})


def rare_frame(seed=0):
    rng = np.random.default_rng(seed)
    ks = [(d, i, r) for d in ('digits', 'shirts') for i in range(4) for r in imbalance.ROWS]
    df = pd.DataFrame(ks, columns=['data', 'seed', 'row'])
    return df.assign(**{k: rng.uniform(20, 90, len(df)) for k in imbalance.METRICS})


def test_who_is_ahead():
    "Against loops, and what the words make of it"
    df = rare_frame()
    v = {(o.data, o.seed, o.row): o.ap for o in df.itertuples()}
    for o in imbalance.ahead(df).to_dict('records'):
        d = [v[o['data'], i, o['row']]-v[o['data'], i, o['other']] for i in range(4)]
        assert o['mean'] == pytest.approx(np.mean(d)) and o['sem'] == pytest.approx(np.std(d, ddof=1)/2)
    good = df.assign(ap=np.where(df.row == 'student', 95, df.ap))
    bad = df.assign(ap=np.where(df.row == 'student', 5, df.ap))
    assert 'ahead of its control on 2 (digits, shirts), and more than a standard error below it on none' \
        in imbalance.verdict(good)
    assert 'more than a standard error below it on 2 (digits, shirts)' in imbalance.verdict(bad)
    page = imbalance.page(df)
    assert page.count('| student, by class shares |') == 3 and 'shirts<br>5%, 300 labels' in page


def test_imbalance_runs_through_and_goes_on(tmp_path, capsys):
    path, rows = tmp_path/'i.csv', set(imbalance.ROWS)
    def run(): return accuracy.run_all(imbalance.run_seed, rows, ['breast_cancer'], [0], TINY_RARE, path, jobs=1,
                                       there=imbalance.available, measure='ap')
    df = run()
    assert set(df.row) == rows and df[list(imbalance.METRICS)].stack().between(0, 100).all()
    assert 'breast_cancer, seed 0' in capsys.readouterr().out
    run()
    assert not capsys.readouterr().out, "what is finished is not run again"


def test_students_are_trained_on_what_was_selected(monkeypatch):
    "By class shares with a cap, or equally many of each class without one, from labels of one teacher"
    s, asked = TINY_RARE['breast_cancer'], []
    def spy(self, **kw):
        asked.append(kw)
        return select(self, **kw)
    select = PseudoLabels.select
    monkeypatch.setattr(PseudoLabels, 'select', spy)
    with accuracy.quietly():
        nets = imbalance.trainers(imbalance.drawn('breast_cancer', s, 0), s, 0)
        learners = [nets[k]() for k in ('student', 'equal')]
    assert asked[0]['max_repeat'] == 3 and 'n_per_class' not in asked[0]
    assert asked[1]['max_repeat'] is None and asked[1]['n_per_class'] == 30
    assert [len(o.recorder.losses) for o in (*learners, nets['teacher']())] == [s.steps]*3


def test_published_imbalance_is_of_these_settings():
    df = accuracy.of_settings(accuracy.read(accuracy.RESULTS/'imbalance.csv'), imbalance.RARE)
    page = (accuracy.RESULTS/'imbalance.md').read_text(encoding='utf-8')
    assert page == imbalance.page(df) and page in (ROOT/'benchmarks/README.md').read_text(encoding='utf-8')
    assert set(df.data) == set(imbalance.RARE) and df.groupby('data').seed.nunique().eq(5).all()
    assert df.groupby(['data', 'seed']).row.nunique().eq(len(imbalance.ROWS)).all()
