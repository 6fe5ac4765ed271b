//! Some rows of a tensor, by index: the rows whose logits are wanted.

use memwall_formats::Dtype;
use memwall_kernels::embedding::{embedding, embedding_backward};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Shape, Type};
use crate::{GraphError, real};

/// `y[i] = x[rows[i]]`. Inputs: x [N, D], of reals or I32, rows `[M]` I32. Output: [M, D].
#[derive(Clone, Copy, Debug)]
pub struct SelectRows;

impl Op for SelectRows {
    fn name(&self) -> &'static str {
        "select_rows"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let ([_, d], [m]) = (inputs[0].shape.dims(), inputs[1].shape.dims()) else {
            return Err(format!("x {} and rows {}; [N, D] and [M] are needed", inputs[0].shape, inputs[1].shape));
        };
        Ok(vec![Type::new([*m, *d], inputs[0].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (rows, n) = (io.input::<i32>(1), io.in_sizes(0).axis(0));
        if let Some(row) = rows.iter().find(|&&r| r < 0 || r as usize >= n) {
            return Err(format!("row {row} of {n}"));
        }
        let width = io.in_sizes(0).axis(1);
        if io.out_dtype(0) == Dtype::I32 {
            let x = io.input::<i32>(0);
            let chosen = rows.iter().zip(io.output::<i32>(0).chunks_exact_mut(width));
            chosen.for_each(|(&row, y)| y.copy_from_slice(&x[row as usize * width..][..width]));
            return Ok(());
        }
        real!(io.out_dtype(0), T => embedding::<T>(io.pool(), width, io.input(0), rows, io.output(0)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None, None]) };
        let shape = g.shape(node.inputs[0]).clone();
        Ok(vec![Some(g.push1(SpreadRows { shape }, &[node.inputs[1], dy])?), None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let bytes = (sizes.outputs[0].1.elements() * sizes.outputs[0].0.dtype.block_bytes()) as f64;
        Cost { operations: 0.0, bytes_read: bytes, bytes_written: bytes }
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// Inputs: rows, gradient of the chosen rows. Output: gradient of x, zero elsewhere.
#[derive(Clone, Debug)]
struct SpreadRows {
    shape: Shape,
}

impl Op for SpreadRows {
    fn name(&self) -> &'static str {
        "spread_rows"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![Type { shape: self.shape.clone(), dtype: inputs[1].dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let width = io.out_sizes(0).axis(1);
        let rows = io.input::<i32>(0);
        real!(io.out_dtype(0), T => {
            let x = io.output::<T>(0);
            x.fill(bytemuck::Zeroable::zeroed());
            embedding_backward::<T>(io.pool(), width, rows, io.input(1), x);
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a selection are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[1].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}
