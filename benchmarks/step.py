"""Time per training step of `NoisyStudent` against a plain Learner on batches of the same size, and against tsai's callback

    python benchmarks/step.py                  # CPU: small and middle-sized model, hard and soft labels
    python benchmarks/step.py --device cuda    # on a GPU, in bf16
    python benchmarks/step.py --profile        # where the difference goes

All sides train in one run, in turns and in a new order in each round, on the same arrays: rows of 12 x 200 numbers (time
series, so that tsai's callback can take part) in batches of `--bs`, half of them pseudolabeled. A round is one epoch of
`--steps` steps per side; its time per step is the median over its steps, data loading included. What is printed is the
median over the rounds and, for the ratios, which compare sides within one round, also the middle half.
"""
import argparse
import json
import platform
import random
import statistics
import time
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import no_bar  # noqa: F401  (patches Learner)
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastprogress import progress_bar
from noisy_student_fastai.all import NoisyStudent

C, VARS, LEN = 10, 12, 200
WIDTHS = dict(small=(32, 64, 32), middle=(128, 256, 256, 128))


class Arrays:
    "Two arrays, read by the row or by the batch"
    n_inp = 1
    def __init__(self, *arrays): self.arrays = arrays
    def __len__(self): return len(self.arrays[0])
    def __getitem__(self, i): return tuple(a[i] for a in self.arrays)


class ArrayDL(TfmdDL):
    "Batches as slices: the loading costs as little as it can, so that it hides nothing"
    def do_item(self, s): return s or 0
    def create_batch(self, b): return self.dataset[torch.as_tensor(b)]
    def retain(self, res, b): return res


def model(size):
    "A fully convolutional network, as Wang et al. 2016 use for time series"
    ws = (VARS, *WIDTHS[size])
    blocks = [nn.Sequential(nn.Conv1d(i, o, 7, padding=3, bias=False), nn.BatchNorm1d(o), nn.ReLU()) for i, o in zip(ws, ws[1:])]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(ws[-1], C))


def flops(size, bs):
    "Multiplications and additions of a step: forward, and twice that backward"
    ws = (VARS, *WIDTHS[size])
    return 3*2*bs*LEN*7*sum(i*o for i, o in zip(ws, ws[1:]))


def data(n, soft, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, VARS, LEN, generator=g)
    y = torch.randn(n, C, generator=g).softmax(1) if soft else torch.randint(C, (n,), generator=g)
    return x, y


class StepTimer(Callback):
    "Seconds between the ends of two training steps"
    order, run_valid = 55, False
    def __init__(self, device): self.device, self.secs, self.last = device, [], None
    def before_train(self): self.last = None
    def after_batch(self):
        if self.device == 'cuda': torch.cuda.synchronize()
        now = time.perf_counter()
        if self.last is not None: self.secs.append(now-self.last)
        self.last = now


def learner(train, size, device, cbs=(), bf16=False):
    dls = DataLoaders(train, train.new(shuffle=False), device=device)
    torch.manual_seed(0)
    cbs = [*cbs, *([MixedPrecision('bf16')] if bf16 else [])]
    return Learner(dls, model(size), loss_func=CrossEntropyLossFlat(flatten=False), opt_func=SGD, lr=.01, cbs=cbs)


def sides(size, soft, a):
    "name -> Learner"
    half, kw = a.bs//2, dict(num_workers=0, drop_last=True, device=a.device)
    lbl, pl = data(half*a.steps, False, 0), data(half*a.steps, soft, 1)
    both = [torch.cat([lbl[0], pl[0]]), torch.cat([torch.eye(C)[lbl[1]] if soft else lbl[1], pl[1]])]
    dl = lambda ts, bs=a.bs: ArrayDL(Arrays(*ts), bs=bs, shuffle=True, **kw)
    res = {'plain': learner(dl(both), size, a.device, bf16=a.bf16),
           'ours': learner(dl(lbl), size, a.device, [NoisyStudent(dl(pl))], a.bf16),
           'ours, weight .5': learner(dl(lbl), size, a.device, [NoisyStudent(dl(pl), pseudolabel_sample_weight=.5)], a.bf16)}
    if a.tsai:
        from tsai.callback.noisy_student import NoisyStudent as Theirs
        from tsai.data.core import TSClassification, TSDataLoader, TSDataLoaders, TSDatasets
        tskw = dict(num_workers=0, device=a.device)
        def tsdl(x, y, bs=a.bs): return TSDataLoader(TSDatasets(x.numpy(), y.numpy()), bs=bs, shuffle=True, drop_last=True, **tskw)
        def ts(x, y, cbs=()):
            train = tsdl(x, y)
            train.vocab = list(range(C))  # tsai's callback asks for the number of classes
            return learner_of(TSDataLoaders(train, tsdl(x, y), device=a.device), size, cbs, a.bf16)
        res['plain on tsai loaders'] = ts(*both)
        res["ours on tsai loaders"] = ts(*lbl, [NoisyStudent(tsdl(*pl))])
        res["tsai's"] = ts(*lbl, [Theirs(tsdl(*pl))])
    return res


