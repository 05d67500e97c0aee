"What a user gets from `pip install`: the wheel holds everything, importing it needs no extra and changes nothing"
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from docstrings import is_command, with_params
from packaging.requirements import Requirement
from run_notebooks import settings
from symbols import symbols

NAME = settings()['lib_name']

IMPORT_ALL = '''
"Import every module of the package without its extras, and say what that changed"
import contextlib, importlib, io, json, pkgutil, random, os, sys, warnings

class NoExtras:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('tsai', 'accelerate'): raise ModuleNotFoundError(f'{name} is an extra', name=name)

sys.meta_path.insert(0, NoExtras())
warnings.simplefilter('ignore')

# What fastai's own modules change when they are imported is theirs
import fastai.basics, fastai.callback.all, fastai.vision.all, fastai.tabular.all
import numpy as np, matplotlib, torch
from fastcore.basics import defaults

def settings():
    state = dict(sharing=torch.multiprocessing.get_sharing_strategy(), threads=torch.get_num_threads(),
        dtype=str(torch.get_default_dtype()), grad=torch.is_grad_enabled(), printed=np.get_printoptions(),
        torch_seed=torch.initial_seed(), torch_rng=torch.get_rng_state().tolist(),
        numpy_rng=np.random.get_state()[1].tolist(), rng=random.getstate(),
        warnings=list(warnings.filters), path=list(sys.path), hook=sys.excepthook, cwd=os.getcwd(),
        environ=dict(os.environ), rc=dict(matplotlib.rcParams), backend=matplotlib.get_backend(),
        defaults={k: repr(v) for k, v in vars(defaults).items()})
    return {k: repr(v) for k, v in state.items()}

def attributes():
    "Every attribute of fastai's modules and classes, and of torch's most patched places"
    tops = ('fastai', 'fastcore', 'fasttransform', 'fastprogress')
    mods = {k: m for k, m in sys.modules.items() if k.split('.')[0] in tops}
    mods |= {k: sys.modules[k] for k in ('torch', 'torch.nn', 'torch.nn.functional', 'numpy', 'pandas')}
    res, skip = {}, ('__dict__', '__weakref__', '__doc__')
    for k, m in mods.items():
        for n, o in list(vars(m).items()):
            if n.startswith('__'): continue
            res[f'{k}.{n}'] = o
            if isinstance(o, type) and o.__module__ in mods:
                res.update({f'{k}.{n}.{a}': v for a, v in vars(o).items() if a not in skip})
    res.update({f'torch.Tensor.{a}': v for a, v in vars(torch.Tensor).items()})
    return res

old_settings, old = settings(), attributes()
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    package = importlib.import_module(NAME)
    importlib.import_module(NAME + '.all')
    names = [m.name for m in pkgutil.walk_packages(package.__path__, NAME + '.') if not m.name.endswith('__main__')]
    mods = [importlib.import_module(n) for n in names]
new_settings, new = settings(), attributes()
public = sys.modules[NAME + '.all'].__all__
json.dump(dict(public=public, file=package.__file__, files=[m.__file__ for m in mods], names=names, said=out.getvalue(),
    settings=[k for k in old_settings if old_settings[k] != new_settings[k]],
    replaced=sorted(k for k in old if k not in new or new[k] is not old[k]),
    extras=sorted({'tsai', 'accelerate'} & sys.modules.keys())), open(sys.argv[1], 'w'))
'''


def run(*args, cwd, **env):
    cmd = [sys.executable, *map(str, args)]
    res = subprocess.run(cmd, cwd=cwd, env=os.environ | env, text=True, capture_output=True)
    assert res.returncode == 0, f'{args}\n{res.stdout}\n{res.stderr}'


def import_all(target, cwd, python):
    "Run `IMPORT_ALL` on the package in the folder `target`"
    python('-c', f'NAME = {NAME!r}\n{IMPORT_ALL}', cwd/'report.json', cwd=cwd, PYTHONPATH=str(target))
    return json.loads((cwd/'report.json').read_text())


