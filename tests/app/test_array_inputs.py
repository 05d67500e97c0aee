"Arrays of one's own: each row lands where it belongs, what can't be used is said in words"
import fastai.callback.schedule  # noqa: F401  (gives Learner `fit_one_cycle`)
import noisy_student_fastai.labels.labeling  # noqa: F401  (and `pseudolabel`)
import numpy as np
import pytest
import torch
from fastai.torch_core import set_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.app import array_inputs
from noisy_student_fastai.app.array_inputs import (
    Standardize,
    example_inputs,
    image_model,
    npz_inputs,
    series_model,
    table_model,
)
from noisy_student_fastai.app.job import _looks, load_inputs
from noisy_student_fastai.data.datasets import label_scarce
from noisy_student_fastai.settings import Settings
from own_data import QUICK, arrays, counts, npz


def test_parts_of_arrays(tmp_path):
    "Each row lands where it belongs; missing labels make rows unlabeled, and unknown classes are left out"
    a = arrays()
    y, y_test = a['y'].astype(float), a['y_test'].copy()
    y[[0, 7]], y_test[:4] = np.nan, 8
    res = npz_inputs(npz(tmp_path/'a.npz', y=y, y_test=y_test), QUICK)
    assert res.n == dict(labeled=10, unlabeled=62, valid=3, test=26)
    assert counts(res) == {'test rows left out because the training set lacks their class (8)': 4,
                           'rows of X taken as unlabeled because their y is nan': 2}
    assert np.array_equal(res.unlabeled, np.concatenate([a['X_unlabeled'], a['X'][[0, 7]]]))
    assert res.ids[-3:] == [59, 'X 0', 'X 7']
    both = np.concatenate([res.x, res.x_valid])
    assert {o.tobytes() for o in both} == {a['X'][i].tobytes() for i in range(15) if i not in (0, 7)}
    where = {o.tobytes(): c for o, c in zip(a['X'], a['y'])}
    assert [res.vocab[i] for i in res.y] == [str(where[o.tobytes()]) for o in res.x]
    assert np.array_equal(res.x_test, a['X_test'][4:]) and list(res.y_test) == list(y_test[4:])


def test_a_validation_set_of_ones_own_and_rows_twice(tmp_path):
    a = arrays()
    unlabeled = np.concatenate([a['X_unlabeled'], a['X'][:2], a['X_test'][:3]])
    res = npz_inputs(npz(tmp_path/'a.npz', X_valid=a['X_test'][:6], y_valid=a['y_test'][:6].astype(str),
                         X_test=a['X_test'][6:], y_test=a['y_test'][6:], X_unlabeled=unlabeled), QUICK)
    assert res.n == dict(labeled=15, unlabeled=60, valid=6, test=24)
    assert sorted(counts(res).values()) == [2, 3] and res.ids == list(range(60))


def test_minus_one_is_no_class(tmp_path):
    "As scikit-learn marks unlabeled rows; two classes of -1 and 1 stay two"
    a = arrays()
    y = a['y'].copy()
    y[[0, 7]] = -1
    res = npz_inputs(npz(tmp_path/'a.npz', y=y), QUICK)
    assert res.vocab == ['0', '1', '2'] and res.n['unlabeled'] == 62 and res.ids[-2:] == ['X 0', 'X 7']
    assert np.array_equal(res.unlabeled[-2:], a['X'][[0, 7]])
    assert res.remarks == {'rows of X taken as unlabeled because their y is -1': ['X 0', 'X 7']}
    two = npz_inputs(npz(tmp_path/'b.npz', y=np.where(a['y'] > 0, 1, -1), y_test=np.where(a['y_test'] > 0, 1, -1)),
                     QUICK)
    assert two.vocab == ['-1', '1'] and two.n['unlabeled'] == 60 and two.n['test'] == 30 and not two.remarks


NO_CLASS = {'i8': -1, 'f4': np.nan, 'f8': -1., 'U9': 'nan', 'S9': b'None', 'U4': '', 'S2': b'-1', 'U8': '-1.0'}


