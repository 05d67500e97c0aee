"PseudoLabels end to end: what the teacher says, that it is left as it was, what is refused, what the student gets"
import os
import pty
import random
import select
import signal
import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.callback.fp16 import MixedPrecision
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.all import Normalize, TabularDataLoaders, tabular_learner
from fastai.torch_core import set_seed
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from noisy_student_fastai.labels import pseudolabels
from noisy_student_fastai.all import NoisyStudent, PseudoLabels, Selection
from noisy_student_fastai.labels.store import Store
from sklearn.datasets import load_digits, load_wine
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader, SubsetRandomSampler, TensorDataset
from toys import Probe, net, params, points, pts_dls, pts_learner, rows

N = 150


def unlabeled(n=N, seed=5): return points(n, seed)[0].numpy()


def trained():
    learn = pts_learner()
    with learn.no_bar(), learn.no_logging(): learn.fit(6)
    return learn


def outputs(learn, x):
    "What the model says, without fastai"
    m = deepcopy(learn.model).eval()
    with torch.no_grad(): return m(torch.as_tensor(x))


def same(pl, want, atol=6e-4):
    assert np.allclose(pl.probs, want, atol=atol)
    assert np.array_equal(pl.label, want.argmax(1)) and np.allclose(pl.conf, want.amax(1), atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('where', ['memory', 'disk'])
def test_probabilities(tmp_path, seed, where):
    "Against the softmax of the model's own outputs; float32 exactly, float16 as rounded; confidences are never rounded"
    learn, x = pts_learner(seed=seed, model=net(bn=True)), unlabeled(seed=seed+20)
    want = outputs(learn, x).softmax(1)
    path = tmp_path/'labels' if where == 'disk' else None
    pl = learn.pseudolabel(x, path)
    same(pl, want)
    assert pl.probs.dtype == np.float16 and pl.conf.dtype == np.float32 and pl.kind == 'single'
    exact = learn.pseudolabel(x, path and tmp_path/'exact', dtype='float32', bs=7)
    assert np.allclose(exact.probs, want, atol=1e-6)
    if path:
        again = PseudoLabels.open(path)
        assert isinstance(again.probs, np.memmap) and np.array_equal(again.probs, pl.probs)
        assert again.about == pl.about


@pytest.mark.parametrize('t', [.3, 1, 2.5])
def test_temperature_divides_the_logits(t):
    learn, x = pts_learner(), unlabeled()
    same(learn.pseudolabel(x, temperature=t), (outputs(learn, x)/t).softmax(1))


@pytest.mark.parametrize('n', [2, 3])
def test_teachers_are_averaged(n):
    learns, x = [pts_learner(seed=i) for i in range(n)], unlabeled()
    want = torch.stack([outputs(o, x).softmax(1) for o in learns]).mean(0)
    same(learns[0].pseudolabel(x, teachers=learns[1:]), want)


KINDS = [(BCEWithLogitsLossFlat(), 'multi', torch.sigmoid), (nn.BCEWithLogitsLoss(), 'multi', torch.sigmoid),
         (MSELossFlat(), 'values', lambda o: o), (nn.L1Loss(), 'values', lambda o: o)]


@pytest.mark.parametrize('lf,kind,act', KINDS)
def test_kinds(lf, kind, act):
    learn, x = pts_learner(lf=lf, metrics=None), unlabeled()
    pl, want = learn.pseudolabel(x), act(outputs(learn, x))
    assert pl.kind == kind and pl.label is None
    assert np.allclose(pl.probs, want, atol=6e-4)
    assert pl.probs.dtype == (np.float32 if kind == 'values' else np.float16)
    if kind == 'multi': assert np.allclose(pl.conf, torch.maximum(want, 1-want).amin(1), atol=1e-6)
    x1, y1 = pl.dl().one_batch()
    i = [np.flatnonzero((x == o.numpy()).all(1))[0] for o in x1]
    assert np.allclose(y1, want[i], atol=1e-3)
    if kind == 'multi':
        x1, y1 = pl.dl(soft=False).one_batch()
        i = [np.flatnonzero((x == o.numpy()).all(1))[0] for o in x1]
        assert torch.equal(y1, (want[i] >= .5).float())


def test_amp():
    learn, x = pts_learner(), unlabeled()
    want = outputs(learn, x).softmax(1)
    half = learn.pseudolabel(x, amp='bf16', dtype='float32')
    assert 1e-6 < np.abs(half.probs-want.numpy()).max() < .02


class Draw(Callback):
    "A callback with random numbers of its own"
    def after_pred(self): torch.rand(3), np.random.rand(), random.random()


def test_the_learner_is_left_as_it_was():
    "Attributes, callbacks, weights, modes and random numbers; also where an error or an interrupt ends it"
    class Stop(Callback):
        def after_pred(self):
            if self.iter == 1 and self.error: raise self.error
    stop = Stop()
    stop.error = None
    learn = pts_learner(Draw(), stop, model=net(bn=True))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.model[1].eval()

    def state():
        return (dict(vars(learn)), [(o, dict(vars(o))) for o in learn.cbs], [m.training for m in learn.model.modules()],
                params(learn).tolist(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    before = state()
    for error in (None, ValueError('a fault'), KeyboardInterrupt()):
        stop.error = error
        before[1][[o for o, _ in before[1]].index(stop)][1]['error'] = error
        try: learn.pseudolabel(unlabeled())
        except (ValueError, KeyboardInterrupt) as e: assert e is error
        else: assert error is None
        after = state()
        for a, b in zip(before, after): assert a == b
    assert len(learn.recorder.losses) == 2


def test_a_real_interrupt_keeps_what_is_done(tmp_path):
    "Ctrl-C: what is finished stays, and the next call goes on from there, to the bytes of a calm run"
    class Slow(Callback):
        def after_pred(self): threading.Event().wait(.01)
    x, learn = unlabeled(), pts_learner(Slow())
    calm = learn.pseudolabel(x, tmp_path/'calm', bs=2)
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
    timer = threading.Timer(.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt): learn.pseudolabel(x, tmp_path/'labels', bs=2)
    finally: signal.signal(signal.SIGINT, was)
    with pytest.raises(ValueError, match='of 150 rows'): PseudoLabels.open(tmp_path/'labels')
    with Store(tmp_path/'labels', N, calm.about) as store: assert 0 < store.done < N
    pl = learn.pseudolabel(x, tmp_path/'labels', bs=2)
    for k in ('probs', 'conf', 'label'): assert np.array_equal(pl.arrays[k], calm.arrays[k])


def test_complete_labels_are_opened_not_made_again(tmp_path):
    class Never(Callback):
        def after_pred(self): assert not self.never
    x, cb = unlabeled(), Never()
    cb.never = False
    learn = pts_learner(cb)
    learn.pseudolabel(x, tmp_path)
    cb.never = True
    assert len(learn.pseudolabel(x, tmp_path)) == N
    with pytest.raises(AssertionError): learn.pseudolabel(x, tmp_path, overwrite=True)


OTHER = [('data', dict(x=unlabeled(seed=6))), ('teachers', dict(learn=pts_learner(seed=1))), ('temperature', dict(temperature=2)),
         ('n_views', dict(n_views=1, bs=10)), ('amp', dict(amp='bf16')), ('n=150', dict(x=unlabeled(70))),
         ('teachers', dict(teachers=[pts_learner(seed=1)]))]


@pytest.mark.parametrize('word,kw', OTHER)
@pytest.mark.filterwarnings('ignore')
def test_other_labels_are_refused(tmp_path, word, kw):
    x, learn = unlabeled(), pts_learner()
    learn.pseudolabel(x, tmp_path)
    kept = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    x, learn = kw.pop('x', x), kw.pop('learn', learn)
    with pytest.raises(ValueError, match=rf'{word}.*overwrite=True'): learn.pseudolabel(x, tmp_path, **kw)
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()} == kept
    assert len(learn.pseudolabel(x, tmp_path, overwrite=True, **kw)) == len(x)


def test_what_may_change(tmp_path):
    "Smaller batches go on where larger ones ran out of memory; a folder without rows is no reason to refuse"
    class Full(Callback):
        def after_pred(self):
            if self.iter == 2 and len(self.xb[0]) > 8: raise MemoryError('full')
    x, learn = unlabeled(), pts_learner(Full())
    with pytest.raises(MemoryError): learn.pseudolabel(x, tmp_path/'a', bs=20, dtype='float32')
    pl = learn.pseudolabel(x, tmp_path/'a', bs=8, dtype='float32')
    assert np.allclose(pl.probs, outputs(learn, x).softmax(1), atol=1e-6)
    with pytest.raises(ValueError, match='accepted'): learn.pseudolabel(x, tmp_path/'b', act=lambda o: o)
    assert len(learn.pseudolabel(x, tmp_path/'b', temperature=2, bs=8)) == N


def test_leaks_that_are_looked_for_later(tmp_path):
    x, learn = unlabeled(), pts_learner()
    x[4] = learn.dls.valid.dataset[0][0].numpy()
    assert learn.pseudolabel(x, tmp_path, leaks='keep').leak is None
    with pytest.warns(UserWarning, match='1 rows are left out .* does not know them'):
        assert np.flatnonzero(learn.pseudolabel(x, tmp_path, leaks='drop').leak).tolist() == [4]
    assert PseudoLabels.open(tmp_path).leak is None
    learn.pseudolabel(x, tmp_path, leaks='drop', overwrite=True)
    assert np.flatnonzero(PseudoLabels.open(tmp_path).leak).tolist() == [4]
    assert np.flatnonzero(learn.pseudolabel(x, tmp_path, leaks='keep').leak).tolist() == [4]


def test_other_ids_or_activation_are_refused(tmp_path):
    x, learn = unlabeled(), pts_learner()
    learn.pseudolabel(x, tmp_path, ids=[f'a{i}' for i in range(N)])
    with pytest.raises(ValueError, match='other ids'): learn.pseudolabel(x, tmp_path, ids=[f'b{i}' for i in range(N)])
    with pytest.raises(ValueError, match=r'teachers\[0\].act='): learn.pseudolabel(x, tmp_path, act=lambda o: (9*o).softmax(1))
    assert len(learn.pseudolabel(x, tmp_path, ids=np.array([f'a{i}' for i in range(N)]))) == N


class CancelSecond(Callback):
    def before_batch(self):
        if self.iter % 2: raise CancelBatchException


def test_a_cancelled_batch_is_no_prediction():
    with pytest.raises(ValueError, match='cancelled a batch'): pts_learner(CancelSecond()).pseudolabel(unlabeled())


def test_teachers_that_make_no_team():
    learn, x = pts_learner(), unlabeled()
    for bad in ([learn], learn, None, [3]):
        with pytest.raises((ValueError, TypeError), match='teachers=.*accepted'): learn.pseudolabel(x, teachers=bad)
    with pytest.raises(ValueError, match='number of columns: 3 and 4'): learn.pseudolabel(x, teachers=[pts_learner(model=net(4))])


def test_rows_of_another_teacher_are_leaks():
    "As in folds: what is labeled for one teacher must not be labeled by both"
    a, b = pts_learner(), pts_learner(dls=pts_dls(rows(*points(64, 31))), seed=2)
    with pytest.raises(ValueError, match='64 are labeled'): a.pseudolabel(points(64, 31)[0], teachers=[b])


class LabelInside(Callback):
    "Labels in the middle of a fit"
    order, run_valid = 70, False
    def after_batch(self):
        if self.iter == 1 and not hasattr(self.learn, 'gather_preds'): self.learn.pseudolabel(unlabeled())


@pytest.mark.parametrize('seed', range(2))
def test_a_fit_goes_on_as_if_nothing_had_been_labeled(seed):
    learns = [pts_learner(*cbs, seed=seed, model=None) for cbs in ((), (LabelInside(),))]
    for o in learns:
        torch.manual_seed(seed)
        random.seed(seed)
        with o.no_bar(), o.no_logging(): o.fit(2)
    a, b = learns
    assert torch.equal(params(a), params(b)) and a.recorder.losses == b.recorder.losses
    assert [list(o) for o in a.recorder.values] == [list(o) for o in b.recorder.values]


def test_loaders_with_an_order_of_their_own_are_refused():
    learn, ds = pts_learner(), TensorDataset(torch.tensor(unlabeled()))
    for dl in (TorchDataLoader(ds, sampler=SubsetRandomSampler([0, 1, 2])), TfmdDL(list(torch.tensor(unlabeled())), n=10, num_workers=0)):
        with pytest.raises(ValueError, match='unlabeled is a loader that reads its rows in a way of its own'): learn.pseudolabel(dl)


def digits(path, n, start=0):
    x, y = load_digits(return_X_y=True)
    path.mkdir()
    fs = [path/f'{i:04}_{y[i]}.png' for i in range(start, start+n)]
    for i, f in enumerate(fs, start): PILImageBW.create((x[i].reshape(8, 8)*15).astype(np.uint8)).save(f)
    return fs


def image_learner(fs, *cbs):
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock(vocab=list('0123456789'))), get_y=lambda f: f.stem[-1])
    set_seed(0)
    return Learner(block.dataloaders(fs, bs=16, num_workers=0), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
                   loss_func=CrossEntropyLossFlat(), cbs=cbs)


