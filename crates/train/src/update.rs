//! From gradients to new weights: sums over micro-batches, the norm, AdamW; nothing is allocated in a step.

use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, GraphError, Memory, Value};
use memwall_kernels::Pool;
use memwall_kernels::adamw::{AdamW, adamw};
use memwall_kernels::sum::{add_scaled, sum_of_squares, sum_of_squares_scratch};

use crate::trainer::Optimizer;

/// A weight that is trained.
struct Parameter {
    weight: String,
    /// Its output in the graph of a step.
    gradient: String,
    first_moment: String,
    second_moment: String,
    /// Matrices decay, vectors (norms, biases) only if all do.
    matrix: bool,
    /// A weight decay of its own.
    own_decay: Option<f64>,
    /// Its share of the learning rate.
    rate_share: f64,
    /// The mean gradient of several micro-batches: empty until a step has more than one.
    sum: Vec<f32>,
}

/// The trained weights of a graph with their moments, and what a step does with their gradients.
pub struct Update {
    parameters: Vec<Parameter>,
    /// Sums of squares of blocks of a gradient.
    partial: Vec<f64>,
}

impl Update {
    /// Names the gradients `grads` of the weights `trained` as outputs of `g`; a weight without one is not trained.
    pub fn new(g: &mut Graph, trained: &[Value], grads: &[Option<Value>]) -> Update {
        let mut parameters = Vec::new();
        let mut longest = 0;
        for (&w, grad) in trained.iter().zip(grads) {
            let Some(grad) = *grad else { continue };
            let weight = g.info(w).name.to_string();
            let gradient = format!("gradient of {weight}");
            g.output(&gradient, grad);
            longest = longest.max(g.shape(w).elements().and_then(|d| d.known()).unwrap_or(0));
            parameters.push(Parameter {
                first_moment: first_moment(&weight),
                second_moment: second_moment(&weight),
                matrix: g.shape(w).rank() > 1,
                own_decay: None,
                rate_share: 1.0,
                sum: Vec::new(),
                weight,
                gradient,
            });
        }
        Update { parameters, partial: vec![0.0; sum_of_squares_scratch(longest)] }
    }

    /// Gives weights in `memory` moments of 0 where it has none.
    ///
    /// # Errors
    /// If there is no room for one.
    pub fn moments(&self, memory: &mut Memory) -> Result<(), GraphError> {
        for p in &self.parameters {
            let n = memory.get::<f32>(&p.weight).map_or(0, <[f32]>::len);
            for moment in [&p.first_moment, &p.second_moment] {
                if memory.get::<f32>(moment).is_none() {
                    memory.set(moment, Dtype::F32, &vec![0.0_f32; n])?;
                }
            }
        }
        Ok(())
    }

    /// Names of the trained weights.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|p| p.weight.as_str())
    }

    /// Names of their gradients among the outputs of the graph.
    pub(crate) fn gradients(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|p| p.gradient.as_str())
    }

    /// Gives weights a decay of their own; where `own` says nothing the optimizer's counts.
    pub fn set_weight_decay(&mut self, own: impl Fn(&str) -> Option<f64>) {
        self.parameters.iter_mut().for_each(|p| p.own_decay = own(&p.weight));
    }

    /// Gives weights a share of the learning rate; with none of it, a weight stays as it is, and its moments go on.
    pub(crate) fn set_rate_share(&mut self, share: impl Fn(&str) -> f64) {
        self.parameters.iter_mut().for_each(|p| p.rate_share = share(&p.weight));
    }

    /// Adds the gradients that `graph` has just computed to those of the micro-batches before; they start anew with `part` 0.
    pub fn accumulate(&mut self, pool: &Pool, graph: &Executor, part: usize, parts: usize) {
        let scale = 1.0 / parts as f32;
        for p in &mut self.parameters {
            let grad = graph.output::<f32>(&p.gradient);
            p.sum.resize(grad.len(), 0.0);
            add_scaled(pool, scale, grad, part > 0, &mut p.sum);
        }
    }

    /// The norm of the gradient: of what was accumulated if `several`, else of what `graph` has just computed.
    pub fn gradient_norm(&mut self, pool: &Pool, graph: &Executor, several: bool) -> f64 {
        let squares = self.parameters.iter().map(|p| sum_of_squares(pool, p.mean(graph, several), &mut self.partial));
        squares.sum::<f64>().sqrt()
    }

    /// AdamW's step number `step`, counted from 1, on every weight in `memory`; gradients are multiplied by `scale`.
    pub fn apply(
        &self,
        pool: &Pool,
        graph: &Executor,
        several: bool,
        memory: &mut Memory,
        optimizer: &Optimizer,
        rate: f64,
        scale: f64,
        step: u64,
    ) {
        for p in &self.parameters {
            let decays = p.matrix || optimizer.decay_all;
            let decay = p.own_decay.unwrap_or(if decays { optimizer.weight_decay } else { 0.0 });
            let update = AdamW {
                learning_rate: rate * p.rate_share,
                beta1: optimizer.beta1,
                beta2: optimizer.beta2,
                eps: optimizer.eps,
                weight_decay: decay,
                gradient_scale: scale,
                step,
            };
            let names = [&*p.weight, &*p.first_moment, &*p.second_moment];
            if let Some([w, m, v]) = memory.get_many_mut::<f32, 3>(names) {
                adamw(pool, &update, w, p.mean(graph, several), m, v);
            }
        }
    }
}

impl Parameter {
    fn mean<'a>(&'a self, graph: &'a Executor, several: bool) -> &'a [f32] {
        if several { &self.sum } else { graph.output(&self.gradient) }
    }
}

/// Name of a weight's first moment in memory and checkpoints.
pub(crate) fn first_moment(weight: &str) -> String {
    format!("{weight}.exp_avg")
}

/// Name of a weight's second moment in memory and checkpoints.
pub(crate) fn second_moment(weight: &str) -> String {
    format!("{weight}.exp_avg_sq")
}
