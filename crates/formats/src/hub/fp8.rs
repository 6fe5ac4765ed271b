//! FP8: E4M3 codes with a scale a tensor, a row, or 128 × 128 values.

use super::{HubError, floats};
use crate::element::{E4M3_FN, Element, Rounding};

/// Rows, and columns, that share a scale.
pub(super) const BLOCK: usize = 128;

/// The scale of values whose largest magnitude is `amax`; 1 where all are zero.
fn scale(amax: f32) -> f32 {
    let scale = amax / E4M3_FN.max();
    if scale > 0.0 { scale } else { 1.0 }
}

fn code(x: f32, scale: f32) -> u8 {
    E4M3_FN.encode(x / scale, Rounding::HalfEven, true)
}

pub(super) fn by_tensor(values: &[f32]) -> Vec<Vec<u8>> {
    let scale = scale(values.iter().fold(0.0, |m, x| m.max(x.abs())));
    let bytes = values.iter().map(|x| code(*x, scale)).collect();
    vec![bytes, floats(&[scale])]
}

pub(super) fn by_block(rows: usize, columns: usize, values: &[f32]) -> Vec<Vec<u8>> {
    let (down, across) = (rows.div_ceil(BLOCK), columns.div_ceil(BLOCK));
    let mut amax = vec![0f32; down * across];
    let block = |i: usize| i / columns / BLOCK * across + i % columns / BLOCK;
    for (i, x) in values.iter().enumerate() {
        amax[block(i)] = amax[block(i)].max(x.abs());
    }
    let scales: Vec<f32> = amax.into_iter().map(scale).collect();
    let bytes = values.iter().enumerate().map(|(i, x)| code(*x, scales[block(i)])).collect();
    vec![bytes, floats(&scales)]
}

/// Values of codes [rows, columns] in E4M3 or E5M2 under scales of one shape of three: one, [rows] or [rows, 1], or
/// ceil(rows / block) × ceil(columns / block).
///
/// # Errors
/// Scales of another shape.
pub(super) fn decode(
    element: impl Element,
    shape: [usize; 2],
    codes: &[u8],
    scales: &[f32],
    scales_shape: &[usize],
    block: Option<[usize; 2]>,
) -> Result<Vec<f32>, HubError> {
    let [rows, columns] = shape;
    let values: Vec<f32> = (0..=255).map(|code| element.decode(code)).collect();
    let place: Box<dyn Fn(usize) -> usize> = match (block, scales_shape) {
        (Some([down, across]), &[r, c]) if r == rows.div_ceil(down) && c == columns.div_ceil(across) => {
            Box::new(move |i| i / columns / down * c + i % columns / across)
        }
        (None, []) | (None, [1]) | (None, [1, 1]) => Box::new(|_| 0),
        (None, &[r]) | (None, &[r, 1]) if r == rows => Box::new(move |i| i / columns),
        _ => {
            return Err(HubError::Part {
                part: "of scales".into(),
                found: format!("{scales_shape:?}"),
                expected: match block {
                    Some([d, a]) => format!("[{}, {}]", rows.div_ceil(d), columns.div_ceil(a)),
                    None => format!("[1] or [{rows}, 1]"),
                },
            });
        }
    };
    Ok(codes.iter().enumerate().map(|(i, code)| values[usize::from(*code)] * scales[place(i)]).collect())
}
