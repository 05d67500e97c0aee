"""Build the site: python docs/pages.py [OUT]

The notebooks that sidebar.toml names become Sphinx's sources: nbdev's processors drop what is hidden, each exported
cell becomes what a reader wants of it (signature, parameters, errors, source), names in backticks become links. Then
Sphinx makes OUT (_docs/) of them. Whatever is wrong is said, and then there is no site and the exit status is not 0.
"""
import ast
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from functools import cache
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent/'tools'))

import house
import nbformat
from nbdev.doclinks import NbdevLookup
from nbdev.processors import Processor
from readme import PROCS, page
from run_notebooks import ROOT, directives, notebooks, run_time, settings, title_cell
from sphinx.cmd.build import main as sphinx
from symbols import Errors, patched, symbols

CFG = settings()
LIB, NBS, PICTURES = CFG['lib_name'], ROOT/CFG['nbs_path'], ROOT/'README_files'
REPO = f"https://github.com/{CFG['user']}/{CFG['repo']}/blob/{CFG['branch']}"
SITE = f"https://{CFG['user']}.github.io/{CFG['repo']}"
OTHERS = ('fastai', 'fasttransform', 'fastcore', 'tsai')  # nbdev projects whose names are linked, too


# --- which pages there are

INDEX = NBS/'index.ipynb'


def source(entry):
    "The file that an entry of the sidebar means"
    return ROOT/entry if entry.endswith('.md') else NBS/f'{entry}.ipynb'


def sources(entries, named):
    "The files that some entries mean; a star stands for what of its folder is not among the `named` ones"
    rest = lambda entry: [p for p in notebooks() if p.parent == source(entry).parent and p not in named]
    return [p for o in entries for p in (rest(o) if o.endswith('*') else [source(o)])]


def docname(path):
    "The page's address: `noise/rows` for nbs/noise/00_rows.ipynb, `benchmarks` for benchmarks/README.md"
    if path.suffix == '.md': return (path.parent.name if path.stem == 'README' else path.stem).lower()
    return (path.relative_to(NBS).parent/re.sub(r'^\d+[a-z]?_', '', path.stem)).as_posix()


def sidebar():
    "`{caption: files}`, without captions that have none"
    parts = tomllib.loads((HERE/'sidebar.toml').read_text())
    named = {INDEX, *[source(o) for v in parts.values() for o in v]}
    return {k: ps for k, v in parts.items() if (ps := sources(v, named))}


def problems(parts):
    "What is wrong with sidebar and notebooks, for people"
    listed = [p for ps in parts.values() for p in ps]
    names = lambda ps: ', '.join(p.relative_to(ROOT).as_posix() for p in ps)
    lost = [p for p in notebooks() if p not in listed and p != INDEX]
    res = [f'docs/sidebar.toml names what is not there: {names([p])}' for p in listed if not p.exists()]
    if lost: res.append(f'docs/sidebar.toml lacks {names(lost)}')
    for p in notebooks():
        nb = nbformat.read(p, as_version=4)
        res += [f'{names([p])}, cell {c.id}: {why}' for c, why in bad_figures(nb)]
        if has_code(nb) and not run_time(nb):
            res.append(f'nobody has noted how long {names([p])} runs: `make notebooks NB={names([p])}`')
    return res


def has_code(nb): return any(c.cell_type == 'code' for c in nb.cells)


def bad_figures(nb):
    "Cells of which somebody who can't see the figure would learn nothing"
    for c in nb.cells:
        d = directives(c)
        has_figure = any(k.startswith('image/') for o in c.get('outputs', []) for k in o.get('data', {}))
        if has_figure and 'hide' not in d and len(d.get('fig-alt', '')) < 10:
            yield c, 'a figure without `#| fig-alt: what one sees in it`'


# --- names that become links

@cache
def modules():
    "`{name after the package's: source}`"
    lib = ROOT/CFG['lib_path']
    return {'.'.join(p.relative_to(lib).with_suffix('').parts): p.read_text() for p in sorted(lib.rglob('[!_]*.py'))}


