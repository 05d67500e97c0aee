"Rows of other libraries' tables, arrays and data sets: the same inputs and labels as from those of numpy and pandas"
import io
import pickle
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastcore.basics import noop
from matplotlib import pyplot as plt
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives a Learner its `pseudolabel`)
from noisy_student_fastai.labels.leaks import find_leaks
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.labels.readers import (
    Reader,
    as_batch,
    as_readable,
    batch_hashes,
    column_hashes,
    column_names,
    frame,
    joined,
    n_rows,
    numbers,
    taken,
    value_hash,
    values,
)
from noisy_student_fastai.labels.sources import as_source
from PIL import Image
from source_toys import DIGITS, N2, N, flat_net, image_dls, pictures, save, table, tensor_dls, text_dls, texts, wine
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset


def parquet(df, path, rng):
    import pyarrow as pa
    from pyarrow import parquet
    at = sorted({0, len(df), *rng.integers(1, len(df), 2).tolist()})  # files of any size, row groups of any size
    for i, (a, b) in enumerate(zip(at, at[1:])):
        part = pa.Table.from_pandas(df[a:b], preserve_index=False)
        parquet.write_table(part, path/f'{i}.parquet', row_group_size=int(rng.integers(1, 30)))
    return path


def arrow(df, path, rng):
    import pyarrow as pa
    at = int(rng.integers(1, len(df)))
    return pa.concat_tables([pa.Table.from_pandas(o, preserve_index=False) for o in (df[:at], df[at:])])


def dataset(df, path, rng):
    import pyarrow.dataset as ds
    return ds.dataset(parquet(df, path, rng))


def feather(df, path, rng):
    df.reset_index(drop=True).to_feather(path/'rows.feather')
    return path


def polars(df, path, rng): return pytest.importorskip('polars').from_arrow(arrow(df, path, rng))
def lazy(df, path, rng): return polars(df, path, rng).lazy()


def duckdb(df, path, rng):
    rows = arrow(df, path, rng)  # noqa: F841  (duckdb finds it by its name)
    return pytest.importorskip('duckdb').sql('select * from rows')


def hugging_face(df, path, rng):
    lib = pytest.importorskip('datasets')
    order = rng.permutation(len(df))  # a data set that was shuffled reads through indices
    return lib.Dataset.from_pandas(df.iloc[order].reset_index(drop=True)).select(np.argsort(order))


def own(df, path, rng): return Counted(df)
def by_slices(df, path, rng): return OnlySlices(df)


class Counted:
    "An object with a length and `rows`, which says what was read"
    def __init__(self, x): self.x, self.read = x, []
    def __len__(self): return len(self.x)
    def rows(self, at):
        self.read.append(at)
        return self.x.iloc[at] if isinstance(self.x, pd.DataFrame) else self.x[at]


class OnlySlices(Counted):
    def rows(self, at): return super().rows(slice(at.start, at.stop))


class Flow(IterableDataset):
    "Whoever asks for rows gets all of them, from the begin"
    def __init__(self, x): self.x, self.read = x, 0
    def __iter__(self):
        for o in self.x:
            self.read += 1
            yield o, 1


TABLES = [parquet, arrow, dataset, feather, polars, lazy, duckdb, hugging_face, own, by_slices]


def same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert type(x) is type(y) and x.dtype == y.dtype
            assert torch.equal(x.as_subclass(Tensor), y.as_subclass(Tensor))


def check(x, data, dls, net=None, seed=0):
    "Are rows of `x` those of `data`, for a teacher and for a student, and are their labels the same?"
    rng = np.random.default_rng(seed)
    src, want = as_source(x, dls), as_source(data, dls)
    assert src.n == want.n
    bs, start = int(rng.integers(3, 40)), int(rng.integers(0, src.n))
    for kw in (dict(), dict(start=start)): same(list(src.eval_dl(dls, bs, **kw)), list(want.eval_dl(dls, bs, **kw)))
    rows = rng.integers(src.n, size=50)
    same(list(src.eval_dl(dls, bs, rows=rows)), list(want.eval_dl(dls, bs, rows=rows)))
    y, w = torch.rand(50, 10), torch.rand(50)
    same(*[list(o.train_dl(dls, rows, y, w, bs=bs, shuffle=False)) for o in (src, want)])
    if net is None: return
    learn = Learner(dls, net, CrossEntropyLossFlat())
    pls = [learn.pseudolabel(o, leaks='keep') for o in (x, data)]
    assert torch.equal(*(o.read(slice(None)) for o in pls))


