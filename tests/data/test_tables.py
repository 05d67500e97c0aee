"Columns of tables as people have them: what they are, dates, gaps, and new rows as they come"
import datetime as dt
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from fastai.data.block import CategoryBlock
from fastai.tabular.core import Categorify, Normalize, TabularPandas
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.data import tables
from noisy_student_fastai.data.tables import (
    FillMissing,
    ReadColumns,
    add_dateparts,
    as_dates,
    as_numbers,
    as_texts,
    column_roles,
    find_date_format,
    find_task,
)

FORMATS = ['%Y-%m-%d', '%d.%m.%Y', '%m/%d/%Y', '%d/%m/%Y', '%d-%m-%Y', '%Y/%m/%d', '%Y%m%d', '%d-%b-%y', '%B %d, %Y',
           '%Y-%m-%dT%H:%M:%S', '%Y-%m-%d %H:%M', '%d.%m.%Y %H:%M:%S', '%m/%d/%Y %I:%M %p']


def days(seed, n=60):
    "Moments to the minute, of 1970 to 2030, a day past the 12th among them"
    rng = np.random.default_rng(seed)
    res = [dt.datetime(1970, 1, 1)+dt.timedelta(minutes=int(o)) for o in rng.integers(0, 60*365*1440, n)]
    return [dt.datetime(2001, 2, 27, 13, 5), *res]


@pytest.mark.parametrize('format', FORMATS)
def test_dates_are_those_that_were_written(format):
    "Against Python's own, with gaps and words for them"
    for seed in range(3):
        moments = days(seed)
        cells = [o.strftime(format) for o in moments]
        o = pd.Series([*cells, None, 'NA', ''], dtype=object)
        found = find_date_format(o)
        assert len(found) == 1
        got = as_dates(o, found[0])
        assert got[len(cells):].isna().all()
        assert got[:len(cells)].tolist() == [dt.datetime.strptime(c, format) for c in cells]


@pytest.mark.parametrize('cells', [['1.5', '2.25'], ['12', '13'], ['red', 'may'], ['1.2.3', '10.4.7'], ['99/99/2024']*3,
                                   ['2024', '2025'], ['12345678', '99999999'], ['12:30', '13:00'], [None], []])
def test_what_is_no_date(cells): assert find_date_format(pd.Series(cells, dtype=object)) == ()


def test_a_date_that_may_be_two_is_ambiguous():
    o = pd.Series(['03/04/2024', '11/12/2024'])
    assert find_date_format(o) == ('%m/%d/%Y', '%d/%m/%Y')
    assert find_date_format(pd.Series([*o, '13/04/2024'])) == ('%d/%m/%Y',)
    assert find_date_format(pd.Series(['03/03/2024', '04/04/2024'])) == ('%m/%d/%Y',)  # the same either way


def test_dates_without_an_end_are_missing():
    v = as_dates(pd.Series(['2024-05-06', '9999-12-31', '0001-01-01', '2024-05-06T23:00:00-03:00']))
    assert v.isna().tolist() == [False, True, True, False] and str(v.iloc[3]) == '2024-05-07 02:00:00'


@pytest.mark.parametrize('form', ['object', 'str', 'tz', *(f'datetime64[{o}]' for o in ('s', 'ms', 'us', 'ns'))])
def test_dateparts_are_those_of_the_calendar(form):
    "Whatever holds the dates: fastai's own function refuses texts of pandas 3, and counts seconds in wrong units"
    moments = [*days(0), None]
    typed = pd.Series(pd.to_datetime(moments))
    if form == 'tz': o = typed.dt.tz_localize('UTC')
    else: o = typed.astype(form) if 'date' in form else typed.dt.strftime('%Y-%m-%d %H:%M:%S').astype(form)
    df = pd.DataFrame(dict(whenDate=o, x=1))
    res = add_dateparts(df, 'whenDate', time=True)
    assert list(df) == ['whenDate', 'x'] and 'whenDate' not in res
    for i, m in enumerate(moments[:-1]):
        want = dict(Year=m.year, Month=m.month, Day=m.day, Week=m.isocalendar()[1], Dayofweek=m.weekday(), Hour=m.hour,
                    Dayofyear=m.timetuple().tm_yday, Minute=m.minute,
                    Elapsed=m.replace(tzinfo=dt.timezone.utc).timestamp(),
                    Is_month_end=(m+dt.timedelta(1)).day == 1, Is_year_start=(m.month, m.day) == (1, 1))
        assert {k: res[f'when{k}'][i] for k in want} == want
    assert np.isnan(res.whenElapsed.iloc[-1]) and np.isnan(res.whenYear.iloc[-1])


