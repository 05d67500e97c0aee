"""Write README.md from nbs/index.ipynb, without Quarto; `--check` only says whether it is up to date

nbdev's processors drop what is hidden, nbconvert makes Markdown of the rest with its stored outputs (pictures go to
README_files/). A link that is relative to nbs/, where it works in Jupyter, is made relative to README.md.
"""
import json
import os
import re
import sys
from pathlib import Path

import nbformat
from execnb.nbio import nb2dict
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_, hide_line, populate_language, rm_export, rm_header_dash, strip_ansi
from run_notebooks import directives

PICTURES = 'README_files'
HEAD = '<!-- Made from {} by `make prepare`: edit that notebook, not this file. -->\n\n'
PROCS = [populate_language, strip_ansi, hide_line, rm_header_dash, rm_export, clean_magics, hide_]


def page(path, procs=PROCS):
    "The notebook at `path` as nbformat knows it, without what is hidden and without directives"
    proc = NBProcessor(path, procs=procs)
    proc.process()
    for c in proc.nb.cells:  # leave only what nbformat knows
        for k in ('directives_', 'idx_'): c.pop(k, None)
    nb = nbformat.reads(json.dumps(nb2dict(proc.nb)), as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type != 'raw']
    for c in nb.cells:
        if c.cell_type == 'code':
            shown = directives(c).get('output') != 'false'
            if alt := directives(c).get('fig-alt'): c.metadata['mystnb'] = {'image': {'alt': alt}}  # for the site
            if name := directives(c).get('fig-name'): name_pictures(c, name)
            c.source = re.sub(r'^\s*#\s*\|.*\n?', '', c.source, flags=re.M)
            c.outputs = [o for o in c.get('outputs', []) if shown and o.get('name') != 'stderr']
            for o in c.outputs: tidy(o.get('data', {}))
            c.outputs = [o for o in c.outputs if o.get('data', {}).get('text/html', 'something')]
        elif c.source.startswith('# '):  # `- key: value` lines below the title are for tools
            c.source = re.sub(r'^- *[\w-]+: .*\n?', '', c.source, flags=re.M)
    nb.metadata['language_info'] = {'name': 'python'}  # or else code fences name no language
    return nb


def name_pictures(cell, name):
    "A picture that other pages show must not be called by where its cell stands, as nbconvert does"
    for o in cell.get('outputs', []):
        if 'image/png' in o.get('data', {}): o.metadata['filename'] = f'{name}.png'


def tidy(data):
    "A page on GitHub shows the text of a style sheet, and takes indented HTML for code"
    if 'text/html' not in data: return
    html = ''.join(data['text/html'])
    html = re.sub(r'<style.*?</style>', '', html, flags=re.S)
    data['text/html'] = '\n'.join(l.strip() for l in html.splitlines() if l.strip())


def relink(md, nbs, root):
    "Make links and pictures of `md`, relative to `nbs`, relative to `root`; code is left alone"
    def one(m):
        before, url = m.groups()
        if re.match(r'[a-z][a-z0-9+.-]*:|#|/', url, flags=re.I) or url.startswith(f'{PICTURES}/'): return m[0]
        file, mark, frag = url.partition('#')
        return before + Path(os.path.relpath(nbs/file, root)).as_posix() + mark + frag
    parts = re.split(r'(^```.*?^```[ \t]*$|`[^`\n]*`)', md, flags=re.M | re.S)
    parts[::2] = [re.sub(r'''(\]\(|<(?:img|a|source)\s[^>]*?(?:src|href|srcset)=["'])([^)"'\s]+)''', one, p)
                  for p in parts[::2]]
    return ''.join(parts)


def with_alt(md, nb):
    "Each figure says what one sees in it"
    has_figure = lambda o: any(k.startswith('image/') for k in o.get('data', {}))
    cells = [c for c in nb.cells for o in c.get('outputs', []) if has_figure(o)]
    alts = iter([c.metadata.get('mystnb', {}).get('image', {}).get('alt', 'figure') for c in cells])
    return re.sub(rf'!\[\w+\]\((?={PICTURES}/)', lambda m: f'![{next(alts)}](', md)


def readme(root):
    "Every file of the README and what is in it: `{name: bytes}`; `root` is the project's folder and the current one"
    cfg = get_config()
    src = cfg.nbs_path/cfg.readme_nb
    nb = page(src)
    body, res = MarkdownExporter().from_notebook_node(nb, resources={'output_files_dir': PICTURES})
    body = with_alt(body, nb)
    body = re.sub(r'\n{3,}', '\n\n', relink(body, src.parent, root)).strip() + '\n'
    head = HEAD.format(src.relative_to(cfg.config_path).as_posix())
    return {'README.md': (head + body).encode(), **res.get('outputs', {})}


def main():
    root = Path.cwd()
    files = readme(root)
    old = {p.relative_to(root).as_posix() for p in (root/PICTURES).glob('*')}
    same = lambda k, v: (root/k).exists() and (root/k).read_bytes() == v
    if '--check' in sys.argv:
        bad = [k for k, v in files.items() if not same(k, v)] + sorted(old - files.keys())
        if bad: sys.exit(f'out of date, run `make prepare`: {bad}')
        return
    for k, v in files.items():
        (root/k).parent.mkdir(exist_ok=True)
        if not same(k, v): (root/k).write_bytes(v)
    for k in old - files.keys(): (root/k).unlink()


if __name__ == '__main__': main()
