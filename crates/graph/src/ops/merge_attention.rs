//! Joins attention over disjoint sets of keys by their log-sum-exps.

use memwall_kernels::attention::merge;

use crate::io::Io;
use crate::op::{Cost, Gradient, NodeSizes, Op, Rows};
use crate::real;
use crate::shape::Type;

/// Inputs: o [N, H, V] and log-sum-exps [H, N] of each set, in turn; −∞ of a set without keys. Outputs: both over all sets.
#[derive(Clone, Copy, Debug)]
pub struct MergeAttention;

impl Op for MergeAttention {
    fn name(&self) -> &'static str {
        "merge_attention"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [o, lse, ..] = inputs else { return Err("at least one o and its log-sum-exps are needed".into()) };
        let fits = match (o.shape.dims(), lse.shape.dims()) {
            (&[n, h, _], &[heads, rows]) => n == rows && h == heads && o.shape.width().is_some(),
            _ => false,
        };
        let alike = |pair: &[&Type]| pair[0] == *o && pair.get(1) == Some(lse);
        if !fits || !inputs.chunks(2).all(alike) {
            return Err(format!(
                "sets begin with o {o} and log-sum-exps {lse}; [N, H, V] and [H, N] of each are needed"
            ));
        }
        Ok(vec![(*o).clone(), (*lse).clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let (heads, width) = (io.in_sizes(0).axis(1), io.in_sizes(0).axis(2));
        real!(io.out_dtype(0), T => {
            let sets = |from: usize| (from..io.inputs()).step_by(2).map(|i| io.input::<T>(i)).collect::<Vec<_>>();
            merge::<T>(heads, width, &sets(0), &sets(1), io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("log-sum-exps are not differentiated; train with an operator that has all sets")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming((2 * sizes.inputs.len() * sizes.outputs[0].1.elements()) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
