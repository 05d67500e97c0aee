"Fingerprints: the same for the same data, weights and settings, in any process, whatever Python compiles; else others"
import ast
import json
import os
import threading
from collections import UserDict, defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from types import FunctionType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import SchedCos, SchedLin, combine_scheds
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import Categorize, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat
from fastai.tabular.all import Categorify, TabularDataLoaders, TabularLearner
from fastai.text.data import Numericalize
from fastai.torch_core import set_seed
from fastai.vision.augment import Rotate, aug_transforms
from fastai.vision.core import TensorImage
from fasttransform.transform import Pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai import fingerprints
from noisy_student_fastai.data.datasets import data_checksum
from noisy_student_fastai.files import Changed, differences
from noisy_student_fastai.fingerprints import (
    _tfm_content,
    about_rows,
    as_array,
    as_vocab,
    changes_in_words,
    check_same,
    class_names,
    content_bytes,
    content_hash,
    dataset_content,
    describe,
    digest,
    file_hash,
    files_content,
    function_name,
    in_words,
    is_logger,
    n_params,
    portrait,
    row_bytes,
    row_digests,
    rows_digest,
    same_vocab,
    sha256_of,
    table_hashes,
    teacher_fingerprint,
    weights_digest,
)
from noisy_student_fastai.noise.images import RandAugment
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset
from toys import net, pts_learner

# Identity without code

def test_nothing_reads_code(root):
    "Python compiles one line to other bytes in each version"
    found = set()
    for p in (root/'noisy_student_fastai').rglob('*.py'):
        for o in ast.walk(ast.parse(p.read_text())):
            name = getattr(o, 'attr', None) or (o.value if isinstance(o, ast.Constant) else None)
            if isinstance(name, str) and (name == '__code__' or name.startswith('co_')): found.add(p.name)
    assert found <= {'compat.py'}, found  # which asks what a method of others names


SPELLED = ['f = lambda o: o.softmax(1)', 'f = (\n  lambda o:  # softly\n    (o).softmax( 1 )\n)',
           'f = lambda o : o . softmax(True+0)',
           'def f(o): return o.softmax(1)\nf.__name__ = f.__qualname__ = "<lambda>"']


def spelled(src):
    here = {'__name__': 'mine'}
    exec(compile(src, f'<{len(src)}>', 'exec'), here)
    return here['f']


