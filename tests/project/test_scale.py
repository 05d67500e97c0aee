"benchmarks/scale.py at a small setting: every stage is measured, and what is measured is what is said"
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from noisy_student_fastai.all import PseudoLabels

sys.path.insert(0, str(ROOT/'benchmarks'))
import runs  # noqa: E402
import scale  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    "A process with several can't be forked"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def test_every_stage(capsys):
    df = scale.run([300, 600], [10, 1_000], 2_000)
    assert len(df) == 4*len(scale.STAGES) and (df.cpu >= 0).all() and (df.mapped >= 0).all()
    assert df[df.stage == 'label'].rows.tolist() == [200, 200, 2, 2] and (df[df.stage != 'label'].rows == df.n[
        df.stage != 'label']).all()
    tables = scale.as_markdown(df).split('\n\n')[1::2]
    assert len(tables) == 2
    for lines, unit in zip(map(str.splitlines, tables), ('s', 'MB')):
        assert len(lines) == 2+4 and len({o.count('|') for o in lines}) == 1
        assert lines[0].endswith('| open | select | dl | figures |') and '1,000 (`top_k=64`) | 300 |' in lines[4]
        cells = [o.strip() for k in lines[2:] for o in k.strip('|').split('|')[3:]]
        assert all(re.fullmatch(rf'(under )?[\d,.]+ {unit}', o) for o in cells)


@pytest.mark.parametrize('c', [10, 1_000])
def test_made_up_labels_are_labels(tmp_path, c):
    scale.made_up(tmp_path/'a', 500, c)
    pl = PseudoLabels.open(tmp_path/'a')
    assert (pl.n, pl.c, pl.top_k) == (500, c, 64 if c == 1_000 else None)


def test_memory_and_time_are_those_of_the_stage():
    "... not of what was there before; an error is not a number"
    big = np.ones(4_000_000)
    none, much = scale.measured(lambda: None), scale.measured(lambda: np.ones(10_000_000).sum())
    assert none['memory'] < 2e7 < 6e7 < much['memory'] < 1e8 and big.sum() == 4e6
    busy = scale.measured(lambda: [sum(range(1000)) for _ in range(20_000)])
    assert busy['cpu'] > none['cpu']+.05
    with pytest.raises(RuntimeError, match='ValueError: no'): scale.measured(fails)


def fails(): raise ValueError('no')


def test_published_results_are_on_the_page():
    df = pd.read_csv(runs.RESULTS/'scale.csv')
    assert set(df.n) == set(scale.ROWS) and set(df.c) == set(scale.CLASSES) and set(df.stage) == set(scale.STAGES)
    page = (runs.RESULTS/'scale.md').read_text()
    assert page == scale.as_markdown(df) and page in (ROOT/'benchmarks/README.md').read_text()
