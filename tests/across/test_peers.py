"What users of other callbacks for this job run into, one test each: none of it may happen here"
import copy

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import lr_find  # noqa: F401  (patches Learner)
from fastai.data.load import DataLoader
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from noisy_student_fastai.student import NoisyStudent
from torch.nn import functional as F
from toys import Probe, hard_rows, net, params, pl_dl, points, probs, pts_dls, pts_learner, rows, soft_rows


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


def plain_copy(learn, probe, **kwargs):
    "A Learner without the callback that trains on the batches that `probe` saw, with torch's own loss"
    model = kwargs.pop('model')
    opt = torch.optim.SGD(model.parameters(), lr=.1, momentum=.9)
    for (x,), (y,) in zip(probe.xs, probe.ys):
        F.cross_entropy(model(x), torch.Tensor.as_subclass(y, torch.Tensor)).backward()
        opt.step()
        opt.zero_grad()
    return model


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('items', [hard_rows, soft_rows])
def test_student_is_plain_training_on_the_same_batches(items, seed):
    "Soft labels stay soft, hard ones hard: the weights are those of training without the callback"
    from functools import partial

    from fastai.optimizer import SGD
    probe = Probe()
    learn = pts_learner(NoisyStudent(pl_dl(items(90, 2)), l2pl_ratio=1/3), probe, seed=seed, wd=0., moms=None)
    learn.opt_func = partial(SGD, mom=.9)
    start = copy.deepcopy(learn.model)
    fit(learn, 3)
    assert len(probe.xs) == 3*8 and all(len(x) == 32 for x, in probe.xs)
    assert all(y.is_floating_point() == (items is soft_rows) for y, in probe.ys)
    model = plain_copy(learn, probe, model=start)
    for p, q in zip(learn.model.parameters(), model.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def weighted(pred, y, w):
    "The contract's formula, row by row"
    l = torch.stack([-(t*F.log_softmax(p, 0)).sum() for p, t in zip(pred, y)])
    return (w*l).sum()/w.sum()


class Preds(Probe):
    def __init__(self):
        super().__init__()
        self.preds, self.yw = [], []
    def after_pred(self):
        if self.training:
            self.preds.append(self.pred.detach().clone())
            self.yw.append(self.yb[0])


@pytest.mark.parametrize('weight', [0., .3, .999, 1., 1.001, 2.5])
def test_weight_has_no_jump(weight):
    probe = Preds()
    fit(pts_learner(NoisyStudent(pl_dl(), pseudolabel_sample_weight=weight), probe))
    for pred, y, loss in zip(probe.preds, probe.yw, probe.losses):
        w = torch.where(torch.arange(32) < 16, 1., weight)
        assert loss == pytest.approx(weighted(pred, y.plain(), w).item(), rel=1e-5)


@pytest.mark.parametrize('weight', [1., .5])
def test_weight_of_each_row(weight):
    "dl2's third element: the weight of each row, times that of all pseudolabeled rows"
    x = points(90, 2)[0]
    own = torch.rand(90, generator=torch.Generator().manual_seed(0))
    items = rows(x, probs(x), own)
    probe = Preds()
    fit(pts_learner(NoisyStudent(pl_dl(items), pseudolabel_sample_weight=weight), probe))
    for (xb,), pred, y, loss in zip(probe.xs, probe.preds, probe.yw, probe.losses):
        w = [1.]*16 + [weight*own[(x == o).all(1)].item() for o in xb[16:]]
        assert loss == pytest.approx(weighted(pred, y.plain(), torch.tensor(w)).item(), rel=1e-5)


def test_short_batch_is_split_where_it_ends():
    probe = Preds()
    dls = pts_dls(hard_rows(37, 1), drop_last=False)
    learn = fit(pts_learner(NoisyStudent(pl_dl(), pseudolabel_sample_weight=.5), probe, dls=dls))
    assert [len(x) for x, in probe.xs] == [32, 32, 21]
    y = probe.yw[-1]
    assert y.is_pl.tolist() == [False]*5 + [True]*16
    w = torch.where(torch.arange(21) < 5, 1., .5)
    assert probe.losses[-1] == pytest.approx(weighted(probe.preds[-1], y.plain(), w).item(), rel=1e-5)
    assert torch.isfinite(params(learn)).all()


@pytest.mark.parametrize('weight', [0., .5, 1.])
def test_one_row_of_each_kind(weight):
    probe = Probe()
    fit(pts_learner(NoisyStudent(pl_dl(), bs=2, pseudolabel_sample_weight=weight), probe))
    assert len(probe.losses) == 64 and all(torch.isfinite(torch.tensor(probe.losses)))


def test_get_preds_and_validate_as_without_it():
    cb = NoisyStudent(pl_dl(), log_losses=True)
    learn = pts_learner(cb)
    fit(learn, 2)
    with learn.no_bar():
        got = learn.get_preds(), learn.get_preds(with_loss=True)[2], learn.validate(), learn.get_preds(ds_idx=0)[0]
        learn.remove_cb(cb)
        want = learn.get_preds(), learn.get_preds(with_loss=True)[2], learn.validate(), learn.get_preds(ds_idx=0)[0]
    torch.testing.assert_close(got[0][0], want[0][0])
    torch.testing.assert_close(got[0][0].sum(1), torch.ones(50))
    torch.testing.assert_close(got[1], want[1])
    assert list(got[2]) == list(want[2]) and len(got[2]) == 2
    assert got[3].shape == want[3].shape == (64, 3)


class RaiseAt(Callback):
    "Raise `e` at an event of a training batch"
    order = 45
    def __init__(self, e, event, at=1): self.e, self.event, self.at, self.n = e, event, at, 0
    def __call__(self, name):
        if name == self.event and getattr(self.learn, 'training', False):
            self.n += 1
            if self.n == self.at+1: raise self.e
        return super().__call__(name)


def state(learn, dl2):
    dl = learn.dls.train
    return [id(o) for o in (learn.loss_func, dl, dl.after_batch, dl.dataset, dl2.dataset, *learn.metrics)] + \
        [dl2.after_batch, dl.bs, dl.drop_last, dl.shuffle, len(dl), dl2.bs, dl2.drop_last, dl2.shuffle, dl2.device,
         learn.noisy_student.bs]


EVENTS = ['before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_step', 'after_batch']


@pytest.mark.parametrize('mixup', [False, True])
@pytest.mark.parametrize('event', EVENTS)
@pytest.mark.parametrize('error', [KeyboardInterrupt(), RuntimeError('boom')])
def test_after_an_error_the_next_fit_is_as_good_as_new(error, event, mixup):
    dl2 = pl_dl()
    learn = pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3, pseudolabel_sample_weight=.5, log_losses=True))
    before = state(learn, dl2)
    stop = RaiseAt(error, event)
    with pytest.raises(type(error)): fit(learn, 2, cbs=[stop])
    with learn.no_bar(): preds, _, losses = learn.get_preds(with_loss=True)  # the first thing after the interrupt
    assert losses.shape == (50,)
    torch.testing.assert_close(preds.sum(1), torch.ones(50))
    assert state(learn, dl2) == before
    probe = Probe()
    fit(learn, 2, cbs=[probe, *([MixUp()] if mixup else [])])
    assert [len(x) for x, in probe.xs] == [32]*16 and state(learn, dl2) == before
    copy.deepcopy(learn)


