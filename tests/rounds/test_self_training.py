"Are the records of `self_train` right, does it train what it says, and does it go on where it was cut off?"
import functools
import os
import signal
import time
from multiprocessing import Pipe, get_context

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import AvgMetric, Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import BalancedAccuracy, CohenKappa, F1Score, Recall, RocAuc, error_rate
from matplotlib import pyplot as plt
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.run import Model
from noisy_student_fastai.rounds.self_training import Run
from noisy_student_fastai.rounds.training import is_finite
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import ARGS, UNLABELED, Jitter, Seen, held_out_dl, make, predictions, rows, same, seen, train
from sklearn import metrics as skm
from toys import hard_rows, net, pts_dls

QUICK = dict(n_epoch=1, noise=None, ema=None)


class TestTraining:
    def test_teacher_student_and_control(self):
        "The larger network of round 2 is kept by a metric that says so, and needs a control of its own"
        def sized(r): return make(r, model=net(bn=True) if r < 2 else torch.nn.Sequential(
            torch.nn.Linear(2, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 3)), cbs=[Seen()])
        res, log = seen(make_learner=sized, control=True, n_epoch=lambda r: 4*r, patience=None)
        students = res.records.query('role=="student"')
        kept = students.sort_values(['accuracy', 'valid_loss'], ascending=[False, True])['round'].iloc[0]
        assert students.n_params.tolist()[0] < students.n_params.tolist()[1]
        assert [o['n'] for o in log[:3]] == [24, 24, 48]
        assert all({'StudentNoise', 'EMACallback'} <= set(o['cbs']) for o in log)
        assert ['NoisyStudent' in o['cbs'] for o in log[:3]] == [False, True, True]
        assert [o['n_pl'] for o in log[:3]] == [{0}, {8}, {8}]
        control = res.records.query('role=="control"').iloc[0]
        assert control['round'] == kept
        if kept == 2:
            assert control.n_params == students.n_params.iloc[1] and control.train_seconds > 0
            assert log[3]['n'] == 48 == control.n_batches and log[3]['n_pl'] == {0}
            assert 'NoisyStudent' not in log[3]['cbs']
            assert torch.equal(log[3]['first'], log[2]['first'])
        else: assert control.train_seconds == 0

    @pytest.mark.parametrize('what', ['size', 'batches', 'noise', 'lr', 'none'])
    def test_a_control_is_trained_where_the_teacher_is_none(self, what):
        def sized(r): return make(r, model=net(bn=True) if r == 0 or what != 'size' else torch.nn.Sequential(
            torch.nn.Linear(2, 9), torch.nn.BatchNorm1d(9), torch.nn.ReLU(), torch.nn.Linear(9, 3)), cbs=[Seen()])
        noise = ARGS['noise']
        kw = dict(noise=lambda r: noise | dict(dropout=.2+.1*r)) if what == 'noise' else \
            dict(lr=lambda r: .2+.1*r) if what == 'lr' else {}
        res, log = seen(make_learner=sized, control=True, n_rounds=1 if what != 'batches' else 2, patience=None,
                        n_epoch=(lambda r: 2*r) if what == 'batches' else 4, **kw)
        control = res.records.query('role=="control"').iloc[0]
        is_teacher = what == 'none' or what == 'batches' and control['round'] == 1
        assert (control.train_seconds == 0) == is_teacher
        same_as = res.learner(0) if is_teacher else None
        got = res.learner(int(control['round']), role='control').model.state_dict()
        if is_teacher: assert all(torch.equal(v, got[k]) for k, v in same_as.model.state_dict().items())
        students = res.records.query('role=="student" and round==@control["round"]')
        assert control.n_batches >= students.n_batches.item()
        if is_teacher: return
        last, student = log[-1], log[int(control['round'])]
        assert last['n'] == control.n_batches and last['n_pl'] == {0}
        assert last['drop'] == student['drop'] and torch.equal(last['first'], student['first'])


    def test_patience(self, capsys):
        short = dict(n_rounds=3, n_epoch=1, seeds=2)
        df, n_models = train(patience=None, **short).records, set()
        assert 'stopped' not in capsys.readouterr().out
        for p in (1, 2):
            got, said = train(patience=p, **short).records, capsys.readouterr().out
            for seed in (0, 1):
                accs = df[df.seed == seed].accuracy.tolist()
                last = next((r for r in range(4) if r-int(np.argmax(accs[:r+1])) >= p), 3)
                assert got[got.seed == seed].accuracy.tolist() == accs[:last+1]
                n_models.add(last+1)
                rounds = '2 rounds' if p == 2 else 'round'
                line = f'seed {seed}: stopped after round {last} of 3: no better accuracy in the last {rounds} ('
                assert (line in said) == (last < 3) and f'seed {seed}: stopped' in said or last == 3
        assert len(n_models) > 1, 'nothing was stopped'

    def test_where_no_student_is_better_the_teacher_is_kept(self, capsys):
        "Students that forget all they have learned: the records, what is kept and what is said"
        def fit(learn, n, lr):
            learn.fit(n, lr)
            if not any(isinstance(o, NoisyStudent) for o in learn.cbs): return
            with torch.no_grad(): learn.model[-1].weight.zero_()
        res = train(fit=fit, seeds=2, control=True, test=held_out_dl())
        df = res.records
        assert rows(res, 'teacher').accuracy.min() > .6 > rows(res, 'student').accuracy.max()
        teachers = rows(res, 'teacher').sort_values(['accuracy', 'valid_loss'], ascending=[False, True])
        assert res.best == (teachers.seed.iloc[0], 0)
        assert all(torch.equal(v, res.learner(*res.best[::-1]).model.state_dict()[k])
                   for k, v in res.learn.model.state_dict().items())
        assert df.groupby('seed')['round'].max().tolist() == [2, 2]
        assert (rows(res, 'student').groupby('seed').size() == 2).all()  # patience
        kept = [df[(df.seed == s) & (df.role == 'student')].sort_values(['accuracy', 'valid_loss'],
                                                                        ascending=[False, True]).iloc[0]
                                                                        for s in (0, 1)]
        gain = np.mean([100*(k.test_accuracy-c) for k, c in zip(kept, rows(res, 'control').test_accuracy)])
        said = res.verdict()
        assert gain < 0 and said.startswith('The student predicts the same class for every validation row in 2 of 2')
        assert 'the student is' not in said and said.endswith('rows in 2 of 2 runs, where the teacher is kept.')
        assert f'{-gain:.1f} points worse than its control' in res.plot().get_title()

    def test_a_tie_keeps_the_teacher(self):
        "Students that are as often right, and surer, so that their loss is smaller"
        def fit(learn, n, lr):
            is_student = any(isinstance(o, NoisyStudent) for o in learn.cbs)
            torch.manual_seed(0)
            with torch.no_grad():
                learn.model[-1].weight.copy_(TO_CORNERS.T @ torch.eye(2, 8)*(1+is_student))
                learn.model[-1].bias.copy_(-(TO_CORNERS**2).sum(0)/2*(1+is_student))
                learn.model[0].weight.copy_(torch.eye(8, 2)), learn.model[0].bias.fill_(0)
        def plain(r): return make(r, model=torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Linear(8, 3)))
        res = train(None, plain, fit=fit, seeds=2, test=held_out_dl(), **QUICK)
        df = res.records
        assert df.accuracy.nunique() == 1 and df.accuracy[0] > .8
        assert df.valid_loss[df.role == 'student'].max() < df.valid_loss[df.role == 'teacher'].min()
        assert res.best == (0, 0) and res.kept.role == 'teacher' and 'the teacher is kept' in res.verdict()

    def test_test_rows_choose_nothing(self):
        items = hard_rows(60, 11)
        wrong = [(x, (y+1) % 3) for x, y in items]
        a, b = (train(n_rounds=2, patience=1, test=TfmdDL(o, bs=30, num_workers=0)) for o in (items, wrong))
        assert a.best == b.best and a.records.accuracy.tolist() == b.records.accuracy.tolist()
        assert a.records.test_accuracy.tolist() != b.records.test_accuracy.tolist()

    @pytest.mark.parametrize('bad', [0, 1])
    def test_what_diverges_ends_its_seed_only(self, bad, capsys, tmp_path):
        "Round `bad` of seed 0 comes to NaN; seed 1 goes on, and the run can be finished and opened"
        def fit(learn, n, lr):
            learn.fit(n, lr)
            if not (tmp_path/'b').exists() and any(isinstance(o, NoisyStudent) for o in learn.cbs) == bool(bad):
                (tmp_path/'b').touch()
                with torch.no_grad(): learn.model[0].weight.fill_(np.nan)
        res = train(tmp_path/'a', fit=fit, seeds=2, control=True, patience=None)
        got = [tuple(o) for o in res.records[res.records.seed == 0][['role', 'round']].itertuples(index=False)]
        assert got == [('teacher', 0)] + [('student', 1)]*bad  # no control of what is none
        assert rows(res, 'student').query('seed==1')['round'].tolist() == [1, 2] and len(rows(res, 'control')) == 1
        assert 'did not train (not a number)' in capsys.readouterr().out and res.best[0] == (1 if not bad
                                                                                             else res.best[0])
        said = res.verdict()
        assert ('The student did not train (not a number) in 1 of 2 runs.' in said) == bool(bad) and 'nan' not in said
        same(train(tmp_path/'a', fit=fit, seeds=2, control=True, patience=None), res)


    @pytest.mark.parametrize('bad', ['loss', 'weights', 'a metric refuses'])
    def test_what_has_come_to_nan_is_never_kept(self, bad):
        "It names the first class always, which most validation rows have: it would be the best"
        def skewed(r):
            dls = pts_dls(hard_rows(24, 1), bs=8)
            dls.loaders[1] = TfmdDL([(x, 0*y) for x, y in hard_rows(50, 7)], bs=20, num_workers=0)
            learn = make(r, dls)
            if bad == 'a metric refuses': learn.metrics = [*learn.metrics, AvgMetric(refuses_nan)]
            return learn
        def fit(learn, n, lr):
            if not any(isinstance(o, NoisyStudent) for o in learn.cbs): return learn.fit(n, lr)
            with torch.no_grad():
                if bad == 'loss': learn.model[-1].register_buffer('nan', torch.tensor(np.nan))
                else: learn.model[0].weight[0, 0] = np.nan
            if bad == 'loss': learn.model[-1].register_forward_hook(lambda m, i, o: o*m.nan)
            learn.fit(n, lr)
        res = train(None, skewed, fit=fit, control=True, finetune=dict(n_epoch=1), n_rounds=2, **QUICK)
        df = res.records
        assert df.role.tolist() == ['teacher', 'student'] and df.accuracy.isna().tolist() == [False, True]
        assert res.best == (0, 0) and is_finite(res.learn.model)
        assert res.verdict().startswith('The student did not train (not a number). A lower learning rate')

    def test_a_run_in_which_nothing_trained_says_so(self, no_windows):
        def fit(learn, n, lr): learn.model[0].weight.data.fill_(np.nan)
        res = train(fit=fit, control=True, seeds=2)
        assert res.records.role.tolist() == ['teacher', 'teacher'] and 'None' in repr(res)
        for f in (lambda: res.best, lambda: res.learn, lambda: res.kept):
            with pytest.raises(ValueError, match='none of the 2 models has trained: valid_loss or accuracy'): f()
        assert res.verdict().startswith('The teacher did not train (not a number) in 2 of 2 runs: there is no student.')
        res.plot()


