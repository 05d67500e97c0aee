"The stage with an online teacher: what it begins with, learns from and costs, and who may come after it"
import re
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import TfmdDL
from noisy_student_fastai.files import remove
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.rounds.choices import OneOf
from noisy_student_fastai.rounds.run import Run
from noisy_student_fastai.rounds.training import one_cycle, train_learner
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import ARGS, UNLABELED, Seen, held_out_dl, make, numbers, rows, same, seen, train
from toys import hard_rows

ONLINE = dict(teacher=EMATeacher(.9, prior='labeled'), n_epoch=3, lr=.1)


def weights(learn): return torch.cat([o.detach().flatten().float() for o in learn.model.state_dict().values()])


@pytest.mark.parametrize('seed, more', [(0, dict()), (5, dict(ema=None)),
                                        (7, dict(bs=16, l2pl_ratio=1, pseudolabel_sample_weight=.5))])
def test_it_is_the_fit_that_one_would_write(seed, more):
    "From the best student's weights, under the run's seed, on all unlabeled rows: the same to the last bit"
    res = train(online=ONLINE | more, seeds=[seed], patience=None, ema=None)
    r = int(rows(res, 'online')['round'].item())
    learn = make(r)
    learn.model.load_state_dict(res.learner(r).model.state_dict())
    kw = dict(bs=12, l2pl_ratio=1/2) | {k: v for k, v in more.items() if k != 'ema'}
    def cbs():
        dl = TfmdDL([(torch.tensor(o), 0) for o in UNLABELED], bs=8, shuffle=True, num_workers=0)
        return [NoisyStudent(dl, teacher=ONLINE['teacher'], **kw), StudentNoise(**ARGS['noise']),
                *([] if 'ema' in more else [EMACallback(.9)])]
    train_learner(learn, seed, one_cycle, 3, .1, cbs)
    assert torch.equal(weights(res.learner(r, role='online')), weights(learn))
    assert not torch.equal(weights(res.learner(r, role='online')), weights(res.learner(r)))


def test_it_goes_on_from_the_best_and_counts_as_a_student(tmp_path):
    res = train(tmp_path, online=ONLINE, control=True, seeds=3, patience=None, test=held_out_dl())
    assert {*res.records.role} == {'teacher', 'student', 'online', 'control'}
    for seed, g in res.records.groupby('seed'):
        g = g.set_index(['role', 'round'])
        of = g.loc['student'].sort_values(['accuracy', 'valid_loss'], ascending=[False, True])
        r = g.loc['online'].index.item()
        assert r == of.index[0] == g.loc['control'].index.item()
        # an epoch is 6 batches of a student, and 3 of a control, which has as many in all
        assert g.n_batches['online', r] == 18 and g.n_batches['control', r] == g.n_batches['student', r]+18
    kept = res.records[res.records.role != 'control'].sort_values(['accuracy', 'valid_loss'], ascending=[False, True])
    assert res.kept.role == kept.role.iloc[0] or kept.accuracy.iloc[0] == kept.accuracy.iloc[1]
    assert 'on the test set' in res.verdict() and len(res.recalls()) == 3*3
    assert 'after the last stage, test' in [o.get_label() for o in res.plot().lines]
    same(Run.open(tmp_path), res)


def files(path, pattern): return {o: o.stat().st_mtime_ns for o in path.rglob(pattern) if o.is_file()}


def delete_what_is_said(error, path):
    "What the note of an error names"
    said, = error.__notes__
    gone = re.findall(r'seed\*/(\w+)\*', said)
    for d in [d for k in gone for d in path.glob(f'seed*/{k}*')]: remove(d)
    return gone


def test_another_last_stage_keeps_the_rounds(tmp_path):
    "The error says what is to go; the rounds then are the files they were, and all the rest is as in a new run"
    path, kw, other = tmp_path/'a', dict(control=True, seeds=2, patience=None), ONLINE | dict(n_epoch=2)
    train(path, online=ONLINE, **kw)
    before = files(path, 'round*/*')
    with pytest.raises(ValueError, match='online') as e: train(path, online=other, **kw)
    assert delete_what_is_said(e.value, path) == ['control', 'online'] and not Run.open(path).is_finished
    same(train(path, online=other, **kw), train(online=other, **kw))
    assert files(path, 'round*/*') == before
    with pytest.raises(ValueError, match='n_epoch') as e: train(path, online=other, n_epoch=3, **kw)
    assert not hasattr(e.value, '__notes__')  # all of it would change


