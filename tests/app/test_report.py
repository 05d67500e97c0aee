"The report: what is in it is what the records say, whatever the names are"
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from noisy_student_fastai.app.report import (
    advice,
    answer,
    by_model,
    draw,
    examples_html,
    is_share,
    listed,
    page,
    picture,
    plain_wins,
    plot_confusion,
    plot_values,
    report,
    row_html,
    table,
)
from noisy_student_fastai.rounds.records import pairs
from PIL import Image
from scipy.stats import ttest_1samp

ODD = '<b>&"\'{x}</b>'


class Text(HTMLParser):
    "Text of a page, and its cells"
    def __init__(self, html):
        super().__init__()
        self.text, self.attrs, self.rows, self.tags = '', [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += attrs
        if tag == 'tr': self.rows.append([])

    def handle_data(self, s):
        self.text += s
        if self.tags and self.tags[-1] in ('td', 'th') and self.rows: self.rows[-1].append(s)


def some_records(n=3, control=True, seed=0):
    rng, rows = np.random.default_rng(seed), []
    for s in range(n):
        for role, r in (('teacher', 0), ('student', 1), ('student', 2), *([('control', 2)] if control else [])):
            rows.append(dict(seed=s, round=r, role=role, valid_loss=1., accuracy=.5+.1*r, test_accuracy=rng.random(),
                             n_kept=100*(s+1), n_rows=1000, least_class=9, most_class=11, precision=.9,
                             agreement=.5 if r > 1 else None, teacher_accuracy=.5))
    return pd.DataFrame(rows)


def results(records, **changes):
    df = pairs(records, 'accuracy')
    models = by_model(df).astype(object).where(lambda o: o.notna(), None).to_dict('index')
    classes = [dict(name=k, labeled=2, rows=3, control=.5, student=.75, recall=1., precision=.6) for k in (ODD, 'b')]
    return dict(data=dict(name=ODD, kind='tables', classes=[ODD, 'b'],
                          rows=dict(labeled=4, unlabeled=1234567, valid=2, test=6), remarks={}),
                settings=dict(rounds=2, lr=None, control=True), measure='accuracy on the test set', words='accuracy',
                on_test=True, lower=False, percent=True, one_class=None, n_runs=len(df), interval=None, scores={},
                baselines=[], classes=classes, teacher=None,
                answer=answer(df.gain), verdict=ODD, batches=dict(teacher=1234),
                models=models, best=dict(seed=0, round=2, file=ODD, needs='It needs fastai.'),
                seconds=7200, versions=dict(torch='2'), made='2026-01-31') | changes


FIGURE = (b'light', b'dark'), ODD, ODD


def test_names_stay_names():
    "Nothing in the data becomes HTML"
    plain, scores = [dict(name=ODD, value=99.)], {ODD: {ODD: .5}}
    row = dict(html=row_html(pd.Series({ODD: ODD})), name=ODD, said=ODD, conf=.5)
    seen = {ODD: [row | dict(true=ODD), row | dict(beside=ODD)]}
    odd = dict(baselines=plain, scores=scores, one_class=ODD, blind=ODD)
    html = report(results(some_records(), **odd), some_records(), dict(rounds=FIGURE, map=FIGURE), ODD, seen, seen)
    assert '<b>' not in html
    r = Text(html)
    assert r.text.count(ODD) == 38 and ('alt', ODD) in r.attrs
    assert Text(listed({ODD: [ODD]})).text == f'{ODD}: 1{ODD}'
    assert '<b>' not in page(ODD, '')+table([ODD], [[ODD]])+picture(*FIGURE)


@pytest.mark.parametrize('n', [1, 2, 5])
def test_scores(n):
    "The table of the report against the records, computed by hand"
    df = some_records(n, seed=n)
    rows = {o[0]: o[1:] for o in Text(report(results(df), df, dict(rounds=FIGURE), '')).rows}
    get = lambda role: 100*df[(df.role == role) & (df['round'] == 2)].test_accuracy.to_numpy()
    s, c = get('student'), get('control')
    for name, v, sign in (('noisy student', s, ''), ('control (same noise, no pseudolabels)', c, ''),
                          ('gain', s-c, '+')):
        want = [f'{o:{sign}.1f}' for o in (v.mean(), v.min(), v.max())] + ([f'{v.std(ddof=1):.1f}'] if n > 1 else [])
        assert rows[name] == want
    assert rows['round 2'] == [f'{df[df.role == "student"].n_kept.mean():,.0f}', '1,000', '9 to 11', '90%', '50%']
    assert rows['batches, teacher'] == ['1,234']
    assert rows['unlabeled'] == ['1,234,567'] and rows['control'] == ['yes'] and 'lr' not in rows


def test_without_a_control_the_teacher_is_named():
    df = some_records(control=False)
    df.loc[df.role == 'student', 'test_accuracy'] += 2  # a gain that would be sure
    r = Text(report(results(df, answer=answer(pairs(df).gain, has_control=False)), df, dict(rounds=FIGURE), ''))
    assert [o[0] for o in r.rows[1:4]] == ['teacher', 'noisy student', 'gain'] and 'Control' not in r.text
    assert 'No control was trained' in r.text and 'Yes' not in r.text and 'has to beat' not in r.text


def test_what_was_compared():
    "The paragraph says what holds for this job, and no more"
    df = some_records()
    text = lambda **kw: Text(report(results(df, **kw), df, dict(rounds=FIGURE), '')).text
    assert 'has to beat' in text() and 'from the same starting weights' in text()
    assert 'the teacher, as no student' not in text()
    assert 'chose nothing' in text() and 'no test set' not in text()
    untested = text(data=results(df)['data'] | dict(rows=dict(labeled=4, unlabeled=9, valid=2, test=0)))
    assert "there was no test set" in untested and 'chose nothing' not in untested
    assert 'starting weights' not in text(settings=dict(student='large'))
    of_teacher = text(best=dict(seed=0, round=0, file='x', needs=''))
    assert 'round 0: the teacher, as no student was better on the validation rows' in of_teacher


def test_rows_that_chose_the_round_give_no_answer():
    assert answer([.04, .05, .03]) == 'Yes, it helped'
    assert answer([.04, .05, .03], on_test=False) == 'Not known: measured on the rows that chose the round'
    assert answer([.04, .05, .03], has_control=False) == 'Not known: no control was trained'


def test_long_lists_are_cut():
    html = listed({'rows left out': [f'row {i}' for i in range(1000)]})
    text = Text(html).text
    assert text.startswith('rows left out: 1,000') and 'row 19 and 980 more' in text
    assert 'row 20' not in text.replace('row 19 and', '')


@pytest.mark.parametrize('c', [2, 7, 40])
def test_confusion(c):
    "Shares and title against counting"
    rng = np.random.default_rng(c)
    y, p = rng.integers(0, c, 300), rng.integers(0, c, 300)
    ax = plot_confusion(y, p, [f'class {i}' for i in range(c)], Figure().subplots())
    for i in range(c):
        for j in range(c):
            share = 100*((y == i) & (p == j)).sum()/max((y == i).sum(), 1)
            assert ax.images[i != j].get_array().data[i, j] == pytest.approx(share)
    wrong, k = re.search(r'([\d,]+) of 300 rows; most often class \d+ for class \d+ \((\d+)\)', ax.get_title()).groups()
    mistakes = [((y == i) & (p == j)).sum() for i in range(c) for j in range(c) if i != j]
    assert int(wrong) == (y != p).sum() and int(k) == max(mistakes)


def test_a_figure_for_each_paper(tmp_path):
    light, dark = draw(lambda ax: ax.plot([1, 2]), tmp_path/'f.png')
    assert (tmp_path/'f.png').read_bytes() == light
    corner = lambda png: imread(BytesIO(png))[0, 0, :3].mean()
    assert corner(light) > .99 and corner(dark) < .15


def test_a_metric_that_is_no_share():
    "Errors of a regression are not percent, and less is better"
    df = some_records()
    df = df.rename(columns=dict(accuracy='mae', test_accuracy='test_mae', teacher_accuracy='teacher_mae'))
    both = pairs(df, 'mae')
    gain = (both.control-both.student).mean()
    assert not is_share(both) and by_model(both).loc['gain', 'mean'] == pytest.approx(gain)
    res = results(some_records()) | dict(lower=True, percent=False, models=by_model(both).to_dict('index'), classes=[],
                                         measure='mean error', baselines=[dict(name='ridge', value=-9.)],
                                     student_se=1.)
    r = Text(report(res, some_records(), dict(rounds=FIGURE), ''))
    assert not [o for o in r.rows[:4] if '%' in ''.join(o)] and 'A plain model is better: ridge' in r.text
    assert 'Class by class' not in r.text


# --- the first screen

def first_screen(**changes):
    html = report(results(some_records(), **changes), some_records(), dict(rounds=FIGURE), '')
    return html.partition('<h2>How good is it?')[0]


@pytest.mark.parametrize('changes,tone', [
    (dict(answer='Yes, it helped'), 'good'), (dict(answer='No, it hurt'), 'bad'), (dict(answer='Not clear'), 'open'),
    (dict(answer='Yes, it helped', one_class='All the same', blind='All the same'), 'bad'),
    (dict(answer='Yes, it helped', baselines=[dict(name='a plain model', value=101.)]), 'open')])
def test_the_answer_has_a_color(changes, tone):
    "A model that predicts one class for all rows, or that a plain model beats, is never shown in green"
    html = first_screen(**changes)
    assert f'<div class="verdict {tone}"><strong>{changes["answer"]}' in html
    assert ('class="alarm"' in html) == (len(changes) > 1)


@pytest.mark.parametrize('lower', [False, True])
@pytest.mark.parametrize('se', [None, .7])
def test_a_plain_model_is_compared_with_the_mean_of_the_runs(lower, se):
    "Better than the mean is said, and whether it is clear; better than some run and worse than the mean is not"
    runs = np.random.default_rng(0).normal(20, 5, 4)
    student = dict(mean=runs.mean(), min=runs.min(), max=runs.max(), std=runs.std(ddof=1))
    models = results(some_records())['models'] | {'noisy student': student}
    def of(ahead, percent=False):
        plain = [dict(name='worst', value=1e3 if lower else -1e3), dict(name='ridge', value=runs.mean()+ahead)]
        res = results(some_records(), models=models, baselines=plain, lower=lower, student_se=se, percent=percent,
                      n_runs=4)
        return plain_wins(res), advice(res)[0][0], 'class="verdict good"' in report(
            res | dict(answer='Yes, it helped'), some_records(), dict(rounds=FIGURE), '')
    better = -1 if lower else 1
    assert of(-.1*better)[0] is None and of(-.1*better)[2]
    says, do, is_good = of(1.3*better)
    assert says.startswith('A plain model may be better: ridge') and 'may be chance' in says and not is_good
    assert f'the student {runs.mean():.4g}, the mean of 4 runs' in says and ('standard error: 0.7' in says) == bool(se)
    assert do == 'Try ridge, too'
    says, do, _ = of(1.5*better)
    assert says.startswith('A plain model is better: ridge' if se else 'A plain model may be') and bool(se) == (
        'chance' not in says) and do == ('Use ridge for now' if se else 'Try ridge, too')


def test_the_verdict_is_one_line_and_the_rest_can_be_opened():
    "The line has the means of the table"
    html, df = first_screen(verdict='A sentence. And another one. '*9), pairs(some_records(), 'accuracy')
    line, details = Text(html.partition('<details>')[0]).text, Text(html.partition('<details>')[2]).text
    s, c = (100*df[k].mean() for k in ('student', 'control'))
    assert f'accuracy on the test set: student {s:.1f}%, control {c:.1f}%, means of 3 runs.' in line
    assert 'A sentence' not in line and details.count('A sentence') == 9


def heads(**changes): return [o for o, _ in advice(results(some_records(), **changes))]


def test_advice_follows_from_the_numbers():
    "Each weakness has its sentence, the most urgent one first; where there is none, the model is to be used"
    some = dict(name='rare', labeled=7, rows=30, recall=.2, shown_right=.3, shown_low=.1, shown_high=.6, shown_by=9)
    rows = dict(labeled=4, unlabeled=9, valid=2, test=5000)
    fine = dict(answer='Yes, it helped', best=dict(seed=0, round=1), data=dict(rows=rows), classes=[])
    assert heads(**fine) == ['Use the model']
    assert heads(**fine | dict(classes=[some])) == ["Label more rows of 'rare'", "Look at the rows labeled 'rare'"]
    assert advice(results(some_records(), **fine | dict(classes=[some])))[1][1].startswith(
        'about 30% (10% to 60%, by 9 validation rows) of these pseudolabels, which students learned from, are right')
    unsure = some | dict(shown_right=0., shown_low=0., shown_high=.85, shown_by=1)  # by a single row
    assert heads(**fine | dict(classes=[unsure])) == ["Label more rows of 'rare'"]
    assert heads(**fine | dict(on_test=False)) == ['Add a test set']
    assert heads(**fine | dict(data=dict(rows=rows | dict(test=50)))) == ['Label more test rows']
    assert heads(**fine | dict(n_runs=2)) == ['Run it with --seeds 3 or more']
    assert heads(**fine | dict(answer='Not clear: it may be chance')) == ['Run it with more --seeds']
    open_by = dict(answer='Not clear: it may be chance', open_by=dict(seeds=1., rows=2.))
    assert heads(**fine | open_by) == ['Label more test rows']  # which would say more than other seeds
    assert heads(**fine | open_by | dict(data=dict(rows=rows | dict(test=50)))) == ['Label more test rows']  # once
    assert heads(**fine | open_by | dict(open_by=dict(seeds=2., rows=1.))) == ['Run it with more --seeds']
    assert heads(**fine | dict(best=dict(seed=0, round=2))) == ['Try more --rounds']
    assert heads(**fine | dict(best=dict(seed=0, round=0))) == ['Try more --steps or a larger --student']
    assert heads(**fine | dict(best=dict(seed=0, round=0), saturated=True)) == ['Label more validation rows']
    weak = dict(value=51., chance=50., is_chance=True)
    assert heads(**fine | dict(teacher=weak)) == ['Get a better teacher first']
    both = heads(**fine | dict(teacher=weak, classes=[some], baselines=[dict(name='ridge', value=101.)], n_runs=1,
                  student_se=1.))
    assert both[:3] == ['Use ridge for now', 'Get a better teacher first', 'Run it with --seeds 3 or more']
    assert len(both) == 5


@pytest.mark.parametrize('on_test', [False, True])
@pytest.mark.parametrize('labeled,rows,first', [
    (1, 0, "Label more rows of 'rare'"), (3, 1, "Label more rows of 'rare'"), (40, 0, "Label more {} rows of 'rare'"),
    (40, 4, None), (9, 5, None), (1, None, "Label more rows of 'rare'")])
def test_a_class_that_is_hardly_measured_comes_first(on_test, labeled, rows, first):
    "Before one of many rows of which few are found: that is known, the other is not; but not where all classes are few"
    part, often = 'test' if on_test else 'validation', dict(name='often', labeled=34, rows=9, recall=.2, shown_right=.9)
    rare = dict(name='rare', labeled=labeled, rows=rows, recall=None, shown_right=.9)
    found = advice(results(some_records(), on_test=on_test, classes=[often, rare]))
    assert (found[0][0] == (first or '').format(part)) == bool(first)
    assert "Label more rows of 'often'" in [o for o, _ in found]
    if first: assert found[0][1] == f"the models learn from {labeled} of them and are measured on {rows or 'none'}."
    three = advice(results(some_records(), on_test=on_test, classes=[rare, rare | dict(name='b', labeled=99), often]))
    if first and not rows: assert three[0][1].endswith(' So it is with 1 more class.')
    if rows: assert advice(results(some_records(), classes=[rare, rare]))[0][0] != "Label more rows of 'rare'"


def test_what_is_not_measured_is_said_at_the_top():
    html = first_screen(unmeasured=[f"{ODD} has no test row", 'b has no validation row'])
    assert re.findall('<p class="alarm">(.*?)</p>', html)[-1] == 'b has no validation row'
    assert 'class="alarm"' not in first_screen() and ODD not in html and f'{ODD} has no test row' in Text(html).text


@pytest.mark.parametrize('x,tag', [
    (Image.new('L', (8, 8)), 'img'), (Image.new('RGB', (900, 300)), 'img'), (np.random.rand(3, 8, 8), 'img'),
    (np.zeros((1, 4, 4)), 'img'), (np.random.rand(2, 50), 'svg'), (np.array([[np.nan, 1., 2.]]), 'svg'),
    (np.full((1, 5), np.nan), 'svg'), (np.arange(30.), 'dl'), (pd.Series(dict(a=None, b=np.nan, c='x')), 'dl')])
def test_rows_can_be_looked_at(x, tag):
    html = row_html(x)
    tags = Text(html).tags
    assert tags[0] == tag and len(html) < 300_000 and not re.search('nan|http', html.partition('base64')[0])


def test_examples_that_are_missing():
    assert 'There is none' in examples_html(dict(Wrong=[], Right=[])) and 'broken' in examples_html('broken')
    html = examples_html(dict(Wrong=[], Right=[dict(html='', name='row 1', true='a', said='a', conf=None)]))
    assert 'Wrong' not in html and 'sure' not in html


@pytest.mark.parametrize('gain,kw,said', [
    ([.04], {}, 'One run says too little'), ([.04, np.nan], {}, 'One run says too little'),
    ([.04, .05], {}, 'Two runs say too little'), ([np.nan]*2, {}, 'Not known: student or control did not train'),
    ([.04, .05, .03, np.nan], {}, 'Yes, it helped'), ([0., 0, 0], {}, 'Not clear: it may be chance'),
    ([.1]*3, dict(se=[.03]*3), 'Yes, it helped'), ([.1]*3, dict(se=[.07]*3), 'Not clear: it may be chance'),
    ([.04, .05, .03], dict(on_test=False), 'Not known: measured on the rows that chose the round'),
    ([.04, .05, .03], dict(has_control=False), 'Not known: no control was trained')])
def test_the_answer_in_a_word_or_two(gain, kw, said): assert answer(gain, **kw) == said


@pytest.mark.parametrize('seed', range(50))
def test_the_answer_is_that_of_a_paired_t_test(seed):
    rng = np.random.default_rng(seed)
    d = rng.normal(.5, 1, rng.integers(3, 12))
    sure = ttest_1samp(d, 0).pvalue < .05
    said = ('Yes, it helped' if d.mean() > 0 else 'No, it hurt') if sure else 'Not clear: it may be chance'
    assert answer(d) == said


def test_control_and_student_over_the_same_runs():
    df = pd.DataFrame(dict(student=[.96, .97], control=[.92, .91], gain=[.04, .06], has_control=True, lower=False))
    assert by_model(df).loc['gain'].tolist() == pytest.approx([5, 2**.5, 4, 6])
    assert by_model(df.assign(has_control=False)).index[0] == 'teacher'
    assert by_model(df.assign(lower=True)).loc['gain', 'mean'] == pytest.approx(.05)
    assert by_model(df.assign(student=[3., 4])).loc['noisy student', 'mean'] == pytest.approx(3.5)


class Nested(HTMLParser):
    "Each tag that is opened is closed, in turn"
    def __init__(self, html):
        super().__init__()
        self.open = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in ('meta', 'img', 'source', 'br'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing():
    df, row = some_records(), dict(html=row_html(np.eye(3)[None]), name='a', said='b', true='c', conf=.5)
    html = report(results(df), df, dict(rounds=FIGURE), 'code', dict(Wrong=[row]))
    assert Nested(html).open == []
    assert {v.split(':')[0] for k, v in Text(html).attrs if k in ('src', 'srcset', 'href')} == {'data'}
    assert not [o for o in ('http', 'url(', '@import') if o in html]


def test_only_what_the_job_writes_becomes_a_report():
    with pytest.raises(ValueError, match='what the main job writes'): report({}, some_records(), {}, '')


@pytest.mark.parametrize('scale', [1e4, 1e6, 1e8])
def test_large_numbers_are_written_out(scale):
    "Errors of a regression in tiles, tables, advice and the line of a plain model, none with an exponent"
    records, rng = some_records(), np.random.default_rng(0)
    records['test_accuracy'] = scale*(1+rng.random(len(records)))
    df = pairs(records, 'accuracy').assign(lower=True)
    models = by_model(df).to_dict('index')
    mean = {k: models[k]['mean'] for k in models}
    low, high = scale*np.array([.1234567, .2345678])
    res = results(records, models=models, lower=True, percent=False, interval=[low, high], student_se=.04*scale,
                  baselines=[dict(name='ridge', value=.9*scale)], answer='Not clear: it may be chance', on_test=True,
                  open_by=dict(rows=.5432198*scale, seeds=.1*scale), scores=dict(student=dict(mae=1.2345678*scale)))
    html = report(res, records, dict(rounds=FIGURE), '')
    said = Text(html).text
    assert not re.search(r'\de\+\d', said)
    written = {f'{v:,.0f}' for m in models.values() for v in m.values()}
    written |= {f'{mean["gain"]:+,.0f}', f'{low:+,.0f} to {high:+,.0f}', f'{.9*scale:,.0f}', f'{.04*scale:,.0f}',
                f'{.5432198*scale:,.0f}', f'{1.2345678*scale:,.0f}'}
    assert not [o for o in written if o not in said]


def test_a_figure_says_large_numbers_in_full():
    y = np.linspace(1e5, 9e5, 101)
    ax = Figure().subplots()
    title = plot_values(y, y+np.linspace(0, 54_321, 101), ax).get_title()
    assert title.endswith('Half of them by 27,200 at most, one in ten by 48,900 or more')
