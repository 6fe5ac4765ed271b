//! y = x·Wᵀ for weights in any storage format: the product that a model's memory goes through.

use memwall_formats::Dtype;
use memwall_kernels::gemm::{Compute, Gemm, gemm, gemm_scratch};
use memwall_kernels::linear::{Weights, linear_many, linear_scratch};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::ops::matmul::MatMul;
use crate::shape::{Sizes, Type};
use crate::{GraphError, real};

/// From this many rows on, f32 weights go through the packed product; the bits are the same.
const PACKED_ROWS: usize = 8;

/// Weights that one node may have: of those that meet the same x, see [`crate::join_products`].
pub(crate) const MAX_WEIGHTS: usize = 8;

/// y_i[.., N_i] = x[.., K] · W_i[N_i, K]ᵀ for one weight or several.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// The precision of the operands, for f32 weights; other formats bring their own.
    pub compute: Compute,
}

impl Linear {
    fn packed(&self, weight: Dtype, rows: usize) -> bool {
        weight == Dtype::F64 || (weight == Dtype::F32 && (rows >= PACKED_ROWS || self.compute == Compute::Bf16))
    }

    /// The products of input 0 with the `count` inputs after it.
    pub(super) fn run_weights(&self, io: &Io<'_>, count: usize) -> Result<(), String> {
        let (x, w) = (io.in_sizes(0), io.in_sizes(1));
        let (m, n, k) = (x.rows(), w.axis(0), w.axis(1));
        if count == 1 && self.packed(io.in_dtype(1), m) {
            let g = self.product(m, n, k);
            real!(io.out_dtype(0), T => gemm::<T>(io.pool(), g, io.input(0), io.input(1), io.output(0), io.scratch()));
            return Ok(());
        }
        // On the stack: a step allocates nothing.
        let ws: [Weights<'_>; MAX_WEIGHTS] = std::array::from_fn(|i| {
            let w = 1 + i.min(count - 1);
            Weights { dtype: io.in_dtype(w), bytes: io.in_bytes(w), n: io.in_sizes(w).axis(0), k }
        });
        let mut ys: [&mut [f32]; MAX_WEIGHTS] =
            std::array::from_fn(|i| if i < count { io.output(i) } else { Default::default() });
        linear_many(io.pool(), &ws[..count], io.input(0), m, &mut ys[..count], io.scratch());
        Ok(())
    }

    fn product(&self, m: usize, n: usize, k: usize) -> Gemm {
        Gemm { m, n, k, a_trans: false, b_trans: true, accumulate: false, compute: self.compute }
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [x, weights @ ..] = inputs else { return Err("it needs an input and a weight".into()) };
        if !(1..=MAX_WEIGHTS).contains(&weights.len()) {
            return Err(format!("{} weights; it takes 1 to {MAX_WEIGHTS}", weights.len()));
        }
        let output = |w: &&Type| {
            let [n, k] = w.shape.dims() else { return Err(format!("a weight has two axes, not {}", w.shape)) };
            if x.shape.rank() == 0 || x.shape.dims().last() != Some(k) {
                return Err(format!("{} · {}ᵀ: the last axes must be equal", x.shape, w.shape));
            }
            if (x.dtype == Dtype::F64) != (w.dtype == Dtype::F64) {
                return Err(format!("{} activations do not go with {} weights", x.dtype, w.dtype));
            }
            Ok(Type { shape: x.shape.with_width(*n), dtype: x.dtype })
        };
        weights.iter().map(output).collect()
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        self.run_weights(io, io.inputs() - 1)
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let [x, w] = *node.inputs else {
            return Err(g.no_gradient("linear", "products are joined after differentiation"));
        };
        let Some(dy) = node.grads[0] else { return Ok(vec![None, None]) };
        if g.ty(w).dtype != g.ty(x).dtype {
            return Err(g.no_gradient(
                "linear",
                format!("its weight is stored as {}; training needs {}", g.ty(w).dtype, g.ty(x).dtype),
            ));
        }
        let mut grads = vec![None, None];
        let product = |a_trans| MatMul { a_trans, b_trans: false, compute: self.compute };
        if node.wanted[0] {
            grads[0] = Some(g.push1(product(false), &[dy, w])?);
        }
        if node.wanted[1] {
            grads[1] = Some(g.push1(product(true), &[dy, x])?);
        }
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let weights: usize = sizes.inputs[1..].iter().map(|w| w.1.elements()).sum();
        sizes.streaming(2.0 * sizes.inputs[0].1.rows() as f64 * weights as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let m = sizes.inputs[0].1.rows();
        let of = |(w, sizes_of_w): &(Type, Sizes)| {
            let (n, k) = (sizes_of_w.axis(0), sizes_of_w.axis(1));
            let product = gemm_scratch(&self.product(m, n, k), sizes.outputs[0].0.dtype.block_bytes(), threads);
            match w.dtype {
                Dtype::F64 => product,
                Dtype::F32 => product.max(linear_scratch(Dtype::F32, m, n, k, threads)),
                other => linear_scratch(other, m, n, k, threads),
            }
        };
        sizes.inputs[1..].iter().map(of).max().unwrap_or(0)
    }

    fn as_linear(&self) -> Option<&Linear> {
        Some(self)
    }
}
