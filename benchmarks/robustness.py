"""Is a noisy student robust, as the paper says? Corrupted pictures of digits and clothes, against the control

    python benchmarks/robustness.py                        # both data sets, 5 seeds, two processes
    python benchmarks/robustness.py --data digits --seeds 3

Networks, noise and budget are those of accuracy.py, whose runs are taken from the same folder where they are there.
Test pictures get noise, blur, less contrast, a shift or an occluded square, each at five severities. The error
relative to the control is, as in ImageNet-C, the sum of a model's errors over the severities by that of the control,
averaged over the corruptions: below 100% is more robust. results/ gets robustness.csv, robustness.md and a figure for
each data set.
"""
import argparse
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accuracy import RESULTS, RUNS, SETTINGS, available, finished, percent_right, prepared, quietly, rounds, supervised
from matplotlib.figure import Figure
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

DATA = ['digits', 'fashion_mnist']
MODELS = dict(plain='supervised, no noise', control='supervised, noise tuned for it (control)',
              three='ours, three rounds')


# corruptions: functions of pictures, n x 1 x size x size from 0 to 1, a strength, and a generator of random numbers

def noise(x, v, g):
    "Normal noise of standard deviation `v`"
    return (x + v*torch.randn(x.shape, generator=g)).clamp(0, 1)


def blur(x, v, g):
    "A bell curve whose standard deviation is `v` of the side"
    sd = v*x.shape[-1]
    side = 2*min(math.ceil(3*sd), x.shape[-1]-1) + 1
    return tv.gaussian_blur(x, [side, side], [sd, sd])


def contrast(x, v, g):
    "`v` of the contrast goes"
    return torch.stack([tv.adjust_contrast(o, 1-v) for o in x])


def shift(x, v, g):
    "Move by `v` of the side in any direction"
    a = 2*math.pi*torch.rand(len(x), generator=g)
    mats = torch.eye(2, 3).repeat(len(x), 1, 1)
    mats[:, :, 2] = 2*v*torch.stack([a.cos(), a.sin()], 1)
    return F.grid_sample(x, F.affine_grid(mats, x.shape, align_corners=False), align_corners=False)


def occlusion(x, v, g):
    "A gray square, `v` of the side wide, anywhere in the picture"
    n, size = len(x), x.shape[-1]
    at = torch.rand(n, 2, generator=g)*(1-v)*size
    t = torch.arange(size)+.5
    ys, xs = ((t >= o) & (t < o+v*size) for o in (at[:, :1], at[:, 1:]))
    return torch.where(ys[:, None, :, None] & xs[:, None, None], .5, x)


CORRUPTIONS = dict(noise=(noise, (.1, .2, .3, .4, .5)), blur=(blur, (.04, .06, .08, .1, .12)),
                   contrast=(contrast, (.3, .45, .6, .75, .9)), shift=(shift, (.05, .1, .15, .2, .25)),
                   occlusion=(occlusion, (.2, .3, .4, .5, .6)))


def corrupted(x, name, severity, seed=0):
    "Pictures `x`, an array, under a corruption of severity 1 to 5; all severities have the same random numbers"
    f, vs = CORRUPTIONS[name]
    return f(torch.as_tensor(x), vs[severity-1], torch.Generator().manual_seed(seed)).numpy()


# measuring

def accuracies(learns, data, seed, part):
    "A line for each model, corruption and severity; severity 0 is the clean picture"
    at, res = getattr(data, part), []
    def add(part, **kw): res.extend(dict(model=k, **kw, accuracy=percent_right(v, part)) for k, v in learns.items())
    add(at, corruption='clean', severity=0)
    for name, (_, vs) in CORRUPTIONS.items():
        for i in range(1, len(vs)+1): add(at._replace(x=corrupted(at.x, name, i, seed)), corruption=name, severity=i)
    return pd.DataFrame(res)


def run_seed(name, seed, s, part='test', runs=None):
    "Train the models on one split, and measure them"
    with quietly():
        data = prepared(name, s, seed)
        run = rounds(data, s, seed, runs)
        learns = dict(plain=supervised(data, s, seed, data.labeled), control=run.learner(0), three=run.learner(3))
        return accuracies(learns, data, seed, part).assign(data=name, seed=seed)


