//! Q8_0: 34 bytes for 32 weights: `d` f16, 32 signed codes. Stored here as code + 128.

use super::{BlockFormat, End, Sink, Unpacked, bytes};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q8_0;

impl BlockFormat for Q8_0 {
    const DTYPE: Dtype = Dtype::Q8_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 128;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first * 34;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at));
            let mut codes = L::gather32(rows, at + 2);
            for v in &mut codes {
                *v = L::xor(*v, L::splat(bytes(0x80)));
            }
            sink.part(0, Unpacked::plain(codes));
            sink.end(End::plain(d, d));
        }
    }
}
