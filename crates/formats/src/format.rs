//! `Format`: how rows of numbers become bytes and come back, whatever the element type.

use crate::block::{
    BlockFP6, BlockIQ4_NL, BlockIQ4_XS, BlockMXFP4, BlockNVFP4, BlockQ1_0, BlockQ2_0, BlockQ2_K, BlockQ3_K, BlockQ4_0,
    BlockQ4_1, BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K, BlockQ6_K, BlockQ8_0, BlockTQ1_0, BlockTQ2_0, Blocks,
};
use crate::scalar::{BF16, F16, F32, F64, I32};
use crate::{Dtype, Layout};

/// What can go wrong when numbers are encoded or decoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// The rows cannot be cut into whole blocks.
    #[error(
        "rows of {cols} values are not whole blocks of {} as {format} needs; {}",
        format.block_len,
        formats_for_rows(*cols)
    )]
    RaggedRow {
        /// The format asked for.
        format: Layout,
        /// Values in a row.
        cols: usize,
    },
    /// The values are not a whole number of rows.
    #[error("{len} values are not whole rows of {cols}")]
    PartialRow {
        /// Values given.
        len: usize,
        /// Values in a row.
        cols: usize,
    },
    /// A buffer has the wrong size.
    #[error("{values} values in {format} take {need_bytes} bytes, the buffer has {have_bytes}")]
    BufferSize {
        /// The format asked for.
        format: Layout,
        /// Values to encode or decode.
        values: usize,
        /// Bytes that they take.
        need_bytes: usize,
        /// Bytes in the buffer.
        have_bytes: usize,
    },
    /// A block format has no code for NaN and infinity.
    #[error("row {row}, column {col} is {value}; {format} stores finite values only (F32, F16 and BF16 store all)")]
    NotFinite {
        /// The format asked for.
        format: Layout,
        /// Row of the value.
        row: usize,
        /// Column of the value.
        col: usize,
        /// The value.
        value: f32,
    },
    /// The scale of a block would be larger than its format has.
    #[error(
        "row {row}, columns {col}..{} reach ±{amax}: too large for the scales of {format}; F32 and BF16 store them",
        col + format.block_len
    )]
    ScaleOverflow {
        /// The format asked for.
        format: Layout,
        /// Row of the block.
        row: usize,
        /// First column of the block.
        col: usize,
        /// Largest magnitude in the block.
        amax: f32,
    },
    /// An integer type was given something else.
    #[error("row {row}, column {col} is {value}, which is no integer of 32 bits")]
    NotAnInteger {
        /// Row of the value.
        row: usize,
        /// Column of the value.
        col: usize,
        /// The value.
        value: f32,
    },
}

impl FormatError {
    /// The same of a matrix that has `rows` rows before those that were given.
    pub fn below(mut self, rows: usize) -> FormatError {
        match &mut self {
            FormatError::NotFinite { row, .. }
            | FormatError::ScaleOverflow { row, .. }
            | FormatError::NotAnInteger { row, .. } => *row += rows,
            FormatError::RaggedRow { .. } | FormatError::PartialRow { .. } | FormatError::BufferSize { .. } => {}
        }
        self
    }
}

/// A number format: rows of f32 to bytes and back.
///
/// Scalar formats have blocks of one value. A tensor is its rows one after another; a block never spans two rows. The
/// laws that every implementation keeps are in [`crate::laws`].
pub trait Format: Send + Sync {
    /// Name, block length and block bytes.
    fn layout(&self) -> Layout;

    /// Encodes whole rows of `cols` values into exactly `layout().row_bytes(cols)` bytes each.
    ///
    /// # Errors
    /// Ragged rows, wrong buffer size, values that the format cannot hold.
    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError>;

    /// Decodes whole rows of `cols` values. Any bytes of the right length decode.
    ///
    /// # Errors
    /// Ragged rows, wrong buffer size.
    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError>;

    /// The code of value `index` of a block: for block formats the bits left when the scales are set apart.
    ///
    /// # Panics
    /// If `block` is not one block long or `index` is beyond it.
    fn code(&self, block: &[u8], index: usize) -> u64;

