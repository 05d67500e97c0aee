"In an exported module methods stand in their classes, and do what they did as `@patch`ed functions"
import ast
import inspect
import io
from contextlib import redirect_stdout

import pytest
from methods import joined
from run_notebooks import ROOT, settings
from symbols import patched

pytestmark = pytest.mark.tools
MODULES = sorted((ROOT/settings()['lib_path']).rglob('[!_]*.py'))


def src(text): return 'from fastcore.basics import patch\n\n' + text.strip('\n') + '\n'


GROWS = src('''
# %% a.ipynb #1
class A:
    "A thing"
    def __init__(self, x): self.x = x

# %% a.ipynb #2
B = 3

# %% a.ipynb #3
# Why this
# is so
@patch
def twice(self:A, y=B):
    "Two\\n\\n    lines"
    return 2*self.x+y

@patch(as_prop=True)
def half(self:A): return self.x/2

@patch(set_prop=True)
def half(self:A, v): self.x = 2*v

@patch(cls_method=True)
def make(cls:A, x:int)->'A':
    "A new one"
    return cls(x)

# %% a.ipynb #4
def f(): return 1
''').replace('B = 3\n', 'def g(): return 2\n').replace('y=B', 'y=1')

TOGETHER = '''
# %% a.ipynb #1
class A:
    "A thing"
    def __init__(self, x): self.x = x

    # Why this
    # is so
    def twice(self, y=1):
        "Two\\n\\n    lines"
        return 2*self.x+y

    @property
    def half(self): return self.x/2

    @half.setter
    def half(self, v): self.x = 2*v

    @classmethod
    def make(cls, x:int)->'A':
        "A new one"
        return cls(x)

# %% a.ipynb #2
def g(): return 2

# %% a.ipynb #4
def f(): return 1
'''


def test_a_class_that_grows():
    "Properties, class methods and comments come along, cells that lost their code go, and the import that nothing uses"
    assert joined(GROWS).strip() == TOGETHER.strip()


def test_what_is_in_classes_stays(): assert joined(TOGETHER) == TOGETHER


@pytest.mark.parametrize('decorator', ['@patch', '@patch()'])
def test_strings_stay(decorator):
    "An indent would change what they say, an empty line less too; only docstrings get one"
    text = src(f"""
class A: pass

{decorator}
def f(self:A):
    '''Says

    something'''
    return '''one


  two
# %% three
''', ('four'
      'five')
""")
    new = joined(text)
    assert called(new, 'A().f()') == called(text, 'A().f()') == ('one\n\n\n  two\n# %% three\n', 'fourfive')
    assert "\n        '''Says\n\n        something'''\n" in new and "\n          'five')" in new
    assert called(new, 'A.f.__doc__') == called(text, 'A.f.__doc__').replace('\n    ', '\n        ')


def test_f_strings_stay():
    text = src('class A: pass\n\n@patch\ndef f(self:A, x):\n    return f"""\n  {x}\n y\n"""')
    assert called(joined(text), 'A().f(1)') == '\n  1\n y\n'


def test_annotations_that_name_later_classes():
    "While a class body runs, neither the class nor those below it are there"
    text = src('''
class A: pass

class B:
    @property
    def a(self)->A: return A()

@patch
def b(self:A, é:int=0, o:B|None=None, *bs:B, k:dict[str,
      list[B]]=None)->A: return self

@patch
def c(self:B, a:A, o:'B'=None)->B: return self
''')
    new = joined(text)
    assert "def b(self, é:int=0, o:'B|None'=None, *bs:'B', k:'dict[str, list[B]]'=None)->'A': return self" in new
    assert "def c(self, a:A, o:'B'=None)->'B': return self" in new
    assert called(new, 'B().a.b(o=B()).b()').__class__.__name__ == 'A'


def test_patches_of_other_classes_stay():
    text = src('''
from fastai.learner import Learner

class A: pass

@patch
def f(self:A): return 1

@patch
def g(self:Learner): return 2

@patch
def h(self:(A, Learner)): return 3
''')
    new = joined(text)
    for o in ('import patch\n', '@patch\ndef g(self:Learner)', '@patch\ndef h(self:(A, Learner))'): assert o in new
    assert '    def f(self): return 1' in new


@pytest.mark.parametrize('line,left', [
    ('from fastcore.basics import noop, patch', 'from fastcore.basics import noop\n'),
    ('from fastcore.basics import patch, noop', 'from fastcore.basics import noop\n'),
    ('from fastcore.basics import noop, patch, store_attr', 'from fastcore.basics import noop, store_attr\n'),
    ('from fastcore.basics import patch', '')])
def test_the_import(line, left):
    "What is said of a patch in words doesn't count"
    new = joined(f'{line}\n"a patch"  # to patch\nclass A: x = 1\n@patch\ndef f(self:A): pass\n')
    assert new.startswith(left + '"a patch"')


@pytest.mark.parametrize('first', ['class A:\n    def f(self): pass', 'class A: pass\n\n@patch\ndef f(self:A): pass'])
def test_two_methods_of_one_name(first):
    with pytest.raises(ValueError, match='A.f is there more than once'):
        joined(src(f'{first}\n\n@patch\ndef f(self:A): pass'))


def test_a_class_on_one_line():
    new = joined(src('class A: x = 1\n\n@patch\ndef f(self:A): return self.x'))
    assert 'class A:\n    x = 1\n\n    def f(self): return self.x\n' in new


# --- it behaves as before

def space(text):
    res = {}
    exec(compile(text, 'module', 'exec'), res)
    return res


def called(text, call): return eval(call, space(text))


USES = '''
a = A.make(4)
print(a.twice(), a.half, f(), type(a).__name__, isinstance(A.__dict__['half'], property))
a.half = 5
print(a.x, a.twice(y=2))
'''


def test_small_sources_behave_the_same():
    def said(text):
        with redirect_stdout(io.StringIO()) as out: exec(USES, space(text))
        return out.getvalue()
    assert said(joined(GROWS)) == said(GROWS) == '9 2.0 1 A True\n10 22\n'


def test_signatures_are_the_same():
    a, b = space(GROWS)['A'], space(joined(GROWS))['A']
    plain = lambda f: [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
    for k in ('twice', 'make'): assert plain(getattr(a, k)) == plain(getattr(b, k))


# --- the modules of this project

@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_modules(path):
    "No function is left that is patched into a class of its own module"
    tree = ast.parse(path.read_text())
    own = {o.name for o in tree.body if isinstance(o, ast.ClassDef)}
    left = [(o.name, k) for o in tree.body if isinstance(o, ast.FunctionDef) for k in patched(o) if k in own]
    assert not left
