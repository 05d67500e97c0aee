"`NoisyStudent` by itself: its arguments, how a batch is split, what it checks, what may change between epochs"
import re
import warnings
from functools import partial
from types import SimpleNamespace

import fastai.callback.schedule  # noqa: F401  (gives Learners `lr_find`)
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.tabular.core import Categorify, TabularPandas
from fastai.torch_core import TensorImage, set_seed
from fasttransform.transform import Transform
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.fit_callback import FitCallback
from noisy_student_fastai.loaders import with_added
from noisy_student_fastai.student import NoisyStudent, _check_table
from noisy_student_fastai.targets import RowTargets
from torch import Tensor, nn
from toys import Probe, hard_rows, pl_dl, points, probs, pts_dls, pts_learner, rows, soft_rows


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


@settings(max_examples=60, deadline=None, derandomize=True)
@given(bs=st.integers(2, 2000), k=st.integers(1, 60), larger=st.booleans())
def test_split(bs, k, larger):
    "Whole numbers of labeled rows per pseudolabeled one, or the reverse: `int(bs/(1+ratio))` without rounding errors"
    cb = NoisyStudent(pl_dl(), bs=bs, l2pl_ratio=k if larger else 1/k)
    want = bs//(1+k) if larger else bs*k//(1+k)
    if 0 < want < bs: assert cb.sizes(pl_dl()) == (bs-want, want)
    else:
        try: cb.sizes(pl_dl())
        except ValueError as e: assert 'must hold both kinds' in str(e)
        else: raise AssertionError('no error')


def test_too_few_labeled_rows():
    learn = pts_learner(NoisyStudent(pl_dl()), dls=pts_dls(hard_rows(40, 1), bs=128))
    with pytest.raises(ValueError, match='labeled set of 40 rows gives no batch of 64'): fit(learn)
    fit(pts_learner(NoisyStudent(pl_dl()), dls=pts_dls(hard_rows(40, 1), bs=128, drop_last=False)))


BAD = [
    (dict(l2pl_ratio=0), ValueError, 'l2pl_ratio=0'), (dict(l2pl_ratio=-1), ValueError, 'l2pl_ratio=-1'),
    (dict(l2pl_ratio=float('nan')), ValueError, 'l2pl_ratio=nan'), (dict(l2pl_ratio='1'), TypeError, "l2pl_ratio='1'"),
    (dict(bs=0), ValueError, 'bs=0'), (dict(bs=1), ValueError, 'bs=1'), (dict(bs=2.5), TypeError, 'bs=2.5'),
    (dict(bs=True), TypeError, 'bs=True'),
    (dict(pseudolabel_sample_weight=-.1), ValueError, 'pseudolabel_sample_weight=-0.1'),
    (dict(pseudolabel_sample_weight=float('inf')), ValueError, 'weight=inf'),
    (dict(pseudolabel_sample_weight=None), TypeError, 'weight=None'),
]


@pytest.mark.parametrize('kwargs,error,text', BAD)
def test_bad_arguments(kwargs, error, text):
    with pytest.raises(error, match=text) as e: NoisyStudent(pl_dl(), **kwargs)
    assert 'expected' in str(e.value)


@pytest.mark.parametrize('dl2', [None, [1, 2], 'labels', points(4, 0), pts_dls()])
def test_dl2_that_is_no_loader(dl2):
    with pytest.raises(TypeError, match='a fastai, tsai or torch DataLoader'): NoisyStudent(dl2)


@pytest.mark.parametrize('ratio,bs', [(100., 32), (1e-12, 32), (40., 32)])
def test_batch_that_cannot_hold_both_kinds(ratio, bs):
    with pytest.raises(ValueError, match='must hold both kinds'):
        fit(pts_learner(NoisyStudent(pl_dl(), bs=bs, l2pl_ratio=ratio)))


def test_empty_dl2():
    for dl2 in (DataLoader([], bs=4), torch.utils.data.DataLoader([], batch_size=4)):
        with pytest.raises(ValueError, match='dl2 is empty'): fit(pts_learner(NoisyStudent(dl2)))


@pytest.mark.parametrize('ratio,bs,n_pl', [(1/14, 15, 14), (1/14, 30, 28), (2, 256, 85), (1, 33, 16), (1/7, 64, 56),
                                           (3, 64, 16)])
