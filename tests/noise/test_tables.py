"Noise for tables, against a plain loop over cells with the same draws"
import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import fit, rows_of, tensors_dl
from fastai.callback.schedule import SchedLin
from fastai.data.block import CategoryBlock, RegressionBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular import data  # noqa: F401  (gives tabular loaders their `test_dl`)
from fastai.tabular.core import Categorify, FillMissing, TabularPandas
from fastai.tabular.model import TabularModel
from fastai.torch_core import TensorBase
from noisy_student_fastai.checks import BadType, BadValue
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.noise.tables import TableNoise
from noisy_student_fastai.student import NoisyStudent
from sklearn.datasets import load_breast_cancer
from torch import nn

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8]


def table(n, c, dtype=torch.float32):
    "No two values alike, none of them 0, as far as the type can tell them apart"
    return (torch.arange(n*c).reshape(n, c)+1).to(dtype)


def noised(x, seed, **kwargs):
    torch.manual_seed(seed)
    return TableNoise(**kwargs)((x, torch.arange(len(x))), split_idx=0)[0]


def slow(x, seed, p_drop, p_swap, fill):
    "One cell after the other"
    torch.manual_seed(seed)
    n, c = x.shape
    u, ahead, res = torch.rand(n, c).numpy(), torch.randint(1, max(n, 2), (n, c)).numpy(), x.tolist()
    for i in range(n):
        for j in range(c):
            if u[i, j] < np.float32(p_drop): res[i][j] = fill[j] if isinstance(fill, list) else fill
            elif u[i, j] < np.float32(p_drop+p_swap): res[i][j] = x[(i+ahead[i, j]) % n, j].item()
    return torch.tensor(res, dtype=x.dtype)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('n', [1, 2, 7])
def test_equals_a_loop(n, dtype):
    for seed, (p_drop, p_swap) in enumerate([(.1, .1), (.5, 0), (0, .5), (.3, .7), (0, 1), (1, 0)]):
        x = table(n, 5, dtype)
        got = noised(x, seed, p_drop=p_drop, p_swap=p_swap)
        assert got.dtype == dtype and torch.equal(got, slow(x, seed, p_drop, p_swap, 0))


def test_fill_values():
    "One for all columns or one for each; whole numbers and floats have their own"
    cats, conts = table(6, 3, torch.int64), table(6, 2)
    for cat_fill, cont_fill in ((7, -1.5), ([7, 8, 9], [.5, -.5]), (torch.tensor([7, 8, 9]), np.array([.5, -.5]))):
        got = TableNoise(1, 0, cat_fill=cat_fill, cont_fill=cont_fill)((cats, conts, 0), split_idx=0)
        assert torch.equal(got[0], torch.as_tensor(cat_fill).expand(6, 3))
        assert torch.equal(got[1], torch.as_tensor(cont_fill).float().expand(6, 2))
    with pytest.raises(ValueError, match=r'cat_fill=\[7, 8\]: expected one value for each of the 3 columns'):
        TableNoise(cat_fill=[7, 8])((cats, conts, 0), split_idx=0)


@pytest.mark.parametrize('seed', range(3))
def test_rates(seed):
    "Within four standard deviations of the binomial distribution, in each column; a swap is always with another row"
    n, c, p_drop, p_swap = 5000, 6, .15, .25
    x = table(n, c, torch.float64)
    got = noised(x, seed, p_drop=p_drop, p_swap=p_swap)
    dropped, same = got == 0, got == x
    for found, p in ((dropped, p_drop), (~dropped & ~same, p_swap), (same, 1-p_drop-p_swap)):
        assert ((found.double().mean(0)-p).abs() < 4*(p*(1-p)/n)**.5).all()
    rows, cols = np.divmod(got.numpy()-1, c)
    swapped = (~dropped & ~same).numpy()
    assert (cols == np.arange(c))[swapped].all() and (rows != np.arange(n)[:, None])[swapped].all()
    ahead = ((rows-np.arange(n)[:, None]) % n)[swapped]
    counts = np.histogram(ahead, 10, (0, n))[0]  # any other row, equally likely
    assert abs(counts/len(ahead)-.1).max() < 4*(.09/len(ahead))**.5
    # cells are drawn on their own: pairs of columns are both changed as often as chance has it
    changed = (~same).double()
    assert (np.corrcoef(changed.T.numpy())-np.eye(c)).__abs__().max() < .06


