"A look at a few rows: what no draw from the same data gives is told, what one gives is not"
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.text.data import TensorText
from fastai.torch_core import TensorImage
from fastai.vision.core import PILImage
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.looks import differences_of, file_differences, look, look_at, some_of, warn_of
from PIL import Image, ImageOps

SHAPES = st.sampled_from([(5,), (40,), (3, 30), (1, 8, 8), (3, 6, 6), ()])
DRAWS = dict(normal=lambda g, s: g.normal(size=s), uniform=lambda g, s: g.random(s),
             lognormal=lambda g, s: g.lognormal(0, 1, s), sparse=lambda g, s: g.normal(size=s)*(g.random(s) < .3),
             whole=lambda g, s: g.integers(0, 256, s), loud_or_quiet=lambda g, s: g.normal(size=s)*g.choice([1, 20]),
             offset=lambda g, s: 100+g.normal(size=s), columns=lambda g, s: g.normal(size=s)*10.**np.arange(s[-1] % 7))
QUICK = settings(max_examples=50, deadline=None, derandomize=True)


def rows(draw, shape, n, g): return [(torch.tensor(np.asarray(DRAWS[draw](g, shape))),) for _ in range(n)]


def says(a, b): return differences_of(look_at(a), look_at(b))


@QUICK
@given(st.sampled_from(sorted(DRAWS)), SHAPES, st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32-1))
def test_rows_of_the_same_data_are_no_news(draw, shape, n, n2, seed):
    if draw == 'columns' and not shape: return
    g = np.random.default_rng(seed)
    few = min(n, n2) < 3 and draw in ('sparse', 'loud_or_quiet', 'lognormal', 'normal', 'uniform', 'whole')
    if few and np.prod(shape) < 16: return  # a row or two of a few numbers may be all zeros
    assert says(rows(draw, shape, n, g), rows(draw, shape, n2, g)) == []


@QUICK
@given(st.sampled_from(['normal', 'uniform', 'whole', 'offset']), SHAPES.filter(lambda s: np.prod(s) >= 16),
       st.floats(150, 1e5), st.booleans(), st.integers(0, 2**32-1))
def test_another_scale(draw, shape, factor, up, seed):
    g = np.random.default_rng(seed)
    a, b = rows(draw, shape, 8, g), rows(draw, shape, 12, g)
    b = [(x*(factor if up else 1/factor),) for x, in b]
    tops = [max(x.abs().max().item() for x, in o) for o in (a, b)]
    assert (f'numbers up to {tops[0]:.4g}', f'up to {tops[1]:.4g}') in says(a, b)


@QUICK
@given(st.sampled_from(['normal', 'uniform', 'offset']), SHAPES.filter(len), st.integers(0, 2**32-1))
def test_another_scale_of_one_column_or_channel(draw, shape, seed):
    g = np.random.default_rng(seed)
    a, b, i = rows(draw, shape, 12, g), rows(draw, shape, 12, g), int(g.integers(shape[0]))
    for x, in b: x[i] *= 1e6
    if shape[0] == 1: return
    name = f"column 'c{i}'" if len(shape) == 1 else f'channel {i}'
    names = [[f'c{k}' for k in range(shape[0])]] if len(shape) == 1 else None
    said = differences_of(look_at(a), look_at(b), names)
    assert said and (all(name in o for o in said[0]) or said[0][0].startswith('numbers up to'))


def test_another_shape():
    g = np.random.default_rng(0)
    a, b = rows('normal', (3, 20), 12, g), rows('normal', (3, 25), 12, g)
    assert says(a, b) == [('the shape (3, 20)', '(3, 25)')] == says(a, [*a[:11], b[0]])
    ragged = [(x[:, :k],) for k, (x,) in enumerate(a, 5)]
    assert says(a[:7], b) == []  # chance
    assert says(ragged, b) == [] and says(ragged, [(x[None],) for x, in b]) != []


def test_what_many_numbers_tell():
    g = np.random.default_rng(0)
    a, b = rows('normal', (20,), 12, g), [(x.abs(),) for x, in rows('normal', (20,), 12, g)]
    assert says(a, b) == [('numbers below 0 in each row', 'none')]
    assert says(b, a) == [('no number below 0', 'some in each row')]
    assert ('numbers with fractions', 'only whole ones') in says(a, [(x.round(),) for x, in a])
    assert ('rows that vary', 'a single number all over a row') in says(a, [(x*0+1,) for x, in a])
    small = [(x[:3],) for x, in a], [(x[:3],) for x, in b]
    assert says(*small) == []


