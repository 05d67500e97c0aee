"Does `self_train` run on data of all kinds, with its last step without noise, and can its student be exported?"

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
from fastai.metrics import accuracy, accuracy_multi, mse
from fastai.optimizer import SGD
from fastai.tabular.core import Categorify, Normalize, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock, ImageDataLoaders
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.rounds.self_training import self_train
from noisy_student_fastai.student import NoisyStudent
from PIL import Image
from rounds_toys import ARGS, UNLABELED, Jitter, make, same, train
from torch import nn
from toys import net, points, rows


class Inputs(Callback):
    "The training inputs of each fit"
    order, seen = 49, []
    def before_fit(self):
        if not self.learn.lock.locked(): Inputs.seen.append([])
    def before_batch(self):
        if self.training: Inputs.seen[-1] += [o.detach().clone().as_subclass(torch.Tensor) for o in self.xb[-1]]


def run(make, unlabeled, **kwargs):
    Inputs.seen.clear()
    kwargs = dict(n_rounds=1, n_epoch=2, student=dict(bs=8), finetune=dict(n_epoch=1), control=True,
                  weak_teacher='warn')|kwargs
    res = self_train(make, unlabeled, **kwargs)
    assert res.records.role.tolist() == ['teacher', 'student', 'finetuned', 'control']
    again = self_train(make, unlabeled, **kwargs)
    cols = [o for o in res.records if 'seconds' not in o]
    pd.testing.assert_frame_equal(again.records[cols], res.records[cols], check_exact=True)
    assert res.verdict() and len(res.labels(1)) == len(unlabeled)
    return res


def distinct(xs): return len({o.numpy().tobytes() for o in xs})


def pictures(path):
    "Files with reddish and greenish pictures"
    rng = np.random.default_rng(0)
    for i in range(60):
        a = rng.integers(0, 80, (20, 20, 3))
        a[..., i % 2] += 150
        Image.fromarray(a.astype(np.uint8)).save(path/f'{i:02}.png')
    return sorted(path.glob('*.png'))


OPEN = """
import sys
from fastai.learner import load_learner
class Hidden:
    def find_spec(self, name, *args):
        if name.startswith('noisy_student_fastai'): raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
for f in sys.argv[2:]:
    learn = load_learner(f)
    with learn.no_bar(): print(*map(float, learn.predict(sys.argv[1])[2]))
"""


def test_exports_of_an_image_block(tmp_path, python):
    "Blocks, augmentation, a student by hand and one of `self_train`: `load_learner` without the package, same answer"
    files = pictures(tmp_path)
    block = DataBlock((ImageBlock, CategoryBlock), get_y=lambda f: str(int(f.stem) % 2),
                      splitter=IndexSplitter(range(16, 24)),
                      item_tfms=Resize(16), batch_tfms=aug_transforms(max_rotate=30.))
    def make(r=0, cbs=None):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        return Learner(block.dataloaders(files[:24], bs=8, num_workers=0), model, metrics=accuracy, cbs=cbs)
    teacher = make()
    dl2 = teacher.pseudolabel(files[24:]).select().dl(teacher.dls)
    student = make(cbs=[NoisyStudent(dl2), StudentNoise(stoch_depth=None)])
    with student.no_bar(), student.no_logging(): student.fit(1)
    learners = dict(hand=student,
                    rounds=self_train(make, files[24:], n_rounds=1, n_epoch=1, noise=dict(stoch_depth=None),
                                      weak_teacher='warn').learn)
    want = []
    for k, o in learners.items():
        o.export((tmp_path/f'{k}.pkl').resolve())
        with o.no_bar(): want.append(o.predict(files[30])[2].tolist())
    out = python('-c', OPEN, files[30], *(tmp_path/f'{k}.pkl' for k in learners), cwd=tmp_path)
    assert np.allclose([[float(v) for v in o.split()] for o in out.strip().splitlines()[-2:]], want, atol=1e-6)


