"Two processes on the CPU, as `torchrun` starts them, and what they have found: launched.py"
import json
import os
import re
import socket
from pathlib import Path

import pandas as pd
import pytest
from noisy_student_fastai.rounds.run import Run
from rounds_toys import SEEDLESS

LAUNCHED = Path(__file__).parents[1]/'launched.py'


@pytest.fixture(scope='module')
def launch(root, start_python):
    "A function that starts a function of launched.py twice in a folder: exit statuses, and what both said"
    def _launch(f, tmp):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        env = os.environ | {'PYTHONPATH': os.pathsep.join([str(root), str(root/'tests')]), 'OMP_NUM_THREADS': '1',
                            'ACCELERATE_USE_CPU': 'true', 'PYTHONWARNINGS': 'ignore', 'WORLD_SIZE': '2',
                            'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
        with open(tmp/f'{f}_said', 'w') as said:
            ps = [start_python('-c', f'import launched; launched.{f}({str(tmp)!r})', cwd=tmp, stdout=said.fileno(),
                               stderr=said.fileno(), env=env | {'RANK': str(r), 'LOCAL_RANK': str(r)})
                  for r in range(2)]
            ended = [p.wait(240) for p in ps]
        return ended, (tmp/f'{f}_said').read_text()
    return _launch


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('launch')


@pytest.fixture(scope='module')
def found(folder, launch):
    "What went wrong in each check, in the first process and in the second"
    _, said = launch('run', folder)
    files = [folder/f'rank{r}.json' for r in range(2)]
    assert all(o.exists() for o in files), said[-4000:]
    return [json.loads(o.read_text()) for o in files]


@pytest.mark.parametrize('name', re.findall(r'^def check_(\w+)', LAUNCHED.read_text(), flags=re.M))
def test_two_processes(found, name):
    assert [o.get(name, 'not reached') for o in found] == [None, None]


def test_a_process_that_dies(found, folder, launch):
    "The other one says so, and whoever goes on comes to the records of a run that nothing disturbed"
    assert (folder/'two'/'records.csv').exists()
    (first, second), said = launch('die', folder)
    assert second == 9 and (folder/'died').exists(), said[-4000:]
    for o in ('kept in killed: the same call resumes', 'process 0 of 2. No answer from process 1'):
        assert o in (folder/'died').read_text()
    assert first == 0, said[-4000:]
    got, want = pd.read_json(folder/'resumed'), Run.open(folder/'two').records
    pd.testing.assert_frame_equal(got.drop(columns=SEEDLESS), want.drop(columns=SEEDLESS), check_exact=False,
                                  rtol=1e-4, atol=1e-5, check_dtype=False)
