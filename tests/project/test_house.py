"The house stands: imports run one way, each module has its tests, errors are read by their fields"
import ast
import re

import pytest
from house import WINGS, Module, against_order, modules, table
from run_notebooks import ROOT, settings
from symbols import unparse

pytestmark = pytest.mark.tools
LIB, TESTS = ROOT/settings()['lib_path'], ROOT/'tests'
HOUSE = modules(ROOT)
SOURCES = {m.name: (LIB/f"{m.name.replace('.', '/')}.py").read_text() for m in HOUSE}


# --- imports

def test_imports_run_one_way(): assert against_order(HOUSE, SOURCES) == []


def by_full_name(src):
    "Lines that import the package by its full name: such a module can't be moved into another package, or renamed"
    tree = ast.parse(src)
    tree.body = [o for o in tree.body if not (isinstance(o, ast.If) and unparse(o.test) == 'TYPE_CHECKING')]
    return [o.lineno for o in ast.walk(tree)
            if isinstance(o, ast.ImportFrom) and (o.module or '').split('.')[0] == LIB.name and not o.level
            or isinstance(o, ast.Import) and any(a.name.split('.')[0] == LIB.name for a in o.names)]


def test_modules_know_each_other_by_their_place():
    "nbdev makes an import relative only if it stands on one line; what is imported for what it does has no other form"
    assert by_full_name(f'from {LIB.name}.a import b, \\\n    c\nfrom .a import d\nimport {LIB.name}.a') == [1, 4]
    bad = {m: ls for m, src in SOURCES.items() if (ls := by_full_name(src))}
    assert {m: len(ls) for m, ls in bad.items()} == {'all': 2, 'app.cli': 1, 'app.job': 1}


A, B, C = Module('a', (0, 1), ''), Module('b', (0, 2), ''), Module('noise.c', (1, 0), '')
CLI, ALL = Module('app.cli', (5, 0), ''), Module('all', (6, 0), '')


@pytest.mark.parametrize('mod,line,n', [
    (B, 'from .a import x', 0), (C, 'from ..b import x', 0), (ALL, 'from .noise.c import x', 0),
    (A, 'from fastai.b import x', 0), (A, 'if TYPE_CHECKING: from .b import x', 0),
    (A, 'from .b import x', 1), (A, 'from .a import x', 1), (A, 'from . import b', 1),
    (A, 'def f(): from .b import x', 1),
    (A, 'from .noise.c import x', 1), (A, 'from .noise import c', 1), (A, 'import noisy_student_fastai.noise.c', 1),
    (C, 'from noisy_student_fastai.app.cli import x', 1), (ALL, 'import noisy_student_fastai.app.cli', 1),
    (ALL, 'from .app import cli', 1)])
def test_wrong_ways_are_found(mod, line, n): assert len(against_order([A, B, C, CLI, ALL], {mod.name: line})) == n


def test_every_module_has_a_notebook():
    "... and a place in the order of the wings, by its folder and its number; no two have the same"
    there = {'.'.join(p.relative_to(LIB).with_suffix('').parts) for p in LIB.rglob('[!_]*.py')}
    assert there == SOURCES.keys() and {m.wing for m in HOUSE} == WINGS.keys()
    assert len({m.place for m in HOUSE}) == len(HOUSE)


def test_table():
    "CONTRIBUTING.md has it from the notebooks"
    assert table(HOUSE) in (ROOT/'CONTRIBUTING.md').read_text()
    small = table([Module('checks', (0, 0), 'errors'), Module('noise.rows', (1, 0), 'rows | all')]).splitlines()
    assert small[2:] == [f"| **core**: {WINGS['core']} | `checks` | errors |",
                         f"| **noise**: {WINGS['noise']} | `noise.rows` | rows &#124; all |"]


# --- tests

