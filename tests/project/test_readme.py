"README.md from a notebook: what is hidden, what a link becomes"
import base64
import re

import nbformat
import pytest
from PIL import Image
from run_notebooks import settings

pytestmark = pytest.mark.nbdev


def test_links():
    from pathlib import Path

    from readme import relink
    nbs, root = Path('/a/nbs'), Path('/a')
    one = lambda s: relink(s, nbs, root)
    assert one('[t](tutorials/one.ipynb#end)') == '[t](nbs/tutorials/one.ipynb#end)'
    assert one('text ![p](../docs/p.png)') == 'text ![p](docs/p.png)'
    assert one('<source srcset="p.png">') == '<source srcset="nbs/p.png">'
    assert one('<img width="9" src="p.png"> <a href="q">') == '<img width="9" src="nbs/p.png"> <a href="nbs/q">'
    for s in ['[w](https://example.org/a)', '[h](#here)', '![o](README_files/output_1_0.png)', '`x[0](y)`',
              '```python\nf[0](x)\n```', '[m](mailto:a@example.org)']: assert one(s) == s


def test_page(root, tmp_path, monkeypatch):
    from readme import page
    monkeypatch.chdir(root)
    code = lambda s, *o: nbformat.v4.new_code_cell(s, outputs=list(o))
    out = nbformat.v4.new_output
    html = out('display_data', {'text/html': '<style>a {}</style>\n\n    <table>\n\n</table>', 'text/plain': 'x'})
    nb = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell('# Title\n\n> what it is\n\n- needs: tsai\n- order: 3'),
        code('#| hide\nsecret = 1'), code('#| export\nexported = 1'), code('#| eval: false\nshown = 1'),
        code('print(1)', html, out('stream', name='stderr', text='warning!')),
        code('#| output: false\nlog()', html, out('stream', name='stdout', text='a long log'))])
    nbformat.write(nb, tmp_path/'a.ipynb')
    got = page(tmp_path/'a.ipynb')
    assert [c.source.strip() for c in got.cells] == ['# Title\n\n> what it is', 'shown = 1', 'print(1)', 'log()']
    assert got.cells[-1].outputs == []
    assert [o.data['text/html'] for o in got.cells[-2].outputs] == ['<table>\n</table>']


def test_a_picture_with_a_name(root, tmp_path, monkeypatch):
    "Its file is not called by where the cell stands; others are"
    from nbconvert import MarkdownExporter
    from readme import page
    monkeypatch.chdir(root)
    png = nbformat.v4.new_output('display_data', {'image/png': base64.b64encode(b'picture').decode()})
    cells = [nbformat.v4.new_code_cell(s, outputs=[png]) for s in ('#| fig-name: result\nplot()', 'plot()')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/'a.ipynb')
    _, res = MarkdownExporter().from_notebook_node(page(tmp_path/'a.ipynb'), resources={'output_files_dir': 'pics'})
    assert res['outputs'] == {'pics/result.png': b'picture', 'pics/output_1_0.png': b'picture'}


# --- what this README says

@pytest.fixture
def said(root): return (root/'README.md').read_text()


def test_at_a_glance(said):
    "In the first lines: the field's words, the number, five lines for the reader's own Learner, and only then a toy"
    lead, five = said.split('```python')[0], said.split('```python')[1].split('```')[0]
    for o in ('Semi-supervised self-training', 'fastai', 'tsai', '92% to 97%', 'schematic.svg', 'pip install'):
        assert o in lead, o
    for o in ('learn.pseudolabel(x)', '.select(', '.dl(learn.dls)', 'cbs=NoisyStudent(dl2', 'fit_one_cycle'):
        assert o in five, o
    assert 'label_scarce' not in lead+five and len(said.split()) < 950


def test_no_logs(said):
    "No progress table, and nothing printed of more than five lines"
    assert '<table' not in said and 'fastprogress' not in said
    text = re.sub(r'^```.*?^```$', '', said, flags=re.M | re.S)
    printed = re.findall(r'(?:^ {4}\S.*\n\n?)+', text, flags=re.M)
    assert printed and all(len(o.split('\n\n')) <= 5 for o in printed)


def test_numbers_are_those_of_the_run(said):
    student, control = map(float, re.search(r'test set ([\d.]+)% against ([\d.]+)%', said).groups())
    assert f'From {control:.0f}% to {student:.0f}%' in said and f'stays at {control:.0f}%' in said


def test_facts_of_the_package(said):
    "License, versions and addresses are those of settings.ini"
    cfg = settings()
    line = next(o for o in said.splitlines() if o.startswith('[Apache 2.0](LICENSE)'))
    least = dict(re.findall(r'(?:^| )([a-z]+)>=([\d.]+)', f"{cfg['requirements']} {cfg['tsai_requirements']}"))
    short = lambda v: '.'.join(v.split('.')[:2])
    assert line.split(' · ')[1:] == [f"Python {cfg['min_python']}+", f"fastai {short(least['fastai'])}",
                                     f"tsai {short(least['tsai'])}", f"torch {short(least['torch'])}+"]
    assert cfg['license'] == 'apache2'
    for o in ('issues', 'blob/main/CITATION.cff', 'blob/main/CONTRIBUTING.md'):
        assert f"https://github.com/{cfg['user']}/{cfg['repo']}/{o}" in said


def test_pictures_have_words(said):
    "The moving one, too, and it has a still for those who want no motion"
    html, md = re.findall(r'<img[^>]* alt="([^"]*)"', said), re.findall(r'!\[([^\]]*)\]\(', said)
    assert len(html) == said.count('<img') == 2 and all(len(o) > 40 for o in html + md) and md
    assert '<source media="(prefers-reduced-motion: reduce)" srcset="nbs/images/spreading.png">' in said


# --- labels that spread

def is_moving(path):
    with Image.open(path) as im: return im.n_frames > 3 and im.info['duration'] > 0


def test_the_moving_picture(root, said):
    gif, png = root/'nbs/images/spreading.gif', root/'nbs/images/spreading.png'
    assert '<img width="480" src="nbs/images/spreading.gif"' in said
    assert gif.stat().st_size < 1_000_000 and is_moving(gif) and png.stat().st_size < 200_000


@pytest.mark.usefixtures('no_windows')
def test_the_script_draws_what_a_run_has_done(tmp_path):
    "At a small setting: which rows, how many of their labels are right, and accuracy, against the labels that it drew"
    import spreading
    data, rounds, records = spreading.train(n_epoch=2, n_rounds=1, min_conf=.15, n_rows=60)
    scene = spreading.Scene(data, rounds, records)
    spreading.save(spreading.frames(scene, n_steps=3), tmp_path/'a.gif', tmp_path/'a.png')
    assert is_moving(tmp_path/'a.gif') and (tmp_path/'a.gif').stat().st_size < 1_000_000
    o, y = rounds[0], data.unlabeled.y
    right = [a == b for a, b, k in zip(o['label'], y, o['kept']) if k]
    assert scene.words(1)[1].startswith(f'{len(right)} of {len(y)} labeled, {sum(right)/len(right):.1%} of them right')
    assert scene.words(1)[2].endswith(' → '.join(f'{100*v:.1f}' for v in records.test_accuracy) + '%')
    assert len(right) > 20 and len(scene.at) == len(y)
