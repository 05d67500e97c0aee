"""Which tests are slow: tests/slow.txt, which `pytest --note-slow` writes anew for the files that it runs

`make check` leaves out what is listed; what is new is quick until somebody measures it. A test is slow where all its
parameters together take longer than `LIMIT` seconds, with what is made for it alone, and where what it shares with
others takes that long.
"""
import time
from collections import defaultdict
from pathlib import Path

import pytest

LIMIT = .4


def test_of(nodeid): return nodeid.partition('[')[0]


def listed(path): return path.read_text().split('\n')[:-1] if path.exists() else []


class Stopwatch:
    "A plugin of pytest that measures what runs, and notes it in the file `path` at the end"
    def __init__(self, path): self.path, self.seconds, self.shared, self.ran = Path(path), defaultdict(float), {}, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        start = time.perf_counter()
        try: return (yield)
        finally:
            took = time.perf_counter() - start
            if fixturedef.scope == 'function': self.seconds[test_of(request.node.nodeid)] += took
            else: self.shared[fixturedef.argname, request.node.nodeid] = took

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        start = time.perf_counter()
        try: return (yield)
        finally:
            self.seconds[test_of(item.nodeid)] += time.perf_counter() - start
            self.ran[test_of(item.nodeid)] = item

    def is_slow(self, name):
        item = self.ran[name]
        places = [o.nodeid for o in item.listchain()]
        return max([self.seconds[name],
                    *[self.shared.get((f, p), 0) for f in item.fixturenames for p in places]]) > LIMIT

    def pytest_sessionfinish(self):
        files = {o.partition('::')[0] for o in self.ran}
        others = [o for o in listed(self.path) if o.partition('::')[0] not in files]
        slow = sorted({*others, *filter(self.is_slow, self.ran)})
        import json; json.dump(dict(s=dict(self.seconds), f={str(k): v for k, v in self.shared.items()}),
                               open(f'/tmp/tt/dur_{time.time():.0f}.json', 'w'))
        self.path.write_text(''.join(f'{o}\n' for o in slow))
