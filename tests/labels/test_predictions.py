"The k most probable classes of each row, against dense rows made by plain loops; labels made so, from end to end"
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.torch_core import set_seed
from label_toys import outputs, trained, unlabeled
from noisy_student_fastai.all import NoisyStudent, PseudoLabels, calibrate
from noisy_student_fastai.files import Changed, Damaged
from noisy_student_fastai.labels.predictions import Top
from noisy_student_fastai.labels.store import Store
from torch import nn
from torch.nn import functional as F
from toys import hard_rows, points, pts_dls, pts_learner, quiet

SEEDS = range(4)


def dense_of(p, k):
    "Each row by itself: the k largest numbers stay, the others share what is left"
    res = np.empty_like(p, dtype=np.float64)
    for out, row in zip(res, p.astype(np.float64)):
        top = np.argsort(-row, kind='stable')[:k]
        out[:] = (row.sum()-row[top].sum())/(len(row)-k)
        out[top] = row[top]
    return res


def random_probs(n, c, seed, sharp=.2): return np.random.default_rng(seed).dirichlet(np.full(c, sharp), n)


def wide(c=40, seed=0):
    "A Learner of many classes"
    set_seed(seed)
    rows = [(x, y % c) for x, y in zip(points(64, 1)[0], torch.arange(64))]
    dls = DataLoaders(TfmdDL(rows, bs=32, shuffle=True, num_workers=0), TfmdDL(rows[:20], bs=20, num_workers=0))
    dls.c = c
    return Learner(dls, nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, c)), loss_func=CrossEntropyLossFlat(),
                   lr=.1)


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('c, k', [(7, 1), (7, 6), (300, 20)])
def test_read_tempered_aligned(seed, c, k):
    "What PseudoLabels say of dense rows with the same numbers"
    p = random_probs(60, c, seed)
    top = PseudoLabels(p).top(k)
    full = PseudoLabels(dense_of(p, k))
    def same(a, b):
        assert np.allclose(a.read(slice(None)), b.read(slice(None)), atol=1e-6)
        assert np.allclose(a.conf, b.conf, atol=1e-6) and np.allclose(a.mean_probs(), b.mean_probs(), atol=1e-6)
        assert (a.label == b.label).mean() > .98  # equal numbers in the last bit
        assert np.allclose(a.read(slice(None)).numpy()[np.arange(60), a.label], a.conf, atol=1e-6)
    same(top, full)
    q = np.random.default_rng(seed).dirichlet(np.ones(c))
    for t in (.5, 2.): same(top.temper(t), full.temper(t))
    same(top.align(q), full.align(q))
    same(top.temper(1.5).align(), full.temper(1.5).align())
    same(top.align(q).top(k), PseudoLabels(dense_of(full.align(q).read(slice(None)).numpy(), k)))
    top.arrays['leak'] = full.arrays['leak'] = (np.arange(60) % 3 == 0).astype(np.uint8)
    assert np.allclose(top.mean_probs(), full.mean_probs(), atol=1e-6)


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('t', [.3, .8, 1.7, 5.])
def test_a_temperature_after_the_cut_is_wrong_by_no_more_than_the_rest_allows(seed, t):
    "The rest's part in the sum lies between that of equal numbers and that of numbers as large as the k-th"
    p, k, s = random_probs(200, 50, seed), 8, 1/t
    top = -np.sort(-p, 1)[:, :k]
    rest = p.sum(1)-top.sum(1)
    ends = np.stack([42*(rest/42)**s, rest*top[:, -1]**(s-1)])
    whole = (top**s).sum(1)
    lo, hi = ((top[:, :1]**s)/(whole+o)[:, None] for o in (ends.max(0), ends.min(0)))
    conf, exact = PseudoLabels(p).top(k).temper(t).conf[:, None], PseudoLabels(p).temper(t).conf[:, None]
    for o in (conf, exact): assert (o >= lo-1e-6).all() and (o <= hi+1e-6).all()
    assert np.abs(conf-exact).max() <= (hi-lo).max()+2e-6


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('where', ['memory', 'disk'])
def test_labels_by_a_teacher(tmp_path, seed, where):
    "As those with all classes: labels, confidences, selections; probabilities as far as they are kept"
    learn, x = wide(seed=seed), unlabeled(seed=seed+20)
    want, full = outputs(learn, x).softmax(1).numpy(), learn.pseudolabel(x)
    path = tmp_path/'labels' if where == 'disk' else None
    pl = learn.pseudolabel(x, path, top_k=5)
    assert np.array_equal(pl.label, full.label) and np.array_equal(pl.conf, full.conf) and pl.c == 40
    assert np.allclose(pl.probs[:], dense_of(want, 5), atol=6e-4)
    assert np.array_equal(pl.select(0, 3, max_repeat=2).rows, full.select(0, 3, max_repeat=2).rows)
    assert 'of which the 5 most probable of each row are kept' in repr(pl) and 'top_k 5' in repr(pl)
    exact = learn.pseudolabel(x, dtype='float32', top_k=5, bs=7)
    assert np.allclose(exact.probs[:], dense_of(want, 5), atol=1e-6)
    if path:
        again = PseudoLabels.open(path, x)
        assert np.array_equal(again.probs[:], pl.probs[:]) and again.about == pl.about and again.about['c'] == 40
        assert again.arrays['probs'].i.dtype == np.uint8 and again.arrays['probs'].p.dtype == np.float16
        with pytest.raises(Changed, match='top_k=5, and now it is 6'): learn.pseudolabel(x, path, top_k=6)
        with pytest.raises(Changed, match='other'): learn.pseudolabel(x, path)


