"RandAugment against slow plain versions, torchvision and PIL; what moves with an image; real pipelines"
import pickle
from copy import deepcopy
from functools import wraps
from math import atan, degrees

import numpy as np
import pytest
import torch
from fastai.callback import progress  # noqa: F401  (gives a Learner its `no_bar`)
from fastai.callback.core import Callback
from fastai.callback.schedule import SchedLin
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW, TensorMask
from fastai.vision import augment  # noqa: F401  (gives points and boxes their `affine_coord`)
from fastai.vision.core import TensorBBox, TensorPoint, imagenet_stats
from fastai.vision.data import BBoxBlock, BBoxLblBlock, ImageBlock, MaskBlock, PointBlock
from fasttransform import ItemTransform, Pipeline
from noisy_student_fastai.checks import BadType, BadValue
from noisy_student_fastai.noise import images as image_noise
from noisy_student_fastai.noise.images import AffineOp, RandAugment
from noisy_student_fastai.noise.rows import draw_ops
from noisy_student_fastai.student import NoisyStudent
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

OPS = RandAugment.all_ops
WARPS = [k for k, v in OPS.items() if isinstance(v, AffineOp)]
OTHERS = [k for k in OPS if k not in WARPS]


def gen(seed): return torch.Generator().manual_seed(seed)


def pictures(n=1, h=30, w=44, seed=0, c=3):
    "Smooth random pictures in 256 levels"
    x = torch.rand(n, c, 5, 7, generator=gen(seed))
    x = nn.functional.interpolate(x, (h, w), mode='bicubic', align_corners=False).clamp(0, 1)
    return (x*255).round()/255


def noisy(tfm, b, seed=0):
    torch.manual_seed(seed)
    return tfm(b, split_idx=0)


def slowly(tfm, x, seed=0, fill=.5):
    "Row by row, operation by operation"
    torch.manual_seed(seed)
    ops, res = list(tfm.ops.values()), []
    draws = draw_ops(len(x), len(ops), tfm.n, tfm.m, tfm.m_std)
    for r in range(len(x)):
        o = x[r:r+1].clone()
        for d in draws:
            op = ops[d.op[r]]
            if d.m[r] == 0: continue
            kw = dict(fill=fill) if isinstance(op, AffineOp) or op is OPS['Cutout'] else {}
            o = op(o.clone(), d.m[r:r+1], d.u[r:r+1], **kw)
        res.append(o)
    return torch.cat(res)


# A batch

@pytest.mark.parametrize('n,shape,seed', [(1, (9, 3, 300, 400), 0), (3, (20, 3, 64, 96), 0), (3, (20, 3, 64, 96), 1),
                                          *[(2, (70, 3, 12, 17), i) for i in range(4)]])
def test_a_batch_is_its_rows(n, shape, seed):
    x = pictures(shape[0], *shape[2:], seed)
    tfm, before = RandAugment(n, m=7, m_std=2), x.clone()
    y = TensorCategory(torch.arange(len(x)))
    got, y2 = noisy(tfm, (TensorImage(x), y), seed)
    assert torch.equal(x, before) and y2 is y and type(got) is TensorImage and got.dtype == x.dtype
    torch.testing.assert_close(got.as_subclass(Tensor), slowly(tfm, x, seed), atol=1e-5, rtol=0)
    assert torch.equal(noisy(tfm, (TensorImage(x), y), seed)[0], got), "a seed repeats the noise"
    assert not torch.equal(noisy(tfm, (TensorImage(x), y), seed+99)[0], got)
    assert got.min() > -1e-5 and got.max() < 1+1e-5
    assert ((got-x).abs().flatten(1).amax(1) > 0).float().mean() > .7, "rows differ from what they were"


def test_rows_of_magnitude_0_stay():
    x = pictures(60)
    for n, m in ((1, .3), (2, .3), (2, 1e-9)):
        tfm = RandAugment(n, m, m_std=1.)
        got = noisy(tfm, x, 5)
        torch.testing.assert_close(got, slowly(tfm, x, 5), atol=1e-5, rtol=0)
        torch.manual_seed(5)
        still = torch.stack([d.m for d in draw_ops(60, 16, n, m, 1.)]).sum(0) == 0
        assert still.sum() > 5 and torch.equal(got[still], x[still])
    tfm = RandAugment(1, .01, m_std=9)
    one = [noisy(tfm, x[:1], s) for s in range(9)]
    assert any(torch.equal(o, x[:1]) for o in one) and not all(torch.equal(o, x[:1]) for o in one)


