"The two columns of `log_losses=True`: what they show, when they are there, and that they go"
import copy

import pytest
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.learner import load_learner
from noisy_student_fastai.loss_columns import LossColumn, LossColumns
from noisy_student_fastai.student import NoisyStudent
from toys import Items, Probe, hard_rows, pl_dl, pts_dls, pts_learner

NAMES = ['label_loss', 'pseudo_loss']
ALL = ['epoch', 'train_loss', 'valid_loss', 'accuracy', *NAMES, 'time']
PLAIN = [o for o in ALL if o not in NAMES]


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


@pytest.mark.parametrize('seed', range(3))
def test_log_losses_are_the_parts_of_the_training_loss(seed):
    class Parts(Callback):
        order, run_valid = 40, False
        def __init__(self): self.seen = []
        def after_loss(self):
            l = -(self.learn.yb[0].plain()*self.pred.log_softmax(1)).sum(1)
            self.seen.append((l[:8].mean().item(), l[8:].mean().item()))
    parts = Parts()
    learn = fit(pts_learner(NoisyStudent(pl_dl(), l2pl_ratio=1/3, pseudolabel_sample_weight=.4, log_losses=True), parts,
                            seed=seed), 2)
    for i, k in enumerate(['label_loss', 'pseudo_loss']):
        val, n = 0., 0
        for o in parts.seen: val, n = o[i] + .98*(val-o[i]), n+1
        col = learn.recorder.metric_names.index(k)-1
        assert learn.recorder.values[-1][col] == pytest.approx(val/(1-.98**n), rel=1e-4)


def columns(learn):
    return [o for o in learn.metrics if isinstance(o, LossColumn)], [o for o in learn.cbs if isinstance(o, LossColumns)]


class Stop(Callback):
    order, run_valid = 45, False
    def __init__(self, at=2): self.at = at
    def after_pred(self):
        if self.train_iter == self.at: raise KeyboardInterrupt


def interrupted(learn):
    with pytest.raises(KeyboardInterrupt): fit(learn, cbs=Stop())


def test_the_sum_of_the_parts():
    "Half of the rows are of each kind, so the training loss is the mean of the two, smoothed as they are"
    learn = fit(pts_learner(NoisyStudent(pl_dl(), log_losses=True)), 2)
    assert learn.recorder.metric_names == ALL
    for v in learn.recorder.values: assert v[0] == pytest.approx((v[3]+v[4])/2, rel=1e-5)
    assert columns(learn) == ([], [])


def test_mixed_rows_count_with_their_main_label():
    learn = fit(pts_learner(NoisyStudent(pl_dl(hard_rows(90, 2)), log_losses=True), MixUp()), 2)
    assert all(len(v) == 5 and None not in v for v in learn.recorder.values)


def test_each_fit_begins_anew():
    learn = pts_learner(NoisyStudent(pl_dl(), log_losses=True))
    for n in (1, 2, 1):
        fit(learn, n)
        assert learn.recorder.metric_names == ALL and len(learn.recorder.values) == n


def test_the_flag_can_be_changed():
    learn = pts_learner(NoisyStudent(pl_dl()))
    for flag in (False, True, False):
        learn.noisy_student.log_losses = flag
        if flag: interrupted(learn)
        fit(learn)
        assert learn.recorder.metric_names == (ALL if flag else PLAIN) and columns(learn) == ([], [])
    learn.noisy_student.log_losses = True
    interrupted(learn)
    learn.noisy_student.log_losses = False
    fit(learn)
    assert learn.recorder.metric_names == PLAIN and columns(learn) == ([], [])


@pytest.mark.parametrize('after', ['validate', 'get_preds', 'remove_cb', 'copy', 'export'])
def test_after_an_interrupt(after, tmp_path):
    dls = pts_dls(Items(hard_rows(64, 1)))
    dls.valid.dataset = Items(dls.valid.dataset)
    learn = pts_learner(NoisyStudent(pl_dl(), log_losses=True), dls=dls, path=tmp_path)
    interrupted(learn)
    assert len(columns(learn)[0]) == 2
    with learn.no_bar():
        if after in ('validate', 'copy'): assert len(learn.validate()) == 2
        if after == 'get_preds': learn.get_preds()
    if after == 'remove_cb':
        learn.remove_cb(NoisyStudent)
        assert columns(learn) == ([], [])
        fit(learn)
        assert learn.recorder.metric_names == PLAIN
        return
    if after in ('validate', 'get_preds', 'copy'): assert columns(learn)[0] == []
    if after == 'copy': learn = copy.deepcopy(learn)
    if after == 'export':
        learn.export('a.pkl')
        learn = load_learner(tmp_path/'a.pkl')
        learn.dls, learn.noisy_student.dl2 = dls, pl_dl()
        with learn.no_bar(): assert len(learn.validate()) == 2
    fit(learn)
    assert learn.recorder.metric_names == ALL and columns(learn) == ([], [])


def test_a_validation_in_the_middle_of_a_fit():
    "It has no such columns, and the table of the fit has them all"
    class Halfway(Callback):
        order, run_valid = 70, False
        def after_batch(self):
            if self.train_iter == 2:
                self.n = len(self.learn.validate())
                self.learn.model.train()
                self.learn.training = True
    val, probe = Halfway(), Probe()
    learn = fit(pts_learner(NoisyStudent(pl_dl(), log_losses=True), probe), 2, cbs=val)
    assert val.n == 2 and len(probe.xs) == 8 and columns(learn) == ([], [])
    assert all(o is not None and o > 0 for o in learn.recorder.values[-1][-2:])


def test_a_users_own():
    "`LossColumns` beside a student stays in the Learner, as any callback"
    learn = pts_learner(NoisyStudent(pl_dl()), LossColumns())
    for _ in range(2):
        fit(learn)
        assert learn.recorder.metric_names == ALL and len(columns(learn)[1]) == 1 and columns(learn)[0] == []


def test_a_loss_that_a_callback_asks_for_later():
    "... of a few rows, changes nothing of what is shown"
    class Asks(Callback):
        order, run_valid = -5, False
        def after_loss(self): self.learn.loss_func(self.pred[:2]*9, self.learn.yb[0][:2])
    a, b = (fit(pts_learner(NoisyStudent(pl_dl(), log_losses=True), *cbs)).recorder.values for cbs in ([], [Asks()]))
    assert [o[-2:] for o in a] == [o[-2:] for o in b]
