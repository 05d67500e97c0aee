"Is each argument of each step refused by its name, and before a teacher has trained?"
import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, MSELossFlat
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.online import EMATeacher
from noisy_student_fastai.rounds.choices import OneOf
from noisy_student_fastai.rounds.folds import cross_validate
from noisy_student_fastai.rounds.run import Run
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import UNLABELED, make, train
from torch import nn
from toys import hard_rows, net, pts_dls


class Trained(Exception): "A training began: whatever is refused now comes late"


def fit(*args): raise Trained


def refused(name, f=make, **kw):
    "An error that begins with the name of an argument of `self_train`, before anything is trained"
    with pytest.raises((ValueError, TypeError)) as e: train(kw.pop('path', None), f, fit=kw.pop('fit', fit), **kw)
    assert str(e.value).startswith(name), str(e.value)


def other_kind(lf, y):
    "What makes Learners with two numbers a row, that `y` makes of its class"
    rows = [[(x, y(c)) for x, c in hard_rows(24, i)] for i in (1, 7)]
    def f(r):
        dls = DataLoaders(TfmdDL(rows[0], bs=8, shuffle=True, num_workers=0), TfmdDL(rows[1], bs=8, num_workers=0))
        return Learner(dls, nn.Linear(2, 2), loss_func=lf(), lr=.2)
    return f


def named(r):
    "A Learner that knows the names of its classes"
    dls = pts_dls(hard_rows(24, 1), bs=8)
    for o in dls.loaders: o.vocab = ['cat', 'dog', 'owl']
    return make(r, dls)


multi = other_kind(BCEWithLogitsLossFlat, lambda c: torch.tensor([c > 0, c > 1]).float())
values = other_kind(MSELossFlat, lambda c: torch.tensor([c, -c]).float())
kinds = dict(single=make, named=named, multi=multi, values=values)

wrong = dict(  # by argument and kind: dicts with one mistake each
    select=dict(
        single=[dict(min_conf=50), dict(min_conf='a'), dict(min_conf=[.5, .5]), dict(min_conf=dict(cat=.5)),
                dict(n_per_class=0), dict(n_per_class=.5), dict(n_per_class=[4, 4]), dict(n_per_class=4, n=12),
                dict(n_per_class=None, n=0), dict(n_per_class=None, n='all'), dict(max_repeat=0), dict(max_repeat=.5),
                dict(weights='sure'), dict(weights=[1., 2.]), dict(weights=-np.ones(240)), dict(weights='spread'),
                dict(weights=lambda c: c[:1]), dict(weights=lambda c: c.no), dict(prior='labeled'),
                dict(prior=[.5, .5]), dict(prior=[.5, .5, 0]), dict(prior=[1]*4), dict(prior='abc'),
                dict(prior=[None]*3),
                dict(prior=dict(cat=1)), dict(max_spread=.5), dict(seed=-1), dict(seed=None), dict(min_cnf=.5)],
        named=[dict(prior=dict(cat=.5, dog=.5)), dict(prior=dict(cat=.2, dog=.2, owl=.2, cow=.4)),
               dict(min_conf=dict(cow=.5)), dict(n_per_class=dict(cat=4, dog=4))],
        multi=[dict(min_conf=50), dict(min_conf=[.5, .5]), dict(n_per_class=4), dict(prior='uniform'), dict(n=0),
               dict(max_repeat=0), dict(max_spread=1), dict(weights='spread'), dict(weights='sure')],
        values=[dict(min_conf=.5), dict(n_per_class=4), dict(n=4), dict(prior='uniform'), dict(max_spread=1),
                dict(weights='conf'), dict(weights='spread'), dict(weights=lambda o: o), dict(weights=[1.])]),
    dl=dict(
        single=[dict(temperature=0), dict(temperature='warm'), dict(temprature=.5), dict(leaks='no'), dict(bs=0),
                dict(bs='a'), dict(soft=False, temperature=.5), dict(dls=3), dict(soft='no'),
                dict(w=[1.]), dict(rows=[1])],
        multi=[dict(temperature=0), dict(soft=False, temperature=.5)],
        values=[dict(temperature=.5)]),
    pseudolabel=dict(
        single=[dict(temperature=-1), dict(temperature='warm'), dict(bs=0), dict(bs=.5), dict(teachers=3),
                dict(teachers=[3]), dict(n_views=-1), dict(n_views=.5), dict(amp='fp8'), dict(dtype='int8'),
                dict(top_k=0), dict(top_k=3), dict(top_k=.5), dict(kind='sngle'), dict(act=3), dict(embed='layer:no'),
                dict(embed=3), dict(ids=[1, 2]), dict(ids=3), dict(leaks='no'), dict(unreadable='no'), dict(check='no'),
                dict(seed=-1), dict(seed='a'), dict(vocab=['cat', 'dog']), dict(temprature=2), dict(path='a'),
                dict(act=lambda o: o), dict(act=lambda o: o[:1]), dict(held_out=3)],
        multi=[dict(temperature=0), dict(top_k=1), dict(kind='single', act=torch.sigmoid)],
        values=[dict(temperature=2), dict(top_k=1)]),
    propagate=dict(
        single=[dict(k=0), dict(k=.5), dict(mix=2), dict(mix='a'), dict(alpha=2), dict(gamma='a'), dict(on='places'),
                dict(on=3), dict(prior=[.5, .5]), dict(prior='equal'), dict(n_exact=-1), dict(n_exact='a'), dict(kk=3)],
        named=[dict(prior=dict(cat=.5, dog=.5)), dict(prior=dict(cat=.2, dog=.2, owl=.2, cow=.4))],
        multi=[dict(prior='uniform'), dict(prior=[.5, .5])],
        values=[dict(k=0)]),
    student=dict(
        single=[dict(bs=1), dict(bs=.5), dict(l2pl_ratio=0), dict(l2pl_ratio='a'), dict(pseudolabel_sample_weight=-1),
                dict(batch_tfms=3), dict(ratio=3), dict(dl2=3), dict(teacher=EMATeacher()), dict(bs=4, l2pl_ratio=99)]),
    noise=dict(
        single=[dict(tfms=3), dict(tfms='rand'), dict(dropout=2), dict(dropout='a'), dict(stoch_depth=.1),
                dict(blocks=3), dict(last=3), dict(last='no'), dict(dropuot=.5)]),
    online=dict(
        single=[dict(n_epoch=0), dict(lr=-1), dict(noise=3), dict(noise=dict(dropuot=.5)), dict(noise=dict(dropout=2)),
                dict(ema=99), dict(bs=1), dict(l2pl_ratio=0), dict(teacher=3), dict(decay=.9), dict(rate=1)]),
    finetune=dict(
        single=[dict(n_epoch=0), dict(n_epoch=1, lr=-1), dict(n_epoch=1, lr='a'), dict(lr=.1), dict(n_epoch=1, bs=8)]))

