//! The built-in operators, one file each, and short functions that add them to a graph.

pub mod attention;
pub mod cache_write;
pub mod cached_attention;
pub mod conv1d;
pub mod cross_entropy;
pub mod delta;
pub mod embedding;
pub mod experts;
pub mod fill;
pub mod gla;
pub mod linear;
pub mod matmul;
pub mod norm;
pub mod pointwise;
pub mod repeat_heads;
pub mod reshape;
pub mod rope;
pub mod route;
pub mod scan;
pub mod select_rows;
pub mod slice_last;
pub mod softmax;
pub mod sum;

use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::shape::Shape;
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

/// Rows of heads [N, 1, W] repeated for `heads` heads: [N, heads, W].
///
/// # Errors
/// If `x` is not [N, 1, W].
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