def test_ratio(ratio, bs, n_pl):
    probe = Probe()
    fit(pts_learner(NoisyStudent(pl_dl(soft_rows(300, 3)), bs=bs, l2pl_ratio=ratio), probe,
                    dls=pts_dls(hard_rows(400, 1))))
    assert all(y.is_pl.sum() == n_pl and len(y) == bs for (y,) in probe.ys)


class Counted(Transform):
    "A batch transform that says when it ran, and on how many rows"
    def __init__(self, name, order): self.nm, self.order, self.calls = name, order, LOG
    def encodes(self, x: torch.Tensor):
        if x.is_floating_point() and x.shape[-1] == 2: LOG.append((self.nm, len(x)))
        return x


LOG = []


def test_batch_transforms_run_once_in_their_order():
    LOG.clear()
    dls = pts_dls(after_batch=[Counted('own', 1)])
    dl2 = TfmdDL(soft_rows(90, 2), bs=16, num_workers=0, after_batch=[Counted('dl2', 1)])
    assert dls.n_inp == dl2.n_inp == 1  # fastai reads a row to find out
    LOG.clear()
    fit(pts_learner(NoisyStudent(dl2), dls=dls))
    assert LOG == [('own', 32)]*4 + [('own', 20), ('own', 20), ('own', 10)]
    learn = pts_learner(NoisyStudent(dl2, batch_tfms=[Counted('late', 30), Counted('early', 2)], do_setup=False),
                        dls=dls)
    LOG.clear()
    fit(learn)
    assert LOG[:8] == [('early', 32), ('late', 32)]*4


def test_another_vocabulary():
    def with_vocab(dl, v):
        dl.vocab = v
        return dl
    dls, dl2 = pts_dls(), pl_dl()
    with_vocab(dls.train, ['cat', 'dog', 'fish'])
    with pytest.raises(ValueError, match="vocabulary.*'fish', 'dog', 'cat'.*Build dl2"):
        fit(pts_learner(NoisyStudent(with_vocab(dl2, ['fish', 'dog', 'cat'])), dls=dls))
    fit(pts_learner(NoisyStudent(with_vocab(dl2, ['cat', 'dog', 'fish'])), dls=dls))


def test_another_number_of_classes():
    x = points(90, 2)[0]
    for y in (torch.rand(90, 4).softmax(1), torch.rand(90, 2).softmax(1)):
        with pytest.raises(ValueError, match='class index 2|one probability for each class'):
            fit(pts_learner(NoisyStudent(pl_dl(rows(x, y)))))
    dls = pts_dls()
    dls.train.c = 3
    with pytest.raises(ValueError, match='class index 5, but there are 3 classes'):
        fit(pts_learner(NoisyStudent(pl_dl(rows(x, torch.full((90,), 5)))), dls=dls))
    with pytest.raises(ValueError, match='softmax of a teacher'):
        fit(pts_learner(NoisyStudent(pl_dl(rows(x, torch.randn(90, 3)))), dls=dls))


def test_no_targets():
    with pytest.raises(ValueError, match='it has no targets'):
        fit(pts_learner(NoisyStudent(pl_dl(rows(points(90, 2)[0])))))


def test_another_loss_for_the_second_epoch():
    smooth = LabelSmoothingCrossEntropyFlat(eps=.5)
    class Switch(Callback):
        def before_epoch(self):
            if self.epoch == 1: self.learn.loss_func = smooth
    probe = Probe()
    learn = fit(pts_learner(NoisyStudent(pl_dl()), probe), 2, cbs=Switch())
    assert learn.loss_func is smooth and min(probe.losses[4:]) > 0
    class Ask(Callback):
        order, run_valid = 41, False
        def __init__(self): self.seen = []
        def after_pred(self):
            self.seen.append(self.learn.loss_func.eps if hasattr(self.learn.loss_func, 'eps') else None)
    want = []
    class Want(Callback):
        order, run_valid = 42, False
        def after_loss(self):
            logp, p = self.pred.log_softmax(1), self.learn.yb[0].plain()
            want.append(((.5*-(p*logp).sum(1) - .5/3*logp.sum(1)).mean().item(), self.loss.item()))
    fit(learn, cbs=Want())
    for a, b in want: assert a == pytest.approx(b, rel=1e-4)


