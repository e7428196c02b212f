"""Writes the 9 M backbone with random float32 weights as ONNX: ids [1, L] -> logits [1, L, 4096].

x = E[ids]; per layer: x += O attention(rope(Q h), rope(K h), V h) with h = rms(x), then x += D (silu(G h) * (U h));
logits = rms(x) E^T. Rotary positions use the half-split pairing (i, i + head_dim / 2) with theta 10000.

Usage: model.py MODEL.onnx [L], 128 positions where nothing else is asked for.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

L = int(sys.argv[2]) if len(sys.argv) > 2 else 128
V, D, LAYERS, H, MLP, THETA, EPS = 4096, 256, 8, 4, 1024, 10000.0, 1e-5
HEAD = D // H

rng = np.random.default_rng(1)
weights: list[onnx.TensorProto] = []
nodes: list[onnx.NodeProto] = []
count = 0


def tensor(name: str, value: np.ndarray) -> str:
    weights.append(numpy_helper.from_array(value, name))
    return name


def matrix(name: str, rows: int, columns: int) -> str:
    return tensor(name, rng.normal(0, 0.02, (rows, columns)).astype(np.float32))


def op(kind: str, *inputs: str, **attributes) -> str:
    global count
    count += 1
    nodes.append(helper.make_node(kind, list(inputs), [f"t{count}"], **attributes))
    return f"t{count}"


def scalar(name: str, value: float) -> str:
    return tensor(name, np.float32(value).reshape(()))


def ints(name: str, *values: int) -> str:
    return tensor(name, np.array(values, np.int64))


two, eps, scale = scalar("two", 2.0), scalar("eps", EPS), scalar("scale", HEAD**-0.5)
split = ints("heads", 1, L, H, HEAD)
join = ints("width", 1, L, D)
halves = ints("halves", HEAD // 2, HEAD // 2)
angle = np.arange(L)[:, None] * THETA ** (-np.arange(HEAD // 2) * 2 / HEAD)[None]
cos = tensor("cos", np.cos(np.concatenate([angle, angle], 1)).astype(np.float32))
sin = tensor("sin", np.sin(np.concatenate([angle, angle], 1)).astype(np.float32))
last = ints("last", -1)


def rms(x: str, name: str) -> str:
    mean = op("ReduceMean", op("Pow", x, two), last, keepdims=1)
    normed = op("Div", x, op("Sqrt", op("Add", mean, eps)))
    return op("Mul", normed, tensor(name, np.ones(D, np.float32)))


def heads(x: str) -> str:
    return op("Transpose", op("Reshape", x, split), perm=[0, 2, 1, 3])


def rope(x: str) -> str:
    global count
    count += 1
    low, high = f"low{count}", f"high{count}"
    nodes.append(helper.make_node("Split", [x, halves], [low, high], axis=-1))
    turned = op("Concat", op("Neg", high), low, axis=-1)
    return op("Add", op("Mul", x, cos), op("Mul", turned, sin))


embedding = matrix("embedding", V, D)
x = op("Gather", embedding, "ids")
for layer in range(LAYERS):
    h = rms(x, f"{layer}.norm1")
    q, k, v = (heads(op("MatMul", h, matrix(f"{layer}.{name}", D, D))) for name in "qkv")
    scores = op("Mul", op("MatMul", rope(q), op("Transpose", rope(k), perm=[0, 1, 3, 2])), scale)
    mixed = op("Transpose", op("MatMul", op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    x = op("Add", x, op("MatMul", op("Reshape", mixed, join), matrix(f"{layer}.o", D, D)))
    h = rms(x, f"{layer}.norm2")
    gate, up = (op("MatMul", h, matrix(f"{layer}.{name}", D, MLP)) for name in ("gate", "up"))
    inner = op("Mul", op("Mul", gate, op("Sigmoid", gate)), up)
    x = op("Add", x, op("MatMul", inner, matrix(f"{layer}.down", MLP, D)))
nodes.append(helper.make_node("MatMul", [rms(x, "norm"), op("Transpose", embedding, perm=[1, 0])], ["logits"]))

graph = helper.make_graph(
    nodes,
    "hilda-9m",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, L])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, L, V])],
    weights,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.checker.check_model(model)
onnx.save(model, sys.argv[1])
learned = sum(int(np.prod(w.dims)) for w in weights if w.data_type == TensorProto.FLOAT and w.name not in ("cos", "sin"))
print(f"{learned} parameters in {sys.argv[1]}")
