#!/usr/bin/env python3
"""memwall beside PyTorch: a training step of a small decoder, and gated linear attention.

    against_torch.py --command 'memwall bench {what} --dtype {dtype} --threads {threads} --json'

The command is ours: {what} is `transformer` or `gla`, {dtype} `f32` or `bf16`. It does the work of
torch_step_once.py (see there for the shapes) and prints one JSON line with `step_ms`, the median
milliseconds of a step, and `rss_growth_bytes`, by how much its peak resident set grew over the steps.
PyTorch runs eagerly and compiled in every round; ours is held against the faster.
"""
import argparse
import json
import os
import sys

import paired

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = {"step": ("step_ms", "lower"), "memory growth": ("rss_growth_bytes", "lower")}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--command", required=True, help="ours, with {what}, {dtype} and {threads}")
    a.add_argument("--what", nargs="*", default=["transformer f32", "transformer bf16", "gla f32"])
    a.add_argument("--pairs", type=int, default=7)
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--out", help="JSON with every run")
    o = a.parse_args()
    results = {}
    print("| work | figure | memwall | PyTorch | ratio | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for work in o.what:
        what, dtype = work.split()
        peer = [sys.executable, os.path.join(HERE, "torch_step_once.py"), what, "--dtype", dtype, "-t", str(o.threads)]
        by_name = {
            "memwall": o.command.format(what=what, dtype=dtype, threads=o.threads),
            "eager": peer, "compiled": [*peer, "--compile"],
        }
        result = paired.compare(by_name, KEYS, o.pairs, o.threads, lambda text: print(text, file=sys.stderr, flush=True))
        results[work] = result
        for figure in KEYS:
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
