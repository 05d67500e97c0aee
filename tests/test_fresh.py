"Is a Learner that shares what training changes found, and no other?"
import copy
import gc

import torch
from fastai.callback.core import Callback
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.fresh import Fresh
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
from toys import hard_rows


class Centered(nn.Module):
    "A loss that keeps a running statistic of its own, and has a weight for each class"
    def __init__(self, w):
        super().__init__()
        self.register_buffer('w', w)
        self.bn = nn.BatchNorm1d(3)
    def forward(self, pred, y): return nn.functional.cross_entropy(self.bn(pred), y, self.w)


class Still(nn.Module):
    "Is never in training mode"
    def __init__(self, m):
        super().__init__()
        self.m = m
    def train(self, mode=True): return super().train(False)
    def forward(self, x): return self.m(x)


class Constant(FrozenBatchNorm2d):
    "Its statistics are buffers that nothing changes"
    def forward(self, x): return super().forward(x[..., None, None])[..., 0, 0]


class Watch(Callback):
    def __init__(self): self.seen = []


class Count(Callback):
    n = 0
    def after_batch(self): self.n += 1


DLS = DataLoaders(*[TfmdDL(hard_rows(16, i), bs=8, num_workers=0) for i in (1, 2)])


def learner(model=None, loss=None, cbs=None):
    return Learner(DLS, model or nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)),
                   loss_func=loss or nn.CrossEntropyLoss(), cbs=cbs, lr=.1)


def fit(learn):
    "A step of plain gradient descent"
    x, y = torch.randn(8, 2), torch.arange(8) % 3
    learn.loss_func(learn.model.train()(x), y).backward()
    with torch.no_grad():
        for p in learn.model.parameters():
            if p.requires_grad: p -= .1*p.grad


def state(learn):
    ms = [o for o in (learn.model, learn.loss_func) if isinstance(o, nn.Module)]
    return [o.detach().clone() for m in ms for o in (*m.parameters(), *m.buffers())]


def view(m):
    "Another module over the same memory"
    res = copy.deepcopy(m)
    for a, b in zip(res.parameters(), m.parameters()): a.data = b.data.view(b.shape)
    return res


def shared(part, how, other):
    "A model that has the layer `part` of `other` in some way"
    res = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    m = other[part]
    res[part] = dict(same=m, view=view(m), copy=copy.deepcopy(m), wrapped=nn.Sequential(m))[how]
    return res


@settings(max_examples=40, deadline=None, derandomize=True)
@given(part=st.integers(0, 2), how=st.sampled_from(['same', 'view', 'copy', 'wrapped']), frozen=st.booleans(),
       loss=st.sampled_from(['new', 'same', 'weights']), seed=st.integers(0, 99),
       body=st.sampled_from(['plain', 'still', 'constant']))
def test_refused_is_what_another_training_changes(part, how, frozen, loss, seed, body):
    "The oracle: train the first Learner, and see whether the second has moved"
    torch.manual_seed(seed)
    w = torch.rand(3)
    one = learner(loss=Centered(w))
    if body == 'still': one.model[part] = Still(one.model[part])
    if body == 'constant': one.model[1] = Constant(16)
    if frozen: one.model[part].requires_grad_(False)
    modes = [o.training for o in one.model.modules()]
    two = learner(shared(part, how, one.model), dict(new=Centered(torch.rand(3)), same=one.loss_func,
                                                     weights=Centered(w))[loss])
    fresh = Fresh()
    fresh.add(one, 'one')
    assert modes == [o.training for o in one.model.modules()]
    try: fresh.add(two, 'two')
    except BadValue as e: refused = 'an earlier call, one' in str(e)
    else: refused = False
    before = state(two)
    fit(one)
    fit_moved = any(not torch.equal(a, b) for a, b in zip(before, state(two)))
    # a loss's parameters are not among those that the optimizer has, but would be trained by one that takes them
    assert refused == (fit_moved or loss == 'same')


@settings(max_examples=15, deadline=None, derandomize=True)
@given(part=st.integers(0, 2), seed=st.integers(0, 99), at=st.sampled_from(['before', 'after']))
def test_copies_of_trained_weights_are_found(part, seed, at):
    torch.manual_seed(seed)
    one, fresh = learner(), Fresh()
    fresh.add(one, 'one')
    two = learner(shared(part, 'copy', one.model)) if at == 'before' else None
    fit(one)
    fresh.trained(one, 'its training')
    if at == 'after': two = learner(shared(part, 'copy', one.model))
    refused = False
    try: fresh.add(two, 'two')
    except BadValue as e: refused = 'that its training has learned' in str(e)
    assert refused == (at == 'after')
    fresh.add(learner(), 'three')


def test_objects():
    watch, fresh = Watch(), Fresh()
    one = learner(cbs=watch)
    fresh.add(one, 'one')
    two, three, four = learner(cbs=watch), learner(one.model), learner()
    four.create_opt()
    fresh.add(four, 'four')
    five = learner()
    five.opt = four.opt
    for o, what in ((one, 'a Learner'), (two, 'a Watch object'), (three, 'a model'), (five, 'Optimizer object')):
        try: fresh.add(o, 'again')
        except BadValue as e: assert what in str(e) and e.argument == 'again'
        else: raise AssertionError(what)


def test_callbacks_that_keep_something_are_not_shared():
    for make_cb, ok in ((lambda: GradientClip(1.), True), (Watch, False), (Count, False), (SaveModelCallback, False)):
        cb, fresh, refused = make_cb(), Fresh(), False
        kept = [learner(cbs=cb) for _ in range(2)]
        fresh.add(kept[0], 'one')
        try: fresh.add(kept[1], 'two')
        except BadValue as e: refused = 'made inside make_learner' in str(e)
        assert refused != ok


def test_values_are_compared_under_their_name():
    "A weight of a few numbers, or of another name, may begin as another one has ended"
    one, two, fresh = learner(), learner(), Fresh()
    fresh.add(one, 'one')
    fit(one)
    fresh.trained(one, 'its training')
    two.model[1].weight.data = one.model[1].bias.detach().clone()
    two.model[2].bias.data = one.model[2].bias.detach().clone()
    fresh.add(two, 'two')


def test_what_may_be_shared(tmp_path):
    log, act, emb, fresh = TensorBoardCallback(tmp_path), nn.ReLU(), torch.randn(2, 4), Fresh()
    def make():
        first = nn.Linear(2, 4)
        first.weight = nn.Parameter(emb.T, requires_grad=False)
        return learner(nn.Sequential(first, act, nn.Linear(4, 3)), cbs=log)
    loss, kept = nn.CrossEntropyLoss(torch.ones(3)), []
    for i in range(3):
        kept.append(learn := make())
        learn.loss_func = loss
        fresh.add(learn, f'{i}')
        fresh.trained(learn, 'a training that changed nothing')


def test_memory_that_is_used_again_is_not_shared():
    "A new model may lie where one was that is gone"
    fresh = Fresh()
    for i in range(20): fresh.add(learner(), f'{i}')
    gc.collect()
    fresh.add(learner(), 'the last')
    assert len(fresh.memory) < 10 and len(fresh.objects) < 10