def test_an_image_that_cannot_be_read(tmp_path):
    "It is named; once it is whole again the rows that were done stay"
    learn, files = image_learner(digits(tmp_path/'a', 30)), digits(tmp_path/'b', 80, 100)
    whole = files[50].read_bytes()
    files[50].write_bytes(whole[:60]+bytes(len(whole)-60))
    with pytest.raises(ValueError, match=rf'row 50 of unlabeled .*{files[50].name}.*verify_images'):
        learn.pseudolabel(files, tmp_path/'labels', bs=16)


def test_a_folder_of_files_may_move(tmp_path, monkeypatch):
    learn, files = image_learner(digits(tmp_path/'a', 30)), digits(tmp_path/'b', 40, 100)
    pl = learn.pseudolabel(files, tmp_path/'labels')
    (tmp_path/'b').rename(tmp_path/'c')
    moved = [tmp_path/'c'/o.name for o in files]
    monkeypatch.chdir(tmp_path)
    relative = [Path('c')/o.name for o in files]
    for fs in (moved, relative):
        assert np.array_equal(PseudoLabels.open(tmp_path/'labels', fs).dl(learn.dls, shuffle=False).one_batch()[1], pl.read(range(16)))
        assert len(learn.pseudolabel(fs, tmp_path/'labels')) == 40
    with pytest.raises(ValueError, match='same ones in another order'): learn.pseudolabel(moved[::-1], tmp_path/'labels')
    moved[3].write_bytes(moved[4].read_bytes())
    with pytest.raises(ValueError, match='other data'): PseudoLabels.open(tmp_path/'labels', moved)


