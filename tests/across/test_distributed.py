"Two processes on the CPU, as `torchrun` starts them, and what they have found: launched.py"
import json
import os
import re
import socket
from pathlib import Path

import pytest

LAUNCHED = Path(__file__).parents[1]/'launched.py'


@pytest.fixture(scope='module')
def found(tmp_path_factory, root, start_python):
    "What went wrong in each check, in the first process and in the second"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    tmp = tmp_path_factory.mktemp('launch')
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(root), str(root/'tests')]), 'OMP_NUM_THREADS': '1',
                        'ACCELERATE_USE_CPU': 'true', 'PYTHONWARNINGS': 'ignore', 'WORLD_SIZE': '2',
                        'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    with open(tmp/'said', 'w') as f:
        ps = [start_python('-c', f'import launched; launched.run({str(tmp)!r})', cwd=tmp, stdout=f.fileno(),
                           stderr=f.fileno(), env=env | {'RANK': str(r), 'LOCAL_RANK': str(r)}) for r in range(2)]
        for p in ps: p.wait(240)
    files = [tmp/f'rank{r}.json' for r in range(2)]
    assert all(o.exists() for o in files), (tmp/'said').read_text()[-4000:]
    return [json.loads(o.read_text()) for o in files]


@pytest.mark.parametrize('name', re.findall(r'^def check_(\w+)', LAUNCHED.read_text(), flags=re.M))
def test_two_processes(found, name):
    assert [o.get(name, 'not reached') for o in found] == [None, None]