def test_other_data_for_the_second_epoch():
    "Progressive resizing: a callback that gives the Learner other loaders between two epochs"
    class Larger(Callback):
        def before_epoch(self):
            if self.epoch == 1: self.learn.dls = pts_dls(hard_rows(128, 3))
    probe = Probe()
    fit(pts_learner(NoisyStudent(pl_dl()), probe), 2, cbs=Larger())
    assert len(probe.xs) == 4+8


def test_other_pseudolabels_for_the_second_fit():
    dl2 = pl_dl()
    learn = fit(pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3)))
    x = points(30, 9)[0]
    dl2.dataset, dl2.n = rows(x, probs(x)), 30
    probe = Probe()
    fit(learn, cbs=probe)
    assert all((x == o).all(1).any() for xb, in probe.xs for o in xb[8:])


def test_set_up_of_the_transforms():
    "`batch_tfms` without statistics get those of the labeled set, or are left alone; the labeled rows keep their order"
    def items(n, seed, soft):
        g = torch.Generator().manual_seed(seed)
        y = torch.rand(n, 3, generator=g).softmax(1) if soft else torch.arange(n) % 3
        return rows(TensorImage(torch.rand(n, 3, 4, 4, generator=g)*5), y)
    def student(**kwargs):
        set_seed(0)
        dls = DataLoaders(TfmdDL(items(32, 0, False), bs=16, shuffle=True, num_workers=0),
                          TfmdDL(items(8, 1, False), bs=8, num_workers=0))
        return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), loss_func=CrossEntropyLossFlat(),
                       cbs=NoisyStudent(pl_dl(items(40, 2, True)), **kwargs))
    norm, probe = Normalize(), Probe()
    fit(student(batch_tfms=[norm]), cbs=probe)
    assert norm.mean.flatten().tolist() == pytest.approx([2.5]*3, abs=.4)
    plain = Probe()
    fit(student(), cbs=plain)
    for (a,), (b,) in zip(probe.xs, plain.xs):
        torch.testing.assert_close((b[:8]-norm.mean)/norm.std, a[:8], rtol=1e-3, atol=1e-3)
    bare = Normalize()
    with pytest.raises(Exception): fit(student(batch_tfms=[bare], do_setup=False))
    assert bare.mean is None


@pytest.mark.parametrize('seed', range(3))
def test_labeled_rows_come_in_the_order_that_they_would_have_anyway(seed):
    def order(*cbs, bs):
        set_seed(seed)
        probe = Probe()
        fit(pts_learner(*cbs, probe, dls=pts_dls(bs=bs), seed=seed), 3)
        return torch.cat([x[:16] for x, in probe.xs])
    set_seed(seed)
    dls, dls2 = (lambda o: (set_seed(seed), pts_dls(bs=o))[1] for _ in range(2))
    probes = Probe(), Probe()
    a, b = dls(16), dls2(32)
    fit(pts_learner(probes[0], dls=a), 3)
    fit(pts_learner(NoisyStudent(pl_dl()), probes[1], dls=b), 3)
    torch.testing.assert_close(*(torch.cat([x[:16] for x, in p.xs]) for p in probes))


def test_a_student_without_a_validation_set():
    dls = pts_dls()
    dls.loaders = dls.loaders[:1]
    learn = pts_learner(NoisyStudent(pl_dl()), dls=dls)
    learn._do_epoch_validate = lambda *args, **kwargs: None
    fit(learn)
    assert isinstance(learn.noisy_student.one_batch()[1], RowTargets)


class Shift(Transform):
    "Added to the inputs, in training only"
    order, split_idx = 50, 0
    def encodes(self, x: Tensor): return x+100 if x.is_floating_point() and x.shape[-1] == 2 else x


class Shifted(FitCallback):
    "Another callback that adds a transform to the training loader"
    order = -3
    def before_train(self):
        super().before_train()
        self.learn.dl = self.train_dl(self.learn.dl)
    def train_dl(self, dl): return with_added(dl, [Shift()])


class Halve(Transform):
    order, split_idx = 10, 0
    def encodes(self, x: Tensor): return x/2 if x.is_floating_point() and x.shape[-1] == 2 else x


