"""Is a noisy student robust, as the paper says? Corrupted pictures of digits and clothes, against the control

    python benchmarks/robustness.py                        # both data sets, 5 seeds, two processes
    python benchmarks/robustness.py --data digits --seeds 3

Networks, noise and budget are those of accuracy.py, whose runs are taken from the same folder where they are there;
results are kept seed by seed and told apart by their settings as there. Test pictures, the first 2,000 of a seed, get
noise, blur, less contrast, a shift or an occluded square, each at five severities. There are two controls, one with
noise that suits it and one with the noise of students; those of accuracy.py that have the batches of three rounds are
left out. The error relative to the control is, as in ImageNet-C, the sum of a model's errors over the
severities by that of the control which is better on clean pictures, averaged over the corruptions: below 100% is more
robust. results/ gets robustness.csv, robustness.md and a figure for each data set.
"""
import math
import os

import pandas as pd
import torch
from accuracy import ROWS, best_control, in_words, trainers, with_sign
from matplotlib.figure import Figure
from noisy_student_fastai.data.datasets import Part
from runs import arguments, publish, results
from sets import prepared
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv
from training import percent_right, quietly

DATA = ['digits', 'fashion_mnist']
N_TEST = 2000  # pictures of a test set, at most: each is looked at 26 times by each model
MODELS = {k: ROWS[k] for k in ('plain', 'control', 'control_m', 'three')}  # without the long controls


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
    at, res = Part(*(o[:N_TEST] for o in getattr(data, part))), []
    def add(part, **kw): res.extend(dict(row=k, **kw, accuracy=percent_right(v, part)) for k, v in learns.items())
    add(at, corruption='clean', severity=0)
    for name, (_, vs) in CORRUPTIONS.items():
        for i in range(1, len(vs)+1): add(at._replace(x=corrupted(at.x, name, i, seed)), corruption=name, severity=i)
    return pd.DataFrame(res)


def run_seed(name, seed, s, part, runs, rows):
    "Train the models `rows` on one split, and measure them"
    with quietly():
        data = prepared(name, s, seed)
        nets = trainers(data, s, seed, runs)
        return accuracies({k: nets[k]() for k in MODELS if k in rows}, data, seed, part)


def base_of(df):
    "The control that errors are divided by, for each data set: the one that is better on clean pictures"
    means = df[df.severity == 0].groupby(['data', 'row']).accuracy.mean()
    return {k: best_control(means[k].drop('plain')) for k in df.data.unique()}


def relative_errors(df):
    "Errors of each seed, model and corruption by those of the better control, in percent; `mean`: over the corruptions"
    acc = df[df.severity > 0].set_index(['data', 'seed', 'corruption', 'row']).accuracy
    err = (100-acc).groupby(level=[0, 1, 2, 3]).sum().unstack('row')
    by = pd.concat([err.loc[[k], c] for k, c in base_of(df).items()])
    res = (100*err.div(by, axis=0)).stack().rename('relative').reset_index()
    mean = res.groupby(['data', 'seed', 'row'], as_index=False).relative.mean().assign(corruption='mean')
    return pd.concat([res, mean], ignore_index=True)


def table(df):
    "A line for each data set and model: accuracies and relative errors; means and standard deviations over seeds"
    rel, lines = relative_errors(df), []
    kinds = [*CORRUPTIONS, 'mean']
    for name, g in df.groupby('data', sort=False):
        for m in MODELS:
            own = g[g.row == m]
            clean = own[own.severity == 0].accuracy
            bad = own[own.severity > 0].groupby('seed').accuracy.mean()
            r = rel[(rel.data == name) & (rel.row == m)].groupby('corruption').relative.agg(['mean', 'std'])
            lines.append({'data': name, 'row': m, 'clean': f'{clean.mean():.1f} ± {clean.std():.1f}',
                          'corrupted': f'{bad.mean():.1f} ± {bad.std():.1f}',
                          **{k: f"{r['mean'][k]:.0f} ± {r['std'][k]:.0f}" for k in kinds}})
    return pd.DataFrame(lines)


def as_markdown(t):
    "The table for a page: accuracies, and relative errors by corruption"
    head = ['data', 'model', 'clean, %', 'corrupted, %', *CORRUPTIONS, 'mean']
    rows = [[in_words(o.data), MODELS[o.row], *map(str, o.iloc[2:])] for _, o in t.iterrows()]
    return with_sign('\n'.join('| '+' | '.join(o)+' |' for o in [head, ['---']*len(head), *rows])+'\n')


def figure(df, name):
    "Accuracy against severity, a panel for each corruption"
    fig, df = Figure(figsize=(13, 4), layout='constrained'), df[df.data == name]
    axs = fig.subplots(1, len(CORRUPTIONS), sharey=True)
    for ax, kind in zip(axs, CORRUPTIONS):
        for m, label in MODELS.items():
            g = df[(df.row == m) & df.corruption.isin(['clean', kind])]
            g = g.groupby('severity').accuracy.agg(['mean', 'std', 'count'])
            ax.errorbar(g.index, g['mean'], g['std'].where(g['count'] > 2, 0), marker='o', ms=3, capsize=2, label=label)
        ax.set(title=kind, xlabel='severity (0: clean)')
    axs[0].set_ylabel('accuracy on the test set (%)')
    fig.legend(*axs[0].get_legend_handles_labels(), ncols=len(MODELS), loc='outside lower center', frameon=False)
    gain, base = df[df.severity > 0].groupby('row').accuracy.mean(), base_of(df)[name]
    fig.suptitle(f'{name}: does the student stand corruptions better than the better control? '
                 f'{gain.three-gain[base]:+.1f} points on average\n'
                 f'({df.seed.nunique()} seeds, bars: standard deviation)')
    return fig


def main():
    a = arguments(__doc__, DATA)
    name = 'robustness_tuning' if a.tune else 'robustness'
    df, asked = results(run_seed, set(MODELS), a, name)
    print('\n' + table(asked).to_string(index=False))
    publish(as_markdown(table(df)), a.out, name)
    for k in df.data.unique(): figure(df, k).savefig(a.out/f'{name}_{k}.png', dpi=110)


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