TO_CORNERS = torch.tensor([[0., 2, 1], [0, 0, 2]])


def blind(learn, n, lr):
    "Teachers that say the same of every row, all of them or those of the seeds in `blind.seeds`"
    learn.fit(n, lr)
    if torch.initial_seed() not in blind.seeds or any(isinstance(o, NoisyStudent) for o in learn.cbs): return
    with torch.no_grad():
        for o in learn.model[-1].parameters(): o.zero_()


class TestWeakTeachers:
    def test_one_that_knows_nothing_stops_the_run_before_labels_are_made(self, tmp_path, capsys):
        blind.seeds, kw = (0, 1), dict(fit=blind, seeds=2, weak_teacher='stop', control=True, ema=None)
        said = r'no teacher shows any sign of knowledge .*\(seed 0: accuracy \S+ on 50 validation rows, where'
        with pytest.raises(ValueError, match=said) as e: train(tmp_path/'a', **kw)
        assert e.value.argument == 'weak_teacher' and not list((tmp_path/'a').rglob('labels'))
        df = Run.open(tmp_path/'a').records
        assert df.role.tolist() == ['teacher']*2 and df.n_predicted.tolist() == [1, 1] and (df.n_valid == 50).all()
        assert df.above_chance.max() <= 0 and 'no sign that it knows anything, so its seed' in capsys.readouterr().out
        y = torch.tensor([y for _, y in hard_rows(24, 1)])
        share = np.mean([int(y.bincount().argmax()) == t for _, t in hard_rows(50, 7)])
        assert df.chance.tolist() == pytest.approx([share]*2)
        verdict = Run.open(tmp_path/'a').verdict()
        assert verdict == 'The teacher showed no sign of knowledge in 2 of 2 runs, so no student has learned from it.'
        with pytest.raises(ValueError, match=said): train(tmp_path/'a', **kw)
        res = train(tmp_path/'a', **kw | dict(weak_teacher='warn', n_rounds=1))  # goes on there
        assert rows(res, 'student').seed.tolist() == [0, 1]

    def test_the_other_seeds_go_on(self):
        blind.seeds = (0,)
        res = train(fit=blind, seeds=2, weak_teacher='stop', n_rounds=1)
        assert rows(res, 'student').seed.tolist() == [1] and rows(res, 'teacher').above_chance.iloc[1] > 2
        assert res.verdict().startswith('The teacher showed no sign of knowledge in 1 of 2 runs')

    def test_with_few_rows_it_is_said_that_they_are_few(self):
        "6 of 8 right, where a guess has 4: that may be chance"
        x = torch.tensor([[float(i % 2), 0.] for i in range(40)])
        y = [i % 2 for i in range(40)]
        flip = {24, 31}
        valid = [(x[i]+i/1000, 1-y[i] if i in flip else y[i]) for i in range(24, 32)]
        def two(r):
            dls = DataLoaders(TfmdDL(list(zip(x[:24]+torch.arange(24)[:, None]/1000, y)), bs=8, num_workers=0),
                              TfmdDL(valid, bs=8, num_workers=0))
            return make(r, dls, torch.nn.Linear(2, 2))
        def fit(learn, n, lr):
            w, b = torch.tensor([[-9., 0], [9, 0]]), torch.tensor([4., -4])
            with torch.no_grad(): learn.model.weight.copy_(w), learn.model.bias.copy_(b)
        with pytest.warns(UserWarning, match="can't be told from chance .*accuracy 0.75 on 8 validation rows"):
            res = train(None, two, fit=fit, weak_teacher='stop', n_rounds=1, **QUICK)
        assert 0 < res.records.above_chance[0] < 1.645 and res.best == (0, 0)