@pytest.mark.parametrize('batch_tfms', [None, [Halve()]])
def test_what_other_callbacks_add_runs_once_on_the_whole(batch_tfms):
    "... also where the callback has transforms of its own; and `one_batch` shows it"
    known = torch.cat([points(64, 1)[0], points(90, 2)[0]])/(1 if batch_tfms is None else 2)+100
    probe = Probe()
    learn = fit(pts_learner(Shifted(), NoisyStudent(pl_dl(), batch_tfms=batch_tfms), probe))
    xs = [x for x, in probe.xs]+[learn.noisy_student.one_batch()[0]]
    assert len(xs) == 5 and len(xs[-1]) == 32
    for x in xs: assert (x[:, None]-known).abs().amax(2).amin(1).max() < 1e-4


def test_one_batch_leaves_the_stream():
    "The rows of a training are the same whether someone has looked at a batch or not"
    def seen(look):
        set_seed(0)
        probe, dls, dl2 = Probe(), pts_dls(), pl_dl()
        learn = fit(pts_learner(NoisyStudent(dl2), probe, dls=dls))
        pos = learn.noisy_student.stream.pos
        if look: learn.noisy_student.one_batch()
        return probe.xs, pos, learn.noisy_student.stream.pos
    (a, pos, pos_a), (b, _, _) = seen(True), seen(False)
    assert pos == pos_a and all(torch.equal(x, z) for (x,), (z,) in zip(a, b))


@pytest.mark.parametrize('log_losses', [False, True])
def test_added_in_the_middle_of_a_fit(log_losses):
    "A student from the second epoch on, in the same table"
    class Late(Callback):
        def before_epoch(self):
            if self.epoch == 1: self.learn.add_cb(NoisyStudent(pl_dl(), log_losses=log_losses))
    lf, probe = CrossEntropyLossFlat(), Probe()
    learn = fit(pts_learner(Late(), probe, lf=lf), 3)
    assert [isinstance(y, RowTargets) for y, in probe.ys] == [False]*2+[True]*8 and learn.loss_func is lf
    assert all(len(v) == len(learn.recorder.metric_names)-2 for v in learn.recorder.values)
    fit(learn)
    assert ('label_loss' in learn.recorder.metric_names) == log_losses


@pytest.mark.parametrize('df,key', [(dict(color=['red', 'blue'], size=[1., 2.]), 'classes'),
                                    (dict(color=['blue', 'red', 'green'], size=[1., 2., 3.1]), 'means')])
def test_a_table_with_other_numbers(df, key):
    "A category or a standardized number would mean two things"
    def to(df): return TabularPandas(pd.DataFrame(df), [Categorify, Normalize], ['color'], ['size'])
    a = SimpleNamespace(dataset=to(dict(color=['red', 'blue', 'green'], size=[1., 2., 3.])))
    with pytest.raises(ValueError, match=f"dl2's table has {key}=.* and the Learner's") as e:
        _check_table(a, SimpleNamespace(dataset=to(df)))
    assert e.value.key == key
    _check_table(a, a)


def test_what_is_asked_as_a_fit_begins():
    "Several students, the validation set as `dl2`, an argument that was changed after the callback was made"
    with pytest.raises(ValueError, match='several NoisyStudent'):
        fit(pts_learner(NoisyStudent(pl_dl()), NoisyStudent(pl_dl())))
    learn = pts_learner()
    learn.add_cb(NoisyStudent(learn.dls.valid))
    with pytest.raises(ValueError, match='reads the validation set'): fit(learn)
    learn = pts_learner(NoisyStudent(pl_dl()))
    learn.noisy_student.l2pl_ratio = -1
    with pytest.raises(ValueError, match='l2pl_ratio=-1'): fit(learn)
    with pytest.raises(ValueError, match='has no Learner yet'): NoisyStudent(pl_dl()).one_batch()


def test_a_mistake_knows_its_argument():
    with pytest.raises(ValueError) as e: fit(pts_learner(NoisyStudent(pl_dl(), bs=32, l2pl_ratio=100.)))
    assert (e.value.argument, e.value.value) == ('bs', 32)
    with pytest.raises(TypeError) as e: NoisyStudent([1, 2])
    assert (e.value.argument, e.value.value) == ('dl2', [1, 2])


