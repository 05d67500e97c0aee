"""What noise costs

    python benchmarks/noise.py                               # all parts
    python benchmarks/noise.py --part images --device cuda   # batch transforms on a GPU
    python benchmarks/noise.py --part images --size 32 --bs 256
    python benchmarks/noise.py --part model                  # model noise in a training step

`images`  images per second of `RandAugment` on a batch, as floats and as bytes, against torchvision's
          `v2.RandAugment`, which takes one image at a time, as in a Dataset (tensors of bytes, and PIL images), and
          against fastai's `aug_transforms` on the same batch
`model`   a training step (forward and backward) of a ResNet-18 with `noise_model`, with all probabilities at 0 and at
          the paper's, against the bare model and a copy of it, which shows how far two equal models seem to differ, in
          processor time

Where sides are compared they take turns in one run, in a new order in each round. A ratio compares sides of one round;
what is printed is the median over the rounds with, in brackets, the middle half.
"""
import argparse
import copy
import os
import platform
import random
import statistics
import time

import numpy as np
import torch
from fastai.torch_core import TensorImage
from fastai.vision.augment import aug_transforms
from fasttransform import Pipeline
from noisy_student_fastai.noise.images import RandAugment
from noisy_student_fastai.noise.models import noise_model
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.models import resnet18
from torchvision.transforms import v2


def middle(xs):
    "Median and middle half"
    lo, _, hi = statistics.quantiles(xs, n=4)
    return f'{statistics.median(xs):.2f} ({lo:.2f} to {hi:.2f})'


def take_turns(sides, rounds, device='cpu', repeats=1, clock=time.perf_counter):
    "Seconds of each side in each round, after one round that does not count"
    secs = {k: [] for k in sides}
    def wait():
        if device != 'cpu': torch.cuda.synchronize()
    for i in range(rounds+1):
        order = list(sides)
        random.Random(i).shuffle(order)
        for k in order:
            wait()
            start = clock()
            for _ in range(repeats): sides[k]()
            wait()
            if i: secs[k].append((clock()-start)/repeats)
    return secs


# images

