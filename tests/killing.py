"What the scripts that kill have in common: a child works in a folder, and is killed until it comes to its end"
import os
import signal
import sys
import time
import traceback


def fork(f, path):
    "The process id of a child that calls `f` with `path`"
    pid = os.fork()
    if pid: return pid
    try:
        f(path)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def kill_until_done(f, path, rng, secs, done):
    "What `done` says of `path` at each kill, which comes within `secs` seconds of the child's start"
    res = []
    while True:
        pid = fork(f, path)
        time.sleep(rng.uniform(0, secs))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, 'the child failed'
            return res
        res.append(done(path))
