"Are verdict and figure right, computed by hand from made-up records; do loggers get the records; is the ledger stable?"
import re
from functools import partial
from types import SimpleNamespace

import fastai.metrics
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import AvgMetric, Metric
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from noisy_student_fastai.rounds.records import (
    best_row,
    interval,
    lower_by_metric,
    lower_by_name,
    pairs,
    plot_classes,
    plot_rounds,
    verdict,
)
from scipy.stats import ttest_1samp
from sklearn.metrics import get_scorer_names


def table(valid, test, control, monitor='accuracy', **more):
    "Records of a run for each row: validation and test by round (the first is the teacher), the control's test value"
    rows = []
    for s, (v, t, c) in enumerate(zip(valid, test, control)):
        for r, (a, b) in enumerate(zip(v, t)):
            rows.append(dict(seed=s, round=r, role='student' if r else 'teacher', valid_loss=1-a,
                             **{monitor: a, f'test_{monitor}': b}))
        best = max(range(1, len(v)), key=lambda i: v[i])
        if c is not None:
            rows.append(dict(seed=s, round=best, role='control', valid_loss=.5, **{monitor: .5, f'test_{monitor}': c}))
    return pd.DataFrame(rows).assign(**{f'teacher_{monitor}': np.nan}, **more)


def test_gain_and_spread_are_those_by_hand():
    rng = np.random.default_rng(0)
    for n in (3, 8):
        valid, test, control = rng.uniform(.5, .9, (n, 4)), rng.uniform(.5, .9, (n, 4)), rng.uniform(.5, .9, n)
        gain = 100*(test[range(n), 1+valid[:, 1:].argmax(1)]-control)
        ci = ttest_1samp(gain, 0).confidence_interval()
        said = verdict(table(valid, test, control))
        how = 'better' if gain.mean() > 0 else 'worse'
        assert f'{abs(gain.mean()):.1f} points {how} than its control on average' in said
        assert f'95% interval {ci.low:+.1f} to {ci.high:+.1f}' in said
        assert f'per run {gain.min():+.1f} to {gain.max():+.1f}, better in {(gain > 0).sum()} of {n}' in said
        assert ('may be chance' in said) == (ci.low <= 0 <= ci.high) and 'measured' not in said


def test_two_runs_have_no_interval():
    df = table([[.6, .8], [.6, .8]], [[.6, .5], [.6, .51]], [.7, .7])
    said = verdict(df)
    assert 'interval' not in said and 'worse than its control on average' in said
    assert 'better in 0 of 2), which is too few to tell it from chance.' in said
    assert interval([.1, .2]) == (-np.inf, np.inf) and interval([.1, .2, .3])[0] > -np.inf


def test_what_other_rows_would_say():
    n, a, b, want = 30, .8, .7, 11.
    df = table([[.6, .8]], [[.6, a]], [b]).assign(n_test=n)
    assert 'standard error' not in verdict(df)
    df['gain_se'] = np.where(df.role == 'control', want/100, .5)
    said = f"On another 30 test rows, a run's gain would vary by a standard error of {want:.1f} points, so"
    assert said in verdict(df)
    assert pairs(df).gain_se.item() == pytest.approx(want/100) and pairs(df).n_measured.item() == 30
    assert 'points.' in verdict(df.assign(gain_se=df.gain_se/4))
    same = table([[.6, .8]]*3, [[.6, .8]]*3, [.7]*3)
    assert 'may be chance' not in verdict(same) and 'may be chance' in verdict(same.assign(gain_se=.06))
    lo, hi = interval([.1]*3, se=[.03]*3)
    assert (lo, hi) == pytest.approx((.1-1.96*.03, .1+1.96*.03), abs=1e-4)
    on_valid = df.drop(columns='test_accuracy').rename(columns=dict(n_test='n_valid'))
    assert "another 30 validation rows, a run's gain" in verdict(on_valid)


