//! RWKV-4's weighted mean over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::wkv4::{
    STATE_ROWS, Wkv4Gradients, Wkv4Inputs, wkv4_backward, wkv4_backward_scratch, wkv4_forward, wkv4_step,
};

use super::{check_fixed, check_offsets, check_rows, check_slots, recurrent};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Operations of a channel of a token: four exponentials and what goes with them.
const TOKEN: f64 = 60.0;

/// Checks w, u, k, v; N and D.
fn check(inputs: &[&Type]) -> Result<(Dim, usize), String> {
    let (n, channels) = match inputs[2].shape.dims() {
        [n, d] => (*n, d.known().ok_or("k has no fixed width")?),
        _ => return Err(format!("k is {}, [N, D] is needed", inputs[2].shape)),
    };
    check_fixed("log_decay", inputs[0], &[channels])?;
    check_fixed("bonus", inputs[1], &[channels])?;
    check_rows("v", inputs[3], n, &[channels])?;
    Ok((n, channels))
}

fn inputs<'a, T: Real>(io: &Io<'a>, first: usize) -> Wkv4Inputs<'a, T> {
    let [log_decay, bonus, k, v] = [0, 1, 2, 3].map(|i| io.input(first + i));
    Wkv4Inputs { log_decay, bonus, k, v }
}

/// A mean of v with weights e^k that decay, and a bonus for the token itself. Inputs: log-decay `[D]`, bonus `[D]`, k and
/// v [N, D], cu_seqlens [B + 1]. Outputs: y [N, D] and the last states [B, 3, D].
#[derive(Clone, Copy, Debug)]
pub struct Wkv4;

impl Op for Wkv4 {
    fn name(&self) -> &'static str {
        "wkv4"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (_, channels) = check(inputs)?;
        let state = recurrent::states(inputs[4], &[STATE_ROWS, channels], inputs[2].dtype, None)?;
        Ok(vec![inputs[3].clone(), state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let cu = io.input::<i32>(4);
        check_offsets(cu, io.in_sizes(2).axis(0))?;
        real!(io.out_dtype(0), T => {
            wkv4_forward::<T>(io.pool(), &inputs(io, 0), cu, None, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        recurrent::backward(g, node, "wkv4", Wkv4Backward)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(TOKEN * sizes.inputs[2].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// Inputs: those of [`Wkv4`] and the gradient of y. Outputs: gradients of the log-decay, the bonus, k and v.
#[derive(Clone, Copy, Debug)]
struct Wkv4Backward;

impl Op for Wkv4Backward {
    fn name(&self) -> &'static str {
        "wkv4_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..4].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let [log_decay, bonus, k, v] = [0, 1, 2, 3].map(|i| io.output::<T>(i));
            let d = Wkv4Gradients { log_decay, bonus, k, v };
            wkv4_backward::<T>(io.pool(), &inputs(io, 0), io.input(4), io.input(5), d, io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of wkv4 are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(3.0 * TOKEN * sizes.inputs[2].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let longest = sizes.inputs[2].1.axis(0);
        real!(sizes.inputs[2].0.dtype, T => wkv4_backward_scratch::<T>(longest, threads))
    }
}

/// The recurrence on kept states. Inputs: states [slots, 3, D], log-decay, bonus, k, v, slots `[N]` (rows of the same slot
/// in order). Outputs: the states, moved on, and y [N, D].
#[derive(Clone, Copy, Debug)]
pub struct Wkv4Step;

impl Op for Wkv4Step {
    fn name(&self) -> &'static str {
        "wkv4_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (n, channels) = check(&inputs[1..])?;
        let slots = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
        check_rows("the states", inputs[0], slots, &[STATE_ROWS, channels])?;
        check_rows("slots", inputs[5], n, &[])?;
        Ok(vec![inputs[0].clone(), inputs[4].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let slots = io.input::<i32>(5);
        check_slots(slots, io.out_sizes(0).axis(0))?;
        real!(io.out_dtype(1), T => {
            wkv4_step::<T>(io.pool(), &inputs(io, 1), slots, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `wkv4`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let elements = sizes.inputs[3].1.elements() as f64;
        let bytes = (STATE_ROWS + 3) as f64 * elements * sizes.inputs[3].0.dtype.block_bytes() as f64;
        Cost { operations: TOKEN * elements, bytes_read: bytes, bytes_written: bytes }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
