"Are mistakes named before anything is trained?"
from dataclasses import FrozenInstanceError
from inspect import signature

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import AvgMetric
from fastai.metrics import F1Score, Recall, RocAuc, accuracy
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.rounds.plan import Plan, checked_plan, run_settings, survey
from noisy_student_fastai.rounds.self_training import self_train
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import ARGS, UNLABELED, Seen, held_out_dl, make, same, train
from toys import hard_rows, net, pts_dls


def test_arguments_by_round():
    asked = []
    res = train(None, n_epoch=lambda r: 2+r, lr=lambda r: .1*(r+1), select=lambda r: dict(n_per_class=10*r),
                pseudolabel=lambda r: dict(temperature=r), patience=None,
                fit=lambda learn, n, lr: (asked.append((n, lr)), learn.fit(n, lr)))
    labels = [res.labels(r) for r in (1, 2)]
    # one without rows stays empty
    n_classes = [sum((pl.conf[pl.label == c] >= .3).any() for c in range(3)) for pl in labels]
    assert res.records.n_rows.tolist()[1:] == [10*n_classes[0], 20*n_classes[1]]
    assert asked == [(6, .1), (3, .2), (4, pytest.approx(.3))]
    assert [pl.about['settings']['temperature'] for pl in labels] == [1, 2]


@pytest.mark.parametrize('kw, text', [
    (dict(n_rounds=0), 'n_rounds=0'), (dict(n_epoch=0), 'n_epoch=0'), (dict(lr=-1), 'lr=-1'),
    (dict(seeds=0), 'seeds=0'),
    (dict(seeds=[1, 1]), 'seeds=\\[1, 1\\]'), (dict(patience=0), 'patience=0'), (dict(ema=1.), 'ema=1.0'),
    (dict(select=dict(min_cnf=.5)), "'min_cnf'"), (dict(pseudolabel=dict(path='a')), "'path'"),
    (dict(pseudolabel=dict(part=(0, 2))), "'part'"),
    (dict(student=dict(ratio=3)), "'ratio'"), (dict(student=dict(bs=1)), r"student\['bs'\]=1"),
    (dict(student=dict(teacher=EMATeacher())), "'teacher'"),
    (dict(noise=dict(dropout=2)), r"noise\['dropout'\]=2"),
    (dict(noise=3), 'noise=3'), (dict(monitor='acuracy'), "monitor='acuracy'"), (dict(finetune=3), 'finetune=3'),
    (dict(finetune=dict(lr=.1)), 'finetune'),
    (dict(student=dict(bs=64, l2pl_ratio=7)), 'student=.*: it has 56 of them, which is more than there are'),
    (dict(test=held_out_dl(), pseudolabel=dict(held_out=[1])), 'held_out'), (dict(test=3), "test='int'"),
    (dict(test=(torch.ones(3), 1)), "test='tuple': expected a DataLoader of labeled rows"),
    (dict(test=TfmdDL([(torch.ones(3), 1)]*4, bs=4)), 'test=TfmdDL'),
    (dict(test=TfmdDL([torch.ones(2)]*4, bs=4)), 'test=TfmdDL'),
    (dict(test=TfmdDL(hard_rows(24, 1)[:5], bs=5)), "test='5 rows"),
    (dict(test=pts_dls(hard_rows(24, 1), bs=8).valid), "test='"), (dict(make_learner=3), 'make_learner=3'),
    (dict(make_learner=lambda: None), r'make_learner takes the round, 0 .* such as `lambda round: Learner\(.*too many'),
    (dict(make_learner=lambda r: r), 'make_learner\\(0\\)'), (dict(unlabeled=3), 'unlabeled')])
def test_are_named_before_anything_is_trained(kw, text, tmp_path):
    Seen.log.clear()
    with pytest.raises((ValueError, TypeError), match=text):
        train(tmp_path/'a', **{'make_learner': lambda r: make(r, cbs=[Seen()])} | kw)
    assert not Seen.log and not list(tmp_path.glob('a/seed*'))


