#!/usr/bin/env python3
"""A GGUF file of the shape of Llama, LFM2 or Qwen3-Next with random weights: the shapes, formats and bytes of a real model, so speed is
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

# llama.cpp's names of whole-file formats, in which every matrix has the format (`pure`).
QUANTIZED = {"Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q4_K": 14, "Q5_K": 16, "Q6_K": 18, "BF16": 32}
CONTEXT = 4096


class Llama:
    """Attention in every layer."""
    architecture = "llama"
    eps, theta, tied = 1e-5, 10000.0, False

    def __init__(self, width, layers, heads, kv_heads, mlp, vocab):
        self.width, self.layers, self.heads, self.kv_heads = width, layers, heads, kv_heads
        self.mlp, self.vocab, self.head = mlp, vocab, width // heads

    def attention(self, i):
        """Whether layer i is attention."""
        return True

    def mixer(self, i):
        """(name, rows, columns) of the matrices of layer i before its MLP."""
        kv = self.head * self.kv_heads
        return [("attn_q", self.width, self.width), ("attn_k", kv, self.width), ("attn_v", kv, self.width),
                ("attn_output", self.width, self.width)]

    def channel(self):
        """(name, shape) of the matrices of an MLP."""
        return [("ffn_gate", self.mlp, self.width), ("ffn_up", self.mlp, self.width), ("ffn_down", self.width, self.mlp)]

    def vectors(self, i):
        """(name, values) of what stays in f32 in layer i."""
        ones = np.ones(self.width, np.float32)
        return [("attn_norm.weight", ones), ("ffn_norm.weight", ones)]

    output_norm = "output_norm.weight"

    def describe(self, writer):
        writer.add_head_count_kv(self.kv_heads)
        writer.add_rope_dimension_count(self.head)

    def matrices(self):
        """(name, shape) of every matrix, in the order of a forward pass."""
        yield "token_embd.weight", (self.vocab, self.width)
        for i in range(self.layers):
            for name, *shape in [*self.mixer(i), *self.channel()]:
                yield f"blk.{i}.{name}.weight", tuple(shape)
        if not self.tied:
            yield "output.weight", (self.vocab, self.width)


class Lfm2(Llama):
    """Attention in some layers, gated convolutions of three taps in the others; the head is the embedding."""
    architecture = "lfm2"
    theta, tied, taps = 1000000.0, True, 3
    output_norm = "token_embd_norm.weight"

    def __init__(self, *sizes, attention):
        super().__init__(*sizes)
        self.attends = list(attention)

    def attention(self, i):
        return i in self.attends

    def mixer(self, i):
        if self.attention(i):
            return super().mixer(i)
        return [("shortconv.in_proj", 3 * self.width, self.width), ("shortconv.out_proj", self.width, self.width)]

    def vectors(self, i):
        head = np.ones(self.head, np.float32)
        taps = np.random.default_rng(i).standard_normal((self.width, self.taps), dtype=np.float32) * self.taps**-0.5
        own = [("attn_q_norm.weight", head), ("attn_k_norm.weight", head)]
        return super().vectors(i) + (own if self.attention(i) else [("shortconv.conv.weight", taps)])

    def describe(self, writer):
        writer.add_head_count_kv([self.kv_heads if self.attention(i) else 0 for i in range(self.layers)])
        writer.add_rope_dimension_count(self.head)
        writer.add_shortconv_l_cache(self.taps)


class Qwen3Next(Llama):
    """Gated DeltaNet in three layers of four, gated attention in the fourth, experts in all."""
    architecture = "qwen3next"
    eps, theta, taps, interval = 1e-6, 1e7, 4, 4

    def __init__(self, width, layers, heads, kv_heads, mlp, vocab, head, rotary, key_heads, value_heads, linear, experts, used):
        super().__init__(width, layers, heads, kv_heads, mlp, vocab)
        self.head, self.rotary, self.linear = head, rotary, linear
        self.key_heads, self.value_heads, self.experts, self.used = key_heads, value_heads, experts, used

    def attention(self, i):
        return (i + 1) % self.interval == 0

    def mixer(self, i):
        width, inner, kv = self.width, self.value_heads * self.linear, self.kv_heads * self.head
        if self.attention(i):
            # Queries and their gates in one.
            return [("attn_q", 2 * self.heads * self.head, width), ("attn_k", kv, width), ("attn_v", kv, width),
                    ("attn_output", width, self.heads * self.head)]
        return [("attn_qkv", 2 * self.key_heads * self.linear + inner, width), ("attn_gate", inner, width),
                ("ssm_ba", 2 * self.value_heads, width), ("ssm_out", width, inner)]

    def channel(self):
        shared = [(f"{name}_shexp", *shape) for name, *shape in super().channel()]
        return [(f"{name}_exps", self.experts, *shape) for name, *shape in super().channel()] + shared

    def vectors(self, i):
        rng, ones = np.random.default_rng(i), lambda n: np.ones(n, np.float32)
        draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
        norms = [("attn_norm.weight", ones(self.width)), ("post_attention_norm.weight", ones(self.width)),
                 ("ffn_gate_inp.weight", draw(self.experts, self.width) * self.width**-0.5),
                 ("ffn_gate_inp_shexp.weight", draw(self.width) * self.width**-0.5)]
        if self.attention(i):
            return norms + [("attn_q_norm.weight", ones(self.head)), ("attn_k_norm.weight", ones(self.head))]
        channels = (2 * self.key_heads + self.value_heads) * self.linear
        return norms + [("ssm_conv1d.weight", draw(channels, self.taps) * self.taps**-0.5),
                        ("ssm_dt.bias", draw(self.value_heads)), ("ssm_norm.weight", ones(self.linear)),
                        ("ssm_a", -np.exp(draw(self.value_heads)))]

    def describe(self, writer):
        writer.add_head_count_kv(self.kv_heads)
        writer.add_rope_dimension_count(self.rotary)
        writer.add_key_length(self.head)
        writer.add_value_length(self.head)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.used)
        writer.add_expert_feed_forward_length(self.mlp)
        writer.add_expert_shared_feed_forward_length(self.mlp)
        writer.add_ssm_conv_kernel(self.taps)
        writer.add_ssm_state_size(self.linear)
        writer.add_ssm_group_count(self.key_heads)
        writer.add_ssm_time_step_rank(self.value_heads)
        writer.add_ssm_inner_size(self.value_heads * self.linear)


SHAPES = {
    # width, layers, heads, heads of keys and values, width of the MLP, vocabulary
    "tiny": Llama(256, 2, 4, 2, 768, 512),
    "160m": Llama(768, 12, 12, 4, 3072, 32000),
    "1b": Llama(2048, 16, 32, 8, 8192, 32000),
    "lfm2-tiny": Lfm2(256, 4, 4, 2, 768, 512, attention=[1]),
    "lfm2-350m": Lfm2(1024, 16, 16, 8, 4608, 65536, attention=[2, 5, 8, 10, 12, 14]),
    # The same with attention in every layer: what the hybrid is held against.
    "lfm2-350m-attention": Lfm2(1024, 16, 16, 8, 4608, 65536, attention=range(16)),
    # Qwen3-Next's widths with 4 of its 48 layers and 32 of its 512 experts, of which 10 are used as there.
    "qwen3next-tiny": Qwen3Next(256, 4, 4, 2, 256, 512, 64, 16, 2, 4, 64, 4, 2),
    "qwen3next-4": Qwen3Next(2048, 4, 16, 2, 512, 32000, 256, 64, 16, 32, 128, 32, 10),
}


def vocabulary(size):
    """A SentencePiece vocabulary: three control tokens, the bytes, and words that nobody uses."""
    control = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    bytes_ = [(f"<0x{b:02X}>", gguf.TokenType.BYTE) for b in range(256)]
    words = [(f"\u2581w{i}", gguf.TokenType.NORMAL) for i in range(size - len(control) - len(bytes_))]
    return control + bytes_ + words


def write_f16(path, shape_name, seed):
    shape = SHAPES[shape_name]
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path + ".part", shape.architecture, use_temp_file=False)
    writer.add_name(f"random {shape_name}, seed {seed}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.mlp)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_freq_base(shape.theta)
    shape.describe(writer)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    tokens = vocabulary(shape.vocab)
    writer.add_token_list([t.encode() for t, _ in tokens])
    writer.add_token_scores([-float(i) for i in range(shape.vocab)])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for i in range(shape.layers):
        for name, values in shape.vectors(i):
            writer.add_tensor(f"blk.{i}.{name}", values)
    writer.add_tensor(shape.output_norm, np.ones(shape.width, np.float32))
    for name, dimensions in shape.matrices():
        # Variance 1/columns keeps activations near 1 through all layers.
        weights = rng.standard_normal(dimensions, dtype=np.float32) * dimensions[-1]**-0.5
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