def test_a_model_of_one_class_gets_no_verdict():
    df = table([[.9, .95], [.9, .95]], [[.9, .95], [.9, .95]], [.94, .94]).assign(n_predicted=2)
    one = (df.role == 'student') & (df.seed == 0)
    said = verdict(df.assign(n_predicted=df.n_predicted.mask(one, 1)))
    assert said.startswith('The student predicts the same class for every validation row in 1 of 2 runs')
    assert 'Over 2 runs the student is 1.0 points better' in said
    said = verdict(df[df.seed == 0].assign(n_predicted=1))
    assert said.startswith('The student predicts the same class for every validation row: it has not learned')
    assert 'better' not in said and '(accuracy on the test set 95.0% against 94.0%)' in said


def test_where_no_student_is_better_the_verdict_says_which_is_kept():
    df = table([[.8, .8], [.6, .8]], [[.6, .75]]*2, [.7, .7])
    assert verdict(df).endswith('validation rows in 1 of 2 runs, where the teacher is kept.')
    assert verdict(df[df.seed == 0]).endswith('validation rows, so the teacher is kept.')
    assert 'is kept' not in verdict(df[df.seed == 1])
    lost = df.assign(valid_loss=df.valid_loss.mask(df.role == 'student'))
    assert 'the teacher is kept' in verdict(lost[lost.seed == 1]) or 'did not train' in verdict(lost[lost.seed == 1])


def test_a_teacher_that_knows_nothing_is_said():
    df = table([[.5, .8], [.6, .8]], [[.6, .75]]*2, [.7, None]).assign(n_kept=5., above_chance=np.nan)
    df.loc[(df.role == 'teacher'), 'above_chance'] = [3., -.2]
    df = df[~((df.seed == 1) & (df.role == 'student'))]
    assert verdict(df).startswith('The teacher showed no sign of knowledge in 1 of 2 runs, so no student has learned')
    assert verdict(df[df.seed == 1]) == 'The teacher showed no sign of knowledge, so no student has learned from it.'


def test_what_a_verdict_warns_of():
    df = table([[.6, .8, .7]], [[.6, .75, .9]], [.7])
    assert verdict(df) == ('The student is 5.0 points better than its control (accuracy on the test set 75.0% against '
                           '70.0%); one run '
                           'says nothing about the spread.')
    assert 'as good as its control' in verdict(table([[.6, .8]], [[.6, .7]], [.7]))
    assert '10.0 points worse than its control' in verdict(table([[.6, .8]], [[.6, .6]], [.7]))
    assert 'than its teacher' in (said := verdict(table([[.6, .8]], [[.6, .7]], [None]))) and 'No control' in said
    said = verdict(df.drop(columns='test_accuracy'))
    assert 'validation rows, which also chose the round' in said and '30.0 points better' in said
    assert verdict(df[df.role == 'teacher']) == 'No student has been trained yet.'
    loss = df.rename(columns=dict(test_accuracy='test_loss'))
    assert 'worse' in verdict(loss, 'valid_loss') and 'points' not in verdict(loss, 'valid_loss')


def test_what_did_not_train_is_said(no_windows):
    df = table([[.6, .8], [.6, .8]], [[.6, .75], [.6, .75]], [.7, .7])
    for v, said in ((df.seed == 0, 'did not train (not a number) in 1 of 2 runs. A lower learning rate, or data '
                      'without missing and infinite numbers, may help. The student is 5.0 points better'),
                    (df.seed >= 0, 'The student did not train (not a number) in 2 of 2 runs.')):
        lost = df.assign(valid_loss=df.valid_loss.mask(v & (df.role == 'student')))
        assert said in verdict(lost) and 'nan' not in verdict(lost)
        assert 'nan' not in plot_rounds(lost).get_title()
    hint = 'A lower learning rate, or data without missing and infinite numbers, may help.'
    assert f'The student did not train (not a number). {hint}' == verdict(lost[lost.seed == 0])


def test_runs_that_are_put_together():
    a, b = (table([[.6, .8]], [[.6, t]], [.7]) for t in (.8, .6))
    with pytest.raises(ValueError, match="a column 'split'"): verdict(pd.concat([a, b]))
    said = verdict(pd.concat([a.assign(split=0), b.assign(split=1)], ignore_index=True))
    assert said.startswith('Over 2 runs the student is as good as its control on average')
    assert 'per run -10.0 to +10.0' in said
    with pytest.raises(ValueError, match="monitor='f1'"): verdict(a, 'f1')