METRICS = dict(balanced_accuracy_score=BalancedAccuracy, f1_score=lambda: F1Score(average='macro'),
               roc_auc_score=RocAuc, cohen_kappa_score=CohenKappa, error_rate=lambda: error_rate)


@pytest.mark.parametrize('name', METRICS)
def test_any_metric_may_choose(name):
    "... and is what scikit-learn says of the model; with one for each class beside it"
    def make_learner(r):
        res = make(r)
        res.metrics = [METRICS[name](), Recall(average=None, labels=range(3))]
        return res
    res = train(None, make_learner, test=held_out_dl(), n_rounds=1, n_epoch=2, control=True)
    df = res.records
    assert res.monitor == name and df[f'test_{name}'].notna().all() and df[f'test_{name}_se'].gt(0).all()
    learn = res.learner(1)
    p, y = predictions(learn, learn.dls.valid)
    want = dict(balanced_accuracy_score=lambda: skm.balanced_accuracy_score(y, p.argmax(1)),
                f1_score=lambda: skm.f1_score(y, p.argmax(1), average='macro'),
                roc_auc_score=lambda: skm.roc_auc_score(y, p.softmax(1), multi_class='ovr'),
                cohen_kappa_score=lambda: skm.cohen_kappa_score(y, p.argmax(1)),
                error_rate=lambda: 1-skm.accuracy_score(y, p.argmax(1)))[name]()
    student = rows(res, 'student').iloc[0]
    assert student[name] == pytest.approx(want, abs=1e-5)
    each = [student[f'recall_score_{i}'] for i in range(3)]
    assert each == pytest.approx(skm.recall_score(y, p.argmax(1), average=None))
    assert student.n_predicted == len(p.argmax(1).unique()) and student.n_test == 60
    assert 'standard error' in res.verdict()


