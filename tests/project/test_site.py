"The documentation site, built, served from this machine and read in a real browser; and the quick start in JupyterLab"
import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from importlib import import_module

import house
import nbformat
import pytest
from playwright.sync_api import sync_playwright
from run_notebooks import ROOT, environment, left_out, notebooks, settings, title_cell

pytestmark = pytest.mark.tools
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
         '--disable-sync']


@pytest.fixture(scope='module')
def site(tmp_path_factory, build_site):
    out = tmp_path_factory.mktemp('site')
    status, said = build_site(ROOT/'docs/pages.py', out)
    assert status == 0, said
    return out


@pytest.fixture(scope='module')
def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html'))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def url(site):
    srv = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{srv.server_port}/'
    srv.shutdown()
    srv.server_close()


@pytest.fixture(scope='module')
def browser():
    found = subprocess.run([ROOT/'tools/browser.sh'], capture_output=True, text=True)
    if found.returncode: pytest.fail(found.stderr)
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=found.stdout.strip(), args=FLAGS)
        yield b
        b.close()


def test_no_browser(tmp_path):
    "A missing browser is an error that says what to do, never a test left out"
    for env in ({'PATH': str(tmp_path)}, {'CHROMIUM': '/no/such/browser'}):
        res = subprocess.run(['/bin/sh', ROOT/'tools/browser.sh'], env=os.environ | env, capture_output=True, text=True)
        assert res.returncode == 1 and 'Install Chromium or Chrome, or name one' in res.stderr and not res.stdout


def listen(pg, bad):
    "Note in the list `bad` requests to other machines, requests that fail, and errors on the console"
    is_here = lambda u: re.match(r'(https?|ws)://127\.0\.0\.1[:/]|data:|blob:', u)
    pg.on('request', lambda r: is_here(r.url) or bad.append(f'{pg.url} asks {r.url}'))
    pg.on('response', lambda r: r.status < 400 or bad.append(f'{pg.url}: {r.status} for {r.url}'))
    pg.on('console', lambda m: m.type != 'error' or bad.append(f'{pg.url}: {m.text}'))
    pg.on('pageerror', lambda e: bad.append(f'{pg.url}: {e}'))


@pytest.fixture
def new_page(browser):
    "Opens pages that note what is wrong with them"
    bad, ctxs = [], []
    def _new_page(**kwargs):
        ctx = browser.new_context(**kwargs)
        ctxs.append(ctx)
        pg = ctx.new_page()
        listen(pg, bad)
        return pg
    _new_page.bad = bad
    yield _new_page
    for c in ctxs: c.close()
    assert not bad


# --- what each page must be

LOOK = '''() => ({
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    links: [...document.querySelectorAll('a[href]')].map(e => e.href),
    wide: document.documentElement.scrollWidth - window.innerWidth,
    mute: [...document.images].filter(e => e.alt.length < 10).map(e => e.src),
    broken: [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.src),
    title: document.querySelector('h1')?.textContent,
    description: document.querySelector('meta[name=description]')?.content,
    repository: [...document.querySelectorAll('.sidebar-repository')].map(e => e.textContent.trim()),
    faint: [...document.querySelectorAll('article img')].map(e => getComputedStyle(e).backgroundColor),
})'''


@pytest.fixture(scope='module')
def visited(browser, url, pages):
    "Each page on a phone: its ids, links, pictures, and what sticks out; and what was wrong"
    ctx = browser.new_context(viewport=dict(width=390, height=844), color_scheme='dark')
    pg, res, bad = ctx.new_page(), {}, []
    listen(pg, bad)
    for p in pages:
        pg.goto(url + p)
        pg.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        res[p] = pg.evaluate(LOOK)
    ctx.close()
    return res, bad


@pytest.fixture(scope='module')
def seen(visited): return visited[0]


def test_each_notebook_has_a_page(seen):
    heads = [title_cell(nbformat.read(p, as_version=4)) for p in notebooks()]
    titles = [c.source.split('\n')[0][2:].replace('`', '') for c in heads]
    shown = [(o['title'] or '').rstrip('#¶') for o in seen.values()]  # the page of search gets its title from a script
    assert len(titles) == len(notebooks()) and not set(titles) - set(shown)


