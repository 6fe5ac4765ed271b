//! Ridge regression at every token over packed sequences, and its step on states.

use memwall_kernels::Real;
use memwall_kernels::ridge::{
    Form, Ridge as Kernel, RidgeGradients, RidgeInputs, ridge_backward, ridge_backward_scratch, ridge_form,
    ridge_forward, ridge_scratch, ridge_step,
};

use super::recurrent;
use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Alias, Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::{Dim, Type};
use crate::{GraphError, real};

/// Operations of an element of a state: a decay and two multiply-adds, then one multiply-add an iteration.
fn sweep(kernel: &Kernel) -> f64 {
    5.0 + 2.0 * kernel.num_iter as f64
}

fn check_shapes(k: &Kernel, inputs: &[&Type]) -> Result<(), String> {
    let n = inputs[0].shape.dims().first().copied().unwrap_or(Dim::fixed(0));
    let rows = vec![k.heads, k.width];
    let want = [("q", rows.clone()), ("k", rows), ("g", vec![k.heads])];
    for ((name, tail), ty) in want.into_iter().zip(inputs) {
        let mut dims = vec![n];
        dims.extend(tail.iter().map(|&d| Dim::fixed(d)));
        if ty.shape.dims() != dims {
            return Err(format!("{name} is {}, [N, {tail:?}] is needed", ty.shape));
        }
    }
    Ok(())
}

/// H_t = e^{g_t} H_{t−1} + k_t k_tᵀ, x_t = (H_t + a ‖H_t‖_F I)⁻¹ q_t. Inputs: q and k [N, H, D],
/// cu_seqlens [B + 1], then log-gates g [N, H] if it is gated, and the first states [B, H, D, D] if
/// there are some. Outputs: x [N, H, D] and the last states. Gradients are those of the exact solution.
#[derive(Clone, Debug)]
pub struct Ridge {
    kernel: Kernel,
    gated: bool,
    /// A fixed form; the automatic choice if none.
    form: Option<Form>,
    initial_state: bool,
}

impl Ridge {
    /// The regression with those heads, width and iterations.
    pub fn new(kernel: Kernel, gated: bool, form: Option<Form>, initial_state: bool) -> Ridge {
        Ridge { kernel, gated, form, initial_state }
    }

    /// Inputs that the forward operator has.
    fn inputs(&self) -> usize {
        3 + usize::from(self.gated) + usize::from(self.initial_state)
    }

    fn form(&self, cu: &[i32]) -> Form {
        self.form.unwrap_or_else(|| {
            let longest = cu.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
            ridge_form(&[longest])
        })
    }

    fn kernel_inputs<'a, T: Real>(&self, io: &Io<'a>) -> RidgeInputs<'a, T> {
        RidgeInputs {
            q: io.input(0),
            k: io.input(1),
            g: self.gated.then(|| io.input(3)),
            cu_seqlens: io.input(2),
            initial_state: self.initial_state.then(|| io.input(3 + usize::from(self.gated))),
        }
    }
}

impl Op for Ridge {
    fn name(&self) -> &'static str {
        "ridge"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs.len() != self.inputs() {
            return Err(format!("{} inputs", inputs.len()));
        }
        let mut shaped = vec![inputs[0], inputs[1]];
        shaped.extend(inputs.get(3).filter(|_| self.gated));
        check_shapes(&self.kernel, &shaped)?;
        let (k, dtype) = (&self.kernel, inputs[0].dtype);
        let Some(sequences) = inputs[2].shape.dims().first().and_then(|d| d.minus(1)) else {
            return Err(format!("cu_seqlens is {}, [B + 1] is needed", inputs[2].shape));
        };
        let state = Type::new([sequences, k.heads.into(), k.width.into(), k.width.into()], dtype);
        if self.initial_state && inputs.last() != Some(&&state) {
            return Err(format!("the first states are {}, {state} is needed", inputs[inputs.len() - 1]));
        }
        Ok(vec![inputs[0].clone(), state])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &Ridge, io: &Io<'_>) -> Result<(), String> {
            let x = op.kernel_inputs::<T>(io);
            op.kernel.check_shapes(&x).map_err(|e| e.to_string())?;
            let form = op.form(x.cu_seqlens);
            ridge_forward(io.pool(), &op.kernel, form, &x, io.output(0), io.output(1), io.scratch());
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Implicit("arXiv 2511.21016: the derivative of the exact solution, by another solve")
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads.iter().all(Option::is_none) {
            return Ok(vec![None; node.inputs.len()]);
        }
        let mut inputs = node.inputs.to_vec();
        inputs.push(node.outputs[0]);
        inputs.push(match node.grads[0] {
            Some(d_out) => d_out,
            None => g.push1(super::fill::Fill::new(g.ty(node.outputs[0]).clone(), 0.0), &[])?,
        });
        inputs.extend(node.grads[1]);
        let op = RidgeBackward { forward: self.clone(), d_final_state: node.grads[1].is_some() };
        let made = g.push(op, &inputs)?;
        // Gradients come as q, k, g, states; inputs have cu_seqlens after k.
        let mut made = made.into_iter().map(Some);
        let mut grads: Vec<Option<Value>> = made.by_ref().take(2).collect();
        grads.push(None);
        grads.extend(made);
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.kernel.state_elements(1), sweep(&self.kernel))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let longest = sizes.inputs[0].1.axis(0);
        let bytes =
            |form| real!(sizes.inputs[0].0.dtype, T => ridge_scratch::<T>(&self.kernel, form, longest, threads));
        let forms = self.form.map_or_else(|| vec![Form::Recurrent, Form::Chunked], |form| vec![form]);
        forms.into_iter().map(bytes).max().unwrap_or(0)
    }
}

