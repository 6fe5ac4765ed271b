//! `memwall reproduce`: the claim of a system as an experiment, against its baseline.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use memwall_claims::{Claim, Progress, Report, Scale, Settings, registry};
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

/// Runs the claims one after another; one that cannot be run does not stop the others, and the worst exit code wins.
///
/// # Errors
/// If a system is unknown, or the folder of the data sets is not there.
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
        ..Settings::default()
    };
    let mut worst = 0;
    for claim in chosen {
        let progress = ProgressLine::new();
        let done =
            memwall_claims::reproduce(claim, &settings, &args.results, &|p| progress.show(claim.about().system, p));
        progress.clear();
        match done {
            Ok(report) => {
                worst = worst.max(report.verdict.exit_code());
                if args.json { println!("{}", serde_json::to_string(&report)?) } else { print(&report) }
            }
            Err(error) => {
                worst = 2;
                eprintln!("memwall: {:02} {}: {error}", claim.about().system, claim.about().name);
            }
        }
    }
    Ok(ExitCode::from(worst))
}

fn print(report: &Report) {
    println!("{:02} {}: {} ({:.0} s)", report.system, report.name, report.verdict, report.seconds);
    for check in &report.checks {
        let mark = if check.holds { "holds" } else { "does not hold" };
        println!("  {}: {} {}, bar {}: {mark}", check.what, check.figure, check.unit, check.bar);
    }
    let f = &report.falsifier;
    let mark = if f.fails_as_it_must { "fails as it must" } else { "does not fail" };
    println!("  falsifier, {}: {}, bar {}: {mark}", f.what, f.figure, f.bar);
}

/// Where a run stands, on standard error: one line that is written over on a terminal, else one every ten seconds.
struct ProgressLine {
    terminal: bool,
    shown: Cell<Option<Instant>>,
}

impl ProgressLine {
    fn new() -> ProgressLine {
        ProgressLine { terminal: std::io::stderr().is_terminal(), shown: Cell::new(None) }
    }

    fn show(&self, system: u8, p: Progress<'_>) {
        let pause = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(10) };
        if self.shown.get().is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.shown.set(Some(Instant::now()));
        let line = format!("{system:02} {}: {} {}/{}", p.claim, p.what, p.done, p.of);
        // A closed standard error ends no experiment.
        let mut stderr = std::io::stderr();
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
        let _ = stderr.flush();
    }

    /// Leaves the terminal's line empty for what comes next.
    fn clear(&self) {
        if self.terminal && self.shown.get().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
