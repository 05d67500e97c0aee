"Learner.pseudolabel end to end: what the teacher says, where it goes on, what is refused"
import os
import pty
import random
import select
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FunctionType

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import SkipItemException
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.tabular.core import Categorify, FillMissing, TabularPandas
from fastai.tabular.core import Normalize as NormalizeTable
from fastai.tabular.data import TabularDataLoaders
from fastai.tabular.learner import tabular_learner
from fastai.torch_core import set_seed
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from label_toys import N, outputs, same, unlabeled
from noisy_student_fastai.all import PseudoLabels
from noisy_student_fastai.files import Changed
from noisy_student_fastai.labels.leaks import find_leaks
from noisy_student_fastai.labels.sources import as_source
from noisy_student_fastai.labels.store import Store
from noisy_student_fastai.loaders import no_batch
from PIL import Image
from sklearn.datasets import load_digits
from source_toys import table_dls, wine
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, SubsetRandomSampler, TensorDataset
from toys import net, params, points, pts_learner, torch_dls


def few_rows(n=21): return [(torch.from_numpy(x), torch.tensor(0)) for x in unlabeled(n, 7)]


def of_few_rows(bs, drop_last):
    "A teacher of 21 labeled rows"
    dls = DataLoaders(TfmdDL(few_rows(), bs=bs, drop_last=drop_last), TfmdDL(few_rows(), bs=bs))
    return Learner(dls, net(), loss_func=CrossEntropyLossFlat())


def test_a_teacher_that_gets_no_batch_to_train_on():
    said = "21 rows, and drops a batch that is not full: a smaller `bs` than 64, or `drop_last=False`, gives one"
    assert said in no_batch(TorchDataLoader(few_rows(), batch_size=64, drop_last=True))
    assert no_batch(TorchDataLoader(few_rows(), batch_size=21, drop_last=True)) is None
    few, x = of_few_rows(64, True), unlabeled()
    with pytest.warns(UserWarning, match=f"the teacher can't have trained .* {said}"): few.pseudolabel(x)
    others = of_few_rows(21, True), of_few_rows(64, False)
    with pytest.warns(UserWarning, match=said): others[0].pseudolabel(x, teachers=[few])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for o in others: o.pseudolabel(x)


def test_an_exported_teacher_has_no_rows_to_train_on(tmp_path):
    few, x = wine(40), wine(40, 1).drop(columns='kind')
    learn = tabular_learner(table_dls(few), [8])
    learn.path = tmp_path
    learn.export('teacher.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        teacher = load_learner(tmp_path/'teacher.pkl')
    assert len(teacher.dls.train.dataset) == 0
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        teacher.pseudolabel(x)
    assert not any("can't have trained" in str(o.message) for o in ws)


def test_what_only_unlabeled_rows_miss(tmp_path):
    df = pd.DataFrame(dict(age=np.arange(40.), pay=np.arange(40.)**2, y=[*'ab']*20))
    dls = TabularDataLoaders.from_df(df, tmp_path, procs=[FillMissing, NormalizeTable], cont_names=['age', 'pay'],
                                     y_names='y', y_block=CategoryBlock(), bs=8)
    learn, df2 = tabular_learner(dls, layers=[4]), df[['age', 'pay']]+.5
    df2.loc[7, 'age'] = None
    said = r"unlabeled misses values in the column 'age', and the labeled rows none .*both tables.*\(fastai: nan values"
    with pytest.raises(ValueError, match=said): learn.pseudolabel(df2)
    df2.loc[3, 'pay'] = None
    with pytest.raises(ValueError, match=r"in the columns \['age', 'pay'\]"): learn.pseudolabel(df2)


def test_rows_of_another_shape_are_named_where_the_model_fails():
    learn = pts_learner()
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied') as e: learn.pseudolabel(unlabeled()[:, :1])
    assert e.value.__notes__ == ['A row of unlabeled is 1, and a labeled row 2: is it the same kind of data?']
    learn.model = nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (4,)))  # it fails for another reason
    with pytest.raises(RuntimeError) as e: learn.pseudolabel(unlabeled())
    assert not hasattr(e.value, '__notes__')


@pytest.mark.parametrize('x,pixels', [(np.ones((4, 8, 8, 3), np.float32), 'float32, 8 x 8 x 3'),
                                      (np.ones((4, 3, 8, 9), np.uint8), 'uint8, 3 x 8 x 9')])
