"Does a training begin from its seed, and is the last step without noise?"
import random

import numpy as np
import pandas as pd
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from rounds_toys import Jitter, Random, Seen, Twice, held_out_dl, make, numbers, same, seen, train
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
