"A folder of labels: the same bytes after interrupts, kills and full disks; refused after any damage; one writer"
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.labels import store
from noisy_student_fastai.labels.store import Ids, MemoryStore, Store, open_store
from store_toys import ABOUT, Eager, N, data, files, label_all, names

some = settings(max_examples=60, deadline=None, derandomize=True)
BEHIND = b'behind'*500  # what a kill leaves after the rows that are done


def check_same(path, want):
    "The bytes of `want`, but for the date (and with it the header's checksum)"
    date = json.loads((path/'header.json').read_bytes())['date']
    header = json.loads(want['header.json'])
    del header['crc32']
    assert files(path) == want | {'header.json': store._sealed(header | dict(date=date)).encode()}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A complete folder"
    path = tmp_path_factory.mktemp('whole')/'labels'
    label_all(path)
    return path


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    "A folder with 12 of 23 rows, and what a kill leaves behind them"
    path = tmp_path_factory.mktemp('half')/'labels'
    with Eager(path, N, ABOUT) as s:
        s.put('ids', names())
        for i in range(0, 12, 4): s.write(**{k: o[i:i+4] for k, o in data().items()})
    for k in data():
        with open(path/f'{k}.npy', 'ab') as f: f.write(BEHIND)
    return path


def copied(path, to):
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(path, to, symlinks=True))


# What is written

def test_whole(whole):
    header, arrays = open_store(whole)
    for k, o in data().items():
        assert arrays[k].dtype == o.dtype and np.array_equal(arrays[k], o)
        assert np.array_equal(np.load(whole/f'{k}.npy', allow_pickle=False), o)
        assert isinstance(arrays[k], np.memmap) and not arrays[k].flags.writeable and arrays[k].flags.aligned
    assert list(Ids(arrays['ids'])) == names()
    assert (header['n'], header['done'], header['complete'], header['about']) == (N, N, True, ABOUT)
    assert sorted(files(whole)) == ['conf.npy', 'header.json', 'ids.npy', 'label.npy', 'probs.npy']


dtypes = st.sampled_from(['?', 'i1', 'u1', '<i2', '>i4', 'u8', 'f2', '>f4', 'f8', 'S3'])


@some
@given(seed=st.integers(0, 9**9), n=st.integers(1, 40), kinds=st.lists(dtypes, min_size=1, max_size=3),
       dims=st.integers(0, 2),
       ids=st.data())
def test_round_trip(tmp_path_factory, seed, n, kinds, dims, ids):
    "Arrays of any type and shape, in chunks of any size, with interruptions: both stores give back what they got"
    rng = np.random.default_rng(seed)
    arrays = {f'a{i}': rng.integers(0, 2, (n, *rng.integers(1, 4, dims))).astype(k) for i, k in enumerate(kinds)}
    text = st.text(max_size=5).filter(lambda o: not o.endswith('\0') and not any('\ud800' <= c <= '\udfff' for c in o))
    ids = ids.draw(st.lists(text, min_size=n, max_size=n) | st.lists(st.integers(-2**63, 2**63-1), min_size=n,
                                                                     max_size=n))
    path, mem = tmp_path_factory.mktemp('trip')/'a', MemoryStore(n, ABOUT)
    disk = Store(path, n, ABOUT)
    for s in (mem, disk): s.put('ids', ids)
    while disk.done < n:
        if rng.random() < .2: disk = (disk.close(), Store(path, n, ABOUT))[1]
        assert disk.done == mem.done
        k = int(rng.integers(0, min(9, n-disk.done)+1))
        for s in (mem, disk): s.write(**{k_: o[s.done:s.done+k] for k_, o in arrays.items()})
    for header, res in (disk.finish(), mem.finish(), open_store(path)):
        assert header['complete'] and list(res) == sorted([*arrays, 'ids'])
        for k, o in arrays.items():
            assert res[k].dtype == o.dtype.newbyteorder('<') and res[k].shape == o.shape and np.array_equal(res[k], o)
            assert not res[k].flags.writeable
        got = Ids(res['ids'])
        assert list(got) == ids and len(got) == n and list(got[::-1]) == ids[::-1]


def test_killed_before_the_first_row(tmp_path, whole):
    "A file of an array that has no rows yet may hold anything"
    path, rows = tmp_path/'a', data()
    with Store(path, N, ABOUT) as s: s.write(**{k: o[:0] for k, o in rows.items()})
    for k in rows: (path/f'{k}.npy').write_bytes(BEHIND)
    label_all(path)
    check_same(path, files(whole))


