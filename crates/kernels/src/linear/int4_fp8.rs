//! y[m, n] = x[m, k] · W[n, k]ᵀ with x in E4M3, one scale a row, and W in integers of four bits, one E4M3 scale for 128: FireQ's product.
//!
//! `s_i = bf16(max |x_i| / 448)`, 1 for a row of zeros; codes of x are `E4M3(x / s_i)`. The values of a group are `q · s`, as they are or rounded to E4M3
//! ([`Dequantization`]). Rounded, the sixteen values of a group depend on the three bits of mantissa of its scale alone, up to a power of two:
//! they are looked up as bf16 by these bits and the code, with no rounding left to do. All products are exact in f32.
//!
//! For each part of 32 of a row of x and a weight row, in ascending order, `sum` is a chain from 0 over pairs as `vdpbf16ps` computes
//! it, `y = fma(sum, d, y)` with the scale `d` (rounded: its power of two); at the end `y = (y · 2^-exponent) · s_i`. Pairs are codes
//! `8 i + j` and `8 i + j + 4`, the second one first. The row law holds as in all of this folder.
//!
//! Source: "FireQ" (arXiv 2505.20839).

use super::block::half_scale;
use super::float::{FloatFormat, Sink, TILE_BYTES};
use super::lanes::{HalfTable, Lanes, Rows};
use super::leaf::{self, Columns, Job, Leaf, float_task};
use super::small_float::{PART, nibbles};
use super::{PARALLEL_PRODUCT, task_columns};
use crate::disjoint::Disjoint;
use crate::rows::for_rows;
use crate::scratch::{self, Scratch};
use crate::{Isa, Pool, isa};
use half::bf16;
use memwall_formats::packing::{Dequantization, INT4_FP8_BYTES, INT4_FP8_GROUP};

/// A weight matrix: `n` rows of `k` integers of four bits in groups of 128.
#[derive(Clone, Copy, Debug)]
pub struct Int4Fp8<'a> {
    bytes: &'a [u8],
    n: usize,
    k: usize,
    exponent: u32,
}

/// Why bytes are no such matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Int4Fp8Error {
    /// Groups would span rows.
    #[error("rows of {k} values are no whole groups of 128")]
    Ragged {
        /// Values of a row.
        k: usize,
    },
    /// Another number of bytes than the shape has.
    #[error("a [{n}, {k}] matrix has {need} bytes; there are {have}")]
    Bytes {
        /// Rows.
        n: usize,
        /// Values of a row.
        k: usize,
        /// Bytes given.
        have: usize,
        /// Bytes that the shape asks for.
        need: usize,
    },
    /// Values that E4M3 does not reach.
    #[error(
        "row {row}, group {group}: the scale {code:#04x} is no number, negative, or so large that a value is beyond 448"
    )]
    Scale {
        /// The row.
        row: usize,
        /// The group in it.
        group: usize,
        /// The scale's code.
        code: u8,
    },
}