def test_color():
    g = np.random.default_rng(0)
    color = [(x.as_subclass(TensorImage),) for x, in rows('uniform', (3, 6, 6), 12, g)]
    gray = [(x[:1].expand(3, 6, 6),) for x, in color]
    assert says(color, gray) == [('colored pictures', 'gray ones')] and says(gray, [*gray, *color[:1]]) == []


def test_words_that_nobody_knows():
    "The number of a word has no size; 0 is a word that the teacher's vocabulary lacks"
    g = np.random.default_rng(0)
    def texts(n, known):
        return [(TensorText(torch.tensor(g.integers(2, 5000, k)*(g.random(k) < known))),) for k in g.integers(5, 60, n)]
    assert says(texts(12, .95), texts(12, .9)) == [] == says(texts(12, .3), texts(12, .2))
    assert [a[:10] for a, b in says(texts(12, .95), texts(12, .1))] == ['texts with']


def test_texts_of_another_length():
    def texts(k): return [(TensorText(torch.arange(2, k+2)),)]*12
    assert says(texts(5), texts(6)) == [] == says(texts(5), texts(30)+texts(2))


def test_what_is_no_row_of_numbers():
    assert look(['a', 'b']) is None and look([torch.zeros(0)]) is None and look_at([]) == []
    nan = torch.tensor([1., float('nan'), float('inf')])
    assert look([nan]).tops.tolist() == [[1, 0, 0]]
    assert differences_of([None], look_at([(nan,)])) == []


def test_random_numbers_go_on():
    "... and rows are looked at all over, without one twice"
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    at = [some_of(n, 12) for n in (1, 5, 12, 1000, 10**9)]
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert [len({*o.tolist()}) for o in at] == [1, 5, 12, 12, 12] and at[-1].max() > 5e8 and at[-1].min() < 5e8


def test_one_warning_says_all():
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        warn_of('x', [])
        warn_of('x', [('this', 'that'), ('one', 'two')], ['more'])
    assert len(ws) == 1
    assert str(ws[0].message).startswith('x looks different from the labeled rows: labeled rows have this, these that; '
                                         'labeled rows have one, these two; more. So ')


@pytest.fixture
def pictures(tmp_path):
    "Two of each kind: plain, turned, of 16 bits; pixels of more than a byte in the last"
    g, res = np.random.default_rng(0), {}
    for k in ('plain', 'turned', 'deep'):
        for i in range(2):
            x, exif = g.integers(256, size=(6, 6), dtype=np.uint8), Image.Exif()
            if k == 'turned': exif[274] = 6
            x = x.astype(np.uint16)*257 if k == 'deep' else x
            f = tmp_path/f'{k}{i}.png'
            Image.fromarray(x).save(f, exif=exif)
            res.setdefault(k, []).append(f)
    (tmp_path/'broken.png').write_bytes(b'no picture')
    return res | dict(broken=[tmp_path/'broken.png'], missing=[tmp_path/'none.png'])


@pytest.mark.parametrize('k, word', [('turned', 'exif_transpose'), ('deep', '8 bits')])
def test_files_that_stand_out(pictures, k, word):
    def look_at_files(labeled, files, read=PILImage.create):
        return file_differences(labeled, files, lambda i: read(files[i]))
    files = pictures['plain'][1:]+pictures['broken']+pictures[k]+pictures['missing']
    said, = look_at_files(pictures['plain'][:1], files)
    assert said.startswith('2 of 5 pictures') and word in said and str(pictures[k][0]) in said
    assert look_at_files(pictures['plain'][:1]+pictures[k][:1], files) == []  # so are labeled ones
    assert look_at_files(pictures['plain'], pictures['plain']+pictures['broken']) == []
    def mended(f):
        im = ImageOps.exif_transpose(Image.open(f))
        return Image.fromarray((np.asarray(im)/257).astype(np.uint8)) if im.mode == 'I;16' else im
    assert look_at_files(pictures['plain'][:1], files, mended) == []
    assert look_at_files(pictures['plain'][:1], files, lambda f: Path(f)) == []  # nothing that can be compared