@cache
def own_names():
    """`{name in prose: name in full}` of this project; a name that two modules have says too little, and so does a word
    that is the name of a method or of a module, too"""
    names = {m: [s.name for s in symbols(src)] for m, src in modules().items()}
    found = [(k, f'{LIB}.{m}.{k}') for m, ks in names.items() for k in ks]
    words = [k.rpartition('.')[2] for k, _ in found if re.fullmatch(r'[\w.]+\.[a-z]+', k)]
    words += [last for m, ks in names.items() if (last := m.rpartition('.')[2]) not in ks]
    n = Counter([k for k, _ in found] + words)
    return {k: v for k, v in found if n[k] == 1} | {f'{LIB}.{m}': f'{LIB}.{m}' for m in modules()}


@cache
def other_name(name):
    "Address of a class, or method of a class, of fastai and the like"
    if not re.match(r'[A-Z]\w{3}', name): return None
    return lookup().doc(name)


@cache
def lookup(): return NbdevLookup(OTHERS, OTHERS)


FENCE = r'^ *```.*?^ *```[ \t]*$'  # a block of code
CODE = re.compile(FENCE + r'|^#[^\n]*$|\[[^\]]*\]\([^)]*\)|``.*?``|`(?P<code>[^`\n]+)`', re.M | re.S)


def link_names(md):
    "Link `Name` and `Name(...)` in Markdown to what they name, except in code blocks, headings and links"
    def one(m):
        name = re.match(r'([\w.]+)(?:\(.*\))?$', m['code'] or '')
        if not name: return m[0]
        if full := own_names().get(name[1]): return f"{{py:obj}}`{m['code']} <{full}>`"
        return f'[{m[0]}]({url})' if (url := other_name(name[1])) else m[0]
    return CODE.sub(one, md)


# a link's text may hold brackets
LINK = re.compile(FENCE + r'|(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<url>[^)\s]+)\)', re.M | re.S)
IMAGES = '_images_of_pages'  # where Sphinx finds the images that Markdown files show


def target(path, url):
    "The file that a link on the page `path` leads to"
    return Path(os.path.normpath(path.parent/url))


def relink(md, path, pages):
    """Links to files, relative to `path`, lead to their pages, else to the repository; pictures are on the page, and
    those in HTML in README_files/, which `write_pages` copies"""
    md = re.sub(r'(<img\b[^>]* src=")(?:\.\./)+(README_files/)', r'\1/\2', md)
    def one(m):
        if not m['url'] or re.match(r'[a-z][a-z0-9+.-]*:', m['url'], flags=re.I): return m[0]
        url, _, frag = m['url'].partition('#')
        frag = '#' + re.sub(r'[^\w-]', '', frag.lower()) if frag else ''  # Jupyter keeps capitals, Sphinx does not
        file = target(path, url)
        if not url: return f"{m['text']}({frag})"
        if m['text'][0] == '!' and file.is_file(): return f"{m['text']}(/{IMAGES}/{file.relative_to(ROOT).as_posix()})"
        if file in pages: return f"{m['text']}(/{pages[file]}{file.suffix}{frag})"
        return f"{m['text']}({REPO}/{file.relative_to(ROOT).as_posix()}{frag})" if file.exists() else m[0]
    return LINK.sub(one, md)


def copy_images(path, dest):
    "Put the files that a page's Markdown shows where `relink` says that they are"
    mds = [path.read_text()] if path.suffix == '.md' else [c.source for c in nbformat.read(path, as_version=4).cells]
    for m in (m for md in mds for m in LINK.finditer(md) if (m['text'] or '').startswith('!')):
        file = target(path, m['url'])
        if not file.is_file(): continue
        to = dest/IMAGES/file.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to)


# --- what is shown of an exported cell

def plain(text):
    "Text in which only `code` is marked up"
    parts = text.split('`')
    parts[::2] = [re.sub(r'([\\*_\[\]<>{}$|#])', r'\\\1', o) for o in parts[::2]]
    return '`'.join(parts)


def in_table(md): return md.replace('|', r'\|')


def code(text): return in_table(f'`{text}`') if text else ''


def result_row(r):
    "What is returned: its type, or what the source says of it in words"
    try: is_type = bool(r.type and ast.parse(r.type, mode='eval'))
    except SyntaxError: is_type = False
    return ('*returns*', code(r.type), '', r.doc) if is_type else ('*returns*', '', '', r.doc or r.type)


