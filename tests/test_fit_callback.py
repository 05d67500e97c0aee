"What `FitCallback` promises, for each callback that derives from it: however a fit ends, nothing is left"
import copy
import pickle
import warnings

import fastai.callback.schedule  # noqa: F401  (gives Learners `lr_find`)
import pytest
import torch
from fastai.callback.core import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelTrainException,
    CancelValidException,
)
from fastai.learner import load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from noisy_student_fastai.fit_callback import FitCallback
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.student import NoisyStudent
from torch import nn
from toys import Items, hard_rows, net, pl_dl, pts_dls, pts_learner


class Swap(FitCallback):
    "Swaps the loss, and writes down what is called"
    run_valid, fit_attrs, seen = False, ('seen', 'rows'), None
    def __init__(self, arg=3): self.arg, self.log = arg, []
    def begin(self):
        self.log.append('begin')
        self.seen, self.rows, self.learn.loss_func = [], self.arg, Swapped(self.learn.loss_func)
    def after_loss(self): self.seen.append(self.loss.item())
    def finish(self): self.log.append(f'finish {len(self.seen)}')
    def give_back(self):
        if isinstance(self.learn.loss_func, Swapped): self.learn.loss_func = self.learn.loss_func.lf
    def before_preds(self): self.log.append('before_preds')
    def after_preds(self): self.log.append('after_preds')


def itself(o): return o


class Swapped:
    def __init__(self, lf): self.lf = lf
    def __call__(self, *args): return self.lf(*args)
    def __reduce__(self): return itself, (self.lf,)


MAKERS = {'swap': Swap, 'student': lambda: NoisyStudent(pl_dl(), log_losses=True), 'ema': lambda: EMACallback(.9),
          'noise': lambda: StudentNoise(tfms=None, dropout=lambda pct: .5*pct, stoch_depth=None)}
ERRORS = (KeyboardInterrupt, RuntimeError)
CANCELS = [CancelBatchException, CancelTrainException, CancelEpochException, CancelFitException]
EVENTS = ['before_batch', 'after_loss', 'before_step', 'before_validate']


class RaiseAt(Callback):
    "Raises `e` the second time that an event of a fit fires, late"
    order = 80
    def __init__(self, e, event): self.e, self.event, self.n = e, event, 0
    def __call__(self, name):
        if name == self.event and not self.learn.lock.locked():
            self.n += 1
            if self.n == 2: raise self.e
        return super().__call__(name)


def learner(kind, lf=None, **kwargs):
    dls = pts_dls(Items(hard_rows(64, 1)), bs=16)
    dls.valid.dataset = Items(dls.valid.dataset)
    return pts_learner(MAKERS[kind](), dls=dls, lf=lf, model=net(bn=True), **kwargs)


def cb_of(learn): return next(o for o in learn.cbs if isinstance(o, FitCallback))


