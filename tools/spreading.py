"""Draw the moving picture of the README: labels that spread over unlabeled digits, round by round

    python tools/spreading.py        # nbs/images/spreading.gif, and spreading.png for those who want no motion

It shows one real run of `self_train` on digits with 40 labels: which rows each teacher labels with confidence, which of
these labels are wrong, and the student's accuracy on test rows. Where a digit is drawn comes from its pixels alone.
"""
import argparse
import io
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from run_notebooks import ROOT

IMAGES = ROOT/'nbs'/'images'
SIZE, DPI = (4.8, 4.6), 100
INK, GRAY = '#1a1a1a', '#d4d7db'
COLORS = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#8c564b', '#7f3fbf', '#17becf', '#bcbd22', '#5b5b5b']


def train(n_epoch=60, n_rounds=3, min_conf=.95, n_rows=None):
    "What a run of the README's settings, on confident rows only, has done in each round; `n_rows`: a quick try"
    from fastai.vision.all import ConvLayer, Learner, accuracy, aug_transforms, nn
    from noisy_student_fastai.all import label_scarce, self_train

    def net():
        return nn.Sequential(ConvLayer(1, 32), ConvLayer(32, 64, stride=2), nn.Flatten(), nn.Dropout(),
                             nn.Linear(1024, 10))

    select = dict(min_conf=min_conf)
    data = label_scarce('digits', n_valid=200)
    cut = {k: type(o)(*(v[:n_rows] for v in o)) for k, o in data.parts.items() if k != 'labeled'}
    data = replace(data, **cut)
    tfms = aug_transforms(do_flip=False, max_rotate=15, min_zoom=.8, max_zoom=1.2, max_lighting=0, pad_mode='zeros')
    run = self_train(lambda round: Learner(data.dls(bs=40, n_batches=1), net(), metrics=accuracy), data.unlabeled.x,
                     n_rounds=n_rounds, n_epoch=n_epoch, lr=5e-3, select=select, patience=None,
                     dl=dict(temperature=.5), student=dict(bs=64, l2pl_ratio=1/7),
                     noise=dict(tfms=tfms, stoch_depth=None), weak_teacher='warn', test=data.test.dl())
    return data, [lesson(run.labels(r), select, data.unlabeled.y) for r in range(1, n_rounds+1)], run.records


def lesson(pl, select, truth):
    "What the student of a round was taught: which rows, their labels, which are wrong"
    conf, label = np.asarray(pl.conf), np.asarray(pl.label)
    kept = np.zeros(pl.n, bool)
    kept[pl.select(**select).rows] = True
    return dict(conf=conf, label=label, kept=kept, wrong=label != truth)


def places(data, seed=0):
    "Where labeled and unlabeled digits are drawn: t-SNE of their pixels, which knows no labels"
    from sklearn.manifold import TSNE
    x = np.concatenate([data.labeled.x, data.unlabeled.x])
    x = np.asarray(x, np.float32).reshape(len(x), -1)
    xy = TSNE(perplexity=min(30, len(x)/4), init='pca', random_state=seed).fit_transform(x)
    return xy[:len(data.labeled.y)], xy[len(data.labeled.y):]


# --- pictures

class Scene:
    "The figure on which all frames are drawn"
    def __init__(self, data, rounds, records):
        import matplotlib.pyplot as plt
        self.data, self.rounds = data, rounds
        self.accuracies = records.test_accuracy.tolist()
        self.at_labeled, self.at = places(data)
        self.colors = np.array(COLORS)
        self.fig, self.ax = plt.subplots(figsize=SIZE, dpi=DPI)
        self.fig.subplots_adjust(0, .13, 1, .9)

    def dots(self, at, size, color, **kwargs): self.ax.scatter(*at.T, s=size, c=color, lw=0, **kwargs)

    def frame(self, n, shown=None):
        "The state in round `n` (0: the teacher has not labeled yet), with the labels of the rows `shown`"
        self.ax.clear()
        self.ax.set_axis_off()
        self.dots(self.at, 12, GRAY)
        if n: self.draw_labels(self.rounds[n-1], shown)
        y, names = self.data.labeled.y, self.data.vocab
        self.ax.scatter(*self.at_labeled.T, s=150, c=self.colors[y], edgecolors=INK, linewidths=1.3)
        for (a, b), c in zip(self.at_labeled, y):
            self.ax.text(a, b, names[c], color='w', weight='bold', size=9, ha='center', va='center_baseline')
        for t in self.fig.texts[:]: t.remove()
        for at, said in zip((.965, .085, .03), self.words(n)):
            self.fig.text(.5, at, said, ha='center', va='center', size=15 if at > .5 else 11.5, color=INK)
        return self.image()

    def draw_labels(self, o, shown):
        "Labels as colors, a cross on each wrong one"
        kept = o['kept'] if shown is None else o['kept'] & shown
        self.dots(self.at[kept], 16, self.colors[o['label'][kept]])
        self.ax.scatter(*self.at[kept & o['wrong']].T, s=34, marker='x', c=INK, linewidths=1.4)

    def words(self, n):
        "Title, what has been labeled, how good the networks are"
        said = ' → '.join(f'{100*o:.1f}' for o in self.accuracies[:n+1])
        accuracy = f'accuracy on {self.data.test.n} test digits: {said}%'
        if n == 0: return f'{self.data.labeled.n} labels', f'{self.data.unlabeled.n} unlabeled digits', accuracy
        o = self.rounds[n-1]
        right = 1 - o['wrong'][o['kept']].mean() if o['kept'].any() else 0
        return (f'Round {n}', f"{o['kept'].sum()} of {len(o['kept'])} labeled, {right:.1%} of them right (× wrong)",
                accuracy)

    def image(self):
        buf = io.BytesIO()
        self.fig.savefig(buf, facecolor='w')
        return Image.open(buf).convert('RGB')


def frames(scene, n_steps=6, fast=110, slow=2200):
    "Pictures, and for how many milliseconds each of them stands"
    res = [(scene.frame(0), slow)]
    before = np.zeros(scene.data.unlabeled.n, bool)
    for n, o in enumerate(scene.rounds, 1):
        new = o['kept'] & ~before  # the most confident ones first
        order = np.argsort(-o['conf'][new], kind='stable')
        for part in np.array_split(order, n_steps)[:-1]:
            before[np.flatnonzero(new)[part]] = True
            res.append((scene.frame(n, before), fast))
        res.append((scene.frame(n), slow))
        before = o['kept'].copy()
    return res[:-1] + [(res[-1][0], 2*slow)]


def save(pictures, gif, png):
    "A GIF with one palette for all of its frames, and its last frame"
    images, times = zip(*pictures)
    palette = images[-1].quantize(200, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    first, *rest = [o.quantize(palette=palette, dither=Image.Dither.NONE) for o in images]
    first.save(gif, save_all=True, append_images=rest, duration=times, loop=0, optimize=True)
    palette.save(png, optimize=True)


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=IMAGES, help='folder for the two pictures')
    a = p.parse_args(args)
    matplotlib.use('Agg')
    a.out.mkdir(parents=True, exist_ok=True)
    save(frames(Scene(*train())), a.out/'spreading.gif', a.out/'spreading.png')


if __name__ == '__main__': main()
