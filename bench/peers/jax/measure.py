"""python measure.py: the steps of `hilda bench train` and `hilda bench decode` in JAX on the CPU, compiled, float32.

One line of JSON per step: median and least milliseconds of RUNS after WARMUP, the first of which compiles. Weights are random:
time does not depend on them. Shapes, layers and optimiser are those of ../pytorch/measure.py. JAX takes as many threads as
the process may use: `taskset -c 0,1` gives it two.
"""
import json
import math
import os
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import optax

WARMUP, RUNS = 2, 7
PRESETS = {"9m": (256, 8, 4, 1024, 4096), "14m": (384, 6, 6, 1536, 8192)}


def norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * weight


def rotate(x, cos, sin):
    a, b = jnp.split(x, 2, -1)
    return x * cos + jnp.concatenate((-b, a), -1) * sin


def weights(preset):
    width, layers, _, mlp, vocab = PRESETS[preset]
    keys = iter(jax.random.split(jax.random.key(0), 4 * layers + 1))
    matrix = lambda rows, columns: 0.02 * jax.random.normal(next(keys), (rows, columns), jnp.float32)
    layer = lambda: {
        "norm1": jnp.ones(width),
        "qkv": matrix(width, 3 * width),
        "out": matrix(width, width),
        "norm2": jnp.ones(width),
        "up": matrix(width, 2 * mlp),
        "down": matrix(mlp, width),
    }
    return {"embed": matrix(vocab, width), "layers": [layer() for _ in range(layers)], "norm": jnp.ones(width)}


def logits(w, ids, heads, causal):
    b, n = ids.shape
    x = w["embed"][ids]
    half = x.shape[-1] // heads // 2
    angle = jnp.arange(n)[:, None] * 10000 ** (-jnp.arange(half) / half)
    angle = jnp.concatenate((angle, angle), -1)[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    for layer in w["layers"]:
        qkv = (norm(x, layer["norm1"]) @ layer["qkv"]).reshape(b, n, 3, heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        y = jax.nn.dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=causal)
        x = x + y.reshape(b, n, -1) @ layer["out"]
        gate, up = jnp.split(norm(x, layer["norm2"]) @ layer["up"], 2, -1)
        x = x + (jax.nn.silu(gate) * up) @ layer["down"]
    return norm(x, w["norm"]) @ w["embed"].T


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
    w, heads = weights("9m"), PRESETS["9m"][2]
    ids = jax.random.randint(jax.random.key(1), (1, positions), 0, 4096)
    forward = jax.jit(lambda w, ids: logits(w, ids, heads, False))
    t = timed(lambda: forward(w, ids).block_until_ready())
    return {"bench": "decode", "preset": "9m", "positions": positions, **t}


def train(preset, rows=8, length=256):
    heads, vocab = PRESETS[preset][2], PRESETS[preset][4]
    ids = jax.random.randint(jax.random.key(1), (rows, length), 0, vocab)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b1=0.9, b2=0.98, weight_decay=0.1))

    def loss(w):
        z = logits(w, ids, heads, True)[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(z, ids[:, 1:]).mean()

    def update(w, moments):
        value, grads = jax.value_and_grad(loss)(w)
        change, moments = optimiser.update(grads, moments, w)
        return optax.apply_updates(w, change), moments, value

    update = jax.jit(update, donate_argnums=(0, 1))
    w = weights(preset)
    state = [w, optimiser.init(w)]

    def step():
        state[0], state[1], value = update(*state)
        assert math.isfinite(value.item())

    t = timed(step)
    tokens = round(rows * length / t["ms"] * 1000)
    return {"bench": "train", "preset": preset, "objective": "ar", **t, "tokens_per_s": tokens}


if __name__ == "__main__":
    threads = len(os.sched_getaffinity(0))
    for run in (lambda: decode(128), lambda: decode(1024), lambda: train("9m"), lambda: train("14m")):
        out = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**out, "threads": threads, "peak_bytes_so_far": peak, "jax": jax.__version__}), flush=True)