def test_the_temperature_comes_before_the_cut():
    learn, x = wide(), unlabeled()
    want = (outputs(learn, x)/.5).softmax(1).numpy()
    pl = learn.pseudolabel(x, top_k=3, temperature=.5, dtype='float32')
    assert np.allclose(pl.probs[:], dense_of(want, 3), atol=1e-6)


def test_it_goes_on_where_it_was_cut_off(tmp_path):
    "The bytes are those of a labeling that nothing has disturbed"
    learn, x = wide(), unlabeled()
    learn.pseudolabel(x, tmp_path/'a', top_k=4, bs=16)
    calls, forward = [], learn.model.forward
    def cut_off(b):
        calls.append(len(b))
        if len(calls) == 6: raise KeyboardInterrupt
        return forward(b)
    learn.model.forward = cut_off
    with pytest.raises(KeyboardInterrupt): learn.pseudolabel(x, tmp_path/'b', top_k=4, bs=16)
    del learn.model.forward
    assert 'top_p' in Store(tmp_path/'b', 150, learn_about(tmp_path/'a')).header['arrays']
    learn.pseudolabel(x, tmp_path/'b', top_k=4, bs=16)
    for k in ('top_p', 'top_i', 'rest', 'conf', 'label'):
        assert (tmp_path/'a'/f'{k}.npy').read_bytes() == (tmp_path/'b'/f'{k}.npy').read_bytes()


def learn_about(path): return PseudoLabels.open(path).about


def test_what_is_refused_by_name():
    learn, x = wide(), unlabeled()
    for k in (40, 41, 0):
        with pytest.raises(ValueError, match='top_k='): learn.pseudolabel(x, top_k=k)
    with pytest.raises(TypeError, match='top_k=.*whole number'): learn.pseudolabel(x, top_k=2.5)
    learn.loss_func = BCEWithLogitsLossFlat()
    with pytest.raises(ValueError, match="top_k=5: expected None for labels of kind 'multi'"):
        learn.pseudolabel(x, top_k=5)
    learn.loss_func = MSELossFlat()
    with pytest.raises(ValueError, match="top_k=5: expected None for labels of kind 'values'"):
        learn.pseudolabel(x, top_k=5)
    with pytest.raises(ValueError, match='names of classes'):
        PseudoLabels(PseudoLabels(random_probs(5, 4, 0)).top(2).probs, vocab='abc')


@pytest.mark.parametrize('change, said', [
    (dict(label=[1, 1]), 'labels that do not follow from its probabilities'),
    (dict(conf=[.5, .5]), 'labels that do not follow from its probabilities'),
    (dict(top_i=[[0, 0], [1, 2]]), 'row 0 of the predictions'), (dict(top_i=[[0, 1], [1, 9]]), 'row 1 of the pred'),
    (dict(rest=[.5, .1]), 'row 0 of the predictions'), (dict(top_p=[[.7, .2], [-.6, 1.5]]), 'row 1 of the predictions'),
    (dict(top_p=[[.7, .0], [.6, .3]], rest=[.3, .1], c=3), 'row 0 of the predictions'),
    (dict(c=2), 'header or arrays'), (dict(c='4'), 'header or arrays'), (dict(kind='multi'), 'header or arrays'),
    (dict(top_i=[[0., 1.], [1., 2.]]), 'header or arrays'), (dict(rest=[[.1], [.1]]), 'header or arrays')])
