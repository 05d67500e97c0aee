"Noise comes with the training and goes with it, however it ends; it is that of a Learner with the noise built in"
import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException, CancelTrainException
from fastai.callback.fp16 import MixedPrecision

# noqa: F401  (patch Learner)
from fastai.callback.schedule import SchedCos, SchedLin, combine_scheds, fit_one_cycle, lr_find
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.layers import ConvLayer, ResBlock
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from fastai.tabular.core import Categorify, TabularPandas
from fastai.tabular.core import Normalize as TabNormalize
from fastai.tabular.learner import tabular_learner
from fastai.torch_core import TensorImage, set_seed
from fasttransform.transform import ItemTransform
from noisy_student_fastai.noise.callback import AutoNoise, StudentNoise, kind_of
from noisy_student_fastai.noise.images import RandAugment
from noisy_student_fastai.noise.models import noise_model
from noisy_student_fastai.noise.tables import TableNoise
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDataLoader

N = 48


def pics(n=N, seed=0):
    g = torch.Generator().manual_seed(seed)
    return TensorImage(torch.rand(n, 3, 8, 8, generator=g)), torch.randint(4, (n,), generator=g)


class Rows(list):
    "What fastai asks of a data set: is it for training, and what is it without its rows"
    def __init__(self, items=(), split_idx=0):
        super().__init__(items)
        self.split_idx = split_idx
    def new_empty(self): return Rows()


def pics_dl(n=N, seed=0, bs=16, shuffle=True, y=None, **kwargs):
    x, y0 = pics(n, seed)
    return TfmdDL(Rows(zip(x, y0 if y is None else y), int(not shuffle)), bs=bs, shuffle=shuffle, num_workers=0,
                  **kwargs)


def net():
    return nn.Sequential(ConvLayer(3, 8), ResBlock(1, 8, 8), ResBlock(1, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Dropout(.1), nn.Linear(8, 4))


def learner(*cbs, model=None, dls=None, seed=0, **kwargs):
    set_seed(seed)
    model = (model or net)()  # first: a loader tries its transforms, and these draw random numbers
    dls = dls or DataLoaders(pics_dl(**kwargs), pics_dl(20, 1, shuffle=False))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), opt_func=SGD, lr=.05, cbs=cbs)


def fit(learn, n=1, seed=3, **kwargs):
    # asks the loader for a row, which draws random numbers where there are random transforms
    getattr(learn.dls, 'n_inp', 1)
    set_seed(seed)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


class Seen(Callback):
    "The training batches, as the model gets them, and how noisy the model is then"
    order, run_valid = 40, False
    def __init__(self): self.xs, self.ps, self.preds = [], [], []
    def before_batch(self):
        self.xs.append(self.xb[0].clone())
        self.ps.append([m.p for m in self.model.modules() if isinstance(m, nn.Dropout)])
    def after_pred(self): self.preds.append(self.pred.detach().clone())


def weights(learn): return torch.cat([o.detach().float().flatten() for o in learn.model.state_dict().values()])


def tree(m): return {k: (getattr(o, 'p', None), sorted(vars(o))) for k, o in m.named_modules()}


@pytest.mark.parametrize('seed', range(3))
def test_a_learner_with_the_noise_built_in(seed):
    "The callback against batch transforms in the loader, and a model that got its noise by hand"
    with_cb = fit(learner(StudentNoise(RandAugment(m=8), dropout=.4, stoch_depth=.6), seed=seed), 2, seed)
    by_hand = learner(seed=seed, after_batch=[RandAugment(m=8)])
    noise_model(by_hand.model, dropout=.4, stoch_depth=.6)
    fit(by_hand, 2, seed)
    assert torch.equal(weights(with_cb), weights(by_hand))
    plain = fit(learner(seed=seed), 2, seed)
    assert not torch.allclose(weights(with_cb), weights(plain))


def test_repeats_with_a_seed():
    a, b, c = (fit(learner(StudentNoise()), seed=s) for s in (1, 1, 2))
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))


def test_no_noise_at_all_is_a_plain_learner():
    a = fit(learner(StudentNoise(None, None, None)), 2)
    assert torch.equal(weights(a), weights(fit(learner(), 2)))