def learner_of(dls, size, cbs, bf16):
    torch.manual_seed(0)
    cbs = [*cbs, *([MixedPrecision('bf16')] if bf16 else [])]
    return Learner(dls, model(size), loss_func=CrossEntropyLossFlat(flatten=False), opt_func=SGD, lr=.01, cbs=cbs)


def time_epoch(learn, device):
    timer = StepTimer(device)
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(timer): learn.fit(1)
    return statistics.median(timer.secs)


def quartiles(vs):
    q = statistics.quantiles(vs, n=4)
    return q[0], q[2]


def compare(size, soft, a):
    ls = sides(size, soft, a)
    for l in ls.values():
        l.dls.loaders[1].n = 0  # no validation: this is about training
        l._do_epoch_validate = lambda *args, **kwargs: None
        time_epoch(l, a.device)  # warm-up
    secs = {k: [] for k in ls}
    rng = random.Random(0)
    for _ in progress_bar(range(a.rounds), leave=False):
        for k in rng.sample(list(ls), len(ls)): secs[k].append(time_epoch(ls[k], a.device))
    rows = []
    for k, vs in secs.items():
        base = next((b for b in (['plain on tsai loaders'] if 'tsai' in k else ['plain']) if b in secs), 'plain')
        ratios = [v/p for v, p in zip(vs, secs[base])]
        lo, hi = quartiles(ratios)
        rows.append(dict(model=size, labels='soft' if soft else 'hard', side=k, ms=1e3*statistics.median(vs),
                         ratio=statistics.median(ratios), lo=lo, hi=hi))
    if a.tsai:
        r = [v/p for v, p in zip(secs['ours on tsai loaders'], secs["tsai's"])]
        lo, hi = quartiles(r)
        rows.append(dict(model=size, labels='soft' if soft else 'hard', side="ours / tsai's", ms=float('nan'),
                         ratio=statistics.median(r), lo=lo, hi=hi))
    return rows


def profile(a):
    "Where a step's extra time goes, function by function"
    import cProfile
    import pstats
    for name in ('plain', 'ours'):
        l = sides('small', True, a)[name]
        l._do_epoch_validate = lambda *args, **kwargs: None
        time_epoch(l, a.device)
        with cProfile.Profile() as p, l.no_bar(), l.no_logging(): l.fit(5)
        print(f'== {name}: {5*a.steps} steps')
        pstats.Stats(p).sort_stats('tottime').print_stats(14)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--device', default='cpu')
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--steps', type=int, default=20, help='steps per round and side')
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--sizes', nargs='*', default=list(WIDTHS), choices=list(WIDTHS))
    p.add_argument('--threads', type=int, help="torch's threads (default: torch decides)")
    p.add_argument('--json', help='also write the rows here')
    p.add_argument('--profile', action='store_true')
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    a.bf16 = a.device == 'cuda'
    try: import tsai  # noqa: F401
    except ImportError: a.tsai = False
    else: a.tsai = True
    if a.profile: return profile(a)
    cpu = f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads'
    print(f"{torch.cuda.get_device_name() + ', bf16' if a.device == 'cuda' else cpu}; torch {torch.__version__}; batches of {a.bs} rows of "
          f"{VARS} x {LEN}; {a.rounds} rounds of {a.steps} steps per side")
    copied = a.bs*VARS*LEN*4
    print(f'joining copies {copied/1e6:.2f} MB a step (read and written once)')
    every = []
    for size in a.sizes:
        print(f'\n{size}: {sum(o.numel() for o in model(size).parameters()):,} parameters, {flops(size, a.bs)/1e9:.2f} GFLOP a step')
        for soft in (False, True):
            for r in compare(size, soft, a):
                ms = f"{r['ms']:9.2f} ms" if r['ms'] == r['ms'] else ' '*12
                print(f"  {r['labels']:5} {r['side']:24} {ms}   x {r['ratio']:.3f}  ({r['lo']:.3f} to {r['hi']:.3f})", flush=True)
                every.append(r)
    if a.json:
        with open(a.json, 'w') as f: json.dump(every, f, indent=1)


if __name__ == '__main__': main()
