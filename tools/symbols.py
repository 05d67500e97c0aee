"""What there is to know about each public symbol, read from source code: nothing is imported

The documentation pages and the docstrings of the exported modules are made from this. A comment behind a parameter, a
field or a return type is its description (fastcore calls them docments).
"""
import ast
import io
import re
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

# Parameters of our own checks, and of errors with fields
CHECKS = {'check': 'ok name v expected error', 'check_number': 'name v ok expected', 'check_whole': 'name v lo hi'}
FIELDS = 'argument value expected said'
KINDS = {'BadValue': 'ValueError', 'BadType': 'TypeError', 'MissingFile': 'FileNotFoundError', 'Changed': 'ValueError',
         'OtherRun': 'ValueError', 'Damaged': 'ValueError'}


@dataclass
class Param:
    "A parameter, a field, or what is returned, as it is in the source"
    name: str
    type: str = ''
    default: str = ''
    doc: str = ''


@dataclass
class Symbol:
    "A class, function, method or property"
    name: str   # with its class, if it is a method
    kind: str   # a directive of Sphinx's Python domain: class, function, method, property
    node: ast.AST
    doc: str = ''
    params: list = field(default_factory=list)
    returns: Param = None

    @property
    def signature(self):
        "Names and defaults; the types are in the table"
        if self.kind == 'property': return ''
        return '(' + ', '.join(p.name + (f'={p.default}' if p.default else '') for p in self.params) + ')'


def comments(src):
    "`{line: text}` of the comments in `src`"
    toks = tokenize.generate_tokens(io.StringIO(src).readline)
    return {t.start[0]: t.string.lstrip('# ').rstrip() for t in toks if t.type == tokenize.COMMENT}


def unparse(node): return ast.unparse(node).replace(' | ', '|') if node else ''