def in_a_line(params, returns):
    "Names and types alone need no table"
    said = [f'`{p.name}: {p.type}`' if p.type else f'`{p.name}`' for p in params]
    if returns: said.append(' '.join(filter(None, result_row(returns))).replace(r'\|', '|'))
    return '\n' + link_names(', '.join(said))  # a paragraph of its own


def table(sym):
    "Name, type, default and meaning of the parameters and of what is returned"
    rows = [p for p in sym.params if p.name not in '*/']
    has_result = sym.returns and (sym.returns.doc or sym.returns.type != 'None')
    if not any(p.type or p.doc for p in rows) and not has_result: return ''
    if not any(p.doc or p.default for p in rows): return in_a_line(rows, sym.returns if has_result else None)
    cells = [(f'`{p.name}`', code(p.type), code(p.default), p.doc) for p in rows]
    if has_result: cells.append(result_row(sym.returns))
    head = '\n{.docments}\n| name | type | default | meaning |\n|---|---|---|---|\n'
    return head + ''.join(f"| {a} | {b} | {c} | {in_table(link_names(d))} |\n" for a, b, c, d in cells)


def fold(kind, summary, md): return f'<details class="{kind}"><summary>{summary}</summary>\n\n{md}\n\n</details>\n'


def describe(sym, mod, errors):
    "Signature, docstring, table and errors of a symbol"
    parts = [link_names(sym.doc), table(sym)]
    said = '\n'.join(f'- `{k}`: {plain(v)}' for k, v in errors)
    if errors: parts.append(fold('errors', 'Errors, also of what it calls', said))
    head = f'``````{{py:{sym.kind}}} {sym.name}{sym.signature}\n:module: {LIB}.{mod}\n'
    return '\n'.join([head, *parts, '``````\n'])


def show_source(src, mod, cell_id):
    "The code, folded, and where it is in the repository"
    defs = [getattr(o, 'name', None) for o in ast.parse(src).body]
    if not any(defs): return ''
    i, j = lines(src, mod)
    url = f"{REPO}/{CFG['lib_path']}/{mod.replace('.', '/')}.py#L{i}-L{j}"
    what = 'Source' + ''.join(f' <code>{o}</code>' for o in defs if o)
    return fold('source', what, f'```python\n{src}\n```\n\n[On GitHub]({url})')


@cache
def places(mod):
    "`{name: node}` of a module's functions and classes, and of its methods by `Class.name`"
    tree = ast.parse(modules()[mod])
    res = {o.name: o for o in tree.body if hasattr(o, 'name')}
    own = [(k, o) for k, c in res.items() if isinstance(c, ast.ClassDef) for o in c.body if hasattr(o, 'name')]
    return res | {f'{k}.{o.name}': o for k, o in own}


def lines(src, mod):
    "The first and the last line of a cell's code in its module, where the methods that it patches are in their classes"
    there, found = places(mod), []
    for o in ast.parse(src).body:
        owners = patched(o) if isinstance(o, ast.FunctionDef) else []
        if hasattr(o, 'name'): found += [there.get(f'{c}.{o.name}', there.get(o.name)) for c in owners or ['']]
    return min(o.lineno for o in found), max(o.end_lineno for o in found)


@cache
def errors(): return Errors(modules())


def reference(mod):
    "A processor for nbdev: exported cells of module `mod` become Markdown, helpers in the fold of what stands above"
    class Reference(Processor):
        above = None  # the exported cell right above, what is shown of it, and its code

        def cell(self, cell):
            if cell.cell_type != 'code' or 'export' not in cell.directives_:
                self.above = None
                return
            src = cell.source.strip()
            found = [describe(s, mod, errors().of(s, mod)) for s in symbols(src)]
            for k in ('outputs', 'execution_count'): cell.pop(k, None)
            cell.directives_.pop('export')  # or else nbdev removes it
            if not found and self.above:
                (top, found, more), cell.cell_type, cell.source = self.above, 'raw', ''
                self.show(top, found, f'{more}\n\n{src}')
            else: self.show(cell, found, src)

        def show(self, cell, found, src):
            self.above = cell, found, src
            cell.cell_type, cell.source = 'markdown', '\n'.join([*found, show_source(src, mod, cell['id'])])
            if mod == 'all' and '__all__' in src: cell.source = all_names()
            if not cell.source.strip(): cell.cell_type = 'raw'
    return Reference


OURS = '``````{', '<details', '{.wing}'  # how the Markdown that `reference` makes begins