@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
@pytest.mark.parametrize('shape', [(20, 3, 96, 80), (9, 1, 150, 130), (6, 3, 224, 224)])
@pytest.mark.parametrize('seed', range(3))
def test_one_by_one_is_the_same_as_together(shape, dtype, seed, monkeypatch):
    "Large images on a CPU go another way than small ones and those on a GPU"
    x, tfm, ways = pictures(*shape[:1], *shape[2:], seed, shape[1]), RandAugment(2, 6, 3), []
    if dtype == torch.uint8: x = (x*255).round().byte()
    for k in ('_one_by_one', '_together'):
        f = getattr(image_noise, k)
        monkeypatch.setattr(image_noise, k, lambda *a, k=k, f=f: ways.append(k) or f(*a))
    got = noisy(tfm, x, seed)
    monkeypatch.setattr(image_noise, '_one_by_one', image_noise._together)
    want = noisy(tfm, x, seed)
    assert ways == ['_one_by_one', '_together'] and got.dtype == want.dtype == dtype
    torch.testing.assert_close(got.float(), want.float(), atol=1 if dtype == torch.uint8 else 1e-6, rtol=0)


@pytest.mark.parametrize('name', OTHERS)
@pytest.mark.parametrize('m', [.5, 6.])
def test_where_an_operation_writes(name, m):
    "To a new place, to one that is given, or over its images, and nowhere else"
    x, f = pictures(5), OPS[name]
    m, u, keep = torch.full((5,), m), torch.rand(5, 3, generator=gen(1)), x.clone()
    want, old = f(x, m, u), torch.full_like(x, float('nan'))
    assert torch.equal(x, keep) and not torch.equal(want, x)
    assert torch.equal(f(x, m, u, old), want) and torch.equal(x, keep)
    assert torch.equal(f(x, m, u, x), want)


@pytest.mark.parametrize('size', [8, 224])
@pytest.mark.parametrize('name', ['Brightness', 'Invert', 'Cutout'])
def test_a_users_operation_that_wraps_one_of_ours(name, size):
    @wraps(OPS[name])
    def half(x, m, u): return OPS[name](x, m, u)*.5
    x, kw = pictures(3, size, size), dict(m_std=0., n=1, m=5)
    want = noisy(RandAugment(ops=[name], **kw), x)*.5
    assert torch.allclose(noisy(RandAugment(ops={'half': half}, **kw), x), want, atol=1e-6)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
def test_large_images_stay_as_they_are(dtype, layout):
    "Those of a user's operation too, which may change what it gets, and return a view of it"
    def turn(x, m, u): return x.mul_(.5).transpose(2, 3)
    x = pictures(16, 80, 80)
    x = ((x*255).round().byte() if dtype == torch.uint8 else x).contiguous(memory_format=layout)
    tfm, keep = RandAugment(3, 6, ops=dict(OPS, turn=turn, also=turn)), x.clone()
    got, small = noisy(tfm, x), x[:, :, :40, :40].float()/(255 if dtype == torch.uint8 else 1)
    assert torch.equal(x, keep) and noisy(tfm, small).shape == small.shape
    torch.manual_seed(0)
    draws, ops = draw_ops(16, len(tfm.ops), 3, 6., .5), list(tfm.ops.values())
    with pytest.MonkeyPatch.context() as p:
        p.setattr(image_noise, '_one_by_one', image_noise._together)
        want = image_noise._under_noise(x, draws, ops, .5, 'bilinear')
    torch.testing.assert_close(got.float(), want.float(), atol=1 if dtype == torch.uint8 else 1e-6, rtol=0)


@pytest.mark.parametrize('shape', [(5, 3, 8, 9), (2, 3, 120, 100), (3, 1, 1, 1)])
def test_both_ways_to_count_levels_are_the_same(shape):
    "Bytes, on a CPU, against 64-bit indices, elsewhere"
    x = pictures(*shape[:1], *shape[2:], c=shape[1])
    q = image_noise._levels(x)
    assert q.dtype == torch.uint8 and torch.equal(q.flatten(), (x*255).round().byte().flatten())
    hist = torch.zeros(*shape[:2], 256).long().scatter_add_(2, q.long(), torch.ones_like(q).long())
    assert torch.equal(image_noise._hist(q), hist)


@pytest.mark.parametrize('shape', [(6, 3, 20, 28), (3, 3, 90, 110)])
@pytest.mark.parametrize('name', WARPS)
@pytest.mark.parametrize('seed', range(2))
def test_nearest_pixels_against_torchvision(shape, name, seed):
    "Each pixel is one of the image's own, the one that `torch`'s own grid points at"
    x, tfm = pictures(*shape[:1], *shape[2:], seed=seed), RandAugment(1, 8, ops=[name], fill=0, mode='nearest')
    res = noisy(tfm, (TensorImage(x),), seed)[0].as_subclass(Tensor)
    torch.manual_seed(seed)
    d = draw_ops(len(x), 1, 1, 8, .5)[0]
    grid = nn.functional.affine_grid(OPS[name].mat(d.m, d.u, *shape[2:]), shape, align_corners=False)
    # the border of two pixels may fall to either side
    assert (res == nn.functional.grid_sample(x, grid, 'nearest', align_corners=False)).float().mean() > .99
    assert all(set(a.flatten().tolist()) <= {0., *b.flatten().tolist()} for a, b in zip(res, x))


