"Which tests are left out of `make check`: what is measured, and whether it is still there"
import re
import subprocess
import sys

import pytest
from run_notebooks import ROOT
from slow_tests import listed

pytestmark = pytest.mark.tools

CONFTEST = '''
from pathlib import Path
import slow_tests
from slow_tests import Stopwatch
slow_tests.LIMIT = .15
def pytest_configure(config): config.pluginmanager.register(Stopwatch(Path('slow.txt')))
'''

TESTS = '''
import subprocess, sys, time, pytest
BUSY = 'import time\\nwhile time.process_time() < .2: pass'

def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass

@pytest.fixture(scope='module')
def shared(): busy(.2)
@pytest.fixture
def own(): busy(.2)

def test_quick(): pass
def test_waits(): time.sleep(.2)
def test_busy(): busy(.2)
def test_child(): subprocess.run([sys.executable, '-c', BUSY])
@pytest.mark.parametrize('i', range(3))
def test_parameters(i): busy(.08)
def test_first(shared): pass
def test_second(shared): pass
def test_own(own): pass
class TestClass:
    def test_fails(self): busy(.2); assert False
'''

SLOW = ['test_a.py::TestClass::test_fails', 'test_a.py::test_busy', 'test_a.py::test_child', 'test_a.py::test_first',
        'test_a.py::test_own', 'test_a.py::test_parameters', 'test_a.py::test_second']


def test_what_is_noted(tmp_path):
    "CPU time, that of shared data too; what is known of other files stays, unless they are gone"
    for k, v in {'conftest.py': CONFTEST, 'test_a.py': TESTS, 'test_b.py': '', 'pytest.ini': '[pytest]'}.items():
        (tmp_path/k).write_text(v)
    (tmp_path/'slow.txt').write_text('test_a.py::test_quick\ntest_b.py::test_b\ntest_gone.py::test_c\n')
    code = f'import sys, pytest; sys.path.insert(0, {str(ROOT/"tools")!r}); pytest.main(["-q", "test_a.py"])'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True)
    assert listed(tmp_path/'slow.txt') == [*SLOW, 'test_b.py::test_b']


def test_slow_tests_are_there():
    "Otherwise: `python -m pytest --note-slow FILES`"
    def is_there(o):
        file, *names = o.split('::')
        return all(re.search(rf'^ *(def|class) {n}\b', (ROOT/file).read_text(), flags=re.M) for n in names)
    assert [o for o in listed(ROOT/'tests/slow.txt') if not (ROOT/o.split('::')[0]).exists() or not is_there(o)] == []