class Raise(Callback):
    order, run_valid = 45, False
    def __init__(self, e): self.e = e
    def after_pred(self):
        if self.train_iter == 1: raise self.e


ENDS = [None, KeyboardInterrupt, RuntimeError, CancelEpochException, CancelTrainException, CancelFitException]


@pytest.mark.parametrize('after', ['fit', 'remove_cb', 'in fit'])
@pytest.mark.parametrize('end', ENDS)
def test_gone_after_the_fit(end, after):
    cb, learn = StudentNoise(RandAugment(m=SchedLin(1, 5)), dropout=SchedLin(0, .5)), learner()
    before, dls, pipe = tree(learn.model), learn.dls, learn.dls.train.after_batch
    x, y = pics(8, 5)
    learn.model.eval()
    learn.model(x)
    if after != 'in fit': learn.add_cb(cb)
    cbs = [*([cb] if after == 'in fit' else []), *([] if end is None else [Raise(end('stop'))])]
    try: fit(learn, cbs=cbs)
    except (KeyboardInterrupt, RuntimeError): pass
    if after == 'remove_cb': learn.remove_cb(cb)
    if after == 'fit' and end in (KeyboardInterrupt, RuntimeError):  # mended at the next use
        learn.cbs.remove(cb)
        cb.before_fit()
        cb.mend()
    assert tree(learn.model) == before
    assert learn.dls is dls and learn.dls.train.after_batch is pipe
    assert not pipe.fs.filter(lambda o: isinstance(o, RandAugment))
    assert cb.pct is None and cb.tfms.pct is None and cb.dropout is not None


def test_validation_and_predictions_have_no_noise():
    "... and one in the middle of a fit does not take the noise of the training away"
    learn, seen = learner(StudentNoise(RandAugment(n=1, ops=['Invert']), dropout=.5, stoch_depth=.5)), Seen()

    class Look(Callback):
        order, run_valid = 46, False
        def after_batch(self):
            if self.train_iter != 1: return
            state = self.model.training
            self.preds = [self.learn.get_preds(dl=self.dls.valid)[0] for _ in range(2)]
            self.learn.validate()
            self.model.train(state)
            self.learn.training = state

    look = Look()
    with learn.no_bar(), learn.no_logging():
        set_seed(0)
        learn.fit(1, cbs=[seen, look])
    assert torch.equal(*look.preds)
    assert seen.ps == [[.5]]*len(seen.ps) and len(seen.ps) == 3
    known = {o.numpy().tobytes() for o in pics()[0]}
    assert not any(o.contiguous().numpy().tobytes() in known for x in seen.xs for o in x)
    with learn.no_bar(): a, b = (learn.get_preds()[0] for _ in range(2))
    assert torch.equal(a, b)


def student(*cbs, **kwargs):
    "Pseudolabels are soft; labeled rows are the dataset of `pics`"
    set_seed(0)
    soft = torch.rand(96, 4).softmax(1)
    dl2 = pics_dl(96, 2, bs=8, y=soft)
    return learner(NoisyStudent(dl2, **kwargs), *cbs)


class Count(ItemTransform):
    "How often and on how many rows"
    order, split_idx = 36, 0
    def __init__(self): self.rows = []
    def encodes(self, b):
        self.rows.append(len(b[0]))
        return b


@pytest.mark.parametrize('batch_tfms', [None, [Normalize.from_stats([.5]*3, [.5]*3, cuda=False)]])
def test_once_on_the_combined_batch(batch_tfms):
    count, seen = Count(), Seen()
    learn = student(StudentNoise([RandAugment(m=9, ops=['Invert']), count]), seen, batch_tfms=batch_tfms)
    fit(learn)
    assert count.rows == [16]*6  # 48 labeled rows, 8 a batch
    known = torch.cat([1-pics()[0], 1-pics(96, 2)[0]])  # inverted twice is what it was
    if batch_tfms: known = known*2-1
    for x in seen.xs:
        away = (x.flatten(1)[:, None]-known.flatten(1)).abs().amax(2).amin(1)
        twice = (x.flatten(1)[:, None]-(1-known if not batch_tfms else -known).flatten(1)).abs().amax(2).amin(1)
        assert twice.max() < 1e-5 < away.max()
    one = fit(student(StudentNoise([RandAugment(m=9, n=1, ops=['Invert'])]), s := Seen(), batch_tfms=batch_tfms))
    for x in s.xs: assert (x.flatten(1)[:, None]-known.flatten(1)).abs().amax(2).amin(1).max() < 1e-5
    assert one.dls.train.after_batch.fs.filter(lambda o: isinstance(o, RandAugment)) == []