def test_names_of_files(tmp_path):
    "Names need not be UTF-8"
    ids = [os.fsdecode(b'\xff.png'), 'a', '']
    with Store(tmp_path/'a', 3, {}) as s:
        s.put('ids', ids)
        s.write(conf=np.zeros(3))
        assert list(Ids(s.finish()[1]['ids'])) == ids


@settings(some, max_examples=25)
@given(ids=st.lists(st.text(max_size=40), min_size=1, max_size=30), wide=st.sampled_from([0, 1 << 20]))
def test_any_text_comes_back_or_is_refused(tmp_path_factory, ids, wide):
    "Also with lone surrogates, and where strings stand one after the other"
    def ok(o): return not o.endswith('\0') and o == os.fsdecode(os.fsencode(o))
    def is_text(o):
        try: return ok(o)
        except UnicodeEncodeError: return False
    path, n = tmp_path_factory.mktemp('text')/'a', len(ids)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(store, '_wide', wide)
        stores = MemoryStore(n, {}), Store(path, n, {})
        for s in stores:
            if all(map(is_text, ids)): s.put('ids', ids)
            else:
                with pytest.raises(ValueError, match='ids holds'): s.put('ids', ids)
                s.put('ids', ['-']*n)
        stores = stores[0], (stores[1].close(), Store(path, n, {}))[1]
        want = ids if all(map(is_text, ids)) else ['-']*n
        for s in stores:
            s.put('ids', want)  # the same again
            if want != ['-']*n:
                with pytest.raises(ValueError, match='ids'): s.put('ids', ['-']*n)
            s.write(conf=np.zeros(n))
            got = Ids(s.finish()[1]['ids'])
            assert list(got) == want and list(got[::-1]) == want[::-1] and list(got[[n-1, 0]]) == [want[-1], want[0]]
            assert got[-1] == want[-1] and list(got[1:][:3]) == want[1:4] and sorted(s.header['arrays']) in (
                ['conf', 'ids'], ['conf', 'ids', 'ids_end'])


def test_one_long_name_does_not_make_each_row_as_wide(tmp_path):
    n = 20_000
    ids = [f'{i}' for i in range(n-1)]+['x'*50_000]
    with Store(tmp_path/'a', n, {}) as s:
        s.put('ids', ids)
        s.write(conf=np.zeros(n, 'f2'))
        assert list(Ids(s.finish()[1]['ids'])) == ids
    total = sum(o.stat().st_size for o in (tmp_path/'a').iterdir())
    assert total < 2*sum(map(len, ids))+20*n  # 1,000 times as much before


# Interrupts, kills, full disks

class InterruptAt:
    "A Ctrl-C at the k-th line that runs in the module"
    def __init__(self, k): self.k, self.i = k, 0

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != store.__file__: return
        if event == 'line':
            self.i += 1
            if self.i == self.k: raise KeyboardInterrupt
        return self

    def __enter__(self): sys.settrace(self)
    def __exit__(self, *args): sys.settrace(None)


def test_interrupts(tmp_path, whole):
    "Wherever an interrupt falls, the next call ends with the same bytes"
    want, count = files(whole), InterruptAt(0)
    with count: label_all(tmp_path/'0')
    check_same(tmp_path/'0', want)
    rng, n_kept = random.Random(42), 0
    for i in range(40):
        path = tmp_path/f'a{i}'
        with pytest.raises(KeyboardInterrupt), InterruptAt(rng.randrange(1, count.i)): label_all(path)
        n_kept += (path/'header.json').exists() and json.loads((path/'header.json').read_bytes())['done'] > 0
        if rng.random() < .5:  # and again
            try:
                with InterruptAt(rng.randrange(1, count.i)): label_all(path)
            except KeyboardInterrupt: pass
        label_all(path)
        check_same(path, want)
    assert n_kept > 15


def test_goes_on_in_place(tmp_path, whole):
    "An interrupt in the middle of a write leaves a store that can go on itself"
    rng = random.Random(0)
    for i in range(15):
        s = Eager(tmp_path/f'{i}', N, ABOUT)
        s.put('ids', names())
        while s.done < N:
            start, rows = s.done, {k: o[s.done:s.done+4] for k, o in data().items()}
            try:
                with InterruptAt(rng.randrange(1, 400)): s.write(**rows)
            except KeyboardInterrupt: assert s.done in (start, start+len(rows['conf']))
        s.finish()
        check_same(s.path, files(whole))


