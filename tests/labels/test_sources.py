"Unlabeled data of every kind: each row once for the teacher, with its own target for the student"
import random
import tracemalloc
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import probs
from fastai.data.block import CategoryBlock
from fastai.data.core import Datasets
from fastai.data.load import DataLoader
from fastai.data.transforms import Categorize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.core import Categorify, FillMissing, Normalize, Tabular, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.vision.augment import RandomResizedCrop
from fastcore.basics import noop
from fasttransform import Transform
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.fingerprints import as_array, sample_of
from noisy_student_fastai.joining import Endless
from noisy_student_fastai.labels import leaks
from noisy_student_fastai.labels.labeling import first_look
from noisy_student_fastai.labels.leaks import find_leaks
from noisy_student_fastai.labels.sources import Array, Table, as_source, note_rows
from noisy_student_fastai.student import NoisyStudent
from source_toys import (
    BS,
    DIGITS,
    N2,
    SPLIT,
    Mean,
    N,
    flat_net,
    image_dls,
    of_bytes,
    save,
    table_dls,
    tensor_dls,
    text_dls,
    texts,
    wine,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset, default_collate
from xxhash import xxh3_64_intdigest


def raw(dl):
    "The batches of a loader without its batch transforms"
    dl.after_batch = lambda b: b
    return list(dl)


def places(kind, batches, n_inp):
    "Which unlabeled rows the rows of batches are; one that is none of them is a KeyError"
    at = {k: i for i, k in enumerate(kind.known)}
    return [at[kind.key(*(x.as_subclass(Tensor) for x in row))] for b in batches for row in zip(*b[:n_inp])]


def n_inputs(kind): return 2 if kind.form == 'table' and len(kind.dls.one_batch()) == 3 else 1


@pytest.mark.parametrize('bs', [None, 1000])
def test_a_teacher_gets_each_row_once_in_order(kind, bs):
    dl = kind.src.eval_dl(kind.dls, bs, **kind.kwargs)
    batches, want_bs = raw(dl), bs or dict(torch_loader=13).get(kind.form) or dl.bs
    assert places(kind, batches, n_inputs(kind)) == list(range(N2))
    assert all(type(b) is tuple and len(b) == n_inputs(kind) for b in batches)
    assert [len(b[0]) for b in batches[:-1]] == [want_bs]*(len(batches)-1) and len(dl) == len(batches)


def test_same_inputs_as_test_dl(kind):
    "After the batch transforms, of which a Rotate must rest; as far as fastai's `test_dl` can read these data"
    if kind.form == 'dataset' or not isinstance(kind.dls.valid, DataLoader): return
    # nothing in loaders over a list makes tensors of arrays
    data = [torch.as_tensor(o).float() for o in kind.data] if isinstance(kind.dls.valid_ds, list) else kind.data
    kwargs = dict(sort_func=lambda o: 0) if hasattr(kind.dls.valid, 'sort_func') else {}
    want = kind.dls.test_dl(data, bs=N2, **kwargs).one_batch()
    got = kind.src.eval_dl(kind.dls, N2).one_batch()
    for a, b in zip(got, want if isinstance(want, (tuple, list)) else [want]):
        assert isinstance(kind.dls.one_batch()[0], type(got[0]))
        assert torch.equal(a.as_subclass(Tensor), torch.as_tensor(b).as_subclass(Tensor).to(a.dtype))


@pytest.mark.parametrize('bs,k', [(16, 2), (7, 9), (10, 7)])
def test_resumed_batches_are_the_same(kind, bs, k):
    whole = list(kind.src.eval_dl(kind.dls, bs))
    dl = kind.src.eval_dl(kind.dls, bs, start=k*bs)
    rest = list(dl)
    assert len(dl) == len(rest) == len(whole)-k
    for a, b in zip(rest, whole[k:]):
        for x, y in zip(a, b): assert torch.equal(x.as_subclass(Tensor), y.as_subclass(Tensor))


def drawn(seed, m=110):
    rows = np.random.default_rng(seed).integers(N2, size=m)
    assert Counter(rows.tolist()).most_common(1)[0][1] > 2
    return rows


def check_targets(kind, rows, batches, p, w):
    "Has each row its own target and weight, and is each there as often as it was selected?"
    i = places(kind, batches, n_inputs(kind))
    assert Counter(i) == Counter(rows.tolist())
    y, ws = (torch.cat([b[j] for b in batches]).as_subclass(Tensor) for j in (-2, -1))
    torch.testing.assert_close(y, p[i], rtol=0, atol=0)
    torch.testing.assert_close(ws, w[i], rtol=0, atol=0)
    return i


def test_a_student_gets_rows_with_their_own_targets(kind):
    rows, p, w = drawn(0), probs(N2, 10), torch.rand(N2)
    def loader(shift=0, **kwargs):
        at = np.roll(rows, shift)
        return kind.src.train_dl(kind.dls, rows, p[at], w[at], **kind.kwargs, **kwargs)
    order = check_targets(kind, rows, raw(loader(bs=9)), p, w)
    assert order != rows.tolist()
    assert check_targets(kind, rows, raw(loader(bs=9, shuffle=False)), p, w) == rows.tolist()
    with pytest.raises(AssertionError, match='not equal'): check_targets(kind, rows, raw(loader(1)), p, w)


@pytest.mark.parametrize('hard', [False, True])
def test_a_student_trains(kind, hard):
    "The callback joins the rows with labeled ones; those of a batch have their own targets"
    rows, c = drawn(3), kind.net(*[o[:2] for o in kind.src.eval_dl(kind.dls).one_batch()]).shape[1]
    p = torch.randint(c, (N2,)) if hard else probs(N2, c)
    dl2 = kind.src.train_dl(kind.dls, rows, p[rows], torch.ones(len(rows)))
    learn = Learner(kind.dls, kind.net, loss_func=CrossEntropyLossFlat(), cbs=NoisyStudent(dl2))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    y = learn.noisy_student.one_batch()[-1]
    assert y.is_pl.sum() == len(y)-int((~y.is_pl).sum()) > 0
    stream = Endless(dl2, 11)
    seen = [next(stream) for _ in range(10)]
    i = places(kind, seen, n_inputs(kind))
    assert Counter(i) == Counter(rows.tolist())
    assert torch.equal(torch.cat([b[-2] for b in seen]).as_subclass(Tensor), p[i])


def test_names(kind):
    ids = kind.src.ids()
    assert (kind.src.form, kind.src.n) == (kind.form, N2)
    assert ids is None and kind.ids is None or list(ids) == kind.ids


def test_hashes_are_taken_while_rows_are_read(kind):
    "In workers or here, they are those of the rows on their own, and the inputs' those that labeled rows have"
    src, dl = as_source(kind.data, kind.dls), kind.src.eval_dl(kind.dls, 9, start=9)
    noted, = note_rows(kind.src, [dl], 9)
    got = [noted.take(range(i, min(i+9, N2))) for i, _ in zip(range(9, N2, 9), dl)]
    rows, inputs = zip(*got)
    assert np.array_equal(np.concatenate(rows), src.hashes(np.arange(9, N2))) and src.about() == kind.src.about()
    assert src.portrait() == kind.src.portrait()
    known = np.array([int.from_bytes(o, 'little') for o in leaks._digests(src, kind.dls)], np.uint64)
    if inputs[0] is not None: assert np.array_equal(np.concatenate(inputs), known[9:, None])
    elif not isinstance(kind.dls.train.dataset, Tabular): assert np.array_equal(np.concatenate(rows), known[9:])


def test_loaders_stay_as_they_are(kind):
    "Reading unlabeled rows moves neither the order of the labeled ones nor the switch of their transforms"
    train = kind.dls.train
    if not isinstance(train, DataLoader): return
    it = iter(train)
    next(it)
    state, bs, tfms = train.rng.getstate(), train.bs, train.after_batch
    split_idx = getattr(tfms, 'split_idx', None)
    for dl in (kind.src.eval_dl(kind.dls), kind.src.train_dl(kind.dls, np.arange(9), torch.zeros(9))): list(dl)
    assert (train.rng.getstate(), train.bs) == (state, bs) and train.after_batch == tfms
    assert getattr(tfms, 'split_idx', None) == split_idx != 1


@pytest.mark.parametrize('seed', range(2))
def test_random_item_transforms(tmp_path, seed):
    torch.manual_seed(seed)
    dls = image_dls(tmp_path, RandomResizedCrop(8, min_scale=.2))
    src = as_source([save(tmp_path, N), save(tmp_path, N+1)], dls)
    x = src.train_dl(dls, np.zeros(16, dtype=int), torch.zeros(16)).one_batch()[0]
    assert len({o.numpy().tobytes() for o in x}) > 8
    a, b = (src.eval_dl(dls).one_batch()[0] for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(a, dls.test_dl(src.items).one_batch()[0])


class Jitter(Transform):
    split_idx = 0
    def encodes(self, o: Tensor): return o+torch.rand(o.shape) if o.is_floating_point() and o.ndim else o


@pytest.mark.parametrize('where', ['after_item', 'after_batch'])
def test_noise_of_plain_loaders(where):
    dls = tensor_dls(num_workers=0, **{where: Jitter()})
    src, x = as_source(DIGITS[N:N+N2], dls), torch.tensor(DIGITS[N:N+N2])
    assert torch.equal(src.eval_dl(dls, N2).one_batch()[0], x)
    got = src.train_dl(dls, np.arange(N2), torch.zeros(N2), bs=N2, shuffle=False).one_batch()[0]
    assert 0 < (got-x).min() and (got-x).max() < 1 and (got-x).std() > .2


def test_a_memory_map_is_not_copied(tmp_path):
    shape = 200_000, 64
    x = np.lib.format.open_memmap(tmp_path/'x.npy', 'w+', np.float32, shape)
    x[:] = np.arange(len(x))[:, None]
    x = np.load(tmp_path/'x.npy', mmap_mode='r')
    dls, rows = tensor_dls(num_workers=0), np.arange(0, len(x), 100)
    tracemalloc.start()
    src = as_source(x, dls)
    dl = src.train_dl(dls, rows, torch.zeros(len(rows)))
    seen = torch.cat([b[0][:, 3] for b in dl])
    for b in src.eval_dl(dls, 64): pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(dl.dataset.xs.x, x)
    assert sorted(seen.tolist()) == rows.tolist() and b[0][-1, 0] == len(x)-1
    assert peak < x.nbytes/20, f'{peak/1e6:.1f} of {x.nbytes/1e6:.1f} MB'


def test_only_used_rows_of_a_table_are_encoded(monkeypatch):
    df, seen = wine(N+5000), []
    dls = table_dls(df[:N])
    def counted(self, process=TabularPandas.process):
        seen.append(len(self))
        return process(self)
    monkeypatch.setattr(TabularPandas, 'process', counted)
    src = as_source(df[N:], dls)
    src.train_dl(dls, np.array([7, 7, 4999, 3]), torch.zeros(4))
    assert seen == [1, 3]


def test_ids():
    df = wine(N+N2)
    dls = table_dls(df[:N])
    df2 = df[N:].drop(columns='kind')
    assert as_source(df2.reset_index(drop=True), dls).ids() is None
    assert as_source(df2.set_index(pd.Index([f'é{i}' for i in range(N2)])), dls).ids()[3] == 'é3'
    ids = as_source(df2[::-1], dls).ids()
    assert ids.dtype == np.int64 and ids.tolist() == list(range(N+N2-1, N-1, -1))
    with pytest.raises(ValueError, match="two rows with the id 40: "):
        as_source(df2.set_index(pd.Index([40, *range(39, 39+N2-1)])), dls).ids()


@pytest.mark.parametrize('dtype', [object, 'U', 'S'])
def test_arrays_of_texts(tmp_path, dtype):
    "They are items, as a list of them is; arrays of names are files"
    def numbers(o): return torch.tensor([float(v) for v in o.split(b',' if isinstance(o, bytes) else ',')])
    texts = [f'{i % 3},{i/7:.3f}' for i in range(40)]
    given = np.array(texts, dtype=dtype)
    items = given.tolist()
    ds = Datasets(items, [[numbers], [lambda o: int(numbers(o)[0]), Categorize()]],
                  splits=[list(range(20)), list(range(20, 30))])
    learn = Learner(ds.dataloaders(bs=8, num_workers=0), nn.Linear(2, 3), loss_func=CrossEntropyLossFlat())
    pl = learn.pseudolabel(given, tmp_path/'l', leaks='drop')
    assert pl.leak.tolist() == [1]*20+[2]*10+[0]*10
    assert np.array_equal(pl.probs, learn.pseudolabel(items, leaks='keep').probs)
    assert PseudoLabels.open(tmp_path/'l', items, check='full').unlabeled is items
    if dtype != 'S': assert as_source(np.array([str(save(tmp_path, N))]).astype(dtype)).form == 'files'
    assert len({*as_source(np.array([texts[:2], texts[2:4]], dtype=dtype)).hashes(np.arange(2))}) == 2


def test_ids_of_a_series(tmp_path):
    "Taken by place, called by the index: as a DataFrame"
    s = pd.Series([f'text {i}' for i in range(30)])
    for o in (s[20:], s.sample(frac=1, random_state=0), s.set_axis([f'r{i}' for i in range(30)])[::-1]):
        src = as_source(o)
        assert list(src.ids()) == o.index.tolist() and list(src.items) == o.tolist()
    assert as_source(s).ids() is None and as_source(s.tolist()).ids() is None
    fs = pd.Series([str(save(tmp_path, i)) for i in range(6)])[3:]
    assert as_source(fs, image_dls(tmp_path)).ids() == fs.tolist()
    with pytest.raises(ValueError, match='two rows with the id 1'): as_source(pd.concat([s[1:3], s[1:3]])).ids()


def test_cells_that_are_missing():
    df = texts()
    dls, new = text_dls(df[:N].copy()), df[N:].reset_index(drop=True)[['text']]
    with pytest.raises(ValueError, match=r"unlabeled has no column 'text'.*\['txt'\]"):
        as_source(new.rename(columns=dict(text='txt')), dls)
    new.loc[0, 'text'] = None
    with pytest.raises(ValueError, match=r"row 0 of unlabeled.*empty, in the columns \['text'\]"): as_source(new, dls)


def test_a_file_twice(tmp_path):
    fs = [save(tmp_path, i) for i in range(N, N+5)]
    src = as_source([*fs, fs[2]], image_dls(tmp_path))
    with pytest.raises(ValueError, match=f'two rows with the id .*{fs[2].name}'): src.ids()


def test_fingerprints_see_changes(tmp_path):
    dls, x = tensor_dls(num_workers=0), DIGITS[N:N+N2]
    np.save(tmp_path/'x.npy', x)
    def seen(o): return str(as_source(o, dls).about()), as_source(o, dls).hashes(np.arange(len(o))).tolist()
    assert seen(x) == seen(torch.tensor(x)) == seen(np.load(tmp_path/'x.npy', mmap_mode='r'))
    assert seen(x) == seen(np.asfortranarray(x))
    want, src = np.array(seen(x)[1], np.uint64), as_source(x, dls)
    assert want.tolist() == [xxh3_64_intdigest(o.tobytes()) for o in x]
    for i in (0, N2//2, N2-1):
        y = x.copy()
        y[i, 5] += 1
        assert as_source(y, dls).changed(want, 'full') == (i, N2) and src.changed(want, 'full') == (None, N2)
    others = x[::-1], x[:-1], x.astype(np.float64), list(x), TensorDataset(torch.tensor(x))
    assert len({str(seen(o)) for o in (x, *others)}) == 6


@settings(max_examples=50, deadline=None, derandomize=True)
@given(n=st.integers(1, 3000), p=st.floats(.01, 1), seed=st.integers(0, 9))
def test_a_sample_is_from_all_over(n, p, seed):
    "The first and the last row, one of each 64th, and so the share of changed rows is found that the page says"
    rows = sample_of(n)
    assert len(set(rows)) == min(n, 64) and {0, n-1} <= set(rows) <= set(range(n))
    if n > 128: assert np.histogram(rows, 32, (0, n))[0].min() >= 1
    bad = np.random.default_rng(seed).random(n) < p
    x = np.arange(n, dtype=np.float32)[:, None]
    h = Array(x).hashes(np.arange(n))
    i, k = Array(np.where(bad[:, None], -1, x)).changed(h)
    assert (i is not None) == bad[rows].any() and k == len(rows) and (i is None or bad[i])


def test_fingerprints_of_files(tmp_path):
    dls = image_dls(tmp_path)
    fs = [save(tmp_path, i) for i in range(N, N+9)]
    def about(o): return as_source(o, dls).about()
    a, h = about(fs), as_source(fs, dls).hashes(np.arange(9))
    assert a != about(fs[::-1]) and a != about(fs[1:])
    fs[3].write_bytes(bytes(reversed(fs[3].read_bytes())))
    assert about(fs) == a and as_source(fs, dls).changed(h) == (3, 9)
    fs[3].write_bytes(b'1')
    assert about(fs) != a


def test_fingerprints_of_tables():
    df = wine(N+N2)
    dls, df2 = table_dls(df[:N]), df[N:].drop(columns='kind')
    def seen(o): return str(as_source(o, dls).about()), as_source(o, dls).hashes(np.arange(len(o))).tolist()
    other, renamed = df2.copy(), df2.assign(c=df2.b)
    other.loc[N+40, 'soil'] = 'silt'
    assert seen(df2) == seen(df2.copy())
    assert len({str(seen(o)) for o in (df2, other, renamed, df2[::-1], df2.reset_index(drop=True))}) == 5
    assert as_source(other, dls).changed(np.array(seen(df2)[1], np.uint64), 'full')[0] == 40


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.integers(-3, 3), st.text(max_size=3), st.floats(), st.just('caf\udce9')),
                min_size=2, max_size=8), st.sampled_from([object, 'category']), st.integers(0, 99))
