"Loaders of arrays against the arrays: rows, order, epochs of any length, types, exports and further loaders"
import warnings

import fastai.callback.progress  # noqa: F401  (gives Learner `no_bar`)
import numpy as np
import pytest
import torch
from fastai.data.core import TfmdDL
from fastai.data.transforms import IntToFloatTensor
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW
from fasttransform.transform import Transform
from noisy_student_fastai.data.arrays import ArrayLoaders, ArrayRows, array_dl, input_type
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives a Learner its `pseudolabel`)
from noisy_student_fastai.student import NoisyStudent
from torch import Tensor, nn

RNG = np.random.default_rng(0)
X, Y = RNG.random((40, 3), dtype=np.float32), RNG.integers(4, size=40)
VALID = RNG.random((25, 3), dtype=np.float32), RNG.integers(4, size=25)


def rows(dl):
    "Inputs and targets of all batches, as numpy arrays"
    xs, ys = zip(*dl)
    return torch.cat(xs).cpu().numpy(), torch.cat(ys).cpu().numpy()


def place(x): return [int(np.flatnonzero((X == o).all(1)).item()) for o in x]


def net(n_in=3): return nn.Sequential(nn.Flatten(), nn.Linear(n_in, 4))


class Noise(Transform):
    "Noise as fastai's random transforms have it: for training only"
    split_idx = 0
    def encodes(self, x: Tensor): return x+1 if x.is_floating_point() else x


@pytest.mark.parametrize('n_batches,bs', [(1, 40), (3, 16), (7, 13), (2, 8), (1, 64)])
def test_an_epoch_has_so_many_batches(n_batches, bs):
    "Each row as often as any other, give or take one; where there are more rows than places, none twice"
    dl = array_dl(X, Y, bs, n_batches)
    for _ in range(3):
        x, y = rows(dl)
        at = place(x)
        times = np.bincount(at, minlength=40)
        assert len(at) == n_batches*bs and len(dl) == n_batches and (Y[at] == y).all()
        assert times.max()-times.min() <= 1


def test_epochs_draw_anew():
    "Of more rows than places each epoch has others, and in time all of them, equally often"
    dl = array_dl(X, Y, 8, 2)
    epochs = [place(rows(dl)[0]) for _ in range(300)]
    times = np.bincount(np.concatenate(epochs), minlength=40)
    std = (300*.4*.6)**.5
    assert np.abs(times-120).max() < 4.5*std and len({tuple(sorted(o)) for o in epochs}) == 300
    assert len(dl.dataset) == 40


@pytest.mark.parametrize('bs', [1, 7, 40, 100])
def test_without_a_number_of_batches_all_rows_come_in_order(bs):
    x, y = rows(array_dl(X, Y, bs))
    assert (x == X).all() and (y == Y).all()


def test_noise_is_for_training():
    assert (array_dl(X, batch_tfms=Noise()).one_batch()[0].cpu().numpy() == X).all()
    x, = array_dl(X, bs=40, n_batches=1, batch_tfms=[Noise()]).one_batch()
    assert sorted((x.cpu().numpy()-1).sum(1).tolist()) == pytest.approx(sorted(X.sum(1).tolist()), abs=1e-5)


@pytest.mark.parametrize('shape,typ', [
    ((5, 1, 8, 8), TensorImageBW), ((5, 3, 8, 8), TensorImage), ((5, 4, 8, 8), TensorImage), ((5, 2, 8, 8), Tensor),
    ((5, 3, 20), Tensor), ((5, 7), Tensor), ((5,), Tensor)])
def test_what_a_row_is(shape, typ):
    assert input_type(np.zeros(shape)) is typ and type(array_dl(np.zeros(shape)).one_batch()[0]) is typ


@pytest.mark.parametrize('dtype,want', [
    ('float64', 'float32'), ('float32', 'float32'), ('float16', 'float16'), ('int64', 'int64'), ('uint8', 'uint8')])
