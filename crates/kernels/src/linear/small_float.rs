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

/// The four bits of each half from bits 0, 4, 8 and 12 on, moved to bits 0 to 3; the other bits are anything.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn nibbles<L: Lanes>(v: L::V) -> [L::V; 4] {
    // SAFETY: as the caller promises.
    unsafe { [v, L::shr::<4>(v), L::shr::<8>(v), L::shr::<12>(v)] }
}

/// The two bits of each half from bits 0, 2, 4 and 6 on, moved to bits 4 and 5; the other bits are anything.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn crumbs<L: Lanes>(v: L::V) -> [L::V; 4] {
    // SAFETY: as the caller promises.
    unsafe { [L::shl::<4>(v), L::shl::<2>(v), v, L::shr::<2>(v)] }
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
            let next = |v| L::shr::<8>(v);
            // Four pairs of the first part and four of the second, in words of both planes. (A list, and not indices, so that
            // the compiler unrolls it.)
            let pairs = [
                [(low[0], high[0]), (low[4], high[2])],
                [(low[1], next(high[0])), (low[5], next(high[2]))],
                [(low[2], high[1]), (low[6], high[3])],
                [(low[3], next(high[1])), (low[7], next(high[3]))],
            ];
            for (four, parts) in pairs.into_iter().enumerate() {
                let [ours, theirs] = parts.map(|(low, high)| (nibbles::<L>(low), crumbs::<L>(high)));
                for i in 0..4 {
                    for (part, (low, high)) in [ours, theirs].iter().enumerate() {
                        let word = L::lookup_halves(&BF16, L::select::<0x000f_000f>(low[i], high[i]));
                        sink.word(first + part * PART + four * 4 + i, part, word);
                    }
                }
            }
            for part in 0..2 {
                sink.scale(first + (part + 1) * PART, part, d);
            }
        }
    }
}
