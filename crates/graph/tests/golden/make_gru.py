"""Writes gru.safetensors: what PyTorch's own GRU cell makes of the trained GRU of the data sets, in f64.

    python make_gru.py DATA

Needs torch and safetensors; DATA is the folder of the data sets. The model (MIT, kavyamali/tinystoriesgru) feeds a GRU
cell with a character's embedding and a memory; the memory moves towards tanh(W h + b) by a gate a step. Dropout is off.

ids     [T] the prompt, then what is likeliest at each position
logits  [T, 98] at each of these
memory  [124] after the last
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PROMPT = "Once upon a time, there was a little girl named Lily. "
TOKENS = 120

folder = Path(sys.argv[1]) / "models-gru-tinystories"
w = {k: v.double() for k, v in load_file(str(folder / "puregru-f32.safetensors")).items()}
vocabulary = json.loads((folder / "vocab.json").read_text())

cell = torch.nn.GRUCell(248, 124).double()
cell.load_state_dict({k: w[f"gru_cell.{k}"] for k in ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]})
linear = lambda name, x: torch.nn.functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

ids, logits = [vocabulary.index(c) for c in PROMPT], []
hidden, memory = torch.zeros(1, 124).double(), torch.zeros(1, 124).double()
with torch.no_grad():
    for t in range(TOKENS):
        x = w["token_emb.weight"][ids[t]] + w["pos_emb.weight"][t]
        hidden = cell(torch.cat([x[None], memory], 1), hidden)
        p = torch.sigmoid(linear("priority_gate", hidden))
        memory = (1 - p) * memory + p * torch.tanh(linear("memory_writer", hidden))
        norm = torch.nn.functional.layer_norm(hidden, [124], w["ln_f.weight"], w["ln_f.bias"])
        logits.append(linear("head", norm)[0])
        if t + 1 == len(ids) and t + 1 < TOKENS:
            ids.append(int(logits[-1].argmax()))
print("".join(vocabulary[i] for i in ids))
logits = torch.stack(logits)
top = logits.topk(2, 1).values
print("closest first and second:", (top[:, 0] - top[:, 1]).min().item())
out = {"ids": torch.tensor(ids, dtype=torch.int32), "logits": logits.float(), "memory": memory[0].float()}
save_file(out, str(Path(__file__).parent / "gru.safetensors"))