def recompiled(f, **kw):
    "`f` as another Python might have compiled it"
    code = f.__code__.replace(co_code=b'\x97\x00'+f.__code__.co_code, co_consts=(None, 'more', *f.__code__.co_consts),
                              co_names=('x', *f.__code__.co_names), co_firstlineno=99, co_filename='elsewhere.py', **kw)
    res = FunctionType(code, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
    res.__qualname__, res.__module__, res.__kwdefaults__ = f.__qualname__, f.__module__, f.__kwdefaults__
    return res


def around(k, z=None): return lambda o, *, t=2.: k*o+t


@pytest.mark.parametrize('say', [describe, function_name])
def test_a_function_is_its_name_and_the_numbers_that_it_holds(say):
    assert {json.dumps(say(spelled(o))) for o in SPELLED} == {json.dumps('<lambda>')}
    for f in (around(2), around(np.arange(3)), spelled(SPELLED[0]), around(around(1))):
        assert say(recompiled(f)) == say(f)
    different = [1, 2, 2., 'a', None, True, np.arange(3), np.arange(4), torch.ones(2), torch.zeros(2), around(1),
                 around(2), net]
    assert len({json.dumps(say(around(o))) for o in different}) == len(different)
    for o in different: assert say(around(o)) == say(around(o))
    assert say(torch.nn.functional.softmax) == 'softmax' and say(net) == 'net'


def test_variables_around_a_function_in_any_order():
    def a(k, z): return lambda o: (k, z)
    def b(z, k): return lambda o: (z, k)
    assert describe(a(1, 2)) == describe(b(2, 1)) != describe(a(2, 1))


def test_a_variable_that_is_not_set_yet():
    def make():
        f = lambda o: later*o
        said = describe(f), function_name(f)
        later = 3
        return said, (describe(f), function_name(f))
    before, after = make()
    assert before == ('<lambda>',)*2 and after[0] != before[0] and after[1] != before[1]


def test_a_function_that_calls_itself():
    def make(k):
        def f(o): return f(o-k) if o else 0
        return f
    for say in (describe, function_name): assert say(make(1)) == say(make(1)) != say(make(2))


class Scaled:
    def __init__(self, by): self.by, self.calls = by, 0
    def __call__(self, o): self.calls += 1


def test_use_of_an_object_that_is_called():
    f = Scaled(2)
    was = function_name(f)
    f(1)
    assert function_name(f) == was == function_name(Scaled(2)) != function_name(Scaled(3))
    for make in (torch.nn.Softmax, lambda i: partial(torch.softmax, dim=i)):
        assert function_name(make(1)) == function_name(make(1)) != function_name(make(0))


# Descriptions

def holding(v): return lambda x: x+v


def defaulting(v): return lambda x, y=v: x+y


class Owner:
    def __init__(self, v): self.v = v
    def f(self): return self.v


class Thing:
    def __init__(self, a, b=2): self.a, self.b = a, b


@pytest.mark.parametrize('a, b, c', [
    (dict(x=1), dict(x=1.), dict(x=2)), ([1, 'a'], (1, 'a'), [1, 'b']), (np.arange(3.), np.arange(3.), np.arange(4.)),
    (Thing(1), Thing(1), Thing(1, 3)), (RandAugment(m=5), RandAugment(m=5), RandAugment(m=6)), (SchedLin(0, 1),
    SchedLin(0, 1), SchedLin(0, 2)),
    (partial(max, 1), partial(max, 1), partial(max, 2)), (MixUp(.4), MixUp(.4), 3),
    (CrossEntropyLossFlat(), CrossEntropyLossFlat(), CrossEntropyLossFlat(label_smoothing=.2)),
    (CrossEntropyLossFlat(), CrossEntropyLossFlat(), CrossEntropyLossFlat(weight=torch.ones(2))),
    (*(CrossEntropyLossFlat(weight=torch.tensor([1., w])) for w in (2, 2, 3)),),
    (*(torch.nn.NLLLoss(torch.tensor([1., w])) for w in (2, 2, 3)),),
    (FocalLossFlat(gamma=2), FocalLossFlat(gamma=2), FocalLossFlat(gamma=3)), (Rotate(.1), Rotate(.1), Rotate(.4)),
    (aug_transforms(), aug_transforms(), aug_transforms(max_rotate=20)), (aug_transforms(), aug_transforms(),
    aug_transforms(max_lighting=.5)),
    (MixUp(.1), MixUp(.1), MixUp(.9)),
    (*(combine_scheds([.3, .7], [SchedCos(0, a), SchedCos(a, 0)]) for a in (1, 1, 2)),),
    (holding(1), holding(1), holding(2)), (holding(torch.ones(1)), holding(torch.ones(1)), holding(torch.zeros(1))),
    (defaulting(1), defaulting(1), defaulting(2)),
    (Owner(1).f, Owner(1).f, Owner(2).f), ({'a', 'b'}, {'b', 'a'}, {'a'}),
    (list(range(500)), list(range(500)), list(range(1, 501))), (np.float32(.5), .5, .25), (Path('a'), 'a', 'b'),
    (slice(1, 2), slice(1, 2), slice(1, 3)),
    (pd.DataFrame(dict(a=[1])), pd.DataFrame(dict(a=[1])), pd.DataFrame(dict(a=[2])))])
def test_descriptions_tell_what_differs(a, b, c):
    a, b, c = (json.loads(json.dumps(describe(o), allow_nan=False)) for o in (a, b, c))
    assert a == b != c


def test_use_does_not_change_a_description():
    tfms, x = aug_transforms(), TensorImage(torch.rand(4, 3, 8, 8))
    before = describe(tfms)
    for _ in range(3): Pipeline(tfms, split_idx=0)(x)
    assert describe(tfms) == before


CODE = """
from functools import partial
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import SchedCos, combine_scheds
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat
from fastai.vision.augment import aug_transforms
from noisy_student_fastai.fingerprints import describe
from noisy_student_fastai.noise.callback import StudentNoise
said = describe([aug_transforms(), FocalLossFlat(gamma=3), StudentNoise(dropout=.3), partial(max, key=len),
lambda o: o.a, MixUp(.3), {'a', 'b', 'c'},
                 CrossEntropyLossFlat(label_smoothing=.2), combine_scheds([.3, .7], [SchedCos(0, 1), SchedCos(1, 0)])])
"""


def test_descriptions_are_the_same_in_another_process(python):
    out = python('-c', CODE+'print(said)')
    here = {}
    exec(CODE, here)
    assert out.strip() == str(here['said']) and '0x' not in out and '0.3' in out

def test_attributes_that_no_init_assigns_do_not_count():
    a, b = Thing(1), Thing(1)
    b.seen = 5
    assert describe(a) == describe(b)


class Renamed:
    def __init__(self, m, g): self.magnitude, (self.kept, self._g) = m, (1, g)


class Counts:
    def __init__(self, m): self.m, self.n, self.parts = m, 0, list()


def test_use_of_what_a_parameter_has_not_made_does_not_count():
    a, b = Counts(1), Counts(1)
    b.n, b.parts = 3, [1]
    assert describe(a) == describe(b) != describe(Counts(2))


class Derived(Renamed):
    def __init__(self, m): super().__init__(m, 3)


def test_settings_count_under_whichever_name_they_are_kept():
    "As tsai's RandAugment keeps M as `magnitude`"
    assert describe(Renamed(1, 2)) == describe(Renamed(1, 2))
    assert len({str(describe(o)) for o in (Renamed(1, 2), Renamed(3, 2), Renamed(1, 4), Derived(5), Derived(6))}) == 5


@pytest.mark.tsai
def test_settings_of_tsai():
    from tsai.data.transforms import RandAugment, TSMagScale
    assert describe(RandAugment([TSMagScale], M=3)) == describe(RandAugment([TSMagScale], M=3))
    assert describe(RandAugment([TSMagScale], M=3)) != describe(RandAugment([TSMagScale], M=9))


def holding_by_decorator(v):
    def deco(f):
        @wraps(f)
        def g(x): return f(x)*v
        return g
    return deco


def test_decorated_functions():
    "What a decorator holds counts"
    a, b, c = (holding_by_decorator(v)(len) for v in (2, 2, 3))
    assert describe(a) == describe(b) != describe(c)


@pytest.mark.parametrize('make', [
    lambda a: MixUp(a), lambda a: CutMix(a), lambda a: Pipeline([Rotate(int(10*a))]), lambda a: {a},
    lambda a: np.array(a), lambda a: CrossEntropyLossFlat(label_smoothing=a), lambda a: torch.nn.Dropout(a),
    lambda a: [dict(x=(a,))],
    lambda a: partial(max, key=Scaled(a))])
def test_parts_are_looked_into(make): assert describe(make(.1)) == describe(make(.1)) != describe(make(.3))


def test_data_are_known_by_their_rows():
    x = np.arange(20.).reshape(10, 2)
    df, y = pd.DataFrame(x, columns=list('ab')), x.copy()
    y[7, 1] += 1e-9
    def tensors(x): return TensorDataset(torch.tensor(x))
    for make in (np.array, torch.tensor, pd.DataFrame, lambda x: DataLoader(list(x)),
                 lambda x: TorchDataLoader(tensors(x))):
        assert describe(make(x)) == describe(make(x.copy())) != describe(make(y))
    assert describe(DataLoader(x)) == about_rows(x) and describe(df) == about_rows(df)


# Rows

def test_checksums_are_those_of_hashlib():
    x = np.random.default_rng(0).random((500, 3)).astype('<f4')
    whole = f'array 500 {x.dtype} {x.shape}'.encode()+x.tobytes()
    assert about_rows(x)['fingerprint'] == sha256(whole).hexdigest()
    assert sha256_of(whole[i:i+7] for i in range(0, len(whole), 7)) == sha256(whole).hexdigest()
    assert digest([1, 'a']) == sha256(b'[1, "a"]').hexdigest()[:16]
    y = np.arange(500)
    parts = [f'{o.shape}'.encode()+o.tobytes() for o in (x, y.astype('<i8'))]
    assert data_checksum(x, y) == sha256_of(parts)


def test_row_digests_tell_rows_apart():
    x = np.random.default_rng(0).integers(0, 2, (300, 5)).astype(np.float32)
    ds = row_digests([x, x[:, :1].astype(int)])
    for i in range(0, 300, 37):
        for j in range(300): assert (ds[i] == ds[j]) == (x[i] == x[j]).all()
    assert row_digests([torch.tensor(x), torch.tensor(x[:, :1].astype(int))]) == ds


def test_a_long_array_is_read_in_pieces():
    x = np.random.default_rng(0).random((2**18+3, 16))  # 32 MB
    whole = f'array {len(x)} {x.dtype} {x.shape}'.encode()+x.tobytes()
    assert about_rows(x)['fingerprint'] == sha256(whole).hexdigest()


class Counted(list):
    looks = 0
    def __getitem__(self, i):
        Counted.looks += 1
        return super().__getitem__(i)


def test_looks_at_a_data_set():
    ds = Counted(torch.arange(10_000.))
    first = b''.join(dataset_content(ds))
    ends = [row_bytes(torch.tensor(o)) for o in (0., 9999.)]
    assert Counted.looks == 64 and first.startswith(ends[0]) and first.endswith(ends[1])
    Counted.looks = 0
    assert rows_digest(DataLoader(ds)).startswith('10000 rows ') and Counted.looks == 600


class Random(list):
    def __getitem__(self, i): return torch.rand(3)


def test_rows_that_differ_with_each_look():
    assert rows_digest(DataLoader(Random(range(7)))) == '7 rows'
    assert len(rows_digest(DataLoader([*range(7)]))) == len('7 rows ')+16


# What a change reaches

def labeled(y, how):
    "1,000 rows whose labels are kept in some way"
    y = [int(o) for o in y]
    x = torch.arange(3000.).reshape(1000, 3)
    if how == 'fastai': return Datasets(list(range(1000)), [[lambda i: x[i]], [lambda i: y[i], Categorize([0, 1])]])
    if how == 'tensors': return TensorDataset(x, torch.tensor(y))
    if how == 'list': return [*zip(x, y)]
    if how == 'table': return pd.DataFrame(dict(x=x[:, 0], y=y))
    ds = Counted(x)
    ds.targets = torch.tensor(y) if how == 'torchvision' else y
    return ds


@pytest.mark.parametrize('how', ['fastai', 'tensors', 'list', 'table', 'torchvision', 'torchvision_list'])
def test_each_label_counts(how):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1000)
    was, dl = about_rows(labeled(y, how), 300), rows_digest(DataLoader(labeled(y, how)))
    assert was == about_rows(labeled(y, how), 300)
    for i in rng.integers(0, 1000, 4):
        other = y.copy()
        other[i] = 1-y[i]
        assert about_rows(labeled(other, how), 300) != was, i
        assert rows_digest(DataLoader(labeled(other, how))) != dl, i


