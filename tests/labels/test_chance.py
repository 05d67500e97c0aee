"Is a teacher's distance from chance the right one, with the uncertainty of so few rows?"
import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import APScoreBinary, BalancedAccuracy, F1Score, RocAucBinary, accuracy, accuracy_multi, mse
from noisy_student_fastai.labels.chance import (
    KeepRows,
    chance_of,
    clear,
    n_predicted,
    resampled,
    score_of,
    some_targets,
    spread,
    standard_error,
    weak_below,
)
from scipy.stats import beta, binom, mannwhitneyu, norm
from sklearn import metrics as skm
from sklearn.dummy import DummyClassifier, DummyRegressor
from toys import hard_rows, net, points, pts_dls, torch_dls


def learner(y, lf, metrics, x=None):
    "A Learner whose training targets are `y`"
    x = torch.zeros(len(y), 2) if x is None else x
    return Learner(DataLoaders(*[TfmdDL(list(zip(x, y)), bs=7, num_workers=0)]*2), net(), loss_func=lf, metrics=metrics)


def of_classes(p, *metrics):
    "A Learner whose training rows have classes in the shares `p`"
    y = torch.tensor(np.repeat(np.arange(len(p)), np.round(100*np.array(p)).astype(int)))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return learner(y[order], CrossEntropyLossFlat(), metrics)


def test_scores_are_those_of_scikit_learn():
    g = torch.Generator().manual_seed(0)
    learn = of_classes([.5, .5], accuracy, BalancedAccuracy(), F1Score(), RocAucBinary(), APScoreBinary())
    for _ in range(3):
        pred, y = torch.randn(90, 2, generator=g), torch.randint(2, (90,), generator=g)
        p, hard = pred.softmax(1)[:, 1], pred.argmax(1)
        want = dict(accuracy=skm.accuracy_score(y, hard), balanced_accuracy_score=skm.balanced_accuracy_score(y, hard),
                    f1_score=skm.f1_score(y, hard), roc_auc_score=skm.roc_auc_score(y, p),
                    average_precision_score=skm.average_precision_score(y, p),
                    valid_loss=skm.log_loss(y, pred.softmax(1)))
        for k, v in want.items(): assert score_of(learn, k)(pred, y) == pytest.approx(v, abs=1e-5), k
    assert np.isnan(score_of(learn, 'accuracy')(pred, y[:4]))
    with pytest.raises(ValueError, match="name='acuracy'.*did you mean 'accuracy'"): score_of(learn, 'acuracy')


@pytest.mark.parametrize('n', [40, 20_000])
def test_the_standard_error_of_a_share_is_the_binomial_one(n):
    g = torch.Generator().manual_seed(n)
    learn = of_classes([.5, .5], accuracy)
    y, right = torch.randint(2, (n,), generator=g), torch.rand(n, generator=g) < .8
    pred = torch.eye(2)[torch.where(right, y, 1-y)]
    p = right.float().mean().item()
    assert standard_error(score_of(learn, 'accuracy'), pred, y) == pytest.approx((p*(1-p)/n)**.5, rel=.35)
    assert np.isnan(standard_error(score_of(learn, 'accuracy'), pred[:1], y[:1]))


@pytest.mark.parametrize('p', [[.5, .5], [.9, .1], [.2, .5, .3]])
def test_the_constant_is_a_dummy_classifier(p):
    learn, g = of_classes(p, accuracy, BalancedAccuracy()), torch.Generator().manual_seed(0)
    known = some_targets(learn.dls).numpy()
    assert np.array_equal(np.bincount(known), np.round(100*np.array(p)))
    y = torch.multinomial(torch.tensor(p), 50, replacement=True, generator=g)
    dummy = DummyClassifier(strategy='prior').fit(known[:, None], known)
    rows = torch.randn(50, len(p), generator=g), y
    for m, want in dict(accuracy=skm.accuracy_score(y, dummy.predict(y[:, None])),
                        balanced_accuracy_score=skm.balanced_accuracy_score(y, dummy.predict(y[:, None])),
                        valid_loss=skm.log_loss(y, dummy.predict_proba(y[:, None]), labels=range(len(p)))).items():
        assert chance_of(learn, m, m == 'valid_loss', rows).constant == pytest.approx(want, abs=.01), m


