//! Q1_0: 18 bytes for 128 weights: `d` f16, one bit a weight, -d or d.

use super::{BlockFormat, End, NONE, Sink, Unpacked};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q1_0;

impl BlockFormat for Q1_0 {
    const DTYPE: Dtype = Dtype::Q1_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    // Bits are spread to 0 and 16, so that a weight is eight steps of d/8.
    const ZERO: i32 = 8;
    const SCALES: u8 = NONE;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 4 * 18;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::mul(L::low_half(L::gather2(rows, at)), L::splat_f(0.125));
            for (i, mut bits) in L::gather16(rows, at + 2).into_iter().enumerate() {
                let mut codes = [bits; 8];
                for code in &mut codes {
                    *code = L::spread_to_bit_4(bits);
                    bits = L::shr::<4>(bits);
                }
                sink.part(i, Unpacked::plain(codes));
            }
            sink.end(End::plain(d, d));
        }
    }
}
