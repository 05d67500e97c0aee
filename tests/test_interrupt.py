"Ctrl-C in the middle of a batch: a child process gets a real SIGINT, and its Learner must be as good as new"
import os
import signal
import subprocess
import sys
import time

import pytest

CHILD = '''
import copy, sys, time
import torch
from fastai.callback.core import Callback
from fastai.learner import load_learner
from noisy_student_fastai.all import NoisyStudent
from toys import *

class Rows(list):
    def new_empty(self): return Rows()

class Slow(Callback):
    order, run_valid = 45, False
    def {event}(self):
        if not done:
            print('training', flush=True)
            time.sleep(.2)

done = []
dls = pts_dls()
for dl in dls.loaders: dl.dataset = Rows(dl.dataset)
dl2 = pl_dl(num_workers={workers})
learn = pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3, pseudolabel_sample_weight=.5, log_losses=True), Slow(), dls=dls)
learn.path = __import__('pathlib').Path(sys.argv[1])
before = learn.loss_func, dls.train.bs, dls.train.after_batch.fs, learn.metrics, dl2.bs
try: learn.fit(1000)
except KeyboardInterrupt: print('interrupted', flush=True)
else: sys.exit('not interrupted')
done.append(1)
with learn.no_bar(), learn.no_logging():
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
    after = learn.loss_func, dls.train.bs, dls.train.after_batch.fs, learn.metrics, dl2.bs
    assert before[0] is after[0] and list(before[3]) == list(after[3]) and before[1::3] == after[1::3], (before, after)
    want = learn.get_preds()[0]
    learn.export('b.pkl')
    learn.save('c')
    learn.load('c')
x = torch.stack([o[0] for o in dls.valid.dataset])
assert torch.allclose(load_learner(learn.path/'b.pkl').model.eval()(x).softmax(1), want, atol=1e-6)
print('as good as new', flush=True)
'''


@pytest.mark.parametrize('event,workers', [('before_batch', 0), ('after_pred', 0), ('before_step', 2), ('after_batch', 2)])
def test_sigint(tmp_path, root, event, workers):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), str(root/'tests'), os.environ.get('PYTHONPATH', '')]),
           'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    # a child of a background job ignores SIGINT unless it is told not to
    child = subprocess.Popen([sys.executable, '-c', CHILD.format(event=event, workers=workers), str(tmp_path)], env=env, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        n = 0
        while n < 3: n += 'training' in child.stdout.readline() or child.poll() is not None
        time.sleep(.05)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    finally: child.kill()
    assert child.returncode == 0, err[-3000:]
    assert 'interrupted' in out and 'as good as new' in out