class TestNoSureRow:
    def test_a_later_round_ends_its_seed(self, tmp_path, capsys):
        sure = lambda r: dict(n_per_class=40, min_conf=.3 if r == 1 else 1.)  # noqa: E731
        kw = dict(n_rounds=3, patience=None, control=True, **QUICK)
        res = train(tmp_path/'a', select=sure, **kw)
        want = train(None, n_rounds=1, control=True, **QUICK)
        assert res.records.role.tolist() == ['teacher', 'student', 'student', 'control'] and res.best == want.best
        assert res.records.n_kept.tolist()[1:3] == [want.records.n_kept[1], 0] and len(res.labels(2)) == 240
        assert res.verdict() == want.verdict()
        assert 'round 2, student: no row reaches min_conf=1.0' in capsys.readouterr().out
        same(train(tmp_path/'a', select=sure, **kw), res)
        assert capsys.readouterr().out == ''
        again = train(tmp_path/'a', select=lambda r: dict(n_per_class=40, min_conf=.3), **kw)  # goes on where it ended
        same(again, train(**kw))

    def test_one_seed_of_several(self):
        "Without a path, too, the others are kept"
        top = train(n_rounds=1, seeds=2, **QUICK)
        conf = [top.labels(1, s).conf.max() for s in range(2)]
        res = train(n_rounds=1, seeds=2, **QUICK, select=dict(min_conf=float(np.mean(conf))))
        assert rows(res, 'student').n_kept.gt(0).tolist() == [c > min(conf) for c in conf]
        assert 'No row was confident enough for a student in 1 of 2 runs.' in res.verdict() and res.learn

    def test_weights_that_are_all_zero_are_no_rows(self):
        res = train(n_rounds=2, select=lambda r: dict(weights=lambda c: (c >= 0)*(2.-r)), patience=None, **QUICK)
        assert rows(res, 'student').n_kept.tolist()[1:] == [0]

    def test_no_seed_has_a_student(self, tmp_path):
        said = 'no seed has a row .* min_conf=1.0 was asked for, and the confidences are'
        with pytest.raises(ValueError, match=said):
            train(tmp_path/'a', select=dict(min_conf=1.), seeds=2, **QUICK)
        assert Run.open(tmp_path/'a').records.role.tolist() == ['teacher', 'student']*2


