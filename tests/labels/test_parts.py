"Labels in parts: the same as in one piece, whoever makes them and whenever"
import json
import os
import random
import signal
import time
import tracemalloc
from functools import partial
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from hypothesis import given, settings
from hypothesis import strategies as st
from image_toys import image_dls
from killing import fork, kill_until_done
from label_toys import trained, unlabeled
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.files import Changed, lock_folder, unlock_folder
from noisy_student_fastai.labels import parts as parts_room
from noisy_student_fastai.labels.parts import Stacked, TextParts, divide, ranks, stack_stores
from noisy_student_fastai.labels.store import Ids, Store, open_store
from noisy_student_fastai.noise.rows import one_thread
from toys import net, points, pts_learner

some = settings(max_examples=25, deadline=None, derandomize=True)
X = unlabeled()
N = len(X)


@pytest.fixture(scope='module')
def teacher(): return trained()


@pytest.fixture(scope='module')
def whole(teacher, tmp_path_factory):
    "The labels of one call"
    return teacher.pseudolabel(X, tmp_path_factory.mktemp('labels')/'whole', bs=8, ids=[f'r{i}' for i in range(N)])


IDS = [f'r{i}' for i in range(N)]


def equal(pl, want):
    "Are all arrays the same, and is all that is said of them?"
    assert pl.about == want.about and pl.arrays.keys() == want.arrays.keys() and list(pl.ids) == list(want.ids)
    for k in want.arrays.keys()-{'ids'}:
        a, b = pl.arrays[k], want.arrays[k]
        assert (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes()), k


def in_parts(learn, path, k, x=X, bs=8, order=0, **kw):
    parts = [*range(k)]
    random.Random(order).shuffle(parts)
    return {i: learn.pseudolabel(x, path, part=(i, k), bs=bs, **kw) for i in parts}


# --- the same as one call

@pytest.mark.parametrize('k', [1, 2, 3, 5, 7])
def test_parts_are_the_labels_of_one_call(k, teacher, whole, tmp_path):
    "In any order, to the byte"
    made = in_parts(teacher, tmp_path/'labels', k, order=k, ids=IDS)
    pl = PseudoLabels.open(tmp_path/'labels', X)
    equal(pl, whole)
    assert isinstance(pl.probs, np.memmap if k == 1 else Stacked)
    for i, o in made.items():
        start, stop, n = o.about['part']
        assert n == N and start % 8 == 0 and list(o.ids) == IDS[start:stop] and 'part' not in pl.about
        assert np.array_equal(o.probs, whole.probs[start:stop]) and np.array_equal(o.label, whole.label[start:stop])
        again = PseudoLabels.open(tmp_path/'labels'/f'part-{i:05}-of-{k:05}', X)
        assert again.first == start and list(again.ids) == IDS[start:stop]
    assert teacher.pseudolabel(X, tmp_path/'labels', bs=8, ids=IDS).about == whole.about  # opens, predicts nothing


