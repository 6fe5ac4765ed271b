//! INT v.s. FP (arXiv 2510.25602): which of integers and floats of the same bits loses less in blocks is told by the
//! block's crest factor.
//!
//! 1. Theory: the formulas give the published table and crossings.
//! 2. Blocks: real encoders on Gaussian blocks, by crest factor. A symmetric code of b bits has 2^(b-1) - 1 positive steps,
//!    not the 2^(b-1) of the published formula; with them the formats of four bits cross at 1.73, below
//!    nearly all blocks.
//! 3. Outliers: one scale a tensor favours floats, one in 32 values integers of 8 bits.
//! 4. Rotation: a random Hadamard rotation of 32 values makes values Gaussian, and NVINT4 pass NVFP4.
//! 5. Clipping: the one more negative level of two's complement biases what is rounded in bf16.
//! 6. Real tensors: the matrices of two models and what they read.
//!
//! Falsifier, against the lead of MXINT8: the same 8 bits with one scale for a tensor with outliers.
//!
//! Not measured: training with all six operands of a linear layer in these formats.

mod blocks;
mod clipping;
mod exactness;
mod outliers;
mod rotation;
mod stored;
mod tensors;
mod theory;

use std::fs;

use memwall_infer::Model;
use memwall_tasks::data::{AIDREAMS_260K, TINY_SHAKESPEARE, TINY_STORIES_SAMPLE};

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, evidence::Curve, largest::largest,
};
use blocks::Blocks;
use outliers::Outliers;
use rotation::{Rotated, invariance};
use tensors::{EIGHT, FOUR, NV_FOUR, Sample, Tensors};

const TABLE: &str = "largest distance of the formulas from the published table";
const CROSSINGS: &str = "largest distance of the crest factors at which formulas cross";
const BLOCKS: &str = "largest distance of encoded Gaussian blocks from the formulas";
const LEAD_8: &str = "least lead of MXINT8 over MXFP8 on Gaussian blocks and blocks with outliers";
const LEAD_4: &str = "largest lead of MXINT4 over MXFP4 on Gaussian blocks of crest factors above 1.9";
const OUTLIERS: &str = "largest distance from the published table of outliers";
const TAILS: &str = "largest distance from its rows of tails";
const ROTATED: &str = "largest distance from the published table of rotations";
const BEFORE: &str = "largest lead of NVINT4 over NVFP4 on values with tails";
const AFTER: &str = "least lead of NVINT4 over NVFP4 on rotated values";
const FLOATS: &str = "what the rotation adds to NVFP4 on values with tails, the most";
const NO_FLIP: &str = "lead of MXINT4 over MXFP4 on rotated Laplace values";
const INVARIANCE: &str = "largest difference of products of rotated operands";
const TWICE: &str = "largest change of integers that are stored a second time";
const ODD: &str = "largest difference between integers of -x and the negative of those of x";
const REFUSED: &str = "inputs that must be refused and are not";
const LOWEST: &str = "largest distance of the shares at -128 from the published ones";
const BIAS: &str = "mean error in blocks of 8 without symmetric clipping";
const SYMMETRIC: &str = "largest mean error with symmetric clipping";
const REAL_8: &str = "real tensors on which MXINT8 leads MXFP8";
const REAL_4: &str = "real tensors on which MXFP4 leads MXINT4";
const REAL_NV: &str = "rotated real tensors on which NVINT4 leads NVFP4";

const fn value(what: &'static str, unit: &'static str, bar: Bar) -> Check {
    Check { what, kind: Kind::Value, unit, bar }
}

static ABOUT: About = About {
    system: 31,
    name: "int-versus-fp",
    data: &[TINY_SHAKESPEARE, TINY_STORIES_SAMPLE, AIDREAMS_260K],
    checks: &[
        value(TABLE, "dB", Bar::at_most(0.01)),
        value(CROSSINGS, "crest factor", Bar::at_most(0.005)),
        value(BLOCKS, "dB", Bar::at_most(0.5)),
        value(LEAD_8, "dB", Bar::more_than(0.0)),
        value(LEAD_4, "dB", Bar::at_most(0.0)),
        value(OUTLIERS, "dB", Bar::at_most(0.5)),
        value(TAILS, "dB", Bar::at_most(1.5)),
        value(ROTATED, "dB", Bar::at_most(0.5)),
        value(BEFORE, "dB", Bar::less_than(0.0)),
        value(AFTER, "dB", Bar::more_than(0.0)),
        value(FLOATS, "dB", Bar::less_than(0.0)),
        value(NO_FLIP, "dB", Bar::less_than(0.0)),
        value(INVARIANCE, "relative", Bar::at_most(1e-5)),
        value(TWICE, "absolute", Bar::exactly(0.0)),
        value(ODD, "absolute", Bar::exactly(0.0)),
        value(REFUSED, "inputs", Bar::exactly(0.0)),
        value(LOWEST, "relative", Bar::at_most(0.25)),
        value(BIAS, "steps", Bar::at_most(-5e-3)),
        value(SYMMETRIC, "steps", Bar::at_most(6e-4)),
        value(REAL_8, "share", Bar::at_least(0.9)),
        value(REAL_4, "share", Bar::at_least(0.5)),
        value(REAL_NV, "share", Bar::at_least(0.5)),
    ],
    falsifier: Falsifier {
        what: "INT8 and E4M3 with one scale for a tensor with outliers ten times as large",
        against: LEAD_8,
    },
    source: concat!(
        include_str!("int_vs_fp.rs"),
        include_str!("int_vs_fp/theory.rs"),
        include_str!("int_vs_fp/stored.rs"),
        include_str!("int_vs_fp/blocks.rs"),
        include_str!("int_vs_fp/outliers.rs"),
        include_str!("int_vs_fp/rotation.rs"),
        include_str!("int_vs_fp/clipping.rs"),
        include_str!("int_vs_fp/exactness.rs"),
        include_str!("int_vs_fp/tensors.rs"),
    ),
};

