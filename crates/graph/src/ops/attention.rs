//! Exact softmax attention over packed sequences: tiled, memory linear in their length.

use memwall_kernels::Real;
use memwall_kernels::attention::{
    Attention as Kernel, attention_backward, attention_backward_scratch, attention_forward, attention_scratch,
};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// O = softmax(τ Q Kᵀ + mask) V. Inputs: q [N, H, K], k [N, G, K], v [N, G, V], cu_seqlens [B + 1].
/// Outputs: o [N, H, V] and the log-sum-exp of each row, [H, N].
#[derive(Clone, Debug)]
pub struct Attention {
    kernel: Kernel,
}

impl Attention {
    /// Attention with those heads, widths and masks.
    pub fn new(kernel: Kernel) -> Attention {
        Attention { kernel }
    }
}

fn check_heads(k: &Kernel, inputs: &[&Type]) -> Result<(), String> {
    let want = [(k.heads, k.key_width, "q"), (k.kv_heads, k.key_width, "k"), (k.kv_heads, k.value_width, "v")];
    for ((heads, width, name), ty) in want.into_iter().zip(inputs) {
        let [_, h, w] = ty.shape.dims() else {
            return Err(format!("{name} is {}, [N, heads, width] is needed", ty.shape));
        };
        if (h.known(), w.known()) != (Some(heads), Some(width)) {
            return Err(format!("{name} is {}, [N, {heads}, {width}] is needed", ty.shape));
        }
    }
    k.check_self().map_err(|e| e.to_string())
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        check_heads(&self.kernel, inputs)?;
        let n = inputs[0].shape.dims()[0];
        let dtype = inputs[0].dtype;
        let o = Type::new([n, self.kernel.heads.into(), self.kernel.value_width.into()], dtype);
        Ok(vec![o, Type::new([self.kernel.heads.into(), n], dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(a: &Kernel, io: &Io<'_>) {
            let cu = io.input::<i32>(3);
            let (q, k, v) = (io.input::<T>(0), io.input(1), io.input(2));
            attention_forward::<T>(io.pool(), a, q, k, v, cu, cu, None, None, io.output(0), io.output(1), io.scratch());
        }
        real!(io.out_dtype(0), T => go::<T>(&self.kernel, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads[1].is_some() {
            return Err(g.no_gradient("attention", "the log-sum-exp is not differentiated"));
        }
        let Some(d_o) = node.grads[0] else { return Ok(vec![None; 4]) };
        let mut inputs = node.inputs.to_vec();
        inputs.extend([node.outputs[0], node.outputs[1], d_o]);
        let made = g.push(AttentionBackward { kernel: self.kernel }, &inputs)?;
        Ok(made.into_iter().map(Some).chain([None]).collect())
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(pairs(sizes, &self.kernel) * 2.0 * (self.kernel.key_width + self.kernel.value_width) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let sequences = sizes.inputs[3].1.elements() - 1;
        real!(sizes.inputs[0].0.dtype, T => attention_scratch::<T>(&self.kernel, sequences, threads))
    }
}

/// Pairs of a query and a visible key, over all heads, if the tokens are spread evenly over the sequences.
fn pairs(sizes: &NodeSizes<'_>, a: &Kernel) -> f64 {
    let n = sizes.inputs[0].1.axis(0) as f64;
    let sequences = (sizes.inputs[3].1.elements() - 1).max(1) as f64;
    let mut keys = n / sequences;
    if a.causal {
        keys = (keys + 1.0) / 2.0;
    }
    if let (Some(left), true) = (a.window.0, a.causal) {
        keys = keys.min(left as f64 + 1.0);
    }
    n * keys * a.heads as f64
}

/// Inputs: those of [`Attention`], its outputs, and the gradient of o. Outputs: gradients of q, k, v.
#[derive(Clone, Debug)]
struct AttentionBackward {
    kernel: Kernel,
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..3].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(a: &Kernel, io: &Io<'_>) {
            let cu = io.input::<i32>(3);
            let (q, k, v) = (io.input::<T>(0), io.input(1), io.input(2));
            let (o, lse, d_o) = (io.input::<T>(4), io.input(5), io.input(6));
            let (dq, dk, dv) = (io.output(0), io.output(1), io.output(2));
            attention_backward::<T>(io.pool(), a, q, k, v, cu, cu, None, None, o, lse, d_o, dq, dk, dv, io.scratch());
        }
        real!(io.out_dtype(0), T => go::<T>(&self.kernel, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of attention are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(pairs(sizes, &self.kernel) * 5.0 * (self.kernel.key_width + self.kernel.value_width) as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let n = sizes.inputs[0].1.axis(0);
        real!(sizes.inputs[0].0.dtype, T => attention_backward_scratch::<T>(&self.kernel, n, threads))
    }
}
