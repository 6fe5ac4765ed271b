#!/usr/bin/env python3
"""memwall beside PyTorch: a training step of a small decoder, and gated linear attention.

    against_torch.py --memwall target/release/memwall

Both do the work of torch_step_once.py (see there for the shapes). PyTorch runs eagerly and compiled in every
round; ours is held against the faster, and its memory against the one that grows less. `step recompute` is
ours with every block computed again in the backward pass, `gla recurrent` and `gla chunked` are forms of ours;
`gla` is the form chosen automatically; its memory is not compared.
"""
import argparse
import json
import os
import sys

import paired

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = {"step": ("step_ms", "lower"), "memory growth": ("rss_growth_bytes", "lower")}
WORK = ["step f32", "step recompute f32", "step bf16", "step recompute bf16", "gla f32"]


def ours(o, what, dtype):
    """Our command for `step`, `step recompute`, `gla`, `gla recurrent` or `gla chunked`."""
    what, *option = what.split()
    extra = [f"--{name}" for name in option] if what == "step" else [what, "--form", *(option or ["auto"])]
    return [o.memwall, "bench", "--step" if what == "step" else "--mixers", "--dtype", dtype, "-t", str(o.threads), "--repeats", str(o.steps), "--json", *extra]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--memwall", default="memwall", help="our command")
    a.add_argument("--what", nargs="*", default=WORK, help="work and dtype, e.g. 'step recompute bf16'")
    a.add_argument("--pairs", type=int, default=7)
    a.add_argument("--steps", type=int, default=11, help="timed steps of a run")
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--out", help="JSON with every run")
    o = a.parse_args()
    results = {}
    print("| work | figure | memwall | PyTorch | ratio | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for work in o.what:
        *what, dtype = work.split()
        peer = [sys.executable, os.path.join(HERE, "torch_step_once.py"), "gla" if what[0] == "gla" else "transformer",
                "--dtype", dtype, "-t", str(o.threads), "--steps", str(o.steps)]
        by_name = {"memwall": ours(o, " ".join(what), dtype), "eager": peer, "compiled": [*peer, "--compile"]}
        keys = {name: key for name, key in KEYS.items() if what[0] == "step" or name == "step"}
        result = paired.compare(by_name, keys, o.pairs, o.threads, lambda text: print(text, file=sys.stderr, flush=True))
        results[work] = result
        for figure in keys:
            best = paired.best_peer(result, figure)
            figures, ratio = result["figures"][figure], result["ratios"][figure][best]
            low, high = ratio["interval_95"] or (float("nan"), float("nan"))
            mark = " (void: bandwidth moved)" if result["void"] else ""
            print(f"| {work} | {KEYS[figure][0]} | {figures['memwall']['median']:.4g} | {figures[best]['median']:.4g} ({best}) "
                  f"| {ratio['median']:.3f}{mark} | {low:.3f}–{high:.3f} |", flush=True)
    if o.out:
        with open(o.out, "w") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
