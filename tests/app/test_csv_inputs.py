"Tables of one's own: which columns count, where test rows come from, and what can't be used"
import csv as csv_module
import io
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import load_learner
from fastai.torch_core import set_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.app import csv_inputs
from noisy_student_fastai.app.csv_inputs import CSVInputs, read_table
from noisy_student_fastai.app.job import load_inputs
from noisy_student_fastai.settings import Settings
from own_data import QUICK, counts, csv, table


def why(inputs): return dict(zip(inputs.columns.column, inputs.columns.why))


def roles(inputs): return dict(zip(inputs.columns.column, inputs.columns.role))


def test_columns(tmp_path):
    df, truth = table()
    df.insert(1, 'name', [f'wine number {i}' for i in range(len(df))])
    df.insert(1, 'year', 2026)
    df['hue'] = df.hue.astype(object)
    df.loc[3, 'hue'] = 'unknown'
    df.loc[5, 'alcohol'] = np.inf
    res = CSVInputs(csv(tmp_path/'w.csv', df), QUICK)
    assert counts(res) == {} and (roles(res)['name'], roles(res)['year']) == ('id', 'constant')
    assert f'{df.ash.isna().sum()} missing' in why(res)['ash']
    assert "no numbers in 1 of its cells, such as 'unknown'" in why(res)['hue']
    assert "no numbers in 1 of its cells, such as 'inf'" in why(res)['alcohol']
    assert res.cats == ['color'] and len(res.conts) == 13 and res.n['unlabeled'] == len(df)-30
    assert res.ids == list(range(30, len(df)))
    conts = res.to.conts
    assert conts.notna().all().all()
    filled = df.ash.fillna(df.ash.median())
    assert np.allclose(conts.ash, (filled-filled.mean())/filled.std(ddof=0), atol=1e-4)
    assert [res.vocab[i] for i in res.y] == truth[res.train].tolist()


def test_test_rows_of_another_table(tmp_path):
    "Columns by name, as the table has them; rows without a class, or of an unknown one, and labeled ones are left out"
    df, truth = table()
    main, more = df[:130], df[130:].assign(kind=truth[130:], note='x').reset_index(drop=True)
    more = more.astype(dict(hue=object))
    more.loc[2, 'hue'], more.loc[3, 'color'] = 'unknown', 'green'
    more.loc[[5, 6], 'kind'] = '', 'port'
    learned = df[:2].assign(kind=truth[:2])
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK,
                    test=csv(tmp_path/'t.csv', pd.concat([more, learned])[[*more.columns[::-1]]]))
    odd = {k: res.remarks.pop(k) for k in [*res.remarks] if k.startswith('test cells')}
    assert odd == {'test cells replaced by the median because they are not numbers': ["hue in row 2: 'unknown'"],
                   'test cells taken as missing because no other row has their category': ["color in row 3: 'green'"]}
    assert res.remarks == {'test rows left out because they have no class': ['row 5'],
                           'test rows left out because the training set lacks their class (port)': ['row 6']} | {
        k: v for k, v in res.remarks.items() if 'labeled' in k or 'validation' in k}
    learned = [o for k, v in res.remarks.items() if k.startswith('test rows left out because they are') for o in v]
    assert sorted(learned) == ['row 48', 'row 49']
    assert res.n == dict(labeled=23, unlabeled=100, valid=7, test=46)
    rest = [i for i in range(48) if i not in (5, 6)]
    dl = res.test_dl()
    cats, conts, y = (torch.cat(o) for o in zip(*dl))
    assert [res.vocab[i] for i in y.flatten()] == truth[130:].iloc[rest].tolist()
    mean, sd = (getattr(main.alcohol, k)(**kw) for k, kw in (('mean', {}), ('std', dict(ddof=0))))
    # on the scale of the table, without the test rows
    assert np.allclose(conts[:, res.conts.index('alcohol')], (more.alcohol[rest]-mean)/sd, atol=1e-4)
    hue, median = res.conts.index('hue'), (main.hue.median()-main.hue.mean())/main.hue.std(ddof=0)
    assert conts[rest.index(2), hue].item() == pytest.approx(median, abs=1e-4)
    classes = res.to.classes['color']
    assert [classes[i] for i in cats[:, 0]] == ['#na#' if i == 3 else more.color[i] for i in rest]


@pytest.mark.parametrize('seed', [0, 1])
def test_a_share_of_a_table_for_the_test(tmp_path, seed):
    df, truth = table(60)
    path = csv(tmp_path/'w.csv', df)
    res, other = CSVInputs(path, QUICK, seed, test=.3), CSVInputs(path, QUICK, seed+1, test=.3)
    per_class = truth[:60].value_counts()
    assert res.test.kind.value_counts().to_dict() == {k: int(np.ceil(.3*v)) for k, v in per_class.items()}
    assert res.test.kind.tolist() == truth[res.test.index].tolist() and res.test.index.max() < 60
    assert res.ids == list(range(60, len(df))) and res.n['labeled']+res.n['valid']+res.n['test'] == 60
    labeled = res.df.index[np.concatenate([res.train, res.valid])]
    assert sorted([*labeled, *res.test.index]) == list(range(60)) and len(res.to) == len(df)-res.n['test']
    assert res.test.index.tolist() != other.test.index.tolist()
    assert np.allclose(res.test.alcohol, df.alcohol[res.test.index])


