"""Does a noisy student beat its control, and everything else that one would try? At equal batches, with few labels

    python benchmarks/accuracy.py                                    # all data sets, all rows, two processes
    python benchmarks/accuracy.py --data digits wine --seeds 3 --rows ours control_long ceiling_long
    python benchmarks/accuracy.py --data wine --steps 50             # a quick try, which leaves results/ alone
    python benchmarks/accuracy.py --tune --data wine --seeds 3       # the search that tuning.py tells of

Results are kept in results/accuracy.csv, seed by seed and row by row: what was cut off, was run with other data sets,
or lacks a row, goes on from there; `--again` runs it anew. Each line names its settings by a key: results of other
settings are kept beside it, and not shown. A seed is a split, the starting weights, the noise. Rows of the table:

`plain`          supervised, on the few labels, without noise
`control`        supervised with noise on inputs and dropout, as strong as suits it: the teacher of the first round
`control_m`      the same with noise as strong as students have it
`control_own`    as `control`, on all batches that a teacher and three students see together
`control_long`   as `control_m`, on as many
`self_training`  scikit-learn's SelfTrainingClassifier     `spreading`  scikit-learn's LabelSpreading
`lp_cosine`      label propagation on the inputs, no network
`tsai`           tsai's callback, on the labels that `one` learns from (made hard, as it does), same noise and batches
`fixmatch`, `flexmatch`, `mean_teacher`   on all batches (rivals.py)
`one`, `three`   `self_train`: the student of the first round, and of the third, whatever validation says of it
`ours`           `self_train(n_batches=, propagate=, online=)`: on all batches; where the labels come from, number and
                 length of students, and whether the last of them goes on with an online teacher, as it was chosen on
                 other seeds (tuning.py); what comes last, whatever validation says of it
`ceiling`, `ceiling_long`   as `control`, where the labels of all unlabeled rows are known; on all batches

"All batches" are four times those of a student, of 64 rows each; rows that only a teacher looks at are not counted,
which favors FixMatch and the like. All networks of a data set are the same one and start from the same weights. The
share of the gap that a row closes is (row-control)/(ceiling_long-control) of the means over the seeds, where the
control is the best of the five rows without pseudolabels by its mean on the test rows: a choice in its favor. The
spread is a standard error: that of a ratio of means, by the delta method, which does not know of that choice; there is
no share where the gap is less than two of its own standard errors. A second table has differences between two rows,
seed by seed, and their standard errors. `plain`, `control`, `control_m`, `tsai`, `one` and `ceiling` have the batches
of one student, a quarter of all, and `tsai` and `one` learn from a teacher beside.

Seven data sets and what suits them are older than the rows that are tuned by search. What is in `SETTINGS` was chosen
on validation rows of seeds from 100 on (2 to 10 seeds, 12 to 1,000 rows), in a loop that trains the networks of several
seeds at once; no test set decided on anything, though these seeds are other splits of the same rows (tuning.py has the
shares), and though seeds 0 to 4 of wine, 0 to 2 of digits and 0 of breast_cancer had been seen before JapaneseVowels
and breast_cancer got the settings that they have, and BasicMotions before scikit-learn's rows got theirs there (they
were near chance, and still are). Tried were, for the control: no noise and one to five strengths of it, on tables also
two learning rates and four weight decays, on digits and JapaneseVowels a second kind of noise, on Fashion-MNIST two
rates of dropout. For students, which have the control's learning rate and dropout: strength, share of rows (the same in
each round, or growing), and on tables also hard labels, temperature, no balancing, other learning rates, more labeled
rows in a batch, a network three times as wide and more batches; in all 3 settings on digits, 6 on JapaneseVowels, 3 on
GunPoint, 4 on Fashion-MNIST, 9 on wine, 25 on breast_cancer, where none gained more than .3 points (its standard error
is .5). So students had more tries than controls on tables and on JapaneseVowels. For scikit-learn's rows: three
classifiers, seven kernels, but only one classifier on Fashion-MNIST. Labels a class were set so that those rows show a
gap. BasicMotions has none even with one: there only the first channel, one axis of the accelerometer, is used. Not
tried in this very combination: digits with 500 steps (300 were), and on BasicMotions students and a control without
noise. Nothing was chosen for `control_own` and `control_long`, which were added when the test rows of all others had
been seen. FixMatch, FlexMatch, Mean Teacher, `ours` and propagation alone, and all that concerns the newer sets, were
chosen by the search of tuning.py, on as many validation rows as there are test rows.
"""
import os
import sys
import textwrap
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from fastcore.basics import chunked
from matplotlib.figure import Figure
from noisy_student_fastai.data.datasets import catalog
from rivals import by_sklearn, last_stage, lp_cosine, online, tsai_student
from runs import RESULTS, arguments, publish, read, results, run_all, written
from sets import CURVES, SETTINGS, all_labeled, prepared, source
from training import N_ROUNDS, at_the_end, ours, percent_right, quietly, reached, rounds, supervised
from tuning import (
    OF_SETTING,
    as_row,
    is_searched,
    keep,
    key_of,
    key_of_try,
    of_row,
    options,
    search,
    tuned_setting,
    tuned_settings,
)

