//! What calibration knows of a layer's inputs: mean squares, largest magnitudes, and second moments where a method needs them.

use memwall_kernels::Pool;
use memwall_kernels::gemm::{Compute, Gemm, gemm, gemm_scratch};
use memwall_store::{Budget, Reservation};

use crate::QuantizeError;

/// What is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collect {
    /// The mean square and the largest magnitude of each input.
    Squares,
    /// Also XᵀX.
    Moments,
}

/// Inputs X [tokens, width] of the linear layers that read the same x, summed over a text.
pub struct InputStatistics {
    weights: Vec<String>,
    width: usize,
    tokens: usize,
    squares: Vec<f64>,
    largest: Vec<f32>,
    moments: Option<Moments>,
    _held: Reservation,
}

/// XᵀX [width, width], and what a window's part of it is computed in.
struct Moments {
    sum: Vec<f64>,
    window: Vec<f64>,
    scratch: Vec<u8>,
}

impl InputStatistics {
    /// Nothing yet, for windows of up to `rows` tokens; its memory is taken from `budget`'s account `calibration`.
    ///
    /// # Errors
    /// If the budget refuses.
    pub fn new(
        weights: Vec<String>,
        width: usize,
        rows: usize,
        collect: Collect,
        threads: usize,
        budget: &Budget,
    ) -> Result<InputStatistics, QuantizeError> {
        let held = budget.take("calibration", InputStatistics::bytes(width, rows, collect, threads))?;
        let moments = (collect == Collect::Moments).then(|| Moments {
            sum: vec![0.0; width * width],
            window: vec![0.0; rows * width],
            scratch: vec![0; scratch_bytes(width, rows, threads)],
        });
        Ok(InputStatistics {
            weights,
            width,
            tokens: 0,
            squares: vec![0.0; width],
            largest: vec![0.0; width],
            moments,
            _held: held,
        })
    }

    /// Bytes that they take.
    pub fn bytes(width: usize, rows: usize, collect: Collect, threads: usize) -> usize {
        let moments = match collect {
            Collect::Squares => 0,
            Collect::Moments => 8 * width * (width + rows) + scratch_bytes(width, rows, threads),
        };
        12 * width + moments
    }

    /// Adds inputs [rows, width].
    ///
    /// # Panics
    /// If there are more rows than a window has.
    pub fn add(&mut self, pool: &Pool, x: &[f32]) {
        let rows = x.len() / self.width;
        self.tokens += rows;
        for row in x.chunks_exact(self.width) {
            for ((sum, largest), x) in self.squares.iter_mut().zip(&mut self.largest).zip(row) {
                *sum += f64::from(*x) * f64::from(*x);
                *largest = largest.max(x.abs());
            }
        }
        let Some(Moments { sum, window, scratch }) = &mut self.moments else { return };
        let window = &mut window[..x.len()];
        for (to, x) in window.iter_mut().zip(x) {
            *to = f64::from(*x);
        }
        gemm(pool, product(self.width, rows), window, window, sum, scratch);
    }

    /// The weights [outputs, width] that read these inputs, by memwall's names.
    pub fn weights(&self) -> &[String] {
        &self.weights
    }

    /// Inputs of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens that were seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The mean square of each input, `[width]`.
    pub fn mean_squares(&self) -> Vec<f32> {
        self.squares.iter().map(|sum| (sum / self.tokens as f64) as f32).collect()
    }

    /// The largest magnitude of each input, `[width]`.
    pub fn largest(&self) -> &[f32] {
        &self.largest
    }

    /// XᵀX [width, width], if it was collected.
    pub fn moments(&self) -> Option<&[f64]> {
        self.moments.as_ref().map(|m| &m.sum[..])
    }

    /// Whether every sum is finite.
    pub fn is_finite(&self) -> bool {
        self.squares.iter().all(|sum| sum.is_finite())
    }
}

fn product(width: usize, rows: usize) -> Gemm {
    Gemm { m: width, n: width, k: rows, a_trans: true, b_trans: false, accumulate: true, compute: Compute::F32 }
}

fn scratch_bytes(width: usize, rows: usize, threads: usize) -> usize {
    gemm_scratch(&product(width, rows), 8, threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_the_sum_of_outer_products_however_the_text_is_cut() {
        let x: Vec<f32> = (0..5 * 3).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let budget = Budget::unlimited();
        let pool = Pool::new(1);
        let mut s = InputStatistics::new(vec!["w".into()], 3, 4, Collect::Moments, 1, &budget).unwrap();
        s.add(&pool, &x[..12]);
        s.add(&pool, &x[12..]);
        let rows = || x.chunks(3);
        for i in 0..3 {
            for j in 0..3 {
                let want: f64 = rows().map(|r| f64::from(r[i]) * f64::from(r[j])).sum();
                assert_eq!(s.moments().unwrap()[3 * i + j], want);
            }
            let want: f32 = rows().map(|r| r[i] * r[i]).sum::<f32>() / 5.0;
            assert_eq!(s.mean_squares()[i], want);
            assert_eq!(s.largest()[i], rows().map(|r| r[i].abs()).fold(0.0, f32::max));
        }
        assert_eq!(budget.held(), InputStatistics::bytes(3, 4, Collect::Moments, 1));
        drop(s);
        assert_eq!(budget.held(), 0);
    }
}