def wines_for_a_test():
    "A table without its last 48 rows, and those with their classes"
    df, truth = table()
    return df[:130], df[130:].assign(kind=truth[130:]).reset_index(drop=True)


@pytest.mark.parametrize('change,said', [
    (lambda df: df.assign(alcohol=[f'{v:.2f}'.replace('.', ',') for v in df.alcohol]),
     r"column 'alcohol', as .* but 48 of its cells are texts: \['\d\d,"),
    (lambda df: df.assign(alcohol=df.alcohol.where(df.index > 5, 12.5).where(df.index > 4, 'x')),
     "column 'alcohol', .* but 5 of its cells are texts: .'x'"),
    (lambda df: df.assign(kind=''), 'no row of a known class is left'),
    (lambda df: df[:0], 'no row of a known class is left'),
    (lambda df: df.assign(kind='port'), 'no row of a known class is left'),
    (lambda df: df.drop(columns='hue'), r"this one lacks \['hue'\]")])
def test_test_files_that_cannot_be_used(tmp_path, change, said):
    "Nothing turns into medians, and no test set into none, without a word"
    main, more = wines_for_a_test()
    with pytest.raises(ValueError, match=f'test=.*t.csv.: .*{said}'):
        CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', change(more)))


@pytest.mark.parametrize('n', [0, 1])
def test_gaps_in_a_test_file_are_no_texts(tmp_path, n):
    "A column may be all gaps, or have the one number that is left"
    main, more = wines_for_a_test()
    more.loc[n:, 'alcohol'] = np.nan
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', more))
    assert res.n['test'] == 48 and not [k for k in res.remarks if k.startswith('test')]


def test_a_test_file_is_named_where_it_lacks_the_class(tmp_path):
    main, more = wines_for_a_test()
    with pytest.raises(ValueError, match="target='kind': expected one of the columns of .*t.csv"):
        CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', more.drop(columns='kind')))


def test_the_table_itself_is_no_test_file(tmp_path):
    path = csv(tmp_path/'w.csv')
    with pytest.raises(ValueError, match="test='.*w.csv': no row of a known class is left"):
        CSVInputs(path, QUICK, test=path)


def test_a_test_file_needs_only_what_is_learned_from(tmp_path):
    "Neither ids nor a constant; and categories are texts, also where a gap makes pandas read numbers with a fraction"
    main, more = wines_for_a_test()
    grade = ['1', '2', 'low']
    ids = [f'wine number {i}' for i in range(130)]
    main = main.assign(id=ids, year=2026, grade=[grade[i % 3] for i in range(130)])[['id', 'year', 'grade', *main]]
    more = more.assign(grade=['1', '2', '']*16)[['grade', *more]]
    assert pd.read_csv(csv(tmp_path/'t.csv', more)).grade[0] == 1.
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=tmp_path/'t.csv')
    assert not [k for k in res.remarks if k.startswith('test')] and res.n['test'] == 48
    cats = torch.cat([o[0] for o in res.test_dl()])[:, res.cats.index('grade')]
    assert [res.to.classes['grade'][i] for i in cats] == ['1', '2', '#na#']*16
    learn, raw = res.make_learner(), pd.read_csv(tmp_path/'t.csv', dtype=object).drop(columns='kind')
    dl = learn.dls.test_dl(raw)  # as `new_rows` reads it
    for ours, theirs in zip(res.test_dl(), dl):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize('make,said', [
    (lambda df: df.assign(kind=['a']*len(df)), "kind=.'a'.: expected two classes or more"),
    (lambda df: df.assign(kind=''), "kind=..: expected two classes or more"),
    (lambda df: df.assign(kind=['a', 'b']*(len(df)//2)), r"unlabeled='0 rows': expected at least one row whose 'kind' "
     r"is empty: these are the unlabeled ones; or another file of them, unlabeled=FILE \(in the shell"),
    (lambda df: df.assign(kind=['a', '?']*(len(df)//2)), r"unlabeled='0 rows': .* FILE\). If \['\?'\] marks them, "
     r"missing=\['\?'\] \(in the shell --missing \?\) says so$"),
    (lambda df: df.assign(kind=[f'wine {i}' if i < 30 else '' for i in range(len(df))]),
     "classes that repeat, not amounts"),
    (lambda df: df[['kind']], "expected one for the class, and others"),
    (lambda df: df[['kind']].assign(a=1)[['a', 'kind']], "none has values to learn from")])
def test_tables_that_cannot_be_used(tmp_path, make, said):
    with pytest.raises(ValueError, match=said): CSVInputs(csv(tmp_path/'w.csv', make(table()[0])), QUICK)


@pytest.mark.parametrize('content', [b'', b'\xff\xfe\x00bad', b'a,b\n"open'])
def test_files_that_are_no_tables(tmp_path, content):
    (tmp_path/'w.csv').write_bytes(content)
    with pytest.raises(ValueError, match='w.csv|kind|classes'): CSVInputs(tmp_path/'w.csv', QUICK)


ODD = ['NA', 'nan', 'None', 'null', '-1', 'a', 'b,c', 'd"e', 'f\ng', '<b>', '', 'N/A', '?', '$x_$']


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(ODD), st.sampled_from(ODD)), min_size=1, max_size=12),
       st.sampled_from(',;\t'), st.lists(st.sampled_from(['NA', '?', 'a']), unique=True))
def test_cells_are_what_is_written(tmp_path_factory, rows, sep, missing):
    "Against Python's own reader: only empty cells are missing, and what is said to be so"
    path, text = tmp_path_factory.getbasetemp()/'cells.csv', io.StringIO()
    csv_module.writer(text, delimiter=sep).writerows([('n', 'x', 'y'), *((i, *o) for i, o in enumerate(rows))])
    path.write_text(text.getvalue())
    remarks = {}
    df, y, target = read_table(path, missing=missing, remarks=remarks)
    gone = ['', *missing]
    assert target == 'y' and y == ['' if o in gone else o for _, o in rows]
    assert df.x.isna().tolist() == [o in gone for o, _ in rows]
    assert df.x.dropna().tolist() == [o for o, _ in rows if o not in gone]
    for k in ('NA', 'nan', 'None', 'null'):
        said = [v for what, v in remarks.items() if f'the class {k!r}' in what]
        assert said == ([[f'row {i}' for i, o in enumerate(y) if o == k]] if k in y else [])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.integers(1, 30), st.randoms(use_true_random=False))