@settings(max_examples=16, deadline=None, derandomize=True)
@given(st.sampled_from([*NO_CLASS]), st.lists(st.integers(0, 14), min_size=1, max_size=5, unique=True))
def test_no_class_is_never_a_class_of_that_name(tmp_path_factory, dtype, rows):
    "However an array says it: the row is unlabeled, and counted"
    a = arrays(shape=(64,))
    y = a['y'].astype(dtype)
    y[rows] = NO_CLASS[dtype]
    res = npz_inputs(npz(tmp_path_factory.getbasetemp()/'a.npz', **a | dict(y=y, X_test=None, y_test=None)), QUICK)
    assert res.vocab == ['0', '1', '2'] and res.ids[60:] == [f'X {i}' for i in sorted(rows)]
    assert np.array_equal(res.unlabeled[60:], a['X'][sorted(rows)])
    called = {'i8': '-1', 'f4': 'nan', 'f8': '-1', 'U9': 'nan', 'S9': 'None', 'U4': 'empty', 'S2': '-1', 'U8': '-1.0'}
    said = {k: v for k, v in res.remarks.items() if k.startswith('rows of X taken as unlabeled')}
    what = f'rows of X taken as unlabeled because their y is {called[dtype]}'
    assert said == {what: [f'X {i}' for i in sorted(rows)]}


def test_minus_one_beside_nan(tmp_path):
    "Either may be what marks the unlabeled rows; where -1 is one of two, it is a class"
    a = arrays()
    y = a['y']-1.
    y[3] = np.nan
    with pytest.raises(ValueError, match='y has rows of -1 and rows that are nan'):
        npz_inputs(npz(tmp_path/'a.npz', y=y), QUICK)
    two = np.where(y > 0, 1, np.where(np.isnan(y), np.nan, -1))
    assert npz_inputs(npz(tmp_path/'b.npz', y=two, X_test=None, y_test=None), QUICK).vocab == ['-1', '1']


def test_test_rows_without_a_class(tmp_path):
    y = arrays()['y_test'].astype(float)
    y[[2, 5]] = np.nan
    res = npz_inputs(npz(tmp_path/'a.npz', y_test=y), QUICK)
    assert res.n['test'] == 28 and res.remarks == {'test rows left out because they have no class': ['row 2', 'row 5']}


def as_(kind, x):
    "Digits of 0 to 1 as pictures of another kind"
    pixels = np.round(x*255)
    of = dict(bytes=np.uint8, floats=np.float32, ints=int)
    return pixels.astype(of[kind]) if kind in of else dict(unit=x, odd=7*x-3)[kind]


@pytest.mark.parametrize('part', ['X_unlabeled', 'X_test', 'X_valid'])
@pytest.mark.parametrize('labeled,other', [(a, b) for a in ('unit', 'bytes', 'floats', 'odd')
                                           for b in ('unit', 'bytes', 'floats', 'ints')])
def test_pictures_of_one_scale(tmp_path, part, labeled, other):
    "Bytes beside floats: the same pictures reach the model as the same numbers, or are refused"
    if labeled == 'odd' and other != 'floats': return  # whose scale nobody knows
    a = arrays() | dict(X_valid=arrays()['X_test'], y_valid=arrays()['y_test'])
    if part != 'X_test': a |= dict(X_test=None, y_test=None)
    given = {k: v if v is None or k[0] == 'y' else as_(other if k == part else labeled, v) for k, v in a.items()}
    path = npz(tmp_path/'a.npz', **given)
    if labeled != 'odd' and 'unit' in (labeled, other) and labeled != other:
        with pytest.raises(ValueError, match=f"{part}='.*: expected pictures on X's scale"): npz_inputs(path, QUICK)
        return
    res, same = npz_inputs(path, QUICK), npz_inputs(npz(tmp_path/'b.npz', **{
        k: v if v is None or k[0] == 'y' else as_(labeled, v) for k, v in a.items()}), QUICK)
    if labeled == 'odd': return
    for one, two in ((res.unlabeled, same.unlabeled), (res.x_test, same.x_test), (res.x_valid, same.x_valid)):
        assert one.dtype == two.dtype == same.x.dtype and np.array_equal(one, two)


