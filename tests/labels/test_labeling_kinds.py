"Each kind of data from a Learner to a student: the labels are what `get_preds` says, and each row keeps its own"
from collections import Counter
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback import progress  # noqa: F401  (gives a Learner its `no_bar`)
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import Categorize, ColReader, IndexSplitter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.core import Categorify, FillMissing, TabularPandas
from fastai.tabular.core import Normalize as NormalizeTable
from fastai.tabular.learner import tabular_learner
from fastai.text.data import TextBlock
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop, Rotate
from fastai.vision.core import PILImage, imagenet_stats
from fastai.vision.data import ImageBlock, MaskBlock
from noisy_student_fastai.all import NoisyStudent, PseudoLabels
from PIL import Image
from sklearn.datasets import load_iris
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset
from toys import points

N, N2, BS = 36, 70, 16  # labeled (12 of them for validation), unlabeled
SPLIT = IndexSplitter(range(24, N))


# Each kind: a Learner, unlabeled rows, what `get_preds` says of them, and which row the inputs of a batch are

def save(path, i, labels):
    "A picture whose red says which row it is, however it is cropped"
    o = np.random.default_rng(i).integers(256, size=(20, 20, 3), dtype=np.uint8)
    o[..., 0] = i
    f = path/f'{i:03}_{labels}.png'
    Image.fromarray(o).save(f)
    return f


def by_red(x):
    red = x[:, 0].float().mean((1, 2))
    return (red*(255 if x.is_floating_point() else 1)).round().int()-N


def image_learner(path, target, label, c):
    names = [('p', 'q', 'r', 'pq', 'qr', '')[i % c] for i in range(N+N2)]
    fs = [save(path, i, o) for i, o in enumerate(names)]
    block = DataBlock((ImageBlock(PILImage), target), get_y=label, splitter=SPLIT,
                      item_tfms=RandomResizedCrop(12, min_scale=.3),
                      batch_tfms=[Rotate(30, p=1.), Normalize.from_stats(*imagenet_stats)])
    dls = block.dataloaders(fs[:N], bs=BS, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 3)))
    return dict(learn=learn, data=fs[N:], ids=[str(o) for o in fs[N:]], row_of=by_red)


def in_name(f): return f.stem.split('_')[1]
def files(path): return image_learner(path, CategoryBlock(), in_name, 3)
def files_of_several_labels(path): return image_learner(path, MultiCategoryBlock(), lambda f: list(in_name(f)), 6)


class Fill(FillMissing):
    "fastai's fills in nothing where pandas copies on writing"
    def encodes(self, to):
        for k, v in self.na_dict.items():
            to.items[f'{k}_na'], to.items[k] = to.items[k].isna(), to.items[k].fillna(v)
            if f'{k}_na' not in to.cat_names: to.cat_names.append(f'{k}_na')


def wine():
    rng, n = np.random.default_rng(0), N+N2
    df = pd.DataFrame(dict(a=rng.normal(size=n), b=rng.normal(size=n), side=rng.choice(list('xyz'), n),
                           soil=rng.choice(['sand', 'clay', None], n), kind=rng.choice(list('pqr'), n)))
    df.loc[rng.random(n) < .2, 'a'] = np.nan
    df.loc[N, 'side'] = 'unknown before'
    return df


def table(path):
    df = wine()
    to = TabularPandas(df[:N].copy(), [Categorify, Fill, NormalizeTable], ['side', 'soil'], ['a', 'b'], 'kind',
                      CategoryBlock(), splits=SPLIT(df[:N]))
    train = df.b[:24].astype(np.float32)
    known = torch.tensor(((df.b[N:]-train.mean())/train.std(ddof=0)).to_numpy())
    def row_of(cats, conts): return (conts[:, -1:]-known).abs().argmin(1)
    return dict(learn=tabular_learner(to.dataloaders(bs=BS), [8]), data=df[N:].drop(columns='kind'), row_of=row_of,
                ids=list(range(N, N+N2)))


def text_learner():
    words, rng = load_iris().DESCR.split(), np.random.default_rng(0)
    pieces = [' '.join(rng.choice(words, k)) for k in rng.integers(3, 30, N+N2)]
    df = pd.DataFrame(dict(text=pieces, label=rng.choice(list('pq'), N+N2)))
    block = DataBlock((TextBlock.from_df('text', min_freq=1, n_workers=0), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'), splitter=SPLIT)
    dls = block.dataloaders(df[:N].copy(), bs=BS, num_workers=0)
    config = {**awd_lstm_clas_config, 'emb_sz': 8, 'n_hid': 8, 'n_layers': 1}
    tokens = [tuple(o.tolist()) for o, in dls.test_dl(df[N:][['text']]).dataset]
    def row_of(x): return [tokens.index(tuple(t for t in o.tolist() if t != 1)) for o in x]  # 1 is padding
    def learner(cbs=None): return text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, cbs=cbs)
    return dict(learn=learner(), learner=learner, data=df[N:][['text']], row_of=row_of, vocab=list('pq'), atol=1e-5)


def texts(path): return text_learner() | dict(ids=list(range(N, N+N2)))


def list_of_texts(path):
    k = text_learner()
    return k | dict(data=k['data'].text.tolist(), test_data=k['data'])


class Points(Dataset):
    "With targets, too, which nobody should look at"
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], -1


