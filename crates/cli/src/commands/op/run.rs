//! Runs one operator: its graph, its gradients, its outputs.

use std::sync::Arc;

use anyhow::{Context, bail};
use memwall_formats::{Dtype, format};
use memwall_graph::{Executor, Memory, PlanOptions, Value, pull_back};
use memwall_kernels::Pool;

use super::Precision;
use super::attributes::Attributes;
use super::builder::{Builder, fixed};
use super::operator::{Form, How, Made, Operator};
use super::tensors::{Elements, NamedTensors, Tensor, Tensors};

/// What is asked of an operator.
pub struct Request<'a> {
    /// Its inputs.
    pub tensors: &'a Tensors,
    /// Its options.
    pub attributes: &'a Attributes,
    /// The form, if one is named.
    pub form: Option<Form>,
    /// Precision of elements and products.
    pub precision: Precision,
    /// Gradients too.
    pub grad: bool,
    /// Threads.
    pub threads: usize,
}

/// The outputs, and the gradients if asked for.
///
/// # Errors
/// Names the flag, tensor or operator that is wrong.
pub fn run(operator: &Operator, request: &Request<'_>) -> anyhow::Result<NamedTensors> {
    request.attributes.check(operator)?;
    if let Some(form) = request.form.filter(|form| !operator.forms.contains(form)) {
        let has: Vec<&str> = operator.forms.iter().map(|f| f.name()).collect();
        let has = if has.is_empty() { "there is no choice".into() } else { format!("there are {}", has.join(", ")) };
        bail!("--form {}: {} does not have it; {has}", form.name(), operator.name);
    }
    if let Some(why) = operator.how.no_gradient().filter(|_| request.grad) {
        bail!("{} has no gradient: {why}", operator.name);
    }
    let mut b = Builder::new(operator, request)?;
    let build = match operator.how {
        How::Graph(build) | How::Step(build, _) => build,
        How::Alone(compute, _) => {
            b.refuse_strangers()?;
            return compute(&mut b);
        }
    };
    let outputs = build(&mut b)?;
    let mut memory = b.bind_weights()?;
    b.refuse_strangers()?;
    let mut wanted: Vec<(String, Value, Vec<usize>)> = Vec::new();
    let runs = b.g.max_sizes();
    for o in &outputs {
        let shape = o.shape.clone().unwrap_or_else(|| b.g.shape(o.value).sizes(&runs).axes().to_vec());
        wanted.push((o.name.into(), o.value, shape));
    }
    let mut zero = NamedTensors::new();
    if request.grad {
        for (name, shape, value) in gradients(&mut b, operator, &outputs)? {
            match value {
                Some(value) => wanted.push((format!("d{name}"), value, shape)),
                None => zero.push((format!("d{name}"), zeros(&shape, b.precision))),
            }
        }
    }
    let mut made = execute(&b, &mut memory, &wanted, request.threads)?;
    made.extend(zero);
    Ok(made)
}

type Gradient = (String, Vec<usize>, Option<Value>);

/// Differentiates: each real input and weight with its shape in the file and its gradient, if it is not zero.
fn gradients(b: &mut Builder<'_>, operator: &Operator, outputs: &[Made]) -> anyhow::Result<Vec<Gradient>> {
    let mut seeds = Vec::new();
    let mut possible = Vec::new();
    for o in outputs {
        if b.g.ty(o.value).dtype != b.g.elem() {
            continue;
        }
        let own = b.g.shape(o.value).sizes(&b.g.max_sizes()).axes().to_vec();
        let shape = o.shape.clone().unwrap_or_else(|| own.clone());
        possible.push(format!("d{} {shape:?}", o.name));
        let seed = match b.seed(o.name, &shape)? {
            Some(seed) => seed,
            // Of a loss it is 1 unless something else is said.
            None if o.name == "loss" => b.elements(&Tensor { shape, elements: Elements::F64(vec![1.0]) })?,
            None => continue,
        };
        let name = format!("d{}", o.name);
        let seed = b.feed(&name, fixed(&own)?, b.g.elem(), seed)?;
        seeds.push((o.value, seed));
    }
    if seeds.is_empty() {
        bail!("--grad needs the gradient of an output among the inputs: {}", possible.join(", "));
    }
    let trained = b.trained().to_vec();
    if trained.is_empty() {
        bail!("{} has no input of which a gradient could be made here", operator.name);
    }
    let values: Vec<Value> = trained.iter().map(|(_, v)| *v).collect();
    let grads = pull_back(&mut b.g, &seeds, &values)?;
    let shape = |name: &str| b.file_shape(name).map(<[usize]>::to_vec).unwrap_or_default();
    Ok(trained.into_iter().zip(grads).map(|((name, _), grad)| (name.clone(), shape(&name), grad)).collect())
}

fn execute(
    b: &Builder<'_>,
    memory: &mut Memory,
    wanted: &[(String, Value, Vec<usize>)],
    threads: usize,
) -> anyhow::Result<NamedTensors> {
    let mut g = b.g.clone();
    let runs = g.max_sizes();
    for (name, value, shape) in wanted {
        let made: usize = g.shape(*value).sizes(&runs).elements();
        if made != shape.iter().product::<usize>() {
            bail!("{name} has {made} elements, not {shape:?}");
        }
        g.output(name, *value);
    }
    let mut executor = Executor::new(g, PlanOptions::default(), memory, Arc::new(Pool::new(threads)))?;
    b.write(&mut executor);
    executor.run(memory)?;
    let tensor = |(name, value, shape): &(String, Value, Vec<usize>)| -> anyhow::Result<(String, Tensor)> {
        let (ty, bytes) = (executor.graph().ty(*value), executor.output::<u8>(name));
        let elements = match ty.dtype {
            Dtype::F64 => Elements::F64(bytemuck::pod_collect_to_vec(bytes)),
            Dtype::F32 => Elements::F32(bytemuck::pod_collect_to_vec(bytes)),
            Dtype::I32 => Elements::I32(bytemuck::pod_collect_to_vec(bytes)),
            dtype => {
                let mut values = vec![0.0; shape.iter().product()];
                format(dtype).decode(shape.last().copied().unwrap_or(1), bytes, &mut values).context(name.clone())?;
                Elements::F32(values)
            }
        };
        Ok((name.clone(), Tensor { shape: shape.clone(), elements }))
    };
    wanted.iter().map(tensor).collect()
}

fn zeros(shape: &[usize], precision: Precision) -> Tensor {
    let n = shape.iter().product();
    let elements = match precision {
        Precision::F64 => Elements::F64(vec![0.0; n]),
        Precision::F32 | Precision::Bf16 => Elements::F32(vec![0.0; n]),
    };
    Tensor { shape: shape.to_vec(), elements }
}