def test_a_field_too_many_is_found_in_its_line(tmp_path_factory, n_cols, n, random):
    "Wherever it is, the first row and empty ones at the end included"
    path, at = tmp_path_factory.getbasetemp()/'fields.csv', random.randrange(n)
    lines = [','.join(f'c{i}' for i in range(n_cols)), *(','.join('1'*n_cols) for _ in range(n))]
    fields = lines[at+1].split(',')
    fields.insert(random.randrange(n_cols+1), random.choice(['', '5']))
    path.write_text('\n'.join([*lines[:at+1], ','.join(fields), *lines[at+2:]]))
    with pytest.raises(ValueError, match=f'line {at+2} of .*fields.csv has {n_cols+1} fields, and the header has'):
        read_table(path)
    path.write_text('\n'.join([*lines[:at+1], '1', *lines[at+2:]]))
    remarks = {}
    assert read_table(path, remarks=remarks)[1][at] == ''
    assert remarks == {'rows of fields.csv that end early, with the other cells missing': [f'line {at+2}']}


@pytest.mark.parametrize('form,n', [(lambda v: f'{v:.2f}'.replace('.', ','), 30), (lambda v: f'{1000*v:,.0f}', 30),
                                    (lambda v: f'{1000*v:,.2f}', 2), (lambda v: "1'234", 1)])
def test_numbers_with_commas_never_become_texts(tmp_path, form, n):
    "Many or few of them: the column, their number and the first are named; and what is missing does not count"
    v = [f'{o:.3f}' for o in np.random.default_rng(0).uniform(1, 9, 30)]
    cells = [form(float(o)) if i < n else o for i, o in enumerate(v)] + [None, 'NA', '?']
    y = ['p', 'q', '']*11
    with pytest.raises(ValueError, match="the column 'v' of .*t.csv has ") as e:
        CSVInputs(csv(tmp_path/'t.csv', pd.DataFrame(dict(v=cells, y=y))), QUICK)
    assert f'{n} cells such as {cells[0]!r} (row 0)' in str(e.value) and e.value.key == 'v'
    assert CSVInputs(csv(tmp_path/'t.csv', pd.DataFrame(dict(v=[*v, *cells[-3:]], y=y))), QUICK).conts == ['v']


@pytest.mark.parametrize('cells', [['3,4', '1,2', '2,2'], ['01067', '80331', '20095'], ['1', '2', '3']])
def test_columns_that_are_texts_whatever_they_look_like(tmp_path, cells):
    "Pairs, which look like decimal commas, codes, grades: categories as they are written, in the table and in a test"
    df = table()[0].assign(kind=lambda o: [k or f'wine {i % 3}' if i < 60 else '' for i, k in enumerate(o.kind)])
    df.insert(0, 'pos', [cells[i % 3] for i in range(len(df))])
    path = csv(tmp_path/'w.csv', df)
    if ',' in cells[0]:
        said = r"'pos' of .*w.csv has .*categorical=\['pos'\] \(in the shell --categorical pos\)"
        with pytest.raises(ValueError, match=said):
            CSVInputs(path, QUICK)
    res = load_inputs(str(path), QUICK, test='.3', categorical='pos, color')
    assert res.cats == ['pos', 'color'] and set(res.to.classes['pos']) == {'#na#', *cells}
    assert set(res.test.pos) <= {*cells} and not [k for k in res.remarks if k.startswith('test cells')]


def test_roles_name_columns(tmp_path):
    path = csv(tmp_path/'w.csv')
    for k in ('categorical', 'continuous', 'date', 'drop'):
        with pytest.raises(ValueError, match=f"{k}='nope': expected one of the columns: .'color', "):
            CSVInputs(path, QUICK, **{k: ['nope']})
        with pytest.raises(TypeError, match=f"{k}='nope': expected a list"): CSVInputs(path, QUICK, **{k: 'nope'})
    with pytest.raises(ValueError, match="id='nope': expected one of"): CSVInputs(path, QUICK, id='nope')


