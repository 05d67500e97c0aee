"Scores against scikit-learn's, on classes as they come: rare ones, and some that are missing"
import warnings

import numpy as np
import pytest
import torch
from noisy_student_fastai.data import metrics as m
from noisy_student_fastai.data.metrics import choose_score, class_metrics, is_imbalanced, rare_class, recall_name
from noisy_student_fastai.rounds.records import lower_by_name
from noisy_student_fastai.settings import class_scores
from sklearn import metrics as sk
from toys import pts_dls, pts_learner


def some_rows(seed, c, n=200, rare=.05):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(c), n)
    share = np.array([rare]+[(1-rare)/(c-1)]*(c-1))
    y = np.where(rng.random(n) < .5, p.argmax(1), rng.choice(c, n, p=share))
    return p, y


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('c', [2, 5])
def test_against_scikit_learn(seed, c):
    p, y = some_rows(seed, c)
    pred, k = p.argmax(1), dict(average='macro')
    assert m.balanced_accuracy(p, y) == pytest.approx(sk.balanced_accuracy_score(y, pred))
    assert m.recalls(p, y) == pytest.approx(sk.recall_score(y, pred, average=None))
    assert m.f1(p, y) == pytest.approx(sk.f1_score(y, pred, **k))
    multi = dict(multi_class='ovr', **k)
    assert m.auc(p, y) == pytest.approx(sk.roc_auc_score(y, p[:, 1]) if c == 2 else sk.roc_auc_score(y, p, **multi))
    one_hot = np.eye(c)[y]
    assert m.average_precision(p, y) == pytest.approx(sk.average_precision_score(one_hot, p, **k))
    assert m.average_precision(p, y, 0) == pytest.approx(sk.average_precision_score(one_hot[:, 0], p[:, 0]))
    assert m.f1(p, y, 0) == pytest.approx(sk.f1_score(y == 0, pred == 0))


@pytest.mark.parametrize('score', [m.balanced_accuracy, m.auc, m.average_precision, m.f1])
def test_a_class_that_is_missing_counts_for_nothing(score):
    "A small validation set may lack one: no error, no warning, and the scores of the others"
    p, y = some_rows(0, 3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        some = score(p[y != 2], y[y != 2])
        none, one = score(p[:0], y[:0]) if score is not m.f1 else np.nan, score(p[y == 1], y[y == 1])
    assert np.isfinite(some) and np.isnan(none) and (np.isnan(one) or 0 <= one <= 1)


@pytest.mark.parametrize('counts,score', [
    ((285, 15), 'average_precision'), ((50, 50), 'accuracy'), ((5, 3), 'accuracy'), ((90, 80, 20), 'balanced_accuracy'),
    ((9, 9, 9, 8), 'accuracy')])
def test_which_score_fits(counts, score):
    y = np.repeat(range(len(counts)), counts)
    assert choose_score(y, len(counts)) == score and is_imbalanced(y, len(counts)) == (score != 'accuracy')
    assert counts[rare_class(y, len(counts))] == min(counts)


def test_of_a_learner():
    "What a validation measures is what scikit-learn says of its predictions; more is better by each name"
    vocab = ['yes', 'no', 'perhaps']
    learn = pts_learner(dls=pts_dls(bs=16))
    learn.metrics = class_metrics(vocab)
    with learn.no_bar(), learn.no_logging():
        res = dict(zip(('loss', *(o.name for o in learn.metrics)), learn.validate()))
        p, y = (o.numpy() for o in learn.get_preds())
    y = y.reshape(-1)
    assert {*class_scores, *map(recall_name, vocab)} == {*res} - {'loss'}
    assert res['accuracy'] == pytest.approx((p.argmax(1) == y).mean())
    each = [sk.average_precision_score(y == i, p[:, i]) for i in range(3)]
    assert res['average_precision'] == pytest.approx(np.mean(each), abs=1e-5)
    assert res['auc'] == pytest.approx(sk.roc_auc_score(y, p, multi_class='ovr'), abs=1e-5)
    assert res['recall of yes'] == pytest.approx(sk.recall_score(y == 0, p.argmax(1) == 0))
    assert not any(lower_by_name(o) for o in class_scores)


def test_many_classes_have_no_column_each(): assert len(class_metrics([*map(str, range(21))])) == len(class_scores)


def test_targets_in_a_column():
    p, y = some_rows(1, 3)
    for o in class_metrics('abc')[1:]:
        logits = torch.tensor(p).log()
        o.reset()
        learn = type('L', (), dict(pred=logits, y=torch.tensor(y)[:, None], to_detach=lambda self, b: b))()
        o.accumulate(learn)
        column = o.value
        o.reset()
        learn.y = torch.tensor(y)
        o.accumulate(learn)
        assert o.value == column
