"Does a student learn from labels that were propagated as `PseudoLabels.propagate` does it, and are they kept?"
import numpy as np
import pytest
import torch
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from noisy_student_fastai.rounds import self_training
from noisy_student_fastai.rounds.run import Run
from rounds_toys import TRUTH, UNLABELED, Seen, make, numbers, same, train
from toys import net

KW = dict(n_epoch=2, patience=None, propagate=dict(k=5, on=('teacher', 'inputs')))


@pytest.fixture(scope='module')
def run(tmp_path_factory): return train(tmp_path_factory.mktemp('run')/'a', **KW)


def test_labels_are_those_of_the_teachers_graph(run):
    "Of each round, made once more by hand; so are the rows, the agreement, and nearly the precision that nobody knows"
    for r in (1, 2):
        said = run.learner(r-1).pseudolabel(UNLABELED, embed=('inputs', 'teacher'))
        want, pl = said.propagate(5), run.labels(r)
        assert np.array_equal(pl.preds, want.preds) and np.array_equal(pl.label, want.label)
        assert pl.path.name == 'propagated' and pl.about['propagated']['on'] == ['teacher', 'inputs']
        own = PseudoLabels.open(pl.path.parent/'labels', UNLABELED)
        assert np.array_equal(own.label, said.label) and not np.array_equal(own.label, pl.label)
        sel, rec = want.select(n_per_class=40), run.records.iloc[r]
        assert (rec.n_kept, rec.n_rows) == (len(set(sel.rows)), len(sel))
        right = (sel.label == TRUTH[sel.rows]).mean()
        assert rec.precision_low-.02 <= right <= rec.precision_high+.02
    assert run.records.agreement[2] == (run.labels(2).label == run.labels(1).label).mean()


def test_a_run_goes_on_with_what_was_propagated(run, tmp_path, monkeypatch):
    "Cut off while it is kept, and before its student trains; other arguments are refused, what is damaged comes back"
    real, n = PseudoLabels.save, []
    def cut(pl, path):
        n.append(1)
        if len(n) == 1: raise KeyboardInterrupt
        return real(pl, path)
    def cut_fit(self, model, sel):
        if model.role == 'student' and len(n) == 2: raise KeyboardInterrupt
        return fit(self, model, sel)
    fit = self_training.SelfTraining._train
    with monkeypatch.context() as m:
        m.setattr(PseudoLabels, 'save', cut)
        m.setattr(self_training.SelfTraining, '_train', cut_fit)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt): train(tmp_path, **KW)
        n.append(1)
        same(train(tmp_path, **KW), run)
    assert len(n) == 4
    for other in (dict(k=6, on=('teacher', 'inputs')), None):
        with pytest.raises(ValueError, match='propagate'): train(tmp_path, **KW | dict(propagate=other))
    file = next(tmp_path.glob('seed0/round1/propagated/*probs.npy'))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.warns(UserWarning, match='damaged, so made again: .*propagated'): again = train(tmp_path, **KW)
    assert numbers(again).equals(numbers(run)) and np.array_equal(again.labels(1).preds, run.labels(1).preds)
    again.prune()
    kept = again.best[1] or 1
    assert {o.parent.name+'/'+o.name for o in tmp_path.glob('seed0/*/*') if o.is_dir()} <= {f'round{kept}/propagated'}
    same(Run.open(tmp_path), run)


def test_by_round_and_with_rows_that_stay():
    "Propagated in one round and not in another; with `reselect=False` the rows are those of the first graph"
    kw = KW | dict(propagate=lambda r: dict(k=5) if r == 1 else None)
    res = train(**kw, reselect=False)
    assert [res.labels(r).path.name for r in (1, 2)] == ['propagated', 'labels']
    assert res.records.n_kept[1] == res.records.n_kept[2]


@pytest.mark.parametrize('kw, text', [
    (dict(propagate=dict(k=0)), r"propagate\['k'\]=0"),
    (dict(propagate=dict(kk=3)), r"propagate\['kk'\]=3: expected some of k, on, mix"),
    (dict(propagate=3), 'propagate=3: expected a dict'), (dict(propagate=dict(on='input')), "embed='input'"),
    (dict(propagate={}, pseudolabel=dict(embed='layer:nope')), 'the name of a module'),
    (dict(propagate=dict(on='inputs'), pseudolabel=dict(embed='teacher')),
     r"propagate\['on'\]=\['inputs'\]: expected 'teacher'")])
def test_mistakes_are_named_before_anything_is_trained(kw, text):
    Seen.log.clear()
    with pytest.raises((ValueError, TypeError), match=text):
        train(None, lambda r: make(r, cbs=[Seen()]), **KW | kw)
    assert not Seen.log


def test_a_model_without_a_last_layer_is_named_before_anything_is_trained():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net(bn=True)[:-1]
        def forward(self, x): return torch.stack([self.body(x).sum(1)*i for i in range(3)], 1)
    Seen.log.clear()
    with pytest.raises(ValueError, match='no layer gives as many numbers'):
        train(None, lambda r: make(r, model=Odd(), cbs=[Seen()]), **KW)
    assert not Seen.log
