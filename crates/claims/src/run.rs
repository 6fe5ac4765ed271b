//! What an experiment is given: scale, seeds, data, budget, threads; a way to say where it stands and to be stopped.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use memwall_store::Budget;
use memwall_tasks::data::{DataDir, DataSet};

use crate::{Error, claim::About, report::Scale};

/// The smallest number of seeds that gives a verdict.
pub const MIN_SEEDS: usize = 3;

/// What the user asked for; [`Settings::default`] is desk scale with seeds 1, 2, 3.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The scale.
    pub scale: Scale,
    /// The seeds: at least 3 different ones, at smoke scale at least 1.
    pub seeds: Vec<u64>,
    /// The folder of the data sets, if any: [`DataDir::find`].
    pub data: DataDir,
    /// What the experiment's models, states and arenas are taken from.
    pub budget: Budget,
    /// Threads, at least 1.
    pub threads: usize,
    /// Set to stop the run at its next step.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            scale: Scale::Desk,
            seeds: vec![1, 2, 3],
            data: DataDir::default(),
            budget: Budget::unlimited(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cancel: Arc::default(),
        }
    }
}

impl Settings {
    /// # Errors
    /// Too few seeds for the scale; a seed given twice.
    pub fn validate(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        if let Some(twice) = self.seeds.iter().find(|s| !seen.insert(**s)) {
            return Err(Error::SeedTwice(*twice));
        }
        let (scale, need) = match self.scale {
            Scale::Smoke => ("smoke", 1),
            Scale::Desk => ("desk", MIN_SEEDS),
            Scale::Full => ("full", MIN_SEEDS),
        };
        if seen.len() < need {
            return Err(Error::TooFewSeeds { scale, need, got: seen.len() });
        }
        Ok(())
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The claim's name.
    pub claim: &'a str,
    /// What is being done.
    pub what: &'a str,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub of: u64,
}

/// What a [`Claim`](crate::Claim) is run with.
pub struct Run<'a> {
    about: &'static About,
    settings: &'a Settings,
    progress: &'a dyn Fn(Progress<'_>),
}

impl<'a> Run<'a> {
    /// # Errors
    /// As [`Settings::validate`]; a data set of the claim that is not there.
    pub fn new(
        about: &'static About,
        settings: &'a Settings,
        progress: &'a dyn Fn(Progress<'_>),
    ) -> Result<Self, Error> {
        settings.validate()?;
        let run = Run { about, settings, progress };
        for set in about.data {
            run.data(set)?;
        }
        Ok(run)
    }

    /// The scale.
    pub fn scale(&self) -> Scale {
        self.settings.scale
    }

    /// One of three sizes, by the scale.
    pub fn pick<T>(&self, smoke: T, desk: T, full: T) -> T {
        match self.settings.scale {
            Scale::Smoke => smoke,
            Scale::Desk => desk,
            Scale::Full => full,
        }
    }

    /// The seeds, in the order in which every [`Measured`](crate::Measured) gives its figures.
    pub fn seeds(&self) -> &[u64] {
        &self.settings.seeds
    }

    /// What the experiment's models, states and arenas are taken from.
    pub fn budget(&self) -> &Budget {
        &self.settings.budget
    }

    /// Threads, at least 1.
    pub fn threads(&self) -> usize {
        self.settings.threads.max(1)
    }

    /// The files of a data set that the claim declares.
    ///
    /// # Errors
    /// No data folder, or files that are not in it; the claim does not declare the set.
    pub fn data(&self, set: &DataSet) -> Result<Vec<PathBuf>, Error> {
        if !self.about.data.contains(set) {
            return Err(Error::UndeclaredData { claim: self.about.name, set: set.name });
        }
        Ok(self.settings.data.need(set)?)
    }

    /// Says where the run stands: `done` of `of` steps of `what`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the user stopped the run; call it in every long loop.
    pub fn step(&self, what: &str, done: u64, of: u64) -> Result<(), Error> {
        (self.progress)(Progress { claim: self.about.name, what, done, of });
        if self.settings.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_seeds(scale: Scale, seeds: &[u64]) -> Result<(), Error> {
        Settings { scale, seeds: seeds.to_vec(), ..Settings::default() }.validate()
    }

    #[test]
    fn a_verdict_needs_three_different_seeds() {
        assert!(with_seeds(Scale::Desk, &[1, 2, 3]).is_ok());
        assert!(with_seeds(Scale::Smoke, &[7]).is_ok());
        assert!(matches!(with_seeds(Scale::Smoke, &[]), Err(Error::TooFewSeeds { need: 1, .. })));
        assert!(matches!(with_seeds(Scale::Full, &[1, 2]), Err(Error::TooFewSeeds { got: 2, .. })));
        assert!(matches!(with_seeds(Scale::Desk, &[1, 2, 2]), Err(Error::SeedTwice(2))));
    }
}
