//! Q3_K: 110 bytes for 256 weights in 16 blocks of 16: 32 bytes of third bits (bit `b` for the 32
//! weights `b`), 64 bytes of bit pairs, 12 bytes of 6-bit scales with zero at 32, `d` f16; codes' zero at 4.

use super::{BlockFormat, End, Sink, Unpacked, byte, bytes};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q3K;

impl BlockFormat for Q3K {
    const DTYPE: Dtype = Dtype::Q3_K;
    const SUB: usize = 2;
    const MIN: bool = false;
    const ZERO: i32 = 4;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 110;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at + 108));
            let (a, b, c) = (L::gather4(rows, at + 96), L::gather4(rows, at + 100), L::gather4(rows, at + 104));
            let (four, two) = (L::splat(bytes(15)), L::splat(bytes(0x30)));
            let s = [
                L::or(L::and(a, four), L::and(L::shl::<4>(c), two)),
                L::or(L::and(b, four), L::and(L::shl::<2>(c), two)),
                L::or(L::and(L::shr::<4>(a), four), L::and(c, two)),
                L::or(L::and(L::shr::<4>(b), four), L::and(L::shr::<2>(c), two)),
            ];
            let mut scale = [two; 16];
            for (j, scale) in scale.iter_mut().enumerate() {
                *scale = L::sub(byte::<L>(s[j / 4], j % 4), L::splat(32));
            }
            let mut third = L::gather32(rows, at);
            let (pair, one) = (L::splat(bytes(3)), L::splat(bytes(1)));
            for half in 0..2 {
                let mut q = L::gather32(rows, at + 32 + 32 * half);
                for i in 0..4 {
                    let mut codes = q;
                    for g in 0..8 {
                        codes[g] = L::or(L::and(q[g], pair), L::shl::<2>(L::and(third[g], one)));
                        q[g] = L::shr::<2>(q[g]);
                        third[g] = L::shr::<1>(third[g]);
                    }
                    let j = 4 * half + i;
                    sink.part(j, Unpacked { scale: [scale[2 * j], scale[2 * j + 1]], ..Unpacked::plain(codes) });
                }
            }
            sink.end(End::plain(d, d));
        }
    }
}