def test_pictures(tmp_path):
    files = pictures(tmp_path)
    def make(r):
        dls = ImageDataLoaders.from_lists(tmp_path, files[:24], [str(i % 2) for i in range(24)], bs=8, num_workers=0,
                                          valid_pct=.5, seed=0,
                                          item_tfms=Resize(16), batch_tfms=aug_transforms(max_rotate=30., max_warp=0))
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        return Learner(dls, model, metrics=accuracy, cbs=Inputs())
    run(make, files[24:], noise=dict(stoch_depth=None), finetune=dict(n_epoch=3))
    teacher, _, fine = Inputs.seen[:3]
    assert distinct(teacher) > 12 >= distinct(fine) and len(fine) == 24  # the same 12 pictures each time


def test_tables():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 90)
    df = pd.DataFrame(dict(a=rng.normal(size=90)+2*y, b=rng.normal(size=90),
                           kind=np.where(rng.random(90) < .2+.6*y, 'u', 'v'), y=y.astype(str)))
    def make(r):
        to = TabularPandas(df[:40], [Categorify, Normalize], ['kind'], ['a', 'b'], 'y', CategoryBlock(),
                              splits=IndexSplitter(range(20, 40))(df[:40]))
        return tabular_learner(to.dataloaders(bs=8), layers=[8], metrics=accuracy, cbs=Inputs())
    res = run(make, df[40:].drop(columns='y').reset_index(drop=True), noise=dict(stoch_depth=None), n_epoch=4, lr=.05)
    assert res.records.precision[1] > .5
    assert distinct(Inputs.seen[2]) <= 20 < distinct(Inputs.seen[0])


@pytest.mark.parametrize('kind', ['multi', 'values'])
def test_other_targets(kind):
    def items(n, seed):
        x, y = points(n, seed)
        values = torch.stack([x.sum(1), x[:, 0]], 1)[..., None]  # two variables, a step
        return rows(x, torch.nn.functional.one_hot(y, 3).float() if kind == 'multi' else values)
    def make(r):
        dls = DataLoaders(TfmdDL(items(24, 1), bs=8, shuffle=True, num_workers=0),
                          TfmdDL(items(20, 2), bs=8, num_workers=0))
        lf, met = (BCEWithLogitsLossFlat(), accuracy_multi) if kind == 'multi' else (MSELossFlat(), mse)
        return Learner(dls, net(3 if kind == 'multi' else 2), loss_func=lf, metrics=met, opt_func=SGD, lr=.05,
                       cbs=Inputs())
    res = run(make, UNLABELED, noise=dict(tfms=Jitter(), stoch_depth=None))
    assert np.isnan(res.records.precision[1]) and np.isnan(res.records.least_class[1])
    df = res.records[res.records.role != 'control']
    # less is better
    if kind == 'values': assert res.monitor == 'mse' and df.mse.min() == df.mse[df['round'] == res.best[1]].min()
    else: assert res.monitor == 'accuracy_multi'


@pytest.mark.tsai
def test_series():
    from tsai_toys import SPLITS, X2, classifier
    res = run(lambda r: classifier(Inputs(), bs=16, metrics=accuracy), X2, student=dict(bs=16))
    assert res.records.n_batches[0] >= 12 and len(Inputs.seen[2]) == len(SPLITS[0])//16*16


def test_rows_of_a_file(tmp_path):
    "What a run makes of a file is what it makes of the array that is in it, and it goes on with it"
    pd.DataFrame(UNLABELED, columns=['a', 'b']).to_parquet(tmp_path/'x.parquet', row_group_size=50)
    args = dict(ARGS, n_rounds=1, n_epoch=2)
    for x in (tmp_path/'x.parquet', f'{tmp_path}/*.parquet'): res = train(tmp_path/'run', unlabeled=x, **args)
    same(res, train(**args))
    assert res.labels(1).select(0).dl(make().dls).dataset.n == len(UNLABELED)
