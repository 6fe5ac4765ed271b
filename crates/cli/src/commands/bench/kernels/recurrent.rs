//! Gated linear attention in the form that is chosen, and the short convolution.

use std::io::Write;

use memwall_kernels::Pool;
use memwall_kernels::conv1d::{Conv1d, conv1d};
use memwall_kernels::gla::{Gate, Gla, gla_backward, gla_backward_scratch, gla_form, gla_forward, gla_scratch};

use super::{Bound, Case, Report, uniform};

const TOKENS: usize = 2048;
const HEADS: usize = 4;
const WIDTH: usize = 64;
/// Operations of an element of a state in one sweep: a decay and two multiply-adds.
const SWEEP: f64 = 5.0;
/// Channels and taps of the convolution.
const CHANNELS: usize = 1024;
const TAPS: usize = 4;

pub(super) fn run(pool: &Pool, report: &mut Report<'_, impl Write>) -> anyhow::Result<()> {
    let gla = Gla::new(HEADS, WIDTH, WIDTH);
    let form = gla_form(&gla, &[TOKENS]);
    let n = TOKENS * HEADS * WIDTH;
    let (q, k, v, d_o) = (uniform(n, 1), uniform(n, 2), uniform(n, 3), uniform(n, 4));
    // logsigmoid over 16: a state fades over tens of tokens.
    let g: Vec<f32> = uniform(n, 5).into_iter().map(|z| -(-2.0 * z).exp().ln_1p() / 16.0).collect();
    let (cu, mut o, mut state) = ([0, TOKENS as i32], vec![0.0; n], vec![0.0; HEADS * WIDTH * WIDTH]);
    let mut gradients = [(); 4].map(|()| vec![0.0_f32; n]);
    let sweep = SWEEP * (n * WIDTH) as f64;
    let sizes = format!("{form:?}, T {TOKENS} H {HEADS} K {WIDTH} V {WIDTH}").to_lowercase();
    let mut scratch = vec![0; gla_scratch::<f32>(&gla, form, TOKENS, pool.threads())];
    let case = Case { kernel: "gla", sizes: sizes.clone(), bound: Bound::F32, work: sweep };
    report.measure(&case, |_| {
        gla_forward(pool, &gla, form, &q, &k, &v, Gate::Channel(&g), &cu, None, &mut o, &mut state, &mut scratch);
    })?;
    let mut scratch = vec![0; gla_backward_scratch::<f32>(&gla, form, TOKENS, pool.threads())];
    let case = Case { kernel: "gla_backward", sizes, bound: Bound::F32, work: 3.0 * sweep };
    report.measure(&case, |_| {
        let [dq, dk, dv, dg] = &mut gradients;
        let gate = Gate::Channel(&g);
        gla_backward(pool, &gla, form, &q, &k, &v, gate, &cu, None, &d_o, None, dq, dk, dv, dg, None, &mut scratch);
    })?;
    let conv = Conv1d { channels: CHANNELS, taps: TAPS, silu: true };
    let (x, w, mut y) = (uniform(TOKENS * CHANNELS, 6), uniform(CHANNELS * TAPS, 7), vec![0.0; TOKENS * CHANNELS]);
    let sizes = format!("T {TOKENS} D {CHANNELS} W {TAPS}, silu");
    // x is read and y written once.
    let case = Case { kernel: "conv1d", sizes, bound: Bound::Bytes, work: 2.0 * size_of_val(&x[..]) as f64 };
    report.measure(&case, |_| conv1d(pool, &conv, &x, &w, None, &cu, None, &mut y, None))
}
