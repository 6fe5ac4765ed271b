//! y = x·Wᵀ for weights stored in blocks, x in integers of eight bits under one scale a row: BitNet's product at inference.
//!
//! [`super::linear::Linear`] gives each block of x a scale of its own. Rows that were rounded to eight bits before under one
//! scale would be rounded anew there; here their integers are multiplied as they are.

use memwall_formats::Dtype;
use memwall_kernels::linear::{Weights, linear_by_row, linear_scratch, reads_int8};

use super::linear::Linear;
use crate::io::Io;
use crate::op::{Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;

/// y[.., N] = x[.., K] · W[N, K]ᵀ, W in blocks of integers, x rounded to int8 by the largest magnitude of each row.
#[derive(Clone, Copy, Debug)]
pub struct Int8Linear {
    /// The product as shapes and costs have it.
    pub linear: Linear,
}

impl Op for Int8Linear {
    fn name(&self) -> &'static str {
        "int8_linear"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [x, w] = inputs else { return Err("it needs an input and a weight".into()) };
        if !reads_int8(w.dtype) || x.dtype != Dtype::F32 {
            return Err(format!("{x} and weights {w}; F32 and weights in blocks of integers are needed"));
        }
        self.linear.infer(inputs)
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let w = io.in_sizes(1);
        let weights = Weights { dtype: io.in_dtype(1), bytes: io.in_bytes(1), n: w.axis(0), k: w.axis(1) };
        linear_by_row(io.pool(), weights, io.input(0), io.in_sizes(0).rows(), io.output(0), io.scratch());
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("its weight is stored in blocks; training needs F32")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        self.linear.cost(sizes)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (w, k) = (sizes.inputs[1].0.dtype, sizes.inputs[1].1.axis(1));
        linear_scratch(w, sizes.inputs[0].1.rows(), sizes.inputs[1].1.axis(0), k, threads)
    }
}
