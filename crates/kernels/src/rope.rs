//! Rotary positions: pairs of a head's channels are turned by position × frequency.
//!
//! The angles of a step's tokens are computed once, in f64, as a table [N, 2 · pairs] of cosines and
//! sines; every layer turns its q and k by that table. The backward pass turns the other way.

use crate::disjoint::Disjoint;
use crate::{Pool, Real};

/// Tokens of one task.
const TOKENS: usize = 16;

/// Which channels make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Channels 2i and 2i + 1 (GPT-J; llama in GGUF).
    Interleaved,
    /// Channels i and i + rotary / 2 (GPT-NeoX; Hugging Face).
    HalfSplit,
}

/// Cosines and sines of each token: row t holds `cos` of every pair, then `sin` of every pair.
///
/// `inverse_frequency[i]` is divided by `factors[i]`, if there are such (`rope_freqs.weight`);
/// `magnitude` multiplies both (YaRN's attention factor).
///
/// # Panics
/// If `table` has not `2 · pairs` elements a token, or `factors` not one a pair.
pub fn rope_table<T: Real>(
    positions: &[i32],
    inverse_frequency: &[f64],
    factors: Option<&[f32]>,
    magnitude: f64,
    table: &mut [T],
) {
    let pairs = inverse_frequency.len();
    assert_eq!(table.len(), positions.len() * 2 * pairs, "rope table");
    assert!(factors.is_none_or(|f| f.len() == pairs), "one rope factor a pair");
    for (&position, row) in positions.iter().zip(table.chunks_exact_mut(2 * pairs)) {
        let (cos, sin) = row.split_at_mut(pairs);
        for i in 0..pairs {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            let (s, c) = (f64::from(position) * inverse_frequency[i] / factor).sin_cos();
            cos[i] = T::of(c * magnitude);
            sin[i] = T::of(s * magnitude);
        }
    }
}

/// Turns the first `2 · pairs` channels of each head of x [N, heads, width]; `back` turns the other way.
///
/// # Panics
/// If the lengths do not fit.
pub fn rope<T: Real>(
    pool: &Pool,
    pairing: Pairing,
    heads: usize,
    width: usize,
    x: &[T],
    table: &[T],
    back: bool,
    y: &mut [T],
) {
    let row = heads * width;
    assert!(row > 0 && x.len() == y.len() && x.len().is_multiple_of(row), "rope: [N, {heads}, {width}]");
    let tokens = x.len() / row;
    if tokens == 0 {
        return;
    }
    let pairs = table.len() / tokens / 2;
    assert!(table.len() == tokens * 2 * pairs && 2 * pairs <= width, "rope: a table of {tokens} tokens");
    let parts = Disjoint::new(y);
    let one = |task: usize, _: usize| {
        for t in task * TOKENS..((task + 1) * TOKENS).min(tokens) {
            let (cos, sin) = table[t * 2 * pairs..(t + 1) * 2 * pairs].split_at(pairs);
            // SAFETY: each task has tokens of its own.
            let y = unsafe { parts.part(t * row..(t + 1) * row) };
            for (x, y) in x[t * row..(t + 1) * row].chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                turn(pairing, x, cos, sin, back, y);
            }
        }
    };
    let tasks = tokens.div_ceil(TOKENS);
    if x.len() < 8192 { (0..tasks).for_each(|t| one(t, 0)) } else { pool.run(tasks, one) }
}

#[inline(always)]
fn turn<T: Real>(pairing: Pairing, x: &[T], cos: &[T], sin: &[T], back: bool, y: &mut [T]) {
    let pairs = cos.len();
    let sign = if back { -T::ONE } else { T::ONE };
    match pairing {
        Pairing::Interleaved => {
            let each = x.chunks_exact(2).zip(y.chunks_exact_mut(2));
            for ((x, y), (c, s)) in each.zip(cos.iter().zip(sin)) {
                let s = *s * sign;
                y[0] = x[0] * *c - x[1] * s;
                y[1] = x[0] * s + x[1] * *c;
            }
        }
        Pairing::HalfSplit => {
            let (x0, x1) = (&x[..pairs], &x[pairs..2 * pairs]);
            let (y0, y1) = y[..2 * pairs].split_at_mut(pairs);
            for i in 0..pairs {
                let s = sin[i] * sign;
                y0[i] = x0[i] * cos[i] - x1[i] * s;
                y1[i] = x0[i] * s + x1[i] * cos[i];
            }
        }
    }
    y[2 * pairs..].copy_from_slice(&x[2 * pairs..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_back_undoes_a_turn_and_keeps_lengths() {
        let (tokens, heads, width, pairs) = (40, 3, 10, 4);
        let positions: Vec<i32> = (0..tokens as i32).map(|t| t * 97).collect();
        let frequency: Vec<f64> = (0..pairs).map(|i| 10_000f64.powf(-(i as f64) / pairs as f64)).collect();
        let mut table = vec![0.0; tokens * 2 * pairs];
        rope_table(&positions, &frequency, None, 1.0, &mut table);
        let x: Vec<f64> = (0..tokens * heads * width).map(|i| (i as f64 * 0.37).sin()).collect();
        for pairing in [Pairing::Interleaved, Pairing::HalfSplit] {
            let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            rope(&Pool::new(2), pairing, heads, width, &x, &table, false, &mut y);
            rope(&Pool::new(1), pairing, heads, width, &y, &table, true, &mut z);
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
            assert!((norm(&x) - norm(&y)).abs() < 1e-9);
            assert!(x.iter().zip(&z).all(|(a, b)| (a - b).abs() < 1e-12));
            assert_eq!(x[..heads * width], y[..heads * width], "position 0 turns nothing");
            assert_eq!(x[8..10], y[8..10], "channels beyond the pairs stay");
        }
    }

    #[test]
    fn pairings_differ_by_a_permutation() {
        let (width, pairs) = (6, 3);
        let mut table = vec![0.0f32; 2 * pairs];
        rope_table(&[5], &[1.0, 0.3, 0.01], Some(&[1.0, 2.0, 4.0]), 0.5, &mut table);
        let half = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let inter = [1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0];
        let (mut a, mut b) = ([0.0; 6], [0.0; 6]);
        rope(&Pool::new(1), Pairing::HalfSplit, 1, width, &half, &table, false, &mut a);
        rope(&Pool::new(1), Pairing::Interleaved, 1, width, &inter, &table, false, &mut b);
        assert_eq!([a[0], a[3], a[1], a[4], a[2], a[5]], b);
        assert!((table[0] - 0.5 * 5f32.cos()).abs() < 1e-6 && (table[4] - 0.5 * 0.75f32.sin()).abs() < 1e-6);
    }
}
