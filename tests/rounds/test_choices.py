"Is the alternative that is chosen the one that a slow plain computation on validation predictions would take?"
import json
import os
import signal
import time
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from killing import fork
from noisy_student_fastai.noise.rows import one_thread
from noisy_student_fastai.rounds.choices import OneOf, Score, error_of, first_near_best
from noisy_student_fastai.rounds.folds import cross_validate
from noisy_student_fastai.rounds.run import Run
from rounds_toys import ARGS, UNLABELED, Seen, held_out_dl, make, numbers, predictions, same, train
from toys import hard_rows, points, pts_dls

TOLD = []
QUICK = dict(n_rounds=1, n_epoch=2, patience=None)


def told(learn, n_epoch, lr):
    "A caller's own training"
    TOLD.append(n_epoch)
    learn.fit(n_epoch, lr)


def redrawn(n):
    "Rows that are drawn again, in the way that the records say"
    g = torch.Generator().manual_seed(0)
    return [torch.randint(n, (n,), generator=g).numpy() for _ in range(50)]


def plain_choice(hits):
    "`hits`: for each alternative, for each seed, which validation rows are right. Row by row, and draw by draw"
    means = [np.mean([np.mean(h) for h in seeds]) for seeds in hits]
    best = int(np.argmax(means))
    for i, seeds in enumerate(hits):
        draws = [np.mean([np.mean(b[rows])-np.mean(a[rows]) for a, b in zip(seeds, hits[best])])
                 for rows in redrawn(len(seeds[0]))]
        d = [np.mean(b)-np.mean(a) for a, b in zip(seeds, hits[best])]
        se = np.hypot(np.std(draws, ddof=1), np.std(d, ddof=1)/len(d)**.5 if len(d) > 1 else 0)
        if i == best or means[best]-means[i] <= se: return i, means


def hits_of(folder, dls):
    "Of each seed, which validation rows the model has right that is best there, by its weights alone"
    res = []
    for d in sorted(folder.glob('seed*')):
        found = []
        for f in sorted(d.glob('round*/model.pth')):
            learn = make()
            learn.model.load_state_dict(torch.load(f, weights_only=True))
            p, y = predictions(learn, dls.valid)
            loss = torch.nn.functional.cross_entropy(p, y).item()
            found.append(((p.argmax(1) == y).numpy(), f.parent.name != 'round0', loss))
        res.append(min(found, key=lambda o: (-o[0].mean(), o[1], o[2]))[0])
    return res


def test_a_choice_that_is_begun_anew_is_no_finished_run(tmp_path):
    "With `overwrite`, or without what was chosen, and cut off among the alternatives"
    (fails := tmp_path/'fails').touch()
    def fit(learn, n, lr):
        if fails.exists() and n == 3: 1/0
        learn.fit(n, lr)
    path, kw = tmp_path/'a', dict(n_rounds=1, patience=None, fit=fit, dl=dict(temperature=OneOf(1., .5)))
    assert train(path, n_epoch=2, **kw).is_finished and Run.open(path).is_finished
    with pytest.raises(ZeroDivisionError): train(path, n_epoch=3, overwrite=True, **kw)
    assert not (path/'run.json').exists() and not (path/'seed0').exists()  # only alternatives
    fails.unlink()
    same(train(path, n_epoch=3, **kw), train(n_epoch=3, **kw))
    for o in (path/'choices.json', *(path/'choices').glob('*/seed0/round1/*.json')): o.unlink()
    fails.touch()
    with pytest.raises(ZeroDivisionError): train(path, n_epoch=3, **kw)
    assert not Run.open(path).is_finished


