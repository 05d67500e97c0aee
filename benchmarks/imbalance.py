"""Does a student help where a class is rare? Against its control, plain models, and scikit-learn's self-training

    python benchmarks/imbalance.py                                 # all data sets, 5 seeds, two processes
    python benchmarks/imbalance.py --data breast_cancer --seeds 3
    python benchmarks/imbalance.py --data dresses --steps 50         # a quick try, which leaves results/ alone
    python benchmarks/imbalance.py --tune --data dresses --seeds 3   # validation rows of seeds 100, 101, ...

Real data that need no download, with a class that is rare by nature (one digit against the others), or made rare by
leaving out most of its rows: labeled, unlabeled, validation and test rows all have the
classes in the same shares. Results are kept in results/imbalance.csv, seed by seed, as accuracy.py keeps its own. Rows:

`majority`, `logistic`, `boosting`   scikit-learn's, on the labeled rows; no boosting where its trees would take minutes
`self_training`      SelfTrainingClassifier around the logistic regression, up to ten rounds
`self_training_net`  SelfTrainingClassifier around the network, one round: what it calls sure (.75) is trained on, too
`teacher`            the network on the labeled rows, with the noise that suits it
`control`            the same with the noise of students, on as many batches
`student`            ours, one round: rows by the shares that the teacher finds, none more than three times
`equal`              ours, as the paper: equally many rows of each class, repeated as often as that takes

All networks of a data set are the same one, start from the same weights, and see the same number of batches of 64 rows.
What counts is average precision: of the rare class, or, where there are more than two, the mean over classes. It needs
no threshold. Balanced accuracy and the recall of the rare class (the rarest one) are those of the class that a model
says, which is a question of the threshold as well. What is in `RARE` was chosen on validation rows of seeds from 100
on; README.md says what was tried, and which test rows had been seen by then.
"""
import os
import textwrap
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from accuracy import in_words, with_sign
from fastai.callback.progress import no_bar  # noqa: F401  (patches Learner)
from noisy_student_fastai.data.datasets import LabelScarce, Part, catalog, label_scarce
from noisy_student_fastai.labels import labeling  # noqa: F401  (gives a Learner its `pseudolabel`)
from noisy_student_fastai.noise.callback import StudentNoise
from noisy_student_fastai.student import NoisyStudent
from runs import arguments, publish, results
from sets import Setting, digits_noise, flat, image_net, standardized, table_net, table_noise
from sklearn.base import BaseEstimator, ClassifierMixin
from training import BS, fitted, learner, noise_args, quietly, supervised

ROWS = dict(majority='majority class', logistic='logistic regression', boosting='gradient boosting',
            self_training='SelfTrainingClassifier, logistic', self_training_net='SelfTrainingClassifier, network',
            teacher='teacher', control='control (noise of students)', student='student, by class shares',
            equal='student, equal counts')
NETS = ('teacher', 'control', 'student', 'equal')
METRICS = dict(ap='average precision', balanced='balanced accuracy', recall='recall of the rare class')


# settings

@dataclass(frozen=True)
class Rare(Setting):
    "A data set with a rare class, the first one"
    n_pl:int = 32
    source:str = '' # Of the package's data sets
    groups:tuple = () # Which of its classes are a class here; the last one may be the rest
    shares:tuple = (.1, .9) # Of the classes
    sizes:tuple = (300, 4000, 600, 2000) # Labeled, unlabeled, validation and test rows
    pool:int = 1 # Pictures become squares of so many pixels, each their mean
    max_repeat:int = 3
    weights:str|None = None