def test_another_last_step_keeps_the_last_stage(tmp_path):
    path, kw = tmp_path/'a', dict(online=ONLINE, control=True, n_rounds=1)
    train(path, finetune=dict(n_epoch=1), **kw)
    before = {**files(path, 'online*/*'), **files(path, 'control*/*')}
    with pytest.raises(ValueError, match='finetune') as e: train(path, finetune=dict(n_epoch=2), **kw)
    assert delete_what_is_said(e.value, path) == ['finetuned']
    same(train(path, finetune=dict(n_epoch=2), **kw), train(finetune=dict(n_epoch=2), **kw))
    assert {**files(path, 'online*/*'), **files(path, 'control*/*')} == before


@pytest.mark.parametrize('keep', ['best', 'last'])
def test_after_prune_nothing_is_to_be_deleted(tmp_path, keep):
    "The rounds that a new last stage would go on from are gone"
    train(tmp_path, online=ONLINE, patience=None).prune(keep)
    if keep == 'last' and Run.open(tmp_path).best[1] == 2: return  # the last student is the one that goes on
    with pytest.raises(ValueError, match='online') as e: train(tmp_path, online=ONLINE | dict(n_epoch=2), patience=None)
    assert not hasattr(e.value, '__notes__')


def test_a_second_control_is_not_of_another_budget(tmp_path):
    "Pretrained, with a control from scratch: a last stage gives all controls more batches"
    kw = dict(n_rounds=1, control=True, pretrain=dict(n_epoch=2, lr=.05, dim=8, bs=32))
    train(tmp_path, **kw)
    for o in tmp_path.glob('seed*/control*'): remove(o)
    with pytest.raises(ValueError, match='online'): train(tmp_path, online=ONLINE, **kw)


def test_a_budget_and_a_control_count_it(capsys):
    "10 batches of 120 for the teacher, 55 for both students, 55 for the stage; an epoch has 3, 6 and 6"
    res, log = seen(n_epoch=None, n_batches=120, n_rounds=2, online=dict(teacher=EMATeacher(.9)), control=True,
                    patience=None)
    assert res.records.n_batches.tolist() == [9, 30, 30, 54, 123] == [o['n'] for o in log if o['n']]
    assert [o['n_pl'] for o in log if o['n']] == [{0}, {8}, {8}, {8}, {0}]
    capsys.readouterr()
    res = train(n_epoch=None, n_batches=dict(teacher=6, students=12, online=30), n_rounds=1, online={})
    assert res.records.n_batches.tolist() == [6, 12, 30]
    line = capsys.readouterr().out.splitlines()[0]
    assert 'student 12 (2 epochs), with an online teacher 30 (5 epochs), 48 together' in line


def test_the_last_step_follows_it_from_the_better_one():
    for seed in range(3):
        res, log = seen(online=ONLINE, finetune=dict(n_epoch=1, lr=.01), n_rounds=1, seeds=[seed])
        df = res.records.set_index('role')
        assert df.index.tolist() == ['teacher', 'student', 'online', 'finetuned']
        a, b = df.loc['student'], df.loc['online']
        is_online = (b.accuracy, -b.valid_loss) > (a.accuracy, -a.valid_loss)
        began = res.learner(1, seed, 'online' if is_online else 'student').model[0].weight
        assert torch.equal(log[-1]['first'], began.detach()) and 'NoisyStudent' in log[-2]['cbs']
        assert 'StudentNoise' not in log[-1]['cbs'] and 'EMACallback' in log[-2]['cbs']


def test_it_comes_to_a_finished_run_and_is_not_trained_again(tmp_path):
    def make_seen(r): return make(r, cbs=[Seen()])
    run = train(tmp_path, make_seen)
    Seen.log.clear()
    more = train(tmp_path, make_seen, online=ONLINE)
    assert [o['n'] for o in Seen.log if o['n']] == [18] and more.records.role.tolist()[-1] == 'online'
    same(train(tmp_path, make_seen, online=ONLINE), more)
    assert numbers(more)[:len(run.records)][list(numbers(run))].equals(numbers(run))
    with pytest.raises(ValueError, match='lr.*0.3'): train(tmp_path, make_seen, online=ONLINE | dict(lr=.3))
    other = ONLINE | dict(teacher=EMATeacher(.5))
    with pytest.raises(ValueError, match='decay'): train(tmp_path, make_seen, online=other)
    same(train(tmp_path, make_seen, online=ONLINE), more)


@pytest.mark.parametrize('more', [dict(control=True), dict(finetune=dict(n_epoch=1, lr=.01))])
def test_what_came_before_it_does_not_come_after_it(more, tmp_path):
    "A control that was shorter, a last step that began with the student"
    train(tmp_path, n_rounds=1, **more)
    with pytest.raises(ValueError, match='online'): train(tmp_path, n_rounds=1, online=ONLINE, **more)


def test_a_control_has_the_average_too():
    res, log = seen(online=ONLINE, control=True, ema=None, n_rounds=1)
    has = ['EMACallback' in o['cbs'] for o in log if o['n']]
    assert has == [False, False, True, True] and res.records.role.tolist()[2:] == ['online', 'control']


