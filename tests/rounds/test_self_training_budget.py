"Does one number of batches come to what each model trains on, counted by somebody else?"
import numpy as np
import pytest
from rounds_toys import Seen, make, same, seen, train

T, S = 3, 6  # batches of an epoch: 24 rows, 8 of a teacher's batch and 4 of a student's of 12
TOLD = []


def told(learn, n_epoch, lr):
    "A caller's own training, which is cut off once"
    TOLD.append(n_epoch)
    if len(TOLD) == 2: raise KeyboardInterrupt
    learn.fit(n_epoch, lr)


def nearest(n, n_each):
    "Batches of so many whole epochs, one at least, as are nearest to `n`"
    return min((k*n_each for k in range(1, 200)), key=lambda o: (abs(o-n), -o))


@pytest.mark.parametrize('n_batches, n_rounds', [(40, None), (67, 1), (dict(teacher=20, students=30), 3)])
def test_batches_are_counted(n_batches, n_rounds, capsys):
    asked = [v for v in n_batches.values()] if isinstance(n_batches, dict) else \
        [round(n_batches/6), n_batches-round(n_batches/6)]
    r = n_rounds or 2
    res, log = seen(n_epoch=None, n_batches=n_batches, n_rounds=n_rounds, control=True, patience=None)
    want = [nearest(asked[0], T), *[nearest(asked[1]/r, S)]*r]
    want.append(nearest(sum(want), T))
    assert [o['n'] for o in log if o['n']] == want == res.records.n_batches.tolist()
    assert [o['n_pl'] for o in log if o['n']] == [{0}, *[{8}]*r, {0}]
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f'{sum(asked):,} batches for a seed: teacher {want[0]} (')
    assert f'control {want[-1]} (' in line


def test_the_callers_fit_the_last_step_and_a_run_that_goes_on(tmp_path):
    "Epochs that come of a budget are those of any other run; the last step has its own"
    kw = dict(n_epoch=None, n_batches=50, patience=None, finetune=dict(n_epoch=2), control=True, fit=told)
    TOLD.clear()
    with pytest.raises(KeyboardInterrupt): train(tmp_path, **kw)
    res = train(tmp_path, **kw)
    assert TOLD == [3, 4, 4, 4, 2, 19]  # teacher, cut off, students, last step, control
    same(train(tmp_path, **kw), res)
    assert len(TOLD) == 6
    with pytest.raises(ValueError, match=r'n_epoch=7 in round 1 \(was 4\)'): train(tmp_path, **kw, n_rounds=1)
    with pytest.raises(ValueError, match=r'n_batches.students=100 \(was 42\)') as e:
        train(tmp_path, **kw | dict(n_batches=120))
    assert 'n_epoch=8 in rounds 1, 2 (was 4)' in str(e.value)


@pytest.mark.parametrize('kw, text', [
    (dict(n_batches=60, n_epoch=4), 'n_epoch=4: expected None with'), (dict(n_batches=1), 'n_batches=1'),
    (dict(n_batches=dict(teacher=3)), 'teacher=..., students=...'), (dict(n_batches=.5), 'n_batches=0.5'),
    (dict(n_batches=dict(teacher=0, students=3)), 'n_batches teacher=0')])
def test_what_no_budget_is(kw, text):
    Seen.log.clear()
    with pytest.raises((ValueError, TypeError), match=text):
        train(None, lambda r: make(r, cbs=[Seen()]), **dict(n_epoch=None) | kw)
    assert not Seen.log


def test_whole_epochs_far_from_the_budget_are_said():
    with pytest.warns(UserWarning, match='n_batches=9, but whole epochs .* come to 15 batches: 3 of round 0, 6 of'):
        res = train(n_epoch=None, n_batches=9, n_rounds=2, patience=None)
    assert np.array_equal(res.records.n_batches, [3, 6, 6])
