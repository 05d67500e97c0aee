"What enters the last layer, against a hook by hand, one row at a time; which layer that is, in models of all kinds"

import noisy_student_fastai.labels.labeling  # noqa: F401  (gives a Learner `pseudolabel`)
import numpy as np
import pytest
import torch
from fastai.callback import progress  # noqa: F401  (gives a Learner its `no_bar`)
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.learner import tabular_learner
from fastai.text.core import WordTokenizer
from fastai.text.data import TextBlock
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.torch_core import set_seed
from fastai.vision.augment import Rotate
from fastai.vision.learner import create_body, create_head
from fasttransform import Transform
from image_toys import digit_files, image_dls
from noisy_student_fastai.data.arrays import array_dl
from noisy_student_fastai.labels.embedding import embed_names
from table_toys import wine_dls, wine_table
from text_toys import N as N_TEXTS
from text_toys import text_dls, text_table
from torch import nn
from toys import net, points, pts_dls, pts_learner, rows, torch_dls

X = points(70, 5)[0]


def by_hand(model, layer, xs, pool=False):
    "What enters `layer` for each row, alone"
    modes, res = [(m, m.training) for m in model.modules()], []
    model.eval()
    h = model.get_submodule(layer).register_forward_pre_hook(lambda m, a: res.append(torch.cat(
        [o.flatten(2).mean(2) if pool else o.flatten(1) for o in a], 1)))
    with torch.no_grad():
        for row in xs:
            getattr(model, 'reset', lambda: None)()
            model(*[o[None] for o in row])
    h.remove()
    for m, o in modes: m.training = o
    return torch.cat(res).numpy()


@pytest.fixture(scope='module')
def digits(tmp_path_factory): return digit_files(tmp_path_factory.mktemp('digits'))


def vision(): return nn.Sequential(create_body(resnet(), pretrained=False, cut=-2), create_head(512, 10))


def resnet():
    from torchvision.models import resnet18
    return resnet18(num_classes=10)


def timm_model(name, **kwargs):
    from timm import create_model
    return create_model(name, num_classes=10, **kwargs)


def squeezed():
    "A convolution is the last layer, averaged after it"
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Backwards(nn.Module):
    "The last layer is defined first, and another one is never called"
    def __init__(self):
        super().__init__()
        self.out, self.body, self.unused = nn.Linear(5, 10), nn.Linear(768, 5), nn.Linear(5, 10)
    def forward(self, x): return self.out(self.body(x.flatten(1)).relu()).log_softmax(1)


def effnet(): return timm_model('test_efficientnet')
def vit(): return timm_model('test_vit', img_size=16)


MODELS = dict(vision=(vision, '1.8'), resnet18=(resnet, 'fc'), effnet=(effnet, 'classifier'), vit=(vit, 'head'),
              squeezed=(squeezed, '2'), backwards=(Backwards, 'out'))


@pytest.mark.parametrize('name', MODELS)
def test_pictures(digits, name):
    "The transforms of validation, and none of training; labeled rows, too"
    set_seed(0)
    make, layer = MODELS[name]
    if name in ('effnet', 'vit'): pytest.importorskip('timm')
    fs, x, y = digits
    model = make()
    dls = image_dls(fs, [Rotate(p=1., draw=40), Normalize.from_stats([.5]*3, [.3]*3)])
    learn = Learner(dls, model, CrossEntropyLossFlat())
    def inputs(o): return [((v.float()/255-.5)/.3,) for v in o]
    pl = learn.pseudolabel(fs[60:], embed=True, bs=9)
    want = [by_hand(model, layer, inputs(o), name == 'squeezed') for o in (x[60:], x[:40])]
    for k, o in zip(('embed', 'labeled'), want):
        got = pl.arrays[f'{k}_teacher']
        assert got.shape == o.shape and np.allclose(got, o, rtol=2e-3, atol=2e-3*np.abs(o).max())
    assert np.array_equal(pl.arrays['labeled_y'], [dls.vocab.o2i[f.stem.split('_')[1]] for f in fs[:40]])



def test_a_table():
    df = wine_table()
    dls = wine_dls(df)
    learn = tabular_learner(dls, [9, 7])
    set_seed(0)
    pl = learn.pseudolabel(df[60:].drop(columns='kind'), embed=True)
    for o, k in ((df[60:], 'embed'), (df[:40], 'labeled')):
        to = dls.test_dl(o).dataset
        xs = list(zip(torch.tensor(to.cats.to_numpy().astype(np.int64)), torch.tensor(to.conts.to_numpy(np.float32))))
        got = pl.arrays[f'{k}_teacher']
        assert np.allclose(got, by_hand(learn.model, 'layers.2.0', xs), rtol=2e-3, atol=2e-3) and got.shape[1] == 7
    assert np.array_equal(pl.arrays['labeled_y'], [dls.vocab.o2i[o] for o in df.kind[:40]])
    with pytest.raises(ValueError, match="embed='inputs': whole numbers.*embed='teacher'"):
        learn.pseudolabel(df[60:], embed='inputs')


