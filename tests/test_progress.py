"The bar and its lines, on a terminal and where nobody watches; what a speed says"
import sys
from io import StringIO

import pytest
from fastai.callback.core import Callback
from noisy_student_fastai.progress import Progress, Speed, StepCallback, is_watched
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
