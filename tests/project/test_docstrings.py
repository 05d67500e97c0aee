"Docstrings name every parameter, and nothing else of a module has changed"
import ast
import inspect

import pytest
from docstrings import with_params
from symbols import Errors, symbols

pytestmark = pytest.mark.tools

SRC = r'''
def f(
    a, # The first \ one
    b:int=1, # The "second"
    *,
    c=None
)->int: # A number
    'One line, "quoted"'
    return 1

class A:
    """Two

    paragraphs"""
    def __init__(self, x, # What
        y=2): # Why
        pass
    def plain(self, z): "No comment"
    def _own(self,
        q): # Private
        "Stays"

@patch
def g(self:A,
    n=3 # How many
):
    "Patched"

def h(a): # -> int
    "Only a type"
'''


def docs(src):
    space = {'patch': lambda f: f}
    exec(src, space)
    return {k: inspect.getdoc(space[k]) for k in 'fAgh'}


def test_small():
    got = docs(with_params(SRC))
    assert got['f'] == ('One line, "quoted"\n\nParameters:\n    a: The first \\ one\n    b: The "second"\n\n'
                        'Returns: A number')
    assert got['A'] == 'Two\n\nparagraphs\n\nParameters:\n    x: What\n    y: Why'
    assert got['g'] == 'Patched\n\nParameters:\n    n: How many'
    assert got['h'] == 'Only a type'


def without_docstrings(src):
    tree = ast.parse(src)
    for o in ast.walk(tree):
        if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(o): o.body[0].value.value = ''
    return ast.dump(tree)


def test_nothing_else_changes(): assert without_docstrings(with_params(SRC)) == without_docstrings(SRC)


A = '''
from ours.b import Box, look
from ours.checks import BadType, BadValue, check, check_number, check_whole
def _check(x): raise ValueError(f'x={x}: expected a whole number')
def f(x):
    _check(x)
    look(x)
def g(x, many):
    expected = 'expected a path'
    check(x, 'x', x, expected, FileNotFoundError, key='a.b')
    check(x, 'x', x, error=TypeError, expected='something else')
    check_number('n', x, bool, f'{x} or more: {expected}')
    check_whole('k', x, 1, hi=len(x))
    if many: raise BadValue('x', x, expected)
    raise BadType('x', x, said=f'x and {many+many} do not fit', key='c') from None
@patch
def add(self:Box, y):
    if y is None: raise TypeError(f'y={y}: expected a number')
    self.put(y)
'''
B = '''
def _check(x): raise ValueError('this is another check')
def look(x): raise ValueError(f"{x} has shape {x}")
class Box:
    def put(self, y): _check(y)
'''


def test_errors():
    "A name means what its own module has or imports; texts may have a name; what tells nothing is left out"
    found = {s.name: Errors({'a': A, 'b': B}).of(s, m) for m, src in (('a', A), ('b', B)) for s in symbols(src)}
    assert found['f'] == [('ValueError', 'x=…: expected a whole number')]
    assert found['Box.add'] == [('TypeError', 'y=…: expected a number'), ('ValueError', 'this is another check')]
    assert found['look'] == []
    assert sorted(found['g']) == sorted([
        ('FileNotFoundError', 'x=…: expected a path'), ('TypeError', 'x=…: something else'),
        ('TypeError or ValueError', 'n=…: … or more: expected a path'),
        ('TypeError or ValueError', 'k=…: expected a whole number from 1 to len(x)'),
        ('ValueError', 'x=…: expected a path'), ('TypeError', 'x and … do not fit')])