cases = [(name, kind, kw) for name, by in wrong.items() for kind, kws in by.items() for kw in kws]


def asked(name, kind):
    "What the dict with a mistake goes with"
    select = dict(n_per_class=40) if kind in ('single', 'named') else {}
    base = dict(select=select, dl={}, student=dict(bs=12), noise={})
    return base | (dict(pseudolabel=dict(embed='teacher')) if name == 'propagate' else {}) | dict(online=None)


@pytest.mark.parametrize('name, kind, kw', cases, ids=[f'{n}-{k}-{i}' for i, (n, k, _) in enumerate(cases)])
def test_mistakes_in_the_dicts(name, kind, kw):
    base = asked(name, kind)
    own = {} if {'n_per_class', 'n'} & {*kw} or name != 'select' else base[name]
    refused(name, kinds[kind], **base | {name: own | kw})


@pytest.mark.parametrize('name, kw', [
    ('select', dict(min_conf=50)), ('dl', dict(temperature=0)), ('dl', dict(temprature=.5)),
    ('pseudolabel', dict(temperature=-1)), ('propagate', dict(k=0)), ('student', dict(bs=1)),
    ('noise', dict(dropout=2))])
def test_mistakes_of_one_round_and_of_one_alternative(name, kw, tmp_path):
    good = dict(dl=dict(soft=True), propagate=None).get(name, {})
    refused(name, **{name: lambda r: kw if r == 2 else good or {}} if name != 'propagate' else
            {name: lambda r: kw if r == 2 else None})
    refused(name, path=tmp_path/'a', **{name: OneOf(good, kw)})
    k, v = next(iter(kw.items()))
    if k != 'temprature' and name != 'propagate':
        ok = dict(min_conf=.5, temperature=1., bs=12, dropout=.1)[k]
        refused(name, path=tmp_path/'b', **{name: {k: OneOf(ok, v)}})


