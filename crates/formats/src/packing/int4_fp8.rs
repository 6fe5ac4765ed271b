//! FireQ's weights: integers of four bits in groups of 128 along a row, each group's scale in E4M3, one power of two a tensor.
//!
//! `s = max(amax, 1e-5) / 7` of a group, rounded to E4M3 and at least 2^-9; `q = clamp(round(w / s), -8, 7)` by the rounded scale. Scales below
//! 2^-6 lose bits, and below 2^-10 all: so a tensor is multiplied by `t = 2^i` before ([`tensor_exponent`]) and what it gives divided
//! by `t`. A group is its scale, then 16 words of eight codes, code `i` at bits `4 i`, two's complement: FireQ's `weight` and
//! `weight_scale` put together group by group ([`join_fireq`], [`split_fireq`]).
//!
//! Source: "FireQ" (arXiv 2505.20839) and its published quantizer.

use half::bf16;

use super::{PackingError, expect_len};
use crate::element::{E4M3_FN, Element, Rounding};

/// Values that share a scale.
pub const INT4_FP8_GROUP: usize = 128;
/// Bytes of a group.
pub const INT4_FP8_BYTES: usize = 1 + INT4_FP8_GROUP / 2;

/// The largest |w| of a tensor whose power of two is still raised.
const MOST: f32 = 448.0;
/// The largest power of two: 2^14.
const LARGEST_EXPONENT: u32 = 14;
/// The smallest scale.
const LEAST: f32 = 1.0 / 512.0;

/// How values come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dequantization {
    /// `q · s`.
    Exact,
    /// `q · s` rounded to E4M3, as units that multiply FP8 need it.
    Fp8,
}

/// How the scale of a group of [`int4_group`] is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScale {
    /// E4M3, at least 2^-9.
    E4M3,
    /// BF16.
    Bf16,
}

/// Scale and codes of a group, `s = max(amax, 1e-5) / 7` as it is stored, `q = clamp(round(x / s), -8, 7)` with ties to even.
pub fn int4_group(x: &[f32], scale: GroupScale) -> (f32, impl Iterator<Item = i8>) {
    let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let ideal = amax.max(1e-5) / 7.0;
    let s = match scale {
        GroupScale::E4M3 => E4M3_FN.decode(E4M3_FN.encode(ideal, Rounding::HalfEven, true)).max(LEAST),
        GroupScale::Bf16 => bf16::from_f32(ideal).to_f32(),
    };
    (s, x.iter().map(move |x| (x / s).round_ties_even().clamp(-8.0, 7.0) as i8))
}

fn groups(len: usize, rows: usize, cols: usize) -> Result<usize, PackingError> {
    if !cols.is_multiple_of(INT4_FP8_GROUP) {
        return Err(PackingError::Ragged { rows, cols, tile_rows: 1, tile_cols: INT4_FP8_GROUP });
    }
    expect_len("weights", len, rows * cols)?;
    Ok(len / INT4_FP8_GROUP)
}

/// `i` of the power of two `t = 2^i`, 0 to 14, that a tensor in groups is multiplied by before it is stored: of those that keep every |w| t at
/// most 448 the smallest with the least sum over groups of `max(0, 7 · 2^-9 - t amax)`; `raised` by up to 3 more, as far as 448 allows,
/// so that scales are normal numbers of E4M3, which the published choice leaves out.
pub fn tensor_exponent(weights: &[f32], raised: bool) -> u32 {
    let amax = |x: &[f32]| x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let of_groups: Vec<f32> = weights.chunks(INT4_FP8_GROUP).map(amax).collect();
    let most = of_groups.iter().fold(0f32, |m, x| m.max(*x));
    let power = |i: u32| (1u32 << i) as f32;
    let last = (0..=LARGEST_EXPONENT).take_while(|&i| most * power(i) <= MOST).last().unwrap_or(0);
    let slack = |i: u32| of_groups.iter().map(|x| f64::from((7.0 * LEAST - power(i) * x).max(0.0))).sum::<f64>();
    let chosen = (0..=last).fold(0, |best, i| if slack(i) < slack(best) { i } else { best });
    if raised { (chosen + 3).min(last) } else { chosen }
}

