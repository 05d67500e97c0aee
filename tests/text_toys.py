"Texts of any length, pieces of scikit-learn's descriptions of data sets"
import pandas as pd
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, IndexSplitter
from fastai.text.core import WordTokenizer
from fastai.text.data import TextBlock
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

N, BS, SEQ = 20, 12, 7


def text_table():
    "Pieces of 6 to 30 words from scikit-learn's descriptions of data sets; which set, is the class"
    sets = dict(iris=load_iris, wine=load_wine, cancer=load_breast_cancer, diabetes=load_diabetes)
    rows = []
    for k, f in sets.items():
        words, i = f().DESCR.split(), 0
        for n in [6, 30, 9, 17, 12, 26]*2:
            rows.append((' '.join(words[i:i+n]), k))
            i += n
    df = pd.DataFrame([o for o in rows if o[0]], columns=['text', 'label'])
    assert len(df) == 48
    return df.sample(frac=1, random_state=0).reset_index(drop=True)


def block(vocab=None, tok=None):
    return TextBlock.from_df('text', vocab, seq_len=SEQ, min_freq=1, n_workers=0, tok=tok or WordTokenizer())


def text_dls(df, text_block=None, **kwargs):
    res = DataBlock((text_block or block(), CategoryBlock), get_x=ColReader('text'), get_y=ColReader('label'),
                    splitter=IndexSplitter(range(N, N+8)))
    return res.dataloaders(df.iloc[:N+8].copy(), bs=BS, num_workers=0, **kwargs)


def known_rows(dls, df):
    "The tokens of each text, numbered by the labeled loader's own transforms"
    return [tuple(dls.train_ds.tls[0].tfms(row).tolist()) for _, row in df.iterrows()]
