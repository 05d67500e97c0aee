"PseudoLabels: opened, saved, made of any array; what is refused"
import json
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from label_toys import N, unlabeled
from noisy_student_fastai.all import PseudoLabels, Selection
from noisy_student_fastai.files import Damaged
from noisy_student_fastai.labels import pseudolabels, store
from noisy_student_fastai.labels.balance import apportion
from noisy_student_fastai.labels.store import Store
from toys import pts_learner


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert pts_learner().pseudolabel(unlabeled(), '~/labels').path == tmp_path/'labels'
    assert len(PseudoLabels.open('~/labels')) == N


def test_another_vocabulary_is_refused(tmp_path):
    x, learn = unlabeled(), pts_learner()
    learn.dls.vocab = ['a', 'b', 'c']
    pl = learn.pseudolabel(x, tmp_path)
    assert pl.vocab == ['a', 'b', 'c']
    learn.dls.vocab = ['a', 'c', 'b']
    with pytest.raises(ValueError, match=r"vocab\[1\]='b'"): learn.pseudolabel(x, tmp_path)
    with pytest.raises(ValueError, match='a column would mean two things'): pl.dl(learn.dls)
    learn.dls.vocab = ['a', 'b']
    with pytest.raises(ValueError, match='3 columns.*2 classes'): learn.pseudolabel(x)


def test_open_wants_the_data(tmp_path):
    x, learn = unlabeled(), pts_learner()
    learn.pseudolabel(x, tmp_path)
    with pytest.raises(ValueError, match='without their rows'): PseudoLabels.open(tmp_path).dl(learn.dls)
    with pytest.raises(ValueError, match='dls=None'): PseudoLabels.open(tmp_path, x).dl()
    with pytest.raises(ValueError, match='unlabeled is not the data that the labels in .* were made from'):
        PseudoLabels.open(tmp_path, unlabeled(seed=8))
    with pytest.raises(ValueError, match='10 rows'): PseudoLabels.open(tmp_path, x[:10])


def test_save(tmp_path):
    rng = np.random.default_rng(0)
    pl = PseudoLabels(rng.dirichlet(np.ones(4), 50), vocab='abcd', ids=[f'{i}.png' for i in range(50)])
    back = pl.save(tmp_path/'labels')
    for k in ('probs', 'conf', 'label'): assert np.array_equal(back.arrays[k], pl.arrays[k])
    assert list(back.ids) == list(pl.ids) and back.vocab == pl.vocab


@pytest.mark.parametrize('ids', [None, [f'{i}.png' for i in range(50)]])
@pytest.mark.parametrize('seed', [0, 1])
def test_saved_labels_are_not_taken_for_others(tmp_path, monkeypatch, ids, seed):
    "The same ones resume or change nothing; others raise, whether one number differs, or an array more is there"
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), 50)
    q = p.copy()
    q[rng.integers(50)] = .25
    one, other = (PseudoLabels(o, ids=ids) for o in (p, q))
    more, few = PseudoLabels(p, ids=[f'{i}.gif' for i in range(50)]), PseudoLabels(p[:40])
    first = PseudoLabels(np.vstack([p[23:24], p[1:]]), ids=ids)
    one.save(tmp_path/'whole')
    monkeypatch.setattr(PseudoLabels, '_chunks', lambda self: [slice(i, min(i+8, 50)) for i in range(0, 50, 8)])
    write, n_written = Store.write, []
    def cut(self, **arrays):
        if len(n_written) == 3: raise KeyboardInterrupt
        n_written.append(1)
        write(self, **arrays)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Store, 'write', cut)
        one.save(tmp_path/'part')
    for path in ('whole', 'part') if ids else ['whole']:
        with pytest.raises(ValueError, match='holds other labels|with other rows'): more.save(tmp_path/path)
    for o, path in ((other, 'whole'), (first, 'whole'), (first, 'part'), (few, 'whole')):
        with pytest.raises(ValueError, match=f"{path}' holds other labels"): o.save(tmp_path/path)
    for path in ('whole', 'part'):
        assert np.array_equal(one.save(tmp_path/path).probs, one.probs)
        assert np.array_equal(PseudoLabels.open(tmp_path/path).probs, one.probs)


