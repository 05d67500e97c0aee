"""Put `@patch`ed methods into their classes, so that an exported module reads as if it was written by hand

In a notebook a class grows method by method, each with its reason and an example; `@patch` makes that possible. In the
exported module the methods of the module's own classes stand in these, where editors look for them. What is patched into
a class of another library stays as it is.
"""
import ast
import io
import re
import tokenize

from symbols import patched, unparse

HEADS = {'as_prop=True': '@property', 'cls_method=True': '@classmethod', 'set_prop=True': '@{}.setter'}


def is_patch(deco): return unparse(deco.func if isinstance(deco, ast.Call) else deco) == 'patch'


def first_line(node, lines):
    "Where a function begins, with its decorators and the comments right above them"
    i = min([node.lineno, *[o.lineno for o in node.decorator_list]])
    while lines[i - 2].startswith('#') and not lines[i - 2].startswith('# %%'): i -= 1
    return i


def fixed_lines(src):
    "Lines that begin inside of a string, which an indent would change; docstrings may be indented"
    docs = {o.body[0].lineno for o in ast.walk(ast.parse(src))
            if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(o)}
    toks = tokenize.generate_tokens(io.StringIO(src).readline)
    strings = [t for t in toks if t.type == tokenize.STRING and t.start[0] not in docs]
    return {i for t in strings for i in range(t.start[0] + 1, t.end[0] + 1)}


def quoted(text, node, unknown):
    "Put annotations in quotes that name a class which is not there yet while the class body runs"
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    found = [o for o in (*[a.annotation for a in args if a], node.returns) if o]
    for o in sorted(found, key=lambda o: o.col_offset, reverse=True):
        if not unknown & {n.id for n in ast.walk(o) if isinstance(n, ast.Name)}: continue
        l = text[o.lineno]
        text[o.lineno] = f"{l[:o.col_offset]}'{l[o.col_offset:o.end_col_offset]}'{l[o.end_col_offset:]}"


def as_method(node, cls, lines, fixed, unknown):
    "The lines of a patched function as those of a method of `cls`"
    at = range(first_line(node, lines), node.end_lineno + 1)
    text = {i: lines[i - 1] for i in at}
    quoted(text, node, unknown)
    for deco in node.decorator_list:
        if not is_patch(deco): continue
        kws = [unparse(k) if not isinstance(k, ast.keyword) else f'{k.arg}={unparse(k.value)}' for k in getattr(deco, 'keywords', [])]
        head = next((HEADS[k].format(node.name) for k in kws if k in HEADS), None)
        if head: text[deco.lineno] = head
        else: del text[deco.lineno]
    own = node.args.args[0]
    text[own.lineno] = re.sub(rf"\b({own.arg})\s*:\s*'?{cls}\b'?", r'\1', text[own.lineno], count=1)
    return [('    ' + l if l and i not in fixed else l) for i, l in text.items()]


def methods(tree):
    "`{class: patched functions}` of the module's own classes"
    own = {o.name: o for o in tree.body if isinstance(o, ast.ClassDef)}
    res = {}
    for o in tree.body:
        classes = patched(o) if isinstance(o, ast.FunctionDef) else []
        if len(classes) == 1 and classes[0] in own: res.setdefault(classes[0], []).append(o)
    for k, fns in res.items():
        names = [o.name for o in [*own[k].body, *fns] if isinstance(o, ast.FunctionDef)]
        if twice := {o for o in names if names.count(o) > 1} - {o.name for o in fns if 'set_prop' in unparse(o.decorator_list[0])}:
            raise ValueError(f'{k} has several methods called {sorted(twice)}: one of each name is accepted')
    return own, res


def without_import(src, name):
    "Without the import of `name` from fastcore, if nothing uses it any more"
    if len(re.findall(rf'\b{name}\b', src)) > 1: return src
    src = re.sub(rf'^from \S+ import {name}\n', '', src, flags=re.M)
    return re.sub(rf'(^from \S+ import .*?)(?:, {name}\b|\b{name}, )', r'\1', src, flags=re.M)


def joined(src):
    "The source of a module with all methods in their classes"
    lines, fixed = src.split('\n'), fixed_lines(src)
    own, found = methods(ast.parse(src))
    if not found: return src
    new = list(lines)
    for cls, fns in found.items():
        for o in fns: new[first_line(o, lines) - 1:o.end_lineno] = [None] * (o.end_lineno - first_line(o, lines) + 1)
    ends = {own[k].end_lineno: k for k in found}
    res = []
    for i, l in enumerate(new, 1):
        if l is not None: res.append(l)
        later = {k for k, o in own.items() if o.end_lineno >= i}
        for o in found.get(ends.get(i), []): res += ['', *as_method(o, ends[i], lines, fixed, later)]
    return without_import(tidied('\n'.join(res)), 'patch')


def tidied(src):
    "Without cells that lost all of their code, and with one empty line between what is left"
    src = re.sub(r'^# %% .*\n\s*(?=^# %% |\Z)', '', src, flags=re.M)
    src = re.sub(r'^(# %% .*\n)\n+', r'\1', src, flags=re.M)
    return re.sub(r'\n{3,}', '\n\n', src).rstrip('\n') + '\n'


def main(files):
    for p in files: p.write_text(joined(p.read_text()))
