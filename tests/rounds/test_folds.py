"Are folds those of scikit-learn, predictions those of plain loops over the runs, and does a kill change nothing?"
import os
import signal
import time
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy, mae
from fastai.tabular.all import CategoryBlock, Normalize, TabularDataLoaders, tabular_learner
from kill_rounds import Slow
from killing import fork
from noisy_student_fastai.noise.rows import one_thread
from noisy_student_fastai.rounds.folds import _look, cross_validate, folds_of
from noisy_student_fastai.rounds.self_training import self_train
from rounds_toys import ARGS, SEEDLESS, UNLABELED, make
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit
from toys import points

X, Y = points(30, 1)
NEW = points(40, 9)[0]
OWN = {**ARGS, 'n_epoch': 1, 'noise': None, 'ema': None, 'n_rounds': 1}


def learner(r, train, valid, cbs=None):
    dls = DataLoaders(*[TfmdDL([(X[i], int(Y[i])) for i in o], bs=6, shuffle=o is train, drop_last=o is train,
                               num_workers=0) for o in (train, valid)])
    dls.c = 3
    return make(r, dls, cbs=cbs)


def probs(learn, x):
    "Softmax of the model's outputs"
    with torch.no_grad(): return learn.model.eval()(torch.as_tensor(x)).softmax(1).numpy()


def same_pairs(a, b): return len(a) == len(b) and all(np.array_equal(*o) for p in zip(a, b) for o in zip(*p))


@pytest.mark.parametrize('seed', range(3))
def test_folds_are_those_of_sklearn(seed):
    rng = np.random.default_rng(seed)
    y, groups = rng.permutation(np.arange(60) % 3), rng.integers(0, 12, 60)
    kw, x = dict(shuffle=True, random_state=seed), np.zeros(60)
    assert same_pairs(folds_of(y, 4, seed=seed), [*StratifiedKFold(4, **kw).split(x, y)])
    assert same_pairs(folds_of([f'c{o}' for o in y], 4, seed=seed), [*StratifiedKFold(4, **kw).split(x, y)])
    assert same_pairs(folds_of(y+rng.random(60), 4, seed=seed), [*KFold(4, **kw).split(x)])
    assert same_pairs(folds_of(y, 4, groups, seed), [*StratifiedGroupKFold(4, **kw).split(x, y, groups)])
    assert same_pairs(folds_of(y+rng.random(60), 4, groups), [*GroupKFold(4).split(x, y, groups)])
    pairs = [*KFold(3).split(x)]
    assert same_pairs(folds_of(y, KFold(3)), pairs) and same_pairs(folds_of(y, iter(pairs)), pairs)


@pytest.mark.parametrize('seed', range(3))
def test_whole_numbers_that_hardly_repeat_are_values(seed, recwarn):
    rng, kw = np.random.default_rng(seed), dict(shuffle=True, random_state=seed)
    for y in (rng.integers(0, 1000, 60), rng.integers(0, 1000, 60).astype(float), rng.integers(0, 30, 60),
              np.array([f'n{i}' for i in range(60)]), rng.random((60, 2))):
        assert same_pairs(folds_of(y, 5, seed=seed), [*KFold(5, **kw).split(y)])
    assert not recwarn


@pytest.mark.parametrize('cv,groups,said', [
    (1, None, 'cv=1: expected a whole number of 2 or more'), ([([0, 1], [1, 2])], None, 'rows on one side only'),
    ([([0, 1], [9])], None, 'row numbers from 0 to 8'), ([([0, 1], [])], None, 'row numbers'), ([], None, 'one fold'),
    ([([0, 1], [2])], [0]*9, '1 are on both'), (3, [0], '9 names')])
def test_folds_that_are_none(cv, groups, said):
    with pytest.raises(ValueError, match=said): folds_of([0, 1, 2]*3, cv, groups)


def test_folds_in_a_launch_are_refused(monkeypatch, tmp_path):
    for k, v in dict(WORLD_SIZE='2', RANK='1').items(): monkeypatch.setenv(k, v)
    with pytest.raises(ValueError, match='WORLD_SIZE=2: expected 1 process: .*cross_validate does not'):
        cross_validate(learner, UNLABELED, Y.numpy(), 3, tmp_path/'cv')
    assert not (tmp_path/'cv').exists()


