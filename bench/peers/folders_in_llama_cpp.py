"""Folders of Hugging Face's, written as GGUF by `memwall quantize`, in llama.cpp: its logits against those of transformers.

    python bench/peers/folders_in_llama_cpp.py [MEMWALL]

The models are the tiny ones of crates/testdata/fixtures/hugging_face that llama.cpp has; the largest difference over 96
tokens is printed for each. llama.cpp does not apply Mistral's window, so there only the tokens inside it count.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_cpp import Llama
from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).parents[2] / "crates/testdata/fixtures/hugging_face"
MODELS = ["llama", "llama_tied", "llama_grouped", "llama3", "llama_linear", "mistral", "qwen3"]
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


def compare(memwall, name, folder):
    fixture = FIXTURES / name
    table = json.loads((fixture / "weights.json").read_text())
    weights = make.weights_of(table["seed"], {n: tuple(shape) for n, shape in table["shapes"].items()})
    save_file(weights, folder / "model.safetensors")
    shutil.copy(fixture / "config.json", folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    gguf = folder / "f32.gguf"
    subprocess.run([memwall, "quantize", folder, "--format", "f32", "-o", gguf], check=True, capture_output=True)
    reference = load_file(fixture / "reference.safetensors")
    tokens = reference["tokens"].tolist()
    window = json.loads((fixture / "config.json").read_text()).get("sliding_window") or len(tokens)
    # Keys and values in f32.
    model = Llama(str(gguf), n_ctx=256, logits_all=True, verbose=False, n_threads=1, flash_attn=False, type_k=0, type_v=0)
    model.eval(tokens)
    difference = np.abs(np.array(model.scores[: len(tokens)]) - reference["logits"])[:window].max()
    print(f"{name}: {difference:.1e} over {min(window, len(tokens))} tokens")
    return difference


def main():
    memwall = sys.argv[1] if len(sys.argv) > 1 else "target/release/memwall"
    worst = 0.0
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            worst = max(worst, compare(memwall, name, Path(folder)))
    raise SystemExit(worst >= 1e-4)


if __name__ == "__main__":
    main()
