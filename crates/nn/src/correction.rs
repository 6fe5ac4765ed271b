//! A gated low-rank correction beside each rounded product: Hybrid Gated Flow (arXiv 2602.05269).
//!
//! ```text
//! y = x̂ ŵᵀ + g · B (A x),   A [r, inputs], B [outputs, r], g = f(γ)
//! ```
//!
//! x is what the product reads before it is rounded. B begins at 0, so that the model begins as its rounded stream alone. The
//! weights are `NAME.hgf_A.weight`, `NAME.hgf_B.weight` and `NAME.hgf_gate`. The paper names one scalar a projection; a gate a
//! channel is an option of ours. (Its differential attention is a mixer, not a part of this.)

use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::{self, pointwise::Unary};
use memwall_graph::{Graph, GraphError, Value};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// How the names of gates end.
pub const GATE: &str = ".hgf_gate";

/// The correction of every rounded product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectionConfig {
    /// r.
    pub rank: usize,
    /// f.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gate: CorrectionGate,
    /// One gate a channel of the output, rather than one a product.
    #[serde(default, skip_serializing_if = "is_default")]
    pub by_channel: bool,
    /// The first value of g.
    #[serde(default = "initial")]
    pub initial: f64,
    /// How gates are trained.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: GateSchedule,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn initial() -> f64 {
    0.1
}

/// What a gate is of its parameter γ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionGate {
    /// σ(γ), from 0 to 1.
    #[default]
    Sigmoid,
    /// tanh(γ), from -1 to 1.
    Tanh,
    /// γ.
    Identity,
    /// 1, whatever γ is: not a gate.
    One,
}

/// How gates are trained: at their first value, then ever faster, then no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateSchedule {
    /// Steps in which gates stay at their first value.
    pub hold: u64,
    /// Steps after them in which the gates' share of the learning rate rises evenly to 1.
    pub ramp: u64,
    /// The step from which on gates stay as they are; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<u64>,
    /// λ: λ · mean g² is added to the loss.
    pub penalty: f64,
}

impl GateSchedule {
    /// The gates' share of the learning rate in step `step`, counted from 0.
    pub fn share(&self, step: u64) -> f64 {
        if step < self.hold || self.freeze.is_some_and(|freeze| step >= freeze) {
            return 0.0;
        }
        let risen = step - self.hold + 1;
        if risen >= self.ramp { 1.0 } else { risen as f64 / self.ramp as f64 }
    }
}

impl CorrectionGate {
    /// γ of a gate.
    pub fn parameter(self, gate: f64) -> f64 {
        match self {
            CorrectionGate::Sigmoid => (gate / (1.0 - gate)).ln(),
            CorrectionGate::Tanh => gate.atanh(),
            CorrectionGate::Identity | CorrectionGate::One => gate,
        }
    }

    /// g of γ.
    pub fn value(self, parameter: f64) -> f64 {
        match self {
            CorrectionGate::Sigmoid => 1.0 / (1.0 + (-parameter).exp()),
            CorrectionGate::Tanh => parameter.tanh(),
            CorrectionGate::Identity => parameter,
            CorrectionGate::One => 1.0,
        }
    }

    /// Adds g of γ to the graph.
    ///
    /// # Errors
    /// If an operator refuses its inputs.
    pub fn forward(self, g: &mut Graph, parameter: Value) -> Result<Value, GraphError> {
        match self {
            CorrectionGate::Sigmoid => ops::unary(g, Unary::Sigmoid, parameter),
            CorrectionGate::Tanh => ops::unary(g, Unary::Tanh, parameter),
            CorrectionGate::Identity | CorrectionGate::One => Ok(parameter),
        }
    }
}

impl CorrectionConfig {
    /// A gate a product, σ(γ) from 0.1 on.
    pub fn new(rank: usize) -> CorrectionConfig {
        CorrectionConfig {
            rank,
            gate: CorrectionGate::default(),
            by_channel: false,
            initial: initial(),
            schedule: GateSchedule::default(),
        }
    }

