"Model noise against forward passes written by hand, binomial bounds, timm's own rates, and models as they were before"
import pickle
import warnings
from copy import deepcopy
from functools import partial

import pytest
import timm
import torch
from fastai.callback.core import Callback
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders, TfmdDL
from fastai.layers import ResBlock
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.tabular.model import TabularModel
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import get_text_classifier
from fastai.vision.learner import create_head
from fastai.vision.models.xresnet import xresnet18
from noisy_student_fastai.app.array_inputs import image_model
from noisy_student_fastai.checks import ArgumentError
from noisy_student_fastai.noise import models as model_noise
from noisy_student_fastai.noise.models import ModelNoise, noise_model
from torch import nn
from torch.nn.functional import relu
from torchvision import models as tv
from torchvision.models import (
    convnext,
    efficientnet,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    swin_transformer,
    video,
    vision_transformer,
)

SEEDS = range(3)


def norms_eval(m):
    "Training mode, but for batchnorm, whose outputs would hang on all rows, and spectral norm, which changes weights"
    m.train()
    for o in m.modules():
        if isinstance(o, nn.modules.batchnorm._BatchNorm) or hasattr(o, 'weight_u'): o.eval()
    return m


def randomize(m):
    "No weight or statistic is 0 or 1: a branch that starts as zero would hide that it is dropped"
    for k, o in m.state_dict().items():
        if o.is_floating_point(): o.uniform_(.2, .6) if 'var' in k else o.normal_(0, .25)
    return m


def scales(n, keeps):
    "What each row of a branch is multiplied by, as drawn by the next random numbers"
    for keep in keeps: yield lambda x: x*((torch.rand(n) < keep).float()/keep).view(-1, *[1]*(x.ndim-1))


def snapshot(m):
    "All that hangs on a model: attributes of all its modules, by identity, and their values if numbers"
    def val(o):
        if isinstance(o, dict): return {k: val(v) for k, v in o.items()}
        return o if isinstance(o, (int, float, str, bool, type(None))) else id(o)
    return {n: (type(o), list(o._modules), {k: val(v) for k, v in vars(o).items() if not isinstance(v, torch.Tensor)})
            for n, o in m.named_modules()}


class Skip(nn.Module):
    "The simplest residual block"
    def __init__(self, n=4):
        super().__init__()
        self.branch = nn.Linear(n, n)

    def forward(self, x): return x + self.branch(x)


MINE = {Skip: 'branch'}


def skips(n=3, drop=None, head=True):
    drops = [] if drop is None else [nn.Dropout(drop)]
    return nn.Sequential(*[Skip() for _ in range(n)], *drops, *[nn.Linear(4, 2)]*head)


def quiet_noise(model, **kw):
    "`noise_model` where a warning may be right"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return noise_model(model, **kw)


# Blocks by hand: in training, with the same draws

def tv_basic(m, x, s):
    y = m.bn2(m.conv2(relu(m.bn1(m.conv1(x)))))
    return relu(next(s)(y) + (m.downsample or (lambda o: o))(x))


def tv_bottle(m, x, s):
    y = m.bn3(m.conv3(relu(m.bn2(m.conv2(relu(m.bn1(m.conv1(x))))))))
    return relu(next(s)(y) + m.downsample(x))


def tv_vit(m, x, s):
    y = m.ln_1(x)
    x = x + next(s)(m.self_attention(y, y, y, need_weights=False)[0])
    return x + next(s)(m.mlp(m.ln_2(x)))


def timm_basic(m, x, s): return relu(next(s)(m.bn2(m.conv2(relu(m.bn1(m.conv1(x)))))) + x)


def timm_vit(m, x, s):
    x = x + next(s)(m.attn(m.norm1(x)))
    return x + next(s)(m.mlp(m.norm2(x)))


def timm_ir(m, x, s): return x + next(s)(m.bn3(m.conv_pwl(m.se(m.bn2(m.conv_dw(m.bn1(m.conv_pw(x))))))))


def timm_convnext(m, x, s):
    y = m.mlp(m.norm(m.conv_dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return x + next(s)(y*m.gamma.view(1, -1, 1, 1))


def swin(m, x, s):
    x = x + next(s)(m.attn(m.norm1(x)))
    return x + next(s)(m.mlp(m.norm2(x)))


img = partial(torch.randn, 40, 8, 6, 6)
clip = partial(torch.randn, 40, 8, 3, 4, 4)
tokens = partial(torch.randn, 40, 5, 8)
norm2d = partial(nn.BatchNorm2d)


def timm_block(name):
    from timm.models import _efficientnet_blocks, convnext, resnet, vision_transformer
    return dict(basic=lambda: resnet.BasicBlock(8, 8), vit=lambda: vision_transformer.Block(8, 2),
                ir=lambda: _efficientnet_blocks.InvertedResidual(8, 8),
                convnext=lambda: convnext.ConvNeXtBlock(8, ls_init_value=.5))[name]()


def down(): return nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))


