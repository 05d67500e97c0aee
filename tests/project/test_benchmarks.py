"The scripts in benchmarks/ run through at tiny settings, and compute from their numbers what a plain computation does"
import sys
from dataclasses import replace
from functools import partial
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
import rivals  # noqa: E402
import robustness  # noqa: E402
import runs  # noqa: E402
import sets  # noqa: E402
import texts  # noqa: E402
import training  # noqa: E402
import tuning  # noqa: E402

TINY_RARE = {k: replace(s, steps=8, sizes=(40, 60, 40, 40)) for k, s in imbalance.RARE.items()}
TINY = {k: replace(s, steps=8, n_unlabeled=40, min_conf=0.) for k, s in sets.SETTINGS.items()}


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
    assert np.isnan(accuracy.gap_share([81., 85.], c, [83., 84.])[0]), "1.5 ± 1.5 points are none either"
    share, err = accuracy.gap_share([85.], [80.], [90.])
    assert share == .5 and np.isnan(err), "one seed has no spread"


@pytest.mark.parametrize('seed', range(5))
def test_table(seed):
    "Against loops: shares are counted from the best of the controls"
    df = frame(seed)
    t = accuracy.table(df)
    assert len(t) == 2*len(accuracy.ROWS)
    of = {}
    for d, _, r, a in df.itertuples(index=False): of.setdefault(d, {}).setdefault(r, []).append(a)
    for _, o in t.iterrows():
        v = of[o.data]
        best = max((k for k in v if k.startswith('control') or k == 'plain'), key=lambda k: sum(v[k]))
        own, gap = v[o.row], sum(v['ceiling_long'])-sum(v[best])
        assert o.is_best == (sum(own) == max(sum(a) for k, a in v.items() if not k.startswith('ceiling')))
        assert o['mean'] == pytest.approx(np.mean(own)) and o['std'] == pytest.approx(np.std(own, ddof=1))
        assert o.is_base == (o.row == best)
        err = np.std(np.subtract(v['ceiling_long'], v[best]), ddof=1)/2  # of four seeds
        want = (sum(own)-sum(v[best]))/gap if gap/4 > 2*err else np.nan
        assert o.share == pytest.approx(want, nan_ok=True)


def test_all_controls_get_their_chance():
    "Which one is best is seen in the table, and depends on the numbers alone"
    for good in accuracy.CONTROLS:
        accs = {k: 70. for k in accuracy.CONTROLS} | {good: 80., 'ceiling_long': 90., 'three': 85.}
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
    def mean(name, row): return sum(acc[name, i, row] for i in range(4))
    best = {name: {accuracy.BEST: max(accuracy.CONTROLS, key=partial(mean, name)),
                   accuracy.RIVAL: accuracy.preferred(name)} for name in ('digits', 'wine')}
    lines = accuracy.ahead(df).replace('\N{NO-BREAK SPACE}', ' ').splitlines()
    assert len(lines) == 2+len(accuracy.PAIRS) and lines[0].endswith('| digits | wine |')
    for line, (row, other) in zip(lines[2:], accuracy.PAIRS):
        label, *cells = line.strip('| ').split(' | ')
        assert label == f'{accuracy.ROWS[row]} over {accuracy.ROWS.get(other, other)}'
        for name, cell in zip(('digits', 'wine'), cells):
            d = [acc[name, i, row]-acc[name, i, best[name].get(other, other)] for i in range(4)]
            err = (sum((o-sum(d)/4)**2 for o in d)/3/4)**.5
            assert cell == f'{sum(d)/4:+.1f} ± {err:.1f}'.replace('-0.0', '+0.0')
    common = df.assign(accuracy=df.accuracy+10*df.seed)
    assert accuracy.ahead(common) == accuracy.ahead(df)
    assert len(accuracy.ahead(df[df.row != 'tsai']).splitlines()) == 2+len(accuracy.PAIRS)-1


def test_texts_say_what_the_table_says():
    t = accuracy.table(frame())
    text, page = accuracy.as_text(t), accuracy.as_markdown(t).replace('\N{NO-BREAK SPACE}', ' ')
    acc, shares = (o.splitlines() for o in page.strip().split('\n\n'))
    assert {o.count('|') for o in acc+shares} == {4} and '4 labels a class' in acc[0] and '<br>' not in ''.join(acc[1:])
    assert acc[0].startswith('| accuracy in % |') and shares[0].startswith('| share of the gap |')
    def cell(lines, o): return next(k for k in lines if k.startswith(f'| {accuracy.ROWS[o.row]} |')).split(' | ')[
        1 if o.data == 'digits' else 2].strip('| ')
    for _, o in t.iterrows():
        value = f'{o["mean"]:.1f} ± {o["std"]:.1f}'
        assert cell(acc, o) == (f'**{value}**' if o.is_best else value)
        if not (o.is_base or o.row == 'ceiling_long' or np.isnan(o.share)):
            assert f'{o.share:+.2f} ± ' in cell(shares, o)
        assert f'{o["mean"]:6.1f} ± {o["std"]:4.1f}' in text


def test_the_headline_counts_from_the_best_control():
    df = frame()
    m = df.groupby(['data', 'row']).accuracy.mean()
    first, table, three = accuracy.headline(df).replace('\N{NO-BREAK SPACE}', ' ').split('\n\n')
    gains = []
    for line, name in zip(table.splitlines()[2:], ('digits', 'wine')):
        best = max(accuracy.CONTROLS, key=lambda k: m[name][k])
        base, own = m[name][best], df[df.data == name].pivot(index='seed', columns='row', values='accuracy')
        gains.append(m[name]['ours']-base)
        err = (own.ours-own[best]).std()/2
        cells = [o.strip(' *') for o in line.strip('|').split('|')]
        assert cells == [name, accuracy.labels_of(name), f'{base:.1f}', f"{m[name]['ours']:.1f}",
                         f'{gains[-1]:+.1f} ± {err:.1f}', f"{m[name]['ceiling_long']:.1f}"]
    assert f'on {sum(o > 0 for o in gains)} of 2 settings' in first
    assert f'{min(gains):+.1f} to {max(gains):+.1f}' in first
    gains = [m[k]['three']-max(m[k][o] for o in accuracy.CONTROLS) for k in ('digits', 'wine')]
    said = f'ahead on {sum(o > 0 for o in gains)} of 2, by {sum(gains)/2:.1f} points in the median'
    assert f'{said} ({min(gains):+.1f} to {max(gains):+.1f})' in ' '.join(three.split())


