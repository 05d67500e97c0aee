"PseudoLabels: opened, saved, made of any array; what is refused"
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from label_toys import N, unlabeled
from noisy_student_fastai.all import PseudoLabels
from toys import pts_learner


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


probs = arrays(st.sampled_from([np.float16, np.float32, np.float64]),
               array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
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
