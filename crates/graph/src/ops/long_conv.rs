//! Depthwise causal convolution with a filter as long as the sequence, of packed sequences or over kept inputs.

use memwall_kernels::Real;
use memwall_kernels::long_conv::{
    long_conv, long_conv_backward, long_conv_backward_scratch, long_conv_scratch, long_conv_step,
};

use super::{check_offsets, check_slots};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// y_t = Σ_{s ≤ t} f_{t−s} ⊙ x_s of each sequence. Inputs: x [N, D], cu_seqlens [B + 1], filter [L, D], which no sequence is
/// longer than.
#[derive(Clone, Copy, Debug)]
pub struct LongConv;

/// Refuses sequences that are longer than the filter.
fn check_lengths(cu_seqlens: &[i32], tokens: usize, filter: usize) -> Result<(), String> {
    check_offsets(cu_seqlens, tokens)?;
    match cu_seqlens.windows(2).map(|w| (w[1] - w[0]) as usize).max() {
        Some(longest) if longest > filter => {
            Err(format!("a sequence of {longest} tokens, but the filter has {filter}: l_max must be at least as many"))
        }
        _ => Ok(()),
    }
}

/// The most tokens of a sequence, as far as a plan knows: of the tokens of x and those of the filter.
fn longest(sizes: &NodeSizes<'_>) -> usize {
    sizes.inputs[0].1.axis(0).min(sizes.inputs[2].1.axis(0))
}

/// Multiplications and additions of one such convolution: a chain in a block, and a transform there and back at each level.
fn operations(sizes: &NodeSizes<'_>) -> f64 {
    let levels = (longest(sizes) as f64 / 64.0).log2().max(0.0).ceil();
    let level = |level: f64| 20.0 * (7.0 + level);
    sizes.inputs[0].1.elements() as f64 * (64.0 + (0..levels as usize).map(|l| level(l as f64)).sum::<f64>())
}

impl Op for LongConv {
    fn name(&self) -> &'static str {
        "long_conv"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (x, filter) = (inputs[0], inputs[2]);
        let fits = x.shape.rank() == 2 && filter.shape.rank() == 2 && x.shape.width() == filter.shape.width();
        if !fits || x.dtype != filter.dtype {
            return Err(format!("x is {x}, the filter {filter}; [N, D] and [L, D] are needed"));
        }
        Ok(vec![x.clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_lengths(io.input(1), io.in_sizes(0).axis(0), io.in_sizes(2).axis(0))?;
        let channels = io.in_sizes(0).axis(1);
        real!(io.out_dtype(0), T => {
            long_conv::<T>(io.pool(), channels, io.input(0), io.input(2), io.input(1), io.output(0), io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let made = g.push(LongConvBackward, &[node.inputs, &[dy]].concat())?;
        Ok(vec![Some(made[0]), None, Some(made[1])])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(operations(sizes))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        real!(sizes.inputs[0].0.dtype, T => long_conv_scratch::<T>(longest(sizes), threads))
    }
}

/// Inputs: those of [`LongConv`] and the gradient of y. Outputs: gradients of x and of the filter.
#[derive(Clone, Copy, Debug)]
struct LongConvBackward;

impl Op for LongConvBackward {
    fn name(&self) -> &'static str {
        "long_conv_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone(), inputs[2].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>) {
            let (channels, cu) = (io.in_sizes(0).axis(1), io.input::<i32>(1));
            let (x, filter, dy) = (io.input::<T>(0), io.input::<T>(2), io.input::<T>(3));
            let (dx, df) = (io.output::<T>(0), io.output::<T>(1));
            long_conv_backward::<T>(io.pool(), channels, x, filter, cu, dy, dx, df, io.scratch());
        }
        check_lengths(io.input(1), io.in_sizes(0).axis(0), io.in_sizes(2).axis(0))?;
        real!(io.out_dtype(0), T => go::<T>(io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a convolution are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(2.0 * operations(sizes))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        real!(sizes.inputs[0].0.dtype, T => long_conv_backward_scratch::<T>(longest(sizes), threads))
    }
}

/// The convolution over kept inputs. Inputs: the inputs of each slot [slots, capacity, D] up to and with those of this step's
/// rows, as `cache_write` leaves them, filter [L, D], rows [N, 2] (slot, position). Output: y [N, D].
#[derive(Clone, Copy, Debug)]
pub struct LongConvStep;

impl Op for LongConvStep {
    fn name(&self) -> &'static str {
        "long_conv_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (past, filter, rows) = (inputs[0], inputs[1], inputs[2]);
        let fits = past.shape.rank() == 3 && filter.shape.rank() == 2 && past.shape.width() == filter.shape.width();
        if !fits || past.dtype != filter.dtype || rows.shape.rank() != 2 || rows.shape.width() != Some(2) {
            return Err(format!(
                "inputs are {past}, the filter {filter}, rows {rows}; [slots, capacity, D], [L, D] and [N, 2] are needed"
            ));
        }
        Ok(vec![Type::new([rows.shape.dims()[0], filter.shape.dims()[1]], past.dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (past, filter, rows) = (io.in_sizes(0), io.in_sizes(1), io.input::<i32>(2));
        let most = past.axis(1).min(filter.axis(0));
        for row in rows.chunks_exact(2) {
            check_slots(&row[..1], past.axis(0))?;
            if row[1] < 0 || row[1] as usize >= most {
                return Err(format!("position {}; kept inputs and filter have {most}", row[1]));
            }
        }
        real!(io.out_dtype(0), T => {
            let (channels, capacity) = (filter.axis(1), past.axis(1));
            long_conv_step::<T>(io.pool(), channels, capacity, io.input(0), io.input(1), rows, io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it reads kept inputs; train with the operator `long_conv`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        // The worst case: everything that a slot can keep, once for each row.
        let elements = (sizes.outputs[0].1.elements() * sizes.inputs[0].1.axis(1)) as f64;
        sizes.streaming(2.0 * elements)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