def test_numbers_keep_their_type_but_for_double_precision(dtype, want):
    x = (10*X).astype(dtype)
    got = array_dl(x).one_batch()[0].cpu()
    assert got.dtype == getattr(torch, want) and (got.numpy() == x.astype(want)).all()


def test_bytes_are_pixels_in_pictures():
    x = RNG.integers(256, size=(6, 3, 4, 4), dtype=np.uint8)
    dl = array_dl(x)
    assert [type(o) for o in dl.after_batch.fs] == [IntToFloatTensor]
    assert np.allclose(dl.one_batch()[0].cpu(), x/255)
    assert array_dl(x, x_type=Tensor).one_batch()[0].dtype == torch.uint8


@pytest.mark.parametrize('y', [Y, Y.astype(np.int32), torch.tensor(Y), Y.tolist()], ids=['64', '32', 'tensor', 'list'])
def test_class_indices_bring_loss_and_names(y):
    ds = ArrayRows(X, y, vocab='abcd')
    assert isinstance(ds.loss_func, CrossEntropyLossFlat) and type(ds[3][1]) is TensorCategory and ds.c == 4
    assert [ds.decode(ds[i])[1] for i in range(40)] == ['abcd'[i] for i in Y]
    assert ArrayRows(X, y).c is None and ArrayRows(X, y).decode(ds[0])[1] == Y[0]


def test_soft_labels_and_no_labels():
    p = RNG.dirichlet(np.ones(4), 40)
    ds = ArrayRows(X, p, vocab='abcd')
    assert ds.loss_func is None and np.allclose(ds.decode(ds[2])[1], p[2])
    assert len(ArrayRows(X)[0]) == 1 and ArrayRows(X).loss_func is None


P = np.random.default_rng(1).dirichlet(np.ones(4), 40)
GRID = np.linspace(-1, 1, 12).reshape(4, 3)


def linear(c):
    "A linear layer without a bias, whose weights are `GRID`, and what it gives for `X`"
    m = nn.Linear(3, c, bias=False)
    with torch.no_grad(): m.weight.copy_(torch.tensor(GRID[:c]))
    return m, X.astype(np.float64)@GRID[:c].T


def soft_ce(z, y): return -(y*(z-np.log(np.exp(z).sum(1, keepdims=True)))).sum(1).mean()
def bce(z, y): return (np.log1p(np.exp(z))-z*y).mean()
def mse(z, y): return ((z.reshape(y.shape)-y)**2).mean()


@pytest.mark.parametrize('loss, y, want', [
    (nn.CrossEntropyLoss(), P, soft_ce), (nn.BCEWithLogitsLoss(), (P > .3).astype(float), bce),
    (BCEWithLogitsLossFlat(), (P > .3).astype(float), bce), (nn.MSELoss(), P[:, :1], mse),
    (nn.MSELoss(), P[:, :2], mse), (MSELossFlat(), P[:, 0], mse), (nn.CrossEntropyLoss(), torch.tensor(P), soft_ce)])
def test_targets_in_double_precision_train(loss, y, want):
    "As models give single precision; the losses are numpy's, in double precision"
    model, z = linear(1 if y.ndim == 1 else y.shape[1])
    dls = ArrayLoaders.from_arrays(X.astype(float), y, (X+.01, y), bs=40)
    learn = Learner(dls, model, loss_func=loss, lr=0.)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert {o.one_batch()[1].dtype for o in (*dls.loaders, dls.test_dl(X, y))} == {torch.float32}
    assert learn.recorder.losses[0].item() == pytest.approx(want(z, np.asarray(y)), rel=1e-5)
    assert (rows(dls.test_dl(X, y))[1] == np.asarray(y).astype(np.float32)).all()