@pytest.fixture(scope='module')
def rows(): return table(None)


@pytest.mark.parametrize('make', [parquet, polars, hugging_face, by_slices])
def test_tables_are_encoded_as_a_data_frame(make, rows, tmp_path):
    df = rows['data'].reset_index(drop=True)
    check(make(df, tmp_path, np.random.default_rng(0)), df, rows['dls'], rows['net'])


ARRAYS = []


def of_arrays(f):
    ARRAYS.append(f)
    return f


@of_arrays
def npy(x, path, rng):
    np.save(path/'x.npy', x)
    return path/'x.npy'


@of_arrays
def npz(x, path, rng):
    np.savez(path/'x.npz', x=x, y=np.arange(len(x)))
    return Reader(str(path/'x.npz'), 'x')


@of_arrays
def h5py(x, path, rng):
    lib = pytest.importorskip('h5py')
    f = lib.File(path/'x.h5', 'w')
    return f.create_dataset('a/x', data=x, chunks=(int(rng.integers(1, 20)), *x.shape[1:]))


@of_arrays
def h5py_closed(x, path, rng):
    h5py(x, path, rng).file.close()
    lib = pytest.importorskip('h5py')
    with lib.File(path/'x.h5') as f: return Reader(f['a'], 'x')


@of_arrays
def zarr(x, path, rng):
    lib = pytest.importorskip('zarr')
    z = lib.create_array(path/'x.zarr', shape=x.shape, dtype=x.dtype, chunks=(int(rng.integers(1, 20)), *x.shape[1:]))
    z[:] = x
    return z


@of_arrays
def zarr_group(x, path, rng):
    zarr(x, path, rng)
    return sys.modules['zarr'].open_group(path)


@of_arrays
def columns(x, path, rng): return arrow(pd.DataFrame(x.reshape(len(x), -1)).rename(columns=str), path, rng)


@of_arrays
def a_column_of_lists(x, path, rng):
    return parquet(pd.DataFrame(dict(name='a', x=x.tolist(), y=1)), path, rng)


@of_arrays
def tensors(x, path, rng):
    import pyarrow as pa
    return pa.table(dict(x=pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x)), y=[0]*len(x)))


@of_arrays
def polars_arrays(x, path, rng):
    pl = pytest.importorskip('polars')
    return pl.DataFrame(dict(x=x.reshape(len(x), -1), name='a'))


@of_arrays
def hugging_face_arrays(x, path, rng):
    lib = pytest.importorskip('datasets')
    return lib.Dataset.from_dict(dict(x=x, y=[1]*len(x))).with_format('torch')


@of_arrays
def of_a_dict(x, path, rng): return dict(x=x, name=['a']*len(x))


@of_arrays
def stream(x, path, rng): return Flow(x)


@of_arrays
def own_array(x, path, rng): return Counted(x)


@of_arrays
def own_slices(x, path, rng): return OnlySlices(torch.tensor(x))


@pytest.mark.parametrize('make', ARRAYS, ids=lambda f: f.__name__)
def test_arrays_of_all_kinds(make, tmp_path):
    x = DIGITS[N:N+N2]
    check(make(x, tmp_path, np.random.default_rng(0)), x, tensor_dls(num_workers=0), flat_net(64))


@pytest.mark.parametrize('make', [h5py, zarr, hugging_face_arrays, a_column_of_lists], ids=lambda f: f.__name__)
def test_pictures_in_arrays(make, tmp_path):
    "Rows are 8 x 8 or have a channel, as labeled ones have"
    x = DIGITS[N:N+N2].reshape(-1, 8, 8)
    def pairs(x, y): return list(zip(x.reshape(-1, 1, 8, 8), y))
    check(make(x, tmp_path, np.random.default_rng(1)), x, tensor_dls(pairs, num_workers=0), flat_net(64))


@pytest.fixture(scope='module')
def critic():
    df = texts()
    return text_dls(df[:N].copy()), df[N:].drop(columns='label').reset_index(drop=True)