class Looks(Callback):
    "Asks for the loss at the events `looks`, with or without gradients, and replaces targets at the event `at`"
    order, run_valid = 30, False
    def __init__(self, looks, at, how):
        self.looks = looks
        self.how = dict(plain=lambda y: y.plain(), new=lambda y: torch.tensor(y.tolist()), loss=lambda y: y,
                        keeps=lambda y: y.clone(), twice=lambda y: y[list(range(len(y)))], none=lambda y: y)[how]
        for k in {*looks, at}: setattr(self, k, partial(self.look, k, k == at, how))

    def look(self, event, replace, how):
        if event in self.looks:
            with torch.no_grad(): self.learn.loss_func(self.learn.model(*self.learn.xb), *self.learn.yb)
        if not replace: return
        self.learn.yb = (self.how(self.learn.yb[0]),)
        if how == 'loss': self.learn.loss_func = Other(self.learn.loss_func)


class Other:
    "Another loss, which leaves out what it replaces"
    def __init__(self, lf): self.lf = lf
    def __call__(self, pred, y): return torch.nn.functional.cross_entropy(pred, y.plain())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(looks=st.sets(st.sampled_from(['before_batch', 'after_pred'])),
       at=st.sampled_from(['before_batch', 'after_pred']),
       how=st.sampled_from(['plain', 'new', 'loss', 'keeps', 'twice', 'none']),
       weight=st.sampled_from([0., .5, 1.]), soft=st.booleans())
def test_weights_that_do_not_reach_the_loss_are_noticed(looks, at, how, weight, soft):
    "... whatever a callback has done with the loss before"
    if how == 'loss' and 'after_pred' in looks: return  # a look at the one, then another
    learn = pts_learner(NoisyStudent(pl_dl(None if soft else hard_rows(90, 2)), pseudolabel_sample_weight=weight),
                        Looks(looks, at, how))
    if how in ('keeps', 'twice', 'none') or weight == 1 and not soft:
        fit(learn)
        return
    with pytest.raises(ValueError, match='did not get this batch') as e: fit(learn)
    assert e.value.argument == 'loss_func'


@pytest.mark.parametrize('views', [lambda y: y.repeat_interleave(2, 0), lambda y: torch.cat([y, y]).roll(3, 0)])
@pytest.mark.parametrize('soft', [False, True])
def test_a_callback_that_repeats_rows(views, soft):
    "The loss is that of the rows that it makes, each with its weight"
    class Views(Callback):
        order, run_valid, seen = 30, False, None
        def before_batch(self):
            y = self.learn.yb[0]
            at = views(torch.arange(len(y)).reshape(-1, *[1]*(y.ndim-1)).expand(y.shape)).reshape(2*len(y), -1)[:, 0]
            self.learn.xb, self.learn.yb, self.want = (self.x[at],), (views(y),), (y.plain()[at], y.w[at])
        def after_loss(self):
            y, w = self.want
            ls = torch.nn.functional.cross_entropy(self.pred, y, reduction='none')
            torch.testing.assert_close(self.loss, (ls*w).sum()/w.sum())
    dl2 = pl_dl(None if soft else hard_rows(90, 2))
    fit(pts_learner(NoisyStudent(dl2, pseudolabel_sample_weight=.3), Views()))


def test_a_callback_that_changes_soft_labels_is_named():
    class Wide(Callback):
        order, run_valid = 30, False
        def before_batch(self): self.learn.yb = (self.learn.yb[0].repeat(1, 2),)
    with pytest.raises(ValueError, match=r'made soft labels of shape \(32, 6\)') as e:
        fit(pts_learner(NoisyStudent(pl_dl()), Wide()))
    assert e.value.argument == 'cbs'


def two_targets(soft, n=64):
    x, y = points(n, 3)
    return rows(x, y, torch.eye(3)[y] if soft else y)


@pytest.mark.parametrize('soft', [False, True])
def test_several_classifications_a_row(soft):
    "Class indices are joined for each; soft labels are refused by name, for whichever target"
    both = lambda p, y, z: torch.nn.functional.cross_entropy(p, y)+torch.nn.functional.cross_entropy(p, z)
    dls = DataLoaders(*(TfmdDL(two_targets(False, n), bs=16, num_workers=0) for n in (64, 20)))
    dls.n_inp = 1
    learn = pts_learner(NoisyStudent(pl_dl(two_targets(soft))), dls=dls, lf=both, metrics=[])
    if not soft:
        fit(learn)
        return
    with pytest.raises(ValueError, match='several targets.*class indices') as e: fit(learn)
    assert e.value.argument == 'dl2'