def test_the_figure_shows_the_records(no_windows):
    valid, test, control = [[.5, .6, .7], [.6, .8, .7]], [[.4, .5, .6], [.5, .7, .6]], [.45, .55]
    ax = plot_rounds(table(valid, test, control))
    lines = {o.get_label(): o for o in ax.lines if not o.get_label().startswith('_')}
    assert lines.keys() == {'validation', 'test', 'control, validation', 'control, test'}
    np.testing.assert_allclose(lines['validation'].get_ydata(), np.mean(valid, 0))
    np.testing.assert_allclose(lines['test'].get_ydata(), np.mean(test, 0))
    assert lines['control, test'].get_ydata()[0] == pytest.approx(.5)
    assert '+15.0 points' in ax.get_title() and ax.get_xlabel() and ax.get_ylabel() == 'accuracy'
    assert len(plot_rounds(table(valid[:1], test[:1], [None]), ax=plt.subplots()[1]).lines) == 2
    ax.figure.canvas.draw()
    assert all(o.get_text().endswith('%') for o in ax.get_yticklabels())  # a share; a loss is none
    ax = plot_rounds(table(valid, test, control), 'valid_loss')
    ax.figure.canvas.draw()
    assert not any('%' in o.get_text() for o in ax.get_yticklabels())


@pytest.mark.parametrize('control, said', [(.7003, 'as good as its control'), (.7, 'as good as its control'),
                                           (.65, r'\+5.0 points over its control'), (.8, '10.0 points worse than its')])
def test_the_answer_of_the_figure(control, said, no_windows):
    title = plot_rounds(table([[.5, .7]], [[.4, .7]], [control])).get_title()
    assert re.search(rf'The best student: {said}', title), title


def test_students_and_controls_of_the_same_runs(no_windows):
    "A run that was cut off has the controls of some seeds: a mean over controls and teachers would be of nothing"
    df = table([[.5, .7], [.5, .9], [.5, .6]], [[.5, .7], [.5, .9], [.5, .6]], [.6, .7, .5])
    one, two = df[(df.seed != 1) | (df.role != 'control')], df[df.seed != 1]
    said = verdict(one)
    assert said.startswith('1 of 3 runs have no control and are left out. Over 2 runs the student is 10.0 points')
    assert said.removeprefix('1 of 3 runs have no control and are left out. ') == verdict(two)
    assert 'No control' not in said and 'its control, 2 runs' in plot_rounds(one).get_title()


@pytest.mark.parametrize('seed', range(3))
def test_a_last_stage_is_compared_with_the_same_runs(seed, no_windows):
    "From the mean of the students that it began with to the mean of what came of them, run by run"
    rng = np.random.default_rng(seed)
    df = table(rng.random((6, 3)), rng.random((6, 3)), rng.random(6))
    last = df[(df.role == 'student') & (df['round'] == 1+df.seed % 2)]
    last = last.assign(role='online', accuracy=rng.random(6), accuracy_last=1.)
    last.loc[last.seed == 2, ['accuracy', 'valid_loss']] = np.nan  # it did not train
    ax = plot_rounds(pd.concat([df, last], ignore_index=True))
    got = {tuple(o.get_xdata()): o.get_ydata() for o in ax.lines
           if o.get_marker() == 's' and o.get_color() == 'tab:blue'}
    assert len(got) == 2
    for r in (1, 2):
        pairs = []
        for s in range(6):
            a = df[(df.seed == s) & (df['round'] == r) & (df.role == 'student')].accuracy.item()
            if 1+s % 2 == r and s != 2: pairs.append((a, last[last.seed == s].accuracy.item()))
        np.testing.assert_allclose(got[r, r+.5], np.mean(pairs, 0))
    labels = [o.get_text() for o in ax.get_legend().get_texts()]
    assert labels.count('after the last stage, validation') == 1