@pytest.mark.parametrize('t', [.5, 3., 10.])
def test_a_temperature_changes_no_label(tmp_path, t):
    "Nor where two classes are alike in half precision, of which the teacher's own numbers said the larger one"
    x, learn = unlabeled(), pts_learner()
    last = learn.model[-1]
    last.weight.data[0], last.bias.data[:] = last.weight.data[1]*(1+1e-5), torch.tensor([0., 0, -9])
    pl = learn.pseudolabel(x)
    stored = np.asarray(pl.probs).argmax(1)
    assert (stored != pl.label).any()  # so it is not enough to look at what is stored
    assert np.array_equal(pl.temper(t).label, pl.label)


def test_whole_numbers_are_opened_again(tmp_path):
    "1 and 0 are probabilities"
    PseudoLabels([[1, 0], [0, 1]]).save(tmp_path/'a')
    assert PseudoLabels.open(tmp_path/'a').label.tolist() == [0, 1]


@pytest.mark.parametrize('kw', [dict(ids={'a', 'b', 'c'}), dict(ids=frozenset([1, 2, 3])),
                                dict(ids={'a': 1, 'b': 2, 'c': 3}), dict(vocab={'x', 'y'})])
def test_what_has_no_order_names_nothing(kw):
    with pytest.raises((TypeError, ValueError), match=f'{[*kw][0]}=.*expected'): PseudoLabels([[.5, .5]]*3, **kw)


def test_names_of_any_length(tmp_path, monkeypatch):
    "Selected, saved and opened as others are"
    monkeypatch.setattr(store, '_wide', 0)
    ids = [f'{i}é' for i in range(49)]+['x'*999+os.fsdecode(b'\xe9')]
    pl = PseudoLabels(np.random.default_rng(0).dirichlet(np.ones(4), 50), ids=ids)
    for o in (pl, pl.save(tmp_path/'a'), PseudoLabels.open(tmp_path/'a')):
        assert list(o.ids) == ids and list(o.ids_of([49, 3])) == [ids[49], ids[3]]
        assert isinstance(o.arrays['ids'], store.Texts)
        assert list(o.select(0).df().id) == [ids[i] for i in o.select(0).rows]


# Labels of strangers

WHO = dict(model='CNN', n_params=9, fingerprint='5ab1'*4)
any_json = st.recursive(st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=3),
                        lambda o: st.lists(o, max_size=3) | st.dictionaries(st.text(max_size=3), o, max_size=2),
                        max_leaves=4)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole')/'labels'
    about = dict(kind='single', vocab=['a', 'b'], data=dict(form='array', fingerprint='c0de'), teachers=[WHO],
                 settings=dict(dtype='float16', temperature=1.))
    with Store(path, 2, about) as s:
        s.write(probs=np.float16([[1, 0], [.25, .75]]), conf=np.float32([1, .75]), label=np.uint8([0, 1]))
        s.finish()
    return path, (path/'header.json').read_bytes()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(key=st.sampled_from(['kind', 'vocab', 'data', 'teachers', 'settings', 'model', 'n_params', 'fingerprint',
                            'form']), value=any_json)
@example('teachers', [dict(WHO, model='\x1b[2J')])
@example('teachers', 5)
@example('settings', {'amp': '\x1b[2J'})
@example('settings', {'\x1b[2J': 1})
@example('data', dict(form='array', more='\x1b[2J'))
def test_headers_of_strangers(whole, key, value):
    "What a header says is taken, and can be shown and used, or it is refused with the name of the folder"
    path, old = whole
    header = json.loads(old)
    del header['crc32']
    about = header['about']
    (about if key in about else about['data'] if key == 'form' else about['teachers'][0])[key] = value
    (path/'header.json').write_bytes(store._sealed(header).encode())
    try: pl = PseudoLabels.open(path)
    except ValueError as e: assert str(path) in str(e)
    else:
        assert 'PseudoLabels' in repr(pl) and '\x1b' not in repr(pl) and pl.note(1) and len(pl.select(0)) == 2
        if pl.about['data'] is not None:
            with pytest.raises(ValueError, match='is not the data that the labels in .* were made from'):
                PseudoLabels.open(path, np.zeros((2, 2)))