def refuses_nan(inp, targ):
    "As scikit-learn's metrics do"
    if inp.isnan().any(): raise ValueError('Input contains NaN')
    return inp.sum()


# --- rows that a round is evaluated on are not trained on

CHANCE = [(x, int(i)) for x, i in zip(torch.randn(60, 2), torch.randint(3, (60,)))]


def of_split(idxs):
    train, valid = ([CHANCE[i] for i in o] for o in (idxs[:40], idxs[40:]))
    return DataLoaders(TfmdDL(train, bs=8, shuffle=True, drop_last=True, num_workers=0),
                       TfmdDL(valid, bs=20, num_workers=0))


class TestSplits:
    @pytest.mark.parametrize('how', ['own generator', 'folds', 'swapped later'])
    def test_another_split_is_refused_before_it_trains(self, how):
        "Labels are chance: whatever is right more often has been learned by heart"
        Seen.log.clear()
        rng = np.random.default_rng(0)
        def make_learner(r):
            idxs = dict(folds=np.roll(np.arange(60), 20*r)).get(how, np.arange(60))
            if how == 'own generator': idxs = rng.permutation(60)
            if how == 'swapped later' and r == 2: idxs = idxs[::-1]
            return make(r, of_split(idxs), cbs=[Seen()])
        with pytest.raises(ValueError, match=r'of the 20 validation rows of make_learner\(\d\)') as e:
            train(None, make_learner)
        assert not Seen.log and e.value.argument == f"make_learner({2 if how == 'swapped later' else 1})"

    def test_seeds_may_have_splits_of_their_own(self):
        res = train(None, lambda r: make(r, of_split(np.random.permutation(60))), seeds=2, n_rounds=1, **QUICK)
        a, b = ({tuple(x.tolist()) for x, _ in res.learner(1, s).dls.valid.dataset} for s in (0, 1))
        assert a != b

    def test_a_run_that_goes_on_knows_what_it_has_trained_on(self, tmp_path, capsys):
        "Seed 1 changes its split in the second process, which the survey, of seed 0, does not see"
        first = tmp_path/'first'
        first.touch()
        def fit(learn, n, lr):
            if learn.dls.is_of_seed_1 and any(isinstance(o, NoisyStudent) for o in learn.cbs) and first.exists(): 1/0
            learn.fit(n, lr)
        def make_learner(r):
            one = torch.initial_seed() == 1
            dls = of_split(np.arange(60) if first.exists() or not one else np.arange(60)[::-1])
            dls.is_of_seed_1 = one
            return make(r, dls)
        kw = dict(n_rounds=1, seeds=2, fit=fit, **QUICK)
        with pytest.raises(ZeroDivisionError): train(tmp_path/'a', make_learner, **kw)
        first.unlink()
        with pytest.raises(ValueError, match=r'20 of the 20 validation rows of make_learner\(1\)'):
            train(tmp_path/'a', make_learner, **kw)
        (tmp_path/'a/seed1/round0/rows.npy').write_bytes(b'cut')
        with pytest.warns(UserWarning, match=r"round0/rows.npy can't be read"): train(tmp_path/'a', make_learner, **kw)

    @pytest.mark.parametrize('overwrite', [False, True])
    def test_a_training_that_was_cut_off_counts_for_nothing(self, tmp_path, monkeypatch, overwrite):
        "Between rows.npy and the weights; then the split is another, and with `overwrite` run.json is cut, too"
        def killed(self, done): raise KeyboardInterrupt
        idxs = np.arange(60)
        def make_learner(r): return make(r, of_split(idxs))
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(Model, 'keep_weights', killed)
            train(tmp_path/'a', make_learner, n_rounds=1, **QUICK)
        assert (tmp_path/'a/seed0/round0/rows.npy').exists()
        idxs = idxs[::-1]
        if overwrite: (tmp_path/'a/run.json').write_text('{"n_ro')
        res = train(tmp_path/'a', make_learner, n_rounds=1, overwrite=overwrite, **QUICK)
        assert res.records.role.tolist() == ['teacher', 'student']

    @pytest.mark.parametrize('leaks', ['refuse', 'drop', 'keep'])
    def test_validation_rows_that_are_labeled(self, leaks):
        def make_learner(r): return make(r, of_split([*range(40), *range(38, 58)]))
        kw = dict(n_rounds=1, pseudolabel=dict(leaks=leaks), **QUICK)
        said = ('2 of the 20 validation rows of make_learner\\(0\\), such as validation row 0 \\(training row 38\\), '
                'are training rows')
        if leaks == 'refuse':
            with pytest.raises(ValueError, match=said): train(None, make_learner, **kw)
        elif leaks == 'drop':
            with pytest.warns(UserWarning, match=said): train(None, make_learner, **kw)
        else: train(None, make_learner, **kw)

    def test_rows_of_round_1_are_not_kept_where_a_later_student_has_them(self):
        "reselect=False selects in round 1, whose student knows nothing of the validation rows of round 2"
        held = [(torch.tensor(x), torch.tensor(0)) for x in UNLABELED[:5]]
        def make_learner(r): return make(r, r and DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train,
                                                              TfmdDL([*hard_rows(50, 7), *held*(r == 2)],
                                                                     bs=20, num_workers=0)))
        res = train(None, make_learner, pseudolabel=dict(leaks='drop'), select=dict(min_conf=0), reselect=False,
                    patience=None, **QUICK)
        assert rows(res, 'student').n_kept.tolist() == [240, 235]


