"Parts of labels made by an engine that is not ours: Ray Data"
import numpy as np
import pytest
from label_toys import unlabeled
from noisy_student_fastai.all import PseudoLabels
from toys import pts_learner

K = 4


class MakeParts:
    "What Ray starts in each of its workers, which have imported nothing"
    def __init__(self, folder):
        import noisy_student_fastai.all  # noqa: F401  (gives Learners `pseudolabel`)
        self.folder, self.teacher = folder, pts_learner()
        self.teacher.load(folder/'teacher')

    def __call__(self, batch):
        x = np.load(self.folder/'x.npy', mmap_mode='r')
        for i in batch['id']: self.teacher.pseudolabel(x, self.folder/'labels', part=(int(i), K), bs=8)
        return batch


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
    workers = [MakeParts(tmp) for _ in range(2)]
    for w, ids in zip((0, 1, 0), ([3], [0, 2], [1])): workers[w](dict(id=np.array(ids)))
    check(tmp, want)


@pytest.mark.ray
def test_ray_data(made, root):
    "Ray Data's `map_batches`, with two workers"
    import ray
    tmp, want = made
    paths = [str(root), str(root/'tests'), str(root/'tests/across')]
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level='ERROR',
             runtime_env=dict(env_vars=dict(PYTHONPATH=':'.join(paths), OMP_NUM_THREADS='1')))
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        workers = ray.data.ActorPoolStrategy(size=2)
        parts = ray.data.range(K).map_batches(MakeParts, fn_constructor_args=(tmp,), batch_size=1, compute=workers)
        parts.materialize()
    finally: ray.shutdown()
    check(tmp, want)