@pytest.mark.parametrize('kw', [dict(temp=.5), dict(shuffel=True), dict(bs='a'), dict(bs=0)])
def test_misspelled_options_of_dl(kw):
    with pytest.raises((TypeError, ValueError), match=f'{list(kw)[0]}=.*accepted'): pts_learner().pseudolabel(unlabeled()).dl(**kw)


def test_others_that_are_no_loader():
    pl = pts_learner().pseudolabel(unlabeled())
    for o in (pl, pl.select(0)):
        with pytest.raises(TypeError, match='call its `dl`'): NoisyStudent(o)
    with pytest.raises(TypeError, match='DataLoaders are accepted'): pl.dl(pts_learner())


def test_show_of_a_table(monkeypatch):
    df, shown = load_wine(as_frame=True).frame, []
    dls = TabularDataLoaders.from_df(df[:60].assign(kind=list('ab')*30), procs=[Normalize], cont_names=['ash', 'hue'],
                                     y_names='kind', y_block=CategoryBlock(), bs=16)
    pl = tabular_learner(dls, layers=[4]).pseudolabel(df[60:])
    monkeypatch.setattr(pseudolabels, 'display_df', shown.append)
    pl.show(max_n=4)
    rows = [int(np.flatnonzero(df.index[60:] == i)[0]) for i in shown[0].index]
    assert shown[0].pseudolabel.tolist() == [pl.note(i) for i in rows] and (np.diff(pl.conf[rows]) <= 0).all()


