"""Writes the golden files of `memwall op`, with PyTorch's automatic differentiation in f64 as the oracle.

    python make.py

Needs torch and safetensors. Each case is two files: NAME.in.safetensors, what `memwall op` is given, and
NAME.out.safetensors, what it must write, gradients included. The definitions below are dense and plain: all pairs of
scores for attention, token by token for gated linear attention, the delta rule, RWKV's recurrences and the selective scan.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.manual_seed(13)


def save(name, inputs, outputs):
    for part, tensors in [("in", inputs), ("out", outputs)]:
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_file(tensors, str(HERE / f"{name}.{part}.safetensors"))


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def attention(q, k, v, slopes, scale, left, softcap):
    """Causal, windowed, with softcap, ALiBi and grouped keys; [B, T, H, K] and [B, M, G, K], aligned at the bottom right."""
    tokens, keys, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = scale * torch.einsum("bihd,bjhd->bhij", q, k)
    scores = softcap * torch.tanh(scores / softcap)
    at = torch.arange(tokens)[:, None] + keys - tokens
    key = torch.arange(keys)[None, :]
    scores = scores - slopes[None, :, None, None] * (at - key).abs()
    scores = scores.masked_fill((key > at) | (key < at - left), -torch.inf)
    o = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
    lse = scores.logsumexp(-1)  # [B, H, T] -> [H, B * T]
    return o, lse.transpose(0, 1).reshape(lse.shape[1], -1)


def gla(q, k, v, g, cu, initial, scale):
    """Token by token: S = diag(exp(g)) S + k v^T, o = scale q^T S; [T, H, K], and [T, G, K] for k, v and g."""
    group = q.shape[1] // k.shape[1]
    k, v, g = (x.repeat_interleave(group, dim=1) for x in (k, v, g))
    o, states = [], []
    for i in range(len(cu) - 1):
        state = initial[i]
        for t in range(cu[i], cu[i + 1]):
            state = state * g[t].exp()[:, :, None] + k[t][:, :, None] * v[t][:, None, :]
            o.append(scale * torch.einsum("hk,hkv->hv", q[t], state))
        states.append(state)
    return torch.stack(o), torch.stack(states)


def with_gradients(inputs, outputs, seeds):
    """Outputs, and gradients of the inputs under the seeds of the outputs."""
    names = [n for n, x in inputs.items() if x.requires_grad]
    total = sum((outputs[n] * seed).sum() for n, seed in seeds.items())
    grads = torch.autograd.grad(total, [inputs[n] for n in names])
    return {**outputs, **{f"d{n}": grad for n, grad in zip(names, grads)}}


q, k, v = draw(2, 7, 4, 8).requires_grad_(), draw(2, 11, 2, 8).requires_grad_(), draw(2, 11, 2, 6).requires_grad_()
slopes, do = torch.tensor([0.5, 0.25, 0.125, 0.0], dtype=torch.float64), draw(2, 7, 4, 6)
o, lse = attention(q, k, v, slopes, 0.3, 5, 2.0)
made = with_gradients({"q": q, "k": k, "v": v}, {"o": o, "lse": lse}, {"o": do})
save("attention", {"q": q, "k": k, "v": v, "alibi_slopes": slopes, "do": do}, made)

cu = [0, 8, 21]
inputs = {"q": draw(21, 4, 5), "k": draw(21, 2, 5), "v": draw(21, 2, 6), "g": -draw(21, 2, 5).abs(), "initial_state": draw(2, 4, 5, 6)}
for x in inputs.values():
    x.requires_grad_()
o, final = gla(*(inputs[n] for n in "qkvg"), cu, inputs["initial_state"], 5**-0.5)
seeds = {"o": draw(21, 4, 6), "final_state": draw(2, 4, 5, 6)}
made = with_gradients(inputs, {"o": o, "final_state": final}, seeds)
packed = ["q", "k", "v", "g", "o", "dq", "dk", "dv", "dg", "do"]
row = lambda tensors: {n: x[None] if n in packed else x for n, x in tensors.items()}
given = {**inputs, **{f"d{n}": x for n, x in seeds.items()}, "cu_seqlens": torch.tensor(cu)}
save("gla", row(given), row(made))


def delta(q, k, v, beta, g, cu, initial, scale):
    """Token by token: S = diag(exp(g)) S, S = S + k (beta (v - S^T k))^T, o = scale S^T q; [T, G, K] for q and k."""
    group = v.shape[1] // k.shape[1]
    q, k = (x.repeat_interleave(group, dim=1) for x in (q, k))
    o, states = [], []
    for i in range(len(cu) - 1):
        state = initial[i]
        for t in range(cu[i], cu[i + 1]):
            state = state * g[t].exp().reshape(g.shape[1], -1, 1)
            held = torch.einsum("hk,hkv->hv", k[t], state)
            state = state + k[t][:, :, None] * (beta[t][:, None] * (v[t] - held))[:, None, :]
            o.append(scale * torch.einsum("hk,hkv->hv", q[t], state))
        states.append(state)
    return torch.stack(o), torch.stack(states)


cu = [0, 17, 38]
for gate in ["head", "channel"]:
    g = -draw(38, 4).abs() if gate == "head" else -draw(38, 4, 5).abs()
    k = draw(38, 2, 5)
    inputs = {"q": draw(38, 2, 5), "k": k / k.norm(dim=-1, keepdim=True), "v": draw(38, 4, 6), "beta": 2 * draw(38, 4).sigmoid(), "g": g, "initial_state": draw(2, 4, 5, 6)}
    for x in inputs.values():
        x.requires_grad_()
    o, final = delta(*(inputs[n] for n in ["q", "k", "v", "beta", "g"]), cu, inputs["initial_state"], 5**-0.5)
    seeds = {"o": draw(38, 4, 6), "final_state": draw(2, 4, 5, 6)}
    made = with_gradients(inputs, {"o": o, "final_state": final}, seeds)
    packed = ["q", "k", "v", "beta", "g", "o", "dq", "dk", "dv", "dbeta", "dg", "do"]
    given = {**inputs, **{f"d{n}": x for n, x in seeds.items()}, "cu_seqlens": torch.tensor(cu)}
    save(f"delta_{gate}", row(given), row(made))


def by_sequence(first, step, cu):
    """Outputs of every token, and the state after each sequence."""
    outputs, states = [], []
    for i in range(len(cu) - 1):
        state = first()
        for t in range(cu[i], cu[i + 1]):
            state, o = step(state, t)
            outputs.append(o)
        states.append(state)
    return torch.stack(outputs), torch.stack(states)


def recurrence(name, inputs, first, step, output="o"):
    """Saves a recurrence over packed sequences with the gradients of its inputs; those over all tokens get a row of one."""
    for x in inputs.values():
        x.requires_grad_()
    o, final = by_sequence(first, step, cu)
    seed = draw(*o.shape)
    made = with_gradients(inputs, {output: o}, {output: seed})
    tokens = lambda tensors: {n: x[None] if x.shape[0] == cu[-1] else x for n, x in tensors.items()}
    save(name, tokens({**inputs, f"d{output}": seed}) | {"cu_seqlens": torch.tensor(cu)}, tokens(made) | {"final_state": final})


cu = [0, 17, 38]
n, h, kw, vw = 38, 2, 5, 6

x = {"log_decay": -draw(7).exp(), "bonus": draw(7), "k": draw(n, 7), "v": draw(n, 7)}


def wkv4(state, t):
    """Sums of weights and of weighted values as they are: small numbers need no running exponent."""
    a, b = state
    own = (x["bonus"] + x["k"][t]).exp()
    y = (a + own * x["v"][t]) / (b + own)
    decay, weight = x["log_decay"].exp(), x["k"][t].exp()
    return torch.stack([decay * a + weight * x["v"][t], decay * b + weight]), y


for value in x.values():
    value.requires_grad_()
y, _ = by_sequence(lambda: torch.zeros(2, 7, dtype=torch.float64), wkv4, cu)
seed = draw(n, 7)
made = with_gradients(x, {"y": y}, {"y": seed})
packed = ["k", "v", "y", "dk", "dv", "dy"]
save("wkv4", row({**x, "dy": seed, "cu_seqlens": torch.tensor(cu)}), row(made))

x6 = {"r": draw(n, h, kw), "k": draw(n, h, kw), "v": draw(n, h, vw), "log_decay": -draw(n, h, kw).exp(), "bonus": draw(h, kw)}


def wkv6(state, t):
    new = x6["k"][t][:, :, None] * x6["v"][t][:, None, :]
    o = torch.einsum("hk,hkv->hv", x6["r"][t], state + x6["bonus"][:, :, None] * new)
    return x6["log_decay"][t].exp()[:, :, None] * state + new, o


recurrence("wkv6", x6, lambda: torch.zeros(h, kw, vw, dtype=torch.float64), wkv6)

a = draw(n, h, kw)
a = a / a.norm(dim=-1, keepdim=True)
x7 = {"r": draw(n, h, kw), "k": draw(n, h, kw), "v": draw(n, h, vw), "a": a, "b": -a * draw(n, h, kw).sigmoid(), "log_decay": -draw(n, h, kw).exp()}


def wkv7(state, t):
    held = torch.einsum("hk,hkv->hv", x7["a"][t], state)
    state = x7["log_decay"][t].exp()[:, :, None] * state + x7["b"][t][:, :, None] * held[:, None, :]
    state = state + x7["k"][t][:, :, None] * x7["v"][t][:, None, :]
    return state, torch.einsum("hk,hkv->hv", x7["r"][t], state)


recurrence("wkv7", x7, lambda: torch.zeros(h, kw, vw, dtype=torch.float64), wkv7)

d, states = 7, 4
xs = {"x": draw(n, d), "delta": draw(n, d).exp(), "a": -draw(d, states).exp(), "b": draw(n, states), "c": draw(n, states), "skip": draw(d)}


def scan(state, t):
    delta, value = xs["delta"][t], xs["x"][t]
    state = (delta * xs["a"].T).exp() * state + xs["b"][t][:, None] * (delta * value)
    return state, (xs["c"][t][:, None] * state).sum(0) + xs["skip"] * value


recurrence("selective_scan", xs, lambda: torch.zeros(states, d, dtype=torch.float64), scan, output="y")