HAND = {
    'tv resnet': (lambda: resnet.BasicBlock(8, 8), img, tv_basic),
    'tv resnet, down': (lambda: resnet.BasicBlock(8, 16, downsample=down()), img, tv_basic),
    'tv bottleneck': (lambda: resnet.Bottleneck(8, 4, downsample=down()), img, tv_bottle),
    'tv video': (lambda: video.resnet.BasicBlock(8, 8, video.resnet.Conv3DSimple), clip,
                 lambda m, x, s: relu(next(s)(m.conv2(m.conv1(x))) + x)),
    'tv video bottleneck': (lambda: video.resnet.Bottleneck(8, 2, video.resnet.Conv3DSimple), clip,
                            lambda m, x, s: relu(next(s)(m.conv3(m.conv2(m.conv1(x)))) + x)),
    'tv mobilenetv2': (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 2), img, lambda m, x, s: x + next(s)(m.conv(x))),
    'tv mobilenetv3': (lambda: mobilenetv3.InvertedResidual(
        mobilenetv3.InvertedResidualConfig(8, 3, 16, 8, True, 'RE', 1, 1, 1), norm2d), img,
        lambda m, x, s: x + next(s)(m.block(x))),
    'tv mnasnet': (lambda: mnasnet._InvertedResidual(8, 8, 3, 1, 2), img, lambda m, x, s: x + next(s)(m.layers(x))),
    'tv regnet': (lambda: regnet.ResBottleneckBlock(8, 16, 2, norm2d, nn.ReLU, 8), img,
                  lambda m, x, s: relu(m.proj(x) + next(s)(m.f(x)))),
    'tv vit': (lambda: vision_transformer.EncoderBlock(2, 8, 16, 0., 0.), tokens, tv_vit),
    'tv efficientnet': (lambda: efficientnet.MBConv(efficientnet.MBConvConfig(2, 3, 1, 8, 8, 1), .1, norm2d), img,
                        lambda m, x, s: next(s)(m.block(x)) + x),
    'tv convnext': (lambda: convnext.CNBlock(8, 1., 0.), img, lambda m, x, s: next(s)(m.layer_scale*m.block(x)) + x),
    'tv swin': (lambda: swin_transformer.SwinTransformerBlock(8, 2, [2, 2], [0, 0]),
                partial(torch.randn, 40, 4, 4, 8), swin),
    'fastai': (lambda: ResBlock(1, 8, 16, stride=2), img, lambda m, x, s: relu(next(s)(m.convpath(x)) + m.idpath(x))),
    'fastai bottleneck': (lambda: ResBlock(4, 2, 2), img, lambda m, x, s: relu(next(s)(m.convpath(x)) + m.idpath(x))),
    'timm resnet': (lambda: timm_block('basic'), img, timm_basic),
    'timm vit': (lambda: timm_block('vit'), tokens, timm_vit),
    'timm efficientnet': (lambda: timm_block('ir'), img, timm_ir),
    'timm convnext': (lambda: timm_block('convnext'), img, timm_convnext),
    'mine': (Skip, partial(torch.randn, 40, 4), lambda m, x, s: x + next(s)(m.branch(x))),
}


def check_by_hand(make, inputs, hand, keeps=(.6, .6), blocks=None):
    "In training a block does what the formula does, row by row; in eval mode and afterwards what it did"
    for seed in SEEDS:
        torch.manual_seed(seed)
        m, x = norms_eval(randomize(make())), inputs()
        keys, before, want = list(m.state_dict()), snapshot(m), m.eval()(x)
        with noise_model(norms_eval(m), dropout=None, stoch_depth=keeps[-1], blocks=blocks):
            torch.manual_seed(seed)
            got = m(x)
            assert list(m.state_dict()) == keys
            assert torch.equal(m.eval()(x), want)
        assert snapshot(norms_eval(m)) == before
        torch.manual_seed(seed)
        torch.testing.assert_close(got, hand(m, x, scales(len(x), keeps)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', HAND)
def test_block_by_hand(name): check_by_hand(*HAND[name], blocks=MINE if name == 'mine' else None)


def tsai_blocks():
    from tsai.models import (
        TCN,
        TST,
        FCNPlus,
        InceptionTime,
        PatchTST,
        ResCNN,
        ResNet,
        ResNetPlus,
        RNNAttention,
        RNNAttentionPlus,
        TabFusionTransformer,
        TabTransformer,
        TSiTPlus,
        TSTPlus,
        XceptionTime,
        XceptionTimePlus,
        gMLP,
        layers,
    )

    def conv3(m, x, s): return next(s)(m.convblock3(m.convblock2(m.convblock1(x)))) + m.shortcut(x)

    def plus(m, x, s):
        return relu(next(s)(m.sa(m.se(m.convblock3(m.convblock2(m.convblock1(x)))))) + m.shortcut(x))

    def tst(norm1, norm2):
        def f(m, x, s):
            x = getattr(m, norm1)(x + next(s)(m.self_attn(x, x, x)[0]))
            return getattr(m, norm2)(x + next(s)(m.ff(x)))
        return f

    def inception(m, x, s):
        for i in range(2):
            y = x
            for o in m.inception[3*i:3*i+3]: y = o(y)
            x = relu(next(s)(y) + m.shortcut[i](x))
        return x

    def xception(act):
        def f(m, x, s):
            for i in range(2):
                y = m.xception[2*i+1](m.xception[2*i](x))
                x = act(m, i)(next(s)(y) + m.shortcut[i](x))
            return x
        return f

    def gmlp(m, x, s): return x + next(s)(m.channel_proj2(m.sgu(nn.functional.gelu(m.channel_proj1(m.norm(x))))))

    def tsit(m, x, s):
        x = x + next(s)(m.mha(m.attn_norm(x))[0])
        return x + next(s)(m.pwff(m.ff_norm(x)))
    series, toks = partial(torch.randn, 40, 3, 12), partial(torch.randn, 40, 5, 8)
    layer = dict(d_model=8, n_heads=2, dropout=0.)
    tab = dict(d_model=8, n_heads=2, res_dropout=0.)
    norms, bnorms, lnorms = (tst(f'{k}norm_attn', f'{k}norm_ffn') for k in ('', 'batch', 'layer'))
    return {
        'ResNet': (lambda: ResNet.ResBlock(3, 8), series, lambda m, x, s: relu(conv3(m, x, s))),
        'ResNetPlus': (lambda: ResNetPlus.ResBlockPlus(3, 8), series, plus),
        'ResNetPlus se': (lambda: ResNetPlus.ResBlockPlus(3, 8, se=2), series, plus),
        'ResNetPlus sa': (lambda: ResNetPlus.ResBlockPlus(3, 8, se=2, sa=True), series, plus),
        'ResCNN': (lambda: ResCNN._ResCNNBlock(3, 8), series, lambda m, x, s: relu(conv3(m, x, s))),
        'FCNPlus': (lambda: FCNPlus._FCNBlockPlus(3, [8, 8, 8], residual=True), series, conv3),
        'TCN': (lambda: TCN.TemporalBlock(3, 8, 2, 1, 1, 1), series,
                lambda m, x, s: relu(next(s)(m.net(x)) + m.downsample(x))),
        'XResNet1dPlus': (lambda: layers.ResBlock1dPlus(1, 3, 8), series,
                          lambda m, x, s: relu(next(s)(m.convpath(x)) + m.idpath(x))),
        'gMLP': (lambda: gMLP._gMLPBlock(8, 6, 5), toks, gmlp),
        'TST': (lambda: TST._TSTEncoderLayer(5, **layer), toks, bnorms),
        'TSTPlus': (lambda: TSTPlus._TSTEncoderLayer(5, **layer), toks, norms),
        'PatchTST': (lambda: PatchTST._TSTiEncoderLayer(5, **layer), toks, norms),
        'RNNAttention': (lambda: RNNAttention._TSTEncoderLayer(5, **layer), toks, bnorms),
        'RNNAttentionPlus': (lambda: RNNAttentionPlus._TSTEncoderLayer(5, **layer), toks, bnorms),
        'TabTransformer': (lambda: TabTransformer._TabEncoderLayer(5, **tab), toks, lnorms),
        'TabFusionTransformer': (lambda: TabFusionTransformer._TabFusionEncoderLayer(5, **tab), toks, lnorms),
        'TSiT': (lambda: TSiTPlus._TSiTEncoderLayer(8, 2, q_len=5, pre_norm=True), toks, tsit),
    }, {
        'InceptionTime': (lambda: InceptionTime.InceptionBlock(3, 4), series, inception),
        'XceptionTime': (lambda: XceptionTime.XceptionBlock(3, 4), series, xception(lambda m, i: m.act)),
        'XceptionTimePlus': (lambda: XceptionTimePlus.XceptionBlockPlus(3, 4), series, xception(lambda m, i: m.act[i])),
    }


@pytest.mark.tsai
def test_tsai_blocks_by_hand():
    one, two = tsai_blocks()
    for v in one.values(): check_by_hand(*v)
    for v in two.values(): check_by_hand(*v, keeps=(.8, .6))


# Whole models

def timm_model(name): return lambda: timm.create_model(name, num_classes=3)


WHOLE = {  # model, size of a picture, blocks that can be skipped, where the dropout is
    'resnet18': (lambda: tv.resnet18(num_classes=3), 32, 8, ('fc', 'new dropout')),
    'bottlenecks': (lambda: tv.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=3), 32, 4, ('fc', 'new dropout')),
    'mobilenet_v2': (lambda: tv.mobilenet_v2(num_classes=3), 32, 10, ('classifier.0', 'dropout')),
    'mobilenet_v3': (lambda: tv.mobilenet_v3_small(num_classes=3), 32, 6, ('classifier.2', 'dropout')),
    'mnasnet': (lambda: tv.mnasnet0_5(num_classes=3), 32, 10, ('classifier.0', 'dropout')),
    'regnet': (lambda: tv.regnet_y_400mf(num_classes=3), 32, 16, ('fc', 'new dropout')),
    'efficientnet': (lambda: tv.efficientnet_b0(num_classes=3), 32, 9, ('classifier.0', 'dropout')),
    'vit': (lambda: tv.VisionTransformer(16, 8, 3, 2, 8, 16, num_classes=3), 16, 3, ('heads.head', 'new dropout')),
    'swin': (lambda: tv.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=3), 16, 4,
             ('head', 'new dropout')),
    'convnext': (lambda: tv.ConvNeXt([convnext.CNBlockConfig(8, 16, 2), convnext.CNBlockConfig(16, None, 2)],
                                     num_classes=3), 16, 4, ('classifier.2', 'new dropout')),
    'xresnet': (lambda: xresnet18(n_out=3), 32, 8, ('10', 'dropout')),
    'vision_learner': (lambda: nn.Sequential(nn.Sequential(*list(tv.resnet18().children())[:-2]), create_head(512, 3)),
                       32, 8, ('1.7', 'dropout')),
    'timm resnet10t': (timm_model('resnet10t'), 32, 4, ('drop_rate', 'dropout')),
    'timm vit': (timm_model('test_vit'), 160, 6, ('head_drop', 'dropout')),
    'timm efficientnet': (timm_model('mobilenetv3_small_050'), 32, 7, ('drop_rate', 'dropout')),
    'timm convnext': (timm_model('test_convnext'), 32, None, ('head.drop', 'dropout')),
    'timm byobnet': (timm_model('test_byobnet'), 32, None, ('head.drop', 'dropout')),
    'timm nfnet': (timm_model('test_nfnet'), 32, None, ('head.drop', 'dropout')),
}