def test_the_bar_is_drawn_where_somebody_watches(root):
    "On a terminal: rate, rows done, time left; not in a file"
    code = 'import noisy_student_fastai.labels.labeling\nfrom toys import *\npts_learner().pseudolabel(points(150, 5)[0].numpy(), bs=2)'
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    main, sub = pty.openpty()
    child = subprocess.Popen([sys.executable, '-c', code], stdout=sub, stderr=subprocess.DEVNULL, env=env, cwd=root)
    os.close(sub)
    out = b''
    while child.poll() is None or select.select([main], [], [], 0)[0]:
        try: out += os.read(main, 10_000)
        except OSError: break
    assert child.wait() == 0 and b'rows/s' in out and b'rows done' in out
    out = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, env=env, cwd=root, check=True)
    assert out.stdout == b''


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert pts_learner().pseudolabel(unlabeled(), '~/labels').path == tmp_path/'labels'
    assert len(PseudoLabels.open('~/labels')) == N


def test_another_vocabulary_is_refused(tmp_path):
    x, learn = unlabeled(), pts_learner()
    learn.dls.vocab = ['a', 'b', 'c']
    pl = learn.pseudolabel(x, tmp_path)
    assert pl.vocab == ['a', 'b', 'c']
    learn.dls.vocab = ['a', 'c', 'b']
    with pytest.raises(ValueError, match=r"vocab\[1\]='b'"): learn.pseudolabel(x, tmp_path)
    with pytest.raises(ValueError, match='a column would mean two things'): pl.dl(learn.dls)
    learn.dls.vocab = ['a', 'b']
    with pytest.raises(ValueError, match='3 columns.*2 classes'): learn.pseudolabel(x)


