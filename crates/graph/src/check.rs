//! Gradient checks: the graph's gradients against differences of its loss, in f64.

use std::sync::Arc;

use bytemuck::Pod;
use memwall_formats::Dtype;
use memwall_kernels::Pool;

use crate::graph::{Graph, Source, Value};
use crate::plan::PlanOptions;
use crate::{Executor, GraphError, Memory, differentiate};

/// A loss built in f64, with values for its weights and inputs.
pub struct GradientCheck {
    /// The graph.
    pub graph: Graph,
    /// The scalar to differentiate.
    pub loss: Value,
    /// Elements of integer inputs, by name.
    pub integers: Vec<(String, Vec<i32>)>,
    /// Elements of real inputs, by name; those not named are drawn like weights.
    pub reals: Vec<(String, Vec<f64>)>,
    /// Draws a weight: `weight(name, index)`.
    pub weight: fn(&str, usize) -> f64,
}

/// A deterministic value in (−1, 1) for element `i` of the tensor of that name.
pub fn pseudo_random(name: &str, i: usize) -> f64 {
    let mut h = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
    h = h.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((h ^ (h >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

impl GradientCheck {
    /// A check of `loss` with pseudo-random weights and inputs.
    pub fn new(graph: Graph, loss: Value) -> GradientCheck {
        GradientCheck {
            graph,
            loss,
            integers: Vec::new(),
            reals: Vec::new(),
            weight: |name, i| 0.5 * pseudo_random(name, i),
        }
    }

    /// The largest difference between gradient and central differences, relative to the largest
    /// gradient of the same tensor, over at most `samples` elements of each weight.
    ///
    /// # Errors
    /// What building or running the graph returns.
    ///
    /// # Panics
    /// If the graph is not f64.
    pub fn worst(&self, samples: usize) -> Result<f64, GraphError> {
        assert_eq!(self.graph.elem(), Dtype::F64, "gradients are checked in f64");
        let weights = crate::weights(&self.graph);
        let mut graph = self.graph.clone();
        let grads = differentiate(&mut graph, self.loss, &weights)?;
        graph.output("loss", self.loss);
        for (&w, grad) in weights.iter().zip(&grads) {
            if let Some(grad) = grad {
                let name = format!("d {}", graph.info(w).name);
                graph.output(&name, *grad);
            }
        }
        let pool = Arc::new(Pool::new(2));
        let mut memory = self.memory()?;
        let options = PlanOptions { fences: true, ..Default::default() };
        let mut with_grads = Executor::new(graph, options, &mut memory, pool.clone())?;
        self.fill(&mut with_grads);
        with_grads.run(&mut memory)?;

        let mut plain = self.graph.clone();
        plain.output("loss", self.loss);
        let mut plain = Executor::new(crate::prune(&plain), PlanOptions::default(), &mut memory, pool)?;
        let mut worst = 0.0_f64;
        for (&w, grad) in weights.iter().zip(&grads) {
            let name = self.graph.info(w).name.to_string();
            let n = memory.get::<f64>(&name).map_or(0, <[f64]>::len);
            let exact: Vec<f64> = match grad {
                Some(_) => with_grads.output::<f64>(&format!("d {name}")).to_vec(),
                None => vec![0.0; n],
            };
            let scale = exact.iter().fold(1e-3_f64, |m, x| m.max(x.abs()));
            for s in 0..n.min(samples) {
                let i = s * n / n.min(samples);
                let mut at = |h: f64| -> Result<f64, GraphError> {
                    memory.get_mut::<f64>(&name).expect("set above")[i] += h;
                    self.fill(&mut plain);
                    plain.run(&mut memory)?;
                    memory.get_mut::<f64>(&name).expect("set above")[i] -= h;
                    Ok(plain.output::<f64>("loss")[0])
                };
                let h = 1e-5;
                let slope = (8.0 * (at(h)? - at(-h)?) - (at(2.0 * h)? - at(-2.0 * h)?)) / (12.0 * h);
                let error = (slope - exact[i]).abs() / scale;
                worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            }
        }
        Ok(worst)
    }

    fn memory(&self) -> Result<Memory, GraphError> {
        let mut memory = Memory::new();
        for (_, info) in self.graph.values() {
            if matches!(info.source, Source::Weight) {
                let n = info.ty.bytes(&self.graph.max_sizes()) / 8;
                let w: Vec<f64> = (0..n).map(|i| (self.weight)(&info.name, i)).collect();
                memory.set(&info.name, Dtype::F64, &w)?;
            }
        }
        Ok(memory)
    }

    fn fill(&self, executor: &mut Executor) {
        let inputs: Vec<(Value, String, Dtype)> = executor
            .graph()
            .values()
            .filter(|(_, info)| matches!(info.source, Source::Input))
            .map(|(v, info)| (v, info.name.to_string(), info.ty.dtype))
            .collect();
        for (v, name, dtype) in inputs {
            if !executor.reads(v) {
                continue;
            }
            match dtype {
                Dtype::I32 => {
                    let (_, given) = self
                        .integers
                        .iter()
                        .find(|(n, _)| *n == name)
                        .unwrap_or_else(|| panic!("values for input {name}"));
                    set(executor.input(v), given);
                }
                _ => match self.reals.iter().find(|(n, _)| *n == name) {
                    Some((_, given)) => set(executor.input(v), given),
                    None => {
                        executor.input::<f64>(v).iter_mut().enumerate().for_each(|(i, x)| *x = pseudo_random(&name, i));
                    }
                },
            }
        }
    }
}

fn set<T: Pod>(to: &mut [T], from: &[T]) {
    to.copy_from_slice(from);
}
