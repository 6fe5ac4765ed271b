//! Gated attention (arXiv 2505.06708): a sigmoid gate between attention and its output projection.
//!
//! 1. Limits: gate logits of +10⁴ give the ungated layer, of −10⁴ nothing; a gate a head is a gate a channel that is
//!    constant within heads; the packed rows of both published layouts are one function.
//! 2. Algebra: without the gate a head's output is a linear function of what was attended to, so it adds nothing to the
//!    rank of those inputs; with it, it adds as much as the head is wide.
//! 3. Loss on characters of plays, plain and gated, the rate of each chosen from three on validation text; and how far up
//!    a ladder of rates (×1.5) each still learns, every rung a run of its own.
//! 4. What the gate costs in training tokens a second.
//!
//! 5. Sinks (`gated_attention/sinks.rs`): with a task that seldom needs attention, the first token draws less of it behind gates,
//!    at most half as much; with the loss everywhere, and at the triggers alone.
//!
//! Beside them, without a bar: the share of attention that the first token draws in the trained models, their largest
//! activations and how far their gates are open.
//!
//! Falsifier, against the loss: gated attention that sees its own token only.

mod learning;
mod limits;
mod rank;
mod sinks;

use std::collections::HashMap;

use memwall_nn::Sinks;
use memwall_tasks::data::TINY_SHAKESPEARE;

use crate::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, SweepPlan, TuneOn,
    evidence::{Curve, Line, Point, Sweep},
    sweep,
};
use learning::{DAMAGED, GATED, Ladder, Learning, PLAIN};
use limits::limits;
use rank::added_rank;
use sinks::resting;

const OPEN: &str = "largest difference between an open gate and none";
const CLOSED: &str = "largest output behind a closed gate";
const HEADWISE: &str = "largest difference between a gate a head and equal gates in a head";
const LAYOUTS: &str = "largest difference between a layer and its published layouts of rows";
const PLAIN_RANK: &str = "rank that an ungated head adds to what it attended to";
const GATED_RANK: &str = "rank that a gated head adds to what it attended to";
const LOSS: &str = "loss with a gate a head";
const LADDER: &str = "rungs of rates that train";
const HEADWISE_SPEED: &str = "training speed with a gate a head";
const ELEMENTWISE_SPEED: &str = "training speed with a gate a channel";
const SINKS: &str = "share of attention that the first token draws behind gates, less that without";
const SINK_RATIO: &str = "share of attention that the first token draws behind gates, over that without";
const MASKED_SINKS: &str = "the same difference with a loss at triggers alone";
const MASKED_RATIO: &str = "the same ratio with a loss at triggers alone";

/// Channels of the head whose rank is measured.
const HEAD: usize = 8;

static ABOUT: About = About {
    system: 6,
    name: "gated-attention",
    data: &[TINY_SHAKESPEARE],
    checks: &[
        Check { what: OPEN, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-6) },
        Check { what: CLOSED, kind: Kind::Value, unit: "absolute", bar: Bar::exactly(0.0) },
        Check { what: HEADWISE, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-6) },
        Check { what: LAYOUTS, kind: Kind::Value, unit: "absolute", bar: Bar::exactly(0.0) },
        Check { what: PLAIN_RANK, kind: Kind::Value, unit: "dimensions", bar: Bar::exactly(0.0) },
        Check { what: GATED_RANK, kind: Kind::Value, unit: "dimensions", bar: Bar::exactly(HEAD as f64) },
        Check { what: LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.01) },
        Check { what: LADDER, kind: Kind::Difference, unit: "rungs of 1.5", bar: Bar::at_least(0.0) },
        Check { what: HEADWISE_SPEED, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(0.95) },
        Check { what: ELEMENTWISE_SPEED, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(0.85) },
        Check { what: SINKS, kind: Kind::Difference, unit: "share", bar: Bar::less_than(0.0) },
        Check { what: SINK_RATIO, kind: Kind::Ratio, unit: "share", bar: Bar::at_most(0.5) },
        Check { what: MASKED_SINKS, kind: Kind::Difference, unit: "share", bar: Bar::less_than(0.0) },
        Check { what: MASKED_RATIO, kind: Kind::Ratio, unit: "share", bar: Bar::at_most(0.5) },
    ],
    falsifier: Falsifier { what: "gated attention that sees its own token only", against: LOSS },
    source: concat!(
        include_str!("gated_attention.rs"),
        include_str!("gated_attention/limits.rs"),
        include_str!("gated_attention/rank.rs"),
        include_str!("gated_attention/learning.rs"),
        include_str!("gated_attention/sinks.rs"),
    ),
};

/// The claim of gated attention.
pub struct GatedAttention;

