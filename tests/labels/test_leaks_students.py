"Is a student compared with its labels: with their rows, and with what their teacher has trained on? As sets say"
import warnings

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import Categorize, ToTensor
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.core import PILImageBW
from noisy_student_fastai.labels import labeling
from noisy_student_fastai.labels.leaks import NoisyStudent, RowReader
from noisy_student_fastai.labels.pseudolabels import PseudoLabels
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).numpy()


class Rows(Dataset):
    "Some rows of X, which counts how often each is read"
    def __init__(self, rows): self.rows, self.n_read = list(rows), 0
    def __len__(self): return len(self.rows)
    def __getitem__(self, i):
        self.n_read += 1
        return torch.tensor(X[self.rows[i]]), self.rows[i] % 2


def loaders(train, valid): return DataLoaders(*[TfmdDL(Rows(o), bs=4, num_workers=0) for o in (train, valid)])
def learner(train, valid, cbs=None):
    return Learner(loaders(train, valid), nn.Linear(3, 2), CrossEntropyLossFlat(), cbs=cbs)
def fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


@pytest.mark.parametrize('seed', range(6))
def test_what_is_found_is_what_sets_say(seed):
    "Of any teacher, student and rows; at `dl`, and at the first fit where `dl` was of other loaders"
    rng = np.random.default_rng(seed)
    def draw(n, k=0): return set(rng.choice(np.arange(k, 40), n, replace=False).tolist())
    taught, trained = draw(8), draw(8)
    judged, own = draw(4)-taught, draw(3, rng.integers(37))-trained
    own = own or {39}-trained or {38}
    trained -= own
    labeled = sorted((draw(20) | set(range(40, 50)))-(set() if seed % 3 else taught | judged))
    pl = learner(sorted(taught), sorted(judged or {59})).pseudolabel(X[labeled], leaks='drop')
    used = [o for o in labeled if o not in taught | judged]
    bad = own & taught-trained
    leaky = [o for o in used if o in own | trained and o not in taught | judged]
    dls = loaders(sorted(trained), sorted(own))
    def rows(dl2): return sorted(labeled[i] for i in dl2.dataset.rows)
    if bad:
        for leaks in ('refuse', 'drop'):
            with pytest.raises(ValueError, match=f'{len(bad)} of the {len(own)} validation .* teacher of its pseudola'):
                pl.dl(dls, leaks=leaks)
    elif leaky:
        with pytest.raises(ValueError, match=f'of the {len(used)} pseudolabeled rows, .* of the student'):
            pl.dl(dls, leaks='refuse')
        if leaky != used: assert rows(pl.dl(dls, leaks='drop')) == [o for o in used if o not in leaky]
    else: assert rows(pl.dl(dls)) == used
    assert rows(pl.dl(dls, leaks='keep')) == used
    dl2 = pl.dl(leaks='refuse', bs=4)
    student = learner(sorted(trained), sorted(own), NoisyStudent(dl2, bs=4))
    if bad or leaky:
        with pytest.raises(ValueError, match='teacher of its|of the student'): fit(student)
    else: fit(student)
    fit(learner(sorted(trained), sorted(own), NoisyStudent(pl.dl(leaks='keep'), bs=4)))


def test_a_folder_remembers(tmp_path):
    learn = learner(range(8), range(8, 12))
    pl = learn.pseudolabel(X[20:50], tmp_path/'a')
    seen = np.load(tmp_path/'a'/'teacher_rows.npy')
    assert seen.dtype == np.uint64 and seen.shape == (12, 2) and (seen[:, 1] == 1).sum() == 8
    for o in (PseudoLabels.open(tmp_path/'a', X[20:50]), learn.pseudolabel(X[20:50], tmp_path/'a'),
              pl.save(tmp_path/'b'), PseudoLabels.open(tmp_path/'b', X[20:50]), pl.temper(2)):
        assert np.array_equal(o.teacher_rows, seen)
        with pytest.raises(ValueError, match='2 of the 4 validation rows'): o.select(0).dl(loaders([0], range(6, 10)))
    assert learn.pseudolabel(X[20:50], leaks='keep').teacher_rows is None
    assert pl.dl(loaders(range(8), range(8, 12)))


def test_what_a_teachers_teacher_had_counts():
    first = learner(range(8), range(8, 12)).pseudolabel(X[40:])
    second = learner(range(14, 20), range(20, 24), NoisyStudent(first.dl(), bs=4)).pseudolabel(X[40:])
    with pytest.raises(ValueError, match='3 of the 4 validation rows'): second.dl(loaders(range(24, 30), range(5, 9)))


def test_labeled_rows_are_read_no_more_often(monkeypatch):
    "... than the look for leaks reads them"
    def n_read():
        learn = learner(range(8), range(8, 12))
        learn.pseudolabel(X[20:50])
        return [o.dataset.n_read for o in learn.dls.loaders]
    now = n_read()
    monkeypatch.setattr(labeling, '_seen', lambda learns, read: None)
    assert now == n_read()


def test_files_are_known_by_their_paths(tmp_path):
    files = [tmp_path/f'{i}.png' for i in range(12)]
    for i, f in enumerate(files): Image.fromarray(np.full((4, 4), 9*i, np.uint8)).save(f)
    def dls(train, valid):
        tfms = [[PILImageBW.create], [lambda o: int(o.stem) % 2, Categorize()]]
        dsets = Datasets([files[i] for i in (*train, *valid)], tfms,
                         splits=(range(len(train)), range(len(train), len(train)+len(valid))))
        return dsets.dataloaders(bs=2, num_workers=0, after_item=ToTensor())
    own, other = dls(range(4), [4, 5]), dls([0, 1], [3, 5])
    for f in files[1:6]: f.write_bytes(b'none but the first labeled one is opened')
    split = RowReader()(own)
    pl = PseudoLabels(np.full((2, 2), .5), files[10:], vocab=own.vocab)
    pl.arrays['teacher_rows'] = np.c_[split.train, np.ones(4, np.uint64)]
    with pytest.raises(ValueError, match=f'1 of the 2 validation rows of this student, such as {files[3]}, were'):
        pl.own_leaks(np.arange(2), other)


class Draws(Callback):
    def before_batch(self): self.seen = [*getattr(self, 'seen', []), torch.rand(1).item()]


@pytest.mark.parametrize('n', [0, 3])
def test_a_dl2_of_no_labels(n):
    "Its rows are compared with the validation rows, once, and nothing is drawn"
    def go(rows, compare=True):
        torch.manual_seed(0)
        learn = learner(range(8), range(8, 12), [NoisyStudent(loaders(rows, [0]).train, bs=4), Draws()])
        if not compare: learn.noisy_student.compare_rows = lambda dl2: None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            fit(learn)
            fit(learn)
        return [str(o.message) for o in seen if 'rows of dl2' in str(o.message)], learn.draws.seen
    rows = [*range(20, 30), *range(8, 8+n)]
    said, drawn = go(rows)
    first = f'{n} of the 4 validation rows of this student, such as row 0'
    assert len(said) == (n > 0) and all(first in o for o in said)
    assert drawn == go(rows, False)[1]
