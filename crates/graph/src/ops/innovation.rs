//! How badly the next output of a fading memory was predicted from those before it.

use memwall_kernels::Real;
use memwall_kernels::bmojo::{Innovation as Kernel, innovation, innovation_gradient, innovation_step};

use super::{check_offsets, check_rows};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Sizes of the predictor of f under these weights, if they fit.
fn sizes(f: &Type, weight: &Type) -> Result<Kernel, String> {
    let dims = weight.shape.dims();
    if let ([_, d], &[taps, width]) = (f.shape.dims(), dims)
        && let (Some(channels), Some(taps)) = (d.known(), taps.known())
        && width.known() == Some(channels)
        && taps > 0
        && channels > 0
        && f.dtype == weight.dtype
    {
        return Ok(Kernel { channels, taps });
    }
    Err(format!("f is {f} and the weights {weight}; [N, D] and [taps, D] are needed"))
}

fn kernel(io: &Io<'_>, weight: usize) -> Kernel {
    Kernel { channels: io.in_sizes(weight).axis(1), taps: io.in_sizes(weight).axis(0) }
}

fn operations(f: usize, weight: usize, channels: usize) -> f64 {
    (f * (2 * weight / channels.max(1) + 8)) as f64
}

/// Inputs: f [N, D], weights [l, D], cu_seqlens [B + 1]. Outputs: innovations `[N]` as [`memwall_kernels::bmojo`] defines
/// them, and their mean `[1]`. The mean's gradient goes to the weights alone: what is to be predicted is taken as given.
#[derive(Clone, Copy, Debug)]
pub struct Innovation;

impl Op for Innovation {
    fn name(&self) -> &'static str {
        "innovation"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [f, weight, _] = inputs else { return Err(format!("{} inputs, 3 needed", inputs.len())) };
        sizes(f, weight)?;
        Ok(vec![Type::new([f.shape.dims()[0]], f.dtype), Type::new([1], f.dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_offsets(io.input(2), io.in_sizes(0).axis(0))?;
        real!(io.out_dtype(0), T => {
            let (scores, mean) = (io.output::<T>(0), io.output::<T>(1));
            innovation::<T>(io.pool(), &kernel(io, 1), io.input(0), io.input(1), io.input(2), scores);
            let sum = scores.iter().fold(T::ZERO, |sum, &score| sum + score);
            mean[0] = sum / T::of(scores.len().max(1) as f64);
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Surrogate("of the weights alone, with the outputs taken as given (arXiv 2407.06324)")
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads[0].is_some() {
            return Err(g.no_gradient("innovation", "only the mean is differentiated"));
        }
        let (Some(d_mean), [f, weight, cu]) = (node.grads[1], node.inputs) else { return Ok(vec![None; 3]) };
        Ok(vec![None, Some(g.push1(InnovationBackward, &[*f, *weight, *cu, d_mean])?), None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let [f, weight] = [0, 1].map(|i| sizes.inputs[i].1.elements());
        sizes.streaming(operations(f, weight, sizes.inputs[1].1.width()))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }
}

/// Inputs: those of [`Innovation`] and the gradient of the mean. Output: that of the weights.
#[derive(Clone, Copy, Debug)]
struct InnovationBackward;

impl Op for InnovationBackward {
    fn name(&self) -> &'static str {
        "innovation_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[1].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let (f, weight, cu) = (io.input::<T>(0), io.input(1), io.input(2));
            let each = io.input::<T>(3)[0] / T::of(io.in_sizes(0).axis(0).max(1) as f64);
            innovation_gradient::<T>(io.pool(), &kernel(io, 1), f, weight, cu, each, io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of innovations are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let [f, weight] = [0, 1].map(|i| sizes.inputs[i].1.elements());
        sizes.streaming(2.0 * operations(f, weight, sizes.inputs[1].1.width()))
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// The same for rows that continue sequences. Inputs: states [slots, l + 1, D], f [N, D], weights [l, D], rows [N, 2] (slot
/// and position, rows of a slot in order). Outputs: the states, moved on, and innovations `[N]`.
#[derive(Clone, Copy, Debug)]
pub struct InnovationStep;

impl Op for InnovationStep {
    fn name(&self) -> &'static str {
        "innovation_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [states, f, weight, rows] = inputs else { return Err(format!("{} inputs, 4 needed", inputs.len())) };
        let Kernel { channels, taps } = sizes(f, weight)?;
        let tail: Vec<Option<usize>> = states.shape.dims().iter().skip(1).map(|d| d.known()).collect();
        if tail != [Some(taps + 1), Some(channels)] || states.dtype != f.dtype {
            return Err(format!("states are {states}, [slots, {}, {channels}] is needed", taps + 1));
        }
        check_rows("rows", rows, f.shape.dims()[0], &[2])?;
        Ok(vec![(*states).clone(), Type::new([f.shape.dims()[0]], f.dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (rows, slots) = (io.input::<i32>(3), io.out_sizes(0).axis(0));
        if let Some(row) = rows.chunks_exact(2).find(|row| row[0] < 0 || row[0] as usize >= slots || row[1] < 0) {
            return Err(format!("row at slot {}, position {} of {slots} slots", row[0], row[1]));
        }
        real!(io.out_dtype(1), T => {
            innovation_step::<T>(&kernel(io, 2), io.input(1), io.input(2), rows, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `innovation`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        let [f, weight] = [1, 2].map(|i| sizes.inputs[i].1.elements());
        let touched = 4.0 * (f + weight + f / sizes.inputs[1].1.width().max(1) * weight) as f64;
        Cost {
            operations: operations(f, weight, sizes.inputs[2].1.width()),
            bytes_read: touched,
            bytes_written: touched,
        }
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
