"""What is checked in two processes on the CPU, as `torchrun` starts them: each function here, in both of them

test_distributed.py starts them once, and reads what they say.
"""
import json
import os
import traceback
from datetime import timedelta
from pathlib import Path

import fastai.distributed  # noqa: F401  (gives Learners `distrib_ctx`)
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from launched_labels import labels_of_two
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.processes import Team, alone, check_launch, ranks
from noisy_student_fastai.rounds.choices import OneOf
from noisy_student_fastai.rounds.self_training import self_train
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import UNLABELED, make, numbers, train
from torch.nn import functional as F
from toys import Probe, hard_rows, net, params, points, probs, pts_dls, pts_learner, quiet, rows


def both(o):
    "What each of the two has"
    res = [None, None]
    dist.all_gather_object(res, o)
    return res


def dls_of(n=64, bs=16):
    labeled = rows(torch.stack([torch.arange(float(n)), torch.ones(n)], 1), torch.arange(n) % 3)
    return DataLoaders(TfmdDL(labeled, bs=bs, shuffle=True, drop_last=True, num_workers=0, device='cpu'),
                       TfmdDL(labeled[:20], bs=10, num_workers=0, device='cpu'))


def fit(learn, n_epoch, *args, **kw):
    bar, log = quiet(learn)
    with bar, log, learn.distrib_ctx(sync_bn=False): learn.fit(n_epoch, *args, **kw)


# --- rows

