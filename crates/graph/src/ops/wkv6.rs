//! The recurrence of RWKV-5 and RWKV-6 over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::wkv6::{
    Form, Wkv6 as Kernel, Wkv6Gradients, Wkv6Inputs, wkv6_backward, wkv6_backward_scratch, wkv6_form, wkv6_forms,
    wkv6_forward, wkv6_scratch, wkv6_step,
};

use super::{check_fixed, check_rows, check_slots, recurrent};
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Operations of an element of a state a token: a product and three multiply-adds.
const ELEMENT: f64 = 7.0;

/// Checks r, k, v, log-decay, bonus; N.
fn check(k: &Kernel, inputs: &[&Type]) -> Result<Dim, String> {
    let n = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
    let keys = [k.heads, k.key_width];
    check_rows("r", inputs[0], n, &keys)?;
    check_rows("k", inputs[1], n, &keys)?;
    check_rows("v", inputs[2], n, &[k.heads, k.value_width])?;
    check_rows("log_decay", inputs[3], n, &keys)?;
    check_fixed("bonus", inputs[4], &keys)?;
    Ok(n)
}

fn inputs<'a, T: Real>(io: &Io<'a>, first: usize, cu_seqlens: &'a [i32]) -> Wkv6Inputs<'a, T> {
    let [r, k, v, log_decay, bonus] = [0, 1, 2, 3, 4].map(|i| io.input(first + i));
    Wkv6Inputs { r, k, v, log_decay, bonus, cu_seqlens, initial_state: None }
}

/// o_t = (S_{t−1} + diag(u) k_t v_tᵀ)ᵀ r_t, S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ. Inputs: r, k [N, H, K], v [N, H, V],
/// log-decay g [N, H, K], bonus u [H, K], cu_seqlens [B + 1]. Outputs: o [N, H, V] and the last states [B, H, K, V].
#[derive(Clone, Debug)]
pub struct Wkv6 {
    kernel: Kernel,
    /// A fixed form; the automatic choice if none.
    form: Option<Form>,
}

impl Wkv6 {
    /// The recurrence with those heads and widths.
    pub fn new(kernel: Kernel, form: Option<Form>) -> Wkv6 {
        Wkv6 { kernel, form }
    }

    fn form(&self, cu: &[i32]) -> Form {
        self.form.unwrap_or_else(|| wkv6_form(&self.kernel, &[recurrent::longest(cu)]))
    }

    fn forms(&self) -> Vec<Form> {
        self.form.map_or_else(|| wkv6_forms(&self.kernel).to_vec(), |form| vec![form])
    }
}

impl Op for Wkv6 {
    fn name(&self) -> &'static str {
        "wkv6"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        check(&self.kernel, inputs)?;
        let (k, dtype) = (&self.kernel, inputs[0].dtype);
        let state = recurrent::states(inputs[5], &[k.heads, k.key_width, k.value_width], dtype, None)?;
        Ok(vec![inputs[2].clone(), state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Wkv6, io: &Io<'_>) -> Result<(), String> {
            let x = inputs::<T>(io, 0, io.input(5));
            op.kernel.check_shapes(&x).map_err(|e| e.to_string())?;
            let form = op.form(x.cu_seqlens);
            wkv6_forward(io.pool(), &op.kernel, form, &x, io.output(0), io.output(1), io.scratch());
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        recurrent::backward(g, node, "wkv6", Wkv6Backward { forward: self.clone() })
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.kernel.state_elements(1), ELEMENT)
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let tokens = sizes.inputs[0].1.axis(0);
        let bytes = |form| real!(sizes.inputs[0].0.dtype, T => wkv6_scratch::<T>(&self.kernel, form, tokens, threads));
        self.forms().into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// Inputs: those of [`Wkv6`] and the gradient of o. Outputs: gradients of r, k, v, the log-decay and the bonus.
#[derive(Clone, Debug)]
struct Wkv6Backward {
    forward: Wkv6,
}

impl Op for Wkv6Backward {
    fn name(&self) -> &'static str {
        "wkv6_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(inputs[..5].iter().map(|t| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.out_dtype(0), T => {
            let [r, k, v, log_decay, bonus] = [0, 1, 2, 3, 4].map(|i| io.output::<T>(i));
            let d = Wkv6Gradients { r, k, v, log_decay, bonus, initial_state: None };
            let x = inputs::<T>(io, 0, io.input(5));
            let (kernel, form) = (&self.forward.kernel, self.forward.form(x.cu_seqlens));
            wkv6_backward::<T>(io.pool(), kernel, form, &x, io.input(6), d, io.scratch());
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of wkv6 are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.forward.kernel.state_elements(1), 3.0 * ELEMENT)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (tokens, k) = (sizes.inputs[0].1.axis(0), &self.forward.kernel);
        let bytes = |form| real!(sizes.inputs[0].0.dtype, T => wkv6_backward_scratch::<T>(k, form, tokens, threads));
        self.forward.forms().into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// The recurrence on kept states. Inputs: states [slots, H, K, V], r, k, v, log-decay, bonus, slots `[N]` (rows of the
/// same slot in order). Outputs: the states, moved on, and o [N, H, V].
#[derive(Clone, Debug)]
pub struct Wkv6Step {
    kernel: Kernel,
}

impl Wkv6Step {
    /// A step with those heads and widths.
    pub fn new(kernel: Kernel) -> Wkv6Step {
        Wkv6Step { kernel }
    }
}

impl Op for Wkv6Step {
    fn name(&self) -> &'static str {
        "wkv6_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let (n, k) = (check(&self.kernel, &inputs[1..])?, &self.kernel);
        recurrent::check_states(inputs[0], [k.heads, k.key_width, k.value_width])?;
        check_rows("slots", inputs[6], n, &[])?;
        Ok(vec![inputs[0].clone(), inputs[3].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        let slots = io.input::<i32>(6);
        check_slots(slots, io.out_sizes(0).axis(0))?;
        real!(io.out_dtype(1), T => {
            wkv6_step::<T>(io.pool(), &self.kernel, &inputs(io, 1, &[]), slots, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `wkv6`")
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
