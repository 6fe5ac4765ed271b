//! Sums over the rows or over the last axis, in a fixed order.

use memwall_kernels::Real;

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Shape, Type};
use crate::{GraphError, real};

/// Columns that one task sums.
const COLUMNS: usize = 64;

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
        fn go<T: Real>(io: &Io<'_>) {
            let (x, y) = (io.input::<T>(0), io.output::<T>(0));
            let n = y.len();
            let rows = x.len() / n;
            let at = memwall_kernels::SharedMut::new(y);
            io.pool().run(n.div_ceil(COLUMNS), |task, _| {
                let from = task * COLUMNS;
                let len = COLUMNS.min(n - from);
                let mut sum = [T::ZERO; COLUMNS];
                for r in 0..rows {
                    for (s, x) in sum[..len].iter_mut().zip(&x[r * n + from..]) {
                        *s += *x;
                    }
                }
                // SAFETY: each task writes columns of its own.
                unsafe { at.slice(from, len) }.copy_from_slice(&sum[..len]);
            });
        }
        real!(io.out_dtype(0), T => go::<T>(io));
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
        fn go<T: Real>(io: &Io<'_>) {
            let (x, y) = (io.input::<T>(0), io.output::<T>(0));
            let width = io.in_sizes(0).width();
            for (y, row) in y.iter_mut().zip(x.chunks_exact(width)) {
                let mut sum = T::ZERO;
                row.iter().for_each(|x| sum += *x);
                *y = sum;
            }
        }
        real!(io.out_dtype(0), T => go::<T>(io));
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
