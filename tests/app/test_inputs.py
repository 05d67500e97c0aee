"Data as users have them: what is left out is counted, what can't be used is said in words, exports predict the same elsewhere"
import json
import os
import subprocess
import sys
from shutil import rmtree

import fastai.callback.schedule  # noqa: F401  (gives Learner `fit_one_cycle`)
import noisy_student_fastai.labels.labeling  # noqa: F401  (and `pseudolabel`)
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import load_learner
from fastai.torch_core import no_random
from noisy_student_fastai.app.array_inputs import Standardize, npz_inputs
from noisy_student_fastai.app.csv_inputs import CSVInputs
from noisy_student_fastai.app.folder_inputs import FolderInputs
from noisy_student_fastai.app.inputs import Settings
from own_data import arrays, csv, draw, folder, npz, rows_of, table

QUICK = Settings(steps=10)


def counts(inputs): return {k: len(v) for k, v in inputs.remarks.items()}


def names(inputs): return {o.rsplit('/', 1)[-1] for v in inputs.remarks.values() for o in map(str, v)}


def test_a_folder_with_all_that_can_be_wrong(tmp_path):
    d = folder(tmp_path/'pics')
    whole = FolderInputs(d, QUICK)
    assert whole.n == dict(labeled=12, unlabeled=60, valid=3, test=30) and not whole.remarks
    cut = draw(d/'unlabeled/deep/er', rows_of(4, 0, 1)[0], 100)
    cut.write_bytes(cut.read_bytes()[:100])
    (d/'unlabeled/text.png').write_text('no picture')
    (d/'train/digit 0/notes.txt').write_text('x')
    (d/'train/.hidden').write_text('x')
    (d/'train/stray.png').write_text('x')
    (d/'train/nothing').mkdir()
    new = draw(d/'test/digit 9', rows_of(9, 0, 1)[0])
    draw(d/'train/single', rows_of(5, 0, 1)[0], 30)
    for part in ('train', 'test'): draw(d/'unlabeled/again', int(next((d/part/'digit 0').glob('*.png')).stem))
    res = FolderInputs(d, QUICK)
    assert names(res) == {'notes.txt', 'stray.png', 'nothing', cut.name, 'text.png', new.name} | {
        p.name for p in (d/'unlabeled/again').iterdir()}
    assert sum(counts(res).values()) == 8
    assert res.n == dict(labeled=13, unlabeled=60, valid=3, test=30)
    assert res.vocab == ['digit 0', 'digit 1', 'digit 2', 'single'] and 'single' not in {p.parent.name for p in res.valid}
    assert sorted(res.ids) == sorted(whole.ids)


def test_pictures_of_mixed_sizes_and_modes(tmp_path):
    d = folder(tmp_path/'pics', size=40)
    draw(d/'train/digit 0', rows_of(0, 50, 1)[0], 7)
    from PIL import Image
    Image.new('RGBA', (30, 90)).save(d/'unlabeled/tall.png')
    Image.new('P', (90, 30)).convert('RGB').save(d/'unlabeled/wide.jpg')
    res = FolderInputs(d, QUICK)
    assert res.size == 40 and not res.remarks
    assert res.dls().one_batch()[0].shape == (64, 3, 40, 40)
    assert res.make_learner().pseudolabel(res.unlabeled).n == 62


@pytest.mark.parametrize('spoil,error,said', [
    (lambda d: rmtree(d/'unlabeled'), FileNotFoundError, r'unlabeled=.*there is no such folder: a folder with pictures'),
    (lambda d: rmtree(d/'train'), FileNotFoundError, 'train=.*there is no such folder'),
    (lambda d: [p.unlink() for p in (d/'unlabeled').iterdir()], ValueError, 'unlabeled=.*no picture that can be read'),
    (lambda d: [p.write_text('x') for c in '12' for p in (d/'train'/f'digit {c}').iterdir()], ValueError, "classes=.'digit 0'.: two or more"),
    (lambda d: [p.unlink() for c in '012' for p in [*(d/'train'/f'digit {c}').iterdir()][1:]], ValueError, 'valid=0: no row is left')])
def test_folders_that_cannot_be_used(tmp_path, spoil, error, said):
    d = folder(tmp_path/'pics')
    spoil(d)
    with pytest.raises(error, match=said): FolderInputs(d, QUICK)


