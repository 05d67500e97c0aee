"A run that several files look at"
import pytest
from rounds_toys import held_out_dl, train


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    "An undisturbed run of two seeds"
    return train(tmp_path_factory.mktemp('run')/'a', n_rounds=3, patience=None, control=True, seeds=2,
                 test=held_out_dl())