@pytest.mark.parametrize('name', WHOLE)
def test_whole_model(name):
    "Every row of the table has an effect of its own, in training only"
    make, size, n_blocks, drop = WHOLE[name]
    torch.manual_seed(0)
    m, x = norms_eval(make()), torch.randn(6, 3, size, size)
    check_whole_model(m, x, n_blocks, drop)


def check_whole_model(m, x, n_blocks, drop):
    for o in m.modules():
        if isinstance(o, nn.Dropout): o.p = 0.  # the others stay as they are
    keys, before = list(m.state_dict()), snapshot(m)
    for p in m.parameters(): p.data += .02*torch.randn_like(p)  # no branch and no head is 0
    with torch.no_grad():
        want = m.eval()(x)
        noise = noise_model(norms_eval(m))
        assert list(m.state_dict()) == keys and torch.equal(m.eval()(x), want)
        norms_eval(m)
        assert [(k.name, k.what) for k in noise.drops] == [drop]
        assert n_blocks in (None, len(noise.blocks)) and len(noise.blocks) > 1
        for k in noise.knobs: k.set(0.)
        plain = m(x)
        for k in noise.knobs:
            k.set(.5)
            torch.manual_seed(1)
            got = m(x)
            assert (got != plain).flatten(1).any(1).any(), k.name
            k.set(0.)
        assert torch.equal(m(x), plain)
    noise.undo()
    assert snapshot(m) == before


def test_whole_resnet_by_hand():
    for seed in SEEDS:
        torch.manual_seed(seed)
        m, x = norms_eval(tv.resnet18(num_classes=3)), torch.randn(9, 3, 32, 32)
        with noise_model(m, dropout=.4, stoch_depth=.5):
            torch.manual_seed(seed)
            got = m(x)
        torch.manual_seed(seed)
        s = scales(9, [1-.5*i/8 for i in range(1, 9)])
        y = m.maxpool(m.relu(m.bn1(m.conv1(x))))
        for o in [*m.layer1, *m.layer2, *m.layer3, *m.layer4]: y = tv_basic(o, y, s)
        y = y.mean((2, 3))
        y = y*(torch.rand(y.shape) < .6)/.6
        torch.testing.assert_close(got, m.fc(y))


