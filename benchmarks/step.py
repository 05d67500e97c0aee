"""Time per step of `NoisyStudent`, against a plain Learner on batches of the same size and against tsai's callback

    python benchmarks/step.py                  # CPU: small and middle-sized model, hard and soft labels
    python benchmarks/step.py --device cuda    # on a GPU, in bf16
    python benchmarks/step.py --profile        # where the difference goes

All sides train in one run, in turns and in a new order in each round, on the same arrays: rows of 12 x 200 numbers (as
time series, so that tsai's callback can take part) in batches of `--bs`, half of them pseudolabeled. A round is one
epoch of `--steps` steps per side; its time per step is the median over its steps, data loading included. What is
printed is the median over the rounds and, for the ratios, which compare sides within one round, also the middle half.
"""
import argparse
import json
import platform
import random
import statistics
import time

import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import no_bar  # noqa: F401  (patches Learner)
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from noisy_student_fastai.all import NoisyStudent
from torch import nn

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
    def block(i, o): return nn.Sequential(nn.Conv1d(i, o, 7, padding=3, bias=False), nn.BatchNorm1d(o), nn.ReLU())
    return nn.Sequential(*map(block, ws, ws[1:]), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(ws[-1], C))


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


def learner(train, size, a, *cbs):
    "Every side has the same model, loss and optimizer; `CrossEntropyLossFlat` as it is takes no soft labels"
    torch.manual_seed(0)
    dls = DataLoaders(train, train, device=a.device)
    if a.bf16: cbs = [*cbs, MixedPrecision('bf16')]
    learn = Learner(dls, model(size), loss_func=CrossEntropyLossFlat(flatten=False), opt_func=SGD, lr=.01, cbs=cbs)
    learn._do_epoch_validate = lambda *args, **kwargs: None  # this is about training
    return learn


def array_sides(size, lbl, pl, both, a):
    "On a loader of our own, without tsai"
    kw = dict(bs=a.bs, shuffle=True, drop_last=True, num_workers=0, device=a.device)
    def dl(arrays): return ArrayDL(Arrays(*arrays), **kw)
    return {'plain': learner(dl(both), size, a), 'ours': learner(dl(lbl), size, a, NoisyStudent(dl(pl))),
            'ours, weight .5': learner(dl(lbl), size, a, NoisyStudent(dl(pl), pseudolabel_sample_weight=.5))}


def tsai_sides(size, lbl, pl, both, a):
    "On tsai's loaders, which its callback needs"
    from tsai.callback.noisy_student import NoisyStudent as Theirs
    from tsai.data.core import TSDataLoader, TSDatasets
    def dl(arrays):
        dsets = TSDatasets(*(o.numpy() for o in arrays))
        res = TSDataLoader(dsets, bs=a.bs, shuffle=True, drop_last=True, num_workers=0, device=a.device)
        res.vocab = list(range(C))  # tsai's callback asks for the number of classes
        return res
    return {'plain, tsai loader': learner(dl(both), size, a),
            'ours, tsai loader': learner(dl(lbl), size, a, NoisyStudent(dl(pl))),
            "tsai's": learner(dl(lbl), size, a, Theirs(dl(pl)))}


def sides(size, soft, a):
    "name -> Learner, for all sides"
    n = a.bs//2*a.steps
    lbl, pl = data(n, False, 0), data(n, soft, 1)
    y = torch.eye(C)[lbl[1]] if soft else lbl[1]
    both = torch.cat([lbl[0], pl[0]]), torch.cat([y, pl[1]])
    res = array_sides(size, lbl, pl, both, a)
    if a.tsai: res |= tsai_sides(size, lbl, pl, both, a)
    return res


def time_epoch(learn, device):
    timer = StepTimer(device)
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(timer): learn.fit(1)
    return statistics.median(timer.secs)


def quartiles(vs):
    q = statistics.quantiles(vs, n=4)
    return q[0], q[2]


PAIRS = [('ours', 'plain'), ('ours, weight .5', 'plain'), ('ours, tsai loader', 'plain, tsai loader'),
         ("tsai's", 'plain, tsai loader'), ('ours, tsai loader', "tsai's")]


def compare(size, soft, a):
    "Seconds per step of each side and round"
    ls = sides(size, soft, a)
    for l in ls.values(): time_epoch(l, a.device)  # warm-up
    secs, rng = {k: [] for k in ls}, random.Random(0)
    for _ in range(a.rounds):
        for k in rng.sample(list(ls), len(ls)): secs[k].append(time_epoch(ls[k], a.device))
    return secs


def report(size, soft, secs):
    "Print and return one line per pair of sides"
    rows = []
    for x, y in PAIRS:
        if x not in secs or y not in secs: continue
        ratios = [v/w for v, w in zip(secs[x], secs[y])]
        ms = [1e3*statistics.median(secs[k]) for k in (x, y)]
        lo, hi = quartiles(ratios)
        rows.append(dict(model=size, labels='soft' if soft else 'hard', side=x, against=y, ms=ms[0], ms_against=ms[1],
                         ratio=statistics.median(ratios), lo=lo, hi=hi))
        print(f"  {rows[-1]['labels']:5} {x:18} {ms[0]:8.2f} ms  against {y:18} {ms[1]:8.2f} ms:  "
              f"x {rows[-1]['ratio']:.3f}  ({lo:.3f} to {hi:.3f}), {ms[0]-ms[1]:+.2f} ms", flush=True)
    return rows


def copying(a):
    "Seconds to copy the rows of a batch into one tensor: the least that joining two batches needs"
    halves = [torch.randn(a.bs//2, VARS, LEN, device=a.device) for _ in range(2)]
    def once():
        if a.device == 'cuda': torch.cuda.synchronize()
        start = time.perf_counter()
        torch.cat(halves)
        if a.device == 'cuda': torch.cuda.synchronize()
        return time.perf_counter()-start
    return statistics.median(once() for _ in range(500))


def profile(a):
    "What a step of ours spends outside torch and fastai's own loop, function by function"
    import cProfile
    import pstats
    learn, n = sides('small', True, a)['ours'], 10
    time_epoch(learn, a.device)
    with cProfile.Profile() as p, learn.no_bar(), learn.no_logging(): learn.fit(n)
    print(f'{n*a.steps} steps, soft labels; `cumtime` holds what a function calls')
    pstats.Stats(p).strip_dirs().sort_stats('cumtime').print_stats(r'(loaders|row_order|joining|targets|callback|load)\.py')


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
    try: import tsai  # noqa: F401, I001
    except ImportError: a.tsai = False
    else: a.tsai = True
    if a.profile: return profile(a)
    cpu = f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads'
    print(f"{torch.cuda.get_device_name() + ', bf16' if a.device == 'cuda' else cpu}; torch {torch.__version__}; "
          f"batches of {a.bs} rows of {VARS} x {LEN}; {a.rounds} rounds of {a.steps} steps per side")
    print(f'Joining two batches must copy {a.bs*VARS*LEN*4/1e6:.2f} MB, which takes {1e3*copying(a):.3f} ms')
    every = []
    for size in a.sizes:
        n = sum(o.numel() for o in model(size).parameters())
        print(f'\n{size}: {n:,} parameters, {flops(size, a.bs)/1e9:.2f} GFLOP a step')
        for soft in (False, True): every += report(size, soft, compare(size, soft, a))
    if a.json:
        with open(a.json, 'w') as f: json.dump(every, f, indent=1)


if __name__ == '__main__': main()