def test_labels_as_large_as_pictures_are_not_all_read():
    read = []
    def mask(i):
        read.append(i)
        return torch.zeros(64, 64)
    masks = Datasets(list(range(1000)), [[lambda i: torch.ones(2)], [mask]])
    about_rows(masks)
    assert 64 < len(read) < 80


def test_each_row_of_a_list_counts():
    ds = [torch.full((2,), float(i)) for i in range(1000)]
    for i in (1, 444, 998): assert about_rows(ds) != about_rows([*ds[:i], ds[i]+.5, *ds[i+1:]])


def test_a_file_counts_by_its_content(tmp_path, monkeypatch):
    "... whatever its name and time; a large one by its size, beginning and end"
    monkeypatch.setattr(fingerprints, '_whole', 100)
    one, two, rng = tmp_path/'a', tmp_path/'b', np.random.default_rng(0)
    for n in (0, 1, 99, 100, 101, 300):
        whole = rng.bytes(n)
        for o in (one, two): o.write_bytes(whole)
        os.utime(two, (1, 1))
        assert file_hash(one) == file_hash(two)
        for i in range(n):
            two.write_bytes(whole[:i]+bytes([whole[i]^1])+whole[i+1:])
            assert (file_hash(one) == file_hash(two)) == (n > 100 and 50 <= i < n-50), (n, i)
        two.write_bytes(whole+b'1')
        assert file_hash(one) != file_hash(two)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.binary(min_size=1, max_size=8).filter(lambda o: not set(o) & {0, 47} and o not in (b'.', b'..')),
                min_size=1, max_size=4, unique=True), st.data())