def test_what_is_no_double_keeps_its_numbers():
    "Class indices are whole numbers of any size; inputs in double precision are for models in double precision"
    ids = 2**24+1+2*np.arange(40)
    for y in (ids, ids.astype(np.int32), torch.tensor(ids), ids.tolist()):
        dls = ArrayLoaders.from_arrays(X, Y, VALID)
        for dl in (array_dl(X, y), dls.test_dl(X, y)): assert (rows(dl)[1] == ids).all()
    assert array_dl(X, P.astype(np.float16)).one_batch()[1].dtype == torch.float16
    double, half = ArrayRows(X.astype(float), P), ArrayRows(X.astype(np.float16), P)
    assert (double[3][1].numpy() == P[3]).all() and half[3][1].dtype == torch.float32
    dls = ArrayLoaders(TfmdDL(double, bs=8), TfmdDL(double, bs=8))
    assert [o.dtype for o in dls.test_dl(X, P).one_batch()] == [torch.float64]*2


def test_from_arrays():
    "Two loaders as `array_dl` makes them, the first for training"
    dls = ArrayLoaders.from_arrays(X, Y, valid=VALID, bs=16, n_batches=5, val_bs=10, vocab='abcd', batch_tfms=Noise())
    assert type(dls) is ArrayLoaders and dls.vocab == 'abcd'
    assert (len(dls.train), dls.train.bs, dls.valid.bs) == (5, 16, 10)
    x, y = rows(dls.valid)
    assert (x == VALID[0]).all() and (y == VALID[1]).all()
    x, y = rows(dls.train)
    at = [int(np.abs(X+1-o).sum(1).argmin()) for o in x]  # with the noise, which adds 1
    assert np.abs(X[at]+1-x).max() < 1e-6 and (Y[at] == y).all() and np.bincount(at).tolist() == [2]*40
    assert (dls.train.dataset.split_idx, dls.valid.dataset.split_idx) == (0, 1)


@pytest.mark.parametrize('bs,n', [(16, 3), (40, 1), (39, 2), (64, 1)])
def test_an_epoch_has_each_row_by_default(bs, n):
    dls = ArrayLoaders.from_arrays(X, Y, VALID, bs=bs)
    assert len(dls.train) == n and set(place(rows(dls.train)[0])) == set(range(40)) and dls.valid.bs == 64


def test_a_learner_trains_and_its_export_has_no_rows(tmp_path):
    learn = Learner(ArrayLoaders.from_arrays(X, Y, VALID, vocab='abcd'), net())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        want = learn.get_preds(dl=learn.dls.test_dl(X))[0]
    learn.export(tmp_path/'learn.pkl')
    again = load_learner(tmp_path/'learn.pkl')
    for dl in again.dls.loaders:
        assert [o.untyped_storage().nbytes() for o in (dl.dataset.x, dl.dataset.y)] == [0, 0]
    with again.no_bar():
        assert torch.allclose(again.get_preds(dl=again.dls.test_dl(X.astype(float), bs=7))[0], want, atol=1e-6)
        assert again.predict(X[5])[0] == 'abcd'[want[5].argmax()]


@pytest.mark.parametrize('x_type', [Tensor, TensorImageBW])
@pytest.mark.parametrize('whole', [False, True])
def test_an_export_labels(tmp_path, x_type, whole):
    "It says what it said before, be it to a batch or to a student, and what other rows look like it still knows"
    x = RNG.integers(256, size=(40, 1, 4, 4), dtype=np.uint8) if whole else RNG.random((40, 1, 4, 4), dtype=np.float32)
    dls = ArrayLoaders.from_arrays(x[:20], Y[:20], (x[20:30], Y[20:30]), vocab='abcd', x_type=x_type,
                                   batch_tfms=ToFloat())
    learn = Learner(dls, net(16))
    with learn.no_bar(): want = learn.get_preds(dl=dls.test_dl(x[30:]))[0]
    learn.export(tmp_path/'learn.pkl')
    again = load_learner(tmp_path/'learn.pkl')
    for kw in (dict(leaks='keep'), dict(held_out=x[:10]), dict(held_out=x[:10], leaks='drop')):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            pl = again.pseudolabel(x[30:], dtype='float32', **kw)
        assert np.allclose(pl.probs, want, atol=1e-6) and pl.vocab == list('abcd')
    with pytest.warns(UserWarning, match='leaks were not looked for: .*hold no rows'):
        assert not again.pseudolabel(x[30:]).leak.any()
    with pytest.raises(ValueError, match='10 are held out'): again.pseudolabel(x[30:], held_out=x[30:])
    xb, yb = pl.dl(dls).one_batch()
    assert type(xb) is x_type and len(yb) == 10
    other = x[30:]/np.float32(255) if whole else x[30:]*255
    with pytest.warns(UserWarning, match='numbers up to'): again.pseudolabel(other, leaks='keep')
    with pytest.warns(UserWarning, match='x looks different'): again.dls.test_dl(other)


