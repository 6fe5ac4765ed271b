//! Ternary weights: how BitNet b1.58 makes them, and how Hugging Face's checkpoints pack them.

use super::{PackingError, expect_len};
use crate::scaled::mean_magnitude;

/// Ternary weights by their mean magnitude: `q = clamp(round(w · (1 / s)), -1, 1)` with `s = max(mean |w|, 1e-5)`, ties to even; the
/// weights are then `q · s`. (Checkpoints disagree on whether they store `s` or `1 / s`.)
///
/// # Errors
/// A weight that is not finite.
pub fn absmean(weights: &[f32]) -> Result<(Vec<i8>, f32), PackingError> {
    if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
        return Err(PackingError::NotFinite { index, value: weights[index] });
    }
    let scale = mean_magnitude(weights);
    let inverse = 1.0 / scale;
    Ok((weights.iter().map(|w| (w * inverse).round_ties_even().clamp(-1.0, 1.0) as i8).collect(), scale))
}

/// Packs ternary weights [rows, cols] into [rows / 4, cols] bytes: byte (r, c) holds `weight + 1` of rows r, r + R/4, r + R/2 and
/// r + 3R/4 in bits 0–1, 2–3, 4–5 and 6–7.
///
/// # Errors
/// Rows that are no multiple of 4, another number of weights, a weight that is not -1, 0 or 1.
pub fn pack_bitnet(weights: &[i8], rows: usize, cols: usize) -> Result<Vec<u8>, PackingError> {
    check(rows, cols)?;
    expect_len("weights", weights.len(), rows * cols)?;
    if let Some(i) = weights.iter().position(|w| !(-1..=1).contains(w)) {
        let (row, col) = (i / cols, i % cols);
        return Err(PackingError::Code { row, col, code: i32::from(weights[i]), least: -1, most: 1 });
    }
    let strip = rows / 4 * cols;
    let code = |i: usize, n: usize| ((weights[i + n * strip] + 1) as u8) << (2 * n);
    Ok((0..strip).map(|i| code(i, 0) | code(i, 1) | code(i, 2) | code(i, 3)).collect())
}

/// The ternary weights [rows, cols] that [`pack_bitnet`] packed.
///
/// # Errors
/// Rows that are no multiple of 4, another number of bytes, a code of 3, which no weight has.
pub fn unpack_bitnet(bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<i8>, PackingError> {
    check(rows, cols)?;
    let strip = rows / 4 * cols;
    expect_len("bytes of packed weights", bytes.len(), strip)?;
    let code = |i: usize| bytes[i % strip] >> (i / strip * 2) & 3;
    if let Some(i) = (0..rows * cols).find(|&i| code(i) == 3) {
        return Err(PackingError::Code { row: i / cols, col: i % cols, code: 3, least: 0, most: 2 });
    }
    Ok((0..rows * cols).map(|i| code(i) as i8 - 1).collect())
}

fn check(rows: usize, cols: usize) -> Result<(), PackingError> {
    if rows.is_multiple_of(4) {
        return Ok(());
    }
    Err(PackingError::Ragged { rows, cols, tile_rows: 4, tile_cols: 1 })
}
