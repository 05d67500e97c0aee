"What an editor knows: each public method after a dot, without running anything, and the type of each parameter"
import inspect
from importlib import import_module

import jedi
import pytest
from house import modules
from run_notebooks import ROOT, settings
from symbols import symbols

pytestmark = pytest.mark.tools
LIB = settings()['lib_name']
BEGIN = f'from {LIB}.all import *\n'


@pytest.fixture(scope='module')
def editor():
    "A function: what jedi, which Jupyter and many editors ask, knows of the end of a text"
    project = jedi.Project(ROOT)
    def _editor(code): return jedi.Script(BEGIN + code, project=project, environment=jedi.InterpreterEnvironment())
    return _editor


def end(code): return len((BEGIN + code).split('\n')), len(code.split('\n')[-1])


def methods(name):
    "`{public method or property of a class: its module}`, of this package"
    cls = getattr(import_module(f'{LIB}.all'), name)
    found = inspect.getmembers_static(cls, lambda o: isinstance(o, (property, classmethod, staticmethod))
                                      or inspect.isfunction(o))
    home = lambda o: inspect.unwrap(o.fget if isinstance(o, property) else getattr(o, '__func__', o)).__module__
    return {k: home(o) for k, o in found if k[0] != '_' and home(o).startswith(LIB)}


@pytest.mark.parametrize('code,name,some', [
    ('def f(o:PseudoLabels): o.', 'PseudoLabels', 'select dl show save temper'),
    ('PseudoLabels.', 'PseudoLabels', 'open of'),
    pytest.param('PseudoLabels.open("labels").', 'PseudoLabels', 'select'),
    ('def f(o:PseudoLabels): o.select().', 'Selection', 'dl df show'),
    ('NoisyStudent(1).', 'NoisyStudent', 'one_batch show_batch'),
    ('StudentNoise().', 'StudentNoise', 'before_fit'),
    ('self_train(1, 2).', 'Run', 'learner plot'),
    ('def f(o:Run): o.', 'Run', 'learner labels')])
def test_completions(editor, code, name, some):
    "All public methods, and `some` of them are what the name says that they are"
    known = {o.name for o in editor(code).complete(*end(code))}
    assert set(some.split()) <= known
    home = getattr(import_module(f'{LIB}.all'), name).__module__
    assert {k for k, mod in methods(name).items() if mod == home} - known == set()


@pytest.mark.parametrize('name', ['PseudoLabels', 'Selection', 'NoisyStudent', 'StudentNoise', 'Run'])
def test_no_method_comes_from_elsewhere(editor, name):
    "... as no editor would know it"
    known = {o.name for o in editor(f'{name}.').complete(*end(f'{name}.'))}
    assert methods(name).keys() - known == set()


@pytest.mark.parametrize('name', ['NoisyStudent', 'StudentNoise', 'PseudoLabels.select', 'self_train'])
def test_signatures(editor, name):
    "All parameters are there between the brackets"
    sig, = editor(f'{name}(').get_signatures(*end(f'{name}('))
    real = import_module(f'{LIB}.all')
    for k in name.split('.'): real = getattr(real, k)
    assert [o.name
            for o in sig.params if o.name != 'self'] == [o for o in inspect.signature(real).parameters if o != 'self']


def untyped(mod):
    "Public parameters and results of a module that say no type"
    for s in symbols((ROOT/settings()['lib_path']/f"{mod.replace('.', '/')}.py").read_text()):
        yield from (f'{s.name}: {p.name}' for p in s.params if p.name not in '*/' and not p.type)
        if s.kind != 'class' and not s.node.returns: yield f'{s.name} ->'


def test_types(): assert {o.name: bad for o in modules(ROOT) if (bad := list(untyped(o.name)))} == {}
