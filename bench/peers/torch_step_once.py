#!/usr/bin/env python3
"""Some training steps in PyTorch on the CPU; one JSON line with the median milliseconds of a step.

    torch_step_once.py transformer --dtype f32 --compile     forward, backward, AdamW of a small decoder
    torch_step_once.py gla                                   forward and backward of gated linear attention
    torch_step_once.py delta                                 forward and backward of the gated delta rule

The decoder: learned positions, pre-norm blocks (causal attention by scaled_dot_product_attention, GELU MLP of
4 D), head tied to the embedding, cross-entropy on random tokens. bf16 is autocast over f32 parameters.

Gated linear attention, S_t = diag(exp g_t) S_(t-1) + k_t v_t^T, o_t = S_t^T q_t, is written in chunks with
composed operations, as a user of PyTorch would; before it is timed, its outputs and gradients are compared in
f64 with the recurrence. So is the gated delta rule with one gate a head (Gated DeltaNet),
S_t = exp(g_t) (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T, with its chunks' triangular systems.
"""
import argparse
import contextlib
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, time_, width = x.shape
        h = self.norm1(x)
        split = lambda y: y.view(batch, time_, self.heads, width // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(self.q(h)), split(self.k(h)), split(self.v(h)), is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, time_, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.embedding = nn.Embedding(o.vocabulary, o.width)
        self.positions = nn.Parameter(torch.zeros(o.time, o.width))
        self.blocks = nn.ModuleList(Block(o.width, o.heads) for _ in range(o.layers))
        self.norm = nn.LayerNorm(o.width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids, targets):
        x = self.embedding(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))


def recurrence(q, k, v, g):
    """[B, H, T, K|V], one token at a time."""
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        state = g[:, :, t].exp().unsqueeze(-1) * state + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        outputs.append((q[:, :, t].unsqueeze(-1) * state).sum(-2))
    return torch.stack(outputs, 2)


