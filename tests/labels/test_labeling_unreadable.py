"Files that can't be read: refused, or skipped on request, by whichever process reads them"
import warnings

import numpy as np
import pytest
from fastai.data.transforms import parent_label
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from noisy_student_fastai.all import NoisyStudent, PseudoLabels, Reader
from PIL import Image
from torch import nn
from toys import points, pts_learner

BROKEN = [0, 7, 8, 29]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp('pics'), np.random.default_rng(0)
    for k in ('a', 'b', 'more'):
        (path/k).mkdir()
        for i in range(12 if k != 'more' else 30):
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path/k/f'{i:02}.png')
    for i in BROKEN: (path/'more'/f'{i:02}.png').write_bytes(b'broken' if i % 2 else b'')
    return path


def teacher(files, *cbs, **kwargs):
    set_seed(0)
    fs = sorted([*files.glob('a/*.png'), *files.glob('b/*.png')])
    dls = ImageDataLoaders.from_path_func(files, fs, parent_label, seed=0, item_tfms=Resize(8), bs=8, num_workers=0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), cbs=cbs, **kwargs)


@pytest.mark.parametrize('workers', [0, 2])
def test_skipped(files, tmp_path, workers):
    learn, fs = teacher(files), sorted(files.glob('more/*.png'))
    good = [o for i, o in enumerate(fs) if i not in BROKEN]
    with learn.no_bar(): want = learn.get_preds(dl=learn.dls.test_dl(good))[0].numpy()
    with pytest.raises(ValueError, match='00.png.*can\'t be read'): learn.pseudolabel(fs)
    if workers: learn.dls.valid = learn.dls.valid.new(num_workers=workers)
    with pytest.warns(UserWarning, match=r'4 of 30 rows can\'t be read.*00.png, .*07.png, .*08.png, .*29.png\. They'):
        pl = learn.pseudolabel(fs, tmp_path/'l', unreadable='skip', bs=4, dtype='float32')
    is_good = ~np.isin(np.arange(30), BROKEN)
    assert np.flatnonzero(pl.leak == 3).tolist() == BROKEN and np.allclose(pl.probs[is_good], want, atol=1e-6)
    assert np.allclose(pl.probs[BROKEN], .5) and '4 rows could not be read' in repr(pl)
    for o in (pl, PseudoLabels.open(tmp_path/'l'), PseudoLabels.open(tmp_path/'l', fs)):
        assert o.select(0).rows.tolist() == np.flatnonzero(is_good).tolist()
        assert len(o.dl(learn.dls, bs=26).one_batch()[0]) == 26
        assert np.allclose(o.mean_probs(), want.mean(0), atol=1e-6)
    with pytest.warns(UserWarning, match='4 of 30'):
        learn.pseudolabel(fs, tmp_path/'l', unreadable='skip', dtype='float32')
    student = teacher(files, NoisyStudent(pl.dl()))
    with student.no_bar(), student.no_logging(): student.fit(1)


def test_resumed(files, tmp_path):
    "Those that an interrupted run has found are known to the next one"
    class Stop(Exception): pass
    learn, fs = teacher(files), sorted(files.glob('more/*.png'))
    def stop(m, x):
        stop.n += 1
        if stop.n == 6: raise Stop
    stop.n = 0
    hook = learn.model.register_forward_pre_hook(stop)
    with pytest.raises(Stop): learn.pseudolabel(fs, tmp_path/'l', unreadable='skip', bs=4)
    hook.remove()
    with pytest.warns(UserWarning, match='4 of 30'): pl = learn.pseudolabel(fs, tmp_path/'l', unreadable='skip', bs=4)
    assert np.flatnonzero(pl.leak == 3).tolist() == BROKEN
    with pytest.raises(ValueError, match='unreadable'): learn.pseudolabel(fs[1:7], tmp_path/'l', unreadable='no')


def test_nothing_to_skip(files):
    learn, fs = teacher(files), sorted(files.glob('more/*.png'))
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert learn.pseudolabel(fs[1:7], unreadable='skip').select(0).rows.tolist() == list(range(6))
    with pytest.raises(ValueError, match="can't be read"): learn.pseudolabel([fs[0]], unreadable='skip')


def test_files_that_are_missing(files, tmp_path):
    "The first one, too; refused at once, or skipped"
    learn, fs = teacher(files), sorted(files.glob('more/*.png'))[1:7]
    fs = [tmp_path/'none.png', *fs[:3], tmp_path/'gone.png', *fs[3:]]
    with pytest.raises(ValueError, match='none.png.*can\'t be read'): learn.pseudolabel(fs)
    with pytest.raises(ValueError, match='row 3 of unlabeled .*gone.png.*can\'t be read'): learn.pseudolabel(fs[1:])
    for _ in range(2):
        with pytest.warns(UserWarning, match='2 of 8 rows can\'t be read'):
            pl = learn.pseudolabel(fs, tmp_path/'l', leaks='drop', unreadable='skip')
        for o in (pl, PseudoLabels.open(tmp_path/'l'), PseudoLabels.open(tmp_path/'l', fs, check='full')):
            assert o.leak.tolist() == [3, 0, 0, 0, 3, 0, 0, 0]
            assert o.dl(learn.dls, bs=6).one_batch()[0].shape[0] == 6


class Rows:
    "Points read by batches, some of which can't be"
    def __init__(self, x, bad): self.x, self.bad = x, {*bad}
    def __len__(self): return len(self.x)

    def rows(self, at):
        if self.bad & {*np.arange(len(self.x))[at].tolist()}: raise OSError('bad row')
        return dict(x=self.x[at])


class Stream:
    def __init__(self, x, bad): self.r = Rows(x, bad)
    def __iter__(self): return (self.r.rows(slice(i, i+1))['x'][0] for i in range(len(self.r)))


@pytest.mark.parametrize('bad', [[0], [0, 1, 17, 59]])
def test_first_row_of_a_reader(bad):
    "It shows what rows are, unless it can't be read: then the next one does"
    x, learn = points(60, 3)[0].numpy(), pts_learner()
    want, is_good = learn.pseudolabel(x).probs, ~np.isin(np.arange(60), bad)
    for o in (Rows(x, bad), Reader(Rows(x, bad), 'x')):
        pl = learn.pseudolabel(o, unreadable='skip')
        assert np.flatnonzero(pl.leak == 3).tolist() == bad and np.array_equal(pl.probs[is_good], want[is_good])
        assert len(pl.select(0).dl(learn.dls, bs=10).one_batch()[0]) == 10
        said = r"row 0 of unlabeled \(0\) can't be read \(OSError: bad row\).*, unreadable='skip'\)` leaves out"
        with pytest.raises(ValueError, match=said): learn.pseudolabel(o)
    for f in (Reader, lambda o: Reader(o, n=60), learn.pseudolabel):
        said = r"row 0 can't be read \(OSError: bad row\).*stream has to skip unreadable rows"
        with pytest.raises(ValueError, match=said):
            f(Stream(x, bad))
    with pytest.raises(ValueError, match=r"row 0 can't be read"): Reader(Rows(x, range(60)), 'x')
    with pytest.raises(ValueError, match=r"row 0 of unlabeled \(0\) can't be read"):
        learn.pseudolabel(Rows(x, range(60)), unreadable='skip')
