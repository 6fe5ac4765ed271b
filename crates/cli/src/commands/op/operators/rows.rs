//! Rows, channels and heads: chosen, repeated and summed.

use memwall_graph::ops;
use memwall_graph::ops::select_rows::SelectRows;
use memwall_graph::ops::slice_last::SliceLast;
use memwall_graph::ops::sum::{SumLast, SumRows};

use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{How, Made, Operator, integer, made, real};

pub const SELECT_ROWS: Operator = Operator {
    name: "select_rows",
    about: "y_m = x[rows_m]",
    inputs: &[real("x", "N D", "inputs"), integer("rows", "M", "which rows")],
    weights: None,
    outputs: &[real("y", "M D", "the rows")],
    attributes: &[],
    forms: &[],
    how: How::Graph(select_rows),
};

pub const SLICE_LAST: Operator = Operator {
    name: "slice_last",
    about: "channels from.. of the last axis, width of them",
    inputs: &[real("x", "... D", "inputs")],
    weights: None,
    outputs: &[real("y", "... W", "the channels")],
    attributes: &["from", "width"],
    forms: &[],
    how: How::Graph(slice_last),
};

pub const REPEAT_HEADS: Operator = Operator {
    name: "repeat_heads",
    about: "y[n, h] = x[n, h·G/H] for every head h",
    inputs: &[real("x", "N G W", "rows of fewer heads")],
    weights: None,
    outputs: &[real("y", "N H W", "the heads")],
    attributes: &["heads"],
    forms: &[],
    how: How::Graph(repeat_heads),
};

pub const SUM_ROWS: Operator = Operator {
    name: "sum_rows",
    about: "y_d = Σ x[.., d] over all leading axes, in a fixed order",
    inputs: &[real("x", "... D", "inputs")],
    weights: None,
    outputs: &[real("y", "D", "the sums")],
    attributes: &[],
    forms: &[],
    how: How::Graph(sum_rows),
};

pub const SUM_LAST: Operator = Operator {
    name: "sum_last",
    about: "y[.., 0] = Σ_d x[.., d], in a fixed order",
    inputs: &[real("x", "... D", "inputs")],
    weights: None,
    outputs: &[real("y", "... 1", "the sums")],
    attributes: &[],
    forms: &[],
    how: How::Graph(sum_last),
};

fn select_rows(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    let rows = b.feed_integers("rows", &[b.size('M')], b.integers("rows").unwrap_or_default())?;
    Ok(vec![made("y", b.g.push1(SelectRows, &[x, rows])?)])
}

fn slice_last(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let a = b.attributes;
    let op = SliceLast { from: a.required("from", a.count("from"))?, width: a.required("width", a.count("width"))? };
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(op, &[x])?)])
}

fn repeat_heads(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let heads = b.attributes.required("heads", b.attributes.count("heads"))?;
    let x = b.real("x")?;
    Ok(vec![made("y", ops::repeat_heads(&mut b.g, x, heads)?)])
}

fn sum_rows(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(SumRows::new(fixed(&[b.size('D')])?), &[x])?)])
}

fn sum_last(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(SumLast, &[x])?)])
}