def test_wide_tables_are_cut():
    "... and each column is there once, with the rows that it has"
    names = list(sets.SETTINGS)
    df = pd.DataFrame([dict(data=k, seed=0, row=r, accuracy=50.) for k in names for r in ('plain', 'control', 'ours')])
    heads = [o for o in accuracy.as_markdown(accuracy.table(df)).splitlines() if 'labels a class' in o]
    assert sum(o.count(' seeds') for o in heads) == 2*len(names) and max(o.count('|') for o in heads) == 8
    assert '| fashion mnist<br>25 labels a class<br>1 seeds |' in ''.join(heads)
    parts = accuracy.ahead(df.assign(row=df.row.replace('plain', 'three'))).strip().split('\n\n')
    assert [o.splitlines()[0].count('|') for o in parts] == [8, 8, 6]
    assert parts[-1].split(' | ')[1] == 'fashion mnist at 4 labels'
    assert {o.splitlines()[2].split('|')[2].split('±')[0].strip() for o in parts} == {'+0.0'}


def test_what_rounds_to_0_has_no_sign():
    assert [accuracy.signed(v) for v in (-.04, .04, -.06, 2)] == ['+0.0', '+0.0', '-0.1', '+2.0']
    assert [accuracy.signed(v, 2) for v in (-.004, -.006)] == ['+0.00', '-0.01']


def test_figure_shows_the_means():
    df = frame(3)
    ax = accuracy.figure(df).axes[0]
    shown = {o.get_label(): o.get_xdata() for o in ax.lines if not o.get_label().startswith('_')}
    means = df.groupby(['data', 'row']).accuracy.mean()
    for i, name in enumerate(['wine', 'digits']):  # from below
        m = means[name]
        assert shown['three rounds'][i] == pytest.approx(m.three) and shown['ours'][i] == pytest.approx(m.ours)
        assert shown['best control'][i] == pytest.approx(max(m[k] for k in accuracy.CONTROLS))
        assert shown['best other method'][i] == pytest.approx(max(m[k] for k in accuracy.RIVALS))
        assert ax.get_yticklabels()[i].get_text().startswith(name)


def test_curves_show_the_means():
    rng, names = np.random.default_rng(0), ['fashion_mnist', *(f'fashion_mnist_{n}' for n in (4, 25, 100))]
    ks = [(d, i, r, rng.uniform(50, 100)) for d in [*names, 'wine'] for i in range(3) for r in accuracy.ROWS]
    df = pd.DataFrame(ks, columns=['data', 'seed', 'row', 'accuracy'])
    ax = accuracy.curves(df).axes[0]
    lines = {o.get_label(): o.lines[0] for o in ax.containers}
    for row in accuracy.IN_CURVES:
        own = [df[(df.data == f'fashion_mnist{k}') & (df.row == row)] for k in ('_4', '', '_25', '_100')]
        assert lines[accuracy.ROWS[row]].get_xdata().tolist() == [4, 10, 25, 100]
        assert np.allclose(lines[accuracy.ROWS[row]].get_ydata(), [o.accuracy.mean() for o in own])


BASE = {k: 70. for k in accuracy.ROWS} | dict(ceiling=85., ceiling_long=90.)


def results_of(**kw):
    "Two seeds, 1 apart, of settings with what they have beside `BASE`"
    ks = [(d, i, k, v+i) for d, more in kw.items() for i in range(2) for k, v in (BASE | more).items()]
    return pd.DataFrame(ks, columns=['data', 'seed', 'row', 'accuracy'])


def test_counting():
    "The best mean but for the ceilings, and below the best control by more than a standard error"
    df = results_of(wine=dict(ours=81.), digits=dict(ours=81., fixmatch=82.), gun_point=dict(ours=69.))
    assert accuracy.leads(df) == ['wine'] and accuracy.behind(df) == ['gun_point']
    assert accuracy.above(accuracy.table(df), .5) == ['wine', 'digits']
    df.loc[(df.row == 'ours') & (df.data == 'gun_point'), 'accuracy'] = [65., 72.]
    assert accuracy.behind(df) == [], "2 ± 3 below"


def test_verdict():
    df = results_of(wine=dict(ours=83.), digits=dict(ours=81., fixmatch=82.), gun_point=dict(ours=69.))
    assert accuracy.verdict(df) == (
        'Of 3 settings ours has the best mean on 1 (wine). Another row is best on digits (FixMatch, 82.5), gun point '
        '(supervised, no noise, 70.5). It is more than one standard error below the best control on 1 (gun point). '
        'Against the rival that validation prefers (FixMatch, FlexMatch or Mean Teacher) it is more than one standard '
        'error ahead on 2 (digits, wine), and behind on 1 (gun point). Over all settings the best means are ours, '
        'propagated labels, equal batches 78.2, FixMatch 74.5, supervised, no noise 70.5, supervised, noise tuned for '
        'it (control) 70.5. '
        'It closes more than 0.6 of the gap on 1 (wine). It closes more than 0.2 of the gap on 2 (wine, digits).')
    df = results_of(wine=dict(ours=83.))
    assert 'Another row' not in accuracy.verdict(df) and 'best control on none.' in accuracy.verdict(df)
    assert 'missing' in accuracy.verdict(df[df.row != 'ours'])


