"""Writes the golden files of weights as the hub quantizes them, with torch and ml_dtypes as the oracles.

    python make_hub.py

hub/SCHEME.safetensors has the tensors of one weight, `w.weight` (codes are random, every code is there), and beside them
`expected`, its values in f32: codes and block scales decoded by ml_dtypes or torch, products in f32 in the order of
compressed-tensors, ModelOpt and transformers.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent / "hub"
RNG = np.random.default_rng(7)


def e4m3(shape, finite=True):
    codes = RNG.integers(0, 256, shape, dtype=np.uint8)
    codes.flat[:256] = np.arange(min(256, codes.size), dtype=np.uint8)
    if finite:
        codes[(codes & 0x7F) == 0x7F] = 0x7E
    return torch.from_numpy(codes).view(torch.float8_e4m3fn)


def scales(shape):
    return torch.from_numpy(np.exp2(RNG.uniform(-9, -3, shape)).astype(np.float32))


def e2m1(packed):
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    return torch.from_numpy(codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32))


def save(name, expected, **tensors):
    tensors = {key.replace("__", "."): value.contiguous() for key, value in tensors.items()}
    save_file({**tensors, "expected": expected.contiguous()}, HERE / f"{name}.safetensors")


def main():
    HERE.mkdir(exist_ok=True)
    # One scale for the tensor, and one a row.
    q, s = e4m3((16, 48)), scales((1,))
    save("fp8", q.float() * s, w__weight=q, w__weight_scale=s)
    q, s = e4m3((16, 48)), scales((16, 1))
    save("fp8-channel", q.float() * s, w__weight=q, w__weight_scale=s)
    # One scale for 128 x 128; the last blocks are cut short.
    q, s = e4m3((130, 140)), scales((2, 2))
    wide = s.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :140]
    save("fp8-block", q.float() * wide, w__weight=q, w__weight_scale_inv=s)
    # Blocks of 32 under powers of two; the exponents reach both ends of what f32 holds.
    packed = RNG.integers(0, 256, (6, 3, 16), dtype=np.uint8)
    exponents = RNG.integers(100, 140, (6, 3), dtype=np.uint8)
    exponents[0] = [0, 1, 250]
    values = e2m1(packed).double() * torch.from_numpy(np.exp2(exponents.astype(np.float64) - 127))[..., None]
    save(
        "mxfp4",
        values.float().reshape(6, 96),
        w__weight_blocks=torch.from_numpy(packed),
        w__weight_scales=torch.from_numpy(exponents),
    )
    # Blocks of 16 under E4M3 and the tensor's scale, by both conventions.
    for name in ["nvfp4", "nvfp4-modelopt"]:
        packed = RNG.integers(0, 256, (8, 40), dtype=np.uint8)
        block = torch.from_numpy(RNG.integers(0, 127, (8, 5), dtype=np.uint8)).view(torch.float8_e4m3fn)
        packed_tensor = torch.from_numpy(packed)
        if name == "nvfp4":
            scale = torch.tensor([1834.5], dtype=torch.float32)
            joined = block.float() / scale
            parts = dict(w__weight_packed=packed_tensor, w__weight_scale=block, w__weight_global_scale=scale)
        else:
            scale = torch.tensor(0.00054321, dtype=torch.float32)
            joined = block.float() * scale
            parts = dict(w__weight=packed_tensor, w__weight_scale=block, w__weight_scale_2=scale)
        save(name, e2m1(packed) * joined.repeat_interleave(16, 1), **parts)
    # Four strips of rows a byte.
    ternary = torch.from_numpy(RNG.integers(-1, 2, (12, 20)).astype(np.int8))
    strips = (ternary + 1).to(torch.uint8).reshape(4, 3, 20)
    packed = sum(strips[i] << (2 * i) for i in range(4)).to(torch.uint8)
    scale = torch.tensor([1.71875], dtype=torch.bfloat16)
    save("bitnet-multiplies", ternary.float() * scale.float(), w__weight=packed, w__weight_scale=scale)
    save("bitnet-divides", ternary.float() / scale.float(), w__weight=packed, w__weight_scale=scale)


if __name__ == "__main__":
    main()
