#!/usr/bin/env python3
"""Some training steps in PyTorch on the CPU; one JSON line with the median milliseconds of a step.

    torch_step_once.py transformer --dtype f32 --compile     forward, backward, AdamW of a small decoder
    torch_step_once.py gla                                   forward and backward of a mixer of torch_mixers.py

The decoder: learned positions, pre-norm blocks (causal attention by scaled_dot_product_attention, GELU MLP of
4 D), head tied to the embedding, cross-entropy on random tokens. bf16 is autocast over f32 parameters.

A mixer is written in chunks with composed operations, as a user of PyTorch would; before it is timed, its outputs
and gradients are compared in f64 with its recurrence.
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

from torch_mixers import MIXERS


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


def check_chunked(o):
    make, whole, in_chunks = MIXERS[o.what]
    if whole is in_chunks:
        return
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
    a.add_argument("what", choices=["transformer", *MIXERS])
    a.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    a.add_argument("--compile", action="store_true", help="through torch.compile (needs a C++ compiler)")
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--steps", type=int, default=11, help="timed steps, after 3 that are not")
    a.add_argument("--batch", type=int, help="B: 8, for a mixer 1")
    a.add_argument("--time", type=int, help="T: 256, for a mixer 4096")
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