CONTROLS = ('plain', 'control', 'control_m', 'control_own', 'control_long')  # without pseudolabels
CEILINGS = ('ceiling', 'ceiling_long')
BEST = 'the best control'  # of a setting, by its mean on the test rows: a row of tables of differences
RIVAL = 'the rival that validation prefers'  # of a setting, among `ONLINE`: another such row
CEILING = 'ceiling_long'  # what shares of the gap are counted to
ONLINE = ('fixmatch', 'flexmatch', 'mean_teacher')
RIVALS = ('plain', 'self_training', 'spreading', 'lp_cosine', 'tsai', *ONLINE)
LONG = f'{N_ROUNDS+1} x as long'
ROWS = dict(plain='supervised, no noise', control='supervised, noise tuned for it (control)',
            control_m='supervised, noise of students (control)',
            control_own=f'noise tuned for it, {LONG} (control)',
            control_long=f'noise of students, {LONG} (control)', self_training='SelfTrainingClassifier',
            spreading='LabelSpreading', lp_cosine='propagation alone, cosine neighbors',
            tsai="tsai's callback, our labels", fixmatch='FixMatch', flexmatch='FlexMatch',
            mean_teacher='Mean Teacher', one='ours, one round', three='ours, three rounds',
            ours='ours, propagated labels, equal batches',
            ceiling='all labels known (ceiling)', ceiling_long=f'all labels known, {LONG} (ceiling)')
OF_ROUNDS = ('control', 'control_m', 'tsai', 'one', 'three')  # these need the same models, which are kept


# one seed

def own(data, s, seed, row, o):
    "A network whose settings come from a search"
    if row in ONLINE: return online(row, data, s, seed, o)
    kind = o['last']
    last = None if kind is None else last_stage(kind, options(data.name, kind), s, o)
    return at_the_end(ours(data, s, seed, o, last), o['n_rounds'])


def trainers(data, s, seed, runs=None):
    "For each row of the table that is a network, a function that returns it trained; `self_train` runs once, if at all"
    run = cache(lambda: rounds(data, s, seed, runs))
    def alone(part, *args): return supervised(data, s, seed, part, *args)
    def searched(k): return lambda: own(data, s, seed, k, options(data.name, k))
    return dict(plain=lambda: alone(data.labeled), control=lambda: run().learner(0),
                control_m=lambda: run().learner(0) if s.m == s.m_control else alone(data.labeled, s.m),
                control_own=lambda: alone(data.labeled, s.m_control, N_ROUNDS+1),
                control_long=lambda: alone(data.labeled, s.m, N_ROUNDS+1),
                ceiling=lambda: alone(all_labeled(data), s.m_control),
                ceiling_long=lambda: alone(all_labeled(data), s.m_control, N_ROUNDS+1),
                tsai=lambda: tsai_student(data, s, seed, run()),
                one=lambda: reached(run(), 1), three=lambda: reached(run(), N_ROUNDS),
                **{k: searched(k) for k in (*ONLINE, 'ours')})


