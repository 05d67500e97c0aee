"""scratch
"""
import argparse, os, sys, time
from dataclasses import dataclass, replace, field
from functools import partial
import numpy as np, torch
from torch import nn
import fastai.callback.schedule
import noisy_student_fastai.labeling
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import no_random
from fastai.vision.core import TensorImageBW
from fastai.vision.augment import aug_transforms
from noisy_student_fastai.callback import NoisyStudent
from noisy_student_fastai.student_noise import StudentNoise
from noisy_student_fastai.image_noise import RandAugment
from noisy_student_fastai.series_noise import SeriesAugment
from noisy_student_fastai.table_noise import TableNoise
sys.path.insert(0,'/tmp/bench')
from scarce_stub import label_scarce

BS=64

class Rows:
    def __init__(self, x, y, n=None, train=True):
        self.x,self.y,self.n,self.split_idx = torch.as_tensor(x),torch.as_tensor(y),len(x) if n is None else n,int(not train)
        self.typ = TensorImageBW if self.x.ndim==4 else torch.Tensor
    def __len__(self): return self.n
    def __getitem__(self, i):
        i=i%len(self.x)
        return self.x[i].as_subclass(self.typ),self.y[i]

def loader(part, n=None, bs=BS, y=None):
    train=n is not None
    return TfmdDL(Rows(part[0],part[1],n,train),bs=bs if train else 512,shuffle=train,drop_last=train,num_workers=0,device=torch.device('cpu'))

def conv(i,o,k=3,s=1,d=2): 
    C,B=(nn.Conv2d,nn.BatchNorm2d) if d==2 else (nn.Conv1d,nn.BatchNorm1d)
    return nn.Sequential(C(i,o,k,s,k//2,bias=False),B(o),nn.ReLU())

def image_net(shape,c,w=1):
    ch,size,_=shape; a,b=int(32*w),int(64*w)
    if size<16: body=[conv(ch,a),conv(a,b,s=2)]; k=(size+1)//2
    else: body=[conv(ch,a,s=2),conv(a,b,s=2),conv(b,b,s=2)]; k=4
    return nn.Sequential(*body,nn.Flatten(),nn.Dropout(0.),nn.Linear(b*k*k,int(128*w)),nn.ReLU(),nn.Linear(int(128*w),c))

class Res(nn.Module):
    def __init__(self,i,o,k):
        super().__init__()
        self.a,self.b=conv(i,o,k,d=1),nn.Sequential(nn.Conv1d(o,o,3,padding=1,bias=False),nn.BatchNorm1d(o))
        self.s=nn.Identity() if i==o else nn.Sequential(nn.Conv1d(i,o,1,bias=False),nn.BatchNorm1d(o))
    def forward(self,x): return torch.relu(self.s(x)+self.b(self.a(x)))

def series_net(shape,c,w=1):
    ch,n=shape; a=int(48*w)
    return nn.Sequential(conv(ch,a,7,2 if n>50 else 1,d=1),Res(a,a,5),nn.MaxPool1d(2),Res(a,a,5),nn.AdaptiveAvgPool1d(1),nn.Flatten(),nn.Linear(a,c))

def table_net(shape,c,w=1):
    d,=shape; a=int(64*w)
    return nn.Sequential(nn.Linear(d,a),nn.BatchNorm1d(a),nn.ReLU(),nn.Dropout(0.),nn.Linear(a,a),nn.BatchNorm1d(a),nn.ReLU(),nn.Linear(a,c))

GEO=['Rotate','ShearX','ShearY','TranslateX','TranslateY']
def geo(m): return RandAugment(n=2,m=m,ops=GEO,fill=0.)
def digit_tfms(m):
    return aug_transforms(m, do_flip=False, max_rotate=15., min_zoom=1-.2*m, max_zoom=1+.2*m, max_lighting=0., max_warp=.2, p_affine=.9, pad_mode='zeros')
def clothes(m): return RandAugment(n=2,m=m,ops=[*GEO,'Cutout','Brightness','Contrast','Sharpness'],fill=0.)
def series(m): return SeriesAugment(n=2,m=m)
def table(m): return TableNoise(p_drop=m,p_swap=m)

@dataclass(frozen=True)
class Setting:
    n_per_class:int; n_valid:int; net:object; noise:object
    m:float=1.; m_control:float=None; m_ceiling:float=None
    dropout:float=.5; lr:float=1e-2; steps:int=400; t:float=.5; n_pl:int=56; balance:bool=True
    n_unlabeled:int=None; width:float=1.; min_conf:float=0.; frac:float=1.; views:int=0; wd:float=.01; soft:bool=True; lr_s:float=None; steps_s:int=None; w_pl:float=1.

def prepared(name,s,seed):
    d=label_scarce(name,s.n_per_class,seed,n_valid=s.n_valid)
    if s.n_unlabeled: d=replace(d,unlabeled=type(d.unlabeled)(*(o[:s.n_unlabeled] for o in d.unlabeled)))
    x=np.concatenate([d.labeled.x,d.unlabeled.x])
    if x.ndim==4: return d
    ax=(0,2) if x.ndim==3 else (0,)
    mu,sd=x.mean(ax,keepdims=True),x.std(ax,keepdims=True)+1e-8
    return replace(d,**{k:p._replace(x=((p.x-mu)/sd).astype(np.float32)) for k,p in d.parts.items()})

def fit(d,s,part,m,seed,dropout=None,pl=None,width=1.,steps=None,lr=None):
    steps=steps or s.steps
    with no_random(seed,reproducible=False):
        n=(BS if pl is None else BS-s.n_pl)*steps
        dls=DataLoaders(loader(part,n,BS if pl is None else BS-s.n_pl),loader(d.valid),device=torch.device('cpu'))
        cbs=[StudentNoise(None if m is None else s.noise(m),dropout=s.dropout if dropout is None else dropout,stoch_depth=None)]
        if pl is not None:
            k=max(1,int(s.frac*d.unlabeled.n/len(d.vocab)))
            if s.balance=='prop':
                cnt=np.bincount(pl.label,minlength=len(d.vocab)); k=np.maximum(1,(s.frac*cnt).astype(int))
            sel=pl.select(min_conf=s.min_conf,n_per_class=k if s.balance else None)
            kw=dict(temperature=s.t) if s.soft else dict(soft=False)
            cbs.append(NoisyStudent(sel.dl(dls,**kw),bs=BS,l2pl_ratio=(BS-s.n_pl)/s.n_pl,pseudolabel_sample_weight=s.w_pl))
        net=s.net(d.labeled.x.shape[1:],len(d.vocab),width)
        learn=Learner(dls,net,loss_func=CrossEntropyLossFlat(),metrics=accuracy,cbs=cbs,wd=s.wd)
        with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(1,lr or s.lr)
    return learn

def labels(learn,x,views=0):
    with learn.no_bar(): return learn.pseudolabel(x,bs=512,dtype='float32',leaks='keep',n_views=views)
def acc(learn,p): return float((labels(learn,p.x).label==p.y).mean()*100)