class ToFloat(Transform):
    def encodes(self, x: Tensor): return x if x.is_floating_point() else x/255 if x.ndim > 1 else x


def test_the_validation_set_looks_like_the_labeled_one():
    with pytest.warns(UserWarning, match=r'valid\[0\] looks different .*numbers up to .*, these up to 2\d\d.*score'):
        ArrayLoaders.from_arrays(X.repeat(8, 1), Y, (VALID[0].repeat(8, 1)*255, VALID[1]))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ArrayLoaders.from_arrays(X, Y, VALID)


@pytest.mark.parametrize('soft', [False, True])
def test_labels_of_ones_own_for_a_student(soft):
    "What `test_dl` makes of inputs and labels is a `dl2`: shuffled, each row with its label"
    x2 = RNG.random((50, 3), dtype=np.float32)
    y2 = RNG.dirichlet(np.ones(4), 50).astype(np.float32) if soft else RNG.integers(4, size=50)
    dls = ArrayLoaders.from_arrays(X, Y, VALID, bs=20, n_batches=5)
    dl2 = dls.test_dl(x2, y2)
    assert isinstance(dl2, TfmdDL) and (rows(dl2)[1] == y2).all()
    student, seen = Learner(dls, net(), cbs=NoisyStudent(dl2)), []
    with student.no_bar(), student.no_logging(): student.fit(1)
    for _ in range(5):
        xb, yb = student.noisy_student.one_batch()
        at = [int(np.flatnonzero((x2 == o).all(1)).item()) for o in xb[yb.is_pl].cpu().numpy()]
        got = yb.plain()[yb.is_pl].cpu().numpy()
        assert np.allclose(got, y2[at], atol=1e-6) and len(set(at)) == 10
        seen += at
    assert seen != sorted(seen)


@pytest.mark.parametrize('make,error,said', [
    (lambda: array_dl(X, Y, bs=0), ValueError, 'bs=0: expected a whole number of 1 or more'),
    (lambda: array_dl(X, Y, n_batches='2'), TypeError, "n_batches='2': expected a whole number of 1 or more"),
    (lambda: array_dl(X.tolist(), Y), TypeError, 'x=.*: expected an array or a tensor, a row for each input'),
    (lambda: array_dl(X, Y[:3]), ValueError, r'len\(y\)=3: expected 40, one for each row of x'),
    (lambda: array_dl(X, ['a']*40), TypeError, 'y=.*class indices or soft labels: `vocab,y = np.unique'),
    (lambda: array_dl(np.zeros((2, 8, 8, 3))), ValueError, r'x.shape=\(2, 8, 8, 3\): expected channels before height'),
    (lambda: ArrayLoaders.from_arrays(X[:0], Y[:0], VALID), ValueError, r'len\(x\)=0: expected at least one row to tr'),
    (lambda: ArrayLoaders.from_arrays(X, Y, VALID, n_batches=0), ValueError, 'n_batches=0: expected a whole number'),
    (lambda: ArrayLoaders.from_arrays(X, Y, VALID[0]), TypeError,
     r'(?s)valid=.*: expected a pair: inputs and targets'),
    (lambda: ArrayLoaders.from_arrays(X, Y, VALID, bs=2.), TypeError, 'bs=2.0: expected a whole number of 1 or more'),
    (lambda: ArrayLoaders.from_arrays(X, Y, VALID).test_dl(X[:, :2]), ValueError, r'x=\(40, 2\): expected n x 3'),
    (lambda: ArrayLoaders.from_arrays(X, Y, VALID).test_dl(X, ['a']*40), TypeError, 'y=.*class indices or soft')])
