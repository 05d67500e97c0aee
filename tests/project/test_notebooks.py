"Every notebook runs from its first cell to its last"
import nbformat
import pytest
from run_notebooks import FASHION, ROOT, needs, notebooks, run

no_photographs = pytest.mark.skipif(not FASHION.exists(), reason='needs apt-get install dataset-fashion-mnist')


def page(path):
    "A test of this notebook, marked with what it needs"
    said = dict(tsai=pytest.mark.tsai, fashion_mnist=no_photographs)
    marks = [said[o] for o in needs(nbformat.read(path, as_version=4))]
    return pytest.param(path, marks=marks, id=path.relative_to(ROOT).as_posix())


@pytest.mark.parametrize('path', map(page, notebooks()))
def test_notebook(path, versions, pytestconfig, warm, monkeypatch):
    # Where pages compare over several splits, or train for long, the stored outputs are of all of it
    for k, v in dict(N_SPLITS='1', N_STEPS='50', STEPS='30').items(): monkeypatch.setenv(k, v)
    res = run(path, pytestconfig.option.flags.split(), versions, **warm)
    print(res)
    assert not res.error and not res.skipped, res.error or res.skipped
