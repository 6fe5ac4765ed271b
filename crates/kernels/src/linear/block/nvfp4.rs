//! NVFP4: 36 bytes for 64 weights in four blocks of 16: 4 scales in E4M3, 32 bytes of nibbles that name a level of E2M1,
//! 8 bytes a block, low nibbles first.

use super::mxfp4::LEVELS;
use super::{BlockFormat, End, FLOAT, Sink, Unpacked, byte, high_nibbles, low_nibbles};
use crate::linear::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

pub(in crate::linear) struct Nvfp4;

/// The bits of half the scale, whose sign does not count; code 127, a NaN of E4M3, means 0.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(in crate::linear) unsafe fn half_scale<L: Lanes>(code: L::V) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        let magnitude = L::and(code, L::splat(127));
        let subnormal = L::sar::<31>(L::sub(magnitude, L::splat(8)));
        // A subnormal is read as a number of the next exponent, from which its implicit one is taken.
        let bias = L::add(L::splat(119 << 23), L::and(subnormal, L::splat(1 << 23)));
        let bits = L::add(L::shl::<20>(magnitude), bias);
        let minus_one = L::and(subnormal, L::splat((-1.0f32 / 128.0).to_bits() as i32));
        let value = L::as_v(L::fma(L::as_f(bits), L::splat_f(1.0), L::as_f(minus_one)));
        let is_number = L::sar::<31>(L::sub(L::splat(0), L::xor(code, L::splat(127))));
        L::and(value, is_number)
    }
}

impl BlockFormat for Nvfp4 {
    const DTYPE: Dtype = Dtype::NVFP4;
    const SUB: usize = 2;
    const MIN: bool = false;
    const ZERO: i32 = 16;
    const SCALES: u8 = FLOAT;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>) {
        let at = first / 2 * 36;
        // SAFETY: as the caller promises.
        unsafe {
            let scales = L::gather4(rows, at);
            for i in 0..2 {
                let q = L::gather16(rows, at + 4 + 16 * i);
                let ([a, b, c, d], [e, f, g, h]) = (low_nibbles::<L, 4>(q), high_nibbles::<L, 4>(q));
                let mut codes = [a, b, e, f, c, d, g, h];
                for v in &mut codes {
                    *v = L::lookup(&LEVELS, *v);
                }
                let scale = [half_scale::<L>(byte::<L>(scales, 2 * i)), half_scale::<L>(byte::<L>(scales, 2 * i + 1))];
                sink.part(i, Unpacked { codes, scale });
            }
            let one = L::splat_f(1.0);
            sink.end(End::plain(one, one));
        }
    }
}
