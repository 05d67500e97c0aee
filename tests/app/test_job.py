"What the command does between its options and its files: scores, plain models, red lines, advice, how long it takes"
import io
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from noisy_student_fastai.app import job
from noisy_student_fastai.app.job import (
    Judged,
    _looks,
    examples,
    finished,
    in_shell_words,
    last_lines,
    load_inputs,
    looks,
    plain_models,
    results,
    start_line,
    train_splits,
)
from noisy_student_fastai.app.report import _kept_columns, report, row_html
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.data.baselines import learned_from
from noisy_student_fastai.files import Changed
from noisy_student_fastai.fingerprints import OtherRun
from noisy_student_fastai.labels.balance import NoRows
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.settings import Settings
from own_data import arrays, csv, folder, npz
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score


def churn(n=300, share=.1, seed=0):
    "A table of 90:10 in which two numbers tell the rare class, and a third of the rows is labeled"
    rng = np.random.default_rng(seed)
    y = rng.random(n) < share
    a, b = rng.normal(2.*y), rng.normal(-1.*y)
    df = pd.DataFrame(dict(a=a, b=b, plan=np.where(rng.random(n) < .5, 'x', 'y')))
    names = np.where(y, 'churned', 'stays')
    return df.assign(status=np.where(np.arange(n) < n//3, names, '')), names


def judged(inputs, p, y, part='test'):
    res = object.__new__(Judged)
    res.inputs, res.part, res.p, res.y = inputs, part, np.asarray(p, float), np.asarray(y)
    res.pred = res.p.argmax(1)
    return res


def some_records(metric, n=3):
    rows = [dict(seed=s, round=r, role=role, valid_loss=1., n_batches=9, n_params=1, label_seconds=1., train_seconds=2.,
                 **{metric: v, f'test_{metric}': v, f'teacher_{metric}': .2})
            for s in range(n) for role, r, v in (('teacher', 0, .2), ('student', 1, .3+.01*s), ('control', 1, .2))]
    return pd.DataFrame(rows)


@pytest.fixture
def inputs(tmp_path):
    df, y = churn()
    csv(tmp_path/'test.csv', churn(200, seed=1)[0].assign(status=churn(200, seed=1)[1]))
    return load_inputs(str(csv(tmp_path/'a.csv', df)), Settings(steps=10), test=str(tmp_path/'test.csv'))


def test_a_rare_class_is_what_is_looked_for(inputs):
    "By default; and the words say which"
    args = inputs.train_args()
    assert (args['monitor'], inputs.vocab[inputs.pos]) == ('average_precision', 'churned')
    assert inputs.metric_words == "average precision of 'churned'" and args['select'] == dict(max_repeat=3)


def says(inputs, p, y, **kwargs):
    how = dict(data='a.csv', rounds=1)
    res = results(inputs, some_records(inputs.metric), (0, 1), how, judged(inputs, p, y), **kwargs)
    return res, last_lines(res, Path('out'))


def test_one_class_is_a_red_line_and_no_verdict(inputs, monkeypatch):
    y = np.array([0]*10+[1]*90)
    res, said = says(inputs, np.tile([.1, .9], (100, 1)), y)
    assert res['answer'].startswith('Of no use')
    assert "predicts 'stays' for all 100 rows of the test set" in res['one_class']
    assert res['one_class'] in said and 'Yes' not in res['answer']
    almost = np.tile([.1, .9], (100, 1))
    almost[50] = [.9, .1]  # a false alarm
    res, said = says(inputs, almost, y)
    assert res['one_class'] is None and "finds 0 of the 10 rows of 'churned'" in res['blind'] and res['blind'] in said
    res, said = says(inputs, np.eye(2)[y], y)
    assert res['answer'] == 'Yes, it helped' and res['blind'] is None and 'finds' not in said
    monkeypatch.setattr(job.sys, 'stdout', SimpleNamespace(isatty=lambda: True))
    assert '\x1b[31m' in says(inputs, np.tile([.1, .9], (100, 1)), y)[1]


def test_what_is_not_measured_is_said_first_and_last(inputs):
    "At the top of the output, and again where the numbers are"
    y, line = np.array([0]*10+[1]*90), "'churned' has no test row: what the student makes of it is not measured"
    assert 'warning' not in job._summary(inputs) and says(inputs, np.eye(2)[y], y)[0]['unmeasured'] == []
    inputs.test = inputs.test[inputs.test[inputs.target] == 'stays']
    assert job._summary(inputs).splitlines()[1] == f'  warning: {line}'
    res, said = says(inputs, np.eye(2)[y], y)
    assert res['unmeasured'] == [line] and line in said.splitlines()


@pytest.mark.parametrize('n_one', [0, 1, 3])
def test_runs_with_one_class_are_in_the_headline(inputs, n_one):
    "Also where the exported model is of another run"
    y, df = np.array([0]*10+[1]*90), some_records(inputs.metric)
    df['n_predicted'] = np.where((df.role == 'student') & (df.seed < n_one), 1, 2)
    res = results(inputs, df, (2, 1), dict(data='a.csv', rounds=1), judged(inputs, np.eye(2)[y], y))
    said = f'Not reliable: the student predicts one class for all in {n_one} of 3 runs'
    assert res['answer'] == (said if n_one else 'Yes, it helped') and res['one_class'] is None
    assert (said in last_lines(res, Path('out'))) == bool(n_one)
    html = report(res, df.assign(**dict.fromkeys(_kept_columns, 1.)), dict(rounds='a', confidence='b'), '')
    assert f'<div class="verdict {"bad" if n_one else "good"}"><strong>{res["answer"]}' in html


@pytest.mark.parametrize('seed', range(3))
def test_standard_error_of_the_students(inputs, seed):
    "Of the seeds and of the rows together, by simulation: with a thousand seeds as here, on as many rows"
    rng, m = np.random.default_rng(seed), inputs.metric
    se, df = rng.uniform(.01, .1), some_records(m, 4)
    df[f'test_{m}'], df[f'test_{m}_se'] = rng.uniform(.2, .4, len(df)), se
    y = np.array([0]*10+[1]*90)
    res = results(inputs, df, (2, 1), dict(data='a.csv', rounds=1), judged(inputs, np.eye(2)[y], y))
    v = df[f'test_{m}'][df.role == 'student'].to_numpy()
    means = rng.normal(v, v.std(ddof=1), (20000, 4)).mean(1)+rng.normal(0, se, 20000)
    assert res['student_se'] == pytest.approx(100*means.std(), rel=.03)


def test_large_numbers_end_the_job_written_out(inputs):
    "In the table of the last lines and in those of plain models"
    res, _ = says(inputs, np.eye(2)[[0]*10+[1]*90], np.array([0]*10+[1]*90))
    models = {k: dict(mean=1234567.8+i, std=12345.67, min=1e6, max=2e6) for i, k in enumerate(res['models'])}
    res |= dict(percent=False, models=models, baselines=[dict(name='ridge', value=3456789.1)])
    said = last_lines(res, Path('out'))
    for i in range(3): assert re.search(rf' {1234568+i:,} +12,346 +1,000,000 +2,000,000$', said, re.M)
    assert ': 3,456,789\n' in said and not re.search(r'\de\+\d', said)


def test_without_any_student_there_is_a_report_that_says_what_to_use(inputs):
    rng, y = np.random.default_rng(0), np.array([0]*10+[1]*90)
    recs = some_records(inputs.metric).query("role=='teacher'").assign(chance=.2, above_chance=-1., n_valid=9)
    plain = pd.DataFrame({inputs.metric: [.1, .9]}, index=['majority class', 'logistic regression'])
    args = dict(data='a.csv', rounds=1), judged(inputs, rng.dirichlet([1, 2], 100), y)
    res = results(inputs, recs, (0, 0), *args, plain)
    said, page = last_lines(res, Path('out')), report(res, recs, dict(rounds=''), 'code')
    for o in (said, page): assert 'The teacher knows nothing yet' in o and 'logistic regression' in o and '0.9' in o
    assert res['answer'].startswith('Not yet') and 'the teacher, as there is no student' in said
    res = results(inputs, recs, (0, 0), *args, plain[:1])  # worse than the teacher
    assert 'plain model' not in res['no_student'] and 'label more rows' in res['no_student']
    assert 'no_student' not in says(inputs, np.eye(2)[y], y)[0]


def test_a_split_without_student_does_not_end_the_others(inputs, monkeypatch, tmp_path):
    weak = BadValue('weak_teacher', 'stop', 'no teacher knows', said='in words of Python')
    unsure, said = NoRows('select', .9, 'surer', said='no row', key='min_conf'), []
    def go(*errors):
        found = iter([(f'run {i}', e) for i, e in enumerate(errors)])
        monkeypatch.setattr(job, 'train_anyway', lambda *args, **kwargs: next(found))
        splits = [(i, [i]) for i in range(len(errors))]
        return train_splits(lambda seed: inputs, splits, tmp_path, say=said.append)[1]
    monkeypatch.setattr(job, '_say_start', lambda *args: None)
    for errors in ((None, weak, None), (weak, weak), (unsure, None)):
        assert go(*errors) == [f'run {i}' for i in range(len(errors))]
    assert said[1] == ('split 1 has no student: no teacher knows. More --steps, another --lr or more labeled or '
                       'validation rows are more likely to help; --weak continues anyway')
    with pytest.raises(NoRows): go(unsure, unsure)


def test_numbers_of_each_class(inputs):
    rng = np.random.default_rng(0)
    y, p = rng.choice(2, 100, p=[.2, .8]), rng.dirichlet([1, 2], 100)
    a = says(inputs, p, y)[0]['classes'][0]
    pred = p.argmax(1)
    assert a['recall'] == pytest.approx((pred == 0)[y == 0].mean()) and a['rows'] == (y == 0).sum()
    assert a['precision'] == pytest.approx((y == 0)[pred == 0].mean()) and a['labeled'] == (inputs.y == 0).sum()


def test_plain_models_learn_from_labeled_rows_alone(inputs):
    "Against scikit-learn by hand, on the numbers of the table"
    df = plain_models([inputs], 'test')
    assert {'majority class', 'logistic regression', 'gradient boosting'} <= set(df.index)
    x = inputs.df.iloc[inputs.train]
    one_hot = lambda o: pd.get_dummies(o[['a', 'b', 'plan']].astype(dict(a=float, b=float))).astype(float)
    mean, std = one_hot(x).mean(), one_hot(x).std(ddof=0)
    scale = lambda o: np.c_[(one_hot(o)-mean)[['a', 'b']]/std[['a', 'b']], one_hot(o).drop(columns=['a', 'b'])]
    model = LogisticRegression(max_iter=1000).fit(scale(x), inputs.y)
    y = np.array([inputs.vocab.index(o) for o in inputs.test.status])
    want = average_precision_score(y == 0, model.predict_proba(scale(inputs.test))[:, 0])
    assert df.average_precision['logistic regression'] == pytest.approx(want, abs=.01)
    assert df.average_precision['majority class'] == pytest.approx((y == 0).mean())
    res, said = says(inputs, np.eye(2)[y], y, plain=df)
    best, rows = 100*df.average_precision.max(), learned_from(df.average_precision.idxmax())
    assert f'{rows}: {best:.1f}' in said and ('A plain model ' in said) == (best > 31)


def test_threshold_of_a_rare_class(inputs):
    "So that it is said as often as it is likely"
    rng = np.random.default_rng(0)
    p = rng.beta(1, 9, 1000)
    pl = SimpleNamespace(probs=np.stack([p, 1-p], 1))
    y = (rng.random(1000) > p).astype(int)
    t = job._threshold(judged(inputs, pl.probs, y), pl)
    assert t['share'] == pytest.approx(p.mean(), abs=.003)
    assert t['recall'] == ((p >= t['at']) & (y == 0)).sum()/(y == 0).sum()
    assert t['precision'] == pytest.approx((y == 0)[p >= t['at']].mean())
    assert float(f"{t['at']:g}") == t['at'] and len(f"{t['at']:g}") < 6, "it is what is printed"
    sure = SimpleNamespace(probs=np.stack([np.where(p > .2, .9, .02), np.where(p > .2, .1, .98)], 1))
    assert job._threshold(judged(inputs, sure.probs, y), sure) is None, "it is said as often as it is likely already"
    inputs.y = np.arange(20) % 2  # none is rare, whatever the metric
    assert job._threshold(judged(inputs, pl.probs, y), pl) is None


@pytest.mark.parametrize('seed', [0, 1])
def test_probabilities_on_request(inputs, seed):
    "predictions.csv has a column for each class; the one of the predicted class is always there"
    p = np.random.default_rng(seed).dirichlet([1, 2], len(inputs.unlabeled)).astype(np.float32)
    pl = PseudoLabels(p, vocab=inputs.vocab)
    plain, df = (pd.read_csv(io.StringIO(job._predictions(pl, inputs, o))) for o in (False, True))
    assert [*plain] == ['row', 'label', 'confidence'] and plain.equals(df[[*plain]])
    assert np.allclose(df.confidence, p.max(1), atol=1e-4)
    assert df.label.tolist() == [inputs.vocab[i] for i in p.argmax(1)]
    rest = df.drop(columns=[*plain])
    assert rest.shape[1] == 2 and np.allclose(rest, p, atol=1e-4)
    assert all(k in o for k, o in zip(inputs.vocab, rest))


MAKE = dict(pictures=lambda d: folder(d/'pictures'), series=lambda d: npz(d/'a.npz', **arrays(shape=(2, 32))),
            table=lambda d: csv(d/'a.csv'))


@pytest.mark.parametrize('kind', MAKE)
def test_rows_worth_a_look(kind, tmp_path):
    "The least sure ones with their second class, and those that the teacher called something else, each with its row"
    inputs = load_inputs(str(MAKE[kind](tmp_path)))
    n, c, rng = inputs.n['unlabeled'], len(inputs.vocab), np.random.default_rng(0)
    p, old = (PseudoLabels(rng.dirichlet(np.ones(c), n), vocab=inputs.vocab) for _ in range(2))
    run = SimpleNamespace(best=(3, 1), labels=lambda r, seed: {(1, 3): old}[r, seed])
    unsure, changed = looks(inputs, run, p, 3).values()
    assert [o['conf'] for o in unsure] == pytest.approx(sorted(p.conf)[:3])
    for i, o in zip(np.argsort(p.conf), unsure):
        best, second = np.argsort(-p.probs[i])[:2]
        assert o['said'] == inputs.vocab[best] and o['name'] == _looks(inputs, 'unlabeled', i)[1]
        assert o['beside'] == f'or {inputs.vocab[second]}, {p.probs[i, second]:.0%}'
        assert o['html'] == row_html(_looks(inputs, 'unlabeled', i)[0])
    far = np.where(p.label != old.label, abs(p.probs-old.probs).sum(1), -1)
    for i, o in zip(np.argsort(-far), changed):
        assert o['said'] == inputs.vocab[p.label[i]] and o['name'] == _looks(inputs, 'unlabeled', i)[1]
        assert o['beside'] == f'was {inputs.vocab[old.label[i]]}, {old.conf[i]:.0%} sure'
    run.best = (3, 0)  # the teacher is exported: it has changed nothing
    assert [*looks(inputs, run, p, 3)] == ['Least confident']


@pytest.mark.parametrize('kind', MAKE)
def test_examples(kind, tmp_path):
    "Right ones and wrong ones, the surest mistakes first, each with its own row"
    inputs = load_inputs(str(MAKE[kind](tmp_path)))
    part = 'test' if inputs.n['test'] else 'valid'
    n, c = inputs.n[part], len(inputs.vocab)
    rng = np.random.default_rng(0)
    j = judged(inputs, rng.dirichlet(np.ones(c), n), rng.integers(0, c, n), part)
    res = examples(j, 3)
    wrong, right = res['Wrong, most confident first'], res['Right']
    assert all(o['true'] != o['said'] for o in wrong) and all(o['true'] == o['said'] for o in right)
    conf, both = [o['conf'] for o in wrong], wrong+right
    assert conf == sorted(conf, reverse=True) and len({o['name'] for o in both}) == len(both)
    assert {'pictures': '<img', 'series': '<svg', 'table': '<dl'}[kind] in right[0]['html']
    assert _looks(inputs, part, 0)[1]


def test_the_time_is_that_of_real_batches(tmp_path, monkeypatch):
    "And random numbers, which make the numbers of the job, go on as if nothing had happened"
    inputs = load_inputs('digits', Settings(steps=1000))
    before = torch.get_rng_state()
    line = start_line(inputs, 2, 3, True)
    assert torch.equal(before, torch.get_rng_state())
    assert 'up to 3 students and a control; model (small, 151,402 weights)' in line
    monkeypatch.setattr(job, '_timed', lambda inputs, r: (5, .1))
    label = 957/(3*64)
    want = 2*(.1*1000+3*.1*(1000+label))
    assert f'About {want/60:.0f} minutes on this machine' in start_line(inputs, 2, 3, True)
    assert f'About {want/120:.0f} minutes' in start_line(inputs, 2, 3, True, .5)
    larger = load_inputs('digits', Settings(steps=1000, student='large'))
    assert 'teacher (small, 5 weights) and students (large, 5 weights)' in start_line(larger, 1, 1, False)
    assert f'About {(want+200)/60:.0f} minutes' in start_line(larger, 2, 3, True)  # the control is trained, too


def test_nothing_is_finished(tmp_path): assert finished(tmp_path) == (0, '')


@pytest.mark.parametrize('e,error,said', [
    (torch.OutOfMemoryError('CUDA'), MemoryError, 'CUDA'), (BadValue('a', 1, 'expected b'), ValueError, 'a=1: exp'),
    (BadValue('weak_teacher', 'stop', 'no teacher', said='n_epoch'), ValueError, '^no teacher. More --steps.*--weak')])
def test_errors_in_words_of_the_shell(e, error, said):
    with pytest.raises(error, match=said), in_shell_words(): raise e
    assert not re.search('%', said)


def test_a_launch_of_the_command_is_refused(monkeypatch, tmp_path):
    "Each of its processes would write the same files"
    for k, v in dict(WORLD_SIZE='2', RANK='0').items(): monkeypatch.setenv(k, v)
    with pytest.raises(ValueError, match='WORLD_SIZE=2: expected 1 process: .*the command does not'):
        job.run_job(defaultdict(lambda: None), tmp_path, None)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('data,kw,said', [
    ('no_such', {}, "data='no_such': there is no such file: expected a folder"),
    ('digits', dict(labels=500), 'labels=500: expected a whole number from 1 to'),
    ('.', dict(labels=3), 'labels=3: it is only for data that come with the package'),
    ('digits', dict(settings=Settings(size=8)), 'size=8: it is only for a folder of pictures'),
    ('digits', dict(target='kind'), "target='kind': it is only for a file with a table"),
    ('digits', dict(test='.3'), "test='.3': it is only for a file with a table"),
    (__file__, {}, "test_job.py': expected a folder")])
def test_data_that_cannot_be_loaded(data, kw, said):
    with pytest.raises((ValueError, OSError), match=re.escape(said)): load_inputs(data, **kw)


def changed(*changes):
    e = OtherRun('path', 'out/run', said='...')
    e.changes = changes
    return e


ROWS = [(f'rounds.{i}.make_learner.labeled', '80 rows a', '160 rows b') for i in (0, 1)]
MORE = ('The same ones resume it, --overwrite starts over, another --out keeps both')


@pytest.mark.parametrize('e,said', [
    (changed(('test.fingerprint', 'a', 'b'), ('rounds.0.make_learner.labeled', '80 rows a', '80 rows b'),
             ('rounds.1.lr', .1, .2), ('rounds.2.lr', .1, .2),
             ('rounds.2.make_learner.validation', '8 rows a', '9 rows b')),
     'out/run has a run with other arguments: other test rows; other labeled rows; other validation rows; '
     f'--lr=0.2 (was 0.1). {MORE}'),
     (changed(*((f'rounds.{i}.student.l2pl_ratio', 1/7, 1/3) for i in (1, 2))),
     f'out/run has a run with other arguments: --ratio=1/3 (was 1/7). {MORE}'),
     (changed(('rounds.1.student.l2pl_ratio', .142, 2.)),
     f'out/run has a run with other arguments: --ratio=2 (was 0.142). {MORE}'),
    (changed(*ROWS), "out/run has a run with other arguments: a model's batches hold 160 labeled rows, and held "
                     f'80 before (--steps, --bs and --ratio set this). {MORE}'),
    (NoRows('select', .9, 'the confidences are 0.2 to 0.3', said='...', key='min_conf'),
     'no seed has a row that is confident enough for a student: --confidence 0.9 was asked for, and the confidences '
     'are 0.2 to 0.3. More --steps, another --lr or a lower --confidence may help'),
    (BadValue('path', 'out/run', said='out/run is in use'), 'out/run is in use'),
    (Changed('path', 'out/run/labels', said='another teacher', changes=[('about.teachers', 'a', 'b')]),
     'another teacher (here: --overwrite, or another --out)'),
    (BadValue('price', '9 values', 'expected classes', said='...', key='target'),
     "price='9 values': expected classes (--target names the class column)")])
def test_an_error_in_words_of_the_shell(e, said): assert job._shell(e) == said