def test_any_name_of_a_file_counts(tmp_path_factory, names, draw):
    "Bytes that are not UTF-8, line breaks: two lists are the same only if their names and bytes are"
    root = Path(os.fsdecode(tmp_path_factory.mktemp('names')))
    files = [root/os.fsdecode(o) for o in names]
    for o in files: o.write_bytes(b'1')
    was, i = sha256_of(files_content(files)), draw.draw(st.integers(0, len(names)-1))
    new = files[i].with_name(files[i].name+'\n1')
    os.rename(files[i], new)
    assert sha256_of(files_content([*files[:i], new, *files[i+1:]])) != was
    idx = pd.Index([str(o) for o in files], dtype=object)  # texts of pyarrow are UTF-8
    df = pd.Series([o.name for o in files], idx, object, 'name').to_frame()
    assert about_rows(df) == about_rows(df.copy()) and (len(df) == 1 or about_rows(df) != about_rows(df[::-1]))


@pytest.mark.parametrize('make', [np.array, pd.Series, pd.Index, lambda o: np.array(o, object),
                                  lambda o: pd.Categorical(o), lambda o: pd.DataFrame(dict(a=o))])
def test_the_middle_of_what_is_long_counts(make):
    "Its text leaves it out"
    a = [f'{i}' for i in range(3000)]
    b = [*a[:1500], 'other', *a[1501:]]
    for f in (describe, lambda o: [*content_bytes(o)], lambda o: row_bytes(o)):
        assert f(make(a)) == f(make(a)) != f(make(b)), f
    def tfm(o):
        t = Scaled(1)
        t.table = make(o)
        return [*_tfm_content(t)]
    assert tfm(a) == tfm(a) != tfm(b)


