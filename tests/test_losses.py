"A table of losses, kinds of labels and weights, against a loop over rows and classes"
import random
from functools import partial

import pytest
import torch
from data_helpers import fit, probs, rows_of, tensors_dl
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.layers import NoneReduce
from fastai.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLossFlat,
    L1LossFlat,
    LabelSmoothingCrossEntropy,
    LabelSmoothingCrossEntropyFlat,
    MSELossFlat,
)
from fastai.torch_core import TensorBase
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.losses import RowLoss, _asked_again, inner_loss, prediction_kind, row_losses, takes_classes
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets, join_targets
from torch import nn
from torch.nn import functional as F

N, N2, C, N_IN, N_EL = 8, 12, 4, 5, 3
W = torch.tensor([.5, 2, 1, 3])


def focal(pred, y, gamma, weight=None):
    ce = F.cross_entropy(pred, y, weight=weight, reduction='none')
    return (1-torch.exp(-ce))**gamma*ce


def smooth(pred, y, eps, weight=None):
    "fastai's label smoothing: class weights touch the true class only"
    logp = F.log_softmax(pred, 1)
    return (1-eps)*F.nll_loss(logp, y, weight=weight, reduction='none')-eps*logp.mean(1)


def ce(pred, y, **kwargs): return F.cross_entropy(pred, y, reduction='none', **kwargs)
def nll(pred, y, **kwargs): return F.nll_loss(pred, y, reduction='none', **kwargs)
def margin(pred, y, reduction='mean'): return F.multi_margin_loss(pred, y, margin=.7, reduction=reduction)


def with_kwargs(pred, y, **kwargs): return F.cross_entropy(pred, y, label_smoothing=.3, **kwargs)


# name: (the Learner's loss, the loss of one element by its class: predictions 1 x C, class of shape 1)
CLASSES = {
    'CrossEntropyLossFlat': (lambda: CrossEntropyLossFlat(), ce),
    'CrossEntropyLossFlat weight': (lambda: CrossEntropyLossFlat(weight=W), lambda p, y: ce(p, y, weight=W)),
    'CrossEntropyLossFlat ignore': (lambda: CrossEntropyLossFlat(ignore_index=2),
                                    lambda p, y: ce(p, y, ignore_index=2)),
    'LabelSmoothingCrossEntropyFlat': (lambda: LabelSmoothingCrossEntropyFlat(eps=.2), lambda p, y: smooth(p, y, .2)),
    'LabelSmoothingCrossEntropy weight': (lambda: LabelSmoothingCrossEntropy(eps=.2, weight=W),
                                          lambda p, y: smooth(p, y, .2, W)),
    'FocalLossFlat': (lambda: FocalLossFlat(gamma=1.5), lambda p, y: focal(p, y, 1.5)),
    'FocalLossFlat weight': (lambda: FocalLossFlat(gamma=2., weight=W), lambda p, y: focal(p, y, 2., W)),
    'nn.CrossEntropyLoss': (lambda: nn.CrossEntropyLoss(), ce),
    'nn.CrossEntropyLoss all': (lambda: nn.CrossEntropyLoss(weight=W, label_smoothing=.1),
                                lambda p, y: ce(p, y, weight=W, label_smoothing=.1)),
    'nn.NLLLoss': (lambda: nn.NLLLoss(weight=W), lambda p, y: nll(p, y, weight=W)),
    'nn.MultiMarginLoss': (lambda: nn.MultiMarginLoss(margin=.7), lambda p, y: margin(p, y, 'none')),
    'F.cross_entropy': (lambda: F.cross_entropy, ce),
    'function with reduction': (lambda: margin, lambda p, y: margin(p, y, 'none')),
    'function with kwargs': (lambda: with_kwargs, lambda p, y: ce(p, y, label_smoothing=.3)),
}
WITH_AXIS = {
    'CrossEntropyLossFlat': lambda: CrossEntropyLossFlat(axis=1),
    'CrossEntropyLossFlat weight': lambda: CrossEntropyLossFlat(axis=1, weight=W),
    'CrossEntropyLossFlat ignore': lambda: CrossEntropyLossFlat(axis=1, ignore_index=2),
    'LabelSmoothingCrossEntropyFlat': lambda: LabelSmoothingCrossEntropyFlat(axis=1, eps=.2),
    'FocalLossFlat': lambda: FocalLossFlat(axis=1, gamma=1.5),
    'nn.CrossEntropyLoss all': CLASSES['nn.CrossEntropyLoss all'][0],
}
# name: (the Learner's loss, the loss of each element)
POS = torch.tensor([1., 3, .5, 2])
VALUES = {
    'BCEWithLogitsLossFlat': (lambda: BCEWithLogitsLossFlat(), F.binary_cross_entropy_with_logits),
    'nn.BCEWithLogitsLoss': (lambda: nn.BCEWithLogitsLoss(weight=W, pos_weight=POS),
                             partial(F.binary_cross_entropy_with_logits, weight=W, pos_weight=POS)),
    'MSELossFlat': (lambda: MSELossFlat(), F.mse_loss),
    'L1LossFlat': (lambda: L1LossFlat(), F.l1_loss),
    'nn.MSELoss': (lambda: nn.MSELoss(), F.mse_loss),
    'nn.SmoothL1Loss': (lambda: nn.SmoothL1Loss(beta=.3), partial(F.smooth_l1_loss, beta=.3)),
    'F.huber_loss': (lambda: F.huber_loss, F.huber_loss),
}


