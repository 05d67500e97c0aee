"Folders of pictures: what is left out is counted, what can't be used is said in words"
from shutil import rmtree

import noisy_student_fastai.labels.labeling  # noqa: F401  (gives Learner `pseudolabel`)
import pytest
from noisy_student_fastai.app.folder_inputs import FolderInputs
from own_data import QUICK, counts, draw, folder, names, rows_of


def test_a_folder_with_all_that_can_be_wrong(tmp_path):
    d = folder(tmp_path/'pics')
    whole = FolderInputs(d, QUICK)
    assert whole.n == dict(labeled=12, unlabeled=60, valid=3, test=30) and not whole.remarks
    cut = draw(d/'unlabeled/deep/er', rows_of(4, 0, 1)[0], 100)
    cut.write_bytes(cut.read_bytes()[:100])
    (d/'unlabeled/text.png').write_text('no picture')
    (d/'train/digit 0/notes.txt').write_text('x')
    (d/'train/.hidden').write_text('x')
    (d/'train/stray.png').write_text('x')
    (d/'train/nothing').mkdir()
    new = draw(d/'test/digit 9', rows_of(9, 0, 1)[0])
    draw(d/'train/single', rows_of(5, 0, 1)[0], 30)
    for part in ('train', 'test'): draw(d/'unlabeled/again', int(next((d/part/'digit 0').glob('*.png')).stem))
    res = FolderInputs(d, QUICK)
    assert names(res) == {'notes.txt', 'stray.png', 'nothing', cut.name, 'text.png', new.name} | {
        p.name for p in (d/'unlabeled/again').iterdir()}
    assert sum(counts(res).values()) == 8
    assert res.n == dict(labeled=13, unlabeled=60, valid=3, test=30)
    assert res.vocab == ['digit 0', 'digit 1', 'digit 2', 'single']
    assert 'single' not in {p.parent.name for p in res.valid}
    assert sorted(res.ids) == sorted(whole.ids)


def test_pictures_of_mixed_sizes_and_modes(tmp_path):
    d = folder(tmp_path/'pics', size=40)
    draw(d/'train/digit 0', rows_of(0, 50, 1)[0], 7)
    from PIL import Image
    Image.new('RGBA', (30, 90)).save(d/'unlabeled/tall.png')
    Image.new('P', (90, 30)).convert('RGB').save(d/'unlabeled/wide.jpg')
    res = FolderInputs(d, QUICK)
    assert res.size == 40 and not res.remarks
    assert res.dls().one_batch()[0].shape == (64, 3, 40, 40)
    assert res.make_learner().pseudolabel(res.unlabeled).n == 62


@pytest.mark.parametrize('spoil,error,said', [
    (lambda d: rmtree(d/'unlabeled'), FileNotFoundError,
     r'unlabeled=.*there is no such folder: a folder with pictures'),
    (lambda d: rmtree(d/'train'), FileNotFoundError, 'train=.*there is no such folder'),
    (lambda d: [p.unlink() for p in (d/'unlabeled').iterdir()], ValueError, 'unlabeled=.*no picture that can be read'),
    (lambda d: [p.write_text('x') for c in '12' for p in (d/'train'/f'digit {c}').iterdir()], ValueError,
     "classes=.'digit 0'.: two or more"),
    (lambda d: [p.unlink() for c in '012' for p in [*(d/'train'/f'digit {c}').iterdir()][1:]], ValueError,
     'valid=0: no row is left')])
def test_folders_that_cannot_be_used(tmp_path, spoil, error, said):
    d = folder(tmp_path/'pics')
    spoil(d)
    with pytest.raises(error, match=said): FolderInputs(d, QUICK)


def test_test_pictures_that_were_learned(tmp_path):
    d = folder(tmp_path/'pics')
    for i in rows_of(0, 0, 5): draw(d/'test/digit 0', i)
    res = FolderInputs(d, QUICK)
    assert res.n == dict(labeled=12, unlabeled=60, valid=3, test=30) and len(res.test_dl().dataset) == 30
    assert names(res) == {f'{i}.png' for i in rows_of(0, 0, 5)} and sorted(counts(res).values()) == [1, 4]
