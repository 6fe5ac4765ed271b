//! Sixteen chains over a slice, lanes neighbours in k: F16 and BF16 for a few rows of x.
//!
//! Rows of weights are read one by one from end to end, which the processor's own prefetchers follow (two at a time, they
//! do not). Rows of 4 KiB side by side, as [`super::chain`] reads them, would compete for the same sets of the first cache
//! level.

use super::{CHAINS, FloatFormat, SLICE_WORDS, term};
use crate::linear::lanes::Lanes;
use crate::linear::leaf::{Columns, Job};

/// Weight rows whose chains wait for each other.
const GROUP: usize = 16;

/// The chains of a group of weight rows.
type Chains = [[f32; CHAINS]; GROUP];

/// All columns of a task for `R` rows of x.
///
/// # Safety
/// The processor has the instruction set; the job holds what it says.
#[inline(always)]
pub(in crate::linear) unsafe fn columns<L: Lanes, F: FloatFormat, const R: usize>(job: &Job, columns: Columns) {
    let x = job.x.cast::<u32>();
    for column in (columns.begin..columns.end).step_by(GROUP) {
        let rows = GROUP.min(columns.end - column);
        let mut y = [[0.0; GROUP]; R];
        for begin in (0..job.terms).step_by(SLICE_WORDS) {
            let words = SLICE_WORDS.min(job.terms - begin);
            let at = begin / F::WORDS * 32;
            let bytes = (words * 32 / F::WORDS).min(job.row_bytes - at);
            let mut chains = [[[0.0; CHAINS]; GROUP]; R];
            // SAFETY: as the caller promises.
            unsafe {
                let x = x.add(begin);
                for i in 0..rows {
                    let row = std::slice::from_raw_parts(job.row(column + i).add(at), bytes);
                    slice::<L, F, R>(row, x, job.terms, words, i, &mut chains);
                }
            }
            for (y, chains) in y.iter_mut().zip(&chains) {
                for c in 0..CHAINS {
                    for (y, chains) in y.iter_mut().zip(chains) {
                        *y = if begin == 0 && c == 0 { chains[0] } else { *y + chains[c] };
                    }
                }
            }
        }
        for (r, y) in y.iter().enumerate() {
            // SAFETY: as the caller promises: row r has these columns.
            unsafe { std::ptr::copy_nonoverlapping(y.as_ptr(), job.y.add(r * job.n + column), rows) };
        }
    }
}

/// The chains of a slice of row `i` of the group.
///
/// # Safety
/// The processor has the instruction set; x has the lengths given.
#[inline(always)]
unsafe fn slice<L: Lanes, F: FloatFormat, const R: usize>(
    weights: &[u8],
    x: *const u32,
    stride: usize,
    words: usize,
    i: usize,
    chains: &mut [Chains; R],
) {
    let vectors = CHAINS / L::LANES;
    let vector_bytes = 32 / F::WORDS * L::LANES;
    // The last word of a row may be half there.
    let whole = weights.len() * F::WORDS / 32 / CHAINS * CHAINS;
    // SAFETY: as the caller promises; what is left of a row is copied out before it is read.
    unsafe {
        let mut acc = [[L::splat_f(0.0); CHAINS]; R];
        for k in (0..whole).step_by(CHAINS) {
            let at = k / F::WORDS * 32;
            for v in 0..vectors {
                let w = F::neighbours::<L>(weights.as_ptr().add(at + v * vector_bytes));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = L::load(x.add(r * stride + k + v * L::LANES).cast());
                    acc[v] = if F::PAIRS { term::<L, true>(acc[v], w, x) } else { term::<L, false>(acc[v], w, x) };
                }
            }
        }
        for (r, (acc, chains)) in acc.iter().zip(chains).enumerate() {
            let to = &mut chains[i];
            for v in 0..vectors {
                L::store_f(acc[v], to[v * L::LANES..].as_mut_ptr().cast());
            }
            if whole < words {
                let x = std::slice::from_raw_parts(x.add(r * stride + whole), words - whole);
                rest::<L, F>(&weights[whole / F::WORDS * 32..], x, to);
            }
        }
    }
}

/// Adds the last words, at most as many as there are chains, one to each of the first chains.
///
/// # Safety
/// As [`slice`].
#[inline(always)]
unsafe fn rest<L: Lanes, F: FloatFormat>(weights: &[u8], x: &[u32], chains: &mut [f32; CHAINS]) {
    let (mut w, mut all_x, mut sums) = ([0u8; 4 * CHAINS], [0u32; CHAINS], [0.0; CHAINS]);
    w[..weights.len()].copy_from_slice(weights);
    all_x[..x.len()].copy_from_slice(x);
    for first in (0..CHAINS).step_by(L::LANES) {
        // SAFETY: as the caller promises; the arrays hold a vector from here on.
        unsafe {
            let acc = L::load_f(chains[first..].as_ptr().cast());
            let w = F::neighbours::<L>(w[32 / F::WORDS * first..].as_ptr());
            let x = L::load(all_x[first..].as_ptr().cast());
            let sum = if F::PAIRS { term::<L, true>(acc, w, x) } else { term::<L, false>(acc, w, x) };
            L::store_f(sum, sums[first..].as_mut_ptr().cast());
        }
    }
    chains[..x.len()].copy_from_slice(&sums[..x.len()]);
}