@pytest.mark.parametrize('n,k,bs', [(1000, 3, 64), (1, 1, 1), (7, 7, 1), (130, 2, 64), (10**9, 64, 333)])
def test_divide(n, k, bs):
    "Each row is in one part; parts have whole batches, and differ by one at most"
    parts = divide(n, k, bs)
    assert [o.start for o in parts]+[n] == [0]+[o.stop for o in parts] and all(o.start % bs == 0 for o in parts)
    sizes = [-(-(o.stop-o.start)//bs) for o in parts]
    assert max(sizes)-min(sizes) <= 1 and min(sizes) > 0
    with pytest.raises(ValueError, match=f'part={n+1}: expected up to'): divide(n, n+1, bs)


def test_views_and_several_teachers(tmp_path):
    "The augmented views of a batch are those that it has in one call"
    from kill import Jitter
    learns = [pts_learner(seed=i) for i in range(2)]
    for o in learns: o.dls.train.after_batch.add(Jitter())
    kw = dict(n_views=2, teachers=learns[1:], dtype='float32', seed=3)
    want = learns[0].pseudolabel(X, tmp_path/'whole', bs=11, **kw)
    in_parts(learns[0], tmp_path/'labels', 4, bs=11, **kw)
    equal(PseudoLabels.open(tmp_path/'labels'), want)
    with pytest.raises(ValueError, match='settings.bs'): in_parts(learns[0], tmp_path/'labels', 4, bs=10, **kw)


def test_parts_in_memory(teacher, whole):
    for i, o in enumerate(divide(N, 4, 8)):
        pl = teacher.pseudolabel(X, part=(i, 4), bs=8)
        assert np.array_equal(pl.probs, whole.probs[o.start:o.stop]) and list(pl.ids) == [*range(o.start, o.stop)]
        assert pl.first == o.start and list(pl.ids_of([0, 2])) == [o.start, o.start+2]
        assert list(pl.df().id) == [*range(o.start, o.stop)]


def test_smaller_batches_go_on(teacher, whole, tmp_path):
    "The first part says which rows a part has"
    teacher.pseudolabel(X, tmp_path/'labels', part=(1, 3), bs=8, ids=IDS)
    for i in (0, 2): teacher.pseudolabel(X, tmp_path/'labels', part=(i, 3), bs=3, ids=IDS)
    pl = PseudoLabels.open(tmp_path/'labels')
    assert np.allclose(pl.probs, whole.probs, atol=1e-3) and list(pl.ids) == IDS


def test_a_part_knows_its_rows(teacher, whole, tmp_path, no_windows, capsys):
    "A part hands out its own rows of the data"
    made = in_parts(teacher, tmp_path/'labels', 3)
    sel = made[2].select(.4)
    dl = sel.dl(shuffle=False, bs=10, num_workers=0)
    rows = sel.rows+made[2].first
    assert np.allclose(np.concatenate([o[0] for o in dl]), X[rows])
    assert np.allclose(np.concatenate([o[1] for o in dl]), whole.read(rows))
    with pytest.raises(ValueError, match='is a part of 150 labels'): PseudoLabels.open(made[2].path, X[:50])


# --- arrays

cuts = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@some
@given(cuts, st.data())
def test_stacked_is_numpy(sizes, data):
    n = sum(sizes)
    a = np.arange(3*n).reshape(n, 3)
    s = Stacked(np.split(a, np.cumsum(sizes)[:-1]))
    end = st.integers(-n-3, n+3) | st.none()
    bools = st.lists(st.booleans(), min_size=n, max_size=n)
    i = data.draw(st.integers(-n, n-1) | st.lists(st.integers(-n, n-1)) | bools
                  | st.builds(slice, end, end, st.sampled_from([None, 1, 2, -1])))
    want = a[np.array(i, int) if i == [] else i]
    assert np.array_equal(s[i], want) and s[i].shape == want.shape
    names = np.array([f'{o}'*(o % 4) for o in range(n)], 'S')
    t = Ids(TextParts(np.split(names, np.cumsum(sizes)[:-1])))
    if isinstance(i, int): assert t[i] == names[i].decode()
    else: assert list(t[i]) == [o.decode() for o in names[np.array(i, int) if i == [] else i]]


def cut(pl, sizes):
    "The same labels, their arrays in parts"
    ends = np.cumsum(sizes)[:-1]
    arrays = {k: Stacked(np.split(np.asarray(o), ends)) for k, o in pl.arrays.items()}
    return PseudoLabels.of(pl.header, arrays)


@some
@given(st.integers(0, 999), cuts, st.sampled_from([dict(), dict(n_per_class=4), dict(n=9), dict(prior='uniform'),
                                                   dict(weights='conf', max_repeat=2), dict(n_per_class=3, n=None)]))
def test_select_over_parts(seed, sizes, kw):
    "Row by row what is selected of the whole, and what comes of it"
    rng = np.random.default_rng(seed)
    p = torch.from_numpy(rng.normal(size=(sum(sizes), 3))*2).softmax(1).numpy()
    pl = PseudoLabels(p.astype(np.float16), vocab='abc')
    if sum(sizes) > 3: pl.arrays['leak'] = (rng.random(len(p)) < .2).astype(np.uint8)
    a, b = cut(pl, sizes), pl
    try: want = b.select(0, seed=seed, **kw)
    except ValueError as e:
        with pytest.raises(ValueError) as got: a.select(0, seed=seed, **kw)
        assert str(got.value) == str(e)
        return
    sel = a.select(0, seed=seed, **kw)
    assert np.array_equal(sel.rows, want.rows) and repr(sel) == repr(want) and repr(a) == repr(b)
    assert want.w is None or np.array_equal(sel.w, want.w)
    pd.testing.assert_frame_equal(sel.df(probs=True), want.df(probs=True))
    pd.testing.assert_frame_equal(sel.by_class(p, p.argmax(1)), want.by_class(p, p.argmax(1)))
    assert np.array_equal(a.mean_probs(), b.mean_probs()) and np.array_equal(a.temper(2.).conf, b.temper(2.).conf)
    assert np.array_equal(a.select(0).conf, b.select(0).conf)


def test_values_over_parts():
    rng = np.random.default_rng(0)
    pl = PseudoLabels(rng.normal(size=(30, 2)).astype(np.float32), kind='values')
    pl.arrays |= dict(std=rng.random((30, 2)).astype(np.float32), leak=(rng.random(30) < .3).astype(np.uint8)*3)
    a = cut(pl, [7, 11, 12])
    assert np.array_equal(a.spread, pl.spread)
    assert np.array_equal(a.select(n=9).rows, pl.select(n=9).rows)
    pd.testing.assert_frame_equal(a.df(), pl.df())


def test_all_else_over_parts(teacher, whole, tmp_path, no_windows):
    "Loaders, tables, figures, copies"
    in_parts(teacher, tmp_path/'labels', 5, ids=IDS)
    pl = PseudoLabels.open(tmp_path/'labels', X)
    for o in (pl, whole): o.unlabeled = X
    dls = pts_learner(seed=4).dls
    a, b = (o.select(.4).dl(dls, shuffle=False, num_workers=0, leaks='keep') for o in (pl, whole))
    for u, v in zip(a, b, strict=True): assert all(torch.equal(*o) for o in zip(u, v))
    for o in (pl, whole): o.to_parquet(tmp_path/f'{type(o.probs).__name__}.parquet', probs=True)
    a, b = (pd.read_parquet(tmp_path/f'{k}.parquet') for k in ('Stacked', 'memmap'))
    pd.testing.assert_frame_equal(a, b)
    assert pl.plot_confidence().get_title() == whole.plot_confidence().get_title()
    assert pl.plot_agreement(whole).get_title().startswith('Do the two teachers agree?\nOn 100%')
    assert pl.select(.4).plot_balance().get_title() == whole.select(.4).plot_balance().get_title()
    pl.save(tmp_path/'copy')
    for k in ('probs', 'conf', 'label', 'ids'):
        assert (tmp_path/'copy'/f'{k}.npy').read_bytes() == (whole.path/f'{k}.npy').read_bytes()
    assert [pl.note(i) for i in (0, 77, N-1)] == [whole.note(i) for i in (0, 77, N-1)]


# --- what can't be opened

def made(path, n=40, k=4, bs=5, **about):
    "A folder of parts, without a teacher"
    about = dict(kind='single', vocab=None, data=dict(form='array', fingerprint='f'), settings=dict(t=1)) | about
    for o in divide(n, k, bs):
        p = np.tile(np.float32([.25, .75]), (o.stop-o.start, 1))
        with Store(o.folder(path), len(p), about | o.about) as store:
            store.write(probs=p, conf=p.max(1), label=p.argmax(1).astype('u1'))
            store.finish()
    return path


def test_missing_and_incomplete_parts(teacher, tmp_path):
    path = made(tmp_path)
    (a, b, c, d) = sorted(path.iterdir())
    for o in d.iterdir(): o.unlink()
    d.rmdir()
    for o in b.iterdir(): o.unlink()
    about = json.loads((a/'header.json').read_text())['about'] | dict(part=[10, 20, 40])
    with Store(b, 10, about) as store: store.write(probs=np.ones((4, 2)))
    with pytest.raises(ValueError) as e: PseudoLabels.open(path)
    assert 'part-00001-of-00004 has 4 of 10 rows; part-00003-of-00004 is missing' in str(e.value)
    with pytest.raises(ValueError, match='no such folder'): PseudoLabels.open(tmp_path/'nothing')


@pytest.mark.parametrize('key,other,said', [
    ('settings', dict(t=2), 'part-00002-of-00004 has about.settings.t=2, most have 1'),
    ('data', dict(form='array', fingerprint='g'), "about.data.fingerprint='g', most have 'f'"),
    ('vocab', ['a', 'b'], 'about.vocab'),
    ('teachers', [dict(model='m', n_params=1, fingerprint='x')], 'about.teachers')])
def test_parts_that_differ(key, other, said, tmp_path):
    "In a word: which, and in what"
    made(tmp_path/'a')
    made(tmp_path/'b', **{key: other})
    part = 'part-00002-of-00004'
    (tmp_path/'a'/part).rename(tmp_path/'old')
    copytree(tmp_path/'b'/part, tmp_path/'a'/part)
    with pytest.raises(Changed) as e: PseudoLabels.open(tmp_path/'a')
    assert said in str(e.value) and f'about.{key}' in e.value.key and str(e.value).count('part-') == 1


def test_two_parts_that_differ(tmp_path):
    "Neither is the usual one, so both are named"
    a, b, part = made(tmp_path/'a', k=2), made(tmp_path/'b', k=2, settings=dict(t=2)), 'part-00001-of-00002'
    (a/part).rename(tmp_path/'old')
    copytree(b/part, a/part)
    said = 'labels: part-00001-of-00002 has about.settings.t=2, part-00000-of-00002 has 1. '
    with pytest.raises(Changed, match=said): PseudoLabels.open(a)


def test_parts_that_do_not_fit(tmp_path):
    "Other numbers of parts, other batches, other arrays, a folder that is no part"
    a = made(tmp_path/'a')
    copytree(made(tmp_path/'two', k=2)/'part-00000-of-00002', a/'part-00000-of-00002')
    with pytest.raises(ValueError, match='parts of 2 and of 4, which overlap'): PseudoLabels.open(a)
    b, part = made(tmp_path/'b'), 'part-00001-of-00004'
    for bs, said in ((12, 'rows 10 to 12 are in no part'), (3, 'rows 9 to 21, and part-00000-of-00004 those to 10')):
        (b/part).rename(tmp_path/f'old{bs}')
        copytree(made(tmp_path/f'b{bs}', bs=bs)/part, b/part)
        with pytest.raises(ValueError, match=said): PseudoLabels.open(b)
    c = made(tmp_path/'c')
    for o in (c/part).iterdir(): o.unlink()
    about = json.loads((c/'part-00000-of-00004'/'header.json').read_text())['about']
    with Store(c/part, 10, about | dict(part=[10, 20, 40])) as store:
        store.write(probs=np.full((10, 2), .5, 'f2'), conf=np.full(10, .5, 'f4'), label=np.zeros(10, 'u1'))
        store.finish()
    with pytest.raises(ValueError, match='has float16 x .2. for `probs`, and part-00000'): PseudoLabels.open(c)
    for bad in (None, [0, 10], [0, 11, 40], [-1, 9, 40], ['a', 1, 2], [30, 40, 39]):
        for o in (c/part).iterdir(): o.unlink()
        with Store(c/part, 10, about | dict(part=bad)) as store: store.write(probs=np.ones((1, 2)))
        with pytest.raises(ValueError, match='holds no part of labels'): PseudoLabels.open(c)


def test_damaged_bytes_are_found(tmp_path):
    path = made(tmp_path/'a')
    f = path/'part-00002-of-00004'/'probs.npy'
    f.write_bytes(f.read_bytes()[:-1]+b'\x01')
    with pytest.raises(ValueError, match='part-00002-of-00004/probs.npy is corrupted'): PseudoLabels.open(path)
    assert PseudoLabels.open(path, verify=False).n == 40


# --- what is refused before anything is predicted

@pytest.mark.parametrize('part,said', [((4, 4), r'part\[0\]=4'), ((0, 0), r'part\[1\]=0'), (1, 'a pair'),
                                       ((-1, 2), r'part\[0\]'), ((0, 20), 'up to 19 parts'), ((.5, 2), r'part\[0\]')])
def test_no_such_part(part, said, teacher, tmp_path):
    with pytest.raises((ValueError, TypeError), match=said): teacher.pseudolabel(X, tmp_path/'labels', part=part, bs=8)
    assert not (tmp_path/'labels').exists()


def test_other_labels_beside(teacher, whole, tmp_path):
    "Another teacher, temperature, data, number of parts"
    path = tmp_path/'labels'
    in_parts(teacher, path, 3)
    for f in (path/'part-00001-of-00003').iterdir(): f.unlink()
    def label(learn=teacher, x=X, part=(1, 3), **kw): return learn.pseudolabel(x, path, part=part, bs=8, **kw)
    with pytest.raises(Changed, match='another teacher'): label(pts_learner(seed=9))
    with pytest.raises(Changed, match='settings.temperature'): label(temperature=2)
    with pytest.raises(Changed, match='other rows'): label(x=X+1)
    with pytest.raises(ValueError, match=r'is divided into 3 parts, so use part=\(i, 3\)'): label(part=(1, 4))
    with pytest.raises(ValueError, match='labels of all rows in one piece'):
        teacher.pseudolabel(X, whole.path, part=(0, 2), bs=8)
    assert [*(path/'part-00001-of-00003').iterdir()] == []
    label(x=X+1, overwrite=True)
    assert [o.name for o in path.iterdir()] == ['part-00001-of-00003']
    label(pts_learner(seed=9), overwrite=True)
    assert [o.name for o in path.iterdir()] == ['part-00001-of-00003']
    label(pts_learner(seed=9), part=(0, 3), overwrite=True)  # its fellow stays
    assert sorted(o.name for o in path.iterdir()) == ['part-00000-of-00003', 'part-00001-of-00003']
    pl = teacher.pseudolabel(X, path, bs=8, overwrite=True)  # all in one piece
    assert np.array_equal(pl.probs, whole.probs) and not [*path.glob('part-*')]


def test_parts_in_place_of_one_piece(teacher, tmp_path):
    "With `overwrite` the labels in one piece go, whichever part comes first, and those of others' parts stay"
    path, other = tmp_path/'labels', pts_learner(seed=9)
    teacher.pseudolabel(X, path, bs=8, ids=IDS)
    lock = lock_folder(path)
    with pytest.raises(ValueError, match='is in use'): other.pseudolabel(X, path, bs=8, part=(1, 2), overwrite=True)
    unlock_folder(path, lock)
    (path/'part-00000-of-00002').mkdir()  # of one that begins in the meantime
    for i in (1, 0): other.pseudolabel(X, path, bs=8, part=(i, 2), overwrite=True)
    assert sorted(o.name for o in path.iterdir()) == ['part-00000-of-00002', 'part-00001-of-00002']
    equal(PseudoLabels.open(path, X), other.pseudolabel(X, tmp_path/'want', bs=8))


def test_parts_of_another_number_in_place(teacher, whole, tmp_path):
    "They go with `overwrite`, even where they are of the same labels, but not while somebody writes to them"
    path = tmp_path/'labels'
    in_parts(teacher, path, 2, ids=IDS)
    (path/'part-00002-of-00003').mkdir()
    lock = lock_folder(path/'part-00001-of-00002')
    with pytest.raises(ValueError, match='part-00001-of-00002 is in use'):
        teacher.pseudolabel(X, path, bs=8, ids=IDS, part=(0, 4), overwrite=True)
    unlock_folder(path/'part-00001-of-00002', lock)
    in_parts(teacher, path, 4, ids=IDS, overwrite=True)
    assert sorted(o.name for o in path.iterdir()) == [f'part-{i:05}-of-00004' for i in range(4)]
    equal(PseudoLabels.open(path, X), whole)


def test_leaks_of_a_part(teacher, tmp_path):
    "A part is refused for its own rows, and has their marks"
    valid = np.stack([o[0].numpy() for o in teacher.dls.valid_ds])
    x = np.concatenate([X[:100], valid[:3]])
    teacher.pseudolabel(x, tmp_path/'labels', part=(0, 2), bs=10)
    with pytest.raises(ValueError, match='3 are held out .*, such as 100'):
        teacher.pseudolabel(x, tmp_path/'labels', part=(1, 2), bs=10)
    for i in range(2): teacher.pseudolabel(x, tmp_path/'drop', part=(i, 2), bs=10, leaks='drop')
    want = teacher.pseudolabel(x, leaks='drop', bs=10)
    assert np.array_equal(PseudoLabels.open(tmp_path/'drop').leak, want.leak) and want.leak.sum() == 6


HELD = X[[5, 100]]


@pytest.mark.parametrize('one,two,said', [
    (dict(leaks='keep'), dict(leaks='drop'), "asked.leaks='keep', and now it is 'looked for'"),
    (dict(leaks='drop'), dict(leaks='drop', held_out=HELD), 'asked.held_out=None, and now'),
    (dict(leaks='drop', held_out=HELD), dict(leaks='drop', held_out=HELD[:1]), 'asked.held_out='),
    (dict(ids=IDS), dict(), "asked.ids='texts', and now it is None")])
def test_parts_that_were_asked_for_otherwise(one, two, said, teacher, tmp_path):
    "Refused before anything is labeled, as `open` would not know the marks; with `overwrite` the others go"
    path = tmp_path/'labels'
    first = teacher.pseudolabel(X, path, bs=8, part=(0, 2), **one)
    for part in ((1, 2), None):
        with pytest.raises(Changed, match=said): teacher.pseudolabel(X, path, bs=8, part=part, **two)
    assert not (path/'part-00001-of-00002').exists() and PseudoLabels.open(first.path).n == first.n
    pl = teacher.pseudolabel(X, path, bs=8, **one)
    assert PseudoLabels.open(path, X).about == pl.about and 'asked' not in pl.about
    teacher.pseudolabel(X, path, bs=8, part=(1, 2), overwrite=True, **two)
    assert [o.name for o in path.iterdir()] == ['part-00001-of-00002']


def test_part_goes_on_with_another_look(teacher, tmp_path):
    "One that was refused, or interrupted, has the marks of the call that ends it"
    path, kw = tmp_path/'labels', dict(bs=8, part=(0, 2))
    with pytest.raises(ValueError, match='held out'): teacher.pseudolabel(X, path, held_out=X[[70]], **kw)
    teacher.pseudolabel(X, path, leaks='drop', held_out=HELD[:1], **kw)
    teacher.pseudolabel(X, path, leaks='drop', held_out=HELD[:1], bs=8, part=(1, 2))
    assert np.flatnonzero(PseudoLabels.open(path, X).leak).tolist() == [5]


@pytest.mark.parametrize('rank', [None, 0, 1])
@pytest.mark.parametrize('kw', [dict(leaks='keep'), dict(leaks='drop', held_out=X[[7]])])
def test_another_look_at_complete_parts(kw, rank, teacher, tmp_path, monkeypatch):
    "Each process of a launch marks all rows, and so does one alone"
    for i in range(2): teacher.pseudolabel(X, tmp_path/'labels', bs=8, part=(i, 2), **kw)
    if rank is not None:
        for k, v in dict(WORLD_SIZE=2, RANK=rank).items(): monkeypatch.setenv(k, str(v))
    with pytest.warns(UserWarning, match='labeled with other `leaks` or `held_out`'):
        pl = teacher.pseudolabel(X, tmp_path/'labels', bs=8, leaks='drop', held_out=HELD)
    assert np.flatnonzero(pl.leak).tolist() == [5, 100] and pl.leak.shape == (N,)
    with pytest.raises(ValueError, match='held out'):
        teacher.pseudolabel(X, tmp_path/'labels', bs=8, held_out=HELD[1:])


def test_arrays_that_some_parts_have(tmp_path):
    "... or with other numbers of rows, however they came there"
    made(tmp_path)
    stores = [open_store(o) for o in sorted(tmp_path.iterdir())]
    names = 'abcd'
    for more, said in (({0: 10}, 'b has nothing for `leak`'), ({2: 10}, r'c has uint8 x \[\] for `leak`'),
                       ({i: 9+i for i in range(4)}, 'for `leak`')):
        some = [(h, a | ({'leak': np.zeros(more[i], np.uint8)} if i in more else {}))
                for i, (h, a) in enumerate(stores)]
        with pytest.raises(ValueError, match=said): stack_stores(some, names)


# --- one folder of many

@pytest.mark.parametrize('named', [False, True])
def test_join_parts(named, teacher, whole, tmp_path):
    "Parts that lie on two machines: the files that one call would have written"
    kw = dict(ids=IDS) if named else {}
    for i in range(5): teacher.pseudolabel(X, tmp_path/'ab'[i % 2], part=(i, 5), bs=8, **kw)
    pl = PseudoLabels.join([tmp_path/'b', tmp_path/'a'], tmp_path/'all')
    want = teacher.pseudolabel(X, tmp_path/'want', bs=8, **kw)
    files = {o.name for o in want.path.iterdir()} - {'header.json'}
    assert {o.name for o in pl.path.iterdir()} - {'header.json'} == files
    for o in files: assert (pl.path/o).read_bytes() == (want.path/o).read_bytes(), o
    joined = pl.about.pop('joined')
    assert pl.about == want.about and len(joined) == 5 and {o['n'] for o in joined} <= {24, 32, 30}
    assert PseudoLabels.open(pl.path, X).n == N
    with pytest.raises(ValueError, match='rows 0 to 24 are in no part'): PseudoLabels.join([tmp_path/'b'], tmp_path/'c')
    with pytest.raises(ValueError, match='part-00001-of-00005 .*has rows 24 to 56, and'):
        PseudoLabels.join([tmp_path/'b', tmp_path/'a', copytree(tmp_path/'b', tmp_path/'d')], tmp_path/'c')


def test_join_other_data(teacher, tmp_path):
    "One behind the other, each row by its name"
    xs = [points(n, n)[0].numpy() for n in (30, 50, 20)]
    ids = [[f'{i}-{j}'*(1+i*20) for j in range(len(x))] for i, x in enumerate(xs)]
    pls = [teacher.pseudolabel(x, tmp_path/f'{i}', ids=ids[i], leaks='drop') for i, x in enumerate(xs)]
    pl = PseudoLabels.join([o.path for o in pls], tmp_path/'all')
    assert list(pl.ids) == sum(ids, []) and np.array_equal(pl.probs, np.concatenate([o.probs for o in pls]))
    assert np.array_equal(pl.teacher_rows, pls[0].teacher_rows) and pl.leak.shape == (100,)
    assert [o['path'] for o in pl.about['joined']] == [str(o.path) for o in pls]
    pl = PseudoLabels.open(pl.path, np.concatenate(xs))
    sel = pl.select(.4)
    assert np.allclose(sel.dl(teacher.dls, shuffle=False, bs=999, num_workers=0).one_batch()[0],
                       np.concatenate(xs)[sel.rows])
    no_ids = [teacher.pseudolabel(x, tmp_path/f'n{i}') for i, x in enumerate(xs)]
    assert list(PseudoLabels.join([o.path for o in no_ids], tmp_path/'n').ids) == [*range(100)]


def test_join_refuses(teacher, tmp_path):
    a = teacher.pseudolabel(X[:50], tmp_path/'a', ids=range(50)).path
    twice = teacher.pseudolabel(X[50:90], tmp_path/'b', ids=range(49, 89)).path
    named = teacher.pseudolabel(X[50:90], tmp_path/'c', ids=IDS[50:90]).path
    other = pts_learner(seed=8).pseudolabel(X[50:90], tmp_path/'d', ids=range(50, 90)).path
    warm = teacher.pseudolabel(X[50:90], tmp_path/'e', ids=range(50, 90), temperature=2).path
    keep = teacher.pseudolabel(X[50:90], tmp_path/'f', ids=range(50, 90), leaks='keep').path
    for o, said in ((twice, 'two rows are called 49'), (named, 'are numbers, and those in .*c texts'),
                    (other, 'd was made with about.teachers'), (warm, 'e was made with about.settings.temperature=2.0'),
                    (keep, 'f has nothing for `leak`'), (tmp_path/'no', 'no such folder')):
        with pytest.raises(ValueError, match=said): PseudoLabels.join([a, o], tmp_path/'all')
    with pytest.raises(ValueError, match='one folder of labels or more'): PseudoLabels.join([], tmp_path/'all')
    assert not (tmp_path/'all').exists()


def test_join_takes_each_row_once(teacher, tmp_path):
    "The same rows in one piece and in parts, without names of their own"
    a, part = tmp_path/'a', tmp_path/'part'
    teacher.pseudolabel(X, a, bs=8)
    in_parts(teacher, part, 2)
    with pytest.raises(ValueError, match='labels of the same rows as .*/a: expected each row once'):
        PseudoLabels.join([a, part], tmp_path/'all')
    other = teacher.pseudolabel(X[::-1].copy(), tmp_path/'b', bs=8).path
    assert PseudoLabels.join([a, other], tmp_path/'all').n == 2*N


def test_join_refuses_folders_that_are_given_twice(teacher, tmp_path):
    "... under whatever name, and parts of one that is there as a whole"
    a, b = tmp_path/'a', tmp_path/'b'
    teacher.pseudolabel(X, a, bs=8)
    for i in range(2): teacher.pseudolabel(X, b, bs=8, part=(i, 2))
    part = b/'part-00001-of-00002'
    (tmp_path/'link').symlink_to(a)
    for folders, which in (([a, a], a), ([str(a), tmp_path/'b'/'..'/'a'], 'a'), ([a, tmp_path/'link'], 'link'),
                           ([b, part], part), ([b, b], 'part-00000-of-00002')):
        with pytest.raises(ValueError, match=f'folders=.*{which}.*once'):
            PseudoLabels.join(folders, tmp_path/'c')


def test_other_number_of_rows(teacher, tmp_path):
    "Is said in rows"
    teacher.pseudolabel(X, tmp_path, bs=8, part=(0, 2))
    with pytest.raises(Changed, match=f'about.rows={N}, and now it is {N-8}'):
        teacher.pseudolabel(X[:-8], tmp_path, bs=8, part=(1, 2))


def test_join_is_streamed_and_goes_on(tmp_path, monkeypatch):
    "Little memory, whatever there is to copy; an interrupted join ends with the bytes of a calm one"
    a, b = (made(tmp_path/k, n=400_000, k=2, bs=1000, data=dict(form='array', fingerprint=k)) for k in 'ab')
    calm = PseudoLabels.join([a, b], tmp_path/'calm')
    monkeypatch.setattr(parts_room, '_bytes', 2**18)
    write, n = Store.write, []
    def broken(self, **kw):
        n.append(1)
        if len(n) == 9: raise KeyboardInterrupt
        write(self, **kw)
    monkeypatch.setattr(Store, 'write', broken)
    with pytest.raises(KeyboardInterrupt): PseudoLabels.join([a, b], tmp_path/'all')
    tracemalloc.start()
    pl = PseudoLabels.join([a, b], tmp_path/'all')
    assert tracemalloc.get_traced_memory()[1] < 4e6 and pl.preds.nbytes == 6_400_000
    tracemalloc.stop()
    assert len(n) < 60 and pl.n == 800_000
    for k in ('probs', 'conf', 'label'):
        assert (pl.path/f'{k}.npy').read_bytes() == (calm.path/f'{k}.npy').read_bytes()


# --- several processes

class Slow(Callback):
    def after_pred(self): time.sleep(.002)


def label_slowly(path, env=None, **kw):
    os.environ.update(env or {})
    torch.manual_seed(2)
    learn = pts_learner(Slow(), model=net(c=9))
    return learn.pseudolabel(X, path, bs=3, **kw)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@one_thread()
def test_killed_parts_go_on(tmp_path, monkeypatch):
    "SIGKILL at random moments, part by part; then the bytes of one call"
    monkeypatch.setattr(Store, 'wait', .01)
    monkeypatch.setattr(Store, 'share', 1)
    rng, want = random.Random(0), label_slowly(tmp_path/'want')
    label_slowly(tmp_path/'labels', part=(1, 2))
    kill_until_done(partial(label_slowly, part=(0, 2)), tmp_path/'labels', rng, .5, lambda p: 0)
    equal(PseudoLabels.open(tmp_path/'labels'), want)


def rows_done(header): return json.loads(header.read_text())['done']


def launch(path, n, kill=False, **kw):
    "`n` ranks, as a launcher starts them, without a process group; all are killed once some rows are done"
    def rank(r): return fork(lambda p: label_slowly(p, dict(RANK=str(r), WORLD_SIZE=str(n)), **kw), path)
    pids = [rank(r) for r in range(n)]
    if kill:
        while len(begun := [*path.glob('part-*/header.json')]) < n or not any(map(rows_done, begun)): time.sleep(.01)
        for o in pids: os.kill(o, signal.SIGKILL)  # as a launcher does, once one has died
    return [os.waitstatus_to_exitcode(os.waitpid(o, 0)[1]) for o in pids]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@one_thread()
def test_ranks_share_the_rows(tmp_path, monkeypatch):
    "Each makes its parts and gets all; after a kill another number of ranks goes on, and so does one process alone"
    monkeypatch.setattr(Store, 'wait', .01)
    want = label_slowly(tmp_path/'want')
    assert launch(tmp_path/'labels', 4, kill=True) == [-9]*4
    names = [f'part-{i:05}-of-00004' for i in range(4)]
    assert [o.name for o in sorted((tmp_path/'labels').iterdir())] == names
    with pytest.raises(ValueError, match='is not complete'): PseudoLabels.open(tmp_path/'labels')
    assert launch(tmp_path/'labels', 2) == [0, 0]
    equal(PseudoLabels.open(tmp_path/'labels'), want)
    assert launch(tmp_path/'labels', 3) == [0]*3 and launch(want.path, 2) == [0, 0]  # both are complete
    assert launch(tmp_path/'one', 3, kill=True) == [-9]*3
    equal(label_slowly(tmp_path/'one'), want)
    assert sorted(o.name for o in (tmp_path/'one').iterdir()) == [f'part-{i:05}-of-00003' for i in range(3)]


@pytest.fixture
def rank1(monkeypatch):
    "As in the second of two processes"
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr(parts_room, '_patience', .05)


def test_who_waits_in_vain(teacher, tmp_path, rank1):
    "The error names the parts that nobody makes"
    with pytest.raises(ValueError, match='no progress .*: part-00000-of-00002 is missing. Has a process died'):
        teacher.pseudolabel(X, tmp_path/'labels', bs=8)
    assert sorted(o.name for o in (tmp_path/'labels').iterdir()) == ['part-00001-of-00002']
    with pytest.raises(ValueError, match='no process has begun'): teacher.pseudolabel(X[:5], tmp_path/'few', bs=8)


def test_launches_that_are_refused(teacher, whole, tmp_path, rank1, monkeypatch):
    assert ranks() == (1, 2)
    with pytest.raises(ValueError, match='path=None: expected a folder that all 2 processes of this launch can see'):
        teacher.pseudolabel(X)
    with pytest.raises(ValueError, match='overwrite=True: expected False in a launch without a process group'):
        teacher.pseudolabel(X, whole.path, bs=8, ids=IDS, overwrite=True)
    assert teacher.pseudolabel(X, part=(1, 4), bs=8).first == 32  # a part that was asked for is that part
    monkeypatch.delenv('RANK')
    with pytest.raises(ValueError, match="RANK='': .*WORLD_SIZE=2 means"): teacher.pseudolabel(X, tmp_path/'labels')


# --- what is read

def test_a_part_reads_its_own_rows_once(teacher, tmp_path):
    "... and, but for a first look, a row or two of all, and a sample of a part that is there, no others"
    class Counted(torch.utils.data.Dataset):
        def __init__(self): self.reads = np.zeros(N, int)
        def __len__(self): return N
        def __getitem__(self, i):
            self.reads[i] += 1
            return (torch.from_numpy(X[i]),)
    ds = [Counted() for _ in range(4)]
    for i, o in enumerate(ds): teacher.pseudolabel(o, tmp_path/'labels', part=(i, 4), bs=8)
    first, sample = 30, 64
    for part, o in zip(divide(N, 4, 8), ds):
        own = o.reads[part.start:part.stop]
        assert own.min() == 1 and o.reads.sum() <= len(own)+first+sample
    class Other(Counted):
        def __getitem__(self, i): return (super().__getitem__(i)[0]+1,)
    for f in (tmp_path/'labels'/'part-00001-of-00004').iterdir(): f.unlink()
    with pytest.raises(Changed, match='other rows.*row .* is not the one that was labeled in .*part-00000-of-00004'):
        teacher.pseudolabel(Other(), tmp_path/'labels', part=(1, 4), bs=8)


def test_files_of_joined_labels(tmp_path, digits):
    "Joined labels of files find them by their names"
    fs, x, y = digits
    dls = image_dls(fs, [])
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, len(dls.vocab))),
                    loss_func=CrossEntropyLossFlat())
    paths = [learn.pseudolabel(fs[a:b], tmp_path/f'{a}', bs=8).path for a, b in ((60, 70), (70, 90))]
    PseudoLabels.join(paths[:1], tmp_path/'one')
    pl = PseudoLabels.open(PseudoLabels.join([tmp_path/'one', paths[1]], tmp_path/'all').path)
    assert list(pl.ids) == [str(o) for o in fs[60:90]] and [o['n'] for o in pl.about['joined']] == [10, 20]
    xb, yb = pl.dl(dls, shuffle=False, bs=30).one_batch()
    assert torch.allclose(xb.cpu()*255, x[60:90].float(), atol=1e-3) and torch.equal(yb.cpu(), pl.read(slice(None)))
    part = learn.pseudolabel(fs[60:90], tmp_path/'part', part=(1, 3), bs=8)
    assert list(part.ids) == [str(o) for o in fs[68:76]] == list(part.df().id)
    with pytest.raises(ValueError, match='came without their rows'): PseudoLabels.open(part.path).dl(dls)