def test_modes():
    x = TensorImage(pictures(4))
    assert not torch.equal(*(noisy(RandAugment(ops=['Rotate'], mode=k), (x,))[0] for k in ('bilinear', 'nearest')))
    with pytest.raises(ValueError, match="mode='cubic': expected 'bilinear' or 'nearest'"): RandAugment(mode='cubic')


def test_as_many_threads_as_before():
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = noisy(RandAugment(), (TensorImage(pictures(4, 90, 110)),))[0]
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert torch.equal(two, noisy(RandAugment(), (TensorImage(pictures(4, 90, 110)),))[0])
    finally: torch.set_num_threads(n)


@pytest.mark.parametrize('fill', [0, 1., (.1, .5, .9)])
@pytest.mark.parametrize('name', [*WARPS, 'Cutout'])
def test_fill(name, fill):
    x, tfm = pictures(6), RandAugment(1, 9, 0, [name], fill=fill)
    f = torch.tensor(fill).view(1, -1, 1, 1) if isinstance(fill, tuple) else fill
    got = noisy(tfm, x)
    torch.testing.assert_close(got, slowly(tfm, x, fill=f), atol=1e-5, rtol=0)
    filled = (got-torch.as_tensor(f)).abs().amax(1) < 1e-5
    assert filled.flatten(1).float().mean(1).min() > .03, "some of each image is filled"


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize('name', OPS)
def test_dtypes(name, dtype):
    x = pictures(40, seed=1)
    x2 = (x*255).round().byte() if dtype == torch.uint8 else x.to(dtype)
    tfm = RandAugment(1, 6, .5, [name])
    x2 = x2.as_subclass(TensorImage)  # its constructor makes doubles floats
    got, want = noisy(tfm, x2), noisy(tfm, x2.float()/(255 if dtype == torch.uint8 else 1))
    assert got.dtype == dtype and type(got) is TensorImage
    if dtype == torch.uint8: got = got/255
    most = {torch.uint8: .5/255+1e-6, torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float64: 0}[dtype]
    assert (got.double()-want.double()).abs().max() <= most


def test_bytes_as_a_users_pipeline_has_them():
    x8 = (pictures(8)*255).round().byte()
    got = noisy(RandAugment(), (TensorImage(x8), torch.arange(8)))[0]
    want = noisy(RandAugment(n=2), TensorImage(x8.float()/255))*255
    assert got.dtype == torch.uint8 and (got.float()-want).abs().mean() < 1


# Each operation

def test_names_are_the_papers():
    assert len(OPS) == 16 and len(WARPS) == 5
    assert {*OPS} == {*'''AutoContrast Equalize Invert Rotate Posterize Solarize Color Contrast Brightness Sharpness
                      ShearX ShearY TranslateX TranslateY SolarizeAdd Cutout'''.split()}


def turned(name, o, m, s, size, **kw):
    h, w = size
    kw = dict(angle=0, translate=[0, 0], scale=1., shear=[0, 0], fill=[.3]*3) | kw
    if name == 'Rotate': return TF.affine(o, **kw | dict(angle=-3*m*s))
    if name == 'ShearX': return TF.affine(o, **kw | dict(shear=[degrees(atan(.03*m*s)), 0], center=[0, 0]))
    if name == 'ShearY': return TF.affine(o, **kw | dict(shear=[0, degrees(atan(.03*m*s))], center=[0, 0]))
    # whole pixels only
    by = [round(-s*.045*m*w), 0] if name == 'TranslateX' else [0, round(-s*.045*m*h)]
    return TF.affine(o, **kw | dict(translate=by))


@pytest.mark.parametrize('size', [(40, 40), (20, 60), (60, 40)])
@pytest.mark.parametrize('name', WARPS)
def test_warps_against_torchvision(name, size):
    x = pictures(1, *size)
    for m in (0., 2/.9, 4/.9, 10/.9):  # of the sides: 0, .1, .2, .5
        for s in (-1, 1):
            u = torch.tensor([[(s+1)/2*.9, .3, .3]])
            got = OPS[name](x.clone(), torch.tensor([m]), u, fill=.3)
            kw = dict(interpolation=InterpolationMode.BILINEAR)
            signs = [turned(name, x, m, t, size, **kw) for t in (s, -s)]
            # a sign is drawn: which one a library calls plus does not matter, but the two must differ
            # at the edge torchvision multiplies by the share of the image twice: see the next test
            edge = [turned(name, torch.ones_like(x), m, t, size, fill=[0.]*3, **kw) for t in (s, -s)]
            off = [((got-o).abs()*((e < 1e-6) | (e > 1-1e-6))).max().item() for o, e in zip(signs, edge)]
            assert min(off) < 2e-3, (name, m, s, off)
            if m: assert max(off) > .05
    both = [OPS[name](x.clone(), torch.tensor([5.]), torch.full((1, 3), v)) for v in (.2, .8)]
    assert (both[0]-both[1]).abs().max() > .05


