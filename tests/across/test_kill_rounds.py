"SIGKILL at random moments; `python tests/kill_rounds.py --n 20` does the same more often"
import os

import pytest
from kill_rounds import run


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_runs_have_the_numbers_of_a_calm_one(tmp_path):
    done = run(3, 0, tmp_path)
    assert any(0 < o < 5 for killed in done for o in killed), 'no kill came half-way'
