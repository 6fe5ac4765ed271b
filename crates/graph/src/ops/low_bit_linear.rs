//! A product whose backward products have low-bit operands as well, each rounded along the axis that it is summed over.
//!
//! ```text
//! y  = q₁ₓ(x) · q₁w(w)ᵀ         along the inputs
//! dx = q₂g(dy) · q₂w(w)          along the outputs
//! dw = q₃g(dy)ᵀ · q₃ₓ(x)         along the tokens
//! ```
//!
//! x, w and dy are rounded twice each, from what they are, along different axes; "INT v.s. FP" (arXiv 2510.25602).

use memwall_formats::Quantizer;
use memwall_kernels::gemm::Compute;

use super::fake_quantize::{Along, FakeQuantize};
use super::linear::Linear;
use super::matmul::MatMul;
use crate::GraphError;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;

/// How each operand of the two backward products is rounded; none: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackwardOperands {
    /// q₂g: dy in dx = dy · w.
    pub dx_dy: Option<Quantizer>,
    /// q₂w: w in dx = dy · w.
    pub dx_w: Option<Quantizer>,
    /// q₃g: dy in dw = dyᵀ · x.
    pub dw_dy: Option<Quantizer>,
    /// q₃ₓ: x in dw = dyᵀ · x.
    pub dw_x: Option<Quantizer>,
}

/// Inputs: x and w as they are multiplied (rounded or not), and x and w as they were. The first two pass no gradient on: the
/// gradient goes straight through to the last two.
#[derive(Clone, Copy, Debug)]
pub struct LowBitLinear {
    /// The precision of the arithmetic.
    pub compute: Compute,
    /// How the operands of backward products are rounded.
    pub backward: BackwardOperands,
}

impl LowBitLinear {
    fn forward(&self) -> Linear {
        Linear { compute: self.compute }
    }
}

impl Op for LowBitLinear {
    fn name(&self) -> &'static str {
        "low_bit_linear"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [x_hat, w_hat, x, w] = inputs else { return Err("it needs x and w, rounded and as they were".into()) };
        if x_hat != x || w_hat != w || x.dtype != w.dtype {
            return Err(format!("rounded {x_hat} and {w_hat} of {x} and {w}; the same types are needed"));
        }
        self.forward().infer(&inputs[..2])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        self.forward().run_weights(io, 1)
    }

    fn gradient(&self) -> Gradient {
        Gradient::Surrogate(
            "INT v.s. FP (arXiv 2510.25602): straight-through, with the operands of both backward products rounded",
        )
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; 4]) };
        let (x, w) = (node.inputs[2], node.inputs[3]);
        let b = &self.backward;
        let product = |a_trans| MatMul { a_trans, b_trans: false, compute: self.compute };
        let mut grads = vec![None; 4];
        if node.wanted[2] {
            let (dy, w) = (rounded(g, b.dx_dy, Along::Rows, dy)?, rounded(g, b.dx_w, Along::Columns, w)?);
            grads[2] = Some(g.push1(product(false), &[dy, w])?);
        }
        if node.wanted[3] {
            let (dy, x) = (rounded(g, b.dw_dy, Along::Columns, dy)?, rounded(g, b.dw_x, Along::Columns, x)?);
            grads[3] = Some(g.push1(product(true), &[dy, x])?);
        }
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        // What they were is kept for the backward pass, and not read here.
        let read = NodeSizes { inputs: &sizes.inputs[..2], outputs: sizes.outputs };
        self.forward().cost(&read)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        self.forward().scratch(&NodeSizes { inputs: &sizes.inputs[..2], outputs: sizes.outputs }, threads)
    }
}

/// An operand as its quantizer holds it.
fn rounded(g: &mut Graph, quantizer: Option<Quantizer>, along: Along, x: Value) -> Result<Value, GraphError> {
    match quantizer {
        Some(quantizer) => g.push1(FakeQuantize { along, ..FakeQuantize::new(quantizer) }, &[x]),
        None => Ok(x),
    }
}
