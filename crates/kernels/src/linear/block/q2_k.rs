//! Q2_K: 84 bytes for 256 weights in 16 blocks of 16: 16 bytes with a 4-bit scale (low) and a 4-bit
//! minimum (high), 64 bytes of bit pairs, `d`, `dmin` f16. `w = d·scale·code - dmin·min`.

use super::{BlockFormat, End, Sink, Unpacked, byte, bytes};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q2K;

impl BlockFormat for Q2K {
    const DTYPE: Dtype = Dtype::Q2_K;
    const SUB: usize = 2;
    const MIN: bool = true;
    const ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 84;
        // SAFETY: as the caller promises.
        unsafe {
            let dd = L::gather4(rows, at + 80);
            let d = L::low_half(dd);
            let dmin = L::high_half(dd);
            let s = L::gather16(rows, at);
            let four = L::splat(15);
            let (mut scale, mut mins) = ([four; 16], [four; 8]);
            for j in 0..16 {
                let both = byte::<L>(s[j / 4], j % 4);
                scale[j] = L::and(both, four);
                let min = L::shr::<4>(both);
                mins[j / 2] = if j % 2 == 0 { min } else { L::or(mins[j / 2], L::shl::<16>(min)) };
            }
            let pair = L::splat(bytes(3));
            for half in 0..2 {
                let mut q = L::gather32(rows, at + 16 + 32 * half);
                for i in 0..4 {
                    let mut codes = q;
                    for (code, q) in codes.iter_mut().zip(&mut q) {
                        *code = L::and(*q, pair);
                        *q = L::shr::<2>(*q);
                    }
                    let j = 4 * half + i;
                    sink.part(j, Unpacked { codes, scale: [scale[2 * j], scale[2 * j + 1]] });
                }
            }
            sink.end(End { d, minus_min: dmin, mins });
        }
    }
}
