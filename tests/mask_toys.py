"Discs as files, each with a file of its mask, which can be computed from the image"
import numpy as np
import torch
from data_helpers import Record, tensors_dl
from fastai.data.block import DataBlock
from fastai.data.transforms import IndexSplitter
from fastai.vision.data import ImageBlock, MaskBlock
from PIL import Image

N, N2, BS, SZ = 16, 24, 8, 24


def blobs(n, seed):
    "`n` gray discs on black"
    g = np.random.default_rng(seed)
    r, c = np.mgrid[:SZ, :SZ]
    def blob():
        cr, cc, rad = *g.uniform(5, SZ-5, 2), g.uniform(3, 6)
        return (255/(1+np.exp(np.hypot(r-cr, c-cc)-rad))).astype(np.uint8)
    return np.stack([blob() for _ in range(n)])


def hard(x): return (x > 127).long()


def soft(x):
    "Two probabilities for each pixel, n x 2 x rows x columns"
    p = x.float()/255
    return torch.stack([1-p, p], 1)


def disc_files(path):
    "Files of images, each with a file of its mask, and both as tensors"
    x = blobs(N+N2, 1)
    fs = [path/f'{i:02}.png' for i in range(len(x))]
    for f, o in zip(fs, x):
        Image.fromarray(o).save(f)
        Image.fromarray((o > 127).astype(np.uint8)).save(f.with_suffix('.mask.png'))
    return fs, torch.tensor(x)[:, None].expand(-1, 3, -1, -1).contiguous()


def mask_dls(fs, batch_tfms):
    block = DataBlock((ImageBlock, MaskBlock(['nothing', 'disc'])), get_y=lambda f: f.with_suffix('.mask.png'),
                      splitter=IndexSplitter(range(N, N+4)), batch_tfms=batch_tfms)
    dls = block.dataloaders(fs[:N+4], bs=BS, num_workers=0)
    for o in dls.train.after_batch.fs:
        if isinstance(o, Record): o.raw.clear()
    return dls


def by_files(dls, fs, x): return dls.test_dl(fs[N:], with_labels=True)
def by_soft(dls, fs, x): return tensors_dl(x[N:], soft(x[N:, 0]), bs=4)
