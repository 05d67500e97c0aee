"Digits as files: loaders of images with classes, several classes or numbers"
import numpy as np
import torch
from data_helpers import Record
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter
from fastai.vision.data import ImageBlock
from PIL import Image
from sklearn.datasets import load_digits

N, N2, BS = 40, 70, 16


def digit_files(path):
    "The files of 110 digits, the same digits as tensors, and their labels"
    x, y = load_digits(return_X_y=True)
    x = (x[:N+N2].reshape(-1, 8, 8)*15).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    fs = [path/f'{i:03}_{c}.png' for i, c in enumerate(y[:N+N2])]
    for f, o in zip(fs, x): Image.fromarray(o).save(f)
    return fs, torch.tensor(x)[:, None].expand(-1, 3, -1, -1).contiguous(), torch.tensor(y[:N+N2])


def label(f): return f.stem.split('_')[1]
def number(f): return int(f.stem.split('_')[0])


def image_dls(fs, batch_tfms, y_block=CategoryBlock, get_y=label, **kwargs):
    "Half as many rows for validation as for training; the first N files train"
    block = DataBlock((ImageBlock, y_block), get_y=get_y, splitter=IndexSplitter(range(N, N+N//2)),
                      batch_tfms=batch_tfms)
    dls = block.dataloaders(fs[:N+N//2], **{**dict(bs=BS, num_workers=0), **kwargs})
    for o in dls.train.after_batch.fs:
        if isinstance(o, Record): o.raw.clear()  # fastai reads a batch where it makes the loaders
    return dls


class CategoryMany:
    "Names that are true of a digit"
    names = dict(even=lambda c: c%2 == 0, small=lambda c: c<5, round=lambda c: c in (0, 6, 8, 9))
    def __call__(self, f): return [k for k, v in self.names.items() if v(int(label(f)))]
    def encode(self, y, vocab): return torch.tensor([[float(self.names[k](int(c))) for k in vocab] for c in y])