@pytest.mark.parametrize('name', WARPS)
def test_warps_against_a_loop(name):
    "Edges too: what is outside counts as `fill`"
    x, (h, w), m, u = pictures(1, 9, 14, c=1), (9, 14), torch.tensor([7.]), torch.tensor([[.8, 0, 0]])
    got = OPS[name](x.clone(), m, u, fill=.3)[0, 0]
    mat = OPS[name].mat(m, u, h, w)[0].double().numpy()
    for i in range(h):
        for j in range(w):
            a, b = mat @ [(2*j+1)/w-1, (2*i+1)/h-1, 1]
            c, r = ((a+1)*w-1)/2, ((b+1)*h-1)/2
            v = 0
            for q in (int(np.floor(r)), int(np.floor(r))+1):
                for p in (int(np.floor(c)), int(np.floor(c))+1):
                    inside = 0 <= q < h and 0 <= p < w
                    v += (1-abs(r-q))*(1-abs(c-p))*(x[0, 0, q, p].item() if inside else .3)
            assert abs(v-got[i, j].item()) < 1e-5


@pytest.mark.parametrize('size', [(16, 16), (12, 31)])
@pytest.mark.parametrize('seed', range(3))
def test_cutout_against_a_loop(size, seed):
    x = pictures(9, *size, seed)
    m, u = torch.rand(9, generator=gen(seed))*20, torch.rand(9, 3, generator=gen(seed+9))
    got, want = OPS['Cutout'](x.clone(), m, u, fill=.25), x.clone()
    for k in range(9):
        half = m[k].item()*4/224*min(size)
        for i in range(size[0]):
            for j in range(size[1]):
                far = abs(i+.5-u[k, 1].item()*size[0]), abs(j+.5-u[k, 2].item()*size[1])
                if max(far) < half: want[k, :, i, j] = .25
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_cutout_is_the_papers_square():
    "At 224 pixels and magnitude 10: 80 x 80"
    got = OPS['Cutout'](torch.ones(1, 3, 224, 224), torch.tensor([10.]), torch.full((1, 3), .5), fill=0)
    assert (got == 0).sum() == 3*80*80


@pytest.mark.parametrize('name', [o for o in OTHERS if o not in ('AutoContrast', 'Equalize', 'Invert')])
def test_stronger_with_m(name):
    x = pictures(1, 60, 60)
    for u in (.2, .8):
        ds = [(OPS[name](x.clone(), torch.tensor([m]), torch.tensor([[u, .5, .5]]))-x).abs().mean().item()
              for m in (0., 1., 2., 4., 6., 8., 10., 15., 20.)]
        assert ds[0] < 2e-6 and all(a <= b+1e-6 for a, b in zip(ds, ds[1:])) and ds[6] > .002, ds
        white = torch.ones(1, 3, 8, 8)
        assert torch.equal(OPS[name](white.clone(), torch.zeros(1), torch.tensor([[u, .5, .5]])), white)


@pytest.mark.parametrize('name', WARPS)
def test_warps_grow_with_m(name):
    eye = torch.tensor([[1., 0, 0], [0, 1, 0]])
    for u in (.2, .8):
        mats = OPS[name].mat(torch.arange(0., 30, 2), torch.full((15, 3), u), 30, 40)
        ds = (mats-eye).flatten(1).norm(dim=1)
        assert ds[0] == 0 and (ds[1:] > ds[:-1]).all()


@pytest.mark.parametrize('name', OTHERS)
@pytest.mark.parametrize('c', [1, 3, 4])
def test_channels(name, c):
    x = pictures(5, c=c)
    if name == 'Color' and c != 3:
        with pytest.raises(ValueError, match=f"of {c} channels have no color"): noisy(RandAugment(ops=['Color']), x)
        got = noisy(RandAugment(30, 6, ops=['Color', 'Invert']), x)
        torch.testing.assert_close(got, x, atol=1e-5, rtol=0)  # 30 times inverted
        return
    got = noisy(RandAugment(1, 6, 0, [name]), x)
    assert got.shape == x.shape
    if name not in ('Color', 'Contrast', 'Cutout'):  # each channel on its own
        one = torch.cat([noisy(RandAugment(1, 6, 0, [name]), x[:, i:i+1]) for i in range(c)], 1)
        torch.testing.assert_close(got, one)
    tiny = pictures(3, 1, 2, c=c)
    assert noisy(RandAugment(2, 6, ops=[name]), tiny).shape == tiny.shape


# What moves along

def dot(y, x, h, w):
    "A bright dot at (y, x), from -1 to 1"
    i, j = ((torch.arange(n)*2+1)/n-1 for n in (h, w))
    return torch.exp(-(((i[:, None]-y)*h)**2+((j-x)*w)**2)/2/4**2)[None].expand(3, -1, -1)


