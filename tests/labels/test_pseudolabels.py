"PseudoLabels: opened, saved, made of any array; what is refused"
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from label_toys import N, unlabeled
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.files import Damaged
from noisy_student_fastai.labels import store
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
    with pytest.raises(ValueError, match='other data'): PseudoLabels.open(tmp_path, unlabeled(seed=8))
    with pytest.raises(ValueError, match='10 rows'): PseudoLabels.open(tmp_path, x[:10])


def test_save(tmp_path):
    rng = np.random.default_rng(0)
    pl = PseudoLabels(rng.dirichlet(np.ones(4), 50), vocab='abcd', ids=[f'{i}.png' for i in range(50)])
    back = pl.save(tmp_path/'labels')
    for k in ('probs', 'conf', 'label'): assert np.array_equal(back.arrays[k], pl.arrays[k])
    assert list(back.ids) == list(pl.ids) and back.vocab == pl.vocab


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
            with pytest.raises(ValueError, match='other data'): PseudoLabels.open(path, np.zeros((2, 2)))


@pytest.mark.parametrize('key', ['kind', 'vocab'])
def test_a_header_that_lacks_a_key(tmp_path, key):
    about = dict(kind='single', vocab=None)
    del about[key]
    with Store(tmp_path/'a', 1, about) as s:
        s.write(probs=np.float16([[1, 0]]), conf=np.float32([1]), label=np.uint8([0]))
        s.finish()
    with pytest.raises(Damaged, match='a holds a header or arrays that no labels have'):
        PseudoLabels.open(tmp_path/'a')


@pytest.mark.parametrize('probs, said', [
    ([[np.nan, .5], [.5, .5]], 'row 0 of the predictions is .nan'),
    ([[.5, .5], [-.5, 1.5]], 'row 1 of the predictions'),
    ([[.5, .5], [1, 1]], 'row 1 of the predictions is .1, 1., with sum 2'),
    ([[.9, .1], [.5, .5]], 'labels that its probabilities do not give'), ([[.4, .6]]*2, 'do not give')])
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
