"Parts of labels made by an engine that is not ours: Ray Data"
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from label_toys import unlabeled
from launched_ray import MakeParts
from noisy_student_fastai.all import PseudoLabels
from toys import pts_learner

K = 4


@pytest.fixture
def made(tmp_path):
    "A folder with a teacher and rows, and the labels of one call"
    learn, x = pts_learner(), unlabeled()
    learn.save(tmp_path/'teacher')
    np.save(tmp_path/'x.npy', x)
    return tmp_path, learn.pseudolabel(x, tmp_path/'whole', bs=8)


def check(tmp, want):
    pl = PseudoLabels.open(tmp/'labels', np.load(tmp/'x.npy'))
    assert pl.about == want.about
    for k, o in want.arrays.items(): assert np.asarray(pl.arrays[k]).tobytes() == o.tobytes(), k


def test_batches_of_numbers(made):
    "As an engine calls it: any numbers together, in any order, in several workers"
    tmp, want = made
    workers = [MakeParts(tmp, K) for _ in range(2)]
    for w, ids in zip((0, 1, 0), ([3], [0, 2], [1])): workers[w](dict(id=np.array(ids)))
    check(tmp, want)


@pytest.fixture
def no_space():
    "A folder whose path is short and has no space, and in it a Python of this environment: Ray can't bear others"
    with tempfile.TemporaryDirectory(prefix='ray', dir='/tmp', ignore_cleanup_errors=True) as tmp:
        env = Path(sys.prefix)
        (Path(tmp)/'project').symlink_to(env.parent)
        yield Path(tmp), Path(tmp)/'project'/env.name/'bin/python'


@pytest.mark.ray
def test_ray_data(made, no_space, root):
    "Ray Data's `map_batches`, with two workers; Ray gives itself 15 seconds to start, which a busy machine may need"
    (tmp, want), (place, python) = made, no_space
    env = os.environ | dict(PYTHONPATH=f'{root}{os.pathsep}{root/"tests"}', OMP_NUM_THREADS='1',
                            RAY_USAGE_STATS_ENABLED='0', RAY_AUTH_MODE='disabled',
                            http_proxy='http://127.0.0.1:9')  # it asks which cloud this is, though it reports nothing
    for _ in range(5):
        p = subprocess.run([python, root/'tests/launched_ray.py', tmp, str(K), '2', place/'ray'], env=env, cwd=place,
                           timeout=240, capture_output=True, text=True)
        if 'timed out during startup' not in p.stderr: break
    assert p.returncode == 0, p.stderr
    check(tmp, want)
    assert p.stdout.split() == [*map(str, range(K))]
