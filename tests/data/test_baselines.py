"Baselines against the same models of scikit-learn, set up by hand, and metrics computed from their probabilities"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.metrics import APScoreBinary, BalancedAccuracy, Recall, RocAucBinary, accuracy, mae
from noisy_student_fastai.data.baselines import _as_columns, _both_targets, _categories, _some_rows, baselines
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import average_precision_score, balanced_accuracy_score, mean_absolute_error, roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

METRICS = [accuracy, BalancedAccuracy(), RocAucBinary(), APScoreBinary()]


def rows(n, seed=0, share=.1):
    "Numbers of which the first tells the rare class"
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    return rng.standard_normal((n, 4)).astype('float32')+y[:, None]*[1.5, .5, 0, 0], y


def scores(p, y):
    return [(p.argmax(1) == y).mean(), balanced_accuracy_score(y, p.argmax(1)), roc_auc_score(y, p[:, 1]),
            average_precision_score(y, p[:, 1])]


@pytest.mark.parametrize('seed', range(3))
def test_classifiers(seed):
    "Numbers alone: scaled for the linear ones, as they are for trees"
    (x, y), (xt, yt), (xu, _) = rows(200, seed), rows(300, seed+10), rows(400, seed+20)
    res = baselines(x, y, xt, yt, ['no', 'yes'], METRICS, xu)
    sc, both = StandardScaler().fit(x), StandardScaler().fit(np.concatenate([x, xu]))
    want = [np.repeat([[1-y.mean(), y.mean()]], 300, 0),
            LogisticRegression(max_iter=1000).fit(sc.transform(x), y).predict_proba(sc.transform(xt)),
            HistGradientBoostingClassifier(min_samples_leaf=10).fit(x, y).predict_proba(xt),
            SelfTrainingClassifier(LogisticRegression(max_iter=1000)).fit(
                both.transform(np.concatenate([x, xu])), np.append(y, [-1]*400)).predict_proba(both.transform(xt))]
    names = ['accuracy', 'balanced_accuracy_score', 'roc_auc_score', 'average_precision_score']
    assert list(res.columns[1:-1]) == names
    assert np.allclose(res.iloc[:, 1:-1].to_numpy(float), [scores(p, yt) for p in want], atol=2e-3)
    assert res.note.eq('').all()


def test_names_of_classes_or_their_indices():
    "... as text, whatever the type of the column, or as tensors"
    (x, y), (xt, yt) = rows(80), rows(90, 1)
    vocab, m = ['no', 'yes'], METRICS[:2]
    want = baselines(x, y, xt, yt, vocab, m)
    named = [np.array(vocab, dtype=object)[o] for o in (y, yt)]
    for a, b in (named, [pd.Series(o, dtype='category') for o in named], [torch.from_numpy(o) for o in (y, yt)]):
        pd.testing.assert_frame_equal(baselines(torch.tensor(x), a, xt, b, vocab, m), want)
    pd.testing.assert_frame_equal(baselines(x, y*5+2, xt, yt*5+2, metrics=m), want)
    swapped = baselines(x, named[0], xt, named[1], vocab[::-1], [accuracy, Recall(pos_label=1)])
    assert np.allclose(swapped.accuracy, want.accuracy) and swapped.recall_score[0] == 1, "yes is 0 there"


def test_a_class_that_no_labeled_row_has():
    "It is one of the outputs, with a probability of nearly 0"
    (x, y), (xt, yt) = rows(80), rows(90, 1)
    res = baselines(x, y, xt, np.where(np.arange(90) < 9, 2, yt), ['a', 'b', 'c'])
    assert res.accuracy.max() < .91 and res.accuracy.notna().all()
    res = baselines(x, y*0, xt, yt, ['a', 'b'])
    assert res.accuracy[0] == pytest.approx(1-yt.mean()) and res.accuracy[1:].isna().all()
    assert res.note[1:].eq('left out: all labeled rows are of one class').all()


def table(n, seed):
    "The class depends on a category, a code that looks like a number, and on whether a number is missing"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(plan=rng.choice(['a', 'b', 'c'], n), zip=rng.permutation(n) % 8, age=rng.normal(40, 9, n),
                           ok=rng.random(n) < .5, since=pd.Timestamp('2020-01-01')+pd.to_timedelta(np.arange(n), 'D')))
    y = (df.plan == 'b') ^ (df.zip % 2 == 1)
    df.loc[rng.random(n) < .2, 'age'] = np.nan
    return df, np.where(y, 'yes', 'no')


def test_tables_as_they_are():
    "Categories, gaps, infinite values, columns in another order, categories that are new in the test rows"
    (df, y), (dt, yt) = table(400, 0), table(300, 1)
    df.loc[3, 'age'], dt.loc[:2, 'plan'], dt.loc[3:5, 'plan'] = np.inf, 'new', None
    dt = dt[dt.columns[::-1]].set_index(np.arange(300)+7)
    codes = baselines(df, y, dt, yt, cat_names=['plan', 'zip'])
    assert codes.accuracy[2] > .95 > .75 > codes.accuracy[1], "no linear model knows of an exclusive or"
    as_kinds = [o.assign(zip=o.zip.astype(str), plan=o.plan.astype('category'), more=1) for o in (df, dt)]
    pd.testing.assert_frame_equal(baselines(as_kinds[0].drop(columns='more'), y, as_kinds[1], yt), codes)