@pytest.mark.parametrize('seed', range(3))
def test_gaps_are_filled_as_fastai_says(seed):
    "With the median of the training rows, in these and in new ones, also where only new ones have a gap"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(a=rng.normal(size=40), b=rng.normal(size=40), y=list('pq')*20))
    df.loc[rng.choice(40, 9, replace=False), 'a'] = np.nan
    splits = (list(range(30)), list(range(30, 40)))
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], [], ['a', 'b'], 'y', CategoryBlock(), splits)
    filled = df.a.fillna(df.a[:30].median())
    assert np.allclose(to.items.a, (filled-filled[:30].mean())/filled[:30].std(ddof=0), atol=1e-4)
    assert (to.items.a_na == df.a.isna()+1).all() and list(to.cat_names) == ['a_na']
    new = to.new(df.assign(b=np.nan))
    new.process()
    median = (df.b[:30].median()-df.b[:30].mean())/df.b[:30].std(ddof=0)
    assert np.allclose(new.items.b, median, atol=1e-4) and new.items.a.notna().all()


def messy(seed, n=400):
    "A table as a company has it, all of it texts as in a file"
    rng = np.random.default_rng(seed)
    day = pd.Timestamp('2022-01-01')+pd.to_timedelta(rng.integers(0, 900, n), 'D')
    df = pd.DataFrame({
        'customer_id': rng.choice(10**9, n, replace=False), 'row': np.arange(5000, 5000+n),
        'email': [f'a{i}@b.org' for i in range(n)], 'Zip': rng.choice(['01067', '10115', '80331', '99999'], n),
        'area code': rng.choice(np.arange(200, 230), n),
        'signup': day.strftime('%d.%m.%Y'), 'last seen': (day+pd.Timedelta('3h')).strftime('%Y-%m-%dT%H:%M:%S'),
        'amount': rng.normal(100, 30, n).round(2), 'n calls': rng.poisson(3, n),
        'plan': rng.choice(['a', 'b', 'NA'], n), 'active': rng.choice([True, False], n), 'country': 'DE', 'fax': None,
        'left on': None, 'year': rng.integers(1990, 2024, n)})
    df['left on'] = [o if i < 80 else None for i, o in enumerate(df.signup)]
    df['amount'] = df.amount.astype(object).where(rng.random(n) > .1, '?')
    y = [rng.choice(['yes', 'no']) if i < 80 else None for i in range(n)]
    return df.astype(object).map(lambda v: None if pd.isna(v) else str(v)), y


@pytest.mark.parametrize('seed', range(3))
def test_roles_of_a_table_as_a_company_has_it(seed):
    df, y = messy(seed)
    roles = column_roles(df, y)
    assert dict(zip(roles.table.column, roles.table.role)) == {
        'customer_id': 'id', 'row': 'id', 'email': 'id', 'Zip': 'categorical', 'area code': 'categorical',
        'signup': 'date', 'last seen': 'date', 'amount': 'continuous', 'n calls': 'continuous', 'plan': 'categorical',
        'active': 'categorical', 'country': 'constant', 'fax': 'empty', 'left on': 'empty', 'year': 'continuous'}
    assert roles.formats == {'signup': '%d.%m.%Y', 'last seen': 'ISO8601'}
    assert [o.split(':')[0] for o in roles.hints.pop(tables._left_out)] == ['customer_id', 'row'] and not roles.hints
    assert roles.table.why[13] == 'no value in any unlabeled row' and 'no numbers in' not in roles.table.why[7]


