"""What it costs to select rows: `select_rows` against pandas and numpy, in time and memory

    python benchmarks/selection.py                       # 100 million rows, 1,000 classes: 7 GB of memory, for pandas
    python benchmarks/selection.py --n 1e7               # a tenth of that, in a minute
    python benchmarks/selection.py --cases spread --rounds 5

The arrays are memory maps of float32 confidences and uint16 labels in a temporary folder that was just written, so
that the files are in the system's cache. Of each class a tenth of the mean class is wanted, above a confidence of .3.

The sides take turns, in a new order in each round, and each runs in a process of its own. Its time is that of the
selection alone, without imports; it is given as median over the rounds, and so are the ratios, which compare sides
within one round. Its memory is looked at from outside every few milliseconds: what it has asked for itself (`RssAnon`,
less what the imports took) and, apart from that, the pages of the mapped files (`RssFile`), which the system can take
back at any time.
"""
import argparse
import json
import multiprocessing
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

LEAST = .3
CASES = dict(spread='confidences spread between 0 and 1', sure='all confidences within .001 of 1',
             half='in half precision: many are equal', tied='all confidences 1',
             filled='more rows wanted than there are: classes filled up to a third more than the mean class has')


# A process and its memory

def memory(pid='self'):
    "MB of a process: anonymous memory and pages of mapped files"
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return {k: int(v.split()[0])/1e3 for k, v in (o.split(':', 1) for o in lines) if k in ('RssAnon', 'RssFile')}


def child(conn, side, args):
    "In the new process: imports, a sign that they are done, the work, what came of it"
    side.warm_up()
    conn.send(memory())
    conn.recv()
    start = time.perf_counter()
    res = side(*args)
    conn.send(dict(secs=time.perf_counter()-start))
    conn.recv()  # with the result still there: the last look at the memory counts it
    conn.send(side.describe(res))


def measured(side, *args):
    "Run `side` in a process of its own: seconds, facts about the result, and peak MB beyond the imports"
    ctx = multiprocessing.get_context('spawn')
    conn, other = ctx.Pipe()
    p = ctx.Process(target=child, args=(other, side, args))
    p.start()
    other.close()  # so that a child that dies ends the waiting
    before = conn.recv()
    peak = dict(before)
    def look(): return {k: max(v, peak[k]) for k, v in memory(p.pid).items()}
    conn.send(None)
    while not conn.poll(.003): peak = look()
    res, peak = conn.recv(), look()
    conn.send(None)
    res |= conn.recv()
    p.join()
    return res | dict(anon=peak['RssAnon']-before['RssAnon'], file=peak['RssFile']-before['RssFile'])


def in_turns(sides, rounds, *args):
    "name -> results of all rounds"
    res, rng = {k: [] for k in sides}, random.Random(0)
    for _ in range(rounds):
        for k in rng.sample(list(sides), len(sides)): res[k].append(measured(sides[k], *args))
    return res


# The arrays

def confidences(case, g, n):
    u = g.random(n, dtype=np.float32)
    if case == 'sure': return 1-u*np.float32(1e-3)
    if case == 'half': return u.astype(np.float16).astype(np.float32)
    if case == 'tied': return np.ones(n, np.float32)
    return u


def write_arrays(folder, case, n, c):
    "A block at a time: not even this takes much memory"
    g = np.random.default_rng(0)
    conf, label = (np.lib.format.open_memmap(folder/f'{k}.npy', mode='w+', dtype=t, shape=(n,))
                   for k, t in (('conf', np.float32), ('label', np.uint16)))
    for i in range(0, n, 2**22):
        s = slice(i, min(i+2**22, n))
        conf[s], label[s] = confidences(case, g, s.stop-i), g.integers(c, size=s.stop-i, dtype=np.uint16)


def maps(folder): return (np.load(folder/f'{o}.npy', mmap_mode='r') for o in ('conf', 'label'))


# The sides

class Side:
    "A way to select; what it imports is imported before the clock starts"
    def warm_up(self): pass
    def describe(self, rows): return dict(n_rows=len(rows))


class Read(Side):
    "One look at each value, which any selection needs"
    def describe(self, res): return {}
    def __call__(self, folder, c, k): return [o.sum() for o in maps(folder)]