def chunked(q, k, v, g, chunk):
    """[B, H, T, K|V]. Keys are divided by the decay since the chunk's start: for moderate gates only."""
    batch, heads, time_, _ = q.shape
    q, k, v, g = (x.view(batch, heads, time_ // chunk, chunk, x.shape[-1]) for x in (q, k, v, g))
    decay = g.cumsum(3)
    whole = decay[:, :, :, -1]
    reading, writing = q * decay.exp(), k * (whole.unsqueeze(3) - decay).exp()
    inside = (reading @ (k * (-decay).exp()).transpose(3, 4)).tril() @ v
    written = writing.transpose(3, 4) @ v
    state, before = torch.zeros_like(written[:, :, 0]), []
    for c in range(time_ // chunk):
        before.append(state)
        state = whole[:, :, c].exp().unsqueeze(-1) * state + written[:, :, c]
    return (inside + reading @ torch.stack(before, 2)).reshape(batch, heads, time_, v.shape[-1])


def delta_recurrence(q, k, v, beta, g):
    """[B, H, T, K|V], beta and g [B, H, T], one token at a time."""
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        state = g[:, :, t].exp()[..., None, None] * state
        held = (k[:, :, t].unsqueeze(-1) * state).sum(-2)
        written = beta[:, :, t].unsqueeze(-1) * (v[:, :, t] - held)
        state = state + k[:, :, t].unsqueeze(-1) * written.unsqueeze(-2)
        outputs.append((q[:, :, t].unsqueeze(-1) * state).sum(-2))
    return torch.stack(outputs, 2)


def delta_chunked(q, k, v, beta, g, chunk):
    """As `delta_recurrence`: everything that needs no state for all chunks at once, then chunk by chunk."""
    batch, heads, time_, _ = q.shape
    q, k, v = (x.view(batch, heads, time_ // chunk, chunk, x.shape[-1]) for x in (q, k, v))
    beta, g = (x.view(batch, heads, time_ // chunk, chunk, 1) for x in (beta, g))
    decay = g.cumsum(3)
    future = torch.ones(chunk, chunk, dtype=torch.bool).triu(1)
    between = (decay - decay.transpose(3, 4)).masked_fill(future, -torch.inf).exp()
    system = torch.eye(chunk, dtype=q.dtype) + (beta * (k @ k.transpose(3, 4)) * between).tril(-1)
    right = torch.cat([beta * decay.exp() * k, beta * v], -1)
    w, u = torch.linalg.solve_triangular(system, right, upper=False).split([k.shape[-1], v.shape[-1]], -1)
    scores, reading = (q @ k.transpose(3, 4)) * between, q * decay.exp()
    whole = decay[:, :, :, -1:]
    writing = (k * (whole - decay).exp()).transpose(3, 4)
    state, outputs = torch.zeros_like(writing[:, :, 0] @ u[:, :, 0]), []
    for c in range(time_ // chunk):
        written = u[:, :, c] - w[:, :, c] @ state
        outputs.append(reading[:, :, c] @ state + scores[:, :, c] @ written)
        state = whole[:, :, c].exp() * state + writing[:, :, c] @ written
    return torch.stack(outputs, 2).reshape(batch, heads, time_, v.shape[-1])


def delta_inputs(o, time_, dtype):
    q, k, v, _ = gla_inputs(o, time_, dtype)
    beta = torch.rand(o.batch, o.heads, time_, dtype=dtype)
    g = F.logsigmoid(torch.randn(o.batch, o.heads, time_, dtype=dtype)) / 16
    return [x.detach().requires_grad_() for x in (q, F.normalize(k, dim=-1), v, beta, g)]


def gla_inputs(o, time_, dtype):
    shape = lambda width: torch.randn(o.batch, o.heads, time_, width, dtype=dtype)
    q, k, v = shape(o.key) / o.key**0.5, shape(o.key), shape(o.value)
    # The gates of the published layer: a sigmoid's 16th root, so a state fades over tens of tokens.
    g = F.logsigmoid(shape(o.key)) / 16
    return [x.requires_grad_() for x in (q, k, v, g)]


MIXERS = {"gla": (gla_inputs, recurrence, chunked), "delta": (delta_inputs, delta_recurrence, delta_chunked)}


def check_chunked(o):
    make, whole, in_chunks = MIXERS[o.what]
    inputs = make(o, 3 * o.chunk, torch.float64)
    upstream = torch.randn(o.batch, o.heads, 3 * o.chunk, o.value, dtype=torch.float64)
    def results(form):
        out = form(*inputs)
        return [out, *torch.autograd.grad(out, inputs, upstream)]
    for a, b in zip(results(whole), results(lambda *x: in_chunks(*x, o.chunk))):
        error = ((a - b).abs().max() / a.abs().max()).item()
        if not error < 1e-9:
            raise SystemExit(f"{o.what}: chunks and recurrence differ by {error:.1e}")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["transformer", "gla", "delta"])
    a.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    a.add_argument("--compile", action="store_true", help="through torch.compile (needs a C++ compiler)")
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--steps", type=int, default=11, help="timed steps, after 3 that are not")
    a.add_argument("--batch", type=int, help="B: 8, for gla and delta 1")
    a.add_argument("--time", type=int, help="T: 256, for gla and delta 4096")
    a.add_argument("--heads", type=int, default=4)
    a.add_argument("--layers", type=int, default=4)
    a.add_argument("--width", type=int, default=256, help="D")
    a.add_argument("--vocabulary", type=int, default=4096)
    a.add_argument("--key", type=int, default=64, help="K")
    a.add_argument("--value", type=int, default=64, help="V")
    a.add_argument("--chunk", type=int, default=64, help="C")
    o = a.parse_args()
    mixer = o.what in MIXERS
    o.batch, o.time = o.batch or (1 if mixer else 8), o.time or (4096 if mixer else 256)
    if mixer and o.time % o.chunk:
        a.error(f"--time {o.time}: a multiple of --chunk {o.chunk}")
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16) if o.dtype == "bf16" else contextlib.nullcontext()
    through = torch.compile if o.compile else lambda f: f
    if mixer:
        check_chunked(o)
        make, _, in_chunks = MIXERS[o.what]
        inputs = make(o, o.time, torch.float32)
        upstream = torch.randn(o.batch, o.heads, o.time, o.value)
        form = through(in_chunks)

        def step():
            with autocast():
                out = form(*inputs, o.chunk)
            out.backward(upstream.to(out.dtype))
            for x in inputs:
                x.grad = None
    else:
        model = Decoder(o)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        ids = torch.randint(o.vocabulary, (o.batch, o.time + 1))
        form = through(model)

        def step():
            with autocast():
                loss = form(ids[:, :-1], ids[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    before = peak_bytes()
    milliseconds = []
    for i in range(3 + o.steps):
        begin = time.perf_counter()
        step()
        if i >= 3:
            milliseconds.append(1e3 * (time.perf_counter() - begin))
    print(json.dumps({
        "engine": f"torch {torch.__version__}", "what": o.what, "dtype": o.dtype, "compile": o.compile,
        "threads": o.threads, "step_ms": statistics.median(milliseconds), "all_ms": milliseconds,
        "rss_growth_bytes": peak_bytes() - before,
    }))


if __name__ == "__main__":
    main()