def without_net(row, data, s, seed, part, o):
    return lp_cosine(data, o, part) if row == 'lp_cosine' else by_sklearn(row, data, s, seed, part, o)


def run_seed(name, seed, s, part, runs, rows):
    "Accuracy in percent of the rows `rows` of the table, on one split"
    with quietly():
        data = prepared(name, s, seed)
        at, nets = getattr(data, part), trainers(data, s, seed, runs)
        def right(k):
            return percent_right(nets[k](), at) if k in nets else \
                without_net(k, data, s, seed, at, options(name, k))
        return pd.DataFrame(dict(row=k, accuracy=right(k)) for k in ROWS if k in rows)


def apart(rows):
    "What is run and kept by itself: each row, but for those of the same rounds"
    both = rows & set(OF_ROUNDS)
    return [both, *({k} for k in ROWS if k in rows-both)]


def of_setting(data, s, seed, row):
    "A network by which a setting is chosen"
    if row == 'three': return reached(rounds(data, s, seed), N_ROUNDS)
    return supervised(data, s, seed, data.labeled, s.m_control)


def tune_seed(name, seed, s, part, runs, rows):
    "Accuracy in percent of candidates, on the rows to choose by"
    with quietly():
        data = prepared(name, s, seed, is_tuning=True)
        def right(row, o):
            if row in OF_SETTING: return percent_right(of_setting(data, replace(s, **o), seed, row), data.valid)
            if row in (*ONLINE, 'ours'): return percent_right(own(data, s, seed, row, o), data.valid)
            return without_net(row, data, s, seed, data.valid, o)
        return pd.DataFrame(dict(row=k, accuracy=right(*of_row(k))) for k in sorted(rows))


def has_tsai():
    try: import tsai.callback.noisy_student  # noqa: F401, I001
    except ImportError: return False
    return True


# tables

def gap_share(row, control, ceiling):
    "Share of the gap between control and ceiling that a row closes, over seeds, and its standard error"
    d, gap = np.subtract(row, control), np.subtract(ceiling, control)
    if gap.mean() <= (2*gap.std(ddof=1)/len(gap)**.5 if len(gap) > 1 else 0): return np.nan, np.nan
    share = d.mean()/gap.mean()
    rest = d - share*gap
    return share, rest.std(ddof=1)/len(d)**.5/gap.mean() if len(d) > 1 else np.nan


def best_control(means):
    "The control of the highest mean: what is gained is counted from there"
    return max((k for k in CONTROLS if k in means), key=lambda k: means[k])


def table(df):
    "A line for each data set and row: mean, standard deviation, and the share of the gap that is closed"
    res = []
    for name, g in df.groupby('data', sort=False):
        accs = g.pivot(index='seed', columns='row', values='accuracy')
        means = accs.mean()
        base, best = best_control(means), means.drop([k for k in CEILINGS if k in means]).max()
        for k in [o for o in ROWS if o in accs]:
            share, err = gap_share(accs[k], accs[base], accs[CEILING]) if CEILING in accs else (np.nan, np.nan)
            res.append(dict(data=name, row=k, seeds=len(accs), mean=means[k], std=accs[k].std(), share=share,
                            share_err=err, is_base=k == base, is_best=means[k] == best and k not in CEILINGS))
    return pd.DataFrame(res)


def shown(o):
    if o.is_base: return 'counted from here'
    return '' if np.isnan(o.share) else f'{signed(o.share, 2)} ± {o.share_err:.2f}'


