"`show_batch`: what stands beside each row is true of that row"
import re

import noisy_student_fastai.labels.labeling  # noqa: F401  (gives Learner `pseudolabel`)
import numpy as np
import pytest
import torch
from data_helpers import probs, rows_of, tensors_dl
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.vision.data import ImageBlock
from image_toys import CategoryMany, image_dls
from mask_toys import by_files, by_soft, hard, mask_dls
from matplotlib import pyplot as plt
from noisy_student_fastai.data.datasets import label_scarce
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.student import NoisyStudent
from PIL import Image
from table_toys import CONTS, encoded, wine_dls
from text_toys import known_rows, text_dls
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader

pytestmark = pytest.mark.usefixtures('no_windows')


@pytest.fixture
def tables(monkeypatch):
    "The tables that are displayed, each a list of rows"
    shown = []
    def display(o):
        rows = re.findall('<tr.*?</tr>', o.data, re.S)
        shown.append([re.findall('<t[dh]>(.*?)</t[dh]>', r, re.S) for r in rows])
    monkeypatch.setattr('IPython.display.display', display)
    return shown


def show(dls, dl2, lf=None, weight=1., max_n=9, **kwargs):
    cb = NoisyStudent(dl2, pseudolabel_sample_weight=weight)
    learn = Learner(dls, nn.Identity(), loss_func=lf or CrossEntropyLossFlat(), cbs=cb)
    learn.noisy_student.show_batch(max_n=max_n, **kwargs)
    return [o for o in plt.gcf().axes if o.images] if plt.get_fignums() else []


def which(ax, x):
    "Which of the images `x` is shown"
    img = torch.tensor(ax.images[0].get_array())
    return rows_of([img.float().mul(255).round().byte() if img.is_floating_point() else img], x.permute(0, 2, 3, 1))[0]


@pytest.mark.parametrize('max_n', [9, 4])
@pytest.mark.parametrize('soft', [False, True])
def test_images(digits, soft, max_n):
    "Labeled rows first; the class, the source, the probability of a soft label and the weight"
    fs, x, y = digits
    dls, p = image_dls(fs, None), probs(70, 10)
    dl2 = tensors_dl(x[40:], p, bs=4) if soft else dls.test_dl(fs[40:], with_labels=True)
    for weight in (1., .5):
        axs = show(dls, dl2, weight=weight, max_n=max_n)
        n = max_n-max_n//2
        assert len(axs) == max_n
        for k, ax in enumerate(axs):
            i = which(ax, x)
            assert (i < 40) == (k < n)
            w = '' if weight == 1 else ' w=1' if k < n else ' w=0.5'
            if k < n: want = f'{y[i]} (labeled{w})'
            elif soft: want = f'{p[i-40].argmax()} (pseudo p={p[i-40].max():.2f}{w})'
            else: want = f'{y[i]} (pseudo{w})'
            assert ' '.join(ax.get_title().split()) == want  # in one line or two
        plt.close('all')


def test_what_the_grid_takes(digits):
    "Arguments for the data's own `show_batch` reach it"
    fs, x, y = digits
    dls = image_dls(fs, None)
    axs = show(dls, dls.test_dl(fs[40:], with_labels=True), max_n=4, nrows=1, figsize=(8, 2))
    assert len({round(o.get_position().y0, 3) for o in axs}) == 1 and tuple(axs[0].figure.get_size_inches()) == (8, 2)


def test_multi_label_titles(digits):
    "Of labels with a probability each, those that are more likely than not"
    (fs, x, _y), many = digits, CategoryMany()
    dls = image_dls(fs, None, y_block=MultiCategoryBlock, get_y=many)
    p = torch.rand(70, 3, generator=torch.Generator().manual_seed(0))
    axs, _seen = show(dls, tensors_dl(x[40:], p, bs=4), BCEWithLogitsLossFlat()), []
    for k, ax in enumerate(axs):
        i = which(ax, x)
        names = many(fs[i]) if i < 40 else [v for v, o in zip(dls.vocab, p[i-40]) if o > .5]
        assert sorted(re.findall(r'\w+', ax.get_title())) == sorted([*names, 'labeled' if k < 5 else 'pseudo'])


@pytest.mark.parametrize('way', [by_files, by_soft])
def test_masks(discs, way):
    "Each mask lies over its own image"
    fs, x = discs
    dls = mask_dls(fs, None)
    axs = show(dls, way(dls, fs, x), CrossEntropyLossFlat(axis=1))
    assert [o.get_title() for o in axs] == ['labeled']*4+['pseudo']*4
    for ax in axs:
        assert torch.equal(torch.tensor(ax.images[1].get_array()).long(), hard(x[which(ax, x), 0]))


