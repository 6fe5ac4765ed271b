//! What can go wrong with a reproduction, each with the name of the culprit and what would be right.

use std::path::PathBuf;

use memwall_formats::atomic_file::WriteError;
use memwall_tasks::data::DataError;

/// Why a claim could not be run, judged or written down.
///
/// A claim that does not hold is a verdict, not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No system has that name or number.
    #[error("no system is called {given:?}; nearest: {nearest}")]
    UnknownSystem {
        /// What was asked for.
        given: String,
        /// The name most like it, with its number.
        nearest: String,
    },
    /// The system is known, but nothing reproduces it yet.
    #[error("{number:02} {name}: no claim is written for it yet; written: {written}")]
    NotYet {
        /// The system's number.
        number: u8,
        /// The system's name.
        name: String,
        /// The systems that have a claim.
        written: String,
    },
    /// The scale is not one of three.
    #[error("scale {0:?} is not one of smoke, desk, full")]
    UnknownScale(String),
    /// A verdict needs spread.
    #[error("{scale} scale needs at least {need} different seeds, got {got}; give --seeds 1,2,3")]
    TooFewSeeds {
        /// The scale.
        scale: &'static str,
        /// The smallest number of seeds.
        need: usize,
        /// The number of different seeds given.
        got: usize,
    },
    /// The same seed twice is no spread.
    #[error("seed {0} is given twice")]
    SeedTwice(u64),
    /// A data set is not there.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A data set that the claim did not declare.
    #[error("{claim} asked for {set}, which its list of data sets lacks")]
    UndeclaredData {
        /// The claim.
        claim: &'static str,
        /// The data set.
        set: &'static str,
    },
    /// Tuning is part of the budget that both sides share.
    #[error("a sweep needs at least {need} different positive learning rates, got {got:?}")]
    TooFewRates {
        /// The smallest number of rates.
        need: usize,
        /// The rates given.
        got: Vec<f64>,
    },
    /// A sweep compares.
    #[error("sweep {what:?} needs at least two arms with different names, the baseline first")]
    TooFewArms {
        /// What was to be trained.
        what: String,
    },
    /// One side of a comparison got more than the other.
    #[error(
        "sweep {what:?}: {arm} got {got} {resource}, {baseline} {fair}: both must get the same \
         (parameters: at most 5 % above the baseline's)"
    )]
    UnequalBudget {
        /// What was trained.
        what: String,
        /// The arm that differs.
        arm: String,
        /// The baseline arm.
        baseline: String,
        /// Parameters, tokens or steps.
        resource: &'static str,
        /// What the arm got.
        got: u64,
        /// What the baseline got.
        fair: u64,
    },
    /// A check was measured that no bar was written for.
    #[error("{claim} measured {what:?}, which it did not declare before the run")]
    UndeclaredCheck {
        /// The claim.
        claim: &'static str,
        /// The check.
        what: String,
    },
    /// A declared check must be measured, once.
    #[error("{claim} must measure {what:?} exactly once")]
    NotMeasuredOnce {
        /// The claim.
        claim: &'static str,
        /// The check or falsifier.
        what: &'static str,
    },
    /// The falsifier refers to a check that is not declared.
    #[error("{claim}: its falsifier stands against {against:?}, which is not one of its checks")]
    FalsifierAgainstNothing {
        /// The claim.
        claim: &'static str,
        /// The missing check.
        against: &'static str,
    },
    /// Every seed is reported.
    #[error(
        "{claim}, {what:?}: {seeds} seeds need {seeds} figures and {baselines} baselines, got \
         {got_ours} and {got_baselines}"
    )]
    WrongNumberOfSeeds {
        /// The claim.
        claim: &'static str,
        /// The check or falsifier.
        what: String,
        /// The number of seeds.
        seeds: usize,
        /// The number of baselines that go with them.
        baselines: usize,
        /// Figures measured.
        got_ours: usize,
        /// Baselines measured.
        got_baselines: usize,
    },
    /// The user stopped the run.
    #[error("stopped")]
    Cancelled,
    /// The experiment itself failed.
    #[error("{0}")]
    Experiment(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A result could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file could not be read, or a folder made.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A result in `results/` does not read as one.
    #[error("{}: not a result: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A result could not be drawn.
    #[error("{}: cannot be drawn: {why}", path.display())]
    Plot {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// README.md lacks the markers between which the table stands.
    #[error("{}: the line {marker} is missing", path.display())]
    NoMarker {
        /// The file.
        path: PathBuf,
        /// The marker.
        marker: &'static str,
    },
}

impl Error {
    /// Wraps an error of the experiment.
    pub fn experiment(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Experiment(source.into())
    }
}
