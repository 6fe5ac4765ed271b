//! A sweep of learning rates in which baseline and mechanism get the same.
//!
//! Every arm trains with the same grid of at least three rates, on the same tokens and steps; an
//! arm may have at most 5 % more parameters than the baseline. The rate of an arm is the one with
//! the best median *validation* figure; what is reported is the *score* at that rate, so the choice
//! never sees what is reported. Everything tried is kept.

use std::collections::HashSet;

use crate::{
    Error, Run,
    evidence::{Arm, Sweep, TrialRecord},
    report::Scale,
};

/// The smallest number of learning rates that a comparison may be tuned with.
pub const MIN_RATES: usize = 3;

/// How far an arm's parameters may exceed the baseline's: one part in this many.
const PARAMETER_TOLERANCE: u64 = 20;

/// Which validation figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A loss.
    Lower,
    /// An accuracy.
    Higher,
}

/// Which seeds try every rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuneOn {
    /// The first seed tries every rate, the others train at the chosen one.
    FirstSeed,
    /// Every seed tries every rate; the rate with the best median is chosen for all.
    EverySeed,
}

/// What one training run gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The figure that chooses the rate, on data that the score does not see.
    pub validation: f64,
    /// The figure that is reported.
    pub score: f64,
    /// Trained parameters.
    pub parameters: u64,
    /// Tokens (or samples) seen.
    pub tokens: u64,
    /// Optimizer steps.
    pub steps: u64,
}

/// What is swept.
#[derive(Clone, Copy, Debug)]
pub struct SweepPlan<'a> {
    /// What is trained, in a few words.
    pub what: &'a str,
    /// The arms, the baseline first.
    pub arms: &'a [&'a str],
    /// At least three different learning rates; at smoke scale the middle one alone is tried.
    pub rates: &'a [f64],
    /// Which validation figure is better.
    pub better: Better,
    /// Which seeds try every rate.
    pub tune_on: TuneOn,
}

/// Trains every arm with every rate and seed of the plan: `train(arm, rate, seed)`.
///
/// # Errors
/// Fewer than three rates or two arms; arms that got unequal budgets; what `train` returns;
/// [`Error::Cancelled`].
pub fn sweep(
    run: &Run,
    plan: SweepPlan,
    mut train: impl FnMut(&str, f64, u64) -> Result<Trial, Error>,
) -> Result<Sweep, Error> {
    let rates = grid(run.scale(), plan.rates)?;
    let different: HashSet<&str> = plan.arms.iter().copied().collect();
    if different.len() < 2 || different.len() != plan.arms.len() {
        return Err(Error::TooFewArms { what: plan.what.to_owned() });
    }
    let seeds = run.seeds();
    let tuned = match plan.tune_on {
        TuneOn::FirstSeed => 1,
        TuneOn::EverySeed => seeds.len(),
    };
    let runs_per_arm = rates.len() * tuned + seeds.len() - tuned;
    let of = (plan.arms.len() * runs_per_arm) as u64;
    let mut done = 0;
    let mut arms: Vec<Arm> = Vec::new();
    for &name in plan.arms {
        let mut first: Option<Trial> = None;
        let mut trials = Vec::with_capacity(runs_per_arm);
        let mut attempt = |rate: f64, seed: u64, trials: &mut Vec<TrialRecord>| {
            run.step(&format!("{}: {name}, rate {rate}, seed {seed}", plan.what), done, of)?;
            let trial = train(name, rate, seed)?;
            done += 1;
            let fair = match arms.first() {
                Some(baseline) => (baseline.name.as_str(), Budget::of_arm(baseline)),
                None => (name, Budget::of_trial(first.get_or_insert(trial))),
            };
            check_budget(plan.what, (name, Budget::of_trial(&trial)), fair)?;
            first.get_or_insert(trial);
            trials.push(TrialRecord { rate, seed, validation: trial.validation, score: trial.score });
            Ok::<_, Error>(())
        };
        for &seed in &seeds[..tuned] {
            for &rate in &rates {
                attempt(rate, seed, &mut trials)?;
            }
        }
        let chosen_rate = best_rate(&rates, &trials, plan.better);
        for &seed in &seeds[tuned..] {
            attempt(chosen_rate, seed, &mut trials)?;
        }
        let first = first.expect("every arm trains at least once");
        arms.push(Arm {
            name: name.to_owned(),
            chosen_rate,
            at_the_edge: chosen_rate == rates[0] || chosen_rate == rates[rates.len() - 1],
            scores: seeds.iter().map(|&seed| score_of(&trials, chosen_rate, seed)).collect(),
            trials,
            parameters: first.parameters,
            tokens: first.tokens,
            steps: first.steps,
        });
    }
    Ok(Sweep { what: plan.what.to_owned(), rates, arms })
}

