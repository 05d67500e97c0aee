"What is used of other libraries beyond their public names is there, does what it is used for, and is in one room only"
import ast
import copy
import importlib
import inspect
import re
from functools import partial
from importlib.metadata import version

import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.data.core import TfmdDL, TfmdLists
from fastai.data.load import DataLoader
from fastai.layers import ResBlock
from fastai.torch_core import TensorImage
from fastai.vision import data  # noqa: F401  (images get their `show_batch`)
from fastprogress.fastprogress import ConsoleProgressBar
from fasttransform import Transform
from noisy_student_fastai import compat
from torch import nn
from torchvision.models import mobilenetv3

NAMES = [(lib, o) for lib, names in compat.private_names.items() for o in names]


# Each name is there

@pytest.mark.parametrize('lib, name', NAMES, ids=[o for _, o in NAMES])
def test_private_names(lib, name):
    "An error says which library, in which version, has changed"
    assert name.startswith(f'{lib}.')
    assert compat.find_name(name) is not None


@pytest.mark.parametrize('name', ['torch.no_such_module.Name', 'torch.nn._no_such_name', 'torch.Tensor.size._gone'])
def test_a_name_that_is_gone(name):
    with pytest.raises(ImportError, match=rf'^{re.escape(name)} is gone: torch {re.escape(version("torch"))} has') as e:
        compat.find_name(name)
    assert e.value.name == 'torch'


def test_a_library_that_is_not_installed():
    with pytest.raises(ImportError, match='nowhere is not installed, which'): compat.find_name('nowhere._name')


def tsai_last(names): return [pytest.param(o, marks=[pytest.mark.tsai]*o.startswith('tsai.')) for o in names]


@pytest.mark.parametrize('name', tsai_last(compat.residual_blocks))
def test_residual_blocks(name):
    "A class that is defined in the module of its name, as `branches` looks for it"
    cls = compat.find_name(name)
    assert issubclass(cls, nn.Module) and f'{cls.__module__}.{cls.__qualname__}' == name


@pytest.mark.parametrize('name', compat.shortcuts)
def test_shortcuts(name):
    "A module of timm whose blocks have a shortcut that may be None"
    src = inspect.getsource(importlib.import_module(name))
    for k in compat.shortcuts[name]: assert re.search(rf'if self\.{k} is (not )?None', src), k


# What is known of residual blocks

def ends(m):
    "The modules that `branches` names, of the first alternatives that there are"
    def first(path): return next(o for o in path.split('|') if isinstance(find(m, o), nn.Module))
    return [list(map(first, b)) for b in compat.branches(m)]


def find(m, path):
    for k in path.split('.'): m = getattr(m, k, None)
    return m


norm = partial(nn.BatchNorm2d)
MOBILE = mobilenetv3.InvertedResidualConfig(8, 3, 16, 8, True, 'RE', 1, 1, 1)
INSTANCES = {
    'resnet.BasicBlock': (8, 8), 'resnet.Bottleneck': (32, 8),
    'video.resnet.BasicBlock': (8, 8, lambda *a: nn.Conv3d(*a[:2], 3)),
    'video.resnet.Bottleneck': (8, 2, lambda *a: nn.Conv3d(*a[:2], 3)),
    'mobilenetv2.InvertedResidual': (8, 8, 1, 2), 'mobilenetv3.InvertedResidual': (MOBILE, norm),
    'mnasnet._InvertedResidual': (8, 8, 3, 1, 2), 'regnet.ResBottleneckBlock': (8, 16, 2, norm, nn.ReLU, 8),
    'vision_transformer.EncoderBlock': (2, 8, 16, 0., 0.)}
INSTANCES = {f'torchvision.models.{k}': v for k, v in INSTANCES.items()} | {'fastai.layers.ResBlock': (1, 8, 8)}
INSTANCES_TSAI = {
    'layers.ResBlock1dPlus': (1, 3, 8), 'ResNet.ResBlock': (3, 8), 'ResNetPlus.ResBlockPlus': (3, 8),
    'ResCNN._ResCNNBlock': (3, 8), 'FCNPlus._FCNBlockPlus': (3, [8, 8, 8]), 'TCN.TemporalBlock': (3, 8, 2, 1, 1, 1),
    'gMLP._gMLPBlock': (8, 6, 5), 'InceptionTime.InceptionBlock': (3, 4), 'XceptionTime.XceptionBlock': (3, 4),
    'XceptionTimePlus.XceptionBlockPlus': (3, 4), 'TST._TSTEncoderLayer': (5, 8, 2),
    'TSTPlus._TSTEncoderLayer': (5, 8, 2), 'PatchTST._TSTiEncoderLayer': (5, 8, 2),
    'RNNAttention._TSTEncoderLayer': (5, 8, 2), 'RNNAttentionPlus._TSTEncoderLayer': (5, 8, 2),
    'TabTransformer._TabEncoderLayer': (5, 8, 2),
    'TabFusionTransformer._TabFusionEncoderLayer': (5, 8, 2)}