class Asks(Callback):
    "Asks for another loss when the step has its own"
    run_valid = False
    def __init__(self, order, n=None): self.order, self.n = order, n
    def after_loss(self):
        y = self.learn.yb[0]
        self.learn.loss_func(self.pred[:self.n], y.plain() if self.n is None else y[:self.n])


@pytest.mark.parametrize('order', [-5, 0])
def test_a_loss_that_a_callback_asks_for_later(order):
    for soft, w in ((None, 1.), (hard_rows(90, 2), .5)):
        learn = pts_learner(NoisyStudent(pl_dl(soft), pseudolabel_sample_weight=w), Asks(order), lf=both_kinds)
        fit(learn)


def both_kinds(p, y, reduction='mean'): return torch.nn.functional.cross_entropy(p, y, reduction=reduction)


def test_strangers_of_the_names_of_tsais_callbacks():
    class BatchLossFilter(Callback): pass
    class UBDAug(Callback): pass
    class Idxs(Callback):
        def before_validate(self): self.idxs = getattr(self.dls.valid, 'input_idxs', None)
    class MixHandler(Callback):
        def before_fit(self): self.own, self.learn.loss_func = self.learn.loss_func, self.lf
        def lf(self, pred, y): return self.own(pred, y)
        def after_fit(self): self.learn.loss_func = self.own
    fit(pts_learner(NoisyStudent(pl_dl()), BatchLossFilter(), UBDAug(), Idxs()))
    dl2 = pl_dl(hard_rows(90, 2))
    fit(pts_learner(NoisyStudent(dl2), MixHandler()))


class CountPl(Callback):
    "Pseudolabeled rows that a fit has seen"
    run_valid, order = False, 49
    def before_fit(self): self.n = 0
    def before_batch(self): self.n += int(self.yb[0].is_pl.sum())


@pytest.mark.parametrize('n, bs, ratio, n_epoch', [(24, 8, 1, 1), (24, 8, 1, 7), (40, 16, 1/7, 3), (24, None, 3, 3)])
def test_the_first_line_says_what_a_fit_will_see(n, bs, ratio, n_epoch, capsys):
    "... once, as many as come by; without a log it is left out, and only a part that is too small is warned of"
    count = CountPl()
    learn = pts_learner(NoisyStudent(pl_dl(), bs=bs, l2pl_ratio=ratio), count, dls=pts_dls(hard_rows(n, 1), bs=8))
    with learn.no_bar(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn.fit(n_epoch)
        lines = [o for o in capsys.readouterr().out.splitlines() if 'pseudolabeled rows' in o]
        with learn.no_logging(): learn.fit(n_epoch)
    n_batches = len(learn.recorder.lrs)//n_epoch
    assert len(lines) == 1 and 'pseudolabeled rows' not in capsys.readouterr().out
    if count.n < 90: assert f'sees {count.n} of 90 pseudolabeled rows: ' in lines[0]
    else: assert re.search(rf'sees each of 90 pseudolabeled rows {count.n/90:.1f}\d* times|once', lines[0])
    n_each = count.n//n_epoch//n_batches
    assert re.search(rf'{n_epoch} epochs? of {n_batches} batch(es)? with {n_each} of them', lines[0])
    said = [o for o in seen if 'So few steps' in str(o.message)]
    assert len(said) == 2*(count.n < 45 and n_batches*n_epoch < 100)


def test_what_is_no_training_from_scratch_is_not_warned_of(capsys):
    "The search for a learning rate, a validation, the first fit of `fine_tune`, a loader without a length"
    learn = pts_learner(NoisyStudent(pl_dl()), dls=pts_dls(hard_rows(24, 1), bs=8),
                        splitter=lambda m: [list(m[0].parameters()), list(m[1:].parameters())])
    with learn.no_bar(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn.lr_find(num_it=3, show_plot=False)
        learn.validate()
        learn.freeze()
        learn.fit(1)
    assert not [o for o in seen if 'So few steps' in str(o.message)]
    assert capsys.readouterr().out.count('The student sees 24 of 90') == 1