def test_publish(tmp_path, monkeypatch):
    "Only what is published gets to the page, where its mark is"
    page, text = tmp_path/'README.md', 'a\n<!-- b -->\nold\n<!-- end -->\nc\n<!-- d -->\n<!-- end -->\n'
    page.write_text(text)
    monkeypatch.setattr(runs, 'PAGE', page)
    monkeypatch.setattr(runs, 'RESULTS', tmp_path)
    (tmp_path/'quick').mkdir()
    runs.publish('new\n', tmp_path/'quick', 'b')
    assert page.read_text() == text and (tmp_path/'quick/b.md').read_text() == 'new\n'
    runs.publish('new\n', tmp_path, 'b')
    assert page.read_text() == text.replace('\nold\n', '\n\nnew\n\n') and (tmp_path/'b.md').read_text() == 'new\n'


# runs

def tiny(path, names, seeds=(0,), rows=ALL, **kw):
    return runs.run_all(accuracy.run_seed, rows, names, seeds, TINY, path, jobs=1, **kw)


def test_accuracy_runs_through_and_goes_on(tmp_path, capsys):
    path = tmp_path/'accuracy.csv'
    one = tiny(path, ['wine'])
    assert set(one.row) == ALL and one.accuracy.between(0, 100).all() and len(one) == len(ALL)
    assert 'wine, seed 0' in capsys.readouterr().out
    rows = {'control', 'lp_cosine', 'fixmatch', 'ours'}
    both = tiny(path, ['wine', 'gun_point'], rows=rows)
    assert 'wine' not in capsys.readouterr().out, "what is finished is not run again"
    assert set(both.data) == {'wine', 'gun_point'} and len(runs.read(path)) == len(ALL)+len(rows)
    pd.testing.assert_series_equal(both[both.data == 'wine'].accuracy.round(3).reset_index(drop=True),
                                   one.accuracy.round(3).reset_index(drop=True))


def fake(name, seed, s, part, runs, rows):
    "Results without a training"
    return pd.DataFrame([dict(row=k, accuracy=float(s.steps)) for k in accuracy.ROWS if k in rows])


def ran(path, settings, rows=ALL, **kw):
    return runs.run_all(fake, rows, ['wine'], [0, 1], settings, path, jobs=1, **kw)


def test_other_settings_do_not_replace_results(tmp_path, capsys):
    "Each line of the file says which settings it is of, and a table is of one"
    path, other = tmp_path/'a.csv', {k: replace(s, steps=9) for k, s in TINY.items()}
    assert TINY['wine'].key != other['wine'].key == replace(other['wine']).key
    ran(path, TINY)
    quick = ran(path, other)
    assert quick.accuracy.eq(9).all() and len(quick) == 2*len(accuracy.ROWS)
    assert len(runs.read(path)) == 2*len(quick), "both are there"
    capsys.readouterr()
    assert ran(path, TINY).accuracy.eq(8).all() and not capsys.readouterr().out, "nothing is run again"
    assert len(ran(path, TINY, again=True)) == len(quick) and len(runs.read(path)) == 2*len(quick)


def test_only_rows_that_are_missing_are_run(tmp_path, capsys):
    path = tmp_path/'a.csv'
    df = ran(path, TINY)
    runs.written(df[(df.row != 'control_m') | (df.seed == 1)].assign(accuracy=5.), path)
    capsys.readouterr()
    both = ran(path, TINY).set_index(['seed', 'row']).accuracy
    assert len(both) == len(df) and both[0, 'control_m'] == 8 and both.drop((0, 'control_m')).eq(5).all()
    assert 'seed 0, 0 s: control_m 8.0\n' in (out := capsys.readouterr().out) and 'seed 1' not in out
    runs.written(df[df.row != 'tsai'], path)
    capsys.readouterr()
    ran(path, TINY, rows=ALL-{'tsai'})
    assert not capsys.readouterr().out, "what can't be had here is not missed"


def test_a_row_alone_is_as_in_company(tmp_path):
    "What is added later is what it would have been: each row depends on the seed alone"
    s = TINY['wine']
    rows = ALL & {'control', 'control_m', 'tsai', 'spreading', 'flexmatch', 'three', 'ours', 'ceiling_long'}
    whole = accuracy.run_seed('wine', 0, s, 'test', None, rows).set_index('row').accuracy
    for k in sorted(rows): assert accuracy.run_seed('wine', 0, s, 'test', tmp_path, {k}).accuracy.tolist() == [whole[k]]


def test_a_quick_try_leaves_published_results_alone(monkeypatch):
    "Its files go elsewhere, by the arguments of both scripts"
    monkeypatch.setattr(sys, 'argv', ['x', '--steps', '8', '--data', 'digits'])
    a = runs.arguments('', ['digits', 'wine'])
    assert a.out != runs.RESULTS and a.settings['digits'].steps == 8
    monkeypatch.setattr(sys, 'argv', ['x'])
    a = runs.arguments('', ['digits', 'wine'])
    assert a.out == runs.RESULTS and a.settings == sets.SETTINGS and a.seeds['wine'] == range(5)
    assert a.seeds['gun_point_4'] == range(10), "seeds decide there"
    assert a.part == 'test' and a.data == ['digits', 'wine']
    monkeypatch.setattr(sys, 'argv', ['x', '--tune', '--seeds', '3'])
    a = runs.arguments('', ['digits', 'wine'])
    assert a.part == 'valid' and {*a.seeds.values()} == {range(100, 103)}, "test rows decide on nothing"


