//! BitNet: ternary codes, four rows a byte, with the mean magnitude of the weight.

use super::{HubError, TernaryScale, floats};
use crate::packing::{absmean, pack_bitnet, unpack_bitnet};

/// Ternary by the mean magnitude, which is the scale that the weight is multiplied by; weights that are -s, 0 and s already
/// keep their s: their mean is smaller.
pub(super) fn encode(rows: usize, columns: usize, values: &[f32]) -> Result<Vec<Vec<u8>>, HubError> {
    let (ternary, scale) = match kept(values) {
        Some(kept) => kept,
        None => absmean(values)?,
    };
    Ok(vec![pack_bitnet(&ternary, rows, columns)?, floats(&[scale])])
}

/// Codes and scale of values that are -s, 0 and s.
fn kept(values: &[f32]) -> Option<(Vec<i8>, f32)> {
    let scale = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let ternary = scale > 0.0 && scale.is_finite() && values.iter().all(|x| *x == 0.0 || x.abs() == scale);
    ternary.then(|| (values.iter().map(|x| (x / scale) as i8).collect(), scale))
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
