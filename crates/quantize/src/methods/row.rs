//! `row`: one scale for a whole row, stored in each of its blocks.
//!
//! The bounds of every block are those of the row: what the format's encoder gives the block that holds the row's largest value, or,
//! in formats with minima, the row's least and largest value. Floats of six bits lose nothing much by so coarse a scale,
//! integers of four do: that is the point of "ZeroQuant(4+2)" (arXiv 2312.08583), whose quantizer of weights this is for FP6.

use memwall_formats::{Format, FormatError};
use memwall_kernels::Pool;

use super::{Inputs, Method, RowEncoder};
use crate::QuantizeError;
use crate::levels::{Bounds, Levels};
use crate::statistics::Collect;

/// One scale for a row.
#[derive(Clone, Copy, Debug)]
pub struct Row;

impl Method for Row {
    fn name(&self) -> &'static str {
        "row"
    }

    fn collect(&self) -> Option<Collect> {
        None
    }

    fn encoder<'a>(
        &self,
        format: &'a dyn Format,
        _: Inputs<'a>,
        _: &Pool,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        Ok(match Levels::of(format) {
            Some(levels) => Box::new(OneScale { levels }),
            None => Box::new(format),
        })
    }
}

struct OneScale<'f> {
    levels: Levels<'f>,
}

impl RowEncoder for OneScale<'_> {
    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let format = self.levels.format();
        // What cannot be encoded is refused with the row and column that the caller knows.
        format.encode(cols, values, bytes)?;
        let (len, size) = (format.layout().block_len, format.layout().block_bytes);
        for (row, bytes) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(cols / len * size)) {
            let wanted = self.bounds(row, bytes)?;
            for (x, block) in row.chunks_exact(len).zip(bytes.chunks_exact_mut(size)) {
                self.levels.block_with(&wanted, block)?;
                self.levels.choose(x, block)?;
            }
        }
        Ok(())
    }
}

impl OneScale<'_> {
    /// The bounds of a row, whose blocks have their own so far.
    fn bounds(&self, row: &[f32], bytes: &[u8]) -> Result<Bounds, FormatError> {
        let (len, size) = (self.levels.format().layout().block_len, self.levels.format().layout().block_bytes);
        let (low, high) = if self.levels.is_symmetric() {
            let larger = |at: usize, i: usize| if row[i].abs() > row[at].abs() { i } else { at };
            let at = (0..row.len()).fold(0, larger);
            let bounds = self.levels.bounds(&mut bytes[at / len * size..][..size].to_vec())?;
            (bounds.low[at % len], bounds.high[at % len])
        } else {
            row.iter().fold((0.0f32, 0.0f32), |(low, high), x| (low.min(*x), high.max(*x)))
        };
        Ok(Bounds { low: vec![low; len], high: vec![high; len] })
    }
}
