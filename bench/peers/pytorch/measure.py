"""python measure.py THREADS: the steps of `hilda bench train` and `hilda bench decode` in PyTorch on the CPU, eager, float32.

One line of JSON per step: median and least milliseconds of RUNS after WARMUP. Weights are random: time does not depend on
them. Same shapes as the presets 9m (8 layers of width 256, 4 heads, MLP 1024, vocabulary 4096) and 14m (6 layers of 384,
6 heads, MLP 1536, vocabulary 8192): RMS norm, rotary positions, SwiGLU, tied head, no biases.
"""
import json
import math
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

WARMUP, RUNS = 2, 7
PRESETS = {"9m": (256, 8, 4, 1024, 4096), "14m": (384, 6, 6, 1536, 8192)}


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class Layer(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([Norm(width), Norm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * mlp, bias=False), nn.Linear(mlp, width, bias=False)

    def forward(self, x, cos, sin, causal):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=causal)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
        gate, up = self.up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, width, layers, heads, mlp, vocab, length):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList([Layer(width, heads, mlp) for _ in range(layers)])
        self.norm = Norm(width)
        half = width // heads // 2
        angle = torch.arange(length)[:, None] * 10000 ** (-torch.arange(half) / half)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, causal):
        n = ids.shape[1]
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:n], self.sin[:n], causal)
        return F.linear(self.norm(x), self.embed.weight)


def timed(step):
    for _ in range(WARMUP):
        step()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    return {"ms": round(statistics.median(times), 2), "least_ms": round(min(times), 2)}


def decode(positions):
    model = Model(*PRESETS["9m"], positions).eval()
    ids = torch.randint(4096, (1, positions))
    with torch.inference_mode():
        return {"bench": "decode", "preset": "9m", "positions": positions, **timed(lambda: model(ids, False))}


def train(preset, rows=8, length=256):
    width, layers, heads, mlp, vocab = PRESETS[preset]
    model = Model(width, layers, heads, mlp, vocab, length)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1)
    ids = torch.randint(vocab, (rows, length))

    def step():
        logits = model(ids, True)[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, vocab), ids[:, 1:].reshape(-1))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        assert math.isfinite(loss.item())

    t = timed(step)
    return {"bench": "train", "preset": preset, "objective": "ar", **t, "tokens_per_s": round(rows * length / t["ms"] * 1000)}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    for run in (lambda: decode(128), lambda: decode(1024), lambda: train("9m"), lambda: train("14m")):
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        out = run()
        print(json.dumps({**out, "threads": int(sys.argv[1]), "peak_bytes_so_far": peak(), "torch": torch.__version__}), flush=True)
