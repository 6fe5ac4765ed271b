"""Tiny random RWKV-5.2 and RWKV-6 models as rwkv.cpp files, and their logits by the published equations in f64.

    python make.py            # in this folder; needs numpy

NAME.bin is the model, NAME.logits.bin the logits [tokens, vocabulary] as f32 of the tokens (7 i^2 + 3 i) mod 32.
"""

import struct

import numpy as np

VOCAB, WIDTH, HEADS, LAYERS, HIDDEN, MIX, DECAY, TOKENS = 32, 16, 2, 2, 24, 4, 6, 8
HEAD = WIDTH // HEADS
random = np.random.default_rng(5)


def draw(*shape, scale=1.0):
    return (random.normal(size=shape) * scale).astype(np.float32)


def write(name, tensors):
    with open(f"{name}.bin", "wb") as f:
        f.write(struct.pack("<6i", 0x67676D66, 101, VOCAB, WIDTH, LAYERS, 0))
        for key, tensor in tensors.items():
            f.write(struct.pack("<3i", tensor.ndim, len(key), 0))
            f.write(struct.pack(f"<{tensor.ndim}i", *reversed(tensor.shape)))
            f.write(key.encode() + tensor.tobytes())


def norm(x, w, b, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w + b


def by_head(x):
    return x.reshape(HEADS, HEAD)


sigmoid = lambda x: 1 / (1 + np.exp(-x))
silu = lambda x: x * sigmoid(x)


def time_mix_5(w, state, x, before):
    mixed = lambda part: x * w[f"time_mix_{part}"] + before * (1 - w[f"time_mix_{part}"])
    r, k, v = (by_head(w[f"{n}.weight"] @ mixed(n[0])) for n in ["receptance", "key", "value"])
    return r, k, v, w["time_decay"][:, :, 0], silu(w["gate.weight"] @ mixed("g"))


def time_mix_6(w, state, x, before):
    way = before - x
    s = np.tanh(w["time_maa_w1"] @ (x + way * w["time_maa_x"])).reshape(5, MIX)
    mixed = {p: x + way * (w[f"time_maa_{p}"] + w["time_maa_w2"][i] @ s[i]) for i, p in enumerate("wkvrg")}
    r, k, v = (by_head(w[f"{n}.weight"] @ mixed[n[0]]) for n in ["receptance", "key", "value"])
    decay = w["time_decay"] + w["time_decay_w2"] @ np.tanh(w["time_decay_w1"] @ mixed["w"])
    return r, k, v, by_head(np.exp(-np.exp(decay))), silu(w["gate.weight"] @ mixed["g"])


def channel_mix(w, x, before, version):
    if version == 5:
        mixed = lambda part: x * w[f"time_mix_{part}"] + before * (1 - w[f"time_mix_{part}"])
    else:
        mixed = lambda part: x + (before - x) * w[f"time_maa_{part}"]
    k = np.maximum(w["key.weight"] @ mixed("k"), 0) ** 2
    return sigmoid(w["receptance.weight"] @ mixed("r")) * (w["value.weight"] @ k)


def logits(tensors, version):
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    part = lambda prefix: {n[len(prefix):]: t for n, t in w.items() if n.startswith(prefix)}
    states = [{"att": np.zeros(WIDTH), "ffn": np.zeros(WIDTH), "s": np.zeros((HEADS, HEAD, HEAD))} for _ in range(LAYERS)]
    out = []
    for token in [(7 * i * i + 3 * i) % VOCAB for i in range(TOKENS)]:
        x = norm(w["emb.weight"][token], w["blocks.0.ln0.weight"], w["blocks.0.ln0.bias"])
        for i, state in enumerate(states):
            block, att = part(f"blocks.{i}."), part(f"blocks.{i}.att.")
            h = norm(x, block["ln1.weight"], block["ln1.bias"])
            r, k, v, decay, gate = (time_mix_5 if version == 5 else time_mix_6)(att, state, h, state["att"])
            state["att"] = h
            new = k[:, :, None] * v[:, None, :]
            o = np.einsum("hk,hkv->hv", r, state["s"] + att["time_faaaa"] * new)
            state["s"] = decay[:, :, None] * state["s"] + new
            o = norm(o, by_head(att["ln_x.weight"]), by_head(att["ln_x.bias"]), 64e-5).reshape(-1)
            x = x + att["output.weight"] @ (o * gate)
            h = norm(x, block["ln2.weight"], block["ln2.bias"])
            x = x + channel_mix(part(f"blocks.{i}.ffn."), h, state["ffn"], version)
            state["ffn"] = h
        out.append(w["head.weight"] @ norm(x, w["ln_out.weight"], w["ln_out.bias"]))
    return np.array(out, dtype=np.float32)


def model(version):
    tensors = {"emb.weight": draw(VOCAB, WIDTH)}

    def layer_norm(name):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + draw(WIDTH, scale=0.2), draw(WIDTH, scale=0.2)

    matrix = lambda rows, columns: draw(rows, columns, scale=columns**-0.5)
    layer_norm("blocks.0.ln0")
    for i in range(LAYERS):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        layer_norm(f"blocks.{i}.ln1")
        layer_norm(f"blocks.{i}.ln2")
        layer_norm(f"{att}ln_x")
        mix = "time_mix_" if version == 5 else "time_maa_"
        for part in "kvrg" if version == 5 else "xwkvrg":
            tensors[f"{att}{mix}{part}"] = random.uniform(size=WIDTH).astype(np.float32)
        for part in "kr":
            tensors[f"{ffn}{mix}{part}"] = random.uniform(size=WIDTH).astype(np.float32)
        if version == 5:
            tensors[f"{att}time_decay"] = random.uniform(size=(HEADS, HEAD, 1)).astype(np.float32)
        else:
            # Matrices as rwkv.cpp's converter turns them round.
            tensors[f"{att}time_maa_w1"], tensors[f"{att}time_maa_w2"] = matrix(5 * MIX, WIDTH), matrix(5 * WIDTH, MIX).reshape(5, WIDTH, MIX)
            tensors[f"{att}time_decay"] = draw(WIDTH)
            tensors[f"{att}time_decay_w1"], tensors[f"{att}time_decay_w2"] = matrix(DECAY, WIDTH), matrix(WIDTH, DECAY)
        tensors[f"{att}time_faaaa"] = draw(HEADS, HEAD, 1)
        for part in ["receptance", "key", "value", "gate", "output"]:
            tensors[f"{att}{part}.weight"] = matrix(WIDTH, WIDTH)
        tensors[f"{ffn}key.weight"], tensors[f"{ffn}value.weight"] = matrix(HIDDEN, WIDTH), matrix(WIDTH, HIDDEN)
        tensors[f"{ffn}receptance.weight"] = matrix(WIDTH, WIDTH)
    layer_norm("ln_out")
    tensors["head.weight"] = matrix(VOCAB, WIDTH)
    return tensors


for version, name in [(5, "rwkv5.2"), (6, "rwkv6")]:
    tensors = model(version)
    write(name, tensors)
    logits(tensors, version).tofile(f"{name}.logits.bin")