@pytest.mark.parametrize('what', ['fsync', 'replace'])
def test_full_disk_at(tmp_path, whole, monkeypatch, what):
    "A disk that is full when a note is made"
    real, left = getattr(os, what), 0

    def full(*args):
        nonlocal left
        left -= 1
        if left < 0: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(*args)
    for k in range(0, 40, 3):
        path, left = tmp_path/f'{k}', k
        with monkeypatch.context() as m:
            m.setattr(os, what, full)
            try: label_all(path)
            except OSError as e: assert e.errno == errno.ENOSPC
        label_all(path)
        check_same(path, files(whole))


def test_order_of_a_note(tmp_path, monkeypatch):
    "After a power failure a header must not count rows that never reached the disk: first the arrays, then the header"
    path, done, fsync, replace = tmp_path/'a', [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (done.append(Path(os.readlink(f'/proc/self/fd/{fd}')).name), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (done.append('replace'), replace(a, b)))
    with Eager(path, 9, {}) as s:
        s.write(conf=np.zeros(2), label=np.zeros(2, 'u1'))
        for _ in range(2):
            done.clear()
            s.write(conf=np.zeros(2), label=np.zeros(2, 'u1'))
            assert sorted(done[:2]) == ['conf.npy', 'label.npy'] and done[2:] == ['header.json.tmp', 'replace', 'a']


CHILD = '''
import os, random, resource, sys, time
sys.path.insert(0, 'tests')
from pathlib import Path
import numpy as np
from noisy_student_fastai.labels.store import Store, open_store
from store_toys import *
'''


def child(code, *args, root, **kw):
    "A process that prints to a pipe"
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', CHILD+code, *map(str, args)], stdout=subprocess.PIPE,
                            text=True, cwd=root, env=os.environ | dict(PYTHONPATH=str(root)), **kw)


KILLED = '''
class Said(Eager):
    def write(self, **arrays):
        super().write(**arrays)
        print(self.done, flush=True)
        time.sleep(.0005)  # four of them are killed before the end, however fast the machine

label_all(sys.argv[1], n=1200, step=3, cls=Said)
'''


def test_kills(tmp_path, root):
    "SIGKILL at random moments of a real process"
    rng, path = random.Random(7), tmp_path/'killed'
    label_all(tmp_path/'whole', n=1200, step=3)
    starts = []
    for _ in range(4):
        with child(KILLED, path, root=root) as p:
            starts.append(int(p.stdout.readline()))
            for _ in range(rng.randrange(20)): p.stdout.readline()
            time.sleep(rng.random()*.02)
            p.kill()
        assert p.returncode == -signal.SIGKILL
    assert starts == sorted(starts) and starts[-1] > 10
    label_all(path, n=1200, step=3)
    check_same(path, files(tmp_path/'whole'))


FULL = '''
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try: label_all(sys.argv[1], n=400, step=3)
except OSError as e: print(e, *e.__notes__)
'''


def test_full_disk(tmp_path, root):
    "A file that can't grow: the error says which, and the rows before are kept"
    path = tmp_path/'full'
    with child(FULL, path, root=root) as p: said = p.stdout.read()
    assert str(path/'ids.npy') in said or str(path/'probs.npy') in said, said
    n_kept = json.loads((path/'header.json').read_bytes())['done']
    assert f'{n_kept:,} of 400 rows are kept' in said
    label_all(path, n=400, step=3)
    label_all(tmp_path/'whole', n=400, step=3)
    check_same(path, files(tmp_path/'whole'))


# Damage

@some
@given(choice=st.data())
def test_any_change_is_refused(whole, tmp_path_factory, choice):
    "Bytes replaced, removed or inserted, anywhere in any file"
    path = copied(whole, tmp_path_factory.getbasetemp()/'changed')
    name = choice.draw(st.sampled_from(sorted(files(whole))))
    old = (path/name).read_bytes()
    i = choice.draw(st.integers(0, len(old)))
    k, new = choice.draw(st.integers(0, 3)), choice.draw(st.binary(max_size=3))
    changed = old[:i]+new+old[i+k:]
    (path/name).write_bytes(changed)
    if changed == old:
        open_store(path)
        return
    with pytest.raises(ValueError, match='corrupted|truncated|too long|lacks format'): open_store(path)
    with pytest.raises(ValueError, match='corrupted|truncated|too long|lacks format'): label_all(path)
    assert files(path) == files(whole) | {name: changed}


