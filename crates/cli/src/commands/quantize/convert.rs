//! A tensor in another format: rows decoded, encoded and compared, a piece at a time.

use std::borrow::Cow;

use anyhow::bail;
use memwall_formats::error::ErrorStatistics;
use memwall_formats::gguf::Writer;
use memwall_formats::{Dtype, format};
use memwall_quantize::{RowEncoder, rows};

use super::sources::Source;

/// Values of the rows that are converted at once.
const PIECE: usize = 1 << 22;

/// Converts the rows of a tensor and writes them; its bytes and its error.
pub(super) fn convert(
    tensor: &Source<'_>,
    to: Dtype,
    encoder: &dyn RowEncoder,
    threads: usize,
    writer: &mut Writer,
) -> anyhow::Result<(u64, ErrorStatistics)> {
    let width = tensor.shape.last().copied().unwrap_or(1).max(1);
    let Some(from_row) = tensor.dtype.row_bytes(width) else {
        bail!("rows of {width} values are no whole blocks");
    };
    let rows_at_once = (PIECE / width).max(1);
    let (mut bytes, mut statistics) = (0, ErrorStatistics::default());
    for (number, stored) in tensor.stored.chunks(rows_at_once * from_row).enumerate() {
        let first = number * rows_at_once;
        let stored = tensor.rows(first, stored, from_row);
        let encoded = if tensor.dtype == to {
            stored
        } else {
            let mut values = vec![0.0; stored.len() / from_row * width];
            decode(tensor.dtype, width, &stored, &mut values, threads)?;
            let encoded = rows::encode(encoder, to, width, &values, threads).map_err(|e| e.below(first))?;
            let mut back = vec![0.0; values.len()];
            decode(to, width, &encoded, &mut back, threads)?;
            // Summed row by row, in order: no figure depends on the number of threads.
            for (values, back) in values.chunks(width).zip(back.chunks(width)) {
                statistics = statistics.merge(ErrorStatistics::of(values, back));
            }
            Cow::Owned(encoded)
        };
        writer.write(&encoded)?;
        bytes += encoded.len() as u64;
    }
    Ok((bytes, statistics))
}

/// Decodes whole rows, shared out among threads.
fn decode(dtype: Dtype, width: usize, bytes: &[u8], values: &mut [f32], threads: usize) -> anyhow::Result<()> {
    let share = (values.len() / width).div_ceil(threads).max(1);
    let row_bytes = bytes.len() / (values.len() / width).max(1);
    std::thread::scope(|scope| {
        let parts = bytes.chunks(share * row_bytes).zip(values.chunks_mut(share * width));
        let working: Vec<_> =
            parts.map(|(bytes, values)| scope.spawn(move || format(dtype).decode(width, bytes, values))).collect();
        for part in working {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}
