"""Jupyter kernels and Pythons that are forks of one process, which has imported torch and its like once for all of them

A process of its own spends most of a short page's or script's time on these imports. `fastai` and `tsai` are not among
them: they patch classes of other packages, which would hide that a page lacks an import. Pages are run with kernels of
their own where their outputs are stored, so a page that lacks an import of `MODULES` is found there.
"""
import atexit
import gc
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import Empty
from types import ModuleType

from jupyter_client import AsyncKernelClient, AsyncKernelManager

MODULES = ('torch torchvision timm scipy.stats sklearn.metrics sklearn.linear_model pandas matplotlib.figure plum '
           'requests starlette.applications ipykernel.kernelapp').split()
SUPPORTED = sys.platform == 'linux'  # libraries of macOS do not bear a fork without an exec


# --- in the process that is forked

def serve(sock, modules):
    "Import `modules`, and fork for each connection that comes through `sock`, until nobody holds its other end"
    # As kernels do before matplotlib reads it
    os.environ.setdefault('MPLBACKEND', 'module://matplotlib_inline.backend_inline')
    before = {*os.environ}
    gc.disable()
    for name in modules: import_module(name)
    gc.collect()
    gc.enable()
    gc.freeze()  # forks need not look through it, which would copy the pages of memory that they share
    gc.set_threshold(5_000, 10, 20)  # nor often through what they make
    # What imports have set is set in each kernel, but not where temporary files are: each kernel has its own place
    more = {k: v for k, v in os.environ.items() if k not in before and not v.startswith(tempfile.gettempdir())}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for those that watch the forks
    while (got := socket.recv_fds(sock, 1, 3))[0]:
        conn, *streams = got[1]
        with Connection(conn) as conn:
            if not os.fork():
                sock.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                start(conn, streams, more)
        for o in streams: os.close(o)
    os._exit(0)  # nothing to clean up, and a lot to take down


def start(conn, streams, more):
    """Fork what `conn` asks for, with its `streams`, if any, as stdout and stderr; send its process id and, when it has
    ended, its exit status and the CPU time it took"""
    asked = conn.recv()
    if not (pid := os.fork()):
        os.setsid()
        conn.close()
        be(asked['env'] if streams else more | asked['env'], asked['cwd'])
        if streams: be_python(*asked['cmd'], streams=streams)
        be_kernel(asked['cmd'])
    for o in streams: os.close(o)
    conn.send(pid)
    if conn in wait([conn, os.pidfd_open(pid)]):  # who asked for it is gone
        with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)  # it may not lead a group yet
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os._exit(1)
    _, status, use = os.wait4(pid, 0)
    conn.send((os.waitstatus_to_exitcode(status), use.ru_utime + use.ru_stime))
    os._exit(0)


def be(env, cwd):
    "Where a process is that was started with `env` in the folder `cwd`"
    of = lambda env: [o for o in env.get('PYTHONPATH', '').split(os.pathsep) if o]
    sys.path[:] = of(env) + [o for o in sys.path if o not in of(os.environ)]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None  # found anew, in this environment
    atexit.register(gc.unfreeze)  # some packages look whether all they made has gone
    # Forks must not draw the same numbers; Python's own generator takes care of itself
    if np := sys.modules.get('numpy'): np.random.seed()
    if torch := sys.modules.get('torch'): torch.seed()


def be_kernel(cmd):
    "What the process would be that `cmd` starts"
    import ipykernel_launcher
    from ipykernel import kernelapp
    os.environ['JPY_PARENT_PID'] = str(os.getppid())
    sys.argv = [ipykernel_launcher.__file__, *cmd[cmd.index('-f'):]]
    sys.exit(kernelapp.launch_new_instance(parent_handle=os.getppid()))


def be_python(kind, what, *args, streams):
    "What `python -c CODE ...` or `python -m MODULE ...` would be, with lines that are written at once"
    for fd, old, name in zip((1, 2), streams, ('stdout', 'stderr')):
        os.dup2(old, fd)
        setattr(sys, name, open(fd, 'w', buffering=1, closefd=False))
    sys.argv = [kind, *args]
    if kind == '-c':
        sys.path.insert(0, '')
        main = sys.modules['__main__'] = ModuleType('__main__')
        exec(compile(what, '<string>', 'exec'), vars(main))
    else: runpy.run_module(what, run_name='__main__', alter_sys=True)
    sys.exit()


# --- in the process that runs notebooks

class Fork:
    "What a kernel manager uses of a `Popen`, for a process that comes from the one behind `sock`"
    stdin = stdout = stderr = returncode = None
    seconds = 0  # of CPU time, of all that have ended

    def __init__(self, sock, *streams, **asked):
        self.conn, its = Pipe()
        with its: socket.send_fds(sock, [b'k'], [its.fileno(), *streams])
        self.conn.send(asked)
        self.pid = self.conn.recv()

    def poll(self): return self.wait(0)

    def wait(self, timeout=None):
        if self.returncode is None and self.conn.poll(timeout):
            with self.conn: self.returncode, seconds = self.conn.recv()
            Fork.seconds += seconds
        return self.returncode

    def send_signal(self, sig):
        if self.poll() is None: os.kill(self.pid, sig)


class Prompt(AsyncKernelClient):
    "Begins once the kernel answers, where jupyter_client waits a fifth of a second for what else it may say"
    async def wait_for_ready(self, timeout=60):
        until = time.time() + timeout
        while time.time() < until:
            self.kernel_info()
            with suppress(Empty):
                await self.shell_channel.get_msg(timeout=1)
                return await self.iopub_channel.get_msg(timeout=.2)  # this one is connected, too
        raise RuntimeError(f'the kernel did not answer within {timeout} s')


@contextmanager
def warm_forks(env, modules=MODULES):
    """A class of kernel managers for `NotebookClient`, and a function that starts Python with arguments, environment,
    folder and the numbers of two open files; what Python reads from the environment as it starts is in `env`"""
    ours, its = socket.socketpair()
    with its: server = subprocess.Popen([sys.executable, __file__, str(its.fileno()), *modules], env=env,
                                        pass_fds=[its.fileno()],
                                        start_new_session=True)  # Ctrl-C is for who manages the kernels

    class WarmKernels(AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd, **kw):
            p = self.provisioner.process = Fork(ours, cmd=kernel_cmd, env=kw['env'], cwd=kw['cwd'])
            self.provisioner.pid = self.provisioner.pgid = p.pid
            self.client_factory = Prompt

        async def _async_wait(self, pollinterval=.1): await super()._async_wait(.005)

    def python(*args, stdout, stderr, env, cwd):
        return Fork(ours, stdout, stderr, cmd=[*map(str, args)], env={**env}, cwd=str(cwd))

    with server, ours: yield WarmKernels, python


if __name__ == '__main__':
    del sys.path[0]  # this folder, which is not in a kernel's path
    with socket.socket(fileno=int(sys.argv[1])) as s: serve(s, sys.argv[2:])