@pytest.fixture(scope='module')
def wheel(root, tmp_path_factory):
    "The wheel, made from the source distribution, as for an upload, and so without what git does not have"
    src, dist = tmp_path_factory.mktemp('src'), tmp_path_factory.mktemp('dist')
    files = [o for l in (root/'MANIFEST.in').read_text().splitlines() for o in l.split()[1:]]
    for o in [*files, 'MANIFEST.in', 'setup.py', 'pyproject.toml']:
        (src/o).parent.mkdir(exist_ok=True)
        shutil.copy(root/o, src/o)
    lib = settings()['lib_path']
    shutil.copytree(root/lib, src/lib, ignore=shutil.ignore_patterns('__pycache__'))
    run('-m', 'build', '--no-isolation', '--outdir', dist, src, cwd=dist)
    assert [p.suffix for p in sorted(dist.iterdir())] == ['.whl', '.gz']
    return next(dist.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "A folder into which the wheel alone is installed"
    target = tmp_path_factory.mktemp('target')
    run('-m', 'pip', 'install', '--no-deps', '--no-index', '--no-compile', '--target', target, wheel, cwd=target)
    return target


@pytest.fixture(scope='module')
def dist(installed):
    "The installed wheel's metadata"
    return next(iter(Distribution.discover(name=NAME, path=[str(installed)])))


@pytest.fixture(scope='module')
def imported(installed, tmp_path_factory, python):
    "What importing every module of the installed wheel did"
    cwd = tmp_path_factory.mktemp('cwd')
    return import_all(installed, cwd, python)


def test_every_module_is_in_the_wheel(root, installed, imported):
    src = root/settings()['lib_path']
    want = sorted(p.relative_to(src) for p in src.rglob('*.py'))
    assert sorted(p.relative_to(installed/NAME) for p in (installed/NAME).rglob('*.py')) == want
    assert f'{NAME}.all' in imported['names']
    assert all(Path(f).is_relative_to(installed) for f in [imported['file'], *imported['files']])


def test_typed(installed): assert (installed/NAME/'py.typed').exists()


def test_docstrings(root, installed):
    "What is installed is the source, with each commented parameter repeated in its docstring"
    n = 0
    for p in (root/settings()['lib_path']).rglob('[!_]*.py'):
        text = (installed/NAME/p.relative_to(root/settings()['lib_path'])).read_text()
        assert text == with_params(p.read_text())
        for s in symbols(text):
            if not s.doc or is_command(s.node): continue  # its `--help` has the comments
            for o in [o for o in s.params if o.doc]:
                assert re.search(rf'^ +{re.escape(o.name)}: {re.escape(o.doc[:20])}', s.doc, flags=re.M), s.name
                n += 1
    assert n > 200


QUESTION_MARK = f'''
from fastai.learner import Learner
from IPython.core.oinspect import Inspector
import {NAME}.all as ours
for o in (Learner.pseudolabel, ours.NoisyStudent, ours.PseudoLabels.select):
    print(Inspector(theme_name="nocolor")._get_info(o)["text/plain"])
help(Learner.pseudolabel)
'''


@pytest.mark.tools
def test_question_mark(installed, python):
    "What IPython shows for `learn.pseudolabel?`, and what `help` prints, where the wheel is installed"
    out = python('-c', QUESTION_MARK, PYTHONPATH=str(installed))
    assert out.count("leaks: Rows that are labeled or held out: 'refuse'") == 2
    assert 'l2pl_ratio: Labeled rows for each' in out and 'max_repeat: How often a row' in out


@pytest.mark.parametrize('what', ['said', 'settings', 'replaced', 'extras'])
def test_import_changes_nothing(imported, what):
    "said: on the screen; settings: global ones; replaced: attributes of other packages; extras: imported nonetheless"
    assert not imported[what]


def test_a_change_is_noticed(tmp_path, python):
    "The check above, on a package that does what ours must not"
    (tmp_path/NAME).mkdir()
    (tmp_path/NAME/'__init__.py').touch()
    (tmp_path/NAME/'all.py').write_text(
        'import matplotlib, warnings\nfrom fastai.learner import Learner\n__all__ = []\nprint("hello")\n'
        'Learner.one_batch = Learner.fit = None\nLearner.new_name = None\n'
        'warnings.filterwarnings("error")\nmatplotlib.rcParams["figure.dpi"] = 1\n')
    got = import_all(tmp_path, tmp_path, python)
    assert got['said'] == 'hello\n' and got['settings'] == ['warnings', 'rc']
    replaced = {k for k in got['replaced'] if k.startswith('fastai.learner.')}
    assert replaced == {'fastai.learner.Learner.fit', 'fastai.learner.Learner.one_batch'}


def test_all(imported):
    "`from noisy_student_fastai.all import *` brings the callback, and each name once"
    assert 'NoisyStudent' in imported['public'] and len(set(imported['public'])) == len(imported['public'])


def test_metadata(dist):
    cfg = settings()
    meta = dist.metadata
    assert (meta['Name'], meta['Version'], meta['Summary']) == (NAME, cfg['version'], cfg['description'])
    assert meta['Requires-Python'] == f">={cfg['min_python']}"
    assert 'Apache-2.0' in (meta['License'], meta['License-Expression'])
    assert (meta['Author'], meta['Author-email']) == (cfg['author'], cfg['author_email'])
    assert sorted(meta.get_all('Provides-Extra')) == ['dev', 'distributed', 'parquet', 'tsai']
    assert any(str(f).endswith('LICENSE') for f in dist.files)


@pytest.mark.parametrize('extra,keys', [
    (None, ['requirements']),
    ('tsai', ['tsai_requirements']),
    ('distributed', ['distributed_requirements']),
    ('parquet', ['parquet_requirements']),
    ('dev', ['dev_requirements', 'tsai_requirements', 'distributed_requirements', 'parquet_requirements'])])
def test_requirements(dist, extra, keys):
    reqs = [Requirement(r) for r in dist.requires]
    mine = lambda r: not r.marker if extra is None else r.marker and r.marker.evaluate({'extra': extra})
    got = {(r.name, str(r.specifier)) for r in reqs if mine(r)}
    want = {(r.name, str(r.specifier)) for k in keys for r in map(Requirement, settings()[k].split())}
    assert got == want
