//! `memwall bench --gla`: gated linear attention in each of its forms.
//!
//! One sequence, H = 4, K = V = 64, gates as the published layer makes them. Operations are those of the
//! recurrence, whatever the form does: of each element of a state a decay and two multiply-adds, 5 a token, in
//! one sweep forward and three backward.

use std::io::Write;

use memwall_kernels::Pool;
use memwall_kernels::gemm::Compute;
use memwall_kernels::gla::{
    Form, Gate, Gla, gla_backward, gla_backward_scratch, gla_form, gla_forward, gla_scratch, gla_step,
};
use memwall_kernels::limits::Limits;
use serde_json::json;

use super::Milliseconds;

const HEADS: usize = 4;
const KEYS: usize = 64;
const VALUES: usize = 64;
/// Runs before the first that is timed.
const WARM_UP: usize = 2;
/// Operations of an element of a state in one sweep.
const SWEEP: f64 = 5.0;

/// Inputs and outputs of one sequence.
struct Sequence {
    gla: Gla,
    cu: [i32; 2],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    g: Vec<f32>,
    d_o: Vec<f32>,
    o: Vec<f32>,
    state: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    dg: Vec<f32>,
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

impl Sequence {
    fn new(gla: Gla, tokens: usize) -> Sequence {
        let (by_key, by_value) = (tokens * HEADS * KEYS, tokens * HEADS * VALUES);
        Sequence {
            gla,
            cu: [0, tokens as i32],
            q: uniform(by_key, 1),
            k: uniform(by_key, 2),
            v: uniform(by_value, 3),
            // logsigmoid over 16: a state fades over tens of tokens.
            g: uniform(by_key, 4).into_iter().map(|z| -(-2.0 * z).exp().ln_1p() / 16.0).collect(),
            d_o: uniform(by_value, 5),
            o: vec![0.0; by_value],
            state: vec![0.0; HEADS * KEYS * VALUES],
            dq: vec![0.0; by_key],
            dk: vec![0.0; by_key],
            dv: vec![0.0; by_value],
            dg: vec![0.0; by_key],
        }
    }

    fn forward(&mut self, pool: &Pool, form: Form, scratch: &mut [u8]) {
        let Sequence { gla, cu, q, k, v, g, o, state, .. } = self;
        gla_forward(pool, gla, form, q, k, v, Gate::Channel(g), cu, None, o, state, scratch);
    }

    fn backward(&mut self, pool: &Pool, form: Form, scratch: &mut [u8]) {
        let Sequence { gla, cu, q, k, v, g, d_o, dq, dk, dv, dg, .. } = self;
        let gate = Gate::Channel(g);
        gla_backward(pool, gla, form, q, k, v, gate, cu, None, d_o, None, dq, dk, dv, dg, None, scratch);
    }

    /// One token after the other, as in decoding.
    fn steps(&mut self, pool: &Pool) {
        let Sequence { gla, q, k, v, g, o, state, .. } = self;
        state.fill(0.0);
        let (keys, values) = (HEADS * KEYS, HEADS * VALUES);
        let by_key = q.chunks_exact(keys).zip(k.chunks_exact(keys)).zip(g.chunks_exact(keys));
        for (((q, k), g), (v, o)) in by_key.zip(v.chunks_exact(values).zip(o.chunks_exact_mut(values))) {
            gla_step(pool, gla, q, k, v, Gate::Channel(g), &[0], state, o);
        }
    }
}

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
}

impl Forms {
    fn forms(self, chosen: Form) -> Vec<Form> {
        match self {
            Forms::All => vec![Form::Recurrent, Form::Chunked],
            Forms::Auto => vec![chosen],
            Forms::Recurrent => vec![Form::Recurrent],
            Forms::Chunked => vec![Form::Chunked],
        }
    }
}

/// Measures the forms that are asked for; all of them also means decoding token by token.
pub fn run(
    asked: Forms,
    compute: Compute,
    threads: usize,
    repeats: usize,
    tokens: usize,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let pool = Pool::new(threads);
    // Arithmetic only: nothing of memory is asked for.
    let peak = Limits::measure(&pool, &[1; 1 << 12]).f32_gflops;
    let gla = Gla { compute, ..Gla::new(HEADS, KEYS, VALUES) };
    let chosen = gla_form(&gla, &[tokens]);
    let mut sequence = Sequence::new(gla, tokens);
    let sweep = SWEEP * (tokens * HEADS * KEYS * VALUES) as f64;
    if !json {
        writeln!(
            out,
            "gated linear attention, T {tokens}, H {HEADS}, K {KEYS}, V {VALUES}, {}, {threads} threads",
            super::name(compute)
        )?;
        writeln!(out, "form       pass                  ms (median; min, max)      GFLOP/s  % of f32 peak {peak:.0}")?;
    }
    let mut report = |form: &str, pass: &str, ms: &Milliseconds, sweeps: f64| -> anyhow::Result<()> {
        let rate = sweeps * sweep / ms.median() * 1e-6;
        if json {
            let line = json!({
                "engine": concat!("memwall ", env!("CARGO_PKG_VERSION")),
                "what": "gla",
                "form": form,
                "chosen": form == label(chosen),
                "pass": pass,
                "dtype": super::name(compute),
                "threads": threads,
                "tokens": tokens,
                "step_ms": ms.median(),
                "step_min_ms": ms.min(),
                "step_max_ms": ms.max(),
                "gflops": rate,
                "f32_peak_share": rate / peak,
            });
            writeln!(out, "{line}")?;
        } else {
            let mark = if form == label(chosen) { " (chosen)" } else { "" };
            writeln!(
                out,
                "{form:9}  {pass:20}  {:8.2} ({:.2}, {:.2})  {rate:7.1}  {:.1}{mark}",
                ms.median(),
                ms.min(),
                ms.max(),
                100.0 * rate / peak
            )?;
        }
        Ok(())
    };
    for form in asked.forms(chosen) {
        let mut scratch = vec![0; gla_scratch::<f32>(&gla, form, tokens, threads)];
        let mut backward = vec![0; gla_backward_scratch::<f32>(&gla, form, tokens, threads)];
        let ms = Milliseconds::of(WARM_UP, repeats, || {
            sequence.forward(&pool, form, &mut scratch);
            Ok(())
        })?;
        report(label(form), "forward", &ms, 1.0)?;
        let ms = Milliseconds::of(WARM_UP, repeats, || {
            sequence.forward(&pool, form, &mut scratch);
            sequence.backward(&pool, form, &mut backward);
            Ok(())
        })?;
        report(label(form), "forward and backward", &ms, 4.0)?;
    }
    if asked == Forms::All {
        let ms = Milliseconds::of(WARM_UP, repeats, || {
            sequence.steps(&pool);
            Ok(())
        })?;
        report("step", "forward", &ms, 1.0)?;
    }
    Ok(())
}

fn label(form: Form) -> &'static str {
    match form {
        Form::Parallel => "parallel",
        Form::Chunked => "chunked",
        Form::Recurrent => "recurrent",
    }
}
