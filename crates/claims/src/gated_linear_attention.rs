//! Gated linear attention (arXiv 2312.06635): chunks in two levels, linear in time, and a gate that forgets.
//!
//! 1. Stability: log-gates logsigmoid(z)/τ with τ from 16 to 0.1 and lengths around those of chunks, against the recurrence
//!    in f64, whole, cut in two with the state handed over, packed, and with gates that forget everything. The one-level
//!    form, which splits e^(b_i − b_j) into e^(b_i) and e^(−b_j), is run beside it.
//! 2. Speed: the chunked form against one step a token, timed in turns, the fastest of each; twice the length; and a
//!    decoding step far into a sequence. Exact attention is timed beside them.
//! 3. Forgetting: recall in which every key is written again with another value, and recall in long filler; a short
//!    convolution before the mixer, the state as large with and without gate.
//! 4. Characters of plays: loss with the gate, without it, and of attention.
//!
//! Rates are chosen on validation data, three for each arm.
//!
//! Falsifier: the gate held open, its logits divided by a million, with all its parameters.

mod learning;
mod speed;
mod stability;

use memwall_kernels::Pool;
use memwall_tasks::data::TINY_SHAKESPEARE;

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run,
    evidence::{Curve, Line, Point},
};
use learning::{ATTENTION, GATED, OPEN, UNGATED, characters, filler, forgetting};
use speed::{Times, decoding, times};
use stability::{one_level_not_finite, packed_difference, reset_difference, split_error, worst_error};

const ERROR: &str = "largest relative error of the two-level form, at any gate";
const SPLIT: &str = "largest relative error of a sequence cut in two";
const PACKED: &str = "largest difference between packed sequences and the same alone";
const RESET: &str = "largest difference between a state that forgot everything and the new token's";
const ONE_LEVEL: &str = "share of outputs of the one-level form that are not finite at the strongest gate";
const SPEED: &str = "tokens a second in chunks, against one step a token";
const LINEAR: &str = "distance from 2.05 of the time of twice the length";
const DECODING: &str = "time of a decoding step far into a sequence";
const FORGETTING: &str = "recall of keys that were written again";
const FILLER: &str = "recall of pairs in long filler";
const GATE_LOSS: &str = "loss on characters, against linear attention";
const ATTENTION_LOSS: &str = "loss on characters, against attention";

static ABOUT: About = About {
    system: 18,
    name: "gated-linear-attention",
    data: &[TINY_SHAKESPEARE],
    checks: &[
        Check { what: ERROR, kind: Kind::Value, unit: "relative", bar: Bar::at_most(5e-6) },
        Check { what: SPLIT, kind: Kind::Value, unit: "relative", bar: Bar::at_most(5e-6) },
        Check { what: PACKED, kind: Kind::Value, unit: "absolute", bar: Bar::exactly(0.0) },
        Check { what: RESET, kind: Kind::Value, unit: "absolute", bar: Bar::exactly(0.0) },
        Check { what: ONE_LEVEL, kind: Kind::Value, unit: "share", bar: Bar::more_than(0.0) },
        Check { what: SPEED, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(3.0) },
        Check { what: LINEAR, kind: Kind::Value, unit: "times", bar: Bar::at_most(0.15) },
        Check { what: DECODING, kind: Kind::Ratio, unit: "s", bar: Bar::at_most(1.1) },
        Check { what: FORGETTING, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.05) },
        Check { what: FILLER, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.05) },
        Check { what: GATE_LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(-0.02) },
        Check { what: ATTENTION_LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.05) },
    ],
    falsifier: Falsifier { what: "the gate held open", against: FORGETTING },
    source: concat!(
        include_str!("gated_linear_attention.rs"),
        include_str!("gated_linear_attention/stability.rs"),
        include_str!("gated_linear_attention/speed.rs"),
        include_str!("gated_linear_attention/learning.rs"),
    ),
};

/// The claim of gated linear attention.
pub struct GatedLinearAttention;

