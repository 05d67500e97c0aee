"Does a run say what its folder holds, and are its Learners the trained ones?"
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from fastai.learner import Learner, load_learner
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.rounds import self_training
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.rounds.run import mend
from noisy_student_fastai.rounds.self_training import Run
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import UNLABELED, held_out_dl, predictions, same, train
from sklearn.metrics import recall_score
from toys import Items, net


def test_there_is_a_row_for_each_model(run):
    got = [tuple(o) for o in run.records[['seed', 'role', 'round']].itertuples(index=False)]
    kept = [run.records[(run.records.role == 'control') & (run.records.seed == s)]['round'].item() for s in (0, 1)]
    assert got == [o for s in (0, 1) for o in
                   [(s, 'teacher', 0), (s, 'student', 1), (s, 'student', 2), (s, 'student', 3),
                    (s, 'control', kept[s])]]
    assert (run.records.n_params == sum(p.numel() for p in net(bn=True).parameters())).all()
    assert (run.records.n_batches == 24//4*4).all()  # 12 rows a batch, 4 of them labeled


def test_metrics_are_those_of_the_models(run):
    for _, o in run.records.iterrows():
        if o.role == 'control': continue
        learn = run.learner(o['round'], o.seed)
        for dl, prefix in ((learn.dls.valid, ''), (held_out_dl(), 'test_')):
            p, y = predictions(learn, dl)
            assert o[f'{prefix}accuracy'] == pytest.approx((p.argmax(1) == y).float().mean().item())
            assert o['test_loss' if prefix else 'valid_loss'] == pytest.approx(
                torch.nn.functional.cross_entropy(p, y).item(), abs=1e-6)
        with learn.no_bar(), learn.no_logging(): assert o.accuracy == learn.validate()[1]


def test_learned_is_what_students_say_of_the_rows_that_they_were_shown(run):
    "All 120 of them, repeats counted, without noise"
    for _, o in run.records.query('role=="student"').iterrows():
        sel, model = run.labels(o['round'], o.seed).select(n_per_class=40), run.learner(o['round'], o.seed).model.eval()
        with torch.no_grad(): said = model(torch.tensor(UNLABELED[sel.rows])).argmax(1).numpy()
        assert o.learned == pytest.approx((said == sel.label).mean())
    assert run.records.query('role!="student"').learned.isna().all()


def test_recalls_are_those_of_the_models_on_the_test_rows(run):
    df, names = run.recalls(), ['0', '1', '2']  # classes without a name
    control = run.records.query('role=="control"').set_index('seed')['round']
    assert df.seed.tolist() == np.repeat([0, 1], len(names)).tolist() and df['class'].tolist() == names*2
    for seed, g in df.groupby('seed'):
        for role in ('student', 'control'):
            p, y = predictions(run.learner(control[seed], seed, role), held_out_dl())
            np.testing.assert_allclose(g[role], recall_score(y, p.argmax(1), average=None))
        assert g.rows.tolist() == np.bincount(y).tolist()
    assert (Run.open(run.path).recalls() == df).all(axis=None)  # without a Learner


def test_figures_of_a_run(run, no_windows):
    ax = run.plot_confidence()
    rounds = sorted(run.records.query('role=="student"')['round'].unique())
    assert [o.get_text() for o in ax.get_yticklabels()] == [f'round {r}' for r in rounds]
    want = [np.median(np.concatenate([run.labels(r, s).conf for s in (0, 1)])) for r in rounds]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), want, atol=.0021)
    one = [np.median(run.labels(r, 1).conf) for r in rounds]
    np.testing.assert_allclose(run.plot_confidence(seed=1).lines[0].get_xdata(), one, atol=.0021)
    assert 'classes gain' in run.plot_classes().get_title()


def test_kept_is_the_best_on_validation_rows(run):
    df = run.records.query('role!="control"').reset_index(drop=True)
    order = sorted(range(len(df)), key=lambda i: (-df.accuracy[i], df.role[i] != 'teacher', df.valid_loss[i], i))
    assert run.best == (df.seed[order[0]], df['round'][order[0]])
    p, y = predictions(run.learn, run.learn.dls.valid)
    assert (p.argmax(1) == y).float().mean().item() == pytest.approx(df.accuracy.max())


def test_csv_and_open(run):
    csv = pd.read_csv(run.path/'records.csv')
    pd.testing.assert_frame_equal(csv, run.records, check_dtype=False)
    again = Run.open(run.path)
    pd.testing.assert_frame_equal(again.records, run.records)
    assert again.verdict() == run.verdict() and again.best == run.best and again.monitor == 'accuracy'
    assert len(again.labels(1)) == 240
    with pytest.raises(ValueError, match='only `self_train`'): again.learn
    with pytest.raises(ValueError, match='a folder of `self_train`'): Run.open(run.path/'seed0')


