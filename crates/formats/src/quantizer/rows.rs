//! What is done with the rows of a tensor under a format: they are rounded, or it is said which values are clipped.

use crate::element::Element;
use crate::format::{Format, FormatError};
use crate::scaled::{Scaled, Under};

/// Something that is done block by block.
pub(super) trait Rows: Copy {
    /// A block under its scale; `first` is the place of its first value.
    fn block<E: Element>(self, format: &Scaled<E>, under: Under, first: usize, x: &[f32], y: &mut [f32]);

    /// The values of a row of stored blocks.
    fn row(
        self,
        format: &dyn Format,
        bytes: &mut [u8],
        x: &[f32],
        y: &mut [f32],
        block: &mut [f32],
    ) -> Result<(), FormatError>;

    /// Rows of `cols` values, block by block.
    fn run<E: Element>(self, format: &Scaled<E>, cols: usize, x: &[f32], y: &mut [f32]) -> Result<(), FormatError> {
        let len = format.block_len();
        for (b, (x, y)) in x.chunks_exact(len).zip(y.chunks_exact_mut(len)).enumerate() {
            let under = format.choose(x, b * len, cols)?;
            self.block(format, under, b * len, x, y);
        }
        Ok(())
    }

    /// Rows of `cols` values through the bytes of a type of files.
    fn stored(
        self,
        format: &dyn Format,
        cols: usize,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), FormatError> {
        let layout = format.layout();
        let row_bytes = layout.row_bytes(cols).unwrap_or(0);
        let (bytes, rest) = scratch.split_at_mut(row_bytes);
        // Bytes before values: scratch may begin anywhere.
        let pad = rest.as_ptr().align_offset(align_of::<f32>());
        let rest = &mut rest[pad..];
        let whole = rest.len() / size_of::<f32>() * size_of::<f32>();
        let block: &mut [f32] = bytemuck::cast_slice_mut(&mut rest[..whole]);
        for (i, (x, y)) in x.chunks_exact(cols.max(1)).zip(y.chunks_exact_mut(cols.max(1))).enumerate() {
            format.encode(cols, x, bytes).map_err(|e| e.below(i))?;
            self.row(format, bytes, x, y, block)?;
        }
        Ok(())
    }
}

/// Values that come back.
#[derive(Clone, Copy)]
pub(super) struct Round;

impl Rows for Round {
    fn block<E: Element>(self, format: &Scaled<E>, under: Under, first: usize, x: &[f32], y: &mut [f32]) {
        format.round_under(under, first, x, y);
    }

    fn row(
        self,
        format: &dyn Format,
        bytes: &mut [u8],
        _: &[f32],
        y: &mut [f32],
        _: &mut [f32],
    ) -> Result<(), FormatError> {
        format.decode(y.len(), bytes, y)
    }
}

/// 1 for values that are not clipped.
#[derive(Clone, Copy)]
pub(super) struct Reached;

impl Rows for Reached {
    fn block<E: Element>(self, format: &Scaled<E>, under: Under, _: usize, x: &[f32], y: &mut [f32]) {
        format.reached_under(under, x, y);
    }

    /// A stored block says nothing of what it reaches: under its scales, every code is decoded in every place.
    fn row(
        self,
        format: &dyn Format,
        bytes: &mut [u8],
        x: &[f32],
        y: &mut [f32],
        block: &mut [f32],
    ) -> Result<(), FormatError> {
        let layout = format.layout();
        let (len, size) = (layout.block_len, layout.block_bytes);
        if len == 1 {
            y.fill(1.0);
            return Ok(());
        }
        let (values, ends) = block.split_at_mut(len);
        let (low, high) = ends.split_at_mut(len);
        let blocks = bytes.chunks_exact_mut(size).zip(x.chunks_exact(len).zip(y.chunks_exact_mut(len)));
        for (bytes, (x, y)) in blocks {
            low.fill(f32::INFINITY);
            high.fill(f32::NEG_INFINITY);
            for code in 0..=format.largest_code() {
                (0..len).for_each(|i| format.set_code(bytes, i, code));
                format.decode(len, bytes, values)?;
                for (v, (low, high)) in values.iter().zip(low.iter_mut().zip(high.iter_mut())) {
                    (*low, *high) = (low.min(*v), high.max(*v));
                }
            }
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                // Scales were rounded to half precision at least: the largest value is not out of reach for that.
                let slack = 1.0 / 1024.0 * low[i].abs().max(high[i].abs());
                *y = f32::from(u8::from((low[i] - slack..=high[i] + slack).contains(x)));
            }
        }
        Ok(())
    }
}
