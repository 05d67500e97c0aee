"Unlabeled series in every form; `t` is `tsai_toys`, which imports tsai"
import numpy as np
import torch
from torch.utils.data import TensorDataset


def double(t):
    class Double(t.Transform):
        def encodes(self, o: np.ndarray): return o*2
        def encodes(self, o: t.TSTensor): return o*2  # noqa: F811
    return Double()


def array(t, x, path): return x
def tensor(t, x, path): return torch.tensor(x)
def memory_map(t, x, path): return t.memmap(x, path/'x.npy')
def doubles(t, x, path): return x.astype(np.float64)
def items(t, x, path): return list(x)
def of_torch(t, x, path): return TensorDataset(torch.tensor(x))
def data_set(t, x, path): return t.TSDatasets(x)
def loader(t, x, path):
    return t.TSDataLoader(t.TSDatasets(x, np.zeros(len(x))), bs=16, shuffle=True, drop_last=True)


ARRAYS = [array, tensor, memory_map, doubles]
FORMS = [*ARRAYS, items, of_torch, data_set, loader]
