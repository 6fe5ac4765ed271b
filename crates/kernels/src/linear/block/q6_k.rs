//! Q6_K: 210 bytes for 256 weights in 16 blocks of 16: 128 bytes of low nibbles, 64 bytes of high bit
//! pairs, 16 signed 8-bit scales, `d` f16; zero at 32.

use super::{BlockFormat, End, Sink, Unpacked, bytes, high_nibbles, low_nibbles, signed_byte};
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
            let mut scale = [s[0]; 16];
            for (j, scale) in scale.iter_mut().enumerate() {
                *scale = signed_byte::<L>(s[j / 4], j % 4);
            }
            for half in 0..2 {
                let a = L::gather32(rows, at + 64 * half);
                let b = L::gather32(rows, at + 64 * half + 32);
                let h = L::gather32(rows, at + 128 + 32 * half);
                let nibbles =
                    [low_nibbles::<L, 8>(a), low_nibbles::<L, 8>(b), high_nibbles::<L, 8>(a), high_nibbles::<L, 8>(b)];
                for (i, mut codes) in nibbles.into_iter().enumerate() {
                    for g in 0..8 {
                        let high = match i {
                            0 => L::shl::<4>(h[g]),
                            1 => L::shl::<2>(h[g]),
                            2 => h[g],
                            _ => L::shr::<2>(h[g]),
                        };
                        codes[g] = L::or(codes[g], L::and(high, L::splat(bytes(0x30))));
                    }
                    let j = 4 * half + i;
                    sink.part(j, Unpacked { scale: [scale[2 * j], scale[2 * j + 1]], ..Unpacked::plain(codes) });
                }
            }
            sink.end(End::plain(d, d));
        }
    }
}
