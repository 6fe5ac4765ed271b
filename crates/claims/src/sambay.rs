//! SambaY (arXiv 2507.06607): a decoder whose upper half reads one memory and one cache that the lower half has made.
//!
//! 1. Exactness: a prefill that computes the upper half for the last token alone gives its logits; so do steps of a token
//!    each and whole sequences; differential attention is four plain attentions.
//! 2. Cost, with weights as they begin: operations and time of a prefill with and without that skip; time of a token at
//!    16K against attention with a cache in every layer, and against Samba+YOCO, whose upper half reads the cache in every
//!    layer; bytes of caches, and bytes that a token reads, which are counted on the graph.
//! 3. Characters of plays: SambaY and Samba+YOCO at equal parameters, rates chosen on validation text; and how much worse
//!    the trained SambaY becomes when its Gated Memory Unit reads the memory of other tokens.
//! 4. Recall over 256 tokens with windows of 16: layer L/2 + 1, and so all cross-attention, must see all tokens.
//!
//! Falsifier, against the recall: the same model whose layer L/2 + 1 has the window too.

mod cost;
mod exactness;
mod learning;
mod models;

use memwall_tasks::data::TINY_SHAKESPEARE;

use crate::{About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run};
use cost::Costs;
use models::{SAMBAY, WINDOWED, YOCO};

const SKIP: &str = "largest difference between logits behind a prefill that skips and one that does not";
const DECODE: &str = "largest difference between logits of 200 steps and of the whole sequence";
const FOUR: &str = "largest difference between differential attention and four plain attentions";
const OPERATIONS: &str = "operations of a prefill of 8192 tokens that skips";
const PREFILL: &str = "time of a prefill of 8192 tokens that skips";
const TRANSFORMER_TIME: &str = "tokens a second at 16K against attention in every layer";
const YOCO_TIME: &str = "tokens a second at 16K against Samba and YOCO";
const CACHES: &str = "bytes of caches beyond one layer's and the windows'";
const LOSS: &str = "loss on characters";
const SHUFFLED: &str = "loss with the memory of other tokens";
const RECALL: &str = "recall over 256 tokens with windows of 16";

static ABOUT: About = About {
    system: 2,
    name: "sambay",
    data: &[TINY_SHAKESPEARE],
    checks: &[
        Check { what: SKIP, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-5) },
        Check { what: DECODE, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-4) },
        Check { what: FOUR, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-6) },
        Check { what: OPERATIONS, kind: Kind::Ratio, unit: "operations", bar: Bar::at_most(0.6) },
        Check { what: PREFILL, kind: Kind::Ratio, unit: "s", bar: Bar::at_most(0.6) },
        Check { what: TRANSFORMER_TIME, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(2.0) },
        Check { what: YOCO_TIME, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::more_than(1.0) },
        Check { what: CACHES, kind: Kind::Value, unit: "bytes", bar: Bar::exactly(0.0) },
        Check { what: LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.03) },
        Check { what: SHUFFLED, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_least(0.02) },
        Check { what: RECALL, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
    ],
    falsifier: Falsifier { what: "a window of 16 in layer L/2 + 1 too", against: RECALL },
    source: concat!(
        include_str!("sambay.rs"),
        include_str!("sambay/models.rs"),
        include_str!("sambay/exactness.rs"),
        include_str!("sambay/cost.rs"),
        include_str!("sambay/learning.rs"),
    ),
};

/// The claim of SambaY.
pub struct SambaY;

impl Claim for SambaY {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let (mut skip, mut decode, mut four) = (Vec::new(), Vec::new(), Vec::new());
        let (mut prefills, mut tokens) = ([vec![], vec![]], [vec![], vec![], vec![]]);
        // Times come first, in a process that has done nothing else.
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("times", i as u64, seeds.len() as u64)?;
            for (all, time) in prefills.iter_mut().zip(cost::prefill_seconds(run, seed)?) {
                all.push(time);
            }
            for (all, time) in tokens.iter_mut().zip(cost::token_seconds(run, seed)?) {
                all.push(1.0 / time);
            }
        }
        for &seed in seeds {
            skip.push(exactness::skip(run, seed)?);
            decode.push(exactness::steps(run, seed)?);
            four.push(exactness::four_attentions(seed)?);
        }
        let Costs { prefill_operations, beyond_one_cache, note } = cost::counted(run)?;
        let each = |x: f64| vec![x; seeds.len()];
        let (characters, shuffled) = learning::characters(run)?;
        let recall = learning::recall(run)?;
        let scores = |arm| recall.scores(arm).unwrap_or(&[]);
        Ok(Outcome::new()
            .check(SKIP, Measured::values(&skip))
            .check(DECODE, Measured::values(&decode))
            .check(FOUR, Measured::values(&four))
            .check(OPERATIONS, Measured::pairs(&each(prefill_operations[0]), &each(prefill_operations[1])))
            .check(PREFILL, Measured::pairs(&prefills[0], &prefills[1]))
            .check(TRANSFORMER_TIME, Measured::pairs(&tokens[0], &tokens[2]))
            .check(YOCO_TIME, Measured::pairs(&tokens[1], &tokens[2]))
            .check(CACHES, Measured::values(&each(beyond_one_cache)))
            .check(LOSS, Measured::arms(&characters, YOCO, SAMBAY))
            .check(SHUFFLED, Measured::pairs(&shuffled.intact, &shuffled.shuffled))
            .check(RECALL, Measured::values(scores(SAMBAY)))
            .falsifier(Measured::values(scores(WINDOWED)))
            .note(note)
            .note("operations and bytes are counted: every seed has the same")
            .sweep(characters)
            .sweep(recall))
    }
}