@pytest.mark.parametrize('seed', range(3))
def test_raw_rows_are_read_alike_however_they_come(tmp_path, seed):
    "Texts, what pandas makes of the file by itself, another order of columns, rows that were read before"
    df, y = messy(seed)
    roles = column_roles(df, y)
    read = ReadColumns(df, roles)
    want = read.read(df)
    df.to_csv(tmp_path/'t.csv', index=False)
    typed = pd.read_csv(tmp_path/'t.csv', keep_default_na=False, na_values=['', '?'], parse_dates=['last seen'])
    assert pd.api.types.is_integer_dtype(typed.Zip) and pd.api.types.is_datetime64_any_dtype(typed['last seen'])
    shuffled = typed[typed.columns[::-1]].assign(more=1)
    gaps = typed.assign(Zip=typed.Zip.where(typed.index != 3))  # floats: 1067.0
    for o in (typed, shuffled, want): pd.testing.assert_frame_equal(read.read(o), want)
    with_gap = read.read(gaps)
    assert pd.isna(with_gap.Zip[3]) and with_gap.Zip.drop(3).equals(want.Zip.drop(3))
    assert want.Zip.tolist() == df.Zip.tolist() and want.amount.isna().equals(df.amount == '?')
    assert (want.signup_Elapsed == pd.to_datetime(df.signup, format='%d.%m.%Y').map(lambda o: o.timestamp())).all()
    assert 'last seen_Hour' not in want and 'signup_Year' in want  # always three o'clock: a part that says nothing


def test_new_rows_have_no_gaps_and_say_what_is_no_number():
    df, y = messy(0)
    read = ReadColumns(df, column_roles(df, y))
    to = TabularPandas(df.assign(y=[o or 'no' for o in y]), [read, Categorify, Normalize], read.cat_names,
                       read.cont_names, 'y', CategoryBlock(), reduce_memory=False)
    assert to.conts.notna().all().all()
    new = df[:4].assign(amount=['1,5', None, '?', '7'], signup=[None, 'soon', '1.2.2023', '3.4.2023'], plan='new')
    with pytest.warns(UserWarning, match="the column 'amount' has no numbers in 1 of its cells, such as '1,5'"):
        (res := to.new(new)).process()
    assert res.conts.notna().all().all() and (res.items.plan == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        to.new(df[:3]).process()
    with pytest.raises(ValueError, match=r"\['plan', 'signup'\] are missing"):
        to.new(df.drop(columns=['plan', 'signup'])).process()


def test_hints_name_what_gives_the_target_away():
    rng = np.random.default_rng(0)
    y = rng.choice(['yes', 'no'], 60).tolist()+[None]*60
    flag = [{'yes': '1', 'no': '0', None: '0'}[o] for o in y]
    df = pd.DataFrame(dict(flag=flag, copy=[o or 'no' for o in y], x=rng.choice(['1', '0'], 120)))
    assert [v for k, v in column_roles(df, y).hints.items() if 'give the target away' in k] == [['flag', 'copy']]
    assert not [k for k in column_roles(df.drop(columns=['flag', 'copy']), y).hints]
    prices = rng.normal(9, 1, 60).round(3).tolist()+[None]*60
    df['same'] = [str(o or 7.) for o in prices]
    found = [v for k, v in column_roles(df, prices).hints.items() if 'give the target away' in k]
    assert found == [['same']]


@pytest.mark.parametrize('seed', range(3))
def test_amounts_that_all_differ_are_no_ids(seed):
    "Whole numbers in no order: a salary, a number of visitors"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(salary=rng.choice(10**6, 200, replace=False), id=rng.choice(10**6, 200, replace=False)))
    roles = column_roles(df)
    assert roles.table.role.tolist() == ['continuous', 'id']
    assert [o for v in roles.hints.values() for o in v] == [
        'salary: a new whole number in each row', 'id: 200 different whole numbers']


