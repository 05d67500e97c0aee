"The callback on tsai's Learners, with what tsai has of its own: loaders, series, transforms, targets"
import copy
import importlib
import io
import re

import matplotlib
import numpy as np
import pytest
import torch
from data_helpers import Record, same_weights
from fastai.callback.core import Callback
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from noisy_student_fastai.joining import Endless
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.tsai


@pytest.fixture(scope='module')
def t(): return importlib.import_module('tsai_toys')


def check_batches(t, probe, target2, n=8, n_pl=8, weight=1.):
    "Rows, targets, weights and losses of all batches against what the arrays hold; returns the rows that were drawn"
    lab, pl = [], []
    for (x,), y, pred, loss in zip(probe.xbs, probe.ybs, probe.preds, probe.losses):
        assert len(x) == n+n_pl and type(x) is t.TSTensor and isinstance(y, RowTargets)
        i, j = t.found(x[:n]), t.found(x[n:], t.X2)
        lab, pl = lab+[i], pl+[j]
        target = torch.cat([t.one_hot(t.Y[i]), torch.as_tensor(target2[j]).float()])
        torch.testing.assert_close(y.plain() if y.is_floating_point() else F.one_hot(y.plain(), 4).float(), target)
        assert y.is_pl.tolist() == [False]*n + [True]*n_pl
        ls = -(target*pred.as_subclass(Tensor).log_softmax(1)).sum(1)
        w = torch.tensor([1.]*n + [weight]*n_pl)
        torch.testing.assert_close(loss.as_subclass(Tensor), (w*ls).sum()/w.sum())
    return np.array(lab), np.array(pl)


# --- the page of tsai's callback

@pytest.mark.parametrize('soft', [True, False])
def test_the_examples_of_tsai_s_page(t, soft, capsys):
    "Sizes of NATOPS: 180 rows to train on, all 360 pseudolabeled, and the page's two lines"
    from tsai.data.preprocessing import OneHot, ToNumpyCategory, TSStandardize
    from tsai.data.transforms import TSRandomSize
    x, y = t.series(360, n_vars=24, n_steps=51)
    pl = OneHot()(y).astype(np.float32) if soft else ToNumpyCategory()(y)
    cb = NoisyStudent(t.TSDataLoader(t.TSDatasets(x, pl), num_workers=0), bs=256, l2pl_ratio=2, verbose=True)
    splits = list(range(180)), list(range(180, 360))
    learn = t.classifier(cb, probe := t.Probe(), x=x, y=y, splits=splits, bs=[64, 128],
                         batch_tfms=[TSStandardize(), TSRandomSize(.5)])
    t.fit(learn, 3)
    lines = [o for o in capsys.readouterr().out.splitlines() if 'labels' in o or 'relative' in o]
    assert [o.split(':')[1].strip() for o in lines] == ['171 / 85', '4.0']
    assert len(probe.xbs) == 3 and all(o.shape[:2] == (256, 24) for o, in probe.xbs)
    assert len({o.shape[2] for o, in probe.xbs} - {51}) > 0  # resized, each batch as a whole
    assert [o.shape for o in probe.ybs] == [(256, 4) if soft else (256,)]*3
    assert learn.dls.train.bs == 64 and learn.dls.valid.bs == 128 and cb.dl2.bs == 64


# --- kinds of data

@pytest.mark.parametrize('kind', ['hard', 'hard ints', 'soft', 'soft float64', 'one-hot'])
@pytest.mark.parametrize('weight', [1., .999, 3.])
def test_labels_and_weights(t, kind, weight):
    "Soft labels are soft in the loss, hard ones hard, and the weight has no jump"
    dl2, target2 = {'hard': (t.hard_dl(), t.one_hot(t.Y2)), 'hard ints': (t.soft_dl(p=index_np(t)), t.one_hot(t.Y2)),
                    'soft': (t.soft_dl(p=t.P2.astype(np.float32)), t.P2), 'soft float64': (t.soft_dl(), t.P2),
                    'one-hot': (t.soft_dl(p=t.one_hot(t.Y2).numpy()), t.one_hot(t.Y2))}[kind]
    learn, probe = t.student(dl2, pseudolabel_sample_weight=weight)
    lab, _ = check_batches(t, probe, target2, weight=weight)
    assert lab.shape == (2*6, 8) and all(sorted(o.ravel()) == list(range(48)) for o in lab.reshape(2, 48))
    assert all(o.is_floating_point() != kind.startswith('hard') for o in probe.ybs)


