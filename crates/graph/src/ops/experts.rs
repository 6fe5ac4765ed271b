//! The experts of a mixture: gated MLPs of which each token goes through a few.

use memwall_formats::Dtype;
use memwall_kernels::Real;
use memwall_kernels::experts::{
    Experts as Sizes, Gradients, check_chosen, experts, experts_backward, experts_backward_scratch, experts_dense,
    experts_dense_scratch, experts_scratch,
};
use memwall_kernels::gemm::Compute;
use memwall_kernels::linear::Stack;

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// From this many tokens on, f32 weights go through the packed product; the bits are the same.
const PACKED_TOKENS: usize = 8;

/// y_t = Σ_e w_t,e W_down,e (silu(W_gate,e x_t) ⊙ W_up,e x_t) over the experts that token t chose.
///
/// Inputs: x [N, D], chosen [N, k] I32, weights [N, k], W_gate and W_up [E, F, D], W_down [E, D, F] in any storage format.
/// Output: y [N, D]. Only the chosen experts' weights are read.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// The precision of the operands, for f32 weights; other formats bring their own.
    pub compute: Compute,
}

/// The sizes of a mixture, from its chosen experts and W_gate.
fn sizes_of(io: &Io<'_>, chosen: usize, gate: usize) -> Sizes {
    let gate = io.in_sizes(gate);
    Sizes { experts: gate.axis(0), active: io.in_sizes(chosen).axis(1), width: gate.axis(2), hidden: gate.axis(1) }
}

impl Experts {
    fn dense(&self, weights: Dtype, tokens: usize) -> bool {
        weights == Dtype::F64 || (weights == Dtype::F32 && (tokens >= PACKED_TOKENS || self.compute == Compute::Bf16))
    }
}

