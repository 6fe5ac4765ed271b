//! `memwall compare`: mixers against each other on one task, under one budget.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use memwall_claims::Settings;
use memwall_claims::compare::{Budget, Comparison, SUBJECTS, Subject, compare};
use memwall_formats::atomic_file;
use memwall_tasks::DataDir;
use memwall_tasks::data::TINY_SHAKESPEARE;

use crate::load;

/// Arguments of `memwall compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Contestants: attention, gated_attention, windowed_attention, differential_attention, bmojo_f, bmojo, gla,
    /// linear_attention, based,
    /// retention, mamba2, hgrn2, mlstm, delta_net, gated_delta_net, negative_delta_net, kda, gated_kalmanet,
    /// base_conv, long_base_conv, selective_attention, seen_before_attention, gated_associative, short_conv, or several of them joined by +, which are repeated over the layers
    #[arg(required = true, num_args = 2..)]
    contestants: Vec<String>,
    /// mqar, mqar-forgetting, mqar-long-filler, copying, selective-copying, parity, state-tracking-s3, state-tracking-s5,
    /// selectivity-memory, selectivity, selectivity-distractors, selectivity-long-gaps or text
    #[arg(long, value_name = "TASK", value_parser = subject)]
    task: Subject,
    /// The most parameters of each; what mixers leave goes to the channel layers
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    budget_params: u64,
    /// Optimizer steps of each training run
    #[arg(long, value_name = "N", default_value_t = 400)]
    budget_steps: u64,
    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Tokens of a sequence; recall has a pair for every 8
    #[arg(long, value_name = "N", default_value_t = 64)]
    time: usize,
    /// Width of the models
    #[arg(long, value_name = "N", default_value_t = 64)]
    width: usize,
    /// Layers of the models
    #[arg(long, value_name = "N", default_value_t = 2)]
    layers: usize,
    /// Learning rates, at least three; each contestant gets all of them on every seed
    #[arg(long, value_delimiter = ',', default_value = "1e-3,3e-3,1e-2")]
    rates: Vec<f64>,
    /// Seeds, at least three
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// The text of the text task; without it, tinyshakespeare of the data sets
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The folder of the data sets; without it, MEMWALL_DATA
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Exit with 1 unless this contestant is the best
    #[arg(long, value_name = "CONTESTANT")]
    expect: Option<String>,
    /// Draw scores over learning rates, state bytes, tokens/s and memory, as SVG
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = load::threads)]
    threads: Option<usize>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn subject(name: &str) -> Result<Subject, String> {
    SUBJECTS.into_iter().find(|s| s.name() == name).ok_or_else(|| {
        let names = SUBJECTS.map(Subject::name);
        format!("there are {}", names.join(", "))
    })
}

/// Trains and compares.
///
/// # Errors
/// If a name is no mixer, the budget is too small, or text is missing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(expected) = args.expect.as_ref().filter(|e| !args.contestants.contains(e)) {
        bail!("--expect {expected}: is none of {}", args.contestants.join(", "));
    }
    for (flag, n) in [
        ("budget-steps", args.budget_steps),
        ("batch", args.batch as u64),
        ("time", args.time as u64),
        ("width", args.width as u64),
        ("layers", args.layers as u64),
    ] {
        if n == 0 {
            bail!("--{flag} is 0, at least 1 is needed");
        }
    }
    let budget = Budget {
        parameters: args.budget_params,
        steps: args.budget_steps,
        batch: args.batch,
        time: args.time,
        width: args.width,
        layers: args.layers,
        rates: args.rates.clone(),
    };
    let data = DataDir::find(args.data.as_deref())?;
    let text = match args.task {
        Subject::Text if args.file.is_empty() => data.need(&TINY_SHAKESPEARE)?,
        Subject::Text => args.file.clone(),
        _ if !args.file.is_empty() => bail!("--file belongs to --task text"),
        _ => Vec::new(),
    };
    let settings = Settings {
        seeds: args.seeds.clone(),
        data,
        threads: args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        cancel: Arc::new(AtomicBool::new(false)),
        ..Settings::default()
    };
    let made = compare(&args.contestants, args.task, &budget, &text, &settings, &|p| {
        // Of the steps within a run only the runs themselves are told.
        if !args.json && p.what != "training steps" {
            eprintln!("{} {}/{}", p.what, p.done + 1, p.of);
        }
    })?;
    if let Some(svg) = &args.plot {
        atomic_file::write(svg, made.draw(svg)?.as_bytes()).context("--plot")?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&made)?)?;
    } else {
        table(&mut out, &made)?;
    }
    let best = made.contestants.first().map(|c| c.arm.name.as_str());
    let held = args.expect.is_none() || args.expect.as_deref() == best;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn table(out: &mut impl Write, made: &Comparison) -> std::io::Result<()> {
    let better = if made.higher_is_better { "higher" } else { "lower" };
    writeln!(
        out,
        "{}: {}, {better} is better; seeds {:?}, rates {:?}",
        made.task, made.metric, made.seeds, made.rates
    )?;
    writeln!(
        out,
        "{:34} {:>8}  {:24} {:>8} {:>10} {:>10} {:>12} {:>10} {:>10}",
        "contestant", "median", "seeds", "rate", "parameters", "tokens", "state, bytes", "step, MiB", "tokens/s"
    )?;
    for c in &made.contestants {
        let seeds: Vec<String> = c.arm.scores.iter().map(|s| format!("{s:.4}")).collect();
        let edge = if c.arm.at_the_edge { "*" } else { "" };
        writeln!(
            out,
            "{:34} {:8.4}  {:24} {:>8} {:10} {:10} {:12} {:10.1} {:10.0}",
            c.arm.name,
            c.median,
            seeds.join(" "),
            format!("{}{edge}", c.arm.chosen_rate),
            c.arm.parameters,
            c.arm.tokens,
            c.cost.state_bytes,
            c.cost.step_bytes as f64 / f64::from(1 << 20),
            c.cost.tokens_per_second
        )?;
    }
    for bound in &made.bounds {
        let seeds: Vec<String> = bound.scores.iter().map(|s| format!("{s:.4}")).collect();
        writeln!(out, "{:34} {:>8}  {:24}", bound.name, "", seeds.join(" "))?;
    }
    if made.contestants.iter().any(|c| c.arm.at_the_edge) {
        writeln!(out, "* the smallest or largest of the rates: a better one may lie beyond")?;
    }
    Ok(())
}
