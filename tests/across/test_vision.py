"Images from files: classes, soft labels, several labels, numbers, points; the batch transforms see the combined batch"
import numpy as np
import pytest
import torch
from data_helpers import Record, fit, fit_plain, probs, rows_of, same_weights, tensors_dl
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import IndexSplitter, IntToFloatTensor, Normalize
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.torch_core import TensorCategory, TensorImage
from fastai.vision.augment import Dihedral, aug_transforms
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock, PointBlock
from fasttransform import DisplayedTransform, Pipeline, Transform
from image_toys import BS, N2, CategoryMany, N, image_dls, label, number
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F


def cnn(n_out=10, seed=0, norm=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, n_out))


# Ways to make dl2 of files fs2, whose images are x2 and labels y2. The second value: the labels that it should give
def by_test_dl(dls, fs2, x2, y2): return dls.test_dl(fs2, with_labels=True), y2
def by_torch_hard(dls, fs2, x2, y2): return tensors_dl(x2, y2, bs=4), y2


def numbers_dl(fs2, y2, y_block):
    "A loader of files with numbers as targets, made by a DataBlock"
    block = DataBlock((ImageBlock, y_block), get_y=lambda f: y2[number(f)-N], splitter=lambda o: (range(len(o)), []))
    return block.dataloaders(fs2, bs=5, num_workers=0).train


def by_block_soft(dls, fs2, x2, y2):
    p = probs(N2, 10)
    return numbers_dl(fs2, p, RegressionBlock(n_out=10)), p


def by_torch_soft(dls, fs2, x2, y2, dtype=torch.float32):
    p = probs(N2, 10).to(dtype)
    return tensors_dl(x2, p, bs=4, shuffle=True), p.float()


def by_torch_half(dls, fs2, x2, y2): return by_torch_soft(dls, fs2, x2, y2, torch.float16)
def by_list_soft(dls, fs2, x2, y2): return DataLoader(list(zip(x2.unbind(), probs(N2, 10))), bs=3), probs(N2, 10)


