//! Products with weights in any format, and rows of a table.

use memwall_formats::Dtype;
use memwall_graph::ops;
use memwall_graph::ops::embedding::Embedding;
use memwall_graph::ops::linear::Linear;
use memwall_graph::ops::matmul::MatMul;

use super::encoded::format_named;
use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, integer, made, real};

pub const LINEAR: Operator = Operator {
    name: "linear",
    about: "y = x · weightᵀ + bias; a weight in a block format is multiplied by int8 blocks of x, as that format's arithmetic does",
    inputs: &[
        real("x", "... K", "inputs"),
        real("weight", "N K", "the weight"),
        real("bias", "N", "added to each row").optional(),
    ],
    weights: None,
    outputs: &[real("y", "... N", "outputs")],
    attributes: &["weight-format"],
    forms: &[],
    how: How::Graph(linear),
};

pub const MATMUL: Operator = Operator {
    name: "matmul",
    about: "c = a · b; leading axes of a matrix are its rows",
    inputs: &[
        real("a", "...", "[M, K], or [K, M] with --a-trans"),
        real("b", "...", "[K, N], or [N, K] with --b-trans"),
    ],
    weights: None,
    outputs: &[real("c", "M N", "the product")],
    attributes: &["a-trans", "b-trans"],
    forms: &[],
    how: How::Graph(matmul),
};

pub const EMBEDDING: Operator = Operator {
    name: "embedding",
    about: "y_n = table[ids_n]",
    inputs: &[integer("ids", "N", "rows of the table"), real("table", "V D", "the table")],
    weights: None,
    outputs: &[real("y", "N D", "the rows")],
    attributes: &["weight-format"],
    forms: &[],
    how: How::Graph(embedding),
};

fn weight_format(b: &Builder<'_>) -> anyhow::Result<Option<Dtype>> {
    b.attributes.text("weight-format").map(|name| format_named("weight-format", name)).transpose()
}

fn linear(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let dtype = weight_format(b)?;
    let x = b.real("x")?;
    let weight = b.stored("weight", &[b.size('N'), b.size('K')], dtype)?;
    let y = b.g.push1(Linear { compute: b.g.compute() }, &[x, weight])?;
    let y = match b.maybe_real("bias")? {
        Some(bias) => ops::add(&mut b.g, y, bias)?,
        None => y,
    };
    Ok(vec![made("y", y)])
}

fn matmul(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let (a_trans, b_trans) = (b.attributes.switch("a-trans"), b.attributes.switch("b-trans"));
    let inputs = [b.real("a")?, b.real("b")?];
    let c = b.g.push1(MatMul { a_trans, b_trans, compute: b.g.compute() }, &inputs)?;
    Ok(vec![made("c", c)])
}

fn embedding(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let dtype = weight_format(b)?;
    let ids = b.feed_integers("ids", &[b.size('N')], b.integers("ids").unwrap_or_default())?;
    let table = b.stored("table", &[b.size('V'), b.size('D')], dtype)?;
    let y = b.g.push1(Embedding { elem: b.g.elem() }, &[ids, table])?;
    Ok(vec![made("y", y)])
}