def test_each_page_is_in_the_sidebar(seen, url):
    links = {l.partition('#')[0] for l in seen['index.html']['links']}
    assert [p for p in seen if url + p not in links | {url + 'search.html', url + 'index.html'}] == []


def test_links_and_anchors(seen, url, site):
    bad = []
    for p, o in seen.items():
        for l in o['links']:
            if not l.startswith(url): continue
            to, _, frag = l[len(url):].partition('#')
            if to not in seen: bad += [] if (site/to).is_file() else [f'{p}: {to}']
            elif frag and frag not in seen[to]['ids']: bad.append(f'{p}: {to}#{frag}')
    assert not bad


def test_ids_are_unique(seen):
    twice = {p: [i for i in set(o['ids']) if o['ids'].count(i) > 1] for p, o in seen.items()}
    assert {p: v for p, v in twice.items() if v} == {}


def test_nothing_sticks_out_on_a_phone(seen): assert {p: o['wide'] for p, o in seen.items() if o['wide'] > 0} == {}


def test_pictures_have_words(seen):
    assert {p: o['mute'] for p, o in seen.items() if o['mute']} == {}
    assert {p: o['broken'] for p, o in seen.items() if o['broken']} == {}
    assert sum(len(o['faint']) for o in seen.values()) > 20


def test_pictures_of_a_markdown_page(seen):
    "They are in the repository, beside the file that shows them"
    n = (ROOT/'benchmarks/README.md').read_text().count('![')
    assert n and len(seen['benchmarks.html']['faint']) == n


def test_pictures_are_readable_in_the_dark(seen):
    assert {c for o in seen.values() for c in o['faint']} == {'rgb(255, 255, 255)'}


def test_no_error_and_no_request_elsewhere(visited): assert len(visited[0]) > 60 and visited[1] == []


def test_pages_say_what_they_are_for(seen):
    "... in a line of their own, for search engines and for those who share a link"
    said = {p: o['description'] for p, o in seen.items() if p != 'search.html'}
    assert {p: v for p, v in said.items() if not v or not 20 <= len(v) <= 210 or re.search(r'[`>]|\]\(', v)} == {}
    lead = 'Semi-supervised self-training for fastai and tsai: any Learner learns from unlabeled data'
    assert said['index.html'] == lead
    assert len(set(said.values())) == len(said)


def test_repository_and_version(seen):
    cfg = settings()
    here = f"https://github.com/{cfg['user']}/{cfg['repo']}"
    assert {tuple(o['repository']) for o in seen.values()} == {(f"GitHub · version {cfg['version']}",)}
    assert [p for p, o in seen.items() if here not in o['links']] == []


def test_this_test_would_notice(new_page, url):
    pg = new_page()
    pg.goto(url)
    pg.evaluate("fetch('http://localhost:9/x').catch(() => 0); fetch('nowhere.html').then(() => console.error('oh'))")
    pg.wait_for_timeout(500)
    said = '; '.join(new_page.bad)
    new_page.bad.clear()
    assert 'asks http://localhost:9' in said and '404' in said and 'oh' in said


def test_index_at_a_glance(new_page, url):
    "On a desktop's first screen: what it is, the result in a picture, how to install it, lines that run, none is cut"
    pg = new_page(viewport=dict(width=1280, height=800))
    pg.goto(url)
    for o in ('h1', '.lead', 'img.align-right', 'pre:has-text("pip install")',
              'div.cell_input:has-text("NoisyStudent(")'):
        box = pg.locator(f'article {o}').first.bounding_box()
        assert box['height'] > 0 and box['y'] + box['height'] < 800, o
    assert pg.eval_on_selector_all('article div.highlight pre', CUT) == []


CUT = "ps => ps.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent)"


def test_benchmarks_begin_with_the_result(new_page, url):
    "A sentence and its table on the first screen; no line of code or of output is cut, no cell holds two numbers"
    pg = new_page(viewport=dict(width=1280, height=800))
    pg.goto(f'{url}benchmarks.html')
    first = pg.locator('article section section').first
    assert re.match(r'The student is ahead of .* on \d+ of \d+ settings', first.locator('p strong').first.inner_text())
    table = first.locator('table').first.bounding_box()
    assert table['y']+table['height'] < 800 and first.locator('pre').count() == 0
    assert pg.eval_on_selector_all('article pre', CUT) == []
    cells = pg.locator('article tbody td:not(:first-child)').all_inner_texts()
    assert [o for o in cells if '\n' in o or re.search(r'\d [A-Za-z]+, ', o)] == []


