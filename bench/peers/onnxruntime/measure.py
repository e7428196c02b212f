"""Forward of the 9.4 M backbone over the positions of a model file in onnxruntime on the CPU: wall and processor time of a step.

Usage: measure.py MODEL.onnx THREADS (the model is written by ../onnxruntime-web/model.py).
"""

import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
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
print(f"onnxruntime {onnxruntime.__version__}, {sys.argv[2]} threads: median {np.median(times):.1f} ms, "
      f"least {min(times):.1f} ms, processor {cpu:.1f} ms a step")
