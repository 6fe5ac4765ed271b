//! The small pieces that every layer is made of, under their checkpoint names.

use memwall_formats::Dtype;
use memwall_graph::ops::{self, embedding::Embedding, linear::Linear, norm::Norm};
use memwall_graph::{Graph, GraphError, Value};

use crate::weights::WeightTypes;

/// x Wᵀ (+ b), the weight under `name.weight` [outputs, D], the bias under `name.bias`.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn linear(
    g: &mut Graph,
    types: &WeightTypes,
    name: &str,
    x: Value,
    outputs: usize,
    bias: bool,
) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("linear", "its input has no fixed width"))?;
    let weight_name = format!("{name}.weight");
    let dtype = types.of(&weight_name, g.elem());
    let w = g.weight(&weight_name, [outputs, width], dtype)?;
    let y = types.product(g, name, x, w)?;
    if !bias {
        return Ok(y);
    }
    let b = g.weight(&format!("{name}.bias"), [outputs], g.elem())?;
    ops::add(g, y, b)
}

/// RMS norm over the last axis, its weight under `name.weight`.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn rms_norm(g: &mut Graph, name: &str, x: Value, eps: f64) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("norm", "its input has no fixed width"))?;
    let w = g.weight(&format!("{name}.weight"), [width], g.elem())?;
    g.push1(Norm::rms(width, eps), &[x, w])
}

/// Layer norm over the last axis, its weight under `name.weight`, its bias under `name.bias`.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn layer_norm(g: &mut Graph, name: &str, x: Value, eps: f64) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("norm", "its input has no fixed width"))?;
    let w = g.weight(&format!("{name}.weight"), [width], g.elem())?;
    let b = g.weight(&format!("{name}.bias"), [width], g.elem())?;
    g.push1(Norm::layer(width, eps), &[x, w, b])
}

/// Layer norm over the last axis, its weight under `name.weight`.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn layer_norm_without_bias(g: &mut Graph, name: &str, x: Value, eps: f64) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("norm", "its input has no fixed width"))?;
    let w = g.weight(&format!("{name}.weight"), [width], g.elem())?;
    let zero = g.constant(&format!("{name}.zero"), [width], &vec![0.0; width])?;
    g.push1(Norm::layer(width, eps), &[x, w, zero])
}

/// Layer norm of each head of x [N, H, V] to [N, H V], with a weight and a bias `[H V]` under `name`.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn group_norm(g: &mut Graph, name: &str, x: Value, eps: f64) -> Result<Value, GraphError> {
    let &[rows, heads, width] = g.shape(x).dims() else {
        return Err(g.refused("norm", "groups are the heads of [N, H, V]"));
    };
    let (Some(heads), Some(width)) = (heads.known(), width.known()) else {
        return Err(g.refused("norm", "its input has no fixed width"));
    };
    let one = g.constant(&format!("{name}.one"), [width], &vec![1.0; width])?;
    let zero = g.constant(&format!("{name}.zero"), [width], &vec![0.0; width])?;
    let x = g.push1(Norm::layer(width, eps), &[x, one, zero])?;
    let x = ops::reshape(g, x, [rows, (heads * width).into()])?;
    let w = g.weight(&format!("{name}.weight"), [heads * width], g.elem())?;
    let b = g.weight(&format!("{name}.bias"), [heads * width], g.elem())?;
    let x = ops::mul(g, x, w)?;
    ops::add(g, x, b)
}

/// Rows of the table under `name`, by token id.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn embedding(
    g: &mut Graph,
    types: &WeightTypes,
    name: &str,
    ids: Value,
    vocab: usize,
    width: usize,
) -> Result<Value, GraphError> {
    let dtype = types.of(name, g.elem());
    let table = g.weight(name, [vocab, width], dtype)?;
    g.push1(Embedding { elem: g.elem() }, &[ids, table])
}

/// Logits x · tableᵀ with the embedding's own table.
///
/// # Errors
/// If an operator refuses its inputs.
pub fn tied_head(g: &mut Graph, types: &WeightTypes, name: &str, x: Value, vocab: usize) -> Result<Value, GraphError> {
    let width = g.shape(x).width().ok_or_else(|| g.refused("linear", "its input has no fixed width"))?;
    let dtype: Dtype = types.of(name, g.elem());
    let table = g.weight(name, [vocab, width], dtype)?;
    g.push1(Linear { compute: g.compute() }, &[x, table])
}