def test_predictions_are_those_of_plain_loops(tmp_path):
    "A run for each pair, by hand; rows that are in two validation sets have the mean, those in none have none"
    pairs = [(np.arange(12, 30), np.arange(7)), (np.arange(12), np.r_[12:30])]
    pairs += [(np.r_[0:4, 15:30], np.r_[14, 12, 5])]
    res = cross_validate(learner, UNLABELED, Y.numpy(), pairs, tmp_path/'cv', seeds=2, **OWN)
    total, n, out, at = np.zeros((30, 3)), np.zeros(30), [], []
    for a, b in pairs:
        run = self_train(lambda r: learner(r, a, b), UNLABELED, seeds=2, patience=None, **OWN)
        for seed in range(2):
            model = run.learner(res.round, seed)
            total[b] += probs(model, X[b])/2
            out.append(probs(model, NEW))
        n[b] += 1
        df = run.records
        at.append(df[(df['round'] == res.round) & (df.role != 'control')].accuracy.mean())
    assert np.isnan(res.oof[7]).all()
    ok = n > 0
    np.testing.assert_allclose(res.oof[ok], (total[ok]/n[ok, None]), atol=1e-5)
    np.testing.assert_allclose(res.predict(NEW.numpy()), np.mean(out, 0), atol=1e-5)
    s = res.scores
    np.testing.assert_allclose(s.accuracy[:3], at)
    np.testing.assert_allclose([s.accuracy['mean'], s.accuracy['std']], [np.mean(at), np.std(at, ddof=1)])
    df = res.records
    means = df.groupby('round').accuracy.mean()
    assert res.round == means.idxmax() and 'folds of 30 rows' in repr(res)
    assert 'runs' in res.verdict() and 'is kept' not in res.verdict()


def values(n_out):
    "Rows with numbers to predict, exactly linear, and Learners whose teacher knows the answer, or nothing"
    x = torch.randn(36, 3, generator=torch.Generator().manual_seed(n_out))
    w = torch.arange(1, 1+3*n_out).float().reshape(3, n_out)
    y = x@w
    def learner(r, train, valid):
        dls = DataLoaders(*[TfmdDL([(x[i], y[i]) for i in o], bs=6, num_workers=0) for o in (train, valid)])
        return Learner(dls, torch.nn.Linear(3, n_out), loss_func=MSELossFlat(), metrics=mae)
    def fit(learn, n, lr):
        learn.fit(n, 1e-8)
        shift = learn.dls.valid.dataset[0][1].sum().item()/1e4  # another model in each fold
        with torch.no_grad(): learn.model.weight.copy_(w.T), learn.model.bias.fill_(abs(shift))
    return x, y.numpy(), learner, fit


PLAIN = dict(n_epoch=1, n_rounds=1, noise=None)


@pytest.mark.parametrize('n_out', (1, 2))
def test_numbers_to_predict(n_out):
    x, y, learner, fit = values(n_out)
    res = cross_validate(learner, NEW[:, :1].repeat(1, 3), y[:, 0] if n_out == 1 else y, 2, fit=fit, **PLAIN)
    assert res.oof.shape == (36, n_out)
    new = torch.randn(8, 3, generator=torch.Generator().manual_seed(9))
    models = [o.learner(res.round).model.eval() for o in res.runs]
    with torch.no_grad():
        for model, (_, valid) in zip(models, res.folds):
            np.testing.assert_allclose(res.oof[valid], model(x[valid]), atol=1e-5)
        np.testing.assert_allclose(res.predict(new), sum(o(new) for o in models)/2, atol=1e-5)


def test_a_fold_whose_teacher_knows_nothing_is_recorded(tmp_path, monkeypatch, capsys):
    "... and the others go on; where all know nothing it is an error, and no temporary folder stays"
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))  # others leave folders of that name in the shared one
    x, y, learner, fit = values(1)
    def some(bad):
        def go(learn, n, lr):
            fit(learn, n, lr)
            if learn.dls.valid.dataset[0][1].item() in bad:
                with torch.no_grad(): learn.model.weight.neg_()  # it says the opposite
        return go
    folds = folds_of(y[:, 0], 3)
    first = [y[valid[0], 0].item() for _, valid in folds]
    args = (learner, NEW[:, :1].repeat(1, 3), y[:, 0], folds, tmp_path/'cv')
    res = cross_validate(*args, fit=some(first[1:2]), **PLAIN)
    df = res.records
    assert df[df.role == 'student'].split.tolist() == [0, 2] and [*res.lost] == [1] and np.isfinite(res.oof).all()
    assert 'fold 1 has no student' in capsys.readouterr().out and 'fold 1: no teacher' in repr(res)
    teacher = df[(df.split == 1) & (df.role == 'teacher')].mae.item()
    assert res.scores.mae[1] == pytest.approx(teacher)
    means = [np.mean([*df[(df['round'] == r) & (df.split != 1)].mae, teacher]) for r in (0, 1)]
    assert res.round == np.argmin(means) and len(res.predict(x)) == 36
    res.round = 1
    assert res.scores.mae['mean'] == pytest.approx(means[1]) and 'no student of round 1 in fold 1' in repr(res)
    with pytest.raises(ValueError, match='no teacher'): cross_validate(*args[:4], fit=some(first), **PLAIN)
    assert not [*Path(gettempdir()).glob('cross_validate_*')]