def torch_loaders(path):
    x, y = torch.randn(N+N2, 5), torch.randint(3, (N,))
    dls = DataLoaders(*[TorchDataLoader(TensorDataset(x[:N][s], y[s]), BS) for s in (slice(24), slice(24, N))])
    dls._device = None  # tsai's Learner, which replaces fastai's once it is imported, asks for it
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learn = Learner(dls, net, loss_func=nn.CrossEntropyLoss())
    def row_of(o): return (o[:, None]-x[N:]).abs().sum(2).argmin(1)
    want = learn.get_preds(dl=TorchDataLoader(TensorDataset(x[N:]), 64), act=nn.Softmax(1))[0]
    return dict(learn=learn, data=Points(x[N:]), row_of=row_of, vocab=None, want=want)


KINDS = [files, files_of_several_labels, table, texts, list_of_texts, torch_loaders]


@pytest.fixture(scope='module', params=KINDS, ids=lambda f: f.__name__)
def k(request, tmp_path_factory):
    set_seed(0)
    made = request.param(tmp_path_factory.mktemp('kind'))
    k = SimpleNamespace(**{'ids': None, 'vocab': list('pqr'), 'atol': 1e-6, **made})
    k.kind = 'multi' if request.param is files_of_several_labels else 'single'
    k.learn.cbs.filter(lambda o: o.name == 'progress').map(k.learn.remove_cb)
    if not hasattr(k, 'want'): k.want = k.learn.get_preds(dl=k.learn.dls.test_dl(getattr(k, 'test_data', k.data)))[0]
    k.want = k.want.as_subclass(Tensor)
    assert torch.isfinite(k.want).all()
    if not hasattr(k, 'learner'):
        k.learner = lambda cb: Learner(k.learn.dls, deepcopy(k.learn.model), loss_func=k.learn.loss_func, cbs=cb)
    assert len(k.want) == N2 and len(k.want.unique(dim=0)) == N2  # no two alike, or a mix-up might not show
    return k


def raw(dl):
    dl.after_batch = lambda b: b
    return list(dl)


def check_batches(k, batches, want, atol=1e-3):
    "Has each row its own target? Which rows are there"
    seen = []
    for *xs, y in batches:
        i = torch.as_tensor(k.row_of(*[o.as_subclass(Tensor) for o in xs])).tolist()
        y = y.as_subclass(Tensor).reshape(want[i].shape)  # a table's labels are a column
        torch.testing.assert_close(y.float(), want[i].float(), rtol=0, atol=atol)
        seen += i
    return Counter(seen)


def test_labels_are_what_get_preds_says(k):
    pl, exact = k.learn.pseudolabel(k.data), k.learn.pseudolabel(k.data, dtype='float32', bs=9)
    assert (pl.kind, pl.n, pl.c, exact.probs.dtype) == (k.kind, N2, k.want.shape[1], np.float32)
    assert np.allclose(exact.probs, k.want, rtol=0, atol=1e-5)
    assert pl.probs.dtype == np.float16 and np.allclose(pl.probs, k.want, rtol=2**-11, atol=k.atol)
    if k.kind == 'single': assert pl.label.tolist() == k.want.argmax(1).tolist()
    conf = k.want.amax(1) if k.kind == 'single' else torch.maximum(k.want, 1-k.want).amin(1)
    assert np.allclose(pl.conf, conf, atol=1e-5)
    assert list(pl.ids) == (k.ids or list(range(N2)))
    assert pl.vocab == k.vocab


@pytest.mark.parametrize('seed', range(2))
def test_a_selection_keeps_rows_and_labels_together(k, seed):
    pl = k.learn.pseudolabel(k.data)
    sel = pl.select(0, 40, seed=seed) if k.kind == 'single' else pl.select(.501)
    assert sel.rows.max() < N2 and len(sel) >= 40
    got = raw(sel.dl(bs=9, drop_last=False))
    assert check_batches(k, got, k.want) == Counter(sel.rows.tolist())
    with pytest.raises(AssertionError, match='not close'): check_batches(k, got, k.want.roll(1, 0))
    hard = k.want.argmax(1) if k.kind == 'single' else (k.want >= .5).float()
    assert check_batches(k, raw(sel.dl(soft=False, drop_last=False)), hard) == Counter(sel.rows.tolist())


