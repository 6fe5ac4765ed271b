//! FP6-LLM's order: the upper two bits of all codes, then the lower four, each as the threads of a GPU's warp load them.
//!
//! Tiles of 64 rows and 16 columns follow each other along the rows; in each are four blocks of 16 × 16. A block gives each of 32
//! threads eight codes: thread `4 l + i` has columns `2 i` and `2 i + 1` of row `l` and of row `l + 8`, then the same eight columns on.
//! Word `u` of a plane's thread `t` lies at word `32 u + t`, and inside a word the thread's next 16 (or 8) codes lie in an order
//! that suits its unpacking.
//!
//! Weights are `E3M2 · scale` with one half-precision scale a row. A code's exponent and mantissa, moved to the lowest bits of a half's
//! exponent and the highest of its mantissa, are 2^-12 times its value, subnormals included ([`four_halves`]). Source: `weight_prepacking.h` of FP6-LLM; compared by hash in `tests/packing.rs`.

use half::f16;

use super::{LARGEST_SCALE, PackingError, expect_codes, expect_len};
use crate::element::{E3M2, Element, Rounding};

/// Which of 16 codes lies where in a word of the plane of two bits, from the top.
const ORDER_2: [usize; 16] = [2, 6, 10, 14, 4, 8, 12, 16, 1, 5, 9, 13, 3, 7, 11, 15];
/// Which of 8 codes lies where in a word of the plane of four bits, from the top.
const ORDER_4: [usize; 8] = [2, 6, 4, 8, 1, 5, 3, 7];
const THREADS: usize = 32;
const TILE: usize = 64;

/// Row and column of code `n` of a thread, in a matrix of `cols` columns.
fn place(thread: usize, n: usize, cols: usize) -> (usize, usize) {
    let (block, code) = (n / 8, n % 8);
    let (tile, sub) = (block / 4, block % 4);
    let (segment, pair) = (code / 2, code % 2);
    let tiles_in_row = cols / 16;
    let row = tile / tiles_in_row * TILE + sub * 16 + thread / 4 + segment % 2 * 8;
    let col = tile % tiles_in_row * 16 + segment / 2 * 8 + thread % 4 * 2 + pair;
    (row, col)
}

/// Calls `f` with word, shift and code position of every code of a plane.
fn for_each(order: &[usize], rows: usize, cols: usize, mut f: impl FnMut(usize, usize, usize)) {
    let bits = 32 / order.len();
    for word in 0..rows * cols / order.len() {
        let (unit, thread) = (word / THREADS, word % THREADS);
        for (at, code) in order.iter().enumerate() {
            let (row, col) = place(thread, unit * order.len() + code - 1, cols);
            f(word, 32 - bits * (at + 1), row * cols + col);
        }
    }
}

fn check(rows: usize, cols: usize) -> Result<(), PackingError> {
    if rows.is_multiple_of(TILE) && cols.is_multiple_of(TILE) {
        return Ok(());
    }
    Err(PackingError::Ragged { rows, cols, tile_rows: TILE, tile_cols: TILE })
}

/// Packs 6-bit codes [rows, cols] into the plane of two bits and the plane of four, one after the other: 3/4 byte a code.
///
/// # Errors
/// Rows or columns that are no multiples of 64, another number of codes, a code above 63.
pub fn pack_fp6_llm(codes: &[u8], rows: usize, cols: usize) -> Result<Vec<u8>, PackingError> {
    check(rows, cols)?;
    expect_len("codes", codes.len(), rows * cols)?;
    expect_codes(codes, cols.max(1), 6)?;
    let mut planes = Vec::with_capacity(rows * cols * 3 / 4);
    for (order, shift) in [(&ORDER_2[..], 4), (&ORDER_4[..], 0)] {
        let mut words = vec![0u32; rows * cols / order.len()];
        let mask = u32::MAX >> (32 - 32 / order.len());
        for_each(order, rows, cols, |word, at, code| words[word] |= (u32::from(codes[code] >> shift) & mask) << at);
        planes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }
    Ok(planes)
}