def test_the_choice_is_that_of_the_validation_predictions(tmp_path):
    "Two arguments, one after the other; afterwards it is the run that one would have asked for, test rows and all"
    kw = QUICK | dict(seeds=2)
    dls, ts, ps = make().dls, (1., .5), (None, dict(k=4, on=('teacher', 'inputs'), mix=0))
    kw |= dict(test=held_out_dl(), control=True)
    run = train(tmp_path, **kw, propagate=OneOf(*ps), dl=dict(temperature=OneOf(*ts)))
    found = {}
    for f in (tmp_path/'choices').glob('*/run.json'):
        o = json.loads(f.read_text())['settings']['rounds'][1]
        key = ps.index(o['propagate'] and {k: tuple(v) if k == 'on' else v for k, v in o['propagate'].items()})
        found[key, ts.index(o['dl']['temperature'])] = hits_of(f.parent, dls)
        assert not [k for k in Run.open(f.parent).records if k.startswith('test_')]  # nobody chooses on the test set
    assert len(found) == 3
    i, means = plain_choice([found[j, 0] for j in range(2)])
    j, means2 = plain_choice([found[i, k] for k in range(2)])
    df = run.choices
    assert df.argument.tolist() == ['propagate']*2+['dl temperature']*2
    assert df.accuracy.tolist() == pytest.approx(means+means2)
    assert np.flatnonzero(df.chosen).tolist() == [i, 2+j]
    same(train(**kw, propagate=ps[i], dl=dict(temperature=ts[j])), run)
    assert Run.open(tmp_path).choices.equals(df) and 'chosen on validation rows: propagate=' in repr(run)


@pytest.mark.parametrize('seed', range(4))
def test_near_the_best(seed):
    "Random hits, some of them shared; where each model has rows of its own, and where they are nearly the same"
    rng = np.random.default_rng(seed)
    n, n_seeds, n_alt = int(rng.integers(30, 200)), int(rng.integers(1, 4)), int(rng.integers(2, 5))
    base = rng.random((n_seeds, n)) < .8
    hits = [np.where(rng.random((n_seeds, n)) < rng.choice([.03, .5]), rng.random((n_seeds, n)) < rng.choice([.75, .9]),
                     base) for _ in range(n_alt)]
    at = redrawn(n)
    scores = [Score(o.mean(1), np.array([[h[i].mean() for i in at] for h in o]), n) for o in hits]
    assert first_near_best(scores)[0] == plain_choice(hits)[0]
    lost = Score(np.full(n_seeds, np.nan), None, 0)
    assert first_near_best([lost, *scores])[0] == plain_choice(hits)[0]+1
    assert error_of(scores[0], scores[0]._replace(n=n+1)) == 0  # other rows can't be compared one by one


def test_a_model_that_several_have_is_trained_once(tmp_path, capsys):
    "Rounds in common, the teacher in common; the cost is said before the first training"
    TOLD.clear()
    kw = QUICK | dict(n_rounds=OneOf(1, 3), fit=told, select=dict(n_per_class=OneOf(40, 30)))
    run = train(tmp_path, **kw)
    chosen = run.plan.n_rounds
    assert len(TOLD) == 4+chosen  # a teacher, three students; those of the other selection
    assert '3 runs, 5 trainings of' in capsys.readouterr().out.splitlines()[0]
    n = len(TOLD)
    same(train(tmp_path, **kw), run)
    more = train(tmp_path, **kw | dict(seeds=2))  # what is chosen stays
    assert len(TOLD) == n+1+chosen and more.choices.equals(run.choices)
    run.prune()
    assert not (tmp_path/'choices').exists()
    assert train(tmp_path, **kw | dict(seeds=2)).choices.equals(run.choices) and len(TOLD) == n+1+chosen


def test_alternatives_that_come_to_nothing_are_not_taken(tmp_path):
    "A learning rate without numbers, a selection without rows, though they come first; all of them are an error"
    run = train(**QUICK | dict(lr=OneOf(1e30, .2), noise=None, ema=None))
    assert run.plan.lr == .2 and np.isnan(run.choices.accuracy[0]) and run.choices.chosen.tolist() == [False, True]
    run = train(**QUICK | dict(select=dict(min_conf=OneOf(1., .3)), monitor='valid_loss'))
    assert run.plan.select == dict(min_conf=.3) and run.choices.valid_loss.isna().tolist() == [True, False]
    with pytest.raises(ValueError, match='no seed has a row that is confident enough'):
        train(**QUICK | dict(select=dict(min_conf=OneOf(1., .99999))))


def test_a_choice_that_was_killed_goes_on(tmp_path):
    "SIGKILL in the second alternative; then another one between choice and run"
    kw = QUICK | dict(n_rounds=2, n_epoch=4, dl=dict(temperature=OneOf(1., .5)), control=True)
    def go_on(path):
        with redirect_stdout(StringIO()): return train(path, **kw)
    def records(path): return len(list(path.glob('choices/*/seed*/*/record.json')))
    with one_thread():
        calm, n = go_on(tmp_path/'a'), 0
        for least in (3, 5):
            pid = fork(go_on, tmp_path/'b')
            while records(tmp_path/'b') < least and os.waitpid(pid, os.WNOHANG) == (0, 0): time.sleep(.005)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert n < records(tmp_path/'b') < 7
            n = records(tmp_path/'b')
        run = go_on(tmp_path/'b')
    same(run, calm)
    assert run.choices.equals(calm.choices) and not list((tmp_path/'b').rglob('*.tmp'))