def test_a_row_of_a_table_has_its_hash_in_any_part_of_it(values, dtype, seed):
    "Whatever else its column holds: nothing, numbers among texts, names of files that are not UTF-8"
    assume(dtype is object or 'caf\udce9' not in values)  # pyarrow refuses it
    rng, n = np.random.default_rng(seed), len(values)
    df = pd.DataFrame(dict(a=pd.Series(values, dtype=object), b=np.arange(n)/3)).astype(dict(a=dtype))
    rows = rng.choice(n, rng.integers(1, n+1), replace=False)
    for o in (df, df.set_index('a', drop=False)):
        h = Table(o).hashes(np.arange(n))
        assert np.array_equal(Table(o).hashes(rows), h[rows])
        assert all((a == b) == (ascii(x) == ascii(y) and i == j) for i, (a, x) in enumerate(zip(h, values))
                   for j, (b, y) in enumerate(zip(h, values)))


def test_the_size_of_batches():
    dls, x = tensor_dls(num_workers=0), torch.tensor(DIGITS[N:N+N2])
    given = as_source(TorchDataLoader(TensorDataset(x), batch_size=13), dls)
    assert [as_source(x, dls).eval_dl(dls).bs, given.eval_dl(dls).bs, given.eval_dl(dls, 5).bs] == [BS, 13, 5]
    rows = np.arange(9)
    assert (given.train_dl(dls, rows, rows).bs, given.train_dl(dls, rows, rows, bs=4).bs) == (BS, 4)


