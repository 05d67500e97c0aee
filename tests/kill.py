"""A labeling process is killed (SIGKILL) at random moments until it comes to its end; the folder must not show it

    python tests/kill.py --n 20 --seed 0    # 20 folders made under kills, compared with one that nothing disturbed

A child is a fork of this process, so that nothing has to be imported again: it labels 3,000 rows, with two teachers and
two augmented views of each batch, and writes down what is done about every 20 ms instead of every second.
"""
import json
import random
import time

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders, TfmdDL
from fasttransform.transform import Transform
from killing import kill_until_done, main
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.labels.store import Store
from noisy_student_fastai.noise.rows import one_thread
from toys import net, probs, pts_learner

N, BS = 3_000, 20


class Jitter(Transform):
    "A batch transform of training, so that views differ"
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x+.1*torch.randn_like(x) if x.is_floating_point() else x


class Slow(Callback):
    "A model that takes its time"
    def after_pred(self): time.sleep(.001)


def teacher(seed):
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))
    items = list(zip(x, probs(x).argmax(1)))
    dls = DataLoaders(TfmdDL(items, bs=BS, num_workers=0, after_batch=[Jitter()]), TfmdDL(items, bs=BS, num_workers=0))
    torch.manual_seed(seed)
    return pts_learner(Slow(), dls=dls, model=net(c=50))


def label(path):
    "Label the rows, from wherever the folder says"
    x = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    ids = [f'row {i}' for i in range(N)]
    return teacher(0).pseudolabel(x, path, teachers=[teacher(1)], n_views=2, bs=BS, temperature=.7, ids=ids)


def rows_done(path):
    header = path/'header.json'
    return json.loads(header.read_text())['done'] if header.exists() else 0


def contents(path):
    "The bytes of a folder; the header without its date and its own checksum"
    res = {o.name: o.read_bytes() for o in path.iterdir()}
    header = json.loads(res.pop('header.json'))
    return res | {'header': {k: v for k, v in header.items() if k not in ('date', 'crc32')}}


@one_thread()  # threads change the order of sums, and are not in a fork
def run(n, seed, tmp):
    "Raise an AssertionError if a folder differs; rows done at each kill of each of the `n` folders"
    was, (Store.wait, Store.share) = (Store.wait, Store.share), (.02, 1)
    try: return run_noting_often(n, seed, tmp)
    finally: Store.wait, Store.share = was


def run_noting_often(n, seed, tmp):
    rng, res = random.Random(seed), []
    start = time.time()
    label(tmp/'calm')
    secs, want = time.time()-start, contents(tmp/'calm')
    assert sorted(want) == ['conf.npy', 'header', 'ids.npy', 'label.npy', 'leak.npy', 'probs.npy', 'row_hash.npy',
                            'teacher_rows.npy']
    for i in range(n):
        path = tmp/str(i)
        done = kill_until_done(label, path, rng, .6*secs, rows_done)  # one run does not get through, several do
        assert contents(path) == want, f'folder {i} (seed {seed}), killed at {done}'
        pl = PseudoLabels.open(path)
        assert (pl.label == np.load(tmp/'calm'/'label.npy')).all() and pl.ids[7] == 'row 7'
        res.append(done)
    return res


def report(res):
    "What came of folders that were killed"
    n_in = sum(0 < o < N for done in res for o in done)
    return (f'{len(res)} folders, killed {sum(map(len, res))} times ({n_in} of them with some rows done): all with the '
            f'bytes of an undisturbed run. Rows done at each kill: {res}')


if __name__ == '__main__': main(__doc__, run, report)