# --- each training begins anew

@pytest.mark.parametrize('what', ['Learner', 'model', 'body', 'copy of what has trained', 'callback'])
def test_trainings_that_do_not_begin_anew_are_refused(what):
    Seen.log.clear()
    body, watch, last = torch.nn.Linear(2, 8), Seen(), []
    def make_learner(r):
        model = net(bn=True)
        if what == 'body': model[0] = body
        if what.startswith('copy') and last: model.load_state_dict(last[0].model.state_dict())
        last[:] = [make(r, model=model, cbs=[watch if what == 'callback' else Seen()])]
        return last[0]
    cached = functools.cache(make_learner)
    f = dict(Learner=cached, model=lambda r: make(r, model=cached(r).model)).get(what, make_learner)
    with pytest.raises(ValueError, match=r'make_learner\(\d\) (gives a|shares weights|has weights)'):
        train(None, f, **QUICK)
    assert len(Seen.log) == (1 if what.startswith('copy') else 0)


@pytest.mark.parametrize('lower', [None, True, False])
def test_which_way_is_better_is_said_or_asked_for(lower):
    def mine(inp, targ): return (inp.argmax(1) != targ).float().mean()
    def make_learner(r):
        res = make(r)
        res.metrics = [AvgMetric(mine)]
        return res
    if lower is None:
        with pytest.raises(ValueError, match="lower_is_better=None: .*'mine'"): train(None, make_learner)
        return
    res = train(None, make_learner, lower_is_better=lower, patience=None, **QUICK)
    want = res.records.mine.min() if lower else res.records.mine.max()
    assert res.kept.mine == want and (res.records.lower_is_better == lower).all()
    with pytest.raises(ValueError, match=r'lower_is_better=.*\(was'):
        train(res.path, make_learner, lower_is_better=not lower, patience=None, **QUICK)


class TestMistakes:
    def test_another_folder(self, tmp_path):
        (tmp_path/'notes.txt').write_text('mine')
        with pytest.raises(ValueError, match='notes.txt'): train(tmp_path)
        with pytest.raises(ValueError, match='notes.txt'): train(tmp_path, overwrite=True)
        assert os.listdir(tmp_path) == ['notes.txt']


