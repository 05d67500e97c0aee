"Losses against slow plain versions; the last layer's weights have no part in it"
import math
from functools import partial

import pytest
import torch
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.pretraining.contrastive import (
    Projected,
    TwoViews,
    check_options,
    options_of,
    projection,
    simclr_loss,
    vicreg_loss,
)
from torch import nn


def views(seed, n=6, d=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), 3*torch.randn(n, d, generator=g)


def cosine(a, b): return sum(x*y for x, y in zip(a, b))/math.sqrt(sum(x*x for x in a)*sum(y*y for y in b))


def slow_simclr(a, b, t):
    "One pair of views after the other, in plain Python"
    rows, n, res = [*a.tolist(), *b.tolist()], len(a), 0.
    for i, z in enumerate(rows):
        others = [math.exp(cosine(z, o)/t) for k, o in enumerate(rows) if k != i]
        res -= math.log(math.exp(cosine(z, rows[(i+n) % (2*n)])/t)/sum(others))
    return res/(2*n)


def slow_vicreg(a, b, sim, std, cov):
    "Column by column, in plain Python"
    n, d = a.shape
    res = sim*sum((x-y)**2 for o, p in zip(a.tolist(), b.tolist()) for x, y in zip(o, p))/(n*d)
    for o in (a, b):
        cols = [[v-sum(c)/n for v in c] for c in o.T.tolist()]
        covs = [[sum(x*y for x, y in zip(c, e))/(n-1) for e in cols] for c in cols]
        res += std*sum(max(0, 1-math.sqrt(covs[i][i]+1e-4)) for i in range(d))/d/2
        res += cov*sum(covs[i][j]**2 for i in range(d) for j in range(d) if i != j)/d
    return res


@pytest.mark.parametrize('seed', range(4))
def test_losses_are_those_of_plain_loops(seed):
    a, b = views(seed)
    for t in (.1, .5, 2.): assert simclr_loss(a, b, t).item() == pytest.approx(slow_simclr(a, b, t), rel=1e-4)
    for w in ((25., 25., 1.), (1., 0., 3.), (0., 2., .5)):
        assert vicreg_loss(.3*a, b, *w).item() == pytest.approx(slow_vicreg(.3*a, b, *w), rel=1e-4)
    # which view comes first, and in which order rows are, makes no difference
    p = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))
    for f in (simclr_loss, vicreg_loss):
        assert f(a, b).item() == pytest.approx(f(b[p], a[p]).item(), rel=1e-4)
        assert TwoViews(f)(torch.cat([a, b]), None).item() == f(a, b).item()


def test_rows_that_are_paired_wrongly_cost_more():
    a, _ = views(0)
    for f in (simclr_loss, vicreg_loss): assert f(a, a+.01) < f(a, a.roll(1, 0)+.01)


class Conv(nn.Module):
    "A convolution is its last layer, and places are averaged after it"
    def __init__(self): super().__init__(); self.a, self.out = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 3, 1)
    def forward(self, x): return self.out(self.a(x).relu()).mean(2)


def test_what_enters_the_last_layer_is_projected():
    g = torch.Generator().manual_seed(0)
    x, x3 = torch.randn(5, 2, generator=g), torch.randn(5, 2, 7, generator=g)
    net, conv = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), Conv()
    for m, last, x, want in ((net, net[2], x, net[1](net[0](x))), (conv, conv.out, x3, conv.a(x3).relu().mean(2))):
        p = Projected(m, last, projection(4, 6)).train()
        assert torch.equal(Projected(m, last, nn.Identity())(x), want)
        out = p(x)
        assert out.shape == (5, 6) and not last._forward_pre_hooks
        out.square().sum().backward()
        grads = {id(o): o.grad for o in m.parameters()}
        own = {id(o) for o in last.parameters()}
        assert all((grads[k] is None) == (k in own) for k in grads)


def test_options_that_a_loss_does_not_take_are_named():
    check_options('vicreg', dict(cov=0, dim=8))
    for method, k, v in (('contrastive', 'temperature', 0), ('vicreg', 'std', -1), ('contrastive', 'dim', 1)):
        with pytest.raises(BadValue, match=f'{k}={v}'): check_options(method, {k: v})
    with pytest.raises(TypeError, match='sim, std, cov, dim'): check_options('vicreg', dict(temperature=1))


@pytest.mark.parametrize('f, want', [
    (simclr_loss, ['temperature']), (vicreg_loss, ['sim', 'std', 'cov']), (nn.MSELoss(), []),
    (lambda a, b: 0, []), (lambda a, b, c, *, d=1: 0, ['c', 'd']), (lambda *views, d=1: 0, ['d']),
    (lambda a, b, **kw: 0, None), (partial(vicreg_loss, sim=1.), ['sim', 'std', 'cov']), (max, None)])
def test_options_of(f, want): assert options_of(f) == want