    /// Replaces the code of value `index` of a block; the block's scales and other codes stay.
    ///
    /// # Panics
    /// If `block` is not one block long or `index` is beyond it.
    fn set_code(&self, block: &mut [u8], index: usize, code: u64);

    /// The largest code; all from 0 on are valid.
    fn largest_code(&self) -> u64;

    /// The largest |decoded - value| in a block whose largest |value| is `amax`; infinite where the format does not reach so
    /// far: such values are refused or become infinite.
    fn error_bound(&self, amax: f32) -> f32;
}

/// The format of a type.
pub fn format(dtype: Dtype) -> &'static dyn Format {
    match dtype {
        Dtype::F32 => &F32,
        Dtype::F64 => &F64,
        Dtype::F16 => &F16,
        Dtype::BF16 => &BF16,
        Dtype::I32 => &I32,
        Dtype::Q4_0 => const { &Blocks::<BlockQ4_0>::NEW },
        Dtype::Q4_1 => const { &Blocks::<BlockQ4_1>::NEW },
        Dtype::Q5_0 => const { &Blocks::<BlockQ5_0>::NEW },
        Dtype::Q5_1 => const { &Blocks::<BlockQ5_1>::NEW },
        Dtype::Q8_0 => const { &Blocks::<BlockQ8_0>::NEW },
        Dtype::Q2_K => const { &Blocks::<BlockQ2_K>::NEW },
        Dtype::Q3_K => const { &Blocks::<BlockQ3_K>::NEW },
        Dtype::Q4_K => const { &Blocks::<BlockQ4_K>::NEW },
        Dtype::Q5_K => const { &Blocks::<BlockQ5_K>::NEW },
        Dtype::Q6_K => const { &Blocks::<BlockQ6_K>::NEW },
        Dtype::IQ4_NL => const { &Blocks::<BlockIQ4_NL>::NEW },
        Dtype::IQ4_XS => const { &Blocks::<BlockIQ4_XS>::NEW },
        Dtype::TQ1_0 => const { &Blocks::<BlockTQ1_0>::NEW },
        Dtype::TQ2_0 => const { &Blocks::<BlockTQ2_0>::NEW },
        Dtype::MXFP4 => const { &Blocks::<BlockMXFP4>::NEW },
        Dtype::NVFP4 => const { &Blocks::<BlockNVFP4>::NEW },
        Dtype::Q1_0 => const { &Blocks::<BlockQ1_0>::NEW },
        Dtype::Q2_0 => const { &Blocks::<BlockQ2_0>::NEW },
        Dtype::FP6 => const { &Blocks::<BlockFP6>::NEW },
    }
}

/// Checks that `len` values are whole rows of whole blocks and that the buffer has the size that they take.
///
/// # Errors
/// `RaggedRow`, `PartialRow`, `BufferSize`.
pub(crate) fn check_shape(format: &Layout, cols: usize, len: usize, have_bytes: usize) -> Result<(), FormatError> {
    let row_bytes = format.row_bytes(cols).ok_or_else(|| FormatError::RaggedRow { format: format.clone(), cols })?;
    let rows = match cols {
        0 if len == 0 => 0,
        0 => return Err(FormatError::PartialRow { len, cols }),
        _ if !len.is_multiple_of(cols) => return Err(FormatError::PartialRow { len, cols }),
        _ => len / cols,
    };
    // A product that does not fit is larger than any buffer.
    let need_bytes = rows.saturating_mul(row_bytes);
    if need_bytes != have_bytes {
        return Err(FormatError::BufferSize { format: format.clone(), values: len, need_bytes, have_bytes });
    }
    Ok(())
}

fn formats_for_rows(cols: usize) -> String {
    let fitting = Dtype::ALL.into_iter().filter(|d| *d != Dtype::I32 && d.row_bytes(cols).is_some());
    format!("for such rows: {}", fitting.map(Dtype::name).collect::<Vec<_>>().join(", "))
}