@pytest.mark.parametrize('seed', range(3))
def test_what_is_in_order_or_of_a_small_range_is_no_id(seed):
    "Incomes sorted, ages and weights of few rows, moments in order; counters in any order are"
    rng = np.random.default_rng(seed)
    some = dict(income=np.sort(rng.choice(10**5, 40, replace=False)),
                age=np.r_[18, 75, rng.choice(50, 38, replace=False)+20],
                bmi_index=rng.choice(10**4, 40, replace=False), time=np.cumsum(rng.integers(1, 10**5, 40)),
                no_of_visits=rng.choice(10**4, 40, replace=False), n=rng.permutation(40), row=np.arange(40)*5)
    roles = column_roles(pd.DataFrame(some))
    assert roles.table.role.tolist() == ['continuous']*5+['id']*2
    left = roles.hints[tables._left_out]
    assert left == ['n: 40 different whole numbers in sequence', 'row: 40 different whole numbers in sequence']


@pytest.mark.parametrize('seed', range(3))
def test_zip_codes_of_many_places_are_no_numbers(seed):
    "By the column's name, or by zeros in front, also where they hardly ever repeat"
    v = np.random.default_rng(seed).integers(501, 99951, 300)
    padded = [f'{o:05d}' for o in v[:298]]+['00501', '00501']
    df = pd.DataFrame(dict(zip_code=v, place=padded, decoded_size=v % 9000, areaCode=v % 50))
    roles = column_roles(df)
    assert roles.table.role.tolist() == ['categorical', 'categorical', 'continuous', 'categorical']


def test_lists_dicts_versions_and_constants():
    df = pd.DataFrame(dict(tags=[['a'], ['b', 'c']]*20, more=[{'a': 1}, None]*20, v=['1.2.13', '1.10.24']*20, one=1,
                           arrays=[np.arange(2)]*40, day=['1.2.13', '31.10.24']*20))
    roles = column_roles(df, [1, None]*20)
    assert roles.table.role.tolist() == ['text', 'text', 'categorical', 'constant', 'text', 'date']
    assert roles.table.why[3] == '1 in each row'


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.none() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3), min_size=1, max_size=9))
def test_cells_as_texts_and_numbers(cells):
    o = pd.Series(cells, dtype=object)
    texts = as_texts(o)
    for c, t in zip(cells, texts):
        assert t is None if c is None else t == (str(int(c)) if isinstance(c, float) and c.is_integer() else str(c))
    v, odd = as_numbers(o)
    assert len(v) == len(cells) and set(odd.index) <= set(o.index[v.isna() & o.notna()])


@pytest.mark.parametrize('y,want', [
    (['a', 'b']*9, 'classification'), (['0', '1']*9, 'classification'),
    ([str(i) for i in range(10)]*4, 'classification'),
    ([str(i) for i in range(100)]*4, 'classification'), ([f'{i/7:.3f}' for i in range(40)], 'regression'),
    ([str(i) for i in range(18, 80)]*9, 'regression'), ([str(1000*i) for i in range(30)], 'regression'),
    (['1', '2', '3', '4', '5']*5, 'classification'), (['0.5', '1.0', '1.5']*9, 'classification')])
def test_classes_or_numbers(y, want):
    remarks = {}
    assert find_task(y, 'y', None, remarks) == want
    other = ({'regression', 'classification'}-{want}).pop()
    if want == 'regression': assert f'--task {other}' in next(iter(remarks))
    assert find_task(y, 'y', other if y[0] != 'a' else None) == (other if y[0] != 'a' else want)