@pytest.mark.parametrize('c, seeds', [(2, 1), (9, 4), (50, 2), (60, 2), (60, 3)])
def test_gains_by_class_are_means_over_runs(c, seeds, no_windows):
    rng = np.random.default_rng(c+seeds)
    rows = [dict(seed=s, round=1, rows=9+k, control=a, student=b, has_control=True, **{'class': f'class {k}'})
            for s in range(seeds) for k, (a, b) in enumerate(rng.random((c, 2)))]
    rows += [dict(rows[0], control=np.nan, student=np.nan, rows=0, **{'class': 'empty'})]  # no row, and no place
    gain = {}
    for o in rows[:-1]: gain.setdefault(o['class'], []).append(100*(o['student']-o['control']))
    order = sorted(gain, key=lambda k: -np.mean(gain[k]))
    ax = plot_classes(pd.DataFrame(rows))
    want = [np.mean(gain[k]) for k in order]
    if c <= 50:
        assert [o.get_text() for o in ax.get_yticklabels()] == order
        np.testing.assert_allclose([o.get_width() for o in ax.patches], want)
        dots = [o for o in ax.lines if o.get_marker() == 'o']
        assert len(dots) == (seeds > 1)
        for o in dots:
            xy = sorted(zip(o.get_ydata(), o.get_xdata()))
            np.testing.assert_allclose(xy, sorted((order.index(k), v) for k in order for v in gain[k]))
        mean = pd.DataFrame(rows).groupby('class')[['control', 'student', 'rows']].mean()
        assert [o.get_text() for o in ax.texts] == [
            f'{mean.control[k]:.0%} → {mean.student[k]:.0%} of {mean.rows[k]:.0f} rows' for k in order]
    else:
        np.testing.assert_allclose(ax.lines[0].get_ydata(), want)
        assert len(ax.collections) == (seeds > 2)  # two runs have no range worth the name
    ends = f'from {want[-1]:+.1f} points ({order[-1]}) to {want[0]:+.1f} ({order[0]})'
    assert f'{sum(o > 0 for o in want)} of {c} classes gain: {ends}' in ax.get_title()
    with pytest.raises(ValueError, match='expected a student and its control'): plot_classes(pd.DataFrame(rows[-1:]))


# --- which way is better

G = torch.Generator().manual_seed(0)
Y, Y2, MULTI = torch.arange(60) % 3, torch.arange(60) % 2, (torch.rand(60, 4, generator=G) > .5).float()
VALUES, MASK = 1+torch.rand(60, 1, generator=G), torch.randint(2, (8, 4, 4), generator=G)


def noise(*shape): return torch.randn(*shape, generator=G)
def logits(y, c): return 4*torch.eye(c)[y]


def cases():
    "Predictions that are good, others that are bad, and targets, for each kind of metric"
    seg = logits(MASK, 2).movedim(-1, 1)
    return dict(classes=(logits(Y, 3), noise(60, 3), Y), binary=(logits(Y2, 2), noise(60, 2), Y2),
                multi=(8*MULTI-4, noise(60, 4), MULTI), values=(VALUES+.01, VALUES.flip(0)+.5, VALUES),
                masks=(seg, noise(*seg.shape), MASK), one=(8*MULTI[:, :1]-4, noise(60, 1), MULTI[:, :1]),
                texts=(logits(Y, 3)[None], noise(1, 60, 3), Y[None]))


KINDS = {k: kind for kind, names in dict(
    classes='accuracy error_rate top_k_accuracy BalancedAccuracy CohenKappa F1Score FBeta HammingLoss Jaccard '
            'Precision Recall RocAuc MatthewsCorrCoef perplexity Perplexity',
    binary='APScoreBinary RocAucBinary BrierScore',
    multi='accuracy_multi APScoreMulti BrierScoreMulti F1ScoreMulti FBetaMulti HammingLossMulti JaccardMulti '
          'PrecisionMulti RecallMulti RocAucMulti', one='MatthewsCorrCoefMulti',
    values='rmse exp_rmspe mse mae msle ExplainedVariance R2Score PearsonCorrCoef SpearmanCorrCoef',
    masks='foreground_acc Dice DiceMulti JaccardCoeff JaccardCoeffMulti', texts='CorpusBLEUMetric').items()
    for k in names.split()}
