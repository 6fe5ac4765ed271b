//! B'MOJO's attention over whole sequences: window, fading memory and eidetic buffer under one softmax.

use memwall_formats::Dtype;
use memwall_kernels::Real;
use memwall_kernels::bmojo::{
    Bmojo as Kernel, BmojoGradients, BmojoInputs, bmojo, bmojo_backward, bmojo_backward_scratch, bmojo_scratch,
};

use super::{check_offsets, check_rows};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Inputs: q [N, H, K], k [N, G, K], v [N, G, V] of tokens, the same of the fading memory's outputs, cu_seqlens [B + 1], and
/// with a buffer q and k of its tokens and the chunks from which on they are not in it, `[N]` I32. Outputs: o [N, H, V], and
/// the joint log-sum-exps [H, N].
#[derive(Clone, Copy, Debug)]
pub struct BmojoAttention {
    /// Heads, widths, window, slots.
    pub kernel: Kernel,
    /// With a buffer.
    pub eidetic: bool,
}

/// The input that has the offsets; tensors that have gradients stand around it.
const OFFSETS: usize = 6;

impl BmojoAttention {
    fn inputs(&self) -> usize {
        if self.eidetic { 10 } else { 7 }
    }

    fn given<'a, T: Real>(&self, io: &Io<'a>) -> BmojoInputs<'a, T> {
        BmojoInputs {
            recent: [0, 1, 2].map(|i| io.input(i)),
            fading: [3, 4, 5].map(|i| io.input(i)),
            eidetic: self.eidetic.then(|| [7, 8].map(|i| io.input(i))),
            until: if self.eidetic { io.input(9) } else { &[] },
            cu_seqlens: io.input(OFFSETS),
        }
    }

    /// Tokens and sequences.
    fn sizes(&self, sizes: &NodeSizes<'_>) -> (usize, usize) {
        (sizes.inputs[0].1.axis(0), sizes.inputs[OFFSETS].1.elements() - 1)
    }

    /// Multiplications and additions of one product with all keys that are seen.
    fn products(&self, sizes: &NodeSizes<'_>) -> f64 {
        let a = &self.kernel;
        let keys = 2 * a.window + if self.eidetic { a.slots } else { 0 };
        let (tokens, sequences) = self.sizes(sizes);
        (tokens * keys.min(tokens / sequences.max(1)) * a.heads * (a.key_width + a.value_width)) as f64
    }
}

impl Op for BmojoAttention {
    fn name(&self) -> &'static str {
        "bmojo"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs.len() != self.inputs() {
            return Err(format!("{} inputs, {} needed", inputs.len(), self.inputs()));
        }
        let a = &self.kernel;
        if a.window == 0 {
            return Err("the window is 0, at least 1 is needed".into());
        }
        let n = inputs[0].shape.dims().first().copied().ok_or("q is a scalar")?;
        let eidetic: &[usize] = if self.eidetic { &[7, 8] } else { &[] };
        for &i in [0, 1, 2, 3, 4, 5].iter().chain(eidetic) {
            let (name, heads, width) = match i {
                0 | 3 | 7 => ("q", a.heads, a.key_width),
                2 | 5 => ("v", a.kv_heads, a.value_width),
                _ => ("k", a.kv_heads, a.key_width),
            };
            check_rows(name, inputs[i], n, &[heads, width])?;
            if inputs[i].dtype != inputs[0].dtype {
                return Err(format!("{name} is {}, q {}", inputs[i], inputs[0]));
            }
        }
        if let Some(until) = inputs.get(9).filter(|until| ***until != Type::new([n], Dtype::I32)) {
            return Err(format!("the chunks are {until}, I32[N] is needed"));
        }
        a.recent().check_self().map_err(|e| e.to_string())?;
        let o = Type::new([n, a.heads.into(), a.value_width.into()], inputs[0].dtype);
        Ok(vec![o, Type::new([a.heads.into(), n], inputs[0].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        check_offsets(io.input(OFFSETS), io.in_sizes(0).axis(0))?;
        real!(io.out_dtype(0), T => {
            let (o, lse) = (io.output(0), io.output(1));
            bmojo::<T>(io.pool(), &self.kernel, &self.given(io), o, lse, io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads[1].is_some() {
            return Err(g.no_gradient("bmojo", "the log-sum-exp is not differentiated"));
        }
        let Some(d_o) = node.grads[0] else { return Ok(vec![None; node.inputs.len()]) };
        let mut inputs = node.inputs.to_vec();
        inputs.extend([node.outputs[0], node.outputs[1], d_o]);
        let made = g.push(BmojoBackward { forward: *self }, &inputs)?;
        let mut grads: Vec<Option<Value>> = made.into_iter().map(Some).collect();
        grads.insert(OFFSETS, None);
        grads.resize(node.inputs.len(), None);
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(2.0 * self.products(sizes))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (tokens, sequences) = self.sizes(sizes);
        real!(sizes.inputs[0].0.dtype, T => bmojo_scratch::<T>(&self.kernel, self.eidetic, tokens, sequences, threads))
    }
}

/// Inputs: those of [`BmojoAttention`], its outputs, and the gradient of o. Outputs: gradients of all q, k and v.
#[derive(Clone, Copy, Debug)]
struct BmojoBackward {
    forward: BmojoAttention,
}

impl Op for BmojoBackward {
    fn name(&self) -> &'static str {
        "bmojo_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let eidetic = if self.forward.eidetic { 7..9 } else { 7..7 };
        Ok((0..6).chain(eidetic).map(|i| inputs[i].clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let n = self.forward.inputs();
        real!(io.out_dtype(0), T => {
            let x = self.forward.given::<T>(io);
            let to = BmojoGradients {
                recent: [0, 1, 2].map(|i| io.output(i)),
                fading: [3, 4, 5].map(|i| io.output(i)),
                eidetic: self.forward.eidetic.then(|| [6, 7].map(|i| io.output(i))),
            };
            let joint = [n, n + 1, n + 2].map(|i| io.input(i));
            bmojo_backward::<T>(io.pool(), &self.forward.kernel, &x, joint, to, io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of attention are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(5.0 * self.forward.products(sizes))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let ((tokens, sequences), f) = (self.forward.sizes(sizes), &self.forward);
        real!(sizes.inputs[0].0.dtype, T => {
            bmojo_backward_scratch::<T>(&f.kernel, f.eidetic, tokens, sequences, threads)
        })
    }
}
