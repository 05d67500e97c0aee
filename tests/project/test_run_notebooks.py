"The runner of notebooks: what it runs, what it leaves out, what it calls a failure"
import asyncio
import json
import time
from pathlib import Path

import nbformat
import pytest
import run_notebooks as rn
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from warm_kernels import MODULES, SUPPORTED

pytestmark = pytest.mark.tools


@pytest.fixture
def run(tmp_path, monkeypatch, request):
    "Run cells given as text, in a folder of their own"
    kernels = request.getfixturevalue('warm') if getattr(request, 'param', 'warm') == 'warm' else {}
    monkeypatch.setattr(rn, 'ROOT', tmp_path)
    monkeypatch.setattr(rn, 'settings', lambda: {'tst_flags': 'slow cuda', 'nbs_path': '.'})
    def _run(*cells, **kwargs):
        nb = new_notebook(cells=[new_code_cell(c) if isinstance(c, str) else c for c in cells])
        nbformat.write(nb, tmp_path/'page.ipynb')
        return rn.run(tmp_path/'page.ipynb', **kwargs | kernels)
    return _run


# kernels, each a process of its own or forks, as all others are
own_and_warm = pytest.mark.parametrize('run', ['own', 'warm'], indirect=True)


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
    (new_markdown_cell('# T\n- needs: fashion_mnist'), ['fashion_mnist']),
    (new_raw_cell('---\ntitle: T\nneeds: tsai\n---'), ['tsai']),
    (new_markdown_cell('some prose\n\n- needs: tsai'), []),
    (new_code_cell('# T\n- needs: tsai'), [])])
def test_needs(cell, want): assert rn.needs(new_notebook(cells=[cell])) == want


def test_needs_something_unknown():
    nb = new_notebook(cells=[new_markdown_cell('# T\n- needs: tsia')])
    with pytest.raises(ValueError, match='only tsai and fashion_mnist are known'): rn.needs(nb)


def test_whole_notebook_left_out(run):
    bad = (new_markdown_cell('# T\n\n- needs: tsai'), '1/0')
    assert run(*bad, versions='latest').skipped
    assert 'ZeroDivisionError' in run(*bad).error


def test_photographs_that_are_missing(run, monkeypatch, tmp_path):
    page = (new_markdown_cell('# T\n\n- needs: fashion_mnist'), '1')
    monkeypatch.setattr(rn, 'FASHION', tmp_path)
    assert run(*page).n_run == 1
    monkeypatch.setattr(rn, 'FASHION', tmp_path/'not there')
    res = run(*page)
    assert res.n_run == 0 and 'dataset-fashion-mnist' in res.skipped


@own_and_warm
def test_store(run, tmp_path):
    res = run('x = 1\nx', '#| eval: false\n1/0', '#| slow\nx+1', 'import os\nos.getcwd()', store=True)
    assert not res.error and res.n_run == 2 and res.left_out == {'eval: false': 1, 'slow': 1}
    text = [c.outputs[0]['data']['text/plain'] if c.outputs else None for c in cells(tmp_path)]
    assert text == ['1', None, None, repr(str(tmp_path))]


@pytest.mark.parametrize('run', ['own'], indirect=True)
def test_store_notes_the_time(run, tmp_path):
    "Of the kernel and what it starts, whatever else runs; with slow cells it is another time"
    title, busy = new_markdown_cell('# T\n\n> d\n- needs: tsai'), 'import time\nwhile time.process_time() < 1.2: pass'
    noted = lambda: rn.run_time(nbformat.read(tmp_path/'page.ipynb', as_version=4))
    assert not run(title, '1').error and noted() is None
    assert 1 <= run(title, busy, 'time.sleep(2)', store=True).cpu_seconds <= 2.5
    assert noted() == 'under 10 seconds of CPU time'
    assert not run(title, '1', '#| slow\n2', store=True, flags=['slow']).error and noted() is None
    assert 'with-slow-cells: under 10 seconds' in cells(tmp_path)[0].source


def test_time_of_slow_cells():
    "Said where a page has some; another run of the rest leaves it"
    nb = new_notebook(cells=[new_markdown_cell('# T\n\n> d'), new_code_cell('#| slow\n1')])
    rn.note_run_time(nb, 12)
    assert rn.run_time(nb) == 'about 15 seconds of CPU time without slow cells'
    rn.note_run_time(nb, 240, ['slow'])
    assert rn.run_time(nb) == 'about 15 seconds of CPU time, about 4 minutes with slow cells'
    rn.note_run_time(nb, 3)
    assert rn.run_time(nb) == 'under 10 seconds of CPU time, about 4 minutes with slow cells'
    nb.cells.pop()
    assert rn.run_time(nb) == 'under 10 seconds of CPU time'


@pytest.mark.parametrize('seconds,said', [
    (0, 'under 10 seconds'), (10, 'under 10 seconds'), (10.1, 'about 15 seconds'), (15, 'about 15 seconds'),
    (89, 'about 90 seconds'), (91, 'about 2 minutes'), (300, 'about 5 minutes')])
def test_note_run_time(seconds, said):
    "Below the title, once, beside what else is there; a comment is no title"
    nb = new_notebook(cells=[new_code_cell('# x'), new_markdown_cell('# T\n\n> d\n- needs: tsai\n')])
    for s in (5000, seconds): rn.note_run_time(nb, s)
    assert nb.cells[1].source == f'# T\n\n> d\n- needs: tsai\n- runs-in: {said} of CPU time'
    assert rn.run_time(nb) == f'{said} of CPU time' and rn.needs(nb) == ['tsai'] and nb.cells[0].source == '# x'


