"""Writes elements.tsv: what ml_dtypes decodes every code of its small floats to, and what it encodes floats to.

    python make_elements.py

Needs numpy and ml_dtypes. Columns: name; the values of all codes as hexadecimal f32 bits; the codes of `edges` in hexadecimal, two
digits each; FNV-1a-64 of the codes of `patterns`; for E8M0 without subnormal floats. tests/elements.rs computes the same inputs.
"""

from pathlib import Path

import ml_dtypes
import numpy as np

# name in memwall: (name in ml_dtypes, bits)
FORMATS = {
    "E5M2": ("float8_e5m2", 8),
    "E4M3": ("float8_e4m3fn", 8),
    "E4M3_IEEE": ("float8_e4m3", 8),
    "E3M4": ("float8_e3m4", 8),
    "E4M3_FNUZ": ("float8_e4m3fnuz", 8),
    "E5M2_FNUZ": ("float8_e5m2fnuz", 8),
    "E3M2": ("float6_e3m2fn", 6),
    "E2M3": ("float6_e2m3fn", 6),
    "E2M1": ("float4_e2m1fn", 4),
    "E8M0": ("float8_e8m0fnu", 8),
}


def edges(values):
    """Around every value and every middle between neighbours; beyond the largest; special floats."""
    # Adding 0 makes -0 the other zero.
    values = np.unique(values[np.isfinite(values)].astype(np.float64) + 0.0)
    points = []
    up = lambda v: np.nextafter(np.float32(v), np.float32(np.inf))
    down = lambda v: np.nextafter(np.float32(v), np.float32(-np.inf))
    for a, b in zip(values[:-1], values[1:]):
        middle = np.float32((a + b) / 2)
        points += [np.float32(a), up(a), down(middle), middle, up(middle), down(b)]
    top, below = values[-1], values[-2]
    beyond = np.float32(top + (top - below) / 2)
    with np.errstate(over="ignore"):
        ends = [np.float32(top), up(top), down(beyond), beyond, up(beyond), np.float32(2 * top)]
    points += ends + [-v for v in ends]
    special = [0, 0x80000000, 1, 0x80000001, 0x7FFFFF, 0x807FFFFF, 0x800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000]
    return np.concatenate([np.array(points, np.float32), np.array(special, np.uint32).view(np.float32)])


def patterns():
    """Every upper half of an f32, with four lower halves: all codes, middles and their neighbours of every format are among them."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    return np.stack([high | low for low in (0, 1, 0x8000, 0xFFFF)], axis=1).reshape(-1).view(np.float32)


def fnv(data):
    h = 14695981039346656037
    for b in data:
        h = ((h ^ b) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return h


def main():
    lines = []
    for name, (theirs, bits) in FORMATS.items():
        dtype = np.dtype(getattr(ml_dtypes, theirs))
        values = np.arange(1 << bits, dtype=np.uint8).view(dtype).astype(np.float32)
        # A NaN has no bits of its own.
        table = "".join("7fc00000" if np.isnan(v) else f"{v.view(np.uint32):08x}" for v in values)
        with np.errstate(all="ignore"):
            # ml_dtypes rounds subnormal floats just above 2^-127 up to 2^-126: not the nearest.
            kept = lambda x: x[(x == 0) | ~(np.abs(x) < 2.0**-126)] if name == "E8M0" else x
            encode = lambda x: kept(x).astype(dtype).view(np.uint8).tobytes()
            lines.append("\t".join([name, table, encode(edges(values)).hex(), f"{fnv(encode(patterns())):016x}"]))
    (Path(__file__).parent / "elements.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
