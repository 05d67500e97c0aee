"SIGKILL at random moments; `python tests/kill.py --n 20` does the same more often"
import os

import pytest
from kill import N, run


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_folders_have_the_bytes_of_a_calm_run(tmp_path):
    done = run(3, 0, tmp_path)
    assert any(0 < o < N for killed in done for o in killed), 'no kill came half-way'