def run_all(names, seeds, settings, jobs=2, part='test', runs=None):
    "All seeds, in parallel"
    res, todo = [], [(k, i) for k in available(names, settings) for i in seeds]
    calls = {(k, i): (k, i, settings[k], part, runs) for k, i in todo}
    for n, ((k, i), df) in enumerate(finished(run_seed, calls, jobs), 1):
        res.append(df)
        means = df[df.severity > 0].groupby('model').accuracy.mean()
        print(f'{n} of {len(todo)}: {k}, seed {i}: ' + ', '.join(f'{m} {means[m]:.1f}' for m in MODELS), flush=True)
    cols = ['data', 'seed', 'model', 'corruption', 'severity', 'accuracy']
    return pd.concat(res)[cols].sort_values(cols[:5], ignore_index=True) if res else pd.DataFrame(columns=cols)


def relative_errors(df):
    "Errors of each seed, model and corruption by those of the control, in percent; `mean` is over the corruptions"
    acc = df[df.severity > 0].set_index(['data', 'seed', 'corruption', 'model']).accuracy
    err = (100-acc).groupby(level=[0, 1, 2, 3]).sum().unstack('model')
    res = (100*err.div(err.control, axis=0)).stack().rename('relative').reset_index()
    mean = res.groupby(['data', 'seed', 'model'], as_index=False).relative.mean().assign(corruption='mean')
    return pd.concat([res, mean], ignore_index=True)


def table(df):
    "A line for each data set and model: accuracies and relative errors; means and standard deviations over seeds"
    rel, lines = relative_errors(df), []
    kinds = [*CORRUPTIONS, 'mean']
    for name, g in df.groupby('data', sort=False):
        for m in MODELS:
            own = g[g.model == m]
            clean = own[own.severity == 0].accuracy
            bad = own[own.severity > 0].groupby('seed').accuracy.mean()
            r = rel[(rel.data == name) & (rel.model == m)].groupby('corruption').relative.agg(['mean', 'std'])
            lines.append({'data': name, 'model': m, 'clean': f'{clean.mean():.1f} ± {clean.std():.1f}',
                          'corrupted': f'{bad.mean():.1f} ± {bad.std():.1f}',
                          **{k: f"{r['mean'][k]:.0f} ± {r['std'][k]:.0f}" for k in kinds}})
    return pd.DataFrame(lines)


def as_markdown(t):
    "The table for a page"
    head = ['data', 'model', 'clean, %', 'corrupted, %', *(f'error by control, {k}, %' for k in [*CORRUPTIONS, 'mean'])]
    rows = [[o.data, MODELS[o.model], *map(str, o[2:])] for _, o in t.iterrows()]
    return '\n'.join('| '+' | '.join(o)+' |' for o in [head, ['---']*len(head), *rows])+'\n'


def figure(df, name):
    "Accuracy against severity, a panel for each corruption"
    fig, df = Figure(figsize=(13, 3.6), layout='constrained'), df[df.data == name]
    axs = fig.subplots(1, len(CORRUPTIONS), sharey=True)
    for ax, kind in zip(axs, CORRUPTIONS):
        for m, label in MODELS.items():
            g = df[(df.model == m) & df.corruption.isin(['clean', kind])]
            g = g.groupby('severity').accuracy.agg(['mean', 'std'])
            ax.errorbar(g.index, g['mean'], g['std'].fillna(0), marker='o', ms=3, capsize=2, label=label)
        ax.set(title=kind, xlabel='severity (0: clean)')
    axs[0].set_ylabel('accuracy on the test set (%)')
    axs[0].legend(fontsize=7)
    gain = df[df.severity > 0].groupby('model').accuracy.mean()
    fig.suptitle(f'{name}: does the student stand corruptions better than its control? '
                 f'{gain.three-gain.control:+.1f} points on average\n'
                 f'({df.seed.nunique()} seeds, bars: standard deviation)')
    return fig


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', nargs='*', default=DATA, choices=DATA)
    p.add_argument('--seeds', type=int, default=5, help='how many')
    p.add_argument('--jobs', type=int, default=2, help='processes, of one thread each')
    p.add_argument('--steps', type=int, help='batches that each network trains on')
    p.add_argument('--out', type=Path, default=RESULTS, help='folder of the results')
    p.add_argument('--runs', type=Path, default=RUNS, help="folder of accuracy.py's runs, which are used again")
    a = p.parse_args()
    settings = {k: s if a.steps is None else replace(s, steps=a.steps) for k, s in SETTINGS.items()}
    df = run_all(a.data, range(a.seeds), settings, a.jobs, runs=a.runs)
    if df.empty: raise SystemExit('no results')
    a.out.mkdir(parents=True, exist_ok=True)
    df.to_csv(a.out/'robustness.csv', index=False, float_format='%.3f')
    (a.out/'robustness.md').write_text(as_markdown(table(df)))
    for name in df.data.unique(): figure(df, name).savefig(a.out/f'robustness_{name}.png', dpi=110)
    print('\n' + table(df).to_string(index=False))


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