@pytest.mark.parametrize('size', [(64, 64), (48, 80)])
@pytest.mark.parametrize('seed', range(3))
def test_points_and_boxes_move_with_their_image(size, seed):
    n, (h, w) = 30, size
    p = torch.rand(n, 1, 2, generator=gen(seed))*.5-.25
    x = torch.stack([dot(o[0, 1], o[0, 0], h, w) for o in p])
    box = torch.cat([p-.1, p+.1], 2)
    tfm = RandAugment(3, 3, .5, WARPS+['Cutout'], fill=0)
    tfm.ops['Cutout'] = lambda x, m, u: x  # moves nothing
    b = TensorImage(x), TensorPoint(p, img_size=(w, h)), TensorBBox(box, img_size=(w, h))
    img, p2, box2 = noisy(tfm, b, seed)
    assert type(p2) is TensorPoint and type(box2) is TensorBBox and p2.img_size == box2.img_size == (w, h)
    img, p2, box2 = (o.as_subclass(Tensor) for o in (img, p2, box2))
    i, j = ((torch.arange(k)*2+1)/k-1 for k in (h, w))
    mass = img[:, 0]/img[:, 0].sum((1, 2), keepdim=True)
    center = torch.stack([(mass*j).sum((1, 2)), (mass*i[:, None]).sum((1, 2))], 1)
    inside = p2[:, 0].abs().amax(1) < .7
    assert inside.sum() > 15
    torch.testing.assert_close(center[inside], p2[inside, 0], atol=.02, rtol=0)
    assert ((p2-p).abs().amax((1, 2)) > .02).float().mean() > .6
    torch.testing.assert_close((box2[..., :2]+box2[..., 2:])/2, p2, atol=1e-4, rtol=0)
    still = (p2-p).abs().amax((1, 2)) < 1e-6
    torch.testing.assert_close(box2[still], box[still], atol=1e-5, rtol=0)
    size2 = (box2[..., 2:]-box2[..., :2])[:, 0]
    assert (size2 > .199).all() and (size2[~still] > .2+1e-3).any(), "a box holds its moved corners"


@pytest.mark.parametrize('shape', ['n h w', 'n 1 h w'])
@pytest.mark.parametrize('seed', range(3))
def test_masks_against_torchvision(shape, seed):
    n, h, w = 24, 41, 56
    x = pictures(n, h, w, seed)
    mask = TensorMask((x[:, 0]*7).long())
    if shape == 'n 1 h w': mask = mask[:, None]
    mask.codes, before = ['some', 'codes'], mask.clone()
    tfm = RandAugment(2, 8, 0, ['Rotate', 'Invert', 'ShearX', 'Cutout'], mask_fill=9)
    img, got = noisy(tfm, (TensorImage(x), mask), seed)
    assert type(got) is TensorMask and got.dtype == mask.dtype and got.shape == mask.shape and got.codes == mask.codes
    assert torch.equal(mask, before)
    torch.manual_seed(seed)
    draws = draw_ops(n, 4, 2, 8, 0)
    for r in range(n):
        o = before[r].as_subclass(Tensor).float().view(1, 1, h, w)
        for d in draws:
            name = list(tfm.ops)[d.op[r]]
            # u below .5 is minus here; torchvision's plus turns the other way
            if name not in WARPS: continue
            s = -1 if d.u[r, 0] < .5 else 1
            o = turned(name, o, 8, s, (h, w), fill=[9.], interpolation=InterpolationMode.NEAREST)
        same = (o.view(h, w) == got[r].as_subclass(Tensor).view(h, w)).float().mean()
        assert same > .98, (r, same, [list(tfm.ops)[d.op[r]] for d in draws])
    assert (got == 9).any() and not (before == 9).any()


def test_a_mask_stays_on_its_image():
    x = pictures(40, 48, 48)
    mask = TensorMask((x[:, 0] > .5).long())
    img, got = noisy(RandAugment(2, 6, ops=WARPS, fill=0), (TensorImage(x), mask))
    agree = ((img[:, 0].as_subclass(Tensor) > .5) == got.bool()).float().mean((1, 2))
    assert agree.min() > .93 and agree.mean() > .97
    img, got = noisy(RandAugment(2, 6, ops=OTHERS), (TensorImage(x), mask))
    assert torch.equal(got, mask)


def test_masks_of_bytes():
    b = (TensorImage(pictures(8)), TensorMask(torch.ones(8, 30, 44, dtype=torch.uint8)))
    got = noisy(RandAugment(1, 9, ops=['TranslateX'], mask_fill=255), b)[1]
    assert got.dtype == torch.uint8 and {*got.unique().tolist()} == {1, 255}
    with pytest.raises(ValueError, match="mask_fill=-100: expected what a mask of torch.uint8 can hold, 0 to 255"):
        noisy(RandAugment(1, 9, ops=['TranslateX'], mask_fill=-100), b)