def test_arrays_that_are_no_pictures(tmp_path, x, pixels):
    learn = image_learner(digits(tmp_path/'a', 30))
    said = rf"row 0 of unlabeled \(0\) is an array of {pixels}, .*: expected uint8, height x width x 3"
    for o in (x, torch.from_numpy(x), list(x)):
        with pytest.raises(ValueError, match=said): learn.pseudolabel(o)


def test_a_table_of_files(tmp_path):
    learn, fs = image_learner(digits(tmp_path/'a', 30)), digits(tmp_path/'b', 9, 100)
    df = pd.DataFrame(dict(n=range(9), who=[*'abcdefghi'], file=[*map(str, fs)]))
    for o, col in ((df, r"unlabeled\['file'\]"), (df[['n', 'who']], r"unlabeled\['who'\]"),
                   (df[['n']], r"a column of \['n'\]")):
        with pytest.raises(TypeError, match=f'unlabeled is a DataFrame, .*: expected the column .*, {col}$'):
            learn.pseudolabel(o)
    assert len(learn.pseudolabel(df['file'])) == 9


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


OTHER = [('other rows', dict(x=unlabeled(seed=6))), ('teachers', dict(learn=pts_learner(seed=1))),
         ('temperature', dict(temperature=2)),
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
    with pytest.raises(ValueError, match=r'\bexpected'): learn.pseudolabel(x, tmp_path/'b', act=lambda o: o)
    assert len(learn.pseudolabel(x, tmp_path/'b', temperature=2, bs=8)) == N


def test_other_ids_or_activation_are_refused(tmp_path):
    x, learn = unlabeled(), pts_learner()
    learn.pseudolabel(x, tmp_path, ids=[f'a{i}' for i in range(N)])
    with pytest.raises(ValueError, match='other ids'): learn.pseudolabel(x, tmp_path, ids=[f'b{i}' for i in range(N)])
    with pytest.raises(ValueError, match=r'teachers\[0\].act='):
        learn.pseudolabel(x, tmp_path, act=lambda o: (9*o).softmax(1))
    assert len(learn.pseudolabel(x, tmp_path, ids=np.array([f'a{i}' for i in range(N)]))) == N


def test_teachers_that_make_no_team():
    learn, x = pts_learner(), unlabeled()
    for bad in ([learn], learn, None, [3]):
        with pytest.raises((ValueError, TypeError), match='teachers=.*expected'): learn.pseudolabel(x, teachers=bad)
    with pytest.raises(ValueError, match='number of columns: 3 and 4'):
        learn.pseudolabel(x, teachers=[pts_learner(model=net(4))])


SPELLED = ['lambda o: o.softmax(1)', '(\n  lambda o:  # softly\n    (o).softmax( 1 )\n)',
           'lambda o : o . softmax(True+0)']


def act_times(k): return lambda o: (k*o).softmax(1)


def test_a_lambda_that_was_spelled_or_compiled_otherwise_goes_on(tmp_path):
    "Python 3.12 compiles it to other bytes than 3.11; what it holds still counts"
    x, learn = unlabeled(), pts_learner()
    acts = [eval(compile(o, f'<{len(o)}>', 'eval')) for o in SPELLED]
    code = acts[0].__code__
    code = code.replace(co_consts=(*code.co_consts, 'more'), co_firstlineno=7, co_filename='b.py')
    acts.append(FunctionType(code, {}, '<lambda>'))
    about = learn.pseudolabel(x, tmp_path/'a', act=acts[0]).about
    assert about['teachers'][0]['act'] == '<lambda>'
    for act in acts: assert learn.pseudolabel(x, tmp_path/'a', act=act).about == about
    learn.pseudolabel(x, tmp_path/'b', act=act_times(2))
    learn.pseudolabel(x, tmp_path/'b', act=act_times(2))
    with pytest.raises(Changed, match='another teacher.*act=') as e:
        learn.pseudolabel(x, tmp_path/'b', act=act_times(3))
    assert e.value.key == 'about.teachers[0].act' and [k for k, *_ in e.value.changes] == [e.value.key]
    assert (e.value.argument, e.value.value) == ('path', str(tmp_path/'b'))


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
    for dl in (TorchDataLoader(ds, sampler=SubsetRandomSampler([0, 1, 2])),
               TfmdDL(list(torch.tensor(unlabeled())), n=10, num_workers=0)):
        with pytest.raises(ValueError, match='unlabeled is a loader that reads its rows in its own way'):
            learn.pseudolabel(dl)


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
    with pytest.raises(ValueError, match=rf'row 50 of unlabeled .*{files[50].name}.*verify_images.*unreadable=.skip'):
        learn.pseudolabel(files, tmp_path/'labels', bs=16)


@pytest.mark.parametrize('k', [0, 5])
def test_a_truncated_picture(tmp_path, k):
    "As the first row, and as another; among those that are held out, too, and where a student reads it"
    learn, files = image_learner(digits(tmp_path/'a', 30)), digits(tmp_path/'b', 20, 100)
    pl, test, whole = learn.pseudolabel(files, leaks='keep'), digits(tmp_path/'c', 8, 200), files[k].read_bytes()
    files[k].write_bytes(whole[:60])
    said = rf'row {k} of %s .*{files[k].name}.* can\'t be read \(.*verify_images'
    for kw in ({}, dict(leaks='keep')):
        with pytest.raises(ValueError, match=said % 'unlabeled'): learn.pseudolabel(files, **kw)
    with pytest.raises(ValueError, match=said % 'held_out'): learn.pseudolabel(test, held_out=files)
    with pytest.raises(ValueError, match=said % 'unlabeled'): list(pl.dl())


class Unreadable(Dataset):
    "Points, one of which is on a bad sector"
    def __init__(self, bad, n=40, error=OSError): self.bad, self.x, self.error = bad, points(n, 3)[0], error
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        if i == self.bad: raise self.error('the disk says no')
        return (self.x[i],)


@pytest.mark.parametrize('bad', [0, 9, 39])
@pytest.mark.parametrize('error', [OSError, KeyError, TypeError])
def test_a_row_that_cannot_be_read_is_named(tmp_path, bad, error):
    "Whoever reads it: the first look, the search for leaks, a fingerprint, the teacher"
    learn, ds = pts_learner(), Unreadable(bad, error=error)
    ids, said = [f'r{i}' for i in range(40)], rf"row {bad} of unlabeled \({bad}\) can't be read \({error.__name__}: "
    for kw in (dict(leaks='keep'), {}, dict(path=tmp_path/'labels'), dict(ids=ids)):
        with pytest.raises(ValueError, match=said): learn.pseudolabel(ds, **kw)
    src = as_source(Unreadable(None))
    src.items.bad, src.items.error = bad, error
    for read in (lambda: src.hashes(np.arange(40)), lambda: find_leaks(src, learn.dls),
                 lambda: list(src.eval_dl(learn.dls)), lambda: src.raw_rows(learn.dls, range(40)),
                 lambda: list(src.train_dl(learn.dls, [bad], [0]))):
        with pytest.raises(ValueError, match=said): read()
    held_out = said.replace('unlabeled', 'held_out')
    with pytest.raises(ValueError, match=held_out): learn.pseudolabel(unlabeled(), held_out=ds)


def test_a_labeled_row_that_cannot_be_read_is_named():
    learn = pts_learner()
    learn.dls.loaders[1] = TfmdDL(Unreadable(7), bs=8, num_workers=0)
    with pytest.raises(ValueError, match=r"row 7 of dls\[1\] \(7\) can't be read"): learn.pseudolabel(unlabeled())


def test_a_row_that_is_skipped():
    "A labeled set may leave rows out, as fastai's loaders allow; a teacher that did would shift all labels behind it"
    learn = pts_learner()
    learn.dls.loaders[1] = TfmdDL(Unreadable(7, error=SkipItemException), bs=8, num_workers=0)
    assert len(learn.pseudolabel(unlabeled())) == N
    with pytest.raises(ValueError, match=r"row 9 of unlabeled \(9\) can't be read \(SkipItemException"):
        learn.pseudolabel(Unreadable(9, error=SkipItemException), leaks='keep')


def test_what_is_no_unlabeled_data():
    learn, x = pts_learner(), unlabeled()
    for bad, said in ((learn.dls, 'DataLoaders, for training and validation'), (learn, 'of type Learner'),
                      (pd.DataFrame(x), r'of type DataFrame.*df.to_numpy'), (b'abc', 'of type bytes')):
        with pytest.raises(TypeError, match=f'unlabeled is {said}'): learn.pseudolabel(bad)
    with pytest.raises(ValueError, match=r'inputs=1: expected 2, as many as a labeled row has'):
        two = TensorDataset(torch.zeros(9, 2), torch.zeros(9, 2), torch.zeros(9, dtype=int))
        dls = DataLoaders(TfmdDL(two, bs=4), TfmdDL(two, bs=4))
        dls.n_inp = 2
        as_source(TensorDataset(torch.zeros(9, 2)), dls)


@pytest.mark.parametrize('how, said', [
    (lambda x: x*300, 'numbers up to'), (lambda x: x/300, 'numbers up to'), (lambda x: x[:, :1], r'the shape \(2,\)'),
    (lambda x: x*[1, 1e5], "channel 1|numbers up to")])
def test_rows_of_another_kind(how, said):
    "... are labeled, with a warning; the same rows in another precision or container are no news"
    learn, x = pts_learner(model=nn.Sequential(nn.AdaptiveAvgPool1d(2), net())), unlabeled()
    with pytest.warns(UserWarning, match=f'unlabeled looks different from the labeled rows: .*({said})'):
        learn.pseudolabel(how(x), leaks='keep')
    with pytest.warns(UserWarning, match=f'held_out looks different .*({said}).*they may not be found'):
        learn.pseudolabel(x, held_out=how(unlabeled(seed=9)))
    for o in (x, x.astype(np.float64), torch.tensor(x), list(x), TensorDataset(torch.tensor(x))):
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            learn.pseudolabel(o, held_out=unlabeled(seed=9))


@pytest.mark.parametrize('bad', [0, 1])
def test_each_input_is_looked_at(bad):
    "Of loaders of torch, too, which do not know how many there are"
    def two(n, scale=(1, 1)): return list(zip(*(torch.randn(n, 2)*k for k in scale)))
    rows = [(*o, torch.tensor(i % 3)) for i, o in enumerate(two(40))]
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
        def forward(self, a, b): return self.net(a+b)
    learn = Learner(torch_dls(rows, rows, batch_size=8), Sum(), loss_func=CrossEntropyLossFlat())
    learn.dls.n_inp = 2
    with pytest.warns(UserWarning, match='numbers up to|up to .* in channel'):
        learn.pseudolabel(two(30, (1e6, 1) if bad == 0 else (1, 1e6)), leaks='keep')
    x = two(30)
    x[7][bad][1] = torch.nan
    with pytest.raises(ValueError, match=r'row 7 of unlabeled \(7\) has no number'): learn.pseudolabel(x, leaks='keep')


def test_whole_numbers_where_floats_were_seen():
    "They are read as floats, as what a model takes; nothing else changes"
    learn, x = pts_learner(), np.round(unlabeled()*9)
    want = outputs(learn, x.astype(np.float32)).softmax(1)
    for o in (x.astype(int), x.astype(np.int8), torch.tensor(x).long()): same(learn.pseudolabel(o), want)


@pytest.mark.parametrize('k', ['turned', 'deep'])
def test_files_of_another_kind(tmp_path, k):
    learn, files = image_learner(digits(tmp_path/'a', 30)), digits(tmp_path/'b', 20, 100)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn.pseudolabel(files)
    for f in files[::2]:
        im, exif = Image.open(f).copy(), Image.Exif()
        exif[274] = 3
        if k == 'turned': im.save(f, exif=exif)
        else: Image.fromarray(np.asarray(im).astype(np.uint16)*257).save(f)
    word = dict(turned='exif_transpose', deep='of more than 8 bits')[k]
    with pytest.warns(UserWarning, match=f'10 of 20 pictures looked at are .*{word}'): learn.pseudolabel(files)


def test_a_folder_of_files_may_move(tmp_path, monkeypatch):
    learn, files = image_learner(digits(tmp_path/'a', 30)), digits(tmp_path/'b', 40, 100)
    pl = learn.pseudolabel(files, tmp_path/'labels')
    (tmp_path/'b').rename(tmp_path/'c')
    moved = [tmp_path/'c'/o.name for o in files]
    monkeypatch.chdir(tmp_path)
    relative = [Path('c')/o.name for o in files]
    for fs in (moved, relative):
        assert np.array_equal(PseudoLabels.open(tmp_path/'labels', fs).dl(learn.dls, shuffle=False).one_batch()[1],
                              pl.read(range(16)))
        assert len(learn.pseudolabel(fs, tmp_path/'labels')) == 40
    with pytest.raises(ValueError, match='same ones in another order'):
        learn.pseudolabel(moved[::-1], tmp_path/'labels')
    moved[3].write_bytes(moved[4].read_bytes())
    said = 'unlabeled is not the data that the labels in .* were made from'
    with pytest.raises(ValueError, match=said): PseudoLabels.open(tmp_path/'labels', moved)


def test_the_bar_is_drawn_where_somebody_watches(start_python, python):
    "On a terminal: rate, rows done, time left; not in a file"
    code = 'from noisy_student_fastai.all import *\nfrom label_toys import unlabeled\nfrom toys import pts_learner\n' \
           'pts_learner().pseudolabel(unlabeled(), bs=2)\n'
    path = os.pathsep.join(sys.path)
    env = os.environ | {'PYTHONPATH': path, 'PYTHONWARNINGS': 'ignore'}
    main, sub = pty.openpty()
    with open(os.devnull, 'w') as null:
        child = start_python('-c', code, stdout=sub, stderr=null.fileno(), cwd='.', env=env)
    os.close(sub)
    out = b''
    while child.poll() is None or select.select([main], [], [], 0)[0]:
        try: out += os.read(main, 10_000)
        except OSError: break
    assert child.wait() == 0 and b'rows/s' in out and b'rows done' in out
    assert python('-c', code, PYTHONPATH=path) == ''


@pytest.mark.parametrize('kw', [dict(temperature=0), dict(temperature='1'), dict(temperature=float('nan')),
                                dict(n_views=-1), dict(amp='half'),
                                dict(dtype='int8'), dict(dtype='x'), dict(kind='soft'), dict(leaks='yes'), dict(bs=0),
                                dict(bs=2.5),
                                dict(ids=[1]), dict(ids=[0]*N), dict(teachers=[3]),
                                dict(leaks='keep', held_out=unlabeled())])
def test_bad_arguments(tmp_path, kw):
    with pytest.raises((ValueError, TypeError), match=r'\bexpected'):
        pts_learner().pseudolabel(unlabeled(), tmp_path/'labels', **kw)
    assert not list(tmp_path.rglob('*.npy'))


def test_dtype_of_values():
    learn = pts_learner(lf=MSELossFlat(), metrics=None)
    with torch.no_grad(): learn.model[-1].bias += 1e6
    assert learn.pseudolabel(unlabeled()).values.max() > 9e5
    with pytest.raises(ValueError, match='float16'): learn.pseudolabel(unlabeled(), dtype='float16')


def table_learner():
    df = wine(36)
    return tabular_learner(table_dls(df), [8]), wine(40, 1).drop(columns='kind')


def test_what_is_no_table():
    "Tables are read by the names of columns, all else by numbers"
    learn, df = table_learner()
    for bad in (df[['a', 'b']].to_numpy(), df.to_numpy().tolist(), TensorDataset(torch.zeros(9, 5))):
        said = r"unlabeled is of type \w+, but the Learner reads tables: expected a DataFrame"
        with pytest.raises(TypeError, match=said):
            learn.pseudolabel(bad)
    procs = [Categorify, NormalizeTable]
    own = TabularPandas(df, procs, ['side', 'soil'], ['a', 'b', 'k'])
    with pytest.raises(ValueError, match='unlabeled is a table with means=.*a number would mean two things'):
        learn.pseudolabel(own)
    assert len(learn.pseudolabel(learn.dls.test_dl(df).dataset)) == len(learn.pseudolabel(df)) == 40


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_cell_without_a_number(bad):
    learn, df = table_learner()
    df.index += 100
    df.loc[117, 'b'] = bad
    with pytest.raises(ValueError, match=r"row 17 of unlabeled \(117\) has no number .* in column 'b': expected"):
        learn.pseudolabel(df)
    x = unlabeled()
    x[9, 1] = bad
    with pytest.raises(ValueError, match=r'row 9 of unlabeled \(9\) has no number .* in an input'):
        pts_learner().pseudolabel(x, bs=4)


def test_columns_of_another_kind():
    "Categories that the teacher has never seen, and another unit; natural ones are no news"
    learn, df = table_learner()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn.pseudolabel(df)
    other = df.assign(side=df.side.str.upper(), b=df.b*1e6)
    with pytest.warns(UserWarning, match=r"looks different .*'side \(0 is unknown\)'.*(in column 'b'|numbers up to)"):
        learn.pseudolabel(other)


def test_leaks_are_named_by_plain_numbers():
    learn, df = table_learner()
    lbl = wine(36)
    lbl.index += 100
    said = r'12 are held out .*, such as 124, 24 are labeled, such as 100: '
    with pytest.raises(ValueError, match=said): learn.pseudolabel(lbl)


def test_misspelled_options_of_dl():
    pl = pts_learner().pseudolabel(unlabeled())
    with pytest.raises(TypeError, match='temprature=2: expected one of dls, soft, temperature, leaks, .*num_workers'):
        pl.select(0).dl(temprature=2)