def test_what_is_an_input():
    "All elements but the last, unless `n_inp` says otherwise; soft labels and other inputs are left alone"
    x, p, img = table(8, 3), torch.rand(8, 3), torch.rand(8, 1, 4, 4)
    cats, flags = table(8, 2, torch.int64), torch.rand(8, 3) < .5
    def changed(b, **kwargs):
        torch.manual_seed(0)
        old = [o.clone() for o in b]
        new = TableNoise(.5, .5, **kwargs)(b, split_idx=0)
        assert type(new) is type(b) and all(map(torch.equal, b, old))  # the incoming batch is as it was
        return [not torch.equal(*o) for o in zip(new, b)]
    assert changed((x, p)) == [True, False]
    assert changed((cats, x, p)) == [True, True, False]
    assert changed([cats, x, p]) == [True, True, False]
    assert changed((x, p, p), n_inp=1) == [True, False, False]
    assert changed((img, x, flags, p)) == [False, True, False, False]
    assert changed((x,)) == [True]
    assert changed((x, p), n_inp=2) == [True, True]
    assert changed((table(8, 0, torch.int64), x, p)) == [False, True, False]
    assert changed((cats, table(8, 0), p)) == [True, False, False]
    assert changed((table(0, 2), p)) == [False, False]
    assert not torch.equal(TableNoise(.5, .5)(x, split_idx=0), x)  # inputs alone, no tuple
    for bad in ((img, p), (flags, p), (x[:, 0], p), (['a'], p)):
        with pytest.raises(TypeError, match='no input of the batch is a table'): TableNoise()(bad, split_idx=0)


def test_keeps_type_and_metadata():
    x = TensorBase(table(5, 4))
    x.img_size = 3
    got = noised(x, 0)
    assert type(got) is TensorBase and got.img_size == 3


@pytest.fixture(scope='module')
def cancer():
    "Breast cancer, in random order, with a made-up column of names"
    df = load_breast_cancer(as_frame=True).frame.sample(120, random_state=0).reset_index(drop=True)
    df['size'] = pd.cut(df['mean area'], 4, labels=list('smlx')).astype(str)
    return df


CONTS = ['mean radius', 'mean texture', 'mean area']


def dls_of(df, cats=('size',), conts=CONTS, y='target', y_block=CategoryBlock):
    to = TabularPandas(df[:80], [Categorify, FillMissing, Normalize], list(cats), list(conts), y, y_block(),
                       splits=IndexSplitter(range(60, 80))(df[:80]))
    return to.dataloaders(bs=20)


def noise(*args, **kwargs): return StudentNoise(TableNoise(*args, **kwargs), dropout=None, stoch_depth=None)


@pytest.mark.parametrize('cats,conts', [(['size'], CONTS), ([], CONTS), (['size'], [])],
                         ids=['both', 'numbers', 'names'])
def test_tabular_pandas(cancer, cats, conts):
    "After ReadTabBatch; in training only; an empty element stays empty"
    dls = dls_of(cancer, cats, conts)
    net = TabularModel([(5, 3)]*len(cats), len(conts), 2, [8], use_bn=False, bn_cont=False)
    probe = fit(dls, net, CrossEntropyLossFlat(), noise(.4, .3), n_epoch=1)[1]
    for (c, x), y in zip(probe.xbs, probe.ybs):
        assert c.shape == (20, len(cats)) and x.shape == (20, len(conts)) and c.dtype == torch.int64
        assert set(y.unique().tolist()) == {0, 1}
    for i, k in enumerate((cats, conts)):
        if k: assert .25 < (torch.cat([o[i] for o in probe.xbs]) == 0).float().mean() < .55
    for dl in (dls.train, dls.valid):
        for c, x, _ in dl: assert (c > 0).all() and (x != 0).all()