def test_names_of_a_category_type():
    "fastai takes a column's own codes for those of the labeled one"
    df = wine(N+N2)
    dls, df2 = table_dls(df[:N]), df[N:].drop(columns='kind')
    want = as_source(df2, dls).eval_dl(dls, N2).one_batch()
    got = as_source(df2.assign(side=pd.Categorical(df2.side, categories=list('zyx'))), dls).eval_dl(dls, N2).one_batch()
    for a, b in zip(got, want): assert torch.equal(a, b)


def test_missing_numbers():
    "Encoded as `test_dl` does it, whatever fastai's FillMissing makes of the pandas that is there"
    df = wine(N+N2)
    df.loc[[3, 9, N+2, N+50], 'b'] = np.nan
    to = TabularPandas(df[:N], [Categorify, FillMissing, Normalize], ['side'], ['a', 'b'], 'kind', CategoryBlock(),
                       splits=SPLIT(df[:N]))
    dls, df2 = to.dataloaders(bs=BS), df[N:].drop(columns='kind')
    want = dls.test_dl(df2, bs=N2).one_batch()
    src, rows = as_source(df2, dls), np.array([50, 2, 2, 7])
    assert set((want[0][:, 1] == 2).nonzero().flatten().tolist()) == {2, 50}
    for got, at in ((src.eval_dl(dls, N2), np.arange(N2)), (src.train_dl(dls, rows, rows, shuffle=False), rows)):
        for a, b in zip(got.one_batch()[:2], want, strict=True):
            torch.testing.assert_close(a, b[at], rtol=0, atol=0, equal_nan=True)
    assert find_leaks(df.loc[[N+2, 3, 30, N+7]], dls, held_out=df2[50:51]).tolist() == [0, 1, 2, 0]


