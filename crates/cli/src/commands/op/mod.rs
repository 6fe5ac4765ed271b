//! `memwall op`: one operator, mixer or format from outside, for tests against other software.
//!
//! [`operators`] documents each operator and builds its graph; [`builder`] checks inputs against that
//! documentation; [`run`](mod@run) differentiates and executes the graph: there is no second definition of anything.

mod attributes;
mod builder;
mod list;
mod operator;
mod operators;
mod run;
mod shapes;
mod tensors;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use memwall_formats::Dtype;
use serde_json::json;

use attributes::Attributes;
use operator::{Form, Operator};
use tensors::Tensors;

/// Precision of elements and of the operands of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// Elements, operands and sums in f32
    F32,
    /// Elements, operands and sums in f64
    F64,
    /// Inputs and operands of matrix products rounded to bf16; sums and outputs in f32
    Bf16,
}

impl Precision {
    fn dtype(self) -> Dtype {
        match self {
            Precision::F32 | Precision::Bf16 => Dtype::F32,
            Precision::F64 => Dtype::F64,
        }
    }
}

/// Arguments of `memwall op`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The operator
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Documents every operator, or the one that is named
    #[arg(long)]
    list: bool,
    /// The safetensors file with the inputs, by their documented names
    #[arg(long = "in", value_name = "FILE", required_unless_present = "list")]
    input: Option<PathBuf>,
    /// The safetensors file to write the outputs to
    #[arg(long = "out", value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,
    /// How it is computed; without it, the first that the operator lists
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Also the gradients dX of the inputs, from the gradients dY of outputs among the inputs
    #[arg(long)]
    grad: bool,
    /// Precision of elements and products
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = crate::load::threads)]
    threads: Option<usize>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    attributes: Attributes,
}

/// Runs an operator, or documents them.
///
/// # Errors
/// Names the operator, flag or tensor that is wrong, and what would be right.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let chosen = args.name.as_deref().map(find).transpose()?;
    if args.list {
        return list::list(chosen, args.json);
    }
    let (Some(operator), Some(input), Some(output)) = (chosen, &args.input, &args.output) else {
        bail!("NAME, --in and --out are needed");
    };
    let tensors = Tensors::read(input)?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let request = run::Request {
        tensors: &tensors,
        attributes: &args.attributes,
        form: args.form,
        precision: args.dtype,
        grad: args.grad,
        threads,
    };
    let made = run::run(operator, &request).with_context(|| format!("op {}", operator.name))?;
    tensors::write(output, &made)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let outputs: Vec<_> =
            made.iter().map(|(name, t)| json!({ "name": name, "dtype": t.type_name(), "shape": t.shape })).collect();
        writeln!(out, "{}", json!({ "op": operator.name, "out": output, "outputs": outputs }))?;
    } else {
        for (name, t) in &made {
            writeln!(out, "{name} {} {:?}", t.type_name(), t.shape)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str) -> anyhow::Result<&'static Operator> {
    let all = operators::ALL;
    all.iter().copied().find(|o| o.name == name).with_context(|| {
        let near = nearest(name, all.iter().map(|o| o.name));
        format!("NAME: there is no operator {name}; did you mean {near}? `memwall op --list` documents all")
    })
}

/// The candidate that is most like `name`.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> &'a str {
    let score = |c: &str| strsim::jaro_winkler(c, name);
    candidates.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default()
}