@pytest.mark.parametrize('key', ['kind', 'vocab'])
def test_a_header_that_lacks_a_key(tmp_path, key):
    about = dict(kind='single', vocab=None)
    del about[key]
    with Store(tmp_path/'a', 1, about) as s:
        s.write(probs=np.float16([[1, 0]]), conf=np.float32([1]), label=np.uint8([0]))
        s.finish()
    with pytest.raises(Damaged, match="a holds a header or arrays that aren't of labels"):
        PseudoLabels.open(tmp_path/'a')


@pytest.mark.parametrize('probs, said', [
    ([[np.nan, .5], [.5, .5]], 'row 0 of the predictions is .nan'),
    ([[.5, .5], [-.5, 1.5]], 'row 1 of the predictions'),
    ([[.5, .5], [1, 1]], 'row 1 of the predictions is .1, 1., with sum 2'),
    ([[.9, .1], [.5, .5]], 'labels that do not follow from its probabilities'),
    ([[.4, .6]]*2, 'do not follow from its prob')])
def test_probabilities_that_are_none(tmp_path, probs, said):
    "The checksums may be right"
    rows = dict(conf=np.float32([.5, .5]), label=np.uint8([0, 0]))
    with Store(tmp_path/'a', 2, dict(kind='single', vocab=None)) as s:
        s.write(probs=np.float16(probs), **rows)
        s.finish()
    with pytest.raises(ValueError, match=f'a holds .*{said}'): PseudoLabels.open(tmp_path/'a')
    PseudoLabels.open(tmp_path/'a', verify=False)


@pytest.mark.parametrize('kind, c', [('single', 2), ('single', 300), ('multi', 5), ('values', 3)])
@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_all_that_is_saved_is_opened(tmp_path, kind, c, dtype):
    "Half precision does not look like damage"
    rng = np.random.default_rng(c)
    p = dict(single=lambda: rng.dirichlet(np.full(c, .1), 200), multi=lambda: rng.random((200, c)),
             values=lambda: 100*rng.normal(size=(200, c)))[kind]()
    pl = PseudoLabels(p, kind=kind).save(tmp_path/'a')
    low = pl.arrays | {'values' if kind == 'values' else 'probs': p.astype(dtype)}
    with Store(tmp_path/'b', 200, dict(kind=kind, vocab=None)) as s:
        s.write(**low)
        s.finish()
    for o in 'ab': assert len(PseudoLabels.open(tmp_path/o)) == 200


def pipe(f): os.mkfifo(f)
def endless(f): f.symlink_to('/dev/zero')


@pytest.mark.parametrize('make', [pipe, endless, lambda f: f.mkdir()])
def test_ids_that_name_no_files(tmp_path, make):
    "Nobody reads a device to its end, or waits for the other end of a pipe"
    ids = [str(tmp_path/o) for o in 'ab']
    make(tmp_path/'a')
    (tmp_path/'b').touch()
    about = dict(kind='single', vocab=None, data=dict(form='files', fingerprint='c0de'))
    with Store(tmp_path/'labels', 2, about) as s:
        s.put('ids', ids)
        s.write(probs=np.float16([[.5, .5]]*2), conf=np.float32([.5, .5]), label=np.uint8([0, 0]))
        s.finish()
    pl = PseudoLabels.open(tmp_path/'labels')
    with pytest.raises(ValueError, match='/a is a folder, a pipe or a device'): pl.source()


probs = arrays(st.sampled_from([np.float16, np.float32, np.float64]),
               array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
               elements=st.sampled_from([0, .25, .5, 1, -1, 2, float('nan'), float('inf')]))