@pytest.mark.parametrize('kw', [dict(temperature=0), dict(temperature='1'), dict(temperature=float('nan')), dict(n_views=-1), dict(amp='half'),
                                dict(dtype='int8'), dict(dtype='x'), dict(kind='soft'), dict(leaks='yes'), dict(bs=0), dict(bs=2.5),
                                dict(ids=[1]), dict(ids=[0]*N), dict(teachers=[3]), dict(leaks='keep', held_out=unlabeled())])
def test_bad_arguments(tmp_path, kw):
    with pytest.raises((ValueError, TypeError), match='accepted'): pts_learner().pseudolabel(unlabeled(), tmp_path/'labels', **kw)
    assert not list(tmp_path.rglob('*.npy'))


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_broken_teacher(tmp_path, bad):
    learn = pts_learner()
    with torch.no_grad(): learn.model[0].weight[0, 0] = bad
    with pytest.raises(ValueError, match='row 0 of the predictions is .nan.*accepted'): learn.pseudolabel(unlabeled(), tmp_path/'labels')


def test_dtype_of_values():
    learn = pts_learner(lf=MSELossFlat(), metrics=None)
    with torch.no_grad(): learn.model[-1].bias += 1e6
    assert learn.pseudolabel(unlabeled()).probs.max() > 9e5
    with pytest.raises(ValueError, match='float16'): learn.pseudolabel(unlabeled(), dtype='float16')


# What the student gets

def of_rows(x, x1):
    "Which rows of `x` those of `x1` are"
    return [int(np.flatnonzero((x == o.numpy()).all(1))[0]) for o in x1]


FORMS = dict(array=lambda x: x, tensor=torch.tensor, dataset=lambda x: TensorDataset(torch.tensor(x)), items=lambda x: list(torch.tensor(x)),
             torch_dl=lambda x: TorchDataLoader(TensorDataset(torch.tensor(x)), batch_size=8, shuffle=True),
             fastai_dl=lambda x: TfmdDL(list(torch.tensor(x)), bs=8, shuffle=True, drop_last=True, num_workers=0))


@pytest.mark.parametrize('form', FORMS)
def test_rows_keep_their_labels(tmp_path, form):
    "Whatever form the data have: on disk and back, selected, repeated, shuffled"
    x, learn = unlabeled(), trained()
    want = outputs(learn, x).softmax(1)
    pl = learn.pseudolabel(FORMS[form](x), tmp_path)
    same(pl, want)
    opened = PseudoLabels.open(tmp_path, FORMS[form](x))
    for sel in (pl.select(0, 70, weights='conf', seed=1), opened.select(0, 70, weights='conf', seed=1)):
        assert sel.counts.tolist() == [70]*3
        xs, ys, ws = map(torch.cat, zip(*sel.dl(learn.dls, bs=16, drop_last=False)))
        i = of_rows(x, xs)
        assert sorted(i) == sel.rows.tolist()
        assert np.allclose(ys, want[i], atol=1e-3) and np.allclose(ws, pl.conf[i])
        xs, ys, ws = map(torch.cat, zip(*sel.dl(learn.dls, soft=False, drop_last=False)))
        assert ys.tolist() == pl.label[of_rows(x, xs)].tolist()


def test_a_student_trains(tmp_path):
    x, learn = unlabeled(), trained()
    pl, probe = learn.pseudolabel(x, tmp_path), Probe()
    student = pts_learner(NoisyStudent(pl.select(0, 60, weights='conf').dl(), l2pl_ratio=1/3), probe, seed=3)
    with student.no_bar(), student.no_logging(): student.fit(2)
    assert {len(o) for o, in probe.ys} == {32}
    for (xb,), (y,) in zip(probe.xs, probe.ys):
        i = of_rows(x, xb[y.is_pl])
        assert len(i) == 24
        assert np.allclose(y.plain()[y.is_pl], pl.read(i), atol=1e-6) and np.allclose(y.w[y.is_pl], pl.conf[i])