impl Claim for GatedAttention {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let (mut open, mut closed, mut headwise, mut layouts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut plain_rank, mut gated_rank) = (Vec::new(), Vec::new());
        let (mut ladders, mut speeds) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new(), Vec::new()]);
        let learning = Learning::new(run)?;
        // Speed comes first, in a process that has done nothing else.
        for &seed in seeds {
            for (speed, best) in speeds.iter_mut().zip(learning.speeds(run, seed)?) {
                speed.push(best);
            }
        }
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("limits, ranks and rates", i as u64, seeds.len() as u64)?;
            let limits = limits(seed)?;
            open.push(limits.open);
            closed.push(limits.closed);
            headwise.push(limits.headwise);
            layouts.push(limits.layouts);
            plain_rank.push(added_rank(seed, false));
            gated_rank.push(added_rank(seed, true));
            for (arm, ladders) in [PLAIN, GATED].into_iter().zip(&mut ladders) {
                ladders.push(learning.ladder(run, arm, seed)?);
            }
        }
        let plan = SweepPlan {
            what: "characters",
            arms: &[PLAIN, GATED, DAMAGED],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Lower,
            tune_on: TuneOn::FirstSeed,
        };
        let mut seen: Seen = HashMap::new();
        let swept = sweep(run, plan, |arm, rate, seed| {
            let (trial, sinks) = learning.trial(run, arm, rate, seed)?;
            seen.insert((arm.to_owned(), rate.to_bits(), seed), sinks);
            Ok(trial)
        })?;
        let [everywhere, at_triggers] = [resting(run, false)?, resting(run, true)?];
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        let rungs = |ladders: &[Ladder]| ladders.iter().map(|ladder| ladder.rungs).collect::<Vec<_>>();
        Ok(Outcome::new()
            .check(OPEN, Measured::values(&open))
            .check(CLOSED, Measured::values(&closed))
            .check(HEADWISE, Measured::values(&headwise))
            .check(LAYOUTS, Measured::values(&layouts))
            .check(PLAIN_RANK, Measured::values(&plain_rank))
            .check(GATED_RANK, Measured::values(&gated_rank))
            .check(LOSS, Measured::pairs(scores(PLAIN), scores(GATED)))
            .check(LADDER, Measured::pairs(&rungs(&ladders[0]), &rungs(&ladders[1])))
            .check(HEADWISE_SPEED, Measured::pairs(&speeds[0], &speeds[1]))
            .check(ELEMENTWISE_SPEED, Measured::pairs(&speeds[0], &speeds[2]))
            .check(SINKS, everywhere.shares.clone())
            .check(SINK_RATIO, everywhere.shares)
            .check(MASKED_SINKS, at_triggers.shares.clone())
            .check(MASKED_RATIO, at_triggers.shares)
            .falsifier(Measured::pairs(scores(PLAIN), scores(DAMAGED)))
            .curve(ladder_curve(&ladders))
            .curve(sink_curve(
                &swept,
                &seen,
                seeds,
                "share of attention that the first token draws",
                "share",
                |sinks| sinks.layers.iter().map(|layer| layer.first_token_share).collect(),
            ))
            .curve(sink_curve(&swept, &seen, seeds, "largest activation after each block", "absolute", |sinks| {
                sinks.largest_hidden.clone()
            }))
            .note(gates_note(&swept, &seen, seeds))
            .sweep(everywhere.sweep)
            .sweep(at_triggers.sweep)
            .sweep(swept))
    }
}

/// What was seen in the model of each arm, rate (its bits) and seed.
type Seen = HashMap<(String, u64, u64), Sinks>;

/// Loss at the end of every rung; none where a seed did not get so far.
fn ladder_curve(ladders: &[Vec<Ladder>; 2]) -> Curve {
    let line = |(name, ladders): (&str, &Vec<Ladder>)| {
        let tried = ladders.iter().map(|ladder| ladder.losses.len()).max().unwrap_or(0);
        let at = |rung: usize| Point {
            x: learning::rate(rung),
            per_seed: ladders.iter().map(|ladder| ladder.losses.get(rung).copied().unwrap_or(f64::NAN)).collect(),
        };
        Line { name: name.to_owned(), points: (0..tried).map(at).collect() }
    };
    Curve {
        what: "loss at the end of each rung".to_owned(),
        x_label: "learning rate".to_owned(),
        y_label: "nats/character".to_owned(),
        log_x: true,
        log_y: false,
        lines: [PLAIN, GATED].into_iter().zip(ladders).map(line).collect(),
    }
}

/// A figure of every layer of the models at their chosen rates.
fn sink_curve(
    swept: &Sweep,
    seen: &Seen,
    seeds: &[u64],
    what: &str,
    unit: &str,
    figure: impl Fn(&Sinks) -> Vec<f64>,
) -> Curve {
    let line = |name: &str| {
        let of_seeds: Vec<Vec<f64>> = chosen(swept, seen, seeds, name).map(&figure).collect();
        let layers = of_seeds.first().map_or(0, Vec::len);
        let at = |layer: usize| Point {
            x: (layer + 1) as f64,
            per_seed: of_seeds.iter().map(|figures| figures[layer]).collect(),
        };
        Line { name: name.to_owned(), points: (0..layers).map(at).collect() }
    };
    Curve {
        what: what.to_owned(),
        x_label: "layer".to_owned(),
        y_label: unit.to_owned(),
        log_x: false,
        log_y: false,
        lines: [PLAIN, GATED].map(line).into(),
    }
}

/// What was seen in the models of an arm at its chosen rate, one a seed.
fn chosen<'a>(swept: &'a Sweep, seen: &'a Seen, seeds: &'a [u64], name: &'a str) -> impl Iterator<Item = &'a Sinks> {
    let rates = swept.arms.iter().filter(move |arm| arm.name == name).map(|arm| arm.chosen_rate.to_bits());
    rates.flat_map(move |rate| seeds.iter().filter_map(move |&seed| seen.get(&(name.to_owned(), rate, seed))))
}

fn gates_note(swept: &Sweep, seen: &Seen, seeds: &[u64]) -> String {
    let gates: Vec<(f64, f64)> = chosen(swept, seen, seeds, GATED)
        .flat_map(|sinks| sinks.layers.iter().filter_map(|layer| layer.gates))
        .collect();
    let count = gates.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| gates.iter().map(part).sum::<f64>() / count;
    format!(
        "gates of the trained models: {:.3} open on average, {:.1} % of them below 0.1",
        mean(|g| g.0),
        100.0 * mean(|g| g.1)
    )
}
