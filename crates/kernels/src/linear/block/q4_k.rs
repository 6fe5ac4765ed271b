//! Q4_K and Q5_K: 256 weights in eight blocks of 32: `d`, `dmin` f16, 12 bytes with a 6-bit scale and
//! a 6-bit minimum a block, (Q5_K: 32 bytes of fifth bits, bit `b` for block `b`,) 128 bytes of
//! nibbles, a low and a high one for two blocks. `w = d·scale·code - dmin·min`.

use super::{BlockFormat, Sink, Unpacked, byte, bytes, high_nibbles, low_nibbles};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q4K;
pub(in crate::linear) struct Q5K;

/// `d·scale` and `dmin·min` of the eight blocks, from the 16 bytes at the head of a block of 256.
#[inline(always)]
unsafe fn scales<L: Lanes>(head: [L::V; 4]) -> ([L::F; 8], [L::F; 8]) {
    let [dd, a, b, c] = head;
    // SAFETY: as the caller promises.
    unsafe {
        let (six, four, two) = (L::splat(bytes(63)), L::splat(bytes(15)), L::splat(bytes(0x30)));
        let scale = [L::and(a, six), L::or(L::and(c, four), L::and(L::shr::<2>(a), two))];
        let min = [L::and(b, six), L::or(L::and(L::shr::<4>(c), four), L::and(L::shr::<2>(b), two))];
        let d = L::low_half(dd);
        let dmin = L::high_half(dd);
        let mut out = ([d; 8], [d; 8]);
        for j in 0..8 {
            out.0[j] = L::mul(L::to_f(byte::<L>(scale[j / 4], j % 4)), d);
            out.1[j] = L::mul(L::to_f(byte::<L>(min[j / 4], j % 4)), dmin);
        }
        out
    }
}

impl BlockFormat for Q4K {
    const DTYPE: Dtype = Dtype::Q4_K;
    const SUB: usize = 1;
    const MIN: bool = true;
    const ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 144;
        // SAFETY: as the caller promises.
        unsafe {
            let (scale, min) = scales::<L>(L::gather16(rows, at));
            for i in 0..4 {
                let q = L::gather32(rows, at + 16 + 32 * i);
                let (low, high) = (low_nibbles::<L, 8>(q), high_nibbles::<L, 8>(q));
                sink.block(2 * i, Unpacked { codes: low, scale: [scale[2 * i]; 2], minus_min: [min[2 * i]; 2] });
                sink.block(
                    2 * i + 1,
                    Unpacked { codes: high, scale: [scale[2 * i + 1]; 2], minus_min: [min[2 * i + 1]; 2] },
                );
            }
        }
    }
}

impl BlockFormat for Q5K {
    const DTYPE: Dtype = Dtype::Q5_K;
    const SUB: usize = 1;
    const MIN: bool = true;
    const ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 176;
        // SAFETY: as the caller promises.
        unsafe {
            let (scale, min) = scales::<L>(L::gather16(rows, at));
            let mut fifth = L::gather32(rows, at + 16);
            let (mask, bit_0, bit_1) = (L::splat(bytes(15)), L::splat(bytes(1)), L::splat(bytes(2)));
            for i in 0..4 {
                let q = L::gather32(rows, at + 48 + 32 * i);
                let (mut low, mut high) = (q, q);
                for g in 0..8 {
                    low[g] = L::or(L::and(q[g], mask), L::shl::<4>(L::and(fifth[g], bit_0)));
                    high[g] = L::or(L::and(L::shr::<4>(q[g]), mask), L::shl::<3>(L::and(fifth[g], bit_1)));
                    fifth[g] = L::shr::<2>(fifth[g]);
                }
                sink.block(2 * i, Unpacked { codes: low, scale: [scale[2 * i]; 2], minus_min: [min[2 * i]; 2] });
                sink.block(
                    2 * i + 1,
                    Unpacked { codes: high, scale: [scale[2 * i + 1]; 2], minus_min: [min[2 * i + 1]; 2] },
                );
            }
        }
    }
}
