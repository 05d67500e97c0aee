"Is what a student learns from described right, and is it what was asked for?"

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learners `no_bar`)
from rounds_toys import UNLABELED, predictions, train


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('r', [1, 2, 3])
def test_labels_are_described(run, seed, r):
    rec = run.records.query('seed==@seed and role=="student" and round==@r').iloc[0]
    pl, teacher = run.labels(r, seed), run.learner(r-1, seed)
    model = teacher.model.eval()
    with torch.no_grad(): p = model(torch.tensor(UNLABELED)).softmax(1)
    assert (pl.label == p.argmax(1).numpy()).all()
    kept = [o for c in range(3) for o in sorted((i for i in range(240) if pl.label[i] == c and pl.conf[i] >= .3),
                                                key=lambda i: -pl.conf[i])[:40]]
    sizes = [min(40, (pl.label[kept] == c).sum()) for c in range(3)]
    counts = [40*(o > 0) for o in sizes]  # fewer are repeated, none can't be
    assert rec.n_kept == sum(sizes) and rec.n_rows == sum(counts)
    assert (rec.least_class, rec.most_class) == (min(counts), max(counts))
    if r > 1: assert rec.agreement == pytest.approx((pl.label == run.labels(r-1, seed).label).mean())
    else: assert np.isnan(rec.agreement)
    assert rec.teacher_accuracy == run.records.query('seed==@seed and round==@r-1 and role!="control"').accuracy.item()
    least = {c: min([pl.conf[i] for i in kept if pl.label[i] == c], default=2) for c in range(3)}
    q, y = predictions(teacher, teacher.dls.valid)
    conf, label = q.softmax(1).max(1)
    ok = [conf[i] >= least[label[i].item()] for i in range(len(y))]
    assert rec.precision == pytest.approx((label == y)[torch.tensor(ok)].float().mean().item())


def test_reselect_false_keeps_the_rows():
    def pick(r): return dict(n_per_class=40, weights='conf')
    res = train(reselect=False, select=pick, patience=None, n_rounds=3)
    first = res.labels(1).select(**pick(1))
    df = res.records.query('role=="student"')
    assert (df.n_kept == len(set(first.rows.tolist()))).all() and (df.n_rows == len(first)).all()
    for r in (2, 3):
        counts = np.bincount(res.labels(r).label[first.rows], minlength=3)
        assert tuple(df[['least_class', 'most_class']].iloc[r-1]) == (counts.min(), counts.max())