def as_text(t):
    "The table for a terminal; a star is the best mean but for the ceilings"
    lines = []
    for name, g in t.groupby('data', sort=False):
        lines.append(f'\n{name}, {g.seeds.iloc[0]} seeds{"accuracy in %":>32}   share of the gap')
        lines += [f'{"*" if o.is_best else " "} {ROWS[o.row]:40}{o["mean"]:6.1f} ± {o["std"]:4.1f}   {shown(o)}'
                  for _, o in g.iterrows()]
    return '\n'.join(lines)


def cell(o):
    "What a page shows of a line of the table"
    acc = f'{o["mean"]:.1f} ± {o["std"]:.1f}'
    return f'**{acc}**' if o.is_best else acc


def share_cell(o): return '' if o.row == CEILING else shown(o)


def in_words(name):
    "A setting's name: a page can break the line at its spaces, and before ±"
    what = source(name).replace('_', ' ')
    return what if source(name) == name else f'{what} at {n_labels(name)} labels'


def signed(v, digits=1):
    "A number with its sign; what rounds to 0 has none that says something"
    return f'{round(v, digits)+0:+.{digits}f}'


def with_sign(md): return md.replace('± ', '±\N{NO-BREAK SPACE}')


def head(t, names, what):
    "The first lines of a table: data sets, labels of each class, seeds"
    n_seeds = t.groupby('data').seeds.first()
    cells = [f'{in_words(source(k))}<br>{labels_of(k)}<br>{n_seeds[k]} seeds' for k in names]
    return [f'| {what} | '+' | '.join(cells)+' |', '|---'*(len(names)+1)+'|']


def labels_of(name):
    "How many rows of each class are labeled, in words"
    n = n_labels(name)
    return f'{n} label{"" if n == 1 else "s"} a class'


@cache
def n_labels(name):
    return SETTINGS[name].n_per_class or catalog[source(name)].n_per_class


N_COLUMNS = 6  # of a table: a page is no wider


TABLES = {'accuracy in %': cell, 'share of the gap': share_cell}  # one number in a cell, with its spread


def as_markdown(t):
    "The tables for a page: a line for each row, a column for each setting"
    names, lines = list(dict.fromkeys(t.data)), []
    for own in chunked(names, N_COLUMNS):
        for what, f in TABLES.items():
            cells = {(o.data, o.row): f(o) for _, o in t.iterrows()}
            lines += [*head(t, own, what), *(f'| {v} | '+' | '.join(cells.get((o, k), '') for o in own)+' |'
                                             for k, v in ROWS.items() if any(cells.get((o, k)) for o in own)), '']
    return with_sign('\n'.join(lines))


def headline(df):
    "What the page begins with: the best control, ours, and what all labels would bring"
    m = means_of(df, ())
    row, top = (next(k for k in ks if k in m) for ks in (('ours', 'three'), CEILINGS[::-1]))
    gain = differences(df, row, BEST)
    control = m[row]-gain['mean']
    lines = ['| data | labeled | best control, % | student, % | points gained | all labels known, % |',
             '|---|---|--:|--:|--:|--:|']
    bold, shown = {k: '**' if gain['mean'][k] > 0 else '' for k in m.index}, [k for k in m.index if source(k) == k]
    lines += [f'| {in_words(source(k))} | {labels_of(k)} | {control[k]:.1f} | {bold[k]}{m.loc[k, row]:.1f}{bold[k]} | '
              f'{difference(gain.loc[k])} | {m.loc[k, top]:.1f} |' for k in shown or m.index]
    n_seeds, gains = df.groupby('data').seed.nunique(), gain['mean']
    said = f'**The student is ahead of the best of its controls on {(gains > 0).sum()} of {len(gains)} settings, by ' \
           f'{gains.median():.1f} points in the median ({signed(gains.min())} to {signed(gains.max())}).** ' \
           f'Test accuracy, mean of {" to ".join(map(str, sorted({*n_seeds})))} splits; a gain has its standard ' \
           f'error beside it. The student: {ROWS[row]}.'
    if len(shown) < len(m): said += ' Data sets are shown once here, further down with other numbers of labels, too.'
    return with_sign('\n'.join([textwrap.fill(said, 120), '', *lines, *plain_rounds(df)])+'\n')


