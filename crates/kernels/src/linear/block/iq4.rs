//! IQ4_NL: 18 bytes for 32 weights: `d` f16, nibbles that name one of 16 levels. IQ4_XS: 136 bytes
//! for 256: `d` f16, 16 bits and 4 bytes that make eight 6-bit scales with zero at 32, nibbles.

use super::{BlockFormat, End, Sink, Unpacked, half_split};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Iq4Nl;
pub(in crate::linear) struct Iq4Xs;

/// The levels, 128 added.
const LEVELS: [u8; 16] = {
    let signed = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut levels = [0; 16];
    let mut i = 0;
    while i < 16 {
        levels[i] = (signed[i] + 128) as u8;
        i += 1;
    }
    levels
};

/// The levels that 16 bytes of nibbles a row name.
#[inline(always)]
unsafe fn levels<L: Lanes>(q: [L::V; 4]) -> [L::V; 8] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut codes = half_split::<L>(q);
        for v in &mut codes {
            *v = L::lookup(&LEVELS, *v);
        }
        codes
    }
}

impl BlockFormat for Iq4Nl {
    const DTYPE: Dtype = Dtype::IQ4_NL;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 128;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 18;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at));
            let codes = levels::<L>(L::gather16(rows, at + 2));
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(d, d));
        }
    }
}

impl BlockFormat for Iq4Xs {
    const DTYPE: Dtype = Dtype::IQ4_XS;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 128;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 136;
        // SAFETY: as the caller promises.
        unsafe {
            let head = L::gather4(rows, at);
            let d = L::low_half(head);
            let (mut high, mut low) = (L::shr::<16>(head), L::gather4(rows, at + 4));
            for i in 0..8 {
                let six = L::or(L::and(low, L::splat(15)), L::shl::<4>(L::and(high, L::splat(3))));
                let scale = L::sub(six, L::splat(32));
                let codes = levels::<L>(L::gather16(rows, at + 8 + 16 * i));
                sink.part(i, Unpacked { scale: [scale; 2], ..Unpacked::plain(codes) });
                (high, low) = (L::shr::<2>(high), L::shr::<4>(low));
            }
            sink.end(End::plain(d, d));
        }
    }
}