impl<'a> Int4Fp8<'a> {
    /// The groups of `memwall_formats::packing::pack_int4_fp8`, which were multiplied by `2^exponent`.
    ///
    /// # Errors
    /// Rows that are no whole groups, another number of bytes, a scale that is no number or gives values above 448.
    pub fn new(bytes: &'a [u8], n: usize, k: usize, exponent: u32) -> Result<Int4Fp8<'a>, Int4Fp8Error> {
        /// The codes of 56 and of 64: 8 times and 7 times as much are 448.
        const SCALES: [u8; 2] = [0x66, 0x68];
        if !k.is_multiple_of(INT4_FP8_GROUP) {
            return Err(Int4Fp8Error::Ragged { k });
        }
        let groups = k / INT4_FP8_GROUP;
        let need = n * groups * INT4_FP8_BYTES;
        if bytes.len() != need {
            return Err(Int4Fp8Error::Bytes { n, k, have: bytes.len(), need });
        }
        for (at, group) in bytes.chunks_exact(INT4_FP8_BYTES).enumerate() {
            let lowest = || group[1..].iter().any(|byte| byte & 15 == 8 || byte >> 4 == 8);
            let code = group[0];
            if code > SCALES[1] || (code > SCALES[0] && lowest()) {
                return Err(Int4Fp8Error::Scale { row: at / groups, group: at % groups, code });
            }
        }
        Ok(Int4Fp8 { bytes, n, k, exponent })
    }

    /// Rows: outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Values in a row: inputs.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// Bytes of scratch that [`int4_fp8`] needs.
pub fn int4_fp8_scratch(w: &Int4Fp8<'_>, m: usize, threads: usize) -> usize {
    scratch::SLACK
        + scratch::bytes::<u32>(m * w.k / 2)
        + scratch::bytes::<f32>(m)
        + threads.max(1) * scratch::bytes::<u8>(tile_bytes(m))
}

const fn tile_bytes(m: usize) -> usize {
    if m <= leaf::FEW { 0 } else { TILE_BYTES }
}

/// y[m, n] = x[m, k] · W[n, k]ᵀ; `scratch` has at least [`int4_fp8_scratch`] bytes. A row of x with a NaN or an infinity gives NaN.
///
/// # Panics
/// If a slice has the wrong length.
pub fn int4_fp8(
    pool: &Pool,
    w: &Int4Fp8<'_>,
    dequantization: Dequantization,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    scratch: &mut [u8],
) {
    run(isa(), pool, w, dequantization, x, m, y, scratch);
}

/// [`int4_fp8`] on an instruction set that the processor has.
fn run(
    isa: Isa,
    pool: &Pool,
    w: &Int4Fp8<'_>,
    dequantization: Dequantization,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    scratch: &mut [u8],
) {
    let (n, k) = (w.n, w.k);
    assert_eq!(x.len(), m * k, "int4_fp8: values of x [{m}, {k}]");
    assert_eq!(y.len(), m * n, "int4_fp8: values of y [{m}, {n}]");
    if m == 0 || n == 0 {
        return;
    }
    let mut scratch = Scratch::new(scratch);
    let (words, scales) = (scratch.take::<u32>(m * k / 2), scratch.take::<f32>(m));
    let tile = tile_bytes(m).next_multiple_of(64);
    let tiles = Disjoint::new(scratch.take::<u8>(pool.threads() * tile));
    {
        let (words, scales) = (Disjoint::new(&mut *words), Disjoint::new(&mut *scales));
        for_rows(pool, m, k.max(1), |rows| {
            for i in rows {
                // SAFETY: each task has rows of its own.
                let (words, scale) = unsafe { (words.part(i * k / 2..(i + 1) * k / 2), scales.part(i..i + 1)) };
                scale[0] = quantize(&x[i * k..(i + 1) * k], words);
            }
        });
    }

    let width = task_columns(n, m);
    let (tasks, threads) = (n.div_ceil(width), pool.threads());
    let outputs = Disjoint::new(&mut *y);
    let job = Job {
        w: w.bytes.as_ptr(),
        row_bytes: k / INT4_FP8_GROUP * INT4_FP8_BYTES,
        n,
        m,
        terms: k / 2,
        x: words.as_ptr().cast(),
        y: outputs.as_mut_ptr(),
    };
    let task = |task: usize, worker: usize| {
        let begin = task * width;
        let columns = Columns { begin, end: n.min(begin + width), next: begin + threads * width };
        // SAFETY: lengths were checked, columns of tasks are disjoint, every worker has a tile of its own.
        unsafe { dispatch(isa, dequantization, &job, columns, tiles.as_mut_ptr().wrapping_add(worker * tile)) };
    };
    if m * n * k < PARALLEL_PRODUCT {
        (0..tasks).for_each(|t| task(t, 0));
    } else {
        pool.run(tasks, task);
    }
    let over = 2f32.powi(-(w.exponent as i32));
    for (row, scale) in y.chunks_exact_mut(n).zip(scales.iter()) {
        row.iter_mut().for_each(|y| *y = *y * over * scale);
    }
}

/// One task on the instruction set in use.
///
/// # Safety
/// The job holds what it says; the tile is large enough; the processor has the instruction set.
unsafe fn dispatch(isa: Isa, dequantization: Dequantization, job: &Job, columns: Columns, tile: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => by_values::<super::avx512::Avx512>(dequantization, job, columns, tile),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => by_values::<super::avx2::Avx2>(dequantization, job, columns, tile),
            _ => by_values::<super::portable::Portable>(dequantization, job, columns, tile),
        }
    }
}

