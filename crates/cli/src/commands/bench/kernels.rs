//! `memwall bench --kernels`: what each kernel does of what this machine can.
//!
//! A kernel that is bound by bytes is held against the read bandwidth, one that is bound by arithmetic against the peak
//! of the operands that it multiplies. What is read once a step in a model (weights, a cache) is here read from more
//! memory than the processor's caches hold.

mod attention;
mod linear;
mod recurrent;

use std::io::Write;
use std::time::Instant;

use memwall_kernels::Pool;
use memwall_kernels::limits::{Limits, READ_BYTES};
use serde_json::json;

/// More memory than caches hold: what weights and caches are rotated over.
const ROTATE_BYTES: usize = 256 << 20;
/// The time that a kernel is measured for at least, after one run that does not count.
const SECONDS: f64 = 0.15;

/// What bounds a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Bytes read and written.
    Bytes,
    /// Operations on f32.
    F32,
    /// Products of bf16.
    Bf16,
    /// Products of int8.
    Int8,
}

impl Bound {
    fn name(self) -> &'static str {
        match self {
            Bound::Bytes => "read",
            Bound::F32 => "f32",
            Bound::Bf16 => "bf16",
            Bound::Int8 => "int8",
        }
    }

    fn unit(self) -> &'static str {
        if self == Bound::Bytes { "GB/s" } else { "GOP/s" }
    }

    /// The limit, in 10⁹ a second.
    fn of(self, limits: &Limits) -> f64 {
        match self {
            Bound::Bytes => limits.read_gbps,
            Bound::F32 => limits.f32_gflops,
            Bound::Bf16 => limits.bf16_gflops,
            Bound::Int8 => limits.int8_gops,
        }
    }
}

/// One kernel at one size.
struct Case {
    /// The kernel.
    kernel: &'static str,
    /// Its sizes.
    sizes: String,
    /// What bounds it.
    bound: Bound,
    /// Bytes or operations of a run.
    work: f64,
}

/// Where measured cases go.
struct Report<'a, W> {
    limits: Limits,
    json: bool,
    out: &'a mut W,
}

impl<W: Write> Report<'_, W> {
    /// Measures a case: `run` is called with the number of the run.
    fn measure(&mut self, case: &Case, mut run: impl FnMut(usize)) -> anyhow::Result<()> {
        let seconds = median(&mut run);
        let (rate, limit) = (case.work / seconds * 1e-9, case.bound.of(&self.limits));
        let (kernel, sizes, bound) = (case.kernel, &case.sizes, case.bound);
        if self.json {
            let line = json!({
                "kernel": kernel,
                "sizes": sizes,
                "threads": self.limits.threads,
                "microseconds": seconds * 1e6,
                "rate": rate,
                "unit": bound.unit(),
                "limit": bound.name(),
                "share": rate / limit,
            });
            writeln!(self.out, "{line}")?;
        } else {
            let (us, unit, share) = (seconds * 1e6, bound.unit(), 100.0 * rate / limit);
            let bound = bound.name();
            writeln!(self.out, "{kernel:20} {sizes:34} {us:10.1} {rate:9.1} {unit:5} {share:6.1} % of {bound}")?;
        }
        Ok(())
    }
}

/// Seconds of a run: the median of as many as fit the time, three at least.
fn median(run: &mut impl FnMut(usize)) -> f64 {
    run(0);
    let (begin, mut all) = (Instant::now(), Vec::new());
    while all.len() < 3 || begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        run(all.len() + 1);
        all.push(start.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Measures the limits, then every kernel.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(threads: usize, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let pool = Pool::new(threads);
    let limits = {
        let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
        Limits::measure(&pool, &memory)
    };
    if !json {
        writeln!(
            out,
            "{threads} threads: reads {:.1} GB/s, f32 {:.0}, bf16 {:.0}, int8 {:.0} GOP/s\n",
            limits.read_gbps, limits.f32_gflops, limits.bf16_gflops, limits.int8_gops
        )?;
        writeln!(out, "{:20} {:34} {:>10} {:>9}", "kernel", "sizes", "µs", "rate")?;
    }
    let mut report = Report { limits, json, out };
    linear::run(&pool, &mut report)?;
    attention::run(&pool, &mut report)?;
    recurrent::run(&pool, &mut report)
}

/// Numbers from −1 to 1, fixed by the seed.
fn uniform(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
