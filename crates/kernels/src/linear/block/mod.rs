//! How each block format unpacks into unsigned codes and scales, one vector lane a weight row.
//!
//! All formats come to the same form. A stored block of a row has parts of 32 weights,
//! `w_i = d · scale_s · (code_i - ZERO) - minus_min · min_s`, with `s` the sub-block of 16 or, for most
//! formats, the whole part. Scales of sub-blocks are integers, or floats, or there are none; minima are integers, which
//! formats of 32 do not have.

mod iq4;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q6_k;
mod q8_0;
mod tq1_0;
mod tq2_0;

pub(super) use iq4::{Iq4Nl, Iq4Xs};
pub(super) use mxfp4::Mxfp4;
pub(super) use nvfp4::{Nvfp4, half_scale};
pub(super) use q1_0::Q1_0;
pub(super) use q2_0::Q2_0;
pub(super) use q2_k::Q2K;
pub(super) use q3_k::Q3K;
pub(super) use q4::{Q4_0, Q4_1};
pub(super) use q4_k::{Q4K, Q5K};
pub(super) use q5::{Q5_0, Q5_1};
pub(super) use q6_k::Q6K;
pub(super) use q8_0::Q8_0;
pub(super) use tq1_0::Tq1_0;
pub(super) use tq2_0::Tq2_0;

use super::activations::Activations;
use super::lanes::{Lanes, Rows};
use memwall_formats::Dtype;

/// 32 weights of each row of a vector.
#[derive(Clone, Copy)]
pub(super) struct Unpacked<L: Lanes> {
    /// Vector `g` has codes `4g..4g + 4`, the first in the lowest byte.
    pub codes: [L::V; 8],
    /// One a sub-block, if the format has them; the second is unused when there is one.
    pub scale: [L::V; 2],
}

impl<L: Lanes> Unpacked<L> {
    /// Of a format without scales of sub-blocks.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn plain(codes: [L::V; 8]) -> Unpacked<L> {
        // SAFETY: as the caller promises.
        let none = unsafe { [L::splat(0); 2] };
        Unpacked { codes, scale: none }
    }
}

/// What is done with unpacked blocks. (A trait and not a closure, because closures cannot be made to
/// be inlined, and what is not inlined here is compiled without the instruction set.)
pub(super) trait Sink<L: Lanes> {
    /// Takes 32 weights of each row, part `i` of the stored block.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn part(&mut self, i: usize, w: Unpacked<L>);

    /// Takes what belongs to the whole stored block, whose parts came before.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn end(&mut self, end: End<L>);
}

/// What belongs to a whole stored block of each row of a vector.
#[derive(Clone, Copy)]
pub(super) struct End<L: Lanes> {
    /// The scale.
    pub d: L::F,
    /// What the products of minima and minus the sums of x are multiplied by, if the format has minima.
    pub minus_min: L::F,
    /// Minima of sub-blocks by two, the earlier in the low half: [`min_words`] of them.
    pub mins: [L::V; 8],
}

impl<L: Lanes> End<L> {
    /// Of a format without minima of sub-blocks.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn plain(d: L::F, minus_min: L::F) -> End<L> {
        // SAFETY: as the caller promises.
        End { d, minus_min, mins: unsafe { [L::splat(0); 8] } }
    }
}

/// Words of two minima that a stored block of `step` parts with `sub` sub-blocks each has.
pub(super) const fn min_words(step: usize, sub: usize, min: bool) -> usize {
    if min && step > 1 { step * sub / 2 } else { 0 }
}

/// What word `j` of the minima is multiplied with.
///
/// # Safety
/// `x` is followed by the other parts of the block.
#[inline(always)]
pub(super) unsafe fn minus_sums<const SUB: usize>(x: *const Activations, j: usize) -> i32 {
    // SAFETY: as the caller promises.
    bytemuck::cast(unsafe { if SUB == 1 { (*x.add(2 * j)).minus_pair } else { (*x.add(j)).minus_halves } })
}

/// Scales of sub-blocks: there are none, the block has one.
pub(super) const NONE: u8 = 0;
/// Scales of sub-blocks: integers, so that a block stays an exact integer until its end.
pub(super) const INTEGER: u8 = 1;
/// Scales of sub-blocks: the bits of f32; sums over them are floats, in the order of the sub-blocks.
pub(super) const FLOAT: u8 = 2;

/// `sum`, of a kind of scales, and what a sub-block adds.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn add_scaled<L: Lanes, const SCALES: u8>(sum: L::V, dot: L::V, scale: L::V) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        match SCALES {
            NONE => L::add(sum, dot),
            INTEGER => L::add(sum, L::times(dot, scale)),
            _ => L::as_v(L::fma(L::to_f(dot), L::as_f(scale), L::as_f(sum))),
        }
    }
}

/// The sum of a block as f32.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn sum_of<L: Lanes, const SCALES: u8>(sum: L::V) -> L::F {
    // SAFETY: as the caller promises.
    unsafe { if SCALES == FLOAT { L::as_f(sum) } else { L::to_f(sum) } }
}