def net(shape, log=False):
    torch.manual_seed(0)
    n_out = torch.tensor(shape).prod().item()
    return nn.Sequential(nn.Linear(N_IN, n_out), nn.Unflatten(1, shape), *([nn.LogSoftmax(1)] if log else []))


def labels(n, soft, seed, n_el=None):
    "Class indices or probabilities: n, n x C, n x N_EL or n x C x N_EL"
    g = torch.Generator().manual_seed(seed)
    if not soft: return torch.randint(C, (n,) if n_el is None else (n, n_el), generator=g)
    return probs(n, C, seed) if n_el is None else probs(n*n_el, C, seed).reshape(n, n_el, C).movedim(2, 1)


def train(y, y2, w2, lf, model, weight, **kwargs):
    "One fit of a few batches; also where its rows come from"
    g = torch.Generator().manual_seed(9)
    x, x2 = torch.randn(N, N_IN, generator=g), torch.randn(N2, N_IN, generator=g)
    # without validation: few losses can do that on soft labels
    dls = DataLoaders(DataLoader(list(zip(x, y)), bs=8), DataLoader([], bs=8))
    dl2 = tensors_dl(x2, y2, *(() if w2 is None else (w2,)), bs=4)
    cb = NoisyStudent(dl2, pseudolabel_sample_weight=weight, **kwargs)
    _, probe = fit(dls, model, lf, cb, n_epoch=1, lr=0.)  # no learning, so that all batches see the same model
    return probe, [(xb, rows_of(xb[:4], x), rows_of(xb[4:], x2)) for xb, in probe.xbs]


def check(probe, rows, model, row_loss, y, y2, w2, weight, lf=None):
    "Loss and gradients of each batch against `row_loss(predictions of a row, its label)`, row by row, or against `lf`"
    assert len(rows) == 2
    for k, (xb, i, j) in enumerate(rows):
        ls = [row_loss(model(xb[[r]]), o) for r, o in enumerate([y[a] for a in i] + [y2[a] for a in j])]
        ws = [1.]*4 + [weight*(1. if w2 is None else w2[a].item()) for a in j]
        want = sum(w*l for w, l in zip(ws, ls))/sum(ws)
        if lf is not None: want = lf(model(xb), torch.cat([y[i], y2[j]]))
        torch.testing.assert_close(probe.losses[k], want.detach())
        for got, o in zip(probe.grads[k], torch.autograd.grad(want, model.parameters())):
            torch.testing.assert_close(got, o, atol=1e-6, rtol=1e-4)