def plain_rounds(df):
    "What the rounds bring without a search and a last stage"
    if not {'ours', 'three'} <= {*df.row}: return []
    gains = differences(df, 'three', BEST)['mean']
    said = 'Three rounds of a fixed recipe, which no search has chosen, are ahead on ' \
           f'{(gains > 0).sum()} of {len(gains)}, by {gains.median():.1f} points in the median ' \
           f'({signed(gains.min())} to {signed(gains.max())}).'
    return ['', textwrap.fill(said, 120)]


PAIRS = (*(('ours', k) for k in (BEST, RIVAL, 'control_long', 'three', *RIVALS[1:]) if k != 'tsai'), ('three', BEST),
         ('one', 'tsai'))  # tsai's student has the batches of one


@cache
def tries(): return read(RESULTS/'tuning.csv')


def preferred(name):
    "Of FixMatch, FlexMatch and Mean Teacher the one that the search has found best on the rows to choose by"
    df = tries()
    means = df[(df.data == name) & (df.key == tuned_setting(name, SETTINGS[name]).key)].groupby('row').accuracy.mean()
    return max(ONLINE, key=lambda k: means[as_row(k, options(name, k))])


def with_best(df):
    "Results, and among them the best control of each setting, and the preferred rival, as rows of their own"
    m = means_of(df)
    best, rival = {k: best_control(m.loc[k].dropna()) for k in m.index}, {k: preferred(k) for k in m.index}
    return pd.concat([df, *(df[df.row == df.data.map(o)].assign(row=k) for k, o in ((BEST, best), (RIVAL, rival)))])


def differences(df, row, other):
    "By how many points a row is ahead of another, seed by seed: mean and standard error for each setting"
    if {BEST, RIVAL} & {row, other}: df = with_best(df)
    accs = df.pivot(index=['data', 'seed'], columns='row', values='accuracy')
    if not {row, other} <= set(accs): return pd.DataFrame(columns=['mean', 'sem'])
    return (accs[row]-accs[other]).dropna().groupby('data', sort=False).agg(['mean', 'sem'])


def difference(o): return f'{signed(o["mean"])} ± {o["sem"]:.1f}'


def ahead(df):
    "Tables for a page: by how many points rows are ahead of others, seed by seed, with standard errors"
    names = list(dict.fromkeys(df.data))
    return with_sign('\n'.join(ahead_on(df, own) for own in chunked(names, N_COLUMNS)))


def ahead_on(df, names):
    "One of these tables: a line for each two rows, a column for each setting"
    lines = ['| points ahead, ± standard error | '+' | '.join(map(in_words, names))+' |', '|---'*(len(names)+1)+'|']
    for row, other in PAIRS:
        if (d := differences(df, row, other)).empty: continue
        cells = [difference(d.loc[k]) if k in d.index else '' for k in names]
        lines.append('| '+' | '.join([f'{ROWS[row]} over {ROWS.get(other, other)}', *cells])+' |')
    return '\n'.join(lines)+'\n'


def page(df):
    "What is published of these results"
    return f'{as_markdown(table(df))}\n{textwrap.fill(verdict(df), 120)}\n\n{ahead(df)}'


# what it comes to

def means_of(df, but=CEILINGS):
    "Settings x rows"
    res = df.pivot_table(index='data', columns='row', values='accuracy', sort=False)
    return res.drop(columns=[k for k in but if k in res])