@pytest.mark.parametrize('shape', [(64,), (2, 32), (1, 8, 8)])
def test_test_rows_that_were_learned(tmp_path, shape):
    "Rows of the test set that are labeled or in the validation set are left out of it, and counted"
    a = arrays(shape=shape)
    xv, yv, xt, yt = a['X_test'][:6], a['y_test'][:6], a['X_test'][6:], a['y_test'][6:]
    a |= dict(X_valid=xv, y_valid=yv, X_test=np.concatenate([a['X'][:2], xt, xv[:3]]),
              y_test=np.concatenate([a['y'][:2], yt, yv[:3]]))
    res = npz_inputs(npz(tmp_path/'a.npz', **a), QUICK)
    assert res.remarks == {'test rows left out because they are labeled, too': ['row 0', 'row 1'],
                           'test rows left out because they are in the validation set, too': ['row 26', 'row 27',
                                                                                              'row 28']}
    assert res.n == dict(labeled=15, unlabeled=60, valid=6, test=24)
    assert np.array_equal(res.x_test, xt) and [res.vocab[i] for i in res.y_test] == [str(o) for o in yt]
    assert len(res.test_dl().dataset) == 24


@pytest.mark.parametrize('shape,kind,x_shape', [
    ((64,), 'tables', (64,)), ((2, 32), 'time series', (2, 32)),
    ((1, 8, 8), 'pictures', (1, 8, 8)), ((8, 8, 1), 'pictures', (1, 8, 8))])
def test_what_arrays_are(tmp_path, shape, kind, x_shape):
    a = arrays(shape=shape)
    res = npz_inputs(npz(tmp_path/'a.npz', **a), QUICK)
    assert (res.kind, res.x.shape[1:]) == (kind, x_shape)
    learn = res.make_learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)
        assert learn.pseudolabel(res.unlabeled).n == 60


def test_missing_values_are_the_mean(tmp_path):
    x = arrays(shape=(64,))
    x['X'][3, 10:20] = x['X_unlabeled'][5, 0] = np.nan
    res = npz_inputs(npz(tmp_path/'a.npz', **x), QUICK)
    assert counts(res) == {f'{k} rows with missing values, filled with the mean': 1
                           for k in ('labeled', 'unlabeled')}
    xb = res.dls().train.one_batch()[0]
    assert xb.isfinite().all() and (xb[:, 10:20] == 0).all(1).any()


def odd_rows(seed):
    "A table whose parts all have rows that miss something, are somewhere else, too, or are of an unknown class"
    rng = np.random.default_rng(seed)
    sizes, a = dict(X=40, X_unlabeled=25, X_valid=25, X_test=25), {}
    for k, n in sizes.items():
        a[k], a[k.replace('X', 'y')] = rng.normal(size=(n, 3)), rng.integers(0, 3, n).astype(float)
    del a['y_unlabeled']
    for k in ('y', 'y_valid', 'y_test'): a[k][rng.random(len(a[k])) < .2] = np.nan
    for k in ('y_valid', 'y_test'): a[k][rng.random(25) < .2] = 7
    for k in [*sizes][1:]: a[k][-4:] = a['X'][-4:]
    for k, n in sizes.items(): a[k][rng.random(n) < .2, 1] = np.nan
    return a