def test_a_stage_that_does_harm_is_said(capsys):
    "... in its line and in the verdict, and the student is kept"
    seen = set()
    for seed, lr in product((0, 1), (.1, 30.)):
        res = train(online=ONLINE | dict(lr=lr), control=True, n_rounds=1, patience=None, seeds=[seed])
        out, rec = capsys.readouterr().out, res.records.set_index('role')
        a, b = ((rec.accuracy[k], -rec.valid_loss[k]) for k in ('student', 'online'))
        said = f"no better than the student's {a[0]:.4f}, which is kept"
        assert (said in out) == ('The last stage made the student no better' in res.verdict()) == (a >= b)
        assert res.kept.role != ('online' if a >= b else 'student')
        seen.add(a >= b)
    assert seen == {True, False}


@pytest.mark.parametrize('min_conf, few', [(0., False), (1., True)])
def test_how_many_rows_a_threshold_lets_through(min_conf, few):
    teacher = EMATeacher(0, min_conf=min_conf, soft=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        res = train(online=dict(teacher=teacher, n_epoch=2), n_rounds=1)
    assert res.records.kept.iloc[-1] == (0 if few else 1) and res.records.kept[:2].isna().all()
    said = [str(o.message) for o in seen if 'of the unlabeled rows reached' in str(o.message)]
    assert len(said) == few and (not few or 'only 0.0%' in said[0])


def test_the_share_stays_with_the_model(tmp_path):
    "... where a record is lost, or it was trained for an alternative"
    one = dict(teacher=EMATeacher(0, min_conf=0., soft=False), n_epoch=1)
    res = train(tmp_path, online=OneOf(one, one | dict(lr=1e-3)), n_rounds=1)
    assert res.records.kept.iloc[-1] == 1 and res.records.role.iloc[-1] == 'online'
    (tmp_path/'seed0/online1/record.json').unlink()
    same(train(tmp_path, online=OneOf(one, one | dict(lr=1e-3)), n_rounds=1), res)


def test_where_it_diverges_that_is_recorded(tmp_path):
    "... as of a student, and the other steps and seeds go on; the student is what is kept"
    kw = dict(online=ONLINE | dict(lr=1e10), finetune=dict(n_epoch=1, lr=.01), control=True, n_rounds=1, seeds=2)
    res = train(tmp_path, **kw)
    df = res.records
    assert df.role.tolist() == ['teacher', 'student', 'online', 'finetuned', 'control']*2
    assert rows(res, 'online').valid_loss.isna().all() and df[df.role != 'online'].valid_loss.notna().all()
    assert res.kept.role != 'online' and 'did not train' not in res.verdict()
    same(train(tmp_path, **kw), res)


def test_pruned_runs(tmp_path):
    run = train(tmp_path, patience=None)
    run.prune()
    if run.kept.role == 'student': train(tmp_path, patience=None, online=ONLINE).prune()
    else:
        with pytest.raises(ValueError, match='prune'): train(tmp_path, patience=None, online=ONLINE)
    whole = train(tmp_path/'b', online=ONLINE, n_rounds=1)
    role = whole.kept.role
    assert weights(whole.prune().learn).equal(weights(whole.learner(whole.best[1], role=role)))


def test_alternatives_share_what_comes_before(tmp_path):
    Seen.log.clear()
    res = train(tmp_path, lambda r: make(r, cbs=[Seen()]), online=OneOf(None, ONLINE, ONLINE | dict(lr=.02)),
                n_rounds=1, control=True)
    ns = [o['n'] for o in Seen.log if o['n']]
    assert sorted(ns) == sorted([24, 24, 18, 18, *([27+15] if res.plan.online else [])]), ns
    assert len(res.choices) == 3 and res.choices.chosen.sum() == 1
    alone = train(online=res.plan.online, n_rounds=1)
    mine = numbers(res)[numbers(res).role != 'control'].drop(columns='gain_se')
    assert mine.reset_index(drop=True).equals(numbers(alone).drop(columns='gain_se')[list(mine)])


@pytest.mark.parametrize('is_first', [False, True])
def test_a_budget_with_and_without_it(is_first, tmp_path):
    "As many batches in all, and a bar that comes to its end, whatever is chosen"
    both = [None, dict(teacher=EMATeacher(.9))]
    res = train(tmp_path, online=OneOf(*both[::-1] if is_first else both), n_rounds=1, n_epoch=None, control=True,
                n_batches=dict(teacher=6, students=12, online=12))
    assert res.plan.progress.i == res.plan.progress.n
    runs = [Run.open(o) for o in (tmp_path/'choices').iterdir()]
    a, b = sorted((numbers(o) for o in runs), key=len)
    assert b.role.tolist() == ['teacher', 'student', 'online'] and b.n_batches.sum() == 30
    assert a.n_batches.tolist() == [6, 24]


def test_a_value_of_it_can_be_chosen(tmp_path):
    res = train(tmp_path, online=dict(lr=OneOf(.1, .01), n_epoch=2, teacher=EMATeacher(.9)), n_rounds=1)
    assert res.choices.argument.tolist() == ['online lr']*2


def test_rows_that_are_labeled_are_left_out():
    "As inputs, not as labels: the loader of the stage has those of no other set"
    own = np.stack([x.numpy() for x, _ in hard_rows(24, 1)])
    res, log = seen(unlabeled=np.concatenate([UNLABELED, own]).astype(np.float32), pseudolabel=dict(leaks='drop'),
                    noise=None, online=ONLINE, n_rounds=1, patience=None)
    came = np.concatenate([x.numpy()[4:] for x in log[-1]['xs']])
    known = {tuple(o) for o in own.tolist()}
    assert len(came) == 18*8 and not any(tuple(o) in known for o in came.tolist())
    assert len(np.unique(came, axis=0)) == len(came) and res.records.role.tolist()[-1] == 'online'


class Broken:
    "Rows of which some can't be read"
    bad = range(100, 160)
    def __len__(self): return len(UNLABELED)

    def __getitem__(self, i):
        if i in self.bad: raise OSError('broken')
        return torch.tensor(UNLABELED[i]),


@pytest.mark.parametrize('more', [dict(), dict(propagate=dict(k=5))])
def test_rows_that_cannot_be_read_are_left_out(more, tmp_path):
    "No other row stands in for them, also where the labels, which knew them, are gone"
    kw = dict(unlabeled=Broken(), noise=None, n_rounds=1, patience=None, pseudolabel=dict(unreadable='skip'), **more)
    train(tmp_path, **kw)
    for _ in range(2):
        Seen.log.clear()
        learn = train(tmp_path, lambda r: make(r, cbs=[Seen()]), overwrite=True, online=ONLINE, **kw)
        came = np.concatenate([x.numpy()[4:] for x in Seen.log[-1]['xs']])
        assert len(came) == 18*8 and len(np.unique(came, axis=0)) == len(came)
        assert not np.isin(came[:, 0], UNLABELED[100:160, 0]).any() and learn.records.role.tolist()[-1] == 'online'
        for o in ('labels', 'propagated'): remove(tmp_path/'seed0/round1'/o)
        for o in ('record.json', 'training.json'): (tmp_path/'seed0/online1'/o).unlink()


@pytest.mark.parametrize('kw, text', [
    (dict(online=3), 'online=3'), (dict(online=dict(decay=.9)), 'decay'),
    (dict(online=dict(teacher=None)), 'teacher=None'),
    (dict(online=dict(n_epoch=0)), 'online n_epoch=0'), (dict(online=dict(lr=-1)), 'online lr=-1'),
    (dict(online=dict(teacher=EMATeacher(.9, prior=[.5, .5]))), 'prior=.*3 numbers'),
    (dict(online=dict(weight=.5)), 'weight'), (dict(online=dict(min_conf=.9)), r'EMATeacher\(min_conf='),
    (dict(online=dict(noise=3)), 'online noise=3'), (dict(online=dict(noise=dict(tfm=1))), 'tfm'),
    (dict(online=dict(ema=2)), 'online ema=2'), (dict(online=dict(l2pl_ratio=99)), 'l2pl_ratio=99'),
    (dict(online=dict(bs=200, l2pl_ratio=1)), 'online=.*than there are'),
    (dict(online={}, n_batches=dict(teacher=3, students=6), n_epoch=None), 'online=...'),
    (dict(online=dict(n_epoch=3), n_batches=60, n_epoch=None), 'online n_epoch=3'),
    (dict(n_batches=dict(teacher=3, students=6, online=3), n_epoch=None), 'n_batches='),
    (dict(make_learner=lambda r: make(r, cbs=[SaveModelCallback()]), ema=None, online={}), 'SaveModelCallback'),
    (dict(make_learner=lambda r: make(r, cbs=[EMACallback(.9)]), ema=None, online={}), 'EMACallback'),
    (dict(select=lambda r: dict(min_conf=OneOf(.3, .5)), online={}), 'min_conf|select')])
def test_mistakes_are_named_before_anything_is_trained(kw, text, tmp_path):
    Seen.log.clear()
    made = kw.pop('make_learner', make)
    def make_seen(r):
        learn = made(r)
        learn.add_cb(Seen())
        return learn
    with pytest.raises((ValueError, TypeError), match=text): train(tmp_path/'a', make_seen, **kw)
    assert not [o for o in Seen.log if o['n']]