@pytest.mark.parametrize('fill', [0, -100])
def test_soft_masks_lose_all_classes_outside(fill):
    "As `NoisyStudent` hands them over: whole numbers, one map for each class"
    p = (torch.rand(12, 3, 20, 20, generator=gen(0)).softmax(1)*65535).round().long()
    b = TensorImage(pictures(12, 20, 20)), TensorMask(p)
    got = noisy(RandAugment(1, 9, ops=['TranslateX'], mask_fill=fill), b)[1]
    total = got.as_subclass(Tensor).sum(1)
    assert ((total == 0) | ((total-65535).abs() < 3)).all() and (total == 0).any() and (total > 0).any()


def test_images_of_a_row_get_the_same_draw():
    x = pictures(10)
    a, b, y = noisy(RandAugment(), (TensorImage(x), TensorImage(x.clone()), torch.arange(10)))
    assert torch.equal(a, b) and torch.equal(y, torch.arange(10)) and not torch.equal(a, x)
    b = noisy(RandAugment(), ((TensorImage(x), TensorImage(x.clone())), TensorCategory(torch.arange(10))))
    assert type(b) is tuple and type(b[0]) is tuple and torch.equal(b[0][0], a) and torch.equal(b[0][1], a)
    gray = TensorImageBW(x[:, :1].contiguous())  # then there is no `Color`
    half = noisy(RandAugment(), (TensorImage(x), gray))
    assert half[1].shape == (10, 1, 30, 44) and type(half[1]) is TensorImageBW
    half = noisy(RandAugment(1, ops=['Color', 'Invert']), (TensorImage(x), gray))
    torch.testing.assert_close(half[0].as_subclass(Tensor), 1-x)


def test_plain_tensors():
    x = pictures(10)
    got = noisy(RandAugment(), (x, x.clone()))
    assert type(got[0]) is Tensor and not torch.equal(got[0], x)
    assert torch.equal(got[1], x), "only the first is an image"
    assert torch.equal(noisy(RandAugment(), x), got[0])
    assert torch.equal(noisy(RandAugment(), (x,))[0], got[0]) and len(noisy(RandAugment(), (x,))) == 1


def test_values_are_looked_at():
    x = pictures(4)
    for bad in (x*255, (x-.5)/.25, x*float('nan')):
        tfm = RandAugment()
        noisy(tfm, x)
        with pytest.raises(ValueError, match='images hold values from .*: expected 0 to 1'): noisy(tfm, bad)
    noisy(RandAugment(), x*1.05-.02)  # a little overshoot


def test_nothing_waits_for_the_device():
    "On a device that has no values, a look at one is an error"
    x, tfm = pictures(32, 16, 16), RandAugment(2, 6)
    ops = list(tfm.ops.values())
    draws = draw_ops(32, 16, 2, 6., .5)
    assert len({i for d in draws for i, _ in d.slices()}) == 16, "all operations are tried"
    src = x.to('meta')
    with pytest.raises(Exception): src.max().item()
    with pytest.raises(Exception): src.nonzero()
    for fill in (.5, (.1, .2, .3)): assert image_noise._under_noise(src, draws, ops, fill, 'nearest').shape == x.shape
    mask = torch.empty(32, 16, 16, device='meta', dtype=torch.long).as_subclass(TensorMask)
    assert image_noise._moved_mask(mask, draws, ops, (16, 16), 0).shape == mask.shape


# Copies

def test_copies():
    x, tfm = pictures(6), RandAugment(n=3, m=9, ops=['Rotate', 'Color', 'Cutout'], fill=(.1, .2, .3))
    want = noisy(tfm, x)
    for new in (deepcopy(tfm), pickle.loads(pickle.dumps(tfm))): assert torch.equal(noisy(new, x), want)
    assert '3 operations' in repr(tfm) and repr(OPS['Rotate']) == 'AffineOp(_rotate)'


# Real pipelines

N, BS, SZ = 24, 8, 24


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Bright discs on dark ground, each with its mask; the file's name says where it is and how large"
    path, fs, g = tmp_path_factory.mktemp('discs'), [], np.random.default_rng(0)
    i, j = np.mgrid[:SZ, :SZ]+.5
    for k in range(N):
        y, x, r = g.integers(8, SZ-8, 2).tolist() + [int(g.integers(3, 6))]
        on = np.hypot(i-y, j-x) < r
        f = path/f'{k:02}_{x}_{y}_{r}.png'
        Image.fromarray(np.where(on, 230, 40).astype(np.uint8)).convert('RGB').save(f)
        Image.fromarray(on.astype(np.uint8)).save(f.with_suffix('.mask.png'))
        fs.append(f)
    return fs