REST = ('rest',)
TAIL = tuple((50**(-np.arange(10)/9)/(50**(-np.arange(10)/9)).sum()).round(4).tolist())[::-1]
CLOTHES = dict(net=table_net, noise=table_noise, source='fashion_mnist', pool=4)
FEW = dict(m_control=.03, m=.03, dropout=.2)  # where a class has two to five labels
RARE = dict(
    breast_cancer=Rare(table_net, table_noise, .3, .3, source='breast_cancer', groups=((0,), (1,)),
                       sizes=(40, 200, 40, 117)),
    digits_table=Rare(table_net, table_noise, .1, .1, source='digits', groups=((9,), REST), shares=(.03, .97),
                      sizes=(300, 600, 380, 380)),
    digits=Rare(image_net, digits_noise, 1., 1., source='digits', groups=((8,), REST),
                sizes=(150, 800, 250, 480)),
    shirts=Rare(**CLOTHES, m_control=.1, m=.1, groups=((6,), (0,)), shares=(.05, .95), sizes=(300, 3000, 1500, 2500)),
    dresses=Rare(**CLOTHES, **FEW, groups=((3,), (0, 4)), shares=(.01, .99), sizes=(500, 5000, 2500, 5000)),
    clothes=Rare(**CLOTHES, **FEW, groups=tuple((i,) for i in range(10)), shares=TAIL, sizes=(300, 4000, 2000, 4000)))


# data

@cache
def whole(source):
    "All rows of a data set of the package, in their order"
    parts = label_scarce(source).parts.values()
    x, y, at = (np.concatenate(o) for o in zip(*parts))
    order = np.argsort(at)
    return x[order], y[order]


def of_groups(y, groups):
    "The class here of each row, -1 if it has none; names"
    res = np.full(len(y), -1 if REST not in groups else groups.index(REST))
    for i, g in enumerate(groups):
        if g != REST: res[np.isin(y, g)] = i
    return res


def counts(n, shares):
    "How many of `n` rows each class has: one or more, the largest the rest"
    res = np.maximum(1, np.round(n*np.array(shares))).astype(int)
    res[np.argmax(shares)] += n-res.sum()
    return res


