"Wines: columns of names and of numbers, and what a model should get of them"
import numpy as np
import pandas as pd
import torch
from fastai.data.block import CategoryBlock
from fastai.data.transforms import IndexSplitter
from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
from sklearn.datasets import load_wine

N, BS = 40, 16
CONTS, CATS = ['alcohol', 'ash', 'hue'], ['soil', 'side']


def wine_table():
    "Wines in random order, with two made-up columns of names; the first N rows have labels"
    df = load_wine(as_frame=True).frame.sample(frac=1, random_state=0).reset_index(drop=True)
    df['soil'] = pd.cut(df.magnesium, 4, labels=list('dbca')).astype(str)
    df['side'] = np.where(df.flavanoids > 2, 'south', 'north')
    df['kind'] = df.target.map({0: 'red', 1: 'white', 2: 'rose'})
    assert not df[CONTS].duplicated().any()
    assert set(df.soil[N:])-set(df.soil[:N]) == {'a'} and set(df.kind[:N]) == set(df.kind)
    return df


def table(df, y_names='kind', y_block=CategoryBlock, cats=CATS, **kwargs):
    return TabularPandas(df, [Categorify, FillMissing, Normalize], cats, CONTS, y_names, y_block(),
                         splits=IndexSplitter(range(N, N+20))(df), **kwargs)


def wine_dls(df, **kwargs): return table(df.iloc[:N+20], **kwargs).dataloaders(bs=BS)


def encoded(df):
    "What the model should get for each row: places among the sorted names of the labeled rows, scaled numbers, class"
    names = {c: sorted(df[c][:N].unique()) for c in (*CATS, 'kind')}
    def code(c, v): return names[c].index(v)+1 if v in names[c] else 0  # a name that labeled rows lack is 0
    cats = torch.tensor([[code(c, v) for v in df[c]] for c in CATS]).T
    conts = torch.tensor(((df[CONTS]-df[CONTS][:N].mean())/df[CONTS][:N].std(ddof=0)).values).float()
    return cats, conts, torch.tensor([names['kind'].index(v) for v in df.kind])
