"Rows of other libraries' tables, arrays and data sets: the same inputs, targets and labels as from those of numpy and pandas"
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from noisy_student_fastai.labels.readers import Reader
from noisy_student_fastai.labels.sources import as_source
from source_toys import CLASSES, DIGITS, N2, N, files, picture, table, tensor_dls, text_dls, texts
from torch import Tensor


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
    train = [list(o.train_dl(dls, rows, y, w, bs=bs, shuffle=False)) for o in (src, want)]
    same(*[[b[-2:] for b in o] for o in train])
    if net is None: return
    learn = Learner(dls, net, CrossEntropyLossFlat())
    with learn.no_bar(): pls = [learn.pseudolabel(o, leaks='keep') for o in (x, data)]
    assert torch.equal(*(o.read(slice(None)) for o in pls))


@pytest.mark.parametrize('make', TABLES)
def test_tables_are_encoded_as_a_data_frame(make, tmp_path):
    k = table(tmp_path)
    df = k['data'].reset_index(drop=True)
    (tmp_path/'x').mkdir()
    check(make(df, tmp_path/'x', np.random.default_rng(0)), df, k['dls'], k['net'])
