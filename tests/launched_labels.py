"Labels that two processes of one group make together; test_distributed.py starts them, and calls this in both"
from pathlib import Path

import fastai.distributed  # noqa: F401  (gives Learners `distrib_ctx`)
import numpy as np
import pytest
import torch.distributed as dist
from label_toys import unlabeled
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.labels.labeling import _Writer
from noisy_student_fastai.labels.store import Store
from noisy_student_fastai.processes import alone, ranks
from toys import params, pts_learner


def same_labels(pl, want):
    assert pl.about == want.about and list(pl.ids) == list(want.ids)
    for k, o in want.arrays.items(): assert np.asarray(pl.arrays[k]).tobytes() == o.tobytes(), k


def labels_of_two(tmp):
    "Each rank makes its part and gets all, with the bytes of one process, inside `distrib_ctx`, too"
    x, learn, tmp = unlabeled(), pts_learner(seed=5), Path(tmp)
    r, n = ranks()
    assert (r, n) == (dist.get_rank(), 2)
    before = params(learn)
    with alone(): want = learn.pseudolabel(x, tmp/f'alone{r}', bs=8)
    same_labels(learn.pseudolabel(x, tmp/'two', bs=8), want)
    assert sorted(o.name for o in (tmp/'two').iterdir()) == ['part-00000-of-00002', 'part-00001-of-00002']
    with learn.distrib_ctx(sync_bn=False): pl = learn.pseudolabel(x, tmp/'inside', bs=8)
    same_labels(pl, want)
    same_labels(PseudoLabels.open(tmp/'inside', x), want)
    assert (params(learn) == before).all()
    with pytest.raises(ValueError, match='path=None: expected a folder that all 2 processes'): learn.pseudolabel(x)
    dist.barrier()
    if r == 0: learn.pseudolabel(x, tmp/'five', part=(3, 5), bs=8)  # somebody has begun with five parts
    dist.barrier()
    same_labels(learn.pseudolabel(x, tmp/'five', bs=8), want)
    assert len([*(tmp/'five').iterdir()]) == 5
    if r == 0:  # somebody has begun in one piece: the first goes on, the other waits
        with alone(), pytest.raises(RuntimeError):
            was, most = Store.write, _Writer.most
            Store.write, _Writer.most = stopped(was), 1  # each batch is written by itself
            try: learn.pseudolabel(x, tmp/'piece', bs=8)
            finally: Store.write, _Writer.most = was, most
        with pytest.raises(ValueError, match='of 150 rows'): PseudoLabels.open(tmp/'piece')
    dist.barrier()
    same_labels(learn.pseudolabel(x, tmp/'piece', bs=8), want)
    assert (tmp/'piece'/'header.json').exists()
    other = pts_learner(seed=6)
    with pytest.raises(ValueError, match='another teacher'): other.pseudolabel(x, tmp/'two', bs=8)
    dist.barrier()
    pl = other.pseudolabel(x, tmp/'two', bs=8, overwrite=True)
    same_labels(pl, other.pseudolabel(x, tmp/'two', bs=8))
    assert pl.about['teachers'] != want.about['teachers'] and not np.array_equal(pl.probs, want.probs)
    same_labels(learn.pseudolabel(x[:5], tmp/'few', bs=8), learn.pseudolabel(x[:5], tmp/'few', bs=8))  # one batch


def stopped(write):
    "`write` that fails after some batches"
    left = [7]
    def f(self, **kw):
        left[0] -= 1
        if not left[0]: raise RuntimeError('stopped')
        write(self, **kw)
    return f