def test_left_out_by_hand(cancer):
    "A table does not say what it is for: without `StudentNoise` a loader's own noise is left out, and says so"
    dls = dls_of(cancer)
    dls.add_tfms([TableNoise(1, 0)], 'after_batch')
    with pytest.warns(match='TableNoise is left out.*StudentNoise'): x = dls.one_batch()[1]
    assert (x != 0).all()


def test_without_a_target(cancer):
    "fastai's table has a target of 0 columns; of (cats, conts) alone `n_inp` must be told"
    b = next(iter(dls_of(cancer).test_dl(cancer[80:], bs=20)))
    to = TabularPandas(cancer, [Categorify, Normalize], ['size'], CONTS)
    dls = to.dataloaders(bs=20)
    for bare, n_inp in ((dls.one_batch(), None), (b[:2], 2)):
        got = TableNoise(.5, .5, n_inp=n_inp)(bare, split_idx=0)
        assert not torch.equal(got[0], bare[0]) and not torch.equal(got[1], bare[1])
    assert torch.equal(TableNoise(.5, .5)(b[:2], split_idx=0)[1], b[1]) and dls.n_inp == 2


def test_several_targets(cancer):
    dls = dls_of(cancer, y=['mean smoothness', 'worst area'], y_block=lambda: RegressionBlock(2))
    c, x, y = dls.train.after_batch[0](dls.train_ds.iloc[:20])
    got = TableNoise(.5, .5)((c, x, y), split_idx=0)
    assert torch.equal(got[2], y) and not torch.equal(got[1], x)


def model(n_out=2): return TabularModel([(5, 3)], 3, n_out, [8], use_bn=False, bn_cont=False)


@pytest.mark.parametrize('soft', [False, True])
def test_with_noisy_student(cancer, soft):
    "Cells of the combined batch are dropped or from any of its rows; targets are those of the rows"
    dls = dls_of(cancer)
    test = dls.test_dl(cancer[80:], with_labels=True)
    c2, x2, y2 = (torch.cat(o) for o in zip(*test))
    y2 = torch.eye(2)[y2[:, 0].long()]*.8+.1 if soft else y2
    x1 = torch.tensor(dls.train_ds.conts.values.copy())
    cbs = [NoisyStudent(tensors_dl(c2, x2, y2, bs=8), l2pl_ratio=1), noise(.2, .3)]
    probe = fit(dls, model(), CrossEntropyLossFlat(), *cbs, n_epoch=1)[1]
    known = torch.cat([x1, x2]).sort(0)[0]
    kinds = []
    for (c, x), y in zip(probe.xbs, probe.ybs):
        assert c.shape == (20, 1) and x.shape == (20, 3)
        for j in range(3):  # its own column's
            assert torch.isin(x[:, j], torch.cat([known[:, j], torch.zeros(1)])).all()
        y = y.plain()
        assert {round(o, 4) for o in y.flatten().tolist()} <= ({0, 1, .1, .9} if soft else {0, 1})
        for i, (o, t) in enumerate(zip(x, y)):  # whose row is it? The one with which it shares most cells
            src, ys = (x1, dls.train_ds.ys.values) if i < 10 else (x2, y2)
            same = (src == o).sum(1)
            kinds += [same.max().item()]
            if same.max() == 3:
                want = ys[same.argmax()]
                assert (t.argmax() if soft else t).item() == int(want.argmax() if soft and i >= 10 else want.item())
    assert kinds.count(3) > 2 and .35 < 1-np.mean(kinds)/3 < .6  # half of the cells are changed


def test_soft_labels_of_arrays():
    "(numbers, soft label) of one's own loaders: labels have as many columns as the inputs, and stay"
    x, p = torch.randn(40, 3), torch.rand(40, 3)
    p /= p.sum(1, keepdim=True)
    dl = TfmdDL(list(zip(x, p)), bs=20)
    cb = NoisyStudent(tensors_dl(x+100, p.flip(1), bs=8))
    _, probe = fit(DataLoaders(dl, dl), nn.Linear(3, 3), nn.CrossEntropyLoss(), cb, noise(.3, .3), n_epoch=2, lr=0.)
    for (o,), y in zip(probe.xbs, probe.ybs):
        assert rows_of(y.plain()[:10], p) and rows_of(y.plain()[10:], p.flip(1))
        assert .1 < (o == 0).float().mean() < .5
    swapped = torch.cat([o[:10] for o, in probe.xbs])
    assert (swapped > 50).any()  # from pseudolabeled rows