def test_what_is_refused_before_anything_is_trained(tmp_path):
    y = Y.numpy()
    def go(make=learner, **kw): return cross_validate(make, UNLABELED, y, 3, tmp_path, **{**OWN, **kw})
    one = learner(0, np.arange(20), np.arange(20, 30))
    with pytest.raises(ValueError, match='labels differ from y'): go(lambda r, a, b: learner(r, a, b[::-1]))
    with pytest.raises(ValueError, match='9 validation rows'): go(lambda r, a, b: learner(r, a, b[1:]))
    with pytest.raises(TypeError, match='make_learner takes the round and the labeled rows'): go(lambda r: one)
    with pytest.raises(TypeError, match='Learner'): go(lambda r, a, b: 3)
    with pytest.raises(ValueError): go(lambda r, a, b: one)
    with pytest.raises(ValueError, match='finetune'): go(finetune=dict(n_epoch=1))
    with pytest.raises(ValueError, match='online'): go(online={})
    assert not list(tmp_path.iterdir())
    (tmp_path/'mine.txt').touch()
    with pytest.raises(ValueError, match='mine.txt'): go()


def test_names_of_classes():
    "y may be names, codes, or strings whose sorted order the loaders have"
    names = np.array(['ant', 'bee', 'cat'])
    def named(r, a, b):
        res = learner(r, a, b)
        res.dls.vocab = [*names]
        return res
    for y, f in ((names[Y], named), (names[Y], learner), (Y.numpy(), named)):
        pairs = [(np.arange(10, 30), np.arange(10))]
        assert cross_validate(f, UNLABELED, y, pairs, **OWN).oof.shape == (30, 3)


def table(y):
    "A DataFrame of 24 rows, and what makes Learners of some of them"
    df = pd.DataFrame(dict(a=np.random.default_rng(0).normal(size=24)+(y == y[1]), y=y))
    def of_table(r, train, valid):
        dls = TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=['a'], y_names='y', valid_idx=list(valid),
                                         y_block=CategoryBlock(), bs=6)
        return tabular_learner(dls, layers=[4], metrics=accuracy)
    return df, of_table


NAMES, CODES = np.array(['bad', 'good'])[np.arange(24) % 2], np.array([3, 7])[np.arange(24) % 2]


@pytest.mark.parametrize('y', (NAMES, CODES))
def test_targets_of_a_table_are_a_column(y):
    "Labels in their order are told from those in another one"
    of_table, folds = table(y)[1], folds_of(y, 2)
    assert _look(of_table, folds, y) == ['valid_loss', 'accuracy']
    with pytest.raises(ValueError, match='labels differ from y'): _look(of_table, folds, y[::-1])


def test_predictions_for_a_table():
    df, of_table = table(NAMES)
    cv = cross_validate(of_table, df[['a']]+.01, NAMES, 2, **{**OWN, 'select': dict(min_conf=0)})
    for run, (_, valid) in zip(cv.runs, cv.folds):
        learn = run.learner(cv.round)
        with learn.no_bar(): p = learn.get_preds(dl=learn.dls.test_dl(df.iloc[valid]))[0]
        assert np.allclose(cv.oof[valid], p, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@one_thread()
def test_a_kill_changes_nothing(tmp_path):
    def slow(r, train, valid): return learner(r, train, valid, cbs=Slow())
    def go(path): return cross_validate(slow, UNLABELED, Y.numpy(), 3, path, **OWN)
    calm = go(tmp_path/'calm')
    path = tmp_path/'killed'
    pid = fork(go, path)
    end = time.time()+60
    while not list(path.glob('fold1/seed0/round0/record.json')) and time.time() < end: time.sleep(.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    done = {o: o.stat().st_mtime_ns for o in path.rglob('record.json')}
    assert 3 <= len(done) < 6
    res = go(path)
    assert all(o.stat().st_mtime_ns == t for o, t in done.items())
    pd.testing.assert_frame_equal(*[o.records.drop(columns=SEEDLESS) for o in (res, calm)], check_exact=True)
    assert np.array_equal(res.oof, calm.oof) and np.array_equal(res.predict(NEW), calm.predict(NEW))
    said = res.verdict()
    assert ' run' not in said and 'is kept' not in said and 'Over 3 folds' in said  # of a single seed
    with pytest.raises(ValueError, match='has a cross-validation with other folds') as e:
        cross_validate(slow, UNLABELED, Y.numpy(), StratifiedShuffleSplit(3), path, **OWN)
    assert 'random_state' in str(e.value) and 'sha' not in str(e.value) and len(str(e.value)) < 500