def student(dls, dl2, net): return Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=NoisyStudent(dl2))


def refused(learn, match):
    with pytest.raises(ValueError, match=match), learn.no_bar(), learn.no_logging(): learn.fit(1)


def test_another_list_of_words_is_refused():
    df = texts()
    dls, other = text_dls(df[:N].copy()), text_dls(df[10:N+10].copy())
    dl2 = as_source(df[N:][['text']], other).train_dl(other, np.arange(N2), probs(N2, 2))
    refused(student(dls, dl2, Mean(5000)), "dl2's vocabulary is not the Learner's")


def test_another_list_of_classes_is_refused(tmp_path):
    class Targets:
        vocab = list('abcdefghij')
        def __len__(self): return 4
        def __getitem__(self, i): return torch.zeros(4, dtype=torch.long)[i]
    dls = image_dls(tmp_path)
    dl2 = as_source([save(tmp_path, i) for i in range(N, N+4)], dls).train_dl(dls, np.arange(4), Targets())
    refused(student(dls, dl2, flat_net(64)), "dl2's vocabulary is not the Learner's")


def test_a_table_encoded_in_another_way_is_refused():
    df = wine(N+N2)
    dls, other = table_dls(df[:N]), table_dls(df[10:N+10].reset_index(drop=True))
    dl2 = as_source(df[N:], other).train_dl(other, np.arange(N2), probs(N2, 3))
    refused(student(dls, dl2, tabular_learner(dls, [8]).model), "dl2's table has")