def numbers(f): return [int(o) for o in f.stem.split('_')]
def small(f): return 'small' if numbers(f)[3] < 4 else 'large'
def mask_of(f): return f.with_suffix('.mask.png')
def center(f): return torch.tensor([numbers(f)[1:3]]).float()
def box(f): return [[x-r, y-r, x+r, y+r] for _, x, y, r in [numbers(f)]]


BLOCKS = dict(category=dict(blocks=(ImageBlock, CategoryBlock), get_y=small),
              mask=dict(blocks=(ImageBlock, MaskBlock(['nothing', 'disc'])), get_y=mask_of),
              point=dict(blocks=(ImageBlock, PointBlock), get_y=center),
              box=dict(blocks=(ImageBlock, BBoxBlock, BBoxLblBlock), get_y=[box, lambda f: [small(f)]], n_inp=1))


def block_dls(files, kind, *tfms):
    block = DataBlock(**BLOCKS[kind], splitter=IndexSplitter(range(8)),
                      batch_tfms=[*tfms, Normalize.from_stats(*imagenet_stats)])
    return block.dataloaders(files, bs=BS, num_workers=0)


@pytest.mark.parametrize('kind', BLOCKS)
def test_blocks(files, kind):
    dls = block_dls(files, kind, RandAugment(2, 4, ops=WARPS, fill=0))
    names = [type(o).__name__ for o in dls.train.after_batch.fs]
    assert names.index('IntToFloatTensor') < names.index('RandAugment') < names.index('Normalize')
    torch.manual_seed(0)
    for _ in range(3):
        b = dls.train.one_batch()
        img = dls.train.after_batch.fs[-1].decode(b[0]).as_subclass(Tensor)[:, 0]
        on = img > .53
        i, j = ((torch.arange(SZ)*2+1)/SZ-1 for _ in range(2))
        some = on.flatten(1).any(1)
        whole = some & ~(on[:, 0].any(1) | on[:, -1].any(1) | on[:, :, 0].any(1) | on[:, :, -1].any(1))
        assert whole.sum() >= 2
        if kind == 'mask': assert (b[1].bool().as_subclass(Tensor) == on).float().mean() > .95
        for k in whole.nonzero()[:, 0].tolist():
            jj, ii = (o.expand(SZ, SZ)[on[k]] for o in (j, i[:, None]))
            if kind == 'point':
                got = b[1].as_subclass(Tensor)[k].view(-1, 2)[0]
                torch.testing.assert_close(got, torch.stack([jj.mean(), ii.mean()]), atol=.06, rtol=0)
            if kind == 'box':
                x0, y0, x1, y1 = b[1].as_subclass(Tensor)[k, 0].tolist()
                assert x0-.06 < jj.min() and jj.max() < x1+.06 and y0-.06 < ii.min() and ii.max() < y1+.06
                assert abs((x0+x1)/2-jj.mean()) < .09 and abs((y0+y1)/2-ii.mean()) < .09
    valid = dls.valid.one_batch()
    plain = block_dls(files, kind).valid.one_batch()
    assert all(torch.equal(o, p) for o, p in zip(valid, plain)), "no noise in validation"