def fit(learn, n=2, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


def ends(learn, e, event='after_loss'):
    try: fit(learn, 3, cbs=RaiseAt(e('stop'), event))
    except ERRORS as o: assert type(o) is e
    else: assert not issubclass(e, ERRORS)


def state(learn):
    "All that a callback might change: which objects there are, and of the modules what they hold"
    dl = learn.dls.train
    ids = [id(o) for o in (learn.loss_func, learn.model, learn.dls, dl, dl.after_batch, dl.dataset, *learn.metrics)]
    mods = [(k, type(o).__name__, sorted(vars(o)), getattr(o, 'p', None), bool(o._forward_hooks))
            for k, o in learn.model.named_modules()]
    return ids, mods, sorted(type(o).__name__ for o in learn.cbs), dl.bs, dl.shuffle


def nothing_left(cb):
    return not cb.has_begun and not ({'has_begun', *cb.fit_attrs} & vars(cb).keys())


KINDS = pytest.mark.parametrize('kind', MAKERS)


@KINDS
@pytest.mark.parametrize('e,event',
                         [(None, None), *[(e, 'after_loss') for e in CANCELS],
                          (CancelValidException, 'before_validate'),
                                     (CancelFitException, 'before_validate')])
def test_given_back_at_once(kind, e, event):
    "After a fit that ended by itself or was cancelled"
    learn = learner(kind)
    before = state(learn)
    if e is None: fit(learn)
    else: ends(learn, e, event)
    assert state(learn) == before and nothing_left(cb_of(learn))


@KINDS
@pytest.mark.parametrize('event', EVENTS)
@pytest.mark.parametrize('e', ERRORS)
@pytest.mark.parametrize('use', ['fit', 'remove_cb', 'mend', 'another Learner'])
def test_given_back_at_the_next_use(kind, event, e, use):
    learn = learner(kind)
    before = state(learn)
    ends(learn, e, event)
    cb = cb_of(learn)
    assert cb.has_begun
    if use == 'fit': fit(learn)
    elif use == 'mend': cb.mend()
    elif use == 'remove_cb':
        learn.remove_cb(cb)
        before[2].remove(type(cb).__name__)
    else: learner(kind).add_cb(cb)
    assert state(learn) == before and nothing_left(cb)


@KINDS
@pytest.mark.parametrize('e', [KeyboardInterrupt, CancelFitException])
def test_added_for_one_fit(kind, e):
    learn = pts_learner(model=net(bn=True), dls=pts_dls(bs=16))
    cb, before = MAKERS[kind](), state(learn)
    try: fit(learn, cbs=[cb, RaiseAt(e('stop'), 'after_loss')])
    except KeyboardInterrupt: pass
    assert state(learn) == before and nothing_left(cb) and cb.learn is None


class Take(Callback):
    "Takes a copy in the second batch"
    order, _stateattrs = 81, ('take',)
    def __init__(self, take): self.take = take
    def after_batch(self):
        if self.training and self.iter == 1: self.take()


@KINDS
@pytest.mark.parametrize('when', ['in a fit', 'interrupted', 'before'])
@pytest.mark.parametrize('way', ['copy', 'export', 'pickle'])
def test_copies_and_exports(kind, when, way, tmp_path):
    "They have nothing of the fit, as after its end, and can train as if there had been none; the fit itself goes on"
    lf = CrossEntropyLossFlat()
    def new_learner():
        set_seed(5)
        return learner(kind, lf, path=tmp_path)
    learn = new_learner()
    clean, got = whole(learn), {}

    def take():
        if way == 'copy': got['it'] = copy.deepcopy(learn)
        elif way == 'pickle': got['it'] = pickle.loads(pickle.dumps(learn))
        else:
            pred, dls, opt = (learn.pred, learn.loss), learn.dls, learn.opt
            learn.export('x.pkl')
            got['it'] = load_learner(tmp_path/'x.pkl')
            (learn.pred, learn.loss), learn.dls, learn.opt = pred, dls, opt

    if when == 'in a fit':
        fit(learn, 1, cbs=Take(take))
        other = fit(new_learner(), 1, cbs=Take(lambda: None))
        for p, q in zip(learn.model.state_dict().values(), other.model.state_dict().values()): assert torch.equal(p, q)
        assert learn.recorder.values[0][:3] == other.recorder.values[0][:3]
    else:
        if when == 'interrupted': ends(learn, KeyboardInterrupt)
        else: learn.pred = learn.loss = None
        take()
    new = got['it']
    new.remove_cb(Take)
    assert whole(new) == clean and '__getstate__' not in vars(new)
    cb = cb_of(new)
    assert nothing_left(cb) and cb is not cb_of(learn) and type(new.loss_func) is type(lf)
    new.dls = pts_dls(bs=16)
    if kind == 'student': cb.dl2 = pl_dl()
    with new.no_bar(): assert len(new.validate()) == 2
    fit(new, 1)
    assert whole(new) == clean and nothing_left(cb) and type(new.loss_func) is type(lf)


def whole(learn):
    "What a copy has that is no object of its own: modules and hooks, kinds of callbacks, metrics, logger, loss"
    _, mods, cbs, *_ = state(learn)
    own_logger = not isinstance(getattr(learn.logger, '__self__', None), Callback)
    cbs = [o for o in cbs if o != 'ProgressCallback']
    return mods, cbs, [o.name for o in learn.metrics], own_logger, type(learn.loss_func)


class StandsIn(Callback):
    "Replaces what others of fastai and tsai replace, each in its way, and gives it back at the end of a fit only"
    def before_fit(self):
        self.old, self.learn.loss_func = self.learn.loss_func, Swapped(self.learn.loss_func)
        self.old_logger, self.learn.logger = self.learn.logger, self.log
        self.dls.train.get_idxs = self.idxs
    def before_train(self): self.old_lf, self.learn.loss_func = self.learn.loss_func, self.lf
    def before_batch(self): self.old.reduction = 'none'
    def after_loss(self): self.old.reduction = 'mean'
    def after_train(self): self.learn.loss_func = self.old_lf
    def after_fit(self):
        self.learn.loss_func, self.learn.logger = self.old, self.old_logger
        del self.dls.train.get_idxs
    def lf(self, *args): return self.old_lf(*args).mean()
    def log(self, o): self.old_logger(o)
    def idxs(self): return list(range(64))


@KINDS
@pytest.mark.parametrize('event', ['before_batch', 'after_loss', 'before_validate'])
def test_what_others_leave_behind_goes_with_the_next_fit(kind, event):
    learn = learner(kind)
    before = state(learn)
    if kind == 'student': learn.noisy_student.dl2, learn.noisy_student.log_losses = pl_dl(hard_rows(90, 2)), False
    learn.add_cb(StandsIn())
    for _ in range(2): ends(learn, KeyboardInterrupt, event)
    assert 'get_idxs' in vars(learn.dls.train)
    learn.remove_cb(StandsIn)
    fit(learn)
    assert state(learn) == before and learn.logger is print and learn.loss_func.reduction == 'mean'
    assert 'get_idxs' not in vars(learn.dls.train)


@KINDS
def test_what_the_user_changes_after_an_interrupt_stays(kind):
    learn, new, log = learner(kind), CrossEntropyLossFlat(), []
    if kind == 'student': learn.noisy_student.dl2, learn.noisy_student.log_losses = pl_dl(hard_rows(90, 2)), False
    learn.add_cb(StandsIn())
    ends(learn, KeyboardInterrupt)
    learn.remove_cb(StandsIn)
    learn.loss_func, learn.logger = new, log.append
    with learn.no_bar():
        learn.validate()
        learn.fit(1)
    assert learn.loss_func is new and learn.logger == log.append and log


@KINDS
def test_arguments_and_pickles(kind):
    "Arguments are what they were, and a pickle has these and nothing else"
    learn = learner(kind)
    cb = cb_of(learn)
    args = {k: v for k, v in vars(cb).items() if k not in ('learn', 'run', '_state', 'stream', 'log')}
    fit(learn)
    ends(learn, KeyboardInterrupt)
    assert {k: vars(cb)[k] for k in args} == args
    kept = cb.__getstate__().keys() - {'learn', 'run', 'log'}
    assert kept == args.keys() - {'dl2'}
    learn.remove_cb(cb)
    if kind != 'noise': assert pickle.loads(pickle.dumps(cb)).__getstate__().keys() == cb.__getstate__().keys()


@KINDS
def test_a_second_fit_is_like_the_first(kind):
    "... of a new Learner, whatever became of the first"
    def weights(n_before):
        learn = learner(kind)
        for _ in range(n_before): ends(learn, KeyboardInterrupt)
        set_seed(3)
        learn.model.load_state_dict(net(bn=True).state_dict())
        learn.opt, learn.dls = None, pts_dls(bs=16)
        if kind == 'student': cb_of(learn).dl2 = pl_dl()
        fit(learn, 1)
        return torch.cat([o.flatten().float() for o in learn.model.state_dict().values()])
    torch.testing.assert_close(weights(0), weights(2))


def test_hooks_in_their_order():
    learn = learner('swap')
    log = learn.swap.log
    fit(learn, 1)
    assert log == ['begin', 'finish 4']
    with learn.no_bar(): learn.validate()
    assert log[2:] == ['before_preds', 'after_preds']
    log.clear()
    ends(learn, KeyboardInterrupt)
    with learn.no_bar(): learn.get_preds()
    assert log == ['begin', 'before_preds', 'after_preds'] and isinstance(learn.loss_func, Swapped)
    fit(learn, 1)
    assert log[3:] == ['begin', 'finish 4'] and not isinstance(learn.loss_func, Swapped)


def test_predictions_in_a_fit_leave_it():
    class Predict(Callback):
        def after_train(self):
            self.learn.get_preds()
            self.learn.validate()
            self.is_there = isinstance(self.learn.loss_func, Swapped)
    learn, p = learner('swap'), Predict()
    fit(learn, 2, cbs=p)
    assert p.is_there and learn.swap.log == ['begin', *['before_preds', 'after_preds']*4, 'finish 8']


@pytest.mark.parametrize('works', [False, True])
def test_lr_find(works):
    "It is a fit for those callbacks that say so; the others get no event of it"
    class Some(Swap):
        in_lr_find = works
    learn = pts_learner(Some(), dls=pts_dls(bs=16))
    lf = learn.loss_func
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=6, show_plot=False)
    assert (learn.some.log[:1] == ['begin']) == works and learn.loss_func is lf and nothing_left(learn.some)


