//! `memwall bench MODEL`: prefill and decode from end to end.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use memwall_infer::{Engine, EngineOptions, MemoryPlan, Model, StepRows, Wanted, bytes_per_token, read_bandwidth};
use serde_json::json;

/// Tokens of the prompt that is prefilled.
const PROMPT: usize = 512;
/// Tokens before those that decoding is measured at.
const DEPTHS: [usize; 2] = [64, 2048];
/// Tokens that are decoded at each depth.
const DECODED: usize = 32;
/// Prefills that are timed, after one that is not.
const PREFILLS: usize = 3;

/// A rate and what it was measured on.
struct Rate {
    what: &'static str,
    /// Tokens before.
    depth: usize,
    tokens_per_second: f64,
    /// Of the read bandwidth over the model's bytes, for decoding.
    share: Option<f64>,
}

/// Measures prefill of 512 tokens, and decoding after 64 and 2048, where the model's context allows.
///
/// # Errors
/// If the model cannot be opened or planned.
pub fn run(path: &Path, threads: usize, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let model = Model::open(path)?;
    let most = model.checkpoint().config.max_context;
    let context = (DEPTHS[1] + DECODED).min(most);
    let options = EngineOptions { threads, context, step: PROMPT.min(context), ..EngineOptions::default() };
    let plan = MemoryPlan::of(model.header(), options, 0)?;
    let mut engine = Engine::new(&model, options)?;
    let vocabulary = model.checkpoint().config.vocab_size as u32;
    let text: Vec<u32> = (0..context as u32).map(|i| (i * 31 + 7) % vocabulary).collect();

    let prompt = &text[..PROMPT.min(context)];
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..=PREFILLS {
        engine.clear(0)?;
        let start = Instant::now();
        engine.prefill(0, prompt)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let prefill = prompt.len() as f64 / median(&mut seconds[1..]);
    let mut rates = vec![Rate { what: "prefill", depth: prompt.len(), tokens_per_second: prefill, share: None }];
    let bandwidth = read_bandwidth(&engine);
    for depth in DEPTHS.into_iter().filter(|depth| depth + DECODED <= context) {
        engine.clear(0)?;
        engine.prefill(0, &text[..depth])?;
        let mut seconds = Vec::with_capacity(DECODED);
        for t in 0..DECODED {
            let start = Instant::now();
            engine.step(&[StepRows { slot: 0, tokens: &text[depth + t..depth + t + 1] }], Wanted::Last)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let rate = 1.0 / median(&mut seconds);
        let share = rate * bytes_per_token(&model, &engine, &plan, depth + DECODED / 2) / bandwidth;
        rates.push(Rate { what: "decode", depth, tokens_per_second: rate, share: Some(share) });
    }
    if json {
        let all: Vec<_> = rates
            .iter()
            .map(|r| {
                json!({ "what": r.what, "tokens": r.depth, "tokens_per_second": r.tokens_per_second,
                    "bandwidth_share": r.share })
            })
            .collect();
        let line = json!({
            "model": path,
            "weights_format": model.checkpoint().main_format().name(),
            "weights_bytes": plan.weights_bytes,
            "threads": threads,
            "context": context,
            "read_gbps": bandwidth * 1e-9,
            "rates": all,
        });
        return Ok(writeln!(out, "{line}")?);
    }
    let (format, gbps) = (model.checkpoint().main_format(), bandwidth * 1e-9);
    writeln!(
        out,
        "{}: {format}, {threads} threads, context {context}, its bytes read at {gbps:.1} GB/s",
        path.display()
    )?;
    for r in &rates {
        let share = r.share.map_or(String::new(), |s| format!(", {:.0} % of the bandwidth", 100.0 * s));
        writeln!(out, "{:8} {:5} tokens: {:9.1} tokens/s{share}", r.what, r.depth, r.tokens_per_second)?;
    }
    if context < DEPTHS[1] + DECODED {
        writeln!(out, "the model's context of {most} ends before {} tokens", DEPTHS[1] + DECODED)?;
    }
    Ok(())
}

/// The median of some seconds.
fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
