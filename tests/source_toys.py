"Unlabeled data of every kind, each beside labeled data of its own"
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback import progress  # noqa: F401  (gives a Learner its `no_bar`)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import ColReader, IndexSplitter
from fastai.tabular.core import Categorify, Normalize, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.text.data import TextBlock
from fastai.vision.augment import RandomResizedCrop, Rotate
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from fasttransform import Transform
from noisy_student_fastai.labels.sources import as_source
from PIL import Image
from sklearn.datasets import load_digits, load_iris
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset

N, N2, BS = 36, 70, 16  # labeled (12 of them for validation), unlabeled
SPLIT = IndexSplitter(range(24, N))
DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS = DIGITS.astype(np.float32)


def picture(i): return (DIGITS[i].reshape(8, 8)*15).astype(np.uint8)


def save(path, i, label=False):
    f = path/(f'{i:04}_{CLASSES[i]}.png' if label else f'{i:04}.png')
    Image.fromarray(picture(i)).save(f)
    return f


def label(f): return f.stem.split('_')[1]


def of_bytes(*xs): return b'|'.join(np.ascontiguousarray(o).tobytes() for o in xs)


def of_tokens(x): return x[x != 1].tolist().__repr__().encode()  # without padding


def flat_net(n): return nn.Sequential(nn.Flatten(), nn.Linear(n, 10))


def image_dls(path, item_tfms=None, batch_tfms=None, **kwargs):
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=label, splitter=SPLIT, item_tfms=item_tfms,
                      batch_tfms=batch_tfms)
    return block.dataloaders([save(path, i, True) for i in range(N)], bs=BS, num_workers=0, **kwargs)


def files(path):
    fs = [save(path, i) for i in range(N, N+N2)]
    dls, known = image_dls(path, batch_tfms=Rotate(15, p=1.)), [of_bytes(picture(i)) for i in range(N, N+N2)]
    return dict(dls=dls, data=fs, known=known, form='files', ids=[str(o) for o in fs], net=flat_net(64))


def files_as_strings(path):
    k = files(path)
    return k | dict(data=[str(o) for o in k['data']])


def files_with_workers(path): return files(path) | dict(kwargs=dict(num_workers=2))


def pictures(path):
    "Arrays that a DataBlock makes pictures of"
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock(vocab=list(range(10)))), get_y=lambda o: int(o.sum()) % 10,
                      splitter=SPLIT)
    x = np.stack([picture(i) for i in range(N+N2)])
    dls = block.dataloaders(x[:N], bs=BS, num_workers=0)
    return dict(dls=dls, data=x[N:], known=[of_bytes(o) for o in x[N:]], form='array', net=flat_net(64))


def tensor_dls(make=lambda x, y: list(zip(x, y)), cls=TfmdDL, **kwargs):
    x, y = torch.tensor(DIGITS[:N]), torch.tensor(CLASSES[:N])
    dls = DataLoaders(*[cls(make(x[s], y[s]), BS, **kwargs) for s in (slice(24), slice(24, N))])
    dls._device = None  # tsai's Learner, which replaces fastai's once it is imported, asks for it
    return dls


def array(path, data=DIGITS[N:N+N2], **kwargs):
    known = [of_bytes(o) for o in DIGITS[N:N+N2]]
    return dict(dls=tensor_dls(num_workers=0), data=data, known=known, form='array', net=flat_net(64)) | kwargs


def memory_map(path):
    np.save(path/'x.npy', DIGITS[N:N+N2])
    return array(path, np.load(path/'x.npy', mmap_mode='r'))


def tensor(path): return array(path, torch.tensor(DIGITS[N:N+N2]))


def doubles(path): return array(path, DIGITS[N:N+N2].astype(np.float64))


def items(path): return array(path, list(DIGITS[N:N+N2]), form='items')


def of_torch(path): return array(path, dls=tensor_dls(TensorDataset, TorchDataLoader))


def of_torch_shuffled(path):
    return array(path, dls=tensor_dls(TensorDataset, TorchDataLoader, shuffle=True, drop_last=True))


def plain_loaders(path): return array(path, dls=tensor_dls(cls=DataLoader))


def collated(path):
    "Labeled loaders whose function makes batches of inputs and targets"
    def collate(b):
        x, y = zip(*b)
        return torch.stack(x)*2, torch.stack(y)
    dls = tensor_dls(TensorDataset, TorchDataLoader, collate_fn=collate)
    return array(path, dls=dls, known=[of_bytes(o*2) for o in DIGITS[N:N+N2]])


def with_item_tfms(path):
    known = [of_bytes(o*2) for o in DIGITS[N:N+N2]]
    return array(path, dls=tensor_dls(after_item=double_input, num_workers=0), known=known)


