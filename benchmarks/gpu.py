"""What only a GPU can tell, in ten minutes at most: tools/gpu.sh calls this

    python benchmarks/gpu.py                     # all parts, each with its limit: results/gpu.md, and the page
    python benchmarks/gpu.py --part labels       # one of those below, here and now
    python benchmarks/gpu.py --part compile --device cpu --backend eager

`tests`    tests/across/test_gpu.py
`step`     benchmarks/step.py: a training step with `NoisyStudent`, in bf16
`images`   benchmarks/noise.py: RandAugment on a batch on the device, against torchvision's on one image after the other
`labels`   rows per second of `Learner.pseudolabel` in bf16, a ResNet-50 on pictures of 224 x 224 bytes in memory,
           against a bare torch loop; both do the same to a batch
`compile`  how many graphs torch.compile makes of a model that trains with `NoisyStudent`: one, in the first step
"""
import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
BENCH = 'benchmarks'
# Arguments of Python, and seconds: with the start of each part, less than ten minutes together
PARTS = dict(tests=(['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/across/test_gpu.py'], 150),
             step=([f'{BENCH}/step.py', '--device', 'cuda', '--rounds', '6', '--steps', '10'], 110),
             images=([f'{BENCH}/noise.py', '--part', 'images', '--device', 'cuda', '--rounds', '4'], 90),
             labels=([f'{BENCH}/gpu.py', '--part', 'labels'], 120),
             compile=([f'{BENCH}/gpu.py', '--part', 'compile'], 110))


# labels

MEAN, STD = [.485, .456, .406], [.229, .224, .225]


def pictures(n, size):
    return np.random.default_rng(0).integers(256, size=(n, 3, size, size), dtype=np.uint8)


def photo_learner(x, model, a):
    "A Learner of pictures in bytes, which become numbers on the device"
    from fastai.data.core import DataLoaders, TfmdDL
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.torch_core import TensorImage
    rows = [(TensorImage(torch.from_numpy(255-o)), i % 10) for i, o in enumerate(x[:16])]
    tfms = [IntToFloatTensor(), Normalize.from_stats(MEAN, STD, cuda=a.device == 'cuda')]
    dls = DataLoaders(*(TfmdDL(rows, bs=8, num_workers=0, after_batch=tfms, device=a.device) for _ in range(2)))
    return Learner(dls, model.to(a.device), loss_func=CrossEntropyLossFlat())


def bare(model, x, a):
    "What has to be done at least: each batch to the device, numbers, the model, probabilities back"
    mean, std = (torch.tensor(o, device=a.device)[:, None, None] for o in (MEAN, STD))
    model.eval()
    res = []
    with torch.no_grad(), torch.autocast(a.device, torch.bfloat16):
        for i in range(0, len(x), a.bs):
            xb = torch.from_numpy(x[i:i+a.bs]).to(a.device).float().div_(255)
            res.append(model((xb-mean)/std).float().softmax(1).cpu())
    return torch.cat(res)


def labels(a):
    "`n` pictures in memory, 1,000 classes"
    import noisy_student_fastai.labels.labeling  # noqa: F401  (gives Learner `pseudolabel`)
    from torchvision.models import resnet18, resnet50
    torch.manual_seed(0)
    x = pictures(a.n, a.size)
    learn = photo_learner(x, dict(resnet18=resnet18, resnet50=resnet50)[a.model](num_classes=1000), a)
    kw = dict(bs=a.bs, amp='bf16', leaks='keep')
    with tempfile.TemporaryDirectory() as tmp:
        sides = {'bare loop': lambda: bare(learn.model, x, a), 'in memory': lambda: learn.pseudolabel(x, **kw).probs,
                 'in memory, top_k=64': lambda: learn.pseudolabel(x, top_k=64, **kw).probs,
                 'to a folder': lambda: learn.pseudolabel(x, f'{tmp}/labels', overwrite=True, **kw).probs}
        secs, res = in_turns(sides, a.rounds)
    far = np.abs(np.asarray(res['in memory'], np.float32)-res['bare loop'].numpy()).max()
    print(f'{a.model} in bf16, {a.n:,} pictures of 3 x {a.size} x {a.size} bytes, batches of {a.bs}, {a.rounds} '
          f'rounds\n{"":24}{"rows/s":>10}   share of the bare loop\'s speed')
    for k, v in secs.items():
        share = statistics.median(b/o for b, o in zip(secs['bare loop'], v))
        print(f'{k:24}{a.n/statistics.median(v):10,.0f}   {share:.3f}')
    print(f'Probabilities differ by {far:.1e} at most from those of the bare loop')
    return secs, far