def test_a_quick_try_as_a_command(tmp_path, monkeypatch, capsys):
    "Its page and its figure show all data sets that were run with its settings, whatever was asked for"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accuracy, 'run_seed', fake)
    before = {p: p.read_bytes() for p in runs.RESULTS.iterdir()}
    for name in ('wine', 'digits'):
        monkeypatch.setattr(sys, 'argv', ['x', '--steps', '8', '--seeds', '2', '--jobs', '1', '--data', name])
        accuracy.main()
    out = capsys.readouterr().out
    assert 'wine, 2 seeds' in out and 'digits, 2 seeds' in out.split('wine, 2 seeds')[1]
    page = (tmp_path/runs.QUICK/'accuracy.md').read_text(encoding='utf-8')
    want = '| digits<br>4 labels a class<br>2 seeds | wine<br>2 labels a class<br>2 seeds |'
    assert page.splitlines()[0].endswith(want)
    assert (tmp_path/runs.QUICK/'accuracy.png').exists()
    assert before == {p: p.read_bytes() for p in runs.RESULTS.iterdir()}


def test_published_results_are_of_these_settings():
    "What the page shows can be made again: all seeds, all rows, by the settings in the script"
    df = runs.of_settings(runs.read(runs.RESULTS/'accuracy.csv'), tuning.tuned_settings(sets.SETTINGS), tuning.key_of)
    page = (runs.RESULTS/'accuracy.md').read_text(encoding='utf-8')
    shown = (ROOT/'benchmarks/README.md').read_text(encoding='utf-8')
    assert accuracy.headline(df) in shown and shown.index('<!-- headline -->') < shown.index('```')
    assert page in shown and df.groupby('data').seed.nunique().ge(5).all()
    said = page.replace('\N{NO-BREAK SPACE}', ' ')
    for _, g in df.groupby(['data', 'row']): assert f'{g.accuracy.mean():.1f} ± {g.accuracy.std():.1f}' in said
    rob = runs.of_settings(runs.read(runs.RESULTS/'robustness.csv'), sets.SETTINGS)
    assert robustness.as_markdown(robustness.table(rob)) in shown


def test_the_page_is_of_whole_seeds():
    "Each data set has the same rows for each seed; the page of all rows is what the script makes of them"
    df = runs.of_settings(runs.read(runs.RESULTS/'accuracy.csv'), tuning.tuned_settings(sets.SETTINGS), tuning.key_of)
    assert df.groupby(['data', 'seed']).row.nunique().groupby('data').nunique().eq(1).all()
    is_whole = set(df.row) == set(accuracy.ROWS)
    assert is_whole == ((runs.RESULTS/'accuracy.md').read_text(encoding='utf-8') == accuracy.page(df))


def test_missing_data_are_left_out(tmp_path, capsys, monkeypatch):
    def missing(name, *args, **kwargs): raise FileNotFoundError('in the package xyz')
    monkeypatch.setattr(runs, 'look', missing)
    assert tiny(tmp_path/'a.csv', ['fashion_mnist']).empty
    assert 'fashion_mnist is left out: in the package xyz' in capsys.readouterr().out


def test_students_are_trained_as_the_control_is():
    "As many batches, and the same weights to start from"
    s = replace(TINY['wine'], steps=17)  # no multiple of what the labeled rows of a student's batches make
    with training.quietly(): run = training.rounds(sets.prepared('wine', s, 0), s, 0, n_rounds=2)
    assert run.records.n_batches.tolist() == [s.steps]*3 and run.records.n_params.nunique() == 1


def test_training_rows_standardize():
    "By what training may see, test rows by the same numbers"
    for name in ('wine', 'gun_point'):
        s = replace(sets.SETTINGS[name], n_unlabeled=None)
        data, raw = sets.prepared(name, s, 0), sets.label_scarce(name, s.n_per_class, 0, n_valid=None)
        x = sets.all_labeled(raw).x
        dims = (0, 2) if x.ndim == 3 else 0
        want = (raw.test.x-x.mean(dims, keepdims=True))/x.std(dims, keepdims=True)
        assert np.allclose(data.test.x, want, atol=1e-4)


def test_other_controls_have_the_noise_of_students(monkeypatch):
    "... one is not trained where that is the first one's; the long ones have all batches, and the noise of either"
    calls, run = [], type('Run', (), {'learner': lambda self, r: f'round {r}'})()
    monkeypatch.setattr(accuracy, 'supervised', lambda data, s, seed, part, *args: calls.append((part, *args)) or 'new')
    monkeypatch.setattr(accuracy, 'rounds', lambda *args: run)
    data = sets.label_scarce('wine')
    def controls(m):
        calls.clear()
        nets = accuracy.trainers(data, replace(sets.SETTINGS['wine'], m=m, m_control=.1), 0)
        return [nets[k]() for k in accuracy.CONTROLS[1:]]  # without noise is another matter
    def new(*strengths): return [(data.labeled, m, 4) for m in strengths]
    assert controls(.3) == ['round 0', 'new', 'new', 'new'] and calls == [(data.labeled, .3), *new(.1, .3)]
    assert controls(.1) == ['round 0', 'round 0', 'new', 'new'] and calls == new(.1, .1)


def test_the_long_control_has_the_batches_of_all_rounds():
    s = TINY['wine']
    with training.quietly():
        data = sets.prepared('wine', s, 0)
        run = training.rounds(data, s, 0)
        nets = accuracy.trainers(data, s, 0)
        long, short = nets['control_long'](), nets['control_m']()
    assert len(long.dls.train) == run.records.n_batches.sum() == 4*len(short.dls.train)


@pytest.mark.parametrize('o', [dict(n_rounds=2, n_pl=56, ema=None), dict(n_rounds=1, n_pl=32, ema=.9)])
def test_ours_has_the_batches_of_all_rounds(o, monkeypatch):
    "... divided as it says, and labels from where it says"
    asked, train = [], training.train_anyway
    monkeypatch.setattr(training, 'train_anyway', lambda *args, **kw: (asked.append(kw), train(*args, **kw))[1])
    s = replace(sets.SETTINGS['wine'], steps=18, min_conf=0.)
    with training.quietly(): run = training.ours(sets.prepared('wine', s, 0), s, 0, o | dict(propagate='both'))
    n = run.records.n_batches.tolist()
    assert sum(n) == training.total(s) == 72 and n[0] == 12 and len(set(n[1:])) == 1
    assert run.labels(o['n_rounds'], 0).about['propagated']['on'] == ['teacher', 'inputs']
    ratio = asked[0]['student']['l2pl_ratio']
    assert ratio == pytest.approx((64-o['n_pl'])/o['n_pl']) and asked[0]['ema'] == o['ema']


