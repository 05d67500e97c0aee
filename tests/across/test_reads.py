"How often each row is read: once for its label, whatever is looked for meanwhile, and next to never afterwards"
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.learner import tabular_learner
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.files import Changed
from noisy_student_fastai.fingerprints import file_hash
from noisy_student_fastai.labels.leaks import LeakLook, find_leaks
from noisy_student_fastai.labels.sources import as_source, note_rows
from PIL import Image
from rounds_toys import make, train
from source_toys import N as N1  # labeled rows of a table
from source_toys import table_dls, wine
from torch import nn
from torch.utils.data import Dataset
from toys import hard_rows, points, pts_dls, pts_learner
from xxhash import xxh3_64_intdigest

N, FIRST, SAMPLE = 500, 65, 64  # rows; a first look at a few of them; those that are compared
X = points(N, 5)[0]


class Counted(Dataset):
    "Points that count how often each is read, by workers too"
    def __init__(self, x=X): self.x, self.reads = x, torch.zeros(len(x), dtype=torch.int64).share_memory_()
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        self.reads[i] += 1
        return (self.x[i],)

    def counted(self, f):
        "What `f` returns, and how often it has read each row"
        self.reads.zero_()
        res = f()
        return res, self.reads.numpy().copy()


class CountedArray(np.ndarray):
    "The same as an array"
    def __array_finalize__(self, o): self.reads = getattr(o, 'reads', None)

    def __getitem__(self, i):
        if self.reads is not None: np.add.at(self.reads, np.arange(len(self.reads))[i], 1)
        return np.asarray(self)[i]

    def counted(self, f):
        self.reads[:] = 0
        res = f()
        return res, self.reads.copy()


def array(dtype=np.float32):
    x = X.numpy().astype(dtype).view(CountedArray)
    x.reads = np.zeros(N, int)
    return x


def doubles(): return array(np.float64)


def learner(n_workers=0, *cbs):
    dls = pts_dls()
    if n_workers: dls = DataLoaders(dls.train, TfmdDL(hard_rows(50, 7), bs=20, num_workers=n_workers))
    return pts_learner(*cbs, dls=dls)


def check_once(reads, start=0):
    assert reads[start:].min() == 1 and N-start <= reads.sum() <= N-start+FIRST


class Stop(Callback):
    "Ends a labeling in the middle"
    at = None
    def after_pred(self):
        if self.iter == self.at: raise KeyboardInterrupt


KINDS = [(Counted, 0), (Counted, 2), (array, 0), (doubles, 0)]


@pytest.mark.parametrize('make,n_workers', KINDS)
def test_labeling_reads_each_row_once(tmp_path, make, n_workers):
    "... and what is there is not read again"
    x, cb = make(), Stop()
    learn, held_out = learner(n_workers, cb), points(30, 77)[0].numpy()
    for path in (None, tmp_path/'a'):
        for leaks in ('keep', 'refuse', 'drop'):
            kw = dict(leaks=leaks) if leaks == 'keep' else dict(leaks=leaks, held_out=held_out)
            pl, reads = x.counted(lambda: learn.pseudolabel(x, path, overwrite=True, **kw))
            check_once(reads)
    assert x.counted(lambda: learn.pseudolabel(x, path, held_out=held_out))[1].sum() <= FIRST+SAMPLE
    assert x.counted(lambda: learn.pseudolabel(x, path, held_out=held_out, check=None))[1].sum() <= FIRST
    for how, n in ((None, 0), ('sample', SAMPLE), ('full', N)):
        assert x.counted(lambda: PseudoLabels.open(path, x, check=how))[1].sum() == n
    cb.at = 12
    with pytest.raises(KeyboardInterrupt): learn.pseudolabel(x, tmp_path/'b')
    cb.at = None
    again, reads = x.counted(lambda: learn.pseudolabel(x, tmp_path/'b'))
    assert reads[240:].min() == 1 and reads.sum() <= N-240+FIRST+SAMPLE
    for k in ('probs', 'row_hash', 'leak'): assert np.array_equal(again.arrays[k], pl.arrays[k])
    assert ('input_hash' in pl.arrays) == (make is not array)


