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
            let scaled = self.scaled(row, bytes)?;
            for (x, block) in row.chunks_exact(len).zip(bytes.chunks_exact_mut(size)) {
                block.copy_from_slice(&scaled);
                self.levels.choose(x, block)?;
            }
        }
        Ok(())
    }
}

impl OneScale<'_> {
    /// A block with the scales of the row, whose blocks have their own so far.
    fn scaled(&self, row: &[f32], bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let (len, size) = (self.levels.format().layout().block_len, self.levels.format().layout().block_bytes);
        let larger = |at: usize, i: usize| if row[i].abs() > row[at].abs() { i } else { at };
        let largest = (0..row.len()).fold(0, larger);
        let mut block = bytes[largest / len * size..][..size].to_vec();
        // A block with one scale has the one wanted; a ramp would be given another where the lowest level lies beyond
        // the highest, as in Q8_0.
        if self.levels.is_symmetric() && self.levels.group() == len {
            return Ok(block);
        }
        let (low, high) = if self.levels.is_symmetric() {
            let bounds = self.levels.bounds(&mut block)?;
            (bounds.low[largest % len], bounds.high[largest % len])
        } else {
            row.iter().fold((0.0f32, 0.0f32), |(low, high), x| (low.min(*x), high.max(*x)))
        };
        self.levels.block_with(&Bounds { low: vec![low; len], high: vec![high; len] }, &mut block)?;
        Ok(block)
    }
}