def test_validate_inside_fit():
    class AtTheEnd(Callback):
        order = 70
        def after_validate(self):  # not after_epoch, which `validate` fires itself
            if not self.learn.lock.locked(): self.seen = self.learn.validate()
    class InTheMiddle(Callback):
        order = 70
        run_valid = False
        def after_batch(self):
            if self.learn.iter == 2:
                self.learn.validate()
                self.learn.model.train()
                self.learn.training = True
    probe = Probe()
    learn = fit(pts_learner(NoisyStudent(pl_dl(), pseudolabel_sample_weight=.5), probe), 2,
                cbs=[AtTheEnd(), InTheMiddle()])
    assert len(probe.xs) == 8
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)


@pytest.mark.parametrize('when', ['before', 'after', 'interrupted'])
def test_export_and_copy(tmp_path, when):
    mark = 'pseudolabeled-rows-of-the-user'
    items = soft_rows(90, 2)
    dl2 = pl_dl(items)
    dl2.note = mark
    learn = pts_learner(NoisyStudent(dl2, log_losses=True))
    learn.path = tmp_path
    learn.dls = _emptyable(learn.dls)
    if when == 'after': fit(learn)
    if when == 'interrupted':
        with pytest.raises(KeyboardInterrupt): fit(learn, cbs=RaiseAt(KeyboardInterrupt(), 'after_loss'))
    with learn.no_bar(): want = learn.get_preds()[0]
    clone = copy.deepcopy(learn)
    fit(clone)  # a copy goes on training as a student
    assert clone.noisy_student.dl2 is not dl2 and len(clone.noisy_student.dl2.dataset) == 90
    learn.export('a.pkl')
    data = (tmp_path/'a.pkl').read_bytes()
    assert mark.encode() not in data and len(data) < 40_000
    loaded = load_learner(tmp_path/'a.pkl')
    got = loaded.model.eval()(torch.stack([o[0] for o in hard_rows(50, 7)])).softmax(1)
    torch.testing.assert_close(got, want)
    assert isinstance(loaded.loss_func, CrossEntropyLossFlat)
    loaded.dls = pts_dls()
    with pytest.raises(ValueError, match='exported Learner holds no pseudolabels'): fit(loaded)
    loaded.noisy_student.dl2 = pl_dl()
    fit(loaded)


