#!/usr/bin/env python3
"""memwall beside llama.cpp on the same GGUF files: prefill, decode, memory, time to the first token.

    against_llama_cpp.py --memwall ../../target/release/memwall --folder /tmp/models

For every format: prefill of 512 tokens, decode of 64 tokens behind 64 and behind 2048. llama.cpp runs with and
without its second copy of the weights ("repack") in every round, and memwall is held against the better of the
two. Both are fresh processes on the same file with the same tokens, and the file is in the page cache. llama.cpp is
timed warm (an unmeasured prefill first), memwall as it comes: what is uneven is uneven against memwall.
Prints a table; --out keeps every run.
"""
import argparse
import json
import os
import random
import sys
import time

import paired
import random_gguf

HERE = os.path.dirname(os.path.abspath(__file__))
FORMATS = ["F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"]
# name: tokens of the prompt, tokens generated, the figures that are compared.
RUNS = {
    "prefill 512": (512, 0, {"prefill": ("prefill_tps", "higher")}),
    "decode at 64": (64, 64, {"decode": ("decode_tps", "higher")}),
    "decode at 2048": (2048, 64, {"decode": ("decode_tps", "higher")}),
}


def tokens(count, vocabulary, seed=0):
    """Random ids above the control tokens and the bytes, one beginning-of-text first."""
    rng = random.Random(seed)
    return [1] + [rng.randrange(259, vocabulary) for _ in range(count - 1)]


def commands(o, model, prompt, generated):
    ids = ",".join(map(str, prompt))
    same = ["--token-ids", ids, "-n", str(generated), "-t", str(o.threads)]
    peer = [sys.executable, os.path.join(HERE, "llama_cpp_once.py"), model, *same]
    return {"memwall": [o.memwall, "run", model, *same, "--json"], "repack": peer, "no repack": [*peer, "--no-repack"]}


def first_token(o, model, prompt):
    """Seconds from nothing to the first token: memwall's whole process; llama.cpp without the start of Python."""
    by_name = commands(o, model, prompt, 1)
    seconds = {name: [] for name in by_name}
    for turn in range(o.pairs):
        for name in paired.order(list(by_name), turn):
            begin = time.perf_counter()
            if name == "memwall":
                paired.run(by_name[name])
                seconds[name].append(time.perf_counter() - begin)
            else:
                seconds[name].append(paired.run([*by_name[name], "--cold"])["first_token_s"])
    ours = seconds.pop("memwall")
    peer = min(seconds, key=lambda name: sorted(seconds[name])[len(ours) // 2])
    ratios = [a / b for a, b in zip(ours, seconds[peer])]
    return {"memwall": ours, **seconds, "peer": peer, "median": sorted(ratios)[len(ratios) // 2],
            "interval_95": paired.interval(ratios)}


def resident(records):
    """The largest peak of memwall, the smaller of llama.cpp's (what Python held before is taken off)."""
    ours = max(r["rss_bytes"] for r in records["memwall"])
    theirs = min(max(r["engine_bytes"] for r in records[name]) for name in ("repack", "no repack"))
    return {"memwall": ours, "llama.cpp": theirs, "ratio": ours / theirs}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--memwall", default=os.path.join(HERE, "../../target/release/memwall"))
    a.add_argument("--folder", required=True, help="where model files are made and kept (8 GB for 1b)")
    a.add_argument("--shape", choices=random_gguf.SHAPES, default="1b")
    a.add_argument("--formats", nargs="*", default=FORMATS)
    a.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    a.add_argument("--pairs", type=int, default=11)
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--out", help="JSON with every run")
    o = a.parse_args()
    os.makedirs(o.folder, exist_ok=True)
    vocabulary = random_gguf.SHAPES[o.shape].vocab
    say = lambda text: print(text, file=sys.stderr, flush=True)
    results, rows = {}, []
    for kind in o.formats:
        model = random_gguf.make(os.path.join(o.folder, f"random-{o.shape}-0-{kind}.gguf"), o.shape, kind)
        for name in o.runs:
            count, generated, keys = RUNS[name]
            by_name = commands(o, model, tokens(count, vocabulary), generated)
            for command in by_name.values():
                paired.run(command)
            result = paired.compare(by_name, {**keys}, o.pairs, o.threads, say)
            figure = next(iter(keys))
            say(paired.line(result, figure))
            peer = paired.best_peer(result, figure)
            figures, ratio = result["figures"][figure], result["ratios"][figure][peer]
            rows.append((kind, name, figures["memwall"]["median"], figures[peer]["median"], peer, ratio, result["void"]))
            results[f"{kind} {name}"] = result
        results[f"{kind} memory"] = resident({n: [paired.run(c) for _ in range(1)] for n, c in commands(
            o, model, tokens(512, vocabulary), 1).items()})
        results[f"{kind} first token"] = first_token(o, model, tokens(64, vocabulary))
    print("| format | run | memwall, tokens/s | llama.cpp, tokens/s | ratio | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for kind, name, ours, theirs, peer, ratio, void in rows:
        low, high = ratio["interval_95"] or (float("nan"), float("nan"))
        mark = " (void: bandwidth moved)" if void else ""
        print(f"| {kind} | {name} | {ours:.1f} | {theirs:.1f} ({peer}) | {ratio['median']:.3f}{mark} | {low:.3f}–{high:.3f} |")
    print("\n| format | peak resident, memwall / llama.cpp | seconds to the first token, ratio |")
    print("|---|---|---|")
    for kind in o.formats:
        memory, first = results[f"{kind} memory"], results[f"{kind} first token"]
        print(f"| {kind} | {memory['memwall'] / 2**20:.0f} / {memory['llama.cpp'] / 2**20:.0f} MiB ({memory['ratio']:.3f}) "
              f"| {first['median']:.3f} against {first['peer']} |")
    if o.out:
        with open(o.out, "w") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
