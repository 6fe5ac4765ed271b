//! The gated delta rule over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::delta::{
    Delta as Kernel, DeltaGradients, DeltaInputs, Form, delta_backward, delta_backward_form, delta_backward_scratch,
    delta_forward, delta_scratch, delta_step,
};

use super::gla::{GateShape, gate};
use super::{check_rows, check_slots, recurrent};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Operations of an element of a state in one sweep: a decay and three multiply-adds.
const SWEEP: f64 = 7.0;

fn check_shapes(k: &Kernel, gate: GateShape, inputs: &[&Type]) -> Result<(), String> {
    let n = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
    let keys = vec![k.key_heads, k.key_width];
    let mut want = vec![("q", keys.clone()), ("k", keys), ("v", vec![k.heads, k.value_width]), ("beta", vec![k.heads])];
    match gate {
        GateShape::None => {}
        GateShape::Head => want.push(("g", vec![k.heads])),
        GateShape::Channel => want.push(("g", vec![k.heads, k.key_width])),
    }
    want.into_iter().zip(inputs).try_for_each(|((name, tail), ty)| check_rows(name, ty, n, &tail))
}

/// S_t = (I − β_t k_t k_tᵀ) diag(e^{g_t}) S_{t−1} + β_t k_t v_tᵀ, o_t = scale · S_tᵀ q_t. Inputs: q and
/// k [N, Hk, K], v [N, H, V], β [N, H], cu_seqlens [B + 1], then log-gates g as [`GateShape`] says, and
/// the first states [B, H, K, V] if there are some. Outputs: o [N, H, V] and the last states.
#[derive(Clone, Debug)]
pub struct Delta {
    kernel: Kernel,
    gate: GateShape,
    /// A fixed form; if none, tokens one by one forward, and what the kernel chooses backward.
    form: Option<Form>,
    initial_state: bool,
}

impl Delta {
    /// The gated delta rule with those heads and widths.
    pub fn new(kernel: Kernel, gate: GateShape, form: Option<Form>, initial_state: bool) -> Delta {
        Delta { kernel, gate, form, initial_state }
    }

    fn gates(&self) -> usize {
        usize::from(self.gate != GateShape::None)
    }

    /// Inputs that the forward operator has.
    fn inputs(&self) -> usize {
        5 + self.gates() + usize::from(self.initial_state)
    }

    fn forward_form(&self) -> Form {
        self.form.unwrap_or(Form::Recurrent)
    }

    fn kernel_inputs<'a, T: Real>(&self, io: &Io<'a>) -> DeltaInputs<'a, T> {
        DeltaInputs {
            q: io.input(0),
            k: io.input(1),
            v: io.input(2),
            beta: io.input(3),
            g: gate(self.gate, io, 5),
            cu_seqlens: io.input(4),
            initial_state: self.initial_state.then(|| io.input(5 + self.gates())),
        }
    }
}

impl Op for Delta {
    fn name(&self) -> &'static str {
        "delta"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs.len() != self.inputs() {
            return Err(format!("{} inputs", inputs.len()));
        }
        let mut shaped = vec![inputs[0], inputs[1], inputs[2], inputs[3]];
        shaped.extend(inputs.get(5).filter(|_| self.gates() == 1));
        check_shapes(&self.kernel, self.gate, &shaped)?;
        let (k, dtype) = (&self.kernel, inputs[0].dtype);
        let n = inputs[0].shape.dims()[0];
        let o = Type::new([n, k.heads.into(), k.value_width.into()], dtype);
        let first = self.initial_state.then(|| inputs[inputs.len() - 1]);
        let state = recurrent::states(inputs[4], &[k.heads, k.key_width, k.value_width], dtype, first)?;
        Ok(vec![o, state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Delta, io: &Io<'_>) -> Result<(), String> {
            let x = op.kernel_inputs::<T>(io);
            op.kernel.check_shapes(&x).map_err(|e| e.to_string())?;
            delta_forward(io.pool(), &op.kernel, op.forward_form(), &x, io.output(0), io.output(1), io.scratch());
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let op = DeltaBackward { forward: self.clone(), d_final_state: node.grads[1].is_some() };
        recurrent::backward_with_states(g, node, 4, &[], op)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.kernel.state_elements(1), SWEEP)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let longest = sizes.inputs[0].1.axis(0);
        real!(sizes.inputs[0].0.dtype, T => delta_scratch::<T>(&self.kernel, self.forward_form(), longest, threads))
    }
}

