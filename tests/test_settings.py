"What the command is asked for is checked by a module that loads nothing"
import subprocess
import sys

import pytest
from noisy_student_fastai.data.datasets import catalog
from noisy_student_fastai.settings import Settings, data_names, data_path

HEAVY = ('numpy', 'pandas', 'torch', 'fastai', 'matplotlib', 'sklearn')
CODE = '''
import sys
from noisy_student_fastai.app.cli import main
try: main(**{kwargs})
except SystemExit as e: print(e.code, [o for o in {heavy} if o in sys.modules])
'''


@pytest.mark.parametrize('kwargs,said', [
    (dict(steps=9), 'steps=9'), (dict(rounds=0), 'rounds=0'), (dict(metric='mcc'), "metric='mcc'"),
    (dict(data='no_such'), "data='no_such'"), (dict(prior='a'), "prior='a'")])
def test_wrong_options_are_told_at_once(root, tmp_path, kwargs, said):
    "Before a library is loaded that takes seconds"
    res = subprocess.run([sys.executable, '-c', CODE.format(kwargs=kwargs, heavy=HEAVY)], cwd=tmp_path, text=True,
                         env=dict(PYTHONPATH=str(root)), capture_output=True)
    assert res.stdout == '2 []\n' and res.stderr.startswith(f'error: {said}'), res.stderr


def test_names_of_data(): assert data_names == tuple(catalog)


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert data_path('wine') is None and data_path('~') == tmp_path
    with pytest.raises(FileNotFoundError, match="data='x': there is no such file"): data_path('x')


@pytest.mark.parametrize('kw', [dict(prior='even'), dict(prior={}), dict(prior=dict(a=0.)), dict(prior=dict(a=-1)),
                                dict(prior=dict(a=True)), dict(prior=dict(a=.1, b=.8)),
                                dict(balance=True, prior='uniform'), dict(repeats=0), dict(repeats=1.5),
                                dict(metric='F1')])
def test_selections_that_make_no_sense(kw):
    with pytest.raises((ValueError, TypeError), match=next(iter(kw))): Settings(**kw)
