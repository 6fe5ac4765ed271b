//! Q4_K and Q5_K: 256 weights in eight blocks of 32: `d`, `dmin` f16, 12 bytes with a 6-bit scale and
//! a 6-bit minimum a block, (Q5_K: 32 bytes of fifth bits, bit `b` for block `b`,) 128 bytes of
//! nibbles, a low and a high one for two blocks. `w = d·scale·code - dmin·min`.

use super::{BlockFormat, End, Sink, Unpacked, byte, bytes, high_nibbles, low_nibbles, two_bytes};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q4K;
pub(in crate::linear) struct Q5K;

/// The scales of the eight parts, and the rest, from the 16 bytes at the head of a block of 256.
#[inline(always)]
unsafe fn head<L: Lanes>([dd, a, b, c]: [L::V; 4]) -> ([L::V; 8], End<L>) {
    // SAFETY: as the caller promises.
    unsafe {
        let (six, four, two) = (L::splat(bytes(63)), L::splat(bytes(15)), L::splat(bytes(0x30)));
        let scales = [L::and(a, six), L::or(L::and(c, four), L::and(L::shr::<2>(a), two))];
        let min_bytes = [L::and(b, six), L::or(L::and(L::shr::<4>(c), four), L::and(L::shr::<2>(b), two))];
        let mut scale = [six; 8];
        for (j, scale) in scale.iter_mut().enumerate() {
            *scale = byte::<L>(scales[j / 4], j % 4);
        }
        let mut end = End::plain(L::low_half(dd), L::high_half(dd));
        for (j, bytes) in min_bytes.into_iter().enumerate() {
            end.mins[2 * j] = two_bytes::<L>(bytes, 0);
            end.mins[2 * j + 1] = two_bytes::<L>(bytes, 2);
        }
        (scale, end)
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
            let (scale, end) = head::<L>(L::gather16(rows, at));
            for i in 0..4 {
                let q = L::gather32(rows, at + 16 + 32 * i);
                let (low, high) = (low_nibbles::<L, 8>(q), high_nibbles::<L, 8>(q));
                sink.part(2 * i, Unpacked { codes: low, scale: [scale[2 * i]; 2] });
                sink.part(2 * i + 1, Unpacked { codes: high, scale: [scale[2 * i + 1]; 2] });
            }
            sink.end(end);
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
            let (scale, end) = head::<L>(L::gather16(rows, at));
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
                sink.part(2 * i, Unpacked { codes: low, scale: [scale[2 * i]; 2] });
                sink.part(2 * i + 1, Unpacked { codes: high, scale: [scale[2 * i + 1]; 2] });
            }
            sink.end(end);
        }
    }
}