@pytest.mark.parametrize('sep', [',', ';'])
def test_separators_at_the_end_of_all_lines(tmp_path, sep):
    "As spreadsheets write them: no columns, unless something is in them; and the class is the last one with a name"
    path, remarks = tmp_path/'excel.csv', {}
    def write(*lines): path.write_text('\n'.join(o.replace(',', sep) for o in lines))
    write('a,b,y,,', '1,x,p,,', '2,y,,,', '3,x,q,,')
    df, y, target = read_table(path, remarks=remarks)
    assert (list(df), y, target) == (['a', 'b'], ['p', '', 'q'], 'y') and df.a.tolist() == ['1', '2', '3']
    assert remarks == {'columns left out because they have neither a name nor cells': ['Unnamed: 3', 'Unnamed: 4']}
    write(',a,,y,', '0,1,,p,', '1,2,note,,')
    df, y, target = read_table(path, 'y')
    assert list(df) == ['Unnamed: 0', 'a', 'Unnamed: 2'] and y == ['p', '']
    write('a,a,y,,', '1,x,p,,')
    with pytest.raises(ValueError, match="excel.csv has .'a'. twice"): read_table(path)


SEPARATED = [  # file, its text, and by what its columns are separated; '' where that can't be known
    ('t.tsv', 'size, in cm\tkind\n1.5\ta\n2\tb\n', '\t'),
    ('t.csv', 'size, in cm\tkind\n1.5\ta\n2\tb\n', '\t'),
    ('t.csv', 'size;a,b\n1;2\n3;4\n', ';'),
    ('t.csv', 'size;a,b\n\n1;2\n\n3;4\n', ';'),
    ('t.csv', 'size;weight;kind\n1,5;2,5;a\n3,25;1,0;b\n', ';'),
    ('t.csv', 'name;size, in cm;kind\nant;1,5;small\nbee;2,5;big\n', ';'),
    ('t.csv', '"length, cm";"width, cm";kind\n1,5;2,5;a\n1,5;2,5;b\n', ';'),
    ('t.txt', 'size|kind\n1,5|a\n2|b;c\n', '|'),
    ('t.csv', 'p(y|x),kind\n.5,a\n.25,b\n', ','),
    ('t.csv', 'size\n1\n2\n', ','),
    ('t.csv', 'note\nhello there: you\nwell\n', ','),
    ('t.csv', '"size, in cm","a;b;c",kind\n1.5,"x;y;z",a\n2,"x,y",b\n', ','),
    ('t.csv', 'kind;"size, cm";"width, cm"\na;"1,5";"2,5"\nb;"2,5";"3,5"\n', ';'),
    ('t.csv', 'kind;"size\nin, cm, or so"\na;"1,5\n2"\nb;3\n', ';'),
    ('t.csv', '"he said ""a;b""",kind\n"x ""a;b;c""",1\n"y",2\n', ','),
    ('t.csv', 'длина, см;вид;вес\n1,5;муравей;2\n2;пчела;3\n', ';'),
    ('t.TSV', 'μήκος, cm\tείδος\n1,5\tα\n2,5\tβ\n', '\t'),
    ('t.csv', '长度，厘米,种类\n1.5,蚂蚁\n2,蜜蜂；大\n', ','),
    ('t.csv', 'id,price (net; EUR)\n1,990\n2,5\n', ','),
    ('t.csv', 'at;value\n2024-01-01 10:00:00;1\n2024-01-02 10:00:00;2\n', ';'),
    ('t.csv', 'text,kind\n"Well, that; is it",a\n"So; so, so",b\n', ','),
    ('t.csv', 'a;b;c, d\n1;2;3\n4;5\n', ';'),
    ('t.csv', 'a,b\n', ','),
    ('t.tab', 'a,b\tc\n1,2\t3\n', '\t'),
    ('t.csv', 'a,b\tc\n1,2\t3\n', ''),
    ('t.csv', 'a,b;c\n1,2;3\n4,5;6\n', ''),
    ('t.csv', 'length, cm;width, cm;kind\n1,5;2,5;a\n1,5;2,5;b\n', ''),
    ('t.csv', 'size;a,b\n', '')]


@pytest.mark.parametrize('name,text,sep', SEPARATED)
def test_columns_are_separated_as_header_and_rows_say(tmp_path, name, text, sep):
    "Against Python's own reader, which is told the separator. `csv.Sniffer` errs on 6 of the clear files, pandas on 12"
    (tmp_path/name).write_text(text, encoding='utf-8')
    if not sep:
        with pytest.raises(ValueError, match=f"how the columns of .*{name} are separated is not clear: ',' and "):
            csv_inputs.read_rows(tmp_path/name)
        return
    head, *rows = [o for o in csv_module.reader(io.StringIO(text), delimiter=sep) if o]
    df = csv_inputs.read_rows(tmp_path/name)
    assert list(df) == head and df.fillna('').values.tolist() == [o+['']*(len(head)-len(o)) for o in rows]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.text('ab,;\t|"\n 1é', max_size=6), min_size=2, max_size=4), st.sampled_from(',;\t|'))