WAYS = [by_test_dl, by_torch_hard, by_block_soft, by_torch_soft, by_torch_half, by_list_soft]


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('way', WAYS)
def test_equals_a_plain_learner(digits, way, seed):
    "Augmentation, BatchNorm and optimizer see the combined batch as those of a plain Learner see a batch"
    (fs, x, y), rec = digits, Record()
    dls = image_dls(fs, [rec, *aug_transforms(size=16, flip_vert=True), Normalize.from_stats(*imagenet_stats)])
    assert list(dls.vocab) == [str(i) for i in range(10)]
    torch.manual_seed(seed)
    dl2, y2 = way(dls, fs[N:], x[N:], y[N:])
    student, probe = fit(dls, cnn(seed=seed), CrossEntropyLossFlat(), NoisyStudent(dl2, l2pl_ratio=[1, 1/3][seed]))
    n, raw = [8, 4][seed], list(rec.raw)
    assert len(raw) == len(probe.xbs) == 2*(N//n), "the batch transforms run once for each batch"
    batches, seen = [], []
    for xb, yb in raw:
        i, j = rows_of(xb[:n], x[:N]), rows_of(xb[n:], x[N:])  # labeled rows first
        assert len(j) == BS-n
        seen += j
        hard = y2.ndim == 1
        yb = torch.cat([y[i], y2[j]]) if hard else torch.cat([F.one_hot(y[i], 10).float(), y2[j]])
        batches.append((TensorImage(torch.cat([x[:N][i], x[N:][j]])), TensorCategory(yb) if hard else yb))
    for k in range(0, len(seen)-N2+1, N2): assert sorted(seen[k:k+N2]) == list(range(N2))
    rec.raw.clear()
    plain, probe2 = fit_plain(batches, cnn(seed=seed), CrossEntropyLossFlat() if hard else nn.CrossEntropyLoss(),
                              dls.train.after_batch.fs)
    assert same_weights(student.model, plain.model)
    assert not same_weights(student.model, cnn(seed=seed), atol=1e-3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(probe.xbs, probe2.xbs))
    assert all(type(o) is TensorImage for o, in probe.xbs)
    assert all(type(o) is RowTargets and o.is_pl.tolist() == [False]*n+[True]*(BS-n) for o in probe.ybs)


def test_weight_of_pseudolabeled_images(digits):
    "A weight of 0 trains on the labeled images alone; there is no BatchNorm here, which would see all"
    (fs, x, y), rec = digits, Record()
    dls = image_dls(fs, [rec])
    student, _ = fit(dls, cnn(norm=False), CrossEntropyLossFlat(),
                     NoisyStudent(dls.test_dl(fs[N:], with_labels=True), pseudolabel_sample_weight=0))
    ids = [rows_of(xb[:8], x[:N]) for xb, _ in rec.raw]
    batches = [(TensorImage(x[i]), TensorCategory(y[i])) for i in ids]
    plain, _ = fit_plain(batches, cnn(norm=False), CrossEntropyLossFlat(), dls.train.after_batch.fs)
    assert same_weights(student.model, plain.model)


class Center(DisplayedTransform):
    "Subtracts the mean of the batch that it gets"
    order = 20

    def encodes(self, x:TensorImage): return x-x.mean()


class Count(Transform):
    "Counts the batches"
    order, n = 1, 0

    def encodes(self, x:TensorImage):
        self.n += 1
        return x


def test_batch_tfms_see_the_combined_batch(digits):
    (fs, _x, _y), rec = digits, Record()
    dls = image_dls(fs, [rec, Center()])
    dl2 = image_dls(fs[N:], [Count()]).train
    count = next(o for o in dl2.after_batch.fs if isinstance(o, Count))
    dl2.one_batch()
    n = count.n
    _, probe = fit(dls, cnn(), CrossEntropyLossFlat(), NoisyStudent(dl2))
    assert count.n == n > 0 and len(rec.raw) == len(probe.xbs), "dl2's own batch transforms are not applied"
    for (xb,), raw in zip(probe.xbs, rec.raw):
        raw = raw[0].float()/255
        torch.testing.assert_close(xb.as_subclass(Tensor), raw-raw.mean(), atol=1e-6, rtol=1e-5)
        assert (raw[:8].mean()-raw.mean()).abs() > 1e-4  # means of the two kinds differ


@pytest.mark.parametrize('bs', [16, 64])
def test_normalize_is_set_up_on_the_labeled_set(digits, bs):
    "`Normalize()` in `batch_tfms` takes its statistics from labeled images, also where dl2's are far from them"
    fs, x, y = digits
    _n, rec = bs//2, Record()
    dls = image_dls(fs, None, bs=bs)
    dl2 = tensors_dl(255-x[N:], y[N:], bs=8)
    norm = Normalize()
    _, probe = fit(dls, cnn(), CrossEntropyLossFlat(), NoisyStudent(dl2, batch_tfms=[IntToFloatTensor(), norm, rec]))
    xf = x.float()/255
    got = norm.mean.squeeze()
    assert (got-xf[:N].mean((0, 2, 3))).abs().max() < .05 < (got-(1-xf[N:]).mean((0, 2, 3))).abs().max()
    for (xb,), (raw, _) in zip(probe.xbs, rec.raw[-len(probe.xbs):]):
        want = (raw.float()/255-norm.mean)/norm.std
        torch.testing.assert_close(xb.as_subclass(Tensor), want.as_subclass(Tensor), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('given', [lambda *o: list(o), lambda *o: Pipeline(o), lambda *o: [*o, IntToFloatTensor()]])
def test_own_batch_tfms_of_images(digits, given):
    "`batch_tfms` come on top of what makes numbers of pixels, as those of a DataBlock do"
    (fs, x, _y), norm = digits, Normalize.from_stats(*imagenet_stats)
    dls = image_dls(fs, [Count()])
    cb = NoisyStudent(dls.test_dl(fs[N:], with_labels=True), batch_tfms=given(norm))
    _, probe = fit(dls, cnn(), CrossEntropyLossFlat(), cb)
    known = (x.float()/255-norm.mean)/norm.std
    for xb, in probe.xbs: assert ((xb[:, None]-known[None]).abs().amax((2, 3, 4)).amin(1) < 1e-5).all()


def test_whole_numbers_and_floats_are_refused(digits):
    "Pixels of 0 to 255 among pixels of 0 to 1 would train in silence"
    fs, x, y = digits
    dls = image_dls(fs, None)
    for img in (x[N:].float()/255, x[N:].half()):
        dl2 = tensors_dl(img, y[N:], bs=8)
        with pytest.raises(ValueError, match='labeled rows are torch.uint8 and pseudolabeled rows torch.float'):
            fit(dls, cnn(), CrossEntropyLossFlat(), NoisyStudent(dl2))
    xf = DataLoaders(*(DataLoader(list(zip(x[:N].float()/255, y[:N])), bs=BS) for _ in range(2)))
    with pytest.raises(ValueError, match='labeled rows are torch.float32 and pseudolabeled rows torch.uint8'):
        fit(xf, cnn(), CrossEntropyLossFlat(), NoisyStudent(tensors_dl(x[N:], y[N:], bs=8)))


def test_another_size_of_image_is_refused(digits):
    fs, x, y = digits
    dl2 = tensors_dl(x[N:, :, ::2, ::2], y[N:], bs=8)
    with pytest.raises(ValueError, match=r'shape \(3, 16, 16\) and pseudolabeled rows \(3, 8, 8\)'):
        fit(image_dls(fs, None), cnn(), CrossEntropyLossFlat(), NoisyStudent(dl2))


def test_other_classes_are_refused(digits):
    "dl2 of its own vocabulary, with indices that no class has, with too few probabilities, with logits"
    fs, x, y = digits
    dls = image_dls(fs, None)
    odd = [f for f in fs[N:] if int(label(f))%2]
    other = DataBlock((ImageBlock, CategoryBlock), get_y=label).dataloaders(odd, bs=4, num_workers=0).train
    for dl2, msg in [(other, "vocabulary.*'1', '3', '5', '7', '9'.*Build dl2"),
                     (by_torch_hard(dls, fs[N:], x[N:], y[N:]+1)[0], "class index 10, but there are 10 classes"),
                     (tensors_dl(x[N:], probs(N2, 9), bs=8), "soft labels have 9 classes and the Learner 10"),
                     (tensors_dl(x[N:], probs(N2, 10).log(), bs=8), "probabilities that sum to 1")]:
        with pytest.raises(ValueError, match=msg): fit(dls, cnn(), CrossEntropyLossFlat(), NoisyStudent(dl2))


def row_mean(f, pred, y): return f(pred, y, reduction='none').reshape(len(y), -1).mean(1)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('weight', [1, .3])
def test_multi_label(digits, soft, weight):
    "Several labels to an image, in dl2 as lists or with a probability each, whose sum need not be 1"
    (fs, x, y), rec, many = digits, Record(), CategoryMany()
    dls = image_dls(fs, [rec, *aug_transforms()], y_block=MultiCategoryBlock, get_y=many)
    assert list(dls.vocab) == sorted(many.names)
    p = torch.rand(N2, 3, generator=torch.Generator().manual_seed(0)) if soft else many.encode(y[N:], dls.vocab)
    dl2 = tensors_dl(x[N:], p, bs=8) if soft else dls.test_dl(fs[N:], with_labels=True)
    _, probe = fit(dls, cnn(3), BCEWithLogitsLossFlat(), NoisyStudent(dl2, pseudolabel_sample_weight=weight))
    w = torch.tensor([1.]*8 + [weight]*8)
    for (xb, _), yb, pred, loss in zip(rec.raw, probe.ybs, probe.preds, probe.losses):
        want = torch.cat([many.encode(y[:N], dls.vocab)[rows_of(xb[:8], x[:N])], p[rows_of(xb[8:], x[N:])]])
        assert torch.equal(yb.plain(), want)
        torch.testing.assert_close(loss, (row_mean(F.binary_cross_entropy_with_logits, pred, want)*w).sum()/w.sum())


@pytest.mark.parametrize('n_out', [1, 3])
@pytest.mark.parametrize('by', ['files', 'tensors', 'weights'])
def test_regression(digits, n_out, by):
    "One number or several to an image, by files, as tensors, and with a weight for each row"
    (fs, x, y), rec = digits, Record()
    def targets(c): return torch.stack([c*.3, c**2/50, -c*.1][:n_out], -1).float().squeeze(-1)
    dls = image_dls(fs, [rec], y_block=RegressionBlock(n_out), get_y=lambda f: targets(torch.tensor(int(label(f)))))
    y2, w2 = targets(y[N:])+.05, torch.ones(N2)
    if by == 'weights': w2 = torch.rand(N2, generator=torch.Generator().manual_seed(1))
    dl2 = dict(files=lambda: numbers_dl(fs[N:], y2, RegressionBlock(n_out)), tensors=lambda: tensors_dl(x[N:], y2),
               weights=lambda: tensors_dl(x[N:], y2, w2))[by]()
    _, probe = fit(dls, cnn(n_out), MSELossFlat(), NoisyStudent(dl2, pseudolabel_sample_weight=1.5))
    for (xb, _), yb, pred, loss in zip(rec.raw, probe.ybs, probe.preds, probe.losses):
        i, j = rows_of(xb[:8], x[:N]), rows_of(xb[8:], x[N:])
        want, w = torch.cat([targets(y[:N])[i], y2[j]]), torch.cat([torch.ones(8), 1.5*w2[j]])
        torch.testing.assert_close(yb.plain(), want)
        torch.testing.assert_close(loss, (row_mean(F.mse_loss, pred.reshape(want.shape), want)*w).sum()/w.sum())


def test_points_move_with_their_image(tmp_path):
    "A bright pixel in each image is its point; both are flipped and turned together, in labeled and pseudolabeled rows"
    g = torch.Generator().manual_seed(3)
    at, rec = torch.randint(1, 15, (48, 2), generator=g), Record()
    for i, (c, r) in enumerate(at.tolist()):
        img = np.zeros((16, 16), np.uint8)
        img[r, c] = 255
        Image.fromarray(img).save(tmp_path/f'{i:02}.png')
    fs = sorted(tmp_path.iterdir())
    block = DataBlock((ImageBlock, PointBlock), get_y=lambda f: at[int(f.stem)][None].float(),
                      splitter=IndexSplitter(range(8)), batch_tfms=[rec, Dihedral(p=1.)])
    dls = block.dataloaders(fs[:24], bs=8, num_workers=0)
    torch.manual_seed(0)
    _, probe = fit(dls, cnn(2), MSELossFlat(), NoisyStudent(dls.test_dl(fs[24:], with_labels=True)), n_epoch=4)
    def where(x):
        "Columns and rows of the brightest pixels"
        return torch.tensor([divmod(int(o[0].argmax()), 16) for o in x.as_subclass(Tensor)]).flip(1)

    stayed = []
    for (raw, _), (xb,), yb in zip(rec.raw[-len(probe.xbs):], probe.xbs, probe.ybs):
        torch.testing.assert_close(yb.plain()[:, 0], where(xb)/16*2-1, atol=.13, rtol=0)  # a pixel is .125 wide
        stayed += (where(raw) == where(xb)).all(1).tolist()
    assert len(stayed) == 16*8 and sum(stayed) < 48
