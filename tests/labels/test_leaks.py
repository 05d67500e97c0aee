"Rows that are labeled or held out, found among unlabeled data of every kind; refused or dropped"
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import ColReader
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from label_toys import unlabeled
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.labels.leaks import find_leaks
from noisy_student_fastai.labels.sources import as_source
from source_toys import (
    BS,
    CLASSES,
    DIGITS,
    N2,
    SPLIT,
    N,
    array,
    collated,
    image_dls,
    of_torch,
    plain_loaders,
    save,
    table_dls,
    text_dls,
    texts,
    wine,
    with_item_tfms,
)
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset
from toys import points, pts_dls, pts_learner, rows


def test_nothing_leaks_from_clean_data(kind): assert not find_leaks(kind.src, kind.dls).any()


def test_leaks_of_files(tmp_path):
    dls = image_dls(tmp_path)
    train, valid, fs = dls.train_ds.items, dls.valid_ds.items, [save(tmp_path, i) for i in range(N, N+9)]
    other, (test,) = tmp_path/'other', [save(tmp_path, 200)]
    other.mkdir()
    for f, name in ((train[3], 'labeled.png'), (valid[2], 'copy.png'), (test, 'test.png')): shutil.copy(f, other/name)
    os.symlink(valid[1], other/'link.png')
    os.link(train[5], other/'second name.png')
    same_size = other/'same size.png'
    same_size.write_bytes(bytes(reversed(valid[0].read_bytes())))
    paths = fs+[train[0], str(valid[0])]+[other/f'{o}.png' for o in ('labeled', 'copy', 'link', 'second name')]
    paths += [os.path.relpath(valid[4]), tmp_path/'other'/'..'/valid[5].name]
    src = as_source(paths, dls)
    assert find_leaks(src, dls).tolist() == [0]*9+[1, 2, 1, 2, 2, 1, 2, 2]
    assert find_leaks(src, dls, held_out=[other/'test.png', fs[4]]).tolist() == [0]*4+[2]+[0]*4+[1, 2, 1, 2, 2, 1, 2, 2]
    broken = as_source(fs[:1], dls)
    broken.items, broken.n = [same_size, other/'test.png'], 2
    assert find_leaks(broken, dls).tolist() == [0, 0]
    assert find_leaks(broken, dls, held_out=[test]).tolist() == [0, 2]


def test_leaks_of_files_that_a_table_names(tmp_path):
    df = pd.DataFrame(dict(name=[save(tmp_path, i).name for i in range(N)], y=CLASSES[:N]))
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_x=ColReader('name', pref=tmp_path),
                      get_y=ColReader('y'), splitter=SPLIT)
    dls = block.dataloaders(df, bs=BS, num_workers=0)
    df2 = pd.DataFrame(dict(name=[save(tmp_path, i).name for i in (50, 3, 51, 30)]))
    assert find_leaks(df2, dls).tolist() == [0, 1, 0, 2]
    assert find_leaks([tmp_path/o for o in df2.name], dls).tolist() == [0, 1, 0, 2]
    assert find_leaks(df2, dls, held_out=[tmp_path/df2.name[2]]).tolist() == [0, 1, 2, 2]


def as_it_is(x): return x


def as_doubles(x): return x.astype(np.float64)


def as_data_set(x): return TensorDataset(torch.tensor(x))


@pytest.mark.parametrize('make', [as_it_is, torch.tensor, list, as_doubles, as_data_set])
@pytest.mark.parametrize('dls', [array, of_torch, plain_loaders, collated, with_item_tfms], ids=lambda f: f.__name__)
@pytest.mark.parametrize('seed', range(2))
def test_leaks_of_rows(tmp_path, dls, make, seed):
    rng, dls = np.random.default_rng(seed), dls(tmp_path)['dls']
    rows = rng.permutation(np.r_[rng.integers(24, size=5), rng.integers(24, N, size=6), np.arange(N, N+30)])
    want = np.select([rows < 24, rows < N], [1, 2], 0)
    assert find_leaks(make(DIGITS[rows]), dls).tolist() == want.tolist()
    test = rng.choice(np.arange(N, N+30), 7, replace=False)
    both = np.where(np.isin(rows, test), 2, want)
    assert find_leaks(make(DIGITS[rows]), dls, held_out=DIGITS[test]).tolist() == both.tolist()
    near = DIGITS[rows]+np.float32(1e-3)
    assert not find_leaks(make(near), dls).any()