@pytest.mark.parametrize('data,error,match', [
    ([], ValueError, 'unlabeled is empty'),
    (np.zeros((0, 64), np.float32), ValueError, 'unlabeled is empty'),
    (np.zeros((5, 8, 8), np.float32), ValueError, r'shape \(5, 8, 8\) and a labeled row \(64,\)'),
    ('a folder', FileNotFoundError, 'no such file or folder'),
    (None, TypeError, 'of type NoneType'),
    ((o for o in 'ab'), TypeError, 'of type generator'),
    (dict(a=1), TypeError, 'of type dict')])
def test_unlabeled_data_that_are_refused(data, error, match):
    with pytest.raises(error, match=match): as_source(data, tensor_dls(num_workers=0))


def test_rows_of_another_kind_are_refused(tmp_path):
    with pytest.raises(TypeError, match="transforms can't read"): as_source([1.5, 2.5], image_dls(tmp_path))
    df = wine(N+N2)
    with pytest.raises(ValueError, match="no column 'b'"): as_source(df[N:].drop(columns='b'), table_dls(df[:N]))


@pytest.mark.parametrize('rows,n,w,match', [
    ([], 0, None, r'rows is an array of .* shape \(0,\)'),
    ([0.5], 1, None, 'array of float64'),
    ([True], 1, None, 'array of bool'),
    ([[1]], 1, None, r'shape \(1, 1\)'),
    ([-1, 3], 2, None, 'from -1 to 3: expected row numbers from 0 to 69'),
    ([70], 1, None, 'to 70'),
    ([1, 2], 3, None, 'targets has 3 elements and rows 2'),
    ([1, 2], 2, [1.], 'w has 1 elements and rows 2')])