def test_parts_of_arrays(tmp_path):
    "Each row lands where it belongs, labels that are missing make rows unlabeled, classes that are unknown are left out"
    a = arrays()
    y, y_test = a['y'].astype(float), a['y_test'].copy()
    y[[0, 7]], y_test[:4] = np.nan, 8
    res = npz_inputs(npz(tmp_path/'a.npz', y=y, y_test=y_test), QUICK)
    assert res.n == dict(labeled=10, unlabeled=62, valid=3, test=26)
    assert counts(res) == {'test rows left out, as the training set lacks their class (8)': 4}
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
    res = npz_inputs(npz(tmp_path/'a.npz', X_valid=a['X_test'][:6], y_valid=a['y_test'][:6].astype(str), X_test=a['X_test'][6:],
                         y_test=a['y_test'][6:], X_unlabeled=unlabeled), QUICK)
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
    assert res.remarks == {'rows of X taken as unlabeled, as their y is -1': ['X 0', 'X 7']}
    two = npz_inputs(npz(tmp_path/'b.npz', y=np.where(a['y'] > 0, 1, -1), y_test=np.where(a['y_test'] > 0, 1, -1)), QUICK)
    assert two.vocab == ['-1', '1'] and two.n['unlabeled'] == 60 and two.n['test'] == 30 and not two.remarks


@pytest.mark.parametrize('shape', [(64,), (2, 32), (1, 8, 8)])
def test_test_rows_that_were_learned(tmp_path, shape):
    "Rows of the test set that are labeled or in the validation set are left out of it, and counted"
    a = arrays(shape=shape)
    xv, yv, xt, yt = a['X_test'][:6], a['y_test'][:6], a['X_test'][6:], a['y_test'][6:]
    res = npz_inputs(npz(tmp_path/'a.npz', **a | dict(X_valid=xv, y_valid=yv, X_test=np.concatenate([a['X'][:2], xt, xv[:3]]),
                                                      y_test=np.concatenate([a['y'][:2], yt, yv[:3]]))), QUICK)
    assert res.remarks == {'test rows left out, as they are labeled, too': ['row 0', 'row 1'],
                           'test rows left out, as they are in the validation set, too': ['row 26', 'row 27', 'row 28']}
    assert res.n == dict(labeled=15, unlabeled=60, valid=6, test=24)
    assert np.array_equal(res.x_test, xt) and [res.vocab[i] for i in res.y_test] == [str(o) for o in yt]
    assert len(res.test_dl().dataset) == 24


def test_test_pictures_that_were_learned(tmp_path):
    d = folder(tmp_path/'pics')
    for i in rows_of(0, 0, 5): draw(d/'test/digit 0', i)
    res = FolderInputs(d, QUICK)
    assert res.n == dict(labeled=12, unlabeled=60, valid=3, test=30) and len(res.test_dl().dataset) == 30
    assert names(res) == {f'{i}.png' for i in rows_of(0, 0, 5)} and sorted(counts(res).values()) == [1, 4]


@pytest.mark.parametrize('shape,kind,x_shape', [((64,), 'tables', (64,)), ((2, 32), 'time series', (2, 32)), ((1, 8, 8), 'pictures', (1, 8, 8)),
                                               ((8, 8, 1), 'pictures', (1, 8, 8))])
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
    assert counts(res) == {f'{k} rows with missing values, for which the mean stands in': 1 for k in ('labeled', 'unlabeled')}
    xb = res.dls().train.one_batch()[0]
    assert xb.isfinite().all() and (xb[:, 10:20] == 0).all(1).any()


def test_scales_are_those_of_labeled_and_unlabeled_rows(tmp_path):
    a = arrays(shape=(2, 32))
    a['X'] = 100+7*a['X']
    a['X_unlabeled'] = 100+7*a['X_unlabeled']
    res = npz_inputs(npz(tmp_path/'a.npz', **a), QUICK)
    both = np.concatenate([res.x, res.unlabeled]).transpose(1, 0, 2).reshape(2, -1).astype(float)
    scale, = (o for o in res.dls().train.after_batch.fs if isinstance(o, Standardize))
    assert np.allclose(scale.mean.flatten(), both.mean(1)) and np.allclose(scale.std.flatten(), both.std(1), rtol=1e-4)


