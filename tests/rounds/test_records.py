"Are verdict and figure right, computed by hand from made-up records; do loggers get the records; is the ledger stable?"

import numpy as np
import pandas as pd
import pytest
from fastai.callback.schedule import SchedCos, SchedLin, combine_scheds
from matplotlib import pyplot as plt
from noisy_student_fastai.rounds.records import plot_rounds, verdict
from scipy.stats import ttest_1samp


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
    for n in (2, 3, 8):
        valid, test, control = rng.uniform(.5, .9, (n, 4)), rng.uniform(.5, .9, (n, 4)), rng.uniform(.5, .9, n)
        gain = 100*(test[range(n), 1+valid[:, 1:].argmax(1)]-control)
        ci = ttest_1samp(gain, 0).confidence_interval()
        said = verdict(table(valid, test, control))
        how = 'better' if gain.mean() > 0 else 'worse'
        assert f'{abs(gain.mean()):.1f} points {how} than its control on average' in said
        assert f'95% interval {ci.low:+.1f} to {ci.high:+.1f}' in said
        assert f'per run {gain.min():+.1f} to {gain.max():+.1f}, better in {(gain > 0).sum()} of {n}' in said
        assert ('may be chance' in said) == (ci.low <= 0 <= ci.high) and 'validation' not in said


def test_what_a_verdict_warns_of():
    df = table([[.6, .8, .7]], [[.6, .75, .9]], [.7])
    assert verdict(df) == ('The student is 5.0 points better than its control (accuracy on the test set 75.0% against '
                           '70.0%); one run '
                           'says nothing about the spread.')
    assert 'as good as its control' in verdict(table([[.6, .8]], [[.6, .7]], [.7]))
    assert '10.0 points worse than its control' in verdict(table([[.6, .8]], [[.6, .6]], [.7]))
    assert 'than its teacher' in (said := verdict(table([[.6, .8]], [[.6, .7]], [None]))) and '`control=True`' in said
    said = verdict(df.drop(columns='test_accuracy'))
    assert 'validation rows, which also chose the round' in said and '30.0 points better' in said
    assert verdict(df[df.role == 'teacher']) == 'No student has been trained yet.'
    loss = df.rename(columns=dict(test_accuracy='test_loss'))
    assert 'worse' in verdict(loss, 'valid_loss') and 'points' not in verdict(loss, 'valid_loss')


def test_what_did_not_train_is_said(no_windows):
    df = table([[.6, .8], [.6, .8]], [[.6, .75], [.6, .75]], [.7, .7])
    for v, said in ((df.seed == 0, 'did not train (not a number) in 1 of 2 runs. The student is 5.0 points better'),
                    (df.seed >= 0, 'The student did not train (not a number) in 2 of 2 runs.')):
        lost = df.assign(valid_loss=df.valid_loss.mask(v & (df.role == 'student')))
        assert said in verdict(lost) and 'nan' not in verdict(lost)
        assert 'nan' not in plot_rounds(lost).get_title()
    assert 'The student did not train (not a number).' == verdict(lost[lost.seed == 0])


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