/// One task.
///
/// # Safety
/// As [`dispatch`].
unsafe fn by_values<L: Leaf>(dequantization: Dequantization, job: &Job, columns: Columns, tile: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        match dequantization {
            Dequantization::Exact => float_task::<L, Exact>(job, columns, tile),
            Dequantization::Fp8 => float_task::<L, Rounded>(job, columns, tile),
        }
    }
}

/// Quantizes a row of x to E4M3 and stores the values as pairs of bf16, codes `8 i + j` low and `8 i + j + 4` high; its scale.
fn quantize(x: &[f32], words: &mut [u32]) -> f32 {
    // Bits of a magnitude order as the magnitude does, with infinities and NaNs on top.
    let amax = f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
    if !amax.is_finite() {
        words.fill(0);
        return f32::NAN;
    }
    let scale = bf16::from_f32(amax / 448.0).to_f32();
    let scale = if scale > 0.0 { scale } else { 1.0 };
    for (x, words) in x.as_chunks::<8>().0.iter().zip(words.as_chunks_mut::<4>().0) {
        for (j, word) in words.iter_mut().enumerate() {
            // A value of E4M3 has its bits in the upper half of f32.
            let half = |x: f32| nearest_e4m3(x / scale).to_bits() >> 16;
            *word = half(x[j]) | half(x[j + 4]) << 16;
        }
    }
    scale
}

/// The value of E4M3 nearest to `x`, ties to even, saturated.
#[inline(always)]
fn nearest_e4m3(x: f32) -> f32 {
    let a = x.abs().min(448.0);
    let bits = a.to_bits();
    let normal = f32::from_bits((bits + 0x0007_ffff + (bits >> 20 & 1)) & 0xfff0_0000);
    let subnormal = (a * 512.0).round_ties_even() * (1.0 / 512.0);
    let value = if a < 1.0 / 64.0 { subnormal } else { normal };
    value.copysign(x)
}

/// Groups whose values are `q · s`.
struct Exact;

/// Groups whose values are `q · s` in E4M3.
struct Rounded;

/// Upper halves of f32 of the codes.
static CODES: HalfTable = {
    let mut halves = [0; 64];
    let mut code = 0;
    while code < 64 {
        halves[code] = upper_half(signed(code as u32) as f32);
        code += 1;
    }
    HalfTable::new(halves)
};

/// Codes times a scale of `1 + i / 8`, rounded to E4M3: entry `16 (i % 4) + code`, `i` below 4 and from 4 on.
static TIMES_MANTISSA: [HalfTable; 2] = [times_mantissa(0), times_mantissa(4)];

const fn times_mantissa(first: i32) -> HalfTable {
    let mut halves = [0; 64];
    let mut at = 0;
    while at < 64 {
        let eighths = signed(at as u32 & 15) * (8 + first + (at as i32 >> 4));
        halves[at] = upper_half(four_bits(eighths) as f32 / 8.0);
        at += 1;
    }
    HalfTable::new(halves)
}

/// A code of four bits.
const fn signed(code: u32) -> i32 {
    let low = (code & 15) as i32;
    if low > 7 { low - 16 } else { low }
}

/// The nearest integer with four significant bits, ties to even.
const fn four_bits(x: i32) -> i32 {
    let magnitude = x.unsigned_abs();
    let drop = (32 - magnitude.leading_zeros()).saturating_sub(4);
    let unit = 1u32 << drop;
    let rounded =
        if drop == 0 { magnitude } else { (magnitude + unit / 2 - 1 + (magnitude >> drop & 1)) & !(unit - 1) };
    if x < 0 { -(rounded as i32) } else { rounded as i32 }
}