def index_np(t): return t.index(t.Y2).numpy()


@pytest.mark.parametrize('where', ['labeled', 'dl2', 'both'])
def test_arrays_on_disk(t, where, tmp_path):
    "Memory maps train as arrays do, and are left where they are"
    x, x2 = (t.memmap(o, tmp_path/f'{i}.npy') for i, o in enumerate((t.X, t.X2)))
    kw = dict(x=x, inplace=False) if where != 'dl2' else {}
    dsets = t.TSDatasets(x2, t.P2, inplace=False) if where != 'labeled' else t.TSDatasets(t.X2, t.P2)
    learn = t.classifier(NoisyStudent(t.TSDataLoader(dsets)), probe := t.Probe(), **kw)
    t.fit(learn, 2)
    check_batches(t, probe, t.P2)
    assert same_weights(learn.model, t.student(t.soft_dl())[0].model, atol=0, rtol=0)
    if where != 'dl2': assert isinstance(learn.dls.train_ds.tls[0].items, np.memmap)
    if where != 'labeled': assert isinstance(dsets.tls[0].items, np.memmap)


def test_weight_of_each_row(t):
    "A third element of dl2's batches, here from torch's loader"
    w2 = torch.rand(t.N2, generator=torch.Generator().manual_seed(0))*2
    dl2 = TorchDataLoader(TensorDataset(torch.tensor(t.X2), torch.tensor(t.P2), w2), batch_size=5)
    _, probe = t.student(dl2, pseudolabel_sample_weight=.5)
    for (x,), y, pred, loss in zip(probe.xbs, probe.ybs, probe.preds, probe.losses):
        w = torch.cat([torch.ones(8), .5*w2[t.found(x[8:], t.X2)]])
        ls = -(y.plain()*pred.as_subclass(Tensor).log_softmax(1)).sum(1)
        torch.testing.assert_close(loss.as_subclass(Tensor), (w*ls).sum()/w.sum())
        assert type(x) is t.TSTensor


@pytest.mark.parametrize('n_targets', [1, 3])
@pytest.mark.parametrize('weight', [1., .25])
def test_regression(t, n_targets, weight):
    from tsai.data.core import TSRegression
    from tsai.tslearner import TSRegressor
    targets = lambda x: x.mean((1, 2)) if n_targets == 1 else x.mean(2)
    y, y2 = targets(t.X), targets(t.X2)
    for dsets in (t.TSDatasets(t.X2, y2), t.TSDatasets(t.X2, y2, tfms=[None, TSRegression()])):
        cbs = [NoisyStudent(t.TSDataLoader(dsets), pseudolabel_sample_weight=weight), probe := t.Probe()]
        learn = TSRegressor(t.X, y, splits=t.SPLITS, tfms=[None, TSRegression()], bs=16, cbs=cbs, **t.SMALL)
        t.fit(learn)
        assert len(probe.losses) == 6
        for (x,), yb, pred, loss in zip(probe.xbs, probe.ybs, probe.preds, probe.losses):
            x = x.as_subclass(Tensor)
            i, j = t.found(x[:8]), t.found(x[8:], t.X2)
            target = torch.tensor(np.r_[y[i], y2[j]])
            torch.testing.assert_close(yb.plain(), target)
            ls = (pred.as_subclass(Tensor).reshape(16, -1)-target.reshape(16, -1)).square().mean(1)
            w = torch.tensor([1.]*8 + [weight]*8)
            torch.testing.assert_close(loss.as_subclass(Tensor), (w*ls).sum()/w.sum())
        assert not yb.soft and learn.get_preds()[0].shape == (t.N_VALID, n_targets)