def expected(loss):
    "The loss of one element, whose label is a class or probabilities of classes, from the loss by class"
    def f(pred, y):
        if not y.is_floating_point(): return loss(pred, y[None]).sum()
        return sum(p*loss(pred, torch.tensor([i])).sum() for i, p in enumerate(y))
    return f


WEIGHTS = {False: [0, .3, 1, 2.5], True: [.3, 1]}  # of pseudolabels, without and with weights of rows
KINDS = [(False, False), (False, True), (True, False), (True, True)]
TABLE = [(name, *kind) for name in CLASSES for kind in KINDS]
# nothing tells that such a loss takes class indices where no labels are class indices
TABLE = [o for o in TABLE if not (o[1:] == (True, True) and o[0] in ('nn.MultiMarginLoss', 'function with reduction'))]


@pytest.mark.parametrize('rows_weighted', [False, True])
@pytest.mark.parametrize('name,soft,soft2', TABLE)
def test_classes(name, soft, soft2, rows_weighted):
    make, loss = CLASSES[name]
    y, y2 = labels(N, soft, 1), labels(N2, soft2, 2)
    w2 = torch.rand(N2, generator=torch.Generator().manual_seed(3))*2 if rows_weighted else None
    for weight in WEIGHTS[rows_weighted]:
        model = net((C,), log=name == 'nn.NLLLoss')
        as_it_is = make() if weight == 1 and not (rows_weighted or soft or soft2) else None
        check(*train(y, y2, w2, make(), model, weight), model, expected(loss), y, y2, w2, weight, as_it_is)


@pytest.mark.parametrize('rows_weighted', [False, True])
@pytest.mark.parametrize('soft,soft2', KINDS)
@pytest.mark.parametrize('name', WITH_AXIS)
def test_rows_of_several_elements(name, soft, soft2, rows_weighted):
    "A label for each of a row's elements, with classes along the second dimension: a row counts once"
    by_element = expected(CLASSES[name][1])
    def loss(pred, y): return sum(by_element(pred[..., e], y[..., e]) for e in range(N_EL))/N_EL
    y, y2 = labels(N, soft, 1, N_EL), labels(N2, soft2, 2, N_EL)
    w2 = torch.rand(N2, generator=torch.Generator().manual_seed(3))*2 if rows_weighted else None
    for weight in WEIGHTS[rows_weighted]:
        model = net((C, N_EL))
        as_it_is = WITH_AXIS[name]() if weight == 1 and not (rows_weighted or soft or soft2) else None
        check(*train(y, y2, w2, WITH_AXIS[name](), model, weight), model, loss, y, y2, w2, weight, as_it_is)


@pytest.mark.parametrize('rows_weighted', [False, True])
@pytest.mark.parametrize('name', VALUES)
def test_values(name, rows_weighted):
    "Numbers, or probabilities of labels that don't exclude each other: the mean over a row's numbers"
    make, elements = VALUES[name]
    def loss(pred, y): return elements(pred, y[None], reduction='none').mean()
    y, y2 = torch.rand(N, C, generator=torch.Generator().manual_seed(1)).round(), torch.rand(N2, C)
    w2 = torch.rand(N2, generator=torch.Generator().manual_seed(3))*2 if rows_weighted else None
    for weight in WEIGHTS[rows_weighted]:
        model = net((C,))
        check(*train(y, y2, w2, make(), model, weight), model, loss, y, y2, w2, weight)


def whole(pred, y): return F.cross_entropy(pred, y)


class Whole(nn.Module):
    def forward(self, pred, y): return F.cross_entropy(pred, y)