def test_each_module_has_its_tests():
    want = [m.replace('.', '/').rpartition('/') for m in SOURCES]
    assert [f for a, b, c in want if not (TESTS/(f := f'{a}{b}test_{c}.py')).exists()] == []


@pytest.mark.parametrize('wing', [k for k in WINGS if k not in ('core', 'all')])
def test_each_test_has_its_module(wing):
    "`test_labeling_kinds` is of `labeling`, too"
    mods = [m.name.split('.')[1] for m in HOUSE if m.wing == wing]
    assert [p.name
            for p in (TESTS/wing).glob('test_*.py') if not re.match(f"test_({'|'.join(mods)})[_.]", p.name)] == []


def test_tests_share_helpers_only():
    "No test file imports another: what two of them use is in a module beside them"
    names = {p.stem for p in TESTS.rglob('test_*.py')}
    bad = [(p.name, n) for p in TESTS.rglob('*.py')
           for n in re.findall(r'^\s*(?:from|import) (?:\w+\.)*(test_\w+)', p.read_text(), flags=re.M)]
    assert [o for o in bad if o[1] in names] == []


# --- errors

def by_module(find):
    "`{module: lines}` where `find` finds something in a source"
    return {m: ls for m, src in SOURCES.items() if (ls := find(src))}


def reads_text(src):
    "Lines that look into the text of an error that was caught; to say it in other words, `f'{e}'` will do"
    res = []
    for h, name in caught(ast.parse(src)):
        texts = {f'str({name})', f'repr({name})', f'{name}.args', f"f'{{{name}}}'"}
        is_text = lambda o: unparse(o) in texts or isinstance(o, ast.Subscript) and is_text(o.value)
        for o in [o for b in h.body for o in ast.walk(b)]:
            if isinstance(o, ast.Compare): used = [o.left, *o.comparators]
            elif isinstance(o, (ast.Attribute, ast.Assign, ast.NamedExpr)): used = [o.value]
            else: used = o.args if isinstance(o, ast.Call) and unparse(o.func).startswith('re.') else []
            if any(map(is_text, used)): res.append(o.lineno)
    return res


def caught(tree):
    "`(node, name)`: where an error has a name, after `except ... as` or as the parameter of a function"
    for o in ast.walk(tree):
        if isinstance(o, ast.ExceptHandler) and o.name: yield o, o.name
        if isinstance(o, ast.FunctionDef):
            yield from ((o, a.arg) for a in o.args.args if a.arg in ('e', 'err', 'error'))


@pytest.mark.parametrize('use,n', [
    ("raise ValueError(f'{e} (in a schedule)')", 0), ("print(e)", 0), ("x = e.expected", 0),
    ("raise ValueError(e.called('labels'))", 0),
    ("x = 'shape' in str(e)", 1), ("str(e).replace('a', 'b')", 1), ("x = str(e)", 1), ("re.sub('a', 'b', str(e))", 1),
    ("if e.args[0].startswith('a'): pass", 1), ("if 'a' in f'{e}': pass", 1), ("if (s := repr(e)): pass", 1)])
def test_uses_of_an_error(use, n):
    assert len(reads_text(f'try: f()\nexcept ValueError as e:\n    {use}')) == n
    assert len(reads_text(f'def f(e):\n    {use}')) == n


def test_errors_are_not_known_by_their_text(): assert by_module(reads_text) == {}


def bare(src):
    "Lines that raise an error without fields about an argument"
    kinds = 'ValueError', 'TypeError', 'FileNotFoundError'
    found = [o for o in ast.walk(ast.parse(src)) if isinstance(o, ast.Raise) and o.exc]
    return [o.lineno for o in found if unparse(o.exc.func if isinstance(o.exc, ast.Call) else o.exc) in kinds]


def test_bare_errors_are_found():
    assert bare('raise ValueError("x")\nraise TypeError\nraise BadValue("x")\nraise\nraise OSError("x")') == [1, 2]


def test_errors_have_fields(): assert by_module(bare).keys() <= {'checks'}