@pytest.mark.parametrize('name', ['header.json', 'probs.npy', 'ids.npy'])
def test_each_byte_counts(whole, tmp_path, name):
    "Each byte of a file, another one"
    path, rng = copied(whole, tmp_path/'a'), random.Random(1)
    old = (path/name).read_bytes()
    for i in range(len(old)):
        (path/name).write_bytes(old[:i] + bytes([old[i]^rng.randrange(1, 256)]) + old[i+1:])
        with pytest.raises(ValueError): open_store(path)


def test_damage_before_going_on(half, whole, tmp_path):
    "Rows that are done must be as they were; what a kill left behind them may be anything"
    rng, header = random.Random(3), json.loads((half/'header.json').read_bytes())
    for i in range(75):
        path = copied(half, tmp_path/'a')
        name = rng.choice(sorted(files(half)))
        old = (path/name).read_bytes()
        pos = rng.randrange(min(len(old), 1000))
        (path/name).write_bytes(old[:pos] + bytes([old[pos]^rng.randrange(1, 256)]) + old[pos+1:])
        if name != 'header.json' and pos >= len(old)-len(BEHIND)*(name != 'ids.npy'):
            label_all(path)
            check_same(path, files(whole))
        else:
            with pytest.raises(ValueError, match=f'{name} is corrupted|lacks format'): label_all(path)
    assert header['done'] == 12


@pytest.mark.parametrize('change,said', [
    (lambda p: (p/'conf.npy').unlink(), r'conf.npy is missing'),
    (lambda p: os.truncate(p/'conf.npy', 140), r'conf.npy is truncated: 140 bytes, expected 220'),
    (lambda p: os.truncate(p/'conf.npy', 0), r'conf.npy is truncated'),
    (lambda p: os.truncate(p/'conf.npy', 221), r'conf.npy is too long: 221 bytes'),
    (lambda p: shutil.copy(p/'label.npy', p/'conf.npy'), r'conf.npy is truncated'),
    (lambda p: (p/'header.json').unlink(), r'not a folder of pseudolabels: it has no header.json'),
    (lambda p: (p/'header.json').write_text('{"a": 1}'), r'not a folder of pseudolabels: its header.json'),
    (lambda p: (p/'header.json').write_text('[]'), r'not a folder of pseudolabels'),
    (lambda p: (p/'header.json').write_text('['*100_000), r'header.json is corrupted \(not JSON\)'),
    (lambda p: (p/'header.json').write_bytes(b'\xff'), r'header.json is corrupted \(not JSON\)'),
    (lambda p: shutil.rmtree(p), r'there is no such folder'),
    (lambda p: (shutil.rmtree(p), p.write_text('')), r'not a folder of pseudolabels')])
def test_damage(whole, tmp_path, change, said):
    path = copied(whole, tmp_path/'a')
    change(path)
    for verify in (True, False):
        with pytest.raises(ValueError, match=said): open_store(path, verify=verify)


def test_verify(whole, tmp_path):
    "Without `verify`, only the arrays' checksums are left out"
    path = copied(whole, tmp_path/'a')
    with open(path/'conf.npy', 'r+b') as f: f.seek(-1, 2), f.write(b'\x77')
    open_store(path, verify=False)
    with pytest.raises(ValueError, match='conf.npy is corrupted'): open_store(path)
    with pytest.raises(ValueError, match='conf.npy is corrupted'): label_all(path)
    label_all(path, overwrite=True)
    check_same(path, files(whole))


@pytest.mark.parametrize('size', [60, 200, 700])
def test_overwrite_where_the_header_was_cut_off(whole, tmp_path, size):
    "It begins anew, unless something else is in the folder, or nothing says that this was a header of ours"
    path = copied(whole, tmp_path/'a')
    os.truncate(path/'header.json', size)
    with pytest.raises(ValueError, match='header.json is corrupted'): label_all(path)
    (path/'mine.txt').touch()
    with pytest.raises(ValueError, match='holds other files'): label_all(path, overwrite=True)
    (path/'mine.txt').unlink()
    label_all(path, overwrite=True)
    check_same(path, files(whole))
    (path/'header.json').write_text('{"format": "of another program"')
    with pytest.raises(ValueError, match='header.json is corrupted'): label_all(path, overwrite=True)
    assert (path/'conf.npy').exists()