def test_a_row_that_ends_early_has_what_it_reached():
    "Where a teacher is sure of no row, the last model before it counts"
    s = replace(TINY['wine'], min_conf=.9999)
    with training.quietly():
        data = sets.prepared('wine', s, 0)
        run = training.rounds(data, s, 0)
        assert run.records.n_batches.tolist() == [8, 0]
        right = [training.percent_right(o, data.test) for o in (training.reached(run, 3), run.learner(0))]
    assert right[0] == right[1]


def test_online_rivals_have_the_batches_of_all_rounds(monkeypatch):
    "... labeled and unlabeled rows count as much, and the teacher is what makes the method"
    s, seen = TINY['wine'], []
    class Spy(rivals.NoisyStudent):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            seen.append(self)
    monkeypatch.setattr(rivals, 'NoisyStudent', Spy)
    with training.quietly():
        data = sets.prepared('wine', s, 0)
        for row, n_pl in product(accuracy.ONLINE, (56, 32)):
            learn = rivals.online(row, data, s, 0, tuning.first_of(row) | dict(n_pl=n_pl))
            cb, t = seen[-1], seen[-1].teacher
            assert len(learn.recorder.losses) == 4*s.steps and cb.sizes(learn.dls.train) == (64-n_pl, n_pl)
            assert n_pl*cb.pseudolabel_sample_weight == pytest.approx(64-n_pl)
            assert (t.soft, t.per_class) == (row == 'mean_teacher', row == 'flexmatch')
            assert (t.decay, t.min_conf) == ((.99, None) if row == 'mean_teacher' else (0, .95))


@pytest.mark.parametrize('seed', range(3))
def test_propagation_alone(seed):
    "Against a dense solution, and a loop over test rows"
    rng, o = np.random.default_rng(seed), dict(k=4, gamma=3., alpha=.9, prior='labeled')
    y = np.arange(60) % 3
    x = (rng.normal(size=(60, 5))+2*np.eye(5)[y]).astype(np.float32)
    rows = [slice(0, 6), slice(6, 40), slice(0, 0), slice(40, 60)]
    data = sets.LabelScarce('a', ('u', 'v', 'w'), *(sets.Part(x[i], y[i], np.arange(60)[i]) for i in rows))
    own, new = x[:40]-x[:40].mean(0), x[40:]-x[:40].mean(0)
    own, new = (v/np.linalg.norm(v, axis=1, keepdims=True) for v in (own, new))
    def near(sims): return np.where(sims >= np.sort(sims, 1)[:, [-4]], sims.clip(0), 0)**3
    s = own@own.T
    np.fill_diagonal(s, -2)
    w = near(s)
    w = w+w.T
    d = np.diag(w.sum(1)**-.5)
    f0 = np.zeros((40, 3))
    f0[np.arange(6), y[:6]] = .5
    f = np.linalg.solve(np.eye(40)-.9*d@w@d, f0)
    f = f/f.sum(0)
    p = near(new@own.T)@(f/f.sum(1, keepdims=True))
    assert rivals.lp_cosine(data, o, data.test) == pytest.approx(100*np.mean(p.argmax(1) == y[40:]))


# what is searched

def test_search_against_a_loop(monkeypatch):
    "Argument by argument, each with what was chosen before, of equal ones the first"
    monkeypatch.setitem(tuning.GRIDS, 'ours', dict(a=(1, 2, 3), b=(1, 2), c=(1, 2)))
    worth, asked = {(1, 1, 1): 5, (2, 1, 1): 7, (3, 1, 1): 7+1e-14, (2, 2, 1): 6, (2, 1, 2): 8, (3, 2, 2): 99}, []
    def measure(texts):
        asked.extend(tuning.of_row(o) for o in texts)
        return {o: worth[tuple(tuning.of_row(o)[1].values())] for o in texts}
    assert tuning.search('wine', 'ours', measure) == dict(a=2, b=1, c=2)
    assert len(asked) == 7 and {o for o, _ in asked} == {'ours'}, "none of these can go further down"


@pytest.mark.parametrize('best, asked', [(.25, 5), (.5, 5), (2., 4)])
def test_a_search_goes_on_where_the_least_is_best(monkeypatch, best, asked):
    "One further value, half as much, with all that was chosen"
    monkeypatch.setitem(tuning.GRIDS, 'ours', dict(m=(1., .5, 2.), b=(1, 2)))
    seen = []
    def measure(texts):
        seen.extend(o for o in texts if o not in seen)
        return {o: -abs(tuning.of_row(o)[1]['m']-best)+tuning.of_row(o)[1]['b'] for o in texts}
    assert tuning.search('wine', 'ours', measure) == dict(m=best, b=2) and len(seen) == asked


@pytest.mark.parametrize('seed', range(3))
def test_how_sure_a_choice_is(seed):
    "Against candidates of known noise, with seeds that differ for all of them"
    rng, n, k = np.random.default_rng(seed), 300, 3
    accs = rng.normal(80, 1, n)[:, None]+rng.normal(0, 5, k)+rng.normal(0, 2, (n, k))
    df = pd.DataFrame([dict(data='wine', row=f'ours {i}', seed=100+j, accuracy=accs[i, j])
                       for i in range(n) for j in range(k)])
    got, means = tuning.spread(df).iloc[0], np.sort(accs.mean(1))
    assert got.candidates == n and got.lead == pytest.approx(means[-1]-means[-2])
    assert got.error == pytest.approx(2*(2/k)**.5, rel=.15)