def test_a_noisy_student_against_the_noise_in_its_loader():
    a = fit(student(StudentNoise(RandAugment(m=8), dropout=None, stoch_depth=None)), 2)
    b = student()
    b.dls.train.after_batch.add(RandAugment(m=8))
    fit(b, 2)
    assert torch.equal(weights(a), weights(b))


class Magnitudes(Callback):
    order, run_valid = 40, False
    def __init__(self, tfm): self.tfm, self.seen = tfm, []
    def after_pred(self):
        drop = [m.p for m in self.model.modules() if isinstance(m, nn.Dropout)]
        self.seen.append((self.pct_train, self.tfm.pct, drop[-1]))


SCHEDS = [SchedLin(0, .5), SchedCos(.6, .1), combine_scheds([.3, .7], [SchedLin(0, .2), SchedLin(.2, .5)])]


@pytest.mark.parametrize('where', ['callback', 'loader', 'batch_tfms'])
@pytest.mark.parametrize('sched', SCHEDS)
def test_schedules(sched, where):
    tfm = RandAugment(m=lambda pct: 10*sched(pct))
    cb = StudentNoise(tfm if where == 'callback' else None, dropout=sched, stoch_depth=lambda pct: 1-sched(pct)/2)
    learn = student(cb, batch_tfms=[tfm] if where == 'batch_tfms' else None)
    if where == 'loader': learn.dls.train.after_batch.add(tfm)
    log = Magnitudes(tfm)
    fit(learn, 2, cbs=log)
    for i, (pct, tfm_pct, p) in enumerate(log.seen):
        assert pct == pytest.approx(i/12) and tfm_pct == pytest.approx(pct, abs=1e-6) and p == pytest.approx(sched(pct),
                                                                                                             abs=1e-6)
    assert len(log.seen) == 12 and tfm.pct is None


def test_the_depth_follows_its_schedule():
    seen = []

    class Depth(Callback):
        order, run_valid = 41, False
        def after_pred(self): seen.append(self.learn.student_noise.model_noise.table.new.max())

    fit(learner(StudentNoise(None, dropout=None, stoch_depth=SchedLin(1, .5)), Depth()), 2)
    assert seen == pytest.approx([0, 1/12, 2/12, 3/12, 4/12, 5/12], abs=1e-6)


class TSTensor(torch.Tensor): "Named as tsai's"


def test_kinds():
    x = torch.rand(4, 3, 8, 8)
    assert kind_of((TensorImage(x), 1)) == 'image' and kind_of(TensorImage(x)) == 'image'
    assert kind_of((x[0].as_subclass(TSTensor),)) == 'series'
    assert kind_of((x, 1)) is None and kind_of((x[0, 0].long(), x[0, 0]), is_table=True) == 'table'


def test_auto_images():
    seen = Seen()
    fit(learner(StudentNoise(dropout=None, stoch_depth=None), seen))
    known = pics()[0].flatten(1)
    changed = torch.cat([(x.flatten(1)[:, None]-known).abs().amax(2).amin(1) > 1e-6 for x in seen.xs])
    assert changed.float().mean() > .8  # some operations change little


def test_auto_table():
    rng, n = np.random.default_rng(0), 64
    df = pd.DataFrame(dict(a=rng.choice(list('uvw'), n), b=rng.normal(size=n), c=rng.normal(size=n),
                           y=rng.choice(['no', 'yes'], n)))
    to = TabularPandas(df, [Categorify, TabNormalize], ['a'], ['b', 'c'], 'y',
                       splits=(list(range(48)), list(range(48, 64))))
    learn = tabular_learner(to.dataloaders(bs=16, num_workers=0), layers=[8])
    seen = Seen()
    with pytest.warns(UserWarning, match='stoch_depth'): fit(learn, cbs=[StudentNoise(), seen])
    assert seen.xs[0].dtype == torch.long
    with learn.no_bar(), learn.no_logging(): assert torch.equal(learn.get_preds()[0], learn.get_preds()[0])
    # categories that are missing
    assert all(isinstance(o, torch.Tensor) for o in seen.xs) and any((x == 0).any() for x in seen.xs)


