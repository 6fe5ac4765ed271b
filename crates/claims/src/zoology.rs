//! Zoology (arXiv 2312.04927): multi-query recall separates mixers at clear levels.
//!
//! Two layers without channel layers read T tokens with n pairs of keys and values; at each query the value is asked for.
//! Expected: 1. a short convolution before attention solves it; 2. attention alone knows which values the sequence has but
//! not yet whose they are, and stays at the plateau 1/n for so few steps; 3. a mixer whose field cannot reach back to the
//! pair stays near chance; 4. a convolution over the whole sequence, whose filter does not depend on what it reads (BaseConv),
//! stays at the plateau too. Rates are chosen on validation data, three for each arm.
//!
//! Not here: the width law. It asks at which width BaseConv reaches 0.9; with 4 pairs in 64 tokens and as many steps as here it
//! stays at the plateau (0.21 to 0.26 at widths 32 to 128, where attention has 1.00 at 32), so there is no width to compare.
//! Slices of recall in text are a measurement of `memwall eval --task recall`.
//!
//! Falsifier: attention that sees 4 tokens, in place of attention that sees all.

use crate::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, SweepPlan, TuneOn,
    recall::Recall, sweep,
};

const SOLVED: &str = "recall of convolution and attention";
const GAP: &str = "recall above that of a mixer with a short field";
const PLATEAU: &str = "distance of attention without convolution from the plateau 1/n";
const LONG_PLATEAU: &str = "distance of a long convolution from the plateau 1/n";
const CHANCE: &str = "recall of two short convolutions";

static ABOUT: About = About {
    system: 12,
    name: "zoology",
    data: &[],
    checks: &[
        Check { what: SOLVED, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
        Check { what: GAP, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.5) },
        Check { what: PLATEAU, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: LONG_PLATEAU, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: CHANCE, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
    ],
    falsifier: Falsifier { what: "attention that sees 4 tokens", against: SOLVED },
    source: include_str!("zoology.rs"),
};

/// The claim of Zoology.
pub struct Zoology;

const ATTENTION: &str = "convolution, attention";
const WINDOW: &str = "convolution, attention to 4 tokens";
const ALONE: &str = "attention, attention";
const LONG: &str = "convolution, long convolution";
const CONVOLUTIONS: &str = "convolution, convolution";

impl Claim for Zoology {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let recall = Recall::new(run);
        let plan = SweepPlan {
            what: "recall",
            arms: &[WINDOW, ATTENTION, ALONE, LONG, CONVOLUTIONS],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        let swept = sweep(run, plan, |arm, rate, seed| {
            let mixers = match arm {
                ATTENTION => [recall.convolution(), recall.attention(None)],
                WINDOW => [recall.convolution(), recall.attention(Some(4))],
                ALONE => [recall.attention(None), recall.attention(None)],
                LONG => [recall.base_conv(false), recall.base_conv(true)],
                _ => [recall.convolution(), recall.convolution()],
            };
            recall.trial(run, mixers, rate, seed)
        })?;
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        let plateau = 1.0 / recall.pairs as f64;
        let distance = |arm| -> Vec<f64> { scores(arm).iter().map(|a| (a - plateau).abs()).collect() };
        Ok(Outcome::new()
            .check(SOLVED, Measured::values(scores(ATTENTION)))
            .check(GAP, Measured::pairs(scores(WINDOW), scores(ATTENTION)))
            .check(PLATEAU, Measured::values(&distance(ALONE)))
            .check(LONG_PLATEAU, Measured::values(&distance(LONG)))
            .check(CHANCE, Measured::values(scores(CONVOLUTIONS)))
            .falsifier(Measured::values(scores(WINDOW)))
            .note(format!("chance is {:.3}, the plateau {plateau:.3}", 2.0 / recall.vocabulary as f64))
            .sweep(swept))
    }
}