def net(kind):
    torch.manual_seed(0)
    if kind == 'mask': return nn.Conv2d(3, 2, 3, padding=1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize('kind', ['category', 'mask', 'point'])
def test_trains(files, kind, tmp_path):
    dls = block_dls(files, kind, RandAugment())
    lf = MSELossFlat() if kind == 'point' else CrossEntropyLossFlat(axis=1 if kind == 'mask' else -1)
    learn = Learner(dls, net(kind), loss_func=lf, path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert np.isfinite(learn.recorder.losses[-1])
    learn.export('l.pkl')
    x = TensorImage(pictures(BS, SZ, SZ))
    want = noisy(dls.train.after_batch.fs[-2], x)
    for o in (deepcopy(dls), load_learner(tmp_path/'l.pkl').dls):
        assert torch.equal(noisy(o.train.after_batch.fs[-2], x), want)


class Items(list):
    def new_empty(self): return Items()


def test_exports(tmp_path):
    items = Items((TensorImage(o), TensorCategory(i % 2)) for i, o in enumerate(pictures(16)))
    tfm = RandAugment(n=3, m=SchedLin(2, 8), m_std=0, ops=['Rotate', 'Cutout', 'Posterize'], fill=(.1, .2, .3))
    dls = DataLoaders(*(TfmdDL(items, bs=4, after_batch=[tfm], num_workers=0) for _ in range(2)))
    Learner(dls, net('category'), loss_func=CrossEntropyLossFlat(), path=tmp_path).export('l.pkl')
    new = load_learner(tmp_path/'l.pkl').dls.train.after_batch.fs[0]
    x = pictures(9)
    assert new.m == 8 and torch.equal(noisy(new, x), noisy(RandAugment(3, 8, 0, list(tfm.ops), fill=tfm.fill), x))


class Count(ItemTransform):
    "How large the batches are, just before the noise"
    order, split_idx = 34, 0
    def __init__(self): self.seen = []

    def encodes(self, b):
        self.seen.append(b[0].clone())
        return b


@pytest.mark.parametrize('kind', ['category', 'mask'])
def test_runs_once_on_the_joined_batch(files, kind):
    count = Count()
    dls = block_dls(files[:16], kind, count, RandAugment(1, 5, ops=['Invert']))
    dl2 = dls.test_dl(files[16:], with_labels=True)
    xs = []

    class Look(Callback):
        order = 49
        def before_batch(self):
            if self.training: xs.append(self.x.clone())
    lf = CrossEntropyLossFlat(axis=1 if kind == 'mask' else -1)
    learn = Learner(dls, net(kind), loss_func=lf, cbs=[NoisyStudent(dl2), Look()])
    count.seen.clear()
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(xs) == len(count.seen) > 0 and all(len(o) == BS for o in xs)
    norm = Pipeline([Normalize.from_stats(*imagenet_stats)])
    for x, raw in zip(xs, count.seen): torch.testing.assert_close(x, norm(TensorImage(1-raw)), atol=1e-4, rtol=0)


@pytest.mark.parametrize('dtype, fill', [
    (torch.bool, 0), (torch.bool, 1), (torch.uint8, 255), (torch.int64, -100), (torch.int64, 2**15)])
def test_masks_hold_what_they_can(dtype, fill):
    "Ids beyond what single precision can tell apart move as they are"
    x = torch.rand(12, 3, 8, 8)
    y = torch.randint(2, (12, 8, 8)).to(dtype)
    if dtype is torch.int64: y = y+2**24
    tfm = RandAugment(m=8, ops=['Rotate', 'TranslateX', 'ShearY'], mask_fill=fill)
    got = tfm((TensorImage(x), TensorMask(y)), split_idx=0)[1]
    assert got.dtype == dtype and set(got.unique().tolist()) <= {*y.unique().tolist(), fill} and (got != y).any()
    big = 300 if dtype is torch.uint8 else 2
    if dtype is torch.int64: return
    with pytest.raises(ValueError, match=f'mask_fill={big}: expected what a mask of'):
        RandAugment(m=8, ops=['Rotate'], mask_fill=big)((TensorImage(x), TensorMask(y)), split_idx=0)


def test_batches_that_do_not_fit():
    x = TensorImage(torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match='batches of .4, 3.: expected one length'):
        RandAugment()((x, x[:3], 0), split_idx=0)
    assert RandAugment()((x[:0], torch.zeros(0)), split_idx=0)[0].shape == (0, 3, 8, 8)
    said = 'ops=.1, 1, 8, 8.: expected an operation that keeps the shape, .1, 3, 8, 8.'
    with pytest.raises(ValueError, match=said):
        RandAugment(n=1, ops=dict(gray=lambda x, m, u: x[:, :1]))((x[:1],), split_idx=0)


@pytest.mark.parametrize('fill', [np.array([.1, .2, .3]), torch.tensor([.1, .2, .3]), [.1, .2, .3]])
def test_fills_of_all_kinds(fill):
    x = TensorImage(torch.full((5, 3, 8, 8), .9))
    got = RandAugment(n=1, m=20, m_std=0, ops=['TranslateX'], fill=fill)((x,), split_idx=0)[0]
    assert [round(o, 3) for o in got[:, 1].unique().tolist()] == [.2, .9]


def picture(*shape): return TensorImage(torch.rand(*shape))


@pytest.mark.parametrize('kw, b, error, key, value', [
    ({}, (picture(2, 3, 8, 8), picture(3, 3, 8, 8)), BadValue, 'batch', [2, 3]),
    ({}, (picture(3, 8, 8),), BadValue, 'batch', (3, 8, 8)),
    ({}, (picture(2, 3, 8, 8).long(),), BadType, 'batch', torch.int64),
    ({}, (picture(2, 3, 8, 8)*0-.5,), BadValue, 'batch', (-.5, -.5)),
    ({}, (TensorCategory(torch.arange(2)),), BadType, 'batch', 'TensorCategory'),
    (dict(fill=(.1, .2)), (picture(2, 3, 8, 8),), BadValue, 'fill', (.1, .2)),
    (dict(ops=['Color']), (picture(2, 1, 8, 8),), BadValue, 'ops', ['Color'])])
def test_errors_have_fields(kw, b, error, key, value):
    with pytest.raises(error) as e: RandAugment(**kw)(b, split_idx=0)
    assert (e.value.argument, e.value.value) == (key, value)


@pytest.mark.parametrize('key, value', [('fill', ()), ('fill', 'gray'), ('mask_fill', .5), ('mode', 'cubic')])
def test_arguments_that_are_wrong(key, value):
    with pytest.raises((BadValue, BadType), match=f'^{key}=') as e: RandAugment(**{key: value})
    assert (e.value.argument, e.value.value) == (key, value)
