//! The documentation of operators, from the same tables that check their inputs.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::attributes::{ALL as ATTRIBUTES, Attribute};
use super::operator::{Argument, Operator};
use super::operators;
use super::shapes::documented;

/// Documents one operator, or all.
///
/// # Errors
/// If standard output cannot be written.
pub fn list(chosen: Option<&'static Operator>, as_json: bool) -> anyhow::Result<ExitCode> {
    let shown: Vec<&Operator> = chosen.map_or_else(|| operators::ALL.to_vec(), |one| vec![one]);
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: Vec<Value> = shown.iter().map(|o| object(o)).collect();
        writeln!(out, "{}", Value::from(all))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (i, o) in shown.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        page(&mut out, o)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn attributes(o: &Operator) -> impl Iterator<Item = &'static Attribute> {
    ATTRIBUTES.iter().filter(move |a| o.attributes.contains(&a.name))
}

fn page(out: &mut impl Write, o: &Operator) -> std::io::Result<()> {
    writeln!(out, "{}\n  {}", o.name, o.about)?;
    let mut argument = |side: &str, a: &Argument| {
        let optional = if a.optional { ", optional" } else { "" };
        let what = format!("{} {}{optional}", a.kind.name(), documented(a.shape));
        writeln!(out, "  {side:3} {:14} {what}: {}", a.name, a.about)
    };
    for a in o.inputs {
        argument("in", a)?;
    }
    for a in o.outputs {
        argument("out", a)?;
    }
    if let Some(weights) = o.weights {
        writeln!(out, "  weights: {weights}")?;
    }
    for a in attributes(o) {
        writeln!(out, "  --{}: {}", a.name, a.about)?;
    }
    if !o.forms.is_empty() {
        let forms: Vec<&str> = o.forms.iter().map(|f| f.name()).collect();
        writeln!(out, "  forms: {}", forms.join(", "))?;
    }
    match o.how.no_gradient() {
        None => writeln!(out, "  --grad: dX of real inputs, from dY of outputs"),
        Some(why) => writeln!(out, "  no gradient: {why}"),
    }
}

fn object(o: &Operator) -> Value {
    let arguments = |all: &[Argument]| -> Vec<Value> {
        let one = |a: &Argument| {
            json!({ "name": a.name, "kind": a.kind.name(), "shape": documented(a.shape), "optional": a.optional,
                "about": a.about })
        };
        all.iter().map(one).collect()
    };
    let options: Vec<Value> = attributes(o)
        .map(|a| json!({ "flag": format!("--{}", a.name), "kind": format!("{:?}", a.kind).to_lowercase(), "about": a.about }))
        .collect();
    json!({
        "name": o.name,
        "about": o.about,
        "inputs": arguments(o.inputs),
        "weights": o.weights,
        "outputs": arguments(o.outputs),
        "attributes": options,
        "forms": o.forms.iter().map(|f| f.name()).collect::<Vec<_>>(),
        "no_gradient": o.how.no_gradient(),
    })
}