def test_names_and_cells_in_quotes_may_hold_any_separator(tmp_path_factory, cells, sep):
    path, text = tmp_path_factory.getbasetemp()/'quoted.csv', io.StringIO()
    head = [f'{i}{o}' for i, o in enumerate(cells)]
    rows = [head, cells[::-1], cells]
    csv_module.writer(text, delimiter=sep, quoting=csv_module.QUOTE_ALL, lineterminator='\n').writerows(rows)
    path.write_text(text.getvalue(), encoding='utf-8')
    df = csv_inputs.read_rows(path)
    assert list(df) == head and df.fillna('').values.tolist() == rows[1:]


def test_a_separator_that_would_do_as_well_is_named(tmp_path):
    "The one with most columns is taken. A file that says by its name what separates them needs no remark"
    text, remarks = 'name\tsize, in cm\tkind\nant\t1,5\tsmall\nbee\t2,5\tbig\n', {}
    for name in ('t.tsv', 't.csv'):
        (tmp_path/name).write_text(text)
        assert list(csv_inputs.read_rows(tmp_path/name, remarks=remarks)) == ['name', 'size, in cm', 'kind']
    said = r"files read as separated by '\t', though ',' divides their header and rows evenly, too"
    assert remarks == {said: ['t.csv']}


@pytest.mark.parametrize('sep', [';', '\t', '|'])
def test_the_code_for_new_rows_names_the_separator(tmp_path, sep):
    df = table()[0].rename(columns=dict(alcohol='alcohol, in %'))
    df.to_csv(tmp_path/'w.csv', sep=sep, index=False)
    res = CSVInputs(tmp_path/'w.csv', QUICK)
    assert 'alcohol, in %' in res.conts and not res.remarks and f'sep={sep!r}' in res.new_rows


@pytest.mark.parametrize('id,unlabeled', [(None, False), (None, True), ('key', False), ('key', True)])
def test_rows_of_a_class_called_na_have_their_own_names(tmp_path, id, unlabeled):
    "As predictions and other remarks call them; and those of the test are told apart"
    df, truth = table()
    df.insert(0, 'key', [f'k{i}' for i in range(len(df))])
    df['kind'] = ['' if i == 1 else o if i % 3 else 'NA' for i, o in enumerate(truth)]
    main, test, more = df[:60], df[60:90].reset_index(drop=True), df[90:].drop(columns='kind')
    if not unlabeled: main = pd.concat([main, more])
    kw = dict(unlabeled=csv(tmp_path/'more.csv', more)) if unlabeled else {}
    res = CSVInputs(csv(tmp_path/'w.csv', main), QUICK, test=csv(tmp_path/'t.csv', test), id=id, **kw,
                    drop=[] if id else ['key'])
    called = 'key k{}' if id else 'row {}'
    own = 'row w.csv {}' if unlabeled and not id else called
    said = "rows of the class 'NA', which counts as a class like any other (--missing NA makes them unlabeled)"
    assert res.remarks[said] == [own.format(i) for i in range(0, 60, 3)]
    assert res.remarks[f'test {said}'] == [called.format(i+60*bool(id)) for i in range(0, 30, 3)]


def test_cells_of_any_length(tmp_path):
    "And Python's own limit is as it was, also after an error"
    limit = csv_module.field_size_limit(131_072)  # Python's own: other libraries have set another in this process
    (tmp_path/'a.csv').write_text(f'a,b,y\n1,{"w"*140_000},p\n2,k,q\n')
    (tmp_path/'b.csv').write_text(f'a,b,y\n1,{"w"*140_000},p\n2,k,q,r\n')
    assert read_table(tmp_path/'a.csv')[0].b.str.len().tolist() == [140_000, 1]
    with pytest.raises(ValueError, match='line 3 of .*b.csv has 4 fields'): read_table(tmp_path/'b.csv')
    assert csv_module.field_size_limit(limit) == 131_072