def test_several_labels_a_row(t):
    "Multi-label, the pseudolabels once as sets of names and once as a probability for each label"
    from tsai.data.core import TSMultiLabelClassification
    from tsai.models.FCN import FCN
    rng = np.random.default_rng(0)
    hot, p2 = rng.random((t.N+t.N_VALID, 4)) < .4, rng.random((t.N2, 4)).astype(np.float32)
    hot[0] = True
    names = lambda hot: np.array([list(t.CLASSES[o]) for o in hot], dtype=object)
    tfm = lambda: [None, TSMultiLabelClassification(vocab=list(t.CLASSES), c=4)]
    for dsets, targ in ((t.TSDatasets(t.X2, p2), p2), (t.TSDatasets(t.X2, names(p2 > .5), tfms=tfm()), (p2 > .5))):
        cbs = [NoisyStudent(t.TSDataLoader(dsets), pseudolabel_sample_weight=.5), probe := t.Probe()]
        learn = t.TSClassifier(t.X, names(hot), splits=t.SPLITS, tfms=tfm(), bs=16, cbs=cbs, metrics=[],
                               arch=FCN(3, 4, layers=[8, 8, 8], kss=[5, 5, 3]))
        t.fit(learn)
        for (x,), y, pred, loss in zip(probe.xbs, probe.ybs, probe.preds, probe.losses):
            x = x.as_subclass(Tensor)
            target = torch.tensor(np.r_[hot[t.found(x[:8])], targ[t.found(x[8:], t.X2)]]).float()
            ls = F.binary_cross_entropy_with_logits(pred.as_subclass(Tensor), target, reduction='none').mean(1)
            w = torch.tensor([1.]*8 + [.5]*8)
            torch.testing.assert_close(loss.as_subclass(Tensor), (w*ls).sum()/w.sum())


def test_another_vocabulary(t):
    "Hard pseudolabels that lack a class would be counted from 0 again"
    few = t.Y2 != 'flat'
    with pytest.raises(ValueError, match='vocabulary'):
        t.student(t.hard_dl(t.X2[few], t.Y2[few], tfm=t.TSClassification()))
    with pytest.raises(ValueError, match='vocabulary'):
        t.student(t.hard_dl(tfm=t.TSClassification(vocab=t.CLASSES[::-1], sort=False)))
    _, probe = t.student(t.hard_dl(t.X2[few], t.Y2[few]))  # with the Learner's vocabulary
    check_batches(t, probe, t.one_hot(t.Y2))


@pytest.mark.parametrize('p', [np.eye(5)[np.arange(70) % 5], np.eye(3)[np.arange(70) % 3]])
def test_another_number_of_classes(t, p):
    with pytest.raises(ValueError, match=f'{p.shape[1]} classes and the Learner 4'): t.student(t.soft_dl(p=p))


# --- batch transforms

def test_batch_transforms_run_once_in_their_order(t):
    "On the combined batch; dl2's own are not applied; one factor of each shows that none ran twice"
    log, log2 = [], []
    tfms = [t.Logged(log, 95, 2.), t.Logged(log, 5, 3.), t.Logged(log, 50, 5.)]
    dl2 = t.soft_dl(batch_tfms=[t.Logged(log2, 1, 100.)])
    only_train = t.SPLITS[0], []
    learn = t.classifier(NoisyStudent(dl2), probe := t.Probe(), batch_tfms=tfms, splits=only_train)
    log.clear()
    log2.clear()
    t.fit(learn, 2)
    assert [o for o, _ in log] == [5, 50, 95]*12 and all(len(x) == 16 for _, x in log)
    assert not log2
    for (_, raw), (x,) in zip(log[::3], probe.xbs): torch.testing.assert_close(x, raw*30)


@pytest.mark.parametrize('where', ['learner', 'callback', 'both', 'callback, set up before'])
def test_standardized_once(t, where):
    "All of the training rows give mean and spread; pseudolabeled rows are scaled with them, too"
    from tsai.data.preprocessing import TSStandardize
    kw = dict(axis=(0, 2), keepdims=True)
    mean, std = torch.tensor(t.X[:t.N].mean(**kw)), torch.tensor(t.X[:t.N].std(ddof=1, **kw))
    tfm = lambda: TSStandardize(by_var=True, use_single_batch=False)
    own = [TSStandardize(mean, std) if 'before' in where else tfm(), rec := Record()]
    kw = dict(batch_tfms=own) if where == 'learner' else dict(batch_tfms=tfm()) if where == 'both' else {}
    cb = NoisyStudent(t.soft_dl(), batch_tfms=None if where == 'learner' else own, do_setup='before' not in where)
    learn = t.classifier(cb, probe := t.Probe(), **kw)
    rec.raw.clear()
    t.fit(learn)
    assert len(probe.xbs) == 6
    raws = [o for o in rec.raw if len(o[0]) == 16][-6:]
    for (raw, _), (x,) in zip(raws, probe.xbs):
        assert t.found(raw[:8]) and t.found(raw[8:], t.X2)  # no other rows
        torch.testing.assert_close(x.as_subclass(Tensor), (raw-mean)/std, rtol=1e-4, atol=1e-5)


