"""What pseudolabels cost: to predict, in memory, to select, to hand out

    python benchmarks/pseudolabel.py                              # all parts
    python benchmarks/pseudolabel.py --part predict --device cuda
    python benchmarks/pseudolabel.py --part select --n 10_000_000    # a tenth of its rows

`predict`  rows per second of `Learner.pseudolabel`, in memory, to a folder and with leaks looked for, against a bare
           torch loop over the same model and loader, and against fastai's `get_preds`; the small model takes about 1 ms
           a batch. Then the same call on the folder that is complete, which reads 64 rows
`memory`   peak memory of a process that labels 10 thousand and 1 million rows of 100 classes into a folder
`select`   100 million confidences and labels of 1,000 classes, against one sequential read of them and against pandas,
           by benchmarks/selection.py, which takes more options
`dl`       an epoch of `Selection.dl` over a memory map against fastai's own loader of the same rows

Where sides are compared they take turns in one run, in a new order in each round. A ratio compares sides of one round;
what is printed is the median over the rounds with, in brackets, the middle half.
"""
import argparse
import contextlib
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from fastai.callback.progress import no_bar  # noqa: F401  (patches Learner)
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.layers import ConvLayer
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.labels.sources import as_source
from torch import nn
from torchvision.models import resnet18


def middle(xs):
    "Median and middle half"
    lo, _, hi = statistics.quantiles(xs, n=4)
    return f'{statistics.median(xs):.3f} ({lo:.3f} to {hi:.3f})'


def take_turns(sides, rounds):
    "Seconds of each side in each round, after one round that does not count"
    secs = {k: [] for k in sides}
    for i in range(rounds+1):
        order = list(sides)
        random.Random(i).shuffle(order)
        for k in order:
            start = time.perf_counter()
            sides[k]()
            if i: secs[k].append(time.perf_counter()-start)
    return secs


# predict

def data(n, shape, path):
    "`n` random rows as a memory map"
    x = np.lib.format.open_memmap(path, 'w+', np.float32, (n, *shape))
    rng = np.random.default_rng(0)
    for i in range(0, n, 10_000): x[i:i+10_000] = rng.standard_normal((min(10_000, n-i), *shape), np.float32)
    x.flush()
    return np.load(path, mmap_mode='r')


def learner(x, model, device, c):
    "A Learner that could have been trained on rows like those of `x`"
    lbl = [(torch.from_numpy(np.array(o))+1, i % c) for i, o in enumerate(x[:64])]
    dls = DataLoaders(*(TfmdDL(lbl, bs=64, num_workers=0, device=device) for _ in range(2)))
    return Learner(dls, model.to(device), loss_func=CrossEntropyLossFlat())


def cnn(c, w):
    return nn.Sequential(ConvLayer(3, w), ConvLayer(w, 2*w, stride=2), ConvLayer(2*w, 4*w, stride=2),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4*w, c))


def bare(model, dl):
    "What has to be done at least: all probabilities, on the CPU"
    res = []
    model.eval()
    with torch.no_grad():
        for b in dl: res.append(model(*b).softmax(1).cpu())
    return torch.cat(res)


N_ROWS = dict(small=60_000, middle=40_000, resnet18=12_000)


def predict(a):
    "Pictures of 3 x 32 x 32, 100 classes, in batches of 64"
    c, models = 100, dict(small=lambda: cnn(c, 8), middle=lambda: cnn(c, 32), resnet18=lambda: resnet18(num_classes=c))
    for name in a.models:
        n = a.n or N_ROWS[name]
        with tempfile.TemporaryDirectory() as tmp:
            x = data(n, (3, 32, 32), f'{tmp}/x.npy')
            torch.manual_seed(0)
            learn = learner(x, models[name](), a.device, c)
            dl = as_source(x, learn.dls).eval_dl(learn.dls, 64)
            kw = dict(bs=64, leaks='keep')

            def preds():
                with learn.no_bar(): learn.get_preds(dl=dl)
            sides = {'bare loop': lambda: bare(learn.model, dl), 'get_preds': preds,
                     'in memory': lambda: learn.pseudolabel(x, **kw),
                     'to a folder': lambda: learn.pseudolabel(x, f'{tmp}/labels', overwrite=True, **kw),
                     'to a folder, leaks looked for': lambda: learn.pseudolabel(x, f'{tmp}/labels', overwrite=True,
                                                                                bs=64)}
            secs = take_turns(sides, a.rounds)
            learn.pseudolabel(x, f'{tmp}/labels', overwrite=True, bs=64)
            with contextlib.redirect_stdout(io.StringIO()):  # it says each time what it has found
                again = take_turns({'again': lambda: learn.pseudolabel(x, f'{tmp}/labels', bs=64)}, a.rounds)['again']
        n_params = sum(p.numel() for p in learn.model.parameters())
        print(f'\npredict, {name}: {n_params:,} parameters, {n:,} rows of {x[0].nbytes:,} bytes')
        print(f'{"":32}{"rows/s":>10}   share of the bare loop\'s speed')
        for k, v in secs.items():
            share = middle([b/o for b, o in zip(secs['bare loop'], v)])
            print(f'{k:32}{n/statistics.median(v):10,.0f}   {share}')
        made = n*(x[0].nbytes + c*2 + 4 + 1 + 8)
        print(f'at least {made/2**20:,.0f} MB pass: each row read once, 2 bytes a class and 13 a row written\n'
              f'the same call on the complete folder: {statistics.median(again):.3f} s', flush=True)