def test_rows_are_counted_one_by_one_only_where_one_has_more_or_fewer_fields(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(csv_inputs, '_check_fields', lambda *a: seen.append('rows'))
    path = tmp_path/'a.csv'
    path.write_text('a,b,y\n1,x,p\n\n2,"x,y",q\n2,x,q\n')
    read_table(path)
    assert not seen
    path.write_text('a,b,y\n1,x\n')
    read_table(path)
    assert seen == ['rows']


def test_new_rows_with_decimal_commas_are_not_medians_without_a_word(tmp_path):
    "Where an exported student reads them; gaps and words for them are no surprise"
    res = CSVInputs(csv(tmp_path/'w.csv'), QUICK)
    dls, rows = res.dls(), pd.read_csv(tmp_path/'w.csv', dtype=object).drop(columns='kind')[30:60]
    rows.iloc[3, rows.columns.get_loc('hue')] = 'NA'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls.test_dl(rows)
    wrong = rows.assign(hue=[str(o).replace('.', ',') for o in rows.hue])
    n = sum(',' in o for o in wrong.hue)
    with pytest.warns(UserWarning, match=f"the column 'hue' has no numbers in {n} of its cells, such as .0,|1,"):
        dls.test_dl(wrong)


def test_missing_is_a_list(tmp_path):
    path = csv(tmp_path/'w.csv')
    with pytest.raises(TypeError, match="missing='NA': expected a list of texts"): read_table(path, missing='NA')


@pytest.mark.parametrize('encoding', ['utf-8', 'cp1252'])
def test_decimal_commas_and_other_encodings(tmp_path, encoding):
    "The same numbers as of a table with points; the report's code reads new rows in the same way"
    df, truth = table()
    df['kind'] = df.kind.map(lambda o: o and f'{o}é')
    want = CSVInputs(csv(tmp_path/'w.csv', df), QUICK)
    df.to_csv(tmp_path/'c.csv', index=False, sep=';', decimal=',', encoding=encoding)
    res = CSVInputs(tmp_path/'c.csv', QUICK, decimal=',', encoding=encoding)
    assert res.vocab == want.vocab and res.conts == want.conts and np.allclose(res.to.conts, want.to.conts, atol=1e-5)
    code = res.new_rows.replace("'more.csv'", repr(str(tmp_path/'c.csv')))
    learn = res.make_learner()
    with learn.no_bar(): exec(code, space := dict(pd=pd, learn=learn))
    seen = space['dl'].dataset
    for k in res.cats: assert seen[k].tolist() == res.to[k].tolist()
    assert np.allclose(seen.conts, res.to.conts, atol=1e-5) and {*space['df'].kind} <= {*res.vocab}
    if encoding == 'cp1252':
        said = "can't be read as utf-8: .*--encoding cp1252.* reads what Excel often writes in Latin letters, 'cp1251' "
        said += "what it writes in Cyrillic ones"
        with pytest.raises(ValueError, match=said): read_table(tmp_path/'c.csv')


def test_a_test_file_with_decimal_commas(tmp_path):
    df, truth = table()
    for k, o in (('w', df[:130]), ('t', df[130:].assign(kind=truth[130:]))):
        o.to_csv(tmp_path/f'{k}.csv', index=False, sep=';', decimal=',')
    res = CSVInputs(tmp_path/'w.csv', QUICK, test=tmp_path/'t.csv', decimal=',')
    assert np.allclose(res.test.alcohol, df.alcohol[130:]) and res.n['test'] == len(df)-130


@pytest.mark.parametrize('cells,decimal,said', [
    (['1,5', '2,25'], '.', "decimal=',' .*--decimal ,"), (['1.234', '2,5'], ',', "'1.234' .*without points"),
    (['1.234,5', '2,5'], ',', "'1.234,5' .*without points"), (['1.5', '2.5'], ',', 'without points')])
def test_separators_that_are_not_what_was_said(tmp_path, cells, decimal, said):
    df = pd.DataFrame(dict(x=cells*20, y=(['a']*3+['b']*3+[''])*5+['']*5))
    df.to_csv(tmp_path/'w.csv', index=False, sep=';')
    with pytest.raises(ValueError, match=said): CSVInputs(tmp_path/'w.csv', QUICK, decimal=decimal)


def test_decimal_and_encoding_are_checked(tmp_path):
    path = csv(tmp_path/'w.csv', table()[0])
    with pytest.raises(ValueError, match='decimal='): CSVInputs(path, QUICK, decimal=';')
    with pytest.raises(ValueError, match='encoding='): CSVInputs(path, QUICK, encoding='klingon')


def people(seed=0, n=240):
    "A number, a date, a zip code and a gap here and there; who pays how much, and whether he stays"
    rng = np.random.default_rng(seed)
    day = pd.Timestamp('2023-01-01')+pd.to_timedelta(rng.integers(0, 700, n), 'D')
    df = pd.DataFrame(dict(customer=[f'C-{i:04}' for i in range(n)], since=day.strftime('%d.%m.%Y')))
    df = df.assign(spent=rng.normal(80, 9, n), zip=rng.choice(['01067', '10115', '80331'], n), visits=rng.poisson(5, n))
    df.loc[::7, 'spent'] = np.nan
    df['price'] = 10+day.dayofyear/30+rng.normal(size=n)/2
    df['stays'] = np.where(df.price > 16, 'yes', 'no')
    return df


def as_file(path, df):
    df.to_csv(path, index=False)
    return path


def test_dates_ids_and_codes_are_what_they_are(tmp_path):
    "They were thousands of categories, amounts and numbers, without a word"
    n, rng = 900, np.random.default_rng(0)
    day = (pd.Timestamp('2024-01-01')+pd.to_timedelta(rng.integers(0, 900, n), 'D')).strftime('%Y-%m-%d')
    df = pd.DataFrame(dict(account=100_000+np.arange(n), signup=day, zip=rng.integers(10_000, 10_060, n),
                           x=rng.normal(size=n), kind=[rng.choice(['a', 'b']) if i < 90 else '' for i in range(n)]))
    res = CSVInputs(as_file(tmp_path/'t.csv', df), QUICK)
    assert roles(res) == dict(kind='target', account='id', signup='date', zip='categorical', x='continuous')
    assert why(res)['kind'] == 'what is predicted: the last column, as none was named', "it may be another one"
    assert res.cats == ['zip'] and 'signup_Elapsed' in res.conts and 'account' not in res.df
    assert why(res)['account'] == '900 different whole numbers in sequence'
    seconds = pd.to_datetime(df.signup).map(lambda o: o.timestamp())
    assert (res.df.signup_Elapsed == seconds).all()
    told = CSVInputs(tmp_path/'t.csv', QUICK, drop=['x'], continuous=['zip'], categorical=['account'],
                     date={'signup': '%Y-%m-%d'}, target='kind')
    assert roles(told) == dict(kind='target', account='categorical', signup='date', zip='continuous', x='dropped')
    assert why(told)['kind'] == 'what is predicted'


@pytest.mark.parametrize('seed', [0, 1])
def test_unlabeled_rows_of_another_file(tmp_path, seed):
    "As if they stood below the labeled ones; columns in another order, one more, and targets that nobody looks at"
    df = people(seed).drop(columns=['price'])
    one = df.assign(stays=[k if i < 60 else '' for i, k in enumerate(df.stays)])
    want = CSVInputs(as_file(tmp_path/'one.csv', one), QUICK, id='customer')
    more = df[60:][df.columns[::-1]].assign(note='x')
    res = CSVInputs(as_file(tmp_path/'a.csv', df[:60]), QUICK, unlabeled=as_file(tmp_path/'b.csv', more), id='customer')
    assert res.n == want.n and res.ids == want.ids == df.customer[60:].tolist() and res.id_name == 'customer'
    pd.testing.assert_frame_equal(res.unlabeled, want.unlabeled, check_index_type=False)
    pd.testing.assert_frame_equal(res.to.items, want.to.items)
    assert roles(res)['customer'] == 'id' and res.train.tolist() == want.train.tolist()
    assert counts(res) == {'columns of b.csv left out because a.csv lacks them': 1,
                           'targets in b.csv ignored because its rows are unlabeled': 180}


def test_unlabeled_rows_that_do_not_fit(tmp_path):
    "A column that is learned from must be there, and be of the same kind; one that says nothing need not"
    df = people().drop(columns=['price', 'customer']).assign(who=[f'person {i}' for i in range(240)])
    main = as_file(tmp_path/'a.csv', df[:60][[*df.columns.drop('stays'), 'stays']])
    def load(change, **kw): return CSVInputs(main, QUICK, unlabeled=as_file(tmp_path/'b.csv', change(df[60:])), **kw)
    with pytest.raises(ValueError, match=r"unlabeled='.*b.csv': .*lacks .'zip'.*--drop zip"):
        load(lambda o: o.drop(columns='zip'))
    assert load(lambda o: o.drop(columns=['who', 'stays'])).n['unlabeled'] == 180
    assert 'zip' not in load(lambda o: o.drop(columns='zip'), drop=['zip']).cats
    with pytest.raises(ValueError, match="'visits' is a column of numbers in the table, but here it has 180 texts"):
        load(lambda o: o.assign(visits='many'))
    with pytest.raises(FileNotFoundError, match="unlabeled='no.csv': there is no such file"):
        CSVInputs(main, QUICK, unlabeled='no.csv')
    both = as_file(tmp_path/'c.csv', df[:90].assign(stays=lambda o: o.stays.where(o.index < 60, '')))
    more = as_file(tmp_path/'b.csv', df[90:])
    assert {*CSVInputs(both, QUICK, target='stays', unlabeled=more).ids} >= {'c.csv 75', 3}


@pytest.mark.parametrize('change,said', [
    (lambda df: df.assign(customer='C'), "a different name for each row, .* repeats 239,"),
    (lambda df: df.assign(customer=df.customer.where(df.index > 2)), "a name for each row, but 3 .* have none")])
def test_names_of_rows_are_names(tmp_path, change, said):
    path = as_file(tmp_path/'a.csv', change(people()))
    with pytest.raises(ValueError, match=f"id='customer': expected {said}"): CSVInputs(path, QUICK, id='customer')


def prices(path, scale=1., shift=0.):
    df = people().drop(columns='stays')
    return as_file(path, df.assign(price=[shift+scale*k if i < 100 else None for i, k in enumerate(df.price)]))


def test_a_number_to_predict(tmp_path):
    "It trains alike on any scale: dollars, or millions of them with something added"
    res = {}
    for k, args in dict(a=(1., 0.), b=(1e6, 5e7), c=(1e-4, 0.)).items():
        inputs = CSVInputs(prices(tmp_path/f'{k}.csv', *args), Settings(steps=40), test=.2, id='customer')
        set_seed(0)
        learn = inputs.make_learner()
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1, inputs.lr)
            res[k] = learn.pseudolabel(inputs.unlabeled, leaks='keep').df()
            mae = learn.validate(dl=inputs.test_dl())[1]
        scale, shift = args
        true = (inputs.test.price-shift)/scale
        assert mae/scale < .8*(true-true.mean()).abs().mean()
    assert inputs.task == 'regression' and inputs.lower_is_better and inputs.metric == 'mae'
    a, b, c = ((res[k].value-s)/m for k, m, s in (('a', 1, 0), ('b', 1e6, 5e7), ('c', 1e-4, 0)))
    assert np.allclose(a, b, atol=.02) and np.allclose(a, c, atol=.02)
    assert res['a'].id.tolist() == people().customer[100:].tolist()
    low, high = inputs.y_range
    assert low < inputs.y.min() and inputs.y.max() < high


