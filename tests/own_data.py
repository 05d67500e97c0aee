"Small data of somebody's own, made of real ones: folders of pictures, arrays, tables"
import numpy as np
from noisy_student_fastai.app.inputs import Settings
from PIL import Image
from sklearn.datasets import load_digits, load_wine

DIGITS = load_digits()
QUICK = Settings(steps=10)


def counts(inputs): return {k: len(v) for k, v in inputs.remarks.items()}


def names(inputs): return {o.rsplit('/', 1)[-1] for v in inputs.remarks.values() for o in map(str, v)}


def rows_of(c, start, n):
    "`n` rows of the digit `c`, from its `start`th on"
    return np.flatnonzero(DIGITS.target == c)[start:start+n]


def draw(folder, i, size=8):
    "Write digit number `i`"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder/f'{i}.png'
    Image.fromarray((DIGITS.images[i]*15).astype(np.uint8)).resize((size, size)).save(path)
    return path


def folder(path, n=5, n_unlabeled=20, n_test=10, classes=3, size=8):
    "A folder of pictures"
    for c in range(classes):
        for i in rows_of(c, 0, n): draw(path/'train'/f'digit {c}', i, size)
        for i in rows_of(c, n, n_unlabeled): draw(path/'unlabeled', i, size)
        for i in rows_of(c, n+n_unlabeled, n_test): draw(path/'test'/f'digit {c}', i, size)
    return path


def arrays(n=5, n_unlabeled=20, n_test=10, classes=3, shape=(1, 8, 8)):
    "Digits as arrays, of whatever shape"
    x = (DIGITS.images/16).astype(np.float32).reshape(-1, *shape)
    part = lambda start, n: np.concatenate([rows_of(c, start, n) for c in range(classes)])
    lab, unl, test = part(0, n), part(n, n_unlabeled), part(n+n_unlabeled, n_test)
    y = DIGITS.target
    return dict(X=x[lab], y=y[lab], X_unlabeled=x[unl], X_test=x[test], y_test=y[test])


def npz(path, **changes):
    "The arrays in a file, some of them changed (`None`: left out)"
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return path


def table(n=30):
    "Wines: `n` labeled ones, a column of categories and some gaps; and the true classes"
    df = load_wine(as_frame=True).frame.sample(frac=1, random_state=0, ignore_index=True)
    df.insert(0, 'color', np.where(df.color_intensity > 5, 'dark', 'light'))
    df.loc[::9, 'ash'] = np.nan
    truth = df.pop('target').map('wine {}'.format)
    return df.assign(kind=[o if i < n else '' for i, o in enumerate(truth)]), truth


def csv(path, df=None):
    (table()[0] if df is None else df).to_csv(path, index=False)
    return path
