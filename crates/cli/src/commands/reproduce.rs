//! `memwall reproduce`: the claim of a system as an experiment, against its baseline.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use memwall_claims::{Claim, Scale, Settings, registry};
use memwall_tasks::DataDir;

/// How large the experiment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ScaleName {
    /// Seconds: shows that the wiring works, gives no verdict
    Smoke,
    /// Minutes on two cores: gives the verdict
    Desk,
    /// As published, for large machines
    Full,
}

/// Arguments of `memwall reproduce`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Systems, by name or number, e.g. 13 or flash-attention
    systems: Vec<String>,
    /// Every system that has a claim
    #[arg(long, conflicts_with = "systems")]
    all: bool,
    /// How large the experiment is
    #[arg(long, value_enum, default_value = "desk")]
    scale: ScaleName,
    /// Seeds, at least three at desk scale
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// The folder of the data sets; without it, MEMWALL_DATA
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where results are written
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the claims one after another; the worst exit code wins.
///
/// # Errors
/// If a system is unknown, its data are missing, or its experiment fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let chosen: Vec<&'static dyn Claim> = if args.all {
        registry::claims().to_vec()
    } else {
        args.systems.iter().map(|name| registry::find(name)).collect::<Result<_, _>>()?
    };
    if chosen.is_empty() {
        let names: Vec<&str> = registry::claims().iter().map(|c| c.about().name).collect();
        bail!("SYSTEM is missing; name one or more, or --all: {}", names.join(", "));
    }
    let settings = Settings {
        scale: match args.scale {
            ScaleName::Smoke => Scale::Smoke,
            ScaleName::Desk => Scale::Desk,
            ScaleName::Full => Scale::Full,
        },
        seeds: args.seeds.clone(),
        data: DataDir::find(args.data.as_deref())?,
        threads: args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        cancel: Arc::new(AtomicBool::new(false)),
        ..Settings::default()
    };
    let mut worst = 0;
    for claim in chosen {
        let about = claim.about();
        let report = memwall_claims::reproduce(claim, &settings, &args.results, &|p| {
            if !args.json {
                eprintln!("{:02} {}: {} {}/{}", about.system, about.name, p.what, p.done, p.of);
            }
        })?;
        worst = worst.max(report.verdict.exit_code());
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
            continue;
        }
        println!("{:02} {}: {} ({:.0} s)", about.system, about.name, report.verdict, report.seconds);
        for check in &report.checks {
            let mark = if check.holds { "holds" } else { "does not hold" };
            println!("  {}: {} {}, bar {}: {mark}", check.what, check.figure, check.unit, check.bar);
        }
        let f = &report.falsifier;
        println!(
            "  falsifier, {}: {}, {}",
            f.what,
            f.figure,
            if f.fails_as_it_must { "fails as it must" } else { "does not fail" }
        );
    }
    Ok(ExitCode::from(worst))
}
