"""Writes mixes.tsv: the formats that llama.cpp's quantizer gives the tensors of small models.

    python make_mixes.py

Needs gguf, numpy and llama-cpp-python. Every model is written to a temporary folder with F32 tensors of zeros, quantized by
`llama_model_quantize`, and read back.

Columns: architecture, layers, heads, key-value heads, experts, 1 if tied (no output.weight), embedding width, feed-forward
width, mix, and one letter a tensor (see LETTERS) in the order of `tensors`, which tests/mixes.rs repeats.
"""

import os
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

LETTERS = {"F32": "f", "F16": "h", "BF16": "b", "Q8_0": "8", "Q6_K": "6", "Q5_K": "5", "Q5_1": "1", "Q5_0": "0", "Q4_K": "4", "Q4_1": "y", "Q4_0": "x", "Q3_K": "3", "Q2_K": "2", "IQ4_NL": "n", "IQ4_XS": "s", "TQ1_0": "t", "TQ2_0": "u", "MXFP4": "m", "NVFP4": "v", "Q1_0": "i", "Q2_0": "j"}
MIXES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38, "Q1_0": 40}
# architecture, layers, heads, kv heads, experts, tied, embedding width, feed-forward width
CASES = [
    ("llama", 1, 4, 4, 0, False, 256, 512),
    ("llama", 2, 4, 2, 0, True, 256, 512),
    ("llama", 7, 4, 2, 0, False, 256, 768),
    ("llama", 16, 4, 2, 0, True, 256, 512),
    ("llama", 22, 4, 1, 0, False, 256, 512),
    ("llama", 32, 4, 2, 0, False, 256, 512),
    ("llama", 80, 8, 2, 0, False, 256, 512),
    ("llama", 80, 8, 8, 0, False, 256, 512),
    ("llama", 8, 4, 2, 8, False, 256, 512),
    ("llama", 8, 4, 2, 4, False, 256, 512),
    ("llama", 6, 4, 2, 0, False, 288, 768),
    ("llama", 6, 4, 2, 0, True, 96, 272),
    ("qwen2", 24, 7, 1, 0, True, 896, 4864),
    ("qwen3", 28, 8, 4, 0, True, 512, 1536),
    ("falcon", 32, 4, 1, 0, False, 256, 512),
]


def tensors(arch, layers, experts, tied, width, inner):
    """Names and shapes, outermost dimension first."""
    yield "token_embd.weight", (8, width)
    for i in range(layers):
        yield f"blk.{i}.attn_norm.weight", (width,)
        if arch == "falcon":
            yield f"blk.{i}.attn_qkv.weight", (8, width)
        else:
            yield f"blk.{i}.attn_q.weight", (8, width)
            yield f"blk.{i}.attn_k.weight", (4, width)
            yield f"blk.{i}.attn_v.weight", (4, width)
        yield f"blk.{i}.attn_output.weight", (8, width)
        if arch == "qwen2":
            yield f"blk.{i}.attn_q.bias", (8,)
        if experts:
            yield f"blk.{i}.ffn_gate_inp.weight", (experts, width)
            yield f"blk.{i}.ffn_gate_exps.weight", (experts, 4, width)
            yield f"blk.{i}.ffn_down_exps.weight", (experts, 4, inner)
            yield f"blk.{i}.ffn_up_exps.weight", (experts, 4, width)
        else:
            if arch != "falcon":
                yield f"blk.{i}.ffn_gate.weight", (4, width)
            yield f"blk.{i}.ffn_down.weight", (4, inner)
            yield f"blk.{i}.ffn_up.weight", (4, width)
    yield "output_norm.weight", (width,)
    if not tied:
        yield "output.weight", (8, width)


def write_model(path, arch, layers, heads, kv_heads, experts, tied, width, inner):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers)
    w.add_context_length(64)
    w.add_embedding_length(width)
    w.add_feed_forward_length(inner)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_layer_norm_eps(1e-5)
    w.add_vocab_size(8)
    w.add_key_length(32)
    w.add_value_length(32)
    w.add_rope_dimension_count(32)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
    for name, shape in tensors(arch, layers, experts, tied, width, inner):
        w.add_tensor(name, np.zeros(shape, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            arch, layers, heads, kv_heads, experts, tied, width, inner = case
            source, target = os.path.join(folder, "in.gguf"), os.path.join(folder, "out.gguf")
            write_model(source, *case)
            for mix, ftype in MIXES.items():
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype = ftype
                params.nthread = 1
                failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), params)
                if failed:
                    print("llama.cpp refuses", case, mix, file=sys.stderr)
                    continue
                types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(target).tensors}
                letters = "".join(LETTERS[types[n]] for n, _ in tensors(arch, layers, experts, tied, width, inner))
                fields = [arch, layers, heads, kv_heads, experts, int(tied), width, inner, mix, letters]
                lines.append("\t".join(map(str, fields)))
    (Path(__file__).parent / "mixes.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