/// The grid in rising order, cut down to its middle rate at smoke scale.
fn grid(scale: Scale, rates: &[f64]) -> Result<Vec<f64>, Error> {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    if sorted.len() < MIN_RATES || sorted.iter().any(|r| !r.is_finite() || *r <= 0.0) {
        return Err(Error::TooFewRates { need: MIN_RATES, got: rates.to_vec() });
    }
    if scale == Scale::Smoke {
        sorted = vec![sorted[sorted.len() / 2]];
    }
    Ok(sorted)
}

#[derive(Clone, Copy)]
struct Budget {
    parameters: u64,
    tokens: u64,
    steps: u64,
}

impl Budget {
    fn of_trial(trial: &Trial) -> Self {
        Budget { parameters: trial.parameters, tokens: trial.tokens, steps: trial.steps }
    }

    fn of_arm(arm: &Arm) -> Self {
        Budget { parameters: arm.parameters, tokens: arm.tokens, steps: arm.steps }
    }
}

fn check_budget(what: &str, arm: (&str, Budget), fair: (&str, Budget)) -> Result<(), Error> {
    let unequal = |resource, got, fair_amount| {
        Err(Error::UnequalBudget {
            what: what.to_owned(),
            arm: arm.0.to_owned(),
            baseline: fair.0.to_owned(),
            resource,
            got,
            fair: fair_amount,
        })
    };
    if arm.1.tokens != fair.1.tokens {
        return unequal("tokens", arm.1.tokens, fair.1.tokens);
    }
    if arm.1.steps != fair.1.steps {
        return unequal("steps", arm.1.steps, fair.1.steps);
    }
    if arm.1.parameters > fair.1.parameters + fair.1.parameters / PARAMETER_TOLERANCE {
        return unequal("parameters", arm.1.parameters, fair.1.parameters);
    }
    Ok(())
}

/// The rate with the best median of the validation figure; one that diverged on any seed is worst.
fn best_rate(rates: &[f64], trials: &[TrialRecord], better: Better) -> f64 {
    let badness = |rate: f64| {
        let mut figures: Vec<f64> = trials
            .iter()
            .filter(|t| t.rate == rate)
            .map(|t| match (t.validation.is_finite(), better) {
                (false, _) => f64::INFINITY,
                (true, Better::Lower) => t.validation,
                (true, Better::Higher) => -t.validation,
            })
            .collect();
        figures.sort_by(f64::total_cmp);
        match figures.last() {
            Some(&worst) if worst == f64::INFINITY => worst,
            _ => figures[figures.len() / 2],
        }
    };
    let mut best = rates[0];
    for &rate in &rates[1..] {
        if badness(rate) < badness(best) {
            best = rate;
        }
    }
    best
}

