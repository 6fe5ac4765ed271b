//! Gated KalmaNet (arXiv 2511.21016): a memory that is read through a ridge regression over all past pairs.
//!
//! 1. Exactness in f64: chunks and the recurrence against the definition with a direct solver; implicit gradients against
//!    those of the definition; n steps of Chebyshev's iteration against their bound.
//! 2. Conditioning in emulated bf16: one key written 4096 times, with the ridge that follows the norm of H and with a fixed
//!    one of 1e-4; conjugate gradients beside Chebyshev's iteration on clustered spectra, at equal steps.
//! 3. Interpolation, without training: random keys with values are written and read back.
//! 4. Recall with a small state: a short convolution and one memory with 8 heads of 8. The wide gated linear attention has
//!    keys twice as wide, and with them the same bytes of state as Gated KalmaNet, which keeps H beside U.
//! 5. The trained model with fewer and more steps than it was trained with.
//!
//! Rates are chosen on validation data, three for each arm.
//!
//! Falsifier: nothing is solved (no steps), with all else in place: gated linear attention under this layer's gates.

mod conditioning;
mod interpolation;
mod learning;
mod solving;

use memwall_kernels::Pool;

use crate::{About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run};
use conditioning::{against_conjugate_gradients, one_key};
use interpolation::{Recalled, recalled};
use learning::{GATED, KALMANET, UNGATED, UNSOLVED, recall};
use solving::{beyond_bound, worst_errors};

const ERROR: &str = "largest relative error against a direct solver, in f64";
const GRADIENT: &str = "largest relative error of gradients, in f64";
const BOUND: &str = "largest error after n steps, as a share of Chebyshev's bound";
const CONDITION: &str =
    "residual in bf16 of one key written 4096 times, the ridge following the norm against a fixed one";
const CONJUGATE: &str = "residual in bf16 after 30 steps on clustered spectra, against conjugate gradients";
const READ: &str = "cosine of values read back, half as many pairs as channels";
const DELTA: &str = "cosine of values read back, against one pass of the delta rule";
const LINEAR: &str = "cosine of values read back, against linear attention";
const STEPS: &str = "distance of 30 steps from the exact ridge, in that cosine";
const RECALL: &str = "recall with heads of 8, against linear attention";
const RECALL_GATED: &str = "recall with heads of 8, against gated linear attention";
const RISE: &str = "largest rise of the loss with more steps";
const FLAT: &str = "distance of the loss after 20 steps from that after 30";

static ABOUT: About = About {
    system: 28,
    name: "gated-kalmanet",
    data: &[],
    checks: &[
        Check { what: ERROR, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-11) },
        Check { what: GRADIENT, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-7) },
        Check { what: BOUND, kind: Kind::Value, unit: "share", bar: Bar::at_most(1.0) },
        Check { what: CONDITION, kind: Kind::Ratio, unit: "relative", bar: Bar::at_most(0.1) },
        Check { what: CONJUGATE, kind: Kind::Ratio, unit: "relative", bar: Bar::at_most(1.0) },
        Check { what: READ, kind: Kind::Value, unit: "cosine", bar: Bar::at_least(0.97) },
        Check { what: DELTA, kind: Kind::Difference, unit: "cosine", bar: Bar::more_than(0.0) },
        Check { what: LINEAR, kind: Kind::Difference, unit: "cosine", bar: Bar::at_least(0.1) },
        Check { what: STEPS, kind: Kind::Value, unit: "cosine", bar: Bar::at_most(1e-3) },
        Check { what: RECALL, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.05) },
        Check { what: RECALL_GATED, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.05) },
        Check { what: RISE, kind: Kind::Value, unit: "nats", bar: Bar::at_most(0.02) },
        Check { what: FLAT, kind: Kind::Value, unit: "nats", bar: Bar::at_most(0.02) },
    ],
    falsifier: Falsifier { what: "nothing is solved", against: RECALL_GATED },
    source: concat!(
        include_str!("gated_kalmanet.rs"),
        include_str!("gated_kalmanet/solving.rs"),
        include_str!("gated_kalmanet/conditioning.rs"),
        include_str!("gated_kalmanet/interpolation.rs"),
        include_str!("gated_kalmanet/learning.rs"),
    ),
};