def test_leaks_of_arrays():
    learn, x = pts_learner(), unlabeled()
    lbl, val = (torch.stack([o[0] for o in dl.dataset]).numpy() for dl in learn.dls.loaders)
    x[[3, 7]], x[11] = lbl[[5, 6]], val[2]
    with pytest.raises(ValueError, match='1 are held out .*, as 11, 2 are labeled, as 3'): learn.pseudolabel(x)
    pl = learn.pseudolabel(x, leaks='drop')
    assert np.flatnonzero(pl.leak).tolist() == [3, 7, 11] and len(pl) == N
    assert not set(pl.select(0, 200).rows) & {3, 7, 11}
    assert len(pl.dl()) == -(-(N-3)//32) or len(pl.dl().dataset) == N-3
    assert learn.pseudolabel(x, leaks='keep').leak is None
    with pytest.raises(ValueError, match='150 are held out'): learn.pseudolabel(x, held_out=x)


def test_open_wants_the_data(tmp_path):
    x, learn = unlabeled(), pts_learner()
    learn.pseudolabel(x, tmp_path)
    with pytest.raises(ValueError, match='without their rows'): PseudoLabels.open(tmp_path).dl(learn.dls)
    with pytest.raises(ValueError, match='dls=None'): PseudoLabels.open(tmp_path, x).dl()
    with pytest.raises(ValueError, match='other data'): PseudoLabels.open(tmp_path, unlabeled(seed=8))
    with pytest.raises(ValueError, match='10 rows'): PseudoLabels.open(tmp_path, x[:10])


def test_save(tmp_path):
    rng = np.random.default_rng(0)
    pl = PseudoLabels(rng.dirichlet(np.ones(4), 50), vocab='abcd', ids=[f'{i}.png' for i in range(50)])
    back = pl.save(tmp_path/'labels')
    for k in ('probs', 'conf', 'label'): assert np.array_equal(back.arrays[k], pl.arrays[k])
    assert list(back.ids) == list(pl.ids) and back.vocab == pl.vocab


# Fuzz

probs = arrays(st.sampled_from([np.float16, np.float32, np.float64]), array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
               elements=st.sampled_from([0, .25, .5, 1, -1, 2, float('nan'), float('inf')]))


@settings(max_examples=300, deadline=None)
@given(probs, st.sampled_from(['single', 'multi', 'values']))
def test_any_array_is_taken_or_refused_with_words(p, kind):
    def fine():
        if p.ndim != 2 or 0 in p.shape or not np.isfinite(p).all(): return False
        ok = kind == 'values' or ((p >= 0) & (p <= 1)).all()
        return ok and (kind != 'single' or (p.sum(1) == 1).all())
    if fine(): assert len(PseudoLabels(p, kind=kind)) == len(p)
    else:
        with pytest.raises(ValueError, match='accepted'): PseudoLabels(p, kind=kind)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0., .3, .5, .9, 1.]),
       st.none() | st.integers(1, 30), st.none() | st.integers(1, 4), st.sampled_from([None, 'uniform']))
def test_selections_keep_their_promises(n, c, seed, min_conf, k, cap, prior):
    rng = np.random.default_rng(seed)
    p = np.eye(c)[rng.integers(0, c, n)] if seed % 2 else rng.dirichlet(np.full(c, .3), n)
    pl = PseudoLabels(p)
    used = pl if prior is None else pl.align(prior)
    kept = used.conf >= np.float32(min_conf)
    if not kept.any():
        with pytest.raises(ValueError, match='no row reaches'): pl.select(min_conf, k, max_repeat=cap, prior=prior)
        return
    sel = pl.select(min_conf, k, max_repeat=cap, prior=prior, seed=seed)
    assert isinstance(sel, Selection) and kept[sel.rows].all() and (np.diff(sel.rows) >= 0).all()
    for i in range(c):
        mine, have = sel.rows[used.label[sel.rows] == i], int((kept & (used.label == i)).sum())
        if k is None: assert len(mine) == have
        elif not have: assert len(mine) == 0
        else: assert len(mine) == min(k, have*(cap or k))
        if k is not None and have > k:  # the most confident ones
            assert used.conf[mine].min() >= np.sort(used.conf[kept & (used.label == i)])[-k]
    assert np.array_equal(sel.rows, pl.select(min_conf, k, max_repeat=cap, prior=prior, seed=seed).rows)