def test_folders_of_strangers(tmp_path, change, said):
    "The checksums may be right"
    about = dict(kind=change.pop('kind', 'single'), vocab=None, c=change.pop('c', 4))
    types = dict(top_p=np.float16, rest=np.float16, conf=np.float32, label=np.uint8)
    rows = dict(top_p=[[.7, .2], [.6, .3]], top_i=[[0, 1], [1, 2]], rest=[.1, .1], conf=[.7, .6], label=[0, 1]) | change
    rows = {k: np.array(v, types.get(k, np.uint8 if type(v[0][0]) is int else np.float32)
                        if k == 'top_i' else types[k]) for k, v in rows.items()}
    with Store(tmp_path/'a', 2, about) as s:
        s.write(**rows)
        s.finish()
    with pytest.raises(Damaged, match=said): PseudoLabels.open(tmp_path/'a')


def test_saved_and_opened(tmp_path):
    top = PseudoLabels(random_probs(50, 300, 0), ids=[f'{i}.png' for i in range(50)]).top(7)
    back = top.save(tmp_path/'a')
    for o in (back, PseudoLabels.open(tmp_path/'a')):
        assert np.array_equal(o.probs[:], top.probs[:]) and list(o.ids) == list(top.ids) and o.c == 300
        assert np.array_equal(o.label, top.label) and o.arrays['probs'].i.dtype == np.uint16


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('n, k', [(5, 1), (7, 3)])
def test_ties(seed, n, k):
    "Of classes that are equally probable, also those of rows that nobody could read, the label is among the k"
    p = np.random.default_rng(seed).integers(1, 3, (200, n)).astype(float)
    full = PseudoLabels(p/p.sum(1, keepdims=True))
    top = full.top(k)
    assert (top.probs.i[:, 0] == full.label).all() and np.allclose(top.probs[:].sum(1), 1, atol=1e-6)
    again = PseudoLabels(top.probs)
    assert np.array_equal(again.label, full.label)


def test_nothing_but_a_batch_is_made_dense(tmp_path, monkeypatch):
    "Of 21,000 classes: labels are selected, aligned, summed up, drawn, saved, opened and written to a table"
    n, c, k = 100, 21_000, 8
    p = torch.softmax(8*torch.randn(n, c, generator=torch.Generator().manual_seed(0)), 1)
    pl, mean = PseudoLabels(p, unlabeled(n)).top(k), p.double().mean(0).numpy()
    def none(self): raise AssertionError
    monkeypatch.setattr(Top, 'dense', none)
    assert np.abs(pl.mean_probs()-mean).max() < 1e-3 and pl.mean_probs().sum() == pytest.approx(1, abs=1e-4)
    sel = pl.temper(.7).select(.01, prior='uniform', max_repeat=1)
    sel.plot_balance()
    pl.plot_confidence()
    pl.plot_agreement(pl.align())
    assert len(sel.by_class()) == c and 'the 8 most probable' in repr(pl.save(tmp_path/'a'))
    pl = PseudoLabels.open(tmp_path/'a', unlabeled(n))
    size = sum((tmp_path/'a'/f'{o}.npy').stat().st_size for o in ('top_p', 'top_i', 'rest', 'conf', 'label'))
    assert size <= n*(8*k+10)+5*128  # float32 here
    df = pd.read_parquet(pl.select(0).to_parquet(tmp_path/'a.parquet', probs=True))
    assert df.shape == (n, 4+2*k+1) and np.array_equal(df.class_1, pl.label)
    assert np.allclose(df.prob_1, pl.conf, atol=1e-4) and np.allclose(df.prob_rest, pl.probs.rest, atol=1e-4)
    assert pl.select(0).dl(pts_dls(), leaks='keep').dataset[3][1].shape == (2*k+1,)
    monkeypatch.undo()
    assert pl.select(0).dl(pts_dls(), bs=4, leaks='keep').one_batch()[1].shape == (4, c)


def test_the_names_of_a_table():
    top = PseudoLabels(np.array([[.1, .6, .3], [.5, .2, .3]]), vocab='abc').top(2)
    assert top.df(probs=True).iloc[:, 3:].values.tolist() == [['b', .6, 'c', .3, .1], ['a', .5, 'c', .3, .2]] or \
        np.allclose(top.df(probs=True)[['prob_1', 'prob_2', 'prob_rest']], [[.6, .3, .1], [.5, .3, .2]])
    assert top.df(probs=True)[['class_1', 'class_2']].values.tolist() == [['b', 'c'], ['a', 'c']]


def join_of(learn, dl2, **kwargs):
    learn.add_cb(NoisyStudent(dl2, **kwargs))
    xb, yb = learn.noisy_student.one_batch()
    return xb.as_subclass(torch.Tensor), yb.plain()


