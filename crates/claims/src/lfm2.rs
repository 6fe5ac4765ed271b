//! LFM2 (arXiv 2511.23404): most layers are short gated convolutions, a few attend; twice as fast on processors.
//!
//! 1. Exactness: logits of prompts in pieces against those in one, and what a sequence keeps: keys and values of 6 layers of
//!    16. That its checkpoints load, to 1e-4 of the reference in both dialects, is a test of the inference crate.
//! 2. Speed: models of the shape of 350M at half the width, all numbers f32, random weights; the same with attention in
//!    every layer; prefill and decode, taken in turns. And one mixer of 350M's own width over 4096 tokens.
//! 3. Characters of plays: convolution, convolution, attention, repeated, against all attention and all convolutions.
//! 4. Recall: what the convolutions alone cannot do, and one attention restores.
//! 5. Distillation: the decoupled loss at temperature 1 against the divergence with the tail merged into one answer.
//!
//! Falsifier: convolutions in every layer, against the bar of the loss.
//!
//! Not measured: the search over architectures, a student of a text model at other temperatures, the published models.

mod distillation;
mod exactness;
mod learning;
mod speed;

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run,
    evidence::{Curve, Line, Point},
};
use learning::{ATTENTION, CONVOLUTIONS, HYBRID, Learning};
use speed::Speeds;

const PIECES: &str = "largest difference of logits between prompts in pieces and in one";
const KEPT: &str = "keys and values that are kept";
const PREFILL: &str = "prefill of 4096 tokens";
const NEAR: &str = "decoding after 512 tokens";
const FAR: &str = "decoding after 16384 tokens";
const MIXER: &str = "mixers over 4096 tokens a second, convolution against attention";
const LOSS: &str = "loss, less that of all attention";
const NEEDED: &str = "loss, less that of all convolutions";
const CHANCE: &str = "recall of convolutions";
const RESTORED: &str = "recall of a convolution and attention";
const MERGED: &str = "largest distance of the loss at temperature 1 from the divergence with a merged tail";

static ABOUT: About = About {
    system: 29,
    name: "lfm2",
    data: &[memwall_tasks::data::TINY_SHAKESPEARE],
    checks: &[
        Check { what: PIECES, kind: Kind::Value, unit: "absolute", bar: Bar::at_most(1e-6) },
        Check { what: KEPT, kind: Kind::Ratio, unit: "bytes", bar: Bar::exactly(0.375) },
        Check { what: PREFILL, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(1.2) },
        Check { what: NEAR, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(1.0) },
        Check { what: FAR, kind: Kind::Ratio, unit: "tokens/s", bar: Bar::at_least(1.6) },
        Check { what: MIXER, kind: Kind::Ratio, unit: "1/s", bar: Bar::at_least(3.0) },
        Check { what: LOSS, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(0.02) },
        Check { what: NEEDED, kind: Kind::Difference, unit: "nats/character", bar: Bar::at_most(-0.02) },
        Check { what: CHANCE, kind: Kind::Value, unit: "accuracy", bar: Bar::at_most(0.1) },
        Check { what: RESTORED, kind: Kind::Value, unit: "accuracy", bar: Bar::at_least(0.95) },
        Check { what: MERGED, kind: Kind::Value, unit: "nats", bar: Bar::at_most(1e-6) },
    ],
    falsifier: Falsifier { what: "convolutions in every layer", against: LOSS },
    source: concat!(
        include_str!("lfm2.rs"),
        include_str!("lfm2/distillation.rs"),
        include_str!("lfm2/exactness.rs"),
        include_str!("lfm2/learning.rs"),
        include_str!("lfm2/speed.rs"),
    ),
};

/// The claim of LFM2.
pub struct Lfm2;

impl Claim for Lfm2 {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let depths = run.pick(&[24, 64, 96][..], &[512, 4096, 16384][..], &[512, 4096, 32768][..]);
        let (mut speeds, mut mixers): (Vec<Speeds>, [Vec<f64>; 2]) = (Vec::new(), Default::default());
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("prefill and decode", i as u64, seeds.len() as u64)?;
            speeds.push(speed::speeds(run, depths, seed)?);
            for (all, one) in mixers.iter_mut().zip(speed::mixers(run, run.pick(64, 4096, 4096), seed)?) {
                all.push(one);
            }
        }
        let (mut pieces, mut merged) = (Vec::new(), Vec::new());
        for &seed in seeds {
            pieces.push(exactness::pieces(run, seed)?);
            merged.push(distillation::distance(run, seed));
        }
        let kept = exactness::kept()?;
        let each = |x: usize| vec![x as f64; seeds.len()];
        let learning = Learning::new(run)?;
        let (text, recall) = (learning.text(run)?, learning.recall(run)?);
        let scores = |arm| text.scores(arm).unwrap_or(&[]);
        let of = |figure: &dyn Fn(&Speeds) -> f64| speeds.iter().map(figure).collect::<Vec<f64>>();
        let last = depths.len() - 1;
        let decode = |at: usize| Measured::pairs(&of(&|s| s.decode[0][at]), &of(&|s| s.decode[1][at]));
        Ok(Outcome::new()
            .check(PIECES, Measured::values(&pieces))
            .check(KEPT, Measured::pairs(&each(kept[0]), &each(kept[1])))
            .check(PREFILL, Measured::pairs(&of(&|s| s.prefill[0]), &of(&|s| s.prefill[1])))
            .check(NEAR, decode(0))
            .check(FAR, decode(last))
            .check(MIXER, Measured::pairs(&mixers[0], &mixers[1]))
            .check(LOSS, Measured::arms(&text, ATTENTION, HYBRID))
            .check(NEEDED, Measured::arms(&text, CONVOLUTIONS, HYBRID))
            .check(CHANCE, Measured::values(recall.scores(CONVOLUTIONS).unwrap_or(&[])))
            .check(RESTORED, Measured::values(recall.scores(HYBRID).unwrap_or(&[])))
            .check(MERGED, Measured::values(&merged))
            .falsifier(Measured::pairs(scores(ATTENTION), scores(CONVOLUTIONS)))
            .curve(decode_curve(depths, &speeds))
            .sweep(text)
            .sweep(recall))
    }
}

fn decode_curve(depths: &[usize], speeds: &[Speeds]) -> Curve {
    let line = |(i, name): (usize, &str)| {
        let at =
            |(d, &n): (usize, &usize)| Point { x: n as f64, per_seed: speeds.iter().map(|s| s.decode[i][d]).collect() };
        Line { name: name.to_owned(), points: depths.iter().enumerate().map(at).collect() }
    };
    Curve {
        what: "decoding".to_owned(),
        x_label: "tokens before".to_owned(),
        y_label: "tokens/s".to_owned(),
        log_x: true,
        log_y: false,
        lines: ["all attention", "hybrid"].into_iter().enumerate().map(line).collect(),
    }
}
