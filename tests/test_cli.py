"The main job as a child process: what it prints, writes and returns, on a terminal, in a file, and when it is stopped"
import json
import os
import pty
import signal
import subprocess
import sys

import pytest

SMALL = '--seeds 2 --steps 10 --rounds 1'.split()
COMMAND = [sys.executable, '-W', 'ignore', '-m', 'noisy_student_fastai.cli']


@pytest.fixture(scope='module')
def env(root): return os.environ | {'PYTHONPATH': str(root), 'COLUMNS': '80', 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'}


@pytest.fixture(scope='module')
def done(env, tmp_path_factory):
    "A small run whose output goes to a file, and its folder"
    cwd = tmp_path_factory.mktemp('run')
    res = subprocess.run([*COMMAND, *SMALL], cwd=cwd, env=env, text=True, capture_output=True)
    assert res.returncode == 0, res.stderr
    return res, cwd


def test_output_in_a_file(done):
    "Plain lines: what is compared, a line per seed, the table, the verdict and where the results are"
    res, _ = done
    assert not res.stderr and not set('\r\x1b█') & set(res.stdout)
    lines = res.stdout.splitlines()
    assert lines[0] == 'digits: 40 labeled, 1157 unlabeled, 600 test rows; test accuracy in %'
    assert [o.split(':')[0] for o in lines[1:3]] == ['seed 0', 'seed 1']
    assert [o.split('  ')[0] for o in lines[5:8]] == ['no noise', 'control (same noise)', 'noisy student']
    assert lines[9].startswith('Over 2 seeds the student is ') and ' of 2)' in lines[9]
    assert lines[10] == 'Written: out/results.json, out/accuracy.png' and len(lines) == 11


def test_results(done):
    "The file holds what the table was made from"
    res, cwd = done
    assert sorted(p.name for p in (cwd/'out').iterdir()) == ['accuracy.png', 'results.json']
    assert (cwd/'out/accuracy.png').read_bytes().startswith(b'\x89PNG')
    saved = json.loads((cwd/'out/results.json').read_text())
    assert saved['settings'] == dict(seeds=2, labels=4, steps=10, rounds=1)
    table = {line[:20].strip(): line[20:].split() for line in res.stdout.splitlines()[5:8]}
    for name, k in (('no noise', 'plain'), ('control (same noise)', 'control'), ('noisy student', 'student')):
        a, b = (o[k] for o in saved['accuracy'])
        assert [float(o) for o in table[name]] == pytest.approx([(a+b)/2, abs(a-b)/2**.5, min(a, b), max(a, b)], abs=.0501)


@pytest.mark.parametrize('args,said', [
    (['--seeds', '1'], 'error: seeds=1: a whole number from 2 to 1000 is accepted'),
    (['--labels', '-3'], 'error: labels=-3: a whole number from 1 to 108 is accepted'),
    (['--steps', 'many'], "error: argument --steps: invalid int value: 'many'"),
    (['--out', 'file/out'], "'file/out'")])
def test_wrong_values(env, tmp_path, args, said):
    "Exit status 2 and one line (argparse puts its usage above it); nothing is written"
    (tmp_path/'file').touch()
    res = subprocess.run([*COMMAND, *args], cwd=tmp_path, env=env, text=True, capture_output=True)
    assert res.returncode == 2 and not res.stdout
    assert said in res.stderr.splitlines()[-1] and 'Traceback' not in res.stderr
    assert res.stderr.startswith('usage: ') or res.stderr.count('\n') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def interrupted(env, cwd, after, *args):
    "Press Ctrl-C as soon as a line starts with `after`; exit status and what the command said on stderr"
    # a child of a background job ignores SIGINT unless it is told not to
    p = subprocess.Popen([*COMMAND, *args], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        assert any(line.startswith(after) for line in p.stdout), p.stderr.read()
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
    finally: p.kill()
    return p.returncode, err


def test_ctrl_c_keeps_what_is_finished(done, env, tmp_path):
    code, err = interrupted(env, tmp_path, 'seed 0', '--seeds', '1000', *SMALL[2:])
    saved = json.loads((tmp_path/'out/results.json').read_text())['accuracy']
    assert (code, err) == (130, f"Interrupted: {len(saved)} of 1000 seeds are finished and kept in out/\n")
    assert (tmp_path/'out/accuracy.png').exists()
    again = json.loads((done[1]/'out/results.json').read_text())['accuracy']
    assert saved[0] == again[0]  # the same seed, the same numbers


def test_ctrl_c_before_anything_is_finished(env, tmp_path):
    code, err = interrupted(env, tmp_path, 'digits', '--steps', '100000')
    assert (code, err) == (130, 'Interrupted: no seed is finished, nothing is kept\n')
    assert not list((tmp_path/'out').iterdir())


def shown(text):
    "The lines that a terminal would show after `text`, without trailing spaces"
    lines = []
    for line in text.replace('\r\n', '\n').split('\n'):
        res = ''
        for part in line.split('\r'): res = part + res[len(part):]
        lines.append(res.rstrip())
    return lines


def test_terminal(done, env, tmp_path):
    "A bar of one line while it runs, and after it the same text as in a file"
    ours, its = pty.openpty()
    p = subprocess.Popen([*COMMAND, *SMALL], cwd=tmp_path, env=env, stdin=its, stdout=its, stderr=its)
    os.close(its)
    text = b''
    try:
        while part := os.read(ours, 4096): text += part
    except OSError: pass  # Linux says so when the other side is closed
    finally: os.close(ours)
    assert p.wait() == 0
    text = text.decode()
    assert '100.00% [60/60' in text and 'seed 1, student' in text
    assert max(map(len, (o for o in text.split('\r') if '[' in o))) <= 80
    assert shown(text) == [o.rstrip() for o in done[0].stdout.split('\n')]
