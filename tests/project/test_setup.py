"tools/setup.sh with a make-believe Python that downloads nothing: what it says, what it does after an interrupt"
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tools

# A Python that can be old, lack venv, or fail in pip; its environments hold the same script
FAKE = '''#!/bin/sh
[ "$1 $2" = "-m venv" ] && {{ [ -z "$NO_VENV" ] || exit 1; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; }}
[ "$1 $2" = "-m pip" ] && {{
    echo "$@"; touch "${{0%/bin/python}}/half"; [ -z "$KILL" ] || kill -KILL $PPID; exit ${{PIP:-0}}
}}
case "$2" in
    *ensurepip*) [ -z "$NO_ENSUREPIP" ]; exit;;
    *'sys.exit(sys.version_info'*) [ -z "$OLD" ]; exit;;
    *print*) echo "${{OLD:-3.11.7}}"; exit;;
esac
exec '{python}' "$@"
'''


@pytest.fixture
def setup(root, tmp_path):
    "Run set-up in a folder with a space in its name; returns exit status and what it said"
    top = tmp_path/'a clone'
    (top/'tools').mkdir(parents=True)
    for o in ('tools/setup.sh', 'settings.ini'): shutil.copy(root/o, top/o)
    python = top/'fake python'
    python.write_text(FAKE.format(python=sys.executable))
    python.chmod(0o755)
    def _setup(**env):
        env = os.environ | {'PYTHON': str(python)} | env
        res = subprocess.run(['tools/setup.sh', 'stable', '.venv'], cwd=top, env=env, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return res.returncode, res.stdout
    _setup.venv = top/'.venv'
    return _setup


@pytest.mark.parametrize('env,said', [
    ({'PYTHON': '/no/such/python'}, "no Python runs as '/no/such/python': install Python 3.11 or newer"),
    ({'OLD': '3.9.18'}, 'is Python 3.9.18, too old: install Python 3.11 or newer'),
    ({'NO_ENSUREPIP': '1'}, "apt-get install python3-venv"),
    ({'NO_VENV': '1'}, "apt-get install python3-venv"),
    ({'PIP': '1'}, 'pip install failed (exit status 1)')])
def test_one_clear_line(setup, env, said):
    status, out = setup(**env)
    assert status == 1 and said in out.splitlines()[-1]
    assert not (setup.venv/'.stamp').exists()


def test_set_up(setup):
    status, out = setup()
    assert (status, len(out.splitlines())) == (0, 1) and out.startswith('Setting up .venv')
    assert (setup.venv/'.stamp').exists() and not (setup.venv/'.setting-up').exists()
    said = (setup.venv/'setup.log').read_text()
    assert "-c constraints.txt -e .[dev]" in said and "--no-deps -c constraints.txt aeon" in said


def test_new_requirements_keep_the_environment(setup):
    setup()
    (setup.venv/'kept').touch()
    status, out = setup()
    assert status == 0 and out.startswith('Bringing .venv up to date') and (setup.venv/'kept').exists()


@pytest.mark.parametrize('first', [{}, None], ids=['new', 'update'])
def test_interrupted(setup, first):
    "Killed in the middle of pip, whether a new environment or an update: the next set-up starts anew"
    if first is None: setup()
    assert setup(KILL='1')[0] != 0
    assert (setup.venv/'half').exists() and not (setup.venv/'.stamp').exists()
    (setup.venv/'broken').touch()
    status, out = setup()
    assert status == 0 and out.startswith('Setting up') and (setup.venv/'.stamp').exists()
    assert not (setup.venv/'broken').exists()


def test_python_gone(setup):
    setup()
    (setup.venv/'bin/python').unlink()
    status, out = setup()
    assert status == 0 and out.startswith('Setting up')


def test_environment_of_somebody_else_is_not_deleted(setup):
    setup()
    (setup.venv/'.stamp').unlink()
    (setup.venv/'theirs').touch()
    assert setup(PIP='1')[0] == 1
    assert setup()[0] == 0 and (setup.venv/'theirs').exists()


def test_two_at_once(setup):
    setup.venv.mkdir()
    (setup.venv/'.setting-up').write_text(f'ours {os.getpid()}\n')
    status, out = setup()
    assert status == 1 and f'process {os.getpid()} is setting up .venv: wait for it' in out
