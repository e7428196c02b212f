"""python adapter.py BASE ADAPTER MERGED: loads base and adapter with PEFT, the merged model with transformers, and compares
their logits on two random sequences; see README.md."""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, merged = sys.argv[1:4]
load = lambda path: AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
ids = torch.randint(load(base).config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    plain = load(base)(ids).logits
    with_adapter = PeftModel.from_pretrained(load(base), adapter).eval()(ids).logits
    want = load(merged)(ids).logits
moved = (want - plain).abs().max().item()
difference = (want - with_adapter).abs().max().item()
print(f"the adapter moves logits by {moved:.3g}; PEFT and the merged model differ by {difference:.3g}")
sys.exit(0 if difference < 1e-4 < moved else 1)
