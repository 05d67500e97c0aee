"Small folders of labels, written in steps; processes that tests start import this, too"
from pathlib import Path

import numpy as np
from noisy_student_fastai.labels.store import Store

ABOUT = dict(teacher=dict(arch='cnn', sha='5ab1'), vocab=['cat', 'dog', 'cow'], temperature=1.)
N = 23


def data(n=N):
    rng = np.random.default_rng(n)
    probs = rng.random((n, 3)).astype('f2')
    return dict(probs=probs, conf=probs.max(1).astype('f4'), label=probs.argmax(1).astype('u1'))


def names(n=N): return [f'{i}-é.png' for i in range(n)]


class Eager(Store):
    "Notes after each write"
    wait = share = 0


def label_all(path, n=N, step=4, about=ABOUT, cls=Eager, **kw):
    "As `pseudolabel` does it: from where it ended, in steps that do not depend on where that was"
    rows = data(n)
    with cls(path, n, about, **kw) as s:
        if s.complete: return s.finish()
        s.put('ids', names(n))
        while s.done < n:
            end = min(n, s.done//step*step + step)
            s.write(**{k: o[s.done:end] for k, o in rows.items()})
        return s.finish()


def files(path): return {o.name: o.read_bytes() for o in sorted(Path(path).iterdir())}