def _emptyable(dls):
    "Datasets that can be emptied, as an export asks"
    class Rows(list):
        def new_empty(self): return Rows()
    for dl in dls.loaders: dl.dataset = Rows(dl.dataset)
    return dls


def test_batch_sizes_stay_and_a_second_fit_takes_the_first_ones():
    dl2 = pl_dl()
    cb = NoisyStudent(dl2, l2pl_ratio=1/3)
    learn = pts_learner(cb)
    before = state(learn, dl2)
    for bs, sizes in [(32, (8, 24)), (16, (4, 12)), (32, (8, 24))]:
        learn.dls.train.bs = bs
        probe = Probe()
        fit(learn, cbs=probe)
        assert (len(probe.xs), len(probe.xs[0][0])) == (64//sizes[0], bs) and cb.bs is None
    assert state(learn, dl2) == before
    cb.l2pl_ratio = 1
    probe = Probe()
    fit(learn, cbs=probe)
    assert len(probe.xs) == 4


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('cls', [DataLoader, torch.utils.data.DataLoader])
def test_the_stream_goes_on_across_epochs_and_fits(cls, shuffle):
    "Each row of dl2 once before any is seen twice; and not in the order of the data"
    x = points(50, 2)[0]
    learn = pts_learner(NoisyStudent(cls(rows(x, probs(x)), batch_size=7, shuffle=shuffle), l2pl_ratio=1/3))
    seen = []
    for n in (1, 2, 1):
        probe = Probe()
        fit(learn, n, cbs=probe)
        for xb, in probe.xs: seen += [int((x == o).all(1).nonzero()[0]) for o in xb[8:]]
    assert len(seen) == 4*8*24
    for i in range(0, len(seen)//50*50, 50): assert sorted(seen[i:i+50]) == list(range(50))
    assert seen[:50] != list(range(50)) and seen[:50] != seen[50:100]


@pytest.mark.parametrize('labels,pls', [('hard', 'hard'), ('hard', 'soft'), ('soft', 'hard'), ('soft', 'soft')])
def test_kinds_of_labels(labels, pls):
    make = dict(hard=hard_rows, soft=soft_rows)
    probe = Preds()
    fit(pts_learner(NoisyStudent(pl_dl(make[pls](90, 2))), probe, dls=pts_dls(make[labels](64, 1)), metrics=[]))
    for pred, y, loss in zip(probe.preds, probe.yw, probe.losses):
        p = F.one_hot(y.plain(), 3).float() if labels == pls == 'hard' else y.plain()
        assert p.shape == (32, 3) and y.soft == (labels != pls or pls == 'soft')
        assert loss == pytest.approx(weighted(pred, p, torch.ones(32)).item(), rel=1e-5)


@pytest.mark.parametrize('weight', [.3, 1.])
def test_class_weights(weight):
    cw = torch.tensor([1., 2., .5])
    probe = Preds()
    fit(pts_learner(NoisyStudent(pl_dl(), pseudolabel_sample_weight=weight), probe, lf=CrossEntropyLossFlat(weight=cw)))
    for pred, y, loss in zip(probe.preds, probe.yw, probe.losses):
        w = torch.where(torch.arange(32) < 16, 1., weight)
        assert loss == pytest.approx(weighted(pred, y.plain()*cw, w).item(), rel=1e-5)


def test_lr_find_as_without_it():
    def found(*cbs):
        torch.manual_seed(0)
        learn = pts_learner(*cbs, model=net(bn=True))
        start = params(learn)
        with learn.no_bar(): learn.lr_find(show_plot=False, num_it=20)
        assert torch.equal(params(learn), start)
        return learn.recorder.losses, learn
    import matplotlib
    matplotlib.use('Agg')
    dl2 = pl_dl()
    (got, learn), (want, _) = found(NoisyStudent(dl2)), found()
    torch.testing.assert_close(torch.stack(got), torch.stack(want))
    assert learn.noisy_student.stream is None
