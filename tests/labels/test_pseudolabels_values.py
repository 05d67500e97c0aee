"Values of any shape: from several teachers to the loss of a student, beside numpy and torch"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.block import DataBlock, RegressionBlock, TransformBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.metrics import mae
from fastai.optimizer import SGD
from fastai.tabular.core import Categorify, Normalize, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.torch_core import set_seed
from label_toys import outputs
from noisy_student_fastai.all import NoisyStudent, PseudoLabels
from torch import nn
from torch.nn import functional as F

N, N2 = 24, 60


def arrays(shape, seed):
    "Inputs, and values of this shape in units of their own"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N+N2, 3)).astype(np.float32)
    y = (x@rng.normal(size=(3, int(np.prod(shape))))).reshape(-1, *shape)*10.**rng.integers(-2, 3, shape)
    return x, y.astype(np.float32)


def learner(x, y, *cbs, seed=0, lf=None):
    set_seed(seed)
    rows = list(zip(torch.tensor(x[:N]), torch.tensor(y[:N])))
    dls = DataLoaders(TfmdDL(rows, bs=8, shuffle=True, num_workers=0), TfmdDL(rows[:9], bs=8, num_workers=0))
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, y[0].size), nn.Unflatten(1, y.shape[1:]))
    return Learner(dls, model, loss_func=lf or MSELossFlat(), opt_func=SGD, lr=1e-4, cbs=cbs)


class Losses(Callback):
    "What the loss is computed from, and the loss"
    order = 49
    def __init__(self): self.seen = []
    def after_loss(self):
        if self.training: self.seen.append((self.x.clone(), self.pred.detach().clone(), self.loss.item()))