def test_a_number_to_predict_may_be_missing_or_no_number(tmp_path):
    df = people().drop(columns='stays').astype(dict(price=object))
    df.loc[100:, 'price'], df.loc[3, 'price'] = '', 'unknown'
    test = as_file(tmp_path/'t.csv', people(1).drop(columns='stays'))
    inputs = CSVInputs(as_file(tmp_path/'a.csv', df), QUICK, test=test)
    assert inputs.remarks['rows taken as unlabeled because their target is not a number'] == ['row 3']
    assert inputs.n['unlabeled'] == 141 and inputs.n['test'] == 240 and 3 in inputs.ids
    assert np.allclose(inputs.test.price, people(1).price)
    with pytest.raises(ValueError, match="task='regression': expected numbers"):
        CSVInputs(as_file(tmp_path/'b.csv', people().drop(columns='price')), QUICK, task='regression')


def test_an_export_takes_rows_as_pandas_reads_them(tmp_path):
    "Dates are expanded inside, and zip codes found that pandas has made numbers of"
    df = people().drop(columns='price')
    path = as_file(tmp_path/'a.csv', df.assign(stays=[k if i < 60 else '' for i, k in enumerate(df.stays)]))
    inputs = CSVInputs(path, QUICK, id='customer')
    learn = inputs.make_learner()
    learn.export(tmp_path/'a.pkl')
    again, want = load_learner(tmp_path/'a.pkl'), learn.pseudolabel(inputs.unlabeled, leaks='keep').probs
    raw = pd.read_csv(path)[60:]
    assert pd.api.types.is_integer_dtype(raw.zip)
    with again.no_bar(): p = again.get_preds(dl=again.dls.test_dl(raw.drop(columns='stays')))[0]
    assert np.allclose(p, want, atol=1e-3)
    assert np.allclose(again.pseudolabel(raw, leaks='keep').probs, want, atol=1e-3)  # raw rows, too
    with pytest.raises(ValueError, match="no column 'since'"):
        again.pseudolabel(raw.drop(columns='since'), leaks='keep')


