"What `pretrain` changes, what it leaves alone, and what it says"
import io
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders, TfmdDL
from fastai.losses import MSELossFlat
from fasttransform.transform import Transform
from noisy_student_fastai.checks import BadValue
from noisy_student_fastai.fingerprints import OtherRun
from noisy_student_fastai.labels.sources import as_source
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.pretraining.contrastive import simclr_loss
from noisy_student_fastai.pretraining.stage import Pretrained, check_pretrain
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from toys import hard_rows, points, pts_dls, pts_learner

X = points(90, 5)[0].numpy()


class Jitter(Transform):
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x+.3*torch.randn_like(x) if x.ndim == 2 else x


def net(c=3): return nn.Sequential(nn.Linear(2, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, c))


def learner(*cbs, seed=0, dls=None, model=None, **kwargs):
    torch.manual_seed(seed)
    return pts_learner(*cbs, dls=dls, model=model or net(), **kwargs)


def state(learn): return {k: o.clone() for k, o in learn.model.state_dict().items()}
def equal(a, b): return {k for k in a if torch.equal(a[k], b[k])}


def pretrain(learn, n_epoch=2, x=X, **kwargs):
    with learn.no_bar(), learn.no_logging():
        return learn.pretrain(x, n_epoch, **{**dict(noise=Jitter(), bs=32, lr=.05, dim=8), **kwargs})


LAST = {'3.weight', '3.bias'}