@pytest.mark.parametrize('seed', range(6))
def test_remarks_and_rows_have_the_names_of_the_file(tmp_path, seed):
    "Each name leads to a row of which it is true, and all of them are named; rows that are left out count as well"
    a = odd_rows(seed)
    res = npz_inputs(npz(tmp_path/'a.npz', **a), QUICK)
    def at(part, name):
        if isinstance(name, int): return 'X_unlabeled', name
        k, i = name.split()
        return (f"X_{part.replace('validation', 'valid')}" if k == 'row' else k), int(i)
    def named(start):
        "What remarks that start so name: an array and a row of it"
        return {at(k.split()[0], o) for k, v in res.remarks.items() if k.startswith(start) for o in v}
    known = {k: np.isfinite(a[k]) if k == 'y' else a[k] < 7 for k in ('y', 'y_valid', 'y_test')}
    is_nan = {k: np.isnan(v).any(1) for k, v in a.items() if k[0] == 'X'}
    def pick(k, rows): return {(k, int(i)) for i in np.flatnonzero(rows)}
    fills = ' rows with missing values, filled with the mean'
    assert named('labeled'+fills) == pick('X', is_nan['X'] & known['y'])
    assert named('unlabeled'+fills) == pick('X', is_nan['X'] & ~known['y']) | pick('X_unlabeled', is_nan['X_unlabeled'])
    for part, k in (('validation', 'valid'), ('test', 'test')):
        x, y = f'X_{k}', a[f'y_{k}']
        assert named(part+fills) == pick(x, is_nan[x] & known[f'y_{k}'])
        assert named(f'{k} rows left out because they have no class') == pick(x, np.isnan(y))
        assert named(f'{k} rows left out because the training set lacks their class (7)') == pick(x, y == 7)
        rows = [o.tobytes() for o in a[x].astype('f4')]
        learned = {o.tobytes() for o in a['X'][known['y']].astype('f4')}
        # nan are filled before rows are compared
        left_out = named(f'{part} rows left out because they are labeled, too')
        sure = pick(x, known[f'y_{k}'] & [o in learned for o in rows])
        assert left_out == sure
        for i, o in enumerate(getattr(res, f'x_{k}')):
            assert rows[at(part, _looks(res, k, i)[1])[1]] == o.tobytes()
    both = dict(X=a['X'], X_unlabeled=a['X_unlabeled'])
    for o, name in zip(res.unlabeled, res.ids):
        k, i = at('unlabeled', name)
        assert both[k][i].astype('f4').tobytes() == o.tobytes()


def test_rows_with_gaps_are_named_as_they_are(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 3)), np.tile([0., 1.], 15)
    y[:2] = x[5, 0] = x[0, 0] = np.nan
    res = npz_inputs(npz(tmp_path/'a.npz', X=x, y=y, X_unlabeled=np.eye(5, 3), X_test=None, y_test=None), QUICK)
    fills = {k: v for k, v in res.remarks.items() if 'missing values' in k}
    assert [*fills.values()] == [['X 5'], ['X 0']] and res.ids == [*range(5), 'X 0', 'X 1']


def test_scales_are_those_of_labeled_and_unlabeled_rows(tmp_path):
    a = arrays(shape=(2, 32))
    a['X'] = 100+7*a['X']
    a['X_unlabeled'] = 100+7*a['X_unlabeled']
    res = npz_inputs(npz(tmp_path/'a.npz', **a), QUICK)
    both = np.concatenate([res.x, res.unlabeled]).transpose(1, 0, 2).reshape(2, -1).astype(float)
    scale, = (o for o in res.dls().train.after_batch.fs if isinstance(o, Standardize))
    assert np.allclose(scale.mean.flatten(), both.mean(1)) and np.allclose(scale.std.flatten(), both.std(1), rtol=1e-4)


@pytest.mark.parametrize('changes,said', [
    (dict(X=None), "npz lacks X: exp"), (dict(y=None), "npz lacks y: exp"),
    (dict(X_unlabeled=None), "X_unlabeled='?0 rows"),
    (dict(y_test=None), "npz lacks y_test: exp"), (dict(X_test=None), "npz lacks X_test: exp"),
    (dict(y=np.zeros(15)), "classes=.'0'.: expected two or more"),
    (dict(y=np.arange(14)), "y='14 classes': expected one for each of the 15 rows"),
    (dict(y=np.repeat([0, .5, 1], 5)), "numbers with a fraction"),
    (dict(X=np.zeros((15, 1, 8))), "X_unlabeled='rows of shape"),
    (dict(X=np.full((15, 1, 8, 8), np.inf)), "X='960 infinite values'"),
    (dict(X=np.zeros((0, 1, 8, 8)), y=np.zeros(0)), r"X='an array of shape \(0, 1, 8, 8\)'"),
    (dict(X=np.zeros((15, 0))), r"X='an array of shape"), (dict(y=np.full(15, np.inf)), 'infinite numbers'),
    (dict(y=np.array([b'\xff']*15)), 'strings in UTF-8'), (dict(y=np.full(15, 'nan')), '=..: expected two or more'),
    (dict(X=np.zeros((15,))), r"X='an array of shape \(15,\)'"),
    (dict(X=np.array([['a']*64]*15)), "X='an array of <U1': expected numbers"),
    (dict(X=np.array([None]*15)), "can't be read: expected arrays of numbers"),
    (dict(X_unlabeled=arrays()['X']), "all are labeled or held out")])