def test_parquet(tmp_path, monkeypatch):
    "The same as of a CSV file, typed; without what reads it, the error says what to install"
    df = people().drop(columns='price').assign(since=lambda o: pd.to_datetime(o.since, format='%d.%m.%Y'))
    df['stays'] = [k if i < 60 else None for i, k in enumerate(df.stays)]
    df.to_parquet(tmp_path/'a.parquet')
    want = CSVInputs(as_file(tmp_path/'a.csv', df), QUICK, id='customer')
    res = load_inputs(str(tmp_path/'a.parquet'), QUICK, id='customer')
    assert res.n == want.n and roles(res) == roles(want) and res.ids == want.ids
    assert np.allclose(res.to.conts, want.to.conts, atol=1e-4) and (res.to.cats.values == want.to.cats.values).all()
    (tmp_path/'b.parquet').write_bytes(b'no table')
    with pytest.raises(ValueError, match="b.parquet can't be read: expected a Parquet file"):
        load_inputs(str(tmp_path/'b.parquet'), QUICK)
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match='a.parquet can.t be read: Parquet needs `pip install pyarrow`'):
        load_inputs(str(tmp_path/'a.parquet'), QUICK)


def test_equal_rows_of_two_classes_are_named(tmp_path):
    "Against a search over all pairs; and classes that are one, written in two ways"
    rng, n = np.random.default_rng(0), 90
    df = pd.DataFrame(dict(a=rng.integers(0, 6, n)/7, b=rng.choice(['u', 'v'], n)))
    df.loc[60:, 'a'] = np.arange(30)+.5
    df['kind'] = [rng.choice(['yes', 'Yes ', 'no']) if i < 60 else '' for i in range(n)]
    res = CSVInputs(as_file(tmp_path/'t.csv', df), QUICK, categorical=['b'])
    rows = df[:60].assign(kind=df.kind[:60].str.strip()).to_dict('records')
    def differ(o, k): return (o['a'], o['b']) == (k['a'], k['b']) and o['kind'] != k['kind']
    bad = {i for i, o in enumerate(rows) for k in rows if differ(o, k)}
    said = next(v for k, v in res.remarks.items() if 'equal another one but have a different class' in k)
    assert {*said} == {f'row {i}: {rows[i]["kind"]}' for i in bad} and len(said) == len(bad)
    assert [v for k, v in res.remarks.items() if 'differ only in case' in k] == [["'Yes' and 'yes'"]]
    assert not any('equal another' in k for k in CSVInputs(csv(tmp_path/'w.csv'), QUICK).remarks)


def test_targets_with_decimal_commas(tmp_path):
    "They looked like classes"
    y = [f'{i*.37:.2f}'.replace('.', ',') if i < 40 else '' for i in range(60)]
    df = pd.DataFrame(dict(x=np.arange(60)/7, y=y))
    as_file(tmp_path/'t.csv', df.assign(x=df.x.map('{:.3f}'.format).str.replace('.', ',')))
    with pytest.raises(ValueError, match="'y' .* 40 cells such as '0,00' .*--decimal ,.*--task classification"):
        CSVInputs(tmp_path/'t.csv', QUICK)
    assert CSVInputs(tmp_path/'t.csv', QUICK, decimal=',').task == 'regression'
    df['x'] = [f'{i*.5}'.replace('.', ',') for i in range(60)]
    with pytest.raises(ValueError, match="'x' .* such as '0,0' .*--decimal"):
        CSVInputs(as_file(tmp_path/'u.csv', df.assign(y=['a', 'b', '']*20)), QUICK, continuous=['x'])
