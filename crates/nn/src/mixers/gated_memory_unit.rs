//! The Gated Memory Unit (Ren et al. 2025, arXiv 2507.06607): reads again what an earlier layer has read from its memory.
//!
//! y_t = W_2 (m_t ⊙ silu(W_1 x_t)), with m_t `[W]` what layer `source` made of the same token before its own output gate: the
//! scan of Mamba, or the heads of attention. Nothing is kept. With a norm: y_t = W_2 RMSNorm(m_t ⊙ silu(W_1 x_t)), by groups
//! of channels.

use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::pointwise::Unary;
use memwall_graph::{Graph, GraphError, Value, ops};
use serde::{Deserialize, Serialize};

use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, at_most};
use crate::layers::linear;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// A Gated Memory Unit of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedMemoryUnitConfig {
    /// The earlier layer whose memory is read, from 0.
    pub source: usize,
    /// Width W of that memory: the inner width of Mamba, or all heads of attention.
    pub width: usize,
    /// Groups of channels that are normalized before the last projection; no norm if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_groups: Option<usize>,
    /// ε of that norm.
    #[serde(default = "eps")]
    pub norm_eps: f64,
}

fn eps() -> f64 {
    1e-5
}

impl GatedMemoryUnitConfig {
    /// A unit that reads the memory of layer `source`, `width` wide, without a norm.
    pub fn new(source: usize, width: usize) -> GatedMemoryUnitConfig {
        GatedMemoryUnitConfig { source, width, norm_groups: None, norm_eps: eps() }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if self.width == 0 {
            return Err(ConfigError::at(format!("{key}.width"), "is 0, at least 1 is needed"));
        }
        at_most(&format!("{key}.width"), self.width, MOST_WIDTH)?;
        match self.norm_groups {
            Some(groups) if groups == 0 || !self.width.is_multiple_of(groups) => {
                let problem = format!("is {groups}, a divisor of width {} is needed", self.width);
                Err(ConfigError::at(format!("{key}.norm_groups"), problem))
            }
            _ => Ok(()),
        }
    }
}

impl Mixer for GatedMemoryUnitConfig {
    fn causal(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [Form] {
        &[Form::Parallel]
    }

    fn reads_only(&self) -> bool {
        true
    }

    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let d_model = g.shape(x).width().ok_or_else(|| g.refused("gated_memory_unit", "a model has a fixed width"))?;
        let Some(memory) = seqs.memory(self.source) else {
            let problem =
                format!("source is {0}, but no layer {0} with a memory stands before it in the graph", self.source);
            return Err(g.refused("gated_memory_unit", problem));
        };
        let gate = linear(g, types, &format!("{name}.in_proj"), x, self.width, false)?;
        let gate = ops::unary(g, Unary::Silu, gate)?;
        let mut y = ops::mul(g, memory, gate)?;
        if let Some(groups) = self.norm_groups {
            let (rows, width) = (g.shape(y).dims()[0], self.width / groups);
            let weight = g.weight(&format!("{name}.norm.weight"), [self.width], g.elem())?;
            y = ops::reshape(g, y, [rows, groups.into(), width.into()])?;
            y = g.push1(Norm::rms(width, self.norm_eps).grouped(groups), &[y, weight])?;
            y = ops::reshape(g, y, [rows, self.width.into()])?;
        }
        linear(g, types, &format!("{name}.out_proj"), y, d_model, false)
    }

    fn state_bytes(&self, _: usize, _: &str, _: usize, _: &Sequences) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use memwall_formats::Dtype;
    use memwall_graph::check::pseudo_random;
    use memwall_graph::{Executor, GraphError, Memory, PlanOptions};
    use memwall_kernels::Pool;

    use super::*;

    const ROWS: usize = 3;
    const D: usize = 4;
    const W: usize = 6;

    fn values(name: &str, n: usize) -> Vec<f64> {
        (0..n).map(|i| pseudo_random(name, i)).collect()
    }

    #[test]
    fn a_constant_memory_makes_it_a_gated_linear_map() -> Result<(), GraphError> {
        let memory_of_all = values("memory", W);
        let mut g = Graph::new(Dtype::F64);
        let seqs = Sequences::whole(&mut g, ROWS, 1)?;
        let x = g.input("x", [ROWS, D], Dtype::F64)?;
        let same = g.constant("memory", [ROWS, W], &memory_of_all.repeat(ROWS))?;
        seqs.set_memory(0, same);
        let y = GatedMemoryUnitConfig::new(0, W).forward(&mut g, &WeightTypes::new(), "gmu", x, &seqs)?;
        g.output("y", y);
        let mut memory = Memory::new();
        let (into, out) = (values("in", W * D), values("out", D * W));
        memory.set("gmu.in_proj.weight", Dtype::F64, &into)?;
        memory.set("gmu.out_proj.weight", Dtype::F64, &out)?;
        let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(1)))?;
        let x_values = values("x", ROWS * D);
        e.input::<f64>(x).copy_from_slice(&x_values);
        e.run(&mut memory)?;
        for (x, y) in x_values.chunks_exact(D).zip(e.output::<f64>("y").chunks_exact(D)) {
            let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            let gated: Vec<f64> = (0..W)
                .map(|i| {
                    let s = dot(&into[i * D..][..D], x);
                    memory_of_all[i] * s / (1.0 + (-s).exp())
                })
                .collect();
            for (i, y) in y.iter().enumerate() {
                let want = dot(&out[i * W..][..W], &gated);
                assert!((y - want).abs() < 1e-14, "{y} is not {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_layer_that_is_not_there_has_no_memory() -> Result<(), GraphError> {
        let mut g = Graph::new(Dtype::F32);
        let seqs = Sequences::whole(&mut g, ROWS, 1)?;
        let x = g.input("x", [ROWS, D], Dtype::F32)?;
        let unit = GatedMemoryUnitConfig::new(4, W);
        let error = unit.forward(&mut g, &WeightTypes::new(), "gmu", x, &seqs).expect_err("refused").to_string();
        assert!(error.contains("no layer 4 with a memory"), "{error}");
        Ok(())
    }
}
