//! `memwall bench --limits`: read bandwidth and arithmetic peaks.

use std::io::Write;

use memwall_kernels::Pool;
use memwall_kernels::limits::{Limits, READ_BYTES};
use serde_json::json;

/// Measures with one thread and with all.
pub fn run(json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
    if !json {
        writeln!(out, "threads  read GB/s  f32 GFLOP/s  bf16 GFLOP/s  int8 GOP/s")?;
    }
    let counts = if all == 1 { vec![1] } else { vec![1, all] };
    for threads in counts {
        let l = Limits::measure(&Pool::new(threads), &memory);
        if json {
            let line = json!({
                "threads": l.threads,
                "read_gbps": l.read_gbps,
                "f32_gflops": l.f32_gflops,
                "bf16_gflops": l.bf16_gflops,
                "int8_gops": l.int8_gops,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(
                out,
                "{:7}  {:9.1}  {:11.0}  {:12.0}  {:10.0}",
                l.threads, l.read_gbps, l.f32_gflops, l.bf16_gflops, l.int8_gops
            )?;
        }
    }
    Ok(())
}
