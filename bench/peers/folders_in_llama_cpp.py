"""Folders of Hugging Face's, written as GGUF, in llama.cpp: its logits against those of transformers.

    python bench/peers/folders_in_llama_cpp.py [MEMWALL]

The models are the tiny ones of crates/testdata/fixtures/hugging_face that llama.cpp has; the largest difference over 96
tokens is printed for each. llama.cpp does not apply Mistral's window, so there only the tokens inside it count.

`memwall quantize` writes them, but for Qwen3-Next, which is written here as llama.cpp's own converter does; of that file
memwall's logits are compared too.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import Llama
from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).parents[2] / "crates/testdata/fixtures/hugging_face"
MODELS = ["llama", "llama_tied", "llama_grouped", "llama3", "llama_linear", "mistral", "qwen3", "lfm2", "lfm2_older",
          "lfm2_moe"]
CHARACTERS = "ĠabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-()/+*="

spec = importlib.util.spec_from_file_location("make", FIXTURES / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def tokenizer():
    """A vocabulary of single characters: llama.cpp takes the number of logits from the number of tokens."""
    special = ["<unk>", "<s>", "</s>"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [dict(id=i, content=token, special=True, single_word=False, lstrip=False, rstrip=False, normalized=False)
             for i, token in enumerate(special)]
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS])}
    return {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level,
            "post_processor": None, "decoder": byte_level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}


def weights_of(fixture):
    table = json.loads((fixture / "weights.json").read_text())
    shapes = {n: tuple(shape) for n, shape in table["shapes"].items()}
    return make.weights_of(table["seed"], shapes, table.get("zero_centred", False))


def put_vocabulary(writer):
    tokens = ["<unk>", "<s>", "</s>", *CHARACTERS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * len(CHARACTERS))
    # An empty list is not written, and llama.cpp wants one.
    writer.add_token_merges(["a b"])


def write_qwen3_next(path, fixture):
    """Norms around 1, rates as -exp(A_log), queries, keys and values in one tensor and output gates in another."""
    config = json.loads((fixture / "config.json").read_text())
    w = make.together(weights_of(fixture))
    key_heads, value_heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key_width, value_width = config["linear_key_head_dim"], config["linear_value_head_dim"]
    writer = gguf.GGUFWriter(str(path), "qwen3next")
    put_vocabulary(writer)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(int(config["head_dim"] * config["rope_parameters"]["partial_rotary_factor"]))
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(key_width)
    writer.add_ssm_group_count(key_heads)
    writer.add_ssm_time_step_rank(value_heads)
    writer.add_ssm_inner_size(value_width * value_heads)
    add = lambda name, value: writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
    add("token_embd.weight", w["model.embed_tokens.weight"])
    add("output_norm.weight", 1 + w["model.norm.weight"])
    add("output.weight", w["lm_head.weight"])
    for i in range(config["num_hidden_layers"]):
        theirs = lambda name: w[f"model.layers.{i}.{name}"]
        own = f"blk.{i}."
        add(own + "attn_norm.weight", 1 + theirs("input_layernorm.weight"))
        add(own + "post_attention_norm.weight", 1 + theirs("post_attention_layernorm.weight"))
        if config["layer_types"][i] == "full_attention":
            for part in ["q", "k", "v"]:
                add(f"{own}attn_{part}.weight", theirs(f"self_attn.{part}_proj.weight"))
            add(own + "attn_output.weight", theirs("self_attn.o_proj.weight"))
            for part in ["q", "k"]:
                add(f"{own}attn_{part}_norm.weight", 1 + theirs(f"self_attn.{part}_norm.weight"))
        else:
            values = value_heads // key_heads * value_width
            groups = theirs("linear_attn.in_proj_qkvz.weight").reshape(key_heads, -1, config["hidden_size"])
            q, k, v, z = np.split(groups, np.cumsum([key_width, key_width, values]), axis=1)
            flat = lambda part: part.reshape(-1, config["hidden_size"])
            add(own + "attn_qkv.weight", np.concatenate([flat(q), flat(k), flat(v)]))
            add(own + "attn_gate.weight", flat(z))
            add(own + "ssm_ba.weight", theirs("linear_attn.in_proj_ba.weight"))
            add(own + "ssm_conv1d.weight", theirs("linear_attn.conv1d.weight")[:, 0])
            add(own + "ssm_dt.bias", theirs("linear_attn.dt_bias"))
            add(own + "ssm_a", -np.exp(theirs("linear_attn.A_log")))
            add(own + "ssm_norm.weight", theirs("linear_attn.norm.weight"))
            add(own + "ssm_out.weight", theirs("linear_attn.out_proj.weight"))
        add(own + "ffn_gate_inp.weight", theirs("mlp.gate.weight"))
        gate, up = np.split(theirs("mlp.experts.gate_up_proj"), 2, axis=1)
        add(own + "ffn_gate_exps.weight", gate)
        add(own + "ffn_up_exps.weight", up)
        add(own + "ffn_down_exps.weight", theirs("mlp.experts.down_proj"))
        add(own + "ffn_gate_inp_shexp.weight", theirs("mlp.shared_expert_gate.weight")[0])
        for part in ["gate", "up", "down"]:
            add(f"{own}ffn_{part}_shexp.weight", theirs(f"mlp.shared_expert.{part}_proj.weight"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_llama_cpp(path, tokens):
    # Keys and values in f32.
    model = Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1, flash_attn=False, type_k=0, type_v=0)
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


def compare_qwen3_next(memwall, folder):
    fixture = FIXTURES / "qwen3_next"
    path = folder / "qwen3_next.gguf"
    write_qwen3_next(path, fixture)
    reference = load_file(fixture / "reference.safetensors")
    tokens, want = reference["tokens"].tolist(), reference["logits"]
    theirs = np.abs(in_llama_cpp(path, tokens) - want).max()
    print(f"qwen3_next, written here: llama.cpp {theirs:.1e} over {len(tokens)} tokens", flush=True)
    ids = ",".join(map(str, tokens))
    subprocess.run([memwall, "run", path, "--token-ids", ids, "-n", "0", "--kv", "f32", "-c", "256", "--logits",
                    folder / "logits", "--json"], check=True, stdout=subprocess.DEVNULL)
    ours = np.abs(np.fromfile(folder / "logits", "<f4").reshape(len(tokens), -1) - want).max()
    print(f"qwen3_next, written here: memwall {ours:.1e} over {len(tokens)} tokens")
    # llama.cpp's own difference is told, not judged.
    return ours


def compare(memwall, name, folder):
    fixture = FIXTURES / name
    weights = weights_of(fixture)
    save_file(weights, folder / "model.safetensors")
    shutil.copy(fixture / "config.json", folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    path = folder / "f32.gguf"
    subprocess.run([memwall, "quantize", folder, "--format", "f32", "-o", path], check=True, capture_output=True)
    reference = load_file(fixture / "reference.safetensors")
    tokens = reference["tokens"].tolist()
    window = json.loads((fixture / "config.json").read_text()).get("sliding_window") or len(tokens)
    difference = np.abs(in_llama_cpp(path, tokens) - reference["logits"])[:window].max()
    print(f"{name}: {difference:.1e} over {min(window, len(tokens))} tokens")
    return difference


def main():
    memwall = sys.argv[1] if len(sys.argv) > 1 else "target/release/memwall"
    worst = 0.0
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            worst = max(worst, compare(memwall, name, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        worst = max(worst, compare_qwen3_next(memwall, Path(folder)))
    raise SystemExit(worst >= 1e-4)


if __name__ == "__main__":
    main()