def test_folds_and_names_that_are_alike():
    x, kw = hard_rows(24, 1), dict(fit=fit, weak_teacher='warn')
    y = [int(c) for _, c in x]
    def make_learner(r, train, valid):
        one, two = ([x[i] for i in o] for o in (train, valid))
        return make(r, DataLoaders(TfmdDL(one, bs=4, num_workers=0), TfmdDL(two, bs=4, num_workers=0)))
    for bad in (dict(dl=dict(temperature=0)), dict(select=dict(prior=[.5, .5]))):
        with pytest.raises(ValueError, match=next(iter(bad))):
            cross_validate(make_learner, UNLABELED, y, 3, **kw | bad)
    with pytest.raises(ValueError, match='path=.* is a file: expected a folder'):
        cross_validate(make_learner, UNLABELED, y, 3, __file__)
    for k, bad, good in (('dl', 'temprature', 'temperature'), ('select', 'min_cnf', 'min_conf'),
                         ('student', 'l2p_ratio', 'l2pl_ratio'), ('online', 'n_epochs', 'n_epoch')):
        with pytest.raises(TypeError, match=rf"^{k}\['{bad}'\]=1: .*; did you mean '{good}'\?"):
            train(None, fit=fit, **{k: {bad: 1}})


@pytest.mark.parametrize('kind, kw', [
    ('single', dict(select=dict(min_conf=1., prior='uniform'))),  # no row may reach it: known after the training
    ('single', dict(select=dict(n_per_class=10**9, max_repeat=None, weights='conf'))),
    ('single', dict(select=dict(weights=np.arange(240.), n=10**6, max_repeat=10**9))),
    ('single', dict(select=dict(weights=lambda c: (c > .9999).astype(float)))),
    ('single', dict(pseudolabel=dict(top_k=2, ids=list(range(240)), n_views=1), dl=dict(bs=8, num_workers=0))),
    ('named', dict(select=dict(prior=dict(cat=.2, dog=.3, owl=.5), min_conf=dict(cat=.5)))),
    ('named', dict(propagate=dict(prior=dict(cat=.2, dog=.3, owl=.5)))),
    ('multi', dict(select=dict(min_conf=.9, weights='conf'), dl=dict(soft=False), propagate={})),
    ('values', dict(select=dict(weights=np.ones(240)), propagate=dict(k=3, on='teacher')))])
def test_what_may_work_is_let_through(kind, kw):
    base = asked('', kind) | kw
    with pytest.raises(Trained): train(None, kinds[kind], fit=fit, **base)


def test_callbacks_where_their_arguments_belong():
    dl = pts_dls().train
    for name, cb in (('noise', StudentNoise()), ('student', NoisyStudent(dl)), ('noise', StudentNoise),
                     ('student', NoisyStudent)):
        refused(f'{name}=', **{name: cb})
    with pytest.raises(TypeError, match=r"expected a dict with its arguments, such as noise=dict\(dropout=\.\.\.\)"):
        train(None, fit=fit, noise=StudentNoise())


def test_folders_that_are_files(tmp_path):
    file = tmp_path/'table.csv'
    file.touch()
    for path in (file, file/'a', file/'a'/'b'): refused('path=', path=path)
    with pytest.raises(ValueError, match='table.csv is a file: expected a folder'): train(file/'a', fit=fit)
    refused('path=', path=3)
    with pytest.raises(TypeError, match='path=3: expected the folder of a run'): Run.open(3)


@pytest.mark.parametrize('kw', [
    dict(control='yes'), dict(control=1), dict(verbose='no'), dict(reselect=1), dict(overwrite='no'), dict(fit=3),
    dict(lr=slice(-1, 1)), dict(lr=slice('a', 1)), dict(lower_is_better=1), dict(progress=3), dict(monitor=3),
    dict(weak_teacher=[]), dict(patience=.5), dict(ema=99), dict(ema='a'), dict(pretrain=dict(n_epochs=1))])
def test_flags_and_plain_values(kw):
    refused(next(iter(kw)), **kw)


def test_the_models_are_asked_for_a_few_rows_only():
    "Also where the unlabeled ones are many"
    n = []
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = net(bn=True)
        def forward(self, x):
            n.append(len(x))
            return self.own(x)
    def both(**kw):
        n.clear()
        with pytest.raises(Trained): train(None, lambda r: make(r, model=Counts()), UNLABELED*3, fit=fit, **kw)
        return sum(n)
    assert both() < 3*(50+12)+50
