//! Gated linear attention over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::gla::{
    Form, Gate, Gla as Kernel, gla_backward, gla_backward_scratch, gla_form, gla_forms, gla_forward, gla_scratch,
    gla_step,
};

use super::{check_rows, check_slots, recurrent};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Which log-gates there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateShape {
    /// None: linear attention.
    None,
    /// One a head.
    Head,
    /// One a key channel.
    Channel,
}

pub(super) fn gate<'a, T: Real>(shape: GateShape, io: &Io<'a>, i: usize) -> Gate<'a, T> {
    match shape {
        GateShape::None => Gate::None,
        GateShape::Head => Gate::Head(io.input(i)),
        GateShape::Channel => Gate::Channel(io.input(i)),
    }
}

fn check_shapes(k: &Kernel, gate: GateShape, inputs: &[&Type]) -> Result<(), String> {
    let (h, hk) = (k.heads, k.kv_heads);
    let n = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
    let mut want = vec![("q", vec![h, k.key_width]), ("k", vec![hk, k.key_width]), ("v", vec![hk, k.value_width])];
    match gate {
        GateShape::None => {}
        GateShape::Head => want.push(("g", vec![hk])),
        GateShape::Channel => want.push(("g", vec![hk, k.key_width])),
    }
    want.into_iter().zip(inputs).try_for_each(|((name, tail), ty)| check_rows(name, ty, n, &tail))
}

/// S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ, o_t = scale · q_tᵀ S_t. Inputs: q [N, H, K], k [N, Hk, K],
/// v [N, Hk, V], cu_seqlens [B + 1], then log-gates g as [`GateShape`] says, and the first states
/// [B, H, K, V] if there are some. Outputs: o [N, H, V] and the last states.
#[derive(Clone, Debug)]
pub struct Gla {
    kernel: Kernel,
    gate: GateShape,
    /// A fixed form; the automatic choice if none.
    form: Option<Form>,
    initial_state: bool,
}

impl Gla {
    /// Gated linear attention with those heads and widths.
    pub fn new(kernel: Kernel, gate: GateShape, form: Option<Form>, initial_state: bool) -> Gla {
        Gla { kernel, gate, form, initial_state }
    }

    fn gates(&self) -> usize {
        usize::from(self.gate != GateShape::None)
    }

    fn form(&self, cu: &[i32]) -> Form {
        self.form.unwrap_or_else(|| gla_form(&self.kernel, &[recurrent::longest(cu)]))
    }

    fn forms(&self) -> Vec<Form> {
        self.form.map_or_else(|| gla_forms(&self.kernel).to_vec(), |f| vec![f])
    }
}

