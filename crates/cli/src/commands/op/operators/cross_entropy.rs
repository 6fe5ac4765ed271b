//! Cross-entropy of logits.

use memwall_graph::ops::cross_entropy::CrossEntropy;

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, integer, made, real};

pub const CROSS_ENTROPY: Operator = Operator {
    name: "cross_entropy",
    about: "nll_n = lse_n − logits[n, targets_n], loss their mean; targets of −100 do not count; dloss is 1 if absent",
    inputs: &[real("logits", "N V", "logits"), integer("targets", "N", "the ids that are right")],
    weights: None,
    outputs: &[
        real("loss", "1", "the mean"),
        real("nll", "N", "negative log-likelihood of each row"),
        real("lse", "N", "log-sum-exp of each row"),
    ],
    attributes: &[],
    forms: &[],
    how: How::Graph(cross_entropy),
};

fn cross_entropy(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let logits = b.real("logits")?;
    let targets = b.feed_integers("targets", &[b.size('N')], b.integers("targets").unwrap_or_default())?;
    let out = b.g.push(CrossEntropy, &[logits, targets])?;
    Ok(vec![made("loss", out[0]), made("nll", out[1]), made("lse", out[2])])
}
