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
from fastai.tabular.all import Categorify, Normalize, TabularPandas
from fastai.vision.core import PILImageBW
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.data.arrays import ArrayLoaders, ArrayRows
from noisy_student_fastai.data.tables import FillMissing
from noisy_student_fastai.labels.leaks import RowReader, find_leaks, rows_read
from noisy_student_fastai.labels.splits import Splits
from noisy_student_fastai.looks import some_of
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset
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
    if any(o[0] is tables for o in made): made = [(tables, *o[1:]) for o in made]  # known among tables, as raw rows
    splits, trained, looked = Splits(), [], []
    for make, seed, r, train, valid in made:
        own = {*train} & {*valid}
        sets = [{*valid} & set().union(*[s for s0, q0, s in trained if (s0, q0) == (seed, q)])-own for q in range(r+1)]
        is_new = (train, valid) not in looked
        want = own if own and leaks == 'refuse' and is_new else next(filter(None, sets), set())
        looked += [(train, valid)]*(not (own and leaks == 'refuse'))
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter('always')
                splits.add(make(train, valid), seed, r, leaks)
        except BadValue as e:
            assert e.value == len(want) > 0 and e.argument == f'make_learner({r})'
            assert f'{len(want)} of the {len(valid)} validation rows' in str(e)
            first = min(valid.index(i) for i in want)
            assert f'as validation row {first}' in str(e)
            assert want is not own or f'(training row {train.index(valid[first])})' in str(e)
        else:
            assert not want
            trained.append((seed, r, {*train}))
        said = [str(o.message) for o in seen if 'validation rows of make_learner' in str(o.message)]
        assert len(said) == bool(own and leaks == 'drop' and is_new)
        assert not said or said[0].startswith(f'{len(own)} of the {len(valid)} validation rows')


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
    with pytest.raises(ValueError, match=f'1 of the 7 .*, such as {fs[5]}'): splits.add(two, 0, 1)
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
    assert n <= 50 and len(read) == n


class Costly(Dataset):
    "A data set that is made anew each time; `drawn`: it draws its inputs"
    read = 0
    def __init__(self, x, drawn=False): self.xs, self.drawn = [*x], drawn
    def __len__(self): return len(self.xs)
    def __getitem__(self, i):
        Costly.read += 1
        return self.xs[i] + self.drawn*torch.randn(3), 0


@pytest.mark.parametrize('drawn', [False, True])
def test_data_sets_that_are_made_anew_are_known_again(drawn):
    x = torch.randn(1000, 3)
    def dls(i): return DataLoaders(DataLoader(Costly(x[:i], drawn), 8), DataLoader(Costly(x[i:]), 8))
    splits, Costly.read = Splits(), 0
    splits.add(dls(500), 0, 0)
    assert Costly.read <= 1000 + 256 + 20  # and 64 rows of each, twice
    for r in range(3): splits.add(dls(500), 0, r)
    assert Costly.read <= 1000 + (1 + 3*(1 if drawn else .5))*(256 + 20)
    if drawn: return
    with pytest.raises(ValueError, match='1 of the 501 validation rows'): splits.add(dls(499), 0, 3)


def test_rows_of_an_epoch_are_read_once(monkeypatch):
    read, own = [], ArrayRows.__getitem__
    monkeypatch.setattr(ArrayRows, '__getitem__', lambda self, i: (read.append(i), own(self, i))[1])
    dls = ArrayLoaders.from_arrays(X[:30], np.zeros(30, int), (X[30:], np.zeros(10, int)), bs=8, n_batches=50)
    read.clear()
    split = Splits().add(dls, 0, 0)
    assert len(split.train) == 30 and len(read) <= 40 + 256
    read.clear()
    assert find_leaks(X[[3, 35]], dls).tolist() == [1, 2] and len(read) <= 50


@pytest.mark.parametrize('change', ['in place', 'another object'])
def test_a_data_set_that_has_changed_is_read_again(change):
    "In a single row, which is none of those that are looked at to know it again"
    x = torch.randn(400, 3)
    def dls(x): return DataLoaders(*[DataLoader(TensorDataset(x[s]), 8) for s in (slice(300), slice(300, 400))])
    splits, one = Splits(), dls(x)
    splits.add(one, 0, 0)
    i = next(i for i in range(100) if i not in some_of(100, 64))
    if change != 'in place': x = x.clone()
    x[300+i] = x[5]
    with pytest.raises(ValueError, match=rf'1 of the 100 .* validation row {i} \(training row 5\)'):
        splits.add(one if change == 'in place' else dls(x), 0, 1)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(3, 5), st.integers(0, 9))
def test_rows_of_few_values_are_no_leak(k, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (300, k), generator=g).float()
    dls = DataLoaders(*[DataLoader(TensorDataset(x[s]), 8) for s in (slice(200), slice(200, 300))])
    splits = Splits()
    n = sum(any(torch.equal(a, b) for b in x[:200]) for a in x[200:])
    with pytest.warns(UserWarning, match=f'{n} of the 100 validation rows.*of the training rows') as seen:
        for r in range(2): splits.add(dls, 0, r)
    assert len(seen) == 1


def test_a_leak_beside_a_few_equal_rows_is_one():
    x = torch.cat([X[:30], X[:2], X[30:40], X[5:15]])
    dls = DataLoaders(*[DataLoader(TensorDataset(o), 8) for o in (x[:32], x[32:])])
    with pytest.raises(ValueError, match='10 of the 20 validation rows'): Splits().add(dls, 0, 0)


def test_what_nobody_knows_is_let_be():
    own_way = TfmdDL([(o, 0) for o in X], bs=8, get_idxs=lambda: [1, 2])
    for dls in (DataLoaders(own_way, own_way), DataLoaders(DataLoader(TensorDataset(X), 8, sampler=iter([1])),) ):
        assert Splits().add(dls, 0, 0) is None
    assert rows_read(DataLoader(TensorDataset(X), batch_sampler=[[1, 2]])) is None


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.integers(1, 12), st.booleans())
def test_rows_of_tables_are_the_same_in_each_fold(seed, k, gaps):
    "However a fold has scaled, filled and encoded them; rows of other numbers are other rows"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({f'f{i}': rng.normal(rng.normal()*50, 10.**rng.integers(-2, 4), 60) for i in range(k)})
    df['n'], df['money'] = rng.integers(0, 3000, 60), rng.exponential(900, 60).round(2)
    df = df.assign(name=rng.choice([*'uvw'], 60), y=rng.choice([*'pq'], 60))
    if gaps: df.loc[rng.permutation(60)[:20], 'f0'] = np.nan
    def dls(rows):
        part, procs = df.iloc[rows].sample(frac=1, random_state=seed), [Categorify, FillMissing, Normalize]
        to = TabularPandas(part, procs, ['name'], [*df.columns[:k+2]], 'y', CategoryBlock(),
                           splits=([*range(30)], [*range(30, len(rows))]))
        return to.dataloaders(bs=8), to.items.index
    (one, i), (two, _) = dls(np.arange(40)), dls(np.arange(20, 60))
    a, b = RowReader()(one), RowReader()(two)
    a, b = np.r_[a.train, a.valid], np.r_[b.train, b.valid]
    assert len({*a}) == len({*b}) == 40
    same = {*i[np.isin(a, b)]}
    assert same <= {*range(20, 40)} and len(same) >= 16