@pytest.mark.parametrize('changes,said', [
    (dict(X=None), "X is missing"), (dict(y=None), "y is missing"), (dict(X_unlabeled=None), "X_unlabeled='?0 rows"),
    (dict(y_test=None), "y_test is missing"), (dict(X_test=None), "X_test is missing"),
    (dict(y=np.zeros(15)), "classes=.'0'.: two or more"), (dict(y=np.arange(14)), "y='14 classes': as many as there are rows are accepted: 15"),
    (dict(y=np.linspace(0, 1, 15)), "numbers with a fraction"), (dict(X=np.zeros((15, 1, 8))), "X_unlabeled='rows of shape"),
    (dict(X=np.full((15, 1, 8, 8), np.inf)), "X='960 values of them infinite'"), (dict(X=np.zeros((15,))), r"X='an array of shape \(15,\)'"),
    (dict(X=np.array([['a']*64]*15)), "X='an array of <U1': numbers are accepted"),
    (dict(X=np.array([None]*15)), "can't be read: arrays of numbers"),
    (dict(X_unlabeled=arrays()['X']), "all of them are labeled or held out")])
def test_arrays_that_cannot_be_used(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said): npz_inputs(npz(tmp_path/'a.npz', **changes), QUICK)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path/'a.npz').write_bytes(b'PK\x03\x04 cut off')
    with pytest.raises(ValueError, match="a.npz can't be read: arrays of numbers"): npz_inputs(tmp_path/'a.npz', QUICK)


def test_columns(tmp_path):
    df, truth = table()
    df.insert(1, 'name', [f'wine number {i}' for i in range(len(df))])
    df.insert(1, 'year', 2026)
    df['hue'] = df.hue.astype(object)
    df.loc[3, 'hue'] = 'unknown'
    df.loc[5, 'alcohol'] = np.inf
    res = CSVInputs(csv(tmp_path/'w.csv', df), QUICK)
    assert counts(res) == {'columns left out, as they have a single value': 1, 'columns left out, as their texts hardly ever repeat': 1}
    assert res.cats == ['color'] and len(res.conts) == 13 and res.n['unlabeled'] == len(df)-30
    assert res.ids == list(range(30, len(df)))
    conts = res.to.conts
    assert conts.notna().all().all()
    filled = df.ash.fillna(df.ash.median())
    assert np.allclose(conts.ash, (filled-filled.mean())/filled.std(ddof=0), atol=1e-4)
    assert [res.vocab[i] for i in res.y] == truth[res.train].tolist()


def test_test_rows_of_another_table(tmp_path):
    "Columns by name, as the table has them; what has no class, one that is unknown, or is a labeled row is left out and counted"
    df, truth = table()
    main, more = df[:130], df[130:].assign(kind=truth[130:], note='x').reset_index(drop=True)
    more = more.astype(dict(hue=object))
    more.loc[2, 'hue'], more.loc[3, 'color'] = 'unknown', 'green'
    more.loc[[5, 6], 'kind'] = '', 'port'
    learned = df[:2].assign(kind=truth[:2])
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', pd.concat([more, learned])[[*more.columns[::-1]]]))
    odd = {k: res.remarks.pop(k) for k in [*res.remarks] if k.startswith('test cells')}
    assert odd == {'test cells for which the median stands in, as they are no numbers': ["hue in row 2: 'unknown'"],
                   'test cells taken as missing, as no other row has their category': ["color in row 3: 'green'"]}
    assert res.remarks == {'test rows left out, as they have no class': ['row 5'],
                           'test rows left out, as the training set lacks their class (port)': ['row 6']} | {
        k: v for k, v in res.remarks.items() if 'labeled' in k or 'validation' in k}
    assert sorted(o for k, v in res.remarks.items() if k.startswith('test rows left out, as they are') for o in v) == ['row 48', 'row 49']
    assert res.n == dict(labeled=23, unlabeled=100, valid=7, test=46)
    rest = [i for i in range(48) if i not in (5, 6)]
    dl = res.test_dl()
    cats, conts, y = (torch.cat(o) for o in zip(*dl))
    assert [res.vocab[i] for i in y.flatten()] == truth[130:].iloc[rest].tolist()
    mean, sd = (getattr(main.alcohol, k)(**kw) for k, kw in (('mean', {}), ('std', dict(ddof=0))))
    assert np.allclose(conts[:, res.conts.index('alcohol')], (more.alcohol[rest]-mean)/sd, atol=1e-4)  # on the scale of the table, without the test rows
    hue = res.conts.index('hue')
    assert conts[rest.index(2), hue].item() == pytest.approx((main.hue.median()-main.hue.mean())/main.hue.std(ddof=0), abs=1e-4)
    classes = res.to.classes['color']
    assert [classes[i] for i in cats[:, 0]] == ['#na#' if i == 3 else more.color[i] for i in rest]