INSTANCES |= {f'tsai.models.{k}': v for k, v in INSTANCES_TSAI.items()}


def test_each_block_is_looked_at(): assert INSTANCES.keys() == compat.residual_blocks.keys()


@pytest.mark.parametrize('name', tsai_last(INSTANCES))
def test_branches(name):
    "Each of them is a module of a real block, and each block of a list has an end of its own"
    m = compat.find_name(name)(*INSTANCES[name])
    got = ends(m)
    lists = dict(InceptionBlock=('inception', 3), XceptionBlock=('xception', 2), XceptionBlockPlus=('xception', 2))
    if type(m).__name__ not in lists: assert len(got) == 1 and len(got[0]) == len(compat.residual_blocks[name])
    else:
        k, n = lists[type(m).__name__]
        assert got == [[f'{k}.{i}'] for i in range(len(getattr(m, k))) if i % n == n-1] and got


def test_branches_of_other_classes():
    class Same(ResBlock): pass

    class Other(ResBlock):
        def forward(self, x): return x

    assert compat.branches(Same(1, 4, 4)) == [['convpath']]
    assert compat.branches(Other(1, 4, 4)) == compat.branches(nn.Linear(1, 1)) == compat.branches(nn.Sequential()) == []


# What the functions do with real objects

class Own(torch.Tensor): pass


def test_types_of_tensors():
    x = torch.arange(3.)
    own = compat.as_type(x, Own)
    assert type(own) is Own and own.data_ptr() == x.data_ptr() and compat.as_type(own, Own) is own
    img = TensorImage(x, note=3)
    assert type(compat.as_type(img, torch.Tensor)) is torch.Tensor
    assert not hasattr(compat.as_type(img, TensorImage.__base__), 'note')
    assert type(own+1) is Own and type(compat.call_plain(torch.add, (own, 1), {})) is torch.Tensor
    assert torch.equal(compat.call_plain(torch.add, (own,), dict(other=1)), x+1)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.complex64, torch.int64, torch.bool])
def test_average(dtype):
    avg, new = [[torch.tensor(o).to(dtype) for o in v] for v in (([0., 1], [4.]), ([1., 1], [0.]))]
    kept = [o.clone() for o in avg]
    same = [o.data_ptr() for o in avg]
    compat.average_(avg, new, .75)
    for a, b, c in zip(avg, kept, new):
        want = .75*b+.25*c if dtype.is_floating_point or dtype.is_complex else c
        torch.testing.assert_close(a, want)
    assert [o.data_ptr() for o in avg] == same


def test_modules():
    drops = [nn.Dropout(), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()]
    convs = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    convs = [o(1, 1, 1) for o in convs]
    assert all(isinstance(o, compat.dropouts) and not isinstance(o, compat.convs) for o in drops)
    assert all(isinstance(o, compat.convs) and not isinstance(o, compat.dropouts) for o in convs)
    assert compat.is_attention_out(nn.MultiheadAttention(4, 1).out_proj)
    assert not compat.is_attention_out(nn.Linear(1, 1))
    m = nn.Sequential(nn.ReLU(), None)
    assert list(compat.children(m)) == ['0', '1'] and list(dict(m.named_children())) == ['0']
    assert compat.uncompiled(torch.compile(m)) is m and compat.uncompiled(m) is m


def test_loaders():
    dl = DataLoader(range(8), bs=4, num_workers=0)
    many = DataLoader(range(8), bs=4, num_workers=3, timeout=7)
    new = copy.copy(dl)
    assert new.fake_l.default is dl  # which is why it needs one of its own
    compat.renew_workers(new, many)
    assert compat.n_workers(dl) == 0 and compat.n_workers(new) == compat.n_workers(many) == 3
    assert new.fake_l.default is new and new.fake_l.timeout == 7
    compat.renew_workers(new, dl)
    assert [o.tolist() for o in new] == [o.tolist() for o in dl]
    assert {'create_item', 'create_batch', 'wif'} <= compat.loader_options()
    for k in compat.loader_options(): assert getattr(DataLoader([1], **{k: print}), k) is print


def test_a_loader_that_stays_on_the_cpu():
    dl = TfmdDL([torch.zeros(2)]*4, bs=2, num_workers=0, device=torch.device('meta'))
    assert dl.one_batch().device.type == 'meta'
    compat.stay_on_cpu(dl)
    assert dl.one_batch().device.type == 'cpu'


class Twice(Transform):
    split_idx = 0
    def encodes(self, x:int): return 2*x


def test_lists():
    tl = TfmdLists([1, 2, 3], Twice(), split_idx=0)
    new = compat.with_split(tl, 1)
    assert ([*tl], [*new], [*compat.with_split(tl, 0, [5])]) == ([2, 4, 6], [1, 2, 3], [10])
    assert [compat.raw_item(tl, i) for i in range(3)] == [1, 2, 3]