@dataclass
class Pair:
    x: object
    y: object


class Bare:
    def __init__(self, x, y): self.x, self.y, self.me = x, y, self


@pytest.mark.parametrize('make', [
    lambda x: dict(x=x, y=1), lambda x: UserDict(y=1, x=x), lambda x: [(dict(a=[x]), 2)], lambda x: Pair(x, {'a', 'b'}),
    lambda x: Bare(x, None), lambda x: SimpleNamespace(x=x), lambda x: np.array([x, None, 'a'], dtype=object)])
@pytest.mark.parametrize('form', [np.asarray, torch.tensor, pd.Series])
def test_all_that_a_row_holds_counts(make, form):
    "Its text leaves out the middle of arrays, and most digits of their numbers; an address says nothing"
    x = np.random.default_rng(0).random(1100)
    def hashes(x):
        row = make(form(x))
        df = pd.DataFrame(dict(a=pd.Series([row, None], dtype=object)))
        return content_hash(row), as_array(row).tobytes(), table_hashes(df)[0]
    h = hashes(x)
    for i, by in ((550, 1), (0, 1e-12)):
        y = x.copy()
        y[i] += by
        assert all(a == b != c for a, b, c in zip(h, hashes(x.copy()), hashes(y)))


def test_dicts_are_the_same_in_any_order():
    assert content_hash(dict(a=1, b=2)) == content_hash(UserDict(b=2, a=1)) != content_hash(dict(a=2, b=1))


