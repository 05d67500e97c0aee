"README.md from a notebook: what is hidden, what a link becomes"
import base64

import nbformat
import pytest

pytestmark = pytest.mark.nbdev


def test_links():
    from pathlib import Path

    from readme import relink
    nbs, root = Path('/a/nbs'), Path('/a')
    one = lambda s: relink(s, nbs, root)
    assert one('[t](tutorials/one.ipynb#end)') == '[t](nbs/tutorials/one.ipynb#end)'
    assert one('text ![p](../docs/p.png)') == 'text ![p](docs/p.png)'
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
        code('print(1)', html, out('stream', name='stderr', text='warning!'))])
    nbformat.write(nb, tmp_path/'a.ipynb')
    got = page(tmp_path/'a.ipynb')
    assert [c.source.strip() for c in got.cells] == ['# Title\n\n> what it is', 'shown = 1', 'print(1)']
    assert [o.data['text/html'] for o in got.cells[-1].outputs] == ['<table>\n</table>']


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
