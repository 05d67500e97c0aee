"""The house: which modules there are, in which wing, in which order, and what each is for

All of it is in the notebooks: a folder is a wing, a notebook's number is its place there, the line `> ...` below its
title says what it is for. CONTRIBUTING.md shows it as a table, which `make prepare` writes; tests/project/test_house.py
asks whether imports keep to the order.
"""
import ast
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import nbformat
from run_notebooks import directives, notebooks, settings, title_cell
from symbols import imported

# In the order in which they build on each other; `app` is what only the command needs, `all` gathers the public names
WINGS = {'core': 'what all the others stand on', 'noise': 'what disturbs a student',
         'labels': 'a teacher labels, rows are selected',
         'pretraining': 'a model learns without labels first', 'rounds': 'teacher, student, teacher; a run remembers',
         'data': 'arrays and small data sets', 'app': 'the command',
         'all': 'the public names'}


@dataclass(frozen=True)
class Module:
    "An exported module"
    name: str     # after the package's: `noise.rows`
    place: tuple  # what it may import comes before it
    lead: str     # what it is for

    @property
    def wing(self): return wing(self.name)


def wing(name): return name if name == 'all' else name.rpartition('.')[0] or 'core'


def module(path):
    "The module that the notebook at `path` makes, or None"
    nb = nbformat.read(path, as_version=4)
    name = next((d['default_exp'] for d in map(directives, nb.cells) if 'default_exp' in d), None)
    if not name: return None
    lead = re.search(r'^> (.*)', title_cell(nb).source, flags=re.M)[1]
    return Module(name, ([*WINGS].index(wing(name)), int(re.match(r'\d+', path.stem)[0])), lead)


def modules(root):
    "All modules of the project in the folder `root`, in order"
    found = map(module, notebooks(root))
    return sorted(filter(None, found), key=lambda m: m.place)


def imports(src, name):
    "What the module `name` imports of its own package, also inside of functions, as `[(line, module or name in one)]`"
    lib, res = settings()['lib_name'], []
    for o in ast.walk(run(ast.parse(src))):
        if isinstance(o, ast.Import): found = [a.name.partition('.')[2] for a in o.names if a.name.split('.')[0] == lib]
        elif isinstance(o, ast.ImportFrom) and (o.level or o.module.split('.')[0] == lib):
            there = imported(o, name)
            found = [there, *[f'{there}.{a.name}'.lstrip('.') for a in o.names]]
        else: found = []
        res += [(o.lineno, m) for m in found]
    return res


def run(tree):
    "The module without what only editors read"
    tree.body = [o for o in tree.body if not (isinstance(o, ast.If) and ast.unparse(o.test) == 'TYPE_CHECKING')]
    return tree


def against_order(mods, sources):
    "Imports that go the wrong way, in words; `sources` are those of the modules `mods` by their names"
    place = {m.name: m.place for m in mods}
    res = []
    for name, src in sources.items():
        for line, there in imports(src, name):
            if place.get(there, (-1,)) >= place[name]:
                res.append(f'{name}, line {line}: {there} does not come before it')
            if (wing(name), wing(there)) == ('all', 'app'):
                res.append(f'{name}, line {line}: only the command needs {there}')
    return res


def table(mods):
    "The house in Markdown"
    rows = ['| wing | module | what it is for |', '|---|---|---|']
    for k, ms in groupby(mods, key=lambda m: m.wing):
        for i, m in enumerate(ms):
            rows.append(f"| {'' if i else f'**{k}**: {WINGS[k]}'} | `{m.name}` | {m.lead.replace('|', '&#124;')} |")
    return '\n'.join(rows)


MARKS = '<!-- house: made from the notebooks by `make prepare` -->\n', '\n<!-- end -->'


def main(path=Path('CONTRIBUTING.md')):
    "Write the table into the page at `path`, between its marks"
    begin, end = MARKS
    text = path.read_text()
    before, after = text.partition(begin)[0], text.partition(begin)[2].partition(end)[2]
    path.write_text(before + begin + table(modules(path.parent)) + end + after)
