//! Late interaction of queries and documents.

use memwall_graph::ops::max_sim::MaxSim;

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, integer, made, mask, real};
use crate::commands::op::tensors::Elements;

pub const MAX_SIM: Operator = Operator {
    name: "max_sim",
    about: "late interaction (ColBERT, arXiv 2004.12832): scores[a, b] = Σ_i max_j q_i · d_j over the tokens i of query a and j of \
            document b that count; of equal products the first wins; a document without tokens scores −∞",
    inputs: &[
        real("q", "N D", "vectors of the tokens of all queries"),
        real("d", "M D", "vectors of the tokens of all documents"),
        integer("cu_queries", "A+1", "where queries begin, and the end"),
        integer("cu_documents", "B+1", "where documents begin, and the end"),
        mask("query_mask", "N", "0: the token does not count").optional(),
        mask("document_mask", "M", "0: the token does not count").optional(),
    ],
    weights: None,
    outputs: &[
        real("scores", "A B", "the scores"),
        integer("winners", "N B", "the row of d that won for each token of a query, −1 if none counts"),
    ],
    attributes: &[],
    forms: &[],
    how: How::Graph(max_sim),
};

fn max_sim(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let (q, d) = (b.real("q")?, b.real("d")?);
    let mut inputs = vec![q, d];
    for (name, count) in [("cu_queries", b.size('A')), ("cu_documents", b.size('B'))] {
        inputs.push(b.feed_integers(name, &[count + 1], b.integers(name).unwrap_or_default())?);
    }
    for (name, tokens) in [("query_mask", b.size('N')), ("document_mask", b.size('M'))] {
        let counts = match b.given(name).map(|tensor| &tensor.elements) {
            Some(Elements::I32(x)) => x.clone(),
            Some(Elements::U8(x)) => x.iter().map(|&x| i32::from(x)).collect(),
            _ => vec![1; tokens],
        };
        inputs.push(b.feed_integers(name, &[tokens], &counts)?);
    }
    let out = b.g.push(MaxSim, &inputs)?;
    Ok(vec![made("scores", out[0]), made("winners", out[1])])
}