def check_rows(r):
    "Every row of every batch; what is there afterwards"
    ids = torch.arange(90.)
    dl2 = DataLoader(rows(torch.stack([ids, ids*0], 1), torch.tensor([[.2, .3, .5]]*90)), bs=8, device='cpu')
    learn = pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3, pseudolabel_sample_weight=.5), probe := Probe(), dls=dls_of())
    bar, log = quiet(learn)
    with bar, log, learn.distrib_ctx(sync_bn=False):
        learn.fit(6, 1e-4)
        assert len(learn.get_preds()[0]) == 20
    assert all([o[1] for o in xb] == [1]*4 + [0]*12 for xb, in probe.xs)
    pl = [int(o[0]) for xb, in probe.xs for o in xb if o[1] == 0]
    lbl = [int(o[0]) for xb, in probe.xs for o in xb if o[1] == 1]
    assert len(pl) == 6*8*12 and len(lbl) == 6*8*4
    every = both((lbl, pl, params(learn)))
    assert sorted(every[0][0] + every[1][0]) == sorted([*range(64)]*6), 'an epoch is one pass over the labeled set'
    stream = torch.tensor([every[0][1], every[1][1]]).T.ravel()  # in turn
    passes = [sorted(stream[i:i+90].tolist()) for i in range(0, len(stream)//90*90, 90)]
    assert len(passes) == 12 and all(o == [*range(90)] for o in passes), 'a pass is shared, and complete'
    shares = [frozenset(pl[i:i+45]) for i in range(0, 45*12, 45)]
    assert len({*shares}) == 12, 'in each pass other rows'
    assert torch.equal(every[0][2], every[1][2]), 'both processes hold the same weights'
    assert type(learn.dls.train) is TfmdDL and learn.dls.train.bs == 16


def check_one_trains_alone(r):
    "While the other one waits"
    if r == 0:
        x, _ = points(40, 2)
        learn = pts_learner(NoisyStudent(DataLoader(rows(x, probs(x)), bs=8)), probe := Probe(), dls=dls_of())
        bar, log = quiet(learn)
        with bar, log, alone(): learn.fit(2)
        assert len({float(o) for xb, in probe.xs for o in xb[8:, 0]}) == 40 and len(probe.xs) == 16
    dist.barrier()


# --- gradients

class Short(torch.utils.data.IterableDataset):
    "5 rows a pass in the first process and 9 in the second, so that batches differ in size"
    num_replicas = 2
    def __init__(self, items, r): self.items = items[5*r:5+9*r]
    def __iter__(self): return iter(self.items)


def replayed(probe, model, lr):
    "One process on all rows, with torch's own cross entropy"
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    every = both([(xb, y.plain(), y.w) for (xb,), (y,) in zip(probe.xs, probe.ys)])
    for steps in zip(*every):
        x, y = (torch.cat([o[i] for o in steps]) for i in range(2))
        w = torch.cat([torch.ones(len(o[0])) if o[2] is None else o[2] for o in steps])
        ls = F.cross_entropy(model(x), y, reduction='none')
        ((w*ls).sum()/w.sum()).backward()
        opt.step()
        opt.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), every


def trained(r, items, seed, dl2=None, **kw):
    "A fit of two processes, and the same steps in one"
    labeled = rows(*points(64, seed))
    dls = DataLoaders(TfmdDL(labeled, bs=16, shuffle=True, num_workers=0, device='cpu'),
                      TfmdDL(labeled[:20], bs=10, num_workers=0, device='cpu'))
    cb = NoisyStudent(DataLoader(items, bs=8) if dl2 is None else dl2, **kw)
    learn = pts_learner(cb, probe := Probe(), dls=dls, seed=seed)
    model = net()
    model.load_state_dict(both(learn.model.state_dict())[0])
    fit(learn, 2, .1, wd=0.)
    want, every = replayed(probe, model, .1)
    torch.testing.assert_close(params(learn), want, atol=1e-6, rtol=1e-5)
    return every


def check_gradients(r):
    "Rows of one weight, of one for each kind, and of their own: those of one process on all rows"
    for seed in range(2):
        x, _ = points(90, seed+5)
        w = torch.rand(90, generator=torch.Generator().manual_seed(seed))*(torch.arange(90) % 7 == 0).float()*20
        trained(r, rows(x, probs(x)), seed)
        trained(r, rows(x, probs(x)), seed, pseudolabel_sample_weight=.3, l2pl_ratio=1/3)
        every = trained(r, rows(x, probs(x), w), seed)
        sums = torch.tensor([[o[2].sum() for o in steps] for steps in every])
        assert (sums.max(0).values/sums.min(0).values).max() > 1.5, 'weights that differ between the processes'


def check_an_online_teacher(r):
    "Both have one average, one mean prediction and the same thresholds, and the steps are those of one process"
    x, _ = points(90, 7)
    dl2 = DataLoader(list(x), bs=8, device='cpu')
    every = trained(r, None, 3, dl2, teacher=EMATeacher(.8, min_conf=.5, soft=False))
    assert any(8 < o[2].sum() < 16 for steps in every for o in steps)
    teacher = EMATeacher(.8, min_conf=.4, prior='labeled', per_class=True)
    learn = pts_learner(NoisyStudent(dl2, teacher=teacher), dls=dls_of(), seed=r)  # weights that differ before the fit
    fit(learn, 3, .1)
    o = learn.noisy_student.online
    a, b = both([*o.avg.module.state_dict().values(), o.align.mean, o.align.counts, o.thresholds.last,
                 o.thresholds.counts])
    assert all(map(torch.equal, a, b))
    assert o.thresholds.counts.sum() == (o.thresholds.last >= 0).sum() > 0
    assert torch.equal(o.thresholds.counts, torch.bincount(o.thresholds.last+1, minlength=4)[1:])


def check_sizes_that_differ(r):
    x, _ = points(30, 3)
    w = torch.linspace(0, 2, 30)
    for items in (rows(x, probs(x)), rows(x, probs(x), w)):
        every = trained(r, items, 1, DataLoader(Short(items, r), bs=4))
        assert any(len(a[0]) != len(b[0]) for a, b in zip(*every))


def check_mixup(r):
    "It mixes losses, and asks for both halves: as many steps, finite, the same weights"
    x, _ = points(90, 5)
    learn = pts_learner(NoisyStudent(DataLoader(rows(x, probs(x), x[:, 0].abs()), bs=8)), MixUp(), dls=dls_of())
    fit(learn, 2, .01)
    a, b = both(params(learn))
    assert torch.equal(a, b) and torch.isfinite(a).all()


# --- traps

def check_lr_find(r):
    for cb in (NoisyStudent(DataLoader(rows(*points(9, 1)), bs=8)), StudentNoise(None)):
        learn = pts_learner(cb, dls=dls_of())
        with pytest.raises(ValueError, match='lr_find does not work in 2 processes'), learn.distrib_ctx():
            Learner.lr_find(learn, show_plot=False)


def check_batchnorm(r):
    for cb in (NoisyStudent(DataLoader(rows(*points(9, 1)), bs=8)), StudentNoise(None)):
        learn = pts_learner(cb, dls=dls_of(), model=net(bn=True))
        bar, log = quiet(learn)
        with bar, log, learn.distrib_ctx():
            with pytest.raises(ValueError, match=r'distrib_ctx\(sync_bn=False\)'): learn.fit(1)


def check_wrong_rank(r):
    "As accelerate's `debug_launcher` leaves it"
    learn = pts_learner(dls=dls_of())
    with pytest.MonkeyPatch.context() as m, learn.distrib_ctx(sync_bn=False):
        check_launch(learn)
        m.setenv('RANK', '0')
        if r == 0: return check_launch(learn)
        with pytest.raises(ValueError, match="process 1 of 2, but fastai takes it for 0 of 2"): check_launch(learn)


# --- a team

def check_team(r):
    "What the first one does, all have; its errors, too, as they are or in words"
    class Own(Exception): pass  # can't be pickled
    def fails(e): raise e
    with Team() as team:
        assert team.first(lambda: os.getpid()) == both(os.getpid())[0] and (team.rank, team.n_ranks) == (r, 2)
        assert team.first(lambda: ranks()) == (0, 1)
        with pytest.raises(BadValue, match='a said') as e: team.first(lambda: fails(BadValue('a', 1, said='a said')))
        assert e.value.argument == 'a'
        with pytest.raises(Own if r == 0 else BadValue, match='here' if r == 0 else 'ended with Own: here'):
            team.first(lambda: fails(Own('here')))
        assert team.first(lambda: 2) == 2, 'they are still together'


# --- labels and rounds

def check_labels(r): labels_of_two(Path.cwd()/'labels')


N = 90  # labeled rows, which make no whole number of batches


def make_plain(n_ranks):
    "A Learner without BatchNorm and without noise, whose combined batch has 16 rows"
    return lambda r: make(r, pts_dls(hard_rows(N, 1), bs=16//n_ranks, device='cpu'), net())


def plain_run(path, n_ranks, maker=None, **kw):
    args = dict(n_rounds=2, n_epoch=3, select=dict(n_per_class=40), noise=None, weak_teacher='warn', control=True,
                student=dict(bs=16//n_ranks, l2pl_ratio=1), finetune=dict(n_epoch=1, lr=.01), patience=None,
                online=dict(teacher=EMATeacher(.9, prior='labeled'), n_epoch=2))
    return self_train(maker or make_plain(n_ranks), UNLABELED, path=path, **args | kw)


def check_rounds(r):
    "Records and models of two processes are those of one at the same combined batch"
    run = plain_run('two', 2)
    with alone(): one = plain_run(f'one{r}', 1)
    a, b = (numbers(o) for o in (run, one))
    pd.testing.assert_frame_equal(a, b, check_exact=False, rtol=1e-4, atol=1e-5)
    assert a.accuracy.tolist() == b.accuracy.tolist() and len(a) == 6
    for k in run.recs:
        ws = [params(o.learner(k[2], k[0], k[1])) for o in (run, one)]
        torch.testing.assert_close(*ws, atol=1e-4, rtol=1e-4)
    pls = [o.labels(2) for o in (run, one)]
    assert len(list(Path('two/seed0/round2/labels').glob('part-*'))) == 2
    torch.testing.assert_close(*(torch.tensor(o.read(slice(None))) for o in pls), atol=2e-3, rtol=0)
    first, second = both(run.records.to_json())
    assert first == second
    with pytest.raises(ValueError, match=r'make_learner.bs=32 .*\(was 16\)'): plain_run('two', 1)  # of 2 x 16 rows


def check_choices(r):
    "Two processes choose what one chooses at the same combined batch, and train the same models"
    kw = dict(n_rounds=1, n_epoch=OneOf(1, 4), dl=dict(temperature=OneOf(1., .5)), finetune=None,
              online=OneOf(None, dict(teacher=EMATeacher(.9), n_epoch=1)), control=False)
    run = plain_run('chosen', 2, **kw)
    with alone(): one = plain_run(f'chosen{r}', 1, **kw)
    of_choice = ['argument', 'value', 'chosen']
    assert both(run.choices[of_choice].to_json()) == [one.choices[of_choice].to_json()]*2
    assert len(run.choices) == 6 and run.choices.chosen.sum() == 3
    pd.testing.assert_frame_equal(numbers(run), numbers(one), check_exact=False, rtol=1e-4, atol=1e-5)


class Noise(Callback):
    "What the noise adds to the first row of a batch, at each step"
    order, seen = 40, []
    def before_batch(self):
        if self.training: self.seen.append(torch.rand(1).item())


def check_noisy_rounds(r):
    "BatchNorm, noise and an average: each process draws its own noise, and both end with the same models"
    Noise.seen.clear()
    def noisy(r): return make(r, pts_dls(hard_rows(24, 1), bs=4, device='cpu'), cbs=Noise())
    run = train('noisy', noisy, n_rounds=1, n_epoch=2, student=dict(bs=6, l2pl_ratio=1/2))
    a, b = both((Noise.seen, [params(run.learner(i)) for i in range(2)], run.records.to_json()))
    assert len(a[0]) == len(b[0]) > 4 and not {*a[0]} & {*b[0]}
    assert all(map(torch.equal, a[1], b[1])) and a[2] == b[2] and len(run.records) == 2


class Dies(Callback):
    "The second process is killed in the training of the first student"
    def after_step(self):
        if os.environ.get('RANK') == '1' and self.epoch == 1 and hasattr(self.learn, 'noisy_student'): os._exit(9)


def die(_):
    "What the first process says where the second one is gone; then it goes on alone"
    def dying(n_ranks): return lambda r: make_plain(n_ranks)(r).add_cb(Dies())
    try: plain_run('killed', 2, dying(2))
    except Exception as e: Path('died').write_text('\n'.join([str(e), *e.__notes__]))
    with alone(): run = plain_run('killed', 1, dying(1))  # another number of processes
    run.records.to_json('resumed')
    os._exit(0)


CHECKS = {k.removeprefix('check_'): f for k, f in [*globals().items()]
          if k.startswith('check_') and f.__module__ == __name__}


def run(folder):
    "What went wrong in each of the checks, by its name, in a file for this process"
    r, res, todo = int(os.environ['RANK']), {}, os.environ.get('ONLY', ' '.join(CHECKS)).split()
    dist.init_process_group('gloo', timeout=timedelta(seconds=20))
    for k in todo:
        try: res[k] = CHECKS[k](r)
        except Exception:
            res[k] = traceback.format_exc()
            break  # the other one waits
    Path(folder, f'rank{r}.json').write_text(json.dumps(res))
    dist.barrier()
    os._exit(0)  # all is checked; how torch's threads end when the interpreter does is not ours

