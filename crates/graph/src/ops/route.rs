//! The router of a mixture of experts: which experts each token goes through, and how much each counts.

use memwall_formats::Dtype;
use memwall_kernels::experts::{Route as Kernel, route, route_backward};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Inputs: logits [N, E], and the bias `[E]` by which experts are chosen but not weighed, if there is one. Outputs: the chosen
/// experts [N, k] I32 and their weights [N, k].
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// How they are chosen and weighed.
    pub kernel: Kernel,
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let Kernel { experts, active, .. } = self.kernel;
        if !(1..=experts).contains(&active) {
            return Err(format!("{active} of {experts} experts; 1 to all of them are needed"));
        }
        let [n, e] = inputs[0].shape.dims() else {
            return Err(format!("logits {}, [N, E] is needed", inputs[0].shape));
        };
        if e.known() != Some(experts) {
            return Err(format!("logits {} of {experts} experts", inputs[0].shape));
        }
        if let Some(bias) = inputs.get(1)
            && (bias.shape.dims() != [experts.into()] || bias.dtype != inputs[0].dtype)
        {
            return Err(format!("bias {bias}, [{experts}] of {} is needed", inputs[0].dtype));
        }
        let places = [*n, active.into()];
        Ok(vec![Type::new(places, Dtype::I32), Type::new(places, inputs[0].dtype)])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.in_dtype(0), T => {
            let bias = (io.inputs() > 1).then(|| io.input::<T>(1));
            route(io.pool(), &self.kernel, io.input(0), bias, io.output(0), io.output(1));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Surrogate(
            "Switch Transformers (arXiv 2101.03961): through the weights of the chosen, the choice held fixed",
        )
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        let mut grads = vec![None; node.inputs.len()];
        // The bias only chooses.
        if let Some(d) = node.grads[1].filter(|_| node.wanted[0]) {
            let inputs = [node.inputs[0], node.outputs[0], d];
            grads[0] = Some(g.push1(RouteBackward { kernel: self.kernel }, &inputs)?);
        }
        Ok(grads)
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(12.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}

/// Inputs: logits, the chosen, gradient of their weights. Output: gradient of the logits.
#[derive(Clone, Copy, Debug)]
struct RouteBackward {
    kernel: Kernel,
}

impl Op for RouteBackward {
    fn name(&self) -> &'static str {
        "route_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        real!(io.in_dtype(0), T => {
            route_backward::<T>(io.pool(), &self.kernel, io.input(0), io.input(1), io.input(2), io.output(0));
        });
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of a router are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(20.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Independent
    }
}