def test_the_inputs_of_a_table_without_categories():
    "Its numbers, as the model takes them: an empty tensor of categories enters, too"
    df = wine_table()
    dls = wine_dls(df, cats=[])
    pl = tabular_learner(dls, [9]).pseudolabel(df[60:].drop(columns='kind'), embed='inputs')
    assert np.allclose(pl.arrays['embed_inputs'], dls.test_dl(df[60:]).dataset.conts, rtol=2e-3, atol=2e-3)


def test_texts():
    "Sorted by length in a batch, and padded: each embedding goes back to its row"
    df = text_table()
    dls = text_dls(df, TextBlock.from_df('text', min_freq=1, n_workers=0, tok=WordTokenizer()))
    config = {**awd_lstm_clas_config, 'emb_sz': 6, 'n_hid': 8, 'n_layers': 1}
    set_seed(0)
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False)
    pl = learn.pseudolabel(df[N_TEXTS+8:], embed=True, bs=7)
    tfms = dls.train_ds.tls[0].tfms
    for o, k in ((df[N_TEXTS+8:], 'embed'), (df[:N_TEXTS], 'labeled')):
        xs = [(tfms(row).as_subclass(torch.Tensor),) for _, row in o.iterrows()]
        want = by_hand(learn.model, '1.layers.1.2', xs)
        assert np.allclose(pl.arrays[f'{k}_teacher'], want, rtol=2e-3, atol=2e-3) and len(want) == len(o)
    assert np.array_equal(pl.arrays['labeled_y'], [dls.vocab[1].o2i[o] for o in df.label[:N_TEXTS]])
    assert len(pl.propagate(3)) == len(pl)


@pytest.mark.tsai
@pytest.mark.parametrize('name', ['InceptionTime', 'TST', 'FCNPlus', 'XceptionTime'])
def test_series(name):
    from importlib import import_module
    t, arch = import_module('tsai_toys'), getattr(import_module(f'tsai.models.{name}'), name)
    config = dict(InceptionTime=dict(nf=4), XceptionTime=dict(nf=4), TST=dict(d_model=8, n_heads=2, d_ff=8, n_layers=1))
    learn = t.classifier(arch=arch, arch_config=config.get(name, t.SMALL['arch_config']))
    layers = dict(InceptionTime='fc', TST='head.2', FCNPlus='head.2', XceptionTime='head.3.0')
    pl = learn.pseudolabel(t.X2, embed=('teacher', 'inputs'), bs=9)
    for x, k in ((t.X2, 'embed'), (t.X[:t.N], 'labeled')):
        x = torch.tensor(x)
        want = by_hand(learn.model, layers[name], [(o,) for o in x], name == 'XceptionTime')
        assert np.allclose(pl.arrays[f'{k}_teacher'], want, rtol=2e-3, atol=2e-3)
        assert np.allclose(pl.arrays[f'{k}_inputs'], x.flatten(1), rtol=1e-3, atol=1e-3)
    assert np.array_equal(pl.arrays['labeled_y'], t.index(t.Y[:t.N]))


# Points: what else there may be

def entered(m, x=X):
    with torch.no_grad(): return m[:-1](x).numpy()


def near(a, b, tol=2e-3): return a.shape == b.shape and np.allclose(a, b, rtol=tol, atol=tol)


def test_kinds_of_targets():
    x, y = points(40, 1)
    for lf, ys, want in ((MSELossFlat(), y[:, None].float(), y.numpy().astype(np.float32)),
                         (BCEWithLogitsLossFlat(), torch.eye(3)[y], np.eye(3)[y]),
                         (CrossEntropyLossFlat(), torch.eye(3)[y]*.8+.2/3, np.eye(3)[y]*.8+.2/3)):
        learn = pts_learner(dls=pts_dls(rows(x, ys)), lf=lf, model=net(ys.shape[1]))
        pl = learn.pseudolabel(X.numpy(), embed=True)
        assert np.allclose(pl.arrays['labeled_y'], want) and near(pl.arrays['embed_teacher'], entered(learn.model))
        assert len(pl.propagate()) == 70


