"Folders of pictures: what is left out is counted, what can't be used is said in words"
import os
from shutil import rmtree

import noisy_student_fastai.labels.labeling  # noqa: F401  (gives Learner `pseudolabel`)
import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from noisy_student_fastai.app.folder_inputs import FolderInputs, find_images, image_net, open_picture, usual_size
from own_data import QUICK, counts, draw, folder, names, rows_of
from PIL import Image


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
    Image.new('RGBA', (30, 90)).save(d/'unlabeled/tall.png')
    Image.new('P', (90, 30)).convert('RGB').save(d/'unlabeled/wide.jpg')
    res = FolderInputs(d, QUICK)
    assert res.size == 40 and not res.remarks
    assert res.dls().one_batch()[0].shape == (64, 3, 40, 40)
    assert res.make_learner().pseudolabel(res.unlabeled).n == 62


@pytest.mark.parametrize('spoil,error,said', [
    (lambda d: rmtree(d/'unlabeled'), FileNotFoundError,
     r'unlabeled=.*there is no such folder: expected a folder with pictures'),
    (lambda d: rmtree(d/'train'), FileNotFoundError, 'train=.*there is no such folder'),
    (lambda d: [p.unlink() for p in (d/'unlabeled').iterdir()], ValueError, 'unlabeled=.*one picture that can be read'),
    (lambda d: [p.write_text('x') for c in '12' for p in (d/'train'/f'digit {c}').iterdir()], ValueError,
     "classes=.'digit 0'.: expected two or more"),
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


GRAY = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)
HALF = np.array([[0, 128, 255]]*5)[:, [0, 1, 2, 0, 1, 2, 0]].astype(np.uint8)  # a transparency


def on_white(x, a=HALF): return np.round((x*(a/255.)[..., None])+255*(1-a[..., None]/255.))


def as_rgb(x): return np.repeat(x[..., None], 3, 2)


MODES = {  # a file, and its pixels computed by hand
    'L.png': (GRAY, as_rgb(GRAY)), 'RGB.png': (COLOR, COLOR), '1.png': (GRAY > 99, as_rgb(255*(GRAY > 99))),
    '16.png': (GRAY.astype(np.uint16)*257, as_rgb(GRAY)), '16.tif': (GRAY.astype(np.uint16)*257, as_rgb(GRAY)),
    '16.pgm': (GRAY.astype(np.uint16)*257, as_rgb(GRAY)), '32.tif': (GRAY.astype(np.int32)*257, as_rgb(GRAY)),
    '8 of 32.tif': (GRAY.astype(np.int32), as_rgb(GRAY)), 'F1.tif': ((GRAY/255).astype(np.float32), as_rgb(GRAY)),
    'F255.tif': (GRAY.astype(np.float32), as_rgb(GRAY)), 'RGBA.png': (np.dstack([COLOR, HALF]), on_white(COLOR)),
    'LA.png': (np.dstack([GRAY, HALF]), on_white(as_rgb(GRAY)))}


@pytest.mark.parametrize('name', MODES)
def test_depth_and_transparency(tmp_path, name):
    "Any mode of PIL as 8 bits of red, green and blue, as a viewer shows it, from a file or its bytes"
    x, want = MODES[name]
    Image.fromarray(x).save(tmp_path/name)
    for f in (tmp_path/name, str(tmp_path/name), (tmp_path/name).read_bytes()):
        res = np.array(open_picture(f)).astype(int)
        assert res.shape == (5, 7, 3) and abs(res-want.astype(int)).max() <= 1


def test_palettes_and_print_colors(tmp_path):
    few = COLOR//128*200
    im = Image.fromarray(few).quantize(8)
    im.save(tmp_path/'p.png')
    im.save(tmp_path/'t.png', transparency=im.getpixel((0, 0)))
    assert np.array_equal(np.array(open_picture(tmp_path/'p.png')), np.array(im.convert('RGB')))
    shown = np.array(open_picture(tmp_path/'t.png'))
    gone = np.array(im) == im.getpixel((0, 0))
    assert (shown[gone] == 255).all() and np.array_equal(shown[~gone], np.array(im.convert('RGB'))[~gone])
    Image.fromarray(few).convert('CMYK').save(tmp_path/'c.tif')
    assert np.array_equal(np.array(open_picture(tmp_path/'c.tif')), few)


@pytest.mark.parametrize('how', range(1, 9))
def test_pictures_are_turned_as_their_file_says(tmp_path, how):
    "The eight orientations of EXIF, against NumPy"
    back = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.transpose(1, 0, 2),
            6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).transpose(1, 0, 2), 8: np.rot90}[how]
    exif = Image.Exif()
    exif[0x112] = how
    for name in ('a.png', 'a.tif'):
        Image.fromarray(COLOR).save(tmp_path/name, exif=exif)
        assert np.array_equal(np.array(open_picture(tmp_path/name)), back(COLOR))


