//! The built-in operators, one file each, and short functions that add them to a graph.

pub mod attention;
pub mod bmojo;
pub mod cache_write;
pub mod cached_attention;
pub mod conv1d;
pub mod cross_entropy;
pub mod delta;
pub mod distillation;
pub mod eidetic;
pub mod embedding;
pub mod experts;
pub mod fake_quantize;
pub mod feature_map;
pub mod fill;
pub mod gla;
pub mod innovation;
pub mod int8_linear;
pub mod linear;
pub mod long_conv;
pub mod low_bit_linear;
pub mod matmul;
pub mod max_sim;
pub mod merge_attention;
pub mod mlstm;
pub mod norm;
pub mod normalizer;
pub mod pointwise;
mod recurrent;
pub mod repeat_heads;
pub mod reshape;
pub mod ridge;
pub mod rope;
pub mod route;
pub mod scan;
pub mod select_rows;
pub mod selected_attention;
pub mod selection;
pub mod selective_scan;
pub mod slice_last;
pub mod softmax;
pub mod sum;
pub mod wkv4;
pub mod wkv6;
pub mod wkv7;

use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::shape::{Dim, Shape, Type};
use pointwise::{Binary, Pointwise, Unary};

/// f(x), element by element.
///
/// # Errors
/// If `x` is not of the graph's element type.
pub fn unary(g: &mut Graph, f: Unary, x: Value) -> Result<Value, GraphError> {
    g.push1(Pointwise::unary(f), &[x])
}

/// a + b, broadcast.
///
/// # Errors
/// If the shapes do not go together.
pub fn add(g: &mut Graph, a: Value, b: Value) -> Result<Value, GraphError> {
    g.push1(Pointwise::binary(Binary::Add), &[a, b])
}

/// a − b, broadcast.
///
/// # Errors
/// If the shapes do not go together.
pub fn sub(g: &mut Graph, a: Value, b: Value) -> Result<Value, GraphError> {
    g.push1(Pointwise::binary(Binary::Sub), &[a, b])
}

/// a · b, element by element, broadcast.
///
/// # Errors
/// If the shapes do not go together.
pub fn mul(g: &mut Graph, a: Value, b: Value) -> Result<Value, GraphError> {
    g.push1(Pointwise::binary(Binary::Mul), &[a, b])
}

/// c · x.
///
/// # Errors
/// If `x` is not of the graph's element type.
pub fn scale(g: &mut Graph, x: Value, c: f64) -> Result<Value, GraphError> {
    unary(g, Unary::Scale(c), x)
}

/// Rows of G heads [N, G, W], each repeated for its group of `heads` heads: [N, heads, W].
///
/// # Errors
/// If `x` is not [N, G, W] with `heads` a multiple of G.
pub fn repeat_heads(g: &mut Graph, x: Value, heads: usize) -> Result<Value, GraphError> {
    g.push1(repeat_heads::RepeatHeads { heads }, &[x])
}

/// x under another shape of as many elements.
///
/// # Errors
/// If the numbers of elements differ.
pub fn reshape(g: &mut Graph, x: Value, shape: impl Into<Shape>) -> Result<Value, GraphError> {
    g.push1(reshape::Reshape::new(shape), &[x])
}

/// Refuses offsets of packed sequences that do not rise from 0 to the number of tokens.
fn check_offsets(cu_seqlens: &[i32], tokens: usize) -> Result<(), String> {
    let whole = cu_seqlens.first() == Some(&0) && cu_seqlens.last().is_some_and(|&end| end as usize == tokens);
    if whole && cu_seqlens.is_sorted() {
        return Ok(());
    }
    Err(format!("cu_seqlens must rise from 0 to the {tokens} tokens, but is {cu_seqlens:?}"))
}

/// Refuses a tensor that is not [N, `tail`].
fn check_rows(name: &str, ty: &Type, n: Dim, tail: &[usize]) -> Result<(), String> {
    let (first, rest) = ty.shape.dims().split_first().ok_or_else(|| format!("{name} is a scalar"))?;
    if *first == n && rest.iter().map(|d| d.known()).eq(tail.iter().map(|&d| Some(d))) {
        return Ok(());
    }
    Err(format!("{name} is {}, [N, {tail:?}] is needed", ty.shape))
}

/// Refuses a tensor of another fixed shape.
fn check_fixed(name: &str, ty: &Type, shape: &[usize]) -> Result<(), String> {
    if ty.shape.dims().iter().map(|d| d.known()).eq(shape.iter().map(|&d| Some(d))) {
        return Ok(());
    }
    Err(format!("{name} is {}, {shape:?} is needed", ty.shape))
}

/// Refuses slots that are not among `count` states.
fn check_slots(slots: &[i32], count: usize) -> Result<(), String> {
    match slots.iter().find(|&&s| s < 0 || s as usize >= count) {
        Some(slot) => Err(format!("state slot {slot} of {count}")),
        None => Ok(()),
    }
}