def test_auto_says_that_it_does_not_know():
    x, y = torch.rand(32, 5), torch.randint(3, (32,))
    dls = DataLoaders(*[TfmdDL(list(zip(x, y)), bs=8, num_workers=0)]*2)
    learn = Learner(dls, nn.Sequential(nn.Linear(5, 3)), loss_func=CrossEntropyLossFlat(),
                    cbs=StudentNoise(stoch_depth=None))
    with pytest.warns(UserWarning, match=r'no input noise: .* torch.float32 of shape \(8, 5\)') as rec: fit(learn, 2)
    assert len([o for o in rec if 'no input noise' in str(o.message)]) == 1
    learn.student_noise.tfms = TableNoise()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='no input noise')
        fit(learn)


@pytest.mark.parametrize('bad', ['randaugment', 'Auto'])
def test_bad_tfms(bad):
    with pytest.raises(ValueError, match=f"tfms='{bad}': expected 'auto', None or fastai's"): StudentNoise(bad)
    for bad in (5, [RandAugment(), 3], SchedLin(0, 1), nn.Dropout()):
        with pytest.raises(ValueError, match="such as .RandAugment"): StudentNoise(bad)
    with pytest.raises(TypeError, match='droput'): StudentNoise(droput=.3)


@pytest.mark.parametrize('kw', [dict(dropout=1.5), dict(stoch_depth=.2), dict(dropout='much')])
def test_bad_magnitudes(kw):
    with pytest.raises((ValueError, TypeError), match=f'{[*kw][0]}=.*expected'): StudentNoise(**kw)


@pytest.mark.parametrize('kw', [dict(dropout=SchedLin(0, 3)), dict(stoch_depth=SchedLin(1, .2)),
                                dict(dropout=SchedCos(.2, 1))])
def test_a_schedule_that_leaves_its_range(kw):
    with pytest.raises(ValueError, match='expected.*the schedule at .* of the training'): StudentNoise(**kw)


def test_a_schedule_that_leaves_its_range_in_between():
    learn = learner(StudentNoise(dropout=lambda pct: .2 if pct in (0, .5, 1) else 3))
    before = tree(learn.model)
    with pytest.raises(ValueError, match='dropout=.*expected'): fit(learn, 2)
    learn.remove_cb(StudentNoise)
    assert tree(learn.model) == before


def test_the_students_batch_is_shown_with_its_noise():
    x = student(StudentNoise(RandAugment(n=1, ops=['Invert']))).noisy_student.one_batch()[0]
    known = torch.cat([pics()[0], pics(96, 2)[0]])
    assert (x.flatten(1)[:, None]-(1-known).flatten(1)).abs().amax(2).amin(1).max() < 1e-5


def wrapped(m): return sum('forward' in vars(o) for o in m.modules())


def test_show_noise_in_the_middle_of_a_fit(no_windows):
    "... leaves the noise and the schedules of the training alone"
    seen = []

    class Show(Callback):
        order, run_valid = 30, False
        def after_pred(self):
            if self.train_iter == 1: self.df = self.learn.show_noise(rows=1, draws=1)
            seen.append((wrapped(self.model), self.student_noise.tfms.pct, self.student_noise.now('dropout')))

    learn = fit(learner(StudentNoise(RandAugment(m=SchedLin(1, 9)), dropout=SchedLin(0, .3)), show := Show()), 2)
    # a dropout of 0, at the start, is not put in
    assert seen == [(2+(i > 0), pytest.approx(i/6), pytest.approx(.3*i/6)) for i in range(6)]
    assert len(show.df) == 3 and wrapped(learn.model) == 0


def test_noise_of_ones_own():
    "What `noise_model` has put into a model stays, or the callback says that it is in the way"
    learn = learner(StudentNoise(RandAugment(), dropout=None, stoch_depth=None))
    noise = noise_model(learn.model, dropout=.2, stoch_depth=.9)
    fit(learn)
    assert noise.is_on and noise.table.new.max() == .2
    learn.remove_cb(StudentNoise)
    learn.add_cb(StudentNoise())
    with pytest.raises(ValueError, match='has noise that `noise_model` put there'): fit(learn)
    assert noise.is_on
    noise.undo()
    fit(learn)


