"Do TensorBoard and W&B get the records?"
import pandas as pd
import pytest
from rounds_toys import make, train


def test_tensorboard_has_the_records(tmp_path):
    tb = pytest.importorskip('fastai.callback.tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    def logged(r): return make(r, cbs=tb.TensorBoardCallback(tmp_path/'tb', trace_model=False, log_preds=False))
    run = train(tmp_path/'run', logged, control=True)
    got = {}
    for f in (tmp_path/'tb').glob('events*'):
        acc = EventAccumulator(str(f))
        acc.Reload()
        for k in acc.Tags()['scalars']:
            if k.startswith('rounds/'): got |= {(k, o.step): o.value for o in acc.Scalars(k)}
    cols = [o for o in run.records if o not in ('seed', 'round', 'role')]
    want = {(f"rounds/seed0/{o.role}/{k}", o['round']): o[k] for _, o in run.records.iterrows() for k in cols
            if not pd.isna(o[k])}
    assert got.keys() == want.keys() and len(want) > 20
    for k, v in want.items(): assert got[k] == pytest.approx(v, rel=1e-6)
    # a file for each of three trainings, and one for all records
    assert len(list((tmp_path/'tb').glob('events*'))) == 3+1
    with pytest.raises(ValueError, match='n_epoch'): train(tmp_path/'run', make, control=True, n_epoch=5)
    train(tmp_path/'run', make, control=True)  # a logger has no influence on the numbers


def test_tensorboard_without_a_folder(tmp_path, monkeypatch):
    "As `tensorboard` looks for it: one file in `runs` has all records of the call, and those of the next call another"
    tb = pytest.importorskip('fastai.callback.tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    monkeypatch.chdir(tmp_path)
    def files():
        for f in (tmp_path/'runs').glob('*/events*'):
            acc = EventAccumulator(str(f))
            acc.Reload()
            steps = {o.step for k in acc.Tags()['scalars'] if k.startswith('rounds/') for o in acc.Scalars(k)}
            if steps: yield steps
    def logged(r): return make(r, cbs=tb.TensorBoardCallback(trace_model=False, log_preds=False))
    train(tmp_path/'run', logged, n_rounds=1)
    assert list(files()) == [{0, 1}]
    train(tmp_path/'run', logged, n_rounds=2)
    assert sorted(files(), key=len) == [{2}, {0, 1}]


@pytest.mark.tools  # fastai 2.8.12's own WandbCallback can't describe a Learner: vars() of what has no __dict__
def test_wandb_has_the_records(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_DIR', str(tmp_path))
    wandb = pytest.importorskip('wandb')
    from fastai.callback.wandb import WandbCallback
    sent, log = [], wandb.Run.log
    monkeypatch.setattr(wandb.Run, 'log',
                        lambda self, data, *a, **kw: (sent.append(data), log(self, data, *a, **kw))[1])
    with wandb.init(project='p', dir=tmp_path, settings=wandb.Settings(silent=True, console='off')) as w:
        run = train(None, lambda r: make(r, cbs=WandbCallback(log_preds=False)), n_rounds=1)
        summary = dict(w.summary)
    assert summary['rounds/round'] == 1
    for _, o in run.records.iterrows(): assert summary[f'rounds/seed0/{o.role}/accuracy'] == pytest.approx(o.accuracy)