def test_wrong_arguments(make, error, said):
    with pytest.raises(error, match=said): make()


def with_one(v, dtype=None):
    y = Y.tolist()
    y[7] = v
    return y if dtype is None else np.array(y, dtype=dtype)


NO_LABEL = [
    (with_one(-1), r'y\[7\]=-1: expected class indices of 0 or more'), (with_one(-1, np.int8), r'y\[7\]=-1: '),
    (with_one(float('nan')), r'y\[7\]=nan: '), (with_one(float('nan'), np.float32), r'y\[7\]=nan: '),
    (with_one(None), 'y=.*class indices or soft'), (with_one('nan'), 'y=.*class indices or soft'),
    (with_one('-1', str), 'y=.*class indices or soft'), (torch.tensor(with_one(-1)), r'y\[7\]=-1: '),
    (np.where(np.arange(40)[:, None] == 7, np.nan, np.eye(4)[Y]), r'y\[7\]=\[nan, nan, nan, nan\]: ')]


@pytest.mark.parametrize('y, said', NO_LABEL)
def test_no_label_is_no_class(y, said):
    "Wherever labels come in; the text says what to do with such rows"
    for make in (array_dl, lambda x, y: ArrayLoaders.from_arrays(x, y, VALID), ArrayRows,
                 lambda x, y: ArrayLoaders.from_arrays(X, Y, VALID).test_dl(x, y)):
        with pytest.raises((ValueError, TypeError), match='(?s)'+said+'.*leave rows without a label out'): make(X, y)
    with pytest.raises((ValueError, TypeError), match='(?s)'+said.replace('y', r'valid\[1\]', 1)):
        ArrayLoaders.from_arrays(X, Y, (X, y))


@pytest.mark.parametrize('y, said', [
    (Y.astype(float), 'class indices as whole numbers'), ([0., 1., 2.5, 3.]*10, 'class indices as whole numbers'),
    (with_one(4), r'y\[7\]=4: expected class indices from 0 to 3'),
    (np.eye(5)[Y], r'y.shape=\(40, 5\): expected n x 4, a column for each class')])
def test_labels_that_are_no_classes(y, said):
    with pytest.raises(ValueError, match=said): array_dl(X, y, vocab='abcd')


@pytest.mark.parametrize('loss, y', [
    (MSELossFlat(), X[:, 0]), (MSELossFlat(), torch.tensor(X[:, 1]-.5)), (MSELossFlat(), np.float32(Y-3)),
    (BCEWithLogitsLossFlat(), np.float32(Y % 2)), (nn.SoftMarginLoss(), np.float32(Y % 2*2-1))])
def test_a_value_for_each_row_trains(loss, y):
    "A regression, and two classes as 0 and 1, or -1 and 1: the loss is that of torch alone"
    dls, model = ArrayLoaders.from_arrays(X, y, (X, y), bs=40), nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    with torch.no_grad(): want = loss(model(torch.tensor(X)), torch.as_tensor(y)).item()
    learn = Learner(dls, model, loss_func=loss)
    with learn.no_bar(), learn.no_logging():
        assert learn.validate()[0] == pytest.approx(want, rel=1e-5)
        learn.fit(2, 1e-2)
        assert learn.validate()[0] < want
    assert (rows(array_dl(X, y))[1] == np.asarray(y)).all()


