//! The rule that turns measurements into a verdict.
//!
//! A check holds if *the median meets the bar and every seed has the right sign*. The right sign is
//! the side of "no effect" (ratio 1, difference 0) that the bar asks for. A bar that "no effect"
//! already meets (a claim of no harm), and a bar on a value, have no sign of their own: there every
//! seed must meet the bar.
//!
//! The median is the figure of a seed, never a mean of two: with an even number of seeds it is the
//! worse of the two in the middle. So `figure`, `baseline` and `ours` of a report belong together.

use crate::{
    Error,
    claim::{About, Check, Measured, Outcome},
    evidence::{Evidence, Sides},
    report::{Bar, CheckReport, FalsifierReport, Kind, Op, Scale, Verdict},
};

/// The checks, the falsifier, the verdict and the evidence of what was measured.
///
/// # Errors
/// A check that the claim did not declare, or declared and did not measure, or measured twice; a
/// number of entries other than the number of seeds.
pub(crate) fn judge(
    about: &About,
    scale: Scale,
    seeds: usize,
    outcome: Outcome,
) -> Result<(Vec<CheckReport>, FalsifierReport, Verdict, Evidence), Error> {
    if let Some((what, _)) = outcome.checks.iter().find(|(what, _)| !about.checks.iter().any(|c| c.what == what)) {
        return Err(Error::UndeclaredCheck { claim: about.name, what: what.clone() });
    }
    let mut checks = Vec::with_capacity(about.checks.len());
    let mut sides = Vec::with_capacity(about.checks.len());
    for check in about.checks {
        let mut of_this = outcome.checks.iter().filter(|(what, _)| what == check.what);
        let (Some((_, measured)), None) = (of_this.next(), of_this.next()) else {
            return Err(Error::NotMeasuredOnce { claim: about.name, what: check.what });
        };
        checks.push(judge_check(about, check, seeds, measured)?);
        sides.push(measured.into());
    }
    let against = about
        .checks
        .iter()
        .find(|c| c.what == about.falsifier.against)
        .ok_or(Error::FalsifierAgainstNothing { claim: about.name, against: about.falsifier.against })?;
    let measured = outcome.falsifier.ok_or(Error::NotMeasuredOnce { claim: about.name, what: about.falsifier.what })?;
    let falsifier = judge_falsifier(about, against, seeds, &measured)?;
    let holds = checks.iter().all(|c| c.holds) && falsifier.fails_as_it_must;
    let verdict = match (scale, holds) {
        (Scale::Smoke, _) => Verdict::Smoke,
        (_, true) => Verdict::Holds,
        (_, false) => Verdict::DoesNotHold,
    };
    let evidence = Evidence {
        checks: sides,
        falsifier: (&measured).into(),
        falsifier_against: about.falsifier.against.to_owned(),
        sweeps: outcome.sweeps,
        curves: outcome.curves,
        notes: outcome.notes,
    };
    Ok((checks, falsifier, verdict, evidence))
}

fn judge_check(about: &About, check: &Check, seeds: usize, measured: &Measured) -> Result<CheckReport, Error> {
    let per_seed = figures(about, check.what, check.kind, seeds, measured)?;
    let at = median_seed(&per_seed, check.bar);
    let holds = check.bar.met_by(per_seed[at]) && per_seed.iter().all(|&f| has_right_sign(check.kind, check.bar, f));
    Ok(CheckReport {
        what: check.what.to_owned(),
        kind: check.kind,
        baseline: measured.baseline.get(at).copied().filter(|b| b.is_finite()),
        ours: measured.ours[at],
        figure: per_seed[at],
        per_seed,
        unit: check.unit.to_owned(),
        bar: check.bar,
        holds,
    })
}