@pytest.mark.parametrize('lf', [whole, Whole(), lambda p, y: F.cross_entropy(p, y)])
def test_one_value_for_the_batch(lf):
    "It will do for hard labels of weight 1, where it is just called, and for nothing else"
    y, y2, model = labels(N, False, 1), labels(N2, False, 2), net((C,))
    check(*train(y, y2, None, lf, model, 1), model, expected(ce), y, y2, None, 1)
    p, p2, w2 = labels(N, True, 1), labels(N2, True, 2), torch.ones(N2)
    for why, *args, weight in [('row weights', y, y2, None, .3), ('row weights', y, y2, None, 0),
                               ('row weights', y, y2, w2, 1), ('soft labels', y, p2, None, 1),
                               ('soft labels', p, y2, None, 1)]:
        with pytest.raises(ValueError, match=f"{why} need one loss value per row.*reduction='none'"):
            train(*args, lf, model, weight)
    with pytest.raises(ValueError, match='log_losses=True needs the loss of each row'):
        train(y, y2, None, lf, model, 1, log_losses=True)


@pytest.mark.parametrize('name', [k for k in CLASSES if k not in ('nn.NLLLoss', 'nn.MultiMarginLoss')])
def test_one_hot_equals_hard(name):
    "The same classes written in another way give the same loss, whatever the loss"
    make, _ = CLASSES[name]
    y, y2 = labels(N, False, 1), labels(N2, False, 2)
    hot, hot2 = torch.eye(C)[y], torch.eye(C)[y2]
    seen = []
    for a, b in [(y, y2), (y, hot2), (hot, y2)]:
        random.seed(5)  # dl2's order
        probe, rows = train(a, b, None, make(), net((C,)), .3)
        seen.append(({tuple(i+j) for _, i, j in rows}, torch.stack(probe.losses)))
    assert seen[0][0] == seen[1][0] == seen[2][0]
    for _, ls in seen[1:]: torch.testing.assert_close(ls, seen[0][1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 6), m=st.integers(1, 6), c=st.integers(2, 5), soft=st.booleans(), soft2=st.booleans(),
       half=st.booleans(),
       seed=st.integers(0, 99))
def test_join_and_loss(n, m, c, soft, soft2, half, seed):
    g = torch.Generator().manual_seed(seed)
    def labels(n, soft):
        return torch.rand(n, c, generator=g).softmax(1) if soft else torch.randint(c, (n,), generator=g)
    y, y2, w = labels(n, soft), labels(m, soft2), torch.rand(n+m, generator=g)+.01
    res, is_soft = join_targets(y, y2.half() if soft2 and half else y2)
    pred = torch.randn(n+m, c, generator=g)
    logp = pred.log_softmax(1)
    want = 0.
    for i, t in enumerate([*y, *y2]):
        p = t if t.ndim else torch.eye(c)[t]
        want += w[i]*-sum(p[k]*logp[i, k] for k in range(c))
    got = RowLoss(torch.nn.CrossEntropyLoss())(pred, RowTargets(res, w=w, soft=soft or soft2))
    assert is_soft == (soft != soft2) and res.shape == ((n+m, c) if soft or soft2 else (n+m,))
    torch.testing.assert_close(got, want/w.sum(), rtol=1e-2 if half else 1e-4, atol=1e-3 if half else 1e-5)


def test_listeners_see_the_rows_before_weights():
    pred, y = torch.randn(5, C), torch.randint(C, (5,))
    seen = []
    lf = RowLoss(CrossEntropyLossFlat(), lambda ls, y: seen.append((ls, y)), lambda ls, y: seen.append((ls, y)))
    targs = RowTargets(y, w=torch.rand(5))
    lf(pred, targs)
    assert len(seen) == 2 and all(o is targs for _, o in seen)
    torch.testing.assert_close(seen[0][0], F.cross_entropy(pred, y, reduction='none'))
    lf(pred, y)  # no rows
    assert len(seen) == 2


def test_which_losses_take_classes():
    for name, (make, _) in CLASSES.items():
        lf = make()
        known = name not in ('nn.MultiMarginLoss', 'F.cross_entropy', 'function with reduction', 'function with kwargs')
        assert takes_classes(lf) == takes_classes(RowLoss(lf).lf) == known, name
    assert not any(takes_classes(make()) for make, _ in VALUES.values())
    lf = CrossEntropyLossFlat(weight=W)
    assert inner_loss(lf) is lf.func and inner_loss(margin) is margin


