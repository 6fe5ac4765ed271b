//! `importance`: scales that make the error small where inputs are large.
//!
//! With independent inputs, an output's error has mean square Σ_j E[x_j²] (w_j - ŵ_j)²: the sum that the search of
//! [`BlockSearch`] minimizes in each sub-block, scale (and minimum) by weighted least squares over trial grids.

use memwall_formats::{Format, FormatError};
use memwall_kernels::Pool;

use super::{Inputs, Method, RowEncoder, damped};
use crate::QuantizeError;
use crate::block_search::BlockSearch;
use crate::levels::Levels;
use crate::statistics::Collect;

/// Weighted least squares over trial grids.
#[derive(Clone, Copy, Debug)]
pub struct Importance;

/// Trial grids: from much clipped to wider than the format's own.
const FACTORS: [f32; 10] = [1.0, 0.65, 0.72, 0.79, 0.86, 0.9, 0.94, 0.97, 1.04, 1.1];

/// A search and the weights of its columns.
pub(super) struct Searched<'f> {
    pub(super) search: BlockSearch<'f>,
    pub(super) weights: Vec<f32>,
}

impl Importance {
    /// The search that the method makes, if the format has levels.
    pub(super) fn search(format: &dyn Format) -> Option<BlockSearch<'_>> {
        Some(BlockSearch { levels: Levels::of(format)?, factors: &FACTORS, fits: true })
    }
}

impl Method for Importance {
    fn name(&self) -> &'static str {
        "importance"
    }

    fn collect(&self) -> Option<Collect> {
        Some(Collect::Squares)
    }

    fn encoder<'a>(
        &self,
        format: &'a dyn Format,
        inputs: Inputs<'a>,
        _: &Pool,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        Ok(match Importance::search(format) {
            Some(search) => Box::new(Searched { search, weights: damped(inputs.mean_squares) }),
            None => Box::new(format),
        })
    }
}

impl RowEncoder for Searched<'_> {
    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        self.search.encode(cols, &self.weights, values, bytes)
    }
}
