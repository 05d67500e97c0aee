"The scripts in benchmarks/ run through at tiny settings, and compute from their numbers what a plain computation does"
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT/'benchmarks'))
import accuracy  # noqa: E402
import robustness  # noqa: E402

TINY = {k: replace(s, steps=8, n_unlabeled=40, min_conf=0.) for k, s in accuracy.SETTINGS.items()}


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


def test_table():
    df = frame()
    t = accuracy.table(df)
    assert len(t) == 2*len(accuracy.ROWS)
    for _, o in t.iterrows():
        v = {k: [a for d, i, r, a in df.itertuples(index=False) if (d, r) == (o.data, k)] for k in accuracy.ROWS}
        own, gap = v[o.row], np.mean(v['ceiling'])-np.mean(v['control'])
        assert o['mean'] == pytest.approx(np.mean(own))
        assert o['std'] == pytest.approx(np.std(own, ddof=1))
        if gap > 0: assert o.share == pytest.approx((np.mean(own)-np.mean(v['control']))/gap)


def test_texts_say_what_the_table_says():
    t = accuracy.table(frame())
    text, page = accuracy.as_text(t), accuracy.as_markdown(t)
    lines = page.splitlines()
    assert len(lines) == 2+len(accuracy.ROWS) and {o.count('|') for o in lines} == {4}
    for _, o in t.iterrows():
        label, value = accuracy.ROWS[o.row], f'{o["mean"]:.1f} ± {o["std"]:.1f}'
        line = next(k for k in lines if k.startswith(f'| {label} |'))
        assert line.split(' | ')[1 if o.data == 'digits' else 2].startswith(value)
        assert f'{o["mean"]:6.1f} ± {o["std"]:4.1f}' in text


# runs

def tiny(path, names, seeds=(0,), **kw): return accuracy.run_all(names, seeds, TINY, path, jobs=1, **kw)


def test_accuracy_runs_through_and_goes_on(tmp_path, capsys):
    path, rows = tmp_path/'accuracy.csv', set(accuracy.ROWS) - (set() if accuracy.has_tsai() else {'tsai'})
    one = tiny(path, ['wine'])
    assert set(one.row) == rows and one.accuracy.between(0, 100).all() and len(one) == len(rows)
    assert 'wine, seed 0' in capsys.readouterr().out
    both = tiny(path, ['wine', 'gun_point'])
    assert 'wine' not in capsys.readouterr().out, "what is finished is not run again"
    assert set(both.data) == {'wine', 'gun_point'} and len(accuracy.read(path)) == 2*len(rows)
    pd.testing.assert_series_equal(both[both.data == 'wine'].accuracy.round(3).reset_index(drop=True),
                                   one.accuracy.round(3).reset_index(drop=True))


def test_other_settings_run_anew():
    s = TINY['wine']
    assert replace(s, steps=9).key != s.key and replace(s).key == s.key


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


def test_relative_errors():
    "Against loops"
    rng = np.random.default_rng(0)
    ks = list(product(range(3), robustness.MODELS, robustness.CORRUPTIONS, range(1, 6)))
    df = pd.DataFrame(ks, columns=['seed', 'model', 'corruption', 'severity']).assign(data='digits')
    df['accuracy'] = rng.uniform(10, 90, len(df))
    rel = robustness.relative_errors(df)
    acc = {(o.seed, o.model, o.corruption, o.severity): o.accuracy for o in df.itertuples()}

    def ce(i, m, c): return sum(100-acc[i, m, c, v] for v in range(1, 6))
    for o in rel.itertuples():
        each = [100*ce(o.seed, o.model, c)/ce(o.seed, 'control', c) for c in robustness.CORRUPTIONS]
        want = np.mean(each) if o.corruption == 'mean' else each[list(robustness.CORRUPTIONS).index(o.corruption)]
        assert o.relative == pytest.approx(want)
    assert len(rel) == 3*3*6 and rel[rel.model == 'control'].relative.eq(100).all()


def test_robustness_runs_through(tmp_path, capsys):
    df = robustness.run_all(['digits'], [0], TINY, jobs=1, runs=tmp_path)
    assert len(df) == 3*26 and df.accuracy.between(0, 100).all() and any(tmp_path.iterdir())
    page = robustness.as_markdown(robustness.table(pd.concat([df, df.assign(seed=1)])))
    assert len(page.splitlines()) == 5
    fig = robustness.figure(df, 'digits')
    assert [o.get_title() for o in fig.axes] == list(robustness.CORRUPTIONS)
    line = fig.axes[0].lines[0]
    own = df[(df.model == 'plain') & df.corruption.isin(['clean', 'noise'])].sort_values('severity')
    assert np.allclose(line.get_ydata(), own.accuracy)
