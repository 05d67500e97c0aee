"""`self_train` is killed (SIGKILL) at random moments until it comes to its end; its records and models must not show it

    python tests/kill_rounds.py --n 20 --seed 0    # 20 runs under kills, compared with one that nothing disturbed

A child is a fork of this process, so that nothing has to be imported again. It trains a teacher, two students, one of
them on with an online teacher, the last step without noise and a control, on points around three corners of the
plane.
"""
import random
import time
from contextlib import redirect_stdout
from io import StringIO

import pandas as pd
import torch
from fastai.callback.core import Callback
from killing import kill_until_done, main
from noisy_student_fastai.noise.rows import one_thread
from noisy_student_fastai.online import EMATeacher
from rounds_toys import UNLABELED, held_out_dl, make, numbers, train
from toys import net


class Slow(Callback):
    "A model that takes its time"
    def after_pred(self): time.sleep(.001)


def make_slow(r): return make(r, model=net(bn=True) if r == 0 else net(c=3), cbs=Slow())


def go_on(path):
    "A whole run, from wherever the folder says"
    return train(path, make_slow, patience=None, online=dict(teacher=EMATeacher(.9)), finetune=dict(n_epoch=2, lr=.01),
                 control=True, test=held_out_dl())


def go_on_quietly(path):
    with redirect_stdout(StringIO()): go_on(path)


def n_finished(path): return len(list(path.glob('seed*/*/record.json')))


def outcome(run):
    "What a run says and does: records, and the outputs of all its models"
    x, df = torch.tensor(UNLABELED), numbers(run)
    outs = {}
    for o in df.itertuples():
        model = run.learner(o.round, role=o.role).model.eval()
        with torch.no_grad(): outs[o.role, o.round] = model(x)
    return df, outs, run.best


def check_same(got, want):
    pd.testing.assert_frame_equal(got[0], want[0], check_exact=True)
    assert got[1].keys() == want[1].keys() and all(torch.equal(o, want[1][k]) for k, o in got[1].items())
    assert got[2] == want[2]


@one_thread()  # threads change the order of sums, and are not in a fork
def run(n, seed, tmp):
    "Raise an AssertionError if a run differs; models finished at each kill of each of the `n` runs"
    rng, res = random.Random(seed), []
    go_on(tmp/'warm')  # the first training of a process is slow
    start = time.time()
    want = outcome(go_on(tmp/'calm'))
    secs = time.time()-start
    assert len(want[0]) == 6 and len(want[1]) == 6
    for i in range(n):
        path = tmp/str(i)
        # one run does not get through, several do
        done = kill_until_done(go_on_quietly, path, rng, .6*secs, n_finished)
        check_same(outcome(go_on(path)), want)
        assert sorted(o.name for o in path.iterdir()) == ['records.csv', 'run.json', 'seed0']
        assert not list(path.rglob('*.tmp')), list(path.rglob('*.tmp'))
        res.append(done)
    return res


def report(res):
    "What came of runs that were killed"
    n_in = sum(0 < o < 6 for done in res for o in done)
    return (f'{len(res)} runs, killed {sum(map(len, res))} times ({n_in} of them between the first and the last of 6 '
            f'models): all with the records and the models of an undisturbed run. Models finished at each kill: {res}')


if __name__ == '__main__': main(__doc__, run, report)