def test_export_and_copies(cancer, tmp_path):
    "A schedule becomes its end in an export and stays itself in a copy; a loaded Learner predicts without noise"
    dls, cb = dls_of(cancer), noise(SchedLin(0, .6), .2, cat_fill=[0])
    learn = Learner(dls, model(), loss_func=CrossEntropyLossFlat(), cbs=cb)
    with learn.no_bar(): want = learn.get_preds(dl=dls.test_dl(cancer[80:]))[0]
    learn.export(tmp_path/'a.pkl')
    new = load_learner(tmp_path/'a.pkl')
    with new.no_bar(): torch.testing.assert_close(new.get_preds(dl=new.dls.test_dl(cancer[80:]))[0], want)
    tfm = new.student_noise.tfms
    assert (tfm.p_drop, tfm.p_swap, tfm.cat_fill) == (.6, .2, [0])
    assert pickle.loads(pickle.dumps(TableNoise(.2))).p_drop == .2
    cb.tfms.pct = .5
    copied = deepcopy(cb.tfms)
    assert copied.now('p_drop') == .3 and copied.p_drop(1.) == .6


def test_schedules():
    tfm, x = TableNoise(SchedLin(0, 1), SchedLin(.5, 0)), table(200, 20)
    with pytest.warns(match='add `StudentNoise`'): assert (tfm((x, 0), split_idx=0)[0] == 0).all()  # at its end
    for pct, p in ((0, 0), (.5, .5), (1, 1)):
        tfm.pct = pct
        assert abs((tfm((x, 0), split_idx=0)[0] == 0).float().mean()-p) < .04
    with pytest.raises(ValueError, match='p_swap=2.0: expected a probability'): TableNoise(0, SchedLin(0, 2))
    bad = TableNoise(.6, SchedLin(0, .5))
    for bad.pct in (0., .7): bad((x, 0), split_idx=0)
    bad.pct = 1.
    with pytest.raises(ValueError, match='p_drop=0.6 and p_swap=0.5: expected a sum of 1'): bad((x, 0), split_idx=0)
    assert pickle.loads(pickle.dumps(bad)).p_swap == .5 and deepcopy(bad).now('p_swap') == .5


def test_errors_have_fields():
    b = torch.zeros(4, 3), torch.arange(4)
    for kw, b, error, key, value in (
            (dict(p_drop=.6, p_swap=.5), b, BadValue, 'p_drop', .6), (dict(p_swap=2), b, BadValue, 'p_swap', 2),
            (dict(p_swap=SchedLin(0, 2)), b, BadValue, 'p_swap', 2.),
            (dict(cont_fill=[1, 2]), b, BadValue, 'cont_fill', [1, 2]),
            ({}, (b[1], b[1]), BadType, 'batch', 'torch.int64 of shape (4,)')):
        with pytest.raises(error) as e: TableNoise(**kw)(b, split_idx=0)
        assert (e.value.argument, e.value.value) == (key, value)


@pytest.mark.parametrize('k,v,error', [
    ('p_drop', -.1, ValueError), ('p_swap', 'x', TypeError), ('p_swap', None, TypeError), ('n_inp', 0, ValueError),
    ('n_inp', 1.5, TypeError), ('cat_fill', -1, ValueError), ('cat_fill', 'a', TypeError),
    ('cont_fill', None, TypeError), ('cont_fill', [], ValueError), ('cont_fill', float('nan'), ValueError)])
def test_arguments_that_are_wrong(k, v, error):
    with pytest.raises(error) as e: TableNoise(**{k: v})
    assert str(e.value).startswith(f'{k}={v!r}: ')


def test_in_words():
    tfm, b = TableNoise(p_drop=SchedLin(0, .8), p_swap=.5), (torch.rand(4, 3), torch.arange(4))
    assert repr(tfm) == 'TableNoise(p_drop=schedule, p_swap=0.5)' and TableNoise(.9, .1).p_drop == .9
    assert torch.equal(TableNoise(0, 0)(b, split_idx=0)[0], b[0])