def test_two_of_them():
    with pytest.raises(ValueError, match='several StudentNoise callbacks: expected one'):
        fit(learner(StudentNoise(), StudentNoise(None)))


def test_a_loader_with_noise_already():
    with pytest.warns(UserWarning, match='has RandAugment.* already'):
        fit(learner(StudentNoise(), after_batch=[RandAugment()]))
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*already')
        fit(learner(StudentNoise(None), after_batch=[RandAugment()]))


def test_an_export_after_an_interrupt(tmp_path):
    learn = learner(StudentNoise(), Raise(KeyboardInterrupt('stop')))
    with pytest.raises(KeyboardInterrupt): fit(learn)
    assert wrapped(learn.model) == 3
    learn.export(tmp_path/'l.pkl')
    back = load_learner(tmp_path/'l.pkl')
    back.remove_cb(StudentNoise)
    assert wrapped(back.model) == 0 and back.model[5].p == .1


def test_data_parallel():
    learn = learner(StudentNoise(), model=lambda: nn.DataParallel(net()))
    with pytest.raises(ValueError, match='model=.DataParallel.: .*expected'): fit(learn)


def test_normalization_is_learned_without_noise():
    plain, noisy = (student(*cbs, batch_tfms=[Normalize()])
                    for cbs in ((), (StudentNoise(RandAugment(m=9, ops=['Invert', 'Cutout'])),)))
    means = []
    for learn in (plain, noisy):
        class Mean(Callback):
            order, run_valid = 30, False
            def after_pred(self):
                means.append(next(o for o in self.learn.dl.after_batch.tfms.fs
                                  if isinstance(o, Normalize)).mean.clone())
        fit(learn, cbs=Mean())
    assert torch.equal(means[0], means[-1])


def test_several_inputs_and_targets():
    "The noise touches all inputs and no target"
    x1, x2, y1, y2 = torch.rand(32, 4), torch.rand(32, 4), torch.rand(32, 4), torch.rand(32, 1)
    dls = DataLoaders(*[TfmdDL(Rows(zip(x1, x2, y1, y2)), bs=8, n_inp=2, num_workers=0)]*2)
    for dl in dls.loaders: dl._n_inp = 2
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(8, 1)
        def forward(self, a, b): return self.l(torch.cat([a, b], 1))

    class Look(Callback):
        order, run_valid = 30, False
        def after_pred(self): seen.append((*self.xb, *self.yb))

    learn = Learner(dls, Net(), loss_func=lambda p, y1, y2: F.mse_loss(p, y2),
                    cbs=[StudentNoise(TableNoise(.5, .3), None, None), Look()])
    fit(learn)
    got = [torch.cat(o) for o in zip(*seen)]
    rows = [(g[:, None] == x).all(2).any(1).float().mean() for g, x in zip(got, (x1, x2, y1, y2))]
    assert rows[0] < .3 and rows[1] < .3 and rows[2] == rows[3] == 1
    assert learn.student_noise.tfms.n_inp is None


def test_nested_inputs():
    x, y = pics()
    dls = DataLoaders(*[TfmdDL(Rows(((a, b), c) for a, b, c in zip(x, x.flip(0), y)), bs=16, num_workers=0)]*2)
    b = AutoNoise()(((x[:4], x[4:8]), y[:4]), split_idx=0)
    assert kind_of(((x, x), y)) == 'image' and not torch.equal(b[0][0], x[:4]) and dls.train.one_batch()
    with pytest.warns(UserWarning, match='a dict'): AutoNoise()((dict(a=1), y), split_idx=0)