def test_the_moving_picture_stands_still_if_asked(new_page, url):
    for motion, name in (('no-preference', 'spreading.gif'), ('reduce', 'spreading.png')):
        pg = new_page(reduced_motion=motion)
        pg.goto(url)
        img = pg.locator('article picture img')
        img.scroll_into_view_if_needed()
        assert img.evaluate('e => e.decode().then(() => e.currentSrc)') == f'{url}images/{name}'


def test_pages_say_how_long_they_run(new_page, url):
    pg, said = new_page(), r'runs in (under|about) \d+ (seconds|minutes) of CPU time'
    for o in ('index', 'student', 'noise/rows', 'tutorials/images'):
        pg.goto(f'{url}{o}.html')
        assert re.search(said, pg.locator('p.origin').inner_text())


# --- search, themes, no scripts

@pytest.mark.parametrize('word', ['NoisyStudent', 'PseudoLabels', 'self_train', 'pseudolabel', 'StudentNoise'])
def test_search(new_page, url, site, word):
    "The first thing found is the symbol itself"
    home = symbol_page(site, word)
    pg = new_page()
    pg.goto(url)
    pg.locator('input[name=q]').first.fill(word)
    pg.locator('input[name=q]').first.press('Enter')
    hit = pg.locator('#search-results li a').first  # they are shown one by one, the best first
    hit.wait_for()
    assert hit.inner_text().split('.')[-1] == word
    hit.click()
    pg.wait_for_url(f'**/{home}**')
    assert pg.locator('dt.sig:target').is_visible()


@pytest.mark.parametrize('words,home', [
    ('custom loss', 'howto/your_own_loss'), ('multi-gpu', 'howto/several_gpus'), ('distributed', 'howto/several_gpus'),
    ('checkpoint', 'howto/resume'), ('l2pl_ratio', 'howto/choose_the_ratio'), ('migrate', 'howto/coming_from_tsai')])
def test_search_by_other_words(new_page, url, words, home):
    "Guides are found by words that are not in their titles"
    pg = new_page()
    pg.goto(f'{url}search.html?q={words}')
    assert pg.locator('#search-results li a').first.get_attribute('href').startswith(f'{home}.html')


FAQ = 'howto/faq'
QUESTIONS = {
    'how do I use it with my ImageDataLoaders': FAQ, 'weights per sample': 'howto/weights',
    'my validation got worse': FAQ, 'does it work with timm': FAQ,
    'which version of fastai': 'explanations/supported', 'W&B': 'rounds/logs', 'why is my dl2 refused': FAQ,
    'mixed precision': 'labels/labeling', 'object detection': 'explanations/supported',
    'how is this different from FixMatch': 'explanations/compared', 'how to cite': FAQ, 'license': FAQ,
    'multi-label threshold': 'labels/confidence', 'early stopping': FAQ,
    'text with Hugging Face': 'howto/data_sources', 'label smoothing': 'howto/your_own_loss',
    'several GPUs': 'howto/several_gpus', 'resume after a crash': 'howto/resume',
    'l2pl_ratio': 'howto/choose_the_ratio', 'what ratio of labeled to unlabeled': 'howto/choose_the_ratio',
    'how do I install it': 'index', 'out of memory': 'howto/millions_of_rows', 'class imbalance': FAQ,
    'semi-supervised learning tabular data': 'tutorials/tables', 'confidence threshold': 'labels/confidence',
    'how many rounds should I train': FAQ, 'k-fold cross validation': 'howto/cross_validation',
    'export a model and deploy': 'howto/deploy', 'Slurm cluster': 'howto/clusters',
    'temperature calibration': 'labels/confidence', 'time series classification tsai': 'tutorials/timeseries',
    'does the data leave my machine': FAQ,
    'out-of-distribution unlabeled data': 'explanations/when_pseudolabels_hurt',
    'ensemble of teachers': 'labels/labeling', 'what is in the labels folder': 'howto/labels_folder',
    'label propagation': 'howto/propagate', 'mean teacher': 'howto/online_teacher', 'TensorBoard': 'rounds/logs',
    'overfitting': 'explanations/why_noise', 'label errors': 'howto/look_at_labels',
    'which rows should I label next': 'howto/look_at_labels', 'confusion matrix': 'howto/look_at_labels',
    'embedding map': 'howto/look_at_labels'}


