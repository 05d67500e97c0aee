"Images with masks: a mask can be computed from its image, so that the two can be compared after any transform"
import pytest
import torch
from data_helpers import Record, fit, fit_plain, rows_of, same_weights, tensors_dl
from fastai.data.transforms import Normalize
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorImage, TensorMask
from fastai.vision.augment import Dihedral, aug_transforms
from fastai.vision.core import imagenet_stats
from mask_toys import BS, N2, SZ, N, by_files, by_soft, hard, mask_dls, soft
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from torch import Tensor, nn
from torch.nn import functional as F


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))


def by_hard(dls, fs, x): return tensors_dl(x[N:], hard(x[N:, 0]), bs=4)
def by_half(dls, fs, x): return tensors_dl(x[N:], soft(x[N:, 0]).half(), bs=4)


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('way', [by_files, by_hard, by_soft, by_half])
def test_masks_move_with_their_image(discs, way, seed):
    "Flips and quarter turns are exact: a mask that was not turned, or turned another way, would differ from its image"
    (fs, x), rec = discs, Record()
    dls = mask_dls(fs, [rec, Dihedral(p=1.)])
    _, probe = fit(dls, net(), CrossEntropyLossFlat(axis=1), NoisyStudent(way(dls, fs, x)), n_epoch=3)
    is_soft, stayed = way in (by_soft, by_half), []
    for (raw, _), (xb,), yb in zip(rec.raw, probe.xbs, probe.ybs):
        assert type(xb) is TensorImage and type(yb) is RowTargets and yb.soft == is_soft
        img, y = (xb.as_subclass(Tensor)[:, 0]*255).round(), yb.plain()
        stayed += (raw[:, 0] == img).flatten(1).all(1).tolist()
        want = hard(img)
        if not is_soft: assert torch.equal(y.long(), want)
        else:
            want = torch.cat([F.one_hot(want[:4], 2).permute(0, 3, 1, 2).float(), soft(img[4:])])
            torch.testing.assert_close(y, want, atol=1e-5 if way is by_soft else 1e-3, rtol=0)
    assert len(stayed) == 12*BS and sum(stayed) < 40


@pytest.mark.parametrize('way', [by_files, by_soft])
def test_masks_stay_on_their_image_under_augmentation(discs, way):
    "Turning by any angle, zoom and warp interpolate: image and mask agree but for the edge"
    (fs, x), rec = discs, Record()
    dls = mask_dls(fs, [rec, *aug_transforms(max_lighting=0, max_rotate=45., min_zoom=1., max_zoom=1.3, p_affine=1.)])
    torch.manual_seed(0)
    _, probe = fit(dls, net(), CrossEntropyLossFlat(axis=1), NoisyStudent(way(dls, fs, x)), n_epoch=3)
    agree, apart = [], []
    for (raw, _), (xb,), yb in zip(rec.raw, probe.xbs, probe.ybs):
        y = yb.plain()[:, 1] > .5 if yb.soft else yb.plain().bool()
        agree.append(((xb.as_subclass(Tensor)[:, 0] > .5) == y).float().mean((1, 2)))
        apart.append((hard(raw[:, 0]).bool() == y).float().mean((1, 2)))
        if yb.soft: torch.testing.assert_close(yb.plain().sum(1), torch.ones(BS, SZ, SZ), atol=1e-3, rtol=0)
    agree, apart = torch.cat(agree), torch.cat(apart)
    assert agree.min() > .93 and agree.mean() > .97 > apart.mean()+.05
    assert all((o[:4].mean()-o[4:].mean()).abs() < .03 for o in agree.split(BS)), "both kinds alike"


@pytest.mark.parametrize('way', [by_files, by_hard, by_soft])
def test_equals_a_plain_learner(discs, way):
    (fs, x), rec = discs, Record()
    dls = mask_dls(fs, [rec, Dihedral(p=1.), Normalize.from_stats(*imagenet_stats)])
    student, probe = fit(dls, net(), CrossEntropyLossFlat(axis=1), NoisyStudent(way(dls, fs, x)))
    is_soft, raw, batches = way is by_soft, list(rec.raw), []
    for xb, _ in raw:
        i, j = rows_of(xb[:4], x[:N]), rows_of(xb[4:], x[N:])
        img = torch.cat([x[:N][i], x[N:][j]])
        batches.append((TensorImage(img), TensorMask(hard(img[:, 0])) if not is_soft else None))
    if is_soft:  # torch's own loss takes probabilities; their transforms are checked above
        batches = [(xb, y.plain()) for (xb,), y in zip(probe.xbs, probe.ybs)]
    rec.raw.clear()
    lf = nn.CrossEntropyLoss() if is_soft else CrossEntropyLossFlat(axis=1)
    plain, _ = fit_plain(batches, net(), lf, () if is_soft else dls.train.after_batch.fs)
    assert same_weights(student.model, plain.model, atol=1e-5)


@pytest.mark.parametrize('weight', [0, .3, 2.5])
def test_a_mask_counts_as_one_row(discs, weight):
    "The loss of an image is the mean over its pixels, then come the weights"
    (fs, x), rec = discs, Record()
    w2 = torch.rand(N2, generator=torch.Generator().manual_seed(0))
    dl2 = tensors_dl(x[N:], soft(x[N:, 0]), w2, bs=4)
    dls = mask_dls(fs, [rec])
    _, probe = fit(dls, net(), CrossEntropyLossFlat(axis=1), NoisyStudent(dl2, pseudolabel_sample_weight=weight))
    for (raw, _), pred, loss in zip(rec.raw, probe.preds, probe.losses):
        logp, p = F.log_softmax(pred, 1), soft(raw[4:, 0])
        ls = [F.nll_loss(logp[[i]], hard(raw[[i], 0])) for i in range(4)]
        ls += [-(p[i]*logp[4+i]).sum(0).mean() for i in range(4)]
        w = torch.cat([torch.ones(4), weight*w2[rows_of(raw[4:], x[N:])]])
        torch.testing.assert_close(loss, (torch.stack(ls)*w).sum()/w.sum())