def test_overlap_against_a_loop():
    s = sets.SETTINGS['wine']
    seen = {int(i) for j in (100, 101) for i in sets.prepared('wine', s, j, is_tuning=True).valid.idxs}
    tests = [[int(i) in seen for i in sets.prepared('wine', s, j).test.idxs] for j in range(runs.N_SEEDS)]
    assert tuning.overlap('wine', s) == pytest.approx(np.mean([np.mean(o) for o in tests])) and 0 < np.mean(tests) < 1


def test_others_get_as_many_candidates_as_ours():
    "Rivals together as many as ours with all that its last stage stands on: two of their searches, but for `warm`"
    ns = {k: 1+sum(len(v)-1 for v in g.values()) for k, g in tuning.GRIDS.items()}
    assert {ns[k] for k in accuracy.ONLINE} == {10} and ns['lp_cosine'] == 8 and ns['ours'] == 8+3
    assert sum(ns[k] for k in accuracy.ONLINE) >= ns['ours']+sum(ns[k]-1 for k in ('mean_teacher', 'fixmatch'))
    of_labels = {k: 1+sum(len(tuning.GRIDS[k][o])-1 for o in ks) for k, ks in tuning.OF_LABELS.items()}
    assert {of_labels[k] for k in accuracy.ONLINE} == {5} and of_labels['ours'] == 5+2
    others = sum(of_labels[k]-1 for k in ('mean_teacher', 'fixmatch'))
    assert sum(of_labels[k] for k in accuracy.ONLINE) >= of_labels['ours']+others


def test_a_last_stage_is_tried_when_the_rest_is_chosen():
    "... and its learning rate only where there is one"
    for good in (None, 'fixmatch'):
        asked = []
        def measure(texts):
            asked.extend(o for o in texts if o not in asked)
            return {o: tuning.of_row(o)[1]['last'] == good for o in texts}
        res = tuning.search('wine', 'ours', measure)
        assert res == tuning.first_of('ours') | dict(last=good) and len(asked) == (10 if good is None else 11)
        assert [tuning.of_row(o)[1]['last'] for o in asked[:8]] == [None]*8


@pytest.mark.parametrize('n_rounds', [1, 2, 3])
@pytest.mark.parametrize('kind', [None, 'mean_teacher', 'fixmatch'])
def test_a_last_stage_is_among_all_batches(n_rounds, kind):
    "It has as many as all students together, and its model is the last one"
    s, o = replace(TINY['wine'], steps=27), tuning.first_of('ours') | dict(n_rounds=n_rounds)
    last = None if kind is None else rivals.last_stage(kind, tuning.first_of(kind), s, o)
    with training.quietly():
        data = sets.prepared('wine', s, 0)
        df = training.ours(data, s, 0, o, last).records
        end = training.at_the_end(training.ours(data, s, 0, o, last), n_rounds)
    n = df.groupby('role').n_batches.sum()
    assert 108-2*n_rounds < n.sum() <= 108 and n.student//n_rounds*n_rounds == n.student
    assert n.get('online', n.student) == n.student and n.teacher == (18 if kind is None else 9)
    assert accuracy.percent_right(end, data.valid) == pytest.approx(100*df.iloc[-1].accuracy)


@pytest.mark.parametrize('row', accuracy.ONLINE)
def test_a_rival_may_begin_with_a_teacher(row):
    "In a sixth of the batches, from which it goes on: the same as by hand"
    s, o = TINY['wine'], tuning.first_of(row) | dict(warm=True)
    with training.quietly():
        data = sets.prepared('wine', s, 0)
        began, seen = training.supervised(data, replace(s, steps=round(4*s.steps/6)), 0, data.labeled, s.m_control), []
        class First(rivals.StudentNoise):
            def before_fit(self):
                if not seen: seen.append({k: v.clone() for k, v in self.learn.model.state_dict().items()})
                super().before_fit()
        with pytest.MonkeyPatch.context() as mp:
            mp.setattr(rivals, 'StudentNoise', First)
            learn = rivals.online(row, data, s, 0, o)
    assert len(learn.recorder.losses) == 4*s.steps-round(4*s.steps/6)
    want = began.model.state_dict()
    assert seen[0].keys() == want.keys() and all(torch.equal(seen[0][k], v) for k, v in want.items())


def test_chosen_settings_are_told_apart(tmp_path, monkeypatch):
    "... row by row, and hold for other numbers of labels; results of old rows stay"
    monkeypatch.setattr(tuning, 'TUNED', tmp_path/'tuned.json')
    s, key = sets.SETTINGS['gun_point'], tuning.key_of
    old = {k: key('gun_point', k, s) for k in accuracy.ROWS}
    assert old['three'] == s.key and old['spreading'] == s.key and len({old['ours'], old['fixmatch'], s.key}) == 3
    tuning.keep('gun_point', 'fixmatch', tuning.first_of('fixmatch') | dict(min_conf=.6))
    tuning.keep('wine', 'ours', tuning.first_of('ours') | dict(n_rounds=1))
    assert [k for k in accuracy.ROWS if key('gun_point', k, s) != old[k]] == ['fixmatch']
    assert tuning.options('gun_point_4', 'fixmatch')['min_conf'] == .6
    assert tuning.options('wine', 'ours')['n_rounds'] == 1 and tuning.options('digits', 'ours')['n_rounds'] == 2


