//! FireQ (arXiv 2505.20839): weights, keys and values in integers of four bits, inputs and queries in E4M3; scalings that respect rotary pairs move
//! outliers away before anything is stored.
//!
//! 1. Exactness: no scaling changes a logit, with grouped heads and both conventions of rotary pairs, unless the members of a pair
//!    differ; the product of integers and E4M3 is the one documented, bit for bit; refusals.
//! 2. Underflow: what small weights lose by scales in E4M3, with and without a power of two, beside the published table.
//! 3. Keys with three loud channels: errors of logits plain, scaled before the rotation, after it, both.
//! 4. A model of characters with planted loud channels, all in four and eight bits: what that costs with the scalings and without.
//!
//! Falsifier, against the cost in the model: the same scales given to other channels.
//!
//! Not measured: large models, GPUs, the pipelined prefill.

mod exactness;
mod keys;
mod model;
mod scaling;
mod underflow;

use memwall_formats::packing::{Dequantization, GroupScale};
use memwall_tasks::Split;
use memwall_tasks::data::TINY_SHAKESPEARE;

use crate::planted::{Planted, config};
use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, characters::Characters, largest::largest,
};
use memwall_nn::ChannelConfig;
use model::{Numbers, loss};
use scaling::Scaling;
use underflow::Underflow;

const LOGITS: &str = "largest difference of logits by scaling";
const UNEVEN: &str = "difference of logits where the members of a pair differ";
const PRODUCTS: &str = "outputs of the product off plain numbers, and tensors changed on the way";
const ANSWERED: &str = "inputs that are not answered as they must be";
const TABLE: &str = "largest distance from the published table of underflow";
const CHOSEN: &str = "steps between a chosen power of two and that of the table";
const KEYS: &str = "largest distance from the published errors of logits";
const BEST: &str = "error of logits, plain over the best scaling";
const BEFORE: &str = "error of logits, plain over scaled before the rotation";
const BY_HAND: &str = "difference between the model run by hand and the model";
const FREE: &str = "loss that the scalings cost in f32";
const COST: &str = "loss that four and eight bits cost, scaled over plain";
const SCALES: &str = "loss that they cost scaled, scales in E4M3 over scales in BF16";

const fn value(what: &'static str, unit: &'static str, bar: Bar) -> Check {
    Check { what, kind: Kind::Value, unit, bar }
}

static ABOUT: About = About {
    system: 43,
    name: "fireq",
    data: &[TINY_SHAKESPEARE],
    checks: &[
        value(LOGITS, "relative", Bar::at_most(1e-4)),
        value(UNEVEN, "relative", Bar::at_least(1e-2)),
        value(PRODUCTS, "values", Bar::exactly(0.0)),
        value(ANSWERED, "inputs", Bar::exactly(0.0)),
        value(TABLE, "dB", Bar::at_most(0.2)),
        value(CHOSEN, "powers", Bar::at_most(1.0)),
        value(KEYS, "relative", Bar::at_most(0.15)),
        value(BEST, "ratio", Bar::at_least(2.0)),
        value(BEFORE, "ratio", Bar::at_least(1.3)),
        value(BY_HAND, "nats/character", Bar::at_most(1e-4)),
        value(FREE, "nats/character", Bar::at_most(1e-4)),
        Check { what: COST, kind: Kind::Ratio, unit: "nats/character", bar: Bar::at_most(0.5) },
        Check { what: SCALES, kind: Kind::Ratio, unit: "nats/character", bar: Bar::at_most(1.1) },
    ],
    falsifier: Falsifier { what: "the scales of keys given to other channels", against: COST },
    source: concat!(
        include_str!("fireq.rs"),
        include_str!("fireq/exactness.rs"),
        include_str!("fireq/underflow.rs"),
        include_str!("fireq/keys.rs"),
        include_str!("fireq/model.rs"),
        include_str!("fireq/scaling.rs"),
        include_str!("planted.rs"),
        include_str!("decoder.rs"),
    ),
};

/// Rate of the training, as the claim of gated attention found best for plain attention on the same text.
const RATE: f64 = 3e-3;

/// The claim of FireQ.
pub struct FireQ;