def test_without_a_title():
    nb = new_notebook(cells=[new_code_cell('# x')])
    rn.note_run_time(nb, 3)
    assert rn.run_time(nb) is None and nb.cells[0].source == '# x'


def test_failure_stores_nothing(run, tmp_path):
    res = run('1', '1/0', store=True)
    assert 'ZeroDivisionError' in res.error and 'FAILED' in str(res)
    assert not any(c.outputs for c in cells(tmp_path))


@own_and_warm
def test_takes_too_long(run): assert 'longer than 1 s' in run('import time\ntime.sleep(60)', timeout=1).error


@own_and_warm
def test_is_interrupted(run):
    assert 'KeyboardInterrupt' in run('import time\ntime.sleep(60)', timeout=2, interrupt_on_timeout=True).error


@own_and_warm
def test_dies(run): assert 'died' in run('import os\nos._exit(1)').error


def test_leaves_files_behind(run): assert "['left.txt']" in run("open('left.txt', 'w').close()").error


def test_exit_status(run, tmp_path, capsys):
    run('1')
    assert rn.main([]) == 0
    run('1/0')
    assert rn.main([]) == 1
    assert 'ZeroDivisionError' in capsys.readouterr().err


# --- kernels that are forks

needs_forks = pytest.mark.skipif(not SUPPORTED, reason='every kernel is a process of its own here')

DRAWN = 'random', 'numpy', 'torch'
SEEN = """
import json, os, random, signal, sys, tempfile, threading, warnings
first = sorted(set(sys.modules))
import MODULES, numpy
signals = signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE
json.dump(dict(env=dict(os.environ), tmp=tempfile.gettempdir()==os.environ["TMPDIR"], cwd=os.getcwd(),
    path=sys.path, argv=sys.argv, flags=repr(sys.flags), names=sorted(globals()),
    signals=[str(signal.getsignal(o)).split(' at ')[0] for o in signals],
    threads=sorted(type(o).__name__ for o in threading.enumerate()), backend=matplotlib.get_backend(),
    rc=repr(matplotlib.rcParams), threads_of_torch=torch.get_num_threads(), dtype=str(torch.get_default_dtype()),
    warnings=sorted({*map(repr, warnings.filters)}), leads_its_group=os.getpgrp() == os.getpid(),
    random=random.random(), numpy=numpy.random.rand(), torch=torch.rand(()).item(), first=first), open(FILE, 'w'))
"""


@pytest.fixture(scope='module')
def seen(warm, tmp_path_factory):
    "What a page finds in a kernel of its own, and in two forks"
    def look(**kwargs):
        page = tmp_path_factory.mktemp('page')/'page.ipynb'
        out = tmp_path_factory.mktemp('out')/'seen.json'
        code = SEEN.replace('MODULES', ', '.join(MODULES)).replace('FILE', repr(str(out)))
        nbformat.write(new_notebook(cells=[new_code_cell(code)]), page)
        assert not rn.run(page, **kwargs).error
        return json.loads(out.read_text().replace(str(page.parent), 'FOLDER'))
    return look(), look(**warm), look(**warm)


@needs_forks
def test_a_fork_is_like_a_kernel_of_its_own(seen):
    own, fork = [{k: v for k, v in o.items() if k not in (*DRAWN, 'first')} for o in seen[:2]]
    for o in own, fork:
        o['argv'][2] = None  # the file of the connection
        for k in 'IPYTHONDIR TMPDIR JPY_PARENT_PID'.split(): assert o['env'].pop(k)  # each kernel has its own
        o['env'].pop('TORCHINDUCTOR_CACHE_DIR', None)  # in TMPDIR, and a fork sets it when it needs it
    assert own == fork and own['tmp'] and own['cwd'] == 'FOLDER' and 'inline' in own['backend']


@needs_forks
def test_forks_draw_other_random_numbers(seen):
    for o in DRAWN: assert len({s[o] for s in seen}) == 3


@needs_forks
def test_forks_have_not_imported_what_patches_others(seen):
    tops = [{m.split('.')[0] for m in o['first']} for o in seen]
    assert 'torch' in tops[1] and 'torch' not in tops[0]
    assert not {'fastai', 'fastcore', 'fasttransform', 'tsai', 'noisy_student_fastai',
                'run_notebooks'} & (tops[0] | tops[1])


@needs_forks
def test_forks_end_with_who_started_them(warm, tmp_path):
    async def start():
        km = warm['kernel_manager_class']()
        await km.start_kernel(env=rn.environment(str(tmp_path)), cwd='.', stdout=-1)
        return km.provisioner
    p = asyncio.run(start())
    p.process.conn.close()  # as when the process ends
    until = time.time()+20
    while time.time() < until and Path(f'/proc/{p.pid}').exists(): time.sleep(.05)
    assert not Path(f'/proc/{p.pid}').exists()


@pytest.mark.parametrize('html,want', [('<style>p { color: red }</style>\n', 1), ('', 1), ('<p>x</p>', 3)])
def test_tidy(html, want):
    "Parts of a stream become one, and a display in which nothing can be seen goes"
    out = nbformat.v4.new_output
    outs = [out('stream', text='a '), out('display_data', {'text/html': html, 'text/plain': 'HTML'}),
            out('stream', text='li'), out('stream', text='ne')]
    nb = new_notebook(cells=[new_code_cell('x', outputs=outs)])
    rn.tidy(nb)
    assert len(nb.cells[0].outputs) == want
    assert nb.cells[0].outputs[-1].text == ('a line' if want == 1 else 'line')