# memory

def rss(field='RssAnon'):
    "This process's memory in MB"
    with open('/proc/self/status') as f: return next(int(o.split()[1]) for o in f if o.startswith(field))/1024


class Peak:
    "The most memory while it is on: pages of files, which the system takes back at will, left out"
    def __enter__(self):
        self.mb, self.on = 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.on:
            self.mb = max(self.mb, rss())
            time.sleep(.005)

    def __exit__(self, *args):
        self.on = False
        self.thread.join()


def label_in_a_child(n, c, tmp):
    "Label `n` rows, then say what that took"
    x = data(n, (8,), f'{tmp}/x.npy')
    torch.manual_seed(0)
    learn = learner(x, nn.Linear(8, c), 'cpu', c)
    before = rss()
    with Peak() as peak: pl = learn.pseudolabel(x, f'{tmp}/labels', bs=256)
    assert len(pl) == n and pl.c == c
    print(json.dumps(dict(before=before, peak=peak.mb, high=rss('VmHWM'))))


def memory(a):
    c, res = 100, {}
    print(f'\nmemory: a process that labels n rows of {c} classes into a folder (MB)')
    print(f'{"n":>12}{"before":>10}{"peak":>10}{"with mapped files":>20}{"labels on disk":>16}')
    for n in (10_000, a.n or 1_000_000):
        with tempfile.TemporaryDirectory() as tmp:
            out = subprocess.run([sys.executable, __file__, '--child', str(n), str(c), tmp], text=True, check=True,
                                 stdout=subprocess.PIPE)
        res[n] = o = json.loads(out.stdout.splitlines()[-1])
        print(f'{n:12,}{o["before"]:10.0f}{o["peak"]:10.0f}{o["high"]:20.0f}{n*(2*c+6)/2**20:16.0f}')
    few, many = (o['peak'] for o in res.values())
    print(f'peak, many rows over few: {many/few:.3f}')


# dl

def dl(a):
    "Rows of 8 x 128 numbers, 100 classes: 100,000 rows, each class balanced to 1,000"
    n, c = a.n or 100_000, 100
    with tempfile.TemporaryDirectory() as tmp:
        x = data(n, (8, 128), f'{tmp}/x.npy')
        p = np.random.default_rng(0).dirichlet(np.full(c, .1), n).astype(np.float16)
        np.save(f'{tmp}/p.npy', p)
        pl = PseudoLabels(np.load(f'{tmp}/p.npy', mmap_mode='r'), x)
        learn = learner(x, nn.Linear(128, c), 'cpu', c)
        sel = pl.select(.3, n//c, max_repeat=None)
        ours = sel.dl(learn.dls, bs=64)
        rows, probs = sel.rows, pl.probs
        itemwise = Datasets(tls=[Picked(x, rows), Picked(probs, rows)])
        theirs = TfmdDL(itemwise, bs=64, shuffle=True, num_workers=0)

        def floor():
            order = np.random.permutation(rows)
            for i in range(0, len(order), 64):
                torch.from_numpy(x[order[i:i+64]])
                torch.from_numpy(probs[order[i:i+64]].astype(np.float32))

        def read(dl):
            for b in dl: pass
        sides = {'dl': lambda: read(ours), "fastai's loader": lambda: read(theirs), 'indexing alone': floor}
        secs = take_turns(sides, a.rounds)
    m, mb = len(rows), len(rows)*(x[0].nbytes+2*c)/2**20
    print(f'\ndl: an epoch of {m:,} rows of {x[0].nbytes:,} bytes and {c} classes; {mb:,.0f} MB at least')
    print(f'{"":32}{"rows/s":>10}   times as fast as fastai\'s loader')
    for k, v in secs.items():
        times = middle([t/o for t, o in zip(secs["fastai's loader"], v)])
        print(f'{k:32}{m/statistics.median(v):10,.0f}   {times}')


class Picked:
    "Rows of an array as tensors, one at a time"
    def __init__(self, x, rows): self.x, self.rows = x, rows
    def __len__(self): return len(self.rows)
    def __getitem__(self, i): return torch.from_numpy(np.array(self.x[self.rows[i]]))


# select

def select(a):
    args = [] if a.n is None else ['--n', str(a.n)]
    print(flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name('selection.py')), *args], check=True)


PARTS = dict(predict=predict, memory=memory, dl=dl, select=select)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--part', choices=['all', *PARTS], default='all')
    p.add_argument('--n', type=lambda o: int(o.replace('_', '')), help='rows, in place of the part\'s own number')
    p.add_argument('--models', nargs='*', default=list(N_ROWS), choices=list(N_ROWS), help='of `predict`')
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--device', default='cpu')
    p.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.child: return label_in_a_child(int(a.child[0]), int(a.child[1]), a.child[2])
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {a.threads} threads, {a.device}; '
          f'torch {torch.__version__}, numpy {np.__version__}')
    for k, f in PARTS.items():
        if a.part in ('all', k): f(a)


if __name__ == '__main__': main()