impl Claim for GatedLinearAttention {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let pool = Pool::new(run.threads());
        let seeds = run.seeds();
        let of_seeds = |figure: &dyn Fn(u64) -> f64| seeds.iter().map(|&seed| figure(seed)).collect::<Vec<f64>>();
        run.step("stability", 0, 1)?;
        let errors = of_seeds(&|seed| worst_error(&pool, seed));
        let splits = of_seeds(&|seed| split_error(&pool, seed));
        let packed = of_seeds(&|seed| packed_difference(&pool, seed));
        let resets = of_seeds(&|seed| reset_difference(&pool, seed));
        let one_level = of_seeds(&one_level_not_finite);

        let lengths = run.pick(&[64, 128][..], &[1024, 2048, 4096, 8192], &[1024, 2048, 4096, 8192, 16384]);
        // Speed is measured at the last length but one, and the last is twice as long.
        let (at, twice) = (lengths.len() - 2, lengths.len() - 1);
        let rounds = run.pick(1, 7, 15);
        let (mut measured, mut decoded) = (Vec::new(), [Vec::new(), Vec::new()]);
        for &seed in seeds {
            measured.push(times(run, &pool, lengths, rounds, seed)?);
            let [near, far] = decoding(run, &pool, run.pick(512, 65_536, 65_536), rounds, seed)?;
            decoded[0].push(near);
            decoded[1].push(far);
        }
        let speeds = |form: &dyn Fn(&Times) -> &Vec<f64>| -> Vec<f64> {
            measured.iter().map(|times| lengths[at] as f64 / form(times)[at]).collect()
        };
        let linear: Vec<f64> =
            measured.iter().map(|times| (times.chunked[twice] / times.chunked[at] - 2.05).abs()).collect();

        let (forgetting, filler, characters) = (forgetting(run)?, filler(run)?, characters(run)?);
        let growth: Vec<f64> = measured.iter().map(|times| times.attention[twice] / times.attention[at]).collect();
        Ok(Outcome::new()
            .check(ERROR, Measured::values(&errors))
            .check(SPLIT, Measured::values(&splits))
            .check(PACKED, Measured::values(&packed))
            .check(RESET, Measured::values(&resets))
            .check(ONE_LEVEL, Measured::values(&one_level))
            .check(SPEED, Measured::pairs(&speeds(&|t| &t.step_by_step), &speeds(&|t| &t.chunked)))
            .check(LINEAR, Measured::values(&linear))
            .check(DECODING, Measured::pairs(&decoded[0], &decoded[1]))
            .check(FORGETTING, Measured::arms(&forgetting, UNGATED, GATED))
            .check(FILLER, Measured::arms(&filler, UNGATED, GATED))
            .check(GATE_LOSS, Measured::arms(&characters, UNGATED, GATED))
            .check(ATTENTION_LOSS, Measured::arms(&characters, ATTENTION, GATED))
            .falsifier(Measured::arms(&forgetting, UNGATED, OPEN))
            .curve(times_curve(&measured))
            .note(format!(
                "the recurrence swept over all tokens in one call, which trains in f32: {:.0} tokens/s; attention takes \
                 {:.2} times as long for twice the length",
                median(speeds(&|t| &t.recurrent)),
                median(growth),
            ))
            .sweep(forgetting)
            .sweep(filler)
            .sweep(characters))
    }
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Time of a forward pass over the length, of every form and of attention.
fn times_curve(measured: &[Times]) -> Curve {
    let line = |name: &str, seconds: fn(&Times) -> &Vec<f64>| Line {
        name: name.to_owned(),
        points: (measured[0].lengths.iter().enumerate())
            .map(|(i, &tokens)| Point {
                x: tokens as f64,
                per_seed: measured.iter().map(|times| 1e3 * seconds(times)[i]).collect(),
            })
            .collect(),
    };
    Curve {
        what: "time of a forward pass, 4 heads of 64".to_owned(),
        x_label: "tokens".to_owned(),
        y_label: "ms".to_owned(),
        log_x: true,
        log_y: true,
        lines: vec![
            line("attention", |t| &t.attention),
            line("in chunks", |t| &t.chunked),
            line("recurrence in one call", |t| &t.recurrent),
            line("one step a token", |t| &t.step_by_step),
        ],
    }
}
