//! Rows of fewer heads, each repeated for the heads of its group.

use memwall_kernels::Real;

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// y[n, h] = x[n, h · G / heads]. Input: [N, G, W]; output: [N, heads, W].
#[derive(Clone, Copy, Debug)]
pub struct RepeatHeads {
    /// Heads of the output, a multiple of G.
    pub heads: usize,
}

impl Op for RepeatHeads {
    fn name(&self) -> &'static str {
        "repeat_heads"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [n, groups, w] = inputs[0].shape.dims() else {
            return Err(format!("x is {}, [N, G, W] is needed", inputs[0].shape));
        };
        let fits = groups.known().is_some_and(|groups| groups > 0 && self.heads.is_multiple_of(groups));
        if !fits || self.heads == 0 || w.known() == Some(0) {
            let problem = "[N, G, W] for at least 1, a multiple of G, is needed";
            return Err(format!("x is {} for {} heads; {problem}", inputs[0].shape, self.heads));
        }
        Ok(vec![Type::new([*n, self.heads.into(), *w], inputs[0].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>) {
            let (repeat, w) = (io.out_sizes(0).axis(1) / io.in_sizes(0).axis(1), io.out_sizes(0).axis(2));
            for (x, y) in io.input::<T>(0).chunks_exact(w).zip(io.output::<T>(0).chunks_exact_mut(repeat * w)) {
                y.chunks_exact_mut(w).for_each(|y| y.copy_from_slice(x));
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
        let groups = g.shape(node.inputs[0]).dims()[1].known().unwrap_or(1);
        Ok(vec![Some(g.push1(SumHeads { groups }, &[dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(0.0)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// y[n, g] = Σ_h x[n, h] over the heads h of group g, in ascending order.
#[derive(Clone, Copy, Debug)]
struct SumHeads {
    groups: usize,
}

impl Op for SumHeads {
    fn name(&self) -> &'static str {
        "sum_heads"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [n, _, w] = inputs[0].shape.dims() else {
            return Err(format!("x is {}, [N, H, W] is needed", inputs[0].shape));
        };
        Ok(vec![Type::new([*n, self.groups.into(), *w], inputs[0].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>) {
            let (repeat, w) = (io.in_sizes(0).axis(1) / io.out_sizes(0).axis(1), io.in_sizes(0).axis(2));
            for (x, y) in io.input::<T>(0).chunks_exact(repeat * w).zip(io.output::<T>(0).chunks_exact_mut(w)) {
                y.fill(T::ZERO);
                for x in x.chunks_exact(w) {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
                }
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
        let heads = g.shape(node.inputs[0]).dims()[1].known();
        let heads = heads.ok_or_else(|| g.no_gradient("sum_heads", "the number of heads is not fixed"))?;
        Ok(vec![Some(g.push1(RepeatHeads { heads }, &[dy])?)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