def strings(src): return {o.value for o in ast.walk(ast.parse(src)) if isinstance(o, ast.Constant)}


def all_names():
    "Tables of all public names, wing by wing: those that a star brings, then the others by module"
    star = strings(modules()['all'])
    rows, others = {k: [] for k in house.WINGS}, {}
    for m in house.modules(ROOT):
        for s in symbols(modules()[m.name]):
            first = in_table(link_names(s.doc.split('\n')[0]))
            link = f'{{py:obj}}`{s.name} <{LIB}.{m.name}.{s.name}>`'
            if s.name in star or s.name.startswith('Learner.'): rows[m.wing].append(f'| {link} | {first} |')
            elif '.' not in s.name or s.name.split('.')[0] in star: others.setdefault(m.name, []).append(link)
    parts = [names_table(f'## {k.capitalize()}: {house.WINGS[k]}', 'name | what it does', sorted(v, key=str.lower))
             for k, v in rows.items() if v]
    more = [f"| {{py:obj}}`{m} <{LIB}.{m}>` | {', '.join(v)} |" for m, v in others.items()]
    head = '## By module\n\nTheir methods, and what else the modules export:'
    return '\n\n'.join([*parts, names_table(head, 'module | names', more)])


def names_table(head, columns, rows):
    return '\n'.join(['{.wing}', head, '', '{.names}', f'| {columns} |', '|---|---|', *rows])


# --- pages

def keywords(nb):
    "What the page is to be found by, too: the line `- keywords:` below its title, words or phrases between commas"
    m = re.search(r'^- keywords: (.+)', title_cell(nb).source, flags=re.M)
    return re.split(r', *', m[1].strip()) if m else []


def write_scorer(path, pages):
    "The ranking of scorer.js, which treats keywords as titles, with those of each page"
    nbs = {name: nbformat.read(p, as_version=4) for p, name in pages.items() if p.suffix == '.ipynb'}
    found = {k: words for k, nb in nbs.items() if (words := keywords(nb))}
    path.write_text(f'const KEYWORDS = {json.dumps(found)};\n' + (HERE/'scorer.js').read_text())


def description(md):
    "What a page is for, in plain text: the line `> ...` below its title, or its first paragraph"
    md = re.sub(r'<!--.*?-->', '', md, flags=re.S)
    first = re.split(r'\n\s*\n', re.sub(r'^(#.*|- [\w-]+: .*)$', '', md, flags=re.M).strip())[0]
    said = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', first)
    said = ' '.join(re.sub(r'[`*]|^>', '', said).split())
    return said if len(said) <= LONG else said[:LONG].rpartition(' ')[0] + ' ...'


LONG = 200  # characters of a description; search engines cut off what is longer


def head(md, path, mod, nb):
    "Title, what the page is for, where it comes from and how long it takes to run"
    title, lead = re.match(r'# (.*)\n+(?:> (.*))?', md).groups()
    name = path.relative_to(ROOT).as_posix()
    where = f'[Notebook: {name}]({REPO}/{name})'
    if has_code(nb): where += f' · runs in {run_time(nb)}'
    if mod: where = f'Module `{LIB}.{mod}` · {where}'
    rest = re.sub(r'^# .*\n+(?:> .*\n?)?', '', md)
    md = [f'# {title}', '{.lead}\n' + link_names(lead or ''), '{.origin}\n' + where, link_names(rest)]
    if mod: md.insert(1, f'```{{py:module}} {LIB}.{mod}\n```')
    return '\n\n'.join(md)


def toctrees(parts, pages):
    "Sphinx's sidebar"
    tree = '```{{toctree}}\n:hidden:\n:maxdepth: 1\n{}\n{}\n```'.format
    trees = [tree('', 'Quick start <self>')]
    return '\n\n'.join(trees + [tree(f':caption: {k}\n', '\n'.join(pages[p] for p in ps)) for k, ps in parts.items()])


def convert(path, pages):
    "The notebook as a page: what is hidden is gone, names and links lead to pages"
    original = nbformat.read(path, as_version=4)
    first = next((directives(c) for c in original.cells if c.cell_type == 'code'), {})
    mod = first.get('default_exp', '')
    nb = page(path, [reference(mod), *PROCS])
    cells = [c for c in nb.cells if c.cell_type == 'markdown']
    for c in cells:
        if c is cells[0]: c.source = head(c.source, path, mod, original)
        elif not c.source.startswith(OURS): c.source = link_names(c.source)
        c.source = relink(c.source, path, pages)
    return nb


