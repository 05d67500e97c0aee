"""Results that are kept seed by seed and row by row, so that a script goes on where it was cut off; its arguments"""
import argparse
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from sets import MORE_SEEDS, SETTINGS, look

RESULTS, PAGE = Path(__file__).parent/'results', Path(__file__).parent/'README.md'
QUICK = Path('out/quick')  # results of other numbers of steps, so that a quick try leaves `RESULTS` alone
RUNS = Path('out/runs')  # models, which git ignores; an interrupted run goes on there, and robustness.py needs them too
TUNE_FROM = 100  # seeds that are for choosing settings
N_SEEDS = 5


def read(path):
    "Results so far, of whatever settings"
    if path.exists(): return pd.read_csv(path, dtype=dict(key=str))
    return pd.DataFrame(columns=['data', 'seed', 'row', 'key'])


def written(df, path, settings=SETTINGS):
    "Write results, so that an interrupt leaves the old file or the new one; data sets in the order of `settings`"
    order = {k: i for i, k in enumerate(settings)}
    df = df.sort_values(['data', 'seed'], key=lambda o: o.map(order) if o.name == 'data' else o, kind='stable')
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix('.tmp')
    df.to_csv(tmp, index=False, float_format='%.3f')
    tmp.replace(path)
    return df


WHICH = ['data', 'seed', 'row', 'key']


def with_new(df, new):
    "Results with new ones, in place of what there was of the same rows and settings"
    same = pd.MultiIndex.from_frame(df[WHICH]).isin(pd.MultiIndex.from_frame(new[WHICH]))
    return new if same.all() else pd.concat([df[~same], new], ignore_index=True)


def key_of_all(name, row, s): return s.key  # rows may have settings of their own


def of_settings(df, settings, key=key_of_all):
    "The results of these settings: others may be in the file, too"
    each = {k: key(*k, settings[k[0]]) for k in set(zip(df.data, df.row)) if k[0] in settings}
    return df[np.array([each.get((o.data, o.row)) == o.key for o in df.itertuples()], bool)]


def timed(f, key, name, seed, s, *args):
    start = time.time()
    res = f(name, seed, s, *args).assign(data=name, seed=seed, seconds=round(time.time()-start, 1))
    return res.assign(key=[key(name, k, s) for k in res.row])


def available(names, settings):
    "Data sets that are installed; says which are not"
    res = []
    for k in names:
        try: look(k)
        except (FileNotFoundError, ImportError) as e: print(f'{k} is left out: {e}', flush=True)
        else: res.append(k)
    return res


@cache
def pool(jobs):
    "Processes that stay to the end: each has to import torch and fastai first"
    return ProcessPoolExecutor(jobs, mp_context=get_context('spawn'))


def finished(f, calls, jobs):
    "What `f` returns for each of `calls`, its arguments, as it comes from `jobs` processes"
    if jobs == 1: yield from (f(*args) for args in calls)
    else:
        for o in as_completed([pool(jobs).submit(f, *args) for args in calls]): yield o.result()


def at_once(rows): return [rows]


def seeds_of(seeds, name): return seeds[name] if isinstance(seeds, dict) else seeds


def run_all(f, rows, names, seeds, settings, path, jobs=2, part='test', runs=None, again=False, there=available,
            measure='accuracy', key=key_of_all, apart=at_once):
    "Run what `path` lacks of the rows `rows`, those `apart` by themselves, and return what it has of these settings"
    df, names = read(path), there(names, settings)
    old = df.iloc[:0] if again else of_settings(df, settings, key)
    has = {k: set(g.row) for k, g in old.groupby(['data', 'seed'])}
    n_seeds = max((len(seeds_of(seeds, k)) for k in names), default=0)
    todo = [(k, seeds_of(seeds, k)[i]) for i in range(n_seeds) for k in names if i < len(seeds_of(seeds, k))]
    parts = [(k, i, o) for k, i in todo for o in apart(rows - has.get((k, i), set())) if o]
    calls = [(f, key, k, i, settings[k], part, runs, o) for k, i, o in parts]
    for n, new in enumerate(finished(timed, calls, jobs), 1):
        df, o = written(with_new(df, new), path, settings), new.iloc[0]
        accs = ', '.join(f'{k} {v:.1f}' for k, v in new.groupby('row', sort=False)[measure].mean().items())
        print(f'{n} of {len(calls)}: {o.data}, seed {o.seed}, {o.seconds:.0f} s: {accs}', flush=True)
    return of_settings(df, settings, key)


def arguments(doc, names, settings=SETTINGS, rows=()):
    "What the command line says, and the settings that follow from it"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', nargs='*', default=names, choices=names)
    p.add_argument('--seeds', type=int, help=f'how many; default: {N_SEEDS}, or {MORE_SEEDS}')
    p.add_argument('--jobs', type=int, default=2, help='processes, of one thread each')
    p.add_argument('--steps', type=int, help=f'batches that each network trains on; results go to {QUICK}')
    p.add_argument('--out', type=Path, help=f'folder of the results; default: {RESULTS.name} beside this script')
    p.add_argument('--runs', type=Path, default=RUNS, help='folder where models are kept')
    p.add_argument('--again', action='store_true', help='run also what is there')
    p.add_argument('--tune', action='store_true', help=f'report on validation rows of seeds from {TUNE_FROM} on')
    if rows: p.add_argument('--rows', nargs='*', default=list(rows), choices=list(rows))
    a = p.parse_args()
    a.out = a.out or (RESULTS if a.steps is None else QUICK)
    a.settings = {k: s if a.steps is None else replace(s, steps=a.steps) for k, s in settings.items()}
    first, a.part = (TUNE_FROM, 'valid') if a.tune else (0, 'test')
    a.seeds = {k: range(first, first+(a.seeds or MORE_SEEDS.get(k, N_SEEDS))) for k in settings}
    return a


def results(f, rows, a, name, **kwargs):
    "Run what is missing; all results of the settings, and those that were asked for"
    df = run_all(f, rows, a.data, a.seeds, a.settings, a.out/f'{name}.csv', a.jobs, a.part, a.runs, a.again,
                 **kwargs)
    asked = df[np.array([o.data in a.data and o.seed in a.seeds[o.data] for o in df.itertuples()], bool)]
    if asked.empty: sys.exit('no results')
    return df, asked


def publish(md, out, name):
    "Keep Markdown in a file, and in README.md where that is what is published"
    (out/f'{name}.md').write_text(md, encoding='utf-8')
    if out.resolve() != RESULTS.resolve(): return
    old = PAGE.read_text(encoding='utf-8')
    new = re.sub(rf'(<!-- {name} -->\n).*?(?=<!-- end -->)', lambda m: f'{m[1]}\n{md}\n', old, flags=re.S)
    PAGE.write_text(new, encoding='utf-8')
