//! The stabilized gates of mLSTM over packed sequences, and their step on states.

use memwall_kernels::mlstm::{mlstm_gates, mlstm_gates_backward, mlstm_gates_step};

use super::check_slots;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Operations of a gate: two exponentials and the maximum.
const OPERATIONS: f64 = 40.0;

/// Heads of ĩ and log f, both [N, H].
fn heads(i: &Type, f: &Type) -> Result<usize, String> {
    if i.shape.rank() != 2 || i != f {
        return Err(format!("i is {i} and f {f}; both must be [N, H]"));
    }
    i.shape.width().filter(|&heads| heads > 0).ok_or_else(|| format!("i is {i}; a fixed number of heads is needed"))
}

/// m_t = max(log f_t + m_{t−1}, ĩ_t, 0). Inputs: ĩ and log f [N, H], cu_seqlens [B + 1]. Outputs, all
/// [N, H]: log-gates g = log f_t + m_{t−1} − m_t, i′ = exp(ĩ − m), the bound e^{−m} of the normalizer.
#[derive(Clone, Copy, Debug)]
pub struct MlstmGates;

impl Op for MlstmGates {
    fn name(&self) -> &'static str {
        "mlstm_gates"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        heads(inputs[0], inputs[1])?;
        Ok(vec![inputs[0].clone(); 3])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        super::check_offsets(io.input(2), io.in_sizes(0).axis(0))?;
        let heads = io.in_sizes(0).width();
        real!(io.out_dtype(0), T => {
            mlstm_gates::<T>(heads, io.input(0), io.input(1), io.input(2), io.output(0), io.output(1), io.output(2));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads.iter().all(Option::is_none) {
            return Ok(vec![None; node.inputs.len()]);
        }
        let mut inputs = node.inputs.to_vec();
        for (grad, output) in node.grads.iter().zip(node.outputs) {
            inputs.push(match grad {
                Some(grad) => *grad,
                None => g.push1(super::fill::Fill::new(g.ty(*output).clone(), 0.0), &[])?,
            });
        }
        let made = g.push(MlstmGatesBackward, &inputs)?;
        Ok(vec![Some(made[0]), Some(made[1]), None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(OPERATIONS * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// Inputs: those of [`MlstmGates`] and the gradients of its outputs. Outputs: gradients of ĩ and log f.
#[derive(Clone, Copy, Debug)]
struct MlstmGatesBackward;

impl Op for MlstmGatesBackward {
    fn name(&self) -> &'static str {
        "mlstm_gates_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone(); 2])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let heads = io.in_sizes(0).width();
        real!(io.out_dtype(0), T => {
            let (i, f, d) = (io.input::<T>(0), io.input(1), [3, 4, 5].map(|d| io.input(d)));
            mlstm_gates_backward(heads, i, f, io.input(2), d[0], d[1], d[2], io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of the gates of mLSTM are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(2.0 * OPERATIONS * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// The gates on kept states. Inputs: m [slots, H], ĩ and log f [N, H], slots `[N]` (rows of the same slot
/// in order). Outputs: m, updated, then those of [`MlstmGates`].
#[derive(Clone, Copy, Debug)]
pub struct MlstmGatesStep;

impl Op for MlstmGatesStep {
    fn name(&self) -> &'static str {
        "mlstm_gates_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let heads = heads(inputs[1], inputs[2])?;
        let state = &inputs[0].shape;
        if state.rank() != 2 || state.width() != Some(heads) || inputs[0].dtype != inputs[1].dtype {
            return Err(format!("m is {}, [slots, {heads}] is needed", inputs[0]));
        }
        let gate = inputs[1].clone();
        Ok(vec![inputs[0].clone(), gate.clone(), gate.clone(), gate])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let slots = io.input::<i32>(3);
        check_slots(slots, io.out_sizes(0).axis(0))?;
        let heads = io.in_sizes(1).width();
        real!(io.out_dtype(1), T => {
            let (i, f, m) = (io.input::<T>(1), io.input(2), io.output(0));
            mlstm_gates_step(heads, i, f, slots, m, io.output(1), io.output(2), io.output(3));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `mlstm_gates`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let bytes = (sizes.inputs[1].1.elements() * sizes.inputs[1].0.dtype.block_bytes()) as f64;
        let operations = OPERATIONS * sizes.inputs[1].1.elements() as f64;
        Cost { operations, bytes_read: 3.0 * bytes, bytes_written: 4.0 * bytes }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