const fn upper_half(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

/// The bits of the scales of a group.
///
/// # Safety
/// The processor has the instruction set; the rows have a group at `at`.
#[inline(always)]
unsafe fn scale_bits<L: Lanes>(rows: &Rows, at: usize) -> L::V {
    // SAFETY: as the caller promises.
    unsafe {
        let half = half_scale::<L>(L::and(L::gather2(rows, at), L::splat(255)));
        L::as_v(L::mul(L::as_f(half), L::splat_f(2.0)))
    }
}

/// What a pair of codes is as words. (A trait and not a closure, as [`Sink`].)
trait Values<L: Lanes> {
    /// The words of codes in the lowest four bits of halves, the other bits being anything.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn of(&self, codes: L::V) -> L::V;
}

/// The codes themselves.
struct Itself;

impl<L: Lanes> Values<L> for Itself {
    #[inline(always)]
    unsafe fn of(&self, codes: L::V) -> L::V {
        // SAFETY: as the caller promises.
        unsafe { L::lookup_halves(&CODES, codes) }
    }
}

/// Codes times the mantissa of a scale.
struct Times<L: Lanes> {
    /// Its lower two bits, in bits 4 and 5 of both halves.
    low: L::V,
    /// Ones where its upper bit is set.
    second: L::V,
}

impl<L: Lanes> Values<L> for Times<L> {
    #[inline(always)]
    unsafe fn of(&self, codes: L::V) -> L::V {
        // SAFETY: as the caller promises.
        unsafe {
            let index = L::select::<0x000f_000f>(codes, self.low);
            let a = L::lookup_halves(&TIMES_MANTISSA[0], index);
            let b = L::lookup_halves(&TIMES_MANTISSA[1], index);
            L::xor(a, L::and(L::xor(a, b), self.second))
        }
    }
}

/// Unpacks a group, two parts of it at a time.
///
/// # Safety
/// As [`FloatFormat::unpack`].
#[inline(always)]
unsafe fn unpack<L: Lanes>(
    rows: &Rows,
    at: usize,
    first: usize,
    d: L::F,
    values: &impl Values<L>,
    sink: &mut impl Sink<L>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        for two in (0..INT4_FP8_GROUP / 2 / PART).step_by(2) {
            let words = [0, 1].map(|part| L::gather16(rows, at + 1 + 16 * (two + part)));
            for (four, words) in words[0].into_iter().zip(words[1]).enumerate() {
                // Pair i of a word is its codes i and i + 4.
                let codes = [nibbles::<L>(words.0), nibbles::<L>(words.1)];
                for i in 0..4 {
                    for (part, codes) in codes.iter().enumerate() {
                        sink.word(first + PART * (two + part) + 4 * four + i, part, values.of(codes[i]));
                    }
                }
            }
            for part in 0..2 {
                sink.scale(first + PART * (two + part + 1), part, d);
            }
        }
    }
}

impl FloatFormat for Exact {
    const PAIRS: bool = true;
    const WORDS: usize = INT4_FP8_GROUP / 2;
    const BYTES: usize = INT4_FP8_BYTES;
    const PART: usize = PART;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: as the caller promises.
        unsafe {
            let d = L::as_f(scale_bits::<L>(rows, at));
            unpack::<L>(rows, at, first, d, &Itself, sink);
        }
    }
}

impl FloatFormat for Rounded {
    const PAIRS: bool = true;
    const WORDS: usize = INT4_FP8_GROUP / 2;
    const BYTES: usize = INT4_FP8_BYTES;
    const PART: usize = PART;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(rows: &Rows, at: usize, first: usize, sink: &mut impl Sink<L>) {
        // SAFETY: as the caller promises.
        unsafe {
            let bits = scale_bits::<L>(rows, at);
            let power = L::as_f(L::and(bits, L::splat(0x7f80_0000)));
            let low = L::and(L::shr::<16>(bits), L::splat(0x30));
            let times = Times::<L> { low: L::or(low, L::shl::<16>(low)), second: L::sar::<31>(L::shl::<9>(bits)) };
            unpack::<L>(rows, at, first, power, &times, sink);
        }
    }
}

#[cfg(test)]
mod tests;
