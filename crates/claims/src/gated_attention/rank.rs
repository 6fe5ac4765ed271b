//! What a head adds to the rank of what it attended to.

use memwall_kernels::attention::{Attention, naive};
use memwall_tasks::Philox;

use super::HEAD;

/// rank [A | Y] − rank A in f64: A [64, 32] what one head attended to, Y [64, 32] = (A W_v ⊙ σ(X W_θ)) W_o.
pub(super) fn added_rank(seed: u64, gated: bool) -> f64 {
    let (tokens, width) = (64, 32);
    let mut rng = Philox::new(seed, 3);
    let mut random = |n: usize| -> Vec<f64> { (0..n).map(|_| 2.0 * rng.unit() - 1.0).collect() };
    let (x, q, k) = (random(tokens * width), random(tokens * HEAD), random(tokens * HEAD));
    let (to_values, to_gates, to_outputs) = (random(width * HEAD), random(width * HEAD), random(HEAD * width));
    let attention = Attention { key_width: HEAD, value_width: width, causal: true, ..Attention::default() };
    let cu = [0, tokens as i32];
    let (attended, _) = naive::Inputs {
        attention: &attention,
        q: &q,
        k: &k,
        v: &x,
        cu_seqlens_q: &cu,
        cu_seqlens_k: &cu,
        alibi_slopes: None,
        block_mask: None,
    }
    .forward();
    let product = |a: &[f64], b: &[f64], inner: usize| -> Vec<f64> {
        let columns = b.len() / inner;
        let dot = |row: &[f64], c: usize| row.iter().enumerate().map(|(i, a)| a * b[i * columns + c]).sum();
        a.chunks_exact(inner).flat_map(|row| (0..columns).map(move |c| dot(row, c))).collect()
    };
    let mut values = product(&attended, &to_values, width);
    if gated {
        let gates = product(&x, &to_gates, width);
        values.iter_mut().zip(gates).for_each(|(v, s)| *v /= 1.0 + (-s).exp());
    }
    let y = product(&values, &to_outputs, HEAD);
    let rows = |with_y: bool| -> Vec<Vec<f64>> {
        let pairs = attended.chunks_exact(width).zip(y.chunks_exact(width));
        pairs.map(|(a, y)| if with_y { [a, y].concat() } else { a.to_vec() }).collect()
    };
    rank(rows(true)) as f64 - rank(rows(false)) as f64
}

/// Numerical rank: pivots of Gaussian elimination, the largest element first, above 1e-10 of the first.
fn rank(mut rows: Vec<Vec<f64>>) -> usize {
    let columns = rows.first().map_or(0, Vec::len);
    let (mut first, mut done) = (0.0, 0);
    while done < rows.len().min(columns) {
        let places = (done..rows.len()).flat_map(|r| (0..columns).map(move |c| (r, c)));
        let Some((r, c)) = places.max_by(|a, b| rows[a.0][a.1].abs().total_cmp(&rows[b.0][b.1].abs())) else { break };
        let pivot = rows[r][c];
        first = if done == 0 { pivot.abs() } else { first };
        if pivot.abs() <= 1e-10 * first {
            break;
        }
        rows.swap(done, r);
        let top = rows[done].clone();
        for row in &mut rows[done + 1..] {
            let factor = row[c] / pivot;
            row.iter_mut().zip(&top).for_each(|(x, t)| *x -= factor * t);
            row[c] = 0.0;
        }
        done += 1;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_counts_independent_rows() {
        let row = |a: f64, b: f64| vec![a, b, 2.0 * a - b, a + 3.0 * b];
        assert_eq!(rank(vec![row(1.0, 0.0), row(0.0, 1.0), row(5.0, -7.0), row(1e-3, 2e3)]), 2);
        assert_eq!(rank(vec![vec![0.0; 3]; 2]), 0);
        assert_eq!(rank(Vec::new()), 0);
    }

    #[test]
    fn only_a_gated_head_adds_rank() {
        assert_eq!((added_rank(5, false), added_rank(5, true)), (0.0, HEAD as f64));
    }
}
