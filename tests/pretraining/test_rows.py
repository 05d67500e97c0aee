"Each row of each source comes once in a pass, as its own loader reads it; a batch has two views in the same order"
import numpy as np
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter
from fastai.vision.data import ImageBlock
from fasttransform.transform import Transform
from image_toys import BS, N, digit_files, label
from noisy_student_fastai.checks import BadType, BadValue
from noisy_student_fastai.labels.sources import as_source, rows_of
from noisy_student_fastai.pretraining.rows import Joined, once, views_dl
from table_toys import N as TABLE_N
from table_toys import encoded, wine_dls, wine_table
from toys import points, pts_dls


def seen(dl): return torch.cat([b[0].cpu() for b in dl])
def as_rows(x): return sorted(map(tuple, x.flatten(1).tolist()))


class Shift(Transform):
    "Adds to each row a number of its own"
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x+torch.rand(len(x), 1) if x.ndim == 2 else x


@pytest.mark.parametrize('seed', range(3))
def test_points(seed):
    "Labeled rows are items, unlabeled ones an array"
    dls, x = pts_dls(), points(50, seed)[0]
    a, b = rows_of(dls.train), as_source(x.numpy(), dls)
    src = Joined([a, b])
    labeled = torch.stack([o[0] for o in dls.train.dataset])
    both, rows = torch.cat([labeled, x]), np.random.default_rng(seed).permutation(src.n)[:40]
    assert src.n == len(both)
    assert torch.equal(seen(src.eval_dl(dls, 16)), both)
    assert torch.equal(seen(src.train_dl(dls, rows, torch.zeros(40), shuffle=False)), both[rows])
    dl = views_dl(src, dls, rows, [], 8)
    assert len(dl) == 5 and as_rows(seen(dl)) == as_rows(both[np.r_[rows, rows]])
    for v, _ in views_dl(src, dls, rows, [Shift()], 8):
        d = v[:8]-v[8:]
        assert len(v) == 16 and (d[:, 0] != 0).all() and torch.allclose(d[:, 0], d[:, 1], atol=1e-5)  # the same rows


def test_views_of_one(seed=0):
    dls = pts_dls()
    src = as_source(points(20, seed)[0].numpy(), dls)
    assert [len(b[0]) for b in views_dl(src, dls, np.arange(20), [], 8, 1)] == [8, 8]
    assert [len(b[0]) for b in views_dl(src, dls, np.arange(5), [], 8, 1)] == [5]  # fewer rows than a batch


def test_files_beside_arrays_of_pictures(tmp_path):
    "Labeled pictures are files, unlabeled ones too, or are read one by one"
    fs, x, _ = digit_files(tmp_path)
    block = DataBlock((ImageBlock, CategoryBlock), get_y=label, splitter=IndexSplitter(range(N, N+20)))
    dls = block.dataloaders(fs[:N+20], bs=BS, num_workers=0)
    src = Joined([rows_of(dls.train), as_source(fs[N+20:], dls)])
    want = torch.cat([x[:N], x[N+20:]]).float()/255
    assert torch.equal(torch.Tensor(seen(src.eval_dl(dls, 16))), want)
    assert as_rows(seen(views_dl(src, dls, np.arange(src.n), [], 10))) == as_rows(torch.cat([want, want]))


def test_a_file_that_cant_be_read_is_named_or_left_out(tmp_path):
    fs, _, _ = digit_files(tmp_path)
    block = DataBlock((ImageBlock, CategoryBlock), get_y=label, splitter=IndexSplitter(range(N, N+20)))
    dls = block.dataloaders(fs[:N+20], bs=BS, num_workers=0)
    fs[N+25].write_bytes(b'no picture')
    for skip in (False, True):
        own = as_source(fs[N+20:], dls, skip=skip)
        src = Joined([rows_of(dls.train), own])
        dl = views_dl(src, dls, np.arange(src.n), [], 10)
        if skip: assert len([*dl]) and own.unread.nonzero().flatten().tolist() == [5]
        else:
            with pytest.raises(BadValue, match='row 5 of unlabeled'): list(dl)


def test_tables():
    df = wine_table()
    dls = wine_dls(df)
    src = Joined([rows_of(dls.train), as_source(df.iloc[60:], dls)])
    want = [torch.cat([o[:TABLE_N], o[60:]]) for o in encoded(df)[:2]]
    got = [torch.cat(o) for o in zip(*[b[:2] for b in src.eval_dl(dls, 32)])]
    assert torch.equal(got[0], want[0]) and torch.allclose(got[1], want[1], atol=1e-5)
    rows = np.array([100, 3, 41, 3])
    cats, conts, _ = src.train_dl(dls, rows, torch.zeros(4), shuffle=False).one_batch()
    assert torch.equal(cats, got[0][rows]) and torch.equal(conts, got[1][rows])


class Repeats(list):
    "Three rows, some of them again"
    repeated = np.array([0, 1, 0, 2, 1])


def test_repeated_rows_count_once():
    dls = DataLoaders(TfmdDL(Repeats([(torch.zeros(2), 0)]*5), bs=2, num_workers=0))
    assert once(rows_of(dls.train)).tolist() == [0, 1, 3]
    assert once(rows_of(pts_dls().train)).tolist() == [*range(64)]


def test_batches_that_are_no_tensors_are_named():
    dls = pts_dls(after_batch=None)
    dl = views_dl(as_source(points(20, 0)[0].numpy(), dls), dls, np.arange(8), [], 4)
    with pytest.raises(BadType, match='batches of dict: expected tensors'): dl.after_batch(dict(x=1))
