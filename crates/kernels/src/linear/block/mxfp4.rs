//! MXFP4: 17 bytes for 32 weights: `e`, a power of two, 16 bytes of nibbles that name a level of E2M1.

use super::{BlockFormat, End, Sink, Unpacked, half_split};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Mxfp4;

/// Twice the values of E2M1, 16 added.
pub(super) const LEVELS: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

impl BlockFormat for Mxfp4 {
    const DTYPE: Dtype = Dtype::MXFP4;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 16;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 17;
        // SAFETY: as the caller promises.
        unsafe {
            let e = L::and(L::gather2(rows, at), L::splat(255));
            // 2^(e - 128); the two smallest are subnormal.
            let small = L::sar::<31>(L::sub(e, L::splat(2)));
            let subnormal = L::and(small, L::shl::<21>(L::add(e, L::splat(1))));
            let normal = L::and(L::xor(small, L::splat(-1)), L::shl::<23>(L::sub(e, L::splat(1))));
            let d = L::as_f(L::or(subnormal, normal));
            let mut codes = half_split::<L>(L::gather16(rows, at + 1));
            for v in &mut codes {
                *v = L::lookup(&LEVELS, *v);
            }
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(d, d));
        }
    }
}