def test_sets_have_no_order():
    a = {f'{i}' for i in range(50)}
    assert [*content_bytes(a)] == [*content_bytes(set(sorted(a)))] == [*content_bytes(set(sorted(a, reverse=True)))]
    assert [*content_bytes(a)] == [o.encode() for o in sorted(map(repr, a))]
    with pytest.raises(ValueError, match='vocab=.*a set has no order'): as_vocab({'a', 'b'})


class ByLambda:
    __init__ = lambda self, a: setattr(self, 'a', a)  # noqa: E731
class ByStars:
    def __init__(*args, **kwargs): args[0].b = args[1:]
class Annotated:
    def __init__(self, /, a): self.rate: float = a


@pytest.mark.parametrize('cls', [ByLambda, ByStars, Annotated])
def test_any_kind_of_init(cls):
    assert describe(cls(1)) == describe(cls(1))
    if cls is not ByStars: assert describe(cls(1)) != describe(cls(2))


# Models and Learners

def test_weights_count_to_the_last_bit():
    a, b = net(bn=True), net(bn=True)
    b.load_state_dict(a.state_dict())
    assert weights_digest(a) == weights_digest(b) and n_params(a) == sum(o.numel() for o in a.parameters())
    for k, v in b.state_dict().items():
        was = v.clone()
        v.copy_(torch.nextafter(v, torch.full_like(v, 9e9)) if v.is_floating_point() else v+1)
        assert weights_digest(b) != weights_digest(a), k
        v.copy_(was)
    assert weights_digest(b) == weights_digest(a)
    assert list(content_bytes(torch.ones(2).half())) != list(content_bytes(torch.ones(2).bfloat16()))


def test_in_words_has_no_addresses():
    class Bare: pass
    assert '0x' in repr([Bare()]) and '0x' not in in_words([Bare(), len, around(1)])


def test_a_learner_is_the_same_after_use():
    a, b = pts_learner(), pts_learner()
    for say in (teacher_fingerprint, portrait, describe): assert say(a) == say(b)
    with a.no_bar(): a.get_preds()
    assert teacher_fingerprint(a) == teacher_fingerprint(b)
    with a.no_bar(), a.no_logging(): a.fit(1)
    assert teacher_fingerprint(a) != teacher_fingerprint(b)


def toy(model=None, valid_tfms=None):
    "A teacher for points of 4 numbers"
    g = torch.Generator().manual_seed(0)
    items = [(o, int(o[0] > 0)) for o in torch.randn(40, 4, generator=g)]
    dls = DataLoaders(*(TfmdDL(items, bs=8, num_workers=0, after_batch=o) for o in (None, valid_tfms)))
    torch.manual_seed(0)
    return Learner(dls, model or layers(.5), loss_func=CrossEntropyLossFlat())


def layers(p): return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(p), nn.Linear(8, 3))