/// A block format, unpacked.
pub(super) trait BlockFormat: 'static {
    /// The type that this is.
    const DTYPE: Dtype;
    /// Sub-blocks in 32 weights: 1 or 2.
    const SUB: usize;
    /// Whether values have a minimum added.
    const MIN: bool;
    /// The code that means zero: 0, 1, 4, 8, 16, 32, or 128 if codes exceed 127.
    const ZERO: i32;
    /// Parts of 32 in a stored block.
    const STEP: usize = Self::DTYPE.block_len() / 32;
    /// What scales of sub-blocks are: [`NONE`], [`INTEGER`] or [`FLOAT`].
    const SCALES: u8 = if Self::STEP > 1 { INTEGER } else { NONE };

    /// Unpacks the stored block whose first part is part `first` of the row, a multiple of `STEP`; the sink
    /// gets 0..STEP in order, and the end.
    ///
    /// # Safety
    /// The processor has the instruction set; the rows hold that block.
    unsafe fn unpack<L: Lanes>(rows: &Rows, first: usize, sink: &mut impl Sink<L>);
}

/// The same byte in all four bytes.
pub(super) const fn bytes(b: u8) -> i32 {
    i32::from_le_bytes([b; 4])
}

/// Low nibbles of the bytes.
///
/// (`array::map` is not used in this folder: it is not inlined for vectors, and what is not inlined is
/// compiled without the instruction set.)
///
/// # Safety
/// As the trait's.
#[inline(always)]
unsafe fn low_nibbles<L: Lanes, const N: usize>(mut q: [L::V; N]) -> [L::V; N] {
    for v in &mut q {
        // SAFETY: as the caller promises.
        *v = unsafe { L::and(*v, L::splat(bytes(15))) };
    }
    q
}

/// High nibbles of the bytes.
///
/// # Safety
/// As the trait's.
#[inline(always)]
unsafe fn high_nibbles<L: Lanes, const N: usize>(mut q: [L::V; N]) -> [L::V; N] {
    for v in &mut q {
        // SAFETY: as the caller promises.
        *v = unsafe { L::and(L::shr::<4>(*v), L::splat(bytes(15))) };
    }
    q
}

/// Low nibbles of 16 bytes a row, then high ones: the order of the formats of 32.
///
/// # Safety
/// As the trait's.
#[inline(always)]
unsafe fn half_split<L: Lanes>(q: [L::V; 4]) -> [L::V; 8] {
    // SAFETY: as the caller promises.
    unsafe {
        let ([a, b, c, d], [e, f, g, h]) = (low_nibbles::<L, 4>(q), high_nibbles::<L, 4>(q));
        [a, b, c, d, e, f, g, h]
    }
}

/// Byte `j` of every lane, zero-extended.
///
/// # Safety
/// As the trait's.
#[inline(always)]
unsafe fn byte<L: Lanes>(v: L::V, j: usize) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        let mask = L::splat(255);
        match j {
            0 => L::and(v, mask),
            1 => L::and(L::shr::<8>(v), mask),
            2 => L::and(L::shr::<16>(v), mask),
            _ => L::shr::<24>(v),
        }
    }
}

/// Bytes `j` and `j + 1` of every lane, zero-extended to halves; `j` is 0 or 2.
///
/// # Safety
/// As the trait's.
#[inline(always)]
unsafe fn two_bytes<L: Lanes>(v: L::V, j: usize) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        if j == 0 {
            L::or(L::and(v, L::splat(255)), L::and(L::shl::<8>(v), L::splat(255 << 16)))
        } else {
            L::or(L::and(L::shr::<16>(v), L::splat(255)), L::and(L::shr::<8>(v), L::splat(255 << 16)))
        }
    }
}

/// Byte `j` of every lane, sign-extended.
///
/// # Safety
/// As the trait's.
#[inline(always)]
unsafe fn signed_byte<L: Lanes>(v: L::V, j: usize) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        match j {
            0 => L::sar::<24>(L::shl::<24>(v)),
            1 => L::sar::<24>(L::shl::<16>(v)),
            2 => L::sar::<24>(L::shl::<8>(v)),
            _ => L::sar::<24>(v),
        }
    }
}

/// `ZERO` times each lane.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn times_zero<L: Lanes, const ZERO: i32>(v: L::V) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        match ZERO {
            0 => L::splat(0),
            1 => v,
            4 => L::shl::<2>(v),
            8 => L::shl::<3>(v),
            16 => L::shl::<4>(v),
            32 => L::shl::<5>(v),
            _ => L::shl::<7>(v),
        }
    }
}

/// `acc` + products of four codes of a format with that zero and of x.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(super) unsafe fn dot_codes<L: Lanes, const ZERO: i32>(acc: L::V, codes: L::V, x: i32) -> L::V {
    // SAFETY: as the caller promises.
    unsafe { if ZERO == 128 { L::dot::<true>(acc, codes, x) } else { L::dot::<false>(acc, codes, x) } }
}
