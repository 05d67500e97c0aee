"Fonts: letters that the usual font lacks are drawn with one that is installed, and no figure fails for it"
import warnings
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from noisy_student_fastai import fonts
from noisy_student_fastai.fonts import fallbacks, font_has, installed, unseen, with_fonts

USUAL = findfont('DejaVu Sans')
STIX = findfont('STIXGeneral')
RARE = next(c for c in map(chr, range(0x2000, 0x2fff))
            if font_has(STIX, frozenset(c)) and not any(font_has(o, frozenset(c)) for k, o in installed().items()
                                                        if not k.startswith('STIX')))
NOWHERE = '\U0002fa1d'  # a rare Chinese letter


@pytest.fixture(autouse=True)
def found_anew():
    fallbacks.cache_clear()
    yield
    fallbacks.cache_clear()


def drawn(text):
    "What matplotlib warns of where a text is everywhere, and whether its title is no box"
    ax = Figure().subplots()
    ax.set(title=text, xlabel=f'x {text}', ylabel='y')
    ax.set_xticks([0, 1], [text, 'b'])
    ax.plot([0, 1], label=text)
    ax.legend()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with_fonts(ax).figure.savefig(BytesIO())
    return [str(o.message) for o in said], ax


def test_a_letter_that_another_font_has():
    "Wherever it stands; other texts keep their font, and what is drawn needs no warning"
    said, ax = drawn(RARE)
    assert said == [] and ax.title.get_fontfamily() == ['sans-serif', *fallbacks(frozenset(RARE))[0]]
    assert ax.yaxis.label.get_fontfamily() == ['sans-serif'] and unseen([RARE, 'a Я']) == frozenset()


def test_a_letter_that_no_font_has():
    assert unseen(['a', f'b {NOWHERE}\n']) == {NOWHERE} and fallbacks(frozenset(NOWHERE)) == ((), {NOWHERE})
    assert drawn(NOWHERE)[1].title.get_fontfamily() == ['sans-serif']


def test_fonts_that_are_no_help(monkeypatch, tmp_path):
    "Boxes for every letter, files that have gone or are no fonts, and fonts of pictures, which have no outlines"
    (tmp_path/'bad.ttf').write_bytes(b'no font')
    entry = lambda name, f: SimpleNamespace(name=name, fname=str(f), style='normal', stretch='normal', weight=400)
    odd = [entry('LastResort', USUAL), entry('Gone', tmp_path/'gone.ttf'), entry('Bad', tmp_path/'bad.ttf')]
    monkeypatch.setattr(fontManager, 'ttflist', [*fontManager.ttflist, *odd])
    assert 'Bad' in installed() and not {'LastResort', 'Gone'} & installed().keys()
    assert not [k for k in installed() if k.startswith('Last Resort')]
    assert font_has(str(tmp_path/'bad.ttf'), frozenset('a')) == frozenset()
    empty = SimpleNamespace(load_char=lambda c: None, get_path=lambda: (np.zeros((0, 2)), []))
    assert not fonts._has_outline(empty, '🦊') and fonts._has_outline(empty, ' ')
    assert fallbacks(frozenset([RARE, NOWHERE]))[1] == {NOWHERE}


def test_no_figure_fails(monkeypatch):
    def fail(*args): raise RuntimeError
    monkeypatch.setattr(fonts, 'fallbacks', fail)
    _, ax = drawn(RARE)
    assert ax.title.get_fontfamily() == ['sans-serif'] and unseen([RARE]) == frozenset()


def test_nothing_is_looked_for_where_the_usual_font_will_do(monkeypatch):
    monkeypatch.setattr(fonts, 'installed', lambda: 1/0)
    assert drawn('Zürich Я')[0] == [] and unseen(['Zürich']) == frozenset()