def test_it_begins_late():
    "A callback that another one adds in the middle of a fit begins with the next epoch, and goes with the fit's end"
    late = Swap()
    class Add(Callback):
        def before_epoch(self):
            if self.epoch == 1: self.learn.add_cb(late)
    fit(pts_learner(Add(), dls=pts_dls(bs=16)), 3)
    assert late.log == ['begin', 'finish 8'] and nothing_left(late)


class Brought(Callback):
    def before_fit(self): self.n = 0
    def after_epoch(self): self.n += 1


class Brings(FitCallback):
    def begin(self): self.add_for_fit(Brought())
    def finish(self): self.n_epoch_seen = self.learn.brought.n


@pytest.mark.parametrize('e', [None, KeyboardInterrupt, CancelFitException])
def test_what_it_brings_goes_with_it(e):
    own = Brought()
    learn = pts_learner(Brings(), dls=pts_dls(bs=16))
    if e: ends(learn, e)
    fit(learn)
    assert learn.brings.n_epoch_seen == 2 and not [o for o in learn.cbs if isinstance(o, Brought)]
    ends(learn, KeyboardInterrupt)
    learn.add_cb(own)
    learn.remove_cb(Brings)
    assert [o for o in learn.cbs if isinstance(o, Brought)] == [own]


def test_the_training_loader_of_others():
    learn = pts_learner(EMACallback(), Swap())
    dl = learn.dls.train
    assert all(o.train_dl(dl) is dl for o in learn.cbs if isinstance(o, FitCallback))


