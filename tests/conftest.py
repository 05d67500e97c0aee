"Shared by all tests: where the project is, which set of versions they run on"
# ruff: noqa: E402
import gc

gc.disable()  # until all is imported and collected: seconds, for nothing
import faulthandler
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.util import Finalize
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))  # the tests use the tools as modules
from run_notebooks import environment
from slow_tests import Stopwatch, listed, test_of
from warm_kernels import SUPPORTED, warm_forks


def pytest_addoption(parser):
    parser.addoption('--set', default='stable', choices=['stable', 'latest'], help='the set of versions installed')
    parser.addoption('--note-slow', action='store_true',
                     help='measure all tests that run, and list the slow ones in tests/slow.txt')
    parser.addoption('--flags', default='', help='flags whose notebook cells run too, space separated')


SLOW = ROOT/'tests/slow.txt'


STDERR = pytest.StashKey()


def pytest_configure(config):
    config.stash[STDERR] = os.dup(2)
    keep_files_in_memory(config)
    if config.option.note_slow: config.pluginmanager.register(Stopwatch(SLOW))


def keep_files_in_memory(config):
    "No test needs a disk, and small files in memory take half the time; TMPDIR says where they are to stay instead"
    memory = '/dev/shm'
    if 'TMPDIR' in os.environ or not os.access(memory, os.W_OK) or os.statvfs(memory).f_flag & os.ST_NOEXEC: return
    if shutil.disk_usage(memory).free < 4 << 30: return  # a run leaves half a gigabyte
    for o in Path(memory).glob('tests-*-*'):  # of a run that was killed
        if not Path(f"/proc/{o.name.split('-')[1]}").exists(): shutil.rmtree(o, ignore_errors=True)
    os.environ['TMPDIR'] = tmp = tempfile.mkdtemp(prefix=f'tests-{os.getpid()}-', dir=memory)
    tempfile.tempdir = None  # found anew
    # After multiprocessing's own, which removes what it has there
    Finalize(None, partial(shutil.rmtree, tmp, ignore_errors=True), exitpriority=-200)


def pytest_report_header(config):
    def shown(name):
        try: return f'{name} {version(name)}'
        except PackageNotFoundError: return f'{name} missing'
    names = ['fastai', 'fastcore', 'fasttransform', 'torch'] + ['tsai'] * (config.option.set == 'stable')
    return f'{config.option.set} set: ' + ', '.join(map(shown, names))


def pytest_collection_modifyitems(config, items):
    "Some tests are for the stable set only, some need a GPU, some are slow; pytest says how many that leaves out"
    slow = set(listed(SLOW))
    for o in items:
        if test_of(o.nodeid) in slow: o.add_marker('slow')
    left_out = [] if config.option.set == 'stable' else ['tsai', 'nbdev', 'tools', 'ray']
    if not torch.cuda.is_available(): left_out.append('cuda')
    out = [o for o in items if any(map(o.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=out)
    items[:] = [o for o in items if o not in out]


def pytest_collection_finish():
    "What is imported stays to the end, so that the garbage collector need not look through it in each test"
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(5_000, 10, 20)  # tests that ask what is left behind collect it themselves


HANGS = 300  # seconds after which a test that hangs says where; pytest's own clock starts a thread for each test
begun = [float('-inf')]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if time.monotonic() > begun[0]+HANGS/10:
        begun[0] = time.monotonic()
        faulthandler.dump_traceback_later(HANGS, file=item.config.stash[STDERR])
    return (yield)


def pytest_unconfigure(config):
    faulthandler.cancel_dump_traceback_later()
    gc.unfreeze()  # some packages look whether all they made has gone


@pytest.fixture(scope='session', autouse=True)
def no_fsync():
    "Only a power cut loses what a process has written and not synced, and no test cuts the power: a tenth of the time"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(os, 'fsync', lambda fd: None)
        yield


@pytest.fixture(scope='session', autouse=True)
def no_gpus_to_seed():
    "Where there is no GPU, torch keeps for each seed where it was set, for the day that there is one"
    with pytest.MonkeyPatch.context() as m:
        if not torch.cuda.is_available(): m.setattr(torch.cuda, 'manual_seed_all', lambda seed: None)
        if not torch.xpu.is_available(): m.setattr(torch.xpu, 'manual_seed_all', lambda seed: None)
        yield


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def versions(pytestconfig): return pytestconfig.option.set


@pytest.fixture(scope='session')
def forks():
    "A class of kernel managers and a function that starts Python; all that they start share their first imports"
    with warm_forks(environment('')) as o: yield o


@pytest.fixture(scope='session')
def warm(request):
    "Arguments of `run_notebooks.run` for kernels that are forks, where the system can do that"
    if not SUPPORTED: return {}
    # A kernel that is asked to end takes two seconds for it
    return dict(kernel_manager_class=request.getfixturevalue('forks')[0], shutdown_kernel='immediate')


@pytest.fixture(scope='session')
def start_python(request):
    "A function that starts Python with some arguments, as `subprocess.Popen` does; a fork where the system can do that"
    return request.getfixturevalue('forks')[1] if SUPPORTED else popen


def popen(*args, **kw): return subprocess.Popen([sys.executable, *map(str, args)], **kw)


def ended(start, *args, **kw):
    "Exit status, stdout and stderr of a Python that `start` starts"
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        status = start(*args, stdout=out.fileno(), stderr=err.fileno(), **kw).wait()
        return status, *(o.seek(0) or o.read() for o in (out, err))


@pytest.fixture(scope='session')
def python(start_python, root, tmp_path_factory):
    "A function that runs Python to its end, without warnings and with this checkout's package: what it said on stdout"
    nowhere = tmp_path_factory.mktemp('nowhere')
    def _python(*args, cwd=nowhere, stderr=False, **env):
        env = os.environ | dict(PYTHONPATH=str(root), PYTHONWARNINGS='ignore', OMP_NUM_THREADS='1') | env
        status, *said = ended(start_python, *args, env=env, cwd=cwd)
        assert status == 0, said[1]
        return said if stderr else said[0]
    return _python


@pytest.fixture(scope='module')
def build_site():
    "A function that calls a file like docs/pages.py with arguments: exit status and what was said"
    code = 'import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name="__main__")'
    def build(start, *args):
        status, *said = ended(start, '-c', code, *args, env=os.environ, cwd='.')
        return status, ''.join(said)
    if not SUPPORTED: return (yield partial(build, popen))
    names = 'nbdev.processors nbdev.doclinks nbconvert sphinx.cmd.build sphinx.builders.html myst_nb.sphinx_ furo'
    with warm_forks(environment(''), names.split()) as (_, start): yield partial(build, start)


@pytest.fixture
def no_windows():
    "Figures are drawn in memory, and closed after the test"
    before = matplotlib.get_backend()
    plt.switch_backend('agg')
    yield
    plt.close('all')
    plt.switch_backend(before)


# --- small data; what makes them is imported where it is asked for

@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    from image_toys import digit_files
    return digit_files(tmp_path_factory.mktemp('digits'))


@pytest.fixture(scope='module')
def discs(tmp_path_factory):
    from mask_toys import disc_files
    return disc_files(tmp_path_factory.mktemp('discs'))


@pytest.fixture(scope='module')
def wine():
    from table_toys import wine_table
    return wine_table()


@pytest.fixture(scope='module')
def texts():
    from text_toys import text_table
    return text_table()