def test_that_something_is_missing_is_told():
    "... to the linear model, in a column of its own"
    x, y = rows(400, share=.5)
    gap = np.where((np.random.default_rng(0).random(400) < .9) == (y == 1), np.nan, x[:, 3])
    res = baselines(np.c_[x[:, 2], gap][:200], y[:200], np.c_[x[:, 2], gap][200:], y[200:])
    assert res.balanced_accuracy_score[1:].min() > .6


def test_many_categories():
    "Most of them are new to the test rows, and more than trees take"
    (df, y), (dt, yt) = table(400, 0), table(300, 1)
    df['id'], dt['id'] = [f'c{i}' for i in range(400)], [f'd{i}' for i in range(300)]
    assert baselines(df, y, dt, yt).accuracy.between(.4, 1).all()


def test_values():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    y = x@[1, 2, 0]+.1*rng.standard_normal(300)
    res = baselines(x[:200], y[:200], x[200:], y[200:], metrics=mae)
    sc = StandardScaler().fit(x[:200])
    ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(sc.transform(x[:200]), y[:200]).predict(sc.transform(x[200:]))
    assert res.mae[0] == pytest.approx(np.abs(y[200:]-y[:200].mean()).mean(), rel=1e-4)
    assert res.mae[1] == pytest.approx(mean_absolute_error(y[200:], ridge), rel=1e-3)
    two = np.c_[y, -y]
    assert np.allclose(baselines(x[:200], two[:200], x[200:], two[200:], metrics=mae).mae, res.mae, rtol=1e-4)


def test_rows_are_drawn_in_the_shares_of_classes():
    "... and a rare class stays; each result is the same twice"
    x, y = rows(2000, share=.03)
    res = [baselines(x, y, x, y, n_most=200) for _ in range(2)]
    pd.testing.assert_frame_equal(*res)
    assert res[0].note.eq('trained on 200 of 2,000 rows').all() and res[0].balanced_accuracy_score[1] > .5
    assert baselines(x, y, x, y, n_most=200, seed=1).accuracy[1:].tolist() != res[0].accuracy[1:].tolist()


@pytest.mark.parametrize('kw,said', [
    (dict(y=[0, 1]), 'len(y)=2'), (dict(y_test=[0]), 'len(y_test)=1'), (dict(vocab=['a']), 'y=[1]'),
    (dict(x_test=np.zeros((90, 3))), 'these lack [3]'), (dict(cat_names=['b']), "cat_names='b'"),
    (dict(n_most=1), 'n_most=1'), (dict(x=np.array(['a']*80)), 'an array of numbers'),
    (dict(y=np.eye(80, dtype=int)), 'one class for each row')])
def test_mistakes(kw, said):
    (x, y), (xt, yt) = rows(80), rows(90, 1)
    with pytest.raises(ValueError) as e: baselines(**(dict(x=x, y=y, x_test=xt, y_test=yt, vocab=['a', 'b']) | kw))
    assert said in str(e.value)


@pytest.mark.parametrize('args,want', [
    (([True, False], [True], None), (None, [1, 0], [1])), (([3, 1], [7], None), ([1, 3, 7], [1, 0], [2])),
    ((np.array(['b', 'a'], dtype=object), ['a'], ['b', 'a']), (['b', 'a'], [0, 1], [1])),
    ((torch.tensor([.5, 1]), [2], None), (None, [.5, 1], [2]))])
def test_targets_are_indices_or_values(args, want):
    vocab, y, y_test = _both_targets(*args)
    assert (y.tolist(), y_test.tolist()) == want[1:] and want[0] in (None, vocab)


@pytest.mark.parametrize('args,said', [
    ((['a', 'b'], ['d'], ['a', 'b']), "y_test=.'d'."), (([0, 2], [1], ['a', 'b']), 'y=.2.'),
    ((np.eye(2, dtype=int), [1], ['a', 'b']), 'one class for each row')])
def test_targets_that_are_no_classes(args, said):
    with pytest.raises(ValueError, match=said): _both_targets(*args)


def test_columns():
    df = pd.DataFrame(dict(age=[31, None], plan=['pro', None], zip=[1010, 8001]))
    assert _categories(df, ['zip']) == ['plan', 'zip'] and _categories(df, None) == ['plan']
    with pytest.raises(ValueError, match='columns of x'): _categories(df, ['zipp'])
    assert _as_columns(np.zeros((3, 2, 4)), 'x').shape == (3, 8)
    assert _as_columns(torch.ones(3, 2), 'x').dtypes.tolist() == ['float32']*2
    with pytest.raises(ValueError, match='an array of numbers'): _as_columns(np.array(['a.png']), 'x')


def test_some_rows_of_each_class():
    y = np.array([0]*900+[1]*100)
    assert np.bincount(y[_some_rows(y, 50, 0)]).tolist() == [45, 5]
    assert np.array_equal(_some_rows(y, 1000, 0), np.arange(1000))
    rows = _some_rows(np.random.default_rng(0).normal(size=(30, 2)), 10, 0)
    assert len(set(rows)) == 10 and (np.diff(rows) > 0).all()


def test_too_many_columns_are_a_note():
    x, y = np.random.default_rng(0).random((20, 3, 40, 40)), np.arange(20) % 2
    res = baselines(x, y, x, y)
    assert list(res.note) == ['', '', 'left out: 4,800 columns for 2 outputs are too many']
    assert np.isnan(res.accuracy[2])