@pytest.mark.parametrize('method', ['contrastive', 'vicreg', simclr_loss])
def test_all_but_the_last_layer_changes_and_a_seed_gives_the_same(method):
    learn = learner()
    was, modes, rng = state(learn), [m.training for m in learn.model.modules()], torch.get_rng_state()
    pre = pretrain(learn, method=method)
    assert torch.equal(rng, torch.get_rng_state()) and modes == [m.training for m in learn.model.modules()]
    assert all(p.grad is None for p in learn.model.parameters()) and learn.opt is None
    now = state(learn)
    assert equal(was, now) == LAST and pre.state.keys() == was.keys()-LAST
    assert {type(o).__name__ for o in learn.cbs} == {type(o).__name__ for o in pts_learner().cbs}
    assert pre.about['n_rows'] == 64+90 and pre.about['n_batches'] == 2*(154//32) and pre.about['n_views'] == 2
    torch.manual_seed(9)  # what comes before makes no difference
    again, other = learner(), learner()
    pretrain(again, method=method)
    pretrain(other, method=method, seed=1)
    assert equal(now, state(again)) == {*was} and equal(now, state(other)) < {*was}


def test_labels_have_no_part_in_it():
    rows = hard_rows(64, 1)
    names = [(x, (y+1) % 3) for x, y in rows]
    one, two = (learner(dls=pts_dls(o)) for o in (rows, names))
    a, b = pretrain(one), pretrain(two)
    assert equal(state(one), state(two)) == {*state(one)}
    assert a.probe.before != b.probe.before  # which does know them
    only, without = learner(), learner()
    assert pretrain(only, labeled=False).about['n_rows'] == 90
    assert equal(state(one), state(only)) == LAST
    pretrain(without, probe=False)
    assert equal(state(one), state(without)) == {*state(one)}  # the probe only looks


def test_statistics_are_those_of_the_views():
    "One batch of all rows without noise: batch norm has seen each row twice, and nothing else"
    learn = learner()
    with torch.no_grad(): seen = learn.model[0](torch.tensor(X)).repeat(2, 1)
    pre = pretrain(learn, 1, labeled=False, noise=lambda b: b, bs=90, lr=1e-9)
    assert pre.about['n_batches'] == 1 == int(learn.model[1].num_batches_tracked)
    assert torch.allclose(learn.model[1].running_mean, .1*seen.mean(0), atol=1e-5)
    assert torch.allclose(learn.model[1].running_var, .9+.1*seen.var(0), atol=1e-5)


def test_the_probe_is_a_linear_model_on_what_enters_the_last_layer():
    learn = learner()
    sets = [[torch.stack(o) if torch.is_tensor(o[0]) else np.array(o) for o in zip(*ds)]
            for ds in (learn.dls.train.dataset, learn.dls.valid.dataset)]

    def share():
        with torch.no_grad(): a, b = (learn.model.eval()[:3](x).numpy() for x, _ in sets)
        sc = StandardScaler().fit(a)
        m = LogisticRegression(max_iter=1000).fit(sc.transform(a), sets[0][1])
        return m.score(sc.transform(b), sets[1][1])
    before = share()
    p = pretrain(learn).probe
    assert (p.n_labeled, p.n_valid) == (64, 50)
    assert p.before == pytest.approx(before) and p.after == pytest.approx(share())


def test_what_is_kept_is_loaded_and_not_done_again(tmp_path):
    learn = learner()
    pre, now = pretrain(learn, path=tmp_path/'p'), state(learn)
    other = learner(seed=1)
    pre2 = pretrain(other, path=tmp_path/'p', cbs=[Raises()])
    assert str(pre2) == str(pre) and equal(state(other), now) == {*now}-LAST
    for kw in (dict(n_epoch=3), dict(x=X+1), dict(seed=1), dict(method='vicreg'), dict(lr=.02), dict(bs=16)):
        with pytest.raises(OtherRun): pretrain(learner(), path=tmp_path/'p', **kw)
    with pytest.raises(OtherRun): pretrain(learner(model=net(2)), path=tmp_path/'p', labeled=False)
    pretrain(other, path=tmp_path/'p', seed=1, overwrite=True)
    assert equal(state(other), now) < {*now}-LAST
    f = tmp_path/'p'/'weights.pth'
    f.write_bytes(f.read_bytes()[:-3]+b'abc')
    with pytest.raises(BadValue, match='corrupted'): Pretrained.open(tmp_path/'p')


def test_weights_go_into_any_such_body():
    learn, ten = learner(), learner(model=net(10))
    pre = pretrain(learn)
    pre.load(ten)
    assert all(torch.equal(o, learn.model.state_dict()[k]) for k, o in ten.model.state_dict().items() if k not in LAST)
    wide = nn.Sequential(nn.Linear(2, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    deep = nn.Sequential(*net()[:3], nn.Linear(8, 8), nn.Linear(8, 3))
    for model in (wide, deep):
        assert pre.misfits(learner(model=model))
        with pytest.raises(BadValue, match="don't fit this Sequential"): pre.load(learner(model=model))


class Raises(Callback):
    "Breaks a training off"
    def __init__(self, e=KeyboardInterrupt): self.e = e
    def after_batch(self):
        if self.training and self.learn.iter == 1: raise self.e('x')


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(error, tmp_path):
    learn = learner()
    was = state(learn)
    with pytest.raises(error) as e: pretrain(learn, path=tmp_path/'p', cbs=[Raises(error)])
    assert equal(was, state(learn)) == {*was} and 'in epoch 1 of 2: the model is unchanged' in e.value.__notes__[0]
    assert all(p.grad is None for p in learn.model.parameters())
    pretrain(learn, path=tmp_path/'p')  # the folder is free
    assert equal(was, state(learn)) == LAST


def test_weights_that_become_nan_are_an_error():
    learn = learner()
    was = state(learn)
    with pytest.raises(BadValue, match='lr=1e\\+30'): pretrain(learn, lr=1e30)
    assert equal(was, state(learn)) == {*was}


class Own(Callback):
    "A callback that knows labels"
    def after_pred(self): assert not self.training


def test_callbacks_that_come_along():
    seen = []
    class See(Callback):
        def before_fit(self): seen.append({type(o).__name__ for o in self.learn.cbs})
    learn = learner(GradientClip(.1), Own())
    pre = pretrain(learn, cbs=[See()])
    assert 'GradientClip' in seen[0] and 'Own' not in seen[0] and pre.about['left_out'] == ['Own']
    assert 'without the callbacks Own' in str(pre) and all(o.learn is learn for o in learn.cbs)
    learn = learner(MixedPrecision())
    pretrain(learn, cbs=[See()])
    assert 'MixedPrecision' in seen[1]


def test_noise_of_the_students_callback_is_that_of_the_views():
    one, two = learner(StudentNoise(Jitter(), dropout=None, stoch_depth=None)), learner()
    pretrain(one, noise=None)
    pretrain(two)
    assert equal(state(one), state(two)) == {*state(one)}
    with pytest.raises(BadValue, match='it is unknown which noise fits the inputs'): pretrain(learner(), noise=None)


def test_frozen_weights():
    learn = learner()
    for p in learn.model[0].parameters(): p.requires_grad_(False)
    was = state(learn)
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        pretrain(learn)
    assert any('50% of the weights before the last layer are frozen' in str(o.message) for o in w)
    assert {'0.weight'} < equal(was, state(learn))
    for p in learn.model[1].parameters(): p.requires_grad_(False)
    with pytest.raises(BadValue, match='no weight before the last layer is trainable'): pretrain(learn)


def test_an_optimizer_that_is_there_forgets_and_the_next_fit_works():
    learn = learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        opt = learn.opt
        pretrain(learn)
        assert learn.opt is opt and not any(s.get('grad_avg') is not None for s in opt.state.values())
        learn.fit(1)


def test_without_validation_rows_or_with_targets_of_other_kinds():
    dls = DataLoaders(*[TfmdDL(hard_rows(n, 1), bs=16, num_workers=0) for n in (64, 0)])
    pre = pretrain(learner(dls=dls))
    assert pre.probe is None and 'no probe: the Learner has no validation rows' in str(pre)
    x, _ = points(60, 2)
    rows = [(o, o.sum()[None]) for o in x]
    dls = DataLoaders(*[TfmdDL(o, bs=16, num_workers=0) for o in (rows[:40], rows[40:])])
    p = pretrain(learner(dls=dls, model=net(1), lf=MSELossFlat(), metrics=[])).probe
    assert p.kind == 'values' and p.n_valid == 20 and p.before <= 1
    pre = pretrain(learner(dls=dls, model=net(1), lf=lambda p, y: (p-y).abs().mean(), metrics=[]))
    assert 'no probe: the loss does not show' in str(pre)


def test_it_says_what_came_of_it():
    learn, out = learner(), io.StringIO()
    with learn.no_bar(), redirect_stdout(out): pre = learn.pretrain(X, 1, noise=Jitter(), dim=8)
    assert str(pre) in out.getvalue() and 'pretrained (contrastive) on 154 rows, 90 of them unlabeled' in str(pre)
    with learn.no_bar(), learn.no_logging(), redirect_stdout(io.StringIO()) as out: learn.pretrain(X, 1, noise=Jitter())
    assert out.getvalue() == ''


@pytest.mark.parametrize('kw,said', [
    (dict(n_epoch=0), 'n_epoch=0'), (dict(method='simclr'), "method='simclr'"), (dict(bs=1), 'bs=1'),
    (dict(lr=-1), 'lr=-1'), (dict(seed=-1), 'seed=-1'), (dict(last='head'), "last='head'.*3, 2, 1, 0"),
    (dict(unreadable='drop'), "unreadable='drop'"), (dict(noise='strong'), "noise='strong'"),
    (dict(method='masked', dim=None), "method='masked'")])
def test_mistakes_are_named_before_anything_is_trained(kw, said):
    learn = learner()
    was = state(learn)
    kw = {k: v for k, v in kw.items() if k != 'dim' or v is not None}
    with pytest.raises(ValueError, match=said): pretrain(learn, **kw)
    assert equal(was, state(learn)) == {*was}


def test_the_name_of_the_last_layer():
    "Another one may be said: what comes after it stays, too"
    learn = learner(model=nn.Sequential(*net()[:3], nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))
    was = state(learn)
    pretrain(learn, last='3')
    assert equal(was, state(learn)) == {'3.weight', '3.bias', '5.weight', '5.bias'}


def test_texts_have_a_better_way():
    from fastai.text.learner import text_classifier_learner
    from fastai.text.models.awdlstm import AWD_LSTM
    from text_toys import text_dls, text_table
    df = text_table()
    learn = text_classifier_learner(text_dls(df), AWD_LSTM, pretrained=False, config=TINY)
    said = 'a language model is the way: .*`load_encoder`'
    with pytest.raises(BadValue, match=said): pretrain(learn, x=df[28:], noise=None)


TINY = dict(emb_sz=6, n_hid=6, n_layers=1, pad_token=1, bidir=False, output_p=.1, hidden_p=.1, input_p=.1, embed_p=.1,
            weight_p=.1)


GEN = torch.Generator().manual_seed(5)


def noise_free(b): return b


def of_shape(*shape, n=40): return torch.randn(n, *shape, generator=GEN)


def dls_of(x, **kwargs):
    rows = [(o, int(o.sum() > 0)) for o in x]
    return DataLoaders(*[TfmdDL(o, bs=8, num_workers=0, **kwargs) for o in (rows[:30], rows[30:])])


def fixed(*shape): return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 4), nn.ReLU(), nn.Linear(4, 3))


class Pooled(nn.Module):
    "Takes pictures or series of any size, of as many channels"
    def __init__(self, c, dims):
        super().__init__()
        self.a, self.out = (nn.Conv1d, nn.Conv2d)[dims-1](c, 4, 3), nn.Linear(4, 3)
    def forward(self, x): return self.out(self.a(x).flatten(2).mean(2))


@pytest.mark.parametrize('labeled', [True, False])
@pytest.mark.parametrize('shape, other, model', [
    ((1, 8, 8), (3, 8, 8), fixed(1, 8, 8)), ((1, 8, 8), (3, 8, 8), Pooled(1, 2)), ((3, 8, 8), (8, 8, 3), Pooled(3, 2)),
    ((1, 8, 8), (1, 9, 9), fixed(1, 8, 8)), ((2, 20), (3, 20), Pooled(2, 1)), ((5,), (6,), fixed(5))])
def test_rows_of_a_shape_that_no_model_takes(shape, other, model, labeled):
    "The error comes before a warning, a look at the probe and the training; of no rows of this shape there is none"
    learn = learner(dls=dls_of(of_shape(*shape)), model=model)
    a, b = (' x '.join(map(str, o)) for o in (other, shape))
    was, said = state(learn), f'{a}, and the Learner of {b}: a batch of these fails'
    kw = dict(labeled=labeled, noise=noise_free)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(BadValue, match=f'^unlabeled has rows of {said}') as e:
            pretrain(learn, x=of_shape(*other).numpy(), cbs=[Raises(AssertionError)], **kw)
        assert e.value.argument == 'unlabeled' and equal(was, state(learn)) == {*was}
        src = as_source(of_shape(*other).numpy(), learn.dls)
        with pytest.raises(BadValue, match=f'^unlabeled has rows of {said}'): check_pretrain(learn, src, **kw)
    pretrain(learn, x=of_shape(*shape).numpy(), **kw)


@pytest.mark.parametrize('shape, other', [((1, 8, 8), (1, 9, 7)), ((2, 20), (2, 30))])
def test_rows_of_another_size_alone(shape, other):
    "Where the model takes them, they are trained on; a batch with labeled ones would have two sizes"
    learn, x = learner(dls=dls_of(of_shape(*shape)), model=Pooled(shape[0], len(shape)-1)), of_shape(*other).numpy()
    was = state(learn)
    with pytest.raises(BadValue, match='^unlabeled has rows of .* in one batch.*`labeled=False`'):
        pretrain(learn, x=x, noise=noise_free)
    assert equal(was, state(learn)) == {*was}
    pre = pretrain(learn, x=x, noise=noise_free, labeled=False)
    assert pre.about['n_rows'] == 40 and equal(was, state(learn)) == {'out.weight', 'out.bias'}


def padded(rows):
    "Series as long as the longest one"
    n = max(o[0].shape[-1] for o in rows)
    return [(nn.functional.pad(o[0], (0, n-o[0].shape[-1])), *o[1:]) for o in rows]


def test_rows_of_another_length_that_a_loader_pads():
    learn = learner(dls=dls_of(of_shape(2, 20), before_batch=padded), model=Pooled(2, 1))
    was, x = state(learn), [*of_shape(2, 30, n=20), *of_shape(2, 25, n=20)]
    pre = pretrain(learn, x=x, noise=noise_free)
    assert pre.about['n_rows'] == 70 and equal(was, state(learn)) == {'out.weight', 'out.bias'}
    with pytest.raises(BadValue, match='^unlabeled has rows of 3 x 30, and the Learner of 2 x 20:'):
        pretrain(learn, x=[*of_shape(3, 30)], noise=noise_free)
    learn = learner(dls=dls_of(of_shape(2, 20), before_batch=padded), model=fixed(2, 20))
    pretrain(learn, 1, x=[*of_shape(2, 15, n=4)], noise=noise_free, bs=34)  # beside labeled ones, as long as these


@pytest.mark.tsai
@pytest.mark.parametrize('method', ['contrastive', 'masked'])
def test_series_of_another_length_for_models_of_tsai(method):
    from tsai_toys import X2, classifier
    learn, kw = classifier(), dict(method=method, noise=None, lr=1e-3) | (dict(r=.3) if method == 'masked' else {})
    was, x = state(learn), np.concatenate([X2, X2], 2)
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(BadValue, match='^unlabeled has rows of 3 x 40, and the Learner of 3 x 20:'):
            learn.pretrain(x, 1, **kw)
        pre = learn.pretrain(x, 1, labeled=False, **kw)
        with pytest.raises(BadValue, match='^unlabeled has rows of 2 x 20, and the Learner of 3 x 20:'):
            learn.pretrain(X2[:, :2], 1, labeled=False, **kw)
    same = {k for k in equal(was, state(learn)) if 'conv.bias' not in k}
    assert pre.about['n_rows'] == 70 and same == {k for k in was if k.startswith('head')}


def scaled(a, b, scale=1.): return scale*(a-b).square().mean()


@pytest.mark.parametrize('kw, end', [
    (dict(epochs=5), "; did you mean 'n_epoch'?"), (dict(n_epochs=5), "; did you mean 'n_epoch'?"),
    (dict(Seed=1), "; did you mean 'seed'?"), (dict(temprature=.1), "; did you mean 'temperature'?"),
    (dict(method='vicreg', labelled=False), "; did you mean 'labeled'?"), (dict(quux=1), ''), (dict(sim=1.), ''),
    (dict(method=scaled, epochs=5), "; did you mean 'n_epoch'?"), (dict(method=scaled, scales=2.), "'scale'?"),
    (dict(method=nn.MSELoss(), over_write=True), "; did you mean 'overwrite'?")])
def test_arguments_that_are_misspelt(kw, end):
    "Those of `pretrain` and of the loss alike may have been meant; and nothing that is not like one of them"
    learn, name = learner(), [*kw][-1]
    src = as_source(X, learn.dls)
    for f in (lambda: learn.pretrain(X, **dict(noise=Jitter()) | kw), lambda: check_pretrain(learn, src, **kw)):
        with pytest.raises(TypeError) as e: f()
        said = str(e.value)
        assert said.startswith(f'{name}={kw[name]}: expected one of ') and said.endswith(end or ' for this method')
        assert ('mean' in said) == bool(end)


def test_options_of_a_loss_of_ones_own():
    one, two = learner(), learner()
    pretrain(one, method=scaled, scale=2.)
    pretrain(two, method=lambda a, b: 2*scaled(a, b))
    assert equal(state(one), state(two)) == {*state(one)}
    pretrain(one, method=lambda a, b, **kw: kw['any']*scaled(a, b), any=2.)
