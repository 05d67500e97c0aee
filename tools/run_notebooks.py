"""Run notebooks in a Jupyter kernel, as a reader does, with either set of versions (nbdev's runner needs fastcore 1)

    python tools/run_notebooks.py [NOTEBOOK ...]            # run, say what failed
    python tools/run_notebooks.py --store [NOTEBOOK ...]    # and keep the outputs in the notebooks

Left out are cells that hold `#| eval: false`, a call of `nbdev_export`, or one of the `tst_flags` of settings.ini that
`--flags` doesn't name. With `--set=latest`, which has no tsai, `#| tsai` cells are left out too, and whole notebooks
that say `- needs: tsai` below their title. Those that say `- needs: fashion_mnist` are left out where Debian's package
dataset-fashion-mnist is not installed.
"""
import argparse
import os
import re
import resource
import sys
import tempfile
import time
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
KNOWN = 'tsai'  # what a notebook or a cell may need that the latest set does not have
FASHION = Path('/usr/share/datasets/fashion-mnist')  # what a notebook may need that no Python package has


def settings():
    "The project's section of settings.ini"
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


def notebooks(root=None):
    "Every notebook of the project in the folder `root`, in order, as nbdev finds them: none with `_` or `.` in front"
    nbs = (root or ROOT)/settings()['nbs_path']
    hidden = lambda p: any(o[0] in '._' for o in p.relative_to(nbs).parts)
    return [p for p in sorted(nbs.rglob('*.ipynb')) if not hidden(p)]


def directives(cell):
    "The directives of a code cell: for `#| eval: false`, `{'eval': 'false'}`; for `#| slow`, `{'slow': ''}`"
    if cell.cell_type != 'code': return {}
    found = re.findall(r'^\s*#\s*\|\s*([\w-]+):?[ \t]*(.*?)\s*$', cell.source, flags=re.M)
    return dict(found)


def needs(nb):
    "What the whole notebook needs: the words after `- needs:` below its title, or `needs:` in its raw front matter"
    for c in nb.cells:
        m = re.search(r'^(?:- *)?needs: *(.+)$', c.source, flags=re.M) if c.cell_type != 'code' else None
        if m and (c.cell_type == 'raw' or c.source.lstrip().startswith('# ')):
            words = m[1].split()
            if bad := [w for w in words if w not in (KNOWN, 'fashion_mnist')]:
                raise ValueError(f'`needs: {bad[0]}`: only {KNOWN} and fashion_mnist are known')
            return words
    return []


def missing(nb, versions):
    "Why the whole notebook can't run here, or None"
    words = needs(nb)
    if versions == 'latest' and KNOWN in words: return f'needs {KNOWN}, which the latest set does not have'
    if 'fashion_mnist' in words and not FASHION.exists():
        return "needs Debian's package dataset-fashion-mnist, which `make data` installs"


RUNS_IN = re.compile(r'^- (runs-in|with-slow-cells): (.+)\n?', flags=re.M)


def title_cell(nb): return next((c for c in nb.cells if c.cell_type == 'markdown' and c.source.startswith('# ')), None)


def noted_times(nb): return dict(RUNS_IN.findall(c.source)) if (c := title_cell(nb)) else {}


def run_time(nb):
    "What the notebook takes to run, without and with its slow cells, as the lines below its title say, or None"
    said = noted_times(nb)
    if (res := said.get('runs-in')) and any('slow' in directives(c) for c in nb.cells):
        res += f', {said["with-slow-cells"]} with slow cells' if 'with-slow-cells' in said else ' without slow cells'
    return res


def in_words(seconds):
    "Roughly"
    if seconds <= 10: return 'under 10 seconds'
    return f'about {5 * -(-seconds // 5):.0f} seconds' if seconds <= 90 else f'about {seconds / 60:.0f} minutes'


def note_run_time(nb, seconds, flags=()):
    "Say below its title what a notebook takes, in CPU time, which hardly depends on what else runs"
    said, now = noted_times(nb), in_words(seconds)
    if 'slow' in flags: said['with-slow-cells'] = now
    elif not flags: said['runs-in'] = f'{now} of CPU time'
    lines = [f'- {k}: {said[k]}' for k in ('runs-in', 'with-slow-cells') if k in said]
    if c := title_cell(nb): c.source = '\n'.join([RUNS_IN.sub('', c.source).rstrip(), *lines])


def left_out(cell, flags=(), versions='stable'):
    "Why this cell is not to be run, or None"
    d = directives(cell)
    if d.get('eval', '').lower() == 'false': return 'eval: false'
    if cell.cell_type == 'code' and 'nbdev_export(' in cell.source: return 'nbdev_export'
    asked = set(settings()['tst_flags'].split()) - set(flags) | ({KNOWN} if versions == 'latest' else set())
    return next((w for w in sorted(asked) if w in d), None)