/// Inputs: those of [`Ridge`], its solutions, their gradient, and that of the last states if there is
/// one. Outputs: gradients of q, k, the gates and the first states, as far as there are such.
#[derive(Clone, Debug)]
struct RidgeBackward {
    forward: Ridge,
    d_final_state: bool,
}

impl Op for RidgeBackward {
    fn name(&self) -> &'static str {
        "ridge_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let of = inputs[..self.forward.inputs()].iter().enumerate();
        Ok(of.filter(|(i, _)| *i != 2).map(|(_, t)| (*t).clone()).collect())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &RidgeBackward, io: &Io<'_>) {
            let f = &op.forward;
            let x = f.kernel_inputs::<T>(io);
            let n = f.inputs();
            let d_final = op.d_final_state.then(|| io.input::<T>(n + 2));
            let d = RidgeGradients {
                q: io.output(0),
                k: io.output(1),
                g: if f.gated { io.output(2) } else { &mut [] },
                initial_state: f.initial_state.then(|| io.output(2 + usize::from(f.gated))),
            };
            ridge_backward(io.pool(), &f.kernel, &x, io.input(n), io.input(n + 1), d_final, d, io.scratch());
        }
        real!(io.out_dtype(0), T => go::<T>(self, io));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of the ridge regression are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::sweep_cost(sizes, self.forward.kernel.state_elements(1), 2.0 * sweep(&self.forward.kernel))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn scratch(&self, sizes: &NodeSizes<'_>, threads: usize) -> usize {
        let (longest, k) = (sizes.inputs[0].1.axis(0), &self.forward.kernel);
        real!(sizes.inputs[0].0.dtype, T => ridge_backward_scratch::<T>(k, longest, threads))
    }
}

/// The regression on kept states, of several sequences at once. Inputs: the states [slots, H, D, D],
/// q and k [N, H, D], slots `[N]` (rows of the same slot in order), then log-gates [N, H] if it is gated.
/// Outputs: the states, updated, and x [N, H, D].
#[derive(Clone, Debug)]
pub struct RidgeStep {
    kernel: Kernel,
    gated: bool,
}

impl RidgeStep {
    /// A step with those heads, width and iterations.
    pub fn new(kernel: Kernel, gated: bool) -> RidgeStep {
        RidgeStep { kernel, gated }
    }
}

impl Op for RidgeStep {
    fn name(&self) -> &'static str {
        "ridge_step"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        if inputs.len() != 4 + usize::from(self.gated) {
            return Err(format!("{} inputs", inputs.len()));
        }
        let mut shaped = vec![inputs[1], inputs[2]];
        shaped.extend(inputs.get(4));
        check_shapes(&self.kernel, &shaped)?;
        let want = [self.kernel.heads, self.kernel.width, self.kernel.width];
        let tail: Vec<Option<usize>> = inputs[0].shape.dims().iter().skip(1).map(|d| d.known()).collect();
        if tail != want.map(Some) {
            return Err(format!("states are {}, [slots, {want:?}] is needed", inputs[0].shape));
        }
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(op: &RidgeStep, io: &Io<'_>) -> Result<(), String> {
            let slots = io.input::<i32>(3);
            let count = io.out_sizes(0).axis(0);
            if let Some(slot) = slots.iter().find(|&&s| s < 0 || s as usize >= count) {
                return Err(format!("state slot {slot} of {count}"));
            }
            let g = op.gated.then(|| io.input::<T>(4));
            let (q, k) = (io.input(1), io.input(2));
            ridge_step::<T>(io.pool(), &op.kernel, q, k, g, slots, io.output(0), io.output(1));
            Ok(())
        }
        real!(io.out_dtype(1), T => go::<T>(self, io))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("it updates a state in place; train with the operator `ridge`")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        recurrent::step_cost(sizes, self.kernel.state_elements(1), sweep(&self.kernel))
    }

    fn rows(&self) -> Rows {
        Rows::Sequence
    }

    fn alias(&self, output: usize) -> Option<Alias> {
        (output == 0).then_some(Alias::Write { input: 0 })
    }
}