def test_arrays_that_cannot_be_used(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said): npz_inputs(npz(tmp_path/'a.npz', **changes), QUICK)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path/'a.npz').write_bytes(b'PK\x03\x04 cut off')
    with pytest.raises(ValueError, match="a.npz can't be read: expected arrays"): npz_inputs(tmp_path/'a.npz', QUICK)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_damaged_archives(tmp_path_factory, random):
    "Cut off, with other bytes or another end: an error that names the file, or data of the right shape"
    path = npz(tmp_path_factory.getbasetemp()/'whole.npz', **arrays(shape=(4,), n_unlabeled=16))
    b, damaged = bytearray(path.read_bytes()), path.with_name('damaged.npz')
    for _ in range(random.randrange(1, 4)): b[random.randrange(len(b))] = random.randrange(256)
    damaged.write_bytes(b[:random.choice([len(b), random.randrange(len(b))])])
    try: assert npz_inputs(damaged, QUICK).x.shape[1:] == (4,)
    except ValueError as e: assert hasattr(e, 'argument')


def test_archives_with_a_password_or_too_large(tmp_path, monkeypatch):
    path = npz(tmp_path/'a.npz')
    b = path.read_bytes()
    for head, at in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):  # the flag of an encrypted member
        parts = b.split(head)
        b = head.join([parts[0], *(o[:at-4]+bytes([o[at-4] | 1])+o[at-3:] for o in parts[1:])])
    (tmp_path/'b.npz').write_bytes(b)
    with pytest.raises(ValueError, match="b.npz can't be read: .*password"): npz_inputs(tmp_path/'b.npz', QUICK)
    monkeypatch.setattr('noisy_student_fastai.app.array_inputs._memory', lambda: 1000)
    with pytest.raises(ValueError, match="arrays that fit into this machine's memory"): npz_inputs(path, QUICK)


def test_a_single_array_is_no_archive(tmp_path):
    with open(tmp_path/'a.npz', 'wb') as f: np.save(f, np.zeros(3))
    with pytest.raises(ValueError, match="a.npz can't be read"): npz_inputs(tmp_path/'a.npz', QUICK)


@pytest.mark.tsai
def test_models_of_tsai(tmp_path):
    path = npz(tmp_path/'a.npz', **arrays(shape=(2, 32)))
    learn = npz_inputs(path, Settings(steps=10, model='InceptionTime')).make_learner()
    assert type(learn.model).__name__ == 'InceptionTime'
    with pytest.raises(ValueError, match="model='resnet18': expected 'small', 'large' or"):
        npz_inputs(path, Settings(model='resnet18')).make_learner()


def folder_of(path, **arrays):
    path.mkdir()
    for k, v in arrays.items(): np.save(path/f'{k}.npy', v)
    return path


@pytest.mark.parametrize('shape,dtype', [((1, 8, 8), 'float32'), ((8, 8, 1), 'float32'), ((64,), 'float64'),
                                         ((2, 32), 'float32')])
def test_a_folder_of_arrays_is_as_one_file(tmp_path, monkeypatch, shape, dtype):
    "But for the unlabeled rows, which stay in their file, however large it is"
    a = {k: v.astype(dtype) if k[0] == 'X' else v for k, v in arrays(shape=shape).items()}
    want, path = npz_inputs(npz(tmp_path/'a.npz', **a), QUICK), folder_of(tmp_path/'a', **a)
    monkeypatch.setattr(array_inputs, 'parts', lambda x: (np.asarray(x[i:i+7]) for i in range(0, len(x), 7)))
    res = npz_inputs(path, QUICK)
    assert res.n == want.n and [*res.ids] == [*want.ids] and res.remarks == want.remarks
    assert np.array_equal(res.unlabeled, want.unlabeled) and np.array_equal(res.y, want.y)
    base = res.unlabeled
    while base.base is not None and not isinstance(base, np.memmap): base = base.base
    assert isinstance(base, np.memmap)
    for o, w in zip(res.scale, want.scale):
        if not hasattr(o, 'mean'): continue
        assert torch.allclose(o.mean, w.mean, atol=1e-5) and torch.allclose(o.std, w.std, atol=1e-5)
    learn = res.make_learner()
    p = learn.pseudolabel(res.unlabeled, leaks='keep').probs
    assert np.allclose(p, learn.pseudolabel(want.unlabeled, leaks='keep').probs, atol=1e-3)
    assert load_inputs(str(path), QUICK).n == want.n


