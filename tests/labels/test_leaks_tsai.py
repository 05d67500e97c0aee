"Series that are labeled or held out, in every form"
import importlib

import numpy as np
import pytest
from noisy_student_fastai.labels.leaks import find_leaks
from noisy_student_fastai.labels.sources import as_source
from source_toys_tsai import ARRAYS, FORMS, double

pytestmark = pytest.mark.tsai


@pytest.fixture(scope='module')
def t(): return importlib.import_module('tsai_toys')


@pytest.mark.parametrize('form', FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('tfm', [None, 'double'])
def test_leaks(t, tmp_path, form, tfm):
    dls = t.classifier(tfms=[double(t) if tfm else None, t.TSClassification()]).dls
    if tfm and form not in ARRAYS: return  # they have transforms of their own, or none
    x = np.concatenate([t.X2[:9], t.X[[3, t.N+2, 40]], t.X2[20:25]])
    src = as_source(form(t, x, tmp_path), dls)
    assert find_leaks(src, dls).tolist() == [0]*9+[1, 2, 1]+[0]*5
    assert find_leaks(src, dls, held_out=t.X2[[4, 22]]).tolist() == [0]*4+[2]+[0]*4+[1, 2, 1, 0, 0, 2, 0, 0]
