"Are validation rows that something trains on found, in whatever data set, and counted as sets count them?"
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import Categorize
from fastai.tabular.all import Categorify, TabularPandas
from fastai.vision.core import PILImageBW
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.data.arrays import ArrayLoaders
from noisy_student_fastai.labels.splits import Splits, rows_read
from PIL import Image
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset
from torchvision.datasets import ImageFolder

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
DF = pd.DataFrame(X.numpy(), columns=[*'abc']).assign(y='z')


def arrays(train, valid):
    return ArrayLoaders.from_arrays(X[train], np.zeros(len(train), int), (X[valid], np.zeros(len(valid), int)))
def fastai(*parts): return DataLoaders(*[TfmdDL([(X[i], 0) for i in o], bs=8, num_workers=0) for o in parts])
def subsets(*parts): return DataLoaders(*[DataLoader(Subset(TensorDataset(X, X[:, 0]), o), 8) for o in parts])
def samplers(*parts):
    ds = TensorDataset(X, X[:, 0])
    return DataLoaders(*[DataLoader(ds, 8, sampler=SubsetRandomSampler(o)) for o in parts])
def tables(train, valid):
    df = pd.concat([DF.iloc[train], DF.iloc[valid]], ignore_index=True)
    splits = (list(range(len(train))), list(range(len(train), len(df))))
    return TabularPandas(df, [Categorify], [], [*'abc'], 'y', CategoryBlock(), splits=splits).dataloaders(bs=8)


rows = st.lists(st.integers(0, 39), min_size=1, max_size=15, unique=True)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([arrays, fastai, subsets, samplers, tables]), st.integers(0, 1),
                          st.integers(0, 2), rows, rows), min_size=1, max_size=4), st.sampled_from(['refuse', 'drop']))
def test_what_is_found_is_what_sets_say(made, leaks):
    "Learners of two seeds and three rounds, each with some kind of loader: compared with sets of row numbers"
    splits, trained = Splits(), []
    for make, seed, r, train, valid in made:
        own = {*train} & {*valid}
        earlier = [(len({*valid} & s - own), q) for s0, q, s in trained if s0 == seed and q <= r]
        want = len(own) if own and leaks == 'refuse' else max((n for n, _ in earlier), default=0)
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter('always')
                splits.add(make(train, valid), seed, r, leaks)
        except BadValue as e:
            assert want and e.argument == f'make_learner({r})' and f'of the {len(valid)} validation rows' in str(e)
            assert e.value >= want or e.value in [n for n, _ in earlier]
        else:
            assert not want
            assert bool([o for o in seen if 'validation rows' in str(o.message)]) in (False, bool(own))
            trained.append((seed, r, {*train}))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Twelve, in folders of their classes"
    path = tmp_path_factory.mktemp('pictures')
    for i in range(12):
        f = path/'ab'[i % 2]/f'{i:02}.png'
        f.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (4, 4), dtype=np.uint8)).save(f)
    return path


def of_files(*parts):
    tfms = [[PILImageBW.create], [lambda f: f.parent.name, Categorize(['a', 'b'])]]
    return DataLoaders(*[TfmdDL(Datasets(o, tfms), bs=4, num_workers=0) for o in parts])


def test_files_are_known_by_their_paths_and_copies_by_their_content(pictures, monkeypatch):
    fs = sorted(pictures.rglob('*.png'))
    copied, link = shutil.copy(fs[2], pictures/'a'/'copy.png'), pictures/'a'/'link.png'
    link.symlink_to(fs[3])
    def found(train, valid):
        try: Splits().add(of_files(train, valid), 0, 0)
        except BadValue as e: return e.value, str(e)
    assert found(fs[:6], [*fs[6:], copied])[0] == 1
    n, said = found(fs[:6], [link, *fs[6:]])
    assert n == 1 and f'as {fs[3]}' in said
    splits = Splits()
    one, two = of_files(fs[:6], fs[6:]), of_files(fs[:5], fs[5:])
    monkeypatch.setattr(PILImageBW, 'create', lambda *a, **kw: 1/0)  # none is opened
    splits.add(one, 0, 0)
    with pytest.raises(ValueError, match=f'1 of the 7 .*, as {fs[5]}'): splits.add(two, 0, 1)
    for o in (copied, link): (pictures/'a'/o).unlink()


def test_folders_of_torchvision_with_noise(pictures):
    "Two data sets of one folder, with other transforms: pixels differ at each look, paths do not"
    def dls(train, valid):
        noisy = ImageFolder(pictures, lambda x: torch.randn(3, 4, 4))
        clean = ImageFolder(pictures, lambda x: torch.ones(3, 4, 4))
        return DataLoaders(DataLoader(Subset(noisy, train), 4), DataLoader(Subset(clean, valid), 4))
    splits = Splits()
    splits.add(dls(range(8), range(8, 12)), 0, 0)
    with pytest.raises(ValueError, match='3 of the 4 validation rows of make_learner\\(1\\)'):
        splits.add(dls([0, 1, 11], range(5, 9)), 0, 1)


def test_each_data_set_is_read_once():
    read = []
    class Counted(TensorDataset):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)
    ds, splits = Counted(X, X[:, 0]), Splits()
    dls = DataLoaders(*[DataLoader(Subset(ds, o), 8) for o in (range(30), range(30, 40))])
    splits.add(dls, 0, 0)
    n = len(read)
    for r in range(5): splits.add(dls, 0, r)
    assert n <= 45 and len(read) == n


def test_what_nobody_knows_is_let_be():
    own_way = TfmdDL([(o, 0) for o in X], bs=8, get_idxs=lambda: [1, 2])
    for dls in (DataLoaders(own_way, own_way), DataLoaders(DataLoader(TensorDataset(X), 8, sampler=iter([1])),) ):
        assert Splits().add(dls, 0, 0) is None
    assert rows_read(DataLoader(TensorDataset(X), batch_sampler=[[1, 2]])) is None