def test_what_a_teacher_is():
    "Its weights, what it is made of, and the statistics through which it sees data, to the last bit"
    fp = teacher_fingerprint(learn := toy())
    assert teacher_fingerprint(same := toy()) == fp and describe(same) == describe(learn)
    same.model[1].running_mean[3] += 1e-3
    assert teacher_fingerprint(same) != fp
    same = toy(layers(.1))
    same.model.load_state_dict(learn.model.state_dict())
    assert teacher_fingerprint(same) != fp
    def with_mean(m):
        return teacher_fingerprint(toy(valid_tfms=[Normalize(torch.tensor(m), torch.tensor(1.), axes=0)]))
    assert with_mean(.5) == with_mean(.5) != with_mean(.5000001)
    assert len(teacher_fingerprint(toy(nn.Sequential(nn.Linear(4, 3)).bfloat16()))) == 64


def test_a_table_s_statistics_and_categories_count():
    df = pd.DataFrame(dict(a=np.random.default_rng(0).random(40), k=list('xy')*20, y=list('uv')*20))
    def fp(df):
        set_seed(0)
        dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['k'], cont_names=['a'],
                                         y_names='y', bs=8, num_workers=0)
        return teacher_fingerprint(TabularLearner(dls, nn.Linear(2, 2), loss_func=CrossEntropyLossFlat()))
    assert fp(df) == fp(df.copy()) != fp(df.assign(a=df.a+1e-6))
    assert fp(df) != fp(df.assign(k=df.k.replace('x', 'z')))


def test_words_that_a_look_up_adds_do_not_count():
    def make(*words):
        ds = Datasets(['the cat']*4, [[str.split, Numericalize(['xxunk', *words])], [len, Categorize()]],
                      splits=[[0, 1], [2, 3]])
        torch.manual_seed(0)
        return Learner(ds.dataloaders(bs=2, num_workers=0), torch.nn.Linear(2, 2), loss_func=CrossEntropyLossFlat())
    a, b, other = make('the', 'cat'), make('the', 'cat'), make('the', 'dog')
    def said(learn): return teacher_fingerprint(learn), describe(learn.dls.tfms[0])
    was = said(a)
    assert a.dls.test_dl(['the new cat']).one_batch()[0].tolist() == [[1, 0, 2]]
    assert said(a) == was == said(b)
    assert all(o != p for o, p in zip(said(other), was))
    counts = defaultdict(list, a=[1])
    was, _ = describe(counts), counts['b']
    assert describe(counts) == was != describe(defaultdict(list, a=[2]))


def learner(n=40, lr=.1, bs=8, hidden=4, loss=None, vocab=None, cbs=None):
    items = [(torch.tensor([float(i), 1.]), i % 2) for i in range(n)]
    dls = DataLoaders(TfmdDL(items, bs=bs, num_workers=0), TfmdDL(items[:20], bs=8, num_workers=0))
    if vocab: dls.vocab = vocab
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, hidden), torch.nn.Linear(hidden, 2))
    return Learner(dls, model, loss_func=loss or CrossEntropyLossFlat(), lr=lr, cbs=cbs)


@pytest.mark.parametrize('kw,what', [
    (dict(n=41), {'labeled'}), (dict(lr=.2), {'lr'}), (dict(bs=9), {'bs'}), (dict(vocab=['a', 'b']), {'vocab'}),
    (dict(hidden=5), {'n_params', 'modules', 'weights'}), (dict(loss=FocalLossFlat()), {'loss'}),
    (dict(cbs=MixUp()), {'cbs'})])
def test_a_portrait_names_what_differs(kw, what):
    found = {k.split('.')[0].split('[')[0] for k, *_ in differences(portrait(learner()), portrait(learner(**kw)))}
    assert found == what


class WandbCallback: pass
class Mine(WandbCallback): pass


def test_loggers_are_known_by_name(): assert is_logger(Mine()) and not is_logger(MixUp())


# Classes