@pytest.mark.parametrize('name', VALUES)
def test_row_losses_of_values(name):
    make, elements = VALUES[name]
    pred, y = torch.randn(6, C), torch.rand(6, C).round()
    want = torch.stack([elements(p[None], t[None], reduction='none').mean() for p, t in zip(pred, y)])
    torch.testing.assert_close(row_losses(make(), pred, y), want)


class Focal(nn.Module):
    "It makes one-hot rows of class indices, and takes probabilities"
    def __init__(self, reduction): super().__init__(); self.reduction = reduction
    def forward(self, pred, y):
        if y.shape != pred.shape: y = F.one_hot(y, pred.shape[1]).to(pred.dtype)
        ls = F.binary_cross_entropy_with_logits(pred, y, reduction='none')
        return dict(mean=torch.mean, sum=torch.sum, none=lambda o: o)[self.reduction]((1-torch.exp(-ls))**2*ls)


# name: (the loss, what it takes, the losses of the elements of a row: predictions 1 x C, target of one row)
OWN = {'ce': (lambda r: nn.CrossEntropyLoss(reduction=r), 'classes', ce),
       'ce of weights': (lambda r: nn.CrossEntropyLoss(W, reduction=r), 'classes', partial(ce, weight=W)),
       'flat ce': (lambda r: CrossEntropyLossFlat(reduction=r), 'classes', ce),
       'margin': (lambda r: nn.MultiMarginLoss(margin=.7, reduction=r), 'classes', lambda p, y: margin(p, y, 'none')),
       'a function': (lambda r: partial(F.multi_margin_loss, margin=.7, reduction=r), 'classes',
                      lambda p, y: margin(p, y, 'none')),
       'kl': (lambda r: nn.KLDivLoss(reduction=r), 'probs', partial(F.kl_div, reduction='none')),
       'bce': (lambda r: nn.BCEWithLogitsLoss(reduction=r), 'probs',
               partial(F.binary_cross_entropy_with_logits, reduction='none')),
       'mse': (lambda r: nn.MSELoss(reduction=r), 'probs', partial(F.mse_loss, reduction='none')),
       'focal': (Focal, 'both', lambda p, y: Focal('none')(p, y))}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(name=st.sampled_from(list(OWN)), red=st.sampled_from(['mean', 'sum', 'batchmean']),
       kind=st.sampled_from(['hard', 'probs', 'joined']), weighted=st.booleans(), n=st.integers(2, 6),
       seed=st.integers(0, 999))
def test_any_loss_and_reduction(name, red, kind, weighted, n, seed):
    "Labels of one kind and weight 1: the loss as it is. Else row by row, where a row has what the loss makes of it"
    make, takes, elements = OWN[name]
    if red == 'batchmean' and name != 'kl' or takes == 'classes' and kind == 'probs': return
    if takes == 'probs' and kind == 'hard': return
    g = torch.Generator().manual_seed(seed)
    pred, w = torch.randn(n, C, generator=g), torch.rand(n, generator=g)+.1 if weighted else None
    idx, p = torch.randint(C, (n,), generator=g), torch.randn(n, C, generator=g).softmax(1)
    if kind == 'joined': p[::2] = torch.eye(C)[idx[::2]]
    y, lf = idx if kind == 'hard' else p, make(red)
    got = RowLoss(lf)(pred, RowTargets(y, w=w, soft=kind == 'joined'))
    reduce = torch.mean if red == 'mean' else torch.sum
    if not weighted and kind != 'joined': want = make(red)(pred, y)
    else:
        ws, ls = torch.ones(n) if w is None else w, []
        for i in range(n):
            if takes == 'classes' and kind == 'joined':
                ls.append(sum(y[i, c]*reduce(elements(pred[[i]], torch.tensor([c]))) for c in range(C)))
            else: ls.append(reduce(elements(pred[[i]], y[[i]])))
        want = (ws*torch.stack(ls)).sum()/ws.sum()*(n if red == 'sum' else 1)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


class ReadOnly(nn.Module):
    @property
    def reduction(self): return 'mean'
    def forward(self, pred, y): return F.cross_entropy(pred, y)


