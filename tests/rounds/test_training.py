"Does a training begin from its seed, and is the last step without noise?"
import random

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from fastai.data.core import TfmdDL
from fastai.learner import AvgMetric, Metric
from fastai.metrics import F1Score, Recall
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.rounds.training import in_turn, is_finite, measured, one_cycle, own_seed, train_learner
from rounds_toys import Jitter, Random, Seen, Twice, held_out_dl, make, numbers, predictions, same, seen, train
from sklearn.metrics import recall_score
from toys import hard_rows, pts_dls


def test_loaders_of_the_caller_make_no_difference(run):
    dls = pts_dls(hard_rows(24, 1), bs=8)  # the same in all rounds: each epoch moves its order on
    dl = held_out_dl()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), dls.train.rng.getstate()
    other = train(None, lambda r: make(r, dls), n_rounds=3, patience=None, control=True, seeds=2, test=dl)
    same(other, run)
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state()) and states[3] == dls.train.rng.getstate()


def test_the_same_seed_gives_the_same_numbers(run):
    other = train(n_rounds=3, patience=None, control=True, seeds=[1], test=held_out_dl())
    want = numbers(run).query('seed==1').reset_index(drop=True)
    pd.testing.assert_frame_equal(numbers(other), want, check_exact=True)
    assert not numbers(run).query('seed==0').reset_index(drop=True).equals(want)


def test_finetune_is_without_noise():
    res, log = seen(finetune=dict(n_epoch=2, lr=.01), control=True)
    fine = res.records.query('role=="finetuned"').iloc[0]
    assert fine.n_batches == 2*3 and 'StudentNoise' not in log[-1]['cbs'] and not log[-1]['drop']
    known = {tuple(x.tolist()) for x, _ in hard_rows(24, 1)}
    assert all(tuple(o) in known for x in log[-1]['xs'] for o in x.tolist())
    noisy = sum(tuple(o) in known for x in log[0]['xs'] for o in x.tolist())
    assert noisy == 0
    w = res.learner(int(fine['round'])).model[0].weight
    assert torch.equal(log[-1]['first'], w.detach())


def test_transforms_of_the_training_loader_are_off_in_finetuning():
    dls = pts_dls(hard_rows(24, 1), bs=8, after_batch=[Jitter()])
    for o in dls.loaders: o.dataset = type('Items', (list,), {})(o.dataset)
    dls.train.dataset.split_idx, dls.valid.dataset.split_idx = 0, 1
    res, log = seen(make_learner=lambda r: make(r, dls, cbs=[Seen()]), noise=None, finetune=dict(n_epoch=2), n_rounds=1)
    known = {tuple(x.tolist()) for x, _ in hard_rows(24, 1)}
    assert [sum(tuple(o) in known for x in log[i]['xs'] for o in x.tolist()) for i in (0, -1)] == [0, 48]
    assert res.records.role.tolist() == ['teacher', 'student', 'finetuned']


def test_random_parts_and_mixing_are_off_in_finetuning():
    "Dropout in a module, by a function, in a recurrent layer; skipped blocks; mixed rows. BatchNorm goes on"
    res, log = seen(make_learner=lambda r: make(r, model=Random(), cbs=[MixUp(), Seen(), Twice()]), noise=None,
                    n_rounds=1,
                    finetune=dict(n_epoch=2, lr=.1), ema=None)
    known = {tuple(x.tolist()) for x, _ in hard_rows(24, 1)}
    n_known = [sum(tuple(o) in known for x in log[i]['xs'] for o in x.tolist()) for i in (0, -1)]
    # a row is now and then mixed with itself
    assert n_known[0] < 192/4 and n_known[1] == 48 and 'MixUp' not in log[-1]['cbs']
    assert Twice.same[:24] == [False]*24 and Twice.same[-6:] == [True]*6
    r = int(res.records.query('role=="finetuned"')['round'].item())
    a, b = (res.learner(r, role=k).model.bn.running_mean for k in ('student', 'finetuned'))
    assert not torch.equal(a, b)


class Strict(Metric):
    "As scikit-learn's metrics do, it refuses what is no number, when all predictions are there"
    name = 'strict'
    def reset(self): self.preds = []
    def accumulate(self, learn): self.preds.append(learn.pred)
    @property
    def value(self):
        if not torch.cat(self.preds).isfinite().all(): raise ValueError('Input contains NaN or infinity')
        return 0.


