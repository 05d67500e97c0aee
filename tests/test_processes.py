"What a process can know of the others before there are any; what two of them do is in across/test_distributed.py"
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from fastai.torch_core import num_distrib, rank_distrib
from noisy_student_fastai.compat import broadcast_without_gpu
from noisy_student_fastai.files import in_use
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.processes import agreed, alone, check_launch, check_one_process, is_shared, ranks, ranks_of
from noisy_student_fastai.rounds.self_training import self_train
from noisy_student_fastai.student import NoisyStudent
from toys import pl_dl, pts_learner, quiet


@pytest.fixture
def imported(monkeypatch):
    "A script that has imported `fastai.distributed`, which wants several processes"
    module = SimpleNamespace(DistributedDL=type('DistributedDL', (), {}))
    monkeypatch.setitem(sys.modules, 'fastai.distributed', module)
    return module


SRUN = dict(SLURM_STEP_NUM_TASKS='2', SLURM_PROCID='1')
ONE_OF_MANY = dict(ACCELERATE_USE_CPU='True', MASTER_ADDR='127.0.0.1')


def as_started(monkeypatch, env):
    for k in ('WORLD_SIZE', 'RANK'): monkeypatch.delenv(k, raising=False)
    for k, v in env.items(): monkeypatch.setenv(k, v)


def fit(cb):
    learn = pts_learner(cb)
    bar, log = quiet(learn)
    with bar, log: learn.fit(1)


@pytest.mark.parametrize('cb', [lambda: NoisyStudent(pl_dl()), lambda: StudentNoise(None)])
@pytest.mark.parametrize('env,said', [(SRUN, 'srun has started 2 processes'),
                                      (ONE_OF_MANY, 'only process that `accelerate launch --cpu` has started')])
def test_processes_that_know_of_no_other(cb, env, said, imported, monkeypatch):
    as_started(monkeypatch, env)
    with pytest.raises(ValueError, match=said): fit(cb())
    monkeypatch.setenv('WORLD_SIZE', '1')
    fit(cb())


@pytest.mark.parametrize('env', [SRUN, ONE_OF_MANY])
def test_tasks_that_want_no_others(env, monkeypatch):
    "A script of its own in each task of `srun` has no use for `fastai.distributed`"
    as_started(monkeypatch, env)
    monkeypatch.delitem(sys.modules, 'fastai.distributed', raising=False)
    fit(NoisyStudent(pl_dl()))


@pytest.mark.parametrize('work', [lambda p: pts_learner().pseudolabel(torch.zeros(8, 2), p),
                                  lambda p: self_train(lambda r: pts_learner(), torch.zeros(8, 2), path=p)])
def test_tasks_that_share_a_folder(work, tmp_path, monkeypatch):
    "... hear what is wrong, whether the script knows of processes or not"
    as_started(monkeypatch, SRUN)
    with in_use(tmp_path), pytest.raises(ValueError, match='is in use: srun has started 2 .*WORLD_SIZE=1'):
        work(tmp_path)


@pytest.mark.parametrize('env', [dict(SLURM_STEP_NUM_TASKS='1'), dict(MASTER_ADDR='127.0.0.1'), {},
                                 dict(ACCELERATE_USE_CPU='false', MASTER_ADDR='127.0.0.1')])
def test_one_process_is_all_right(env, imported, monkeypatch):
    as_started(monkeypatch, env)
    check_launch(pts_learner())


def test_alone_ends_with_an_error(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '3')
    monkeypatch.setenv('RANK', '2')
    with pytest.raises(KeyError), alone():
        assert (num_distrib(), rank_distrib()) == (0, 0)
        raise KeyError
    assert (num_distrib(), rank_distrib()) == (3, 2)


@pytest.mark.parametrize('n,r,want', [('2', '1', (1, 2)), ('1', '', (0, 1)), ('', '', (0, 1))])
def test_ranks_of_the_environment(n, r, want, monkeypatch):
    as_started(monkeypatch, dict(WORLD_SIZE=n, RANK=r))
    assert ranks() == want and not is_shared(SimpleNamespace(model=torch.nn.Linear(1, 1), cbs=[]))
    with alone(): assert ranks() == (0, 1)


@pytest.mark.parametrize('r', ['', '2', 'first'])
def test_half_a_launch(r, monkeypatch):
    as_started(monkeypatch, dict(WORLD_SIZE='2', RANK=r))
    with pytest.raises(ValueError, match='expected the number of this process') as e: ranks()
    assert e.value.argument == 'RANK'


def test_what_several_processes_cannot_share(monkeypatch):
    as_started(monkeypatch, dict(WORLD_SIZE='2', RANK='0'))
    with pytest.raises(ValueError, match='WORLD_SIZE=2: expected 1 process'): check_one_process('cross_validate')


def test_a_group_of_one():
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try: assert agreed([1]) == [1] and not is_shared(pts_learner()) and ranks_of(pts_learner()) == (0, 1)
    finally: dist.destroy_process_group()


def test_a_broadcast_of_somebody_elses_stays(imported):
    def own(self, t, rank): return t
    imported.DistributedDL._broadcast = own
    broadcast_without_gpu()
    assert imported.DistributedDL._broadcast is own


def test_the_workaround(imported, monkeypatch):
    "It does what fastai's does, on the CPU"
    def fastais(self, t, rank): raise AssertionError('needs a GPU')
    fastais.__module__ = 'fastai.distributed'
    imported.DistributedDL._broadcast = fastais
    sent = []
    monkeypatch.setattr(torch.distributed, 'broadcast', lambda t, rank: sent.append((t.clone(), rank)))
    broadcast_without_gpu()
    assert imported.DistributedDL()._broadcast([2, 0, 1], 0) == [2, 0, 1]
    assert [(t.tolist(), r) for t, r in sent] == [([2, 0, 1], 0)]
