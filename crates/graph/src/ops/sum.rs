//! Sums over the rows or over the last axis, in a fixed order.

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Shape, Type};
use crate::{GraphError, real};

/// y[s..] = Σ_r x[r, s..]: sums all leading axes; what remains has shape `shape`.
#[derive(Clone, Debug)]
pub struct SumRows {
    shape: Shape,
}

impl SumRows {
    /// Sums down to `shape`, which ends the input's shape, or has one element.
    pub fn new(shape: Shape) -> SumRows {
        SumRows { shape }
    }
}

impl Op for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (from, to) = (&inputs[0].shape, &self.shape);
        let one = to.elements().and_then(|d| d.known()) == Some(1);
        let suffix = to.rank() <= from.rank() && to.dims() == &from.dims()[from.rank() - to.rank()..];
        if !(one || suffix) || to.elements().and_then(|d| d.known()).is_none() {
            return Err(format!("{to} does not end {from}"));
        }
        Ok(vec![Type { shape: to.clone(), dtype: inputs[0].dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => memwall_kernels::sum::sum_rows::<T>(io.pool(), io.input(0), io.output(0)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        Ok(vec![Some(spread(g, dy, node.inputs[0])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// y[r, 1] = Σ_c x[r, c].
#[derive(Clone, Debug)]
pub struct SumLast;

impl Op for SumLast {
    fn name(&self) -> &'static str {
        "sum_last"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs[0].shape.rank() == 0 {
            return Err("a scalar has no last axis".into());
        }
        Ok(vec![Type { shape: inputs[0].shape.with_width(1), dtype: inputs[0].dtype }])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => memwall_kernels::sum::sum_last::<T>(io.pool(), io.input(0), io.output(0)));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None]) };
        Ok(vec![Some(spread(g, dy, node.inputs[0])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// `small` broadcast to the shape of `like`.
fn spread(g: &mut Graph, small: Value, like: Value) -> Result<Value, GraphError> {
    let ty = g.ty(like).clone();
    let zero = g.push1(super::fill::Fill::new(ty, 0.0), &[])?;
    super::add(g, zero, small)
}