@settings(max_examples=150, deadline=None)
@given(probs, st.sampled_from(['single', 'multi', 'values']))
def test_any_array_is_taken_or_refused_with_words(p, kind):
    def fine():
        if p.ndim < 2 or p.ndim > 2 and kind != 'values' or 0 in p.shape or not np.isfinite(p).all(): return False
        ok = kind == 'values' or ((p >= 0) & (p <= 1)).all()
        return ok and (kind != 'single' or (p.sum(1) == 1).all())
    if fine(): assert len(PseudoLabels(p, kind=kind)) == len(p)
    else:
        with pytest.raises(ValueError, match='expected'): PseudoLabels(p, kind=kind)


def drawn(n=400, c=10, seed=0): return np.random.default_rng(seed).dirichlet(np.full(c, .3), n)


@pytest.mark.parametrize('kw,said', [
    (dict(vocab='abc'), '10 columns, but the vocabulary has 3 classes'),
    (dict(vocab='aabcdefghi'), 'a unique name for each class'),
    (dict(ids=[1, 2]), '400 ints'), (dict(ids=[0]*400), 'ids: 0 occurs more than once'), (dict(ids=[1.5]*400), 'ints'),
    (dict(ids=[f'{i}' for i in range(399)]+[3]), 'strings'), (dict(kind='soft'), "kind='soft'"),
    (dict(unlabeled=np.zeros((5, 2))), 'unlabeled has 5 rows')])
def test_what_does_not_fit_the_predictions(kw, said):
    with pytest.raises(ValueError, match=said): PseudoLabels(drawn(), **kw)


@pytest.mark.parametrize('bad', [[], [[]], [1.], [['a']], np.zeros((2, 0))])
def test_what_are_no_predictions(bad):
    with pytest.raises(ValueError, match='probs of shape'): PseudoLabels(bad)


def test_names_and_types():
    for typ in (np.float16, np.float64, torch.tensor): assert PseudoLabels(typ([[1., 0.]])).label.tolist() == [0]
    assert list(PseudoLabels([[1., 0.]]*2, ids=np.array([7, 5])).ids_of([1])) == [5]
    assert list(PseudoLabels([[1., 0.]]*2, ids=['x', 'y']).ids) == ['x', 'y']
    pl = PseudoLabels(drawn())
    assert (len(pl), pl.c, pl.vocab, pl.kind, pl.label.dtype) == (400, 10, None, 'single', np.uint8)
    assert (list(pl.ids)[:3], list(pl.ids_of([5, 6]))) == ([0, 1, 2], [5, 6])


@pytest.mark.parametrize('kind', ['single', 'multi'])
def test_columns_of_a_table_name_the_classes(kind):
    p, names = drawn(c=3), ['dog', 'cat', 'bird']
    df = pd.DataFrame(p, columns=names)
    assert PseudoLabels(df, kind=kind).vocab == PseudoLabels(df, vocab=iter(names), kind=kind).vocab == names
    assert PseudoLabels(pd.DataFrame(p, columns=[2, 0, 1]), kind=kind).vocab == [2, 0, 1]
    for numbered in (range(3), ['0', '1', '2']):
        df = pd.DataFrame(p, columns=numbered)
        assert PseudoLabels(df, kind=kind).vocab is None and PseudoLabels(df, vocab='abc', kind=kind).vocab == [*'abc']


def test_columns_in_another_order_than_the_vocabulary_are_refused():
    df = pd.DataFrame(drawn(c=3), columns=['dog', 'cat', 'bird'])
    said = r"vocab=\['bird', 'cat', 'dog'\], and the columns of probs are \['dog', 'cat', 'bird'\]: expected the same"
    with pytest.raises(ValueError, match=said): PseudoLabels(df, vocab=sorted(df.columns))
    dls = DataLoaders.from_dsets([(torch.zeros(2), 0)]*6, [(torch.zeros(2), 0)]*6, bs=2)
    dls.vocab = sorted(df.columns)
    with pytest.raises(ValueError, match='dog'): PseudoLabels(df, np.zeros((400, 2), np.float32)).select(0).dl(dls)
    with pytest.raises(ValueError, match='a unique name for each class'): PseudoLabels(df.set_axis([*'aab'], axis=1))


