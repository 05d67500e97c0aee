"Files that are whole or not there, folders that one process writes to, records that are compared"
import os
import pickle
import random
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai import files
from noisy_student_fastai.files import (
    Changed,
    Damaged,
    differences,
    file_sha256,
    first_link,
    in_use,
    load_weights,
    lock_folder,
    read_json,
    remove,
    replaced,
    save_weights,
    size_of,
    unlock_folder,
    write_json,
)
from toys import net

# Whole or not there

@given(st.lists(st.sampled_from('abc'), min_size=1, max_size=4), st.booleans())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_link_is_found_wherever_it_is(tmp_path_factory, parts, is_broken):
    top = tmp_path_factory.mktemp('a')
    (top/'x'/'/'.join(parts)).mkdir(parents=True)
    assert first_link(top) is None and first_link(top/'none', top/'x') is None
    link = top/'x'/'/'.join(parts)/'link'
    link.symlink_to(top/'gone' if is_broken else top)
    assert first_link(top) == first_link(top/'none', top/'x') == first_link(link) == link
    (top/'y').symlink_to(top/'x')
    assert first_link(top/'y') == top/'y'


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
    said = 'b.pth holds no weights that fit this Sequential'
    with pytest.raises(Damaged, match=said): load_weights(b, tmp_path/'b.pth')


@settings(max_examples=20, deadline=None, derandomize=True)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_each_bit_of_the_weights_counts(tmp_path_factory, where, bit, cut):
    f, model = tmp_path_factory.mktemp('weights')/'a.pth', net()
    sha256 = save_weights(model, f)
    old = f.read_bytes()
    i = int(where*len(old))
    f.write_bytes(old[:i] if cut else old[:i]+bytes([old[i] ^ 1 << bit])+old[i+1:])
    with pytest.raises(Damaged, match='a.pth is corrupted'): load_weights(model, f, sha256)
    f.write_bytes(old)
    load_weights(model, f, sha256)
    assert sha256 == file_sha256(f)


@pytest.mark.parametrize('what', [lambda s: dict(list(s.items())[1:]), lambda s: {k: v[:1] for k, v in s.items()},
                                  lambda s: [1]])
def test_weights_of_another_architecture_are_named(tmp_path, what):
    torch.save(what(net().state_dict()), tmp_path/'a.pth')
    with pytest.raises(Damaged, match=r'a.pth holds no weights that fit this Sequential \(') as e:
        load_weights(net(), tmp_path/'a.pth')
    assert '\n' not in str(e.value)


# What strangers leave

def pipe(f): os.mkfifo(f)
def endless(f): f.symlink_to('/dev/zero')
def folder(f): f.mkdir()


@pytest.mark.parametrize('make', [pipe, endless, folder])
def test_what_has_no_end_is_not_read(tmp_path, make):
    make(tmp_path/'a.json')
    for f in (size_of, read_json, file_sha256, lambda o: load_weights(net(), o)):
        with pytest.raises(ValueError, match='a.json is a folder, a pipe or a device'): f(tmp_path/'a.json')


def test_what_is_too_long_is_not_read(tmp_path):
    (tmp_path/'a.json').touch()
    os.truncate(tmp_path/'a.json', 20 << 30)  # it takes no place on the disk
    with pytest.raises(Damaged, match='a.json is corrupted .21,474,836,480 bytes'): read_json(tmp_path/'a.json')
    (tmp_path/'a.json').write_text('['*100_000)
    with pytest.raises(Damaged, match='a.json is corrupted .not JSON'): read_json(tmp_path/'a.json')


@pytest.mark.parametrize('make', [pipe, endless, folder, lambda f: f.symlink_to(f.parent/'new'),
                                  lambda f: f.symlink_to(f.parent/'mine'), lambda f: os.link(f.parent/'mine', f)])
def test_a_lock_that_is_something_else(tmp_path, make):
    "Nobody waits for the other end of a pipe, and nothing is written through a link"
    (tmp_path/'mine').write_text('mine')
    make(tmp_path/'.lock')
    with pytest.raises(ValueError, match='.lock is a link, a folder, a pipe or a device'): lock_folder(tmp_path)
    assert (tmp_path/'mine').read_text() == 'mine' and not (tmp_path/'new').exists()


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine/a').touch()
    (tmp_path/'b').symlink_to(tmp_path/'mine')
    for name in ('b', 'b', 'c'): remove(tmp_path/name)
    assert [o.name for o in tmp_path.rglob('*')] == ['mine', 'a']
    remove(tmp_path/'mine')
    assert not list(tmp_path.iterdir())


def test_read_only_storage_needs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *a: False)
    before = tmp_path.stat().st_mtime_ns
    with in_use(tmp_path), in_use(tmp_path): pass
    assert tmp_path.stat().st_mtime_ns == before


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
