"Random sizes and labels against plain Python: the stream of pseudolabels, the split of a batch, the joining of targets"
import torch
from hypothesis import given, settings, strategies as st
from fastai.data.load import DataLoader
from noisy_student_fastai.student import NoisyStudent
from noisy_student_fastai.loaders import Endless, rebatch
from noisy_student_fastai.losses import RowLoss
from noisy_student_fastai.targets import RowTargets, join_targets
from toys import pl_dl

some = settings(max_examples=60, deadline=None, derandomize=True)


@some
@given(n=st.integers(1, 40), bs=st.integers(1, 50), own=st.integers(1, 9), stops=st.lists(st.integers(1, 60), max_size=4))
def test_stream(n, bs, own, stops):
    "However batches, passes and fits fall, each row comes once before any comes twice"
    s = Endless(DataLoader(list(torch.arange(n)), bs=own), bs)
    seen = []
    for i in range(1+(3*n)//bs + max(stops, default=0)):
        if i in stops: s.stop()
        b = next(s).tolist()
        assert len(b) == bs
        seen += b
    for i in range(0, len(seen)-n+1, n): assert sorted(seen[i:i+n]) == list(range(n))


@some
@given(bs=st.integers(2, 2000), k=st.integers(1, 60), larger=st.booleans())
def test_split(bs, k, larger):
    "A whole number of labeled rows per pseudolabeled one, or the other way round: `int(bs/(1+ratio))` without rounding errors"
    cb = NoisyStudent(pl_dl(), bs=bs, l2pl_ratio=k if larger else 1/k)
    want = bs//(1+k) if larger else bs*k//(1+k)
    if 0 < want < bs: assert cb.sizes(pl_dl()) == (bs-want, want)
    else:
        try: cb.sizes(pl_dl())
        except ValueError as e: assert 'must hold both kinds' in str(e)
        else: raise AssertionError('accepted')


@some
@given(n=st.integers(1, 6), m=st.integers(1, 6), c=st.integers(2, 5), soft=st.booleans(), soft2=st.booleans(), half=st.booleans(),
       seed=st.integers(0, 99))
def test_join_and_loss(n, m, c, soft, soft2, half, seed):
    g = torch.Generator().manual_seed(seed)
    def labels(n, soft): return torch.rand(n, c, generator=g).softmax(1) if soft else torch.randint(c, (n,), generator=g)
    y, y2, w = labels(n, soft), labels(m, soft2), torch.rand(n+m, generator=g)+.01
    res, is_soft = join_targets(y, y2.half() if soft2 and half else y2)
    pred = torch.randn(n+m, c, generator=g)
    logp = pred.log_softmax(1)
    want = 0.
    for i, t in enumerate([*y, *y2]):
        p = t if t.ndim else torch.eye(c)[t]
        want += w[i]*-sum(p[k]*logp[i, k] for k in range(c))
    got = RowLoss(torch.nn.CrossEntropyLoss())(pred, RowTargets(res, w=w, soft=soft or soft2))
    assert is_soft == (soft != soft2) and res.shape == ((n+m, c) if soft or soft2 else (n+m,))
    torch.testing.assert_close(got, want/w.sum(), rtol=1e-2 if half else 1e-4, atol=1e-3 if half else 1e-5)


@some
@given(n=st.integers(1, 50), bs=st.integers(1, 20), new=st.integers(1, 20), drop=st.booleans())
def test_rebatch(n, bs, new, drop):
    dl = DataLoader(list(torch.arange(n)), bs=bs, shuffle=True, drop_last=drop)
    got = [len(b) for b in rebatch(dl, new)]
    assert got == [new]*(n//new) + ([n % new] if n % new and not drop else [])
    assert (dl.bs, dl.drop_last, dl.shuffle) == (bs, drop, True)
