//! Mamba's selective scan over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::selective_scan::{
    SelectiveScanGradients, SelectiveScanInputs, selective_scan, selective_scan_backward,
    selective_scan_backward_scratch, selective_scan_scratch, selective_scan_step,
};

use super::{check_fixed, check_offsets, check_rows, check_slots, recurrent};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Operations of an element of a state a token: an exponential and three multiply-adds.
const ELEMENT: f64 = 20.0;

/// What the inputs x, Δ, A, B, C, skip are sized by.
struct Shapes {
    tokens: Dim,
    channels: usize,
    states: usize,
}

fn check(inputs: &[&Type]) -> Result<Shapes, String> {
    let known = |ty: &Type| ty.shape.dims().iter().map(|d| d.known()).collect::<Option<Vec<usize>>>();
    let Some(&[channels, states]) = known(inputs[2]).as_deref() else {
        return Err(format!("a is {}, [D, S] is needed", inputs[2].shape));
    };
    if channels == 0 || states == 0 {
        return Err(format!("a is {}: at least one channel and one state are needed", inputs[2].shape));
    }
    let tokens = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
    check_rows("x", inputs[0], tokens, &[channels])?;
    check_rows("delta", inputs[1], tokens, &[channels])?;
    check_rows("b", inputs[3], tokens, &[states])?;
    check_rows("c", inputs[4], tokens, &[states])?;
    check_fixed("the skip", inputs[5], &[channels])?;
    Ok(Shapes { tokens, channels, states })
}

fn inputs<'a, T: Real>(io: &Io<'a>, first: usize) -> SelectiveScanInputs<'a, T> {
    let [x, delta, a, b, c, skip] = [0, 1, 2, 3, 4, 5].map(|i| io.input(first + i));
    SelectiveScanInputs { x, delta, a, b, c, skip }
}

/// h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t x_t B_t, y_t = C_t · h_t + D x_t. Inputs: x and Δ [N, D], A [D, S], B and C [N, S], the
/// skip `[D]`, cu_seqlens [B + 1]. Outputs: y [N, D] and the last states [B, S, D].
#[derive(Clone, Copy, Debug)]
pub struct SelectiveScan;

impl Op for SelectiveScan {
    fn name(&self) -> &'static str {
        "selective_scan"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let shapes = check(inputs)?;
        let state = recurrent::states(inputs[6], &[shapes.states, shapes.channels], inputs[0].dtype, None)?;
        Ok(vec![inputs[0].clone(), state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let cu = io.input::<i32>(6);
        check_offsets(cu, io.in_sizes(0).axis(0))?;
        real!(io.out_dtype(0), T => {
            selective_scan::<T>(io.pool(), &inputs(io, 0), cu, None, io.output(0), io.output(1), io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        recurrent::backward(g, node, "selective_scan", SelectiveScanBackward)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(ELEMENT * (sizes.inputs[0].1.elements() * sizes.inputs[2].1.width()) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, _: usize) -> usize {
        let a = &sizes.inputs[2].1;
        real!(sizes.inputs[0].0.dtype, T => selective_scan_scratch::<T>(a.axis(0), a.axis(1)))
    }
}

/// Inputs: those of [`SelectiveScan`] and the gradient of y. Outputs: gradients of x, Δ, A, B, C and the skip.
#[derive(Clone, Copy, Debug)]
struct SelectiveScanBackward;

impl Op for SelectiveScanBackward {
    fn name(&self) -> &'static str {
        "selective_scan_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..6].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let [x, delta, a, b, c, skip] = [0, 1, 2, 3, 4, 5].map(|i| io.output::<T>(i));
            let d = SelectiveScanGradients { x, delta, a, b, c, skip };
            selective_scan_backward::<T>(io.pool(), &inputs(io, 0), io.input(6), io.input(7), d, io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a selective scan are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(3.0 * ELEMENT * (sizes.inputs[0].1.elements() * sizes.inputs[2].1.width()) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (n, a) = (sizes.inputs[0].1.axis(0), &sizes.inputs[2].1);
        let dtype = sizes.inputs[0].0.dtype;
        real!(dtype, T => selective_scan_backward_scratch::<T>(a.axis(0), a.axis(1), n, n, threads))
    }
}

/// The scan on kept states. Inputs: states [slots, S, D], x, Δ, A, B, C, the skip, slots `[N]` (rows of the same slot in
/// order). Outputs: the states, moved on, and y [N, D].
#[derive(Clone, Copy, Debug)]
pub struct SelectiveScanStep;

impl Op for SelectiveScanStep {
    fn name(&self) -> &'static str {
        "selective_scan_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let shapes = check(&inputs[1..])?;
        let slots = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
        check_rows("the states", inputs[0], slots, &[shapes.states, shapes.channels])?;
        check_rows("slots", inputs[7], shapes.tokens, &[])?;
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let slots = io.input::<i32>(7);
        check_slots(slots, io.out_sizes(0).axis(0))?;
        real!(io.out_dtype(1), T => {
            let x = inputs::<T>(io, 1);
            selective_scan_step(io.pool(), &x, slots, io.output(0), io.output(1), io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `selective_scan`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let elements = (sizes.inputs[1].1.elements() * sizes.inputs[3].1.width()) as f64;
        let bytes = elements * sizes.inputs[1].0.dtype.block_bytes() as f64;
        Cost { operations: ELEMENT * elements, bytes_read: 2.0 * bytes, bytes_written: bytes }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, _: usize) -> usize {
        let a = &sizes.inputs[3].1;
        real!(sizes.inputs[1].0.dtype, T => selective_scan_scratch::<T>(a.axis(0), a.axis(1)))
    }
}