def test_learners_that_cannot_be_used():
    model = net(bn=True)
    no_valid = DataLoaders(pts_dls().train, TfmdDL([], bs=8))
    no_batch = pts_dls(hard_rows(7, 1), bs=8)
    for f, text in ((lambda r: make(r, model=model), 'with a new model'),
                    (lambda r: make(r, no_valid), 'validation set'),
                    (lambda r: make(r, no_batch), 'no training batch.*has 7 rows, .*: a smaller `bs` than 8, or'),
                    (lambda r: make(r, cbs=StudentNoise()), '`noise=None`'),
                    (lambda r: make(r, cbs=EMACallback()), '`ema=None`'),
                    (lambda r: make(r, cbs=SaveModelCallback()), 'if `ema` is on'),
                    (lambda r: make(r, cbs=NoisyStudent(pts_dls().train)), 'NoisyStudent')):
        with pytest.raises(ValueError, match=text): train(None, f)


class Counted(list):
    "A data set that is made anew for each Learner"
    read = 0
    def __getitem__(self, i):
        Counted.read += 1
        return super().__getitem__(i)


def test_rows_are_read_before_trainings_and_not_where_weights_are_loaded():
    held = hard_rows(500, 7)
    def make_learner(r):
        return make(r, DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train, TfmdDL(Counted(held), bs=50, num_workers=0)))
    read = []
    def fit(learn, n, lr): read.append(Counted.read)
    Counted.read = 0
    run = train(None, make_learner, n_rounds=2, n_epoch=1, patience=None, fit=fit)
    n = Counted.read
    assert run.learn and Counted.read == n
    # 600 of each Learner for its portrait; once all, and 64 of each; each validation and look for leaks reads all,
    # and so does the look whether the metrics can be computed
    assert read[0] <= 3*700 + 700 + 500 + 500


@pytest.mark.parametrize('where', ['validation', 'test', 'labeled', 'later validation'])
def test_leaks_are_refused(where):
    held = dict(validation=hard_rows(50, 7), test=hard_rows(60, 11),
                labeled=hard_rows(24, 1)).get(where, hard_rows(30, 21))
    x = np.concatenate([UNLABELED, held[5][0].numpy()[None]])
    def later(r):
        return make(r) if r < 2 else make(r, DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train, TfmdDL(held, bs=8)))
    f = later if where.startswith('later') else make
    kw = dict(test=held_out_dl(), n_rounds=2 if where.startswith('later') else 1, n_epoch=1, patience=None)
    with pytest.raises(ValueError, match='rows'): train(None, f, x, **kw)
    res = train(None, f, x, pseudolabel=dict(leaks='drop'), **kw)
    assert len(res.labels(1)) == 241


def test_rows_of_another_scale_are_told_before_a_training():
    def fit(*args): raise KeyboardInterrupt
    with pytest.warns(UserWarning, match='unlabeled.*numbers up to'), pytest.raises(KeyboardInterrupt):
        train(None, make, UNLABELED*300, fit=fit)


def test_test_rows_may_be_known_if_asked_for():
    test = TfmdDL(hard_rows(24, 1)[:5], bs=5, num_workers=0)
    assert train(None, test=test, n_rounds=1, n_epoch=1,
                 pseudolabel=dict(leaks='keep')).records.test_accuracy.notna().all()


