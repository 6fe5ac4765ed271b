//! TQ2_0: 66 bytes for 256 weights: 64 bytes of bit pairs, `d` f16; zero at 1.

use super::{BlockFormat, End, NONE, Sink, Unpacked, bytes};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Tq2_0;

impl BlockFormat for Tq2_0 {
    const DTYPE: Dtype = Dtype::TQ2_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 1;
    const SCALES: u8 = NONE;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 66;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at + 64));
            for half in 0..2 {
                let mut q = L::gather32(rows, at + 32 * half);
                for i in 0..4 {
                    let mut codes = q;
                    for (code, q) in codes.iter_mut().zip(&mut q) {
                        *code = L::and(*q, L::splat(bytes(3)));
                        *q = L::shr::<2>(*q);
                    }
                    sink.part(4 * half + i, Unpacked::plain(codes));
                }
            }
            sink.end(End::plain(d, d));
        }
    }
}