def deaf(pred, y, **kwargs): return F.cross_entropy(pred, y)
def passes_on(pred, y, **kwargs): return whole(pred, y, **kwargs)
def of_probs(pred, p): return -(p*pred.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize('lf', [ReadOnly(), deaf, passes_on])
def test_a_reduction_that_cannot_be_changed(lf):
    g = torch.Generator().manual_seed(0)
    pred, y, p = torch.randn(6, C, generator=g), torch.randint(C, (6,), generator=g), probs(6, C, 0)
    torch.testing.assert_close(RowLoss(lf)(pred, RowTargets(y)), F.cross_entropy(pred, y))
    torch.testing.assert_close(RowLoss(lf)(pred, RowTargets(p)), F.cross_entropy(pred, p))
    for targs in (RowTargets(y, w=torch.rand(6)), RowTargets(p, soft=True)):
        with pytest.raises(ValueError, match='one loss value per row|one value for each row') as e:
            RowLoss(lf)(pred, targs)
        assert e.value.argument == 'loss_func'


def test_what_a_loss_takes_decides_on_soft_labels():
    "One that fails on class indices takes probabilities; one that fails on probabilities is told how to say it"
    pred, p = torch.randn(6, C), probs(6, C, 0)
    torch.testing.assert_close(RowLoss(of_probs)(pred, RowTargets(p, soft=True)), F.cross_entropy(pred, p))
    index = lambda pred, y: W[y].mean()+pred.sum()*0
    with pytest.raises(ValueError, match='probabilities of classes.*y_int=True') as e:
        RowLoss(index)(pred, RowTargets(p))
    assert e.value.argument == 'loss_func'
    y = RowTargets(torch.randint(C, (6,)), w=torch.rand(6))
    y.w = y.w[:4]
    with pytest.raises(ValueError, match='changed their shape in place'): RowLoss(F.cross_entropy)(pred, y)


class Stateful(nn.Module):
    "A loss that draws random numbers and counts its calls, in each way that there is"
    def __init__(self):
        super().__init__()
        self.reduction, self.n = 'mean', 0
        self.register_buffer('calls', torch.zeros(()))
        self.register_buffer('last', torch.zeros(()))
    def forward(self, pred, y):
        self.n, self.last = self.n+1, self.last+1
        self.calls += 1
        return F.cross_entropy(pred+torch.rand_like(pred), y, reduction=self.reduction)


@pytest.mark.parametrize('wrap', [lambda o: o, lambda o: (lambda p, y, reduction='mean': drawn(p, y, reduction))])
def test_a_look_at_the_rows_goes_unnoticed(wrap):
    pred, y = torch.randn(8, 3), RowTargets(torch.arange(8) % 3, is_pl=torch.arange(8) > 3)
    got = []
    for see in ([], [lambda ls, y: got.append(ls)]):
        lf = wrap(Stateful())
        torch.manual_seed(0)
        res = [RowLoss(lf, *see)(pred, y) for _ in range(3)]
        state = [int(o) for o in (lf.n, lf.calls, lf.last)] if isinstance(lf, nn.Module) else []
        got.append((res, torch.rand(1), state))
    assert [len(o) for o in got[1:4]] == [8]*3
    (a, r, s), (b, q, t) = got[0], got[-1]
    assert a == b and torch.equal(r, q) and s == t and s in ([], [3]*3)


def drawn(pred, y, reduction): return F.cross_entropy(pred+torch.rand_like(pred), y, reduction=reduction)


@pytest.mark.parametrize('lf', [CrossEntropyLossFlat(), CrossEntropyLossFlat(weight=W), FocalLossFlat(gamma=3),
                                CrossEntropyLossFlat(ignore_index=1), LabelSmoothingCrossEntropyFlat(),
                                nn.CrossEntropyLoss(weight=W), MSELossFlat()])
@pytest.mark.parametrize('shape', [(9, C), (9, C, C)])
def test_what_is_looked_at_are_the_losses_of_the_rows(lf, shape):
    "Where nothing has to be flattened torch's own loss is asked"
    torch.manual_seed(0)
    pred = torch.randn(shape).as_subclass(TensorBase)
    y = torch.randint(C, shape[:-1]) if takes_classes(lf) else torch.randn(shape)
    assert torch.equal(_asked_again(lf, pred, y), row_losses(lf, pred, y))


@pytest.mark.parametrize('lf', [CrossEntropyLossFlat(), F.cross_entropy])
def test_a_reduction_that_is_taken_away(lf):
    "... from outside, as fastai does for MixUp and `get_preds(with_loss=True)`"
    pred, y = torch.randn(3, 3), RowTargets(torch.arange(3), w=torch.tensor([1., 1, .5]))
    rows, ls = RowLoss(lf), F.cross_entropy(pred, y.plain(), reduction='none')
    with NoneReduce(rows) as g:
        torch.testing.assert_close(g(pred, y.plain()), ls)
        torch.testing.assert_close(g(pred, y).mean(), (ls*y.w).sum()/y.w.sum())
    assert rows.reduction == getattr(lf, 'reduction', 'mean') == 'mean'


def test_attributes_are_those_of_the_loss():
    lf = RowLoss(LabelSmoothingCrossEntropyFlat())
    lf.func.eps, lf.axis = .5, 1
    assert (lf.lf.func.eps, lf.lf.axis) == (.5, 1)


def test_soft_labels_that_can_not_be():
    lf, y = RowLoss(CrossEntropyLossFlat()), RowTargets(torch.rand(3, 3), soft=True)
    with pytest.raises(ValueError, match='the model gives a tuple'): lf((torch.rand(3, 3),)*2, y)
    with pytest.raises(ValueError, match='as the only target'): lf(torch.rand(3, 3), y, torch.rand(3, 3))


@pytest.mark.parametrize('seed', range(3))
def test_gradients_are_those_of_the_formula(seed):
    torch.manual_seed(seed)
    pred, p, w = torch.randn(6, 4, requires_grad=True), torch.rand(6, 4).softmax(1), torch.rand(6)
    grad = lambda l: torch.autograd.grad(l, pred)[0]
    ce = -pred.log_softmax(1)
    want = (w[:, None]*p*(1-torch.exp(-ce))**2*ce).sum()/w.sum()
    torch.testing.assert_close(grad(RowLoss(FocalLossFlat())(pred, RowTargets(p, w=w, soft=True))), grad(want))


X = torch.randn(5, 3)
OUTPUTS = [(lf, 'single', X.softmax(1)) for lf in (
    CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, FocalLossFlat(), LabelSmoothingCrossEntropy(),
    RowLoss(nn.CrossEntropyLoss()), LabelSmoothingCrossEntropyFlat())]
OUTPUTS += [(lf, 'single', X.exp()) for lf in (nn.NLLLoss(), F.nll_loss)]
OUTPUTS += [(lf, 'multi', X.sigmoid()) for lf in (BCEWithLogitsLossFlat(), nn.BCEWithLogitsLoss(),
                                                F.binary_cross_entropy_with_logits)]
OUTPUTS += [(lf, 'values', X) for lf in (MSELossFlat(), L1LossFlat(), nn.HuberLoss())]


@pytest.mark.parametrize('lf,kind,want', OUTPUTS)
def test_what_outputs_mean(lf, kind, want):
    got, act = prediction_kind(lf)
    assert got == kind
    torch.testing.assert_close(act(X), want)


def test_outputs_of_a_loss_of_ones_own():
    def mine(a, b): return (a-b).sum()
    with pytest.raises(ValueError, match='does not show whether'): prediction_kind(mine)
    with pytest.raises(ValueError, match="kind='soft': expected 'single'"): prediction_kind(mine, 'soft')
    for kind, want in dict(values=X, single=X.softmax(1), multi=X.sigmoid()).items():
        assert torch.equal(prediction_kind(mine, kind)[1](X), want)
    assert prediction_kind(nn.CrossEntropyLoss(), act=torch.exp)[1] is torch.exp