def test_noise_is_for_students_only(tmp_path):
    "A crop is drawn anew whenever a student gets a picture, and labels don't move"
    learn, data = (files(tmp_path)[o] for o in ('learn', 'data'))
    pl = learn.pseudolabel(data)
    a, b = (torch.cat([x.float() for x, _ in raw(pl.dl(bs=N2, shuffle=False))]) for _ in range(2))
    assert (a-b).abs().mean() > 1
    assert np.array_equal(pl.probs, learn.pseudolabel(data).probs)


@pytest.mark.parametrize('soft', [True, False])
def test_a_student_trains(k, soft):
    pl = k.learn.pseudolabel(k.data)
    dl2 = (pl.select(0, 40) if k.kind == 'single' else pl.select(0)).dl(soft=soft)
    cb = NoisyStudent(dl2)
    student = k.learner(cb)
    with student.no_bar(), student.no_logging(): student.fit(1, 1e-3)
    losses = student.recorder.losses
    assert len(losses) > 1 and np.isfinite(losses).all()
    cb.batch_tfms = []
    *xs, y = cb.one_batch()
    assert 0 < y.is_pl.sum() < len(y)
    hard = k.want.argmax(1) if k.kind == 'single' else (k.want >= .5).float()
    check_batches(k, [(*[x[y.is_pl] for x in xs], y.plain()[y.is_pl])], k.want if soft else hard)


def test_opened_again(k, tmp_path):
    "Files by the folder alone, other data beside it"
    pl = k.learn.pseudolabel(k.data, tmp_path/'labels')
    for o in (None, k.data):
        again = PseudoLabels.open(tmp_path/'labels', o)
        assert np.array_equal(again.probs, pl.probs) and again.about == pl.about
        sel = again.select(0)
        if o is None and pl.about['data']['form'] != 'files':
            with pytest.raises(ValueError, match='without their rows'): sel.dl(k.learn.dls)
        else: assert check_batches(k, raw(sel.dl(k.learn.dls, drop_last=False)), k.want) == Counter(range(N2))


def test_unknown_and_missing_values():
    "What a table's rows become that the labeled ones have nothing like"
    k = SimpleNamespace(**table(None))
    df = k.data.copy()
    df.loc[N+1, 'side'] = None
    want, _ = k.learn.get_preds(dl=k.learn.dls.test_dl(df))
    assert np.allclose(k.learn.pseudolabel(df, dtype='float32').probs, want, atol=1e-5)
    assert df.a.isna().sum() > 5


def test_masks_are_refused(tmp_path):
    fs = [save(tmp_path, i, 'p') for i in range(40)]
    block = DataBlock((ImageBlock(PILImage), MaskBlock(['paper', 'ink'])), splitter=IndexSplitter(range(5)),
                      get_y=lambda f: (np.array(PILImage.create(f))[..., 1] > 99).astype(np.uint8))
    dls = block.dataloaders(fs[:20], bs=4, num_workers=0)
    learn = Learner(dls, nn.Conv2d(3, 2, 1), loss_func=CrossEntropyLossFlat(axis=1))
    with pytest.raises(ValueError, match=r'predictions of shape \(4, 2, 20, 20\): expected n rows x c classes'):
        learn.pseudolabel(fs[20:], tmp_path/'labels')
    assert not list(tmp_path.rglob('probs.npy'))


def heads(n, seed):
    "Points with two classifications, of two classes and of three"
    x, y = points(n, seed)
    tfms = [[lambda i: x[i]], [lambda i: ('no', 'yes')[int(x[i, 0] > 1)], Categorize(['no', 'yes'])],
            [lambda i: 'pqr'[y[i]], Categorize(list('pqr'))]]
    return TfmdDL(Datasets(range(n), tfms, n_inp=1), bs=16, num_workers=0)


@pytest.mark.parametrize('head,names', [(0, ['no', 'yes']), (1, list('pqr'))])
def test_labels_of_one_head(head, names):
    "`act` picks it and `vocab` says what its columns are; the Learner's own vocabulary may be that of another head"
    dls = DataLoaders(heads(32, 1), heads(16, 2))
    net = nn.Sequential(nn.Linear(2, 5), Parallel())
    def both(p, a, b): return nn.functional.cross_entropy(p[0], a)+nn.functional.cross_entropy(p[1], b)
    learn = Learner(dls, net, loss_func=both)
    x = points(20, 3)[0]
    act = lambda p: p[head].softmax(1)
    with pytest.raises(ValueError, match='have 2 targets.*vocab') as e:
        learn.pseudolabel(TensorDataset(x), kind='single', act=act)
    assert e.value.argument == 'vocab'
    pl = learn.pseudolabel(TensorDataset(x), kind='single', act=act, vocab=names)
    want = net(x)[head].softmax(1).detach()
    assert pl.vocab == names
    np.testing.assert_allclose(np.asarray(pl.probs), want.numpy(), atol=1e-3)
    with pytest.raises(ValueError, match='vocabulary has 4'):
        learn.pseudolabel(TensorDataset(x), kind='single', act=act, vocab=list('abcd'))


class Parallel(nn.Module):
    def forward(self, x): return x[:, :2], x[:, 2:]
