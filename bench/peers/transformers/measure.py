"""python measure.py THREADS POSITIONS: one bidirectional forward of SmolLM2-135M's shape with transformers on the CPU, float32,
eager and sdpa attention, logits of all positions. Weights are random: time does not depend on them."""

import json
import statistics
import sys
import time

import torch
import transformers

threads, positions = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
)
ids = torch.randint(49152, (1, positions))
everything = torch.zeros(1, 1, positions, positions)
for attention in ("eager", "sdpa"):
    config._attn_implementation = attention
    model = transformers.LlamaForCausalLM(config).eval()
    times = []
    with torch.inference_mode():
        for i in range(9):
            start = time.perf_counter()
            model(ids, attention_mask=everything, use_cache=False)
            if i >= 2:
                times.append(1000 * (time.perf_counter() - start))
    print(json.dumps({
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}", "attention": attention,
        "positions": positions, "threads": threads, "ms": round(statistics.median(times), 1), "least_ms": round(min(times), 1),
    }), flush=True)
