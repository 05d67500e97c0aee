"Every notebook runs from its first cell to its last"
import pytest
from run_notebooks import ROOT, notebooks, run


@pytest.mark.parametrize('path', notebooks(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_notebook(path, versions, pytestconfig):
    res = run(path, pytestconfig.option.flags.split(), versions)
    print(res)
    if res.skipped: pytest.skip(res.skipped)
    assert not res.error, res.error