/// The codes [rows, cols] of planes that [`pack_fp6_llm`] packed.
///
/// # Errors
/// Rows or columns that are no multiples of 64, another number of bytes.
pub fn unpack_fp6_llm(planes: &[u8], rows: usize, cols: usize) -> Result<Vec<u8>, PackingError> {
    check(rows, cols)?;
    expect_len("bytes of two planes", planes.len(), rows * cols * 3 / 4)?;
    let mut codes = vec![0; rows * cols];
    let (two, four) = planes.split_at(rows * cols / 4);
    for (order, plane, shift) in [(&ORDER_2[..], two, 4), (&ORDER_4[..], four, 0)] {
        let words = plane.as_chunks::<4>().0;
        let mask = u32::MAX >> (32 - 32 / order.len());
        for_each(order, rows, cols, |word, at, code| {
            codes[code] |= ((u32::from_le_bytes(words[word]) >> at & mask) as u8) << shift;
        });
    }
    Ok(codes)
}

/// Four codes of E3M2, each in the upper six bits of a byte of `word`, as halves of 2^-12 times their values; from the lowest byte
/// on. Two bytes at a time: their signs stay, the five other bits move right by two.
pub const fn four_halves(word: u32) -> [u16; 4] {
    const fn two(word: u32) -> u32 {
        word & 0x8000_8000 | (word & 0x7c00_7c00) >> 2
    }
    let (odd, even) = (two(word), two(word << 8));
    [even as u16, odd as u16, (even >> 16) as u16, (odd >> 16) as u16]
}

/// Codes [rows, cols] and scales `[rows]` of weights: `scale = max |w| / 28` as a half, codes nearest to `w / scale`, ties to even. A row of
/// zeros has the scale 0 and codes 0.
///
/// # Errors
/// Another number of weights, a weight that is not finite, a row whose scale times 2^12 is no half.
pub fn quantize_fp6_llm(weights: &[f32], rows: usize, cols: usize) -> Result<(Vec<u8>, Vec<f16>), PackingError> {
    expect_len("weights", weights.len(), rows * cols)?;
    if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
        return Err(PackingError::NotFinite { index, value: weights[index] });
    }
    let (mut codes, mut scales) = (Vec::with_capacity(weights.len()), Vec::with_capacity(rows));
    for (row, w) in weights.chunks(cols.max(1)).enumerate() {
        let amax = w.iter().fold(0f32, |m, w| m.max(w.abs()));
        let scale = f16::from_f32(amax / E3M2.max());
        if scale.to_f32() > LARGEST_SCALE {
            return Err(PackingError::Scale { row, amax, scale: amax / E3M2.max() });
        }
        let by = scale.to_f32();
        codes.extend(w.iter().map(|w| if by > 0.0 { E3M2.encode(w / by, Rounding::HalfEven, true) } else { 0 }));
        scales.push(scale);
    }
    Ok((codes, scales))
}

/// Weights [rows, cols] of planes and scales, as the engine's kernel makes them: halves of four codes at a time, times 2^12, times the scale,
/// rounded to half once.
///
/// # Errors
/// As [`unpack_fp6_llm`]; another number of scales.
pub fn dequantize_fp6_llm(planes: &[u8], rows: usize, cols: usize, scales: &[f16]) -> Result<Vec<f16>, PackingError> {
    expect_len("scales", scales.len(), rows)?;
    let codes = unpack_fp6_llm(planes, rows, cols)?;
    // Rows are whole fours: columns are a multiple of 64.
    let fours = codes.as_chunks::<4>().0.iter().enumerate();
    let halves = fours.flat_map(|(i, four)| {
        let scale = scales[4 * i / cols].to_f32();
        let weight = move |half: u16| f16::from_f32(f16::from_bits(half).to_f32() * 4096.0 * scale);
        four_halves(u32::from_le_bytes(four.map(|code| code << 2))).map(weight)
    });
    Ok(halves.collect())
}
