"""Reads what `hilda models export` wrote with transformers and with the gguf package; see README.md."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LENGTH, BLOCK = 24, 8

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def folder_name(gguf_name, kind):
    stem, _, suffix = gguf_name.rpartition(".")
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if not block:
        return f"{NAMES[stem]}.{suffix}"
    parts = PARTS | GEMMA if kind == "gemma3" else PARTS
    return f"model.layers.{block[1]}.{parts[block[2]]}.{suffix}"


def compare_gguf(path, folder, config):
    reader = GGUFReader(path)
    field = {name: f.contents() for name, f in reader.fields.items()}
    kind = field["general.architecture"]
    want = load_file(folder / "model.safetensors")
    worst, count = 0.0, 0
    for tensor in reader.tensors:
        got = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        name = folder_name(tensor.name, kind)
        if kind == "llama" and re.search(r"attn_[qk]\.weight", tensor.name):
            heads = config["num_attention_heads"] if "attn_q" in tensor.name else config["num_key_value_heads"]
            rows, cols = got.shape
            got = got.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)
        if kind == "gemma3" and name.endswith("norm.weight"):
            got = got - 1.0
        assert got.shape == want[name].shape, (name, got.shape, want[name].shape)
        worst = max(worst, float(np.abs(got.astype(np.float64) - want[name].astype(np.float64)).max()))
        count += 1
    assert count == len(want), (count, len(want))
    print(f"gguf {kind}: {count} tensors, largest difference {worst:.2e}")
    for key in ["diffusion.shift_logits", "diffusion.block_size", f"{kind}.attention.causal", "tokenizer.ggml.mask_token_id"]:
        print(f"  {key} = {field.get(key)}")
    tokens = field["tokenizer.ggml.tokens"]
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert all(tokens[i] == t for t, i in vocab.items()), "tokens differ"
    print(f"  {len(tokens)} tokens, {len(field['tokenizer.ggml.merges'])} merges, pre = {field['tokenizer.ggml.pre']}")


def golden(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    at = torch.arange(LENGTH)
    masks = {
        "logits_causal": at[None, :] <= at[:, None],
        "logits_bidirectional": torch.ones(LENGTH, LENGTH, dtype=torch.bool),
        "logits_block_causal_8": at[None, :] // BLOCK <= at[:, None] // BLOCK,
    }
    out = {"input_ids": ids.numpy()}
    for name, allowed in masks.items():
        mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None].expand(2, 1, -1, -1)
        with torch.no_grad():
            out[name] = model(input_ids=ids, attention_mask=mask).logits.float().numpy()
    save_file(out, folder / "golden.safetensors")
    print(f"transformers: {model.config.model_type}, {sum(p.numel() for p in model.parameters())} parameters")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Once upon a time there were 12 cats."
    print(f"  {len(tokenizer)} tokens; {text!r} -> {tokenizer(text, add_special_tokens=False)['input_ids']}")


def main():
    folder = Path(sys.argv[1])
    golden(folder)
    for path in sys.argv[2:]:
        compare_gguf(path, folder, json.loads((folder / "config.json").read_text()))


if __name__ == "__main__":
    main()