def test_hashes_are_those_of_the_rows():
    pl, doubled = (learner().pseudolabel(o()) for o in (array, doubles))
    of = [[xxh3_64_intdigest(o.tobytes()) for o in x] for x in (X.numpy(), X.numpy().astype(np.float64))]
    assert pl.arrays['row_hash'].tolist() == of[0] and doubled.arrays['row_hash'].tolist() == of[1]
    assert doubled.arrays['input_hash'][:, 0].tolist() == of[0]


def with_leaks(learn, seed, n=7):
    "Points of which some are labeled or held out, and what they are"
    x, rng = X.clone(), np.random.default_rng(seed)
    rows, which = rng.choice(N, n, replace=False), rng.integers(0, 2, n)
    for i, k in zip(rows, which):
        ds = learn.dls.loaders[k].dataset
        x[i] = ds[rng.integers(len(ds))][0]
    return x, np.bincount(rows, which+1, N).astype(np.uint8)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('make', [Counted, torch.Tensor.numpy, torch.Tensor.double])
def test_leaks_are_refused_with_their_batch(tmp_path, seed, make):
    "Rows before it are kept, none of its labels is, and leaks='drop' goes on from there"
    learn = learner()
    x, want = with_leaks(learn, seed)
    first, x = int(np.flatnonzero(want)[0]), make(x)
    assert np.array_equal(find_leaks(x, learn.dls), want)
    with pytest.raises(ValueError, match=rf'of the first {first//20*20+20} of {N} unlabeled rows') as e:
        learn.pseudolabel(x, tmp_path)
    assert f'{first//20*20} of {N} rows are kept' in e.value.__notes__[0]
    pl = learn.pseudolabel(x, tmp_path, leaks='drop')
    for o in (pl, PseudoLabels.open(tmp_path, x, check='full'), learn.pseudolabel(x, leaks='drop')):
        assert np.array_equal(o.leak, want)
    with pytest.raises(ValueError, match=f'of the {N} unlabeled rows'): learn.pseudolabel(x, tmp_path)


class CountedTable:
    "Rows of a table that counts how often each is read"
    def __init__(self, df): self.df, self.reads = df, np.zeros(len(df), int)
    def __len__(self): return len(self.df)

    def rows(self, at):
        self.reads[at] += 1
        return self.df.iloc[at]

    counted = CountedArray.counted


def table_learner(df, *cbs, **kwargs):
    dls = table_dls(df, **kwargs)
    return Learner(dls, tabular_learner(dls, [8]).model, CrossEntropyLossFlat(), cbs=cbs)


