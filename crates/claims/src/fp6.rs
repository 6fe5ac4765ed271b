//! ZeroQuant(4+2) (arXiv 2312.08583): weights in floats of six bits, E3M2, whose one scale a row is enough, in planes of two and four bits.
//!
//! 1. Weights: signal to noise beside the published table; E3M2 loses the same on normal weights and on weights with tails.
//! 2. Exactness: codes through shifts and halves, FP6-LLM's planes by hash and back, memwall's planes against them, products by
//!    rows, refusals.
//! 3. A model of characters, its matrices stored after training: loss beside integers of four bits, with one scale a row and with one for
//!    128 weights; what it writes; the model run from the planes.
//! 4. GPTQ with integers of four bits gains more on a text like that of its calibration than on another; FP6 has no such gap.
//! 5. Time of a product of one row with a matrix that is read from memory.
//!
//! Falsifier, against the loss beside integers with one scale for 128: the mantissa off, E3M0 with one scale a row.
//!
//! Not measured: models of code and summaries, W6A8, GPUs.

mod exactness;
mod model;
mod speed;
mod weights;

use std::sync::Arc;

use memwall_kernels::Pool;
use memwall_tasks::data::{TINY_SHAKESPEARE, TINY_STORIES_SAMPLE};
use memwall_tasks::{Corpus, Documents, Fractions, Split, TextTask};

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run, characters::Characters, largest::largest,
};
use model::{Store, Trained, same, windows};
use weights::{FP6, INT4, INT4_128, Losses, NO_MANTISSA};

const TABLE: &str = "largest distance from the published table, normal weights";
const TAILS: &str = "largest distance from the published table, weights with tails";
const FLAT: &str = "what tails change for FP6 with one scale a row";
const CODES: &str = "codes that shifts and a product with 2^12 do not give";
const HASHES: &str = "published hashes of packed codes that are missed";
const PACKED: &str = "codes and weights changed by packing and unpacking";
const ROWS: &str = "outputs that change with the rows beside them";
const ANSWERED: &str = "inputs that are not answered as they must be";
const COARSE: &str = "loss that FP6 costs over that of INT4, one scale a row";
const FINE: &str = "loss that FP6 costs over that of INT4 with one scale for 128";
const PLANES: &str = "loss of the model run from its planes and of their values";
const SAME: &str = "texts written as by the original, FP6 over INT4 with one scale for 128";
const SAME_COARSE: &str = "texts written as by the original, INT4 with one scale for 128 over one a row";
const OVERFIT: &str = "what GPTQ gains, on the text of its calibration over another";
const NO_GAP: &str = "loss that FP6 costs on the one text apart from that on the other";
const TIME: &str = "time of a product with one row, FP6 over INT4";
const FASTER: &str = "time of a product with one row, f32 over FP6";

const fn value(what: &'static str, unit: &'static str, bar: Bar) -> Check {
    Check { what, kind: Kind::Value, unit, bar }
}

static ABOUT: About = About {
    system: 24,
    name: "fp6",
    data: &[TINY_SHAKESPEARE, TINY_STORIES_SAMPLE],
    checks: &[
        value(TABLE, "dB", Bar::at_most(0.2)),
        value(TAILS, "dB", Bar::at_most(1.0)),
        value(FLAT, "dB", Bar::at_most(0.2)),
        value(CODES, "codes", Bar::exactly(0.0)),
        value(HASHES, "hashes", Bar::exactly(0.0)),
        value(PACKED, "values", Bar::exactly(0.0)),
        value(ROWS, "values", Bar::exactly(0.0)),
        value(ANSWERED, "inputs", Bar::exactly(0.0)),
        Check { what: COARSE, kind: Kind::Ratio, unit: "nats/character", bar: Bar::at_most(0.1) },
        Check { what: FINE, kind: Kind::Ratio, unit: "nats/character", bar: Bar::at_most(0.5) },
        value(PLANES, "nats/character", Bar::at_most(1e-3)),
        Check { what: SAME, kind: Kind::Difference, unit: "share", bar: Bar::more_than(0.0) },
        Check { what: SAME_COARSE, kind: Kind::Difference, unit: "share", bar: Bar::more_than(0.0) },
        Check { what: OVERFIT, kind: Kind::Difference, unit: "nats/character", bar: Bar::more_than(0.0) },
        value(NO_GAP, "nats/character", Bar::at_most(5e-3)),
        Check { what: TIME, kind: Kind::Ratio, unit: "s", bar: Bar::at_most(1.6) },
        Check { what: FASTER, kind: Kind::Ratio, unit: "s", bar: Bar::at_least(2.0) },
    ],
    falsifier: Falsifier { what: "the mantissa off: E3M0 with one scale a row", against: FINE },
    source: concat!(
        include_str!("fp6.rs"),
        include_str!("fp6/weights.rs"),
        include_str!("fp6/exactness.rs"),
        include_str!("fp6/model.rs"),
        include_str!("fp6/speed.rs"),
    ),
};

/// Rate of the training, as the claim of gated attention found best for plain attention on the same text.
const RATE: f64 = 3e-3;
/// Characters that are written.
const WRITTEN: usize = 64;

/// The claim of ZeroQuant(4+2).
pub struct Fp6;