def test_nothing_is_said_of_rows_that_are_gone(tmp_path):
    rows = data()
    for gone in (False, True):
        with pytest.raises(KeyboardInterrupt) as e, Eager(tmp_path/'a', N, ABOUT, overwrite=True) as s:
            s.write(**{k: o[:4] for k, o in rows.items()})
            if gone: shutil.rmtree(tmp_path/'a')
            raise KeyboardInterrupt
        assert getattr(e.value, '__notes__', []) == [
            f"4 of 23 rows are kept in {tmp_path/'a'}: the same call resumes there"]*(not gone)


def test_not_complete(half):
    with pytest.raises(ValueError, match='12 of 23 rows are done. Call `pseudolabel` again'): open_store(half)


def sealed(path, change):
    "A folder whose header was written on purpose"
    header = json.loads((path/'header.json').read_bytes())
    del header['crc32']
    change(header)
    (path/'header.json').write_bytes(store._sealed(header).encode())


def spec(h): return h['arrays']['conf']


@pytest.mark.parametrize('change', [
    lambda h: h.update(n=-1), lambda h: h.update(n='23'), lambda h: h.update(n=True), lambda h: h.update(n=10**30),
    lambda h: h.update(done=22), lambda h: h.update(done=None), lambda h: h.update(complete='yes'),
    lambda h: h.pop('about'),
    lambda h: h.update(about=[]), lambda h: h.update(arrays=[]), lambda h: h.update(versions=None),
    lambda h: h.pop('n'),
    lambda h: h['arrays'].update({'../whole/labels/conf': spec(h)}), lambda h: h['arrays'].update({'': spec(h)}),
    lambda h: h['arrays'].update({'a\n': spec(h)}), lambda h: h['arrays'].update(conf=None), lambda h: spec(h).clear(),
    lambda h: spec(h).update(dtype='|O'), lambda h: spec(h).update(dtype='|V4'),
    lambda h: spec(h).update(dtype='f4,f4'),
    lambda h: spec(h).update(dtype='|S0'), lambda h: spec(h).update(dtype=['<f4']),
    lambda h: spec(h).update(dtype='<f4\n'),
    lambda h: spec(h).update(shape=[-1]), lambda h: spec(h).update(shape=[0]), lambda h: spec(h).update(shape=[1.]),
    lambda h: spec(h).update(shape='1'), lambda h: spec(h).update(shape=None),
    lambda h: spec(h).update(shape=[10**12]*9), lambda h: spec(h).update(shape=[1]*40_000),
    lambda h: spec(h).update(shape={}), lambda h: h.pop('date'), lambda h: h.update(date=5),
    lambda h: spec(h).update(rows=22), lambda h: spec(h).update(rows=24), lambda h: spec(h).update(crc32=-1),
    lambda h: spec(h).update(crc32=None), lambda h: spec(h).update(whole=1), lambda h: spec(h).update(dtype='<i4')])
def test_headers_of_strangers(whole, tmp_path, change):
    "A header that fits its own checksum and says nonsense"
    path = copied(whole, tmp_path/'a')
    sealed(path, change)
    for verify in (True, False):
        said = 'values that make no sense|truncated|first bytes'
        with pytest.raises(ValueError, match=said): open_store(path, verify=verify)


@pytest.mark.parametrize('version', [2, 0, '1', None])
def test_another_format(whole, tmp_path, version):
    path = copied(whole, tmp_path/'a')
    sealed(path, lambda h: h.update(version=version))
    with pytest.raises(ValueError) as e: open_store(path)
    assert ('a newer noisy_student_fastai' in str(e.value)) == (version == 2)
    with pytest.raises(ValueError, match=f'format version {version!r}, expected 1:'): open_store(path)


class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (Path(self.path),)


def test_nothing_runs(whole, tmp_path):
    "A pickle in the place of an array is not opened, whatever the header says"
    path, ran = copied(whole, tmp_path/'a'), tmp_path/'ran'
    np.save(path/'conf.npy', np.array([Payload(ran)]*N, dtype=object), allow_pickle=True)
    for dtype in ('|O', '<f4', '<i8'):
        sealed(path, lambda h: spec(h).update(dtype=dtype))
        for verify in (True, False):
            with pytest.raises(ValueError): open_store(path, verify=verify)
    assert not ran.exists()


def test_links(half, tmp_path):
    "A link in a stranger's folder is not written through"
    path, mine = copied(half, tmp_path/'a'), tmp_path/'mine'
    shutil.copy(path/'conf.npy', mine)
    old = mine.read_bytes()
    (path/'conf.npy').unlink()
    (path/'conf.npy').symlink_to(mine)
    with pytest.raises(ValueError, match='conf.npy is a link'): label_all(path)
    path = copied(half, tmp_path/'b')
    (path/'header.json.tmp').symlink_to(mine)
    label_all(path)
    assert mine.read_bytes() == old