def test_search_answers_questions(new_page, url):
    "As people type them: the page is the first or the second one of what is found"
    pg = new_page()
    pg.goto(f'{url}search.html?q=label')
    pg.locator('#search-results li a').first.wait_for()
    hits = pg.evaluate("""qs => qs.map(q => [...new Set(Search._performSearch(...Search._parseQuery(q)).reverse()
        .map(o => o[0]))].slice(0, 2))""", [*QUESTIONS])
    assert {q: seen for (q, home), seen in zip(QUESTIONS.items(), hits) if home not in seen} == {}


def inventory(site):
    "objects.inv as `{name: (kind, address)}`"
    raw = (site/'objects.inv').read_bytes()
    text = zlib.decompress(raw.split(b'\n', 4)[4]).decode()
    rows = [re.match(r'(\S+) (\S+) \S+ (\S+)', l).groups() for l in text.splitlines()]
    return {n: (k, a.replace('$', n)) for n, k, a in rows if k.startswith('py:')}


def symbol_page(site, word):
    return next((a.split('#')[0] for n, (_, a) in inventory(site).items() if n.split('.')[-1] == word), None)


def test_inventory(site, seen):
    "What other projects link to: each exported name, where it is"
    inv, names = inventory(site), import_module('noisy_student_fastai.all').__all__
    assert len(names) == 21
    assert {n for n in names if not any(k.endswith(f'.{n}') for k in inv)} <= {'series_ops'}
    assert inv['noisy_student_fastai.labels.labeling.Learner.pseudolabel'][0] == 'py:method'
    assert all(a.split('#')[1] in seen[a.split('#')[0]]['ids'] for _, a in inv.values())


def test_public_names_by_wing(new_page, url):
    "What a star brings is in one table for each wing, and each name leads to where it is described"
    pg = new_page()
    pg.goto(f'{url}all.html')
    tables = pg.locator('section[id]:has(> .table-wrapper table.names)')
    wings = [o.split(':')[0] for o in tables.locator('> h2').all_inner_texts()]
    assert [o.lower() for o in wings[:-1]] == [o for o in house.WINGS if o.capitalize() in wings] and len(wings) > 4
    shown = set(pg.locator('table.names tr td:first-child code').all_inner_texts())
    assert {*import_module('noisy_student_fastai.all').__all__} - {'series_ops'} <= shown
    home = pg.locator('table.names td:first-child a', has_text='SeriesAugment').get_attribute('href')
    assert home == 'noise/series.html#noisy_student_fastai.noise.series.SeriesAugment'


def test_reference_of_the_callback(new_page, url):
    "Signature, parameters, errors and source"
    pg = new_page()
    pg.goto(f'{url}student.html#noisy_student_fastai.student.NoisyStudent')
    assert 'l2pl_ratio=1,' in pg.locator('dt.sig:target').inner_text()
    entry = pg.locator('dl.class', has=pg.locator('dt.sig:target'))
    row = entry.locator('tr', has_text='l2pl_ratio').first
    assert [o.strip() for o in row.locator('td').all_inner_texts()][1:3] == ['float', '1']
    assert 'pseudolabeled' in row.inner_text()
    entry.locator('details.errors summary').first.click()
    assert 'a number above 0' in entry.locator('details.errors').inner_text()
    src = pg.locator('details.source', has_text='class NoisyStudent(FitCallback)').first
    src.locator('summary').click()
    assert src.locator('pre').is_visible()
    line = src.locator('a', has_text='GitHub').get_attribute('href').split('/student.py#L')[1].split('-')[0]
    lines = (ROOT/'noisy_student_fastai/student.py').read_text().split('\n')
    assert lines[int(line) - 1].startswith('class NoisyStudent')