def test_an_event_as_an_attribute():
    "fastai takes events as attributes, too"
    cb, seen = Swap(), []
    cb.after_epoch = lambda: seen.append(1)
    fit(pts_learner(cb, model=nn.Linear(2, 3)))
    assert seen == [1, 1]


def test_a_finish_that_fails_gives_back_all_the_same():
    class Bad(FitCallback):
        def begin(self): self.learn.seen = 'changed'
        def finish(self): raise RuntimeError('finish')
        def give_back(self): self.learn.seen = 'as before'
    learn = pts_learner(Bad())
    with pytest.raises(RuntimeError, match='finish'), learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.seen == 'as before' and not learn.bad.has_begun


@KINDS
def test_a_reduction_that_the_user_sets_after_an_interrupt_stays(kind):
    learn = learner(kind)
    ends(learn, KeyboardInterrupt)
    while isinstance(learn.loss_func, Swapped): learn.loss_func = learn.loss_func.lf
    getattr(learn.loss_func, 'lf', learn.loss_func).reduction = 'sum'
    fit(learn, 1)
    assert learn.loss_func.reduction == 'sum'


def pickled(o): return pickle.loads(pickle.dumps(o))


class Pickles(Callback):
    order, run_valid = 70, False
    def __init__(self, way): self.way, self.new = way, None
    def before_batch(self):
        if self.train_iter == 1: self.new = self.way(self.learn)
        self.seen = sum('forward' in vars(o) for o in self.model.modules())
    def after_pred(self): assert self.seen == sum('forward' in vars(o) for o in self.model.modules()) > 0


@pytest.mark.parametrize('way', [copy.deepcopy, pickled])
def test_a_copy_before_the_model_has_the_batch(way):
    "The batch gets the noise all the same, the copy has none, and nothing is said twice"
    dls = pts_dls(Items(hard_rows(64, 1)), bs=16)
    dls.valid.dataset = Items(dls.valid.dataset)
    pickles = Pickles(way)
    learn = pts_learner(StudentNoise(None, dropout=.5), dls=dls, model=net(), lf=CrossEntropyLossFlat())
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        fit(learn, 1, cbs=pickles)
    new = pickles.new
    assert not any('forward' in vars(o) or '_model_noise' in vars(o) for o in new.model.modules())
    assert new.loss_grad is None and sum('stoch_depth' in str(o.message) for o in ws) == 1


@pytest.mark.parametrize('make,said', [
    (lambda: NoisyStudent(pl_dl(), bs=12, l2pl_ratio=.5), 'NoisyStudent(dl2=<{} of {} rows>, bs=12, l2pl_ratio=0.5)'),
    (lambda: NoisyStudent(pl_dl()), 'NoisyStudent(dl2=<{} of {} rows>)'),
    (lambda: NoisyStudent(pl_dl(), teacher=EMATeacher(.9)),
     'NoisyStudent(dl2=<{} of {} rows>, teacher=EMATeacher(decay=0.9))'),
    (lambda: StudentNoise(), 'StudentNoise()'),
    (lambda: StudentNoise(None, .3, last='head'), "StudentNoise(tfms=None, dropout=0.3, last='head')"),
    (lambda: EMACallback(.9), 'EMACallback(decay=0.9)')])
def test_settings_in_a_line(make, said):
    "What is not the default, also in a Learner, in a copy, and where a pickle has lost the loader"
    cb, dl2 = make(), pl_dl()
    said = said.format(type(dl2).__name__, len(dl2.dataset))
    assert repr(cb) == said == repr(copy.deepcopy(cb))
    pts_learner(cb)
    assert repr(cb) == said and repr(pickled(cb)).startswith(type(cb).__name__)
