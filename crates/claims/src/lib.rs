//! One file a system: its claim as an experiment.
//!
//! The story of a claim, in the order of this crate's files:
//! 1. [`claim`]: before anything runs, a [`Claim`] declares its checks, the [`Bar`] of each, and its
//!    [`Falsifier`] ([`About`]).
//! 2. [`run`]: it is given a [`Run`]: scale, at least three seeds, data, budget, threads.
//! 3. [`sweep`](mod@sweep): baseline and mechanism train with the same learning rates, tokens and steps.
//! 4. `verdict`: the median must meet the bar, every seed must have the right sign, and the
//!    falsifier must fail; else the claim does not hold, and the report says by how much.
//! 5. [`mod@reproduce`]: the [`Report`] is what `memwall reproduce` prints; at desk and full scale the
//!    [`Record`] (with everything that was tried) and its plot go to `results/`.
//! 6. [`readme`]: the table of all systems is generated from [`systems`] and `results/`.
//!
//! [`registry`] lists the claims; [`laws`] are the laws that every one keeps.

mod block;
mod block_quantization;
mod bmojo;
mod characters;
pub mod claim;
pub mod compare;
mod decoder;
mod error;
pub mod evidence;
mod fireq;
mod flashattention;
mod fp6;
mod fp8_vs_int8;
mod gated_associative;
mod gated_attention;
mod gated_kalmanet;
mod gated_linear_attention;
mod hybrid_gated_flow;
mod int_vs_fp;
mod largest;
pub mod laws;
mod lfm2;
mod machine;
mod planted;
pub mod plot;
mod random;
pub mod readme;
mod recall;
pub mod registry;
mod repeats;
pub mod report;
pub mod reproduce;
pub mod results;
pub mod run;
mod sambay;
mod selectivity;
pub mod sweep;
pub mod systems;
mod trial;
mod verdict;
mod zoology;

pub use claim::{About, Check, Claim, Falsifier, Measured, Outcome};
pub use error::Error;
pub use report::{Bar, Kind, Record, Report, Scale, Verdict};
pub use reproduce::{reproduce, source_hash};
pub use run::{Progress, Run, Settings};
pub use sweep::{Better, SweepPlan, Trial, TuneOn, sweep};
