"Texts of any length: the rows of both kinds are padded together, as the labeled loader pads"
import pytest
import torch
from data_helpers import Probe, fit, fit_plain, probs, same_weights
from fastai.data.block import CategoryBlock, DataBlock, RegressionBlock
from fastai.data.load import DataLoader
from fastai.data.transforms import ColReader
from fastai.losses import CrossEntropyLossFlat
from fastai.text.core import BaseTokenizer
from fastai.text.data import Pad_Chunk, TensorText, TextDataLoaders
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives Learners `pseudolabel`)
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.targets import RowTargets
from text_toys import SEQ, N, block, known_rows, text_dls
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader


class Mean(nn.Module):
    "Class scores from the mean of a text's words and from the place of its last word, which padding moves"
    def __init__(self, n_words, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.emb, self.lin = nn.Embedding(n_words, 8), nn.Linear(8, 4)

    def forward(self, x):
        at = torch.linspace(.5, 1.5, x.shape[1])[None, :, None]
        return self.lin((self.emb(x)*at).mean(1))


def by_hand(rows, seq_len=SEQ, n=None):
    "Padding as fastai does it: whole chunks of padding first, the rest of it last"
    n, res = n or max(map(len, rows)), []
    for o in rows:
        k = n-len(o)
        res.append([1]*(k//seq_len*seq_len) + list(o) + [1]*(k % seq_len))
    return torch.tensor(res)


def is_read(xb, seq_len=SEQ):
    "In each chunk, are the rows that go on the first ones, for which fastai's classifier takes them?"
    goes_on = (xb[:, ::seq_len] != 1).long()
    return bool((goes_on.diff(dim=0) <= 0).all())


def as_read(rows, seq_len=SEQ):
    "Whole chunks where that alone makes the classifier read each row"
    x = by_hand(rows, seq_len)
    return x if is_read(x, seq_len) else by_hand(rows, seq_len, -(-x.shape[1]//seq_len)*seq_len)


def unpad(x): return [tuple(t for t in o if t != 1) for o in x.tolist()]


def by_test_dl(dls, df, tokens, y): return dls.test_dl(df.iloc[N:], with_labels=True), y
def by_torch(dls, df, tokens, y):
    return TorchDataLoader([(torch.tensor(o), t) for o, t in zip(tokens, y)], batch_size=4), y


def by_soft(dls, df, tokens, y):
    p = probs(len(y), 4)
    return DataLoader([(TensorText(torch.tensor(o)), t) for o, t in zip(tokens, p)], bs=5), p


def by_half(dls, df, tokens, y):
    p = probs(len(y), 4).half()
    return TorchDataLoader([(torch.tensor(o), t) for o, t in zip(tokens, p)], batch_size=3, shuffle=True), p.float()


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('way', [by_test_dl, by_torch, by_soft, by_half])
def test_equals_a_plain_learner(texts, way, seed):
    dls = text_dls(texts)
    tokens, y = known_rows(dls, texts), torch.tensor([list(dls.vocab[1]).index(o) for o in texts.label])
    assert len(set(tokens)) == len(tokens)
    torch.manual_seed(seed)
    dl2, y2 = way(dls, texts, tokens[N:], y[N:])
    n_words = len(dls.vocab[0])
    student, probe = fit(dls, Mean(n_words, seed), CrossEntropyLossFlat(), NoisyStudent(dl2, l2pl_ratio=[1, .5][seed]))
    n, batches, seen, longer = [6, 4][seed], [], [], []
    for (xb,), yb in zip(probe.xbs, probe.ybs):
        rows, is_pl = unpad(xb), yb.is_pl.tolist()
        k = [tokens.index(o) for o in rows]
        assert [o >= N for o in k] == is_pl and sum(is_pl) == 12-n, "each row knows where it comes from"
        assert [*map(len, rows)] == sorted(map(len, rows), reverse=True) and is_read(xb)
        assert torch.equal(xb, as_read(rows)) and type(xb) is TensorText and type(yb) is RowTargets
        seen += [o-N for o in k if o >= N]
        hard = y2.ndim == 1
        y_all = torch.cat([y[:N] if hard else torch.eye(4)[y[:N]], y2])
        batches.append((xb, y_all[k]))
        assert torch.equal(yb.plain(), batches[-1][1])
        longer.append(is_pl[0])
    assert len(batches) == 2*(N//n) and len(set(longer)) == 2, "the longest row is now labeled, now not"
    counts = [seen.count(o) for o in range(len(texts)-N)]
    assert max(counts)-min(counts) <= 1, "each row comes once before any comes twice"
    plain, _ = fit_plain(batches, Mean(n_words, seed), CrossEntropyLossFlat() if hard else nn.CrossEntropyLoss())
    assert same_weights(student.model, plain.model)


def test_loaders_that_pad_in_another_way(texts):
    "It is the labeled loader that says how to pad, not dl2"
    dls = text_dls(texts, before_batch=Pad_Chunk(seq_len=SEQ, pad_first=False))
    tokens = known_rows(dls, texts)
    ds2 = dls.test_dl(texts.iloc[N:], with_labels=True).dataset
    dl2 = dls.valid.new(ds2, before_batch=Pad_Chunk(pad_idx=3, seq_len=72))
    _, probe = fit(dls, Mean(len(dls.vocab[0])), CrossEntropyLossFlat(), NoisyStudent(dl2))
    for xb, in probe.xbs:
        for row, o in zip(xb.tolist(), unpad(xb)):
            assert o in tokens and row == [*o]+[1]*(len(row)-len(o))


@pytest.mark.parametrize('weight', [0, .3, 2.5])
def test_row_weights(texts, weight):
    dls = text_dls(texts)
    tokens, y = known_rows(dls, texts), torch.tensor([list(dls.vocab[1]).index(o) for o in texts.label])
    p, w2 = probs(len(texts)-N, 4), torch.rand(len(texts)-N, generator=torch.Generator().manual_seed(0))
    dl2 = TorchDataLoader([(torch.tensor(o), t, w) for o, t, w in zip(tokens[N:], p, w2)], batch_size=4)
    cb = NoisyStudent(dl2, pseudolabel_sample_weight=weight)
    _, probe = fit(dls, Mean(len(dls.vocab[0])), CrossEntropyLossFlat(), cb)
    p_all, w_all = torch.cat([torch.eye(4)[y[:N]], p]), torch.cat([torch.ones(N), weight*w2])
    for (xb,), pred, loss in zip(probe.xbs, probe.preds, probe.losses):
        k = [tokens.index(o) for o in unpad(xb)]
        ls, w = -(p_all[k]*pred.log_softmax(1)).sum(1), w_all[k]
        torch.testing.assert_close(loss, (ls*w).sum()/w.sum())


def test_another_vocabulary_is_refused(texts):
    "A number of dl2 must mean the same word and the same class"
    dls = text_dls(texts)
    own_words = DataBlock((block(tok=BaseTokenizer()), CategoryBlock(vocab=dls.vocab[1])), get_x=ColReader('text'),
                          get_y=ColReader('label')).dataloaders(texts.iloc[N:].copy(), bs=4, num_workers=0).train
    soft_rows = DataBlock((block(tok=BaseTokenizer()), RegressionBlock(n_out=4)), get_x=ColReader('text'),
                          get_y=lambda o: torch.ones(4)/4).dataloaders(texts.iloc[N:].copy(), bs=4, num_workers=0).train
    few = texts.iloc[N:][texts.label[N:] != 'iris'].copy()
    own_classes = DataBlock((block(vocab=dls.vocab[0]), CategoryBlock), get_x=ColReader('text'),
                            get_y=ColReader('label')).dataloaders(few, bs=4, num_workers=0).train
    for dl2 in own_words, soft_rows, own_classes:
        with pytest.raises(ValueError, match="dl2's vocabulary is not the Learner's"):
            fit(dls, Mean(len(dls.vocab[0])), CrossEntropyLossFlat(), NoisyStudent(dl2))


def test_text_classifier_learner(texts):
    "fastai's own loaders and LSTM, from a table to predictions"
    dls = TextDataLoaders.from_df(texts, text_col='text', label_col='label', valid_pct=.2, seed=0, bs=8,
                                    tok_tfm=BaseTokenizer())
    config = {**awd_lstm_clas_config, 'emb_sz': 8, 'n_hid': 8, 'n_layers': 2}
    probe, dl2 = Probe(), dls.test_dl(texts, with_labels=True)
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, cbs=[NoisyStudent(dl2), probe])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(probe.losses) == 39//4 and all(torch.isfinite(o) for o in probe.losses)
    assert all(len(yb) == 8 and yb.is_pl.sum() == 4 for yb in probe.ybs)
    with learn.no_bar(): assert learn.get_preds(dl=dl2)[0].shape == (48, 4)


def classifier(texts, seed, **kwargs):
    "fastai's LSTM with random weights, in chunks of few words, and rows of very different lengths"
    dls = text_dls(texts, **kwargs)
    torch.manual_seed(seed)
    config = {**awd_lstm_clas_config, 'emb_sz': 8, 'n_hid': 8, 'n_layers': 1}
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, seq_len=SEQ)
    for p in learn.model.parameters(): nn.init.normal_(p)
    return learn


def alone(learn, x):
    "The model's outputs for each row by itself, without padding"
    model, res = learn.model.eval(), []
    for o in x:
        model.reset()
        with torch.no_grad(): res.append(model(o[o != 1][None])[0][0])
    return torch.stack(res)


@pytest.mark.parametrize('seed', range(3))
def test_labels_of_a_classifier_that_needs_sorted_rows(texts, seed):
    "fastai's classifier reads a row wrongly among rows in another order: each is labeled as alone, as in `get_preds`"
    learn = classifier(texts, seed)
    df = texts[['text']].sample(frac=1, random_state=seed).reset_index(drop=True)
    x = [torch.tensor(o) for o in known_rows(learn.dls, df)]
    want = alone(learn, x).softmax(1)
    for bs in 12, 48:
        got = torch.tensor(learn.pseudolabel(df, bs=bs, dtype='float32', leaks='keep').probs)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    with learn.no_bar(): p = learn.get_preds(dl=learn.dls.test_dl(df, bs=1))[0]
    torch.testing.assert_close(got, p.as_subclass(torch.Tensor), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('seed', range(3))
def test_a_student_reads_each_row_as_alone(texts, seed):
    "Whatever texts meet in a batch"
    learn = classifier(texts, seed)
    learn.add_cb(NoisyStudent(learn.dls.test_dl(texts.iloc[N:], with_labels=True)))
    for _ in range(5):
        x, y = learn.noisy_student.one_batch()
        learn.model.eval()
        learn.model.reset()
        with torch.no_grad(): got = learn.model(x)[0]
        torch.testing.assert_close(got.as_subclass(torch.Tensor), alone(learn, x.as_subclass(torch.Tensor)), atol=1e-5,
                                   rtol=1e-4)
