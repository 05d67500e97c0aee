"Does a run say what its folder holds, and are its Learners the trained ones?"

import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from fastai.learner import load_learner
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.rounds.averaging import EMACallback
from noisy_student_fastai.rounds.self_training import Run
from noisy_student_fastai.student import NoisyStudent
from rounds_toys import UNLABELED, held_out_dl, predictions, train
from toys import Items, net


def test_there_is_a_row_for_each_model(run):
    got = [tuple(o) for o in run.records[['seed', 'role', 'round']].itertuples(index=False)]
    kept = [run.records[(run.records.role == 'control') & (run.records.seed == s)]['round'].item() for s in (0, 1)]
    assert got == [o for s in (0, 1) for o in
                   [(s, 'teacher', 0), (s, 'student', 1), (s, 'student', 2), (s, 'student', 3),
                    (s, 'control', kept[s])]]
    assert (run.records.n_params == sum(p.numel() for p in net(bn=True).parameters())).all()
    assert (run.records.n_batches == 24//4*4).all()  # 12 rows a batch, 4 of them labeled


def test_metrics_are_those_of_the_models(run):
    for _, o in run.records.iterrows():
        if o.role == 'control': continue
        learn = run.learner(o['round'], o.seed)
        for dl, prefix in ((learn.dls.valid, ''), (held_out_dl(), 'test_')):
            p, y = predictions(learn, dl)
            assert o[f'{prefix}accuracy'] == pytest.approx((p.argmax(1) == y).float().mean().item())
            assert o['test_loss' if prefix else 'valid_loss'] == pytest.approx(
                torch.nn.functional.cross_entropy(p, y).item(), abs=1e-6)
        with learn.no_bar(), learn.no_logging(): assert o.accuracy == learn.validate()[1]


def test_kept_is_the_best_on_validation_rows(run):
    df = run.records.query('role!="control"').reset_index(drop=True)
    order = sorted(range(len(df)), key=lambda i: (-df.accuracy[i], df.valid_loss[i], i))
    assert run.best == (df.seed[order[0]], df['round'][order[0]])
    p, y = predictions(run.learn, run.learn.dls.valid)
    assert (p.argmax(1) == y).float().mean().item() == pytest.approx(df.accuracy.max())


def test_csv_and_open(run):
    csv = pd.read_csv(run.path/'records.csv')
    pd.testing.assert_frame_equal(csv, run.records, check_dtype=False)
    again = Run.open(run.path)
    pd.testing.assert_frame_equal(again.records, run.records)
    assert again.verdict() == run.verdict() and again.best == run.best and again.monitor == 'accuracy'
    assert len(again.labels(1)) == 240
    with pytest.raises(ValueError, match='only `self_train`'): again.learn
    with pytest.raises(ValueError, match='a folder of `self_train`'): Run.open(run.path/'seed0')


def test_the_kept_learner_can_be_used(run, tmp_path):
    learn = run.learn
    assert not any(isinstance(o, (NoisyStudent, StudentNoise, EMACallback)) for o in learn.cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.path = tmp_path
    for o in learn.dls.loaders: o.dataset = Items(o.dataset)
    learn.export('a.pkl')
    copy = load_learner(tmp_path/'a.pkl')
    x = torch.tensor(UNLABELED)
    with torch.no_grad(): assert torch.equal(copy.model.eval()(x), learn.model.eval()(x))


def test_no_path_no_traces():
    res = train(n_rounds=1)
    path = res.path
    assert (path/'records.csv').exists()
    del res
    import gc
    gc.collect()
    assert not path.exists()
