#!/usr/bin/env python3
"""A GGUF file of Llama's or LFM2's shape with random weights: the shapes, formats and bytes of a real model, so speed is
real; its text is not.

    random_gguf.py --shape 1b --format Q4_K -o 1b-Q4_K.gguf

The F16 file is written by the gguf package; every other format is made from it by llama.cpp's own quantizer
(all matrices in that format), so both engines read what the peer wrote. F16 files are kept beside the output
and used again. Same arguments, same weights.
"""
import argparse
import ctypes
import os
import sys

import gguf
import numpy as np

SHAPES = {
    # width, layers, heads, heads of keys and values, width of the MLP, vocabulary
    "tiny": (256, 2, 4, 2, 768, 512),
    "160m": (768, 12, 12, 4, 3072, 32000),
    "1b": (2048, 16, 32, 8, 8192, 32000),
    "lfm2-tiny": (256, 4, 4, 2, 768, 512),
    "lfm2-350m": (1024, 16, 16, 8, 4608, 65536),
    # The same with attention in every layer: what the hybrid is held against.
    "lfm2-350m-attention": (1024, 16, 16, 8, 4608, 65536),
}
# Of shapes of LFM2, the layers that are attention; the others are gated convolutions of so many taps.
ATTENTION = {"lfm2-tiny": [1], "lfm2-350m": [2, 5, 8, 10, 12, 14], "lfm2-350m-attention": range(16)}
TAPS = 3
# llama.cpp's names of whole-file formats, in which every matrix has the format (`pure`).
QUANTIZED = {"Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q4_K": 14, "Q5_K": 16, "Q6_K": 18, "BF16": 32}
CONTEXT = 4096


def vocabulary(size):
    """A SentencePiece vocabulary: three control tokens, the bytes, and words that nobody uses."""
    control = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    bytes_ = [(f"<0x{b:02X}>", gguf.TokenType.BYTE) for b in range(256)]
    words = [(f"\u2581w{i}", gguf.TokenType.NORMAL) for i in range(size - len(control) - len(bytes_))]
    return control + bytes_ + words


def matrices(shape_name):
    """(name, rows, columns) of every matrix, in the order of a forward pass."""
    width, layers, heads, kv_heads, mlp, vocab = SHAPES[shape_name]
    kv = width // heads * kv_heads
    yield "token_embd.weight", vocab, width
    for i in range(layers):
        attention = [("attn_q", width, width), ("attn_k", kv, width), ("attn_v", kv, width), ("attn_output", width, width)]
        convolution = [("shortconv.in_proj", 3 * width, width), ("shortconv.out_proj", width, width)]
        attends = i in ATTENTION.get(shape_name, range(layers))
        for name, rows, columns in [
            *(attention if attends else convolution),
            ("ffn_gate", mlp, width), ("ffn_up", mlp, width), ("ffn_down", width, mlp),
        ]:
            yield f"blk.{i}.{name}.weight", rows, columns
    # LFM2's head is the embedding.
    if shape_name not in ATTENTION:
        yield "output.weight", vocab, width


def vectors(shape_name):
    """(name, values) of what stays in f32: norms, and the taps of convolutions."""
    width, layers, heads = SHAPES[shape_name][:3]
    lfm2 = shape_name in ATTENTION
    ones = np.ones(width, np.float32)
    for i in range(layers):
        yield f"blk.{i}.attn_norm.weight", ones
        yield f"blk.{i}.ffn_norm.weight", ones
        if lfm2 and i in ATTENTION[shape_name]:
            yield f"blk.{i}.attn_q_norm.weight", np.ones(width // heads, np.float32)
            yield f"blk.{i}.attn_k_norm.weight", np.ones(width // heads, np.float32)
        elif lfm2:
            taps = np.random.default_rng(i).standard_normal((width, TAPS), dtype=np.float32)
            yield f"blk.{i}.shortconv.conv.weight", taps * TAPS**-0.5
    yield ("token_embd_norm.weight" if lfm2 else "output_norm.weight"), ones


def write_f16(path, shape_name, seed):
    width, layers, heads, kv_heads, mlp, vocab = SHAPES[shape_name]
    attention = ATTENTION.get(shape_name)
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path + ".part", "llama" if attention is None else "lfm2", use_temp_file=False)
    writer.add_name(f"random {shape_name}, seed {seed}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    if attention is None:
        writer.add_head_count_kv(kv_heads)
    else:
        writer.add_head_count_kv([kv_heads if i in attention else 0 for i in range(layers)])
        writer.add_shortconv_l_cache(TAPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0 if attention is None else 1000000.0)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    tokens = vocabulary(vocab)
    writer.add_token_list([t.encode() for t, _ in tokens])
    writer.add_token_scores([-float(i) for i in range(vocab)])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, values in vectors(shape_name):
        writer.add_tensor(name, values)
    for name, rows, columns in matrices(shape_name):
        # Variance 1/columns keeps activations near 1 through all layers.
        weights = rng.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
        writer.add_tensor(name, weights.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(path + ".part", path)


def quantize(source, path, kind):
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = QUANTIZED[kind]
    parameters.pure = True
    code = llama_cpp.llama_model_quantize(source.encode(), (path + ".part").encode(), ctypes.byref(parameters))
    if code != 0:
        sys.exit(f"{path}: llama.cpp's quantizer returned {code}")
    os.replace(path + ".part", path)


def make(path, shape_name, kind, seed=0):
    """The file at `path`, made if it is not there."""
    if os.path.exists(path):
        return path
    folder = os.path.dirname(os.path.abspath(path))
    f16 = path if kind == "F16" else os.path.join(folder, f"random-{shape_name}-{seed}-F16.gguf")
    if not os.path.exists(f16):
        write_f16(f16, shape_name, seed)
    if kind != "F16":
        quantize(f16, path, kind)
    return path


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--shape", choices=SHAPES, default="1b")
    a.add_argument("--format", choices=["F16", *QUANTIZED], default="Q8_0")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("-o", "--out", required=True)
    o = a.parse_args()
    make(o.out, o.shape, o.format, o.seed)
    print(o.out, os.path.getsize(o.out))


if __name__ == "__main__":
    main()