@pytest.mark.parametrize('make', [parquet, own])
def test_texts(make, critic, tmp_path):
    "Labeled rows are read from a column, which these have too, or from one that a Reader names"
    dls, df = critic
    check(make(df, tmp_path, np.random.default_rng(0)), df, dls)
    more = make(df.assign(other=df.text[::-1].tolist()), tmp_path, np.random.default_rng(0))
    check(Reader(more, 'other'), df.text[::-1].tolist(), dls)


def bytes_of(fs, path, rng): return arrow(pd.DataFrame(dict(y=1, x=[f.read_bytes() for f in fs])), path, rng)
def names_of(fs, path, rng): return parquet(pd.DataFrame(dict(file=[str(f) for f in fs], label='a')), path, rng)
def folder_of(fs, path, rng): return fs[0].parent
def pattern_of(fs, path, rng): return f'{fs[0].parent}/*.png'
def pictures_of(fs, path, rng): return [Image.open(f) for f in fs]


def hugging_face_pictures(fs, path, rng):
    lib = pytest.importorskip('datasets')
    features = lib.Features(x=lib.Image(), y=lib.Value('int64'))
    return lib.Dataset.from_dict(dict(x=[str(f) for f in fs], y=[1]*len(fs)), features=features)


def hugging_face_parquet(fs, path, rng):
    hugging_face_pictures(fs, path, rng).to_parquet(path/'x.parquet')
    return path/'x.parquet'


def transformed(fs, path, rng):
    return hugging_face_pictures(fs, path, rng).with_transform(lambda b: dict(x=[np.asarray(o) for o in b['x']]))


def pil_pictures(fs, path, rng):
    return hugging_face_pictures(fs, path, rng).with_transform(lambda b: dict(x=[o.convert('RGB') for o in b['x']]))


def hugging_face_stream(fs, path, rng): return hugging_face_pictures(fs, path, rng).to_iterable_dataset(3)


def webdataset(fs, path, rng):
    lib = pytest.importorskip('webdataset')
    with tarfile.open(path/'x.tar', 'w') as f:
        for o in fs:
            for end, b in (('.png', o.read_bytes()), ('.cls', b'3')):
                info = tarfile.TarInfo(f'{o.stem}{end}')
                info.size = len(b)
                f.addfile(info, io.BytesIO(b))
    return Reader(lib.WebDataset(str(path/'x.tar'), shardshuffle=False), 'png')


PICTURES = [bytes_of, names_of, folder_of, pattern_of, hugging_face_pictures, hugging_face_parquet, transformed,
            pil_pictures, hugging_face_stream, webdataset]


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    labeled, new = map(tmp_path_factory.mktemp, ('labeled', 'new'))
    return image_dls(labeled), [save(new, i) for i in range(N, N+N2)]


@pytest.mark.parametrize('make', PICTURES)
def test_pictures(make, photos, tmp_path):
    dls, fs = photos
    check(make(fs, tmp_path, np.random.default_rng(0)), fs, dls, flat_net(64))


@pytest.mark.parametrize('make', [bytes_of, pil_pictures, webdataset])
def test_pictures_are_shown_as_their_files_are(make, photos, tmp_path):
    "With their labels; a student's loader shows its targets, too"
    (dls, fs), seen = photos, []
    learn = Learner(dls, flat_net(64), CrossEntropyLossFlat())
    for x in (fs, make(fs, tmp_path, np.random.default_rng(0))):
        sel = learn.pseudolabel(x, leaks='keep').select(0.)
        sel.show(max_n=4)
        axes = plt.gcf().axes[:4]
        seen.append([(o.get_title(), o.images[0].get_array()) for o in axes])
        plt.close('all')
    for (title, pic), (known_title, known) in zip(*seen, strict=True):
        assert title == known_title and np.array_equal(pic, known)
    dl, p = sel.dl(dls, bs=4, shuffle=False, num_workers=0), sel.pl.read(slice(0, 4)).float()
    for (pic, title), f, o in zip(dl.decode_batch(dl.one_batch()), fs[:4], p, strict=True):
        assert title == f'{dls.vocab[int(o.argmax())]} p={o.max():.2f}'
        assert np.array_equal(pic[0].cpu(), np.asarray(Image.open(f).convert('L')))


# --- what is read

def all_rows(reads, n): return [np.arange(n)[o].tolist() for o in reads]