impl Claim for FireQ {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let mut outcome = Outcome::new();
        let (mut falsifier, mut notes) = (Vec::new(), Vec::new());
        let text = Characters::read(run)?;
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("weights and keys", i as u64, seeds.len() as u64)?;
            let table = Underflow::draw(seed, run.pick(16, 1024, 4096))?;
            let errors = keys::errors(seed, run.pick(64, 1024, 1024))?;
            let best = errors[1..].iter().copied().fold(f64::INFINITY, f64::min);
            let far = errors.iter().zip(keys::PUBLISHED).map(|(got, want)| (got / want - 1.0).abs());
            let losses = losses(run, &text, seed)?;
            let cost = |i: usize| losses[i].1 - losses[0].1;
            for (what, figure) in [
                (LOGITS, exactness::logits_changed(seed, false)?),
                (UNEVEN, exactness::logits_changed(seed, true)?),
                (PRODUCTS, exactness::products_off(seed)?),
                (ANSWERED, exactness::not_answered()),
                (TABLE, largest(table.distances())),
                (CHOSEN, table.steps_off()),
                (KEYS, largest(far)),
                (BEST, errors[0] / best),
                (BEFORE, errors[0] / errors[1]),
                (BY_HAND, (losses[0].1 - losses[OWN].1).abs()),
                (FREE, cost(1).abs()),
            ] {
                outcome.value(what, figure);
            }
            outcome.pair(COST, cost(2), cost(3));
            outcome.pair(SCALES, cost(4), cost(3));
            falsifier.push((cost(2), cost(5)));
            let all: Vec<String> =
                losses[1..OWN].iter().map(|(what, loss)| format!("{what} {:.5}", loss - losses[0].1)).collect();
            notes.push(format!("seed {seed}: loss {:.4}; costs: {}", losses[0].1, all.join(", ")));
            notes.push(format!(
                "seed {seed}: errors of logits plain, before, after, both: {:.3} {:.3} {:.3} {:.3}",
                errors[0], errors[1], errors[2], errors[3]
            ));
            notes.push(format!("seed {seed}: {}", table.note()));
        }
        let (plain, shuffled): (Vec<f64>, Vec<f64>) = falsifier.into_iter().unzip();
        let outcome = outcome.falsifier(Measured::pairs(&plain, &shuffled));
        Ok(notes.into_iter().fold(outcome, Outcome::note))
    }
}

/// Where the loss of the trained model itself stands among those of [`losses`].
const OWN: usize = 10;

/// Losses of the model in f32, and stored in every way that is compared; at last that of the model itself.
fn losses(run: &Run, text: &Characters, seed: u64) -> Result<Vec<(&'static str, f64)>, Error> {
    let width = run.pick(128, 128, 256);
    let mut config = config(text, width);
    for layer in &mut config.layers {
        // Rows of whole groups of 128.
        if let ChannelConfig::Glu { hidden, .. } = &mut layer.channel {
            *hidden = 3 * width;
        }
    }
    let mut model = Planted::train(run, text, &config, RATE, seed, 434)?;
    let count = run.pick(2, 64, 512);
    let (windows, own) = model.windows(text, count, Split::Test)?;
    let (calibration, _) = model.windows(text, count / 4 + 1, Split::Validation)?;
    let fp8 = Numbers::Stored(GroupScale::E4M3, Dequantization::Fp8);
    let with = |channels, before, after| Scaling { channels, before, after, shuffled: false };
    let ways = [
        ("f32", Scaling::NONE, Numbers::Single),
        ("f32 scaled", Scaling::ALL, Numbers::Single),
        ("plain", Scaling::NONE, fp8),
        ("scaled", Scaling::ALL, fp8),
        ("scaled, scales in BF16", Scaling::ALL, Numbers::Stored(GroupScale::Bf16, Dequantization::Exact)),
        ("scales of other channels", Scaling { shuffled: true, ..Scaling::ALL }, fp8),
        (
            "scaled, products not rounded to E4M3",
            Scaling::ALL,
            Numbers::Stored(GroupScale::E4M3, Dequantization::Exact),
        ),
        ("columns alone", with(true, false, false), fp8),
        ("before the rotation alone", with(false, true, false), fp8),
        ("after it alone", with(false, false, true), fp8),
    ];
    let mut losses = Vec::with_capacity(ways.len() + 1);
    for (done, (what, scaling, numbers)) in ways.into_iter().enumerate() {
        run.step("losses of stored models", done as u64, ways.len() as u64)?;
        losses.push((what, loss(&model, &windows, &calibration, scaling, numbers)?));
    }
    losses.push(("the model itself", own));
    Ok(losses)
}
