//! The tensors in which Qwen3-Next packs several projections, cut into memwall's weights: the same in folders and in GGUF.

use std::ops::Range;

use memwall_formats::TensorInfo;

use super::CheckpointError;
use super::adapt::Adapt;
use crate::mixers::attention::AttentionConfig;
use crate::mixers::delta_net::DeltaNetConfig;
use crate::mixers::gate_layout::GateLayout;

/// Rows of a tensor in groups of equal size, each of which holds `sizes` rows of one part after the other: the rows of each
/// part.
pub(super) fn grouped<const N: usize>(
    tensor: &TensorInfo,
    groups: usize,
    sizes: [usize; N],
) -> [Vec<(TensorInfo, Range<usize>)>; N] {
    let all: usize = sizes.iter().sum();
    std::array::from_fn(|part| {
        let before: usize = sizes[..part].iter().sum();
        let rows = |group: usize| group * all + before..group * all + before + sizes[part];
        (0..groups).map(|group| (tensor.clone(), rows(group))).collect()
    })
}

/// Cuts β and the log-gates' input, which are grouped by key head, and the convolution over queries, keys and values, all
/// called by their first part.
///
/// # Errors
/// If one is missing or has another shape.
pub(super) fn cut_by_head(
    adapt: &mut Adapt,
    own: &str,
    delta: &DeltaNetConfig,
    d_model: usize,
) -> Result<(), CheckpointError> {
    let key_heads = delta.key_heads.unwrap_or(delta.heads);
    let shared = delta.heads / key_heads;
    let (keys, values) = (key_heads * delta.key_width, delta.heads * delta.value_width);
    let tensor = adapt.require(&format!("{own}.b_proj.weight"), &[2 * delta.heads, d_model])?;
    let parts = grouped(&tensor, key_heads, [shared, shared]);
    for (part, of_part) in ["b", "a"].into_iter().zip(parts) {
        adapt.put_rows(format!("{own}.{part}_proj.weight"), vec![delta.heads, d_model], of_part)?;
    }
    let tensor = adapt.require(&format!("{own}.q_conv1d.weight"), &[2 * keys + values, delta.short_conv])?;
    let parts = grouped(&tensor, 1, [keys, keys, values]);
    for ((part, rows), of_part) in [("q", keys), ("k", keys), ("v", values)].into_iter().zip(parts) {
        adapt.put_rows(format!("{own}.{part}_conv1d.weight"), vec![rows, delta.short_conv], of_part)?;
    }
    Ok(())
}

/// Cuts a `q_proj` of a query and a gate for each head.
///
/// # Errors
/// If it is missing or has another shape.
pub(super) fn cut_queries(
    adapt: &mut Adapt,
    own: &str,
    attention: &AttentionConfig,
    d_model: usize,
) -> Result<(), CheckpointError> {
    let rows = 2 * attention.heads * attention.head_dim;
    let tensor = adapt.require(&format!("{own}.q_proj.weight"), &[rows, d_model])?;
    let places = GateLayout::ByHead.rows(attention, rows).expect("a checked configuration with gates by head");
    for (part, places) in [("q", places.query), ("gate", places.gate)] {
        let count = places.len();
        let rows = places.into_iter().map(|row| (tensor.clone(), row..row + 1)).collect();
        adapt.put_rows(format!("{own}.{part}_proj.weight"), vec![count, d_model], rows)?;
    }
    Ok(())
}