def in_turns(sides, rounds):
    "Seconds of each side in each round, after one that does not count, and what it gives"
    secs, res = {k: [] for k in sides}, {}
    for i in range(rounds+1):
        for k in (list(sides) if i % 2 else list(sides)[::-1]):
            start = time.perf_counter()
            res[k] = sides[k]()
            if torch.cuda.is_available(): torch.cuda.synchronize()
            if i: secs[k].append(time.perf_counter()-start)
    return secs, res


# compile

def student(side, backend, a):
    "A Learner whose model is compiled, and what counts the graphs"
    import step
    from fastai.torch_core import set_seed
    from noisy_student_fastai.all import NoisyStudent, StudentNoise
    from torch._dynamo.testing import CompileCounterWithBackend
    def dl(soft, seed):
        n = a.bs*a.steps//(1 if side == 'plain' else 2)
        return step.ArrayDL(step.Arrays(*step.data(n, soft, seed)), bs=a.bs, shuffle=True, drop_last=True,
                            num_workers=0, device=a.device)
    cbs = [] if side == 'plain' else [NoisyStudent(dl(True, 1), pseudolabel_sample_weight=.5)]
    if 'StudentNoise' in side: cbs.append(StudentNoise(None, dropout=.3, stoch_depth=None))
    counter = CompileCounterWithBackend(backend)
    set_seed(0)
    learn = step.learner(dl(False, 0), 'small', a, *cbs)
    learn.model = torch.compile(learn.model, backend=counter)
    return learn, counter


SIDES = 'plain', 'NoisyStudent', 'NoisyStudent, StudentNoise'


def compiled(a, sides=SIDES):
    "Graphs after each training step, over two epochs"
    from fastai.callback.core import Callback
    res = {}
    print(f'{"":32}graphs after step 1, 2 and the last of {2*a.steps}   ms a step')
    for side in sides:
        torch._dynamo.reset()
        learn, counter = student(side, a.backend, a)

        class Count(Callback):
            order, seen, times = 55, [], []
            def after_batch(self):
                if a.device == 'cuda': torch.cuda.synchronize()
                self.seen.append(counter.frame_count)
                self.times.append(time.perf_counter())
        with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=Count())
        res[side], times = Count.seen, np.diff(Count.times)
        seen, ms = Count.seen, 1e3*np.median(times[len(times)//2:])
        print(f'{side:32}{seen[0]}, {seen[1]}, {seen[-1]:<43}{ms:.2f}')
    return res


# all

def run(name, limit, argv):
    "A part in a process of its own: a line that says how it went, and what it printed"
    start = time.perf_counter()
    try:
        o = subprocess.run([sys.executable, *argv], cwd=ROOT, timeout=limit, capture_output=True, text=True)
        how, out = 'done' if o.returncode == 0 else f'failed ({o.returncode})', o.stdout
        if o.returncode: out += o.stderr
    except subprocess.TimeoutExpired as e: how, out = f'stopped after {limit} s', (e.stdout or b'').decode()
    return f'{name}: {how}, {time.perf_counter()-start:.0f} s', '\n'.join(out.strip().splitlines()[-60:])


def as_markdown(device, parts):
    "The page: `parts` are lines and outputs"
    head = f'`tools/gpu.sh` on {device}, {date.today()}; Python {platform.python_version()}, torch {torch.__version__}.'
    return head+'\n'+''.join(f'\n**{line}**\n\n```\n{out}\n```\n' for line, out in parts)


def run_all():
    from runs import RESULTS, publish
    if not torch.cuda.is_available(): sys.exit('torch sees no GPU here, so nothing is measured')
    device, parts = torch.cuda.get_device_name(), []
    for k, (argv, limit) in PARTS.items():
        parts.append(run(k, limit, argv))
        print('\n'.join(parts[-1]), flush=True)
        publish(as_markdown(device, parts), RESULTS, 'gpu')  # after each: somebody may stop it
    return sum(': done' not in line for line, _ in parts)


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--part', choices=['labels', 'compile'])
    p.add_argument('--device', default='cuda')
    p.add_argument('--n', type=int, default=8192)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--bs', type=int, default=256)
    p.add_argument('--model', default='resnet50', choices=['resnet18', 'resnet50'])
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--steps', type=int, default=20)
    p.add_argument('--backend', default='inductor')
    a = p.parse_args(argv)
    a.bf16 = a.device == 'cuda'
    return a


if __name__ == '__main__':
    args = arguments()
    if args.part is None: sys.exit(run_all())
    dict(labels=labels, compile=compiled)[args.part](args)
