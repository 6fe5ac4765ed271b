//! SelectivBench (arXiv 2601.12598): gates make selective, mixing of channels generalizes.
//!
//! Models name the hidden state of a random automaton whose letters are ambiguous. Expected:
//! 1. With noisy gaps a gate helps linear attention, and one that can close at once helps more than a slow one.
//! 2. Among ungrammatical symbols a diagonal gate does as well as the delta rule: mixing is not needed to be selective.
//! 3. With gaps five times as long as learned, the delta rule loses less than the diagonal gate.
//! 4. With more states a letter and no long gaps, attention, whose memory grows, is best.
//!
//! No model may beat the exact Bayes filter; that would be a leak. The automata are held to their definition, and their
//! entropy to the growth of the number of strings.
//!
//! The frame is this project's (norm before, SwiGLU as wide as equal parameters allow), smaller than published: two layers of
//! width 64. All linear mixers have the same short convolution, so that only the state's rule differs; a model of
//! convolutions alone is the control.
//!
//! Falsifier: the gate held open, with all its parameters, in place of the gate.

mod automata;
mod learning;

use crate::{About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run};
use automata::{entropy_error, violations};
use learning::{ATTENTION, CONVOLUTIONS, DELTA, FAST, GATED, GATED_DELTA, OPEN, UNGATED, distractors, gaps, memory};

const DEFINITION: &str = "automata that break their definition";
const ENTROPY: &str = "largest relative difference of entropy from the growth of the number of strings";
const LEAK: &str = "best model on noisy gaps, against the exact Bayes filter";
const GATE: &str = "states named among noisy gaps, gated against ungated linear attention";
const FAST_GATE: &str = "states named among noisy gaps, a gate that can close at once against a slow one";
const CONTROL: &str = "states named among noisy gaps, gated linear attention against convolutions alone";
const MIXING: &str = "distance of the delta rule from a diagonal gate among ungrammatical symbols";
const GENERALIZES: &str = "loss of accuracy at gaps of five times the length, the delta rule against a diagonal gate";
const GROWS: &str = "states named with 16 states a letter, attention against the better of both recurrences";

static ABOUT: About = About {
    system: 52,
    name: "selectivbench",
    data: &[],
    checks: &[
        Check { what: DEFINITION, kind: Kind::Value, unit: "automata", bar: Bar::exactly(0.0) },
        Check { what: ENTROPY, kind: Kind::Value, unit: "relative", bar: Bar::at_most(0.01) },
        Check { what: LEAK, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_most(0.0) },
        Check { what: GATE, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.05) },
        Check { what: FAST_GATE, kind: Kind::Difference, unit: "accuracy", bar: Bar::more_than(0.0) },
        Check { what: CONTROL, kind: Kind::Difference, unit: "accuracy", bar: Bar::more_than(0.0) },
        Check { what: MIXING, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.05) },
        Check { what: GENERALIZES, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_most(0.0) },
        Check { what: GROWS, kind: Kind::Difference, unit: "accuracy", bar: Bar::more_than(0.0) },
    ],
    falsifier: Falsifier { what: "the gate held open", against: GATE },
    source: concat!(
        include_str!("selectivity.rs"),
        include_str!("selectivity/automata.rs"),
        include_str!("selectivity/learning.rs"),
    ),
};

/// The claim of SelectivBench.
pub struct SelectivBench;

impl Claim for SelectivBench {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        run.step("automata", 0, 1)?;
        let of_seeds = |figure: fn(u64) -> Result<f64, Error>| -> Result<Vec<f64>, Error> {
            run.seeds().iter().map(|&seed| figure(seed)).collect()
        };
        let (broken, entropies) = (of_seeds(violations)?, of_seeds(entropy_error)?);
        let gaps = gaps(run)?;
        let (distractors, memory) = (distractors(run)?, memory(run)?);

        let best = best_of(&[UNGATED, GATED, FAST, DELTA, GATED_DELTA, ATTENTION, CONVOLUTIONS], &gaps.sweep);
        let apart: Vec<f64> = best_of(&[FAST], &distractors)
            .iter()
            .zip(best_of(&[GATED_DELTA], &distractors))
            .map(|(diagonal, delta)| (diagonal - delta).abs())
            .collect();
        Ok(Outcome::new()
            .check(DEFINITION, Measured::values(&broken))
            .check(ENTROPY, Measured::values(&entropies))
            .check(LEAK, Measured::pairs(&gaps.filter, &best))
            .check(GATE, Measured::arms(&gaps.sweep, UNGATED, GATED))
            .check(FAST_GATE, Measured::arms(&gaps.sweep, GATED, FAST))
            .check(CONTROL, Measured::arms(&gaps.sweep, CONVOLUTIONS, FAST))
            .check(MIXING, Measured::values(&apart))
            .check(GENERALIZES, Measured::pairs(&gaps.loss(FAST), &gaps.loss(GATED_DELTA)))
            .check(GROWS, Measured::pairs(&best_of(&[FAST, GATED_DELTA], &memory), &best_of(&[ATTENTION], &memory)))
            .falsifier(Measured::arms(&gaps.sweep, UNGATED, OPEN))
            .curve(gaps.curve())
            .note(gaps.note())
            .sweep(gaps.sweep)
            .sweep(distractors)
            .sweep(memory))
    }
}

/// The best score of several arms, seed by seed.
fn best_of(arms: &[&str], sweep: &crate::evidence::Sweep) -> Vec<f64> {
    let mut scores = arms.iter().filter_map(|arm| sweep.scores(arm));
    let first = scores.next().unwrap_or(&[]).to_vec();
    scores.fold(first, |best, arm| best.iter().zip(arm).map(|(a, b)| a.max(*b)).collect())
}
