"""Put the comments behind parameters into docstrings, so that `learn.pseudolabel?` and help() show them

Jupyter's `?`, help() and editors show docstrings and no comments. In the source a parameter is described once, by its
comment; setup.py repeats that in the docstrings of the modules that it packs into a wheel. A command's stay short: its
`--help` shows the docstring and the comments.
"""
import re
from textwrap import wrap

from symbols import decorators, symbols


def section(sym):
    "What is added to the docstring of a symbol, as lines; none where there are no comments"
    one = lambda name, p, pad: wrap(f'{name}: {p.doc}', 112, initial_indent=pad, subsequent_indent=pad + '    ')
    params = [l for p in sym.params if p.doc for l in one(p.name, p, '    ')]
    lines = ['', 'Parameters:', *params] if params else []
    if sym.returns and sym.returns.doc: lines += ['', *one('Returns', sym.returns, '')]
    return [l.replace('\\', r'\\') for l in lines]


def is_command(node): return 'call_parse' in decorators(node)


def with_params(src):
    "The source of a module with longer docstrings; all else is as it was"
    lines = src.split('\n')
    for sym in reversed(symbols(src)):  # from the end, so that line numbers stay right
        node, more = sym.node.body[0], section(sym)
        if not sym.doc or not more or node.lineno == sym.node.lineno or is_command(sym.node): continue
        old = '\n'.join(lines[node.lineno - 1:node.end_lineno])
        pad, _, text = re.fullmatch(r'''(\s*)("""|\'\'\'|"|')(.*)\2''', old, flags=re.S).groups()
        new = [f'{pad}"""{text.rstrip()}', *[pad + l if l else l for l in more]]
        new[-1] += '"""'
        lines[node.lineno - 1:node.end_lineno] = new
    return '\n'.join(lines)

