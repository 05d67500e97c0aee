"Are the records of `self_train` right, does it train what it says, and does it go on where it was cut off?"
import os
import random
import signal
import time
from multiprocessing import Pipe, get_context

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.rounds.self_training import Run, self_train
from noisy_student_fastai.noise.callback import StudentNoise
from rounds_toys import ARGS, SEEDLESS, TRUTH, UNLABELED, Items, Jitter, held_out_dl, make, numbers, train
from torch import nn
from torchvision.ops import StochasticDepth
from toys import hard_rows, net, points, pts_dls


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "An undisturbed run of two rounds"
    return train(tmp_path_factory.mktemp('run')/'a', n_rounds=3, patience=None, control=True, seeds=2, test=held_out_dl())


def same(a, b): pd.testing.assert_frame_equal(numbers(a), numbers(b), check_exact=True)


def rows(run, role): return run.records[run.records.role == role]


def predictions(learn, dl):
    model = learn.model.eval()
    with torch.no_grad(): return torch.cat([model(x) for x, _ in dl]), torch.cat([y for _, y in dl])


class TestRecords:
    def test_there_is_a_row_for_each_model(self, run):
        got = [tuple(o) for o in run.records[['seed', 'role', 'round']].itertuples(index=False)]
        kept = [run.records[(run.records.role == 'control') & (run.records.seed == s)]['round'].item() for s in (0, 1)]
        assert got == [o for s in (0, 1) for o in
                       [(s, 'teacher', 0), (s, 'student', 1), (s, 'student', 2), (s, 'student', 3), (s, 'control', kept[s])]]
        assert (run.records.n_params == sum(p.numel() for p in net(bn=True).parameters())).all()
        assert (run.records.n_batches == 24//4*4).all()  # 12 rows a batch, 4 of them labeled

    def test_metrics_are_those_of_the_models(self, run):
        for _, o in run.records.iterrows():
            if o.role == 'control': continue
            learn = run.learner(o['round'], o.seed)
            for dl, prefix in ((learn.dls.valid, ''), (held_out_dl(), 'test_')):
                p, y = predictions(learn, dl)
                assert o[f'{prefix}accuracy'] == pytest.approx((p.argmax(1) == y).float().mean().item())
                assert o['test_loss' if prefix else 'valid_loss'] == pytest.approx(
                    torch.nn.functional.cross_entropy(p, y).item(), abs=1e-6)
            with learn.no_bar(), learn.no_logging(): assert o.accuracy == learn.validate()[1]

    @pytest.mark.parametrize('seed', [0, 1])
    @pytest.mark.parametrize('r', [1, 2, 3])
    def test_labels_are_described(self, run, seed, r):
        rec = run.records.query('seed==@seed and role=="student" and round==@r').iloc[0]
        pl, teacher = run.labels(r, seed), run.learner(r-1, seed)
        model = teacher.model.eval()
        with torch.no_grad(): p = model(torch.tensor(UNLABELED)).softmax(1)
        assert (pl.label == p.argmax(1).numpy()).all()
        kept = [o for c in range(3) for o in sorted((i for i in range(240) if pl.label[i] == c and pl.conf[i] >= .3),
                                                    key=lambda i: -pl.conf[i])[:40]]
        sizes = [min(40, (pl.label[kept] == c).sum()) for c in range(3)]
        counts = [40*(o > 0) for o in sizes]  # fewer are repeated, none can't be
        assert rec.n_kept == sum(sizes) and rec.n_rows == sum(counts)
        assert (rec.least_class, rec.most_class) == (min(counts), max(counts))
        if r > 1: assert rec.agreement == pytest.approx((pl.label == run.labels(r-1, seed).label).mean())
        else: assert np.isnan(rec.agreement)
        assert rec.teacher_accuracy == run.records.query('seed==@seed and round==@r-1 and role!="control"').accuracy.item()
        least = {c: min([pl.conf[i] for i in kept if pl.label[i] == c], default=2) for c in range(3)}
        q, y = predictions(teacher, teacher.dls.valid)
        conf, label = q.softmax(1).max(1)
        ok = [conf[i] >= least[label[i].item()] for i in range(len(y))]
        assert rec.precision == pytest.approx((label == y)[torch.tensor(ok)].float().mean().item())

    def test_kept_is_the_best_on_validation_rows(self, run):
        df = run.records.query('role!="control"').reset_index(drop=True)
        order = sorted(range(len(df)), key=lambda i: (-df.accuracy[i], df.valid_loss[i], i))
        assert run.best == (df.seed[order[0]], df['round'][order[0]])
        p, y = predictions(run.learn, run.learn.dls.valid)
        assert (p.argmax(1) == y).float().mean().item() == pytest.approx(df.accuracy.max())

    def test_csv_and_open(self, run):
        csv = pd.read_csv(run.path/'records.csv')
        pd.testing.assert_frame_equal(csv, run.records, check_dtype=False)
        again = Run.open(run.path)
        pd.testing.assert_frame_equal(again.records, run.records)
        assert again.verdict() == run.verdict() and again.best == run.best and again.monitor == 'accuracy'
        assert len(again.labels(1)) == 240
        with pytest.raises(ValueError, match='only `self_train`'): again.learn
        with pytest.raises(ValueError, match='a folder of `self_train`'): Run.open(run.path/'seed0')

    def test_the_kept_learner_can_be_used(self, run, tmp_path):
        learn = run.learn
        assert not any(isinstance(o, (NoisyStudent, StudentNoise, EMACallback)) for o in learn.cbs)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        learn.path = tmp_path
        for o in learn.dls.loaders: o.dataset = Items(o.dataset)
        learn.export('a.pkl')
        copy = load_learner(tmp_path/'a.pkl')
        x = torch.tensor(UNLABELED)
        with torch.no_grad(): assert torch.equal(copy.model.eval()(x), learn.model.eval()(x))

    def test_the_same_seed_gives_the_same_numbers(self, run):
        other = train(n_rounds=3, patience=None, control=True, seeds=[1], test=held_out_dl())
        want = numbers(run).query('seed==1').reset_index(drop=True)
        pd.testing.assert_frame_equal(numbers(other), want, check_exact=True)
        assert not numbers(run).query('seed==0').reset_index(drop=True).equals(want)

    def test_loaders_of_the_caller_make_no_difference(self, run):
        dls = pts_dls(hard_rows(24, 1), bs=8)  # the same in all rounds: each epoch moves its order on
        dl = held_out_dl()
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), dls.train.rng.getstate()
        other = train(None, lambda r: make(r, dls), n_rounds=3, patience=None, control=True, seeds=2, test=dl)
        same(other, run)
        assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
        assert torch.equal(states[2], torch.get_rng_state()) and states[3] == dls.train.rng.getstate()

    def test_no_path_no_traces(self):
        res = train(n_rounds=1)
        path = res.path
        assert (path/'records.csv').exists()
        del res
        import gc
        gc.collect()
        assert not path.exists()


