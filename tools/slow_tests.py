"""Which tests are slow: tests/slow.txt, which `pytest --note-slow` writes anew for the files that it runs

`make check` leaves out what is listed; what is new is quick until somebody measures it. A test is slow where all its
parameters together take longer than `LIMIT` seconds, with what is made for it alone, and where what it shares with
others takes that long. Seconds are CPU time, with that of child processes: it hardly depends on what else runs.
"""
import os
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest
from warm_kernels import Fork

LIMIT = .6


def test_of(nodeid): return nodeid.partition('[')[0]


def listed(path): return path.read_text().split('\n')[:-1] if path.exists() else []


def cpu_time(): return sum(os.times()[:4]) + Fork.seconds


class Stopwatch:
    "A plugin of pytest that measures what runs, and notes it in the file `path` at the end"
    def __init__(self, path): self.path, self.seconds, self.shared, self.ran = Path(path), defaultdict(float), {}, {}

    @contextmanager
    def measured(self, seconds, key):
        start = cpu_time()
        try: yield
        finally: seconds[key] = seconds.get(key, 0) + cpu_time() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        alone, name = fixturedef.scope == 'function', request.node.nodeid
        with self.measured(*(self.seconds, test_of(name)) if alone else (self.shared, (fixturedef.argname, name))):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.ran[test_of(item.nodeid)] = item
        with self.measured(self.seconds, test_of(item.nodeid)): return (yield)

    def is_slow(self, name):
        places = [o.nodeid for o in self.ran[name].listchain()]
        shared = [self.shared.get((f, p), 0) for f in self.ran[name].fixturenames for p in places]
        return max(self.seconds[name], *shared, 0) > LIMIT

    def pytest_sessionfinish(self, session):
        file = lambda o: o.partition('::')[0]
        files = {*map(file, self.ran)}
        others = [o for o in listed(self.path) if file(o) not in files and (session.config.rootpath/file(o)).exists()]
        self.path.write_text(''.join(f'{o}\n' for o in sorted({*others, *filter(self.is_slow, self.ran)})))