def test_rows_in_a_file_that_are_elsewhere_too(tmp_path, monkeypatch):
    "They are left out, or named where the others don't fit into memory"
    a = arrays()
    a['X_unlabeled'] = np.concatenate([a['X'][:2], a['X_unlabeled']])
    path = folder_of(tmp_path/'a', **a)
    assert npz_inputs(path, QUICK).n['unlabeled'] == 60
    monkeypatch.setattr(array_inputs, '_memory', lambda: 20_000)
    said = "X_unlabeled='2 rows that are labeled or held out, too': expected a file without"
    with pytest.raises(ValueError, match=said): npz_inputs(path, QUICK)


@pytest.mark.parametrize('shape', [(64,), (2, 32), (1, 8, 8)])
def test_numbers_to_predict_of_arrays(tmp_path, shape):
    "The brightness of a picture; a fraction says that it is no class, and -1 is a number like another"
    a = arrays(n=20, shape=shape)
    for k in ('X', 'X_test'): a[k.replace('X', 'y')] = a[k].reshape(len(a[k]), -1).sum(1)-20
    a['y'][3], a['y'][4] = -1, np.nan
    inputs = load_inputs(str(npz(tmp_path/'a.npz', **a)), Settings(steps=40 if shape == (64,) else 10))
    assert inputs.remarks['rows of X taken as unlabeled because their y is nan'] == ['X 4']
    assert inputs.task == 'regression' and inputs.n['unlabeled'] == 61 and inputs.n['labeled']+inputs.n['valid'] == 59
    set_seed(0)
    learn = inputs.make_learner()
    with learn.no_bar(), learn.no_logging():
        if shape == (64,): learn.fit_one_cycle(2, inputs.lr)
        pl = learn.pseudolabel(inputs.unlabeled, leaks='keep')
        mae = learn.validate(dl=inputs.test_dl())[1]
    assert pl.kind == 'values' and inputs.y_range[0] < pl.read(slice(None)).min()
    if shape == (64,): assert mae < np.abs(a['y_test']-np.median(inputs.y)).mean()
    assert inputs.y.shape == (inputs.n['labeled'], 1)
    classes = npz_inputs(npz(tmp_path/'b.npz'), QUICK, task='regression')
    assert classes.task == 'regression' and classes.y_range == (-.5, 2.5)


def test_a_constant_column_is_zero_and_pictures_are_of_0_to_1():
    t = Standardize.of(np.full((3, 2), 7.))
    assert torch.equal(t((torch.full((1, 2), 7.),))[0], torch.zeros(1, 2))
    t = Standardize.to_unit(np.array([-1., 3]), np.array([1., 7]))
    assert t((torch.tensor([-1., 7, 3]), 'y')) == (pytest.approx([0, 1, .5]), 'y')


@pytest.mark.parametrize('model,x,c', [
    *((image_model(3, 7, o), (2, 3, *o), 7) for o in ((1, 1), (8, 8), (28, 28), (5, 40), (64, 64))),
    *((series_model(6, 4), (2, 6, n), 4) for n in (1, 12, 150)), (table_model(30, 2), (4, 30), 2)])
def test_models_for_rows_of_any_size(model, x, c): assert model(torch.randn(x)).shape == (x[0], c)


def test_data_of_the_package_are_those_of_label_scarce():
    digits, data = example_inputs('digits', QUICK, seed=3), label_scarce('digits', 4, 3, n_valid=None)
    assert np.array_equal(digits.y, data.labeled.y) and np.array_equal(digits.unlabeled, data.unlabeled.x)
    assert np.array_equal(torch.cat([b[1] for b in digits.test_dl()]), data.test.y)
