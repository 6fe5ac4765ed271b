//! B'MOJO (arXiv 2407.06324): one softmax over recent tokens, a fading memory's outputs, and old tokens that it failed to
//! predict.
//!
//! 1. Exactness: the three sets joined by log-sum-exps against one dense softmax, forward and backward; a fading memory that
//!    is its input against attention to 2W tokens, a window of all tokens against attention to all, the fading memory alone
//!    against its outputs; whole sequences against steps of a token each.
//! 2. Recall beyond the window: pairs, 2W tokens of filler, queries, so that every query is further than 2W from all pairs. A
//!    short convolution and one layer, under equal parameters: attention to 2W tokens, B'MOJO-F, and B'MOJO whose buffer has
//!    room for all pairs. What fades is read by tokens that do not know the query: of n pairs it tells which values there
//!    are rather than whose, 1/n.
//! 3. Which tokens the buffer of a trained model holds, when filler is one token and when it is random, with many pairs.
//! 4. Cost: bytes of an engine over the length, and of a buffer that grows to a cap; the time of a layer.
//!
//! Rates are chosen on validation data, three for each arm.
//!
//! Falsifier: a buffer that takes no token in, with all else in place.

mod buffer;
mod cost;
mod exactness;
mod learning;
mod special;

use memwall_kernels::Pool;

use crate::{About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run};
use learning::{EIDETIC, FADING, SHUT, WINDOWED};

const JOINED: &str = "largest error of the joined sets against one dense softmax, in f64";
const JOINED_SINGLE: &str = "largest error of the joined sets against one dense softmax, in f32";
const GRADIENT: &str = "largest error of gradients against those of the dense softmax, in f64";
const SPECIAL: &str =
    "largest difference from attention to 2W tokens, to all, and from the fading memory alone, in f64";
const FORMS: &str = "largest relative difference between logits of steps and of whole sequences";
const CHANCE: &str = "recall of attention to 2W tokens";
const FADES: &str = "recall of B'MOJO-F above that of attention to 2W tokens";
const KEEPS: &str = "recall of B'MOJO above that of B'MOJO-F";
const SOLVED: &str = "recall of B'MOJO";
const PRECISION: &str = "share of pairs among the tokens of the buffer, filler of one token";
const RANDOM: &str = "share of pairs among the tokens of the buffer, random filler";
const BYTES: &str = "bytes of an engine at its longest context beyond those at its shortest";
const TIME: &str = "time of a forward pass of B'MOJO-F against attention to all tokens";

static ABOUT: About = About {
    system: 4,
    name: "bmojo",
    data: &[],
    checks: &[
        Check { what: JOINED, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-12) },
        Check { what: JOINED_SINGLE, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-5) },
        Check { what: GRADIENT, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-9) },
        Check { what: SPECIAL, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-12) },
        Check { what: FORMS, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-5) },
        Check { what: CHANCE, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: FADES, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.2) },
        Check { what: KEEPS, kind: Kind::Difference, unit: "accuracy", bar: Bar::at_least(0.2) },
        Check { what: SOLVED, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
        Check { what: PRECISION, kind: Kind::Value, unit: "share", bar: Bar::at_least(0.9) },
        Check { what: RANDOM, kind: Kind::Difference, unit: "share", bar: Bar::less_than(0.0) },
        Check { what: BYTES, kind: Kind::Value, unit: "bytes", bar: Bar::exactly(0.0) },
        Check { what: TIME, kind: Kind::Ratio, unit: "s", bar: Bar::at_most(1.0 / 3.0) },
    ],
    falsifier: Falsifier { what: "a buffer that takes no token in", against: KEEPS },
    source: concat!(
        include_str!("bmojo.rs"),
        include_str!("bmojo/exactness.rs"),
        include_str!("bmojo/special.rs"),
        include_str!("bmojo/learning.rs"),
        include_str!("bmojo/buffer.rs"),
        include_str!("bmojo/cost.rs"),
    ),
};

/// The claim of B'MOJO.
pub struct Bmojo;

impl Claim for Bmojo {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let (pool, seeds) = (Pool::new(run.threads()), run.seeds());
        // Times come first, in a process that has done nothing else.
        let times = cost::times(run)?;
        let bytes = cost::bytes_over_context(run)?;
        let (mut joined, mut special, mut forms) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("exactness", i as u64, seeds.len() as u64)?;
            joined.push(exactness::worst_errors(&pool, seed));
            special.push(special::worst(&pool, seed)?);
            forms.push(special::forms(run, seed)?);
        }
        let of = |part: usize| joined.iter().map(|errors| errors[part]).collect::<Vec<f64>>();
        let recall = learning::recall(run)?;
        let rate = recall.arms.iter().find(|arm| arm.name == EIDETIC).map_or(f64::NAN, |arm| arm.chosen_rate);
        let buffers = buffer::Buffers::trained(run, rate)?;
        let [constant, random] = buffers.precision();
        Ok(Outcome::new()
            .check(JOINED, Measured::values(&of(0)))
            .check(JOINED_SINGLE, Measured::values(&of(1)))
            .check(GRADIENT, Measured::values(&of(2)))
            .check(SPECIAL, Measured::values(&special))
            .check(FORMS, Measured::values(&forms))
            .check(CHANCE, Measured::values(recall.scores(WINDOWED).unwrap_or(&[])))
            .check(FADES, Measured::arms(&recall, WINDOWED, FADING))
            .check(KEEPS, Measured::arms(&recall, FADING, EIDETIC))
            .check(SOLVED, Measured::values(recall.scores(EIDETIC).unwrap_or(&[])))
            .check(PRECISION, Measured::values(&constant))
            .check(RANDOM, Measured::pairs(&constant, &random))
            .check(BYTES, Measured::values(&bytes))
            .check(TIME, Measured::pairs(&times.full, &times.ours))
            .falsifier(Measured::arms(&recall, FADING, SHUT))
            .curve(buffers.growth())
            .curve(times.curve)
            .note(learning::note(run, &recall))
            .note(buffers.note())
            .sweep(recall))
    }
}