@pytest.mark.parametrize('reduce_memory,seed', [(True, 0), (False, 1)])
def test_rows_of_a_table_are_read_once(tmp_path, monkeypatch, reduce_memory, seed):
    "... by blocks, whether labeled numbers have lost half of their bits or not; with hashes no row is read again"
    monkeypatch.setattr('noisy_student_fastai.labels.sources._n_block', 100)
    df, cb, rng, bs = wine(600, seed), Stop(), np.random.default_rng(seed), 32
    rows = np.r_[rng.permutation(np.arange(N1, 600))[:250], rng.permutation(600)[:250]]
    learn, held_out = table_learner(df[:N1], cb, reduce_memory=reduce_memory), df[60:90]
    x = CountedTable(df.iloc[rows].drop(columns='kind').reset_index(drop=True))
    want = np.select([rows < 24, rows < N1, (rows >= 60) & (rows < 90)], [1, 2, 2])
    kw, few = dict(bs=bs, held_out=held_out, leaks='drop'), 2*16+SAMPLE
    first = int(np.flatnonzero(want)[0])//bs*bs
    with pytest.raises(ValueError, match=f'of the first {first+bs} of 500'):
        learn.pseudolabel(x, tmp_path/'a', bs=bs, held_out=held_out)
    cb.at = 5
    with pytest.raises(KeyboardInterrupt): learn.pseudolabel(x, tmp_path/'a', **kw)
    cb.at, done = None, first+5*bs
    pl, reads = x.counted(lambda: learn.pseudolabel(x, tmp_path/'a', **kw))
    assert reads[done:].min() == 1 and reads.sum() <= 500-done+few
    fresh, reads = x.counted(lambda: learn.pseudolabel(x, **kw))
    assert reads.min() == 1 and reads.sum() <= 500+few
    again, reads = x.counted(lambda: learn.pseudolabel(x, tmp_path/'a', check=None, **kw))
    assert reads.sum() <= few
    learn.pseudolabel(x, tmp_path/'b', bs=bs, leaks='keep')
    with pytest.warns(UserWarning, match='labeled with other `leaks` or `held_out`'):
        late, reads = x.counted(lambda: learn.pseudolabel(x, tmp_path/'b', **kw))
    assert reads.sum() <= few
    other = table_learner(df[:N1].iloc[::-1], reduce_memory=not reduce_memory)  # learns what this one is evaluated on
    two = learn.pseudolabel(x, teachers=[other], **kw)
    for o in (pl.leak, fresh.leak, again.leak, late.leak, find_leaks(x, learn.dls, held_out)):
        assert np.array_equal(o, want)
    assert np.array_equal(two.leak, np.where((rows < 12) | (rows >= 24) & (rows < N1), 2, want))
    dls = table_dls(df[:N1], reduce_memory=reduce_memory)
    own, reads = x.counted(lambda: late.own_leaks(np.arange(500), dls, 'drop'))
    assert np.array_equal(own, np.select([rows < 24, rows < N1], [1, 2])) and reads.sum() <= few


@pytest.mark.parametrize('seed', range(2))
def test_files_of_equal_sizes_are_hashed_once(tmp_path, monkeypatch, seed):
    "Content tells them apart: it is looked at when they are read for their labels, and not for leaks alone"
    def hashed(f):
        read.append(str(f))
        return file_hash(f)
    for o in ('sources', 'leaks'): monkeypatch.setattr(f'noisy_student_fastai.labels.{o}.file_hash', hashed)
    monkeypatch.setattr('noisy_student_fastai.labels.leaks.file_content_digest', None)
    read, rng, cb = [], np.random.default_rng(seed), Stop()
    pics = rng.integers(256, size=(150, 6, 6), dtype=np.uint8)
    def files(name, rows):
        (tmp_path/name).mkdir()
        fs = [tmp_path/name/f'{j:03}.bmp' for j in range(len(rows))]
        for f, i in zip(fs, rows): Image.fromarray(pics[i]).save(f)
        return fs
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=lambda o: o.stem[-1] > '4',
                      splitter=IndexSplitter(range(20, 30)))
    dls = block.dataloaders(files('labeled', range(30)), bs=10, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), CrossEntropyLossFlat(), cbs=cb)
    rows = np.r_[rng.permutation(np.arange(30, 150))[:60], rng.permutation(150)[:60]]
    want = np.select([rows < 20, rows < 30, (rows >= 40) & (rows < 50)], [1, 2, 2])
    fs, held_out = files('unlabeled', rows), files('test', range(40, 50))
    kw, mine = dict(bs=7, held_out=held_out, leaks='drop'), {*map(str, fs)}

    def looked(f):
        read.clear()
        return f(), sum(o in mine for o in read)
    with pytest.raises(ValueError, match='unlabeled rows, .* held out'):
        learn.pseudolabel(fs, tmp_path/'a', bs=7, held_out=held_out)
    cb.at = 3
    with pytest.raises(KeyboardInterrupt): learn.pseudolabel(fs, tmp_path/'a', **kw)
    cb.at = None
    pl = learn.pseudolabel(fs, tmp_path/'a', **kw)
    fresh, n = looked(lambda: learn.pseudolabel(fs, **kw))
    again, n_again = looked(lambda: learn.pseudolabel(fs, tmp_path/'a', check=None, **kw))
    assert (n, n_again) == (120, 0)
    monkeypatch.undo()
    for o in (pl.leak, fresh.leak, again.leak, find_leaks(fs, dls, held_out)): assert np.array_equal(o, want)
    half = [learn.pseudolabel(fs, tmp_path/'b', part=(i, 2), **kw) for i in range(2)]
    assert np.array_equal(np.concatenate([o.leak for o in half]), want)
    if seed: assert np.array_equal(LeakLook(as_source(fs, dls), [dls], held_out).first(), want)