@dataclass
class Result:
    "What became of one notebook"
    path: Path
    error: str = ''    # what went wrong, for people
    skipped: str = ''  # why all of it was left out
    n_run: int = 0
    left_out: dict = None  # why -> how many cells
    seconds: float = 0.
    cpu_seconds: float = 0.  # of the kernel and what it started

    def __str__(self):
        name = self.path.relative_to(ROOT)
        if self.skipped: return f'{name}: left out, {self.skipped}'
        out = ''.join(f', {n} left out ({why})' for why, n in sorted(self.left_out.items()))
        return f"{name}: {'FAILED' if self.error else 'ok'}, {self.n_run} cells{out}, {self.seconds:.1f} s"


def environment(home):
    "Environment for a kernel: this checkout's package, no IPython start-up files of the user, no warnings in pages"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    return {**os.environ, 'PYTHONPATH': path, 'PYTHONWARNINGS': 'ignore', 'IPYTHONDIR': home, 'IN_TEST': '1'}


def run(path, flags=(), versions='stable', store=False, timeout=600, **kwargs):
    "Run the notebook at `path` in its own kernel and folder; `timeout` is for one cell, `kwargs` for `NotebookClient`"
    path = Path(path).resolve()
    nb = nbformat.read(path, as_version=4)
    res = Result(path, left_out={})
    if why := missing(nb, versions):
        res.skipped = why
        return res
    todo = []
    for c in nb.cells:
        if c.cell_type != 'code' or not c.source.strip(): continue
        why = left_out(c, flags, versions)
        if why: res.left_out[why] = res.left_out.get(why, 0) + 1
        else: todo.append(c)
    ran = nbformat.v4.new_notebook(cells=todo, metadata=nb.metadata)  # shares its cells with `nb`
    before, start, cpu = set(path.parent.iterdir()), time.time(), cpu_of_children()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:  # what is killed may write for a moment
        client = NotebookClient(ran, timeout=timeout, kernel_name='python3', extra_arguments=['--log-level=ERROR'],
                                resources={'metadata': {'path': path.parent}}, **kwargs)
        # A kernel that is killed leaves its temporary files behind: they go with `home`
        try: client.execute(env=environment(home) | {'TMPDIR': home})
        except CellExecutionError as e: res.error = str(e)
        except CellTimeoutError as e: res.error = f'a cell took longer than {timeout} s: {e}'
        except DeadKernelError as e: res.error = f'the kernel died: {e}'
    res.n_run, res.seconds, res.cpu_seconds = len(todo), time.time() - start, cpu_of_children() - cpu
    made = sorted(p.name for p in set(path.parent.iterdir()) - before if p.name[0] not in '._')
    if made and not res.error: res.error = f'leaves files behind: {made}; write to a temporary folder'
    if store and not res.error:
        note_run_time(nb, res.cpu_seconds, flags)
        tidy(nb)
        save(nb, path)
    return res


def cpu_of_children():
    "Seconds of CPU time that ended child processes have used, and the children of these"
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def tidy(nb):
    "One stream where a kernel has sent several parts of it, and no displays of wiped progress bars"
    for c in nb.cells:
        if c.cell_type != 'code': continue
        outputs = []
        for o in c.outputs:
            if is_wiped(o): continue
            goes_on = outputs and o.output_type == 'stream' and outputs[-1].get('name') == o.name
            if goes_on: outputs[-1].text += o.text
            else: outputs.append(o)
        c.outputs = outputs


def is_wiped(output):
    "Can nothing be seen of it? Progress bars leave their style behind, and an empty text"
    html = output.get('data', {}).get('text/html')
    return html is not None and not re.sub(r'(?s)<style>.*?</style>', '', html).strip()


def save(nb, path):
    "Write the notebook in one step, so that an interrupt can't leave half of it"
    tmp = path.with_suffix('.tmp')
    nbformat.write(nb, tmp)
    tmp.replace(path)


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebook', nargs='*', type=Path, help='which ones (default: all)')
    p.add_argument('--store', action='store_true', help='write the outputs into the notebooks')
    p.add_argument('--timeout', type=int, default=600, help='seconds that a cell may take (default: 600)')
    p.add_argument('--flags', default='', help='flags whose cells run too, space separated')
    p.add_argument('--set', dest='versions', choices=['stable', 'latest'], default='stable')
    a = p.parse_args(args)
    failed = 0
    for path in a.notebook or notebooks():
        res = run(path, a.flags.split(), a.versions, a.store, a.timeout)
        print(res, flush=True)
        if res.error: print(res.error, file=sys.stderr)
        failed += bool(res.error)
    return bool(failed)


if __name__ == '__main__': sys.exit(main())