def pooled(x, k):
    "Pictures of a `k`-th of the size"
    if k == 1: return x
    n, c, h, w = x.shape
    return x.reshape(n, c, h//k, k, w//k, k).mean((3, 5))


def drawn(name, s, seed):
    "A split in which all parts have the classes in the same shares"
    x, y = whole(s.source)
    if s.net is table_net: x = pooled(x, s.pool).reshape(len(x), -1)
    y, rng = of_groups(y, s.groups), np.random.default_rng(seed)
    left = [rng.permutation(np.flatnonzero(y == i)) for i in range(len(s.groups))]
    parts = []
    for n in s.sizes:
        ks = counts(n, s.shares)
        assert all(len(o) >= k for o, k in zip(left, ks)), f'{name}: too few rows of a class'
        parts.append(rng.permutation(np.concatenate([o[:k] for o, k in zip(left, ks)])))
        left = [o[k:] for o, k in zip(left, ks)]
    labeled, unlabeled, valid, test = (Part(x[i], y[i], i) for i in parts)
    names = ['+'.join(map(str, (catalog[s.source].vocab[i] for i in g))) if g != REST else 'rest' for g in s.groups]
    return standardized(LabelScarce(name, tuple(names), labeled, unlabeled, valid, test))


# models

def probabilities(learn, x):
    with learn.no_bar(): return np.asarray(learn.pseudolabel(x, bs=512, dtype='float32', leaks='keep').probs)


class Net(ClassifierMixin, BaseEstimator):
    "The network of a data set as scikit-learn has its models, trained as the control is"
    def __init__(self, data=None, s=None, seed=0): self.data, self.s, self.seed = data, s, seed

    def shaped(self, x): return x.reshape(len(x), *self.data.labeled.x.shape[1:])

    def fit(self, x, y):
        self.classes_ = np.arange(len(self.data.vocab))
        part = Part(self.shaped(x), y, np.arange(len(y)))
        self.learn_ = supervised(self.data, self.s, self.seed, part, self.s.m)
        return self

    def predict_proba(self, x): return probabilities(self.learn_, self.shaped(x))

    def predict(self, x): return self.predict_proba(x).argmax(1)


def sklearn_models(data, s, seed):
    "Those that are no network of ours, by the name of their row"
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import SelfTrainingClassifier
    logistic = LogisticRegression(max_iter=500)
    n_cols, leaf = flat(data.labeled).shape[1], min(20, max(2, data.labeled.n//20))
    res = dict(majority=DummyClassifier(), logistic=logistic, self_training=SelfTrainingClassifier(logistic),
               self_training_net=SelfTrainingClassifier(Net(data, s, seed), max_iter=1))
    if n_cols*len(data.vocab) <= 2000:
        res['boosting'] = HistGradientBoostingClassifier(min_samples_leaf=leaf, random_state=seed)
    return res


def by_sklearn(row, data, s, seed, part):
    "Probabilities of the rows of `part`, or `None`"
    if row not in (models := sklearn_models(data, s, seed)): return
    x, y = flat(data.labeled), data.labeled.y
    if row.startswith('self_training'):
        x, y = np.concatenate([x, flat(data.unlabeled)]), np.append(y, np.full(data.unlabeled.n, -1))
    model = models[row].fit(x, y)
    return model.predict_proba(flat(part))


def selects(data, s):
    "Arguments of `select` for the two students"
    return dict(student=dict(min_conf=s.min_conf, max_repeat=s.max_repeat, prior=s.prior, weights=s.weights),
                equal=dict(min_conf=.3, n_per_class=-(-data.unlabeled.n//len(data.vocab)), max_repeat=None))


def student(data, s, seed, sel):
    "A student of the rows `sel`"
    n_labeled = BS-s.n_pl  # in a batch
    def make():
        learn = learner(data, s, data.labeled, n_labeled*s.steps, StudentNoise(**noise_args(s, s.m)))
        dl2 = sel.dl(learn.dls, temperature=s.temperature)
        learn.add_cb(NoisyStudent(dl2, bs=BS, l2pl_ratio=n_labeled/s.n_pl))
        return learn
    return fitted(s, seed, make)


def trainers(data, s, seed):
    "For each network a function that returns it trained; the teacher labels once"
    teacher = cache(lambda: supervised(data, s, seed, data.labeled, s.m_control))
    @cache
    def labels():
        with teacher().no_bar():
            return teacher().pseudolabel(data.unlabeled.x, bs=512, dtype='float32', leaks='keep')
    def taught(k): return student(data, s, seed, labels().select(**selects(data, s)[k]))
    control = teacher if s.m == s.m_control else lambda: supervised(data, s, seed, data.labeled, s.m)
    return dict(teacher=teacher, control=control, student=lambda: taught('student'), equal=lambda: taught('equal'))


# results

def scores(p, y, rare=0):
    "What is measured, in percent, of probabilities"
    from sklearn.metrics import average_precision_score, balanced_accuracy_score
    classes = [rare] if p.shape[1] == 2 else range(p.shape[1])
    ap = np.mean([average_precision_score(y == i, p[:, i]) for i in classes])
    said = p.argmax(1)
    found = np.mean(said[y == rare] == rare)
    return {'ap': 100*ap, 'balanced': 100*balanced_accuracy_score(y, said), 'recall': 100*found}


def run_seed(name, seed, s, part, runs, rows):
    "The scores of the rows `rows` of the table, on one split"
    with quietly():
        data = drawn(name, s, seed)
        at, nets, res = getattr(data, part), trainers(data, s, seed), []
        for k in [o for o in ROWS if o in rows]:
            p = probabilities(nets[k](), at.x) if k in nets else by_sklearn(k, data, s, seed, at)
            res.append(dict(row=k) | (dict.fromkeys(METRICS, np.nan) if p is None else scores(p, at.y)))
        return pd.DataFrame(res)


def available(names, settings):
    "Data sets that are installed; says which are not"
    res = []
    for k in names:
        try: whole(settings[k].source)
        except (FileNotFoundError, ImportError) as e: print(f'{k} is left out: {e}', flush=True)
        else: res.append(k)
    return res


# tables

def in_order(df): return list(dict.fromkeys(df.data))


def means(df, metric):
    "Mean and standard deviation over the seeds: a line for each row, a column for each data set"
    g = df.groupby(['row', 'data'])[metric]
    return [o.unstack('data').reindex(index=[k for k in ROWS if k in set(df.row)], columns=in_order(df))
            for o in (g.mean(), g.std())]


PAIRS = (('student', 'control'), ('student', 'equal'), ('student', 'self_training'), ('student', 'self_training_net'),
         ('student', 'logistic'), ('student', 'boosting'))


def ahead(df, metric='ap', pairs=PAIRS):
    "By how many points rows are ahead of others, seed by seed, and its standard error"
    of = df.pivot(index=['data', 'seed'], columns='row', values=metric)
    res = {(a, b): (of[a]-of[b]).groupby('data').agg(['mean', 'sem']) for a, b in pairs if {a, b} <= set(of)}
    return pd.concat(res, names=['row', 'other']).reset_index()


def title(name):
    "What a column is called: the data set, and how rare its classes are"
    s = RARE[name]
    share = f'{100*s.shares[0]:.2g}%'.replace('1e+01', '10')
    kind = f'{len(s.shares)} classes, rarest {share}' if len(s.shares) > 2 else share
    return f'{in_words(name)}<br>{kind}, {s.sizes[0]} labels'


def grid(corner, cols, lines):
    "A Markdown table"
    return '\n'.join([f'| {corner} | '+' | '.join(cols)+' |', '|---'*(len(cols)+1)+'|',
                      *(f'| {k} | '+' | '.join(v)+' |' for k, v in lines)])


def metric_table(df, metric):
    mean, std = means(df, metric)
    def cell(k, name):
        v = mean.loc[k, name]
        text = '' if np.isnan(v) else f'{v:.1f} ± {std.loc[k, name]:.1f}'
        return f'**{text}**' if v == mean[name].max() else text
    lines = [(ROWS[k], [cell(k, o) for o in mean]) for k in mean.index]
    return grid(f'{METRICS[metric]}, %', [title(o) for o in mean], lines)


def ahead_table(df):
    t, names = ahead(df).set_index(['row', 'other', 'data']), in_order(df)
    def cell(pair, name):
        o = t.loc[(*pair, name)]
        return '' if np.isnan(o['mean']) else f'{o["mean"]:+.1f} ± {o["sem"]:.1f}'
    pairs = list(dict.fromkeys((a, b) for a, b, _ in t.index))
    lines = [(f'{ROWS[a]} over {ROWS[b]}', [cell((a, b), o) for o in names]) for a, b in pairs]
    return grid('points of average precision ahead, ± standard error', list(map(in_words, names)), lines)


def listed(names): return f"{len(names)} ({', '.join(map(in_words, names))})" if len(names) else 'none'


def verdict(df):
    "What the tables say, in words"
    t, n = ahead(df).set_index('other'), len(in_order(df))
    def where(other, f): return listed(list(t.loc[[other]].data[f(t.loc[[other]])])) if other in t.index else 'none'
    def wins(o): return o['mean'] > 0
    below = where('control', lambda o: o['mean'] < -o['sem'])
    plain = where('logistic', lambda o: o['mean'] < 0)
    return (f"Of {n} data sets the student is ahead of its control on {where('control', wins)}, and more than a "
            f"standard error below it on {below}. It is ahead of SelfTrainingClassifier around a logistic regression "
            f"on {where('self_training', wins)}, and around the network on {where('self_training_net', wins)}; of "
            f"equal counts on {where('equal', wins)}. Logistic regression is ahead of the student on {plain}.")


def page(df):
    "What is published of these results"
    words = textwrap.fill(verdict(df), 120)
    parts = [metric_table(df, 'ap'), words, ahead_table(df), *(metric_table(df, k) for k in METRICS if k != 'ap')]
    return with_sign('\n\n'.join(parts)+'\n')


def main():
    a = arguments(__doc__, list(RARE), RARE)
    name = 'imbalance_tuning' if a.tune else 'imbalance'
    df, asked = results(run_seed, set(ROWS), a, name, there=available, measure='ap')
    for k, v in METRICS.items(): print(f'\n{v}, %', means(asked, k)[0].round(1).to_string(), sep='\n')
    print(ahead(asked).round(1).to_string(index=False), verdict(asked), sep='\n\n')
    publish(page(df), a.out, name)  # all data sets, whatever was asked for


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