def test_each_column_is_read_as_numbers_once(monkeypatch):
    seen, old = [], pd.to_numeric
    monkeypatch.setattr(pd, 'to_numeric', lambda o, **kw: seen.append(o.name) or old(o, **kw))
    monkeypatch.setattr(tables, 'find_date_format', lambda o: seen.append(f'{o.name} as dates') or ())
    column_roles(pd.DataFrame(dict(a=['1', '2', '3.5'], b=['x', 'y', 'x'])))
    assert seen == ['a', 'b', 'b as dates']


@pytest.mark.parametrize('seed', [0, 1])
def test_words_for_a_gap_count_as_missing(seed):
    "Against gaps that are empty: the roles say the same"
    rng, n = np.random.default_rng(seed), 80
    df = pd.DataFrame(dict(x=rng.normal(size=n).round(3).astype(str),
                           day=pd.date_range('2024-01-01', periods=n).strftime('%d.%m.%Y').astype(object)))
    at = [rng.choice(n, 9, replace=False) for _ in df]
    empty, words = df.copy(), df.copy()
    for k, rows in zip(df, at): empty.loc[rows, k], words.loc[rows, k] = None, rng.choice(['n/a', 'NA', '-', '?'])
    a, b = (column_roles(o).table for o in (empty, words))
    assert a.equals(b) and all('9 missing' in o for o in b.why)
    assert '3 missing; no dates in 6 of its cells' in column_roles(words.assign(day=empty.day.fillna('n/a').where(
        ~empty.index.isin(at[1][:6]), 'soon')), date=['day']).table.why[1]


@pytest.mark.parametrize('form, is_amount', [
    ('${:,.2f}', True), ('{:.0f} kg', True), ('{:.1f}%', True), ('EUR {:.2f}', True), ('-€{:.2f}', True),
    ('SKU {:.0f}', False), ('{:.0f}', False), ('{:.3f}', False), ('{:.0f} Main Street', False)])
def test_amounts_with_a_unit_are_named(form, is_amount):
    "They are left out, or categories, and somebody should know"
    v = np.random.default_rng(0).uniform(500, 9000, 60)
    hints = column_roles(pd.DataFrame(dict(price=[form.format(o) for o in v], x=v))).hints
    said = [o for k, os in hints.items() if 'with a unit' in k for o in os]
    assert said == ([f'price: {form.format(v[0])!r}'] if is_amount else [])


def test_a_date_format_that_misreads_many_cells_is_an_error():
    days = pd.Series(pd.date_range('2024-01-01', periods=100).strftime('%d/%m/%Y'), name='day')
    df = pd.DataFrame(dict(day=days, x=range(100)))
    right = pd.to_datetime(days, format='%m/%d/%Y', errors='coerce').isna()
    said = rf"{right.sum()} of 100 are written in another way, such as \['13/01/2024', .*; %d/%m/%Y fits them"
    with pytest.raises(ValueError, match=said): column_roles(df, date={'day': '%m/%d/%Y'})
    df.loc[:4, 'day'] = 'soon'  # a few are said only
    why = column_roles(df, date={'day': '%d/%m/%Y'}).table.why[0]
    assert why.endswith("no dates in 5 of its cells, such as 'soon'")
    df.loc[:, 'day'] = [*['n/a']*60, *days[60:]]  # and gaps are not bad
    assert 'missing' in column_roles(df, date={'day': '%d/%m/%Y'}).table.why[0]


@pytest.mark.parametrize('cells,want', [
    ([1., np.nan, 2.5], ['1', None, '2.5']), (['01', None, 'a'], ['01', None, 'a']),
    ([True, False], ['True', 'False'])])
def test_categories_are_texts(cells, want): assert as_texts(pd.Series(cells)).tolist() == want


CELLS = st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from([
    0., 1., -0., 2.5, np.nan, np.True_, np.int64(1), np.float32(.5), Decimal('1.50'), Decimal('1.5'), Fraction(3, 2),
    '1', 'True', pd.NA, dt.date(2024, 1, 1)])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(CELLS, max_size=12))
