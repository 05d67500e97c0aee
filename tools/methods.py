"""Put `@patch`ed methods into their classes, so that an exported module reads as if it was written by hand

In a notebook a class grows method by method, each with its reason and an example; `@patch` makes that possible. In the
exported module the methods of the module's own classes stand in these, where editors look for them. What is patched
into a class of another library stays as it is.
"""
import ast
import io
import re
import tokenize
from collections import Counter
from itertools import accumulate
from textwrap import fill

from symbols import decorators, patched, unparse

HEADS = {'as_prop': 'property', 'cls_method': 'classmethod', 'set_prop': '{}.setter'}  # what `@patch(...)` becomes
STRINGS = {tokenize.STRING, getattr(tokenize, 'FSTRING_MIDDLE', None)}  # the second one from Python 3.12 on


def classes(body): return {o.name: o for o in body if isinstance(o, ast.ClassDef)}


def owners(body):
    "`{place in the module: class}` of the functions that are patched into one class of the same module"
    found = {i: patched(o) for i, o in enumerate(body) if isinstance(o, ast.FunctionDef)}
    res = {i: ks[0] for i, ks in found.items() if len(ks) == 1 and ks[0] in classes(body)}
    n = Counter((k, o.name) for k, c in classes(body).items() for o in c.body if isinstance(o, ast.FunctionDef))
    n.update((k, body[i].name) for i, k in res.items() if 'set_prop=True' not in decorators(body[i])['patch'])
    if twice := [f'{k}.{body[i].name}' for i, k in res.items() if n[k, body[i].name] > 1]:
        raise ValueError(f'{twice[0]} is there more than once: a method has one definition')
    return res


# --- a function becomes a method

def edited(src, edits):
    "The source with other texts in place of some nodes: `[(node, text)]`"
    begins = [0, *accumulate(len(l.encode()) + 1 for l in src.split('\n'))]
    raw = src.encode()  # as columns are counted
    for o, new in sorted(edits, key=lambda e: (e[0].lineno, e[0].col_offset), reverse=True):
        i, j = begins[o.lineno - 1] + o.col_offset, begins[o.end_lineno - 1] + o.end_col_offset
        raw = raw[:i] + new.encode() + raw[j:]
    return raw.decode()


def annotations(args): return [o for o in ast.walk(args) if isinstance(o, ast.arg) and o.annotation]


def edits(fn, later):
    "What differs in a method; annotations that name a class of `later` are quoted, as it is not there yet"
    own, *rest = annotations(fn.args)
    yield own, own.arg
    for o in [a.annotation for a in rest] + [fn.returns] * bool(fn.returns):
        text = unparse(o)
        quote = '"' if "'" in text else "'"
        if later & {n.id for n in ast.walk(o) if isinstance(n, ast.Name)}: yield o, quote + text + quote
    for deco in fn.decorator_list:
        if isinstance(deco, ast.Call) and unparse(deco.func) == 'patch':
            yield deco, HEADS[deco.keywords[0].arg].format(fn.name) if deco.keywords else 'patch'


def opened(src, names):
    "The source with the bodies of some classes on lines of their own"
    lines = src.split('\n')
    for o in reversed(ast.parse(src).body):
        if getattr(o, 'name', None) not in names or o.body[0].lineno > o.lineno: continue
        raw, i = lines[o.lineno - 1].encode(), o.body[0].col_offset
        lines[o.lineno - 1:o.lineno] = [raw[:i].decode().rstrip(), '    ' + raw[i:].decode()]
    return '\n'.join(lines)


# --- where it stands

def first_line(node, lines):
    "Where a function begins, with its decorators and the comments right above them"
    i = min([node.lineno, *[o.lineno for o in node.decorator_list]])
    while i > 1 and lines[i - 2].startswith('#') and not lines[i - 2].startswith('# %%'): i -= 1
    return i


def in_strings(src, but=()):
    "Lines that begin inside of a string, `but` not in one that begins in these lines"
    toks = tokenize.generate_tokens(io.StringIO(src).readline)
    strings = [t for t in toks if t.type in STRINGS and t.start[0] not in but]
    return {n for t in strings for n in range(t.start[0] + 1, t.end[0] + 1)}


def docstrings(src):
    "Lines in which docstrings begin"
    defs = [o for o in ast.walk(ast.parse(src)) if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
    return {o.body[0].lineno for o in defs if ast.get_docstring(o)}


def joined(src):
    "The source of a module with all methods in their classes"
    body = ast.parse(src).body
    if not (found := owners(body)): return src
    ends = {k: o.end_lineno for k, o in classes(body).items()}
    later = {k: {o for o, i in ends.items() if i >= ends[k]} for k in ends}
    src = edited(src, [e for i, k in found.items() for e in edits(body[i], later[k])])
    return without_patch(tidied(moved(opened(src, {*found.values()}), found)))


def moved(src, found):
    "The source with functions moved to the ends of their classes; `found` is of `owners`"
    body, lines = ast.parse(src).body, src.split('\n')
    fixed = in_strings(src, but=docstrings(src))  # an indent would change them; docstrings may be indented
    spans = {i: range(first_line(body[i], lines), body[i].end_lineno + 1) for i in found}
    away, ends = {n for span in spans.values() for n in span}, {o.end_lineno: k for k, o in classes(body).items()}
    indented = lambda n, l: '    ' + l if l and n not in fixed else l
    res = []
    for n, l in enumerate(lines, 1):
        if n not in away: res.append(l)
        for i in [i for i, k in found.items() if k == ends.get(n)]:
            res += ['', *[indented(j, lines[j - 1]) for j in spans[i] if lines[j - 1] not in ('@patch', '@patch()')]]
    return '\n'.join(res)


# --- what is left

def tidied(src):
    "Without cells that lost all of their code, and with one empty line between what is left"
    inside, res, kind = in_strings(src), [], 'empty'
    for n, l in enumerate(src.split('\n'), 1):
        was, kind = kind, 'code' if n in inside else 'cell' if l.startswith('# %% ') else 'code' if l else 'empty'
        if kind == 'empty' and was != 'code': kind = was
        else:
            if kind == was == 'cell': res.pop()
            res.append(l)
    return '\n'.join(res[:-1] if kind == 'cell' else res).rstrip('\n') + '\n'


def without_patch(src):
    "Without the import of `patch`, if nothing uses it any more"
    if any(isinstance(o, ast.Name) and o.id == 'patch' for o in ast.walk(ast.parse(src))): return src
    src = re.sub(r'^from \S+ import patch\n', '', src, flags=re.M)
    return re.sub(r'(^from \S+ import .*?)(?:, patch\b|\bpatch, )', r'\1', src, flags=re.M)


def narrowed(src):
    "With the list of exports, which nbdev lets grow to 130 characters, within 120"
    def one(m): return fill(' '.join(m[0].split()), 120, subsequent_indent=' ' * 11, break_on_hyphens=False)
    return re.sub(r'^__all__ = \[.*?\]$', one, src, count=1, flags=re.M | re.S)


def main(files):
    for p in files: p.write_text(narrowed(joined(p.read_text())))
