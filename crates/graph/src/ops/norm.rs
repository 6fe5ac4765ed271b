//! RMS norm and layer norm of rows.

use memwall_kernels::Real;
use memwall_kernels::norm::{Norm as Kernel, norm, norm_backward, norm_backward_scratch};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Each row of x, normalized and multiplied by a weight; a layer norm may have a bias. Inputs: x [.., W], weight `[W]`,
/// bias `[W]`; with weights for each of G groups x is [N, G, W], and weight and bias are `[G · W]`.
#[derive(Clone, Debug)]
pub struct Norm {
    kernel: Kernel,
}

impl Norm {
    /// x / √(mean(x²) + ε) ⊙ w over rows of `width`.
    pub fn rms(width: usize, eps: f64) -> Norm {
        Norm { kernel: Kernel::rms(width, eps) }
    }

    /// (x − mean) / √(variance + ε) ⊙ w + b over rows of `width`.
    pub fn layer(width: usize, eps: f64) -> Norm {
        Norm { kernel: Kernel::layer(width, eps) }
    }

    /// The same with weights of its own for each of `groups` groups, the axis before the last.
    pub fn grouped(mut self, groups: usize) -> Norm {
        self.kernel.groups = groups;
        self
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (x, width) = (inputs[0], self.kernel.width);
        if width == 0 {
            return Err(format!("x is {x}; rows of at least 1 are needed"));
        }
        if x.shape.width() != Some(width) {
            return Err(format!("rows of {} do not have width {width}", x.shape));
        }
        let groups = self.kernel.groups;
        if groups != 1 && (x.shape.rank() < 2 || x.shape.dims()[x.shape.rank() - 2].known() != Some(groups)) {
            return Err(format!("x is {x}; [.., {groups}, {width}] is needed for {groups} groups"));
        }
        let want = Type::new([groups * width], x.dtype);
        match inputs[1..].iter().find(|t| ***t != want) {
            Some(other) => Err(format!("a weight or bias is {other}, {want} is needed")),
            None => Ok(vec![x.clone()]),
        }
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let bias = (io.inputs() > 2).then(|| io.input::<T>(2));
            norm::<T>(io.pool(), &self.kernel, io.input(0), Some(io.input(1)), bias, io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let op = NormBackward { kernel: self.kernel, bias: node.inputs.len() > 2 };
        let made = g.push(op, &[node.inputs[0], node.inputs[1], dy])?;
        Ok(made.into_iter().map(Some).collect())
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(4.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// Inputs: x, weight, gradient of the output. Outputs: gradients of x, weight and bias.
#[derive(Clone, Debug)]
struct NormBackward {
    kernel: Kernel,
    bias: bool,
}

impl Op for NormBackward {
    fn name(&self) -> &'static str {
        "norm_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let mut out = vec![inputs[0].clone(), inputs[1].clone()];
        out.extend(self.bias.then(|| inputs[1].clone()));
        Ok(out)
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &NormBackward, io: &Io<'_>) {
            let db = op.bias.then(|| io.output::<T>(2));
            let (x, w, dy) = (io.input::<T>(0), io.input(1), io.input(2));
            let scratch = bytemuck::cast_slice_mut(io.scratch());
            norm_backward::<T>(
                io.pool(),
                &op.kernel,
                x,
                Some(w),
                dy,
                io.output(0),
                Some(io.output(1)),
                db,
                false,
                scratch,
            );
        }
        real!(io.out_dtype(0), T => go::<T>(self, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a norm are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(10.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, _: usize) -> usize {
        norm_backward_scratch(sizes.inputs[0].1.rows()) * sizes.inputs[0].0.dtype.block_bytes()
    }
}
