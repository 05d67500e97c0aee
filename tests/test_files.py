"Files that are whole or not there, folders that one process writes to, records that are compared"
import os
import pickle
import random
import signal
import subprocess
import sys

import pytest
import torch
from noisy_student_fastai import files
from noisy_student_fastai.files import (
    Changed,
    differences,
    in_use,
    load_weights,
    lock_folder,
    read_json,
    replaced,
    save_weights,
    unlock_folder,
    write_json,
)
from toys import net

# Whole or not there

def test_files_are_whole_or_not_there(tmp_path):
    f = tmp_path/'a.json'
    write_json(f, dict(a=1))
    with pytest.raises(RuntimeError), replaced(f) as o:
        o.write(b'half')
        raise RuntimeError
    assert read_json(f) == dict(a=1)
    write_json(f, dict(a=2))
    assert read_json(f) == dict(a=2) and [o.name for o in tmp_path.iterdir()] == ['a.json']
    f.write_text('{')
    with pytest.raises(ValueError, match='a.json is corrupted'): read_json(f)


def test_a_link_that_a_stranger_left_is_not_written_through(tmp_path):
    mine, f = tmp_path/'mine', tmp_path/'a.json'
    mine.write_text('mine')
    (tmp_path/'a.json.tmp').symlink_to(mine)
    write_json(f, 1)
    assert mine.read_text() == 'mine' and read_json(f) == 1


def test_weights_are_read_without_running_anything(tmp_path):
    a, b = net(bn=True), net(bn=True)
    save_weights(a, tmp_path/'a.pth')
    load_weights(b, tmp_path/'a.pth')
    assert all(torch.equal(o, b.state_dict()[k]) for k, o in a.state_dict().items())
    torch.save(net(), tmp_path/'b.pth')
    with pytest.raises(Exception, match='[Ww]eights'): load_weights(b, tmp_path/'b.pth')


# One writer

def test_a_folder_is_locked_once(tmp_path):
    f = lock_folder(tmp_path)
    with pytest.raises(ValueError, match='is in use') as e: lock_folder(tmp_path)
    assert (e.value.argument, e.value.value) == ('path', str(tmp_path))
    unlock_folder(tmp_path, f)
    with in_use(tmp_path), pytest.raises(ValueError, match='is in use'): lock_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_lock_that_was_removed(tmp_path, monkeypatch):
    "The last writer removes the lock's file while the next one is about to lock it"
    real, n_calls = files.fcntl.flock, 0

    def flock(f, how):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1: (tmp_path/'.lock').unlink()
        real(f, how)
    monkeypatch.setattr(files.fcntl, 'flock', flock)
    with in_use(tmp_path):
        assert n_calls == 2
        with pytest.raises(ValueError, match='is in use'): lock_folder(tmp_path)


CHILD = '''
import os, random, sys, time
from pathlib import Path
from noisy_student_fastai.files import in_use
path = Path(sys.argv[1])
'''
HOLDS = CHILD+'''
with in_use(path):
    if sys.argv[2]=='worker' and os.fork()==0:  # outlives its parent
        print('worker', flush=True)
        time.sleep(60)
    print('held', flush=True)
    time.sleep(60)
'''
RACE = CHILD+'''
n = 0
(path/f'ready{os.getpid()}').touch()
while len(list(path.glob('ready*')))<3: time.sleep(.001)
stop = time.time()+60
while n<15 and time.time()<stop:
    try:
        with in_use(path/'a'):
            (path/'inside').touch(exist_ok=False)
            time.sleep(random.random()*.002)
            (path/'inside').unlink()
            n += 1
    except ValueError as e: assert 'is in use' in str(e), e
print(n)
'''


def child(code, *args, root, **kw):
    "A process that prints to a pipe"
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, *map(str, args)], stdout=subprocess.PIPE,
                            text=True, cwd=root, env=os.environ | dict(PYTHONPATH=str(root)), **kw)


@pytest.mark.parametrize('what', ['alone', 'worker'])
def test_two_processes(tmp_path, root, what):
    "A lock ends with its process, also where a worker of that process lives on"
    with child(HOLDS, tmp_path, what, root=root, start_new_session=True) as p:
        for _ in range(1+(what == 'worker')): p.stdout.readline()
        try:
            with pytest.raises(ValueError, match='is in use'): lock_folder(tmp_path)
            p.kill()
            p.wait()
            with in_use(tmp_path): pass
        finally: os.killpg(p.pid, signal.SIGKILL) if what == 'worker' else p.kill()


def test_race(tmp_path, root):
    "However often processes take turns, one is inside"
    (tmp_path/'a').mkdir()
    ps = [child(RACE, tmp_path, root=root) for _ in range(3)]
    turns = [int(p.communicate()[0]) for p in ps]
    assert [p.returncode for p in ps] == [0]*3 and turns == [15]*3, turns


# What has changed

def some_json(rng, depth=3):
    kind = rng.randrange(6) if depth else rng.randrange(4)
    if kind < 4: return (rng.randrange(3), rng.random(), rng.choice('abc'), None)[kind]
    if kind == 4: return [some_json(rng, depth-1) for _ in range(rng.randrange(4))]
    return {k: some_json(rng, depth-1) for k in rng.sample('abcdef', rng.randrange(1, 4))}


def places(o, at=''):
    "Every leaf by its dotted key"
    if isinstance(o, dict): return {p: v for k, x in o.items() for p, v in places(x, f'{at}.{k}' if at else k).items()}
    if isinstance(o, list): return {p: v for i, x in enumerate(o) for p, v in places(x, f'{at}[{i}]').items()}
    return {at: o}


@pytest.mark.parametrize('seed', range(30))
def test_differences_are_those_leaf_by_leaf(seed):
    rng = random.Random(seed)
    old = {k: some_json(rng) for k in 'xyz'}
    assert list(differences(old, old)) == []
    new = {k: o if rng.random() < .5 else 'new' for k, o in old.items()}
    a, b = places(old), places(new)
    changed = {k.split('.')[0].split('[')[0] for k in a.keys() | b.keys() if a.get(k) != b.get(k)}
    assert {k for k, *_ in differences(old, new)} == {k for k in old if old[k] != new[k]} >= changed


def test_a_change_has_fields():
    e = Changed('path', 'labels', said='other labels', changes=[('a.b', 1, 2), ('c', None, 'x')])
    for o in (e, pickle.loads(pickle.dumps(e))):
        assert isinstance(o, ValueError) and str(o) == 'other labels'
        assert (o.argument, o.value, o.key, o.changes) == ('path', 'labels', 'a.b', [('a.b', 1, 2), ('c', None, 'x')])
    assert Changed('path', key='x').key == 'x' and Changed('path').key is None
