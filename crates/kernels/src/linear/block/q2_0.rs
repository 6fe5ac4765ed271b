//! Q2_0: 18 bytes for 64 weights: `d` f16, 16 bytes of bit pairs, four weights that follow each other a byte; zero at 1.

use super::{BlockFormat, End, NONE, Sink, Unpacked, byte, bytes};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q2_0;

impl BlockFormat for Q2_0 {
    const DTYPE: Dtype = Dtype::Q2_0;
    const SUB: usize = 1;
    const MIN: bool = false;
    const ZERO: i32 = 1;
    const SCALES: u8 = NONE;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 2 * 18;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at));
            let q = L::gather16(rows, at + 2);
            for i in 0..2 {
                let mut codes = [q[0]; 8];
                for (g, code) in codes.iter_mut().enumerate() {
                    let pairs = byte::<L>(q[2 * i + g / 4], g % 4);
                    let spread = L::or(pairs, L::shl::<6>(pairs));
                    let spread = L::or(spread, L::shl::<12>(spread));
                    *code = L::and(spread, L::splat(bytes(3)));
                }
                sink.part(i, Unpacked::plain(codes));
            }
            sink.end(End::plain(d, d));
        }
    }
}
