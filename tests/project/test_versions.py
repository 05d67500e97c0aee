"The packages that are imported are those that the constraint files name"
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fastai
import fastcore
import fasttransform
import pytest


def pins(path):
    "`{name: version}` of a constraint file"
    lines = [l.split('#')[0].strip() for l in path.read_text().splitlines()]
    return dict(re.split('==', l) for l in lines if l)


def installed(name):
    try: return version(name)
    except PackageNotFoundError: return None


def test_installed_versions(root, versions):
    want = pins(root/'constraints.txt')
    if versions == 'latest': want |= pins(root/'constraints-latest.txt')
    got = {k: installed(k) for k in want}
    # some pins are for one platform only (the nvidia packages), so a package may be missing, never of another version
    assert {k: v for k, v in got.items() if v and v != want[k]} == {}
    assert all(got[k] for k in ('fastai', 'fastcore', 'fasttransform', 'torch', 'numpy', 'scikit-learn'))


@pytest.mark.parametrize('mod', [fastai, fastcore, fasttransform], ids=lambda m: m.__name__)
def test_imported_versions(mod):
    "What `import` finds is what the metadata says, from this environment's own folder on the latest set too"
    assert mod.__version__ == version(mod.__name__)
    assert Path(mod.__file__).is_relative_to(sys.prefix)


def test_latest_is_a_different_set(root):
    "A pin that is equal in both files says nothing: it would be tested twice"
    stable, latest = pins(root/'constraints.txt'), pins(root/'constraints-latest.txt')
    assert not {k for k in latest if stable.get(k) == latest[k]}
    assert 'fastcore' in latest and 'tsai' not in latest
