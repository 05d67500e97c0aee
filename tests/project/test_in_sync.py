"Notebooks, exported modules and README agree byte for byte, and a disagreement is noticed"
import re
import shutil

import pytest
from prepare import differences, redo, update
from run_notebooks import settings

pytestmark = pytest.mark.nbdev


@pytest.fixture(scope='module')
def redone(root, tmp_path_factory):
    "Everything made anew from this checkout's notebooks"
    dest = tmp_path_factory.mktemp('redone')
    redo(root, dest)
    return dest


@pytest.fixture
def checkout(root, redone, tmp_path):
    "A copy of what is made, in sync, to be spoilt"
    cfg = settings()
    for o in (cfg['lib_path'], cfg['nbs_path'], 'README_files'): shutil.copytree(redone/o, tmp_path/o)
    for o in ('README.md', 'CONTRIBUTING.md'): shutil.copy(redone/o, tmp_path)
    return tmp_path


def test_this_checkout(root, redone):
    diff = {str(p): how for p, how in differences(root, redone).items()}
    assert not diff, 'edit notebooks, not what is made from them; then run `make prepare`'


def test_links_of_the_readme(root):
    "Each relative link leads to a file of this checkout"
    text = re.sub(r'^```.*?^```|`[^`\n]*`', '', (root/'README.md').read_text(), flags=re.M | re.S)
    links = re.findall(r'''(?:\]\(|(?:src|href)=["'])([^)"'\s#]+)''', text)
    assert [l for l in links if not re.match(r'[a-z]+:', l) and not (root/l).exists()] == []


def a_module(checkout): return sorted((checkout/settings()['lib_path']).glob('[!_]*.py'))[0]


def edit_module(checkout): a_module(checkout).open('a').write('\nx = 1\n')


def edit_version(checkout): (checkout/settings()['lib_path']/'__init__.py').open('a').write('\nx = 1\n')


def edit_readme(checkout): (checkout/'README.md').open('a').write('one more line\n')


def edit_table(checkout):
    page = checkout/'CONTRIBUTING.md'
    page.write_text(page.read_text().replace('| `checks` |', '| `czechs` |'))


def other_picture(checkout): next((checkout/'README_files').iterdir()).write_bytes(b'a picture')


def stray_module(checkout): (checkout/settings()['lib_path']/'stray.py').write_text('x = 1\n')


def missing_module(checkout): a_module(checkout).unlink()


def dirty_notebook(checkout):
    nb = checkout/settings()['nbs_path']/'index.ipynb'
    nb.write_text(nb.read_text().replace('"metadata": {}', '"metadata": {"scrolled": true}', 1))


SPOILERS = [edit_module, edit_version, edit_readme, edit_table, other_picture, stray_module, missing_module,
            dirty_notebook]


@pytest.mark.parametrize('spoil', SPOILERS)
def test_is_noticed(checkout, redone, spoil):
    assert differences(checkout, redone) == {}
    spoil(checkout)
    assert len(differences(checkout, redone)) == 1


def test_edit_in_a_notebook_is_noticed(root, checkout, tmp_path_factory):
    "The same, from the notebook's side: the steps are run again"
    nb = checkout/settings()['nbs_path']/'index.ipynb'
    nb.write_text(nb.read_text().replace('"# ', '"# New ', 1))
    shutil.copy(root/'settings.ini', checkout)
    dest = tmp_path_factory.mktemp('again')
    redo(checkout, dest)
    assert {str(p): how for p, how in differences(checkout, dest).items()} == {'README.md': 'changed'}


def test_update(checkout, redone, capsys):
    "`make prepare` mends what is made, removes what lost its notebook and leaves alone what people wrote"
    edit_module(checkout)
    edit_readme(checkout)
    old = a_module(checkout).with_name('renamed.py')
    shutil.copy(a_module(redone), old)
    stray_module(checkout)
    assert [p.name for p in update(checkout, redone)] == ['stray.py']
    assert not old.exists()
    assert {p.name: how for p, how in differences(checkout, redone).items()} == {'stray.py': 'stray'}