impl Op for Gla {
    fn name(&self) -> &'static str {
        "gla"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs.len() != 4 + self.gates() + usize::from(self.initial_state) {
            return Err(format!("{} inputs", inputs.len()));
        }
        let mut shaped = vec![inputs[0], inputs[1], inputs[2]];
        shaped.extend(inputs.get(4).filter(|_| self.gates() == 1));
        check_shapes(&self.kernel, self.gate, &shaped)?;
        let (k, dtype) = (&self.kernel, inputs[0].dtype);
        let n = inputs[0].shape.dims()[0];
        let o = Type::new([n, k.heads.into(), k.value_width.into()], dtype);
        let first = self.initial_state.then(|| inputs[inputs.len() - 1]);
        let state = recurrent::states(inputs[3], &[k.heads, k.key_width, k.value_width], dtype, first)?;
        Ok(vec![o, state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Gla, io: &Io<'_>) -> Result<(), String> {
            let cu = io.input::<i32>(3);
            let initial = op.initial_state.then(|| io.input::<T>(4 + op.gates()));
            let g = gate::<T>(op.gate, io, 4);
            let (q, k, v) = (io.input(0), io.input(1), io.input(2));
            op.kernel.check_shapes(q, k, v, g, cu, initial).map_err(|e| e.to_string())?;
            gla_forward::<T>(
                io.pool(),
                &op.kernel,
                op.form(cu),
                q,
                k,
                v,
                g,
                cu,
                initial,
                io.output(0),
                io.output(1),
                io.scratch(),
            );
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let op = GlaBackward { forward: self.clone(), d_final_state: node.grads[1].is_some() };
        recurrent::backward_with_states(g, node, 3, &[], op)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        // The recurrence: decay, rank-1 update and read-out of a K × V state a token and head.
        recurrent::sweep_cost(sizes, self.kernel.state_elements(1), 5.0)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let longest = sizes.inputs[0].1.axis(0);
        let bytes = |form| real!(sizes.inputs[0].0.dtype, T => gla_scratch::<T>(&self.kernel, form, longest, threads));
        self.forms().into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// Inputs: those of [`Gla`], the gradient of o, and that of the last states if there is one.
/// Outputs: gradients of q, k, v, the gates and the first states, as far as there are such.
#[derive(Clone, Debug)]
struct GlaBackward {
    forward: Gla,
    d_final_state: bool,
}

impl Op for GlaBackward {
    fn name(&self) -> &'static str {
        "gla_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let n = 4 + self.forward.gates() + usize::from(self.forward.initial_state);
        Ok(inputs[..n].iter().enumerate().filter(|(i, _)| *i != 3).map(|(_, t)| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &GlaBackward, io: &Io<'_>) {
            let f = &op.forward;
            let cu = io.input::<i32>(3);
            let n = 4 + f.gates() + usize::from(f.initial_state);
            let initial = f.initial_state.then(|| io.input::<T>(n - 1));
            let d_final = op.d_final_state.then(|| io.input::<T>(n + 1));
            let (q, k, v, g) = (io.input(0), io.input(1), io.input(2), gate::<T>(f.gate, io, 4));
            let (dq, dk, dv) = (io.output(0), io.output(1), io.output(2));
            let dg: &mut [T] = if f.gates() == 1 { io.output(3) } else { &mut [] };
            let d_initial = f.initial_state.then(|| io.output::<T>(3 + f.gates()));
            gla_backward::<T>(
                io.pool(),
                &f.kernel,
                f.form(cu),
                q,
                k,
                v,
                g,
                cu,
                initial,
                io.input(n),
                d_final,
                dq,
                dk,
                dv,
                dg,
                d_initial,
                io.scratch(),
            );
        }
        real!(io.out_dtype(0), T => go::<T>(self, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of gated linear attention are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.forward.kernel.state_elements(1), 14.0)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (longest, k) = (sizes.inputs[0].1.axis(0), &self.forward.kernel);
        let bytes = |form| real!(sizes.inputs[0].0.dtype, T => gla_backward_scratch::<T>(k, form, longest, threads));
        self.forward.forms().into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// The recurrence on kept states, of several sequences at once. Inputs: the states [slots, H, K, V],
/// q [N, H, K], k, v, slots `[N]` (rows of the same slot in order), then log-gates as [`GateShape`]
/// says. Outputs: the states, updated, and o [N, H, V].
#[derive(Clone, Debug)]
pub struct GlaStep {
    kernel: Kernel,
    gate: GateShape,
}

impl GlaStep {
    /// A step with those heads and widths.
    pub fn new(kernel: Kernel, gate: GateShape) -> GlaStep {
        GlaStep { kernel, gate }
    }
}

impl Op for GlaStep {
    fn name(&self) -> &'static str {
        "gla_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let mut shaped = vec![inputs[1], inputs[2], inputs[3]];
        shaped.extend(inputs.get(5));
        check_shapes(&self.kernel, self.gate, &shaped)?;
        let k = &self.kernel;
        recurrent::check_states(inputs[0], [k.heads, k.key_width, k.value_width])?;
        let o = [inputs[1].shape.dims()[0], k.heads.into(), k.value_width.into()];
        Ok(vec![inputs[0].clone(), Type::new(o, inputs[1].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &GlaStep, io: &Io<'_>) -> Result<(), String> {
            let slots = io.input::<i32>(4);
            check_slots(slots, io.out_sizes(0).axis(0))?;
            let (q, k, v) = (io.input(1), io.input(2), io.input(3));
            let g = gate::<T>(op.gate, io, 5);
            gla_step::<T>(io.pool(), &op.kernel, q, k, v, g, slots, io.output(0), io.output(1));
            Ok(())
        }
        real!(io.out_dtype(1), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `gla`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::step_cost(sizes, self.kernel.state_elements(1), 5.0)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
