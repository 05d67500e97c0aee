"Teacher, students and control begin with the same pretrained weights; a control from scratch trains as long in all"
import pytest
import torch
from noisy_student_fastai.files import read_json
from noisy_student_fastai.pretraining.stage import Pretrained
from noisy_student_fastai.rounds.run import Run
from rounds_toys import ARGS, Seen, make, same, train
from torch import nn

PRE = dict(n_epoch=2, lr=.05, dim=8, bs=32)
KW = dict(pretrain=PRE, control=True, n_rounds=1, n_epoch=2)


def test_all_begin_with_the_same_weights_and_a_run_that_goes_on_too(tmp_path):
    Seen.log.clear()
    run = train(tmp_path/'a', lambda r: make(r, cbs=[Seen()]), **KW)
    log = [o for o in Seen.log if 'NoisyStudent' in o['cbs'] or 'EMACallback' in o['cbs']]
    assert run.records.role.tolist() == ['teacher', 'student', 'control', 'scratch']
    folder, = (tmp_path/'a'/'pretrained').iterdir()
    want = Pretrained.open(folder).state['0.weight']
    is_pre = [torch.equal(o['first'], want) for o in log]
    done = len(is_pre)
    assert is_pre == [True]*(done-1)+[False] and done in (3, 4)  # a control may be the teacher
    again = train(tmp_path/'a', lambda r: make(r, cbs=[Seen()]), **KW)
    same(run, again)
    # as many batches as student and pretraining together, of the labeled loader's size
    rec, about = run.records.set_index('role'), read_json(folder/'pretrained.json')['about']
    more = rec.n_batches['scratch']-rec.n_batches['control']
    assert 0 <= more*8-about['n_batches']*about['bs']*2 < 8*3  # an epoch is 3 batches of 8
    assert 'one from scratch' in run.verdict() and run.kept.role != 'scratch'
    assert Run.open(tmp_path/'a').prune().sizes['models'] > 0 and not (tmp_path/'a'/'pretrained').exists()


def test_each_seed_and_each_shape_has_its_own(tmp_path):
    def wide(r): return make(r, model=nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 3)))
    run = train(tmp_path, lambda r: wide(r) if r else make(r), **{**KW, 'control': False, 'n_rounds': 1, 'seeds': 2})
    names = sorted(o.name for o in (tmp_path/'pretrained').iterdir())
    assert len(names) == 4 and [o.split('_')[0] for o in names] == ['seed0']*2+['seed1']*2
    assert run.records.role.tolist() == ['teacher', 'student']*2


@pytest.mark.parametrize('pretrain,said', [
    (3, 'pretrain=3'), (dict(path='x'), "without \\['path'\\]"), (dict(n_epoch=0), r"pretrain\['n_epoch'\]=0"),
    (dict(method='simclr'), r"pretrain\['method'\]='simclr'"), (dict(methd='vicreg'), 'methd'),
    (dict(noise='strong'), r"pretrain\['noise'\]='strong'"), (dict(last='9'), r"pretrain\['last'\]='9'")])
def test_mistakes_are_named_before_anything_is_trained(pretrain, said, tmp_path):
    with pytest.raises((ValueError, TypeError), match=said): train(tmp_path/'p', **ARGS | dict(pretrain=pretrain))
    assert not (tmp_path/'p').exists() or not list((tmp_path/'p').rglob('*.pth'))


def test_another_pretraining_is_another_run(tmp_path):
    train(tmp_path, **{**KW, 'n_rounds': 1, 'control': False})
    with pytest.raises(ValueError, match='pretrain'):
        train(tmp_path, **{**KW, 'n_rounds': 1, 'control': False, 'pretrain': PRE | dict(n_epoch=3)})
