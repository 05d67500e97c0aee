"""Memory and processor time of every stage, from 10 thousand to 10 million rows and from 10 to 21,000 classes

    python benchmarks/scale.py                                # results/scale.csv, scale.md and the page: 5 minutes
    python benchmarks/scale.py --n 10000 --c 10 21000 --out out

`label`   a small model labels rows of 16 bytes into a folder: as many as hold `--budget` probabilities. What that costs
          goes with the rows, so the time is given for a million of them; the peak of the memory does not grow
`open`    `PseudoLabels.open` with a look at every byte, of a folder of all n rows (made-up labels, as a model's would
          take days)
`select`  `select(.2)`, which also reads the probabilities, for the share of each class
`dl`      the first batch of 64 rows that `NoisyStudent` gets
`figures` `plot_confidence` and `plot_balance`

From 1,000 classes on 64 of each row are kept (`top_k=64`). Each stage is a process of its own, on one thread. Memory is
the peak of what it takes beyond what it begins with: `memory` what is its own (anonymous pages), `mapped` also pages of
files, which the system gives back when others need them.
"""
import argparse
import os
import pickle
import resource
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import runs
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from matplotlib import pyplot as plt
from noisy_student_fastai.all import NoisyStudent, PseudoLabels
from noisy_student_fastai.labels.store import Store
from torch import nn

ROWS, CLASSES, TOP_K = [10**4, 10**5, 10**6, 10**7], [10, 1_000, 21_000], 64
STAGES = ['label', 'open', 'select', 'dl', 'figures']


def top_k(c): return TOP_K if c >= 1_000 else None


# measuring

def pages():
    "Bytes of memory: its own, and with mapped files"
    fields = dict(o.split(':', 1) for o in Path('/proc/self/status').read_text().splitlines())
    own, files, shared = (int(fields[f'Rss{k}'].split()[0])*1024 for k in ('Anon', 'File', 'Shmem'))
    return own+shared, own+files+shared


class Peak:
    "The largest of `pages()`, looked at every few milliseconds"
    def __enter__(self):
        self.start = self.most = pages()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        return self

    def look(self):
        while not self.over.wait(.005): self.most = tuple(map(max, self.most, pages()))

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.grown = [b-a for a, b in zip(self.start, map(max, self.most, pages()))]


def measured(f):
    "What `f` takes in a process of its own: seconds of the processor, bytes of memory and with mapped files"
    r, w = os.pipe()
    if pid := os.fork():
        os.close(w)
        with open(r, 'rb') as pipe: said = pipe.read()
        os.waitpid(pid, 0)
        res = pickle.loads(said) if said else RuntimeError('the process was killed')
        if isinstance(res, Exception): raise res
        return res
    try:
        torch.set_num_threads(1)
        with Peak() as peak: f()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        res = dict(cpu=usage.ru_utime+usage.ru_stime, memory=peak.grown[0], mapped=peak.grown[1])
    except Exception as e: res = RuntimeError(f'{type(e).__name__}: {e}')
    with open(w, 'wb') as pipe: pickle.dump(res, pipe)
    os._exit(0)


# stages

def pixels(path, n):
    "`n` rows of 16 bytes in a file"
    x, rng = np.lib.format.open_memmap(path, 'w+', np.uint8, (n, 16)), np.random.default_rng(0)
    for i in range(0, n, 10**6): x[i:i+10**6] = rng.integers(256, size=(min(10**6, n-i), 16), dtype=np.uint8)
    x.flush()
    return np.load(path, mmap_mode='r')


def learner(c):
    torch.manual_seed(0)
    rows = [(torch.rand(16), i % c) for i in range(64)]
    dls = DataLoaders(*(TfmdDL(rows, bs=64, num_workers=0) for _ in range(2)))
    dls.c = c
    return Learner(dls, nn.Linear(16, c), loss_func=CrossEntropyLossFlat())