def quietly(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()


@pytest.mark.parametrize('shape,lf,torch_lf', [((1,), None, F.mse_loss), ((3,), nn.L1Loss(), F.l1_loss),
                                               ((2, 5), None, F.mse_loss), ((1, 3, 2), nn.SmoothL1Loss(),
                                                F.smooth_l1_loss)])
@pytest.mark.parametrize('seed', [0, 1])
def test_from_teachers_to_a_student(tmp_path, shape, lf, torch_lf, seed):
    x, y = arrays(shape, seed)
    teachers = [learner(x, y, seed=i, lf=lf) for i in range(3)]
    for o in teachers: quietly(o, lambda: o.fit(2))
    each = np.stack([quietly(o, lambda: o.get_preds(dl=o.dls.test_dl(list(zip(x[N:]))))[0].numpy()) for o in teachers])
    assert np.allclose(teachers[0].pseudolabel(x[N:]).values, each[0], rtol=1e-5)
    pl = teachers[0].pseudolabel(x[N:], tmp_path/'a', teachers=teachers[1:])
    again = PseudoLabels.open(tmp_path/'a', x[N:])
    spread = (each.std(0, ddof=1)/each.mean(0).std(0)).reshape(N2, -1).mean(1)
    for o in (pl, again, again.save(tmp_path/'b'), teachers[0].pseudolabel(x[N:], teachers=teachers[1:])):
        assert o.values.shape == (N2, *shape) and np.allclose(o.values, each.mean(0), rtol=1e-5)
        assert np.allclose(o.std, each.std(0, ddof=1), rtol=1e-4) and np.allclose(o.spread, spread, rtol=1e-4)
    least = float(np.sort(spread)[N2//2])+1e-6
    sel = pl.select(max_spread=least, weights='spread')
    assert sorted(sel.rows) == sorted(np.argsort(spread)[:N2//2+1]) == sorted(pl.select(n=N2//2+1).rows)
    losses = Losses()
    student = learner(x, y, NoisyStudent(sel.dl(teachers[0].dls), bs=12), losses, seed=9, lf=lf)
    quietly(student, lambda: student.fit(2))
    seen = set()
    for xb, pred, loss in losses.seen:
        i = (xb[:, None]-torch.tensor(x)).abs().sum(-1).argmin(1).numpy()
        want = torch.tensor(np.concatenate([y[:N], each.mean(0)])[i])
        w = torch.tensor(np.where(i < N, 1, 1/(1+spread[i-N]**2))).float()
        rows = torch_lf(pred, want, reduction='none').flatten(1).mean(1)
        assert loss == pytest.approx((w*rows).sum().item()/w.sum().item(), rel=1e-4)
        seen |= {*i[i >= N]}
    assert seen <= {*(sel.rows+N)} and len(seen) > 10


def test_units_play_no_part():
    "The spread of values in meters is that of values in millimeters, be it of one output only"
    rng = np.random.default_rng(0)
    each, unit = rng.normal(size=(4, 50, 2, 3)), 10.**np.arange(-3, 3).reshape(2, 3)
    def spread(each):
        pl = PseudoLabels(each.mean(0), kind='values')
        pl.arrays['std'] = each.std(0)
        return pl.spread
    assert np.allclose(spread(each), spread(each*unit+7*unit), rtol=1e-4)


def test_several_outputs_of_a_block_and_of_a_table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    y = np.stack([x.sum(1), x[:, 0], 100*x[:, 1]], 1)
    block = DataBlock((TransformBlock, RegressionBlock(n_out=3)), get_x=lambda i: torch.tensor(x[i]),
                      get_y=lambda i: y[i].tolist(), splitter=IndexSplitter(range(16, 24)))
    dls = block.dataloaders(range(24), bs=8, num_workers=0)
    df = pd.DataFrame(x, columns=list('abcd')).assign(u=y[:, 0], v=y[:, 1], w=y[:, 2])
    to = TabularPandas(df[:24], [Categorify, Normalize], [], list('abcd'), list('uvw'),
                       splits=IndexSplitter(range(16, 24))(df[:24]))
    made = {'block': (lambda *cbs: Learner(dls, nn.Linear(4, 3), metrics=mae, cbs=cbs), list(range(24, 40))),
            'table': (lambda *cbs: tabular_learner(to.dataloaders(bs=8), [4], metrics=mae, cbs=cbs),
                      df[24:].drop(columns=list('uvw')))}
    for k, (make, data) in made.items():
        teacher = make()
        quietly(teacher, lambda: teacher.fit(1))
        pl = teacher.pseudolabel(data)
        want = quietly(teacher, lambda: teacher.get_preds(dl=teacher.dls.test_dl(data))[0])
        assert pl.kind == 'values' and np.allclose(pl.values, want, atol=1e-5), k
        student = make(NoisyStudent(pl.dl(teacher.dls)))
        quietly(student, lambda: student.fit(1))
        assert np.isfinite(student.recorder.values).all()


@pytest.mark.tsai
@pytest.mark.parametrize('n_vars,steps', [(1, 5), (2, 3)])
def test_forecasts(n_vars, steps):
    "Several variables over several steps"
    from tsai.basics import TSForecaster, TSForecasting
    X = np.random.default_rng(0).normal(size=(50, 2, 12)).astype(np.float32).cumsum(-1)
    x, y = X[..., :-steps], X[:, :n_vars, -steps:]
    def make(*cbs, seed=0):
        set_seed(seed)
        return TSForecaster(x[:30], y[:30], splits=(list(range(20)), list(range(20, 30))), tfms=[None, TSForecasting()],
                            metrics=mae, bs=[10, 10], arch='TSTPlus', cbs=list(cbs),
                            arch_config=dict(n_layers=1, d_model=8, n_heads=2))
    teachers = [make(seed=i) for i in range(2)]
    pl = teachers[0].pseudolabel(x[30:], teachers=teachers[1:])
    each = np.stack([outputs(o, x[30:]).reshape(20, *pl.values.shape[1:]) for o in teachers])
    assert pl.values[0].size == n_vars*steps and np.allclose(pl.values, each.mean(0), atol=1e-5)
    losses = Losses()
    student = make(NoisyStudent(pl.select(max_spread=9).dl(teachers[0].dls)), losses, seed=3)
    quietly(student, lambda: student.fit(1))
    targets = torch.tensor(np.concatenate([y[:30].reshape(30, -1), each.mean(0).reshape(20, -1)]))
    for xb, pred, loss in losses.seen:
        i = (xb.flatten(1)[:, None]-torch.tensor(x).flatten(1)).abs().sum(-1).argmin(1)
        assert loss == pytest.approx(F.mse_loss(pred.flatten(1), targets[i]).item(), rel=1e-4)


def test_a_folder_whose_spread_is_of_other_rows(tmp_path):
    from noisy_student_fastai.labels.store import Store
    with Store(tmp_path/'a', 4, dict(kind='values', vocab=None)) as s:
        s.write(values=np.zeros((4, 2, 3), np.float32), std=np.zeros((4, 2), np.float32))
        s.finish()
    said = "holds a header or arrays that aren't of labels"
    with pytest.raises(ValueError, match=said): PseudoLabels.open(tmp_path/'a')


def test_spread_that_is_not_known_or_is_no_number():
    each = np.random.default_rng(0).normal(size=(3, 20, 2))
    one, several = PseudoLabels(each[0], kind='values'), PseudoLabels(each.mean(0), kind='values')
    several.arrays['std'] = each.std(0, ddof=1)
    for kw in (dict(n=3), dict(max_spread=.2), dict(weights='spread'), dict(weights=lambda o: o)):
        with pytest.raises(ValueError, match='one has no spread'): one.select(**kw)
    for kw in (dict(max_spread=-1), dict(n=0), dict(weights='conf')):
        with pytest.raises(ValueError, match='expected'): several.select(**kw)
    s = several.spread
    assert np.array_equal(several.select(max_spread=np.median(s), n=1000).rows, np.flatnonzero(s <= np.median(s)))
    sel = several.select(max_spread=np.median(s), weights=lambda o: np.exp(-o))
    assert np.allclose(sel.w, np.exp(-s[s <= np.median(s)]))
    with pytest.raises(ValueError, match='a regression has `values`'): one.probs
    single = PseudoLabels([[.9, .1]])
    with pytest.raises(ValueError, match='classes have `probs`'): single.values
    with pytest.raises(ValueError, match='have a confidence'): single.select(max_spread=.2)