class Mean(torch.nn.Module):
    "Statistics that come to NaN in training, as those of BatchNorm may; the weights stay numbers"
    def __init__(self, fill, bad=0):
        super().__init__()
        self.lin, self.fill, self.bad = torch.nn.Linear(2, 3), fill, bad
        self.register_buffer('mean', torch.zeros(3))

    def forward(self, x):
        if self.training: self.mean = torch.full((3,), self.fill)
        res = self.lin(x)
        if self.training or len(x) == 10 and self.bad: return res  # the last batch is right
        return res-self.mean


@pytest.mark.parametrize('fill, bad', [(np.nan, 0), (np.nan, 1), (-np.inf, 0)])
def test_predictions_that_are_no_numbers_are_no_error(fill, bad):
    valid = TfmdDL(hard_rows(50, 7), bs=20, num_workers=0)
    learn = make(0, pts_dls(hard_rows(24, 1), bs=8), Mean(fill, bad))
    learn.dls.loaders[1], learn.metrics = valid, [Strict()]
    assert train_learner(learn, 0, one_cycle, 2, .1, list).n_batches > 0 and is_finite(learn.model)
    assert all(np.isnan(v) for v in measured(learn, 0).values())
    assert [o.name for o in learn.metrics] == ['strict']


@pytest.mark.parametrize('where', ['training', 'metric'])
def test_errors_of_the_caller_come_out(where):
    "A mask of minus infinity is a buffer, and may be in the predictions; a lazy layer has no numbers yet"
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.lazy = torch.nn.Linear(2, 3), torch.nn.LazyLinear(3)
            self.register_buffer('mask', torch.tensor([0., 0., -np.inf]))
        def forward(self, x):
            if where == 'training': raise KeyError('mine')
            return self.lin(x)+self.mask
    def wrong(inp, targ): raise KeyError('mine')
    learn = make(0, pts_dls([(x, y % 2) for x, y in hard_rows(24, 1)], bs=8), Masked())
    learn.metrics = [AvgMetric(wrong)]
    with pytest.raises(KeyError, match='mine'): train_learner(learn, 0, lambda o, n, lr: o.fit(n, lr), 1, .1, list)
    if where == 'training':
        with pytest.raises(KeyError, match='mine'): measured(learn, 0)
    else:  # what is trained is not lost for it
        with pytest.warns(UserWarning, match="metric wrong can't be computed, .*KeyError: 'mine'"):
            assert np.isnan(measured(learn, 0)['wrong'])


def test_a_metric_may_give_a_number_for_each_class():
    learn = make(0, pts_dls(hard_rows(24, 1), bs=8))
    learn.metrics = [Recall(average=None, labels=range(3)), F1Score(average='macro')]
    got, (p, y) = measured(learn, 0), predictions(learn, learn.dls.valid)
    assert [*got] == ['valid_loss', 'recall_score_0', 'recall_score_1', 'recall_score_2', 'f1_score']
    assert [*got.values()][1:4] == pytest.approx(recall_score(y, p.argmax(1), average=None))
    learn.dls.vocab = ['a', 'b', 'c']
    assert [*measured(learn, 0)][1:4] == ['recall_score_a', 'recall_score_b', 'recall_score_c']


@settings(max_examples=50, deadline=None, derandomize=True)
@given(n=st.integers(1, 200), bs=st.integers(1, 9), n_ranks=st.integers(1, 5), drop_last=st.booleans())
def test_steps_of_several_processes(n, bs, n_ranks, drop_last):
    "As fastai cuts the rows, a part for each process, each step has the rows of one process in a batch of that size"
    idxs, whole = random.Random(n).sample(range(n), n), bs*n_ranks
    rows = in_turn(idxs, bs, n_ranks, drop_last)
    assert len(rows) % n_ranks == 0
    share = len(rows)//n_ranks
    parts = [rows[r*share:(r+1)*share] for r in range(n_ranks)]
    steps = [[o[i:i+bs] for o in parts] for i in range(0, share, bs)]
    want = [idxs[i:i+whole] for i in range(0, n, whole)]
    if drop_last: want = [o for o in want if len(o) == whole]
    assert len(steps) == len(want)
    for got, o in zip(steps, want):
        assert len({*map(len, got)}) == 1  # as many in each process
        drawn = sum(got, [])
        assert drawn[:len(o)] == o or len(o) < whole and {*o} <= {*drawn} and len(drawn)-len(o) < n_ranks


def test_each_process_has_its_own_noise(monkeypatch):
    seeds = {}
    for rank in range(4):
        monkeypatch.setenv('WORLD_SIZE', '4')
        monkeypatch.setenv('RANK', str(rank))
        seeds[rank] = [own_seed(o) for o in (0, 1, 2**32-1)]
    assert seeds[0] == [0, 1, 2**32-1]
    assert len({*sum(seeds.values(), [])}) == 12 and all(0 <= o < 2**32 for o in sum(seeds.values(), []))
