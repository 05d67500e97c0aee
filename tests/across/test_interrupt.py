"Ctrl-C in the middle of a batch: a child process gets a real SIGINT, and its Learner must be as good as new"
import copy
import os
import signal
import time
from multiprocessing import Pipe

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import load_learner
from killing import fork
from noisy_student_fastai.all import NoisyStudent
from toys import Probe, pl_dl, pts_dls, pts_learner


class Rows(list):
    def new_empty(self): return Rows()


class Slow(Callback):
    "Takes its time at one event of each batch, and says so"
    order, run_valid = 45, False
    def __init__(self, event, say):
        self.say = say
        setattr(self, event, self.pause)

    def pause(self):
        self.say('training')
        time.sleep(.2)


def child(path, event, workers, say):
    "Train until SIGINT comes; then train, predict, copy, export and load as if nothing had been"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would ignore it
    dls = pts_dls()
    for dl in dls.loaders: dl.dataset = Rows(dl.dataset)
    dl2 = pl_dl(num_workers=workers)
    learn = pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3, pseudolabel_sample_weight=.5, log_losses=True),
                        Slow(event, say), dls=dls)
    learn.path = path
    state = lambda: (learn.loss_func, dls.train.bs, dls.train.after_batch.fs, learn.metrics, dl2.bs)
    before = state()
    with pytest.raises(KeyboardInterrupt): learn.fit(1000)
    say('interrupted')
    with learn.no_bar(), learn.no_logging(): check(learn, before, state)
    say('as good as new')


def check(learn, before, state):
    preds = learn.get_preds()[0]
    assert torch.allclose(preds.sum(1), torch.ones(50))
    learn.remove_cb(Slow)
    copy.deepcopy(learn)
    learn.export('a.pkl')
    assert (learn.path/'a.pkl').stat().st_size < 40_000
    probe = Probe()
    learn.fit(2, cbs=probe)
    assert [len(x) for x, in probe.xs] == [32]*16
    assert all(len(v) == 5 for v in learn.recorder.values)
    after = state()
    assert before[0] is after[0] and list(before[3]) == list(after[3]) and before[1::3] == after[1::3], (before, after)
    want = learn.get_preds()[0]
    learn.export('b.pkl')
    learn.save('c')
    learn.load('c')
    x = torch.stack([o[0] for o in learn.dls.valid.dataset])
    assert torch.allclose(load_learner(learn.path/'b.pkl').model.eval()(x).softmax(1), want, atol=1e-6)


@pytest.mark.parametrize('event,workers', [('before_batch', 0), ('after_pred', 0), ('before_step', 2),
                                           ('after_batch', 2)])
def test_sigint(tmp_path, event, workers):
    ours, its = Pipe(duplex=False)
    def next_said():
        assert ours.poll(120), 'the child says nothing'
        return ours.recv()
    pid = fork(lambda path: child(path, event, workers, its.send), tmp_path)
    its.close()
    try:
        assert [next_said() for _ in range(3)] == ['training']*3
        time.sleep(.05)
        os.kill(pid, signal.SIGINT)
        while (said := next_said()) == 'training': pass
        assert [said, next_said()] == ['interrupted', 'as good as new']
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally: status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0
