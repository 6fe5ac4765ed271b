//! Exact softmax attention over packed sequences: tiled, memory linear in their length.

use std::sync::Arc;

use memwall_kernels::Real;
use memwall_kernels::attention::{
    Attention as Kernel, BlockMask, Shapes, attention_backward, attention_backward_scratch, attention_forward,
    attention_scratch,
};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// O = softmax(τ Q Kᵀ + mask) V. Inputs: q [N, H, K], k [M, G, K], v [M, G, V], cu_seqlens [B + 1] of the
/// queries, the same of the keys if they are of other sequences (else M = N), and slopes `[H]` if there is
/// ALiBi. Outputs: o [N, H, V] and the log-sum-exp of each row, [H, N].
#[derive(Clone, Debug)]
pub struct Attention {
    kernel: Kernel,
    cross: bool,
    mask: Option<Arc<BlockMask>>,
}

impl Attention {
    /// Attention within sequences, with those heads, widths and masks.
    pub fn new(kernel: Kernel) -> Attention {
        Attention { kernel, cross: false, mask: None }
    }

    /// The same from queries to the keys of other sequences.
    pub fn cross(self) -> Attention {
        Attention { cross: true, ..self }
    }

    /// The same where only the blocks that `mask` shows are computed.
    pub fn masked(self, mask: Arc<BlockMask>) -> Attention {
        Attention { mask: Some(mask), ..self }
    }

    /// How many inputs there are.
    fn inputs(&self) -> usize {
        4 + usize::from(self.cross) + usize::from(self.kernel.alibi)
    }

    /// Offsets of queries and keys, and the slopes.
    fn given<'a, T: Real>(&self, io: &Io<'a>) -> (&'a [i32], &'a [i32], Option<&'a [T]>) {
        let queries = io.input(3);
        let keys = if self.cross { io.input(4) } else { queries };
        (queries, keys, self.kernel.alibi.then(|| io.input(4 + usize::from(self.cross))))
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
        if inputs.len() != self.inputs() {
            return Err(format!("{} inputs, {} needed", inputs.len(), self.inputs()));
        }
        check_heads(&self.kernel, inputs)?;
        let n = inputs[0].shape.dims()[0];
        let dtype = inputs[0].dtype;
        if !self.cross && inputs[1].shape.dims()[0] != n {
            return Err(format!("q is {} and k {}: sequences of their own have as many tokens", inputs[0], inputs[1]));
        }
        let slopes = Type::new([self.kernel.heads], dtype);
        if self.kernel.alibi && *inputs[self.inputs() - 1] != slopes {
            return Err(format!("the slopes are {}, {slopes} is needed", inputs[self.inputs() - 1]));
        }
        let o = Type::new([n, self.kernel.heads.into(), self.kernel.value_width.into()], dtype);
        Ok(vec![o, Type::new([self.kernel.heads.into(), n], dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Attention, io: &Io<'_>) -> Result<(), String> {
            let (cu_q, cu_k, slopes) = op.given::<T>(io);
            let shape = |i| {
                let s = io.in_sizes(i);
                [s.axis(0), s.axis(1), s.axis(2)]
            };
            let shapes = Shapes {
                q: shape(0),
                k: shape(1),
                v: shape(2),
                cu_seqlens_q: cu_q,
                cu_seqlens_k: cu_k,
                alibi_slopes: slopes.map(<[T]>::len),
                block_mask: op.mask.as_deref(),
                double: size_of::<T>() == size_of::<f64>(),
            };
            op.kernel.check(&shapes).map_err(|e| e.to_string())?;
            let (q, k, v, mask) = (io.input::<T>(0), io.input(1), io.input(2), op.mask.as_deref());
            let (o, lse, scratch) = (io.output(0), io.output(1), io.scratch());
            attention_forward::<T>(io.pool(), &op.kernel, q, k, v, cu_q, cu_k, slopes, mask, o, lse, scratch);
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads[1].is_some() {
            return Err(g.no_gradient("attention", "the log-sum-exp is not differentiated"));
        }
        let Some(d_o) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        if self.kernel.alibi && node.wanted[self.inputs() - 1] {
            return Err(g.no_gradient("attention", "the slopes are not differentiated"));
        }
        let mut inputs = node.inputs.to_vec();
        inputs.extend([node.outputs[0], node.outputs[1], d_o]);
        let made = g.push(AttentionBackward { forward: self.clone() }, &inputs)?;
        let mut grads: Vec<Option<Value>> = made.into_iter().map(Some).collect();
        grads.resize(node.inputs.len(), None);
        Ok(grads)
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
    let (n, m) = (sizes.inputs[0].1.axis(0) as f64, sizes.inputs[1].1.axis(0) as f64);
    let sequences = (sizes.inputs[3].1.elements() - 1).max(1) as f64;
    let mut keys = m / sequences;
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
    forward: Attention,
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..3].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Attention, io: &Io<'_>) {
            let (cu_q, cu_k, slopes) = op.given::<T>(io);
            let (q, k, v, mask) = (io.input::<T>(0), io.input(1), io.input(2), op.mask.as_deref());
            let n = op.inputs();
            let (o, lse, d_o) = (io.input::<T>(n), io.input(n + 1), io.input(n + 2));
            let (dq, dk, dv, scratch) = (io.output(0), io.output(1), io.output(2), io.scratch());
            let (pool, a) = (io.pool(), &op.kernel);
            attention_backward::<T>(pool, a, q, k, v, cu_q, cu_k, slopes, mask, o, lse, d_o, dq, dk, dv, scratch);
        }
        real!(io.out_dtype(0), T => go::<T>(&self.forward, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of attention are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(
            pairs(sizes, &self.forward.kernel)
                * 5.0
                * (self.forward.kernel.key_width + self.forward.kernel.value_width) as f64,
        )
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let n = sizes.inputs[0].1.axis(0);
        real!(sizes.inputs[0].0.dtype, T => attention_backward_scratch::<T>(&self.forward.kernel, n, threads))
    }
}