@pytest.mark.parametrize('bs', [7, 64])
def test_batches_are_read_as_batches(bs, critic, rows):
    "Once each, by teacher and student, whatever the Learner; of a table a block at a time"
    dls, df = critic
    flat = DIGITS[N:N+N2]
    for x, dls in ((flat, tensor_dls(num_workers=0)), (df, dls)):
        x = Counted(x)
        src = as_source(x, dls)
        x.read.clear()
        list(src.eval_dl(dls, bs))
        assert all_rows(x.read, N2) == [list(range(i, min(i+bs, N2))) for i in range(0, N2, bs)]
        x.read.clear()
        at = np.random.default_rng(0).integers(N2, size=50)
        list(src.train_dl(dls, at, torch.zeros(50), bs=bs, shuffle=False))
        assert all_rows(x.read, N2) == [np.unique(at[i:i+bs]).tolist() for i in range(0, 50, bs)]
    x = Counted(rows['data'])
    src = as_source(x, rows['dls'])
    x.read.clear()
    list(src.eval_dl(rows['dls'], bs))
    assert all_rows(x.read, N2) == [list(range(N2))]


@pytest.mark.parametrize('make', [h5py, zarr], ids=lambda f: f.__name__)
def test_workers_open_a_file_themselves(make, tmp_path):
    k = pictures(tmp_path)
    got = as_source(make(k['data'], tmp_path, np.random.default_rng(0)), k['dls']).eval_dl(k['dls'], 16, num_workers=2)
    same(list(got), list(as_source(k['data'], k['dls']).eval_dl(k['dls'], 16)))


@pytest.mark.parametrize('n_block', [1000, 20])
def test_a_table_is_read_once_for_its_leaks(n_block, rows, monkeypatch):
    "... in both ways in which a labeled row may be written, and with the same block for its label"
    monkeypatch.setattr('noisy_student_fastai.labels.sources._n_block', n_block)
    x = Counted(rows['data'])
    Learner(rows['dls'], rows['net'], CrossEntropyLossFlat()).pseudolabel(x, bs=14)
    read = [o for o in all_rows(x.read, N2) if len(o) > 12]  # others are looks
    assert sum(read, []) == [*range(N2)]


@pytest.mark.parametrize('n_block', [13, 64])
def test_blocks_of_a_table(n_block, rows, monkeypatch):
    "The same, whatever is encoded together"
    monkeypatch.setattr('noisy_student_fastai.labels.sources._n_block', n_block)
    df = rows['data'].reset_index(drop=True)
    check(Counted(df), df, rows['dls'])


def test_a_stream_is_read_in_order():
    "Once to count it, once by a teacher; from its begin to the last row that a student wants, and not by workers"
    dls, x = tensor_dls(num_workers=0, after_item=noop), Flow(DIGITS[N:N+N2])
    src = as_source(x, dls)
    assert N2 < x.read < N2+10
    x.read = 0
    for kw in (dict(), dict(num_workers=2)): list(src.eval_dl(dls, 7, **kw))
    assert x.read == 2*N2+1  # the first row shows what rows are, once
    x.read = 0
    assert sum(len(b[0]) for b in src.eval_dl(dls, 7, start=35)) == N2-35 and x.read == N2
    x.read = 0
    dl = src.train_dl(dls, [3, 20, 3], torch.zeros(3))
    for _ in range(3): list(dl)
    assert x.read == 21
    assert len(Reader(x, n=50)) == 50
    with pytest.raises(TypeError, match='in a fixed order'): Reader(Flow(Noisy()))


class Noisy:
    def __iter__(self): return iter(np.random.default_rng().random(3))


def test_row_groups_are_read_once(tmp_path):
    "In order, also where a batch ends within one; of rows from anywhere, those that hold one"
    rng = np.random.default_rng(0)
    store = Reader(parquet(pd.DataFrame(dict(x=range(N2))), tmp_path, rng)).store
    read, part = [], store.last
    class Last(dict):
        def __setitem__(self, k, v):
            read.append(k)
            super().__setitem__(k, v)
    store.last = Last(part)
    for i in range(0, N2, 4): assert store.rows(slice(i, j := min(i+4, N2)))['x'].to_pylist() == list(range(i, j))
    assert read == list(range(len(store.parts))) and len(read) > 3
    for _ in range(5):
        read.clear()
        at = np.unique(rng.integers(N2, size=9))
        assert store.rows(at).column('x').to_pylist() == at.tolist()
        assert {*read} <= {*np.searchsorted(store.ends, at, 'right').tolist()} and len({*read}) == len(read)


