//! Zoology (arXiv 2312.04927): multi-query recall separates mixers at clear levels.
//!
//! Two layers without channel layers read T tokens with n pairs of keys and values; at each query the value is asked for.
//! Expected: 1. a short convolution before attention solves it; 2. attention alone knows which values the sequence has but
//! not yet whose they are, and stays at the plateau 1/n for so few steps; 3. a mixer whose field cannot reach back to the
//! pair stays near chance. Rates are chosen on validation data, three for each arm.
//!
//! 4. The width law (`zoology/width.rs`): from 4 pairs in 64 tokens to 16 in 256, the width at which BaseConv (a short and a
//!    long convolution) reaches recall of 0.9 at least doubles, and that of attention stays.
//!
//! Slices of recall in text are a measurement of `memwall eval --task recall`, not a part of this claim.
//!
//! Falsifier: attention that sees 4 tokens, in place of attention that sees all.

mod width;

use crate::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, SweepPlan, TuneOn,
    recall::Recall, sweep,
};

const SOLVED: &str = "recall of convolution and attention";
const GAP: &str = "recall above that of a mixer with a short field";
const PLATEAU: &str = "distance of attention without convolution from the plateau 1/n";
const CHANCE: &str = "recall of two short convolutions";
const GROWTH: &str = "width that a long convolution needs for more pairs in more tokens, over that for fewer";
const NO_GROWTH: &str = "width that attention needs for more pairs in more tokens, over that for fewer";

static ABOUT: About = About {
    system: 12,
    name: "zoology",
    data: &[],
    checks: &[
        Check { what: SOLVED, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
        Check { what: GAP, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.5) },
        Check { what: PLATEAU, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: CHANCE, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: GROWTH, kind: Kind::Ratio, unit: "channels", bar: Bar::at_least(2.0) },
        Check { what: NO_GROWTH, kind: Kind::Ratio, unit: "channels", bar: Bar::at_most(1.0) },
    ],
    falsifier: Falsifier { what: "attention that sees 4 tokens", against: SOLVED },
    source: concat!(include_str!("zoology.rs"), include_str!("zoology/width.rs")),
};

/// The claim of Zoology.
pub struct Zoology;

const ATTENTION: &str = "convolution, attention";
const WINDOW: &str = "convolution, attention to 4 tokens";
const ALONE: &str = "attention, attention";
const CONVOLUTIONS: &str = "convolution, convolution";

impl Claim for Zoology {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let recall = Recall::new(run);
        let plan = SweepPlan {
            what: "recall",
            arms: &[WINDOW, ATTENTION, ALONE, CONVOLUTIONS],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        let swept = sweep(run, plan, |arm, rate, seed| {
            let mixers = match arm {
                ATTENTION => [recall.convolution(), recall.attention(None)],
                WINDOW => [recall.convolution(), recall.attention(Some(4))],
                ALONE => [recall.attention(None), recall.attention(None)],
                _ => [recall.convolution(), recall.convolution()],
            };
            recall.trial(run, mixers, rate, seed)
        })?;
        let [long, attention] = [width::widths(run, width::BASE_CONV)?, width::widths(run, width::ATTENTION)?];
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        let plateau = 1.0 / recall.pairs as f64;
        let distance: Vec<f64> = scores(ALONE).iter().map(|a| (a - plateau).abs()).collect();
        let searches = [&long, &attention];
        let outcome = width::sweeps(searches).into_iter().fold(Outcome::new(), Outcome::sweep);
        Ok(outcome
            .check(SOLVED, Measured::values(scores(ATTENTION)))
            .check(GAP, Measured::pairs(scores(WINDOW), scores(ATTENTION)))
            .check(PLATEAU, Measured::values(&distance))
            .check(CHANCE, Measured::values(scores(CONVOLUTIONS)))
            .check(GROWTH, long.grown())
            .check(NO_GROWTH, attention.grown())
            .falsifier(Measured::values(scores(WINDOW)))
            .note(format!("chance is {:.3}, the plateau {plateau:.3}", 2.0 / recall.vocabulary as f64))
            .note(width::note([(width::BASE_CONV, &long), (width::ATTENTION, &attention)]))
            .curve(width::curve(searches))
            .sweep(swept))
    }
}
