"tsai's MVP trains the body and a head of its own; the model's head comes back untouched"
import os

import noisy_student_fastai.pretraining.stage  # noqa: F401 (gives Learner `pretrain`)
import pytest
import torch
from noisy_student_fastai.checks import BadValue
from torch import nn


@pytest.mark.tsai
@pytest.mark.parametrize('method', ['masked', 'contrastive'])
def test_series(method, tmp_path, monkeypatch):
    from tsai_toys import X2, classifier
    monkeypatch.chdir(tmp_path)
    one, two = classifier(), classifier()
    was = {k: o.clone() for k, o in one.model.state_dict().items()}
    head = one.model.head
    for learn in (one, two):
        kw = dict(r=.3) if method == 'masked' else {}
        with learn.no_bar(), learn.no_logging(): pre = learn.pretrain(X2, 2, method=method, **kw)
    now = one.model.state_dict()
    assert all(torch.equal(o, two.model.state_dict()[k]) for k, o in now.items())
    same = {k for k, o in now.items() if torch.equal(o, was[k])}
    assert one.model.head is head and {k for k in same if 'conv.bias' not in k} == {k for k in was if k[:4] == 'head'}
    assert pre.probe.n_valid == 25 and pre.about['n_rows'] == 48+70 and pre.about['untouched'].startswith('head')
    assert os.listdir(tmp_path) == []  # MVP would leave a folder `models`


@pytest.mark.tsai
def test_the_head_that_fills_in_is_trained():
    "tsai puts it in when there is an optimizer already"
    from fastai.callback.core import Callback
    from tsai_toys import X2, classifier

    class Head(Callback):
        order = 70
        def before_train(self): self.seen = [*getattr(self, 'seen', []), self.model.head[1].weight.detach().clone()]
    learn, cb = classifier(), Head()
    with learn.no_bar(), learn.no_logging(): learn.pretrain(X2, 2, method='masked', cbs=[cb], probe=False)
    assert not torch.equal(*cb.seen)


@pytest.mark.tsai
def test_models_that_cant_fill_in_are_named():
    from noisy_student_fastai.pretraining.masked import check_masked
    from tsai.models.TST import TST
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(60, 4)), TST(3, 4, 20, d_model=8, n_heads=2, d_ff=8)):
        with pytest.raises(BadValue, match="method='masked': .*Use a model of tsai"):
            check_masked(model, torch.randn(2, 3, 20), {})
        assert not isinstance(getattr(model, 'head', None), nn.Identity)
    with pytest.raises(BadValue, match='no series'): check_masked(nn.Identity(), torch.randn(2, 3), {})


@pytest.mark.tsai
def test_options_of_tsai():
    from tsai_toys import X2, classifier
    learn = classifier()
    with learn.no_bar(), learn.no_logging(), pytest.raises(TypeError, match="temperature=1: expected one of r, "):
        learn.pretrain(X2, 1, method='masked', temperature=1)
    with pytest.raises(TypeError, match="epochs=1: expected one of r, .*; did you mean 'n_epoch'?"):
        learn.pretrain(X2, 1, method='masked', epochs=1)


def test_without_tsai(monkeypatch):
    from noisy_student_fastai.pretraining import masked
    monkeypatch.setattr(masked, 'find_spec', lambda name: None)
    with pytest.raises(BadValue, match='pip install tsai'):
        masked.check_masked(nn.Identity(), torch.randn(2, 3, 20), {})