@pytest.mark.parametrize('make', [*TABLES, *ARRAYS], ids=lambda f: f.__name__)
def test_any_rows_in_any_process(make, tmp_path):
    "Whichever rows are asked for; also of a copy, as it comes to a worker"
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(a=rng.normal(size=N2), s=rng.choice(list('pqr'), N2)))
    x = rng.normal(size=(N2, 3)) if make in ARRAYS else df
    r = as_readable(make(x, tmp_path, rng))
    r = r if isinstance(r, Reader) else Reader(r)
    h = batch_hashes(r.rows(slice(0, N2)))
    assert len({*h.tolist()}) == N2
    for o in (r, pickle.loads(pickle.dumps(r))):
        for _ in range(4):
            a, b = sorted(rng.choice(N2+1, 2, replace=False).tolist())
            at = np.unique(rng.integers(N2, size=8))
            for i in (at, slice(a, b)):
                compare(o.rows(i), x[i] if make in ARRAYS else x.iloc[i])
                assert np.array_equal(batch_hashes(o.rows(i)), h[i])


def compare(b, want):
    if isinstance(want, pd.DataFrame):
        assert frame(b).astype(object).equals(want.reset_index(drop=True).astype(object))
        return
    names = column_names(b)
    got = b if names is None else numbers(b, 'x') if 'x' in names else np.stack([numbers(b, k) for k in names], 1)
    assert np.array_equal(np.asarray(got).reshape(want.shape), want)


@pytest.mark.parametrize('seed', range(5))
def test_a_row_has_one_hash(seed):
    "Whatever is beside it: gaps, other types of number, lists of other lengths; and another value has another one"
    import pyarrow as pa
    rng = np.random.default_rng(seed)
    n, text = 12, [None, 'a', 'b', '', 'caf\udce9']
    def maybe(v): return [None if rng.random() < .2 else o for o in v]
    lists = [rng.integers(9, size=k).tolist() for k in rng.integers(0, 4, n)]
    cols = dict(i=maybe(rng.integers(9, size=n).tolist()), f=maybe(rng.random(n).tolist()),
                s=[text[i] for i in rng.integers(4, size=n)], b=maybe([b'x', b'y']*6), l=lists,
                ll=[[o, o] for o in lists], d=pd.date_range('2020', periods=n).to_pydatetime().tolist())
    table = pa.table(cols).append_column('t', pa.FixedShapeTensorArray.from_numpy_ndarray(rng.random((n, 2, 3))))
    odd = [text[i] for i in rng.integers(5, size=n)]
    for b in (table, pd.DataFrame(cols), cols | dict(x=rng.random((n, 4)), s=odd)):
        h = batch_hashes(as_batch(b))
        for _ in range(6):
            at = np.unique(rng.integers(n, size=4))
            part = {k: [v[i] for i in at] if isinstance(v, list) else v[at] for k, v in b.items()} if b is not table \
                and isinstance(b, dict) else taken(as_batch(b), at)
            assert np.array_equal(batch_hashes(as_batch(part)), h[at])
        for k in column_names(as_batch(b)):
            v = column_hashes(as_batch(b), k)
            want = [repr(o.tolist() if hasattr(o, 'tolist') else o) for o in values(as_batch(b), k)]
            assert len({*v.tolist()}) == len({*want})


