//! FP4: E2M1 codes in blocks, under powers of two (MXFP4) or under E4M3 and a scale of the tensor (NVFP4).

use super::{HubError, floats};
use crate::element::{E2M1, E8M0, Element, UE4M3};
use crate::format::Format;
use crate::scaled;

/// Values that share a power of two.
pub(super) const MX_BLOCK: usize = 32;
/// Values that share a scale in E4M3.
pub(super) const NV_BLOCK: usize = 16;

/// Which of two conventions the scale of a tensor is stored by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GlobalScale {
    /// `weight_packed`, `weight_global_scale` = 448 · 6 / amax.
    Reciprocal,
    /// `weight`, `weight_scale_2` = amax / (448 · 6).
    Itself,
}

/// The codes of some bytes, the first in the lower half of a byte.
fn codes_of(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().flat_map(|byte| [byte & 15, byte >> 4])
}

/// Codes and scales of the blocks of a format whose block is one byte of scale and codes two a byte.
fn blocks(format: &dyn Format, columns: usize, values: &[f32]) -> Result<(Vec<u8>, Vec<u8>), HubError> {
    let layout = format.layout();
    let mut bytes = vec![0; values.len() / layout.block_len * layout.block_bytes];
    format.encode(columns, values, &mut bytes)?;
    let scales = bytes.chunks_exact(layout.block_bytes).map(|block| block[0]).collect();
    let codes = bytes.chunks_exact(layout.block_bytes).flat_map(|block| block[1..].to_vec()).collect();
    Ok((scales, codes))
}

/// Codes and scales.
pub(super) fn mx(rows: usize, columns: usize, values: &[f32]) -> Result<Vec<Vec<u8>>, HubError> {
    if columns == 0 || !columns.is_multiple_of(MX_BLOCK) {
        return Err(HubError::Ragged { scheme: "mxfp4", rows, columns, block: MX_BLOCK });
    }
    let (scales, codes) = blocks(&scaled::mxfp4(), columns, values)?;
    Ok(vec![codes, scales])
}

/// Values of MXFP4.
pub(super) fn mx_decode(codes: &[u8], scales: &[u8]) -> Vec<f32> {
    let values = codes_of(codes).map(|code| E2M1.decode(code));
    values.enumerate().map(|(i, x)| x * E8M0.decode(scales[i / MX_BLOCK])).collect()
}

/// Codes, scales and the scale of the tensor.
pub(super) fn nv(
    rows: usize,
    columns: usize,
    values: &[f32],
    convention: GlobalScale,
) -> Result<Vec<Vec<u8>>, HubError> {
    if columns == 0 || !columns.is_multiple_of(NV_BLOCK) {
        return Err(HubError::Ragged { scheme: "nvfp4", rows, columns, block: NV_BLOCK });
    }
    let amax = values.iter().fold(0f32, |m, x| m.max(x.abs()));
    let (scales, codes) = blocks(&scaled::nvfp4(amax)?, columns, values)?;
    let tensor = if amax == 0.0 { 1.0 } else { amax / (448.0 * E2M1.max()) };
    let global = match convention {
        GlobalScale::Reciprocal => 1.0 / tensor,
        GlobalScale::Itself => tensor,
    };
    Ok(vec![codes, scales, floats(&[global])])
}

/// Values of NVFP4: the scale of a block is joined with the tensor's first, as both producers do.
pub(super) fn nv_decode(codes: &[u8], scales: &[u8], global: f32, convention: GlobalScale) -> Vec<f32> {
    let joined: Vec<f32> = scales
        .iter()
        .map(|code| match convention {
            GlobalScale::Reciprocal => UE4M3.decode(*code) / global,
            GlobalScale::Itself => UE4M3.decode(*code) * global,
        })
        .collect();
    let values = codes_of(codes).map(|code| E2M1.decode(code));
    values.enumerate().map(|(i, x)| x * joined[i / NV_BLOCK]).collect()
}