@pytest.mark.parametrize('empty', [False, True])
@pytest.mark.parametrize('make', [lambda f, mine: f.symlink_to(mine.parent/'new'), lambda f, mine: os.link(mine, f),
                                  lambda f, mine: os.mkfifo(f), lambda f, mine: f.symlink_to('/dev/zero')])
def test_arrays_that_are_no_plain_files(half, tmp_path, make, empty):
    "Nothing outside of the folder is written, nobody waits for a pipe, also where an array has no rows yet"
    path, mine = copied(half, tmp_path/'a'), tmp_path/'mine'
    shutil.copy(path/'conf.npy', mine)
    old = mine.read_bytes()
    (path/'conf.npy').unlink()
    make(path/'conf.npy', mine)
    if empty: sealed(path, lambda h: (h.update(done=0), [o.update(rows=0) for o in h['arrays'].values()]))
    with pytest.raises(ValueError, match='conf.npy is'): label_all(path)
    assert mine.read_bytes() == old and not (tmp_path/'new').exists()


@pytest.mark.parametrize('look', [open_store, label_all, lambda p: label_all(p, overwrite=True)])
def test_a_header_without_end(whole, tmp_path, look):
    path = copied(whole, tmp_path/'a')
    os.truncate(path/'header.json', 20 << 30)
    with pytest.raises(ValueError, match='header.json is corrupted .21,474,836,480 bytes'): look(path)
    (path/'header.json').unlink()
    os.mkfifo(path/'header.json')
    with pytest.raises(ValueError, match='header.json'): look(path)


def test_read_only_storage(whole, half, tmp_path, monkeypatch):
    "What is finished is opened, and goes on, without a lock"
    path = copied(whole, tmp_path/'a')
    before = {o: o.stat().st_mtime_ns for o in (path, *path.iterdir())}
    monkeypatch.setattr(os, 'access', lambda *a: False)
    for _, arrays in (label_all(path), open_store(path)): assert np.array_equal(arrays['conf'], data()['conf'])
    assert before == {o: o.stat().st_mtime_ns for o in (path, *path.iterdir())}


def test_a_lock_that_a_kill_has_left_goes(whole, tmp_path):
    path = copied(whole, tmp_path/'a')
    (path/'.lock').touch()
    label_all(path)
    assert files(path) == files(whole)


# Whose folder it is

@pytest.mark.parametrize('n,about,said', [
    (N+1, ABOUT, r'made with n=23, and now it is 24'),
    (N, ABOUT | dict(temperature=.5), r'about.temperature=1.0, and now it is 0.5:'),
    (N, ABOUT | dict(teacher=dict(arch='cnn', sha='c0de')), r"about.teacher.sha='5ab1', and now it is 'c0de'"),
    (N, ABOUT | dict(vocab=['cat', 'dog']), r"about.vocab=\['cat', 'dog', 'cow'\], and now it is \['cat', 'dog'\]"),
    (N, ABOUT | dict(vocab=['cat', 'cow', 'dog']), r"about.vocab\[1\]='dog', and now it is 'cow' \(1 more differ\)"),
    (N, ABOUT | dict(amp=True), r'about.amp=None, and now it is True'),
    (N, {}, r'about.teacher=.* and now it is None \(2 more differ\): `overwrite=True` starts over')])
def test_other_about(half, whole, tmp_path, n, about, said):
    for path in (half, whole):
        path = copied(path, tmp_path/'a')
        old = files(path)
        with pytest.raises(ValueError, match=said): label_all(path, n=n, about=about)
        assert files(path) == old
        label_all(path, n=n, about=about, overwrite=True)
        label_all(tmp_path/'b', n=n, about=about, overwrite=True)
        check_same(path, files(tmp_path/'b'))


def test_same_about(whole, tmp_path):
    "What JSON makes equal is equal"
    path = copied(whole, tmp_path/'a')
    label_all(path, about=ABOUT | dict(vocab=('cat', 'dog', 'cow'), temperature=1, tta=None))