def test_how_pictures_are_stored_says_nothing_to_a_model(tmp_path):
    "A camera's and a scanner's files give the same probabilities as plain ones, also to an export"
    plain, stored = folder(tmp_path/'plain'), folder(tmp_path/'stored')
    exif = Image.Exif()
    exif[0x112] = 6
    for i, p in enumerate(sorted(stored.glob('unlabeled/*'))):
        x = np.array(Image.open(p))
        if i % 2: Image.fromarray(np.rot90(x)).save(p, exif=exif)
        else: Image.fromarray(x.astype(np.uint16)*257).save(p)
    learn = FolderInputs(plain, QUICK).make_learner()
    learn.export(tmp_path/'student.pkl')
    probs = [l.pseudolabel(FolderInputs(o, QUICK).unlabeled, dtype='float32', leaks='keep').probs
             for o in (plain, stored) for l in (learn, load_learner(tmp_path/'student.pkl'))]
    assert all(np.array_equal(probs[0], o) for o in probs[1:]) and probs[0].std() > 0


def test_pictures_of_unknown_depth(tmp_path):
    "They are left out and named, as broken ones are"
    Image.fromarray(np.array([[-3, 900.]], np.float32)).save(tmp_path/'a.tif')
    Image.fromarray(np.array([[0, 1 << 20]], np.int32)).save(tmp_path/'b.tif')
    remarks = {}
    assert find_images(tmp_path, remarks) == {}
    assert remarks == {"pictures left out because they can't be read": [str(tmp_path/o) for o in ('a.tif', 'b.tif')]}
    with pytest.raises(ValueError, match="picture='mode F, -3 to 900': expected numbers from 0 to 1,"):
        open_picture(tmp_path/'a.tif')


def test_pipes_and_links(tmp_path):
    "Nothing waits for a pipe, nothing is passed over without a word; a link to a file is a file"
    d = folder(tmp_path/'pics')
    os.mkfifo(d/'unlabeled/pipe.png')
    (d/'unlabeled/null.png').symlink_to('/dev/null')
    (d/'unlabeled/lost.png').symlink_to('nowhere.png')
    (d/'unlabeled/more').symlink_to(d/'test')
    (d/'unlabeled/link.png').symlink_to(draw(tmp_path/'elsewhere', rows_of(0, 60, 1)[0]))
    os.mkfifo(d/'train/pipe')
    res = FolderInputs(d, QUICK)
    assert res.n['unlabeled'] == 61 and names(res) == {'pipe.png', 'null.png', 'lost.png', 'more', 'pipe'}
    assert sorted(counts(res).values()) == [1, 4]


@pytest.mark.parametrize('sizes,want', [
    ([(8, 8)]*3, 8), ([(600, 400), (300, 500), (1, 1)], 128), ([(30, 20), (20, 27), (40, 40)], 32), ([(2, 2)], 8)])
def test_the_usual_size(sizes, want): assert usual_size(sizes) == want


@pytest.mark.parametrize('name', ['small', 'large', 'xresnet18', 'resnet18'])
def test_models_by_name(name): assert image_net(name, 5, 32)(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize('name,pretrained,said', [
    ('resnet19', False, "model='resnet19': expected 'small', 'large', one of"),
    ('xresnet19', False, "model='xresnet19'"), ('small', True, "pretrained=True: there are no weights for 'small'")])
def test_models_that_there_are_not(name, pretrained, said):
    with pytest.raises(ValueError, match=said): image_net(name, 5, 32, pretrained)
