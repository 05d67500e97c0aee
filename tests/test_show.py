"`show_noted`: each note beside its own row, for data that lay themselves out and data that don't"
import re

import fastai.vision.data  # noqa: F401  (how images are shown)
import pandas as pd
import pytest
import torch
from fastai.data.core import TfmdDL
from fastai.tabular.core import Categorify, TabularPandas
from fastai.torch_core import TensorBase, TensorImageBW, TensorMask
from matplotlib import pyplot as plt
from noisy_student_fastai.show import show_noted

pytestmark = pytest.mark.usefixtures('no_windows')


def gray_dl(typ=TensorImageBW, y=lambda i: i, n=6):
    return TfmdDL([(typ(torch.full((1, 4, 4), i/8)), y(i)) for i in range(n)], bs=n, num_workers=0)


def shown(): return [o for o in plt.gcf().axes if o.images]


@pytest.mark.parametrize('max_n', [6, 4])
def test_images(max_n):
    dl = gray_dl()
    show_noted(dl, dl.one_batch(), [f'note {i}' for i in range(6)], 1, max_n=max_n, ncols=2)
    axs = shown()
    assert len(axs) == max_n
    for i, ax in enumerate(axs):
        assert float(ax.images[0].get_array()[0][0]) == pytest.approx(i/8) and ax.get_title() == f'{i}\n(note {i})'


def test_without_a_target():
    dl = TfmdDL([(x,) for x, _ in gray_dl().dataset], bs=6, num_workers=0)
    show_noted(dl, dl.one_batch(), list('abcdef'))
    assert [o.get_title() for o in shown()] == list('abcdef')


def test_masks_have_a_note_of_their_own():
    dl = gray_dl(y=lambda i: TensorMask(torch.zeros(1, 4, 4).long()))
    show_noted(dl, dl.one_batch(), list('abcdef'), 1)
    assert [o.get_title() for o in shown()] == list('abcdef')


class Curve(TensorBase):
    "Draws itself, and knows no grid"
    def show(self, ctx=None, title=None, **kwargs):
        ctx.imshow(self[0].numpy())
        ctx.set_title(title)
        return ctx


def test_a_grid_for_what_has_none():
    dl = gray_dl(Curve)
    show_noted(dl, dl.one_batch(), list('abcdef'), 1, nrows=1, ncols=6, figsize=(9, 2))
    assert [o.get_title() for o in shown()] == [f'{i}\n({c})' for i, c in enumerate('abcdef')]
    assert tuple(plt.gcf().get_size_inches()) == (9, 2)


def test_axes_that_are_given():
    dl = gray_dl(n=2)
    _, axs = plt.subplots(1, 2)
    show_noted(dl, dl.one_batch(), ['a', 'b'], 1, ctxs=axs)
    assert [o.get_title() for o in axs] == ['0\n(a)', '1\n(b)']


def test_tables(monkeypatch):
    seen = []
    monkeypatch.setattr('noisy_student_fastai.show.display_df', seen.append)
    df = pd.DataFrame(dict(a=list('uvuvw'), b=[1., 2, 3, 4, 5], y=list('nynyn')))
    dl = TabularPandas(df, [Categorify], ['a'], ['b'], 'y',
                       splits=([0, 1, 2, 3, 4], [0])).dataloaders(bs=5, shuffle=False).valid
    dl = dl.new(TabularPandas(df, [Categorify], ['a'], ['b'], 'y'), shuffle=False, bs=5)
    show_noted(dl, dl.one_batch(), [f'note {i}' for i in range(5)], 2)
    out, = seen
    assert list(out.row) == [f'note {i}' for i in range(5)] and list(out.b) == [1, 2, 3, 4, 5]
    assert re.match('[uvw]', out.a[0])