def test_versions(half, tmp_path, monkeypatch):
    "Other packages are worth a warning"
    path = copied(half, tmp_path/'a')
    monkeypatch.setattr(store, '_versions', lambda: dict(numpy='99'))
    with pytest.warns(UserWarning, match='numpy .*, now 99'): label_all(path)
    with warnings.catch_warnings(action='error'): label_all(tmp_path/'b')


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('other', ['notes.txt', 'mine.npy', 'sub/a', 'header.json.bak'])
def test_other_files(whole, half, tmp_path, other, overwrite):
    "Files that are not ours stay"
    for path in (None, whole, half):
        path = tmp_path/'new' if path is None else copied(path, tmp_path/'a')
        (path/other).parent.mkdir(parents=True, exist_ok=True)
        (path/other).write_text('mine')
        old = sorted(o.name for o in path.iterdir())
        if overwrite or path.name == 'new':
            with pytest.raises(ValueError, match='holds other files'): label_all(path, overwrite=overwrite)
            assert sorted(o.name for o in path.iterdir()) == old
        else: label_all(path)
        assert (path/other).read_text() == 'mine'


def test_not_a_folder(tmp_path):
    (tmp_path/'a').write_text('mine')
    with pytest.raises(ValueError, match='is a file: expected a folder'): Store(tmp_path/'a', 3, {}, overwrite=True)
    assert (tmp_path/'a').read_text() == 'mine'
    assert Store(tmp_path/'b'/'c', 3, {}).done == 0


# One writer

def test_two_stores(tmp_path):
    with Store(tmp_path/'a', 3, {}) as s:
        s.write(conf=np.zeros(2))
        for kw in ({}, dict(overwrite=True)):
            with pytest.raises(ValueError, match='is in use'): Store(tmp_path/'a', 3, {}, **kw)
    with Store(tmp_path/'a', 3, {}) as s: assert s.done == 2


def test_workers_do_not_note(tmp_path):
    "A copy of the process that leaves the `with` block writes nothing"
    with Store(tmp_path/'a', 3, {}) as s:
        s.write(conf=np.zeros(1))
        old = files(tmp_path/'a')
        if (pid := os.fork()) == 0:
            try: s.close()
            finally: os._exit(0)
        os.waitpid(pid, 0)
        assert files(tmp_path/'a') == old
        with pytest.raises(ValueError, match='is in use'): Store(tmp_path/'a', 3, {})


# Mistakes

def stores(tmp_path): return MemoryStore(5, {}), Store(tmp_path/'store', 5, {})


@pytest.mark.parametrize('arrays,typ,said', [
    (dict(conf=np.zeros(2)), ValueError, r"write got the arrays \['conf'\]: expected \['conf', 'label'\]"),
    (dict(conf=np.zeros(2), label=np.zeros(2, 'u1'), more=np.zeros(2)), ValueError, r'write got the arrays'),
    (dict(conf=np.zeros(2, 'f4'), label=np.zeros(2, 'u1')), ValueError,
     r'conf is written as float32, .* but was written as float64'),
    (dict(conf=np.zeros((2, 1)), label=np.zeros(2, 'u1')), ValueError,
     r'conf is written as float64, \(1,\) a row, but was written'),
    (dict(conf=np.zeros(2), label=np.zeros(3, 'u1')), ValueError, r"'conf': 2, 'label': 3}. Expected the same number"),
    (dict(conf=np.zeros(4), label=np.zeros(4, 'u1')), ValueError, r'4 rows, and 2 .*: expected 5 in all'),
    (dict(), ValueError, r'write got no arrays'),
    (dict(conf=np.array([None]*2), label=np.zeros(2, 'u1')), TypeError, r'conf is an array of object'),
    (dict(conf=['a', 'b'], label=np.zeros(2, 'u1')), TypeError, r'conf is an array of <U1'),
    (dict(conf=np.zeros(2, 'c8'), label=np.zeros(2, 'u1')), TypeError, r'conf is an array of complex64'),
    (dict(conf=np.zeros((2, 0)), label=np.zeros(2, 'u1')), ValueError, r'rows that hold something')])
def test_wrong_rows(tmp_path, arrays, typ, said):
    good = dict(conf=np.zeros(2), label=np.zeros(2, 'u1'))
    for s in stores(tmp_path):
        s.write(**good)
        with pytest.raises(typ, match=said): s.write(**arrays)
        assert s.done == 2
        with pytest.raises(ValueError, match='2 of 5 rows are done'): s.finish()
        s.write(**good)
        s.write(**{k: o[:1] for k, o in good.items()})
        header, res = s.finish()
        assert list(res) == ['conf', 'label'] and header['done'] == 5
        for f in (lambda: s.write(**good), lambda: s.put('ids', range(5))):
            with pytest.raises(ValueError, match='takes no more'): f()