@pytest.mark.parametrize('n_ranks', [1, 2, 4])
def test_batches_are_those_of_all_processes(n_ranks, monkeypatch, tmp_path):
    "So a run goes on in another number of them; what has no size of its own, or is none, stays"
    for k, v in dict(WORLD_SIZE=str(n_ranks), RANK='0').items(): monkeypatch.setenv(k, v)
    defaults = {k: o.default for k, o in signature(self_train).parameters.items()}
    def settings(**kw):
        def make_part(r): return make(r, pts_dls(hard_rows(48, 1), bs=16//n_ranks))
        args = defaults | ARGS | dict(make_learner=make_part, unlabeled=UNLABELED, path=tmp_path)
        p = checked_plan(Plan(**args | kw))
        assert p.n_ranks == n_ranks
        p, facts = survey(p)
        return run_settings(p, facts), [(o.n_train, o.n_student) for o in facts]
    got, n = settings(student=dict(bs=16//n_ranks, l2pl_ratio=1))
    monkeypatch.delenv('WORLD_SIZE')
    n_ranks = 1
    assert (got, n) == settings(student=dict(bs=16, l2pl_ratio=1))
    assert got['rounds'][1]['student'] == dict(bs=16, l2pl_ratio=1) and got['rounds'][1]['make_learner']['bs'] == 16


def test_several_processes_need_a_folder(monkeypatch):
    "Asked before they join, or a Learner is made"
    for k, v in dict(WORLD_SIZE='2', RANK='1').items(): monkeypatch.setenv(k, v)
    with pytest.raises(ValueError, match='path=None: expected a folder that all 2 processes'): train(None)


@pytest.mark.parametrize('kw, n_trainings', [({}, 4), (dict(control=True), 4), (dict(finetune=dict(n_epoch=1)), 5),
                                             (dict(control=True, noise=lambda r: ARGS['noise'] | dict(dropout=.1*r)),
                                              5), (dict(seeds=2), 8)])
def test_learners_are_made_once_for_each_round_and_once_for_each_training(kw, n_trainings, tmp_path):
    "A factory may list files and build networks"
    made = []
    def counted(r):
        made.append(r)
        return make(r)
    res = train(tmp_path/'a', counted, n_rounds=3, n_epoch=1, patience=None, **kw)
    assert made[:4] == [0, 1, 2, 3] and len(made) == 4+n_trainings
    assert len(res.records) - (res.records.train_seconds == 0).sum() == n_trainings
    made.clear()
    train(tmp_path/'a', counted, n_rounds=3, n_epoch=1, patience=None, **kw)  # finished: only compared
    assert made == [0, 1, 2, 3]


def test_arguments_are_left_as_they_are():
    "Neither the caller's dicts nor the plan change in passing"
    kw = dict(select=dict(n_per_class=40), student=dict(bs=12, l2pl_ratio=1/2), noise=dict(ARGS['noise']), seeds=[0])
    before = {k: dict(v) if isinstance(v, dict) else list(v) for k, v in kw.items()}
    res = train(n_rounds=1, n_epoch=1, **kw)
    assert kw == before and res.plan.monitor == 'accuracy' and res.plan.seeds == [0]
    with pytest.raises(FrozenInstanceError): res.plan.monitor = 'valid_loss'


def test_a_test_set_leaves_nothing_in_what_is_compared():
    "The first Learner has validated a batch of it; the teacher is the control all the same"
    res = train(n_rounds=1, n_epoch=1, control=True, test=held_out_dl())
    assert res.records.query('role=="control"').train_seconds.item() == 0
    with pytest.raises(TypeError, match='make_learner is a Learner.*lambda round'): train(None, make())


class TestMetrics:
    def refused(self, text, metrics, labels=3, test=None, **kwargs):
        "Before anything is trained"
        Seen.log.clear()
        valid = [(x, y*(y < labels)) for x, y in hard_rows(50, 7)]
        def make_learner(r):
            dls = DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train, TfmdDL(valid, bs=20, num_workers=0))
            learn = make(r, dls, cbs=[Seen()])
            learn.metrics = metrics
            return learn
        with pytest.raises(ValueError, match=text): train(None, make_learner, test=test, **kwargs)
        assert not Seen.log

    def test_that_cannot_be_computed_are_named_before_anything_is_trained(self):
        said = "has the metric {}, which can't be computed on the {} rows"
        self.refused(said.format('f1_score', 'validation')+r'.*\(ValueError: Target is multi', [F1Score()])
        self.refused(said.format('roc_auc_score', 'validation'), [RocAuc()], labels=2)
        test = TfmdDL([o for o in hard_rows(60, 11) if o[1] < 2], bs=30, num_workers=0)
        self.refused(said.format('roc_auc_score', 'test'), [RocAuc()], test=test)

    def test_what_chooses_is_one_number(self):
        each = [accuracy, Recall(average=None, labels=range(3))]
        self.refused(r"monitor='recall_score': expected one number.*recall_score_0', 'recall_score_1", each,
                     monitor='recall_score')
        self.refused("a number on the validation rows", [AvgMetric(no_number)], lower_is_better=True)


def no_number(inp, targ): return torch.tensor(np.nan)


@pytest.mark.parametrize('how', ['data set', 'round 2', 'a second seed', 'a run that goes on'])
def test_leaks_are_found_before_anything_is_trained(how, tmp_path):
    "Also in rows that a data set makes, in the sets of later rounds and of other seeds; the advice can be followed"
    held = hard_rows(30, 21)
    x = np.concatenate([UNLABELED, held[5][0].numpy()[None]])
    is_on, fits = [how != 'a run that goes on'], []
    def make_learner(r):
        is_there = {'round 2': r == 2, 'a second seed': torch.initial_seed() == 1, 'a run that goes on': r == 2}
        if not is_on[0] or not is_there.get(how, True): return make(r)
        return make(r, DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train, TfmdDL(held, bs=10, num_workers=0)))
    def fit(learn, n, lr):
        fits.append(len(learn.dls.valid.dataset))
        learn.fit(n, lr)
    rows = list(zip(torch.tensor(x))) if how == 'data set' else x
    kw = dict(unlabeled=TfmdDL(rows, bs=50, num_workers=0) if how == 'data set' else rows, fit=fit, n_epoch=1,
              patience=None, seeds=2 if how == 'a second seed' else 1)
    if how == 'a run that goes on': train(tmp_path/'a', make_learner, **kw | dict(n_rounds=1))
    is_on[0], n = True, len(fits)
    with pytest.raises(ValueError, match=r"1 are labeled or held out .*pseudolabel=dict\(leaks='drop'\)"):
        train(tmp_path/'a', make_learner, **kw)
    assert set(fits[n:]) <= ({50} if how == 'a second seed' else set())
    res = train(tmp_path/'b', make_learner, **kw | dict(pseudolabel=dict(leaks='drop')))
    assert res.records.role.tolist().count('student') >= 1


class Stream:
    "Says how often its last row was read"
    def __init__(self, x): self.x, self.n = x, 0
    def __iter__(self):
        yield from self.x
        self.n += 1


@pytest.mark.parametrize('by_round', [False, True])
def test_what_is_held_out_is_opened_once(by_round, tmp_path):
    "It is counted for all rounds; each look at it is a pass that stops at its last row"
    held, kw = Stream(UNLABELED[:20]+9), dict(n_epoch=1, patience=None)
    def pseudolabel(r): return dict(held_out=held, temperature=1.)
    res = train(tmp_path, **kw, pseudolabel=pseudolabel if by_round else pseudolabel(1))
    assert held.n == 1 and res.records['round'].max() == 2
    x = np.concatenate([UNLABELED, UNLABELED[:1]+9])
    with pytest.raises(ValueError, match='1 are labeled or held out rows'):
        train(None, unlabeled=x, **kw, pseudolabel=pseudolabel)


@pytest.mark.parametrize('bad', [(0, 7, 239), (7,)])
def test_unreadable_rows_are_for_the_labeling(bad, tmp_path):
    "They are refused as it refuses them, before a training, or skipped, wherever they are"
    class Data:
        def __len__(self): return len(UNLABELED)
        def __getitem__(self, i):
            if i in bad: raise OSError('broken')
            return torch.tensor(UNLABELED[i]),
    kw, skip = dict(unlabeled=Data(), n_epoch=1, patience=None), dict(unreadable='skip')
    with pytest.raises(ValueError, match=f'row {bad[0]} of unlabeled'): train(None, **kw)
    with pytest.warns(UserWarning, match=f'{len(bad)} of 240 rows'): res = train(tmp_path, **kw, pseudolabel=skip)
    for r in (1, 2): assert np.flatnonzero(res.labels(r).leak == 3).tolist() == [*bad]
    same(train(tmp_path, **kw, pseudolabel=skip), res)
