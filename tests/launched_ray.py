"""Makes parts of labels in Ray's workers: python launched_ray.py FOLDER PARTS WORKERS RAYS_OWN_FOLDER

FOLDER holds the teacher and the rows, and takes the labels.
"""
import sys
from pathlib import Path

import numpy as np


class MakeParts:
    "What Ray starts in each of its workers, which have imported nothing"
    def __init__(self, folder, k):
        import noisy_student_fastai.labels.labeling  # noqa: F401  (gives Learners `pseudolabel`)
        from toys import pts_learner
        self.folder, self.k, self.teacher = folder, k, pts_learner()
        self.teacher.load(folder/'teacher')

    def __call__(self, batch):
        x = np.load(self.folder/'x.npy', mmap_mode='r')
        for i in batch['id']: self.teacher.pseudolabel(x, self.folder/'labels', part=(int(i), self.k), bs=8)
        return batch


if __name__ == '__main__':
    import ray
    folder, k, n, own = Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR',
             object_store_memory=80_000_000, _temp_dir=own)
    ray.data.DataContext.get_current().enable_progress_bars = False
    parts = ray.data.range(k).map_batches(MakeParts, fn_constructor_args=(folder, k), batch_size=1,
                                          num_cpus=1 / n, compute=ray.data.ActorPoolStrategy(size=n))
    print(*sorted(o['id'] for o in parts.take_all()))
    ray.shutdown()