/// The claim of INT v.s. FP.
pub struct IntVersusFp;

impl Claim for IntVersusFp {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let mut outcome = Outcome::new();
        let mut seen = Seen::default();
        let seeds = run.seeds();
        let models = Models::open(run)?;
        for (i, &seed) in seeds.iter().enumerate() {
            let step = |what: &str| run.step(what, i as u64, seeds.len() as u64);
            step("Gaussian blocks")?;
            let blocks = Blocks::draw(seed, run.pick(4_000, 100_000, 1_000_000))?;
            step("outliers")?;
            let outliers = Outliers::draw(seed, run.pick(1 << 15, 1 << 20, 1 << 23))?;
            step("rotations")?;
            let rotated = Rotated::draw(seed, run.pick(256, 8192, 65536))?;
            step("clipping")?;
            let clipped = clipping::clipped(seed, run.pick(1 << 15, 1 << 21, 1 << 24));
            step("real tensors")?;
            let tensors = models.tensors(run, seed, &mut seen.notes)?;
            let lead_8 = blocks.leads(0, 1).into_iter().fold(outliers.least_lead_in_blocks(), f64::min);
            let lead_4 = blocks.leads(4, 5)[1..].iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let symmetric = largest(clipped.iter().map(|c| c.symmetric.abs()));
            for (what, figure) in [
                (TABLE, largest(theory::table_distances())),
                (CROSSINGS, largest(theory::crossing_distances())),
                (BLOCKS, largest(blocks.distances())),
                (LEAD_8, lead_8),
                (LEAD_4, lead_4),
                (OUTLIERS, largest(outliers.distances(false))),
                (TAILS, largest(outliers.distances(true))),
                (ROTATED, largest(rotated.distances())),
                (BEFORE, rotated.most_before()),
                (AFTER, rotated.least_after()),
                (FLOATS, rotated.most_gain_of_floats()),
                (NO_FLIP, rotated.mx_after()),
                (INVARIANCE, invariance(seed)?),
                (TWICE, exactness::stored_twice(seed)?),
                (ODD, exactness::of_negatives(seed)?),
                (REFUSED, exactness::not_refused()?),
                (LOWEST, largest(clipping::share_distances(&clipped))),
                (BIAS, clipped[0].full),
                (SYMMETRIC, symmetric),
                (REAL_8, tensors.share_of_integers(EIGHT, false)),
                (REAL_4, 1.0 - tensors.share_of_integers(FOUR, false)),
                (REAL_NV, tensors.share_of_integers(NV_FOUR, true)),
            ] {
                outcome.value(what, figure);
            }
            seen.falsifier.push(outliers.lead_by_tensor());
            seen.notes.push(format!("seed {seed}: {}", clipping::note(&clipped)));
            seen.blocks.push(blocks);
            seen.outliers.push(outliers);
        }
        let curves: [Curve; 2] = [blocks::curve(&seen.blocks), outliers::curve(&seen.outliers)];
        let outcome = outcome.falsifier(Measured::values(&seen.falsifier));
        let outcome = curves.into_iter().fold(outcome, Outcome::curve);
        Ok(seen.notes.into_iter().fold(outcome, Outcome::note))
    }
}

/// What the seeds gave so far.
#[derive(Default)]
struct Seen {
    falsifier: Vec<f64>,
    blocks: Vec<Blocks>,
    outliers: Vec<Outliers>,
    notes: Vec<String>,
}

/// The models whose tensors are stored, and a text for each.
struct Models {
    books: (Model, String),
    stories: (Model, String),
}

impl Models {
    fn open(run: &Run) -> Result<Models, Error> {
        let read = |set| -> Result<String, Error> {
            let path = run.data(set)?.swap_remove(0);
            fs::read_to_string(&path).map_err(|source| Error::Io { path, source })
        };
        let stories = run.data(&AIDREAMS_260K)?.swap_remove(0);
        Ok(Models {
            books: (Model::shipped().map_err(Error::experiment)?, read(&TINY_SHAKESPEARE)?),
            stories: (Model::open(stories).map_err(Error::experiment)?, read(&TINY_STORIES_SAMPLE)?),
        })
    }

    /// The tensors of both; the seed chooses passage and rotation.
    fn tensors(&self, run: &Run, seed: u64, notes: &mut Vec<String>) -> Result<Tensors, Error> {
        let mut all = Tensors::new();
        for (name, (model, text), context) in
            [("the model that ships, stored as Q8_0", &self.books, 256), ("aidreams260K", &self.stories, 128)]
        {
            // Smoke is about the wiring: the first letters do.
            let text: String = text.chars().take(run.pick(4_000, 100_000, 1_000_000)).collect();
            let sample = Sample {
                model,
                text: &text,
                windows: run.pick(1, 4, 16),
                context: run.pick(16, context, context),
                from: seed as usize * 997,
            };
            let mut tensors = Tensors::new();
            tensors.add(run, &sample, seed)?;
            notes.push(format!("seed {seed}: {}", tensors.note(name)));
            all = all.joined(tensors);
        }
        Ok(all)
    }
}