def test_names_in_prose_are_links(new_page, url):
    pg = new_page()
    pg.goto(url)
    assert pg.locator('article p a, article li a').filter(has_text=re.compile('^RandAugment$')).count()
    pg.goto(f'{url}student.html')
    assert pg.locator('article p a[href^="losses.html#"]', has_text='RowLoss').count()


def test_without_scripts(new_page, url):
    pg = new_page(java_script_enabled=False)
    pg.goto(f'{url}student.html')
    for o in ('article h1', 'dt.sig', '.sidebar-tree a', '.cell_output table', 'article img'):
        assert pg.locator(o).first.is_visible(), o
    pg.locator('details.source summary').first.click()
    assert pg.locator('details.source pre').first.is_visible()
    pg.goto(f'{url}losses.html')
    assert pg.locator('math').first.is_visible()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_light_and_dark(new_page, url, scheme):
    "Text stands out from its page, as the W3C counts it (4.5 to 1), and the page is as dark as asked"
    pg = new_page(color_scheme=scheme)
    for p in ('index.html', 'student.html'):
        pg.goto(url + p)
        rgb = "s => getComputedStyle(document.querySelector(s))"
        back = pg.evaluate(f"({rgb})('body').backgroundColor")
        assert (luminance(back) < .2) == (scheme == 'dark')
        for o in ('article p', 'article code', 'div.highlight pre', '.sidebar-tree a'):
            a, b = luminance(pg.evaluate(f"({rgb})('{o}').color")), luminance(back)
            assert (max(a, b) + .05)/(min(a, b) + .05) > 4.5, o


def luminance(rgb):
    c = [int(o)/255 for o in re.findall(r'\d+', rgb)[:3]]
    c = [o/12.92 if o <= .03928 else ((o + .055)/1.055)**2.4 for o in c]
    return .2126*c[0] + .7152*c[1] + .0722*c[2]


def test_llms(site, seen):
    "llms.txt lists the pages, llms-full.txt holds them"
    text, full = (site/'llms.txt').read_text(), (site/'llms-full.txt').read_text()
    links = re.findall(r'\]\(https://\S+?github\.io/noisy_student_fastai/(\S+?)\)', text)
    assert '/student.html): The callback: any fastai or tsai Learner' in text
    assert sorted(links) == sorted(set(seen) - {'search.html'})
    assert not re.search('^</?details', full, flags=re.M) and '{py:' not in full  # code may hold the tag within a line
    for o in ('### `NoisyStudent(dl2, bs=None', '| `l2pl_ratio` |', 'class NoisyStudent(FitCallback)',
              'An error names the argument'):
        assert o in full  # from the beginning of a page to its end


# --- a build that must fail

SMALL = {'index': '# Small\n\n> A site of two pages\n\nSee [the other](other.ipynb).',
         'other': '# Other\n\n> The other page'}


@pytest.fixture
def small(tmp_path, build_site):
    "A function that builds a project of two pages, and returns exit status and what was said"
    for o in ('docs', 'tools', 'noisy_student_fastai'): shutil.copytree(ROOT/o, tmp_path/o)
    shutil.copy(ROOT/'settings.ini', tmp_path)
    def _small(sidebar='Tutorials = ["other"]', figure=None, **pages):
        (tmp_path/'docs/sidebar.toml').write_text(sidebar)
        (tmp_path/'nbs').mkdir()
        for k, v in (SMALL | pages).items():
            nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(v)])
            if figure and k == 'other': nb.cells.append(figure)
            nbformat.write(nb, tmp_path/f'nbs/{k}.ipynb')
        status, said = build_site(tmp_path/'docs/pages.py')
        assert (status == 0) == (tmp_path/'_docs/index.html').exists()
        return status, said
    return _small


def test_small(small):
    "A star in the sidebar stands for all pages that it doesn't name"
    status, out = small('Tutorials = ["*"]')
    assert status == 0, out