@pytest.mark.parametrize('kind', ['torch', 'function', 'whole batches'])
def test_loaders_of_other_kinds(kind):
    x, y = pics()
    ds, seen = list(zip(x, y)), Seen()
    if kind == 'torch':
        train = TorchDataLoader(ds, batch_size=16, shuffle=True)
        train.device = torch.device('cpu')  # tsai, once it is imported, asks for it
    elif kind == 'function': train = DataLoader(ds, bs=16, shuffle=True, after_batch=lambda b: (b[0]/2, b[1]))
    else: train = DataLoader([(x[:16], y[:16]), (x[16:], y[16:])], bs=None, retain=lambda res, b: res)
    dls = DataLoaders(train, pics_dl(20, 1, shuffle=False), device=torch.device('cpu'))
    fit(learner(StudentNoise(RandAugment(n=1, ops=['Invert'])), seen, dls=dls))
    want = 1-x/2 if kind == 'function' else 1-x
    got = torch.cat(seen.xs)
    assert len(got) == N and (got.flatten(1)[:, None]-want.flatten(1)).abs().amax(2).amin(1).max() < 1e-5


def test_export_copy_and_pickle(tmp_path):
    cb = StudentNoise(RandAugment(m=SchedLin(0, 6)),
                      dropout=combine_scheds([.5, .5], [SchedLin(0, .2), SchedLin(.2, .4)]))
    learn = fit(learner(cb))
    learn.export(tmp_path/'l.pkl')
    back = load_learner(tmp_path/'l.pkl')
    x = pics(4, 9)[0]
    learn.model.eval()
    assert torch.equal(back.model.eval()(x), learn.model(x))
    assert back.student_noise.tfms.m == 6 and back.student_noise.dropout == pytest.approx(.4)
    new = copy.deepcopy(learn)
    assert torch.equal(weights(fit(new)), weights(fit(learn)))  # the schedules came along
    pickle.dumps(learn.student_noise.tfms)


def test_copied_and_exported_in_the_middle(tmp_path):
    class Copy(Callback):
        order, run_valid = 45, False
        def after_batch(self):
            if self.train_iter == 2:
                self.new = copy.deepcopy(self.learn.model)
                torch.save(self.learn.model, tmp_path/'m.pt')

    c = Copy()
    learn = fit(learner(StudentNoise(), c))
    assert tree(learn.model) == tree(net())
    back = torch.load(tmp_path/'m.pt', weights_only=False)
    for m in (c.new, back):
        m.eval()
        plain = net()
        plain.load_state_dict(m.state_dict())
        assert torch.equal(m(pics()[0]), plain.eval()(pics()[0]))


def test_mixed_precision():
    seen = Seen()
    learn = fit(learner(StudentNoise(RandAugment(m=9), stoch_depth=.5), MixedPrecision('bf16'), seen), 2)
    assert weights(learn).isfinite().all() and all(o.isfinite().all() for o in seen.preds)


def test_a_compiled_model():
    "The noise is there while it trains, and gone in a later fit without it"
    learn = learner(model=lambda: torch.compile(net(), backend='eager'))
    cb = StudentNoise(None, dropout=None, stoch_depth=.5)
    fit(learn, cbs=cb)
    plain = learner()
    fit(plain, cbs=StudentNoise(None, dropout=None, stoch_depth=.5))
    assert torch.allclose(weights(learn), weights(plain), atol=1e-5)
    fit(learn, seed=5), fit(plain, seed=5)
    assert torch.allclose(weights(learn), weights(plain), atol=1e-5)


def test_lr_find():
    learn = learner(StudentNoise())
    before, old = tree(learn.model), weights(learn)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=8, show_plot=False)
    assert tree(learn.model) == before and torch.equal(weights(learn), old)


