//! Times of products of one row with matrices in FP6, INT4 and f32.

use std::time::Instant;

use memwall_formats::{Dtype, format};
use memwall_kernels::Pool;
use memwall_kernels::linear::{Weights, linear, linear_scratch};
use memwall_tasks::Philox;

use crate::{Error, Run};

pub(super) const FORMATS: [Dtype; 3] = [Dtype::FP6, Dtype::Q4_0, Dtype::F32];

/// A matrix in one format, as often as it takes to be read from memory and not from a cache.
struct Matrices {
    dtype: Dtype,
    bytes: Vec<u8>,
    each: usize,
}

/// The least seconds of each format over `rounds`, all of them in every round, and GB/s of each.
pub(super) fn seconds(run: &Run, pool: &Pool, size: usize, rounds: usize, seed: u64) -> Result<[[f64; 2]; 3], Error> {
    let total: usize = run.pick(1 << 20, 320 << 20, 320 << 20);
    let mut rng = Philox::new(seed, 243);
    // A few rows, again and again: which changes no time.
    let rows: Vec<f32> = (0..16 * size).map(|_| rng.unit() as f32 - 0.5).collect();
    let x = &rows[..size];
    let mut all = Vec::new();
    for dtype in FORMATS {
        let row = dtype.row_bytes(size).ok_or_else(|| Error::experiment(format!("rows of {size} in {dtype}")))?;
        let mut few = vec![0; 16 * row];
        format(dtype).encode(size, &rows, &mut few).map_err(Error::experiment)?;
        let each = size * row;
        all.push(Matrices { dtype, bytes: few.repeat(total.div_ceil(each) * size / 16), each });
    }
    let mut best = [f64::INFINITY; 3];
    let mut y = vec![0.0; size];
    let need = FORMATS.map(|dtype| linear_scratch(dtype, 1, size, size, pool.threads()));
    let mut scratch = vec![0; need.into_iter().max().unwrap_or(0)];
    for round in 0..=rounds {
        run.step("timing products", round as u64, rounds as u64 + 1)?;
        for (best, matrices) in best.iter_mut().zip(&all) {
            let copies = matrices.bytes.chunks_exact(matrices.each);
            let (start, count) = (Instant::now(), copies.len());
            for bytes in copies {
                let w = Weights { dtype: matrices.dtype, bytes, n: size, k: size };
                linear(pool, w, x, 1, &mut y, &mut scratch);
            }
            let seconds = start.elapsed().as_secs_f64() / count as f64;
            if round > 0 {
                *best = best.min(seconds);
            }
        }
    }
    let mut figures = [[0.0; 2]; 3];
    for ((figure, seconds), matrices) in figures.iter_mut().zip(best).zip(&all) {
        *figure = [seconds, matrices.each as f64 / seconds * 1e-9];
    }
    Ok(figures)
}
