//! Q4_0: 18 bytes for 32 weights: `d` f16, 16 bytes of nibbles, zero at 8. Q4_1: 20 bytes: `d`, `m` f16, nibbles.

use super::{BlockFormat, End, Sink, Unpacked, half_split};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q4_0;
pub(in crate::linear) struct Q4_1;

impl BlockFormat for Q4_0 {
    const DTYPE: Dtype = Dtype::Q4_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 8;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 18;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at));
            let codes = half_split::<L>(L::gather16(rows, at + 2));
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(d, d));
        }
    }
}

impl BlockFormat for Q4_1 {
    const DTYPE: Dtype = Dtype::Q4_1;
    const SUB: usize = 1;
    const MIN: bool = true;
    const ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 20;
        // SAFETY: as the caller promises.
        unsafe {
            let dm = L::gather4(rows, at);
            let codes = half_split::<L>(L::gather16(rows, at + 4));
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(L::low_half(dm), L::mul(L::high_half(dm), L::splat_f(-1.0))));
        }
    }
}