@pytest.mark.tsai
def test_tsai_whole():
    from tsai.models import (
        TCN,
        TST,
        FCNPlus,
        InceptionTime,
        ResCNN,
        ResNet,
        ResNetPlus,
        TSiTPlus,
        TSSequencerPlus,
        TSTPlus,
        XceptionTime,
        XResNet1d,
        XResNet1dPlus,
        gMLP,
    )
    size, new, old = dict(d_model=8, n_heads=2), 'new dropout', 'dropout'
    for make, n, drop in (
            (lambda: ResNet.ResNet(3, 2), 3, ('fc', new)), (lambda: ResNetPlus.ResNetPlus(3, 2), 3, ('head.1', new)),
            (lambda: ResNetPlus.ResNetPlus(3, 2, fc_dropout=.1), 3, ('head.1', old)),
            (lambda: InceptionTime.InceptionTime(3, 2, nf=4), 2, ('fc', new)),
            (lambda: XceptionTime.XceptionTime(3, 2, nf=4), 2, ('head.3.0', new)),
            (lambda: TST.TST(3, 2, 16, n_layers=2, d_ff=16, **size), 2, ('head.2', new)),
            (lambda: TST.TST(3, 2, 16, n_layers=2, d_ff=16, fc_dropout=.1, **size), 2, ('head.2', old)),
            (lambda: TSTPlus.TSTPlus(3, 2, 16, n_layers=2, d_ff=16, **size), 2, ('head.2.0', new)),
            (lambda: TSiTPlus.TSiTPlus(3, 2, 16, depth=2, **size), 2, ('head.1', new)),
            (lambda: TSSequencerPlus.TSSequencerPlus(3, 2, 16, depth=2, d_model=8), 2, ('head.1', new)),
            (lambda: XResNet1d.xresnet1d18(3, 2), 8, ('10', old)),
            (lambda: XResNet1dPlus.xresnet1d18plus(3, 2), 8, ('head.2', old)),
            (lambda: TCN.TCN(3, 2), 8, ('linear', new)),
            (lambda: gMLP.gMLP(3, 2, 16, depth=2, d_model=8, d_ffn=8), 2, ('head', new))):
        torch.manual_seed(0)
        check_whole_model(norms_eval(make()), torch.randn(6, 3, 16), n, drop)
    for make in (lambda: ResCNN.ResCNN(3, 2), lambda: FCNPlus.FCNPlus(3, 2, residual=True)):
        assert noise_model(make()).table.new.tolist() == pytest.approx([.5, .2])  # one block alone gets the full rate