@pytest.mark.parametrize('seed', range(2))
def test_other_sets_are_compared_without_reading(tmp_path, seed):
    "A folder that nobody has looked through, that was begun beside other sets, and a student of its own"
    learn, rng = learner(), np.random.default_rng(seed)
    x, want = with_leaks(learn, seed)
    ds = Counted(x)
    assert learn.pseudolabel(ds, tmp_path, leaks='keep').leak is None
    with pytest.warns(UserWarning, match='labeled with other `leaks` or `held_out`'):
        pl, reads = ds.counted(lambda: learn.pseudolabel(ds, tmp_path, leaks='drop'))
    assert np.array_equal(pl.leak, want) and reads.sum() <= FIRST+SAMPLE
    held_out = rng.choice(N, 9, replace=False)
    both = np.where(np.isin(np.arange(N), held_out), 2, want)
    with pytest.warns(UserWarning, match='labeled with other `leaks` or `held_out`'):
        pl = learn.pseudolabel(ds, tmp_path, leaks='drop', held_out=x[held_out].numpy())
    assert np.array_equal(pl.leak, both)
    mine = rng.choice(N, 12, replace=False)
    dls = DataLoaders(*[TfmdDL([(x[i], 0) for i in o], bs=4, num_workers=0) for o in (mine[:6], mine[6:])])
    own, reads = ds.counted(lambda: pl.own_leaks(np.arange(N), dls, 'drop'))
    assert np.array_equal(own, find_leaks(x, dls)) and own[mine].all() and reads.sum() <= 17


def test_a_student_of_other_transforms_reads_its_rows():
    "Hashes of other inputs tell nothing: doubles are no floats"
    learn = learner()
    pl = learn.pseudolabel(Counted())
    items = [(X[i].double(), 0) for i in range(30)]
    dls = DataLoaders(*[TfmdDL(o, bs=4, num_workers=0) for o in (items[:20], items[20:])])
    own, reads = pl.unlabeled.counted(lambda: pl.own_leaks(np.arange(N), dls))
    assert own.tolist() == [1]*20+[2]*10+[0]*(N-30) and reads.min() == 1


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('make', [Counted, torch.Tensor.numpy])
def test_any_row_that_changes_is_noticed(tmp_path, seed, make):
    "By check='full'; by the sample, if it is in it"
    learn, i = learner(), int(np.random.default_rng(seed).integers(N))
    learn.pseudolabel(make(X), tmp_path, leaks='keep')
    x = X.clone()
    x[i] += 1
    kw, x = dict(leaks='keep'), make(x)
    with pytest.raises(Changed, match=rf'row {i} of unlabeled \({i}\) is not .*overwrite=True.*check=None'):
        learn.pseudolabel(x, tmp_path, check='full', **kw)
    with pytest.raises(ValueError, match=rf'unlabeled is not the data .*row {i} \({i}\)'):
        PseudoLabels.open(tmp_path, x, check='full')
    assert len(learn.pseudolabel(x, tmp_path, check=None, **kw)) == len(PseudoLabels.open(tmp_path, x, check=None)) == N
    was = as_source(make(X)).hashes(np.arange(N))
    for o in (lambda: learn.pseudolabel(x, tmp_path, **kw), lambda: PseudoLabels.open(tmp_path, x)):
        if as_source(x).changed(was)[0] is None: o()
        else:
            with pytest.raises(ValueError): o()
    with pytest.raises(ValueError, match="check='all': expected 'sample', 'full' or None"):
        PseudoLabels.open(tmp_path, check='all')


