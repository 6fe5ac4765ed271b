//! Rounding to a format and back, with a gradient that goes straight through.

use anyhow::Context;
use memwall_formats::Quantizer;
use memwall_graph::ops::fake_quantize::{Along, FakeQuantize, StraightThrough};

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, made, real};

pub const FAKE_QUANTIZE: Operator = Operator {
    name: "fake_quantize",
    about: "y = x as a format holds it, encoded and decoded; the gradient goes straight through (a surrogate, arXiv 1308.3432)",
    inputs: &[real("x", "... W", "numbers; blocks of the quantizer divide W, or the number of rows with --columns")],
    weights: None,
    outputs: &[real("y", "... W", "the numbers that come back")],
    attributes: &["quantizer", "columns", "reached"],
    forms: &[],
    how: How::Graph(fake_quantize),
};

fn fake_quantize(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let name = b.attributes.required("quantizer", b.attributes.text("quantizer"))?;
    let quantizer: Quantizer = name.parse().with_context(|| format!("--quantizer {name}"))?;
    let along = if b.attributes.switch("columns") { Along::Columns } else { Along::Rows };
    let straight = if b.attributes.switch("reached") { StraightThrough::Reached } else { StraightThrough::All };
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(FakeQuantize { quantizer, along, straight }, &[x])?)])
}