/// Stores weights [rows, cols] times `2^exponent`: [`INT4_FP8_BYTES`] for each group.
///
/// # Errors
/// Columns that are no multiple of 128, another number of weights, a weight that is not finite, a weight beyond 448 times the smallest power.
pub fn pack_int4_fp8(weights: &[f32], rows: usize, cols: usize, exponent: u32) -> Result<Vec<u8>, PackingError> {
    let groups = groups(weights.len(), rows, cols)?;
    if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
        return Err(PackingError::NotFinite { index, value: weights[index] });
    }
    let times = 2f32.powi(exponent as i32);
    if let Some(index) = weights.iter().position(|w| w.abs() * times > MOST) {
        return Err(PackingError::TooLarge { index, value: weights[index], most: MOST / times });
    }
    let mut bytes = vec![0; groups * INT4_FP8_BYTES];
    for (x, group) in weights.chunks(INT4_FP8_GROUP).zip(bytes.chunks_mut(INT4_FP8_BYTES)) {
        let x: Vec<f32> = x.iter().map(|w| w * times).collect();
        let (s, codes) = int4_group(&x, GroupScale::E4M3);
        group[0] = E4M3_FN.encode(s, Rounding::HalfEven, true);
        for (i, code) in codes.enumerate() {
            group[1 + i / 2] |= (code as u8 & 15) << (i % 2 * 4);
        }
    }
    Ok(bytes)
}

/// The weights [rows, cols] of [`pack_int4_fp8`].
///
/// # Errors
/// Columns that are no multiple of 128, another number of bytes.
pub fn unpack_int4_fp8(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    exponent: u32,
    dequantization: Dequantization,
) -> Result<Vec<f32>, PackingError> {
    let groups = groups(rows * cols, rows, cols)?;
    expect_len("bytes of groups", bytes.len(), groups * INT4_FP8_BYTES)?;
    let over = 2f32.powi(-(exponent as i32));
    let value = |group: &[u8], i: usize| {
        let code = (group[1 + i / 2] >> (i % 2 * 4) << 4) as i8 >> 4;
        let exact = f32::from(code) * E4M3_FN.decode(group[0]);
        over * match dequantization {
            Dequantization::Exact => exact,
            Dequantization::Fp8 => E4M3_FN.decode(E4M3_FN.encode(exact, Rounding::HalfEven, true)),
        }
    };
    Ok(bytes.chunks(INT4_FP8_BYTES).flat_map(|group| (0..INT4_FP8_GROUP).map(move |i| value(group, i))).collect())
}

/// Groups from FireQ's `weight` [rows, cols / 8], words of eight codes, and `weight_scale` [rows, cols / 128] in E4M3.
///
/// # Errors
/// Columns that are no multiple of 128, another number of words or scales.
pub fn join_fireq(words: &[i32], scales: &[u8], rows: usize, cols: usize) -> Result<Vec<u8>, PackingError> {
    let groups = groups(rows * cols, rows, cols)?;
    expect_len("words of eight codes", words.len(), rows * cols / 8)?;
    expect_len("scales", scales.len(), groups)?;
    let mut bytes = Vec::with_capacity(groups * INT4_FP8_BYTES);
    for (scale, words) in scales.iter().zip(words.chunks(INT4_FP8_GROUP / 8)) {
        bytes.push(*scale);
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    Ok(bytes)
}

/// FireQ's `weight` and `weight_scale` of groups.
///
/// # Errors
/// Bytes that are no whole groups.
pub fn split_fireq(bytes: &[u8]) -> Result<(Vec<i32>, Vec<u8>), PackingError> {
    let whole = bytes.len() / INT4_FP8_BYTES * INT4_FP8_BYTES;
    expect_len("bytes of groups", bytes.len(), whole)?;
    let groups = || bytes.chunks(INT4_FP8_BYTES);
    let words = groups().flat_map(|group| group[1..].as_chunks::<4>().0).map(|word| i32::from_le_bytes(*word));
    Ok((words.collect(), groups().map(|group| group[0]).collect()))
}
