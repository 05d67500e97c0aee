"""Jupyter kernels that are forks of one process, which has imported torch and its like once for all of them

A kernel of its own spends most of a short page's time on these imports. `fastai` and `tsai` are not among them: they
patch classes of other packages, which would hide that a page lacks an import. Pages are run with kernels of their own
where their outputs are stored, so a page that lacks an import of `MODULES` is found there.
"""
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from jupyter_client import AsyncKernelManager

MODULES = 'torch torchvision scipy.stats sklearn.metrics pandas matplotlib.figure ipykernel.kernelapp'.split()
SUPPORTED = sys.platform == 'linux'  # libraries of macOS do not bear a fork without an exec


# --- in the process that is forked

def serve(sock):
    "Fork a kernel for each connection that comes through `sock`, until nobody holds its other end"
    # As kernels do before matplotlib reads it
    os.environ.setdefault('MPLBACKEND', 'module://matplotlib_inline.backend_inline')
    before = {*os.environ}
    for name in MODULES: import_module(name)
    # What imports have set is set in each kernel, but not where temporary files are: each kernel has its own place
    more = {k: v for k, v in os.environ.items() if k not in before and not v.startswith(tempfile.gettempdir())}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for those that watch the kernels
    while (got := socket.recv_fds(sock, 1, 1))[0]:
        with Connection(got[1][0]) as conn:
            if os.fork(): continue
            sock.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            start(conn, more)
    os._exit(0)  # nothing to clean up, and a lot to take down


def start(conn, more):
    "Fork the kernel that `conn` asks for; send its process id and, when it has ended, its exit status"
    asked = conn.recv()
    if not (pid := os.fork()):
        os.setsid()
        conn.close()
        be_kernel(asked['cmd'], more | asked['env'], asked['cwd'])
    conn.send(pid)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if conn.poll(.05):  # who asked for it is gone
            with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)  # it may not lead a group yet
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os._exit(1)
    conn.send(os.waitstatus_to_exitcode(ended[1]))
    os._exit(0)


def be_kernel(cmd, env, cwd):
    "What the process would be that `cmd` starts"
    import ipykernel_launcher
    import numpy as np
    import torch
    from ipykernel import kernelapp
    os.environ.clear()
    os.environ.update(env, JPY_PARENT_PID=str(os.getppid()))
    os.chdir(cwd)
    tempfile.tempdir = None  # found anew, in this environment
    np.random.seed()  # forks must not draw the same numbers; Python's own generator takes care of itself
    torch.seed()
    sys.argv = [ipykernel_launcher.__file__, *cmd[cmd.index('-f'):]]
    sys.exit(kernelapp.launch_new_instance(parent_handle=os.getppid()))


# --- in the process that runs notebooks

class Fork:
    "What a kernel manager uses of a `Popen`, for a kernel that comes from the process behind `sock`"
    stdin = stdout = stderr = returncode = None

    def __init__(self, sock, **asked):
        self.conn, its = Pipe()
        with its: socket.send_fds(sock, [b'k'], [its.fileno()])
        self.conn.send(asked)
        self.pid = self.conn.recv()

    def poll(self): return self.wait(0)

    def wait(self, timeout=None):
        if self.returncode is None and self.conn.poll(timeout):
            with self.conn: self.returncode = self.conn.recv()
        return self.returncode

    def send_signal(self, sig):
        if self.poll() is None: os.kill(self.pid, sig)


@contextmanager
def warm_kernels(env):
    "A class of kernel managers for `NotebookClient`; what Python reads from the environment as it starts is in `env`"
    ours, its = socket.socketpair()
    with its: server = subprocess.Popen([sys.executable, __file__, str(its.fileno())], env=env, pass_fds=[its.fileno()],
                                        start_new_session=True)  # Ctrl-C is for who manages the kernels

    class WarmKernels(AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd, **kw):
            p = self.provisioner.process = Fork(ours, cmd=kernel_cmd, env=kw['env'], cwd=kw['cwd'])
            self.provisioner.pid = self.provisioner.pgid = p.pid

    with server, ours: yield WarmKernels


if __name__ == '__main__':
    del sys.path[0]  # this folder, which is not in a kernel's path
    with socket.socket(fileno=int(sys.argv[1])) as s: serve(s)