def test_names_of_classes():
    assert class_names(learner(vocab=['a', 'b']).dls) == ['a', 'b'] and class_names(learner().dls) is None
    assert as_vocab(np.array([1, 2])) == [1, 2] and as_vocab(None) is None and as_vocab([1.5, 'a']) == ['1.5', 'a']
    with pytest.raises(ValueError, match='vocab='): as_vocab(['a', 'a'])
    assert same_vocab(['a'], None) and same_vocab(('a',), ['a']) and not same_vocab(['a'], ['b'])


# The same run?

def test_what_has_changed_is_said_and_kept():
    old = dict(a=1, rounds={str(r): dict(lr=.1, x=[1, 2]) for r in range(3)})
    new = dict(a=1, rounds={str(r): dict(lr=.2 if r else .1, x=[1, 3] if r == 2 else [1, 2]) for r in range(3)})
    check_same('run', old, json.loads(json.dumps(old)))
    said = r"^run has a run with other arguments: lr=0.2 in rounds 1, 2 \(was 0.1\); x\[1\]=3 in round 2"
    with pytest.raises(Changed, match=said) as e: check_same('run', old, new)
    e = e.value
    assert (e.argument, e.value, e.key) == ('path', 'run', 'rounds.1.lr')
    assert e.changes == [('rounds.1.lr', .1, .2), ('rounds.2.lr', .1, .2), ('rounds.2.x[1]', 2, 3)]


def test_many_changes_are_counted():
    with pytest.raises(Changed, match='and 2 more. The same ones resume it') as e:
        check_same('run', {k: 1 for k in 'abcdefg'}, {k: 2 for k in 'abcdefg'})
    assert len(e.value.changes) == 7


@pytest.mark.parametrize('key,a,b,said', [
    ('unlabeled.fingerprint', 'a'*64, 'b'*64, 'other unlabeled rows'),
    ('rounds.1.make_learner.labeled', '80 rows a', '80 rows b', 'other labeled rows'),
    ('rounds.1.make_learner.modules', 'e19a', 'f19b', 'other modules in the model, or other settings'),
    ('rounds.1.make_learner.loss.CrossEntropyLossFlat', dict(axis=-1), None, 'another loss'),
    ('rounds.1.make_learner.labeled', '80 rows a', '160 rows b',
     "make_learner.labeled='160 rows b' in round 1 (was '80 rows a')"),
    ('student.l2pl', dict(x=1), None, "student.l2pl=None (was {'x': 1})")])
def test_keys_are_said_in_words(key, a, b, said): assert changes_in_words([(key, a, b)]) == said


def test_fewer_rounds_are_said_by_their_number():
    assert changes_in_words([('rounds.2', dict(lr=.1), None), ('n_rounds', 2, 1)]) == 'n_rounds=1 (was 2)'
    assert changes_in_words([('rounds.2', dict(lr=.1), None)]) == 'other rounds'


class Short:
    "What it says of itself leaves something out"
    def __init__(self, x): self.x, self.lock = x, threading.Lock()
    def __repr__(self): return 'Short(...)'


class Slots:
    __slots__ = ('a', 'b')
    def __init__(self, a): self.a, self.b = a, [a]


class Cyclic:
    def __init__(self, x): self.x, self.me = x, self


@pytest.mark.parametrize('make', [
    Short, Slots, Cyclic, lambda i: Short(np.arange(2000)+i), lambda i: [Short(i), 2], lambda i: dict(a=Slots(i)),
    lambda i: datetime(2020, 1, 1+i), lambda i: Path(f'a/{i}'), lambda i: SimpleNamespace(a=[i]), lambda i: 10**30+i])
def test_objects_are_hashed_by_what_they_hold(make):
    "Whatever text they have: alike if they hold the same, and else not"
    assert content_hash(make(0)) == content_hash(make(0))
    assert len({content_hash(make(i)) for i in range(5)}) == 5


@pytest.mark.parametrize('row', [(i for i in range(3)), threading.Lock()])
def test_rows_that_do_not_say_what_they_hold(row):
    with pytest.raises(TypeError, match=f"of type {type(row).__name__} can't be told apart"): content_hash(row)