@pytest.mark.parametrize('type_', ['int64', 'uint64'])
def test_whole_numbers_count_to_the_last_bit(type_):
    "In whatever holds them, and whatever gaps are beside them"
    import pyarrow as pa
    low = 0 if type_ == 'uint64' else -2**63
    top = low+2**64
    near = [o+i for o in (low, 2**53, 2**60, 2**62, top//2, top) for i in range(-2050, 2051) if low <= o+i < top]
    v = [0, 1, None, *dict.fromkeys(o for o in near if o not in (0, 1))]
    h = np.array([value_hash(o) for o in v], np.uint64)
    assert len(set(h.tolist())) == len(v)
    nullable = dict(int64='Int64', uint64='UInt64')[type_]
    gaps = [pa.table(dict(a=pa.array(v, type_))), pd.DataFrame(dict(a=pd.array(v, dtype=nullable)))]
    x = np.array([o for o in v if o is not None], type_)
    whole = [dict(a=x), pd.DataFrame(dict(a=x)), pa.table(dict(a=x)), dict(a=x.astype(x.dtype.newbyteorder()))]
    own = [o is not None for o in v]
    for b in gaps:
        assert np.array_equal(column_hashes(b, 'a')[own], h[own])
        assert np.isnan(column_hashes(b, 'a')[[2]].view(float)).all()
        assert np.array_equal(column_hashes(taken(b, np.arange(3, 9)), 'a'), h[3:9])
    for b in whole: assert np.array_equal(column_hashes(b, 'a'), h[own])
    for k in ('float32', 'float64', 'int32', 'uint8', 'bool'):
        assert np.array_equal(column_hashes(dict(a=np.arange(2).astype(k)), 'a'), h[:2])


@pytest.mark.parametrize('as_text', [str, str.encode])
def test_texts_in_arrays_have_one_hash(as_text):
    "However long the longest one of their batch is"
    texts = [as_text('x'*k+'y') for k in (0, 30, 3, 3, 1, 12)]
    for form in (np.array, lambda v: dict(a=np.array(v)), lambda v: dict(a=np.array(v)[:, None], b=np.array(v)),
                 lambda v: np.array(v).reshape(-1, 1)):
        h = batch_hashes(form(texts))
        assert len(set(h.tolist())) == 5
        for i in range(6): assert batch_hashes(form(texts[i:i+1])) == h[i]
    assert np.array_equal(batch_hashes(np.array(texts)), batch_hashes(texts))



# --- what is asked

def test_names_of_rows(tmp_path, rows):
    df = rows['data'].assign(id=[f'r{i}' for i in range(N2)])
    src = as_source(Reader(parquet(df, tmp_path, np.random.default_rng(0)), ids='id'), rows['dls'])
    assert list(src.ids()) == list(df.id) and src.called(3) == 'r3'
    assert as_source(Reader(df, ids='k')).items.names == ['a', 'b', 'side', 'soil', 'id']
    with pytest.raises(ValueError, match="two rows with the id"): as_source(Reader(df, ids='side')).ids()


@pytest.mark.parametrize('x,msg', [
    (dict(a=[1., 2.], b=[1., 2.]), r"which of them make a row of \(64,\) numbers"),
    (dict(x=np.zeros((2, 64)), y=np.zeros((2, 64))), r"columns \['x', 'y'\]: which"),
    (dict(name=['a', 'b']), r"columns \['name'\]: which"), ({}, 'is empty'),
    (dict(x=[[1.]*64, None]), "'x' holds a gap"), (dict(x=[[1.]*64, [1.]*63]), 'rows of several shapes'),
    (iter([1]), 'can be read only once'), ({1, 2}, 'of type set: .*`rows'), ('nowhere/*.png', 'no such file')])
def test_what_can_not_be_read(x, msg):
    dls = tensor_dls(num_workers=0)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=f'(?s)unlabeled.*{msg}|column.*{msg}'):
        list(as_source(x, dls).eval_dl(dls))


def test_columns_that_nobody_names(critic, rows, photos):
    texts, photos = critic[0], photos[0]
    for x, dls, msg in ((dict(a=['x'], b=['y']), texts, r"is \['text'\], which labeled rows are read from"),
                        (dict(a=[1], b=['y']), photos, 'does the Learner read'),
                        (dict(a=[1.], side=['x']), rows['dls'], "no column 'soil'"),
                        ([1, 2], rows['dls'], 'the Learner reads tables')):
        with pytest.raises((ValueError, TypeError), match=msg): as_source(x, dls)


class Broken(Counted):
    def rows(self, at):
        if 17 in np.arange(len(self))[at]: raise OSError('broken')
        return super().rows(at)


def test_rows_that_can_not_be_read(critic, rows):
    flat = tensor_dls(num_workers=0)
    for x, dls, net in ((DIGITS[N:N+N2], flat, flat_net(64)), (rows['data'], rows['dls'], rows['net']),
                        (critic[1], critic[0], None)):
        with pytest.raises(ValueError, match=r"row 17 of unlabeled \(17\) can't be read \(OSError: broken\)"):
            list(as_source(Broken(x), dls).eval_dl(dls))
        if net is None: continue  # of texts
        with pytest.warns(UserWarning, match='1 of 70 rows'):
            pl = Learner(dls, net, CrossEntropyLossFlat()).pseudolabel(Broken(x), unreadable='skip', leaks='keep')
        assert np.flatnonzero(pl.leak).tolist() == [17]
    class Short(Counted):
        def rows(self, at): return super().rows(at)[:3]
    with pytest.raises(ValueError, match='unlabeled gave 3 rows where 16 were asked for'):
        list(as_source(Short(DIGITS), flat).eval_dl(flat))


def test_labels_in_a_folder(rows, tmp_path):
    "A file is named again a week later; a row that is labeled is found"
    df = pd.concat([rows['data'], wine(N+N2)[5:6].drop(columns='kind')], ignore_index=True)
    x = tmp_path/'x.parquet'
    df.to_parquet(x)
    assert np.flatnonzero(find_leaks(x, rows['dls'])).tolist() == [N2]
    learn = Learner(rows['dls'], rows['net'], CrossEntropyLossFlat())
    pl = learn.pseudolabel(x, tmp_path/'labels', leaks='drop')
    again = PseudoLabels.open(tmp_path/'labels', str(x))
    for o in (pl, again):
        assert isinstance(o.unlabeled, Reader) and len(o.select(0)) == N2
        assert next(iter(o.select(0).dl(rows['dls'])))[1].shape[1] == 3
        o.show(rows['dls'], max_n=2)


@pytest.mark.parametrize('seed', range(2))
def test_hashes_of_large_whole_numbers(seed):
    "A float can't tell them apart; they are the same beside a gap, in an Arrow table, in pandas and in a list"
    import pyarrow as pa
    rng, n = np.random.default_rng(seed), 40
    for dtype, low, high in (('int64', -2**63, 2**63-1), ('uint64', 0, 2**64-1), ('int64', 2**53-9, 2**53+9)):
        x = np.unique(rng.integers(low, high, n, dtype=dtype, endpoint=True))
        for far in (x, np.unique(x[:1]+np.arange(n).astype(dtype))):
            h = column_hashes(dict(a=far), 'a')
            assert len({*h}) == len(far)
            s, gap = pd.Series([*far.tolist(), None], dtype=dtype.title().replace('Ui', 'UI')), np.append(far, far[:1])
            table = pa.table(dict(a=pa.array(gap, mask=np.arange(len(gap)) == len(far))))
            lists = [dict(a=o) for o in (far.tolist(), far.astype(object))]
            for b in (pd.DataFrame(dict(a=far)), s.to_frame('a'), table, *lists):
                assert np.array_equal(column_hashes(b, 'a')[:len(far)], h)


def test_hashes_of_texts_in_arrays():
    "Whatever the longest one beside them"
    texts = np.array(['a', 'bcd', 'ef'*9, 'a'])
    for x in (texts, texts.astype('S')):
        for b in (lambda i: np.array(x[i].tolist()), lambda i: dict(t=np.array(x[i].tolist()))):
            h = batch_hashes(b(slice(None)))
            assert len({*h}) == 3 and [batch_hashes(b(slice(i, i+1)))[0] for i in range(4)] == h.tolist()


class Pairs(Dataset):
    "Rows of a data set of torch, which has more that others mean something by"
    shape, dtype, ids = (30, 2), np.dtype('float32'), 'abc'
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return (torch.from_numpy(self.x[i]),)
    def rows(self): return 'no rows'


class Batched(Dataset):
    "One that gives batches, and no single row"
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def ids(self): return [f'r{i}' for i in range(len(self.x))]
    def rows(self, at): return self.x[at]


class Both(Batched):
    def __getitem__(self, i): return (torch.from_numpy(self.x[i]),)


class Named:
    "An object whose `rows` is none of rows, and that can be read by number"
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return (torch.from_numpy(self.x[i]),)
    def rows(self): return len(self.x)


def test_what_is_a_data_set_and_what_a_reader():
    "A data set of torch with rows of its own is read by these; else what has a length and `rows(at)` is a reader"
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    rows = [(torch.from_numpy(o), i % 3) for i, o in enumerate(x[:6]+9)]
    dls = DataLoaders(*[TfmdDL(rows, 4) for _ in range(2)])
    for make, is_reader in ((Pairs, False), (Batched, True), (Both, False), (Named, False)):
        o = make(x)
        assert isinstance(as_readable(o), Reader) == is_reader, make
        src = as_source(o, dls)
        assert torch.equal(torch.cat([b[0] for b in src.eval_dl(dls, 7)]), torch.from_numpy(x))
        assert src.ids() == (o.ids() if is_reader else None)
    assert np.array_equal(Reader(Both(x)).rows(slice(2, 5)), x[2:5])  # who says so is believed


def lists(rng, typ, kind, n=12):
    "A column of Arrow lists with gaps: rows that are none, and cells"
    import pyarrow as pa
    def cell(): return None if rng.random() < .2 else rng.integers(2).item() == 1 if typ == pa.bool_() \
        else rng.integers(100).item() if pa.types.is_integer(typ) else rng.normal()
    def row(): return None if rng.random() < .2 else [cell() for _ in range(3 if kind == 'fixed' else rng.integers(4))]
    if kind == 'nested':
        return pa.array([[row() for _ in range(rng.integers(3))] for _ in range(n)], pa.list_(pa.list_(typ)))
    kinds = dict(list=pa.list_(typ), large=pa.large_list(typ), fixed=pa.list_(typ, 3))
    return pa.array([row() for _ in range(n)], kinds[kind])


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('kind', ['list', 'large', 'fixed', 'nested'])
def test_hashes_of_lists_with_gaps(kind, seed):
    "A gap in one row is none of the others' affair; rows that differ differ"
    pa, rng = pytest.importorskip('pyarrow'), np.random.default_rng(seed)
    for typ in (pa.int32(), pa.int64(), pa.uint8(), pa.bool_(), pa.float32()):
        t = pa.table(dict(x=lists(rng, typ, kind)))
        h = batch_hashes(t)
        assert np.array_equal(np.concatenate([batch_hashes(t[i:i+1]) for i in range(len(t))]), h)
        assert np.array_equal(batch_hashes(t.take(np.arange(len(t))[::-1])), h[::-1])
        if kind != 'nested': assert len({*map(repr, t['x'].to_pylist())}) == len({*h.tolist()})


def test_numbers_of_columns():
    "The same in whatever holds them; none where they are no numbers, or rows of several shapes"
    import pyarrow as pa
    x = np.arange(24.).reshape(2, 3, 4)
    twice = pa.table(dict(x=pa.array([*x.tolist()]*2)))
    for b in (pa.table(dict(x=pa.array(x.tolist()))), pd.DataFrame(dict(x=x.tolist())), dict(x=list(x)), dict(x=x),
              pa.table(dict(x=pa.FixedShapeTensorArray.from_numpy_ndarray(x))), twice.slice(2)):
        assert np.array_equal(numbers(b, 'x'), x)
    for b in (pa.table(dict(x=[[1], [2, 3]])), dict(x=[[1], [2, 3]]), dict(x=['a', 'b']), pa.table(dict(x=[None, [1]])),
              pd.DataFrame(dict(x=['a', None])), pa.table(dict(x=[[], []]))): assert numbers(b, 'x') is None


def test_batches_are_joined():
    import pyarrow as pa
    for o in ([1, 2], dict(a=[1, 2]), pd.DataFrame(dict(a=[1, 2])), pa.table(dict(a=[1, 2])), np.array([1, 2])):
        b = joined([as_batch(o)]*2)
        v = b if column_names(b) is None else values(b, 'a')
        assert type(b) is type(as_batch(o)) and n_rows(b) == 4 and list(v) == [1, 2, 1, 2]


def test_a_filter_of_pyarrow_is_refused(tmp_path):
    "Its files hold other rows, too; without the filter they are read"
    import pyarrow.dataset as ds
    data = ds.dataset(parquet(pd.DataFrame(dict(a=range(10))), tmp_path, np.random.default_rng(0)))
    assert len(Reader(data)) == 10
    with pytest.raises(ValueError, match=r'with a filter, 4 rows: expected its rows in memory'):
        Reader(data.filter(ds.field('a') > 5))
