#!/usr/bin/env python3
"""Interleaved comparison of commands that each print one JSON object as their last line.

    paired.py --pairs 11 --key decode_tps \
        ours='memwall run m.gguf --token-ids 1,2,3 -n 64 --json' peer='python llama_cpp_once.py m.gguf'

The first command is ours. In every round each command runs once, in an order that is turned round
from one round to the next, so that a drift of the machine meets all of them alike. Of each round the
ratio ours/peer is taken; the result is the median of these ratios and a distribution-free interval of
at least 95 % for it (two order statistics; no assumption on the noise). Memory bandwidth is read before
and after: where the two readings differ by more than 15 %, the machine was not the same machine, and
the comparison is void.
"""
import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
VOID = 0.15  # readings of the bandwidth that differ by more make a comparison void


def interval(values, coverage=0.95):
    """The narrowest pair of symmetric order statistics that holds the median with this probability.

    With fewer than 6 values no pair reaches 95 %: then it is None.

    >>> interval([5, 1, 4, 2, 3, 6])
    (1, 6)
    >>> interval(range(11))
    (1, 9)
    >>> interval([1, 2, 3]) is None
    True
    """
    ordered = sorted(values)
    n = len(ordered)
    best = None
    for k in range(1, n // 2 + 1):
        # Both the k smallest and the k largest miss the median if fewer than k values fall on its side.
        miss = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
        if 1 - miss < coverage:
            break
        best = (ordered[k - 1], ordered[n - k])
    return best


def order(names, turn):
    """The order of one round: turned round every time.

    >>> order(["a", "b", "c"], 0), order(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['c', 'b', 'a'])
    """
    return names if turn % 2 == 0 else names[::-1]


def pick(record, key):
    """The figure under a dotted key.

    >>> pick({"ms": {"step": 3}}, "ms.step")
    3
    """
    for part in key.split("."):
        record = record[part]
    return record


def last_json(text):
    """The last line that is a JSON object.

    >>> last_json('loading\\n{"a": 1}\\n')
    {'a': 1}
    """
    for line in reversed(text.strip().splitlines()):
        if line.lstrip().startswith("{"):
            return json.loads(line)
    raise ValueError("no line of JSON in the output")


def run(command):
    """Runs a command, a string or a list; its last JSON object."""
    words = shlex.split(command) if isinstance(command, str) else command
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stderr[-4000:]}{done.stdout[-2000:]}")
    try:
        return last_json(done.stdout)
    except ValueError as error:
        sys.exit(f"{shlex.join(words)}: {error}\n{done.stdout[-2000:]}")


def read_bandwidth(threads):
    """GB/s (10^9 bytes) that this many threads read from memory: the best of some tries, by our own C program."""
    source, program = os.path.join(HERE, "read_bandwidth.c"), os.path.join(HERE, ".read_bandwidth")
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        subprocess.run(["cc", "-O2", "-pthread", source, "-o", program], check=True)
    return run([program, str(threads)])["read_gbps"]


def differs(before, after):
    """Whether two readings of the bandwidth are too far apart.

    >>> differs(40.0, 45.0), differs(40.0, 48.0)
    (False, True)
    """
    return abs(after - before) > VOID * min(before, after)


def compare(commands, keys, pairs, threads, progress=lambda text: None):
    """Runs every command once a round, for `pairs` rounds.

    commands: {name: command}, ours first. keys: {name of the figure: (dotted key, "higher" or "lower")}.
    Returns the figures of all, and for every peer and key the median ratio ours/peer, its interval, and the
    ratios of all rounds.
    """
    names = list(commands)
    records = {name: [] for name in names}
    before = read_bandwidth(threads)
    for turn in range(pairs):
        for name in order(names, turn):
            progress(f"round {turn + 1} of {pairs}: {name}")
            records[name].append(run(commands[name]))
    after = read_bandwidth(threads)
    result = {
        "pairs": pairs, "threads": threads, "read_gbps_before": before, "read_gbps_after": after,
        "void": differs(before, after), "load_average": round(os.getloadavg()[0], 2), "figures": {}, "ratios": {},
    }
    for figure, (key, better) in keys.items():
        taken = {name: [pick(r, key) for r in records[name]] for name in names}
        result["figures"][figure] = {n: {"median": statistics.median(v), "all": v} for n, v in taken.items()}
        for peer in names[1:]:
            ratios = [ours / theirs for ours, theirs in zip(taken[names[0]], taken[peer])]
            result["ratios"].setdefault(figure, {})[peer] = {
                "median": statistics.median(ratios), "interval_95": interval(ratios), "better": better, "all": ratios}
    return result


def best_peer(result, figure):
    """The peer that ours must be held against: the one with the best median of a figure."""
    ratios = result["ratios"][figure]
    figures = result["figures"][figure]
    better = next(iter(ratios.values()))["better"]
    choose = max if better == "higher" else min
    return choose(ratios, key=lambda peer: figures[peer]["median"])


def line(result, figure):
    """One line for a person: the ratio against the best peer."""
    peer = best_peer(result, figure)
    ratio, figures = result["ratios"][figure][peer], result["figures"][figure]
    ours = next(iter(figures))
    interval_95 = ratio["interval_95"]
    within = f"[{interval_95[0]:.3f}, {interval_95[1]:.3f}]" if interval_95 else "[fewer than 6 pairs]"
    return (f"{figure}: {figures[ours]['median']:.4g} against {figures[peer]['median']:.4g} ({peer}): "
            f"ratio {ratio['median']:.3f} {within}, {ratio['better']} is better"
            + (", VOID: bandwidth moved" if result["void"] else ""))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("commands", nargs="+", metavar="NAME=COMMAND", help="ours first")
    a.add_argument("--key", action="append", required=True, metavar="KEY[:lower]",
                   help="a figure to compare; ':lower' where less is better; may be given again")
    a.add_argument("--pairs", type=int, default=11)
    a.add_argument("--threads", type=int, default=2, help="for the reading of the bandwidth")
    o = a.parse_args()
    if len(o.commands) < 2 or any("=" not in c for c in o.commands):
        a.error("give at least two NAME=COMMAND, ours first")
    commands = dict(c.split("=", 1) for c in o.commands)
    keys = {k.split(":")[0]: (k.split(":")[0], "lower" if k.endswith(":lower") else "higher") for k in o.key}
    result = compare(commands, keys, o.pairs, o.threads, lambda text: print(text, file=sys.stderr))
    for figure in keys:
        print(line(result, figure), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