@pytest.mark.usefixtures('no_windows')
def test_show_noise():
    from matplotlib import pyplot as plt
    learn = learner(StudentNoise(RandAugment(m=SchedLin(0, 9)), dropout=SchedLin(.1, .3)))
    before, _state = tree(learn.model), torch.get_rng_state()
    df = learn.show_noise(rows=2, draws=3)
    axs = plt.gcf().axes
    titles = [o.get_title().split('(')[-1] for o in axs if o.images]
    assert titles == ['no noise)', 'draw 1)', 'draw 2)', 'draw 3)']*2
    img = [np.asarray(o.images[0].get_array()) for o in axs if o.images]
    known = pics()[0].permute(0, 2, 3, 1).flatten(1).numpy()
    assert [np.abs(img[i].reshape(1, -1)-known).max(1).min() < 1e-6 for i in (0, 4)] == [True]*2
    assert not np.allclose(img[0], img[1]) and not np.allclose(img[1], img[2])
    assert list(df.columns) == ['module', 'what', 'old', 'new'] and tree(learn.model) == before
    assert sorted(df.new) == pytest.approx([.1, .2, .3])
    assert learner(after_batch=[RandAugment(m=9)]).show_noise() is None
    with pytest.warns(UserWarning, match='no draw differs'): learner().show_noise()
    with pytest.raises(ValueError, match='pct=50: expected a share of the training'): learn.show_noise(pct=50)
    x, y = pics()
    plain = learner(StudentNoise(None),
                    dls=DataLoaders(*[TfmdDL(Rows(zip(x.as_subclass(torch.Tensor), y)), bs=8, num_workers=0)]*2))
    with pytest.raises(TypeError, match="can't show itself: expected a TensorImage, say"): plain.show_noise()
    for k in ('rows', 'draws'):
        with pytest.raises(ValueError, match=f'{k}=0: expected a whole number of 1 or more'): learn.show_noise(**{k: 0})


@pytest.mark.tsai
@pytest.mark.usefixtures('no_windows')
def test_tsai():
    from tsai.data.core import get_ts_dls
    from tsai.data.preprocessing import TSStandardize
    from tsai.models.InceptionTime import InceptionTime
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3, 30)).astype(np.float32), rng.integers(3, size=60)
    dls = get_ts_dls(X, y, splits=(list(range(40)), list(range(40, 60))), bs=[8, 20], batch_tfms=TSStandardize(),
                     num_workers=0)
    learn = Learner(dls, InceptionTime(3, 3, nf=4), loss_func=CrossEntropyLossFlat(), cbs=[StudentNoise(), s := Seen()])
    before = tree(learn.model)
    fit(learn)
    assert tree(learn.model) == before
    z = (X-X.mean((1, 2), keepdims=True))/X.std((1, 2), keepdims=True)
    assert all(np.abs(o.numpy()-z).max((1, 2)).min() > 1e-3 for x in s.xs for o in x)
    df = learn.show_noise(rows=2, draws=2)
    assert len(df) >= 2


@pytest.mark.tsai
@pytest.mark.usefixtures('no_windows')
@pytest.mark.parametrize('draws', [3])
def test_rows_are_shown_by_their_own_statistics(draws):
    "Standardized row by row, they are decoded as what they were, be they in any order or as many as a batch has"
    from matplotlib import pyplot as plt
    from tsai.data.core import TSTensor, get_ts_dls
    from tsai.data.preprocessing import TSStandardize
    def negative(x: TSTensor): return -x
    rng = np.random.default_rng(draws)
    X = (rng.normal(size=(60, 2, 9))*rng.uniform(1, 9, (60, 1, 1))+rng.normal(size=(60, 1, 1))).astype(np.float32)
    dls = get_ts_dls(X, np.arange(60) % 3, splits=(list(range(36)), list(range(36, 60))), bs=[6, 6], num_workers=0,
                     batch_tfms=TSStandardize(by_sample=True))
    def shown(): return np.array([[o.get_ydata() for o in ax.lines] for ax in plt.gcf().axes if ax.lines])
    def near(a): return np.abs(a[:, None]-X).max((2, 3)).argmin(1)
    learn = Learner(dls, nn.Identity(), loss_func=CrossEntropyLossFlat(),
                    cbs=StudentNoise(negative, dropout=None, stoch_depth=None))
    learn.show_noise(rows=2, draws=draws)
    got = shown().reshape(2, 1+draws, 2, 9)
    assert np.allclose(got[:, 0], X[near(got[:, 0])], atol=1e-4)
    assert np.allclose(got[:, 1:], -got[:, :1], atol=1e-4)
    plt.close('all')
    dl2 = get_ts_dls(X[36:], np.arange(24) % 3, splits=(list(range(24)), [0]), bs=6, num_workers=0).train
    student = Learner(dls, nn.Identity(), loss_func=CrossEntropyLossFlat(), cbs=NoisyStudent(dl2))
    student.noisy_student.show_batch(max_n=6)
    got = shown()
    assert len(got) == 6 and np.allclose(got, X[near(got)], atol=1e-4)
    assert [i < 36 for i in near(got)] == [True]*3+[False]*3
