"The parts of tools/gpu.sh run through, on the CPU at tiny settings, and its page says how each went"
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from fastai.callback.core import Callback

sys.path.insert(0, str(ROOT/'benchmarks'))
import gpu  # noqa: E402
import noise  # noqa: E402
import step  # noqa: E402

TINY = dict(step=['--sizes', 'small', '--rounds', '2', '--steps', '2', '--bs', '8'],
            images=['--bs', '2', '--size', '16', '--rounds', '2', '--threads', '1'])


@pytest.mark.parametrize('name, script', [('step', step), ('images', noise)])
def test_scripts_of_others(name, script, monkeypatch, capsys):
    "Their arguments are known to them"
    argv = ['cpu' if o == 'cuda' else o for o in gpu.PARTS[name][0]]
    assert argv != gpu.PARTS[name][0] and (ROOT/argv[0]).samefile(script.__file__)
    monkeypatch.setitem(sys.modules, 'tsai', None)  # it takes seconds to import
    monkeypatch.setattr(sys, 'argv', [*argv, *TINY[name]])
    script.main()
    out = capsys.readouterr().out
    assert dict(step='ours, weight .5', images='torchvision, PIL, nearest')[name] in out


def test_labels(capsys):
    "What is compared are the same probabilities"
    argv = [*gpu.PARTS['labels'][0][1:], '--device', 'cpu', '--n', '6', '--bs', '3', '--size', '32', '--rounds', '1',
            '--model', 'resnet18']
    secs, far = gpu.labels(gpu.arguments(argv))
    assert set(map(len, secs.values())) == {1} and far < 1e-3 and 'in memory, top_k=64' in capsys.readouterr().out


def test_compiled_students_are_one_graph(capsys):
    "... which the first step makes, and no later one makes anew"
    argv = [*gpu.PARTS['compile'][0][1:], '--device', 'cpu', '--bs', '8', '--steps', '3', '--backend', 'eager']
    assert gpu.compiled(gpu.arguments(argv), gpu.SIDES[2:]) == {'NoisyStudent, StudentNoise': [1]*6}
    assert 'NoisyStudent, StudentNoise' in capsys.readouterr().out


def test_what_changes_is_another_graph(monkeypatch):
    "So the count could have told"
    a = gpu.arguments(['--device', 'cpu', '--bs', '8', '--steps', '3', '--backend', 'eager'])
    monkeypatch.setattr(gpu, 'student', lambda *args, f=gpu.student: with_changes(*f(*args)))
    assert gpu.compiled(a, ['plain'])['plain'][-1] > 1


class Changing(torch.nn.Module):
    names = 'ab'
    def forward(self, x): return x*2 if self.names[0] == 'a' else x*3


def with_changes(learn, counter):
    last = Changing()
    learn.model = torch.compile(torch.nn.Sequential(learn.model._orig_mod, last), backend=counter)
    learn.add_cb(Callback(before_batch=lambda self: setattr(last, 'names', last.names[::-1])))
    return learn, counter


def test_tests_are_those_that_need_a_gpu():
    file = gpu.PARTS['tests'][0][-1]
    assert 'pytestmark = pytest.mark.cuda' in (ROOT/file).read_text()


def test_page(tmp_path, monkeypatch):
    "Limits hold, failures are seen, and all is over in ten minutes"
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 590
    parts = [gpu.run('a', 9, ['-c', 'print(7)']), gpu.run('b', 9, ['-c', 'print(8); raise SystemExit(3)']),
             gpu.run('c', .3, ['-c', 'import time; print(9, flush=True); time.sleep(9)'])]
    assert [o.split(',')[0] for o, _ in parts] == ['a: done', 'b: failed (3)', 'c: stopped after 0.3 s']
    assert [o for _, o in parts][:2] == ['7', '8']
    page = gpu.as_markdown('NVIDIA H1', parts)
    assert 'on NVIDIA H1, ' in page and '**a: done, ' in page and '```\n7\n```' in page
    import runs
    monkeypatch.setattr(runs, 'RESULTS', tmp_path)
    monkeypatch.setattr(runs, 'PAGE', tmp_path/'README.md')
    (tmp_path/'README.md').write_text('<!-- gpu -->\n<!-- end -->\n')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'NVIDIA H1')
    monkeypatch.setattr(gpu, 'PARTS', dict(a=(['-c', 'print(7)'], 9), b=(['-c', 'raise SystemExit(3)'], 9)))
    assert gpu.run_all() == 1
    assert (tmp_path/'gpu.md').read_text() in (tmp_path/'README.md').read_text()
    assert 'b: failed (3)' in (tmp_path/'gpu.md').read_text()


def test_page_has_a_place(): assert '<!-- gpu -->\n' in (ROOT/'benchmarks/README.md').read_text()


def test_shell(tmp_path):
    "It takes the interpreter that is named"
    fake = tmp_path/'python'
    fake.write_text('#!/bin/sh\necho "$@" "$PYTHONPATH"\nexit 2\n')
    fake.chmod(0o755)
    env = {'PATH': os.environ['PATH'], 'PYTHON': str(fake)}
    o = subprocess.run(['sh', 'tools/gpu.sh'], cwd=ROOT, env=env, capture_output=True, text=True)
    assert o.returncode == 2 and o.stdout == f'benchmarks/gpu.py {ROOT}\n'