@pytest.mark.parametrize('seed', [0, 1])
def test_a_share_of_a_table_for_the_test(tmp_path, seed):
    df, truth = table(60)
    path = csv(tmp_path/'w.csv', df)
    res, other = CSVInputs(path, QUICK, seed, test=.3), CSVInputs(path, QUICK, seed+1, test=.3)
    per_class = truth[:60].value_counts()
    assert res.test.kind.value_counts().to_dict() == {k: int(np.ceil(.3*v)) for k, v in per_class.items()}
    assert res.test.kind.tolist() == truth[res.test.index].tolist() and res.test.index.max() < 60
    assert res.ids == list(range(60, len(df))) and res.n['labeled']+res.n['valid']+res.n['test'] == 60
    labeled = res.df.index[np.concatenate([res.train, res.valid])]
    assert sorted([*labeled, *res.test.index]) == list(range(60)) and len(res.to) == len(df)-res.n['test']
    assert res.test.index.tolist() != other.test.index.tolist()
    assert np.allclose(res.test.alcohol, df.alcohol[res.test.index])


def wines_for_a_test():
    "A table without its last 48 rows, and those with their classes"
    df, truth = table()
    return df[:130], df[130:].assign(kind=truth[130:]).reset_index(drop=True)


@pytest.mark.parametrize('change,said', [
    (lambda df: df.assign(alcohol=[f'{v:.2f}'.replace('.', ',') for v in df.alcohol]), r"column 'alcohol', as .* and 48 of its cells are none: \['\d\d,"),
    (lambda df: df.assign(alcohol=df.alcohol.where(df.index > 5, 12.5).where(df.index > 4, 'x')), "column 'alcohol', .* and 5 of its cells are none: .'x'"),
    (lambda df: df.assign(kind=''), 'no row of a known class is left'), (lambda df: df[:0], 'no row of a known class is left'),
    (lambda df: df.assign(kind='port'), 'no row of a known class is left'), (lambda df: df.drop(columns='hue'), r"this one lacks \['hue'\]")])
def test_test_files_that_cannot_be_used(tmp_path, change, said):
    "Nothing turns into medians, and no test set into none, without a word"
    main, more = wines_for_a_test()
    with pytest.raises(ValueError, match=f'test=.*t.csv.: .*{said}'):
        CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', change(more)))


@pytest.mark.parametrize('n', [0, 1])
def test_gaps_in_a_test_file_are_no_texts(tmp_path, n):
    "A column may be all gaps, or have the one number that is left"
    main, more = wines_for_a_test()
    more.loc[n:, 'alcohol'] = np.nan
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', more))
    assert res.n['test'] == 48 and not [k for k in res.remarks if k.startswith('test')]


def test_a_test_file_is_named_where_it_lacks_the_class(tmp_path):
    main, more = wines_for_a_test()
    with pytest.raises(ValueError, match="target='kind': one of the columns of .*t.csv is accepted"):
        CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', more.drop(columns='kind')))


def test_the_table_itself_is_no_test_file(tmp_path):
    path = csv(tmp_path/'w.csv')
    with pytest.raises(ValueError, match="test='.*w.csv': no row of a known class is left"): CSVInputs(path, QUICK, test=path)


