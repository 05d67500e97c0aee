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


@pytest.mark.parametrize('k,v', dict(bs=1, ratio=0, steps=9, lr=-1., noise=4, size=7, metric='mcc').items())
def test_numbers_that_make_no_sense(k, v):
    with pytest.raises(ValueError, match=f'{k}={v!r}: '): Settings(**{k: v})


@pytest.mark.parametrize('kw,said', [(dict(bs=8, ratio=10), 'ratio=10: a batch of 8 rows has no room'),
                                     (dict(noise=-.1), 'noise=-0.1: '), (dict(lr=float('nan')), 'lr=nan: '),
                                     (dict(bs='64'), "bs='64'")])
def test_errors_name_the_option(kw, said):
    with pytest.raises((ValueError, TypeError), match=said): Settings(**kw)


@pytest.mark.parametrize('r', [2, 1, 1/3, 1/7, 1/20])
def test_rows_of_a_batch(r):
    s = Settings(bs=50, ratio=r, prior=dict(a=.2, b=.8), metric='f1', repeats=1)
    assert s.n_pseudo == int(50/(1+r)+1e-9) and s.n_labeled+s.n_pseudo == 50
