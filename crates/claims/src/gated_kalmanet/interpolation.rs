//! What is read back of random pairs, without training: by linear attention, one pass of the delta rule, the ridge.

use memwall_kernels::Pool;
use memwall_kernels::ridge::{Form, Ridge, RidgeInputs, naive, ridge_forward, ridge_scratch};
use memwall_tasks::Philox;

use super::solving::rows;
use crate::evidence::{Curve, Line, Point};

/// Channels of keys and values.
pub(super) const WIDTH: usize = 64;

/// Mean cosines of what is read with what was written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recalled {
    pub linear: f64,
    pub delta: f64,
    /// By the direct solver.
    pub ridge: f64,
    /// By 30 steps.
    pub iterated: f64,
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Mᵀ x for M [WIDTH, WIDTH], rows by key channel.
fn read(memory: &[f64], x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; WIDTH];
    for (row, x) in memory.chunks_exact(WIDTH).zip(x) {
        y.iter_mut().zip(row).for_each(|(y, m)| *y += m * x);
    }
    y
}

fn write(memory: &mut [f64], k: &[f64], v: &[f64]) {
    for (row, k) in memory.chunks_exact_mut(WIDTH).zip(k) {
        row.iter_mut().zip(v).for_each(|(m, v)| *m += k * v);
    }
}

/// `n` pairs written, then each read once; means over pairs and draws.
pub(super) fn recalled(pool: &Pool, n: usize, draws: usize, seed: u64) -> Recalled {
    let mut mean = Recalled::default();
    let mut rng = Philox::new(seed, 4);
    for _ in 0..draws {
        let (keys, values) = (rows(n, WIDTH, false, &mut rng), rows(n, WIDTH, false, &mut rng));
        let [mut sum, mut delta] = [vec![0.0; WIDTH * WIDTH], vec![0.0; WIDTH * WIDTH]];
        for (k, v) in keys.chunks_exact(WIDTH).zip(values.chunks_exact(WIDTH)) {
            write(&mut sum, k, v);
            let missing: Vec<f64> = v.iter().zip(read(&delta, k)).map(|(v, held)| v - held).collect();
            write(&mut delta, k, &missing);
        }
        // Reading is a token whose key is zero: H stays.
        let ridge = Ridge::new(1, WIDTH);
        let nothing = vec![0.0; n * WIDTH];
        let (q, k) = ([&nothing[..], &keys].concat(), [&keys[..], &nothing].concat());
        let cu_seqlens = &[0, 2 * n as i32];
        let x = RidgeInputs { q: &q, k: &k, g: None, cu_seqlens, initial_state: None };
        let (mut out, mut h) = (vec![0.0; q.len()], vec![0.0; WIDTH * WIDTH]);
        let mut scratch = vec![0; ridge_scratch::<f64>(&ridge, Form::Chunked, 2 * n, pool.threads())];
        ridge_forward(pool, &ridge, Form::Chunked, &x, &mut out, &mut h, &mut scratch);
        let lambda = ridge.ridge_strength * h.iter().map(|h| h * h).sum::<f64>().sqrt();
        let share = 1.0 / (n * draws) as f64;
        let iterated = out[n * WIDTH..].chunks_exact(WIDTH);
        for ((k, v), x) in keys.chunks_exact(WIDTH).zip(values.chunks_exact(WIDTH)).zip(iterated) {
            mean.linear += share * cosine(&read(&sum, k), v);
            mean.delta += share * cosine(&read(&delta, k), v);
            mean.ridge += share * cosine(&read(&sum, &naive::cholesky(&h, lambda, k)), v);
            mean.iterated += share * cosine(&read(&sum, x), v);
        }
    }
    mean
}

/// Cosine over the number of pairs; a seed each in `read`.
pub(super) fn curve(counts: &[usize], read: &[Vec<Recalled>]) -> Curve {
    let line = |name: &str, of: fn(&Recalled) -> f64| Line {
        name: name.to_owned(),
        points: (counts.iter().enumerate())
            .map(|(i, &n)| Point { x: n as f64, per_seed: read.iter().map(|r| of(&r[i])).collect() })
            .collect(),
    };
    Curve {
        what: format!("values read back of random pairs, {WIDTH} channels, no training"),
        x_label: "pairs".to_owned(),
        y_label: "cosine".to_owned(),
        log_x: true,
        log_y: false,
        lines: vec![
            line("linear attention", |r| r.linear),
            line("delta rule", |r| r.delta),
            line("ridge", |r| r.ridge),
            line("ridge, 30 steps", |r| r.iterated),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ridge_reads_most_and_thirty_steps_are_it() {
        let r = recalled(&Pool::new(1), WIDTH / 2, 2, 9);
        assert!(r.ridge > 0.97 && r.ridge > r.delta && r.ridge > r.linear, "{r:?}");
        assert!((r.iterated - r.ridge).abs() < 1e-3, "{r:?}");
    }
}
