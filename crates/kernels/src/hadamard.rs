//! The Walsh–Hadamard rotation with random signs, block by block along a row.
//!
//! A block x of n = 2^k values becomes `y = (s ∘ x) H / √n`, with signs s and `H_ij = (-1)^(number of ones in i & j)`:
//! an orthogonal map, so `(x R) · (w R) = x · w`, and one whose outputs are sums of all inputs with equal weights, so
//! that an outlier is spread over its block. The transform is k rounds of sums and differences, in place, in an order
//! that depends on n alone; then one product with 1/√n.
//!
//! Source: Sylvester 1867; the signs as in QuIP# (Tseng et al. 2024) and QuaRot (Ashkboos et al. 2024).

use crate::disjoint::Disjoint;
use crate::rows::for_rows;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Why there is no such rotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HadamardError {
    /// Hadamard's matrix is known for other sizes too, but the fast transform is of powers of two.
    #[error("a Hadamard rotation has blocks of a power of two, not {block}")]
    NotAPowerOfTwo {
        /// The block length asked for.
        block: usize,
    },
    /// The last block would be cut short.
    #[error("rows of {width} values are not whole blocks of {block}; blocks of {largest} are the largest that fit")]
    Ragged {
        /// Values of a row.
        width: usize,
        /// The block length asked for.
        block: usize,
        /// The largest power of two that divides the width.
        largest: usize,
    },
}

/// A rotation of rows of one width.
#[derive(Clone, Debug, PartialEq)]
pub struct Hadamard {
    block: usize,
    /// 1 or -1 for each place of a row.
    signs: Vec<f32>,
}

impl Hadamard {
    /// Of rows of `width` values in blocks of `block`, with the signs of `seed`.
    ///
    /// # Errors
    /// A block that is no power of two, or does not divide the width.
    pub fn new(width: usize, block: usize, seed: u64) -> Result<Hadamard, HadamardError> {
        if !block.is_power_of_two() {
            return Err(HadamardError::NotAPowerOfTwo { block });
        }
        if !width.is_multiple_of(block) {
            return Err(HadamardError::Ragged { width, block, largest: Hadamard::largest_block(width) });
        }
        let sign = |i| if random(seed, i) >> 63 == 0 { 1.0 } else { -1.0 };
        Ok(Hadamard { block, signs: (0..width as u64).map(sign).collect() })
    }

    /// The largest power of two that divides `width`; 1 for rows of none.
    pub fn largest_block(width: usize) -> usize {
        if width == 0 { 1 } else { 1 << width.trailing_zeros() }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.signs.len()
    }

    /// Values of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Turns every row of x [N, width]: `x R`.
    ///
    /// # Panics
    /// If x is not whole rows.
    pub fn rotate<T: Real>(&self, pool: &Pool, x: &mut [T]) {
        self.turn(pool, x, false);
    }

    /// Turns every row of x [N, width] back: `x Rᵀ`.
    ///
    /// # Panics
    /// If x is not whole rows.
    pub fn rotate_back<T: Real>(&self, pool: &Pool, x: &mut [T]) {
        self.turn(pool, x, true);
    }

    fn turn<T: Real>(&self, pool: &Pool, x: &mut [T], back: bool) {
        let width = self.width();
        let rows = crate::rows::rows_of("hadamard: x", x.len(), width);
        let parts = Disjoint::new(x);
        for_rows(pool, rows, width, |range| {
            // SAFETY: each task has rows of its own.
            let x = unsafe { parts.part(range.start * width..range.end * width) };
            T::dispatch(Turn { x, rotation: self, back });
        });
    }
}

/// 64 bits of a seed and a place: SplitMix64.
fn random(seed: u64, place: u64) -> u64 {
    let mut z = seed.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Turn<'a, T> {
    x: &'a mut [T],
    rotation: &'a Hadamard,
    back: bool,
}

impl<T: Real> Kernel<T> for Turn<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Hadamard { block, signs } = self.rotation;
        let scale = T::of(1.0 / (*block as f64).sqrt());
        for row in self.x.chunks_exact_mut(signs.len().max(1)) {
            for (x, signs) in row.chunks_exact_mut(*block).zip(signs.chunks_exact(*block)) {
                if !self.back {
                    signed(x, signs, T::ONE);
                }
                transform(s, x);
                if self.back {
                    signed(x, signs, scale);
                } else {
                    x.iter_mut().for_each(|x| *x *= scale);
                }
            }
        }
    }
}