class TestGoingOn:
    def test_finished_runs_train_nothing(self, run, capsys):
        before = {o: o.stat().st_mtime_ns for o in run.path.rglob('model.pth')}
        again = train(run.path, n_rounds=3, patience=5, control=True, seeds=2, test=held_out_dl())
        same(again, run)
        assert before == {o: o.stat().st_mtime_ns
                          for o in run.path.rglob('model.pth')} and capsys.readouterr().out == ''

    def test_more_rounds_and_seeds(self, run, tmp_path):
        train(tmp_path/'b', n_rounds=1, patience=1, test=held_out_dl())
        res = train(tmp_path/'b', n_rounds=3, patience=None, seeds=2, control=True, test=held_out_dl())
        same(res, run)

    @pytest.mark.parametrize('name, value', [
        ('n_epoch', 5), ('lr', .1), ('fit', lambda learn, n, lr: learn.fit(n, lr)),
        ('pseudolabel', dict(temperature=2.)),
        ('select', dict(n_per_class=30)), ('dl', dict(temperature=.7)), ('student', dict(bs=12, l2pl_ratio=1)),
        ('noise', ARGS['noise']|dict(dropout=.3)), ('noise', ARGS['noise']|dict(tfms=Jitter(.5))), ('noise', None),
        ('ema', .8), ('ema', None),
        ('reselect', False), ('seeds', [3]), ('monitor', 'valid_loss'), ('test', None), ('n_rounds', 2),
        ('unlabeled', UNLABELED[:-1]),
        ('unlabeled', UNLABELED[::-1].copy())])
    def test_changed_arguments_are_named(self, run, name, value):
        kw = dict(n_rounds=3, patience=None, control=True, seeds=2, test=held_out_dl()) | {name: value}
        said = f'other {name} rows' if name in ('test', 'unlabeled') else rf'\b{name}.*\(was'
        with pytest.raises(ValueError, match=f'other arguments.*{said}'): train(run.path, **kw)

    @pytest.mark.parametrize('what, f', [
        ('modules', lambda r: make(r, model=torch.nn.Sequential(torch.nn.Linear(2, 3)))),
        ('labeled', lambda r: make(r, pts_dls(hard_rows(24, 2), bs=8))),
        ('bs', lambda r: make(r, pts_dls(hard_rows(24, 1), bs=6))),
        ('loss', lambda r: changed(r, loss_func=CrossEntropyLossFlat(label_smoothing=.2))),
        ('weights', lambda r: heavier(r)), ('cbs', lambda r: make(r, cbs=Seen())), ('lr', lambda r: changed(r, lr=.3)),
        ('tfms', lambda r: make(r, pts_dls(hard_rows(24, 1), bs=8, after_batch=[Jitter()]))),
        ('labeled',
         lambda r: make(r, pts_dls([(x, (y+(i == 20)) % 3) for i, (x, y) in enumerate(hard_rows(24, 1))], bs=8)))])
    def test_changed_learners_are_named(self, run, what, f):
        with pytest.raises(ValueError, match=rf'other arguments.*\b{what}\b'):
            train(run.path, f, n_rounds=3, patience=None, control=True, seeds=2, test=held_out_dl())

    def test_what_was_not_yet_used_may_change(self, tmp_path):
        with pytest.raises(ValueError, match='min_conf'): train(tmp_path/'a', select=dict(min_conf=[1., 1, 1]))
        res = train(tmp_path/'a', pseudolabel=dict(temperature=2.))
        same(res, train(pseudolabel=dict(temperature=2.)))

    def test_overwrite(self, tmp_path):
        train(tmp_path/'a', n_rounds=1)
        res = train(tmp_path/'a', n_rounds=1, ema=None, overwrite=True)
        same(res, train(n_rounds=1, ema=None))
        files = {o: o.stat().st_mtime_ns for o in res.path.rglob('model.pth')}
        (tmp_path/'a/seedlings/b').mkdir(parents=True)
        (tmp_path/'a/seedlings/b/record.json').write_text('mine')
        same(train(tmp_path/'a', n_rounds=1, ema=None, overwrite=True), res)  # the same run goes on
        assert files == {o: o.stat().st_mtime_ns for o in files}
        train(tmp_path/'a', n_rounds=1, overwrite=True)
        assert (tmp_path/'a/seedlings/b/record.json').exists() and not any(o.exists() and o.stat().st_mtime_ns == t
                                                                           for o, t in files.items())

    def test_two_at_once(self, tmp_path):
        def inner(learn, n, lr):
            with pytest.raises(ValueError, match='in use'): train(tmp_path/'a', n_rounds=1, fit=inner)
            learn.fit(n, lr)
        train(tmp_path/'a', n_rounds=1, fit=inner)


def heavier(r):
    "A Learner that starts from other weights"
    res = make(r)
    with torch.no_grad(): res.model[0].weight.mul_(2)
    return res


def changed(r, **kwargs):
    res = make(r)
    for k, v in kwargs.items(): setattr(res, k, v)
    return res


class Stuck(Callback):
    "Says when the second training is under way, and then takes forever"
    n = 0

    def __init__(self, say): self.say = say

    def after_batch(self):
        Stuck.n += self.training
        if Stuck.n < 30: return  # the teacher has 24
        self.say('stuck')
        time.sleep(600)


def interrupted(path, say):
    "The notes of the KeyboardInterrupt that ends a run"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try: train(path, lambda r: make(r, cbs=Stuck(say)), n_rounds=3, patience=None)
    except KeyboardInterrupt as e: say(e.__notes__)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_ctrl_c_loses_one_training_at_most(tmp_path):
    "A process that is really interrupted, in the middle of the second training"
    here, there = Pipe()
    p = get_context('fork').Process(target=interrupted, args=(tmp_path/'a', there.send))
    p.start()
    try:
        assert here.poll(120) and here.recv() == 'stuck'
        os.kill(p.pid, signal.SIGINT)
        assert here.poll(120) and 'the same call resumes there' in here.recv()[0]
        p.join(120)
        assert p.exitcode == 0
    finally: p.kill()
    cut = Run.open(tmp_path/'a')
    assert cut.records.role.tolist() == ['teacher'] and not cut.is_finished
    assert all('unfinished' in o for o in (cut.verdict(), repr(cut)))
    same(res := train(tmp_path/'a', lambda r: make(r, cbs=Stuck(there.send)), n_rounds=1), train(n_rounds=1))
    assert res.is_finished and Run.open(tmp_path/'a').is_finished and 'unfinished' not in repr(res)+res.verdict()


