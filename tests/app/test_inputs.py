"Data as users have them: settings, parts, and exports that predict the same elsewhere"
import json
import re
from decimal import Decimal
from math import ceil
from shutil import copyfile, copytree, rmtree

import fastai.callback.schedule  # noqa: F401  (gives Learner `fit_one_cycle`)
import noisy_student_fastai.labels.labeling  # noqa: F401  (and `pseudolabel`)
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import load_learner
from fastai.torch_core import no_random
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.app.array_inputs import npz_inputs
from noisy_student_fastai.app.csv_inputs import CSVInputs
from noisy_student_fastai.app.folder_inputs import FolderInputs
from noisy_student_fastai.app.inputs import (
    Inputs,
    Settings,
    drop_unknown,
    names,
    number_words,
    split_labeled,
    strata,
    take,
)
from noisy_student_fastai.files import code_inside
from noisy_student_fastai.student import NoisyStudent
from own_data import QUICK, arrays, csv, folder, npz, table
from torch.utils.data import DataLoader, TensorDataset


@pytest.mark.parametrize('bs,ratio', [(64, 1/7), (50, 2), (2, 1), (33, 1/20), (15, 1/14)])
def test_a_batch_holds_both_kinds_as_the_callback_divides_it(bs, ratio):
    s, dl2 = Settings(bs=bs, ratio=ratio), DataLoader(TensorDataset(torch.zeros(9, 1), torch.zeros(9)))
    assert (s.n_labeled, s.n_pseudo) == NoisyStudent(dl2, bs=bs, l2pl_ratio=ratio).sizes(None)


@pytest.mark.parametrize('wrong', [
    dict(bs=1), dict(bs='64'), dict(ratio=0), dict(steps=9), dict(lr=-1.), dict(noise=4), dict(size=7),
    dict(size=2000)])
def test_settings_out_of_range(wrong):
    (k, v), = wrong.items()
    with pytest.raises((ValueError, TypeError)) as e: Settings(**wrong)
    assert (e.value.argument, e.value.value) == (k, v)


@pytest.mark.parametrize('share', [.1, .2, .5])
def test_a_part_for_validation(share):
    "Of each class its share, a row at least, and never all of it"
    y = np.random.default_rng(0).permutation(np.repeat(list('abcde'), [1, 2, 3, 10, 50]))
    parts = [split_labeled(y, share, seed) for seed in range(5)]
    for train, valid in parts:
        assert sorted([*train, *valid]) == list(range(66))
        for c, n in zip('abcde', [1, 2, 3, 10, 50]): assert (y[valid] == c).sum() == min(max(ceil(share*n), 1), n-1)
    assert len({tuple(valid) for _, valid in parts}) == 5


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from('abc'), st.integers(0, 8)), min_size=1, max_size=40), st.integers(0, 9))
def test_equal_rows_are_on_one_side(rows, seed):
    "Of each class: no content both trains and chooses, the share is reached unless that takes all, and no row is lost"
    y, same = [c for c, _ in rows], [f'{c}{k}' for c, k in rows]
    train, valid = split_labeled(y, .2, seed, same)
    assert sorted([*train, *valid]) == list(range(len(rows)))
    assert not {same[i] for i in train} & {same[i] for i in valid}
    for c in set(y):
        of_class = [k for o, k in zip(y, same) if o == c]
        n, most = sum(y[i] == c for i in valid), max(of_class.count(k) for k in of_class)
        assert n < len(of_class) and (n > 0) == (len(set(of_class)) > 1)
        assert n < ceil(.2*len(of_class))+most
    for one, two in zip(split_labeled(y, .2, seed, range(len(y))), split_labeled(y, .2, seed)):
        assert one.tolist() == two.tolist()


def twice(kind, d):
    "Data of which each labeled row is there twice, under two names"
    if kind == 'npz':
        a = arrays(n=10)
        return npz_inputs(npz(d/'a.npz', **a | {k: np.concatenate([a[k], a[k]]) for k in 'Xy'}), QUICK)
    if kind == 'csv':
        df = table(60)[0]
        return CSVInputs(csv(d/'w.csv', pd.concat([df[:60], df])), QUICK)
    path = folder(d/'pics', n=10)
    for p in [*path.glob('train/*/*')]: copyfile(p, p.with_name(f'copy of {p.name}'))
    return FolderInputs(path, QUICK)


def content_of(inputs, rows):
    "Labeled rows of whatever kind as bytes; `rows`: 'train' or 'valid'"
    if isinstance(inputs, FolderInputs): return [o.read_bytes() for o in getattr(inputs, rows)]
    if isinstance(inputs, CSVInputs): return [repr(o) for o in inputs.df.iloc[getattr(inputs, rows)].values.tolist()]
    return [o.tobytes() for o in (inputs.x if rows == 'train' else inputs.x_valid)]


