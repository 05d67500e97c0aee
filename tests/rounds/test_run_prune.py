"What `Run.prune` removes, and what can still be done: the same as without it, or an error that names what is gone"
import os
import shutil
from pathlib import Path

import pytest
import torch
from noisy_student_fastai.rounds import run as runs
from noisy_student_fastai.rounds import self_training
from noisy_student_fastai.rounds.run import Model, Run
from rounds_toys import held_out_dl, predictions, same, train

ARGS = dict(n_rounds=2, n_epoch=2, seeds=2, patience=None)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('run')/'run'
    train(path, **ARGS)
    return path


@pytest.fixture
def run(whole, tmp_path): return Run.open(shutil.copytree(whole, tmp_path/'run'))


def weights(path): return {str(o.parent.relative_to(path)) for o in path.rglob('model.pth')}
def labels(path): return {str(o.parent.relative_to(path)) for o in path.rglob('labels') if any(o.iterdir())}
def trained_files(path): return sorted(str(o.relative_to(path)) for o in path.rglob('*.json'))


def no_training(monkeypatch):
    def none(*args, **kwargs): raise AssertionError('nothing is to be trained')
    monkeypatch.setattr(self_training, 'train_learner', none)


def test_the_best_model_stays(run, monkeypatch):
    "... its weights, its labels, all records; the same call has nothing to do"
    seed, r = run.best
    best = f'seed{seed}/round{r}'
    before, big = run.records, run.sizes
    assert run.prune() is run and weights(run.path) == {best} and labels(run.path) == ({best} if r else set())
    assert run.sizes['total'] < big['total'] and run.sizes['models'] == big['models']//6
    no_training(monkeypatch)
    again = train(run.path, **ARGS)
    assert again.records.equals(before) and again.verdict() and again.plot()
    out, y = predictions(again.learn, held_out_dl())
    assert len(out) == 60 and again.best == (seed, r)
    other = next(k for k in again.recs if (k[0], k[2]) != (seed, r))
    with pytest.raises(ValueError, match=f'`prune` has removed those of seed {other[0]}, round {other[2]}, {other[1]}'):
        again.learner(other[2], other[0])
    gone = next(i for i in (1, 2) if i != r)
    with pytest.raises(ValueError, match='labels are there'): again.labels(gone, seed)
    assert again.by_class(gone, seed) is not None


@pytest.mark.parametrize('reselect', [True, False])
def test_more_rounds(whole, run, tmp_path, reselect):
    "After keep='last' they are those of a run that nobody has pruned, bit by bit; nothing that they need is gone"
    kw = ARGS | dict(reselect=reselect, seeds=1)
    path, other = (run.path, tmp_path/'other') if reselect else (tmp_path/'a', tmp_path/'b')
    if reselect: shutil.copytree(whole, other)
    else:
        train(path, **kw)
        shutil.copytree(path, other)
    if reselect: kw['seeds'] = 2
    Run.open(path).prune('last')
    assert len(weights(path)) < len(weights(other)) and labels(path) <= labels(other)
    a, b = (train(o, **kw | dict(n_rounds=3)) for o in (path, other))
    same(a, b)
    for s in range(kw['seeds']): assert torch.equal(*(predictions(o.learner(3, s), held_out_dl())[0] for o in (a, b)))


def test_more_rounds_are_refused_by_name(run):
    "... before anything is trained or labeled, where their teacher is gone"
    run.prune()
    gone = next(s for s in (0, 1) if (s, 2) != run.best)
    before = trained_files(run.path)
    with pytest.raises(ValueError, match=rf"removed the weights of seed {gone}, round 2, student.*keep='last'"):
        train(run.path, **ARGS | dict(n_rounds=3))
    assert trained_files(run.path) == before
    with pytest.raises(ValueError, match=r"removed the weights of seed \d, round \d, student"):
        train(run.path, **ARGS | dict(finetune=dict(n_epoch=1)))


def test_more_seeds_and_a_control(whole, run, tmp_path):
    "Need nothing of what is gone"
    shutil.copytree(whole, tmp_path/'other')
    run.prune()
    a, b = (train(o, **ARGS | dict(seeds=3, control=True)) for o in (run.path, tmp_path/'other'))
    same(a, b)


def test_overwrite_begins_anew(run):
    run.prune()
    again = train(run.path, **ARGS | dict(n_rounds=1, n_epoch=1, seeds=1), overwrite=True)
    assert weights(run.path) == {'seed0/round0', 'seed0/round1'} and len(again.recs) == 2


def test_a_kill_in_between(run, monkeypatch):
    "Leaves weights that nobody needs, and that the next call removes"
    def killed(path): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(runs, 'remove', killed)
        with pytest.raises(KeyboardInterrupt): run.prune()
    assert len(weights(run.path)) == 6
    no_training(monkeypatch)
    train(run.path, **ARGS).prune()
    assert len(weights(run.path)) == 1


def test_a_damaged_record_of_a_pruned_model(run):
    "Can't be made anew, which is said"
    run.prune()
    s, role, r = next(k for k in run.recs if k[2] == 0 and (k[0], 0) != run.best)
    (Model(run, s, role, r).path/'record.json').write_text('{}')
    with pytest.warns(UserWarning, match='damaged'), pytest.raises(ValueError, match=f'weights of seed {s}, round 0'):
        train(run.path, **ARGS)


def test_a_step_that_is_not_finished_is_left_alone(run):
    (run.path/'seed1/round2/record.json').unlink()
    run = Run.open(run.path)
    run.prune('last')
    assert 'seed1/round2' in weights(run.path) & labels(run.path)
    assert len(train(run.path, **ARGS).recs) == 6


def test_a_control_that_is_the_teacher(tmp_path):
    "It has the teacher's weights: there as long as these are"
    run = train(tmp_path/'r', n_rounds=1, n_epoch=2, seeds=1, control=True, noise=None, ema=None)
    assert run.recs[0, 'control', 1]['n_batches'] == run.recs[0, 'teacher', 0]['n_batches']
    run.prune()
    for role, r in (('teacher', 0), ('control', 1)):
        if run.best == (0, 0): run.learner(r, 0, role)
        else:
            with pytest.raises(ValueError, match='`prune` has removed'): run.learner(r, 0, role)
    assert train(tmp_path/'r', n_rounds=1, n_epoch=2, seeds=1, control=True, noise=None, ema=None).records.equals(
        run.records)


def test_sizes(run):
    "Against a walk over all files"
    size = {Path(p)/f: os.path.getsize(Path(p)/f) for p, _, fs in os.walk(run.path) for f in fs}
    assert run.sizes == dict(models=sum(v for k, v in size.items() if k.suffix == '.pth'), total=sum(size.values()),
                             labels=sum(v for k, v in size.items() if k.parent.name == 'labels'))
    said = repr(run).splitlines()[0]
    assert said.startswith(f'Run({run.path}: 6 models of ') and f"{run.sizes['labels']/1e3:,.1f} KB" in said
    shutil.rmtree(run.path)
    assert run.sizes['total'] == 0 and '0.0 KB in all' in repr(run)
    with pytest.raises(ValueError, match="keep='all': expected 'best' or 'last'"): run.prune('all')
