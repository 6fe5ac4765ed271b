//! `gptq`: the error of each column is made up for by the columns after it.
//!
//! Rows w are independent; the error that counts is (w - ŵ) H (w - ŵ)ᵀ with H = XᵀX. With H⁻¹ = UᵀU, column j is rounded
//! to ŵ_j and every later column k changes by -(w_j - ŵ_j) U_jk / U_jj: the best answer to the error that was made. A
//! block's scales are chosen when its first column is reached, from the values as they are then; columns after it within the
//! block take their nearest level under these scales. A value that no error has reached keeps the code of the encoder that
//! chose the scales.
//!
//! Columns are taken in order of falling mean square, which leaves small errors for the end: any order of blocks, and any
//! order within a block, since a block's scales do not depend on the order of its codes.
//!
//! Source: Frantar et al. 2022 (arXiv 2210.17323), sections 3.3 and 4; H damped by a hundredth of its mean diagonal.

use memwall_formats::{Format, FormatError};
use memwall_kernels::Pool;

use super::{DAMPING, Importance, Inputs, Method, RowEncoder, damped};
use crate::QuantizeError;
use crate::block_search::BlockSearch;
use crate::cholesky::inverse_factor;
use crate::levels::Levels;
use crate::statistics::Collect;

/// Error compensation.
#[derive(Clone, Copy, Debug)]
pub struct Gptq {
    /// How a block's scales are chosen.
    pub scales: Scales,
}

/// How a block's scales are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// By the format's own encoder.
    Own,
    /// As `importance` chooses them.
    Searched,
}

impl Method for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn collect(&self) -> Option<Collect> {
        Some(Collect::Moments)
    }

    fn encoder<'a>(
        &self,
        format: &'a dyn Format,
        inputs: Inputs<'a>,
        pool: &Pool,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        let width = inputs.mean_squares.len();
        let (Some(levels), Some(search), Some(h)) = (Levels::of(format), Importance::search(format), inputs.moments)
        else {
            return Ok(Box::new(format));
        };
        let len = format.layout().block_len;
        if !width.is_multiple_of(len) {
            return Ok(Box::new(format));
        }
        let diagonal = |i: usize| h[i * width + i];
        let mean = (0..width).map(diagonal).sum::<f64>() / width as f64;
        // Without inputs every direction is as good as another.
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        let order = order(width, len, diagonal);
        let factor = inverse_factor(width, damping, |i, j| h[order[i] * width + order[j]], pool)?;
        let search = (self.scales == Scales::Searched).then_some(search);
        Ok(Box::new(Compensated { levels, search, weights: damped(inputs.mean_squares), order, factor }))
    }
}

/// The order of columns: blocks by falling sum, and within each by falling value, of `diagonal`.
fn order(width: usize, len: usize, diagonal: impl Fn(usize) -> f64) -> Vec<usize> {
    let sum = |block: usize| (block * len..(block + 1) * len).map(&diagonal).sum::<f64>();
    let mut blocks: Vec<(f64, usize)> = (0..width / len).map(|b| (sum(b), b)).collect();
    blocks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let columns = blocks.into_iter().flat_map(|(_, block)| {
        let mut columns: Vec<usize> = (block * len..(block + 1) * len).collect();
        columns.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)).then(a.cmp(&b)));
        columns
    });
    columns.collect()
}

/// What the rows of a weight need.
struct Compensated<'f> {
    levels: Levels<'f>,
    search: Option<BlockSearch<'f>>,
    weights: Vec<f32>,
    /// Column at each place.
    order: Vec<usize>,
    /// U [width, width], in the order of places.
    factor: Vec<f32>,
}

/// Rows that share a pass over the factor: it is read from memory once for all of them.
const ROWS: usize = 32;

impl RowEncoder for Compensated<'_> {
    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let format = self.levels.format();
        // What cannot be encoded is refused with the row and column that the caller knows.
        format.encode(cols, values, bytes)?;
        let row_bytes = cols / format.layout().block_len * format.layout().block_bytes;
        for (values, bytes) in values.chunks(ROWS * cols).zip(bytes.chunks_mut(ROWS * row_bytes)) {
            self.encode_rows(cols, values, bytes)?;
        }
        Ok(())
    }
}

impl Compensated<'_> {
    fn encode_rows(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let (len, size) = (self.levels.format().layout().block_len, self.levels.format().layout().block_bytes);
        let row_bytes = cols / len * size;
        // Values in the order of places.
        let mut w: Vec<f32> = values.chunks(cols).flat_map(|row| self.order.iter().map(|&c| row[c])).collect();
        let mut errors = vec![0.0; w.len() / cols * len];
        for from in (0..cols).step_by(len) {
            let first = self.order[from..from + len].iter().min().copied().unwrap_or(0);
            for ((w, bytes), errors) in w.chunks_mut(cols).zip(bytes.chunks_mut(row_bytes)).zip(errors.chunks_mut(len))
            {
                self.encode_block(cols, from, first, w, &mut bytes[first / len * size..][..size], errors)?;
            }
            for (t, u) in self.factor[from * cols..].chunks(cols).take(len).enumerate() {
                for (w, errors) in w.chunks_mut(cols).zip(errors.chunks(len)) {
                    let (e, to) = (errors[t], from + len);
                    w[to..].iter_mut().zip(&u[to..]).for_each(|(w, u)| *w -= e * u);
                }
            }
        }
        Ok(())
    }

    /// Encodes the block of columns `first..first + len`, which has the places from `from` on; `errors` are those of its
    /// columns over U_jj, in the order of places.
    fn encode_block(
        &self,
        cols: usize,
        from: usize,
        first: usize,
        w: &mut [f32],
        block: &mut [u8],
        errors: &mut [f32],
    ) -> Result<(), FormatError> {
        let format = self.levels.format();
        let len = errors.len();
        let mut x = vec![0.0; len];
        for place in from..from + len {
            x[self.order[place] - first] = w[place];
        }
        format.encode(len, &x, block)?;
        if let Some(search) = &self.search {
            search.improve(&x, &self.weights[first..first + len], block)?;
        }
        let mut y = vec![0.0; len];
        format.decode(len, block, &mut y)?;
        let bounds = self.levels.bounds(&mut block.to_vec())?;
        for (t, to) in errors.iter_mut().enumerate() {
            let (place, i) = (from + t, self.order[from + t] - first);
            let (low, high, value) = (bounds.low[i], bounds.high[i], w[place]);
            if value != x[i]
                && let Some(level) = self.levels.nearest(value, low, high)
            {
                format.set_code(block, i, self.levels.code(level));
                y[i] = low + self.levels.place(level) * (high - low);
            }
            let u = &self.factor[place * cols..(place + 1) * cols];
            let error = (value - y[i]) / u[place];
            *to = error;
            w[place + 1..from + len].iter_mut().zip(&u[place + 1..from + len]).for_each(|(w, u)| *w -= error * u);
        }
        Ok(())
    }
}
