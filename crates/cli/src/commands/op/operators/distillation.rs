//! Distillation from a teacher's top-K probabilities.

use memwall_graph::ops::distillation::Distillation;

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, integer, made, real};

pub const DISTILLATION: Operator = Operator {
    name: "distillation",
    about: "mass on the teacher's K ids against the rest, and the KL divergence within them at a temperature; loss the mean; \
            rows whose first id is −100 do not count; dloss is 1 if absent",
    inputs: &[
        real("logits", "N V", "logits"),
        integer("ids", "N K", "the teacher's likeliest ids, distinct"),
        real("log_probabilities", "N K", "the logarithms of their probabilities"),
    ],
    weights: None,
    outputs: &[
        real("loss", "1", "the mean"),
        real("rows", "N", "the loss of each row"),
        real("inside", "N", "log-sum-exp of each row's logits at the ids"),
        real("outside", "N", "log-sum-exp of the others"),
    ],
    attributes: &["temperature"],
    forms: &[],
    how: How::Graph(distillation),
};

fn distillation(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let temperature = b.attributes.number("temperature").unwrap_or(1.0);
    let logits = b.real("logits")?;
    let shape = [b.size('N'), b.size('K')];
    let ids = b.feed_integers("ids", &shape, b.integers("ids").unwrap_or_default())?;
    let logs = b.real("log_probabilities")?;
    let out = b.g.push(Distillation { temperature }, &[logits, ids, logs])?;
    Ok(vec![made("loss", out[0]), made("rows", out[1]), made("inside", out[2]), made("outside", out[3])])
}