impl Op for Experts {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let [x, chosen, weights, gate, up, down] = inputs else {
            return Err("it needs x, the chosen experts, their weights, and W_gate, W_up, W_down".into());
        };
        let ([n, d], [_, k]) = (x.shape.dims(), chosen.shape.dims()) else {
            return Err(format!("x {} and chosen {}; [N, D] and [N, k] are needed", x.shape, chosen.shape));
        };
        if weights.shape.dims() != [*n, *k] || chosen.shape.dims() != [*n, *k] {
            return Err(format!("chosen {} and weights {} for x {}", chosen.shape, weights.shape, x.shape));
        }
        if chosen.dtype != Dtype::I32 || weights.dtype != x.dtype {
            return Err(format!("chosen {chosen} and weights {weights}; I32 and {} are needed", x.dtype));
        }
        let [e, f, width] = gate.shape.dims() else {
            return Err(format!("W_gate {}, [E, F, D] is needed", gate.shape));
        };
        if width != d || up.shape != gate.shape || down.shape.dims() != [*e, *d, *f] {
            return Err(format!(
                "x {}, W_gate {}, W_up {}, W_down {}; [N, D], twice [E, F, D], and [E, D, F] are needed",
                x.shape, gate.shape, up.shape, down.shape
            ));
        }
        for w in [gate, up, down] {
            if (w.dtype == Dtype::F64) != (x.dtype == Dtype::F64) {
                return Err(format!("{} activations do not go with {} weights", x.dtype, w.dtype));
            }
        }
        Ok(vec![(*x).clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let e = sizes_of(io, 1, 3);
        let chosen = io.input::<i32>(1);
        check_chosen(e.experts, e.active, chosen)?;
        let same = (4..6).all(|i| io.in_dtype(i) == io.in_dtype(3));
        if same && self.dense(io.in_dtype(3), io.in_sizes(0).rows()) {
            real!(io.in_dtype(0), T => {
                let matrices = [io.input::<T>(3), io.input(4), io.input(5)];
                let (x, w) = (io.input(0), io.input(2));
                experts_dense(io.pool(), &e, self.compute, matrices, x, chosen, w, io.output(0), io.scratch());
            });
            return Ok(());
        }
        let stack = |i: usize| {
            let (s, dtype) = (io.in_sizes(i), io.in_dtype(i));
            Stack { dtype, bytes: io.in_bytes(i), matrices: s.axis(0), n: s.axis(1), k: s.axis(2) }
        };
        let stacks = [stack(3), stack(4), stack(5)];
        experts(io.pool(), &e, stacks, io.input(0), chosen, io.input(2), io.output(0), io.scratch());
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(dy) = node.grads[0] else { return Ok(vec![None; 6]) };
        let elem = g.ty(node.inputs[0]).dtype;
        if let Some(&w) = node.inputs[3..].iter().find(|&&w| g.ty(w).dtype != elem) {
            let problem = format!("its weights are stored as {}; training needs {elem}", g.ty(w).dtype);
            return Err(g.no_gradient("experts", problem));
        }
        let inputs: Vec<Value> = node.inputs.iter().copied().chain([dy]).collect();
        let [x, weights, gate, up, down] = g.push(ExpertsBackward { compute: self.compute }, &inputs)?[..] else {
            unreachable!("five gradients");
        };
        Ok(vec![Some(x), None, Some(weights), Some(gate), Some(up), Some(down)])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        cost(sizes, 1.0)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (tokens, e) = of_sizes(sizes);
        let dtypes = [3, 4, 5].map(|i| sizes.inputs[i].0.dtype);
        let dense =
            || real!(sizes.inputs[0].0.dtype, T => experts_dense_scratch::<T>(&e, self.compute, tokens, threads));
        match dtypes {
            [Dtype::F64, ..] => dense(),
            // A call of fewer tokens may take the other way.
            [Dtype::F32, Dtype::F32, Dtype::F32] => dense().max(experts_scratch(&e, dtypes, tokens, threads)),
            _ => experts_scratch(&e, dtypes, tokens, threads),
        }
    }
}

/// Tokens and sizes.
fn of_sizes(sizes: &NodeSizes<'_>) -> (usize, Sizes) {
    let (chosen, gate) = (&sizes.inputs[1].1, &sizes.inputs[3].1);
    let e = Sizes { experts: gate.axis(0), active: chosen.axis(1), width: gate.axis(2), hidden: gate.axis(1) };
    (chosen.axis(0), e)
}

/// `times` the operations of the products, and the bytes of the experts that are expected to be chosen if all are equally
/// likely: one of E stays out of a token's k with probability 1 − k / E.
fn cost(sizes: &NodeSizes<'_>, times: f64) -> Cost {
    let (tokens, e) = of_sizes(sizes);
    let share = 1.0 - (1.0 - e.active as f64 / e.experts.max(1) as f64).powi(i32::try_from(tokens).unwrap_or(i32::MAX));
    let products = 6.0 * (tokens * e.active) as f64 * (e.width * e.hidden) as f64;
    let all = sizes.streaming(times * products);
    let weights = NodeSizes { inputs: &sizes.inputs[3..6], outputs: &[] }.streaming(0.0).bytes_read;
    Cost { bytes_read: all.bytes_read - (1.0 - share) * weights, ..all }
}

/// Inputs: those of [`Experts`] and the gradient of y. Outputs: gradients of x, weights, W_gate, W_up and W_down.
#[derive(Clone, Copy, Debug)]
struct ExpertsBackward {
    compute: Compute,
}

impl Op for ExpertsBackward {
    fn name(&self) -> &'static str {
        "experts_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok([0, 2, 3, 4, 5].map(|i| inputs[i].clone()).to_vec())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &ExpertsBackward, io: &Io<'_>, e: &Sizes, chosen: &[i32]) {
            let to = Gradients {
                x: io.output::<T>(0),
                weights: io.output(1),
                matrices: [io.output(2), io.output(3), io.output(4)],
            };
            let matrices = [io.input::<T>(3), io.input(4), io.input(5)];
            let (x, w, dy) = (io.input(0), io.input(2), io.input(6));
            experts_backward(io.pool(), e, op.compute, matrices, x, chosen, w, dy, to, io.scratch());
        }
        let (e, chosen) = (sizes_of(io, 1, 3), io.input::<i32>(1));
        check_chosen(e.experts, e.active, chosen)?;
        real!(io.in_dtype(0), T => go::<T>(self, io, &e, chosen));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of experts are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        cost(sizes, 8.0 / 3.0)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (tokens, e) = of_sizes(sizes);
        real!(sizes.inputs[0].0.dtype, T => experts_backward_scratch::<T>(&e, self.compute, tokens, threads))
    }
}