@pytest.mark.parametrize('reduce_memory', [True, False])
@pytest.mark.parametrize('with_ints', [True, False])
@pytest.mark.parametrize('seed', range(2))
def test_leaks_of_tables(reduce_memory, with_ints, seed):
    df = wine(N+N2, seed)
    dls = table_dls(df[:N], ['a', 'b', 'k'][:2+with_ints], reduce_memory=reduce_memory)
    rows = np.random.default_rng(seed).permutation(N+N2)
    df2 = df.iloc[rows].drop(columns='kind')
    want = np.select([rows < 24, rows < N], [1, 2], 0)
    assert find_leaks(df2, dls).tolist() == want.tolist()
    both = np.where((rows >= N+5) & (rows < N+9), 2, want)
    assert find_leaks(df2, dls, held_out=df[N+5:N+9]).tolist() == both.tolist()
    assert find_leaks(dls.test_dl(df2), dls).shape == (N+N2,)
    other = df2.assign(side=df2.side.map(dict(x='y', y='z', z='x')))
    assert not find_leaks(other, dls).any()


def test_leaks_of_texts():
    df = texts()
    dls, rows = text_dls(df[:N].copy()), [N+3, 2, 30, N+9, N+10]
    for data in (df.iloc[rows][['text']], df.text.iloc[rows].tolist()):
        assert find_leaks(data, dls).tolist() == [0, 1, 2, 0, 0]
        assert find_leaks(data, dls, held_out=df.text.iloc[[N+10]].tolist()).tolist() == [0, 1, 2, 0, 2]


class Dicts(Dataset):
    "Rows that differ in the middle of a large array"
    def __init__(self, *ns): self.ns = ns
    def __len__(self): return len(self.ns)

    def __getitem__(self, i):
        x = torch.zeros(40, 40)
        x[20, 20] = self.ns[i]
        return {'x': x}, 0


def test_leaks_of_dicts():
    dls = DataLoaders(*(TorchDataLoader(Dicts(*o), 4) for o in (range(8), (8, 9))))
    new = Dicts(20, 3, 21, 9, 22.5)
    assert find_leaks(new, dls).tolist() == [0, 1, 0, 2, 0]
    src, h = as_source(new, dls), as_source(new, dls).hashes(np.arange(5))
    assert len({*h}) == 5 and src.changed(h, 'full') == (None, 5)
    assert as_source(Dicts(20, 3, 21.5, 9, 22.5), dls).changed(h, 'full')[0] == 2


def test_leaks_that_are_looked_for_later(tmp_path):
    x, learn = unlabeled(), pts_learner()
    x[4] = learn.dls.valid.dataset[0][0].numpy()
    assert learn.pseudolabel(x, tmp_path, leaks='keep').leak is None
    with pytest.warns(UserWarning, match='1 rows are left out .* does not know them'):
        assert np.flatnonzero(learn.pseudolabel(x, tmp_path, leaks='drop').leak).tolist() == [4]
    assert PseudoLabels.open(tmp_path).leak is None
    learn.pseudolabel(x, tmp_path, leaks='drop', overwrite=True)
    assert np.flatnonzero(PseudoLabels.open(tmp_path).leak).tolist() == [4]
    assert np.flatnonzero(learn.pseudolabel(x, tmp_path, leaks='keep').leak).tolist() == [4]


def test_rows_of_another_teacher_are_leaks():
    "As in folds: what is labeled for one teacher must not be labeled by both"
    a, b = pts_learner(), pts_learner(dls=pts_dls(rows(*points(64, 31))), seed=2)
    with pytest.raises(ValueError, match='of the first 20 of 64 unlabeled rows, 20 are labeled'):
        a.pseudolabel(points(64, 31)[0], teachers=[b])


def test_leaks_of_arrays():
    learn, x = pts_learner(), unlabeled()
    lbl, val = (torch.stack([o[0] for o in dl.dataset]).numpy() for dl in learn.dls.loaders)
    x[[3, 7]], x[11] = lbl[[5, 6]], val[2]
    said = '1 are held out .*, such as 11, 2 are labeled, such as 3'
    with pytest.raises(ValueError, match=said): learn.pseudolabel(x)
    pl = learn.pseudolabel(x, leaks='drop')
    assert np.flatnonzero(pl.leak).tolist() == [3, 7, 11] and len(pl) == len(x)
    assert not set(pl.select(0, 200).rows) & {3, 7, 11}
    assert len(pl.dl()) == -(-(len(x)-3)//32) or len(pl.dl().dataset) == len(x)-3
    assert learn.pseudolabel(x, leaks='keep').leak is None
    with pytest.raises(ValueError, match='first 20 of 150 .* 20 are held out'): learn.pseudolabel(x, held_out=x)
