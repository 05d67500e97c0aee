"`select_rows` against plain Python: sort each class by confidence and hash, cut, repeat"
import random
from fractions import Fraction
from math import inf, nan
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_student_fastai.labels import balance as selection
from noisy_student_fastai.labels.balance import NoRows, apportion, select_rows

some = settings(max_examples=80, deadline=None, derandomize=True)
FULL = 2**32-1


def hash32(row, salt):
    "The salted finalizer, in Python's own numbers"
    x = row ^ int(salt[0])
    x ^= x >> 16
    x = (x*0x85ebca6b+int(salt[1])) & FULL
    x ^= x >> 13
    x = x*0xc2b2ae35 & FULL
    return x ^ x >> 16


def slow_apportion(n, shares):
    "Largest remainders, one seat after the other, in fractions"
    exact = [n*Fraction(o)/sum(map(Fraction, shares)) for o in shares]
    res = [int(o) for o in exact]
    while sum(res) < n:
        i = max(range(len(res)), key=lambda i: (exact[i]-res[i], -i))
        res[i] += 1
    return res


def slow_rows(conf, label, c, min_conf=.3, n_per_class=None, max_repeat=None, seed=0, exclude=None, n=None,
              shares=None):
    "One class after the other, one row after the other"
    salts = np.random.SeedSequence(seed).generate_state(4).reshape(2, 2)
    single, res, of = [float(np.float32(o)) for o in conf], [], []
    for k in range(c):
        least = np.float32(min_conf[k] if np.ndim(min_conf) else min_conf)
        def stays(i): return label[i] == k and single[i] >= least and not (exclude is not None and exclude[i])
        of.append([i for i in range(len(conf)) if stays(i)])
    have = [len(o) for o in of]
    if (n is not None or shares is not None) and sum(have):
        shares = have if shares is None else [o*(m > 0) for o, m in zip(shares, have)]
        n_per_class = slow_apportion(sum(have) if n is None else n, shares) if any(shares) else [0]*c
    for k, rows in enumerate(of):
        if n_per_class is None:
            res += rows
            continue
        n = n_per_class[k] if np.ndim(n_per_class) else n_per_class
        rows = sorted(rows, key=lambda i: (-single[i], hash32(i, salts[0])))[:n]
        if not rows: continue
        if max_repeat: n = min(n, max_repeat*len(rows))
        drawn = sorted(rows, key=lambda i: hash32(i, salts[1]))
        res += rows*(n//len(rows)) + drawn[:n % len(rows)]
    return sorted(res)


def confidences(kind, n, g):
    "Confidences of many shapes: spread, near 1, few different ones, one only, with zeros and tiny numbers"
    u = g.random(n)
    return dict(spread=u, sure=1-u*1e-3, half=u.astype(np.float16), few=u.round(1), ones=np.ones(n), zeros=u*(u > .5),
                tiny=u*1e-30, mixed=np.where(u > .5, .75, u))[kind]


KINDS = 'spread sure half few ones zeros tiny mixed'.split()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('few', [0, 2**16])
def test_against_sorting(kind, seed, few):
    "With counting (few=0) and with sorting; 3,000 rows in chunks of 512"
    g, c = np.random.default_rng(seed), 4
    conf, label = confidences(kind, 3000, g).astype(np.float32), g.choice(c, 3000, p=[.6, .3, .1, 0]).astype(np.uint16)
    exclude = g.random(3000) < .1
    least = 0. if kind in ('zeros', 'tiny') else [.3, .5, .2, .1]
    with patch.multiple(selection, _FEW=few, _CHUNK=512):
        for k in (None, 1, 77, 900, [5000, 1, 10, 3]):
            got = select_rows(conf, label, c, least, k, 30, seed, exclude)
            assert got.tolist() == slow_rows(conf, label, c, least, k, 30, seed, exclude)


@some
@given(data=st.data(), n=st.integers(1, 120), c=st.integers(1, 6), kind=st.sampled_from(KINDS),
       few=st.sampled_from([0, 5, 2**16]), chunk=st.sampled_from([1, 3, 50, 2**16]),
       dtype=st.sampled_from([np.float16, np.float32, np.float64]),
       ints=st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]), seed=st.integers(0, 2**40))