@pytest.mark.parametrize('kind', ['npz', 'folder', 'csv'])
def test_labeled_rows_that_are_there_twice(tmp_path, kind):
    "They don't choose what they have trained, and are all used"
    inputs = twice(kind, tmp_path)
    train, valid = (content_of(inputs, o) for o in ('train', 'valid'))
    assert not set(train) & set(valid) and len(train)+len(valid) == 60+60*(kind == 'csv')
    assert len(valid) == inputs.n['valid'] >= 12 and not [k for k in inputs.remarks if 'validation' in k]


def test_a_validation_set_with_labeled_rows(tmp_path):
    "They are left out of it, counted and named; and one of no others is refused"
    a = arrays()
    xv, yv = (np.concatenate([a[k][:4], a[f'{k}_test'][:9]]) for k in 'Xy')
    res = npz_inputs(npz(tmp_path/'a.npz', X_valid=xv, y_valid=yv, X_test=None, y_test=None), QUICK)
    assert res.n['valid'] == len(res.x_valid) == len(res.y_valid) == 9 and np.array_equal(res.x_valid, xv[4:])
    assert res.remarks == {'validation rows left out because they are labeled, too': [f'row {i}' for i in range(4)]}
    path = folder(tmp_path/'pics')
    copytree(path/'train', path/'valid')
    with pytest.raises(ValueError, match="valid='15 rows': all are labeled rows, too"): FolderInputs(path, QUICK)
    copytree(path/'test', path/'valid', dirs_exist_ok=True)
    res = FolderInputs(path, QUICK)
    assert res.n == dict(labeled=15, unlabeled=60, valid=30, test=0)
    assert {len(v) for v in res.remarks.values()} == {15, 30}


def lone(kind, path, has_test):
    "Three classes, of which one has a single labeled row, and none in the test set, if there is one"
    if kind == 'npz':
        a = arrays()
        keep, test = np.r_[:11], a['y_test'] != 2
        parts = dict(X_test=a['X_test'][test], y_test=a['y_test'][test]) if has_test else dict(X_test=None, y_test=None)
        return npz_inputs(npz(path/'a.npz', X=a['X'][keep], y=a['y'][keep], **parts), QUICK)
    if kind == 'folder':
        folder(path/'pics')
        for o in sorted((path/'pics/train/digit 2').iterdir())[1:]: o.unlink()
        rmtree(path/'pics/test'/('digit 2' if has_test else ''))
        return FolderInputs(path/'pics', QUICK)
    df, truth = table(40)
    for i in df.index[df.kind == 'wine 2'][1:]: df.loc[i, 'kind'] = ''
    test = df[40:].assign(kind=truth[40:])[lambda o: o.kind != 'wine 2']
    return CSVInputs(csv(path/'a.csv', df), QUICK, test=csv(path/'test.csv', test) if has_test else None)


@pytest.mark.parametrize('kind,name', [('npz', '2'), ('folder', 'digit 2'), ('csv', 'wine 2')])
def test_classes_without_a_row_that_judges_them_are_named(tmp_path, kind, name):
    (tmp_path/'b').mkdir()
    assert lone(kind, tmp_path, False).unmeasured == [
        f"{name!r} has no validation row: what the student makes of it is not measured"]
    inputs = lone(kind, tmp_path/'b', True)
    assert inputs.unmeasured == [f"{name!r} has no test row: what the student makes of it is not measured",
                                 f"{name!r} has no validation row: it can't help to choose the round"]
    assert np.bincount(inputs.classes_of('test')).sum() == inputs.n['test']


@pytest.mark.parametrize('vocab,there,said', [
    ('ab', [0, 1], None), ('abc', [0], "'b' and 'c' have no validation row: what the student makes of them is"),
    ('abcde', [0], "'b', 'c', 'd' and 'e' have no"), ('abcdefg', [6], "'a', 'b', 'c', 'd' and 2 more have no validati"),
    (None, [0], None)])
def test_many_classes_without_a_row(vocab, there, said):
    res = numbers(vocab=vocab)
    res.y_valid = np.array(there)
    assert [o[:len(said or '')] for o in res.unmeasured] == ([said] if said else [])


@pytest.mark.parametrize('xs', [np.arange(10), [f'f{i}' for i in range(10)],
                                pd.DataFrame(dict(a=range(10)), index=range(5, 15))],
                         ids=['array', 'files', 'table'])