@pytest.mark.tsai
def test_inception_plus():
    "tsai's own way: whole modules, whole batches"
    import random

    from tsai.models.InceptionTimePlus import InceptionTimePlus, MultiInceptionTimePlus
    m = norms_eval(InceptionTimePlus(3, 2, nf=4))
    block, x, old = m.backbone[0], torch.randn(5, 3, 16), m.backbone[0].keep_prob
    want, ref = snapshot(m), InceptionTimePlus(3, 2, nf=4, stoch_depth=.7).backbone[0].keep_prob
    noise = noise_model(m, dropout=None, stoch_depth=.7)
    assert block.keep_prob == pytest.approx(ref) and list(noise.table.module[:1]) == ['backbone.0.keep_prob[1]']
    random.seed(3)
    got = block(x)
    random.seed(3)
    y = res = x
    for i in range(6):
        if ref[i] > random.random(): y = block.inception[i](y)
        if i % 3 == 2: res = y = block.act[i//3](y + block.shortcut[i//3](res))
    torch.testing.assert_close(got, y)
    noise.undo()
    assert block.keep_prob is old and (old == 1).all() and snapshot(m) == want
    assert len(noise_model(MultiInceptionTimePlus([1, 2], 2, nf=4)).blocks) == 10


# The rule

@pytest.mark.parametrize('last', [.5, .8, 1.])
def test_frequencies(last):
    "Each block is skipped as often as the rule says, the rows independently of each other"
    n, blocks = 20_000, 6
    torch.manual_seed(0)
    m = skips(blocks, head=False).train()
    with noise_model(m, dropout=None, stoch_depth=last, blocks=MINE) as noise, torch.no_grad():
        x, out = torch.randn(n, 4), []
        for o in m:
            y = o(x)
            out.append((y == x).all(1).float())
            x = y
    out = torch.stack(out)
    p = torch.arange(1, blocks+1)*(1-last)/blocks
    assert noise.table.new.tolist() == pytest.approx(p.tolist())
    assert ((out.mean(1)-p).abs() <= 4.5*(p*(1-p)/n).sqrt()).all()
    if last < 1:  # neighboring rows and blocks know nothing of each other
        c = out-out.mean(1, keepdim=True)
        for a, b in ((c[:, 1:], c[:, :-1]), (c[1:], c[:-1])): assert (a*b).mean(1).abs().max() < 4.5*.25/n**.5


def test_expectation():
    "Over many draws a model without nonlinearity computes what it computes in eval mode"
    n, m = 40_000, skips(3)
    x = torch.randn(4).expand(n, 4)
    with noise_model(m.train(), dropout=.5, stoch_depth=.6, blocks=MINE), torch.no_grad():
        y = m(x)
        want = m.eval()(x[:1])[0]
    assert ((y.mean(0)-want).abs() < 4.5*y.std(0)/n**.5).all() and y.std(0).min() > 0


def test_against_timm_rates():
    "timm spreads its rates from 0 to the full one, ours begin at a block's share; the last ones are the same"
    theirs = timm.create_model('convnext_atto', drop_path_rate=.2)
    rates = [o.drop_prob for o in theirs.modules() if type(o).__name__ == 'DropPath']
    table = noise_model(timm.create_model('convnext_atto'), dropout=None).table
    assert rates == pytest.approx(torch.linspace(0, .2, 12)[1:].tolist(), abs=1e-6)
    assert table.new.tolist() == pytest.approx([.2*i/12 for i in range(1, 13)])
    again = noise_model(theirs, dropout=None).table
    assert list(again.module) == list(table.module) and again.new.tolist() == pytest.approx(table.new.tolist())
    assert again.old.tolist() == pytest.approx([0., *rates])


def test_torchvision_rates():
    "What is there is read and set; blocks without a skip do not count"
    m = tv.efficientnet_b0(stochastic_depth_prob=.8)
    table = noise_model(m, dropout=None).table
    assert table.old.max() == pytest.approx(.8*14/16) and table.new.max() == pytest.approx(.2) and len(table) == 9
    for n, o in m.named_modules():
        if isinstance(o, efficientnet.MBConv):
            known = (table.module == f'{n}.stochastic_depth').any()
            assert known == o.use_res_connect and (not known or o.stochastic_depth.p < .201)


def test_a_seed_repeats_the_noise():
    m, x = norms_eval(tv.resnet18(num_classes=3)), torch.randn(8, 3, 32, 32)
    noise_model(m)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(m(x))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


def test_no_noise_draws_nothing():
    m = norms_eval(tv.resnet18(num_classes=3))
    noise_model(m, dropout=0, stoch_depth=1)
    state = torch.get_rng_state()
    m(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_flags_of_timm():
    "Blocks that say they have no skip get nothing, in each way of saying it"
    for name, n in (('mobilenetv3_small_050', 7), ('rexnet_100', 11), ('regnetx_002', 13), ('repvgg_a0', 17),
                    ('xception41', 12), ('hgnet_tiny', 1)):
        with torch.device('meta'): m = timm.create_model(name).train()
        seen, call = [], model_noise._DropPath.__call__
        noise = noise_model(m)
        with pytest.MonkeyPatch.context() as mp:
            mp.setattr(model_noise._DropPath, '__call__', lambda self, x: (seen.append(self), call(self, x))[1])
            m(torch.randn(2, 3, 224, 224, device='meta'))
        put = [p.noisy for b in noise.blocks for k in b for p in k.parts if hasattr(p, 'noisy')]
        assert len(noise.blocks) == n and set(map(id, put)) == set(map(id, seen)), (name, len(noise.blocks))


# Which dropout

def linear(): return nn.Linear(4, 4)


@pytest.mark.parametrize('make, drop', [
    (lambda: tv.alexnet(num_classes=2), ('classifier.6', 'new dropout')),
    (lambda: tv.squeezenet1_1(num_classes=2), ('classifier.0', 'dropout')),
    (lambda: tv.densenet121(num_classes=2), ('classifier', 'new dropout')),
    (lambda: image_model(1, 10, (8, 8), p=.5), ('6', 'dropout')),
    (lambda: image_model(1, 10, (8, 8)), ('6', 'dropout')),
    (lambda: create_head(8, 2), ('7', 'dropout')), (lambda: create_head(8, 2, lin_first=True), ('6', 'dropout')),
    (lambda: TabularModel([(3, 2)], 2, 2, [8, 4], ps=.1), ('layers.1.3', 'dropout')),
    (lambda: TabularModel([(3, 2)], 2, 2, [8, 4]), ('layers.2.0', 'new dropout')),
    (lambda: get_text_classifier(AWD_LSTM, 20, 2, config=dict(
        emb_sz=4, n_hid=4, n_layers=1, pad_token=1, bidir=False, output_p=.1, hidden_p=.1, input_p=.1, embed_p=.1,
        weight_p=.1)), ('1.layers.1.1', 'dropout')),
    (linear, ('(model)', 'new dropout')),
    (lambda: nn.Sequential(nn.Dropout2d(.1), nn.Conv2d(4, 2, 1)), ('0', 'dropout')),
    (lambda: nn.Sequential(nn.Dropout(.1), nn.LayerNorm(4), linear()), ('2', 'new dropout')),
    (lambda: nn.Sequential(nn.Dropout(.1), nn.Dropout(.2), linear(), nn.Softmax()), ('1', 'dropout')),
    (lambda: nn.Sequential(linear(), nn.ModuleList([nn.Dropout(.1)]), nn.Sequential(nn.Sequential(linear()))),
     ('2.0.0', 'new dropout')),
])
def test_which_dropout(make, drop):
    m = make()
    before, others = snapshot(m), {n: o.p for n, o in m.named_modules() if isinstance(o, nn.Dropout) and n != drop[0]}
    noise = noise_model(m, dropout=.4, stoch_depth=None)
    assert [(k, w, p) for k, w, _, p in noise.table.values.tolist()] == [(*drop, .4)]
    assert {n: o.p for n, o in m.named_modules() if isinstance(o, nn.Dropout) and n != drop[0]} == others
    noise.undo()
    assert snapshot(m) == before


def test_all_dropout():
    m = timm.create_model('test_vit')
    n = sum(isinstance(o, nn.Dropout) for o in m.modules())
    with noise_model(m, dropout=.3, stoch_depth=None, all_dropout=True) as noise:
        assert len(noise.table) == n > 10 and {o.p for o in m.modules() if isinstance(o, nn.Dropout)} == {.3}
    assert {o.p for o in m.modules() if isinstance(o, nn.Dropout)} == {0.}


def test_dropout_by_hand():
    "Set, put in front, and by timm's function: numbers are dropped, not rows"
    x = torch.ones(4000, 4)
    for m, at in ((nn.Sequential(nn.Dropout(.1), linear()), 0), (nn.Sequential(linear()), 0)):
        noise_model(m, dropout=.3, stoch_depth=None)
        torch.manual_seed(0)
        got = m(x)
        torch.manual_seed(0)
        mask = torch.rand(4000, 4) < .7
        torch.testing.assert_close(got, vars(type(m[-1]))['forward'](m[-1], x*mask/.7))
    m = timm.create_model('resnet10t', num_classes=2).train()
    noise_model(m, dropout=.3, stoch_depth=None)
    assert m.drop_rate == .3
    feats = torch.ones(300, 512, 1, 1)
    nn.init.eye_(m.fc.weight), nn.init.zeros_(m.fc.bias)
    assert (m.forward_head(feats) == 0).float().mean() == pytest.approx(.3, abs=.08)


class Head(nn.Module):
    "Not an nn.Sequential: what is in front of it is not in front of its layer"
    def __init__(self):
        super().__init__()
        self.fc = linear()


class Rate(Head):
    drop_rate = .1

    def forward_head(self, x): return self.fc(x)


def test_what_is_not_taken_for_the_dropout():
    assert list(noise_model(nn.Sequential(nn.Dropout(.1), Head()), stoch_depth=None).table.module) == ['1.fc']
    assert list(noise_model(Rate(), stoch_depth=None).table.module) == ['fc']  # its `drop_rate` is for something else


def test_one_module_twice():
    "The dropout of the head is also the end of a branch: both kinds of noise, and none of them afterwards"
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.drop = linear(), nn.Dropout(.1)

        def forward(self, x): return x + self.drop(self.lin(x))
    m, x = nn.Sequential(Block()), torch.randn(4000, 4)
    before = snapshot(m)
    noise = noise_model(m, dropout=.5, stoch_depth=.5, blocks={Block: 'drop'}, last='0.drop')
    same = m(x) == x
    assert same.float().mean() == pytest.approx(.75, abs=.03)
    assert same.all(1).float().mean() == pytest.approx(.5+.5/16, abs=.03)
    noise.undo()
    assert snapshot(m) == before


def test_slots_inside_containers_belong_to_one_block():
    from timm.models.vision_transformer import ParallelThingsBlock
    for rate in (0., .3):
        m = nn.Sequential(ParallelThingsBlock(8, 2, drop_path=rate), ParallelThingsBlock(8, 2))
        noise = noise_model(m, dropout=None)
        assert [len(b) for b in noise.blocks] == [4, 4] and noise.table.new.tolist() == pytest.approx([.1]*4 + [.2]*4)


def test_new_slots_are_in_the_mode_of_their_block():
    for mode in (True, False):
        m = timm_block('vit').train(mode)
        noise_model(m, dropout=None)
        assert {o.training for o in m.modules()} == {mode}


def test_attention_is_no_last_layer():
    m = nn.Sequential(linear(), nn.MultiheadAttention(4, 2))
    assert list(noise_model(m, stoch_depth=None).table.module) == ['0']


# Training and eval, whatever the norms do

def test_frozen_norms_do_not_stop_the_noise():
    m = norms_eval(tv.resnet18(num_classes=3))
    x = torch.randn(16, 3, 32, 32)
    noise_model(m, dropout=None, stoch_depth=.5)
    assert not torch.equal(m(x), m(x))


def test_in_eval_mode_nothing_happens():
    m, x = skips(2, drop=.1).eval(), torch.randn(50, 4)
    want = m(x)
    noise_model(m, blocks=MINE)
    assert torch.equal(m(x), want)
    with torch.no_grad(): assert torch.equal(m(x), want)


def test_branch_with_a_tuple():
    class Attn(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x): return x + self.attn(x, x, x)[0]
    m, x = Attn(), torch.randn(200, 3, 4)
    noise_model(m, dropout=None, stoch_depth=.5, blocks={Attn: 'attn'})
    same = (m(x) == x).flatten(1).all(1).float().mean()
    assert same == pytest.approx(.5, abs=.2)


def test_gradients_of_skipped_rows():
    m, x = Skip().train(), torch.randn(30, 4, requires_grad=True)
    noise_model(m, dropout=None, stoch_depth=.5, blocks=MINE)
    y = m(x)
    y.sum().backward()
    skipped = (y == x).all(1)
    assert skipped.any() and torch.equal(x.grad[skipped], torch.ones(int(skipped.sum()), 4))
    torch.testing.assert_close(m.branch.bias.grad, torch.full((4,), 2.*(~skipped).sum()))


def test_half_precision():
    m, x = norms_eval(tv.resnet18(num_classes=3)), torch.randn(8, 3, 32, 32)
    noise_model(m, dropout=.5, stoch_depth=.5)
    with torch.autocast('cpu', torch.bfloat16): y = m(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
    m, x = Skip().to(torch.bfloat16), torch.randn(20_000, 4).to(torch.bfloat16)
    noise_model(m, dropout=None, stoch_depth=.7, blocks=MINE)
    y = m(x)
    out = (y == x).all(1)
    assert y.dtype == torch.bfloat16 and out.float().mean() == pytest.approx(.3, abs=.015)


# Undo, copies, files

def test_undo_restores_everything():
    for make in (lambda: tv.resnet18(), lambda: timm.create_model('resnet10t'),
                 lambda: timm.create_model('test_vit', drop_path_rate=.1), lambda: tv.efficientnet_b0(),
                 lambda: skips(3, .1)):
        m = make()
        before, state = snapshot(m), pickle.dumps(m)
        noise = quiet_noise(m, all_dropout=True)
        assert snapshot(m) != before
        noise.set(dropout=.1, stoch_depth=.9)
        noise.undo()
        noise.undo()
        assert snapshot(m) == before and pickle.dumps(m) == state


def test_twice_is_once():
    m = skips(2, .1)
    before = snapshot(m)
    one = noise_model(m, dropout=.5, stoch_depth=.5, blocks=MINE)
    two = noise_model(m, dropout=.2, stoch_depth=.9, blocks=MINE)
    assert not one.is_on and two.table.old.tolist() == [.1, 0, 0]
    x = torch.randn(20_000, 4)
    assert (m[1](x) == x).all(1).float().mean() == pytest.approx(.1, abs=.01)
    one.undo()
    assert m[2].p == .2
    two.undo()
    assert snapshot(m) == before


def test_parts_and_wholes():
    "Noise in a part of a model is replaced by noise in the whole, and the other way round nothing is stacked"
    m = skips(2)
    before = snapshot(m)
    noise_model(m[0], dropout=None, stoch_depth=.5, blocks=MINE)
    whole = noise_model(m, dropout=None, stoch_depth=.9, blocks=MINE)
    assert '_model_noise' not in vars(m[0])
    x = torch.randn(20_000, 4)
    assert (m[0](x) == x).all(1).float().mean() == pytest.approx(.05, abs=.01)
    noise_model(m[0], dropout=None, stoch_depth=.8, blocks=MINE)
    whole.set(stoch_depth=.5)
    assert (m[0](x) == x).all(1).float().mean() == pytest.approx(.2, abs=.015)
    assert (m[1](x) == x).all(1).float().mean() == pytest.approx(.5, abs=.015)
    vars(m[0])['_model_noise'].undo()
    whole.undo()
    assert snapshot(m) == before


def test_a_copy_has_its_own():
    m = skips(2, .1)
    noise = noise_model(m, dropout=.5, stoch_depth=.5, blocks=MINE)
    new = deepcopy(m)
    noise.set(dropout=.3, stoch_depth=.9)
    noise.undo()
    x = torch.randn(4000, 4)
    assert new[2].p == .5 and (new[1](x) == x).all(1).float().mean() == pytest.approx(.5, abs=.04)
    assert m[2].p == .1 and not (m[1](x) == x).all(1).any()
    again = noise_model(new, dropout=.2, stoch_depth=.9, blocks=MINE)
    assert again.table.old.tolist() == [.1, 0, 0]
    assert (new[1](x) == x).all(1).float().mean() == pytest.approx(.1, abs=.03)
    again.undo()
    assert snapshot(new).keys() == snapshot(m).keys() and new[2].p == .1
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(new.modules(), m.modules()))
    part = deepcopy(noise_model(m, dropout=None, stoch_depth=.5, blocks=MINE).model[1])  # knows of no noise to undo
    noise_model(part, dropout=None, stoch_depth=.9, blocks=MINE)
    assert (part(x) == x).all(1).float().mean() == pytest.approx(.1, abs=.03)


def test_files(tmp_path):
    "A whole model saved with its noise has it after loading, and can be rid of it"
    m = tv.resnet18(num_classes=2).train()
    noise = noise_model(m)
    torch.save(m, tmp_path/'noisy')
    noise.undo()
    torch.save(m, tmp_path/'plain')
    assert b'noisy_student' not in (tmp_path/'plain').read_bytes()
    assert b'noisy_student' in (tmp_path/'noisy').read_bytes()
    new = torch.load(tmp_path/'noisy', weights_only=False)
    assert new._model_noise.table.equals(noise.table)
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(norms_eval(new)(x), new(x))
    new._model_noise.undo()
    assert torch.equal(new(x), norms_eval(m)(x))


def test_weights_go_in_and_out():
    "A state_dict from before fits a model with noise, and the other way round"
    m, other = tv.resnet18(num_classes=2), tv.resnet18(num_classes=2)
    noise_model(m)
    m.load_state_dict(other.state_dict())
    other.load_state_dict(m.state_dict())
    for o in (timm.create_model('resnet10t'), timm.create_model('test_vit')):
        want = list(o.state_dict())
        noise_model(o)
        assert list(o.state_dict()) == want


def test_an_error_halfway_leaves_nothing():
    class Stubborn(nn.Dropout):
        def __setattr__(self, k, v):
            if k == 'p' and v == .5: raise RuntimeError('no')
            super().__setattr__(k, v)
    m = nn.Sequential(Skip(), nn.Dropout(.1), Stubborn(.2), nn.Dropout(.3), linear())
    before = snapshot(m)
    with pytest.raises(RuntimeError, match='no'): noise_model(m, all_dropout=True, blocks=MINE)
    assert snapshot(m) == before
    with pytest.raises(ValueError): noise_model(m, blocks={Skip: 'nothing'})
    assert snapshot(m) == before


def test_a_forward_of_its_own_is_kept():
    "As accelerate does it: a module may have a `forward` already, or get one while the noise is on"
    m, x = Skip(), torch.randn(500, 4)
    plain = m.branch.forward
    m.branch.forward = mine = lambda x: plain(x) + 1
    want = m.eval()(x)
    noise = noise_model(m.train(), dropout=None, stoch_depth=.5, blocks=MINE)
    got = m(x)
    assert (got == x).all(1).any() and torch.equal(m.eval()(x), want)
    noise.undo()
    assert vars(m.branch)['forward'] is mine
    noise = noise_model(m.train(), dropout=None, stoch_depth=.5, blocks=MINE)
    inner = m.branch.forward
    m.branch.forward = lambda x: inner(x)
    noise.undo()
    torch.testing.assert_close(m(x), want)


# Warnings and errors

def test_warnings():
    with pytest.warns(UserWarning, match=r'noise_model: SqueezeNet gets no stoch_depth=0\.8: .* blocks=') as w:
        noise_model(tv.squeezenet1_1())
    assert len(w) == 1 and w[0].filename == __file__
    with pytest.warns(UserWarning, match="Sequential gets no dropout=0.1"): noise_model(nn.Sequential(), .1, None)
    m = timm.create_model('test_vit', drop_path_rate=.8)
    with pytest.warns(UserWarning, match=r"drops blocks.5.drop_path1 with probability 0.8: was a survival"):
        noise_model(m, stoch_depth=None)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        noise_model(m)
        noise_model(m, None, .5)
        noise_model(tv.resnet18(), None, None)
        noise_model(tv.squeezenet1_1(num_classes=2), stoch_depth=None)
        noise_model(tv.efficientnet_b0(), stoch_depth=None)


def test_a_forward_of_a_subclass_is_not_known():
    class Other(resnet.BasicBlock):
        def forward(self, x): return super().forward(x)*2

    class Same(resnet.BasicBlock): pass
    with pytest.warns(UserWarning, match='gets no stoch_depth'): noise_model(nn.Sequential(Other(8, 8)))
    assert len(noise_model(nn.Sequential(Same(8, 8))).blocks) == 1
    assert len(noise_model(nn.Sequential(Other(8, 8)), blocks={resnet.BasicBlock: 'bn2'}).blocks) == 1


def test_own_blocks():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.shortcut, self.residual = Skip(), nn.ModuleDict(dict(c=linear())), None, False

    m = nn.Sequential(linear(), Two(), Two())
    table = noise_model(m, None, .7, blocks={Two: ('a.branch', 'b.c')}).table
    assert list(table.module) == ['1.a.branch', '1.b.c', '2.a.branch', '2.b.c']  # whatever its flags say
    assert table.new.tolist() == pytest.approx([.15, .15, .3, .3])


def test_set_says_what_is_wrong():
    noise = noise_model(skips(2), dropout=None, blocks=MINE)
    for kw, e in ((dict(stoch_depth=.2), 'did you mean 0.8'), (dict(dropout=1), 'below 1'),
                  (dict(dropout=.1), 'called with dropout=None')):
        with pytest.raises(ValueError, match=e): noise.set(**kw)
    assert noise.table.new.tolist() == pytest.approx([.1, .2])
    noise.undo()
    with pytest.raises(RuntimeError, match='undone'): noise.set(stoch_depth=.9)
    assert isinstance(noise, ModelNoise) and noise.table.new.tolist() == pytest.approx([.1, .2])


# torch.compile

def compiled(backend):
    "A block with a skip and a head that lets through what it gets, compiled and not"
    torch._dynamo.reset()
    m = nn.Sequential(Skip(), nn.Sequential(nn.Dropout(0.), linear())).train()
    m[0].branch.bias.data += 1
    nn.init.eye_(m[1][1].weight), nn.init.zeros_(m[1][1].bias)
    return m, torch.compile(m, backend=backend, fullgraph=True), torch._dynamo.utils.counters['stats']


def check_frequencies(f, skip, drop):
    x = torch.randn(4000, 4)
    with torch.no_grad(): y = f(x)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1-drop, abs=.02)
    same = ((y*(1-drop)-x).abs() < 1e-5) | ~kept
    if drop < .3: assert (same.all(1) & kept.any(1)).float().mean().item() == pytest.approx(skip, abs=.04)


def test_compile():
    "Put in before or after the model was compiled, changed and undone: the compiled model does as the table says"
    m, f, count = compiled('eager')
    check_frequencies(f, 0, 0)
    noise = noise_model(f, dropout=0, stoch_depth=.7, blocks=MINE)
    assert noise.model is m
    check_frequencies(f, .3, 0)
    graphs = count['unique_graphs']
    for s in (.6, .5, .9, .75, .55, .85): noise.set(stoch_depth=s), check_frequencies(f, 1-s, 0)
    assert count['unique_graphs'] == graphs  # compiled once for all
    noise.set(stoch_depth=1)
    check_frequencies(f, 0, 0)
    for p in (.1, .2, .4, .15, .6): noise.set(dropout=p), check_frequencies(f, 0, p)
    assert count['unique_graphs'] == graphs+2  # without stochastic depth, and without it and with dropout
    x = torch.randn(9, 4)
    assert torch.equal(f.eval()(x), m(x))
    f.train()
    noise.undo()
    check_frequencies(f, 0, 0)
    noise_model(m, None, .5, blocks=MINE)
    check_frequencies(f, .5, 0)


def test_compile_with_inductor():
    "... which keeps graphs, and has to tell one probability from another"
    m, f, count = compiled('inductor')
    noise = noise_model(m, dropout=.1, stoch_depth=.7, blocks=MINE)
    graphs = count['unique_graphs']
    for skip, drop in ((.3, .1), (.5, .05), (.1, .25)):
        noise.set(drop, 1-skip)
        check_frequencies(f, skip, drop)
    assert count['unique_graphs'] == graphs+1


def test_compile_what_is_there():
    "DropPaths are set, and put where there was none, in a model that was compiled and run before"
    torch._dynamo.reset()
    for k in ('basic', 'convnext'):
        m, x = norms_eval(randomize(timm_block(k))), torch.randn(600, 8, 2, 2)
        f = torch.compile(m, backend='eager', fullgraph=True)
        full = f(x)
        for s in (.5, .8):
            noise = noise_model(m, dropout=None, stoch_depth=s)
            y = f(x)
            skipped = (relu(x) if k == 'basic' else x) == y
            assert skipped.flatten(1).all(1).float().mean().item() == pytest.approx(1-s, abs=.09)
            noise.undo()
            torch.testing.assert_close(f(x), full)


# In a Learner

class Rows(list):
    def new_empty(self): return Rows()


class Watch(Callback):
    def before_fit(self): self.noise = noise_model(self.model, blocks=MINE)

    def after_batch(self):
        if self.training: self.noise.set(stoch_depth=1-.2*self.pct_train, dropout=.5*self.pct_train)

    def after_fit(self): self.noise.undo()


def test_learner(tmp_path):
    x = torch.randn(40, 4)
    rows = Rows((o, i % 2) for i, o in enumerate(x))
    dls = DataLoaders(*(TfmdDL(rows, bs=8, num_workers=0) for _ in range(2)))
    m = skips(2)
    before = list(m.state_dict())
    learn = Learner(dls, m, loss_func=CrossEntropyLossFlat(), cbs=[Watch(), BnFreeze()], path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert learn.watch.noise.table.new.tolist() == pytest.approx([.5, .1, .2])
    assert list(m.state_dict()) == before
    assert not any('forward' in vars(o) or '_model_noise' in vars(o) for o in m.modules())
    learn.remove_cb(Watch)
    noise = noise_model(learn.model, blocks=MINE)
    learn.export('noisy.pkl')
    noise.undo()
    new = pickle.loads(pickle.dumps(learn.model))
    assert torch.equal(new.eval()(x), learn.model.eval()(x))
    loaded = torch.load(tmp_path/'noisy.pkl', weights_only=False)
    assert len(loaded.model._model_noise.table) == 3


@pytest.mark.parametrize('kw, key, value', [
    (dict(dropout=1), 'dropout', 1), (dict(stoch_depth=.2), 'stoch_depth', .2),
    (dict(blocks='branch'), 'blocks', 'branch'), (dict(blocks={Skip: 'nothing'}), 'blocks', 'nothing'),
    (dict(blocks={nn.Conv1d: 'x'}), 'blocks', nn.Conv1d),
    (dict(last='nowhere'), 'last', 'nowhere')])
def test_errors_have_fields(kw, key, value):
    with pytest.raises(ArgumentError) as e: noise_model(skips(), **kw)
    assert (e.value.argument, e.value.value) == (key, value)


def test_own_blocks_come_before_those_that_are_known():
    block = resnet.BasicBlock(8, 8)
    assert list(noise_model(block, dropout=None).table.module) == ['bn2']
    assert list(noise_model(block, dropout=None, blocks={resnet.BasicBlock: 'conv2'}).table.module) == ['conv2']
