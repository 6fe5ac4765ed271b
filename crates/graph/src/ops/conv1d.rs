//! Depthwise causal convolution over time, of packed sequences or of rows that continue kept ones.

use memwall_kernels::Real;
use memwall_kernels::conv1d::{Conv1d as Kernel, MAX_TAPS, conv1d, conv1d_backward, conv1d_step};

use super::check_slots;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

fn check(k: &Kernel, x: &Type, weight: &Type, bias: Option<&&Type>) -> Result<(), String> {
    if !(1..=MAX_TAPS).contains(&k.taps) {
        return Err(format!("{} taps, 1 to {MAX_TAPS} are supported", k.taps));
    }
    if x.shape.rank() != 2 || x.shape.width() != Some(k.channels) {
        return Err(format!("x is {}, [N, {}] is needed", x.shape, k.channels));
    }
    let want = Type::new([k.channels, k.taps], x.dtype);
    if *weight != want {
        return Err(format!("the weight is {weight}, {want} is needed"));
    }
    match bias.filter(|b| ***b != Type::new([k.channels], x.dtype)) {
        Some(bias) => Err(format!("the bias is {bias}, {}[{}] is needed", x.dtype, k.channels)),
        None => Ok(()),
    }
}

/// y_t = act(b + Σ_j w_j ⊙ x_{t−W+1+j}). Inputs: x [N, D], cu_seqlens [B + 1], weight [D, W], bias `[D]` if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Conv1d {
    /// Channels, taps and activation.
    pub kernel: Kernel,
}

impl Op for Conv1d {
    fn name(&self) -> &'static str {
        "conv1d"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        check(&self.kernel, inputs[0], inputs[2], inputs.get(3))?;
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        super::check_offsets(io.input(1), io.in_sizes(0).axis(0))?;
        real!(io.out_dtype(0), T => {
            let bias = (io.inputs() > 3).then(|| io.input::<T>(3));
            conv1d::<T>(io.pool(), &self.kernel, io.input(0), io.input(2), bias, io.input(1), None, io.output(0), None);
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let mut inputs = node.inputs.to_vec();
        inputs.push(dy);
        let made = g.push(Conv1dBackward { kernel: self.kernel }, &inputs)?;
        let mut grads = vec![Some(made[0]), None, Some(made[1])];
        grads.extend(made.get(2).map(|&db| Some(db)));
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming((2 * self.kernel.taps * sizes.inputs[0].1.elements()) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// Inputs: those of [`Conv1d`] and the gradient of y. Outputs: gradients of x, weight, and bias if there is one.
#[derive(Clone, Copy, Debug)]
struct Conv1dBackward {
    kernel: Kernel,
}

impl Op for Conv1dBackward {
    fn name(&self) -> &'static str {
        "conv1d_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let mut out = vec![inputs[0].clone(), inputs[2].clone()];
        out.extend((inputs.len() > 4).then(|| inputs[3].clone()));
        Ok(out)
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(k: &Kernel, io: &Io<'_>) {
            let biased = io.inputs() > 4;
            let bias = biased.then(|| io.input::<T>(3));
            let dy = io.input::<T>(io.inputs() - 1);
            let db = biased.then(|| io.output::<T>(2));
            let (dx, dw) = (Some(io.output::<T>(0)), Some(io.output::<T>(1)));
            let (x, cu, w) = (io.input::<T>(0), io.input::<i32>(1), io.input::<T>(2));
            conv1d_backward::<T>(io.pool(), k, x, w, bias, cu, None, dy, None, dx, dw, db, None, false);
        }
        real!(io.out_dtype(0), T => go::<T>(&self.kernel, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a convolution are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming((4 * self.kernel.taps * sizes.inputs[0].1.elements()) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// The convolution on kept states. Inputs: states [slots, W − 1, D], x [N, D], slots `[N]` (rows of the
/// same slot in order), weight, bias if there is one. Outputs: the states, moved on, and y.
#[derive(Clone, Copy, Debug)]
pub struct Conv1dStep {
    /// Channels, taps and activation.
    pub kernel: Kernel,
}

impl Op for Conv1dStep {
    fn name(&self) -> &'static str {
        "conv1d_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        check(&self.kernel, inputs[1], inputs[3], inputs.get(4))?;
        let state = &inputs[0].shape;
        let want = [Some(self.kernel.taps - 1), Some(self.kernel.channels)];
        if state.rank() != 3 || state.dims()[1].known() != want[0] || state.dims()[2].known() != want[1] {
            return Err(format!(
                "states are {state}, [slots, {}, {}] is needed",
                self.kernel.taps - 1,
                self.kernel.channels
            ));
        }
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let slots = io.input::<i32>(2);
        check_slots(slots, io.out_sizes(0).axis(0))?;
        real!(io.out_dtype(1), T => {
            let bias = (io.inputs() > 4).then(|| io.input::<T>(4));
            conv1d_step::<T>(io.pool(), &self.kernel, io.input(1), io.input(3), bias, slots, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `conv1d`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let bytes = (sizes.inputs[1].1.elements() * self.kernel.taps * 4) as f64;
        Cost { operations: bytes / 2.0, bytes_read: bytes, bytes_written: bytes }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
