"Tables: columns of names and of numbers, one target or several"
import numpy as np
import pytest
import torch
from data_helpers import Probe, fit, fit_plain, probs, same_weights, tensors_dl
from fastai.data.block import CategoryBlock, RegressionBlock
from fastai.data.load import DataLoader
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabDataLoader
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.learner import tabular_learner
from fastai.tabular.model import TabularModel
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from table_toys import BS, CATS, CONTS, N, encoded, table, wine_dls


def rows_of(conts, known):
    "Which of the `known` rows those of `conts` are"
    dist = (conts[:, None]-known[None]).abs().amax(2)
    assert dist.amin(1).max() < 1e-4
    return dist.argmin(1)


def model(n_out=3, seed=0, bn=True):
    torch.manual_seed(seed)
    return TabularModel([(5, 3), (3, 2)], 3, n_out, [8], use_bn=bn, bn_cont=bn)


def by_test_dl(dls, df, cats, conts, y): return dls.test_dl(df.iloc[N:]), y


def by_new(dls, df, cats, conts, y):
    to = dls.train_ds.new(df.iloc[N:].copy())
    to.process()
    return TabDataLoader(to, bs=8), y


def by_tensors(dls, df, cats, conts, y): return tensors_dl(cats, conts, y, bs=8), y
def by_soft(dls, df, cats, conts, y):
    p = probs(len(y), 3)
    return DataLoader(list(zip(cats, conts, p)), bs=8), p


def by_half(dls, df, cats, conts, y):
    p = probs(len(y), 3).half()
    return tensors_dl(cats, conts, p, bs=8, shuffle=True), p.float()


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('way', [by_test_dl, by_new, by_tensors, by_soft, by_half])
def test_equals_a_plain_learner(wine, way, seed):
    "Two inputs; BatchNorm of the numbers sees the combined batch; columns are encoded as those of the labeled rows"
    cats, conts, y = encoded(wine)
    dls = wine_dls(wine)
    torch.manual_seed(seed)
    dl2, y2 = way(dls, wine, cats[N:], conts[N:], y[N:])
    student, probe = fit(dls, model(seed=seed), CrossEntropyLossFlat(), NoisyStudent(dl2, l2pl_ratio=[1, 3][seed]))
    n, batches, seen = [8, 12][seed], [], []
    for (c, x), yb in zip(probe.xbs, probe.ybs):
        i, j = rows_of(x[:n], conts[:N]), rows_of(x[n:], conts[N:])
        seen += j.tolist()
        assert torch.equal(c, torch.cat([cats[:N][i], cats[N:][j]]))
        hard = y2.ndim == 1
        want = torch.cat([y[i], y2[j]]) if hard else torch.cat([torch.eye(3)[y[i]], y2[j]])
        assert type(yb) is RowTargets
        torch.testing.assert_close(yb.plain().reshape(want.shape).to(want.dtype), want)
        batches.append((c, torch.cat([conts[:N][i], conts[N:][j]]), want))
    assert len(probe.xbs) == 2*(N//n) and len(set(seen)) == len(seen)
    plain, _ = fit_plain(batches, model(seed=seed), CrossEntropyLossFlat() if hard else torch.nn.CrossEntropyLoss())
    assert same_weights(student.model, plain.model, atol=1e-4)


@pytest.mark.parametrize('weight', [0, .3, 2.5])
def test_row_weights(wine, weight):
    "(names, numbers, label, weight of the row)"
    cats, conts, y = encoded(wine)
    w2 = torch.rand(len(y)-N, generator=torch.Generator().manual_seed(0))*2
    for p in (y[N:], probs(len(y)-N, 3)):
        dl2 = tensors_dl(cats[N:], conts[N:], p, w2, bs=8)
        cb = NoisyStudent(dl2, pseudolabel_sample_weight=weight)
        _, probe = fit(wine_dls(wine), model(), CrossEntropyLossFlat(), cb)
        for (_, x), pred, loss in zip(probe.xbs, probe.preds, probe.losses):
            i, j = rows_of(x[:8], conts[:N]), rows_of(x[8:], conts[N:])
            ls = torch.cat([torch.nn.functional.cross_entropy(pred[:8], y[i], reduction='none'),
                            torch.nn.functional.cross_entropy(pred[8:], p[j], reduction='none')])
            w = torch.cat([torch.ones(8), weight*w2[j]])
            torch.testing.assert_close(loss, (ls*w).sum()/w.sum())


@pytest.mark.parametrize('y_names', ['malic_acid', ['malic_acid', 'proline']])
def test_regression(wine, y_names):
    df = wine.assign(proline=wine.proline/1000)
    dls = wine_dls(df, y_names=y_names, y_block=RegressionBlock)
    want = torch.tensor(df[np.atleast_1d(y_names)].values).float()
    _, conts, _ = encoded(df)
    cb = NoisyStudent(dls.test_dl(df.iloc[N:]), pseudolabel_sample_weight=.5)
    _, probe = fit(dls, model(want.shape[1]), MSELossFlat(), cb)
    for (_, x), yb, pred, loss in zip(probe.xbs, probe.ybs, probe.preds, probe.losses):
        t = torch.cat([want[:N][rows_of(x[:8], conts[:N])], want[N:][rows_of(x[8:], conts[N:])]])
        torch.testing.assert_close(yb.plain().reshape(t.shape).float(), t)
        ls, w = ((pred-t)**2).mean(1), torch.tensor([1.]*8+[.5]*8)
        torch.testing.assert_close(loss, (ls*w).sum()/w.sum())


def test_tabular_learner(wine):
    "fastai's own learner and loaders, from a table to predictions"
    dls = TabularDataLoaders.from_df(wine.iloc[:N+20], procs=[Categorify, FillMissing, Normalize], cat_names=CATS,
                                     cont_names=CONTS, y_names='kind', y_block=CategoryBlock(),
                                     valid_idx=list(range(N, N+20)), bs=BS)
    probe = Probe()
    learn = tabular_learner(dls, layers=[8], cbs=[NoisyStudent(dls.test_dl(wine.iloc[N:])), probe])
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert len(probe.losses) == 10 and all(torch.isfinite(o) for o in probe.losses)
    p, t = learn.get_preds(dl=dls.test_dl(wine.iloc[N:]))
    assert p.shape == (len(wine)-N, 3) and torch.equal(t.flatten().long(), encoded(wine)[2][N:])


def test_mistakes(wine):
    cats, conts, y = encoded(wine)
    dls = wine_dls(wine)
    red = wine[wine.kind != 'red']
    with pytest.raises(ValueError, match="vocabulary.*'rose', 'white'.*Build dl2"):
        fit(dls, model(), CrossEntropyLossFlat(), NoisyStudent(table(red).dataloaders(bs=8).train))
    with pytest.raises(ValueError, match='no targets'):
        fit(dls, model(), CrossEntropyLossFlat(), NoisyStudent(dls.test_dl(wine.iloc[N:].drop(columns='kind'))))
    with pytest.raises(ValueError, match='it has no targets'):
        fit(dls, model(), CrossEntropyLossFlat(), NoisyStudent(tensors_dl(conts[N:], y[N:], bs=8)))
