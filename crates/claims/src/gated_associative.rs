//! Gated associative memory (arXiv 2509.00605): linear in time, as good as attention on short text, and without any recall.
//!
//! 1. Its field: a token sees L(w − 1) tokens before it and none after; the published sizes have the published number of
//!    parameters. That streaming gives what the parallel form gives, to the bit, is a test of the inference crate.
//! 2. Speed: a block forward and backward over the length, C = 256, beside blocks of materialized and of tiled attention.
//!    The paper compares with the first; the second is what one would use.
//! 3. Characters of plays, few steps: loss against a transformer of as many parameters at most, and the paper's ablations;
//!    then both three times as long, at the rates chosen before.
//! 4. Negative control: recall of pairs further back than the field, which a convolution and attention solve.
//!
//! Falsifier: the bank alone, which sees no other token.

mod field;
mod learning;
mod speed;

use memwall_kernels::Pool;

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run,
    evidence::{Curve, Line, Point},
};
use learning::{FULL, GLOBAL, LOCAL, Learning, SUM, TRANSFORMER};
use speed::{LENGTHS, Times};

const BEYOND: &str = "logits that change with tokens before the field";
const WITHIN: &str = "logits that change with the first token of the field";
const FUTURE: &str = "logits that change with a later token";
const PARAMETERS: &str = "parameters of the published model, less 22599680";
const GROWTH: &str = "exponent of a block's time, 256 to 4096 tokens";
const QUADRATIC: &str = "exponent of the time of a block of materialized attention, 1024 to 4096 tokens";
const FASTER: &str = "blocks a second at 2048 tokens, against materialized attention";
const LOSS: &str = "loss, less that of a transformer";
const BANK: &str = "loss, less that of the bank alone";
const BANK_OR_CONVOLUTION: &str = "loss of the bank alone, less that of the convolution alone";
const GATES: &str = "loss, less that without gates";
const RECALL: &str = "recall beyond the field";
const SOLVABLE: &str = "recall of a convolution and attention";

static ABOUT: About = About {
    system: 14,
    name: "gated-associative-memory",
    data: &[memwall_tasks::data::TINY_SHAKESPEARE],
    checks: &[
        Check { what: BEYOND, kind: Kind::Value, unit: "logits", bar: Bar::at_most(0.0) },
        Check { what: WITHIN, kind: Kind::Value, unit: "logits", bar: Bar::at_least(1.0) },
        Check { what: FUTURE, kind: Kind::Value, unit: "logits", bar: Bar::at_most(0.0) },
        Check { what: PARAMETERS, kind: Kind::Value, unit: "parameters", bar: Bar::at_most(0.0) },
        Check { what: GROWTH, kind: Kind::Value, unit: "in log-log", bar: Bar::at_most(1.1) },
        Check { what: QUADRATIC, kind: Kind::Value, unit: "in log-log", bar: Bar::at_least(1.6) },
        Check { what: FASTER, kind: Kind::Ratio, unit: "1/s", bar: Bar::at_least(3.0) },
        Check { what: LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.0) },
        Check { what: BANK, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.0) },
        Check { what: BANK_OR_CONVOLUTION, kind: Kind::Difference, unit: "nats/character", bar: Bar::less_than(0.0) },
        Check { what: GATES, kind: Kind::Difference, unit: "nats/character", bar: Bar::less_than(0.0) },
        Check { what: RECALL, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: SOLVABLE, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
    ],
    falsifier: Falsifier { what: "the bank alone, without the convolution", against: LOSS },
    source: concat!(
        include_str!("gated_associative.rs"),
        include_str!("gated_associative/field.rs"),
        include_str!("gated_associative/learning.rs"),
        include_str!("gated_associative/speed.rs"),
    ),
};

/// The claim of gated associative memory.
pub struct GatedAssociativeMemory;

impl Claim for GatedAssociativeMemory {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let pool = Pool::new(run.threads());
        let mut times: Vec<Times> = Vec::new();
        let (mut beyond, mut within, mut future, mut parameters) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let lengths = run.pick(&LENGTHS[..1], &LENGTHS[..], &LENGTHS[..]);
        // Speed comes first, in a process that has done nothing else.
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("blocks", i as u64, seeds.len() as u64)?;
            times.push(speed::times(run, &pool, lengths, run.pick(1, 3, 7), seed)?);
        }
        for &seed in seeds {
            let field = field::field(run, seed)?;
            beyond.push(field.beyond as f64);
            within.push(field.within as f64);
            future.push(field.future as f64);
            parameters.push(field::published_parameters()?.abs_diff(22_599_680) as f64);
        }
        let learning = Learning::new(run)?;
        let text = learning.text(run)?;
        let recall = learning.recall(run)?;
        let longer = learning.longer(run, &text)?;
        let of = |figure: &dyn Fn(&Times) -> f64| times.iter().map(figure).collect::<Vec<f64>>();
        let (far, near) = (lengths.iter().position(|&n| n >= 2048).unwrap_or(0), |&n: &usize| n >= 1024);
        let bank = text.scores(GLOBAL).unwrap_or(&[]);
        Ok(Outcome::new()
            .check(BEYOND, Measured::values(&beyond))
            .check(WITHIN, Measured::values(&within))
            .check(FUTURE, Measured::values(&future))
            .check(PARAMETERS, Measured::values(&parameters))
            .check(GROWTH, Measured::values(&of(&|t| speed::exponent(lengths, &t.ours, |_| true))))
            .check(QUADRATIC, Measured::values(&of(&|t| speed::exponent(lengths, &t.materialized, near))))
            .check(FASTER, Measured::pairs(&of(&|t| 1.0 / t.materialized[far]), &of(&|t| 1.0 / t.ours[far])))
            .check(LOSS, Measured::arms(&text, TRANSFORMER, FULL))
            .check(BANK, Measured::arms(&text, GLOBAL, FULL))
            .check(BANK_OR_CONVOLUTION, Measured::arms(&text, LOCAL, GLOBAL))
            .check(GATES, Measured::arms(&text, SUM, FULL))
            .check(RECALL, Measured::values(recall.scores(FULL).unwrap_or(&[])))
            .check(SOLVABLE, Measured::values(recall.scores(learning::ATTENTION).unwrap_or(&[])))
            .falsifier(Measured::pairs(text.scores(TRANSFORMER).unwrap_or(&[]), bank))
            .curve(times_curve(lengths, &times))
            .note(format!(
                "three times as many steps, median loss: {:.3}, of a transformer {:.3}",
                median(&longer[0]),
                median(&longer[1])
            ))
            .note(format!(
                "a block at 2048 tokens takes {:.2} of the time of one of tiled attention",
                median(&of(&|t| t.ours[far] / t.tiled[far]))
            ))
            .sweep(text)
            .sweep(recall))
    }
}

fn median(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn times_curve(lengths: &[usize], times: &[Times]) -> Curve {
    let line = |name: &str, of: &dyn Fn(&Times) -> &Vec<f64>| {
        let at =
            |(i, &n): (usize, &usize)| Point { x: n as f64, per_seed: times.iter().map(|t| 1e3 * of(t)[i]).collect() };
        Line { name: name.to_owned(), points: lengths.iter().enumerate().map(at).collect() }
    };
    Curve {
        what: "a block forward and backward".to_owned(),
        x_label: "tokens".to_owned(),
        y_label: "ms".to_owned(),
        log_x: true,
        log_y: true,
        lines: vec![
            line("gated associative memory", &|t| &t.ours),
            line("materialized attention", &|t| &t.materialized),
            line("tiled attention", &|t| &t.tiled),
        ],
    }
}