class DoubleInput(Transform):
    "Would double soft labels, too"
    def encodes(self, o: Tensor): return o*2 if o.ndim else o
double_input = DoubleInput()


class Pairs(Dataset):
    "A data set of torch that has targets, too, which nobody should look at"
    def __len__(self): return N2
    def __getitem__(self, i): return DIGITS[N+i], -1


def torch_data_set(path): return array(path, Pairs(), form='dataset')


def torch_loader(path):
    return array(path, TorchDataLoader(Pairs(), batch_size=13, shuffle=True, drop_last=True), form='dataset')


def fastai_data_set(path):
    k = files(path)
    return k | dict(data=k['dls'].test_dl(k['data']).dataset, form='dataset')


def fastai_loader(path):
    "With a random crop of its own, which a teacher should not see"
    k = files(path)
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=lambda f: 'a', splitter=IndexSplitter([]),
                      item_tfms=RandomResizedCrop(8, min_scale=.2))
    return k | dict(data=block.dataloaders(k['data'], bs=9, num_workers=0).train, form='dataset')


def wine(n, seed=0):
    rng = np.random.default_rng(seed)
    numbers = dict(a=rng.normal(size=n), b=rng.normal(size=n), k=rng.integers(300, size=n))
    names = dict(side=list('xyz'), soil=['sand', 'clay', None], kind=list('pqr'))
    return pd.DataFrame(numbers | {k: rng.choice(v, n) for k, v in names.items()})


def table_dls(df, conts=('a', 'b', 'k'), **kwargs):
    to = TabularPandas(df, [Categorify, Normalize], ['side', 'soil'], list(conts), 'kind', CategoryBlock(),
                       splits=SPLIT(df), **kwargs)
    return to.dataloaders(bs=BS)


def table(path):
    df = wine(N+N2)
    df.loc[N, 'side'] = 'unknown before'
    dls, df2 = table_dls(df[:N]), df[N:].drop(columns='kind')
    names = {c: sorted(df[c][:24].dropna().unique()) for c in ('side', 'soil')}
    cats = np.array([[names[c].index(v)+1 if v in names[c] else 0 for v in df2[c]] for c in names]).T
    stat = df[:24][['a', 'b', 'k']].astype(np.float32).astype(float)
    conts = ((df2[list(stat)]-stat.mean())/stat.std(ddof=0)).to_numpy().round(4).astype(np.float32)
    known = [of_bytes(a, b+0) for a, b in zip(cats, conts)]
    def key(a, b): return of_bytes(a, b.numpy().astype(float).round(4).astype(np.float32)+0)
    ids, net = list(range(N, N+N2)), tabular_learner(dls, [8]).model
    return dict(dls=dls, data=df2, known=known, form='table', ids=ids, key=key, net=net)


def texts(n=N+N2):
    words = load_iris().DESCR.split()
    rng = np.random.default_rng(0)
    pieces = [' '.join(rng.choice(words, k)) for k in rng.integers(3, 30, n)]
    return pd.DataFrame(dict(text=pieces, label=rng.choice(list('pq'), n)))


def text_dls(df):
    block = DataBlock((TextBlock.from_df('text', min_freq=1, n_workers=0), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'), splitter=SPLIT)
    return block.dataloaders(df, bs=BS, num_workers=0)


class Mean(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.emb, self.lin = nn.Embedding(n, 4), nn.Linear(4, 2)

    def forward(self, x): return self.lin(self.emb(x).mean(1))


def text_table(path):
    df = texts()
    dls = text_dls(df[:N].copy())
    known = [of_tokens(dls.test_dl(df[i:i+1][['text']]).dataset[0][0]) for i in range(N, N+N2)]
    return dict(dls=dls, data=df[N:][['text']], known=known, form='table', ids=list(range(N, N+N2)), key=of_tokens,
                net=Mean(len(dls.vocab[0])))


def text_list(path):
    k = text_table(path)
    return k | dict(data=k['data'].text.tolist(), form='items', ids=None)


KINDS = [files, files_as_strings, files_with_workers, pictures, array, memory_map, tensor, doubles, items, of_torch,
         of_torch_shuffled, plain_loaders, collated, with_item_tfms, torch_data_set, torch_loader, fastai_data_set,
         fastai_loader, table, text_table, text_list]


@pytest.fixture(scope='module', params=KINDS, ids=lambda f: f.__name__)
def kind(request, tmp_path_factory):
    made = request.param(tmp_path_factory.mktemp('kind'))
    res = SimpleNamespace(**{'ids': None, 'key': of_bytes, 'kwargs': {}, **made})
    assert len(set(res.known)) == len(res.known) == N2
    res.src = as_source(res.data, res.dls)
    return res