def test_a_search_at_another_number_of_labels(tmp_path, monkeypatch):
    "It goes on from what was chosen for the data set, and holds for that number of labels alone"
    monkeypatch.setattr(tuning, 'TUNED', tmp_path/'tuned.json')
    tuning.keep('gun_point', 'ours', tuning.first_of('ours') | dict(n_rounds=3, propagate='inputs'))
    asked = []
    def measure(texts):
        asked.extend(tuning.of_row(o)[1] for o in texts)
        return {o: tuning.of_row(o)[1]['n_pl'] == 32 or 'teacher' in o for o in texts}
    best = tuning.search('gun_point_4', 'ours', measure)
    assert best == tuning.options('gun_point', 'ours') | dict(propagate='teacher') and len(asked) == 4+2+3
    assert {o['n_rounds'] for o in asked} == {3}
    old = {k: tuning.key_of(k, 'ours', sets.SETTINGS[k]) for k in ('gun_point', 'gun_point_4')}
    tuning.keep('gun_point_4', 'ours', best)
    assert tuning.key_of('gun_point', 'ours', sets.SETTINGS['gun_point']) == old['gun_point']
    assert tuning.key_of('gun_point_4', 'ours', sets.SETTINGS['gun_point_4']) != old['gun_point_4']
    assert not tuning.is_searched('gun_point_4', 'lp_cosine') and tuning.has_search('gun_point_4', 'lp_cosine')


def test_what_is_chosen_for_the_control_is_for_all(tmp_path, monkeypatch):
    "... of a newer data set: it is the setting, whose key all rows have; the older ones keep theirs"
    monkeypatch.setattr(tuning, 'TUNED', tmp_path/'tuned.json')
    tuning.keep('letters', 'control', dict(m_control=.3, lr=.003, dropout=0.))
    tuning.keep('letters', 'three', dict(m=.45, temperature=1., share=1.))
    old, new = sets.SETTINGS, tuning.tuned_settings(sets.SETTINGS)
    assert [k for k in old if new[k] != old[k]] == ['letters']
    assert new['letters'] == replace(old['letters'], m_control=.3, lr=.003, dropout=0., m=.45, temperature=1., share=1.)
    assert tuning.key_of('letters', 'control', new['letters']) == new['letters'].key != old['letters'].key
    assert not any(tuning.is_searched('wine', k) for k in tuning.NEWER) and tuning.is_searched('letters', 'control')
    assert tuning.first_of('control') == {k: getattr(old['letters'], k) for k in ('m_control', 'lr', 'dropout')}


def test_the_search_as_a_command(tmp_path, monkeypatch, capsys):
    "It goes on where it was cut off, looks at validation rows only, and writes down what is best"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, 'look', lambda name: None)
    calls, path = [], tmp_path/runs.QUICK/'tuned.json'
    def fake_tune(name, seed, s, part, runs, rows):
        calls.extend((name, seed, part, s.m_control) for _ in rows)
        worth = [sum(v for v in tuning.of_row(k)[1].values() if isinstance(v, (int, float))) for k in rows]
        return pd.DataFrame(dict(row=list(rows), accuracy=worth))
    monkeypatch.setattr(accuracy, 'tune_seed', fake_tune)
    monkeypatch.setattr(sys, 'argv', ['x', '--tune', '--steps', '8', '--seeds', '2', '--jobs', '1', '--data', 'wine',
                                      'gun_point_4', 'letters', '--rows', 'lp_cosine', 'three', 'control'])
    accuracy.main()
    best = dict(k=50, gamma=6., alpha=.99, prior='labeled')
    assert tuning.read_tuned(path)['wine'] == dict(lp_cosine=best)
    assert tuning.read_tuned(path)['letters'] == dict(lp_cosine=best, control=dict(m_control=.3, lr=1e-2, dropout=.5),
                                                      three=dict(m=.45, temperature=1., share=1.))
    assert {o[1:3] for o in calls} == {(100, 'valid'), (101, 'valid')}
    assert [sum(o[0] == k for o in calls) for k in ('wine', 'letters', 'gun_point_4')] == [2*8, 2*(7+6+8), 0]
    assert {o[3] for o in calls[-2*8:]} == {.3}, "what was chosen for the control is for all rows"
    calls.clear()
    accuracy.main()
    assert not calls


def test_a_page_is_of_whole_seeds():
    df = frame()
    assert accuracy.is_whole(df) and accuracy.is_whole(df[df.row != 'tsai'])
    assert not accuracy.is_whole(df[(df.row != 'ours') | (df.seed > 0)])


def test_rows_to_choose_by_are_as_many_as_test_rows():
    a, b = (sets.prepared('digits', sets.SETTINGS['digits'], 100, is_tuning=o) for o in (False, True))
    assert (a.valid.n, a.test.n) == (200, 600) and (b.valid.n, b.test.n) == (600, 200)
    assert a.labeled.n == b.labeled.n and a.unlabeled.n == b.unlabeled.n


# data sets of other packages

def test_own_splits(monkeypatch):
    "No row in common, the first of each class labeled, the numbers asked for, another seed another split"
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(3, size=300)
    monkeypatch.setitem(sets.OWN, 'letters', sets.Info(lambda: None, lambda: (x, y, ('a', 'b', 'c')), 100, 30))
    s = replace(sets.SETTINGS['letters'], n_per_class=5)
    data, other = sets.scarce('letters', s, 0), sets.scarce('letters', s, 1)
    assert {k: o.n for k, o in data.parts.items()} == dict(labeled=15, unlabeled=155, valid=30, test=100)
    at = np.concatenate([o.idxs for o in data.parts.values()])
    assert sorted(at) == list(range(300)) and np.bincount(data.labeled.y).tolist() == [5]*3
    assert all(np.array_equal(o.x, x[o.idxs]) and np.array_equal(o.y, y[o.idxs]) for o in data.parts.values())
    assert not np.array_equal(data.test.idxs, other.test.idxs)


