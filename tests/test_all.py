"What a star brings: the names that users call, each documented, and nothing of the command"
import inspect

import noisy_student_fastai.all as everything
import pytest

NAMES = '''NoisyStudent EMATeacher
StudentNoise RandAugment SeriesAugment TableNoise noise_model tsai_op
PseudoLabels Reader Selection calibrate suggest_min_conf plot_reliability
self_train OneOf cross_validate Run EMACallback
label_scarce ArrayLoaders'''.split()


def test_exactly_these_names():
    found = {}
    exec('from noisy_student_fastai.all import *', found)
    assert sorted(everything.__all__) == sorted(NAMES) == sorted(found.keys()-{'__builtins__'})


@pytest.mark.parametrize('name', NAMES)
def test_documented(name):
    "A docstring of its own; and the parameters of functions are described where they stand"
    o = getattr(everything, name)
    assert o.__doc__ and o.__module__.startswith('noisy_student_fastai.')
    f = o.__init__ if inspect.isclass(o) and '__init__' in vars(o) else o if inspect.isfunction(o) else None
    if f is None: return
    src = inspect.getsource(f).split('"')[0]
    params = [k for k in inspect.signature(f).parameters if k != 'self']
    assert [k for k in params
            if not any(line.lstrip(' *').startswith(k) and '#' in line for line in src.split('\n'))] == []


def test_what_comes_with_the_import(python):
    "`Learner.pseudolabel` and `Learner.show_noise`, and no module of the command"
    code = ("import sys, noisy_student_fastai.all\n"
            "from fastai.learner import Learner\n"
            "print(hasattr(Learner, 'pseudolabel'), hasattr(Learner, 'show_noise'))\n"
            "print([o for o in sys.modules if o.startswith('noisy_student_fastai.app')])")
    assert python('-c', code, stderr=True) == ['True True\n[]\n', '']
