//! `memwall bench --mixers`: the recurrences of the mixers, and exact attention beside them, by form.
//!
//! Each is the operator that models are built of, in a graph of its own: planned, differentiated and executed as
//! theirs. Operations are those of the definition, whatever a form does.

mod recurrences;
mod sequence;

use std::io::Write;
use std::sync::Arc;

use memwall_graph::{Executor, Memory, PlanOptions};
use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;
use memwall_kernels::limits::Limits;
use serde_json::json;

use super::Milliseconds;
use recurrences::{ALL, Recurrence};
use sequence::{HEADS, KEYS, Sequence, VALUES};

/// Runs before the first that is timed.
const WARM_UP: usize = 2;
/// Decoding steps that one timed run makes.
const STEPS: usize = 256;

/// Which forms are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Forms {
    /// All, and decoding token by token
    All,
    /// The one that memwall chooses
    Auto,
    /// A state swept over the tokens
    Recurrent,
    /// Chunks by matrix products
    Chunked,
    /// Swept forward, in chunks backward
    Mixed,
    /// All pairs of tokens
    Parallel,
}

/// The name of a mixer that `--mixers` takes, or `all`.
///
/// # Errors
/// Says which there are.
pub fn parse(name: &str) -> Result<String, String> {
    if name == "all" || ALL.iter().any(|r| r.name == name) {
        return Ok(name.into());
    }
    let names: Vec<&str> = ALL.iter().map(|r| r.name).collect();
    Err(format!("there are all, {}", names.join(", ")))
}

/// How all of it is measured.
pub struct Setting {
    /// Which forms.
    pub forms: Forms,
    /// Operands of matrix products.
    pub compute: Compute,
    /// Threads.
    pub threads: usize,
    /// Timed runs.
    pub repeats: usize,
    /// Tokens of the sequence.
    pub tokens: usize,
    /// One JSON object a line.
    pub json: bool,
}

/// Measures the mixers of those names in the forms that are asked for; all forms also means decoding.
pub fn run(names: &[String], setting: &Setting, out: &mut impl Write) -> anyhow::Result<()> {
    let pool = Arc::new(Pool::new(setting.threads));
    // Arithmetic only: nothing of memory is asked for.
    let peak = Limits::measure(&pool, &[1; 1 << 12]).f32_gflops;
    if !setting.json {
        let &Setting { compute, threads, tokens, .. } = setting;
        let compute = super::name(compute);
        writeln!(
            out,
            "T {tokens}, H {HEADS}, K {KEYS}, V {VALUES}, {compute}, {threads} threads; f32 peak {peak:.0} GFLOP/s"
        )?;
        writeln!(
            out,
            "mixer             form       pass                  ms (median; min, max)     tokens/s  GFLOP/s  % of peak"
        )?;
    }
    for recurrence in ALL.iter().filter(|r| names.iter().any(|n| n == "all" || n == r.name)) {
        Measured { recurrence, setting, peak, pool: &pool }.report(out)?;
    }
    Ok(())
}

struct Measured<'a> {
    recurrence: &'a Recurrence,
    setting: &'a Setting,
    peak: f64,
    pool: &'a Arc<Pool>,
}

impl Measured<'_> {
    fn report(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let (r, setting) = (self.recurrence, self.setting);
        let chosen = (r.chosen)(setting.compute, setting.tokens);
        let forms = match setting.forms {
            Forms::All => r.forms.to_vec(),
            Forms::Auto => vec![chosen],
            Forms::Recurrent => vec!["recurrent"],
            Forms::Chunked => vec!["chunked"],
            Forms::Mixed => vec!["mixed"],
            Forms::Parallel => vec!["parallel"],
        };
        let forward = (r.operations)(setting.tokens as f64);
        for form in forms.into_iter().filter(|form| r.forms.contains(form)) {
            for (pass, backward) in [("forward", false), ("forward and backward", true)] {
                let ms = self.whole(form, backward)?;
                let operations = if backward { r.with_backward * forward } else { forward };
                self.line(form, form == chosen, pass, setting.tokens, &ms, operations, out)?;
            }
        }
        if let Some(step) = r.step.filter(|_| setting.forms == Forms::All) {
            let ms = self.steps(step)?;
            self.line("step", false, "forward", STEPS, &ms, forward * STEPS as f64 / setting.tokens as f64, out)?;
        }
        Ok(())
    }

    /// Runs of the whole sequence.
    fn whole(&self, form: &str, backward: bool) -> anyhow::Result<Milliseconds> {
        let mut s = Sequence::new(self.setting.compute, self.setting.tokens)?;
        let o = (self.recurrence.build)(&mut s, form)?;
        s.finish(o, backward)?;
        let mut memory = Memory::new();
        let mut executor = Executor::new(s.g.clone(), PlanOptions::default(), &mut memory, self.pool.clone())?;
        Milliseconds::of(WARM_UP, self.setting.repeats, || {
            s.write(&mut executor);
            Ok(executor.run(&mut memory)?)
        })
    }

    /// Runs of [`STEPS`] tokens, one after the other, that continue a state.
    fn steps(&self, step: recurrences::Build) -> anyhow::Result<Milliseconds> {
        let mut s = Sequence::new(self.setting.compute, 1)?;
        let o = step(&mut s, "step")?;
        s.finish(o, false)?;
        let mut memory = Memory::new();
        let mut executor = Executor::new(s.g.clone(), PlanOptions::default(), &mut memory, self.pool.clone())?;
        Milliseconds::of(WARM_UP, self.setting.repeats, || {
            for _ in 0..STEPS {
                s.write(&mut executor);
                executor.run(&mut memory)?;
            }
            Ok(())
        })
    }

    fn line(
        &self,
        form: &str,
        chosen: bool,
        pass: &str,
        tokens: usize,
        ms: &Milliseconds,
        operations: f64,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let Setting { compute, threads, json, .. } = *self.setting;
        let name = self.recurrence.name;
        let (rate, speed) = (operations / ms.median() * 1e-6, tokens as f64 / ms.median() * 1e3);
        let share = rate / self.peak;
        if json {
            let line = json!({
                "engine": concat!("memwall ", env!("CARGO_PKG_VERSION")),
                "what": name,
                "form": form,
                "chosen": chosen,
                "pass": pass,
                "dtype": super::name(compute),
                "isa": memwall_kernels::isa().name(),
                "threads": threads,
                "tokens": tokens,
                "step_ms": ms.median(),
                "step_min_ms": ms.min(),
                "step_max_ms": ms.max(),
                "tokens_per_second": speed,
                "gflops": rate,
                "f32_peak_share": share,
            });
            writeln!(out, "{line}")?;
        } else {
            let (mark, percent) = (if chosen { " (chosen)" } else { "" }, 100.0 * share);
            let range = format!("{:9.2} ({:.2}, {:.2})", ms.median(), ms.min(), ms.max());
            writeln!(out, "{name:16}  {form:9}  {pass:20}  {range:24}  {speed:9.0}  {rate:7.1}  {percent:.1}{mark}")?;
        }
        Ok(())
    }
}