class TestErrors:
    @pytest.mark.parametrize('kw, text', [
        (dict(seeds=OneOf(1, 2)), r'seeds=OneOf\(1, 2\): expected alternatives in make_learner, n_rounds'),
        (dict(noise=dict(tfms=[OneOf(1, 2)])), 'noise=.*for a value of its dict'),
        (dict(dl=lambda r: dict(temperature=OneOf(1, 2))), 'dl=.*a function of the round that returns no alternatives'),
        (dict(n_rounds=OneOf(1, 0)), 'n_rounds=0'), (dict(select=dict(min_cnf=OneOf(1, 2))), "'min_cnf'"),
        (dict(student=dict(bs=OneOf(12, 64), l2pl_ratio=7)), 'student'),
        (dict(propagate=OneOf(None, dict(k=0))), r"propagate\['k'\]=0")])
    def test_are_named_before_anything_is_trained(self, kw, text, tmp_path):
        Seen.log.clear()
        with pytest.raises((ValueError, TypeError), match=text):
            train(tmp_path, lambda r: make(r, cbs=[Seen()]), **QUICK | kw)
        assert not Seen.log

    def test_a_folder_with_something_else(self, tmp_path):
        kw = QUICK | dict(n_epoch=1, dl=dict(temperature=OneOf(1., .5)))
        run = train(tmp_path/'a', **kw)
        for other, text in ((dict(dl=dict(temperature=OneOf(1., .3))), r'alternatives.dl temperature\[1\]=0.3'),
                            (dict(n_epoch=2), r'n_epoch=2 in round 1 \(was 1\)')):
            with pytest.raises(ValueError, match=text): train(tmp_path/'a', **kw | other)
        plain = kw | dict(dl=run.plan.dl)
        same(train(tmp_path/'a', **plain), run)
        anew = train(tmp_path/'a', **kw | dict(n_epoch=2, overwrite=True))
        assert (anew.records.n_batches == 12).all() and len([*tmp_path.glob('a/choices/*')]) == 2
        alone = train(tmp_path/'a', **plain | dict(n_epoch=3, overwrite=True))
        assert alone.choices is None and not (tmp_path/'a/choices').exists()
        with pytest.raises(ValueError, match='was trained without alternatives'):
            train(tmp_path/'a', **kw | dict(n_epoch=3))
        (tmp_path/'b/choices').mkdir(parents=True)
        (tmp_path/'b/choices/mine.txt').touch()
        with pytest.raises(ValueError, match=r"it holds \['choices'\]"): train(tmp_path/'b', **kw)

    def test_damage_is_mended(self, tmp_path):
        kw = QUICK | dict(n_epoch=1, dl=dict(temperature=OneOf(1., .5)))
        run = train(tmp_path, **kw)
        (tmp_path/'choices.json').write_text('{"at": [')
        with pytest.raises(ValueError, match='choices.json is corrupted'): Run.open(tmp_path)
        with pytest.warns(UserWarning, match='damaged, so made again: .*choices.json'): again = train(tmp_path, **kw)
        assert again.choices.equals(run.choices) and numbers(again).equals(numbers(run))

    def test_folds_have_no_choice(self):
        y = points(24, 1)[1].numpy()
        with pytest.raises(ValueError, match='dl=.*`self_train` chooses'):
            cross_validate(lambda r, a, b: make(r), UNLABELED, y, 2, dl=dict(temperature=OneOf(1., .5)))


def test_alternatives_of_learners_are_judged_on_the_same_rows():
    def other(r):
        return make(r, DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train, TfmdDL(hard_rows(40, 7), num_workers=0)))
    with pytest.raises(ValueError, match='alternatives with the same validation rows'):
        train(None, OneOf(make, other), **QUICK)
    def wide(r): return make(r, model=torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Linear(32, 3)))
    run = train(None, OneOf(make, wide), **QUICK)
    assert run.plan.make_learner is [make, wide][int(np.flatnonzero(run.choices.chosen)[0])]
    assert ARGS['n_rounds'] == 2