def leads(df, row='ours'):
    "Settings where a row has the highest mean"
    m = means_of(df)
    return [k for k in m.index if m.loc[k].get(row, np.nan) >= m.loc[k].max()]


def behind(df, row='ours', other=BEST):
    "Settings where a row is more than one standard error below another one"
    d = differences(df, row, other)
    return list(d.index[d['mean'] < -d['sem'].astype(float)])


def above(t, share, row='ours'):
    "Settings where a row closes more than this share of the gap"
    return list(t.data[(t.row == row) & (t.share > share)])


def listed(names): return f' ({", ".join(map(in_words, names))})' if names else ''


def best_other(df, name):
    "The row that is best on a setting, and its mean"
    m = means_of(df, (*CEILINGS, 'ours')).loc[name].dropna()
    return f'{in_words(name)} ({ROWS[m.idxmax()]}, {m.max():.1f})'


def against(df):
    "How ours does against the rival that is best on validation rows"
    up, down = behind(df, RIVAL, 'ours'), behind(df, 'ours', RIVAL)
    return f'Against {RIVAL} (FixMatch, FlexMatch or Mean Teacher) it is more than one standard error ahead on ' \
           f'{len(up) or "none"}{listed(up)}, and behind on {len(down) or "none"}{listed(down)}.'


def of_all(df, n=4):
    "The best means over all settings"
    m = means_of(df).dropna(axis=1).mean().sort_values(ascending=False, kind='stable')[:n]
    return 'Over all settings the best means are ' + ', '.join(f'{ROWS[k]} {v:.1f}' for k, v in m.items()) + '.'


def verdict(df):
    "What the tables say about `ours`, in words"
    t, names = table(df), list(dict.fromkeys(df.data))
    if 'ours' not in set(df.row): return 'Rows of `ours` are missing.'
    lead, low = leads(df), behind(df)
    res = [f'Of {len(names)} settings ours has the best mean on {len(lead)}{listed(lead)}.']
    rest = [best_other(df, k) for k in names if k not in lead]
    if rest: res.append(f'Another row is best on {", ".join(rest)}.')
    res.append(f'It is more than one standard error below the best control on {len(low) or "none"}{listed(low)}.')
    res += [against(df), of_all(df)]
    for o in (.6, .2): res.append(f'It closes more than {o} of the gap on {len(above(t, o))}{listed(above(t, o))}.')
    return ' '.join(res)


# figures

def points(t, name):
    "What the figure shows of a setting: label -> mean accuracy"
    acc = t[t.data == name].set_index('row')['mean']
    return {'best control': acc[best_control(acc)], 'three rounds': acc.three, 'ours': acc.ours,
            'best other method': acc[[k for k in RIVALS if k in acc]].max(), 'all labels known': acc[CEILING]}


STYLES = [dict(marker='|', ms=16, mew=3, color='.4'), dict(marker='o', ms=7, color='C0'),
          dict(marker='D', ms=8, color='C3'), dict(marker='x', ms=8, mew=2, color='C2'),
          dict(marker='|', ms=16, mew=3, color='k')]


def figure(df):
    "Is it ahead at equal batches? A line for each setting, with the share of the gap that is closed"
    t = table(df)
    names, shares = list(dict.fromkeys(t.data))[::-1], t[t.row == 'ours'].set_index('data').share
    pts = pd.DataFrame({k: points(t, k) for k in names})
    fig = Figure(figsize=(9, 1.7+.45*len(names)), layout='constrained')
    ax = fig.subplots()
    for i, k in enumerate(names): ax.plot(pts[k].iloc[[0, -1]], [i, i], color='.85', lw=7, zorder=0)
    for (label, g), style in zip(pts.iterrows(), STYLES): ax.plot(g, range(len(names)), ls='', label=label, **style)
    said = {k: '(no gap)' if np.isnan(v) else signed(v, 2) for k, v in shares.items()}
    ax.set_yticks(range(len(names)), [f'{in_words(k)}  {said[k]}' for k in names])
    ax.set(xlabel='accuracy on the test set, mean of the seeds (%)', ylabel='share of the gap that ours closes',
           ylim=(-.6, len(names)-.4))
    ax.set_title(f'At equal batches ours has the best mean on {len(leads(df))} of {len(names)} settings', fontsize=11)
    fig.legend(fontsize=9, ncols=5, loc='outside lower center', frameon=False)
    return fig