@pytest.mark.parametrize('y', [np.where(np.arange(40) == 7, -1., np.arange(40) % 4), [0., -1., 1.]*13+[0.]])
def test_floats_that_mean_an_unknown_class(y):
    "-1 among 0, 1, 2, ..., as scikit-learn has it; as n x 1 the same numbers are values"
    with pytest.raises(ValueError, match=r'y\[[17]\]=-1.0.*class indices of 0 or more.*n x 1; leave rows without'):
        ArrayRows(X, y)
    assert len(ArrayRows(X, np.reshape(y, (40, 1)))) == 40


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.int16, np.int32, np.int64])
def test_any_whole_numbers_train(dtype):
    y = (Y % 2).astype(dtype)
    learn = Learner(ArrayLoaders.from_arrays(X, y, VALID), net())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert (rows(array_dl(X, y))[1] == Y % 2).all()


@pytest.mark.parametrize('kw, text', [
    (dict(val_bs=0), 'val_bs=0'), (dict(bs=0), '^bs=0'), (dict(valid=([[1.]], [0])), r'valid\[0\]='),
    (dict(valid=3), 'valid=3'), (dict(n_batch=3), '^n_batch=3: expected one of x, y, valid, bs, n_batches, val_bs'),
    (dict(n_batch=3), "; did you mean 'n_batches'[?]$")])
def test_mistakes_in_the_validation_set_are_its_own(kw, text):
    x, y = np.zeros((4, 2), np.float32), np.zeros(4, int)
    with pytest.raises((ValueError, TypeError), match=text): ArrayLoaders.from_arrays(x, y, **dict(valid=(x, y)) | kw)


def warned(x, y, valid):
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        ArrayLoaders.from_arrays(x, y, valid)
    return [str(o.message) for o in ws]


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name, i', [('x', 7), ('valid[0]', 3)])
def test_inputs_that_are_no_numbers(bad, name, i):
    x, x2 = X.copy(), VALID[0].copy()
    (x if name == 'x' else x2)[[i, i+1, i+5], 1] = bad
    said, = warned(x, Y, (x2, VALID[1]))
    assert said.startswith(f"3 of {len(x if name == 'x' else x2)} rows of {name} hold nan or inf, the first is ")
    assert f'{name}[{i}]:' in said and warned(X, Y, VALID) == []
    assert not any('nan' in o for o in warned(X*np.float32(1e38), Y, VALID))


@pytest.mark.parametrize('n', [1, 5, 20])
def test_validation_rows_that_are_training_rows(n):
    x2 = np.concatenate([RNG.random((20-n, 3), dtype=np.float32), X[11:11+n]])
    said, = warned(X, Y, (x2, Y[:20]))
    assert said.startswith(f'{n} of 20 validation rows are training rows, too (valid[0][{20-n}] is x[11]): ')


@pytest.mark.parametrize('seed', range(5))
def test_rows_that_are_equal_by_chance(seed):
    "A table of few values has rows that occur twice, in any two sets that are drawn from it"
    g = np.random.default_rng(seed)
    for k, n in (2, 300), (4, 300), (8, 300), (12, 30):
        draw = g.integers(0, k, (n+1000, 3)).astype(np.float32)
        assert warned(draw[:n], g.integers(0, 4, n), (draw[n:], g.integers(0, 4, 1000))) == []


def test_one_vocabulary_for_both():
    y = np.array(['b', 'a', 'c', 'a']*10)
    for o in (dict(y=y, valid=VALID), dict(y=Y, valid=(X[:20], y[:20]))):
        with pytest.raises(TypeError, match=r'`np.searchsorted\(vocab, y_valid\)`'): ArrayLoaders.from_arrays(X, **o)
    vocab, codes = np.unique(y, return_inverse=True)
    valid = RNG.random((20, 3), dtype=np.float32), np.searchsorted(vocab, y[1:21])
    dls = ArrayLoaders.from_arrays(X, codes, valid, vocab=vocab)
    assert [vocab[o] for o in rows(dls.valid)[1]] == y[1:21].tolist()