def test_the_kept_learner_can_be_used(run, tmp_path):
    learn = run.learn
    assert not any(isinstance(o, (NoisyStudent, StudentNoise, EMACallback)) for o in learn.cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.path = tmp_path
    for o in learn.dls.loaders: o.dataset = Items(o.dataset)
    learn.export('a.pkl')
    copy = load_learner(tmp_path/'a.pkl')
    x = torch.tensor(UNLABELED)
    with torch.no_grad(): assert torch.equal(copy.model.eval()(x), learn.model.eval()(x))


def test_no_path_no_traces():
    res = train(n_rounds=1)
    path = res.path
    assert (path/'records.csv').exists()
    del res
    import gc
    gc.collect()
    assert not path.exists()


# A folder that something has happened to

SMALL = dict(n_rounds=1, n_epoch=1, control=True)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return train(tmp_path_factory.mktemp('small')/'a', **SMALL)


@pytest.fixture
def copy(small, tmp_path): return Path(shutil.copytree(small.path, tmp_path/'a'))


def outputs(run):
    x = torch.tensor(UNLABELED)
    models = [run.learner(o.round, role=o.role).model.eval() for o in run.records.itertuples()]
    with torch.no_grad(): return [m(x) for m in models]


def check_same(res, want):
    same(res, want)
    assert all(map(torch.equal, outputs(res), outputs(want)))
    assert (res.path/'records.csv').read_text() == res.records.to_csv(index=False)
    assert torch.equal(*(o.labels(1).read(slice(None)) for o in (res, want)))


def cut(f, at): f.write_bytes(f.read_bytes()[:int(at*f.stat().st_size)])


def flip(f, at):
    b = bytearray(f.read_bytes())
    b[int(at*len(b))] ^= 4
    f.write_bytes(b)


changes = {'cut': cut, 'flipped': flip, 'gone': lambda f, at: f.unlink(),
           'other': lambda f, at: f.write_text(['[]', '{}', 'null', 'NaN', '1', '"a"'][int(6*at)])}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(choice=st.data())
def test_whatever_happens_to_a_file_the_run_gets_well(small, tmp_path_factory, choice):
    "The same call makes anew what is damaged, or names it; with `overwrite` it always gets well"
    copy = Path(shutil.copytree(small.path, tmp_path_factory.mktemp('a')/'a'))
    file = choice.draw(st.sampled_from(sorted(o for o in copy.rglob('*') if o.is_file())))
    changes[choice.draw(st.sampled_from([*changes]))](file, choice.draw(st.floats(0, 1, exclude_max=True)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: check_same(train(copy, **SMALL), small)
        except (ValueError, FileNotFoundError) as e: assert str(copy) in str(e)
        check_same(train(copy, **SMALL, overwrite=True), small)


@pytest.mark.parametrize('name', ['round0/model.pth', 'round0/training.json', 'round1/model.pth', 'round1/record.json',
                                  'round1/labels/probs.npy', 'round1/labels/header.json', 'control1/training.json'])
def test_what_is_damaged_is_named_and_made_anew(small, copy, name):
    cut(copy/'seed0'/name, .5)
    others = {o: o.stat().st_mtime_ns for o in copy.rglob('model.pth') if o != copy/'seed0'/name}
    with pytest.warns(UserWarning, match=f'damaged, so made again: .*{name}'): res = train(copy, **SMALL)
    check_same(res, small)
    # only that step is done again
    assert sum(o.stat().st_mtime_ns != t for o, t in others.items()) <= ('round0/training' in name)
    assert not list(copy.rglob('*.lock'))


@pytest.mark.parametrize('change', [*changes.values()])
def test_without_its_settings_a_run_begins_anew_or_not_at_all(small, copy, change):
    change(copy/'run.json', .5)
    with pytest.raises(ValueError, match='run.json|other arguments'): train(copy, **SMALL)
    check_same(train(copy, **SMALL, overwrite=True), small)


def test_overwrite_leaves_the_files_of_others_alone(copy):
    (copy/'run.json').unlink()
    (copy/'seed0/round0/mine').touch()
    with pytest.raises(ValueError, match="holds .'seed0'"): train(copy, **SMALL, overwrite=True)
    assert (copy/'seed0/round0/model.pth').exists()


@pytest.mark.parametrize('name', ['seed0', 'seed0/round1', 'seed0/round1/labels', 'seed0/round0/model.pth'])
def test_nothing_is_written_through_a_link(copy, name):
    mine = copy.parent/'mine'
    (copy/name).rename(mine)
    (copy/name).symlink_to(mine)
    before = {o: o.stat().st_mtime_ns for o in [mine, *mine.rglob('*')]}
    with pytest.raises(ValueError, match=f'without links, but .*{name} is one'):
        train(copy, **SMALL, overwrite=True)
    assert {o: o.stat().st_mtime_ns for o in [mine, *mine.rglob('*')]} == before


def test_a_control_that_is_lost_is_not_the_teacher(copy, small):
    by_round = dict(SMALL, noise=lambda r: dict(tfms=None, stoch_depth=None, dropout=.1*(r+1)))
    run = train(copy.parent/'b', **by_round)
    one, two = (run.learner(i, role=k).model.state_dict() for i, k in ((0, None), (1, 'control')))
    assert not torch.equal(*(next(iter(o.values())) for o in (one, two)))
    (run.path/'seed0/control1/model.pth').unlink()
    with pytest.raises(FileNotFoundError, match='control1/model.pth is missing'): run.learner(1, role='control')
    # where it is the teacher, it has its weights
    assert torch.equal(*(small.learner(i, role=k).model[0].weight for i, k in ((0, None), (1, 'control'))))


def test_records_csv_is_what_the_records_say(small, copy):
    cut(copy/'records.csv', .5)
    train(copy, **SMALL)
    assert (copy/'records.csv').read_bytes() == (small.path/'records.csv').read_bytes()


def test_a_finished_run_on_read_only_storage(copy, small, monkeypatch):
    def state(): return {o: o.stat().st_mtime_ns for o in (copy, *copy.rglob('*'))}
    before = state()
    monkeypatch.setattr(os, 'access', lambda *a: False)
    check_same(train(copy, **SMALL), small)
    assert state() == before


def test_another_result_of_a_model_that_was_lost_is_said(copy, monkeypatch):
    "On a GPU a training can't be repeated exactly"
    (copy/'seed0/round0/model.pth').unlink()
    real = self_training.measured
    def measured(*args): return {k: v+1 for k, v in real(*args).items()}
    monkeypatch.setattr(self_training, 'measured', measured)
    said = 'round 0, teacher: trained again, it gives different results'
    with pytest.warns(UserWarning, match=said): train(copy, **SMALL)


def test_labels_of_a_student_that_has_not_learned_yet_are_made_anew(copy, small):
    for o in ('record.json', 'training.json', 'model.pth'): (copy/'seed0/round1'/o).unlink()
    flip(copy/'seed0/round1/labels/probs.npy', .9)
    with pytest.warns(UserWarning, match='labeled again: .*probs.npy is corrupted'): res = train(copy, **SMALL)
    check_same(res, small)


def test_rows_go_with_the_weights(copy, small):
    (copy/'seed0/round0/model.pth').unlink()
    with pytest.warns(UserWarning, match='model.pth'): mend(copy)
    assert not (copy/'seed0/round0/rows.npy').exists() and (copy/'seed0/round1/rows.npy').exists()


@pytest.mark.parametrize('reselect', [True, False])
def test_labels_that_were_deleted_are_made_anew_only_for_a_later_step(tmp_path, monkeypatch, reselect):
    kw = dict(SMALL, reselect=reselect, control=False, patience=None)
    first, labeled, label = train(tmp_path/'a', **kw), [], Learner.pseudolabel
    monkeypatch.setattr(Learner, 'pseudolabel', lambda self, u, path=None, **k: (
        labeled.append(Path(path).parent.name) if path else None) or label(self, u, path, **k))
    shutil.rmtree(first.path/'seed0/round1/labels')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        same(train(first.path, **kw), first)
    with pytest.raises(ValueError, match='round=1: expected a round whose labels .*round1/labels is missing'):
        first.labels(1)
    assert labeled == []
    more = kw | dict(n_rounds=2)
    if not reselect:
        same(train(first.path, **more), train(**more))
        assert labeled[:2] == ['round2', 'round1']  # the rest is of the other run
        return
    said = 'round 2, student: the labels of round 1 are gone, so their `agreement`'
    with pytest.warns(UserWarning, match=said): res = train(first.path, **more)
    assert labeled == ['round2'] and res.records.agreement.isna().all() and res.records.accuracy.notna().all()


turn = 0.


def turned(learn, n, lr):
    "Trains, as on a GPU, not twice alike"
    learn.fit(n, lr)
    with torch.no_grad(): learn.model[0].weight.add_(turn)


def test_labels_of_another_teacher_go_only_if_it_was_lost(tmp_path, monkeypatch):
    "Others may have taken days, and an error says that `overwrite` begins anew"
    kw = dict(SMALL, fit=turned, control=False)
    def unlearned(name):
        "A run that was cut off when all rows had been labeled"
        path = train(tmp_path/name, **kw).path
        for o in ('record.json', 'training.json', 'model.pth'): (path/'seed0/round1'/o).unlink()
        return path
    lost, swapped = unlearned('lost'), unlearned('swapped')
    (lost/'seed0/round0/model.pth').unlink()
    monkeypatch.setitem(globals(), 'turn', .5)
    with pytest.warns(UserWarning, match='labeled again: another teacher'): train(lost, **kw)
    for o in ('model.pth', 'training.json'): shutil.copy(lost/'seed0/round0'/o, swapped/'seed0/round0'/o)
    probs = swapped/'seed0/round1/labels/probs.npy'
    before = probs.stat().st_mtime_ns
    with pytest.raises(ValueError, match='another teacher.*`overwrite=True` starts over'): train(swapped, **kw)
    assert probs.stat().st_mtime_ns == before
    with pytest.warns(UserWarning, match='labeled again: another teacher'): res = train(swapped, **kw, overwrite=True)
    assert torch.equal(res.labels(1).read(slice(None)), Run(lost).labels(1).read(slice(None)))
