//! RWKV-7's generalized delta rule over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::delta::delta_backward_form;
use memwall_kernels::wkv7::{
    Form, Wkv7 as Kernel, Wkv7Gradients, Wkv7Inputs, wkv7_backward, wkv7_backward_scratch, wkv7_forward, wkv7_scratch,
    wkv7_step,
};

use super::{check_rows, check_slots, recurrent};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Operations of an element of a state a token: a product and four multiply-adds.
const ELEMENT: f64 = 9.0;

/// Checks r, k, v, a, b, log-decay; N.
fn check(k: &Kernel, inputs: &[&Type]) -> Result<Dim, String> {
    let n = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
    let keys = [k.heads, k.key_width];
    check_rows("r", inputs[0], n, &keys)?;
    check_rows("k", inputs[1], n, &keys)?;
    check_rows("v", inputs[2], n, &[k.heads, k.value_width])?;
    check_rows("a", inputs[3], n, &keys)?;
    check_rows("b", inputs[4], n, &keys)?;
    check_rows("log_decay", inputs[5], n, &keys)?;
    Ok(n)
}

fn inputs<'a, T: Real>(io: &Io<'a>, first: usize, cu_seqlens: &'a [i32]) -> Wkv7Inputs<'a, T> {
    let [r, k, v, a, b, log_decay] = [0, 1, 2, 3, 4, 5].map(|i| io.input(first + i));
    Wkv7Inputs { r, k, v, a, b, log_decay, cu_seqlens, initial_state: None }
}

/// S_t = diag(e^{g_t}) S_{t−1} + b_t (a_tᵀ S_{t−1}) + k_t v_tᵀ, o_t = S_tᵀ r_t. Inputs: r, k [N, H, K], v [N, H, V], a, b,
/// log-decay g [N, H, K], cu_seqlens [B + 1]. Outputs: o [N, H, V] and the last states [B, H, K, V].
#[derive(Clone, Debug)]
pub struct Wkv7 {
    kernel: Kernel,
    /// A fixed form; if none, tokens one by one forward, and what the kernel chooses backward.
    form: Option<Form>,
}

impl Wkv7 {
    /// The recurrence with those heads and widths.
    pub fn new(kernel: Kernel, form: Option<Form>) -> Wkv7 {
        Wkv7 { kernel, form }
    }

    fn forward_form(&self) -> Form {
        self.form.unwrap_or(Form::Recurrent)
    }
}

impl Op for Wkv7 {
    fn name(&self) -> &'static str {
        "wkv7"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        check(&self.kernel, inputs)?;
        let (k, dtype) = (&self.kernel, inputs[0].dtype);
        let state = recurrent::states(inputs[6], &[k.heads, k.key_width, k.value_width], dtype, None)?;
        Ok(vec![inputs[2].clone(), state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Wkv7, io: &Io<'_>) -> Result<(), String> {
            let x = inputs::<T>(io, 0, io.input(6));
            op.kernel.check_shapes(&x).map_err(|e| e.to_string())?;
            wkv7_forward(io.pool(), &op.kernel, op.forward_form(), &x, io.output(0), io.output(1), io.scratch());
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        recurrent::backward(g, node, "wkv7", Wkv7Backward { forward: self.clone() })
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.kernel.state_elements(1), ELEMENT)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let longest = sizes.inputs[0].1.axis(0);
        real!(sizes.inputs[0].0.dtype, T => wkv7_scratch::<T>(&self.kernel, self.forward_form(), longest, threads))
    }
}

/// Inputs: those of [`Wkv7`] and the gradient of o. Outputs: gradients of r, k, v, a, b and the log-decay.
#[derive(Clone, Debug)]
struct Wkv7Backward {
    forward: Wkv7,
}

impl Op for Wkv7Backward {
    fn name(&self) -> &'static str {
        "wkv7_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..6].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let [r, k, v, a, b, log_decay] = [0, 1, 2, 3, 4, 5].map(|i| io.output::<T>(i));
            let d = Wkv7Gradients { r, k, v, a, b, log_decay, initial_state: None };
            let x = inputs::<T>(io, 0, io.input(6));
            let form = self.forward.form.unwrap_or_else(|| delta_backward_form(recurrent::longest(x.cu_seqlens)));
            wkv7_backward::<T>(io.pool(), &self.forward.kernel, form, &x, io.input(7), d, io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of wkv7 are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.forward.kernel.state_elements(1), 3.0 * ELEMENT)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (longest, k) = (sizes.inputs[0].1.axis(0), &self.forward.kernel);
        let bytes = |form| real!(sizes.inputs[0].0.dtype, T => wkv7_backward_scratch::<T>(k, form, longest, threads));
        let forms = self.forward.form.map_or_else(|| vec![Form::Recurrent, Form::Chunked], |form| vec![form]);
        forms.into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// The recurrence on kept states. Inputs: states [slots, H, K, V], r, k, v, a, b, log-decay, slots `[N]` (rows of the
/// same slot in order). Outputs: the states, moved on, and o [N, H, V].
#[derive(Clone, Debug)]
pub struct Wkv7Step {
    kernel: Kernel,
}

impl Wkv7Step {
    /// A step with those heads and widths.
    pub fn new(kernel: Kernel) -> Wkv7Step {
        Wkv7Step { kernel }
    }
}

impl Op for Wkv7Step {
    fn name(&self) -> &'static str {
        "wkv7_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (n, k) = (check(&self.kernel, &inputs[1..])?, &self.kernel);
        let slots = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
        check_rows("the states", inputs[0], slots, &[k.heads, k.key_width, k.value_width])?;
        check_rows("slots", inputs[7], n, &[])?;
        Ok(vec![inputs[0].clone(), inputs[3].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let slots = io.input::<i32>(7);
        check_slots(slots, io.out_sizes(0).axis(0))?;
        real!(io.out_dtype(1), T => {
            wkv7_step::<T>(io.pool(), &self.kernel, &inputs(io, 1, &[]), slots, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `wkv7`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::step_cost(sizes, self.kernel.state_elements(1), ELEMENT)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