class Seen(Callback):
    "What happens in training, by role"
    order = 49
    log = []

    def before_fit(self):
        if self.learn.lock.locked(): return
        self.now = dict(cbs=[type(o).__name__ for o in self.cbs], n=0, xs=[], n_pl=set(), first=next(self.learn.model.parameters()).detach().clone(),
                        n_epoch=self.n_epoch, drop=None)
        Seen.log.append(self.now)

    def before_batch(self):
        if not self.training: return
        self.now['n'] += 1
        self.now['xs'].append(self.xb[0].clone())
        self.now['n_pl'].add(int(getattr(self.yb[0], 'is_pl', torch.zeros(1)).sum()))
        self.now['drop'] = [m.p for m in self.model.modules() if isinstance(m, torch.nn.Dropout)]


def seen(**kwargs):
    Seen.log.clear()
    res = train(None, lambda r: make(r, cbs=[Seen()]) if kwargs.get('make_learner') is None else kwargs['make_learner'](r),
                **{k: v for k, v in kwargs.items() if k != 'make_learner'})
    return res, list(Seen.log)


class Random(nn.Module):
    "A model with all kinds of randomness"
    def __init__(self):
        super().__init__()
        self.up, self.bn, self.drop, self.depth = nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(.5), StochasticDepth(.5, 'row')
        self.rnn, self.out = nn.LSTM(8, 8, 2, dropout=.5, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(self.bn(self.up(x)).relu())
        x = x+self.depth(nn.functional.dropout(x, .5, self.training))
        return self.out(self.rnn(x[:, None])[0][:, 0])


class Twice(Callback):
    "Does the model say the same of a training batch, asked twice?"
    same = []
    def before_batch(self):
        if self.training: Twice.same.append(torch.equal(*(self.model(*self.xb) for _ in range(2))))


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
            assert log[3]['n'] == 48 == control.n_batches and log[3]['n_pl'] == {0} and 'NoisyStudent' not in log[3]['cbs']
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

    def test_finetune_is_without_noise(self):
        res, log = seen(finetune=dict(n_epoch=2, lr=.01), control=True)
        fine = res.records.query('role=="finetuned"').iloc[0]
        assert fine.n_batches == 2*3 and 'StudentNoise' not in log[-1]['cbs'] and not log[-1]['drop']
        known = {tuple(x.tolist()) for x, _ in hard_rows(24, 1)}
        assert all(tuple(o) in known for x in log[-1]['xs'] for o in x.tolist())
        noisy = sum(tuple(o) in known for x in log[0]['xs'] for o in x.tolist())
        assert noisy == 0
        w = res.learner(int(fine['round'])).model[0].weight
        assert torch.equal(log[-1]['first'], w.detach())

    def test_transforms_of_the_training_loader_are_off_in_finetuning(self):
        dls = pts_dls(hard_rows(24, 1), bs=8, after_batch=[Jitter()])
        for o in dls.loaders: o.dataset = type('Items', (list,), {})(o.dataset)
        dls.train.dataset.split_idx, dls.valid.dataset.split_idx = 0, 1
        res, log = seen(make_learner=lambda r: make(r, dls, cbs=[Seen()]), noise=None, finetune=dict(n_epoch=2), n_rounds=1)
        known = {tuple(x.tolist()) for x, _ in hard_rows(24, 1)}
        assert [sum(tuple(o) in known for x in log[i]['xs'] for o in x.tolist()) for i in (0, -1)] == [0, 48]
        assert res.records.role.tolist() == ['teacher', 'student', 'finetuned']

    def test_random_parts_and_mixing_are_off_in_finetuning(self):
        "Dropout in a module, by a function, in a recurrent layer; skipped blocks; mixed rows. BatchNorm goes on"
        res, log = seen(make_learner=lambda r: make(r, model=Random(), cbs=[MixUp(), Seen(), Twice()]), noise=None, n_rounds=1,
                        finetune=dict(n_epoch=2, lr=.1), ema=None)
        known = {tuple(x.tolist()) for x, _ in hard_rows(24, 1)}
        n_known = [sum(tuple(o) in known for x in log[i]['xs'] for o in x.tolist()) for i in (0, -1)]
        assert n_known[0] < 192/4 and n_known[1] == 48 and 'MixUp' not in log[-1]['cbs']  # a row is now and then mixed with itself
        assert Twice.same[:24] == [False]*24 and Twice.same[-6:] == [True]*6
        r = int(res.records.query('role=="finetuned"')['round'].item())
        a, b = (res.learner(r, role=k).model.bn.running_mean for k in ('student', 'finetuned'))
        assert not torch.equal(a, b)

    def test_reselect_false_keeps_the_rows(self):
        seen_rows = []
        def pick(r): return dict(n_per_class=40, weights='conf')
        res = train(reselect=False, select=pick, patience=None, n_rounds=3)
        first = res.labels(1).select(**pick(1))
        df = res.records.query('role=="student"')
        assert (df.n_kept == len(set(first.rows.tolist()))).all() and (df.n_rows == len(first)).all()
        for r in (2, 3):
            counts = np.bincount(res.labels(r).label[first.rows], minlength=3)
            assert tuple(df[['least_class', 'most_class']].iloc[r-1]) == (counts.min(), counts.max())

    def test_patience(self):
        short = dict(n_rounds=3, n_epoch=1, seeds=2)
        df, n_models = train(patience=None, **short).records, set()
        for p in (1, 2):
            got = train(patience=p, **short).records
            for seed in (0, 1):
                accs = df[df.seed == seed].accuracy.tolist()
                last = next((r for r in range(4) if r-int(np.argmax(accs[:r+1])) >= p), 3)
                assert got[got.seed == seed].accuracy.tolist() == accs[:last+1]
                n_models.add(last+1)
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
        assert res.best[1] == 0 and res.best[0] == rows(res, 'teacher').sort_values(['accuracy', 'valid_loss'], ascending=[False, True]).seed.iloc[0]
        assert all(torch.equal(v, res.learner(*res.best[::-1]).model.state_dict()[k]) for k, v in res.learn.model.state_dict().items())
        assert df.groupby('seed')['round'].max().tolist() == [2, 2] and (rows(res, 'student').groupby('seed').size() == 2).all()  # patience
        kept = [df[(df.seed == s) & (df.role == 'student')].sort_values(['accuracy', 'valid_loss'], ascending=[False, True]).iloc[0] for s in (0, 1)]
        gain = np.mean([100*(k.test_accuracy-c) for k, c in zip(kept, rows(res, 'control').test_accuracy)])
        assert gain < 0 and f'Over 2 runs the student is {-gain:.1f} points worse than its control on average' in res.verdict()
        assert f'{gain:+.1f} points over its control' in res.plot().get_title()

    def test_test_rows_choose_nothing(self):
        items = hard_rows(60, 11)
        wrong = [(x, (y+1) % 3) for x, y in items]
        a, b = (train(n_rounds=2, patience=1, test=TfmdDL(o, bs=30, num_workers=0)) for o in (items, wrong))
        assert a.best == b.best and a.records.accuracy.tolist() == b.records.accuracy.tolist()
        assert a.records.test_accuracy.tolist() != b.records.test_accuracy.tolist()

    @pytest.mark.parametrize('bad', [0, 1])
    def test_what_diverges_ends_its_seed_only(self, bad, capsys, tmp_path):
        "Round `bad` of seed 0 comes to NaN; seed 1, and the control, go on, and the run can be finished and opened"
        def fit(learn, n, lr):
            learn.fit(n, lr)
            if not (tmp_path/'b').exists() and any(isinstance(o, NoisyStudent) for o in learn.cbs) == bool(bad):
                (tmp_path/'b').touch()
                with torch.no_grad(): learn.model[0].weight.fill_(np.nan)
        res = train(tmp_path/'a', fit=fit, seeds=2, control=True, patience=None)
        got = [tuple(o) for o in res.records[res.records.seed == 0][['role', 'round']].itertuples(index=False)]
        assert got == [('teacher', 0)] + [('student', 1), ('control', 1)]*bad
        assert rows(res, 'student').query('seed==1')['round'].tolist() == [1, 2] and len(rows(res, 'control')) == 1+bad
        assert 'did not train (not a number)' in capsys.readouterr().out and res.best[0] == (1 if not bad else res.best[0])
        said = res.verdict()
        assert ('The student did not train (not a number) in 1 of 2 runs.' in said) == bool(bad) and 'nan' not in said
        same(train(tmp_path/'a', fit=fit, seeds=2, control=True, patience=None), res)

    def test_arguments_by_round(self):
        asked = []
        res = train(None, n_epoch=lambda r: 2+r, lr=lambda r: .1*(r+1), select=lambda r: dict(n_per_class=10*r),
                    pseudolabel=lambda r: dict(temperature=r), patience=None, fit=lambda learn, n, lr: (asked.append((n, lr)), learn.fit(n, lr)))
        labels = [res.labels(r) for r in (1, 2)]
        n_classes = [sum((pl.conf[pl.label == c] >= .3).any() for c in range(3)) for pl in labels]  # one without rows stays empty
        assert res.records.n_rows.tolist()[1:] == [10*n_classes[0], 20*n_classes[1]]
        assert asked == [(6, .1), (3, .2), (4, pytest.approx(.3))]
        assert [pl.about['settings']['temperature'] for pl in labels] == [1, 2]


class TestMistakes:
    @pytest.mark.parametrize('kw, text', [
        (dict(n_rounds=0), 'n_rounds=0'), (dict(n_epoch=0), 'n_epoch=0'), (dict(lr=-1), 'lr=-1'), (dict(seeds=0), 'seeds=0'),
        (dict(seeds=[1, 1]), 'seeds=\\[1, 1\\]'), (dict(patience=0), 'patience=0'), (dict(ema=1.), 'decay=1.0'),
        (dict(select=dict(min_cnf=.5)), "'min_cnf'"), (dict(pseudolabel=dict(path='a')), "'path'"),
        (dict(student=dict(ratio=3)), "'ratio'"), (dict(student=dict(bs=1)), 'bs=1'), (dict(noise=dict(dropout=2)), 'dropout=2'),
        (dict(noise=3), 'noise=3'), (dict(monitor='acuracy'), "monitor='acuracy'"), (dict(finetune=3), 'finetune=3'),
        (dict(finetune=dict(lr=.1)), 'finetune'), (dict(student=dict(bs=64, l2pl_ratio=7)), 'student'),
        (dict(test=held_out_dl(), pseudolabel=dict(held_out=[1])), 'held_out'), (dict(test=3), "test='int'"),
        (dict(test=TfmdDL([(torch.ones(3), 1)]*4, bs=4)), 'test=TfmdDL'), (dict(test=TfmdDL([torch.ones(2)]*4, bs=4)), 'test=TfmdDL'),
        (dict(test=TfmdDL(hard_rows(24, 1)[:5], bs=5)), "test='5 rows"),
        (dict(test=pts_dls(hard_rows(24, 1), bs=8).valid), "test='"), (dict(make_learner=3), 'make_learner=3'),
        (dict(make_learner=lambda r: r), 'make_learner\\(0\\)'), (dict(unlabeled=3), 'unlabeled')])
    def test_are_named_before_anything_is_trained(self, kw, text, tmp_path):
        Seen.log.clear()
        with pytest.raises((ValueError, TypeError), match=text): train(tmp_path/'a', **{'make_learner': lambda r: make(r, cbs=[Seen()])} | kw)
        assert not Seen.log and not list(tmp_path.glob('a/seed*'))

    def test_learners_that_cannot_be_used(self):
        model = net(bn=True)
        no_valid = DataLoaders(pts_dls().train, TfmdDL([], bs=8))
        no_batch = pts_dls(hard_rows(7, 1), bs=8)
        for f, text in ((lambda r: make(r, model=model), 'a model of its own'), (lambda r: make(r, no_valid), 'validation set'),
                        (lambda r: make(r, no_batch), 'no training batch'), (lambda r: make(r, cbs=StudentNoise()), '`noise=None`'),
                        (lambda r: make(r, cbs=EMACallback()), '`ema=None`'), (lambda r: make(r, cbs=SaveModelCallback()), 'with `ema`'),
                        (lambda r: make(r, cbs=NoisyStudent(pts_dls().train)), 'NoisyStudent')):
            with pytest.raises(ValueError, match=text): train(None, f)

    @pytest.mark.parametrize('where', ['validation', 'test', 'labeled', 'later validation'])
    def test_leaks_are_refused(self, where):
        held = dict(validation=hard_rows(50, 7), test=hard_rows(60, 11), labeled=hard_rows(24, 1)).get(where, hard_rows(30, 21))
        x = np.concatenate([UNLABELED, held[5][0].numpy()[None]])
        def later(r): return make(r) if r < 2 else make(r, DataLoaders(pts_dls(hard_rows(24, 1), bs=8).train, TfmdDL(held, bs=8)))
        f = later if where.startswith('later') else make
        kw = dict(test=held_out_dl(), n_rounds=2 if where.startswith('later') else 1, n_epoch=1, patience=None)
        with pytest.raises(ValueError, match='rows'): train(None, f, x, **kw)
        res = train(None, f, x, pseudolabel=dict(leaks='drop'), **kw)
        assert len(res.labels(1)) == 241

    def test_test_rows_may_be_known_if_asked_for(self):
        test = TfmdDL(hard_rows(24, 1)[:5], bs=5, num_workers=0)
        assert train(None, test=test, n_rounds=1, n_epoch=1, pseudolabel=dict(leaks='keep')).records.test_accuracy.notna().all()

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
        assert before == {o: o.stat().st_mtime_ns for o in run.path.rglob('model.pth')} and capsys.readouterr().out == ''

    def test_more_rounds_and_seeds(self, run, tmp_path):
        train(tmp_path/'b', n_rounds=1, patience=1, test=held_out_dl())
        res = train(tmp_path/'b', n_rounds=3, patience=None, seeds=2, control=True, test=held_out_dl())
        same(res, run)

    @pytest.mark.parametrize('name, value', [
        ('n_epoch', 5), ('lr', .1), ('fit', lambda learn, n, lr: learn.fit(n, lr)), ('pseudolabel', dict(temperature=2.)),
        ('select', dict(n_per_class=30)), ('dl', dict(temperature=.7)), ('student', dict(bs=12, l2pl_ratio=1)),
        ('noise', ARGS['noise']|dict(dropout=.3)), ('noise', ARGS['noise']|dict(tfms=Jitter(.5))), ('noise', None), ('ema', .8), ('ema', None),
        ('reselect', False), ('seeds', [3]), ('monitor', 'valid_loss'), ('test', None), ('n_rounds', 2), ('unlabeled', UNLABELED[:-1]),
        ('unlabeled', UNLABELED[::-1].copy())])
    def test_changed_arguments_are_named(self, run, name, value):
        kw = dict(n_rounds=3, patience=None, control=True, seeds=2, test=held_out_dl()) | {name: value}
        with pytest.raises(ValueError, match=rf'other arguments.*\b{name}.*it was'): train(run.path, **kw)

    @pytest.mark.parametrize('what, f', [
        ('modules', lambda r: make(r, model=torch.nn.Sequential(torch.nn.Linear(2, 3)))), ('labeled', lambda r: make(r, pts_dls(hard_rows(24, 2), bs=8))),
        ('bs', lambda r: make(r, pts_dls(hard_rows(24, 1), bs=6))), ('loss', lambda r: changed(r, loss_func=CrossEntropyLossFlat(label_smoothing=.2))),
        ('weights', lambda r: heavier(r)), ('cbs', lambda r: make(r, cbs=Seen())), ('lr', lambda r: changed(r, lr=.3)),
        ('tfms', lambda r: make(r, pts_dls(hard_rows(24, 1), bs=8, after_batch=[Jitter()]))),
        ('labeled', lambda r: make(r, pts_dls([(x, (y+(i == 20)) % 3) for i, (x, y) in enumerate(hard_rows(24, 1))], bs=8)))])
    def test_changed_learners_are_named(self, run, what, f):
        with pytest.raises(ValueError, match=rf'make_learner.*{what}'):
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
        assert (tmp_path/'a/seedlings/b/record.json').exists() and not any(o.exists() and o.stat().st_mtime_ns == t for o, t in files.items())

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
        assert here.poll(120) and 'the same call goes on there' in here.recv()[0]
        p.join(120)
        assert p.exitcode == 0
    finally: p.kill()
    assert Run.open(tmp_path/'a').records.role.tolist() == ['teacher']
    same(train(tmp_path/'a', lambda r: make(r, cbs=Stuck(there.send)), n_rounds=1), train(n_rounds=1))


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='n_ranks=2: 1 process is accepted'): train(None)
