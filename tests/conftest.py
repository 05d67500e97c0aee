"Shared by all tests: where the project is, which set of versions they run on"
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))  # the tests use the tools as modules
from run_notebooks import environment
from slow_tests import Stopwatch, listed, test_of
from warm_kernels import SUPPORTED, warm_kernels


def pytest_addoption(parser):
    parser.addoption('--set', default='stable', choices=['stable', 'latest'], help='the set of versions installed')
    parser.addoption('--note-slow', action='store_true',
                     help='measure all tests that run, and list the slow ones in tests/slow.txt')
    parser.addoption('--flags', default='', help='flags whose notebook cells run too, space separated')


SLOW = ROOT/'tests/slow.txt'


def pytest_configure(config):
    if config.option.note_slow: config.pluginmanager.register(Stopwatch(SLOW))


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
    left_out = [] if config.option.set == 'stable' else ['tsai', 'nbdev', 'tools']
    if not torch.cuda.is_available(): left_out.append('cuda')
    out = [o for o in items if any(map(o.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=out)
    items[:] = [o for o in items if o not in out]


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def versions(pytestconfig): return pytestconfig.option.set


@pytest.fixture(scope='module')
def warm():
    "Arguments of `run_notebooks.run` for kernels that share their first imports, where the system can do that"
    if not SUPPORTED: return (yield {})
    # A kernel that is asked to end takes two seconds for it
    with warm_kernels(environment('')) as kernels: yield dict(kernel_manager_class=kernels, shutdown_kernel='immediate')


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
