//! Q5_0: 22 bytes for 32 weights: `d` f16, fifth bits (bit `i` of 32 for weight `i`), nibbles; zero at 16.
//! Q5_1: 24 bytes: `d`, `m` f16, fifth bits, nibbles.

use super::{BlockFormat, End, Sink, Unpacked, half_split};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q5_0;
pub(in crate::linear) struct Q5_1;

/// Nibbles with their fifth bits.
#[inline(always)]
unsafe fn five_bits<L: Lanes>(nibbles: [L::V; 4], fifth: L::V) -> [L::V; 8] {
    // SAFETY: as the caller promises.
    unsafe {
        let (mut codes, mut bits) = (half_split::<L>(nibbles), fifth);
        for v in &mut codes {
            *v = L::or(*v, L::spread_to_bit_4(bits));
            bits = L::shr::<4>(bits);
        }
        codes
    }
}

impl BlockFormat for Q5_0 {
    const DTYPE: Dtype = Dtype::Q5_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 16;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 22;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at));
            let codes = five_bits::<L>(L::gather16(rows, at + 6), L::gather4(rows, at + 2));
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(d, d));
        }
    }
}

impl BlockFormat for Q5_1 {
    const DTYPE: Dtype = Dtype::Q5_1;
    const SUB: usize = 1;
    const MIN: bool = true;
    const ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 24;
        // SAFETY: as the caller promises.
        unsafe {
            let dm = L::gather4(rows, at);
            let codes = five_bits::<L>(L::gather16(rows, at + 8), L::gather4(rows, at + 4));
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(L::low_half(dm), L::mul(L::high_half(dm), L::splat_f(-1.0))));
        }
    }
}