ARGS = dict(F1Score=dict(average='macro'), FBeta=dict(beta=2, average='macro'), Jaccard=dict(average='macro'),
            Precision=dict(average='macro'), Recall=dict(average='macro'), top_k_accuracy=dict(k=1),
            FBetaMulti=dict(beta=2), CorpusBLEUMetric=dict(vocab_sz=3))


def metric(name):
    o, kw = getattr(fastai.metrics, name), ARGS.get(name, {})
    if isinstance(o, Metric): return o
    return o(**kw) if name[0].isupper() else AvgMetric(partial(o, **kw) if kw else o)


def value(m, pred, y):
    "The metric of one batch, as a Learner would have it"
    loss = torch.nn.functional.cross_entropy(pred, y) if pred.ndim == 2 and y.ndim == 1 else torch.tensor(0.)
    learn = SimpleNamespace(pred=pred, y=y, yb=(y,), xb=(pred,), loss=loss, training=False,
                            to_detach=lambda x, **kw: x)
    m.reset()
    m.accumulate(learn)
    return float(m.value)


def test_each_metric_of_fastai_has_a_direction():
    "That which tells good predictions from bad ones"
    tools = {'AccumMetric', 'skm_to_fastai', 'optim_metric', 'LossMetric', 'LossMetrics', 'ActivationType'}
    assert {*fastai.metrics.__all__} - tools == KINDS.keys()
    for name, kind in KINDS.items():
        m, (good, bad, y) = metric(name), cases()[kind]
        a, b = value(m, good, y), value(m, bad, y)
        assert a != b and lower_by_metric(m) == (a < b), (name, m.name, a, b)
    assert lower_by_metric(fastai.metrics.LossMetric('part'))


@pytest.mark.tsai
def test_each_metric_of_tsai_has_a_direction():
    import tsai.metrics as tm
    for k in {*tm.__all__} - {'get_task_metrics', 'metrics_multi_common'}:
        o = getattr(tm, k)
        m = o if isinstance(o, Metric) else o() if k.startswith('Matthews') else AvgMetric(o)
        assert lower_by_metric(m) == (k in ('mae', 'mape')), k
    for k in ('mae', 'mape'): assert getattr(tm, k)(VALUES+.01, VALUES) < getattr(tm, k)(VALUES.flip(0), VALUES)


def test_each_scorer_of_sklearn_has_a_direction():
    "Of all a greater value is better; those of losses are turned round, as their names say"
    for o in get_scorer_names():
        assert lower_by_name(o) is False, o
        if o.startswith('neg_'): assert lower_by_name(o.removeprefix('neg_')) is True, o


@given(st.sampled_from(['RMSE', 'f1_score', 'mape', 'RocAuc', 'top_k_accuracy', 'cer', 'Brier', 'kappa']),
       st.sampled_from([str.lower, str.upper, str]), st.sampled_from(['{}', 'valid_{}', '{}_macro', 'My {}', '{}@5']))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_case_and_other_words_change_nothing(name, case, around):
    assert lower_by_name(around.format(case(name))) == (name in ('RMSE', 'mape', 'cer', 'Brier'))


def test_the_last_word_says_what_a_metric_is():
    "A loss that is made from something good is a loss; IoU is one word; rates and top-k are known"
    want = {True: 'dice_loss iou_loss GIoULoss recall_loss neg_log_likelihood NegativeLogLikelihoodLoss top1_err '
                  'top5_error_rate ce bce xent bce_with_logits detection_error_rate false_detection_rate',
            False: 'MeanIoU mIoU IoU top1 top_5 valid_top1 top1_acc hit_rate hits@10 HitRate detection_rate win_rate '
                   'd2_absolute_error_score',
            None: 'mae_r2 loss_free top5_entropy top1_drop explained_error neg_dice_loss bce_dice cost_accuracy'}
    assert {k: lower_by_name(k) for v in want.values() for k in v.split()} == {
        k: d for d, v in want.items() for k in v.split()}


