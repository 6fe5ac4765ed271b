//! Accurate block quantization with outliers (arXiv 2403.20137): keys in block floating point, with the channels that are large
//! put into blocks of their own when the model is compiled.
//!
//! 1. Exactness: no order of channels changes a logit, with grouped heads and both conventions of rotary positions; where a
//!    block is a whole head, an order changes nothing at all.
//! 2. Simulation: errors of logits beside the published table; keys whose channels differ evenly, where sorting loses.
//! 3. A model of characters with planted loud channels: what storing keys in 4 bits costs, sorted or not.
//!
//! Falsifier, against the cost in the model: channels in a random order.

mod exactness;
mod model;
mod simulation;

use memwall_tasks::Split;
use memwall_tasks::data::TINY_SHAKESPEARE;

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run,
    characters::Characters,
    evidence::{Curve, Line, Point},
    largest::largest,
    planted::{Planted, config},
};
use model::{Keys, Order, loss};
use simulation::{BLOCKS, Simulation, spread};

const LOGITS: &str = "largest difference of logits under any order of channels";
const RESTORED: &str = "largest difference of a weight after an order and its inverse";
const WHOLE: &str = "largest change by sorting where a block is a whole head";
const TABLE: &str = "largest distance from the published simulation";
const EVEN: &str = "what sorting adds where channels differ evenly by much";
const LESS_EVEN: &str = "what sorting adds where channels differ evenly by less";
const HELPS: &str = "least gain where an order is kept only if it helps";
const ANSWERED: &str = "inputs that are not answered as they must be";
const BY_HAND: &str = "difference between the model run by hand and the model";
const COST: &str = "loss that 4-bit keys cost, sorted over as they are";
const BY_KEYS: &str = "loss that 4-bit keys cost, sorted by keys over by weights";
const EIGHT: &str = "loss that 8-bit keys cost";

const fn value(what: &'static str, unit: &'static str, bar: Bar) -> Check {
    Check { what, kind: Kind::Value, unit, bar }
}

static ABOUT: About = About {
    system: 7,
    name: "accurate-block-quantization",
    data: &[TINY_SHAKESPEARE],
    checks: &[
        value(LOGITS, "relative", Bar::at_most(1e-5)),
        value(RESTORED, "absolute", Bar::exactly(0.0)),
        value(WHOLE, "absolute", Bar::at_most(1e-12)),
        value(TABLE, "relative", Bar::at_most(0.1)),
        value(EVEN, "dB", Bar::less_than(0.0)),
        value(LESS_EVEN, "dB", Bar::more_than(0.0)),
        value(HELPS, "dB", Bar::at_least(0.0)),
        value(ANSWERED, "inputs", Bar::exactly(0.0)),
        value(BY_HAND, "nats/character", Bar::at_most(1e-4)),
        Check { what: COST, kind: Kind::Ratio, unit: "nats/character", bar: Bar::at_most(0.6) },
        Check { what: BY_KEYS, kind: Kind::Ratio, unit: "nats/character", bar: Bar::at_most(1.1) },
        value(EIGHT, "nats/character", Bar::at_most(1e-3)),
    ],
    falsifier: Falsifier { what: "channels in a random order", against: COST },
    source: concat!(
        include_str!("block_quantization.rs"),
        include_str!("block_quantization/exactness.rs"),
        include_str!("block_quantization/simulation.rs"),
        include_str!("block_quantization/model.rs"),
        include_str!("planted.rs"),
        include_str!("decoder.rs"),
    ),
};

/// Rate of the training, as the claim of gated attention found best for plain attention on the same text.
const RATE: f64 = 3e-3;

/// The claim of accurate block quantization.
pub struct BlockQuantization;

impl Claim for BlockQuantization {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let mut outcome = Outcome::new();
        let (mut falsifier, mut simulations, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let text = Characters::read(run)?;
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("simulation", i as u64, seeds.len() as u64)?;
            let tokens = run.pick(16, 512, 2048);
            let simulation = Simulation::draw(seed, tokens)?;
            let (even, less) = (spread(seed, tokens, 1.2)?, spread(seed, tokens, 0.7)?);
            let (logits, restored) = exactness::logits_and_weights(seed)?;
            let mut model = Planted::train(run, &text, &config(&text, text.width), RATE, seed, 72)?;
            let count = run.pick(2, 64, 512);
            let (windows, own) = model.windows(&text, count, Split::Test)?;
            let (calibration, _) = model.windows(&text, count / 4 + 1, Split::Validation)?;
            let mut costs = Vec::new();
            let exact = loss(&model, &windows, &calibration, Keys::Plain)?;
            for (done, keys) in [
                Keys::Bfp(4, Order::AsTheyAre),
                Keys::Bfp(4, Order::ByWeight),
                Keys::Bfp(4, Order::ByKeys),
                Keys::Bfp(4, Order::Random),
                Keys::Bfp(8, Order::AsTheyAre),
            ]
            .into_iter()
            .enumerate()
            {
                run.step("keys of the model", done as u64, 5)?;
                costs.push(loss(&model, &windows, &calibration, keys)? - exact);
            }
            outcome.pair(COST, costs[0], costs[1]);
            outcome.pair(BY_KEYS, costs[1], costs[2]);
            falsifier.push((costs[0], costs[3]));
            for (what, figure) in [
                (LOGITS, logits),
                (RESTORED, restored),
                (WHOLE, simulation.change_of_whole_heads()),
                (TABLE, largest(simulation.distances())),
                (EVEN, even[1] - even[0]),
                (LESS_EVEN, less[1] - less[0]),
                (HELPS, (even[2] - even[0]).min(less[2] - less[0])),
                (ANSWERED, exactness::not_answered()?),
                (BY_HAND, (exact - own).abs()),
                (EIGHT, costs[4]),
            ] {
                outcome.value(what, figure);
            }
            notes.push(format!(
                "seed {seed}: loss {exact:.4}; 4-bit keys cost {:.4} as they are, {:.4} sorted by weights, {:.4} by keys, {:.4} in \
                 a random order; dB of even spread 1.2 and 0.7 as it is, sorted, where it helps: {:.2} {:.2} {:.2} and {:.2} \
                 {:.2} {:.2}",
                costs[0], costs[1], costs[2], costs[3], even[0], even[1], even[2], less[0], less[1], less[2]
            ));
            simulations.push(simulation);
        }
        let (plain, random): (Vec<f64>, Vec<f64>) = falsifier.into_iter().unzip();
        let outcome = outcome.falsifier(Measured::pairs(&plain, &random)).curve(curve(&simulations));
        Ok(notes.into_iter().fold(outcome, Outcome::note))
    }
}

/// The error with sorting over that without, by block length.
fn curve(seeds: &[Simulation]) -> Curve {
    let at = |(i, block): (usize, &usize)| Point {
        x: *block as f64,
        per_seed: seeds.iter().map(|s| s.ratios()[i]).collect(),
    };
    let mut points: Vec<Point> = BLOCKS.iter().enumerate().map(at).collect();
    points.reverse();
    Curve {
        what: "error of logits, sorted over as they are, 8 of 128 channels ten times as large".to_owned(),
        x_label: "channels of a block".to_owned(),
        y_label: "ratio".to_owned(),
        log_x: true,
        log_y: false,
        lines: vec![Line { name: "4-bit mantissas".to_owned(), points }],
    }
}
