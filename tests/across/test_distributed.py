"Two processes on the CPU, as `torchrun` starts them: fastai's DistributedTrainer with a `NoisyStudent`"
import os
import socket

SCRIPT = '''
import os
import sys
import torch
import fastai.distributed as fd
from fastai.callback.core import Callback
from fastai.torch_core import LongTensor, num_distrib, rank_distrib
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.load import DataLoader
from noisy_student_fastai.all import NoisyStudent
from toys import *

def broadcast(self, t, rank):  # fastai's own calls .cuda(), which only nccl needs
    t = LongTensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()
fd.DistributedDL._broadcast = broadcast

assert num_distrib() == 2
r = rank_distrib()
ids = torch.arange(90.)
x = torch.stack([ids, ids*0], 1)
dl2 = DataLoader(rows(x, torch.tensor([[.2,.3,.5]]*90)), bs=8, device='cpu')
labeled = rows(torch.stack([torch.arange(64.), torch.ones(64)], 1), torch.arange(64)%3)
dls = DataLoaders(TfmdDL(labeled, bs=16, shuffle=True, drop_last=True, num_workers=0, device='cpu'),
                  TfmdDL(labeled[:20], bs=10, num_workers=0, device='cpu'))
probe = Probe()
learn = pts_learner(NoisyStudent(dl2, l2pl_ratio=1/3, pseudolabel_sample_weight=.5), probe, dls=dls)
with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(sync_bn=False):
    learn.fit(3, 1e-4)
    p = learn.get_preds()[0]
assert len(p) == 20
pl = [int(o[0]) for xb, in probe.xs for o in xb if o[1] == 0]
lbl = [int(o[0]) for xb, in probe.xs for o in xb if o[1] == 1]
assert all([o[1] for o in xb] == [1]*4 + [0]*12 for xb, in probe.xs)
assert all(i%2 == r for i in pl), 'each process draws from its own share of dl2'
assert len(pl) == 3*8*12 and len(lbl) == 3*8*4
for i in range(0, len(pl)//45*45, 45): assert sorted(pl[i:i+45]) == list(range(r, 90, 2))
every = [None, None]
torch.distributed.all_gather_object(every, (sorted(lbl), params(learn)))
assert sorted(every[0][0] + every[1][0]) == sorted([*range(64)]*3), 'an epoch is one pass over the labeled set'
assert torch.equal(every[0][1], every[1][1]), 'both processes hold the same weights'
assert type(learn.dls.train) is TfmdDL and learn.dls.train.bs == 16
from launched_labels import labels_of_two
labels_of_two(os.getcwd())
sys.stdout.write(f'rank{r}ok' + chr(10))  # one write: the lines of two processes must not mix
torch.distributed.barrier()
torch.distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # all is checked; how torch's threads end when the interpreter does is not ours
'''


def test_two_processes(tmp_path, root, start_python):
    "As `accelerate launch` and `torchrun` start them"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(root), str(root/'tests')]), 'OMP_NUM_THREADS': '1',
                        'ACCELERATE_USE_CPU': 'true', 'PYTHONWARNINGS': 'ignore', 'WORLD_SIZE': '2',
                        'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    with open(tmp_path/'said', 'w') as f:
        ps = [start_python('-c', SCRIPT, env=env | {'RANK': str(r), 'LOCAL_RANK': str(r)}, cwd=tmp_path,
                           stdout=f.fileno(), stderr=f.fileno()) for r in range(2)]
        ended = [p.wait(240) for p in ps]
    said = (tmp_path/'said').read_text()
    assert ended == [0, 0] and 'rank0ok' in said and 'rank1ok' in said, said[-4000:]