def test_shown():
    assert TensorImage in [o for o in compat.types_that_show() if isinstance(o, type)]
    b = torch.arange(6.)[:, None], torch.arange(6)
    x, y, rows = compat.decoded_rows(TfmdDL(list(zip(*b)), bs=6, num_workers=0), b, 4)
    assert torch.equal(x, b[0]) and torch.equal(y, b[1])
    assert [(a.item(), t.item()) for a, t in rows] == [(i, i) for i in range(4)]


def test_bars(capsys):
    bar = ConsoleProgressBar(range(3))
    assert compat.bar_width(None) == 0 and not compat.is_drawn(None) and not compat.is_drawn(bar)
    for _ in bar: assert compat.is_drawn(bar)
    assert not compat.is_drawn(bar)  # it is at its end
    shown = capsys.readouterr().out.split('\r')
    assert compat.bar_width(bar) == 1+max(map(len, shown))  # with the `\r`


def test_classes_by_name():
    assert compat.is_a(MixUp(), 'MixUp') and compat.is_a(MixUp(), 'Other', 'MixHandler')
    assert not compat.is_a(MixUp(), 'Mix') and not compat.is_a(MixUp, 'MixUp') and not compat.is_a(MixUp())


# Nobody else does it

PUBLIC = {'_replace', '_asdict', '_make', '_fields', '_repr_mimebundle_'}  # documented: for named tuples, by IPython
OUTSIDE = {'getattr', 'hasattr', 'setattr', 'delattr'}


def is_private(name): return name.isidentifier() and name[0] == '_' and not name.startswith('__')


def own_names(tree):
    "What a module defines: functions, classes, variables, arguments, and attributes of `self`"
    for o in ast.walk(tree):
        if isinstance(o, (ast.FunctionDef, ast.ClassDef)): yield o.name
        elif isinstance(o, ast.arg): yield o.arg
        elif isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store): yield o.id
        elif isinstance(o, ast.Attribute) and isinstance(o.ctx, ast.Store):
            if getattr(o.value, 'id', '') in ('self', 'cls'): yield o.attr


def words(node): return {o.value for o in ast.walk(node) if isinstance(o, ast.Constant) and isinstance(o.value, str)}


def is_class_name(node): return isinstance(node, ast.Attribute) and node.attr in ('__name__', '__qualname__')


def foreign(tree, own):
    "`(line, name)` of what a module uses of others: attributes, imports, names as strings, classes known by their name"
    for o in ast.walk(tree):
        found = []
        if isinstance(o, ast.Attribute): found = [o.attr]
        elif isinstance(o, ast.ImportFrom) and not o.level: found = [*o.module.split('.'), *(a.name for a in o.names)]
        elif isinstance(o, ast.Import): found = [k for a in o.names for k in a.name.split('.')]
        elif isinstance(o, ast.Call) and getattr(o.func, 'id', '') in OUTSIDE: found = words(o.args[1])
        yield from ((o.lineno, k) for k in found if is_private(k) and k not in own | PUBLIC)
        if isinstance(o, ast.Compare):
            sides = [o.left, *o.comparators]
            found = {k for s in sides for k in words(s) if k.isidentifier()} if any(map(is_class_name, sides)) else ()
            yield from ((o.lineno, k) for k in sorted(found) if k not in own)


@pytest.mark.parametrize('src, want', [
    ('x._gone', '_gone'), ('from torch.nn import _gone', '_gone'), ('from torch._inner import f', '_inner'),
    ('import torch._inner.f', '_inner'), ("getattr(x, '_gone', None)", '_gone'), ('x._gone = 3', '_gone'),
    ("[hasattr(o, k) for k in x] + [setattr(x, '_gone', 1)]", '_gone'), ("type(o).__name__=='TSTensor'", 'TSTensor'),
    ("c.__qualname__ in ('TSTensor',)", 'TSTensor'), ('import torch._gone as g', '_gone'),
    ('self._mine = 1\nx._mine', None), ('def _mine(): pass\nx._mine', None), ('x.__dict__', None),
    ('d._replace(a=1)', None), ('from .other import _ours', None), ("o.__name__==k", None),
    ("class Mine: pass\ntype(o).__name__=='Mine'", None)])
def test_is_noticed(src, want):
    tree = ast.parse(src)
    assert [k for _, k in foreign(tree, set(own_names(tree)))] == ([want] if want else [])


def test_private_names_of_others_are_used_here_only(root):
    trees = {p: ast.parse(p.read_text()) for p in sorted((root/'noisy_student_fastai').rglob('[!_]*.py'))}
    own = {k for t in trees.values() for k in own_names(t)}
    at = {p: p.relative_to(root/'noisy_student_fastai').as_posix() for p in trees}
    assert any(foreign(t, own) for p, t in trees.items() if at[p] == 'compat.py')
    found = [f'{at[p]}:{line} {k}' for p, t in trees.items() if at[p] != 'compat.py' for line, k in foreign(t, own)]
    assert not found, 'a function of noisy_student_fastai.compat is for these:\n' + '\n'.join(found)