# --- loaders: sizes, order, samplers

class Sampler:
    "Some rows, in random order"
    def __init__(self, rows): self.rows = rows
    def __iter__(self): return iter(np.random.permutation(self.rows))
    def __len__(self): return len(self.rows)


def on_loaders(t, dls, *cbs):
    t.set_seed(0)
    from tsai.learner import ts_learner
    return ts_learner(dls, t.SMALL['arch'], **t.SMALL['arch_config'], cbs=list(cbs))


def test_weights_sampler_and_partial_n_of_the_labeled_loader(t):
    from tsai.data.core import get_ts_dls
    w = np.r_[np.zeros(12), np.ones(18), np.full(18, 3.), np.ones(t.N_VALID)]
    some = list(range(5, 30))
    for kw, allowed, n in ((dict(weights=w), range(12, 48), 6), (dict(partial_n=20), range(48), 2),
                           (dict(sampler=Sampler(some), shuffle_train=False), some, 3)):
        if 'sampler' in kw: kw['sampler'] = [kw['sampler'], None]
        dls = get_ts_dls(t.X, t.Y, splits=t.SPLITS, tfms=[None, t.TSClassification()], bs=16, **kw)
        learn = on_loaders(t, dls, NoisyStudent(t.soft_dl()), probe := t.Probe())
        t.fit(learn, 40)
        lab, _ = check_batches(t, probe, t.P2)
        assert len(probe.xbs) == 40*n and set(lab.ravel()) == set(allowed), kw
        if 'weights' in kw: assert (lab >= 30).mean() == pytest.approx(.75, abs=.04)  # 18*3 of 18*1 + 18*3
        else: assert all(len(set(o.ravel())) == n*8 for o in lab.reshape(40, -1))  # no row twice in an epoch


def test_weights_sampler_and_partial_n_of_dl2(t):
    w, some = np.r_[np.zeros(10), np.ones(30), np.full(30, 3.)], list(range(5, 30))
    for kw, allowed in ((dict(weights=w), range(10, 70)), (dict(partial_n=20), range(70)),
                        (dict(sampler=Sampler(some)), some)):
        probe = t.student(t.soft_dl(**kw), n=30)[1]
        pl = check_batches(t, probe, t.P2)[1].ravel()
        assert set(pl) == set(allowed), kw
        if 'weights' in kw: assert (pl >= 40).mean() == pytest.approx(.75, abs=.04)  # 30*3 of 30*1 + 30*3
        if 'sampler' in kw: assert all(len(set(o)) == 25 for o in pl[:1425].reshape(57, 25))