def fn_params(fn, notes):
    "Parameters of a function, without `self`; `*` and `/` are among them, so that the signature is right"
    a = fn.args
    pos = a.posonlyargs + a.args
    pairs = list(zip(pos, [None] * (len(pos) - len(a.defaults)) + a.defaults))
    one = lambda o, d=None, star='': Param(star + o.arg, unparse(o.annotation), unparse(d), notes.get(o.lineno, ''))
    res = [one(*o) for o in pairs]
    if a.posonlyargs: res.insert(len(a.posonlyargs), Param('/'))
    if a.vararg: res.append(one(a.vararg, star='*'))
    elif a.kwonlyargs: res.append(Param('*'))
    res += [one(*o) for o in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: res.append(one(a.kwarg, star='**'))
    return res[1:] if res and res[0].name in ('self', 'cls') else res


def fn_returns(fn, notes):
    "Type and description of what is returned; None if there is neither. The comment is where the signature ends"
    last = max([fn.lineno, *[o.end_lineno for o in ast.walk(fn.args) if hasattr(o, 'end_lineno')]])
    if fn.returns: line = fn.returns.end_lineno
    elif last == fn.lineno: line = last  # all on one line
    else: line = next((i for i in range(last + 1, fn.body[0].lineno) if i in notes), 0)
    doc = notes.pop(line, '')
    if doc.startswith('-> '): return Param('returns', doc[3:])
    return Param('returns', unparse(fn.returns), doc=doc) if fn.returns or doc else None


def decorators(node):
    "`{name: text}` of the decorators"
    return {unparse(o.func if isinstance(o, ast.Call) else o): unparse(o) for o in node.decorator_list}


def from_function(fn, notes, owner=''):
    deco = decorators(fn)
    notes = dict(notes)
    returns = fn_returns(fn, notes)
    params = fn_params(fn, notes)
    kind = 'method' if owner else 'function'
    if deco.keys() & {'property', 'cached_property'} or 'as_prop=True' in deco.get('patch', ''): kind = 'property'
    name = f'{owner}.{fn.name}' if owner else fn.name
    return Symbol(name, kind, fn, ast.get_docstring(fn) or '', params, returns)


def from_class(cls, notes):
    "The class with the parameters of its `__init__`, or its fields; then its methods that have a docstring"
    fns = [o for o in cls.body if isinstance(o, ast.FunctionDef)]
    init = next((o for o in fns if o.name == '__init__'), None)
    fields = [Param(o.target.id, unparse(o.annotation), unparse(o.value), notes.get(o.lineno, ''))
              for o in cls.body if isinstance(o, ast.AnnAssign)]
    res = Symbol(cls.name, 'class', cls, ast.get_docstring(cls) or '', fn_params(init, notes) if init else fields)
    return [res] + [from_function(o, notes, cls.name) for o in fns if o.name[0] != '_' and ast.get_docstring(o)]


def patched(fn):
    "The classes that `@patch` adds this function to"
    if 'patch' not in decorators(fn): return []
    return re.findall(r'\w+', unparse(fn.args.args[0].annotation))


def symbols(src):
    "Public symbols of a module or of a notebook's cell, in order"
    notes, res = comments(src), []
    for o in ast.parse(src).body:
        if isinstance(o, ast.ClassDef): found = from_class(o, notes)
        elif not isinstance(o, ast.FunctionDef): continue
        elif not patched(o): found = [from_function(o, notes)]
        else:
            found = [from_function(o, notes, c) for c in patched(o)]
            for s in found: s.params = [p for p in s.params if p.name != 'self']
        res += [s for s in found if not any(part[0] == '_' for part in s.name.split('.'))]
    return res


def said(node, known=None):
    "The text of an expression, with … for what only a run knows; texts that have a name are `known`"
    one = lambda o: said(o, known)
    if isinstance(node, ast.Constant) and isinstance(node.value, str): return node.value
    if isinstance(node, ast.JoinedStr): return ''.join(map(one, node.values))
    if isinstance(node, ast.FormattedValue): node = node.value
    elif isinstance(node, ast.BinOp): return one(node.left) + one(node.right)
    return (known or {}).get(unparse(node), '…')


def named_texts(fn):
    "`{name: text}` of the texts that a function gives a name, once"
    found = [(unparse(o.targets[0]), said(o.value)) for o in ast.walk(fn) if isinstance(o, ast.Assign)]
    n = Counter(k for k, _ in found)
    return {k: v for k, v in found if n[k] == 1 and is_telling(v)}


class Errors:
    "What the functions of a package raise, themselves and through each other"
    def __init__(self, sources):
        trees = {m: ast.parse(src) for m, src in sources.items()}
        self.homes = {m: homes(m, tree, sources) for m, tree in trees.items()}
        # (module, class or '', function) -> its definitions, as (module that it is written in, class, node)
        self.defs = {}
        for m, tree in trees.items():
            for o in tree.body: self._add(m, o)

    def _add(self, mod, o):
        if isinstance(o, ast.ClassDef): found = [(o.name, f) for f in o.body if isinstance(f, ast.FunctionDef)]
        elif isinstance(o, ast.FunctionDef): found = [(c, o) for c in patched(o) or ['']]
        else: found = []
        for c, f in found: self.defs.setdefault((*self._home(mod, c), f.name), []).append((mod, c, f))

    def _home(self, mod, name): return self.homes[mod].get(name, ('' if name else mod, name))

    def of(self, sym, mod):
        "`[(type, text)]` that the symbol of module `mod` may raise, in the order of its source"
        todo, seen, res = self._begin(sym, mod), [], {}
        while todo:
            *at, f = todo.pop(0)
            if f in seen: continue
            seen.append(f)
            own, called = itself(f)
            res |= own
            for name in called: todo += self._called(name, *at)
        return [(kind, text) for kind, text in res if is_telling(text)]

    def _begin(self, sym, mod):
        "Where to look first: in a class, at the methods that have no entry of their own"
        owner = sym.name.split('.')[0] if sym.kind != 'function' else ''
        if sym.kind != 'class': return [(mod, owner, sym.node)]
        own = [o for (*k, _), fs in self.defs.items() if tuple(k) == self._home(mod, owner) for o in fs]
        return [o for o in own if o[2].name[0] == '_' or not ast.get_docstring(o[2])]

    def _called(self, name, mod, owner):
        "Definitions of what is called: a function or class of `mod`, also an imported one of ours, a method of `self`"
        if name in CHECKS: return []
        if name.startswith('self.'): return self.defs.get((*self._home(mod, owner), name[5:]), [])
        m, there = self._home(mod, name)
        return self.defs.get((m, '', there), []) + self.defs.get((m, there, '__init__'), [])


@cache
def itself(f):
    "`{(type, text): True}` of what a function raises itself, and the names of what it calls, as its source has them"
    known, res, called = named_texts(f), {}, []
    for o in ast.walk(f):
        if isinstance(o, ast.Raise): res |= raised(o, known)
        if isinstance(o, ast.Call):
            res |= checked(o, known)
            called.append(unparse(o.func))
    return res, called


def homes(mod, tree, modules):
    "`{name in a module: (module that defines it, its name there)}`, as far as that is one of `modules`"
    res = {o.name: (mod, o.name) for o in tree.body if isinstance(o, (ast.ClassDef, ast.FunctionDef))
           and not patched_fn(o)}
    for o in ast.walk(tree):
        if isinstance(o, ast.ImportFrom) and (home := imported(o, mod)) in modules:
            res |= {a.asname or a.name: (home, a.name) for a in o.names}
    return res


def imported(node, mod):
    "Which module the `from ... import` in module `mod` is about, without the package's name"
    there = (node.module or '').split('.')
    return '.'.join(mod.split('.')[:-node.level] + there if node.level else there[1:])


def patched_fn(o): return isinstance(o, ast.FunctionDef) and bool(patched(o))


def is_telling(text):
    "Is there more in it than the frame around what only a run knows?"
    words = set(re.findall('[a-z]{3,}', re.sub(r'^[^:]*=…: ?', '', text)))
    return bool(words - {'expected', 'has', 'shape', 'type', 'them', 'and'})


def given(call, names):
    "`{parameter: node}` of a call of a function with these parameters"
    return dict(zip(names.split(), call.args)) | {k.arg: k.value for k in call.keywords}


def raised(node, known):
    "`{(type, text): True}` of a `raise`"
    if not isinstance(node.exc, ast.Call) or not node.exc.args: return {}
    kind = unparse(node.exc.func)
    if kind not in KINDS: return {(kind, said(node.exc.args[0], known)): True} if kind.endswith('Error') else {}
    a = {k: said(v, known) for k, v in given(node.exc, FIELDS).items()}
    return {(KINDS[kind], a.get('said') or f"{a['argument']}=…: {a.get('expected', '')}"): True}


def checked(call, known):
    "The same of a call of our `check`, `check_number` or `check_whole`"
    name = unparse(call.func)
    if name not in CHECKS: return {}
    a = given(call, CHECKS[name])
    kind = unparse(a.get('error')) or 'ValueError' if name == 'check' else 'TypeError or ValueError'
    if name != 'check_whole': expected = said(a.get('expected'), known)
    else:
        lo, hi = unparse(a.get('lo')), unparse(a.get('hi'))
        expected = f"expected a whole number {f'from {lo} to {hi}' if hi else f'of {lo} or more'}"
    return {(kind, f"{said(a.get('name'))}=…: {expected}"): True}