/// The claim of Gated KalmaNet.
pub struct GatedKalmanet;

impl Claim for GatedKalmanet {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let pool = Pool::new(run.threads());
        let seeds = run.seeds();
        let of_seeds = |figure: &dyn Fn(u64) -> f64| seeds.iter().map(|&seed| figure(seed)).collect::<Vec<f64>>();
        run.step("exactness", 0, 3)?;
        let errors: Vec<[f64; 2]> =
            seeds.iter().map(|&seed| worst_errors(&pool, run.pick(70, 200, 200), seed)).collect();
        let of = |part: usize| errors.iter().map(|e| e[part]).collect::<Vec<f64>>();
        let bounds = of_seeds(&|seed| beyond_bound(&pool, run.pick(40, 150, 150), seed));
        run.step("conditioning", 1, 3)?;
        let tokens = run.pick(64, 4096, 4096);
        let repeated: Vec<[f64; 2]> = seeds.iter().map(|&seed| one_key(tokens, seed)).collect();
        let beside: Vec<[[f64; 2]; 4]> =
            seeds.iter().map(|&seed| against_conjugate_gradients(run.pick(1, 20, 20), seed)).collect();
        run.step("interpolation", 2, 3)?;
        let counts = run.pick(&[32][..], &[16, 32, 48, 64, 128], &[16, 32, 48, 64, 128]);
        let read: Vec<Vec<Recalled>> = seeds
            .iter()
            .map(|&seed| counts.iter().map(|&n| recalled(&pool, n, run.pick(1, 10, 10), seed)).collect())
            .collect();
        // Half as many pairs as channels.
        let half = counts.iter().position(|&n| n == interpolation::WIDTH / 2).unwrap_or(0);
        let cosine = |of: fn(&Recalled) -> f64| read.iter().map(|r| of(&r[half])).collect::<Vec<f64>>();
        let apart: Vec<f64> =
            read.iter().map(|r| crate::largest::largest(r.iter().map(|r| (r.iterated - r.ridge).abs()))).collect();

        let trained = recall(run)?;
        let pairs = |of: &[[f64; 2]]| -> [Vec<f64>; 2] { [0, 1].map(|i| of.iter().map(|pair| pair[i]).collect()) };
        let at_last: Vec<[f64; 2]> = beside.iter().map(|of_seed| of_seed[of_seed.len() - 1]).collect();
        let ([fixed, following], [conjugate, ours]) = (pairs(&repeated), pairs(&at_last));
        Ok(Outcome::new()
            .check(ERROR, Measured::values(&of(0)))
            .check(GRADIENT, Measured::values(&of(1)))
            .check(BOUND, Measured::values(&bounds))
            .check(CONDITION, Measured::pairs(&fixed, &following))
            .check(CONJUGATE, Measured::pairs(&conjugate, &ours))
            .check(READ, Measured::values(&cosine(|r| r.iterated)))
            .check(DELTA, Measured::pairs(&cosine(|r| r.delta), &cosine(|r| r.iterated)))
            .check(LINEAR, Measured::pairs(&cosine(|r| r.linear), &cosine(|r| r.iterated)))
            .check(STEPS, Measured::values(&apart))
            .check(RECALL, Measured::arms(&trained.sweep, UNGATED, KALMANET))
            .check(RECALL_GATED, Measured::arms(&trained.sweep, GATED, KALMANET))
            .check(RISE, Measured::values(&trained.rises()))
            .check(FLAT, Measured::values(&trained.distances()))
            .falsifier(Measured::arms(&trained.sweep, GATED, UNSOLVED))
            .curve(conditioning::curve(&beside))
            .curve(interpolation::curve(counts, &read))
            .curve(trained.curve())
            .note(trained.note())
            .sweep(trained.sweep))
    }
}
