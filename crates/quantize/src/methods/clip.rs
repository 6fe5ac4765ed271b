//! `clip`: how much of a sub-block's range is given up for finer levels.
//!
//! The bounds that the format chooses are shrunk step by step, down to 0.7 of themselves; the step of least weighted error
//! stays. Weights are the inputs' mean squares, as in `importance`, whose least squares it goes without.

use memwall_formats::Format;
use memwall_kernels::Pool;

use super::importance::Searched;
use super::{Inputs, Method, RowEncoder, damped};
use crate::QuantizeError;
use crate::block_search::BlockSearch;
use crate::levels::Levels;
use crate::statistics::Collect;

/// A search of clipping ranges.
#[derive(Clone, Copy, Debug)]
pub struct Clip;

const FACTORS: [f32; 12] = [0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75, 0.725, 0.7];

impl Method for Clip {
    fn name(&self) -> &'static str {
        "clip"
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
        Ok(match Levels::of(format) {
            Some(levels) => {
                let search = BlockSearch { levels, factors: &FACTORS, fits: false };
                Box::new(Searched { search, weights: damped(inputs.mean_squares) })
            }
            None => Box::new(format),
        })
    }
}
