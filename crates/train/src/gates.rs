//! Gates of low-rank corrections in training: their first values, their share of the learning rate, their penalty, and where
//! they are.

use memwall_formats::Dtype;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::ops::{self, sum::SumRows};
use memwall_graph::{Graph, GraphError, Memory, Shape, Source, Value};
use memwall_nn::{CorrectionConfig, CorrectionGate, GATE, ModelConfig};

/// Where the gates of a model are.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Gates {
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

/// The correction of a model that has gates.
pub(crate) fn correction(config: &ModelConfig) -> Option<&CorrectionConfig> {
    let correction = config.quantization.as_ref()?.correction.as_ref()?;
    (correction.gate != CorrectionGate::One).then_some(correction)
}

/// Whether a weight is the parameter of gates.
pub(crate) fn is_gate(name: &str) -> bool {
    name.ends_with(GATE)
}

/// The weight decay of gates: none, for what pulls γ to 0 pulls σ(γ) to one half.
pub(crate) fn weight_decay(name: &str) -> Option<f64> {
    is_gate(name).then_some(0.0)
}

fn parameters(graph: &Graph) -> Vec<Value> {
    let weights = graph.values().filter(|(_, info)| matches!(info.source, Source::Weight) && is_gate(&info.name));
    weights.map(|(value, _)| value).collect()
}

/// Gives gates that `memory` does not have their first values.
pub(crate) fn initialize(graph: &Graph, memory: &mut Memory, config: &ModelConfig) -> Result<(), GraphError> {
    let Some(correction) = correction(config) else { return Ok(()) };
    let first = correction.gate.parameter(correction.initial) as f32;
    for gate in parameters(graph) {
        let info = graph.info(gate);
        if memory.get::<u8>(&info.name).is_none() {
            let count = info.ty.shape.elements().and_then(|d| d.known()).unwrap_or(1);
            memory.set(&info.name, Dtype::F32, &vec![first; count])?;
        }
    }
    Ok(())
}

/// Adds λ · mean g² to the loss, where there is a penalty.
pub(crate) fn penalty(g: &mut Graph, config: &ModelConfig, loss: Value) -> Result<Value, GraphError> {
    let Some(correction) = correction(config).filter(|c| c.schedule.penalty > 0.0) else { return Ok(loss) };
    let (mut sum, mut count) = (None, 0);
    for parameter in parameters(g) {
        let gate = correction.gate.forward(g, parameter)?;
        let square = ops::unary(g, Unary::Square, gate)?;
        count += g.shape(gate).elements().and_then(|d| d.known()).unwrap_or(1);
        let of_this = g.push1(SumRows::new(Shape::from([1])), &[square])?;
        sum = Some(match sum {
            None => of_this,
            Some(sum) => ops::add(g, sum, of_this)?,
        });
    }
    let Some(sum) = sum else { return Ok(loss) };
    let penalty = ops::scale(g, sum, correction.schedule.penalty / count as f64)?;
    ops::add(g, loss, penalty)
}

/// Where the gates in `memory` are; `None` of a model without them.
pub(crate) fn read<'a>(config: &ModelConfig, memory: &Memory, names: impl Iterator<Item = &'a str>) -> Option<Gates> {
    let gate = correction(config)?.gate;
    let parameters = names.filter(|name| is_gate(name)).filter_map(|name| memory.get::<f32>(name));
    let values: Vec<f64> = parameters.flatten().map(|p| gate.value(f64::from(*p))).collect();
    let (least, most) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(*v), m.max(*v)));
    (!values.is_empty()).then(|| Gates { mean: values.iter().sum::<f64>() / values.len() as f64, least, most })
}
