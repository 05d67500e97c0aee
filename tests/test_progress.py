"The bar and its lines, on a terminal and where nobody watches; what a speed says"
import sys
from io import StringIO

import pytest
from fastai.callback.core import Callback
from noisy_student_fastai.progress import Progress, Speed, StepCallback, duration, is_watched
from toys import pts_dls, pts_learner


class Out(StringIO):
    def __init__(self, watched):
        super().__init__()
        self.watched = watched
    def isatty(self): return self.watched


@pytest.fixture
def out(monkeypatch):
    def make(watched):
        o = Out(watched)
        monkeypatch.setattr(sys, 'stdout', o)
        return o
    return make


def test_lines_only(out):
    o = out(False)
    with Progress(3) as bar:
        for i in range(3): bar.step(f'model {i}')
        bar.say('three are done')
    assert o.getvalue() == 'three are done\n' and not is_watched()


def test_a_terminal(out):
    "The bar moves, a line takes its place, and in the end it is gone"
    o = out(True)
    with Progress(4) as bar:
        bar.step('model a')
        bar.say('one is done')
        bar.step('model b')
    said = o.getvalue()
    assert 'model a' in said and 'model b' in said and '25.00%' in said
    line = next(l for l in said.split('\r') if l.startswith('one is done'))
    assert line.endswith('\n') and len(line.rstrip('\n')) > len('one is done')  # it covers the bar
    assert said.split('\r')[-1].strip() == ''


def test_no_bar_for_those_who_want_none(out):
    o = out(True)
    with Progress(2, draws=False) as bar:
        bar.start()
        bar.step('a')
        bar.say('done')
    assert o.getvalue() == 'done\n'


def test_it_can_be_drawn_before_the_first_step(out):
    o = out(True)
    bar = Progress(2)
    bar.start()
    assert '0.00%' in o.getvalue()
    first = bar.bar
    bar.step('a')
    assert bar.bar is first
    bar.stop()


def test_wiped_after_an_error(out):
    o = out(True)
    with pytest.raises(KeyboardInterrupt), Progress(5) as bar:
        bar.step('a')
        raise KeyboardInterrupt
    assert o.getvalue().split('\r')[-1].strip() == ''


def test_more_steps_than_one_knew_of(out):
    out(True)
    with Progress(2) as bar:
        for i in range(5): bar.step(str(i))
    assert bar.i == 5


@pytest.mark.parametrize('first', [0, 3000])
def test_speed(first):
    speed = Speed(first)
    speed.start -= 2
    rate, done = speed(first+2000).split(', ', 1)
    assert float(rate.split()[0].replace(',', '')) == pytest.approx(1000, rel=.05)
    assert done == f'{first+2000:,} rows done'


def test_a_step_for_each_training_batch():
    n, count = [], []
    class Count(Callback):
        run_valid = False
        def after_batch(self): count.append(1)
    learn = pts_learner(StepCallback(lambda: n.append(1)), Count(), dls=pts_dls(bs=16))
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert len(n) == len(count) == 8


# --- where nobody watches

def test_a_line_now_and_then(out, monkeypatch):
    "Each minute one, with the share that is done and the time that is left at the speed of this run; nothing else"
    now = [0.]
    monkeypatch.setattr('noisy_student_fastai.progress.time', lambda: now[0])
    o = out(False)
    bar = Progress(1000)
    bar.skip(400)  # of an earlier run
    for i in range(300):
        bar.step(f'model {i//100}')
        now[0] += 1
    assert o.getvalue().splitlines() == [
        '  46% after 60 seconds, about 9 minutes left: model 0', '  52% after 2 minutes, about 8 minutes left: model 1',
        '  58% after 3 minutes, about 7 minutes left: model 1', '  64% after 4 minutes, about 6 minutes left: model 2']
    bar.reach(900)
    assert bar.i == 900 and bar.state() == '90% after 5 minutes, about 2 minutes left'
    bar.reach(10)
    assert bar.i == 900


def test_no_line_for_what_draws_nothing(out):
    o = out(False)
    bar = Progress(3, draws=False, every=0.)
    for _ in range(3): bar.step('a')
    assert o.getvalue() == ''


def test_a_bar_counts_what_this_run_does(out):
    "It would promise too much if what an earlier run has done had its part in the speed"
    o = out(True)
    with Progress(10) as bar:
        bar.skip(6)
        bar.step('a')
        assert bar.bar.total == 4
        bar.skip(1)
        bar.step('b')
        assert bar.bar.total == 3
    assert '66.67%' in o.getvalue()


@pytest.mark.parametrize('s,said', [(.4, '0 seconds'), (89, '89 seconds'), (150, '2 minutes'), (7200, '2.0 hours')])
def test_durations(s, said): assert duration(s) == said


@pytest.mark.parametrize('n', [0, 5])
def test_the_state_before_the_first_step(n):
    "Nobody knows how long it will take, and no number is divided by zero"
    bar = Progress(n, draws=False)
    assert bar.state() == '0% after 0 seconds'
    bar.skip(3)
    assert bar.state() == f'{60 if n else 100}% after 0 seconds'
    bar.start()
    bar.begun = 0
    assert bar.state(now=0).endswith('% after 0 seconds') and bar.state(now=30).endswith('% after 30 seconds')
