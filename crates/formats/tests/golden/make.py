"""Writes the golden files of the block formats, with ggml's own library as the oracle.

    python make.py --ggml PATH/libggml-base.so [--groups 16]

Needs numpy and gguf (the Python package, a second oracle for decoding). The library must be compiled without fused
multiply-add, as the distributed libggml-base is: the script refuses one that does not give the vectors published for such
a build.

encode.tsv   format, distribution, index of the group, FNV-1a-64 of the encoded bytes of the group
decode.tsv   format, index of the group, FNV-1a-64 of the decoded f32 bytes of the group

A group is 16384 values. Inputs are not stored: both sides compute them from SplitMix64 (see `values` and `block_bytes`,
and the same functions in tests/golden.rs), using only operations that are exact or correctly rounded.
"""

import argparse
import ctypes
from pathlib import Path

import gguf
import numpy as np

GROUP = 16384
# name: (ggml id, values a block, bytes a block, byte offsets of halves)
FORMATS = {
    "Q4_0": (2, 32, 18, [0]),
    "Q4_1": (3, 32, 20, [0, 2]),
    "Q5_0": (6, 32, 22, [0]),
    "Q5_1": (7, 32, 24, [0, 2]),
    "Q8_0": (8, 32, 34, [0]),
    "Q2_K": (10, 256, 84, [80, 82]),
    "Q3_K": (11, 256, 110, [108]),
    "Q4_K": (12, 256, 144, [0, 2]),
    "Q5_K": (13, 256, 176, [0, 2]),
    "Q6_K": (14, 256, 210, [208]),
    "IQ4_NL": (20, 32, 18, [0]),
    "IQ4_XS": (23, 256, 136, [0]),
    "TQ1_0": (34, 256, 54, [52]),
    "TQ2_0": (35, 256, 66, [64]),
    "MXFP4": (39, 32, 17, []),
    "NVFP4": (40, 64, 36, []),
    "Q1_0": (41, 128, 18, [0]),
    "Q2_0": (42, 64, 18, [0]),
}
DISTRIBUTIONS = ["uniform", "normal", "outliers", "positive", "sparse", "tiny", "huge", "wide", "steps"]
# NVFP4 clips beyond 448 times 6 where memwall refuses.
UNLIKE = {("NVFP4", "huge")}
# Decoded by ggml only: the Python package lacks these.
ONE_ORACLE = {"Q1_0", "Q2_0"}


def splitmix(seed, start, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (np.arange(start, start + n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(seed, start, n):
    """In [-1, 1), multiples of 2^-23."""
    return ((splitmix(seed, start, n) >> np.uint64(40)).astype(np.float32) / np.float32(8388608) - np.float32(1)).astype(np.float32)


def values(kind, group):
    start = group * GROUP
    u = [uniform(seed, start, GROUP) for seed in range(4)]
    normal = ((u[0] + u[1]) + (u[2] + u[3])).astype(np.float32)
    pick = splitmix(9, start, GROUP)
    if kind == "uniform":
        return u[0]
    if kind == "normal":
        return normal * np.float32(0.02)
    if kind == "outliers":
        return np.where(pick % np.uint64(64) == 0, normal * np.float32(20), normal * np.float32(0.5)).astype(np.float32)
    if kind == "positive":
        return np.abs(normal) + np.float32(0.25)
    if kind == "sparse":
        return np.where(pick % np.uint64(8) == 0, normal, np.where(pick % np.uint64(16) == 1, np.float32(-0.0), np.float32(0))).astype(np.float32)
    if kind == "tiny":
        return normal * np.float32(2.0**-20)
    if kind == "huge":
        return normal * np.float32(8192)
    if kind == "wide":  # forty binades in one block
        return np.ldexp(u[0], ((pick >> np.uint64(8)) % np.uint64(40)).astype(np.int32) - 30).astype(np.float32)
    if kind == "steps":  # few distinct values: ties, constant blocks and sub-blocks
        run = np.uint64(5) + np.arange(start, start + GROUP, dtype=np.uint64) // np.uint64(160) % np.uint64(3)
        level = (splitmix(7, 0, 1 << 22)[np.arange(start, start + GROUP) // 32 % (1 << 22)] >> np.uint64(60)) % np.uint64(4)
        jump = (pick >> np.uint64(13)) % run
        return (np.where(level == 0, np.float32(1), jump.astype(np.float32) - np.float32(2)) * np.float32(0.125)).astype(np.float32)
    raise ValueError(kind)


def block_bytes(fmt, group):
    _, length, size, halves = FORMATS[fmt]
    blocks = GROUP // length
    n = (blocks * size + 7) // 8
    raw = splitmix(1000 + FORMATS[fmt][0], group * n, n).astype("<u8").view(np.uint8)[: blocks * size].reshape(blocks, size).copy()
    for h in halves:
        raw[:, h + 1] &= 0xBF  # clears the top exponent bit: magnitude below 2, never infinite
    return raw


def fnv(data):
    h = 14695981039346656037
    for b in data:
        h = ((h ^ b) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return h


class Ggml:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t

    def encode(self, fmt, x):
        kind, length, size, _ = FORMATS[fmt]
        x = np.ascontiguousarray(x, np.float32)
        out = np.zeros(x.size // length * size, np.uint8)
        i64 = ctypes.c_int64
        n = self.lib.ggml_quantize_chunk(
            kind, x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), i64(0), i64(1), i64(x.size), None
        )
        assert n == out.size
        return out

    def decode(self, fmt, raw):
        out = np.zeros(raw.shape[0] * FORMATS[fmt][1], np.float32)
        name = "dequantize_row_" + fmt.lower().replace("_k", "_K")
        raw = np.ascontiguousarray(raw)
        getattr(self.lib, name)(raw.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
        return out


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--ggml", required=True)
    args.add_argument("--groups", type=int, default=16)
    args = args.parse_args()
    ggml = Ggml(args.ggml)
    here = Path(__file__).parent

    i = np.arange(256, dtype=np.uint64)
    ramp = ((i * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(8)).astype(np.float32) / np.float32(8388608) - np.float32(1)
    q4_k = ggml.encode("Q4_K", ramp).tobytes().hex()
    assert q4_k.startswith("33181724fffffefcfcfdfefcadfebdffc06903ad47d17b15"), "this library contracts multiply-adds"

    lines = []
    for fmt in FORMATS:
        lines.append(f"{fmt}\tramp\t0\t{ggml.encode(fmt, ramp).tobytes().hex()}")
        for kind in (k for k in DISTRIBUTIONS if (fmt, k) not in UNLIKE):
            for g in range(args.groups):
                lines.append(f"{fmt}\t{kind}\t{g}\t{fnv(ggml.encode(fmt, values(kind, g)).tobytes()):016x}")
    (here / "encode.tsv").write_text("\n".join(lines) + "\n")

    lines, second = [], 0
    for fmt, (kind, *_) in FORMATS.items():
        for g in range(args.groups):
            raw = block_bytes(fmt, g)
            ours = ggml.decode(fmt, raw)
            if fmt not in ONE_ORACLE:
                with np.errstate(all="ignore"):
                    other = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind)).reshape(-1)
                assert np.array_equal(ours, other), f"the two oracles differ on {fmt}"
                second += other.size
            lines.append(f"{fmt}\t{g}\t{fnv(ours.tobytes()):016x}")
    (here / "decode.tsv").write_text("\n".join(lines) + "\n")
    print(f"{second} decoded values equal in both oracles")


if __name__ == "__main__":
    main()