/// The falsifier must miss the bar with a figure that exists: a control that broke shows nothing.
fn judge_falsifier(
    about: &About,
    against: &Check,
    seeds: usize,
    measured: &Measured,
) -> Result<FalsifierReport, Error> {
    let per_seed = figures(about, about.falsifier.what, against.kind, seeds, measured)?;
    let figure = per_seed[median_seed(&per_seed, against.bar)];
    Ok(FalsifierReport {
        what: about.falsifier.what.to_owned(),
        figure,
        bar: against.bar,
        fails_as_it_must: per_seed.iter().all(|f| f.is_finite()) && !against.bar.met_by(figure),
    })
}

fn figures(about: &About, what: &str, kind: Kind, seeds: usize, measured: &Measured) -> Result<Vec<f64>, Error> {
    let baselines = if kind == Kind::Value { 0 } else { seeds };
    if measured.ours.len() != seeds || measured.baseline.len() != baselines {
        return Err(Error::WrongNumberOfSeeds {
            claim: about.name,
            what: what.to_owned(),
            seeds,
            baselines,
            got_ours: measured.ours.len(),
            got_baselines: measured.baseline.len(),
        });
    }
    let figure = |i: usize| {
        let baseline = measured.baseline.get(i).copied().unwrap_or(f64::NAN);
        kind.figure(baseline, measured.ours[i])
    };
    Ok((0..seeds).map(figure).collect())
}

/// The index of the median, worst first among equals; what is not finite is worst.
fn median_seed(figures: &[f64], bar: Bar) -> usize {
    let badness = |figure: f64| match (figure.is_finite(), bar.op) {
        (false, _) => f64::INFINITY,
        (_, Op::AtLeast | Op::MoreThan) => -figure,
        (_, Op::AtMost | Op::LessThan) => figure,
        (_, Op::Exactly) => (figure - bar.value).abs(),
    };
    let mut order: Vec<usize> = (0..figures.len()).collect();
    order.sort_by(|&a, &b| badness(figures[a]).total_cmp(&badness(figures[b])));
    order[figures.len() / 2]
}

fn has_right_sign(kind: Kind, bar: Bar, figure: f64) -> bool {
    match kind.neutral() {
        Some(neutral) if !bar.met_by(neutral) => match bar.op {
            Op::AtLeast | Op::MoreThan => figure > neutral,
            Op::AtMost | Op::LessThan => figure < neutral,
            Op::Exactly => bar.met_by(figure),
        },
        _ => bar.met_by(figure),
    }
}

impl From<&Measured> for Sides {
    fn from(measured: &Measured) -> Self {
        Sides { baseline: measured.baseline.clone(), ours: measured.ours.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_seed_and_the_worse_of_two() {
        assert_eq!(median_seed(&[3.0, 1.0, 2.0], Bar::at_least(0.0)), 2);
        assert_eq!(median_seed(&[4.0, 1.0, 2.0, 3.0], Bar::at_least(0.0)), 2);
        assert_eq!(median_seed(&[4.0, 1.0, 2.0, 3.0], Bar::at_most(9.0)), 3);
        assert_eq!(median_seed(&[f64::NAN, 1.0], Bar::at_most(9.0)), 0);
    }

    #[test]
    fn a_gain_needs_every_seed_beyond_no_effect() {
        let bar = Bar::at_least(1.5);
        assert!(has_right_sign(Kind::Ratio, bar, 1.01));
        assert!(!has_right_sign(Kind::Ratio, bar, 1.0));
        assert!(!has_right_sign(Kind::Ratio, bar, f64::NAN));
        assert!(has_right_sign(Kind::Difference, Bar::at_most(-0.1), -0.01));
        assert!(!has_right_sign(Kind::Difference, Bar::at_most(-0.1), 0.0));
    }

    #[test]
    fn a_claim_of_no_harm_needs_every_seed_within_the_bar() {
        let bar = Bar::at_most(0.02);
        assert!(has_right_sign(Kind::Difference, bar, 0.02));
        assert!(!has_right_sign(Kind::Difference, bar, 0.021));
        assert!(!has_right_sign(Kind::Value, Bar::exactly(0.0), 1e-9));
    }
}