def test_metrics_say_it_themselves():
    def plain(inp, targ): return 0.
    for k, v in dict(lower_is_better=True, greater_is_better=False, higher_is_better=False).items():
        for yes in (False, True):
            def f(inp, targ): return 0.
            setattr(f, k, yes if v else not yes)
            own = AvgMetric(plain)
            setattr(own, k, yes if v else not yes)
            assert [lower_by_metric(o) for o in (AvgMetric(f), AvgMetric(partial(f)), own)] == [yes]*3
    assert lower_by_metric(AvgMetric(plain)) is None


# --- what is kept

numbers = st.sampled_from([np.nan, .2, .2, .5, .7])


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_best_is_the_best_of_those_that_trained(rows, lower, is_run):
    df = pd.DataFrame(rows, columns=['valid_loss', 'mine']).astype(object)
    if is_run: df['role'] = ['teacher', *['student']*(len(rows)-1)]
    ok = [(v if lower else -v, is_run and i > 0, loss, i)
          for i, (loss, v) in enumerate(rows) if v == v and loss == loss]
    if not ok:
        with pytest.raises(ValueError, match=f'none of the {len(rows)} models has trained'): best_row(df, 'mine', lower)
    else: assert best_row(df, 'mine', lower).name == min(ok)[3]


def test_records_know_the_direction(no_windows):
    "A metric of which nobody knows: the sign of a gain is that of the records, or as the caller says"
    df = table([[.6, .8]], [[.6, .75]], [.7], 'mine')
    for f in (verdict, plot_rounds, pairs):
        with pytest.raises(ValueError, match="lower_is_better=None: .*'mine'"): f(df)
    for lower, how in ((True, '0.050 worse'), (False, '5.0 points better')):
        assert how in verdict(df.assign(lower_is_better=lower))
        assert verdict(df, lower_is_better=lower) == verdict(df.assign(lower_is_better=lower))
    with pytest.raises(TypeError, match='lower_is_better=1'): verdict(df, lower_is_better=1)
    both = pd.concat([df.assign(lower_is_better=True), df.assign(seed=1, lower_is_better=False)])
    with pytest.raises(ValueError, match='one direction of mine'): verdict(both)
    assert 'worse' in verdict(table([[.6, .8]], [[.6, .75]], [.7]).assign(lower_is_better=True))  # an 'accuracy'


def test_what_ended_without_a_student_is_said():
    df = table([[.6, .8], [.6, .8]], [[.6, .75]]*2, [.7, None]).assign(n_kept=5.)
    unsure = (df.seed == 1) & (df.role == 'student')
    df.loc[unsure, ['accuracy', 'valid_loss', 'test_accuracy']] = np.nan
    df.loc[unsure, 'n_kept'] = 0
    said = 'No row was confident enough for a student in 1 of 2 runs. The student is 5.0 points better'
    assert verdict(df).startswith(said)
    assert verdict(df[df.seed == 1]) == 'No row was confident enough for a student.'
    lost = df[(df.seed == 1) & (df.role == 'teacher')].assign(valid_loss=np.nan)
    assert verdict(lost) == ('The teacher did not train (not a number): there is no student. '
                             'A lower learning rate, or data without missing and infinite numbers, may help.')


def test_classes_that_no_font_shows_are_numbered_as_elsewhere(no_windows):
    "By their place among all classes, not by their gain"
    df = pd.DataFrame([dict(seed=s, round=1, rows=9, control=.5, student=v, has_control=True) | {'class': k}
                       for s in range(2) for k, v in (('\U0002fa1a', .2), ('b', .9), ('\U0002fa19', .4))])
    with pytest.warns(UserWarning, match='class 0 is .*, class 2 is'): ax = plot_classes(df)
    assert [o.get_text() for o in ax.get_yticklabels()] == ['b', 'class 2', 'class 0']
    assert 'from -30.0 points (class 0) to +40.0 (b)' in ax.get_title()