def test_columns_of_values_are_no_classes():
    df = pd.DataFrame(drawn(c=2), columns=['bmi', 'bp'])
    assert PseudoLabels(df, kind='values').vocab is None


def test_a_series_names_the_classes():
    pl, k = PseudoLabels(drawn(), vocab='0123456789'), pd.Series(range(1, 11), index=[*'9876543210'])
    assert np.array_equal(pl.select(n_per_class=k).counts, np.arange(10, 0, -1))
    assert np.array_equal(pl.select(n_per_class=k.reset_index(drop=True)).counts, np.arange(1, 11))  # by place
    assert np.array_equal(pl.select(0, n=99, prior=k).rows, pl.select(0, n=99, prior=k.to_dict()).rows)
    with pytest.raises(ValueError, match=r"\['x'\] is not among them"): pl.select(min_conf=pd.Series({'x': .5}))


def test_wide_rows_are_read_in_chunks():
    n = pseudolabels._n_per_chunk
    wide = np.broadcast_to(np.float32(2/n), (5, n//2))  # nothing of it is in memory
    assert [(o.start, o.stop) for o in PseudoLabels.of({}, dict(probs=wide))._chunks()] == [(0, 2), (2, 4), (4, 5)]


def test_thresholds_and_counts_by_name():
    pl = PseudoLabels(drawn(), vocab='0123456789')
    by_name = pl.select(min_conf={'3': .9})
    least = np.where(pl.label == 3, .9, .3).astype(np.float32)  # .3 for the classes that are not named
    assert (by_name.conf >= least[by_name.rows]).all()
    passed = np.bincount(pl.label[pl.conf >= least], minlength=10)
    assert np.array_equal(by_name.counts, np.minimum(apportion(passed.sum(), pl.mean_probs()*(passed > 0)), 3*passed))
    assert np.array_equal(pl.select(n_per_class={str(i): i+1 for i in range(10)}).counts, np.arange(10)+1)
    assert np.array_equal(pl.select(n=200).counts, apportion(200, pl.mean_probs()))
    assert np.array_equal(pl.select(SimpleNamespace(min_conf=.5)).rows, pl.select(.5).rows)
    with pytest.raises(ValueError, match=r"\['x'\] is not among them"): pl.select(min_conf={'x': .5})
    with pytest.raises(ValueError, match=r"\['1'\] has none"): pl.select(n_per_class={'0': 5})
    with pytest.raises(ValueError, match='expected'): pl.select(n=9, n_per_class=3)


def test_weights_of_a_selection():
    pl, w = PseudoLabels(drawn()), np.random.default_rng(1).random(400)
    sel = pl.select(.5, weights=w)
    assert np.array_equal(sel.w, w.astype(np.float32)[sel.rows])
    assert np.array_equal(pl.select(weights='conf').w, pl.select().conf)
    assert np.allclose(pl.select(weights=lambda o: o**2).w, pl.select().conf**2)
    for bad in ('sure', [1, 2], -w):
        with pytest.raises(ValueError, match='weights='): pl.select(weights=bad)


def test_classes_that_no_row_is_sure_of_are_counted():
    pl = PseudoLabels(drawn(60))
    pl.arrays['conf'] = np.where(pl.label < 3, .6, pl.conf).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        pl.select(.7, 5)
    n_empty = (np.bincount(pl.label[pl.conf >= .7], minlength=10) == 0).sum()
    assert n_empty >= 3 and f'{n_empty} of 10 classes have no row' in str(caught[0].message)


def test_several_labels_and_values():
    multi = PseudoLabels([[.9, .8], [.4, .9], [.1, .7]], kind='multi')
    values = PseudoLabels([[5., -1.]]*4, kind='values')
    assert np.allclose(multi.conf, [.8, .6, .7]) and multi.select(.65).rows.tolist() == [0, 2]
    assert (values.select().rows.tolist(), multi.select().rows.tolist()) == ([0, 1, 2, 3], [0, 1, 2])
    assert (multi.select(n=1).rows.tolist(), len(multi.select(n=99))) == ([0], 9)
    assert np.allclose(multi.temper(2.).read(0), (torch.tensor([.9, .8]).logit()/2).sigmoid(), atol=1e-5)
    for o in (lambda: values.select(.3), lambda: values.select(weights='conf'), lambda: multi.select(n_per_class=3),
              lambda: multi.select(2), lambda: values.select(n=2), lambda: values.temper(2), multi.align, values.align):
        with pytest.raises(ValueError, match='expected'): o()
    with pytest.raises(TypeError, match='min_conf='): multi.select([.5, .6])


@pytest.mark.parametrize('seed', range(3))
def test_alignment_and_temperature(seed):
    "Against double precision"
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(5, .3), 400), rng.dirichlet(np.ones(5))
    want = p*q/p.mean(0)
    want /= want.sum(1, keepdims=True)
    pl = PseudoLabels(p, vocab='abcde')
    al, cool = pl.align(q), pl.temper(.5)
    assert np.allclose(al.read(slice(None)), want, atol=1e-5) and np.allclose(al.conf, want.max(1), atol=1e-5)
    assert np.array_equal(al.label, want.argmax(1))
    assert np.allclose(pl.align(dict(zip('abcde', q))).conf, al.conf)
    assert np.shares_memory(al.probs, PseudoLabels(al.probs).align().probs)
    assert np.allclose(Selection(al, np.array([5, 3])).df().confidence, want[[5, 3]].max(1), atol=1e-5)
    assert np.allclose(cool.read(slice(None)), p**2/(p**2).sum(1, keepdims=True), atol=1e-5)
    assert np.allclose(pl.temper(2.).temper(.25).conf, cool.conf, atol=1e-5)
    again = PseudoLabels(cool.read(slice(None))).align()
    assert np.allclose(cool.align().read([5]), again.read([5]), atol=1e-5)
    assert pl.select(n=100, prior='uniform').counts.tolist() == [20]*5
    for o in (lambda: al.temper(2), lambda: pl.temper(0)):
        with pytest.raises(ValueError, match='expected'): o()
    for bad in ('even', [1, 2], [1, 0, 1, 1, 1], [1, np.nan, 1, 1, 1], {'a': 1}):
        with pytest.raises(ValueError, match='prior='): pl.align(bad)


def test_rows_in_other_sets_have_no_share():
    pl = PseudoLabels([[1., 0], [1, 0], [0, 1]])  # only a row that is in another set has the second class
    pl.arrays['leak'] = np.uint8([0, 0, 1])
    assert pl.select(prior='uniform').rows.tolist() == [0, 1]
    pl.arrays['leak'][:] = 2
    with pytest.raises(ValueError, match='all 3 rows are in other sets'): pl.select()


def test_corrected_labels_are_not_saved(tmp_path):
    pl = PseudoLabels(drawn())
    for o in (pl.align(), pl.temper(2)):
        with pytest.raises(ValueError, match='temperature or a prior correction'): o.save(tmp_path/'labels')


def test_in_words():
    pl = PseudoLabels(drawn().astype(np.float16))
    said = f"PseudoLabels: 400 rows x 10 classes, mean confidence {pl.conf.mean():.2f}, float16 in memory"
    assert repr(pl) == said
    values = PseudoLabels(np.arange(16).reshape(2, 2, 4), kind='values')
    assert repr(values) == "PseudoLabels: 2 rows x 2 x 4 values, int64 in memory"
    assert values.note(0) == '0, 1, 2, 3, 4, 5, ...'
    multi = PseudoLabels([[.9, .8], [.1, .2]], kind='multi')
    assert (multi.note(0), multi.note(1)) == ('0 p=0.90; 1 p=0.80', 'none p=0.80')