@pytest.mark.parametrize('name,a,typ,said', [
    ('ids', range(4), ValueError, r'ids has 4 rows: expected 5'),
    ('ids', ['a']*4 + ['a\0'], ValueError, r"holds 'a\\x00': expected strings that do not end in a zero byte"),
    ('ids', ['a', 'b', 'c', 'd', 5], TypeError, r'ids holds 5 among strings'),
    ('ids', [1, 2, 3, 4, 'e'], TypeError, r'ids is an array of <U'),
    ('ids', [Path('a')]*5, TypeError, r'ids is an array of object'),
    ('../ids', range(5), ValueError, r"named '../ids': expected lowercase letters"),
    ('', range(5), ValueError, r'lowercase letters'),
    ('conf', np.zeros(5), ValueError, r'conf is put as float64, \(\) a row, but was written as'),
    ('leak', np.ones(5, 'u1'), ValueError, r'leak was put before, with other rows'),
    ('leak', np.zeros(5, 'i8'), ValueError, r'leak is put as int64, \(\) a row, but was put as uint8')])
def test_wrong_whole(tmp_path, name, a, typ, said):
    for s in stores(tmp_path):
        s.put('leak', np.zeros(5, 'u1'))
        s.write(conf=np.zeros(3))
        with pytest.raises(typ, match=said): s.put(name, a)
        s.put('leak', np.zeros(5, 'u1'))
        s.write(conf=np.zeros(2))
        assert sorted(s.finish()[1]) == ['conf', 'leak']


@pytest.mark.parametrize('n,typ', [(0, ValueError), (-1, ValueError), (True, TypeError), (2., TypeError),
                                   ('2', TypeError)])
def test_wrong_n(tmp_path, n, typ):
    for make in (lambda: MemoryStore(n, {}), lambda: Store(tmp_path/'a', n, {})):
        with pytest.raises(typ, match=f'n={n!r}'): make()
    assert not (tmp_path/'a').exists()


def test_closed(tmp_path):
    for s in stores(tmp_path):
        s.close()
        s.close()
        with pytest.raises(ValueError, match='is closed'): s.write(conf=np.zeros(1))
        with pytest.raises(ValueError, match='is closed'): s.put('ids', range(5))
        with pytest.raises(ValueError, match='is closed'): s.finish()


# What it costs

@pytest.mark.parametrize('cost', [0, .01, .25, 1.])
def test_notes(tmp_path, monkeypatch, cost):
    "A note each second, but no more than a fiftieth of the time: ten minutes on a clock of our own"
    clock, n_notes, period = 0., 0, max(Store.wait, Store.share*cost)+cost
    assert Store.wait == 1 and Store.share == 50

    def write_header(path, header):
        nonlocal clock, n_notes
        clock, n_notes = clock+cost, n_notes+1
    monkeypatch.setattr(store, '_write_header', write_header)
    monkeypatch.setattr(store, 'monotonic', lambda: clock)
    with Store(tmp_path/'a', 10**6, {}) as s:
        s.write(conf=np.zeros(1))
        n_notes = 0
        while clock < 600:
            clock += .05
            s.write(conf=np.zeros(1))
        assert .9*600/period-1 <= n_notes <= 600/period


PEAK = '''
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024

class Ids(list):
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return [f'{o}.png' for o in range(self.n)[i]] if isinstance(i, slice) else f'{i}.png'
    def __iter__(self): return (f'{o}.png' for o in range(self.n))

def run(path, n):
    rows = np.ones((1000, 100), 'f4')
    for half in (n//2, n):
        with Store(path, n, {}) as s:
            s.put('ids', Ids(n))
            while s.done<half: s.write(probs=rows, conf=rows[:,0])
    s = Store(path, n, {})
    s.finish()
    open_store(path)
    return peak()

small = run(sys.argv[1]+'/small', 4_000)
print(small, run(sys.argv[1]+'/large', 200_000))
'''


def test_memory(tmp_path, root):
    "80 MB of rows need no more memory than 1.6 MB: written, gone on with, opened"
    with child(PEAK, tmp_path, root=root) as p: small, large = map(float, p.stdout.read().split())
    assert large < small+4, (small, large)
    assert sum(map(len, files(tmp_path/'large').values())) > 80e6


def test_imports(root):
    "Opening a folder needs numpy and nothing heavy"
    heavy = {'torch', 'fastai', 'fastcore', 'pandas', 'tsai'}
    code = f"import sys, noisy_student_fastai.labels.store; print(sorted({heavy} & set(sys.modules)))"
    res = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True)
    assert res.stdout.strip() == '[]'