def some_rows(m, c, rng):
    "Labels of `m` rows, by name of the array"
    k, small = top_k(c), np.min_scalar_type(c-1)
    p = rng.random((m, k or c), np.float32)**8
    p /= p.sum(1, keepdims=True)*(1 if k is None else 1.1)
    label = p.argmax(1) if k is None else rng.integers(c, size=m)
    rows = dict(conf=p.max(1), label=label.astype(small))
    if k is None: return rows | dict(probs=p.astype(np.float16))
    at = (label[:, None]+np.arange(k)*(c//k)) % c
    top = dict(top_p=-np.sort(-p, 1), rest=1-p.sum(1))
    return rows | {o: v.astype(np.float16) for o, v in top.items()} | dict(top_i=at.astype(small))


def made_up(path, n, c, block=50_000):
    "A folder of labels of `n` rows, as a teacher's would be kept; after a block they are the same again"
    k, m = top_k(c), min(n, block)
    about = dict(kind='single', vocab=None, settings=dict(top_k=k)) | ({} if k is None else dict(c=c))
    rows = some_rows(m, c, np.random.default_rng(0))
    with Store(path, n, about) as store:
        for i in range(0, n, m): store.write(**{o: v[:n-i] for o, v in rows.items()})
        store.finish()


def first_batch(pl, learn):
    cb = NoisyStudent(pl.select(0).dl(learn.dls, leaks='keep'), bs=128)
    return Learner(learn.dls, learn.model, loss_func=learn.loss_func, cbs=cb).noisy_student.one_batch()


def figures(pl):
    for o in (pl.plot_confidence, pl.select(0).plot_balance):
        o()
        plt.close()


def stages(n, c, tmp, budget):
    "Name, function and rows of each stage"
    x, m = pixels(f'{tmp}/x.npy', n), max(1, min(n, budget//c))
    learn, kw = learner(c), dict(bs=64 if c > 1_000 else 4096, leaks='keep', top_k=top_k(c))
    made_up(f'{tmp}/labels', n, c)
    def opened(): return PseudoLabels.open(f'{tmp}/labels', x, verify=False)
    yield 'label', lambda: learn.pseudolabel(x[:m], f'{tmp}/made', **kw), m
    yield 'open', lambda: PseudoLabels.open(f'{tmp}/labels', x), n
    yield 'select', lambda: opened().select(.2), n
    yield 'dl', lambda: first_batch(opened(), learn), n
    yield 'figures', lambda: figures(opened()), n


def run(ns, cs, budget):
    "A line for each stage, number of rows and number of classes"
    res = []
    for c in cs:
        for n in ns:
            with tempfile.TemporaryDirectory() as tmp:
                for stage, f, rows in stages(n, c, tmp, budget):
                    start = time.perf_counter()
                    disk = sum(o.stat().st_size for o in Path(tmp, 'labels').iterdir())
                    res.append(dict(n=n, c=c, stage=stage, rows=rows, **measured(f), disk=disk))
                    print(f'{n:,} rows, {c:,} classes, {stage}: {time.perf_counter()-start:.1f} s', flush=True)
    return pd.DataFrame(res)


# a table

def size(o): return f'{o/1e9:,.1f} GB' if o >= 1e9 else f'{o/1e6:,.0f} MB' if o >= 5e5 else 'under 1 MB'


def seconds(o):
    "Of the processor, of `label` for a million rows"
    cpu = o.cpu*10**6/o.rows if o.stage == 'label' else o.cpu
    return f'{cpu:,.{0 if cpu >= 10 else 2}f} s'


def memory(o): return size(o.memory)


def one_table(df, title, cell):
    "A line for each number of classes and rows"
    lines = [f'**{title}**\n', '| classes | rows | on disk | label a million | '+' | '.join(STAGES[1:])+' |',
             '|--:'*(3+len(STAGES))+'|']
    for (c, n), o in df.groupby(['c', 'n']):
        k = f' (`top_k={top_k(c)}`)' if top_k(c) else ''
        cells = ' | '.join(cell(o[o.stage == s].iloc[0]) for s in STAGES)
        lines.append(f'| {c:,}{k} | {n:,} | {size(o.disk.iloc[0])} | {cells} |')
    return '\n'.join(lines)+'\n'


def as_markdown(df):
    "Two tables: processor time of each stage, and the peak of its memory"
    return one_table(df, 'Processor time', seconds)+'\n'+one_table(df, 'Peak of memory', memory)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=int, nargs='+', default=ROWS)
    p.add_argument('--c', type=int, nargs='+', default=CLASSES)
    p.add_argument('--budget', type=int, default=5*10**7, help='probabilities that are made in the stage `label`')
    p.add_argument('--out', type=Path, help='another folder for the results (default: only where all is measured)')
    a = p.parse_args()
    is_all = a.n == ROWS and a.c == CLASSES
    out = a.out or (runs.RESULTS if is_all else Path(runs.QUICK))
    torch.set_num_threads(1)  # a process with several can't be forked
    warnings.simplefilter('ignore')
    df = run(a.n, a.c, a.budget).round(dict(cpu=3))
    out.mkdir(parents=True, exist_ok=True)
    df.to_csv(out/'scale.csv', index=False)
    runs.publish(as_markdown(df), out, 'scale')
    print(as_markdown(df))


if __name__ == '__main__': sys.exit(main())
