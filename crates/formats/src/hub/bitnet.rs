//! BitNet: ternary codes, four rows a byte, with the mean magnitude of the weight.

use super::{HubError, TernaryScale, floats};
use crate::packing::{absmean, pack_bitnet, unpack_bitnet};

/// Ternary by the mean magnitude; the scale is what the weight is multiplied by.
pub(super) fn encode(rows: usize, columns: usize, values: &[f32]) -> Result<Vec<Vec<u8>>, HubError> {
    let (ternary, scale) = absmean(values)?;
    Ok(vec![pack_bitnet(&ternary, rows, columns)?, floats(&[scale])])
}

/// Values of packed codes [rows / 4, columns].
pub(super) fn decode(
    bytes: &[u8],
    rows: usize,
    columns: usize,
    scale: f32,
    how: TernaryScale,
) -> Result<Vec<f32>, HubError> {
    let factor = |code: i8| match how {
        TernaryScale::Multiplies => f32::from(code) * scale,
        TernaryScale::Divides => f32::from(code) / scale,
    };
    Ok(unpack_bitnet(bytes, rows, columns)?.into_iter().map(factor).collect())
}