def test_stratified_sampler_of_tsai(t):
    "It gives all rows as one list"
    from tsai.data.core import StratifiedSampler
    sampler = StratifiedSampler(t.Y2, bs=8, shuffle=True)
    pl = check_batches(t, t.student(t.hard_dl(sampler=sampler), n=6)[1], t.one_hot(t.Y2))[1].ravel()
    assert all(len(set(o)) == 70 for o in pl[:280].reshape(4, 70))


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('n2', [70, 130])
def test_the_stream_is_shuffled_and_goes_on(t, shuffle, n2):
    "Each row once before any twice, across epochs and fits, in no order of the data"
    x2, y2 = t.series(n2, seed=4)
    dl2 = t.hard_dl(x2, y2, shuffle=shuffle, bs=9)
    learn = t.classifier(NoisyStudent(dl2, bs=24, l2pl_ratio=.5), probe := t.Probe())
    for _ in range(3): t.fit(learn, 2, seed=None)
    pl = np.array([t.found(x[8:], x2) for x, in probe.xbs]).ravel()
    assert len(pl) == 3*2*6*16
    passes = pl[:len(pl)//n2*n2].reshape(-1, n2)
    assert all(sorted(o) == list(range(n2)) for o in passes) and len(passes) > 3
    assert all(abs(np.corrcoef(o, range(n2))[0, 1]) < .5 for o in passes)
    assert len({tuple(o) for o in passes}) == len(passes)


def test_unshuffled_labeled_rows_stay_in_order(t):
    learn = t.classifier(NoisyStudent(t.soft_dl(), bs=15), probe := t.Probe(), shuffle_train=False)
    t.fit(learn, 2)
    lab, _ = check_batches(t, probe, t.P2, 8, 7)
    assert lab.ravel().tolist() == [*range(48)]*2


@pytest.mark.parametrize('kw', [dict(), dict(bs=40, l2pl_ratio=1/3), dict(bs=20, l2pl_ratio=3)])
def test_batch_sizes_stay(t, kw):
    "Of both loaders, also after a second fit, which has the sizes of the first"
    dl2 = t.soft_dl(bs=11)
    learn = t.classifier(NoisyStudent(dl2, **kw), probe := t.Probe())
    n_pl = int(kw.get('bs', 16)/(1+kw.get('l2pl_ratio', 1)))
    for _ in range(2):
        t.fit(learn)
        assert (learn.dls.train.bs, learn.dls.valid.bs, dl2.bs, len(learn.dls.train), len(dl2)) == (16, 16, 11, 3, 7)
    assert [int(o.is_pl.sum()) for o in probe.ybs] == [n_pl]*len(probe.ybs)
    assert len(probe.ybs) == 2*(48//(kw.get('bs', 16)-n_pl))


# --- mistakes

def test_too_few_labeled_rows(t):
    "tsai's callback trains on nothing here"
    learn = t.classifier(NoisyStudent(t.soft_dl(), bs=128), splits=(list(range(40)), list(range(48, 73))))
    with pytest.raises(ValueError, match='40 rows gives no batch of 64 labeled rows'): t.fit(learn)


@pytest.mark.parametrize('ratio', [16, 200, 1e-12])
def test_batch_that_cannot_hold_both_kinds(t, ratio):
    with pytest.raises(ValueError, match='both kinds'): t.student(t.soft_dl(), l2pl_ratio=ratio)


def test_empty_dl2(t):
    dl2 = t.soft_dl()
    dl2.dataset, dl2.n = dl2.dataset.new_empty(), 0
    with pytest.raises(ValueError, match='empty'): t.student(dl2)


def test_dl2_without_labels(t):
    with pytest.raises(ValueError, match='no targets'): t.student(t.TSDataLoader(t.TSDatasets(t.X2)))


def test_series_of_another_shape(t):
    with pytest.raises(ValueError, match=r'\(3, 20\).*\(3, 10\)'): t.student(t.soft_dl(t.X2[..., ::2]))


# --- the Learner around the training

@pytest.mark.parametrize('when', ['before', 'after'])
def test_predictions_as_without_it(t, when):
    learn = t.classifier(NoisyStudent(t.soft_dl()))
    if when == 'after': t.fit(learn)
    other = t.classifier()
    other.model.load_state_dict(learn.model.state_dict())
    with learn.no_bar(), other.no_bar():
        a, b = learn.get_preds(), other.get_preds()
        torch.testing.assert_close(a[0], b[0])
        assert torch.equal(a[1], b[1]) and a[0].sum(1).allclose(torch.ones(t.N_VALID))
        assert list(learn.validate()) == pytest.approx(list(other.validate()))
        torch.testing.assert_close(learn.get_X_preds(t.X2, bs=t.N2)[0], other.get_X_preds(t.X2, bs=t.N2)[0])
    assert list(learn.get_X_preds(t.X2, bs=t.N2)[2]) == list(other.get_X_preds(t.X2, bs=t.N2)[2])


MARK = 7.654321


@pytest.mark.parametrize('when', ['before', 'after', 'after an error'])
@pytest.mark.parametrize('soft', [True, False])
def test_export_holds_no_pseudolabeled_data(t, when, soft, tmp_path):
    mark = np.float32(MARK)
    x2 = np.full_like(t.X2, mark)
    dl2 = t.soft_dl(x2) if soft else t.hard_dl(x2)
    learn = t.classifier(NoisyStudent(dl2, log_losses=True), path=tmp_path)
    if when == 'after': t.fit(learn)
    if when == 'after an error':
        learn.model.fail = learn.model.register_forward_hook(fail)
        with pytest.raises(ZeroDivisionError): t.fit(learn)
        learn.model.fail.remove()
        del learn.model.fail
    learn.export('learner.pkl')
    exported, buf = (tmp_path/'learner.pkl').read_bytes(), io.BytesIO()
    torch.save(dl2, buf)
    assert mark.tobytes()*20 in buf.getvalue()  # so it would be found
    assert mark.tobytes()*2 not in exported
    t.classifier(path=tmp_path).export('plain.pkl')
    assert len(exported) < (tmp_path/'plain.pkl').stat().st_size + 5000
    again = load_learner(tmp_path/'learner.pkl')
    with again.no_bar(), learn.no_bar():
        torch.testing.assert_close(again.get_X_preds(t.X, bs=100)[0], learn.get_X_preds(t.X, bs=100)[0])
    assert 'noisy_student' in [o.name for o in again.cbs] and again.noisy_student.dl2 is None


def fail(*args): raise ZeroDivisionError


@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_copy_trains_alike(t, when):
    learn = t.classifier(NoisyStudent(t.soft_dl()))
    if when == 'after': t.fit(learn)
    others = [copy.deepcopy(learn) for _ in range(2)]
    before = copy.deepcopy(learn.model)
    for o in others: t.fit(o, seed=3)
    assert same_weights(others[0].model, others[1].model) and same_weights(before, learn.model)
    assert not same_weights(before, others[0].model)
    if when == 'before': assert same_weights(t.fit(learn, seed=3).model, others[0].model)


# --- show_batch

@pytest.mark.parametrize('soft', [True, False])
@pytest.mark.parametrize('max_n', [9, 4])
def test_show_batch(t, soft, max_n):
    "Labeled rows first, with their class and where it is from; what is drawn are these rows"
    matplotlib.use('agg')
    from matplotlib import pyplot as plt
    plt.close('all')
    dl2 = t.soft_dl() if soft else t.hard_dl()
    learn = t.classifier(NoisyStudent(dl2, pseudolabel_sample_weight=.5))
    learn.noisy_student.show_batch(max_n=max_n)
    axs = [ax for ax in plt.gcf().axes if ax.lines]
    n = max_n-max_n//2
    assert len(axs) == max_n
    for i, ax in enumerate(axs):
        x = np.array([o.get_ydata() for o in ax.lines], dtype=np.float32)
        row, = t.found(x[None], t.X if i < n else t.X2)
        cls, kind, p, w = re.fullmatch(r'(\w+)\s\((\w+)(?: p=([\d.]+))? w=([\d.]+)\)', ax.get_title()).groups()
        assert kind == ('labeled' if i < n else 'pseudo') and float(w) == (1 if i < n else .5)
        if i < n or not soft: assert cls == (t.Y if i < n else t.Y2)[row] and p is None
        else: assert cls == t.CLASSES[t.P2[row].argmax()] and float(p) == pytest.approx(t.P2[row].max(), abs=.006)
    plt.close('all')


@pytest.mark.parametrize('soft', [True, False])
def test_metrics_on_the_training_set(t, soft):
    "tsai's `train_metrics`, on all rows of the combined batches; a soft label counts as its most probable class"
    dl2 = t.soft_dl() if soft else t.hard_dl()
    learn = t.classifier(NoisyStudent(dl2), probe := t.Probe(), train_metrics=True)
    t.fit(learn)
    rec = learn.recorder
    train_acc = dict(zip(rec.metric_names[1:-1], rec.values[-1]))['train_accuracy']
    targets = [y.plain().argmax(1) if soft else y.plain() for y in probe.ybs]
    hits = [(p.argmax(1) == y).float().mean() for p, y in zip(probe.preds, targets)]
    assert len(hits) == 6 and train_acc == pytest.approx(float(sum(hits)/6), abs=1e-6)


# --- what callbacks of tsai ask the training loader

@pytest.mark.parametrize('kw', [{}, dict(shuffle_train=False)])
def test_weights_per_sample(t, kw):
    "Each row has its own weight beside noise; pseudolabeled rows have no number in the training set, which is said"
    from noisy_student_fastai.noise.callback import StudentNoise
    from tsai.callback.core import WeightedPerSampleLoss
    w = torch.rand(t.N, generator=torch.Generator().manual_seed(0))
    learn = t.classifier(StudentNoise(None, None, None), WeightedPerSampleLoss(w.clone()), probe := t.Probe(), **kw)
    t.fit(learn, 3)
    assert len(probe.xbs) >= 3*(t.N//16)
    w = w/w.sum()*(t.N+t.N_VALID)
    for (x,), y, pred, loss in zip(probe.xbs, probe.ybs, probe.preds, probe.losses):
        i = t.found(x)
        want = (F.cross_entropy(pred.as_subclass(Tensor), t.index(t.Y[i]), reduction='none')*w[i]).mean()
        torch.testing.assert_close(loss.as_subclass(Tensor), want)
    learn.add_cb(NoisyStudent(t.hard_dl()))
    lf = learn.loss_func
    with pytest.raises(ValueError, match='WeightedPerSampleLoss looks up.*input_idxs'): t.fit(learn, 1)
    assert learn.loss_func is lf, "before it put its own loss into the Learner"


class Stop(Callback):
    "Ctrl-C in the second batch"
    order, run_valid, on = 70, False, True
    def after_loss(self):
        if self.on and self.learn.iter == 1: raise KeyboardInterrupt


def mix(name):
    def f(t): return getattr(importlib.import_module('tsai.data.mixed_augmentation'), name)()
    return f


def experimental(name, *args, **kwargs):
    return lambda t: getattr(importlib.import_module('tsai.callback.experimental'), name)(*args, **kwargs)


def scaled(x, **kwargs): return x*1.1
def weighted(t): return importlib.import_module('tsai.callback.core').WeightedPerSampleLoss(torch.ones(t.N))


LEAVE = {'MixUp1d': mix('MixUp1d'), 'CutMix1d': mix('CutMix1d'), 'loss': experimental('RandomWeightLossWrapper'),
         'filter': experimental('BatchLossFilter', .5), 'order': experimental('SamplerWithReplacement'),
         'weighted': weighted}


@pytest.mark.parametrize('name', LEAVE)
def test_what_tsais_callbacks_leave_after_an_interrupt_goes(t, name):
    lf = CrossEntropyLossFlat()
    stop, cb = Stop(), LEAVE[name](t)
    ours = EMACallback(.5) if name == 'weighted' else NoisyStudent(t.hard_dl(bs=8))
    learn = t.classifier(ours, stop, cb, loss_func=lf)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt): t.fit(learn)
    stop.on = False
    t.fit(learn)
    learn.remove_cb(cb)
    t.fit(learn)
    assert learn.loss_func is lf and lf.reduction == 'mean'
    assert getattr(learn.dls.train.get_idxs, '__self__', None) is not cb


@pytest.mark.parametrize('cb,works', [(experimental('BatchLossFilter', .5), False), (mix('IntraClassCutMix1d'), False),
                                      (experimental('UBDAug', [scaled]*2, S=2), False),
                                      (experimental('UBDAug', [scaled]*2), True),
                                      (experimental('BatchLossFilter'), True), (mix('MixUp1d'), True)])
def test_callbacks_that_need_class_indices_are_named(t, cb, works):
    cb = cb(t)
    t.fit(t.classifier(NoisyStudent(t.hard_dl(bs=8)), cb))
    learn = t.classifier(NoisyStudent(t.soft_dl(bs=8)), cb, loss_func=CrossEntropyLossFlat())
    if works: return t.fit(learn) and None
    with pytest.raises(ValueError, match='works with class indices only') as e: t.fit(learn)
    assert e.value.argument == 'cbs' and e.value.value is cb


# --- an online teacher

@pytest.mark.parametrize('name', ['new_dl', 'without targets'])
def test_an_online_teacher(t, name):
    "Series without labels, by tsai's own ways; a stream knows which rows it gives"
    learn = t.classifier(probe := t.Probe())
    dl2 = learn.dls.valid.new_dl(t.X2) if name == 'new_dl' else t.TSDataLoader(t.TSDatasets(t.X2), num_workers=0)
    learn.add_cb(NoisyStudent(dl2, teacher=EMATeacher(.5, min_conf=.3, per_class=True)))
    t.fit(learn, 2)
    stream, model = Endless(dl2, 8), learn.noisy_student.online.avg.module
    for _ in range(25):
        x = next(stream)[0]
        assert torch.equal(torch.tensor(t.X2)[stream.rows()], x.as_subclass(Tensor))
    for (x,) in probe.xbs: t.found(x[8:], t.X2)
    x, y = learn.noisy_student.one_batch()
    with torch.no_grad(): want = model(x.as_subclass(Tensor)[8:]).softmax(1)
    torch.testing.assert_close(y.plain()[8:], want)