def photos(n, size):
    "Crops of scikit-learn's two photographs, enlarged where they are too small: n x size x size x 3 bytes"
    rng, res = np.random.default_rng(0), []
    ims = [load_sample_image(o) for o in ('china.jpg', 'flower.jpg')]
    if (by := -(-size//min(ims[0].shape[:2]))) > 1: ims = [o.repeat(by, 0).repeat(by, 1) for o in ims]
    for i in range(n):
        im = ims[i % 2]
        r, c = (rng.integers(0, s-size+1) for s in im.shape[:2])
        res.append(im[r:r+size, c:c+size])
    return np.stack(res)


def images(a):
    "Two operations an image, at a magnitude of 6 here and bin 18 in torchvision, which is the same strength"
    raw = photos(a.bs, a.size)
    x8 = torch.from_numpy(raw).permute(0, 3, 1, 2).contiguous()
    x, xb8 = (TensorImage(o.to(a.device)) for o in (x8.float()/255, x8))
    pils = [Image.fromarray(o) for o in raw]
    theirs, target, modes = Pipeline(aug_transforms(), split_idx=0), torch.empty_like(x), ('bilinear', 'nearest')
    ours = {k: Pipeline([RandAugment(n=2, m=6, m_std=0, mode=k)], split_idx=0) for k in modes}
    tv = {k: v2.RandAugment(num_ops=2, magnitude=18, interpolation=k, fill=128) for k in modes}

    def one_by_one(tfm, ims):
        for o in ims: tfm(o)
    def mine(*kinds): return {f'RandAugment, {o}, {k}': lambda x=x, k=k: ours[k]((x,)) for k in modes for o, x in kinds}
    floats, both = ('floats', x), [('floats', x), ('bytes', xb8)]
    groups = [mine(*both) | {f'torchvision, tensors, {k}': lambda k=k: one_by_one(tv[k], x8) for k in modes},
              mine(*both) | {f'torchvision, PIL, {k}': lambda k=k: one_by_one(tv[k], pils) for k in modes},
              mine(floats) | {"fastai's aug_transforms, bilinear": lambda: theirs((x,)),
                              'copy to memory in use': lambda: target.copy_(x),
                              'copy to new memory': lambda: x.clone()}]
    on_device = x8.to(a.device)
    if a.device != 'cpu':
        groups.append(mine(*both) | {f'torchvision, there, {k}': lambda k=k: one_by_one(tv[k], on_device)
                                     for k in modes})
    torch.manual_seed(0)
    print(f'\nimages: {a.bs} x 3 x {a.size} x {a.size}, {x.nbytes/1e6:.1f} MB as floats, {a.rounds} rounds')
    for o in groups: secs = image_table(o, a)
    best, ms = (statistics.median(secs[k])*1e3 for k in ('copy to memory in use', 'RandAugment, floats, bilinear'))
    print(f'At least each pixel has to be read and written once, {2*x.nbytes/1e6:.0f} MB, as the copy to memory in use '
          f'does: {best:.1f} ms.\nTwo operations one after the other are four passes, {2*best:.1f} ms at that speed; '
          f'RandAugment takes {ms/(2*best):.1f} times as long.', flush=True)


def image_table(sides, a):
    "Time of each side, and how many times as long as `RandAugment` it takes that resamples in the same way"
    secs = take_turns(sides, a.rounds, a.device)
    print(f'{"":38}{"ms":>8}{"images/s":>11}   times as long as RandAugment on floats, and on bytes')
    for k, v in secs.items():
        mode, ms = k.split(', ')[-1], statistics.median(v)*1e3
        refs = [secs.get(f'RandAugment, {o}, {mode}') for o in ('floats', 'bytes')]
        ratios = ''.join(f'{middle([t/o for t, o in zip(v, r)]):24}' for r in refs if r)
        print(f'{k:38}{ms:8.1f}{a.bs/ms*1e3:11,.0f}   {ratios}'.rstrip())
    print(flush=True)
    return secs


# model

def step(net, x):
    net.zero_grad()
    net(x).sum().backward()


def model(a):
    "Copies of one ResNet-18, the same batch; processor time, so that others on the machine count as little as can be"
    torch.manual_seed(0)
    nets = {'bare': resnet18(num_classes=10).to(a.device).train()}
    noise = {'bare again': None, 'dropout=0, stoch_depth=1': dict(dropout=0, stoch_depth=1),
             'dropout=.5, stoch_depth=.8': {}}
    for k, kw in noise.items():
        nets[k] = copy.deepcopy(nets['bare'])
        if kw is not None: noise_model(nets[k], **kw)
    put = {k: sum('forward' in vars(m) for m in v.modules()) for k, v in nets.items()}
    clock = time.process_time if a.device == 'cpu' else time.perf_counter
    for rows, size, times in ((8, 32, 10), (2, 32, 20)):  # the shorter a step, the more of them
        x = torch.randn(rows, 3, size, size, device=a.device)
        secs = take_turns({k: lambda v=v: step(v, x) for k, v in nets.items()}, times*a.rounds, a.device, clock=clock)
        print(f'\nmodel: a training step of resnet18 on {rows} x 3 x {size} x {size}, {times*a.rounds} rounds')
        print(f'{"":32}{"modules changed":>16}{"ms":>8}   times as long as the bare model')
        for k, v in secs.items():
            ratio = statistics.quantiles([o/b for o, b in zip(v, secs['bare'])], n=4)
            print(f'{k:32}{put[k]:16}{1000*statistics.median(v):8.2f}   {ratio[1]:.4f} ({ratio[0]:.4f} to '
                  f'{ratio[2]:.4f})',
                  flush=True)
    call_cost()


def call_cost(n=20000):
    "What a block that drops nothing right now, as in eval mode, costs in Python"
    m = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(1, 1))
    res = {}
    for k in ('bare', 'changed'):
        if k == 'changed': noise_model(m, blocks={torch.nn.Sequential: '0'})
        m.eval()
        res[k] = min(_seconds(m[0], n) for _ in range(7))/n*1e6
    print(f'\na call of a changed module that drops nothing: {res["changed"]-res["bare"]:.2f} microseconds more',
          flush=True)


def _seconds(f, n):
    start = time.process_time()
    for _ in range(n): f(0)
    return time.process_time()-start


PARTS = dict(images=images, model=model)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--part', choices=['all', *PARTS], default='all')
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--device', default='cpu')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {a.threads} threads, {a.device}; '
          f'torch {torch.__version__}')
    for k, f in PARTS.items():
        if a.part in ('all', k): f(a)


if __name__ == '__main__': main()