def test_bad_pages(small):
    "A page that is in no sidebar, one that isn't there, a figure without words, one that was never run"
    png = nbformat.v4.new_output('display_data', {'image/png': 'iVBORw0KGgo='})
    figure = nbformat.v4.new_code_cell('plot()', outputs=[png])
    status, out = small('Tutorials = ["other", "gone"]', figure, third='# Third')
    assert status != 0
    for o in ('sidebar.toml lacks nbs/third.ipynb', 'names what is not there: nbs/gone.ipynb',
              f'nbs/other.ipynb, cell {figure.id}: a figure without', 'how long nbs/other.ipynb runs'): assert o in out


def test_bad_links(small):
    status, out = small(other='# Other\n\n> A\n\nSee [a](#no-such-part), [b](nowhere.ipynb) and $\\nomath{$.')
    assert status != 0 and all(o in out for o in ('no-such-part', 'nowhere.ipynb', 'nomath'))


# --- the quick start in Jupyter

SETTINGS = {  # all cells are in the page, also those that are out of sight
    '@jupyterlab/notebook-extension/tracker.jupyterlab-settings': {'windowingMode': 'none'},
    '@jupyterlab/apputils-extension/notification.jupyterlab-settings': {'fetchNews': 'false', 'checkForUpdates': False}}


@pytest.fixture
def lab(tmp_path):
    "JupyterLab on a copy of the quick start, less the cells that `make test` leaves out, without news from elsewhere"
    nb = nbformat.read(ROOT/'nbs/index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type != 'code' or not left_out(c)]
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs, c.execution_count = [], None
    (tmp_path/'nbs').mkdir()
    nbformat.write(nb, tmp_path/'nbs/index.ipynb')
    shutil.copytree(ROOT/'nbs/images', tmp_path/'nbs/images')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    home = tmp_path/'home'
    for k, v in SETTINGS.items():
        (home/k).parent.mkdir(parents=True)
        (home/k).write_text(json.dumps(v))
    env = environment(str(home)) | {'HOME': str(home), 'JUPYTER_CONFIG_DIR': str(home), 'JUPYTER_DATA_DIR': str(home)}
    env.pop('PYTHONWARNINGS')  # a reader sees warnings
    args = ['--no-browser', '--allow-root', f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=',
            '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
            f'--LabApp.user_settings_dir={home}', f'--ServerApp.root_dir={tmp_path}']
    with open(tmp_path/'lab.log', 'w') as log:
        proc = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *args], env=env, stdout=log, stderr=log)
    try:
        address = f'http://127.0.0.1:{port}/lab'
        wait_for(address, proc, tmp_path/'lab.log')
        yield f'{address}/tree/nbs/index.ipynb'
    finally:
        proc.kill()  # its kernel ends with it; asked to end, both take seconds
        proc.wait(20)


def wait_for(address, proc, log, seconds=60):
    end = time.time() + seconds
    while time.time() < end and proc.poll() is None:
        try: return urllib.request.urlopen(address).close()
        except OSError: time.sleep(.2)
    pytest.fail(f'JupyterLab does not answer:\n{log.read_text()[-2000:]}')


ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
RED = '[data-mime-type="application/vnd.jupyter.stderr"]'  # a red box, for a warning too
DONE = f"""() => document.querySelector('{ERROR}') ||
    [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(e => /[0-9]/.test(e.textContent))"""


def test_quick_start_in_jupyterlab(lab, new_page):
    pg = new_page(viewport=dict(width=1300, height=900))
    pg.goto(lab)
    pg.get_by_text('Python 3 (ipykernel) | Idle').wait_for(timeout=60_000)  # before that a run is silently lost
    pg.get_by_role('menuitem', name='Run', exact=True).click()
    pg.get_by_role('menuitem', name='Run All Cells', exact=True).click()
    pg.wait_for_function(DONE, timeout=240_000)
    assert pg.locator(ERROR).all_inner_texts() == [] == pg.locator(RED).all_inner_texts()
    assert pg.eval_on_selector_all('.jp-RenderedMarkdown img',
                                   'es => es.length && es.every(e => e.complete && e.naturalWidth)')
    said = ''.join(pg.locator('.jp-OutputArea').all_inner_texts())
    teacher, student = (float(re.search(rf'accuracy of the {o}: (\S+)', said)[1]) for o in ('teacher', 'student'))
    assert student > max(.9, teacher - .01)  # it draws other numbers each time
