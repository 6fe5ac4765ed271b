//! Mean decoupled distillation loss of logits against a teacher's top-K probabilities.

use memwall_kernels::Real;
use memwall_kernels::distillation::{TopK, distillation, distillation_backward};

use crate::graph::{Graph, Value};
use crate::io::Io;
use crate::op::{Backward, Cost, Gradient, NodeSizes, Op, Rows};
use crate::shape::Type;
use crate::{GraphError, real};

/// Inputs: logits [N, V], the teacher's ids [N, K] (first −100: the row does not count) and the logarithms of their
/// probabilities [N, K]. Outputs: the mean `[1]`, and of each row the loss `[N]`, and the log-sum-exp of logits inside and
/// outside the ids, `[N]` each.
#[derive(Clone, Copy, Debug)]
pub struct Distillation {
    /// τ of the comparison within the ids; above 0.
    pub temperature: f64,
}

fn teacher<'a, T: Real>(io: &Io<'a>) -> TopK<'a, T> {
    TopK { ids: io.input(1), log_probabilities: io.input(2), k: io.in_sizes(1).width() }
}

impl Op for Distillation {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        let shapes = || format!("{}, {} and {}", inputs[0].shape, inputs[1].shape, inputs[2].shape);
        let ([n, v], [rows, k], [again, same]) =
            (inputs[0].shape.dims(), inputs[1].shape.dims(), inputs[2].shape.dims())
        else {
            return Err(format!("logits, ids and logarithms {}; [N, V], [N, K] and [N, K] are needed", shapes()));
        };
        if n != rows || n != again || k != same {
            return Err(format!("logits, ids and logarithms {} have other rows or columns", shapes()));
        }
        match (v.known(), k.known()) {
            (Some(v), Some(k)) if (1..=v).contains(&k) => {}
            _ => return Err(format!("logits, ids and logarithms {}; 1 to V ids are needed", shapes())),
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("a temperature of {}; one above 0 is needed", self.temperature));
        }
        let dtype = inputs[0].dtype;
        if inputs[2].dtype != dtype {
            return Err(format!("element types {dtype} and {} differ", inputs[2].dtype));
        }
        Ok([[1.into()], [*n], [*n], [*n]].map(|shape: [crate::Dim; 1]| Type::new(shape, dtype)).into())
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>, temperature: f64) -> Result<(), String> {
            let (teacher, vocabulary) = (teacher::<T>(io), io.in_sizes(0).width());
            if let Some(row) = teacher.broken(vocabulary) {
                return Err(format!(
                    "row {row} of the teacher has an id twice or beyond {vocabulary}, or a probability that is none"
                ));
            }
            let (loss, inside, outside) = (io.output(1), io.output(2), io.output(3));
            io.output::<T>(0)[0] =
                distillation(io.pool(), io.input(0), teacher, T::of(temperature), loss, inside, outside);
            Ok(())
        }
        real!(io.out_dtype(0), T => go::<T>(io, self.temperature))
    }

    fn gradient(&self) -> Gradient {
        Gradient::Exact
    }

    fn backward(&self, g: &mut Graph, node: &Backward<'_>) -> Result<Vec<Option<Value>>, GraphError> {
        if node.grads[1..].iter().any(Option::is_some) {
            return Err(g.no_gradient("distillation", "only the mean is differentiated"));
        }
        let Some(d) = node.grads[0] else { return Ok(vec![None; 3]) };
        let (i, o) = (node.inputs, node.outputs);
        let backward = DistillationBackward { temperature: self.temperature };
        Ok(vec![Some(g.push1(backward, &[i[0], i[1], i[2], o[2], o[3], d])?), None, None])
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(12.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }
}

/// Inputs: logits, ids, logarithms, log-sum-exps inside and outside, gradient of the mean. Output: gradient of the logits.
#[derive(Clone, Copy, Debug)]
struct DistillationBackward {
    temperature: f64,
}

impl Op for DistillationBackward {
    fn name(&self) -> &'static str {
        "distillation_backward"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Vec<Type>, String> {
        Ok(vec![inputs[0].clone()])
    }

    fn run(&self, io: &Io<'_>) -> Result<(), String> {
        fn go<T: Real>(io: &Io<'_>, temperature: f64) {
            let (inside, outside, d) = (io.input(3), io.input(4), io.input::<T>(5)[0]);
            let logits = io.output_from(0, 0);
            distillation_backward(io.pool(), teacher::<T>(io), T::of(temperature), inside, outside, d, logits);
        }
        real!(io.out_dtype(0), T => go::<T>(io, self.temperature));
        Ok(())
    }

    fn gradient(&self) -> Gradient {
        Gradient::Refused("second derivatives of distillation are not built")
    }

    fn cost(&self, sizes: &NodeSizes<'_>) -> Cost {
        sizes.streaming(12.0 * sizes.inputs[0].1.elements() as f64)
    }

    fn rows(&self) -> Rows {
        Rows::Mixed
    }

    fn in_place(&self, _: usize) -> &[usize] {
        &[0]
    }
}