@pytest.mark.parametrize('propagate', [None, dict(k=5)])
def test_self_train_reads_once_for_each_labeling(tmp_path, propagate):
    "Three rounds: three passes, and looks at some rows, of which some that each student was shown; graphs read none"
    ds = Counted(points(2000, 3)[0])
    kw = dict(n_rounds=3, n_epoch=1, patience=None, propagate=propagate)
    run, reads = ds.counted(lambda: train(tmp_path, make, ds, **kw))
    looks = 256+3*(FIRST+2*SAMPLE+256)
    n_student = 12*run.records.n_batches[run.records.role == 'student'].sum()  # rows that it has trained on, and more
    assert len(run.records) == 4 and reads.min() == 3 and reads.sum() <= 3*2000+looks+n_student
    assert ds.counted(lambda: train(tmp_path, make, ds, **kw))[1].sum() <= looks


class CountedStream:
    "Points that come one after the other, and count how often each does"
    def __init__(self, x): self.x, self.reads = x.numpy(), np.zeros(len(x), int)

    def __iter__(self):
        for i, o in enumerate(self.x):
            self.reads[i] += 1
            yield o

    counted = CountedArray.counted


@pytest.mark.parametrize('propagate', [None, dict(k=5)])
def test_self_train_reads_a_stream_once_for_each_labeling_and_student(tmp_path, monkeypatch, propagate):
    "... once more to count it; looks, also at what a student has learned, end with its first rows"
    x, looks = CountedStream(points(2000, 3)[0]), 512  # more than any look is at
    monkeypatch.setattr('noisy_student_fastai.labels.sources._reach', looks)
    kw = dict(n_rounds=2, n_epoch=1, patience=None, propagate=propagate)
    run, reads = x.counted(lambda: train(tmp_path, make, x, **kw))
    assert len(run.records) == 3 and run.records.learned[1:].between(0, 1).all()
    assert reads[looks:].max() == 5 and reads[looks:].min() >= 3  # a student reads as far as its last row
    again, reads = x.counted(lambda: train(tmp_path, make, x, **kw))
    assert (reads[looks:] == 1).all()
    pl, reads = x.counted(lambda: again.labels(2))
    assert len(pl) == 2000 and 0 < reads.sum() <= SAMPLE+20
    x.x[5] += 1
    with pytest.raises(ValueError, match=r'row 5 \(5\)'): again.labels(2)


@pytest.mark.parametrize('make', [Counted, array])
def test_hashes_come_from_workers_that_are_spawned(make):
    "What they get is a copy, of which the hashes lie where the first process sees them"
    learn = learner()
    src = as_source(make(), learn.dls)
    dl = src.eval_dl(learn.dls, 20)
    noted, = note_rows(src, [dl])
    rows = pickle.loads(ForkingPickler.dumps(dl.dataset))
    rows[np.arange(20, 40)] if rows.by_batch else [rows[i] for i in range(20, 40)]
    assert np.array_equal(noted.take(range(20, 40))[0], as_source(make()).hashes(np.arange(20, 40)))


@pytest.mark.parametrize('make', [Counted, array])
def test_places_come_of_the_same_pass(tmp_path, make):
    "With `embed` each row is still read once, and goes through the model once"
    x, cb = make(), Calls()
    learn = learner(0, cb)
    n_labeled = len(learn.dls.train.dataset)
    pl, reads = x.counted(lambda: learn.pseudolabel(x, tmp_path, embed=('teacher', 'inputs')))
    check_once(reads)
    assert sum(cb.rows) == N+n_labeled+2 and np.allclose(pl.arrays['embed_inputs'], X, atol=2e-3)
    cb.rows.clear()
    assert x.counted(lambda: learn.pseudolabel(x, tmp_path, embed=('inputs', 'teacher')))[1].sum() <= FIRST+SAMPLE
    assert x.counted(pl.propagate)[1].sum() == 0 and not cb.rows


class Calls(Callback):
    "Counts rows that the model has seen"
    def __init__(self): self.rows = []
    def after_pred(self): self.rows.append(len(self.pred))