def test_the_constant_of_values_is_their_mean():
    g = torch.Generator().manual_seed(0)
    y, valid = torch.randn(60, 2, generator=g)+3, torch.randn(30, 2, generator=g)+3
    learn = learner(y, MSELossFlat(), mse)
    dummy = DummyRegressor().fit(y, y).predict(valid)
    good, bad = valid+.5*torch.randn(30, 2, generator=g), valid+2
    for m in ('mse', 'valid_loss'):
        got, lost = (chance_of(learn, m, True, (o, valid)) for o in (good, bad))
        assert got.constant == pytest.approx(skm.mean_squared_error(valid, dummy), abs=1e-5)
        assert got.above > clear and lost.above > clear  # off by a shift
    assert chance_of(learn, 'mse', True, (-good, valid)).above < weak_below(30)
    assert n_predicted(learn, (good, valid)) is None


def above(learn, pred, y, monitor='accuracy'): return chance_of(learn, monitor, False, (pred, y)).above


@pytest.mark.parametrize('p, n', [([.5, .5], 8), ([.1]*10, 60), ([.95, .05], 100)])
def test_guesses_are_told_from_knowledge(p, n):
    "Of guesses few look clear, whatever the shares of classes are; of what is known nearly all do, where rows are many"
    learn, g = of_classes(p, accuracy), torch.Generator().manual_seed(0)
    found = dict(guess=[], knows=[])
    for _ in range(20):
        y = torch.multinomial(torch.tensor(p), n, replacement=True, generator=g)
        guess = torch.multinomial(torch.tensor(p), n, replacement=True, generator=g)
        knows = torch.where(torch.rand(n, generator=g) < .8, y, guess)
        for k, o in dict(guess=guess, knows=knows).items(): found[k].append(above(learn, torch.eye(len(p))[o], y))
    guess, knows = map(np.array, found.values())
    assert (guess > clear).mean() < .4
    assert (knows > clear).mean() > (.5 if n < 20 else .85) and (knows <= weak_below(n)).mean() < .1


def test_one_class_is_no_better_than_itself():
    "95 of 100 right, by naming the frequent class always; what ranks rows can still be told, by a metric that asks"
    learn = of_classes([.95, .05], accuracy, APScoreBinary())
    y = torch.tensor([0]*95+[1]*5)
    same = torch.tensor([[3., -3.]]).expand(100, 2)
    assert above(learn, same, y) == 0 and n_predicted(learn, (same, y)) == 1
    ranks = same+torch.stack([torch.zeros(100), 2.*y], 1)
    assert above(learn, ranks, y) > clear and n_predicted(learn, (ranks, y)) == 1
    assert n_predicted(learn, (same, 0*y)) is None and chance_of(learn, 'accuracy', False, None) is None


def test_a_single_row_tells_nothing():
    learn = of_classes([.5, .5], accuracy)
    assert abs(above(learn, torch.eye(2)[:1], torch.tensor([0]))) < clear


def test_several_labels():
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(90, 3, generator=g) < torch.tensor([.5, .3, .7])).float()
    learn = learner(y, BCEWithLogitsLossFlat(), accuracy_multi)
    other = y[torch.randperm(90, generator=g)]
    assert above(learn, 4*y-2, y, 'accuracy_multi') > clear >= above(learn, 4*other-2, y, 'accuracy_multi')
    const = chance_of(learn, 'accuracy_multi', False, (4*y-2, y)).constant
    assert const == pytest.approx(((y.mean(0) > .5) == y).float().mean().item())