def test_rows_that_are_refused(rows, n, w, match):
    dls = tensor_dls(num_workers=0)
    with pytest.raises(ValueError, match=match): as_source(DIGITS[N:N+N2], dls).train_dl(dls, rows, torch.zeros(n), w)


@pytest.mark.parametrize('start', [-1, N2+1])
def test_starts_that_are_refused(start):
    dls = tensor_dls(num_workers=0)
    src = as_source(DIGITS[N:N+N2], dls)
    with pytest.raises(ValueError, match=f'start={start}: expected .* from 0 to 70'): src.eval_dl(dls, start=start)


def test_an_exported_teacher_labels(kind, tmp_path):
    "It says what it said before, though no labeled row is left to ask what an input looks like"
    learn = Learner(kind.dls, kind.net, loss_func=CrossEntropyLossFlat(), path=tmp_path)
    want = learn.pseudolabel(kind.data, leaks='keep', dtype='float32')
    if not all(hasattr(o.dataset, 'new_empty') for o in kind.dls.loaders): return  # fastai can't export these
    learn.export()
    again = load_learner(tmp_path/'export.pkl')
    pl = again.pseudolabel(kind.data, leaks='keep', dtype='float32')
    assert np.allclose(pl.probs, want.probs, atol=1e-6) and pl.vocab == want.vocab and list(pl.ids) == list(want.ids)
    with pytest.warns(UserWarning, match='leaks were not looked for'): again.pseudolabel(kind.data)
    with pytest.raises(ValueError, match='of the .* [0-9]+ are held out'):
        again.pseudolabel(kind.data, held_out=kind.data)


def test_a_first_look_finds_nothing_new(kind):
    "... in unlabeled data of any kind, and draws no random number"
    state = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        first_look(kind.src, kind.dls)
    assert state == (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())


def test_raw_rows_are_those_that_leaks_are_looked_for_in(kind):
    if getattr(kind.dls.valid, 'collate_fn', default_collate) is not default_collate: return  # it doubles them
    rows = [5, 3, 3, N2-1]
    plain = as_array if kind.key is of_bytes else noop
    got = [kind.key(*map(plain, xs)) for xs in kind.src.raw_rows(kind.dls, rows)]
    assert got == [kind.known[i] for i in rows]
