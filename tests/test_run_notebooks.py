"The runner of notebooks: what it runs, what it leaves out, what it calls a failure"
import nbformat
import pytest
import run_notebooks as rn
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

pytestmark = pytest.mark.tools


@pytest.fixture
def run(tmp_path, monkeypatch):
    "Run cells given as text, in a folder of their own"
    monkeypatch.setattr(rn, 'ROOT', tmp_path)
    monkeypatch.setattr(rn, 'settings', lambda: {'tst_flags': 'slow cuda', 'nbs_path': '.'})
    def _run(*cells, **kwargs):
        nb = new_notebook(cells=[new_code_cell(c) if isinstance(c, str) else c for c in cells])
        nbformat.write(nb, tmp_path/'page.ipynb')
        return rn.run(tmp_path/'page.ipynb', **kwargs)
    return _run


def cells(tmp_path): return nbformat.read(tmp_path/'page.ipynb', as_version=4).cells


def test_directives():
    d = rn.directives(new_code_cell('#|export\n# | eval: false\n#| slow\nx = "#| no"\n# | hide_line: too\n'))
    assert d == {'export': '', 'eval': 'false', 'slow': '', 'hide_line': 'too'}
    assert rn.directives(new_markdown_cell('#| slow')) == {}


@pytest.mark.parametrize('source,flags,versions,why', [
    ('1', [], 'stable', None),
    ('#| eval: false\n1', [], 'stable', 'eval: false'),
    ('#| eval: true\n1', [], 'stable', None),
    ('import nbdev; nbdev.nbdev_export()', [], 'stable', 'nbdev_export'),
    ('#| slow\n1', [], 'stable', 'slow'),
    ('#| slow\n1', ['slow'], 'stable', None),
    ('#| slow\n#| cuda\n1', ['slow'], 'stable', 'cuda'),
    ('#| tsai\n1', [], 'stable', None),
    ('#| tsai\n1', [], 'latest', 'tsai'),
    ('#| tsai\n1', ['tsai'], 'latest', 'tsai')])
def test_left_out(source, flags, versions, why): assert rn.left_out(new_code_cell(source), flags, versions) == why


@pytest.mark.parametrize('cell,want', [
    (new_markdown_cell('# T\n\n> d\n\n- needs: tsai'), ['tsai']),
    (new_raw_cell('---\ntitle: T\nneeds: tsai\n---'), ['tsai']),
    (new_markdown_cell('some prose\n\n- needs: tsai'), []),
    (new_code_cell('# T\n- needs: tsai'), [])])
def test_needs(cell, want): assert rn.needs(new_notebook(cells=[cell])) == want


def test_needs_something_unknown():
    nb = new_notebook(cells=[new_markdown_cell('# T\n- needs: tsia')])
    with pytest.raises(ValueError, match='only tsai is known'): rn.needs(nb)


def test_whole_notebook_left_out(run):
    bad = (new_markdown_cell('# T\n\n- needs: tsai'), '1/0')
    assert run(*bad, versions='latest').skipped
    assert 'ZeroDivisionError' in run(*bad).error


def test_store(run, tmp_path):
    res = run('x = 1\nx', '#| eval: false\n1/0', '#| slow\nx+1', 'import os\nos.getcwd()', store=True)
    assert not res.error and res.n_run == 2 and res.left_out == {'eval: false': 1, 'slow': 1}
    text = [c.outputs[0]['data']['text/plain'] if c.outputs else None for c in cells(tmp_path)]
    assert text == ['1', None, None, repr(str(tmp_path))]


def test_store_notes_the_time(run, tmp_path):
    "Of the kernel and what it starts, whatever else runs; cells that are asked for don't count"
    busy = 'import time\nwhile time.process_time() < 1.5: pass'
    noted = lambda: nbformat.read(tmp_path/'page.ipynb', as_version=4).metadata.get('cpu_seconds')
    assert not run(busy).error and noted() is None
    assert not run(busy, 'time.sleep(3)', store=True).error and 1 <= noted() <= 4
    assert not run('1', '#| slow\n2', store=True, flags=['slow']).error and noted() is None


def test_failure_stores_nothing(run, tmp_path):
    res = run('1', '1/0', store=True)
    assert 'ZeroDivisionError' in res.error and 'FAILED' in str(res)
    assert not any(c.outputs for c in cells(tmp_path))


def test_takes_too_long(run): assert 'longer than 1 s' in run('import time\ntime.sleep(60)', timeout=1).error


def test_dies(run): assert 'died' in run('import os\nos._exit(1)').error


def test_leaves_files_behind(run): assert "['left.txt']" in run("open('left.txt', 'w').close()").error


def test_exit_status(run, tmp_path, capsys):
    run('1')
    assert rn.main([]) == 0
    run('1/0')
    assert rn.main([]) == 1
    assert 'ZeroDivisionError' in capsys.readouterr().err
