//! Blocks of small floats: codes looked up as bf16, which holds each of their values exactly.

use super::float::{FloatFormat, Sink};
use super::lanes::{HalfTable, Lanes, Rows};
use memwall_formats::Dtype;
use memwall_formats::block::E3M2_VALUES;

/// Words (pairs of weights) that share a chain: 32 weights.
pub(super) const PART: usize = 16;

/// FP6: 50 bytes for 64 weights: `d` f16, 16 bytes of upper two bits, 32 bytes of lower four.
pub(super) struct Fp6;

/// Upper halves of the f32 of each code.
static BF16: HalfTable = {
    let mut halves = [0; 64];
    let mut code = 0;
    while code < 64 {
        halves[code] = (E3M2_VALUES[code].to_bits() >> 16) as u16;
        code += 1;
    }
    HalfTable::new(halves)
};

/// Bits 4 and 5 of each half: the two bits that lie at bit `at`. The other bits are anything.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn upper<L: Lanes>(v: L::V, at: usize) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        match at {
            0 => L::shl::<4>(v),
            2 => L::shl::<2>(v),
            4 => v,
            6 => L::shr::<2>(v),
            8 => L::shr::<4>(v),
            10 => L::shr::<6>(v),
            12 => L::shr::<8>(v),
            _ => L::shr::<10>(v),
        }
    }
}

/// Bits 0 to 3 of each half: the four bits that lie at bit `at`. The other bits are anything.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn lower<L: Lanes>(v: L::V, at: usize) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        match at {
            0 => v,
            4 => L::shr::<4>(v),
            8 => L::shr::<8>(v),
            _ => L::shr::<12>(v),
        }
    }
}

impl FloatFormat for Fp6 {
    const PAIRS: bool = true;
    const WORDS: usize = 32;
    const BYTES: usize = Dtype::FP6.block_bytes();
    const PART: usize = PART;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at));
            let (high, low) = (L::gather16(rows, at + 2), L::gather32(rows, at + 18));
            for part in 0..2 {
                for i in 0..PART {
                    let pair = part * PART + i;
                    let (low, high) =
                        (lower::<L>(low[pair / 4], pair % 4 * 4), upper::<L>(high[pair / 8], pair % 8 * 2));
                    sink.word(first + pair, L::lookup_halves(&BF16, L::select::<0x000f_000f>(low, high)));
                }
                sink.scale(first + (part + 1) * PART, d);
            }
        }
    }
}