def test_a_test_file_needs_only_what_is_learned_from(tmp_path):
    "Neither ids nor a constant; and categories are texts, also where a gap makes pandas read numbers with a fraction"
    main, more = wines_for_a_test()
    grade = ['1', '2', 'low']
    main = main.assign(id=[f'wine number {i}' for i in range(130)], year=2026, grade=[grade[i % 3] for i in range(130)])[[
        'id', 'year', 'grade', *main]]
    more = more.assign(grade=['1', '2', '']*16)[['grade', *more]]
    assert pd.read_csv(csv(tmp_path/'t.csv', more)).grade[0] == 1.
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=tmp_path/'t.csv')
    assert not [k for k in res.remarks if k.startswith('test')] and res.n['test'] == 48
    cats = torch.cat([o[0] for o in res.test_dl()])[:, res.cats.index('grade')]
    assert [res.to.classes['grade'][i] for i in cats] == ['1', '2', '#na#']*16
    learn, raw = res.make_learner(), pd.read_csv(tmp_path/'t.csv', dtype=object).drop(columns='kind')
    dl = learn.dls.test_dl(raw)  # as `new_rows` reads it
    for ours, theirs in zip(res.test_dl(), dl): assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize('make,said', [
    (lambda df: df.assign(kind=['a']*len(df)), "kind=.'a'.: two classes or more"),
    (lambda df: df.assign(kind=''), "kind=..: two classes or more"),
    (lambda df: df.assign(kind=['a', 'b']*(len(df)//2)), "unlabeled='0 rows'"),
    (lambda df: df.assign(kind=df.alcohol), "classes that repeat are accepted, and not amounts"),
    (lambda df: df[['kind']], "a column for the class, and others, are accepted"),
    (lambda df: df[['kind']].assign(a=1)[['a', 'kind']], "none of them has values to learn from")])
def test_tables_that_cannot_be_used(tmp_path, make, said):
    with pytest.raises(ValueError, match=said): CSVInputs(csv(tmp_path/'w.csv', make(table()[0])), QUICK)


@pytest.mark.parametrize('content', [b'', b'\xff\xfe\x00bad', b'a,b\n"open'])
def test_files_that_are_no_tables(tmp_path, content):
    (tmp_path/'w.csv').write_bytes(content)
    with pytest.raises(ValueError, match='w.csv|kind|classes'): CSVInputs(tmp_path/'w.csv', QUICK)


@pytest.mark.parametrize('make', [lambda d: FolderInputs(folder(d/'pics'), QUICK), lambda d: npz_inputs(npz(d/'a.npz'), QUICK),
                                  lambda d: CSVInputs(csv(d/'w.csv'), QUICK)], ids=['folder', 'npz', 'csv'])
def test_the_same_seed_the_same_learner(tmp_path, make):
    "Whatever was trained before: loaders and weights are new for each round"
    inputs = make(tmp_path)
    def first(seed):
        with no_random(seed, reproducible=False):
            learn = inputs.make_learner()
            return learn.dls.one_batch()[-1].tolist(), torch.cat([o.detach().flatten() for o in learn.model.parameters()])
    a, b, other = first(0), first(0), first(1)
    assert a[0] == b[0] and torch.equal(a[1], b[1]) and a[0] != other[0]


LOAD = '''
import json, sys, numpy as np, pandas as pd
from pathlib import Path
from fastai.learner import load_learner
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


def test_exports_in_a_fresh_process(tmp_path, root):
    "Pictures, series, pictures in arrays and tables: other code, raw rows, the same probabilities"
    made = dict(folder=FolderInputs(folder(tmp_path/'folder.rows'), QUICK), csv=CSVInputs(csv(tmp_path/'w.csv'), QUICK),
                series=npz_inputs(npz(tmp_path/'a.npz', **arrays(shape=(2, 32))), QUICK),
                bytes=npz_inputs(npz(tmp_path/'b.npz', **{k: (v*255).astype(np.uint8) if k[0] == 'X' else v for k, v in arrays().items()}), QUICK))
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
        learn.export(path)
        if k in ('series', 'bytes'):  # no row is in it
            rows = [v for dl in load_learner(path).dls.loaders for v in (dl.dataset.x, dl.dataset.y)]
            assert [v.untyped_storage().nbytes() for v in rows] == [0]*4
    code = [sys.executable, '-W', 'ignore', '-c', LOAD, *ours]
    out = subprocess.run(code, cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(root)}, text=True, capture_output=True)
    assert out.returncode == 0, out.stderr
    theirs = json.loads(out.stdout.splitlines()[-1])
    for k, p in ours.items(): assert np.allclose(p, theirs[k], atol=1e-5), k


@pytest.mark.tsai
def test_models_of_tsai(tmp_path):
    path = npz(tmp_path/'a.npz', **arrays(shape=(2, 32)))
    learn = npz_inputs(path, Settings(steps=10, model='InceptionTime')).make_learner()
    assert type(learn.model).__name__ == 'InceptionTime'
    with pytest.raises(ValueError, match="model='resnet18': 'small', 'large' or"): npz_inputs(path, Settings(model='resnet18')).make_learner()