def test_fuzz(data, n, c, kind, few, chunk, dtype, ints, seed):
    g = np.random.default_rng(seed)
    conf, label = confidences(kind, n, g).astype(dtype), g.integers(c, size=n).astype(ints)
    least = data.draw(st.one_of(st.sampled_from([0, .3, .5, 1.]), st.lists(st.floats(0, 1), min_size=c, max_size=c)))
    k = data.draw(st.one_of(st.none(), st.integers(1, 40), st.lists(st.integers(1, 40), min_size=c, max_size=c)))
    cap = data.draw(st.one_of(st.none(), st.integers(1, 5)))
    exclude = data.draw(st.one_of(st.none(), st.just(g.random(n) < .3)))
    want = slow_rows(conf, label, c, least, k, cap, seed, exclude)
    with patch.multiple(selection, _FEW=few, _CHUNK=chunk):
        if want: assert select_rows(conf, label, c, least, k, cap, seed, exclude).tolist() == want
        else:
            with pytest.raises(ValueError, match='min_conf=|the min_conf of its class|exclude leaves'):
                select_rows(conf, label, c, least, k, cap, seed, exclude)


@some
@given(n=st.integers(0, 10**6), shares=st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_shares_are_rounded_by_largest_remainders(n, shares):
    "Whatever the unit of the shares, and however their last digits came about"
    want = slow_apportion(n, shares)
    for unit in (1, .1, 1/3, 1e-9): assert apportion(n, np.array(shares)*unit).tolist() == want


@settings(some, max_examples=60)
@given(data=st.data(), n=st.integers(1, 120), c=st.integers(1, 6), kind=st.sampled_from(KINDS),
       few=st.sampled_from([0, 5, 2**16]), cap=st.none() | st.integers(1, 4), seed=st.integers(0, 2**40))
def test_shares(data, n, c, kind, few, cap, seed):
    "Quotas by shares, with and without `n`, against plain Python"
    g = np.random.default_rng(seed)
    conf, label = confidences(kind, n, g).astype(np.float32), g.choice(c, n, p=g.dirichlet(np.ones(c))).astype(np.uint8)
    size = data.draw(st.none() | st.integers(1, 300))
    parts = st.lists(st.integers(0, 20), min_size=c, max_size=c).filter(any)
    shares = data.draw(parts if size is None else st.none() | parts)
    exclude = data.draw(st.sampled_from([None, g.random(n) < .3]))
    args = dict(min_conf=data.draw(st.sampled_from([0, .3, .6])), max_repeat=cap, seed=seed, exclude=exclude)
    want = slow_rows(conf, label, c, **args, n=size, shares=shares)
    with patch.multiple(selection, _FEW=few, _CHUNK=50):
        if want: assert select_rows(conf, label, c, **args, n=size, shares=shares).tolist() == want
        else:
            with pytest.raises(NoRows): select_rows(conf, label, c, **args, n=size, shares=shares)


@pytest.mark.parametrize('c', [1, 9])
def test_at_the_edges_of_intervals(c):
    "Doubts just below and just above the places where an interval of the first pass begins"
    step = int(np.clip(np.log2(selection._BINS/c), 4, 12))
    edges = selection._LogParts(step-5).edges
    doubt = np.unique(np.add.outer(edges, [-1, 0, 1]).clip(0, int(selection._ONE)))
    conf = (int(selection._ONE)-doubt).astype(np.uint32).view(np.float32)
    conf, label = np.concatenate([conf]*c), np.repeat(np.arange(c), len(conf))
    with patch.object(selection, '_FEW', 0):
        for k in range(1, len(doubt), 97):
            rows = select_rows(conf, label, c, min_conf=0, n_per_class=k)
            assert rows.tolist() == [i*len(doubt)+j for i in range(c) for j in range(k)]


def test_many_classes():
    g, c = np.random.default_rng(0), 100_000
    conf, label = g.random(300_000, dtype=np.float32), g.integers(c, size=300_000, dtype=np.uint32)
    rows = select_rows(conf, label, c, n_per_class=2)
    order = np.lexsort((-conf, label))
    order = order[conf[order] >= np.float32(.3)]
    rank = np.arange(len(order))-np.searchsorted(label[order], label[order])
    n = np.bincount(label[order], minlength=c)
    times = np.where(n[label[order]] == 1, 2, 1)
    assert rows.tolist() == sorted(np.repeat(order, times*(rank < 2)).tolist())


def test_memory_maps(tmp_path):
    "Read from disk, and not changed"
    g = np.random.default_rng(0)
    arrays = dict(conf=g.random(200_000, dtype=np.float32), label=g.integers(9, size=200_000, dtype=np.uint16),
                  exclude=(g.random(200_000) < .5).astype(np.uint8))
    for k, o in arrays.items(): np.save(tmp_path/f'{k}.npy', o)
    maps = {k: np.load(tmp_path/f'{k}.npy', mmap_mode='r') for k in arrays}
    want = select_rows(**arrays, c=9, n_per_class=5000)
    assert np.array_equal(select_rows(**maps, c=9, n_per_class=5000), want)
    assert len(want) == 45_000 and not arrays['exclude'][want].any()


@pytest.mark.parametrize('few', [0, 2**16])
def test_neighbors_by_hash(few):
    "Where the hash of a row is its number, rows that are tied come in their order: a border that is off by one shows"
    label = np.zeros(300, np.uint8)
    with patch.multiple(selection, _FEW=few, _hash=lambda row, salt: row.astype(np.uint32)):
        for conf in (np.ones(300), np.full(300, .5), np.where(np.arange(300) < 100, .5, .7)):
            order = np.argsort(-conf, kind='stable')
            for k in (1, 7, 100, 150, 250, 299):
                assert select_rows(conf, label, 1, n_per_class=k).tolist() == sorted(order[:k])
        for k in (301, 450, 599):
            assert np.bincount(select_rows(conf, label, 1, n_per_class=k)).tolist() == [2]*(k-300)+[1]*(600-k)


def test_draws_are_even():
    "Over 3,000 seeds, each of 10 tied rows is taken and repeated as often as the others, and pairs fall by chance"
    conf, label, seeds = np.ones(10, np.float32), np.zeros(10, np.uint8), range(3000)
    for n, share in ((4, .4), (14, .4)):
        def times(seed): return np.bincount(select_rows(conf, label, 1, n_per_class=n, seed=seed), minlength=10)
        extra = np.array([times(s) for s in seeds])-n//10
        sd = (share*(1-share)/len(seeds))**.5
        assert np.abs(extra.mean(0)-share).max() < 4*sd
        pairs = (extra.T@extra)[np.triu_indices(10, 1)]/len(seeds)
        p = share*3/9
        assert np.abs(pairs-p).max() < 4.5*(p*(1-p)/len(seeds))**.5


def test_ties_and_copies_are_drawn_apart():
    "Which of the tied rows are in says nothing about which would come once more"
    conf, label = np.ones(20_000, np.float32), np.zeros(20_000, np.uint8)
    top = set(select_rows(conf, label, 1, n_per_class=10_000).tolist())
    more = np.flatnonzero(np.bincount(select_rows(conf, label, 1, n_per_class=30_000)) == 2)
    assert abs(sum(o in top for o in more.tolist())-5000) < 4*50


CONF, LABEL = np.array([.9, .5, .4], np.float32), np.array([0, 1, 1])
WRONG = {
    'NaN': (dict(conf=[.5, nan, .5]), ValueError, 'conf holds nan in rows 0 to 2'),
    'inf': (dict(conf=[.5, inf, .5]), ValueError, 'conf holds inf'),
    'negative': (dict(conf=[.5, -.1, .5]), ValueError, r'conf holds -0\.1'),
    'logits': (dict(conf=[.5, 1.5, .5]), ValueError, r'conf holds 1\.5 .*probabilities from 0 to 1'),
    'below the threshold, but wrong': (dict(conf=[.5, -inf, .5], min_conf=.3, n_per_class=2), ValueError,
                                       'conf holds -inf'),
    'whole confidences': (dict(conf=[1, 0, 1]), TypeError, 'conf is of type int64: expected floats'),
    'no rows': (dict(conf=np.zeros(0), label=np.zeros(0, int)), ValueError, r'conf has shape \(0,\)'),
    'probabilities': (dict(conf=np.ones((3, 2))), ValueError, r'conf has shape \(3, 2\): expected one number for each'),
    'label too great': (dict(label=[0, 1, 2]), ValueError, 'label 2 in rows 0 to 2: expected 0 to 1'),
    'negative label': (dict(label=[0, 1, -1]), ValueError, 'label -1 '),
    'label of an excluded row': (dict(label=[0, 1, 7], exclude=[0, 0, 1]), ValueError, 'label 7 '),
    'label of floats': (dict(label=[0., 1., 1.]), TypeError, 'label is of type float64'),
    'lengths': (dict(label=[0, 1]), ValueError, r'label has shape \(2,\) and conf \(3,\)'),
    'length of exclude': (dict(exclude=[0, 1]), ValueError, r'exclude has shape \(2,\)'),
    'all excluded': (dict(exclude=[1, 1, 2]), ValueError, 'exclude leaves no row'),
    'none reaches': (dict(min_conf=.95), ValueError, r'^no row reaches min_conf=0\.95 \(highest: 0\.9\)'),
    'all but': (dict(conf=np.float32([.94396, .5, .4]), min_conf=.944), ValueError, r'\(highest: 0\.94396\)'),
    'many digits': (dict(conf=np.float32([.94396, .5, .4]), min_conf=.99), ValueError, r'\(highest: 0\.944\)'),
    'none reaches its own': (dict(min_conf=[.95, .6]), ValueError, 'the min_conf of its class, .*highest'),
    'none left reaches': (dict(min_conf=.6, exclude=[1, 0, 0]), ValueError, r'highest: 0\.5'),
    'min_conf': (dict(min_conf=1.01), ValueError, r'min_conf=1\.01: expected a number from 0 to 1'),
    'min_conf NaN': (dict(min_conf=[.3, nan]), ValueError, 'min_conf=nan'),
    'min_conf too long': (dict(min_conf=[.3]*3), ValueError,
                          r'min_conf has shape \(3,\): expected a number from 0 to 1, or 2 of them'),
    'min_conf None': (dict(min_conf=None), TypeError, 'min_conf=None is of type NoneType: expected a number'),
    'n_per_class': (dict(n_per_class=0), ValueError, 'n_per_class=0: expected a whole number of 1 or more'),
    'n_per_class of a class': (dict(n_per_class=[5, -2]), ValueError, 'n_per_class=-2'),
    'n_per_class too short': (dict(n_per_class=[5]), ValueError, r'n_per_class has shape \(1,\)'),
    'n_per_class of floats': (dict(n_per_class=.5), TypeError, r'n_per_class=0\.5 is of type float: expected a whole'),
    'min_conf of text': (dict(min_conf='0.5'), TypeError,
                         "min_conf='0.5' is of type str: expected a number from 0 to 1"),
    'min_conf of texts': (dict(min_conf=['.5', '.3']), TypeError,
                          r"min_conf=\['\.5', '\.3'\] is of type str: expected"),
    'n': (dict(n=0), ValueError, 'n=0: expected a whole number from 1 to'),
    'n of floats': (dict(n=2.), TypeError, r'n=2\.0'),
    'n beside n_per_class': (dict(n=4, n_per_class=2), ValueError, 'n=4: expected None with n_per_class'),
    'shares beside n_per_class': (dict(shares=[1, 2], n_per_class=2), ValueError, 'shares=.*with n_per_class'),
    'shares too long': (dict(shares=[1, 2, 3]), ValueError, r'shares has shape \(3,\)'),
    'one share': (dict(shares=1.), ValueError, 'shares=1.0: expected 2 shares, not all 0'),
    'shares of nothing': (dict(shares=[0, 0]), ValueError, 'not all 0'),
    'shares NaN': (dict(shares=[1, nan]), ValueError, 'shares=nan'),
    'shares below 0': (dict(shares=[1, -1]), ValueError, 'shares=-1'),
    'shares of classes that have no row': (dict(min_conf=.6, shares=[0, 1]), ValueError, 'shares=.* a share above 0'),
    'max_repeat': (dict(max_repeat=0), ValueError, 'max_repeat=0'),
    'max_repeat of floats': (dict(max_repeat=2.), TypeError, r'max_repeat=2\.0'),
    'seed': (dict(seed=-1), ValueError, 'seed=-1'),
    'seed None': (dict(seed=None), TypeError, 'seed=None'),
    'c': (dict(c=0), ValueError, 'c=0'),
    'c True': (dict(c=True), TypeError, 'c=True')}


@pytest.mark.parametrize('wrong', WRONG)
def test_errors(wrong):
    args, kind, text = WRONG[wrong]
    with pytest.raises(kind, match=text): select_rows(**dict(conf=CONF, label=LABEL, c=2) | args)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_edges(dtype):
    "Confidence 0, -0 and 1; a threshold that is reached exactly; one row; classes that nobody has"
    conf, label = np.array([0, -0., 1, .3], dtype), np.array([0, 0, 0, 2], np.uint8)
    assert select_rows(conf, label, 5).tolist() == [2]+[3]*bool(conf[3] >= dtype(.3))
    for zero in (0, -0.):
        assert select_rows(conf, label, 5, min_conf=zero).tolist() == [0, 1, 2, 3]
        assert len(select_rows(conf, label, 5, min_conf=zero, n_per_class=2)) == 4
        rows = select_rows(conf, label, 5, min_conf=[zero]*5, n_per_class=2, exclude=[1, 1, 0, 0], max_repeat=1)
        assert rows.tolist() == [2, 3]
    assert select_rows(conf, label, 5, min_conf=1, n_per_class=3).tolist() == [2]*3
    assert select_rows(conf[2:3], label[2:3], 1, n_per_class=4, max_repeat=3).tolist() == [0]*3
    assert select_rows(conf, label, 5, min_conf=0, n_per_class=1, max_repeat=1).tolist() == [2, 3]


def test_arguments_are_left_alone():
    g = random.Random(0)
    conf, label = [np.array([f(g) for _ in range(50)]) for f in (random.Random.random, lambda o: o.randrange(3))]
    old = conf.copy(), label.copy()
    k = np.array([50, 2, 3])
    select_rows(conf, label, 3, n_per_class=k)
    assert np.array_equal(conf, old[0]) and np.array_equal(label, old[1]) and k.tolist() == [50, 2, 3]