/// Inputs: those of [`Delta`], the gradient of o, and that of the last states if there is one.
/// Outputs: gradients of q, k, v, β, the gates and the first states, as far as there are such.
#[derive(Clone, Debug)]
struct DeltaBackward {
    forward: Delta,
    d_final_state: bool,
}

impl Op for DeltaBackward {
    fn name(&self) -> &'static str {
        "delta_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let of = inputs[..self.forward.inputs()].iter().enumerate();
        Ok(of.filter(|(i, _)| *i != 4).map(|(_, t)| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &DeltaBackward, io: &Io<'_>) {
            let f = &op.forward;
            let x = f.kernel_inputs::<T>(io);
            let n = f.inputs();
            let d_final = op.d_final_state.then(|| io.input::<T>(n + 1));
            let d = DeltaGradients {
                q: io.output(0),
                k: io.output(1),
                v: io.output(2),
                beta: io.output(3),
                g: if f.gates() == 1 { io.output(4) } else { &mut [] },
                initial_state: f.initial_state.then(|| io.output(4 + f.gates())),
            };
            let form = f.form.unwrap_or_else(|| delta_backward_form(recurrent::longest(x.cu_seqlens)));
            delta_backward(io.pool(), &f.kernel, form, &x, io.input(n), d_final, d, io.scratch());
        }
        real!(io.out_dtype(0), T => go::<T>(self, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of the gated delta rule are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.forward.kernel.state_elements(1), 3.0 * SWEEP)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (longest, k) = (sizes.inputs[0].1.axis(0), &self.forward.kernel);
        let bytes = |form| real!(sizes.inputs[0].0.dtype, T => delta_backward_scratch::<T>(k, form, longest, threads));
        let forms = self.forward.form.map_or_else(|| vec![Form::Recurrent, Form::Chunked], |form| vec![form]);
        forms.into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// The recurrence on kept states, of several sequences at once. Inputs: the states [slots, H, K, V],
/// q [N, Hk, K], k, v, β, slots `[N]` (rows of the same slot in order), then log-gates as [`GateShape`]
/// says. Outputs: the states, updated, and o [N, H, V].
#[derive(Clone, Debug)]
pub struct DeltaStep {
    kernel: Kernel,
    gate: GateShape,
}

impl DeltaStep {
    /// A step with those heads and widths.
    pub fn new(kernel: Kernel, gate: GateShape) -> DeltaStep {
        DeltaStep { kernel, gate }
    }
}

impl Op for DeltaStep {
    fn name(&self) -> &'static str {
        "delta_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let mut shaped = vec![inputs[1], inputs[2], inputs[3], inputs[4]];
        shaped.extend(inputs.get(6));
        check_shapes(&self.kernel, self.gate, &shaped)?;
        let k = &self.kernel;
        recurrent::check_states(inputs[0], [k.heads, k.key_width, k.value_width])?;
        let o = [inputs[1].shape.dims()[0], k.heads.into(), k.value_width.into()];
        Ok(vec![inputs[0].clone(), Type::new(o, inputs[1].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &DeltaStep, io: &Io<'_>) -> Result<(), String> {
            let slots = io.input::<i32>(5);
            check_slots(slots, io.out_sizes(0).axis(0))?;
            let (q, k, v, beta) = (io.input(1), io.input(2), io.input(3), io.input(4));
            let g = gate::<T>(op.gate, io, 6);
            delta_step::<T>(io.pool(), &op.kernel, q, k, v, beta, g, slots, io.output(0), io.output(1));
            Ok(())
        }
        real!(io.out_dtype(1), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `delta`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::step_cost(sizes, self.kernel.state_elements(1), SWEEP)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