impl Claim for Fp6 {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let mut seen = Seen::default();
        let (plays, stories) = (Characters::read(run)?, stories(run)?);
        let pool = Pool::new(run.threads());
        for (i, &seed) in seeds.iter().enumerate() {
            run.step("weights", i as u64, seeds.len() as u64)?;
            let losses = Losses::draw(seed, run.pick(16, 256, 1024))?;
            for (what, figure) in [
                (TABLE, largest(losses.distances(false))),
                (TAILS, largest(losses.distances(true))),
                (FLAT, losses.flatness()),
                (CODES, exactness::codes_lost()),
                (HASHES, exactness::hashes_missed()?),
                (PACKED, exactness::packed_lost(seed)?),
                (ROWS, exactness::rows_changed(seed)?),
                (ANSWERED, exactness::not_answered()),
            ] {
                seen.outcome.value(what, figure);
            }
            seen.of_model(run, &plays, &stories, seed)?;
            let times = speed::seconds(run, &pool, run.pick(256, 4096, 4096), run.pick(1, 7, 15), seed)?;
            seen.outcome.pair(TIME, times[1][0], times[0][0]);
            seen.outcome.pair(FASTER, times[0][0], times[2][0]);
            let figure =
                |i: usize| format!("{} {:.3} ms, {:.1} GB/s", speed::FORMATS[i], 1e3 * times[i][0], times[i][1]);
            seen.notes.push(format!("seed {seed}: {}; {}; {}", figure(0), figure(1), figure(2)));
        }
        Ok(seen.outcome())
    }
}

/// Another text: windows as long as those of the plays.
fn stories(run: &Run) -> Result<Arc<Corpus>, Error> {
    let files = run.data(&TINY_STORIES_SAMPLE)?;
    Corpus::read_bytes(&files[..1], &Documents::Files, Fractions::default()).map(Arc::new).map_err(Error::experiment)
}

/// What the seeds gave so far.
#[derive(Default)]
struct Seen {
    outcome: Outcome,
    falsifier: (Vec<f64>, Vec<f64>),
    notes: Vec<String>,
}

impl Seen {
    fn of_model(&mut self, run: &Run, plays: &Characters, other: &Arc<Corpus>, seed: u64) -> Result<(), Error> {
        let mut model = Trained::train(run, plays, seed, RATE)?;
        let task = plays.task(seed)?;
        let others = TextTask::new(other.clone(), plays.training.time, 256, seed).map_err(Error::experiment)?;
        let count = run.pick(2, 128, 512);
        let (own, other) = (windows(&task, Split::Test, count)?, windows(&others, Split::Train, count)?);
        // Moments need as many characters as the widest matrix has inputs.
        model.calibrate(&windows(&task, Split::Validation, run.pick(32, 32, 32))?)?;
        let stores = [
            Store::AsTheyAre,
            Store::Decoded(FP6),
            Store::Decoded(INT4),
            Store::Decoded(INT4_128),
            Store::Decoded(NO_MANTISSA),
            Store::Planes,
            Store::DecodedPlanes,
            Store::Nearest4,
            Store::Gptq4,
        ];
        let mut losses = Vec::new();
        for (done, store) in stores.iter().enumerate() {
            run.step("losses of stored models", done as u64, stores.len() as u64)?;
            losses.push(model.losses(*store, [&own, &other])?);
        }
        let cost = |i: usize, text: usize| losses[i][text] - losses[0][text];
        self.outcome.pair(COARSE, cost(2, 0), cost(1, 0));
        self.outcome.pair(FINE, cost(3, 0), cost(1, 0));
        self.falsifier.0.push(cost(3, 0));
        self.falsifier.1.push(cost(4, 0));
        self.outcome.value(PLANES, (losses[5][0] - losses[6][0]).abs());
        let gain = |text: usize| losses[7][text] - losses[8][text];
        self.outcome.pair(OVERFIT, gain(1), gain(0));
        self.outcome.value(NO_GAP, (cost(1, 0) - cost(1, 1)).abs());

        let prompts = windows(&task, Split::Test, run.pick(2, 200, 400))?;
        let length = run.pick(4, WRITTEN, WRITTEN);
        let mut written = Vec::new();
        for (done, store) in stores[..4].iter().enumerate() {
            run.step("texts of stored models", done as u64, 4)?;
            written.push(model.continuations(*store, &prompts, length)?);
        }
        let share = |i: usize| same(&written[0], &written[i]);
        self.outcome.pair(SAME, share(3), share(1));
        self.outcome.pair(SAME_COARSE, share(2), share(3));
        self.notes.push(format!(
            "seed {seed}: loss {:.4}; FP6 costs {:.5}, INT4 {:.5} with one scale a row and {:.5} with one for 128, E3M0 {:.5}; INT4 in \
             blocks of 32 costs {:.5}, by GPTQ {:.5}, on the other text {:.5} and {:.5}, FP6 there {:.5}; {:.0} %, {:.0} % and {:.0} % of {} \
             texts are written as before",
            losses[0][0],
            cost(1, 0),
            cost(2, 0),
            cost(3, 0),
            cost(4, 0),
            cost(7, 0),
            cost(8, 0),
            cost(7, 1),
            cost(8, 1),
            cost(1, 1),
            100.0 * share(1),
            100.0 * share(2),
            100.0 * share(3),
            prompts.len()
        ));
        Ok(())
    }

    fn outcome(self) -> Outcome {
        let outcome = self.outcome.falsifier(Measured::pairs(&self.falsifier.0, &self.falsifier.1));
        self.notes.into_iter().fold(outcome, Outcome::note)
    }
}