    /// Checks what types cannot; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if self.rank == 0 {
            return Err(ConfigError::at(format!("{key}.rank"), "is 0, at least 1 is needed"));
        }
        let (g, wrong) = (self.initial, |range: &str| {
            Err(ConfigError::at(format!("{key}.initial"), format!("is {}; it should be {range}", self.initial)))
        });
        match self.gate {
            CorrectionGate::Sigmoid if !(g > 0.0 && g < 1.0) => return wrong("above 0 and below 1"),
            CorrectionGate::Tanh if !(g > -1.0 && g < 1.0) => return wrong("above -1 and below 1"),
            _ if !g.is_finite() => return wrong("a number"),
            _ => {}
        }
        let penalty = self.schedule.penalty;
        if !(penalty >= 0.0 && penalty.is_finite()) {
            let problem = format!("is {penalty}; it should be a number from 0 on");
            return Err(ConfigError::at(format!("{key}.schedule.penalty"), problem));
        }
        Ok(())
    }

    /// Adds g · B (A x) to `y`, the product of the layer `name`.
    pub(crate) fn add(&self, g: &mut Graph, name: &str, x: Value, y: Value) -> Result<Value, GraphError> {
        let width = |g: &Graph, v| g.shape(v).width().ok_or_else(|| g.refused("correction", "its width is not fixed"));
        let (inputs, outputs) = (width(g, x)?, width(g, y)?);
        if self.rank > inputs.min(outputs) {
            let what =
                format!("rank {} beside a product of [{outputs}, {inputs}]; at most the smaller is needed", self.rank);
            return Err(g.refused("correction", what));
        }
        let a = g.weight(&format!("{name}.hgf_A.weight"), [self.rank, inputs], g.elem())?;
        let b = g.weight(&format!("{name}.hgf_B.weight"), [outputs, self.rank], g.elem())?;
        let linear = Linear { compute: g.compute() };
        let low = g.push1(linear, &[x, a])?;
        let mut low = g.push1(linear, &[low, b])?;
        if self.gate != CorrectionGate::One {
            let gates = if self.by_channel { outputs } else { 1 };
            let parameter = g.weight(&format!("{name}{GATE}"), [gates], g.elem())?;
            let gate = self.gate.forward(g, parameter)?;
            low = ops::mul(g, low, gate)?;
        }
        ops::add(g, y, low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_what_their_parameters_say() {
        for gate in [CorrectionGate::Sigmoid, CorrectionGate::Tanh, CorrectionGate::Identity] {
            for value in [0.02, 0.1, 0.5] {
                assert!((gate.value(gate.parameter(value)) - value).abs() < 1e-12, "{gate:?} {value}");
            }
        }
    }

    #[test]
    fn gates_are_held_then_faster_then_frozen() {
        let schedule = GateSchedule { hold: 10, ramp: 4, freeze: Some(20), penalty: 0.0 };
        let shares: Vec<f64> = [0, 9, 10, 11, 13, 14, 19, 20, 100].map(|step| schedule.share(step)).into();
        assert_eq!(shares, [0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(GateSchedule::default().share(0), 1.0);
    }

    #[test]
    fn what_is_no_correction_is_named() {
        let error = |c: CorrectionConfig| c.check("correction").expect_err("wrong").to_string();
        assert!(error(CorrectionConfig::new(0)).contains("correction.rank"));
        assert!(error(CorrectionConfig { initial: 1.0, ..CorrectionConfig::new(1) }).contains("below 1"));
        let schedule = GateSchedule { penalty: f64::NAN, ..Default::default() };
        assert!(error(CorrectionConfig { schedule, ..CorrectionConfig::new(1) }).contains("penalty"));
        assert!(CorrectionConfig { gate: CorrectionGate::Tanh, ..CorrectionConfig::new(2) }.check("x").is_ok());
    }
}