@pytest.mark.parametrize('kind', ['fastai', 'torch'])
def test_rows_and_targets_are_those_of_the_loaders(kind):
    items = hard_rows(24, 1)
    dls = pts_dls(items, bs=8) if kind == 'fastai' else torch_dls(items, hard_rows(50, 7), batch_size=20)
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    assert sorted(some_targets(dls).tolist()) == sorted(int(y) for _, y in items)
    keep = KeepRows()
    with learn.no_bar(), learn.no_logging(): value = learn.validate(cbs=keep)[1]
    pred, y = keep.rows()
    x, want = points(50, 7)
    assert keep.n == 50 and torch.equal(y, want)
    assert torch.allclose(pred, learn.model.eval()(x.to(pred.device)), atol=1e-6)
    assert score_of(learn, 'accuracy')(pred, y) == pytest.approx(value)


def test_guesses_of_a_coin():
    "The bound of the share of guesses that look clear is that of the binomial: right on 58 or more of 100 rows"
    learn, rng = of_classes([.5, .5], accuracy), np.random.default_rng(0)
    y = torch.tensor(np.arange(100) % 2)
    for k in (50, 55, 62, 70):
        right = torch.zeros(100, dtype=bool)
        right[rng.permutation(100)[:k]] = True
        is_clear = above(learn, torch.eye(2)[torch.where(right, y, 1-y)], y) > clear
        assert is_clear == (binom.sf(k-1, 100, .5) < .06)


@pytest.mark.parametrize('n', [60, 8000])
def test_the_error_of_a_gain_is_that_of_pairs(n):
    "Two models are mostly wrong on the same rows: the error is that of the mean difference, not of two shares"
    learn, g = of_classes([.5, .5], accuracy), torch.Generator().manual_seed(n)
    y = torch.randint(2, (n,), generator=g)
    one = torch.where(torch.rand(n, generator=g) < .7, y, 1-y)
    two = torch.where(torch.rand(n, generator=g) < .1, 1-one, one)
    a, b = (resampled(score_of(learn, 'accuracy'), torch.eye(2)[o], y) for o in (one, two))
    d = ((one == y).float()-(two == y).float())
    assert spread(a-b, n) == pytest.approx(d.std().item()/n**.5, rel=.35)


def test_all_right_is_no_proof():
    learn, y = of_classes([.5, .5], accuracy), torch.arange(13) % 2
    score = score_of(learn, 'accuracy')
    assert standard_error(score, torch.eye(2)[y], y) == pytest.approx(beta(13.5, .5).std(), rel=.01)
    a = resampled(score, torch.eye(2)[y], y)
    assert spread(a-a, 13) == pytest.approx(beta(.5, 13.5).std(), rel=.01)


def test_ranking_is_that_of_the_rank_sum():
    "A teacher that names one class only, and ranks the rare one"
    learn, rng = of_classes([.95, .05], accuracy), np.random.default_rng(0)
    y = np.array([0]*190+[1]*10)
    x = rng.normal(size=200)+1.2*y
    pred = torch.tensor(np.c_[np.full(200, 9.), x]).float()
    p = mannwhitneyu(x[y == 1], x[y == 0], alternative='greater', method='asymptotic', use_continuity=False).pvalue
    assert pred.argmax(1).max() == 0
    assert above(learn, pred, torch.tensor(y)) == pytest.approx(norm.isf(p), rel=.02) and norm.isf(p) > clear


def test_next_to_uniform_is_no_knowledge():
    "... however little the training rows tell of the shares of classes"
    learn, g = of_classes([.3, .1, .1, .1, .1, .1, .1, .1], accuracy), torch.Generator().manual_seed(0)
    y = torch.randint(8, (400,), generator=g)
    zs = [above(learn, .05*torch.randn(400, 8, generator=g), y[torch.randperm(400, generator=g)]) for _ in range(15)]
    assert np.mean(np.array(zs) > clear) < .5