def test_rows_of_unknown_classes(xs):
    "They are left out of whatever it is, and named as it names them"
    y, remarks = list('abcabcabca'), {}
    kept, classes = drop_unknown(xs, y, {'a', 'c'}, 'test', remarks)
    want = [i for i, o in enumerate(y) if o != 'b']
    assert classes == [y[i] for i in want] and list(names(kept, range(7))) == (
        [f'row {i}' for i in range(7)] if isinstance(xs, np.ndarray) else names(xs, want))
    assert np.array_equal(np.asarray(kept), np.asarray(take(xs, want)))
    assert remarks == {'test rows left out because the training set lacks their class (b)': names(xs, [1, 4, 7])}


@pytest.mark.parametrize('n,steps', [(5, None), (40, 10), (1000, None), (1000, 20)])
def test_an_epoch_has_each_row_and_as_many_batches_as_asked_for(n, steps):
    data = Inputs('x', 'ab', [0, 1]*(n//2)+[0]*(n % 2), [1], 1, 0, settings=Settings(steps=steps))
    times = np.bincount(data.rows, minlength=n)
    assert times.min() >= 1 and times.max()-times.min() <= 1
    assert data.steps == len(data.rows)//8 >= (steps or 400)


@pytest.mark.parametrize('make', [
    lambda d: FolderInputs(folder(d/'pics'), QUICK), lambda d: npz_inputs(npz(d/'a.npz'), QUICK),
    lambda d: CSVInputs(csv(d/'w.csv'), QUICK)], ids=['folder', 'npz', 'csv'])
def test_the_same_seed_the_same_learner(tmp_path, make):
    "Whatever was trained before: loaders and weights are new for each round"
    inputs = make(tmp_path)
    def first(seed):
        with no_random(seed, reproducible=False):
            learn = inputs.make_learner()
            weights = [o.detach().flatten() for o in learn.model.parameters()]
            return learn.dls.one_batch()[-1].tolist(), torch.cat(weights)
    a, b, other = first(0), first(0), first(1)
    assert a[0] == b[0] and torch.equal(a[1], b[1]) and a[0] != other[0]


LOAD = '''
import json, sys, numpy as np, pandas as pd
from pathlib import Path
from fastai.learner import load_learner
class Hidden:
    def find_spec(self, name, *args):
        if name.startswith('noisy_student_fastai'): raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
res = {}
for name in sys.argv[1:]:
    learn = load_learner(name)
    rows = Path(name).with_suffix('.rows')
    if rows.is_dir(): x = sorted(rows.rglob('*.png'))
    elif rows.with_suffix('.npy').exists(): x = np.load(rows.with_suffix('.npy'))
    else: x = pd.read_csv(rows.with_suffix('.csv'))
    with learn.no_bar(): res[name] = learn.get_preds(dl=learn.dls.test_dl(x, num_workers=0))[0].tolist()
print(json.dumps(res))
'''


def test_exports_in_a_fresh_process(tmp_path, python):
    "Pictures, series, pictures in arrays and tables: raw rows, the same probabilities, without the package"
    pixels = {k: (v*255).astype(np.uint8) if k[0] == 'X' else v for k, v in arrays().items()}
    made = dict(folder=FolderInputs(folder(tmp_path/'folder.rows'), QUICK), csv=CSVInputs(csv(tmp_path/'w.csv'), QUICK),
                series=npz_inputs(npz(tmp_path/'a.npz', **arrays(shape=(2, 32))), QUICK),
                bytes=npz_inputs(npz(tmp_path/'b.npz', **pixels), QUICK))
    np.save(tmp_path/'series.npy', made['series'].unlabeled)
    np.save(tmp_path/'bytes.npy', made['bytes'].unlabeled)
    made['csv'].unlabeled.to_csv(tmp_path/'csv.csv', index=False)
    ours = {}
    for k, o in made.items():
        learn, path = o.make_learner(), str(tmp_path/f'{k}.pkl')
        x = sorted((tmp_path/'folder.rows').rglob('*.png')) if k == 'folder' else o.unlabeled
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1, 1e-3)
            ours[path] = np.array(learn.pseudolabel(x, dtype='float32', leaks='keep').probs)
        with code_inside(): learn.export(path)
        if k in ('series', 'bytes'):  # no row is in it
            rows = [v for dl in load_learner(path).dls.loaders for v in (dl.dataset.x, dl.dataset.y)]
            assert [v.untyped_storage().nbytes() for v in rows] == [0]*4
    theirs = json.loads(python('-c', LOAD, *ours, cwd=tmp_path).splitlines()[-1])
    for k, p in ours.items(): assert np.allclose(p, theirs[k], atol=1e-5), k


def test_numbers_are_drawn_from_five_parts():
    assert strata(['5', '1', '1', '30', '2', '9', '7', '8', '6', '10'], 'regression') == [0, 0, 0, 1, 0, 1, 1, 1, 0, 1]
    y = np.random.default_rng(0).permutation(100)
    assert np.array_equal(strata(y, 'regression'), y//20)


class Numbers(Inputs):
    def input_noise(self, mult): return [mult]


def numbers(y=[0, 1]*20, vocab='ab', **kw):
    return Numbers('numbers', vocab, y, np.zeros(90), 5, 0, settings=Settings(**kw))


def test_noise_grows_with_its_option():
    assert numbers().noise() == dict(tfms=[1.], dropout=.5, all_dropout=True, stoch_depth=None)
    big = numbers(student='xresnet18', noise=2.)
    assert big.noise(0) == dict(tfms=[2.], dropout=.9, all_dropout=True, stoch_depth=None)
    assert big.noise(1) == dict(tfms=[2.], dropout=.9, all_dropout=False, stoch_depth=.6)
    assert numbers(noise=0).noise() is None


@pytest.mark.parametrize('kw,select', [
    ({}, dict(max_repeat=3)), (dict(balance=True, repeats=1), dict(max_repeat=1, n_per_class=45)),
    (dict(prior=dict(a=.1, b=.9)), dict(max_repeat=3, prior=dict(a=.1, b=.9)))])
def test_how_many_rows_of_each_class(kw, select):
    assert numbers(**kw).train_args()['select'] == select
    assert numbers(**kw).train_args(.9)['select'] == select | dict(min_conf=.9)


@pytest.mark.parametrize('prior', [dict(a=1.), dict(a=.1, b=.1, c=.8)])
def test_shares_are_of_the_classes_that_there_are(prior):
    with pytest.raises(ValueError, match='expected a share of each class'): numbers(prior=prior).train_args()


def test_what_is_compared():
    rare = numbers([0, 1, 1, 1]*9, ['yes', 'no'])
    assert (rare.pos, rare.metric, rare.metric_words) == (0, 'average_precision', "average precision of 'yes'")
    assert numbers([0, 1, 1, 1]*9, metric='f1').train_args()['monitor'] == 'f1'
    assert numbers().metric == 'accuracy' and numbers([0, 1, 1, 1, 2]*9, 'abc').metric == 'balanced_accuracy'
    values = numbers([10., 30., 20.]*9, None)
    args = values.train_args()
    assert (args['select'], args['dl'], args['monitor'], args['lower_is_better']) == ({}, {}, 'mae', True)
    assert (values.n_out, values.y_range, [o.name for o in values.metrics]) == (1, (5., 35.), ['mae', 'r2_score'])
    assert numbers([3., 3.], None).y_range == (2.25, 3.75) and numbers().y_range is None
    with pytest.raises(ValueError, match='for numbers, one of mae'): numbers([3., 4.], None, metric='f1').metric


def test_data_that_cannot_be_trained_on():
    with pytest.raises(ValueError, match="classes=.'a'.: expected two or more"): Inputs('', 'a', [0], [1], 1, 0)
    with pytest.raises(ValueError, match='no row is left for validation'): Inputs('', 'ab', [0, 1], [1], 0, 0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(1, 10, exclude_max=True), st.integers(-9, 14), st.sampled_from([-1, 1]), st.booleans())
def test_numbers_are_read_as_they_are_written(v, power, sign, has_sign):
    "Right to four digits, large ones to the last before the point, in groups of three; as Python's Decimal reads them"
    v *= sign*10.**power
    said = number_words(v, has_sign)
    whole = 1000 <= round(abs(v), 1) < 1e12
    exact, read = Decimal(v), Decimal(said.replace(',', ''))
    digit = Decimal(1) if whole else Decimal(10)**(exact.adjusted()-3)
    assert abs(read-exact) <= digit/2
    assert (',' in said) == (abs(read) >= 1000 and 'e' not in said) and not (whole and '.' in said)
    if ',' in said: assert re.fullmatch(r'[+-]?\d{1,3}(,\d{3})+', said)
    assert ('e' in said) == (not 1e-4 <= float(f'{abs(v):.4g}') < 1e12)
    assert said.startswith('+') == (has_sign and sign > 0)


@pytest.mark.parametrize('v,said', [
    (12345.6, '12,346'), (999.96, '1,000'), (999.94, '999.9'), (0, '0'), (1e12, '1e+12'), (None, '-'), (np.nan, '-'),
    (np.float32(1234.5), '1,234'), (np.int64(-1234), '-1,234')])
def test_numbers_at_the_edges(v, said): assert number_words(v) == said


def test_what_is_predicted_is_readable():
    houses = Inputs('houses', None, [250_000., 1_250_000.], np.zeros(9), 5, 0)
    assert houses.target_words == 'with a number to predict, 250,000 to 1,250,000'
