//! `memwall bench`: what this machine can do, and what memwall does of it.

mod kernels;
mod limits;
mod mixers;
mod model;
mod step;

use std::path::PathBuf;
use std::process::ExitCode;

use memwall_kernels::gemm::Compute;
use memwall_train::Precision;

/// Arguments of `memwall bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Operands of matrix products: f32 or bf16
    #[arg(long, default_value = "f32", value_parser = precision, conflicts_with_all = ["limits", "kernels", "model"])]
    dtype: Precision,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N", conflicts_with = "limits", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Timed runs, after some that are not
    #[arg(long, value_name = "N", default_value_t = 15, conflicts_with_all = ["limits", "kernels", "model"], value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Compute the inside of every block again in the backward pass rather than keep it
    #[arg(long, conflicts_with_all = ["limits", "kernels", "model", "mixers"])]
    recompute: bool,
    /// Sequences of --step
    #[arg(long, value_name = "B", default_value_t = 8, conflicts_with_all = ["limits", "kernels", "model", "mixers"], value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Tokens of a sequence; without it, 256 for --step and 4096 for --mixers
    #[arg(long, value_name = "T", conflicts_with_all = ["limits", "kernels", "model"], value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: Option<u32>,
    /// Form that --mixers measures
    #[arg(long, default_value = "all", conflicts_with_all = ["limits", "kernels", "model", "step"])]
    form: mixers::Forms,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A model: prefill of 512 tokens, and decoding after 64 and 2048
    model: Option<PathBuf>,
    /// This machine's read bandwidth and arithmetic peaks, with one thread and with all
    #[arg(long)]
    limits: bool,
    /// Every kernel, as a share of these limits
    #[arg(long)]
    kernels: bool,
    /// A training step of a small decoder: forward, backward, AdamW; and by how much memory grows
    #[arg(long)]
    step: bool,
    /// The recurrences of these mixers, or of all, in each of their forms, forward and backward
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_parser = mixers::parse)]
    mixers: Vec<String>,
}

fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("f32 or bf16 is needed".into()),
    }
}

/// Measures it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let threads = args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let compute = Compute::from(args.dtype);
    let repeats = args.repeats as usize;
    let mut out = std::io::stdout().lock();
    match &args.what {
        What { step: true, .. } => {
            let batch = step::Batch { sequences: usize::from(args.batch), time: args.tokens.unwrap_or(256) as usize };
            step::run(batch, compute, threads, repeats, args.recompute, args.json, &mut out)?;
        }
        What { mixers, .. } if !mixers.is_empty() => {
            let tokens = args.tokens.unwrap_or(4096) as usize;
            let setting = mixers::Setting { forms: args.form, compute, threads, repeats, tokens, json: args.json };
            mixers::run(mixers, &setting, &mut out)?;
        }
        What { model: Some(path), .. } => model::run(path, threads, args.json, &mut out)?,
        What { kernels: true, .. } => kernels::run(threads, args.json, &mut out)?,
        What { .. } => limits::run(args.json, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Name of a precision, as `--dtype` takes it.
fn name(compute: Compute) -> &'static str {
    match compute {
        Compute::F32 => "f32",
        Compute::Bf16 => "bf16",
    }
}

/// Milliseconds of some runs.
struct Milliseconds(Vec<f64>);

impl Milliseconds {
    /// Times `run` `repeats` times (at least once), after `warm_up` times that do not count.
    fn of(warm_up: usize, repeats: usize, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Milliseconds> {
        let mut all = Vec::with_capacity(repeats);
        for i in 0..warm_up + repeats.max(1) {
            let start = std::time::Instant::now();
            run()?;
            if i >= warm_up {
                all.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        all.sort_by(f64::total_cmp);
        Ok(Milliseconds(all))
    }

    fn min(&self) -> f64 {
        self.0[0]
    }

    fn median(&self) -> f64 {
        let n = self.0.len();
        (self.0[(n - 1) / 2] + self.0[n / 2]) / 2.0
    }

    fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_before_the_first_timed_one_do_not_count() {
        let mut runs = 0;
        let ms = Milliseconds::of(2, 3, || {
            runs += 1;
            Ok(())
        })
        .expect("nothing fails");
        assert_eq!((runs, ms.0.len()), (5, 3));
        assert!(ms.min() <= ms.median() && ms.median() <= ms.max());
        assert_eq!(Milliseconds(vec![1.0, 2.0, 4.0, 8.0]).median(), 3.0);
    }
}
