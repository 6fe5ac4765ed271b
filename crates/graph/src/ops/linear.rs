//! y = x·Wᵀ for a weight in any storage format: the product that a model's memory goes through.

use memwall_formats::Dtype;
use memwall_kernels::gemm::{Compute, Gemm, gemm, gemm_scratch};
use memwall_kernels::linear::{Weights, linear, linear_scratch};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::ops::matmul::MatMul;
use crate::shape::Type;
use crate::{GraphError, real};

/// From this many rows on, f32 weights go through the packed product; the bits are the same.
const PACKED_ROWS: usize = 8;

/// y[.., N] = x[.., K] · W[N, K]ᵀ.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// The precision of the operands, for f32 weights; other formats bring their own.
    pub compute: Compute,
}

impl Linear {
    fn packed(&self, weight: Dtype, rows: usize) -> bool {
        weight == Dtype::F64 || (weight == Dtype::F32 && (rows >= PACKED_ROWS || self.compute == Compute::Bf16))
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
        let (x, w) = (inputs[0], inputs[1]);
        let [n, k] = w.shape.dims() else { return Err(format!("a weight has two axes, not {}", w.shape)) };
        if x.shape.rank() == 0 || x.shape.dims().last() != Some(k) {
            return Err(format!("{} · {}ᵀ: the last axes must be equal", x.shape, w.shape));
        }
        if (x.dtype == Dtype::F64) != (w.dtype == Dtype::F64) {
            return Err(format!("{} activations do not go with {} weights", x.dtype, w.dtype));
        }
        Ok(vec![Type { shape: x.shape.with_width(*n), dtype: x.dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (x, w) = (io.in_sizes(0), io.in_sizes(1));
        let (m, n, k) = (x.rows(), w.axis(0), w.axis(1));
        if self.packed(io.in_dtype(1), m) {
            let g = self.product(m, n, k);
            real!(io.out_dtype(0), T => gemm::<T>(io.pool(), g, io.input(0), io.input(1), io.output(0), io.scratch()));
        } else {
            let w = Weights { dtype: io.in_dtype(1), bytes: io.in_bytes(1), n, k };
            linear(io.pool(), w, io.input(0), m, io.output(0), io.scratch());
        }
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None, None]) };
        let (x, w) = (node.inputs[0], node.inputs[1]);
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
        let (x, w) = (sizes.inputs[0].1, sizes.inputs[1].1);
        sizes.streaming(2.0 * x.rows() as f64 * w.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (m, w) = (sizes.inputs[0].1.rows(), &sizes.inputs[1]);
        let (n, k) = (w.1.axis(0), w.1.axis(1));
        let product = gemm_scratch(&self.product(m, n, k), sizes.outputs[0].0.dtype.block_bytes(), threads);
        match w.0.dtype {
            Dtype::F64 => product,
            Dtype::F32 => product.max(linear_scratch(Dtype::F32, m, n, k, threads)),
            other => linear_scratch(other, m, n, k, threads),
        }
    }
}