IN_CURVES = ('control_long', 'lp_cosine', 'fixmatch', 'three', 'ours', CEILING)


def curves(df, name='fashion_mnist'):
    "How many labels does it take? Accuracy against labels of each class, a line for each row"
    own = [k for k in dict.fromkeys(df.data) if source(k) == name]
    fig = Figure(figsize=(7, 4.5), layout='constrained')
    ax = fig.subplots()
    for row in IN_CURVES:
        g = df[df.data.isin(own) & (df.row == row)]
        g = g.groupby(g.data.map(n_labels)).accuracy.agg(['mean', 'sem', 'count'])
        ax.errorbar(g.index, g['mean'], g['sem'].where(g['count'] > 2, 0), marker='o', ms=4, capsize=2, label=ROWS[row])
    ns = sorted(map(n_labels, own))
    ax.set(xscale='log', xlabel='labels a class', ylabel='accuracy on the test set (%)',
           title=f'{in_words(name)}: how many labels does it take? (bars: standard error)')
    ax.set_xticks(ns, map(str, ns))
    ax.minorticks_off()
    ax.legend(fontsize=8, frameon=False)
    return fig


# the command

def tune(a, rows):
    "Search for each row and data set, and write down what is chosen"
    path, rows = a.out/'tuning.csv', sorted(rows, key=lambda k: k not in OF_SETTING)
    for name in sorted(a.data, key=lambda k: source(k) != k):  # other numbers of labels begin with what was chosen
        for row in [k for k in rows if is_searched(name, k)]:
            s = replace(SETTINGS[name], steps=a.settings[name].steps)
            s = {name: tuned_setting(name, s, a.out/'tuned.json', row)}
            def measure(texts):
                df = run_all(tune_seed, set(texts), [name], a.seeds, s, path, a.jobs, 'valid', a.runs, key=key_of_try)
                if df.empty: sys.exit(f'{name} is not installed')
                return df[df.seed.isin(a.seeds[name])].groupby('row').accuracy.mean()
            chosen = search(name, row, measure, a.out/'tuned.json')
            keep(name, row, chosen, a.out/'tuned.json')
            print(f'{name}, {row}: {as_row("", chosen)}', flush=True)


def is_whole(df):
    "Has each seed of each setting all rows? Where tsai is missing, its row may be, too"
    return all(set(ROWS)-{'tsai'} <= set(g.row) for _, g in df.groupby(['data', 'seed']))


def main():
    a = arguments(__doc__, list(SETTINGS), tuned_settings(SETTINGS), rows=ROWS)
    rows = set(a.rows)
    if not has_tsai():
        print('tsai is not installed: its row is left out')
        rows -= {'tsai'}
    if a.tune: return tune(a, [k for k in ROWS if k in rows])
    df, asked = results(run_seed, rows, a, 'accuracy', key=key_of, apart=apart)
    print(as_text(table(asked)), verdict(asked), ahead(asked), sep='\n\n')
    if not is_whole(df): return print('Not all rows are there yet: no page is written')
    written(df, a.out/'accuracy.csv', a.settings)  # without what was of older settings
    publish(headline(df), a.out, 'headline')
    publish(page(df), a.out, 'accuracy')  # all data sets, whatever was asked for
    figure(df).savefig(a.out/'accuracy.png', dpi=110)
    for k in CURVES: curves(df, k).savefig(a.out/f'accuracy_{k}.png', dpi=110)


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