def text_of(nb):
    "The page as Markdown, for those who read no HTML"
    res = []
    for c in nb.cells:
        res.append(c.source if c.cell_type == 'markdown' else f'```python\n{c.source}\n```')
        # one text of all that was printed
        parts = groupby(c.get('outputs', []), lambda o: o.output_type == 'stream' or o)
        said = [''.join(o.get('text') or o.get('data', {}).get('text/plain', '') for o in os) for _, os in parts]
        res += ['```\n' + o.strip('\n') + '\n```' for o in said if o.strip()]
        if alt := c.metadata.get('mystnb'): res.append(f"(Figure: {alt['image']['alt']})")
    md = '\n\n'.join(res)
    md = re.sub(r'\{py:obj\}`([^`<]+?) <[^`]*>`', r'`\1`', md)
    md = re.sub(r'^`{6}\{py:\w+\} (.*)\n:module: .*$', r'### `\1`', md, flags=re.M)
    return re.sub(r'^(`{6}|\{\.\w+\}|</?details[^\n]*)\n|^```\{(?:py:module|toctree|eval-rst)\}.*?```\n', '', md,
                  flags=re.M | re.S)


def write_llms(dest, parts, texts):
    "llms.txt, a list of the pages, and llms-full.txt, all of them (https://llmstxt.org)"
    lines = [f"# {CFG['title']}", f"> {CFG['description']}", f'All pages in one file: {SITE}/llms-full.txt']
    for k, ps in {'Quick start': [INDEX], **parts}.items():
        lines.append(f'## {k}\n')
        for p in ps:
            title, lead = re.match(r'# (.*)\s+(.*)', texts[p]).groups()
            lines[-1] += f'\n- [{title}]({SITE}/{docname(p)}.html)' + (f': {lead}' if p.suffix == '.ipynb' else '')
    (dest/'llms.txt').write_text('\n\n'.join(lines) + '\n')
    (dest/'llms-full.txt').write_text('\n\n'.join(texts.values()) + '\n')


def write_pages(dest):
    "Write Sphinx's sources to `dest`"
    parts = sidebar()
    if bad := problems(parts): sys.exit('\n'.join(bad))
    pages, texts, said = {p: docname(p) for p in [INDEX, *sum(parts.values(), [])]}, {}, {}
    (dest/'_extra').mkdir(parents=True)
    if PICTURES.exists(): shutil.copytree(PICTURES, dest/PICTURES.name)
    # Sphinx knows `<img>` by itself; what stands in a `<picture>` keeps its address
    for o in (dest, dest/'_extra'):
        if (NBS/'images').exists(): shutil.copytree(NBS/'images', o/'images')
    for path, name in pages.items():
        out = dest/f'{name}{path.suffix}'
        out.parent.mkdir(exist_ok=True)
        copy_images(path, dest)
        if path.suffix == '.md':
            texts[path] = path.read_text()
            said[name] = description(texts[path])
            out.write_text(relink(link_names(texts[path]), path, pages))
            continue
        said[name] = description(title_cell(nbformat.read(path, as_version=4)).source)
        nb = convert(path, pages)
        texts[path] = text_of(nb)
        if path == INDEX: nb.cells.append(nbformat.v4.new_markdown_cell(toctrees(parts, pages)))
        nbformat.write(nb, out)
    (dest/'descriptions.json').write_text(json.dumps(said))
    write_llms(dest/'_extra', parts, texts)
    write_scorer(dest/'scorer.js', pages)


def main(out=None):
    out = Path(out or ROOT/'_docs').resolve()
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    with tempfile.TemporaryDirectory() as tmp:
        src, html = Path(tmp)/'pages', Path(tmp)/'html'
        write_pages(src)
        own = [f'-Dhtml_extra_path={src}/_extra', f'-Dhtml_search_scorer={src}/scorer.js', '-c', str(HERE), str(src),
               str(html)]
        if status := sphinx(['-qW', '--keep-going', *own]): return status
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(html, out, ignore=shutil.ignore_patterns('.doctrees', '.buildinfo'))
    print(f'{out}/index.html')


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
