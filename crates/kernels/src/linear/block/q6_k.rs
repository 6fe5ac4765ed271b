//! Q6_K: 210 bytes for 256 weights in 16 blocks of 16: 128 bytes of low nibbles, 64 bytes of high bit
//! pairs, 16 signed 8-bit scales, `d` f16; zero at 32.

use super::{BlockFormat, Sink, Unpacked, bytes, signed_byte};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Q6K;

impl BlockFormat for Q6K {
    const DTYPE: Dtype = Dtype::Q6_K;
    const SUB: usize = 2;
    const MIN: bool = false;
    const ZERO: i32 = 32;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 8 * 210;
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::low_half(L::gather2(rows, at + 208));
            let s = L::gather16(rows, at + 192);
            let mut scale = [d; 16];
            for (j, scale) in scale.iter_mut().enumerate() {
                *scale = L::mul(L::to_f(signed_byte::<L>(s[j / 4], j % 4)), d);
            }
            let (mask, pair) = (L::splat(bytes(15)), L::splat(bytes(0x30)));
            for half in 0..2 {
                let a = L::gather32(rows, at + 64 * half);
                let b = L::gather32(rows, at + 64 * half + 32);
                let h = L::gather32(rows, at + 128 + 32 * half);
                let mut codes = [a; 4];
                for g in 0..8 {
                    codes[0][g] = L::or(L::and(a[g], mask), L::and(L::shl::<4>(h[g]), pair));
                    codes[1][g] = L::or(L::and(b[g], mask), L::and(L::shl::<2>(h[g]), pair));
                    codes[2][g] = L::or(L::and(L::shr::<4>(a[g]), mask), L::and(h[g], pair));
                    codes[3][g] = L::or(L::and(L::shr::<4>(b[g]), mask), L::and(L::shr::<2>(h[g]), pair));
                }
                for (i, codes) in codes.into_iter().enumerate() {
                    let j = 4 * half + i;
                    sink.block(j, Unpacked { codes, scale: [scale[2 * j], scale[2 * j + 1]], minus_min: [d; 2] });
                }
            }
        }
    }
}