def test_words_are_cut_as_bert_does_it(tmp_path):
    "The longest part first; what has none is unknown"
    (tmp_path/'vocab.txt').write_text('\n'.join('[PAD] [UNK] [CLS] [SEP] un una ##ffa ##ble ##b a'.split()))
    words = texts.Words(tmp_path/'vocab.txt')
    assert words('unaffable a una') == [2, 5, 6, 7, 9, 5, 3] and words('xa a') == [2, 1, 9, 3]
    assert words('a '*99, 6) == [2, 9, 9, 9, 9, 3] and words('') == [2, 3]


def random_bert(n_words=12, d=384):
    "Weights of a BERT of six layers, by their names in the files that are shared"
    g = torch.Generator().manual_seed(0)
    def drawn(*size): return torch.randn(*size, generator=g)
    def linear(k, i, o): return {f'{k}.weight': drawn(o, i)/i**.5, f'{k}.bias': drawn(o)}
    def norm(k): return {f'{k}.weight': 1+drawn(d)/9, f'{k}.bias': drawn(d)/9}
    w = {f'embeddings.{k}_embeddings.weight': drawn(n, d)
         for k, n in dict(word=n_words, position=64, token_type=2).items()} | norm('embeddings.LayerNorm')
    for at in (f'encoder.layer.{i}.' for i in range(6)):
        for k in ('query', 'key', 'value'): w |= linear(f'{at}attention.self.{k}', d, d)
        w |= linear(f'{at}attention.output.dense', d, d) | norm(f'{at}attention.output.LayerNorm')
        w |= linear(f'{at}intermediate.dense', d, 1536) | linear(f'{at}output.dense', 1536, d)
        w |= norm(f'{at}output.LayerNorm')
    return w


def plain_bert(w, ids):
    "The vector of one text, written down as in the paper"
    def linear(x, k): return x@w[f'{k}.weight'].T + w[f'{k}.bias']
    def norm(x, k): return torch.nn.functional.layer_norm(x, (384,), w[f'{k}.weight'], w[f'{k}.bias'], 1e-12)
    x = w['embeddings.word_embeddings.weight'][ids] + w['embeddings.position_embeddings.weight'][:len(ids)]
    x = norm(x + w['embeddings.token_type_embeddings.weight'][0], 'embeddings.LayerNorm')
    for at in (f'encoder.layer.{i}.' for i in range(6)):
        q, k, v = (linear(x, f'{at}attention.self.{o}').reshape(len(ids), 12, 32).transpose(0, 1)
                   for o in ('query', 'key', 'value'))
        seen = ((q@k.transpose(1, 2)/32**.5).softmax(2)@v).transpose(0, 1).reshape(len(ids), 384)
        x = norm(x + linear(seen, f'{at}attention.output.dense'), f'{at}attention.output.LayerNorm')
        inner = torch.nn.functional.gelu(linear(x, f'{at}intermediate.dense'))
        x = norm(x + linear(inner, f'{at}output.dense'), f'{at}output.LayerNorm')
    return x.mean(0)/x.mean(0).norm()


def test_vectors_of_texts(tmp_path):
    "As a BERT that is written down, for texts of any length in one batch"
    from safetensors.torch import save_file
    w = random_bert()
    save_file(w, tmp_path/'model.safetensors')
    (tmp_path/'vocab.txt').write_text('\n'.join('[PAD] [UNK] [CLS] [SEP] un una ##ffa ##ble ##b a dog runs'.split()))
    words = texts.Words(tmp_path/'vocab.txt')
    lines = ['a dog runs', 'unaffable', 'a dog runs una dog a', '']
    x = texts.embedded(lines, texts.MiniLM(tmp_path), words, bs=3)
    for o, line in zip(x, lines): assert np.allclose(o, plain_bert(w, words(line)), atol=1e-4)


@pytest.mark.tsai
def test_noise_for_tsai_leaves_targets_alone():
    tfm, y = rivals.OnInputs(sets.table_noise(.5)), torch.arange(20)
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
    df = runs.run_all(robustness.run_seed, models, ['digits'], [0], TINY, path, jobs=1, runs=tmp_path/'runs')
    assert len(df) == len(models)*26 and df.accuracy.between(0, 100).all() and any((tmp_path/'runs').iterdir())
    page = robustness.as_markdown(robustness.table(pd.concat([df, df.assign(seed=1)])))
    assert len(page.splitlines()) == 2+len(models)
    fig = robustness.figure(df, 'digits')
    assert [o.get_title() for o in fig.axes] == list(robustness.CORRUPTIONS)
    line = fig.axes[0].lines[0]
    own = df[(df.row == 'plain') & df.corruption.isin(['clean', 'noise'])].sort_values('severity')
    assert np.allclose(line.get_ydata(), own.accuracy)
    capsys.readouterr()
    runs.run_all(robustness.run_seed, models, ['digits'], [0], TINY, path, jobs=1, runs=tmp_path/'runs')
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
    def run(): return runs.run_all(imbalance.run_seed, rows, ['breast_cancer'], [0], TINY_RARE, path, jobs=1,
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
    with training.quietly():
        nets = imbalance.trainers(imbalance.drawn('breast_cancer', s, 0), s, 0)
        learners = [nets[k]() for k in ('student', 'equal')]
    assert asked[0]['max_repeat'] == 3 and 'n_per_class' not in asked[0]
    assert asked[1]['max_repeat'] is None and asked[1]['n_per_class'] == 30
    assert [len(o.recorder.losses) for o in (*learners, nets['teacher']())] == [s.steps]*3


def test_published_imbalance_is_of_these_settings():
    df = runs.of_settings(runs.read(runs.RESULTS/'imbalance.csv'), imbalance.RARE)
    page = (runs.RESULTS/'imbalance.md').read_text(encoding='utf-8')
    assert page == imbalance.page(df) and page in (ROOT/'benchmarks/README.md').read_text(encoding='utf-8')
    assert set(df.data) == set(imbalance.RARE) and df.groupby('data').seed.nunique().eq(5).all()
    assert df.groupby(['data', 'seed']).row.nunique().eq(len(imbalance.ROWS)).all()
