//! Rows of a weight shared out among threads.

use memwall_formats::{Dtype, FormatError};

use crate::methods::RowEncoder;

/// Encodes whole rows of `width` values, each as if it were alone, on up to `threads` threads.
///
/// # Errors
/// As the encoder: rows that cannot be cut into blocks, values that the format cannot hold, by row and column.
pub fn encode(
    encoder: &dyn RowEncoder,
    dtype: Dtype,
    width: usize,
    values: &[f32],
    threads: usize,
) -> Result<Vec<u8>, FormatError> {
    let row_bytes = dtype.row_bytes(width).ok_or(FormatError::RaggedRow { format: dtype.layout(), cols: width })?;
    let rows = values.len() / width.max(1);
    let mut bytes = vec![0; rows * row_bytes];
    let share = rows.div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let parts = values.chunks(share * width).zip(bytes.chunks_mut(share * row_bytes));
        let working: Vec<_> =
            parts.map(|(values, bytes)| scope.spawn(move || encoder.encode(width, values, bytes))).collect();
        working.into_iter().enumerate().try_for_each(|(part, done)| {
            done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(|e| e.below(part * share))
        })
    })?;
    Ok(bytes)
}