fn score_of(trials: &[TrialRecord], rate: f64, seed: u64) -> f64 {
    trials.iter().find(|t| t.rate == rate && t.seed == seed).map_or(f64::NAN, |t| t.score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        claim::{About, Falsifier},
        run::Settings,
    };

    static ABOUT: About = About {
        system: 1,
        name: "sweep-test",
        data: &[],
        checks: &[],
        falsifier: Falsifier { what: "", against: "" },
        source: "",
    };

    const PLAN: SweepPlan = SweepPlan {
        what: "a parabola",
        arms: &["baseline", "ours"],
        rates: &[1e-3, 1e-2, 1e-1],
        better: Better::Lower,
        tune_on: TuneOn::FirstSeed,
    };

    fn swept(
        settings: &Settings,
        plan: SweepPlan,
        train: impl FnMut(&str, f64, u64) -> Result<Trial, Error>,
    ) -> Result<Sweep, Error> {
        sweep(&Run::new(&ABOUT, settings, &|_| ())?, plan, train)
    }

    fn trial(validation: f64) -> Trial {
        Trial { validation, score: validation + 0.5, parameters: 100, tokens: 10, steps: 1 }
    }

    #[test]
    fn every_arm_is_tuned_over_the_same_grid() {
        let mut calls = Vec::new();
        let sweep = swept(&Settings::default(), PLAN, |arm, rate, seed| {
            calls.push((arm.to_owned(), rate, seed));
            let best: f64 = if arm == "ours" { 1e-1 } else { 1e-2 };
            Ok(trial((rate.log10() - best.log10()).abs() + seed as f64))
        })
        .unwrap();
        assert_eq!(calls.len(), 2 * (3 + 2));
        assert_eq!(sweep.arms[0].chosen_rate, 1e-2);
        assert!(!sweep.arms[0].at_the_edge);
        assert_eq!(sweep.arms[1].chosen_rate, 1e-1);
        assert!(sweep.arms[1].at_the_edge);
        assert_eq!(sweep.scores("ours"), Some(&[1.5, 2.5, 3.5][..]));
        assert_eq!(sweep.scores("absent"), None);
    }

    #[test]
    fn tuning_on_every_seed_takes_the_best_median_and_shuns_divergence() {
        let plan = SweepPlan { tune_on: TuneOn::EverySeed, ..PLAN };
        let sweep = swept(&Settings::default(), plan, |_, rate, seed| {
            // The largest rate is best on two seeds and diverges on one.
            let figure = match (rate, seed) {
                (1e-1, 3) => f64::NAN,
                (1e-1, _) => 0.0,
                (1e-2, _) => 1.0,
                _ => 2.0,
            };
            Ok(trial(figure))
        })
        .unwrap();
        assert_eq!(sweep.arms[0].trials.len(), 9);
        assert_eq!(sweep.arms[0].chosen_rate, 1e-2);
    }

    #[test]
    fn two_rates_are_refused_even_at_smoke_scale() {
        let settings = Settings { scale: Scale::Smoke, ..Settings::default() };
        let plan = SweepPlan { rates: &[1e-3, 1e-2, 1e-2], ..PLAN };
        assert!(matches!(swept(&settings, plan, |_, _, _| Ok(trial(0.0))), Err(Error::TooFewRates { .. })));
        let mut calls = 0;
        swept(&settings, PLAN, |_, rate, _| {
            calls += 1;
            assert_eq!(rate, 1e-2);
            Ok(trial(0.0))
        })
        .unwrap();
        assert_eq!(calls, 2 * 3);
    }

    #[test]
    fn more_tokens_or_parameters_than_the_baseline_are_refused() {
        for (resource, ours) in [
            ("tokens", Trial { tokens: 11, ..trial(0.0) }),
            ("steps", Trial { steps: 2, ..trial(0.0) }),
            ("parameters", Trial { parameters: 106, ..trial(0.0) }),
        ] {
            let got = swept(&Settings::default(), PLAN, |arm, _, _| Ok(if arm == "ours" { ours } else { trial(0.0) }));
            match got {
                Err(Error::UnequalBudget { resource: r, .. }) => assert_eq!(r, resource),
                other => panic!("{resource}: {other:?}"),
            }
        }
        let five_percent = Trial { parameters: 105, ..trial(0.0) };
        assert!(
            swept(&Settings::default(), PLAN, |arm, _, _| {
                Ok(if arm == "ours" { five_percent } else { trial(0.0) })
            })
            .is_ok()
        );
    }

    #[test]
    fn an_arm_alone_is_no_comparison() {
        for arms in [&["baseline"][..], &["same", "same"]] {
            let plan = SweepPlan { arms, ..PLAN };
            assert!(matches!(
                swept(&Settings::default(), plan, |_, _, _| Ok(trial(0.0))),
                Err(Error::TooFewArms { .. })
            ));
        }
    }

    #[test]
    fn a_cancelled_sweep_stops_at_its_next_run() {
        let settings = Settings::default();
        let mut calls = 0;
        let got = swept(&settings, PLAN, |_, _, _| {
            calls += 1;
            settings.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(trial(0.0))
        });
        assert!(matches!(got, Err(Error::Cancelled)));
        assert_eq!(calls, 1);
    }
}
