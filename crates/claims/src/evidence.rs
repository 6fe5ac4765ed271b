//! What stands behind a verdict: every seed of both sides, every learning rate tried, every curve.

use serde::{Deserialize, Serialize};

use crate::report::null_is_nan;

/// What was measured and tried, kept beside the report in `results/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Both sides of every check, in the order of the report's checks.
    pub checks: Vec<Sides>,
    /// Both sides of the falsifier.
    pub falsifier: Sides,
    /// The `what` of the check that the falsifier stands against.
    pub falsifier_against: String,
    /// Every sweep of learning rates.
    pub sweeps: Vec<Sweep>,
    /// Every curve.
    pub curves: Vec<Curve>,
    /// What a reader of the result needs to know.
    pub notes: Vec<String>,
}

/// Both sides of a check, one entry a seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sides {
    /// The baseline's; empty for a value.
    #[serde(with = "null_is_nan::list")]
    pub baseline: Vec<f64>,
    /// Ours.
    #[serde(with = "null_is_nan::list")]
    pub ours: Vec<f64>,
}

/// What one sweep of learning rates tried, arm by arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What was trained.
    pub what: String,
    /// The learning rates, the same for every arm.
    pub rates: Vec<f64>,
    /// The baseline first.
    pub arms: Vec<Arm>,
}

impl Sweep {
    /// The score of each seed of the arm `name` at its chosen rate, or `None` if there is none.
    pub fn scores(&self, name: &str) -> Option<&[f64]> {
        self.arms.iter().find(|arm| arm.name == name).map(|arm| arm.scores.as_slice())
    }
}

/// One arm of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Baseline, mechanism, falsifier or another contestant.
    pub name: String,
    /// The rate with the best median of the validation figure.
    pub chosen_rate: f64,
    /// Whether that rate is the smallest or largest of the grid, so that a better one may lie beyond.
    pub at_the_edge: bool,
    /// The score of each seed at the chosen rate.
    #[serde(with = "null_is_nan::list")]
    pub scores: Vec<f64>,
    /// Every training run.
    pub trials: Vec<TrialRecord>,
    /// Trained parameters.
    pub parameters: u64,
    /// Tokens (or samples) seen by one run.
    pub tokens: u64,
    /// Optimizer steps of one run.
    pub steps: u64,
}

/// One training run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The learning rate.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
    /// The figure that chose the rate.
    #[serde(with = "null_is_nan")]
    pub validation: f64,
    /// The figure that is reported.
    #[serde(with = "null_is_nan")]
    pub score: f64,
}

/// A family of lines over scale, length or time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What it shows.
    pub what: String,
    /// The horizontal axis, with its unit.
    pub x_label: String,
    /// The vertical axis, with its unit.
    pub y_label: String,
    /// Whether the horizontal axis is logarithmic.
    pub log_x: bool,
    /// Whether the vertical axis is logarithmic.
    pub log_y: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One line of a curve, with its spread over the seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, by rising x.
    pub points: Vec<Point>,
}

/// One point of a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// The value of each seed.
    #[serde(with = "null_is_nan::list")]
    pub per_seed: Vec<f64>,
}