@pytest.mark.parametrize('as_items', [False, True])
@pytest.mark.parametrize('temperature, prior', [(1., None), (.5, None), (.5, 'uniform')])
def test_a_student_gets_dense_rows(as_items, temperature, prior):
    "Each pseudolabeled row of a batch with the probabilities that `read` has, whichever way rows are collated"
    x, learn = unlabeled(), wide()
    sel = PseudoLabels(outputs(learn, x).softmax(1), list(torch.tensor(x)) if as_items else x).top(6).select(
        0, prior=prior)
    dl2 = sel.dl(learn.dls, bs=16, temperature=temperature)
    assert dl2.dataset[0][1].shape == (13,) and dl2.one_batch()[1].shape == (16, 40)
    xb, yb = join_of(wide(), dl2, bs=32)
    rows = [int((torch.tensor(x) == o).all(1).nonzero()[0]) for o in xb[16:]]
    want = sel.pl.read(rows)
    want = want if temperature == 1 else want**2/(want**2).sum(1, keepdim=True)
    assert torch.allclose(yb[16:], want, atol=1e-5) and torch.equal(yb[:16].sum(1), torch.ones(16))
    hard = join_of(wide(), sel.dl(learn.dls, bs=16, soft=False), bs=32)
    assert hard[1].dtype == torch.int64 and len(hard[1]) == 32


@pytest.mark.parametrize('seed', range(3))
def test_the_loss_differs_by_no_more_than_the_rest(seed):
    "Cross entropy with cut labels: off by the rest's share times how far a student's log probabilities are apart"
    g = torch.Generator().manual_seed(seed)
    p, logp = ((2*torch.randn(80, 60, generator=g)).softmax(1) for _ in range(2))
    logp = logp.log()
    for k in (1, 10, 59):
        pl = PseudoLabels(p).top(k)
        got, want = (F.cross_entropy(logp, o, reduction='none') for o in (pl.read(slice(None)), p))
        bound = torch.from_numpy(pl.probs.rest)*(logp.amax(1)-logp.amin(1))
        assert ((got-want).abs() <= bound+1e-5).all() and (k < 59 or torch.allclose(got, want, atol=1e-5))


def test_a_student_trains_on_workers_batches():
    learn, x = wide(), unlabeled()
    pl = learn.pseudolabel(x, top_k=4)
    student = wide(seed=1)
    student.add_cb(NoisyStudent(pl.select(0).dl(student.dls, bs=16, num_workers=1), bs=32))
    with student.no_logging(), student.no_bar(): student.fit(1)
    assert np.isfinite(student.recorder.values[-1][0])


def test_a_calibrated_temperature():
    "What `calibrate` says of validation rows is taken before the cut, and by `temper` nearly the same after it"
    learn, x = trained(), unlabeled()
    for o in quiet(learn): o.__enter__()
    t = calibrate(*learn.get_preds())
    a, b = learn.pseudolabel(x, top_k=2, temperature=t), learn.pseudolabel(x, top_k=2).temper(t)
    assert np.allclose(a.conf, b.conf, atol=2e-3) and np.array_equal(a.label, b.label)  # one class is left: exact


class Broken:
    "One row of these can't be read"
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        if i == 3: raise OSError('broken')
        return self.x[i],


def test_rows_that_nobody_could_read(tmp_path):
    "They have a place, no label, and are counted nowhere"
    learn, x = wide(), Broken(torch.tensor(unlabeled(20)))
    pl = learn.pseudolabel(x, tmp_path/'a', top_k=4, unreadable='skip', leaks='keep', bs=5)
    assert np.flatnonzero(pl.leak == 3).tolist() == [3] and np.allclose(pl.probs[[3]], 1/40, atol=1e-4)
    assert 3 not in pl.select(0).rows and pl.df(probs=True).loc[3, ['class_1', 'prob_1', 'prob_rest']].isna().all()
    assert np.array_equal(PseudoLabels.open(tmp_path/'a').probs[:], pl.probs[:])


def test_a_run(tmp_path):
    from noisy_student_fastai.rounds.self_training import self_train
    def make(r=0): return pts_learner(dls=pts_dls(hard_rows(24, 1), bs=8))
    kw = dict(n_rounds=1, n_epoch=2, student=dict(bs=12), select=dict(n_per_class=20), weak_teacher='warn')
    a, b = (self_train(make, points(120, 3)[0].numpy(), path=tmp_path/str(i), pseudolabel=o, **kw)
            for i, o in enumerate((None, dict(top_k=2))))
    cols = ['n_rows', 'least_class', 'most_class', 'precision']
    assert a.records[cols].equals(b.records[cols]) and b.labels(1).top_k == 2
    assert np.allclose(a.records.valid_loss, b.records.valid_loss, atol=1e-2)
