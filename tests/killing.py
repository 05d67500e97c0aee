"What the scripts that kill have in common: a child works in a folder, and is killed until it comes to its end"
import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch


def fork(f, path):
    "The process id of a child that calls `f` with `path`"
    pid = os.fork()
    if pid: return pid
    try:
        torch.set_num_threads(1)  # OpenMP's threads are not in a fork: a child that waits for them waits for ever
        f(path)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def kill_until_done(f, path, rng, secs, done):
    "What `done` says of `path` at each kill: within `secs` seconds of the child's start, and a little later after each"
    res = []
    while True:
        pid = fork(f, path)
        # where a machine has become slower, a child still comes to its end
        time.sleep(rng.uniform(0, secs*1.05**len(res)))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, 'the child failed'
            return res
        res.append(done(path))
        assert len(res) < 60, f'no child comes to its end: killed at {res}'


def main(doc, run, report):
    "What a script does when it is called: `run(n, seed, folder)`, and `report` of what that gives"
    p = argparse.ArgumentParser(description=doc.split('\n')[0])
    p.add_argument('--n', type=int, default=20, help='folders or runs')
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp: print(report(run(a.n, a.seed, Path(tmp))))