def test_loaders_of_other_kinds():
    "torch's, and one that repeats a few rows: each is embedded once"
    x, y = points(12, 1)
    data = torch.utils.data.TensorDataset(x, y)
    learn = pts_learner(dls=torch_dls(data, data, batch_size=5))
    pl = learn.pseudolabel(X.numpy(), embed=True)
    assert near(pl.arrays['labeled_teacher'], entered(learn.model, x)) and pl.arrays['labeled_y'].tolist() == y.tolist()
    few = [x[:3].numpy(), y[:3].numpy()]
    learn = pts_learner(dls=DataLoaders(array_dl(*few, n_batches=9, bs=8), array_dl(*few, bs=8)))
    pl = learn.pseudolabel(X.numpy(), embed=True, leaks='keep')
    assert near(pl.arrays['labeled_teacher'], entered(learn.model, x[:3])) and pl.arrays['labeled_y'].tolist() == [
        *y[:3].tolist()]


def test_views_and_several_teachers():
    "Of the plain view; side by side, as long on average"
    noise = TfmdDL(rows(*points(64, 1)), bs=16, num_workers=0, after_batch=[Jitter()])
    learn = pts_learner(dls=DataLoaders(noise, TfmdDL(rows(*points(9, 2)), bs=9, num_workers=0)))
    pl = learn.pseudolabel(X.numpy(), embed=True, n_views=2, leaks='keep')
    assert near(pl.arrays['embed_teacher'], entered(learn.model))
    other = pts_learner(seed=1, dls=learn.dls)
    both = learn.pseudolabel(X.numpy(), embed=True, teachers=[other], leaks='keep')
    known = torch.stack([o for o, _ in learn.dls.train.dataset])
    want = [entered(o.model)/np.linalg.norm(entered(o.model, known), axis=1).mean() for o in (learn, other)]
    assert near(both.arrays['embed_teacher'], np.concatenate(want, 1))
    assert abs(np.linalg.norm(both.arrays['labeled_teacher'][:, :8], axis=1).mean()-1) < 1e-3


class Jitter(Transform):
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x+torch.randn_like(x) if x.is_floating_point() else x


def test_numbers_far_from_one_are_kept_in_single_precision():
    for scale, typ in ((1, np.float16), (1e5, np.float32), (1e-6, np.float32)):
        learn = pts_learner()
        with torch.no_grad():
            learn.model[0].weight *= scale
            learn.model[0].bias *= scale
        x = X.numpy().copy()
        x[3] *= 1e5
        pl = learn.pseudolabel(x, embed=True)
        got, want = pl.arrays['embed_teacher'], entered(learn.model, torch.tensor(x))
        assert got.dtype == pl.arrays['labeled_teacher'].dtype == typ and np.isfinite(got).all()
        ok = np.arange(70) != 3
        assert np.allclose(got[ok], want[ok], rtol=1e-3, atol=1e-3*np.abs(want[ok]).max())


class Twice(nn.Module):
    "A layer that is called twice, and its weights are no layer's"
    def __init__(self):
        super().__init__()
        self.body, self.w = nn.Linear(2, 8), nn.Parameter(torch.randn(8, 3))
    def forward(self, x): return (self.body(x)+self.body(-x).relu())@self.w


def test_what_is_not_known_is_said():
    learn = pts_learner(model=Twice())
    with pytest.raises(ValueError, match=r"embed: no layer gives.*'body \(8\)'.*embed='layer:NAME'") as e:
        learn.pseudolabel(X.numpy(), embed=True)
    assert e.value.argument == 'embed'
    for name, match in (('layer:body', 'called 2 times'), ('layer:head', "name of a module.*'body'")):
        with pytest.raises(ValueError, match=match): learn.pseudolabel(X.numpy(), embed=name)
    learn = pts_learner()
    pl = learn.pseudolabel(X.numpy(), embed='layer:1')
    with torch.no_grad(): assert near(pl.arrays['embed_teacher'], learn.model[0](X).numpy())
    assert pl.about['settings']['embed'] == 'teacher (1)'
    for o in ('head', 3, (), ('teacher', 'layer:1'), ('teacher', 'teacher')):
        with pytest.raises((ValueError, TypeError), match='embed='): learn.pseudolabel(X.numpy(), embed=o)
    assert not embed_names(None) and not embed_names(False)


def test_of_two_heads_the_one_that_counts():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a = nn.Linear(2, 5), nn.Linear(5, 3)
            self.b = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        def forward(self, x):
            z = self.body(x)
            return self.a(z), self.b(z)
    learn = pts_learner(model=Heads(), lf=lambda p, y: nn.functional.cross_entropy(p[0], y))
    pl = learn.pseudolabel(X.numpy(), embed=True, kind='single', act=lambda p: (p[0] if isinstance(p, tuple) else p)
                           .softmax(1))
    assert pl.arrays['embed_teacher'].shape[1] == 5


def test_the_learner_is_as_it_was():
    learn = pts_learner()
    learn.pseudolabel(X.numpy(), embed=('teacher', 'inputs'))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in learn.model.modules()) and learn.model.training
    assert torch.equal(learn.model(X), learn.model(X))