#[inline(always)]
fn signed<T: Real>(x: &mut [T], signs: &[f32], scale: T) {
    for (x, sign) in x.iter_mut().zip(signs) {
        *x *= T::of(f64::from(*sign)) * scale;
    }
}

/// `x H`: rounds of sums and differences of values `half` apart.
#[inline(always)]
fn transform<S: Simd>(s: S, x: &mut [S::E]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            if half.is_multiple_of(S::LANES) {
                for (low, high) in low.chunks_exact_mut(S::LANES).zip(high.chunks_exact_mut(S::LANES)) {
                    let (a, b) = (s.load(low), s.load(high));
                    s.store(a + b, low);
                    s.store(a - b, high);
                }
            } else {
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, close, values};

    /// The definition, in f64.
    fn naive(h: &Hadamard, x: &[f64]) -> Vec<f64> {
        let n = h.block;
        let mut y = vec![0.0; x.len()];
        for (row, x) in x.chunks(h.width()).enumerate() {
            for (i, y) in y[row * h.width()..][..h.width()].iter_mut().enumerate() {
                let first = i / n * n;
                let term = |j: usize| {
                    let odd = (j & (i - first)).count_ones() % 2 == 1;
                    x[first + j] * f64::from(h.signs[first + j]) * if odd { -1.0 } else { 1.0 }
                };
                *y = (0..n).map(term).sum::<f64>() / (n as f64).sqrt();
            }
        }
        y
    }

    #[test]
    fn it_is_its_definition_in_both_precisions() {
        for (width, block) in [(1, 1), (2, 2), (6, 2), (32, 32), (96, 32), (64, 8), (256, 256), (2048, 1024)] {
            let h = Hadamard::new(width, block, 7).unwrap();
            let x: Vec<f64> = values(5 * width, 3);
            let want = naive(&h, &x);
            let mut wide = x.clone();
            h.rotate(&Pool::new(2), &mut wide);
            close("f64", &wide, &want, 1e-13);
            let mut single: Vec<f32> = cast(&x);
            h.rotate(&Pool::new(1), &mut single);
            close("f32", &single, &want, 1e-5);
        }
    }

    #[test]
    fn it_keeps_products_and_turns_back() {
        let h = Hadamard::new(192, 64, 11).unwrap();
        let (x, w): (Vec<f64>, Vec<f64>) = (values(192, 1), values(192, 2));
        let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        let (mut xr, mut wr) = (x.clone(), w.clone());
        let pool = Pool::new(1);
        h.rotate(&pool, &mut xr);
        h.rotate(&pool, &mut wr);
        assert!((dot(&x, &w) - dot(&xr, &wr)).abs() < 1e-12);
        h.rotate_back(&pool, &mut xr);
        close("back", &xr, &x, 1e-14);
        assert_ne!(h, Hadamard::new(192, 64, 12).unwrap(), "signs are the seed's");
    }

    #[test]
    fn rows_do_not_depend_on_their_number_or_threads() {
        let h = Hadamard::new(96, 32, 1).unwrap();
        let x: Vec<f32> = values(1000 * 96, 5);
        let (mut all, mut one) = (x.clone(), x.clone());
        h.rotate(&Pool::new(3), &mut all);
        for row in one.chunks_mut(96) {
            h.rotate(&Pool::new(1), row);
        }
        assert_eq!(all, one);
    }

    #[test]
    fn what_cannot_be_rotated_is_refused_with_what_can() {
        assert_eq!(Hadamard::new(96, 24, 0), Err(HadamardError::NotAPowerOfTwo { block: 24 }));
        assert_eq!(Hadamard::new(96, 0, 0), Err(HadamardError::NotAPowerOfTwo { block: 0 }));
        assert_eq!(Hadamard::new(96, 64, 0), Err(HadamardError::Ragged { width: 96, block: 64, largest: 32 }));
    }
}
