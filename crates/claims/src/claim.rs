//! What a claim is: a plan written before the run, and an experiment that fills it in.

use memwall_tasks::data::DataSet;

use crate::{
    Error, Run,
    evidence::{Curve, Sweep},
    report::{Bar, Kind},
};

/// One check, declared before anything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What is measured, in a few words; unique within the claim.
    pub what: &'static str,
    /// How the figure is made of baseline and ours.
    pub kind: Kind,
    /// The unit of what is measured (`"nats/token"`, `"s"`, `"accuracy"`).
    pub unit: &'static str,
    /// What the median over the seeds must meet.
    pub bar: Bar,
}

/// The control that must fail, declared before anything is measured.
///
/// For a claim of superiority: the mechanism switched off. For a claim of no harm: a model
/// deliberately damaged. It is held against the bar of one of the claim's own checks.
#[derive(Clone, Copy, Debug)]
pub struct Falsifier {
    /// What is switched off or damaged.
    pub what: &'static str,
    /// The `what` of the check whose bar it must miss.
    pub against: &'static str,
}

/// Everything that a claim says about itself before it runs.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The system's number, as in `systems.toml`.
    pub system: u8,
    /// The system's name, as in `systems.toml`.
    pub name: &'static str,
    /// The data sets it reads.
    pub data: &'static [DataSet],
    /// Its checks, at least one.
    pub checks: &'static [Check],
    /// Its falsifier.
    pub falsifier: Falsifier,
    /// The text of its own source file: `include_str!("gated_attention.rs")`.
    pub source: &'static str,
}

/// A system's claim as an experiment.
pub trait Claim: Sync {
    /// The plan: checks, bars and falsifier, fixed before the run.
    fn about(&self) -> &'static About;

    /// Runs baseline, mechanism and falsifier for every seed of `run`.
    ///
    /// # Errors
    /// Whatever stops the experiment; a claim that does not hold is no error.
    fn run(&self, run: &Run) -> Result<Outcome, Error>;
}

/// What a check or a falsifier measured, one entry a seed, in the order of [`Run::seeds`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The baseline's; empty for a check of [`Kind::Value`].
    pub baseline: Vec<f64>,
    /// Ours.
    pub ours: Vec<f64>,
}

impl Measured {
    /// Of a check that compares: ratio or difference.
    pub fn pairs(baseline: &[f64], ours: &[f64]) -> Self {
        Measured { baseline: baseline.to_vec(), ours: ours.to_vec() }
    }

    /// Of a check that compares two arms of a sweep; an arm that it lacks has no figures, which the harness refuses.
    pub fn arms(swept: &Sweep, baseline: &str, ours: &str) -> Self {
        let scores = |arm| swept.scores(arm).unwrap_or(&[]);
        Measured::pairs(scores(baseline), scores(ours))
    }

    /// Of a check of a value.
    pub fn values(ours: &[f64]) -> Self {
        Measured { baseline: Vec::new(), ours: ours.to_vec() }
    }
}

/// What an experiment measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub(crate) checks: Vec<(String, Measured)>,
    pub(crate) falsifier: Option<Measured>,
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) curves: Vec<Curve>,
    pub(crate) notes: Vec<String>,
}

impl Outcome {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the check named `what` measured.
    pub fn check(mut self, what: &str, measured: Measured) -> Self {
        self.checks.push((what.to_owned(), measured));
        self
    }

    /// One more seed's figure of a check of [`Kind::Value`](crate::Kind).
    pub fn value(&mut self, what: &str, ours: f64) {
        self.of(what).ours.push(ours);
    }

    /// One more seed's figures of a check that compares.
    pub fn pair(&mut self, what: &str, baseline: f64, ours: f64) {
        let measured = self.of(what);
        measured.baseline.push(baseline);
        measured.ours.push(ours);
    }

    /// What a check has measured so far.
    fn of(&mut self, what: &str) -> &mut Measured {
        let at = self.checks.iter().position(|(known, _)| known == what).unwrap_or_else(|| {
            self.checks.push((what.to_owned(), Measured::default()));
            self.checks.len() - 1
        });
        &mut self.checks[at].1
    }

    /// What the falsifier measured, in the terms of the check it stands against.
    pub fn falsifier(mut self, measured: Measured) -> Self {
        self.falsifier = Some(measured);
        self
    }

    /// A sweep of learning rates, kept with the results whole: the best and the others.
    pub fn sweep(mut self, sweep: Sweep) -> Self {
        self.sweeps.push(sweep);
        self
    }

    /// A curve over scale, length or time, kept with the results and drawn.
    pub fn curve(mut self, curve: Curve) -> Self {
        self.curves.push(curve);
        self
    }

    /// A sentence that a reader of the result needs.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}
