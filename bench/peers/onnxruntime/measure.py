"""Forward of the 9.4 M backbone over the positions of a model file in onnxruntime on the CPU: wall and processor time of a step.

Usage: measure.py MODEL.onnx THREADS [int8] (the model is written by ../onnxruntime-web/model.py). int8 rounds its weights with
onnxruntime's own quantize_dynamic, a scale a channel: int8 weights, activations of every product rounded to uint8 as it runs.
"""

import pathlib
import sys
import tempfile
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
path, numbers = sys.argv[1], sys.argv[3] if len(sys.argv) > 3 else "float32"
with tempfile.TemporaryDirectory() as folder:
    if numbers == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = str(pathlib.Path(folder) / "int8.onnx")
        quantize_dynamic(sys.argv[1], path, per_channel=True, weight_type=QuantType.QInt8)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
node = session.get_inputs()[0]
kind = np.int32 if "int32" in node.type else np.int64
ids = (np.arange(node.shape[1]) % 4000).astype(kind)[None]
for _ in range(5):
    session.run(None, {node.name: ids})
times, start = [], time.process_time()
for _ in range(60 if node.shape[1] <= 256 else 15):
    t = time.perf_counter()
    session.run(None, {node.name: ids})
    times.append(1e3 * (time.perf_counter() - t))
cpu = 1e3 * (time.process_time() - start) / len(times)
print(f"onnxruntime {onnxruntime.__version__}, {numbers}, {length} positions, {sys.argv[2]} threads: median {np.median(times):.1f} ms, "
      f"least {min(times):.1f} ms, processor {cpu:.1f} ms a step")
