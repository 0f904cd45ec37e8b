"""PyTorch's side of records/compare.py: training steps on random tokens; one JSON line.

The fastest fair PyTorch that is known for this shape: a hand-written module (fused qkv and gate/up, scaled dot-product
attention, rms_norm), torch.compile, f32 weights with bf16 autocast, fused AdamW. Preload tcmalloc for its best speed.
Where the processor has no AVX-512, all is f32: bf16 products are emulated there, and seven minutes were not enough for seven steps.

    python records/peers/torch_train.py --seq 1024 --micro-batch 4 --steps 5
"""
import argparse, json, os, statistics, time

parser = argparse.ArgumentParser()
parser.add_argument("--shape", choices=["amd-135m", "9m"], default="amd-135m")
parser.add_argument("--seq", type=int, default=1024)
parser.add_argument("--micro-batch", type=int, default=4)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(options.threads)
torch.manual_seed(0)
SHAPES = {"amd-135m": (32000, 768, 12, 12, 2048), "9m": (8192, 256, 6, 4, 688)}
VOCAB, WIDTH, LAYERS, HEADS, FFN = SHAPES[options.shape]
HEAD = WIDTH // HEADS


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate_up = nn.Linear(WIDTH, 2 * FFN, bias=False)
        self.down = nn.Linear(FFN, WIDTH, bias=False)

    def forward(self, x, cos, sin):
        batch, tokens, _ = x.shape
        normed = F.rms_norm(x, (WIDTH,), self.norm1.to(x.dtype), 1e-5)
        q, k, v = self.qkv(normed).view(batch, tokens, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, WIDTH))
        normed = F.rms_norm(x, (WIDTH,), self.norm2.to(x.dtype), 1e-5)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def turn(x, cos, sin):
    half1, half2 = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((half1 * cos - half2 * sin, half2 * cos + half1 * sin), -1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        angles = torch.outer(torch.arange(options.seq).float(), 10000.0 ** (-torch.arange(0, HEAD, 2).float() / HEAD))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        x = F.rms_norm(x, (WIDTH,), self.norm.to(x.dtype), 1e-5)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


BF16 = "AVX512" in torch.backends.cpu.get_cpu_capability()
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
compiled = torch.compile(model)
ids = torch.randint(0, VOCAB, (options.micro_batch, options.seq))
targets = torch.randint(0, VOCAB, (options.micro_batch, options.seq))


def step():
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
        loss = compiled(ids, targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return ids.numel() / (time.perf_counter() - started)


for _ in range(2):
    step()
rates = [step() for _ in range(options.steps)]
print(json.dumps({"median": statistics.median(rates), "min": min(rates), "max": max(rates), "torch": torch.__version__,
                  "dtype": "bf16" if BF16 else "f32"}))