def test_a_run_without_its_last_stage_is_unfinished(tmp_path):
    "All rounds are there, and neither the last stage nor the control; the same for a finished run that is to have more"
    (fails := tmp_path/'fails').touch()
    def fit(learn, n, lr):
        if fails.exists() and any(isinstance(o, NoisyStudent) and o.teacher for o in learn.cbs): 1/0
        learn.fit(n, lr)
    kw = dict(fit=fit, online=dict(teacher=EMATeacher(.9), n_epoch=1), control=True, patience=None)
    with pytest.raises(ZeroDivisionError): train(tmp_path/'a', n_rounds=1, **kw)
    cut = Run.open(tmp_path/'a')
    assert cut.records.role.tolist() == ['teacher', 'student'] and not cut.is_finished
    ax = cut.plot()
    assert 'unfinished' in ax.get_title()
    ax.figure.draw_without_rendering()
    where = ax.title.get_window_extent()
    assert 0 <= where.x0 and where.x1 <= ax.figure.bbox.x1
    fails.unlink()
    done = train(tmp_path/'a', n_rounds=1, **kw)
    assert done.is_finished and Run.open(tmp_path/'a').is_finished and 'unfinished' not in done.plot().get_title()
    plt.close('all')
    fails.touch()
    with pytest.raises(ZeroDivisionError): train(tmp_path/'a', n_rounds=1, seeds=2, **kw)
    assert not Run.open(tmp_path/'a').is_finished


def test_a_call_that_is_refused_leaves_a_finished_run_finished(tmp_path):
    train(tmp_path, n_rounds=1).prune()
    with pytest.raises(ValueError, match='`prune` has removed'): train(tmp_path, n_rounds=2)
    assert Run.open(tmp_path).is_finished
    with pytest.raises(ValueError, match='other arguments'): train(tmp_path, n_rounds=1, n_epoch=3)
    assert Run.open(tmp_path).is_finished


def test_a_run_that_has_trained_nothing_yet(tmp_path):
    def fit(learn, n, lr): 1/0
    with pytest.raises(ZeroDivisionError): train(tmp_path, fit=fit)
    run = Run.open(tmp_path)
    assert 'unfinished' in repr(run) and run.verdict().endswith('No model has been trained yet.')
    with pytest.raises(ValueError, match='expected a run that has trained a model'): run.plot()




def compiled(src, again=False):
    "What `lambda` in `src` gives, or the same as another Python would compile it"
    f = eval(src)
    if not again: return f
    code = f.__code__.replace(co_code=b'\x97\x00'+f.__code__.co_code, co_consts=('more', *f.__code__.co_consts),
                              co_firstlineno=9)
    return type(f)(code, f.__globals__, f.__name__, f.__defaults__, f.__closure__)


def test_a_lambda_in_other_words_or_of_another_python_goes_on(tmp_path, capsys):
    "It is known by its place among the arguments; the numbers that it holds are compared"
    def args(space='', again=False, power=2):
        return dict(select=dict(n_per_class=40,
                                weights=compiled(f'lambda conf, power={power}:{space} conf{space}**{space}power')),
                    fit=compiled(f'lambda learn, n, lr:{space} learn.fit(n,{space} lr)', again=again))
    first = train(tmp_path/'a', n_rounds=1, **args())
    capsys.readouterr()
    for o in (args(' '), args(again=True)): same(train(tmp_path/'a', n_rounds=1, **o), first)
    assert capsys.readouterr().out == ''  # nothing was trained
    with pytest.raises(ValueError, match=r'select.*\(was') as e: train(tmp_path/'a', n_rounds=1, **args(power=3))
    assert e.value.argument == 'path' and any('select' in k for k, *_ in e.value.changes)


def test_a_run_that_goes_on_says_what_it_has_found(tmp_path, capsys):
    "... once, and only if something is left to train"
    n = len(train(tmp_path, n_rounds=1, patience=None).records)
    assert 'resuming' not in capsys.readouterr().out
    train(tmp_path, n_rounds=1, patience=None)
    assert capsys.readouterr().out == ''
    train(tmp_path, n_rounds=2, patience=None)
    out = capsys.readouterr().out
    assert out.startswith(f'resuming in {tmp_path}: {n} models were trained before\n') and out.count('resuming') == 1


class Extra(Callback):
    "What a caller's `fit` leaves in the Learner"


def test_a_teacher_labels_with_its_bar_and_without_what_fit_has_left(monkeypatch):
    seen, label = [], Learner.pseudolabel
    def looked_at(self, *args, **kwargs):
        seen.append([type(o).__name__ for o in self.cbs] + [o.name for o in self.metrics])
        return label(self, *args, **kwargs)
    monkeypatch.setattr(Learner, 'pseudolabel', looked_at)
    def fit(learn, n, lr):
        learn.add_cb(Extra())
        learn.metrics = []
        learn.fit(n, lr)
    res = train(fit=fit)
    tried, seen = seen[:2], seen[2:]  # by each teacher before anything is trained
    assert not any('ProgressCallback' in o for o in tried)
    # each second one is of validation rows
    assert len(seen) > 2 and all('ProgressCallback' in o or i % 2 for i, o in enumerate(seen))
    assert all('accuracy' in o and 'Extra' not in o for o in tried+seen) and res.records.accuracy.notna().all()
