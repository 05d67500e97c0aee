"Do errors name the argument, are they what Python calls them, and do they survive a pickle?"
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noisy_student_fastai.checks import (
    BadType,
    BadValue,
    MissingFile,
    check,
    check_number,
    check_whole,
    did_you_mean,
    readable,
    shorten,
)

KINDS = {BadValue: ValueError, BadType: TypeError, MissingFile: FileNotFoundError}


@pytest.mark.parametrize('cls', KINDS)
def test_fields_and_text(cls):
    e = cls('bs', 0, 'expected a whole number', key='dl.bs')
    assert isinstance(e, KINDS[cls]) and str(e) == 'bs=0: expected a whole number'
    assert (e.argument, e.value, e.expected, e.key) == ('bs', 0, 'expected a whole number', 'dl.bs')
    assert str(cls('bs', 0, said='the batch is empty')) == 'the batch is empty'
    other = e.called('--bs')
    assert type(other) is cls and str(other) == '--bs=0: expected a whole number' and e.argument == 'bs'
    said = cls('bs', 0, said='the batch is empty', key='a').called('--bs')  # a text of its own stays
    assert (str(said), said.argument, said.key) == ('the batch is empty', '--bs', 'a')


@pytest.mark.parametrize('value', [3, 'a', None, object(), np.arange(3), lambda: 1])
@pytest.mark.parametrize('cls', KINDS)
def test_pickles(cls, value):
    "A value that can't be pickled comes back as its text"
    e = pickle.loads(pickle.dumps(cls('x', value, 'another', key='a.b')))
    assert type(e) is cls and (e.argument, e.expected, e.key) == ('x', 'another', 'a.b')
    assert e.value == (value if isinstance(value, (int, str, type(None))) else shorten(value))


def fail(): raise BadValue('x', fail, 'a number')


def test_comes_back_from_another_process():
    with ProcessPoolExecutor(1, mp_context=get_context('fork')) as pool:
        with pytest.raises(BadValue, match='x=<function fail') as e: pool.submit(fail).result()
    assert e.value.argument == 'x'


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()))
def test_numbers(v):
    "A plain version of what is right"
    def outcome(f, *args):
        try: f(*args)
        except TypeError: return TypeError
        except ValueError: return ValueError
    is_number = type(v) in (int, float)
    fine = is_number and v == v and abs(v) != float('inf') and v > 0
    assert outcome(check_number, 'v', v, lambda o: o > 0, '') is (None if fine else ValueError if is_number
                                                                  else TypeError)
    want = TypeError if type(v) is not int else None if 2 <= v <= 5 else ValueError
    assert outcome(check_whole, 'v', v, 2, 5) is want


@given(st.text(), st.integers(4, 50))
def test_shorten(s, most):
    got = shorten(s, most)
    assert len(got) <= max(most, 3) and (got == repr(s) if len(repr(s)) <= most else repr(s).startswith(got[:-3]))


def test_check():
    check(1, 'x', 1, '')
    with pytest.raises(BadType, match='^x=1: expected two$') as e:
        check(0, 'x', 1, 'expected two', TypeError, 'x.y')
    assert e.value.key == 'x.y'


def test_names_for_terminals_and_pages():
    "Letters of every alphabet stay; what moves the cursor, turns the line or is no UTF-8 has its code there"
    shown = readable('Zürich 東京 😀\x1b[2J\n\u202e\udcfc\ud800')
    assert shown == 'Zürich 東京 😀\\x1b[2J\\n\\u202e\\xfc\\ud800' and readable(3) == '3'


@given(st.sampled_from(['n_epoch', 'method', 'labeled']), st.integers(0, 6))
def test_a_slip_of_one_letter_is_a_question(name, i):
    "One letter less or in capitals; what is one of the names, or like none of them, is no slip"
    names, i = ['n_epoch', 'method', 'labeled'], i % len(name)
    for slip in (name[:i]+name[i+1:], name[:i]+name[i].upper()+name[i+1:]):
        assert did_you_mean(slip, names) == ('' if slip in names else f"; did you mean '{name}'?")
    assert did_you_mean(name, names) == did_you_mean('xyz', names) == did_you_mean(name, []) == ''