class Ours(Side):
    def warm_up(self):
        "Not only the import: from here on, passes over the rows are counted"
        from noisy_student_fastai.labels import balance as selection
        self.passes, chunks = 0, selection._Rows.chunks
        def counted(rows, *args):
            self.passes += 1
            return chunks(rows, *args)
        selection._Rows.chunks = counted

    def describe(self, rows): return super().describe(rows) | dict(passes=self.passes)

    def __call__(self, folder, c, k):
        from noisy_student_fastai.labels.balance import select_rows
        conf, label = maps(folder)
        return select_rows(conf, label, c, min_conf=LEAST, n_per_class=k)


class Pandas(Side):
    def warm_up(self): import pandas  # noqa: F401, I001

    def __call__(self, folder, c, k):
        import pandas as pd
        conf, label = maps(folder)
        df = pd.DataFrame(dict(conf=conf, label=label))
        return np.sort(self.select(df[df.conf >= LEAST], k))


class Nlargest(Pandas):
    def select(self, df, k): return df.groupby('label').conf.nlargest(k).index.get_level_values(1).to_numpy()


class Head(Pandas):
    def select(self, df, k): return df.sort_values('conf', ascending=False).groupby('label').head(k).index.to_numpy()


class Partition(Pandas):
    "pandas for the groups, numpy for the choice"
    def select(self, df, k):
        def top(s): return s.index.to_numpy()[np.argpartition(-s.to_numpy(), min(k, len(s))-1)[:k]]
        return np.concatenate([top(s) for _, s in df.groupby('label').conf])


SIDES = {'read': Read(), 'ours': Ours(), 'pandas, nlargest': Nlargest(), 'pandas, sort and head': Head(),
         'pandas groups, numpy partition': Partition()}


# The comparison

def compare(case, folder, a):
    "Rows wanted per class, and name -> results"
    write_arrays(folder, case, a.n, a.c)
    filled = case == 'filled'  # pandas has no way to fill up
    sides = {k: o for k, o in SIDES.items() if not (filled and isinstance(o, Pandas))}
    k = a.n*4//(3*a.c) if filled else max(1, a.n//(10*a.c))
    return k, in_turns(sides, a.rounds, folder, a.c, k)


def ratio(rs, others): return statistics.median(r['secs']/o['secs'] for r, o in zip(rs, others))


def report(case, k, res, a):
    "Print and return a line per side"
    mb, out = a.n*6/1e6, res['ours'][0]['n_rows']
    for side, rs in res.items():
        assert side == 'read' or {r['n_rows'] for r in rs} == {out}, f'{side} selects differently'
    print(f"\n{case}: {CASES[case]}; {k:,} per class, {out:,} rows in all\n  needed: {mb:,.0f} MB to read once and "
          f"{out*8/1e6:,.0f} MB to write; ours looks at the arrays {res['ours'][0]['passes']} times")
    rows = []
    for side, rs in res.items():
        o = {f: statistics.median(r[f] for r in rs) for f in ('secs', 'anon', 'file')}
        o |= dict(case=case, side=side, of_read=ratio(rs, res['read']), of_ours=ratio(rs, res['ours']))
        print(f"  {side:31} {o['secs']:8.3f} s, {o['of_read']:6.1f} x read, {o['of_ours']:6.2f} x ours; own memory "
              f"{o['anon']:7,.0f} MB, {o['anon']/mb:5.2f} x the arrays; mapped {o['file']:5,.0f} MB", flush=True)
        rows.append(o)
    return rows


def few_rows():
    from noisy_student_fastai.labels.balance import select_rows
    g = np.random.default_rng(0)
    print('\nfew rows, 10 classes:')
    for n in (100, 10_000, 1_000_000):
        conf, label = g.random(n, dtype=np.float32), g.integers(10, size=n, dtype=np.uint16)
        def once():
            start = time.perf_counter()
            select_rows(conf, label, 10, n_per_class=max(1, n//100))
            return time.perf_counter()-start
        print(f'  {n:9,} rows: {1e3*statistics.median(once() for _ in range(20)):.2f} ms')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=lambda o: int(float(o)), default=100_000_000, help='rows')
    p.add_argument('--c', type=int, default=1000, help='classes')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--cases', nargs='*', default=list(CASES), choices=list(CASES))
    p.add_argument('--json', help='also write the lines here')
    a = p.parse_args()
    machine = platform.processor() or platform.machine()
    print(f'{machine}; numpy {np.__version__}; {a.n:,} rows, {a.c:,} classes, {a.rounds} rounds')
    rows = []
    for case in a.cases:
        with tempfile.TemporaryDirectory() as folder: rows += report(case, *compare(case, Path(folder), a), a)
    few_rows()
    if a.json: Path(a.json).write_text(json.dumps(rows, indent=1))


if __name__ == '__main__': main()