@pytest.mark.parametrize('soft', [False, True])
def test_tables(wine, tables, soft):
    "The rows are decoded: names, numbers as they were, the name of the class, and one more column"
    dls, p, (cats, conts, _y) = wine_dls(wine), probs(len(wine)-40, 3), encoded(wine)
    dl2 = tensors_dl(cats[40:], conts[40:], p, bs=4) if soft else dls.test_dl(wine.iloc[40:])
    show(dls, dl2, weight=.5)
    (head, *rows), = tables
    assert head == ['', 'soil', 'side', *CONTS, 'kind', 'row'] and len(rows) == 9
    seen = set()
    for k, (_, soil, side, *nums, kind, note) in enumerate(rows):
        near = (wine[CONTS]-[float(o) for o in nums]).abs().max(axis=1)
        i = near.idxmin()
        seen.add(soil)
        assert near[i] < 1e-3 and side == wine.side[i] and soil in (wine.soil[i], '#na#') and (i < 40) == (k < 5)
        q = p[i-40] if soft and k >= 5 else None
        assert kind == (wine.kind[i] if q is None else dls.vocab[int(q.argmax())])
        assert note == ('labeled w=1' if k < 5 else f'pseudo p={q.max():.2f} w=0.5' if soft else 'pseudo w=0.5')
    assert len(seen) > 1


@pytest.mark.parametrize('soft', [False, True])
def test_texts(texts, tables, soft):
    "The words of a row, its class and its source"
    dls = text_dls(texts)
    tokens, p = known_rows(dls, texts), probs(len(texts)-20, 4)
    dl2 = (TorchDataLoader([(torch.tensor(o), t) for o, t in zip(tokens[20:], p)], batch_size=4) if soft
           else dls.test_dl(texts.iloc[20:], with_labels=True))
    show(dls, dl2, trunc_at=None)
    (head, *rows), = tables
    assert head == ['', 'text', 'category'] and len(rows) == 9
    words = [' '.join(dls.vocab[0][t] for t in o) for o in tokens]
    for k, (_, text, label) in enumerate(rows):
        i = words.index(text)
        assert (i < 20) == (k < 5)
        q = p[i-20] if soft and k >= 5 else None
        name = texts.label[i] if q is None else dls.vocab[1][int(q.argmax())]
        assert label == f'{name} ({"labeled" if k < 5 else "pseudo" if q is None else f"pseudo p={q.max():.2f}"})'


def test_loaders_of_label_scarce():
    "Rows are shown with the names of their classes, by the loaders, by the noise and beside pseudolabeled ones"
    data = label_scarce('digits')
    dls = data.dls(bs=20)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), cbs=StudentNoise(stoch_depth=None))
    dls.show_batch(max_n=4)
    assert {o.get_title() for o in plt.gcf().axes} <= {*data.vocab} and len(plt.gcf().axes) == 4
    learn.show_noise()
    with learn.no_bar(): pl = learn.pseudolabel(data.unlabeled.x)
    assert pl.vocab == list(data.vocab)
    student = Learner(dls, nn.Identity(), cbs=NoisyStudent(pl.select(0).dl()))
    student.noisy_student.show_batch(max_n=4)
    titles = [o.get_title() for o in plt.gcf().axes]
    assert any('labeled' in o for o in titles), titles
    with learn.no_bar():
        assert learn.predict(data.test.x[0])[0] in data.vocab
        learn.show_results(max_n=4)
    assert all(set(o.get_title().split('\n')) <= {*data.vocab} for o in plt.gcf().axes)


@pytest.mark.parametrize('kind', ['single', 'hard', 'multi'])
def test_loader_of_a_selection_shows_its_labels(tmp_path, kind):
    "Pictures of files, each with what is said of it"
    rng = np.random.default_rng(0)
    fs = [tmp_path/f'{i:02}.png' for i in range(24)]
    for o in fs: Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(o)
    if kind == 'multi': blocks, label = MultiCategoryBlock(vocab=['a', 'b']), lambda o: ['a'] if int(o.stem) % 2 else []
    else: blocks, label = CategoryBlock(vocab=['a', 'b']), lambda o: 'ab'[int(o.stem) % 2]
    dls = DataBlock((ImageBlock, blocks), get_y=label, splitter=IndexSplitter(range(8, 12))).dataloaders(
        fs[:12], bs=4, num_workers=0)
    p = rng.dirichlet([1, 1], 12).astype(np.float32) if kind != 'multi' else rng.random((12, 2)).astype(np.float32)
    pl = PseudoLabels(p, fs[12:], vocab=['a', 'b'], kind='multi' if kind == 'multi' else 'single')
    pl.select(0).dl(dls, bs=12, soft=kind == 'single', shuffle=False).show_batch(max_n=12)
    said = dict(single=lambda o: f"{'ab'[o.argmax()]} p={o.max():.2f}", hard=lambda o: 'ab'[o.argmax()],
                multi=lambda o: '; '.join(k for k, v in zip('ab', o) if v >= .5))[kind]
    assert [a.get_title() for a in plt.gcf().axes] == [*map(said, p)]
    plt.close('all')
