"Exports of all that this package has touched, opened where it is not installed: they predict what they did here"
import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import elsewhere, ours_in
from fastai.callback.schedule import SchedLin
from fastai.data.transforms import IndexSplitter
from fastai.layers import ResBlock
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.core import Categorify, Normalize, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from noisy_student_fastai.all import EMACallback, NoisyStudent, RandAugment, SeriesAugment, StudentNoise, TableNoise
from noisy_student_fastai.all import noise_model as put_noise
from noisy_student_fastai.data.arrays import ArrayLoaders
from noisy_student_fastai.data.metrics import class_metrics
from noisy_student_fastai.data.tables import FillMissing
from torch import nn

RNG = np.random.default_rng(0)
BYTES = RNG.integers(256, size=(40, 3, 8, 8), dtype=np.uint8)
FLOATS = RNG.random((40, 1, 8, 8), dtype=np.float32)
SERIES = RNG.normal(size=(40, 2, 12)).astype(np.float32)
Y = np.arange(40) % 3


def net(c_in, c=3):
    return nn.Sequential(ResBlock(1, c_in, c_in), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, c))


def student(x, y, model, *cbs, lf=None, **kwargs):
    "Trained beside pseudolabels, with noise and an average"
    set_seed(0)
    dls = ArrayLoaders.from_arrays(x[:24], y[:24], (x[24:32], y[24:32]), bs=8, n_batches=2, **kwargs)
    learn = Learner(dls, model, loss_func=lf or CrossEntropyLossFlat(),
                    cbs=[NoisyStudent(dls.test_dl(x[32:], y[32:])), EMACallback(), *cbs])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn


def pictures_in_bytes():
    noise = StudentNoise(RandAugment(m=SchedLin(0, 9)), dropout=SchedLin(0, .5))
    return student(BYTES, Y, net(3), noise, vocab=['a', 'b', 'c'], batch_tfms=aug_transforms(max_warp=0)), BYTES


def pictures_with_noise_in_their_loader():
    "... and in their model"
    learn = student(FLOATS, Y, net(1), vocab=list('abc'), batch_tfms=[RandAugment(n=1, ops=['Invert'])])
    put_noise(learn.model)
    return learn, FLOATS


def series_of_soft_labels():
    y = RNG.dirichlet(np.ones(3), 40).astype(np.float32)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
    return student(SERIES, y, model, StudentNoise(SeriesAugment(), stoch_depth=None), lf=nn.CrossEntropyLoss()), SERIES


def values():
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    return student(SERIES, SERIES[:, :, 0], model, StudentNoise(None, stoch_depth=None), lf=MSELossFlat()), SERIES