def test_cells_that_are_equal_and_written_in_two_ways(cells):
    "Each cell as it would be alone, whichever came before it: True and 1 are equal, and two categories"
    def text(v): return str(int(v)) if isinstance(v, float) and v.is_integer() else str(v)
    o = pd.Series(cells, index=[7]*len(cells), name='answer', dtype=object)
    want = [None if pd.isna(v) else text(v) for v in cells]
    got = as_texts(o)
    assert got.tolist() == want and got.index.equals(o.index) and got.name == 'answer' and got.dtype == object


def test_true_and_1_are_two_categories():
    df = pd.DataFrame(dict(answer=pd.Series([True, 1, 0, False]*10, dtype=object)))
    assert as_texts(df.answer).tolist() == ['True', '1', '0', 'False']*10
    roles = column_roles(df, categorical=['answer'])
    assert roles.table.why.tolist() == ['as requested; 4 values']
    assert ReadColumns(df, roles).read(df).answer.tolist() == ['True', '1', '0', 'False']*10


def test_numbers_with_decimal_commas_and_without_an_end():
    assert as_numbers(pd.Series(['1,5', '2']), ',')[0].tolist() == [1.5, 2]
    v, odd = as_numbers(pd.Series(['1.5', 'inf', '?', 'x']))
    assert v.isna().tolist() == [False, True, True, True] and odd.tolist() == ['inf', 'x']


def test_dates_with_gaps_in_words_and_as_numbers():
    assert find_date_format(pd.Series(['01/02/2024 1:05 PM', '02/28/2024 11:00 am'])) == ('%m/%d/%Y %I:%M %p',)
    assert find_date_format(pd.Series(['5-Jan-24', 'NA', '17-Feb-24'])) == ('%d-%b-%y',)
    assert find_date_format(pd.Series([20240131, 20240201])) == ('%Y%m%d',)
    assert find_date_format(pd.Series(['1.2.13', '31.10.24'])) == ('%d.%m.%y',)


def test_dateparts_of_no_date():
    raw = pd.DataFrame(dict(day=['31.12.2024', None], price=[1, 2]))
    assert add_dateparts(raw, 'day', prefix='sold_').sold_Dayofweek[0] == 1 and list(raw) == ['day', 'price']
    with pytest.raises(ValueError, match="name='price': expected a column of dates"): add_dateparts(raw, 'price')
    with pytest.raises(ValueError, match="name='date': expected one of the columns"): add_dateparts(raw, 'date')


ASKED = pd.DataFrame(dict(zip=[1010, 1020, 8010], plan=['basic', 'plus', 'plus'], price=[30., 20., 25.]))


@pytest.mark.parametrize('kw,error,said', [
    (dict(date=['plan']), ValueError, "date='plan': expected a column of dates"),
    (dict(continuous=['plan']), ValueError, "continuous='plan': expected a column of numbers"),
    (dict(drop=['fox']), ValueError, "drop='fox': expected one of the columns"),
    (dict(drop=['zip'], categorical=['zip']), ValueError, "categorical='zip': expected a column with one role"),
    (dict(drop='zip'), TypeError, "drop='zip': expected a list of columns")])
def test_roles_that_cannot_be(kw, error, said):
    with pytest.raises(error, match=said): column_roles(ASKED, **kw)


def test_roles_that_were_asked_for():
    roles = column_roles(ASKED, id=['price'], continuous=['zip'], drop=['plan'])
    assert roles.table.role.tolist() == ['continuous', 'dropped', 'id']
    assert roles.of('id', 'dropped') == ['plan', 'price']


@pytest.mark.parametrize('task,y,said', [
    ('regression', ['a', 'b'], "task='regression': expected numbers there"),
    ('values', ['a', 'b'], "task='values': expected 'classification' or")])
def test_tasks_that_there_are_not(task, y, said):
    with pytest.raises(ValueError, match=said): find_task(y, 'y', task)