def table(procs=(Categorify, Normalize), **kwargs):
    df = pd.DataFrame(RNG.normal(size=(40, 3)), columns=list('abc')).assign(k=np.tile(list('uv'), 20), y=Y.astype(str))
    if kwargs: df.loc[::3, 'a'] = df.loc[35:, 'c'] = np.nan  # c has no gap in training rows
    splits = IndexSplitter(range(20, 32))(df[:32])
    to = TabularPandas(df[:32], list(procs), ['k'], list('abc'), 'y', splits=splits)
    learn = tabular_learner(to.dataloaders(bs=8), [8], cbs=StudentNoise(TableNoise(.1, .1), stoch_depth=None), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn, df.drop(columns='y')


@pytest.mark.parametrize('make', [pictures_in_bytes, pictures_with_noise_in_their_loader, series_of_soft_labels, values,
                                  table])
def test_an_export_needs_fastai_only(tmp_path, make):
    learn, x = make()
    row = x.iloc[5] if make is table else x[5]
    with learn.no_bar(): want, one = learn.get_preds(dl=learn.dls.test_dl(x))[0], learn.predict(row)
    learn.export(tmp_path/'a.pkl')
    with elsewhere(): there = load_learner(tmp_path/'a.pkl')
    here = load_learner(tmp_path/'a.pkl')
    assert ours_in(there) == set() and type(there.dls) is not type(here.dls) or make is table
    assert [type(o) for o in here.cbs] == [type(o) for o in learn.cbs]
    for o in (there, here):
        with o.no_bar():
            for bs in (7, 64):
                got = o.get_preds(dl=o.dls.test_dl(x, bs=bs))[0]
                assert torch.allclose(got, want, atol=1e-6)
            label, _, p = o.predict(row)[-3:]
        assert str(label) == str(one[-3]) and torch.allclose(p, want[5], atol=1e-6)
        assert list(getattr(o.dls, 'vocab', None) or []) == list(getattr(learn.dls, 'vocab', None) or [])


ELSEWHERE = """
import sys, json, pandas as pd
class Hidden:
    def find_spec(self, name, *args):
        if name.split('.')[0]=='noisy_student_fastai': raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
from fastai.learner import load_learner
learn, df = load_learner('a.pkl'), pd.read_csv('x.csv')
with learn.no_bar(), learn.no_logging():
    p = learn.get_preds(dl=learn.dls.test_dl(df))[0].tolist()
    scores = list(learn.validate(dl=learn.dls.test_dl(df.assign(y=['0', '1']*20), with_labels=True)))
print(json.dumps([p, [o.name for o in learn.metrics], scores]))
"""


def test_gaps_and_scores_where_the_package_is_not(tmp_path, python):
    "Gaps are filled alike; scores that can't be worked out there are unknown, and no error"
    learn, x = table([FillMissing, Categorify, Normalize], metrics=class_metrics(['0', '1', '2']))
    with learn.no_bar(): want = learn.get_preds(dl=learn.dls.test_dl(x))[0]
    learn.export(tmp_path/'a.pkl')
    x.to_csv(tmp_path/'x.csv', index=False)
    p, names, scores = json.loads(python('-c', ELSEWHERE, cwd=tmp_path).splitlines()[-1])
    assert np.allclose(p, want, atol=1e-5) and names == [o.name for o in learn.metrics]
    assert np.isfinite(scores[:2]).all() and np.isnan(scores[2:]).all()
    here = load_learner(tmp_path/'a.pkl')
    assert FillMissing in [type(o) for o in here.dls.procs.fs]
    with here.no_bar(): assert torch.allclose(here.get_preds(dl=here.dls.test_dl(x))[0], want)


def test_it_goes_on_training_there(tmp_path):
    "Idle callbacks and noise that is none disturb nobody"
    learn, x = pictures_with_noise_in_their_loader()
    learn.export(tmp_path/'a.pkl')
    with elsewhere():
        there = load_learner(tmp_path/'a.pkl')
        dl = there.dls.test_dl(x, with_labels=False)
        assert len(list(dl)[0]) == 1
        there.model.train()
        assert torch.equal(there.model(torch.zeros(4, 1, 8, 8)), there.model(torch.zeros(4, 1, 8, 8)))


def test_what_is_pickled_here_is_what_it_was():
    "Models keep their noise, one object stays one, `undo` works in a copy of any kind"
    model = net(3)
    plain = [type(m).forward for m in model.modules()]
    put_noise(model, dropout=.4)
    for way in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        new = way(model)
        assert new._model_noise.model is new and new._model_noise.table.equals(model._model_noise.table)
        torch.manual_seed(0)
        a, b = new.train()(torch.ones(4, 3, 8, 8)), new(torch.ones(4, 3, 8, 8))
        assert not torch.equal(a, b)
        new._model_noise.undo()
        assert not any('forward' in vars(m) for m in new.modules()) and len(plain) == len(list(new.modules()))
    knob = pickle.loads(pickle.dumps(model._model_noise))  # from its other end
    knob.undo()
    assert not any('forward' in vars(m) for m in knob.model.modules())
    one, two = pickle.loads(pickle.dumps([tfm := RandAugment(m=3), tfm]))
    assert one is two and one.m == 3 and copy.copy(one).m == 3


class Own(RandAugment): "Somebody's own"


def test_a_class_of_somebody_s_own(): assert type(pickle.loads(pickle.dumps(Own(m=2)))) is Own
