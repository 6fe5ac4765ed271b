//! Mixers against each other on one task, under one budget: the sweep of the claims, without a claim.
//!
//! Every contestant gets the same parameters, tokens and steps, and every learning rate on every seed; the rate with the
//! best median on validation data is its own, and what is reported is the test figure at that rate.

mod contestant;
mod cost;
pub(crate) mod states;
mod subject;

use std::path::Path;
use std::sync::Arc;

use memwall_tasks::{Corpus, Documents, Fractions, TextTask};
use serde::Serialize;

use crate::evidence::{Arm, Curve, Line, Point, Sweep};
use crate::report::null_is_nan;
use crate::trial::{Figure, Training};
use crate::{About, Better, Error, Falsifier, Progress, Run, Settings, SweepPlan, TuneOn, plot, sweep};

use contestant::Contestant;
pub use contestant::MIXERS;
pub(crate) use contestant::{Frame, parameters};
pub use cost::Cost;
pub use subject::{SUBJECTS, Subject};

static ABOUT: About = About {
    system: 0,
    name: "compare",
    data: &[],
    checks: &[],
    falsifier: Falsifier { what: "", against: "" },
    source: "",
};

/// What everyone gets.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The most parameters; those that mixers leave go to the channel layers.
    pub parameters: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences of a step.
    pub batch: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Width D of the models.
    pub width: usize,
    /// Layers; a list of mixers is repeated over them.
    pub layers: usize,
    /// Learning rates, at least three.
    pub rates: Vec<f64>,
}

/// Why mixers cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A name that is no mixer.
    #[error("{name}: no mixer is called {found}; did you mean {near}? There are {}", MIXERS.join(", "))]
    Mixer {
        /// The contestant.
        name: String,
        /// The name in it.
        found: String,
        /// The mixer that is most like it.
        near: &'static str,
    },
    /// Mixers that alone are larger than the budget.
    #[error("{name} has {least} parameters without any channel layer; the budget of {budget} is too small")]
    Parameters {
        /// The contestant.
        name: String,
        /// Its parameters without channel layers.
        least: u64,
        /// The budget.
        budget: u64,
    },
    /// More mixers than layers.
    #[error("{name} has {mixers} mixers for {layers} layers")]
    Layers {
        /// The contestant.
        name: String,
        /// How many it names.
        mixers: usize,
        /// How many layers there are.
        layers: usize,
    },
    /// The experiment itself.
    #[error(transparent)]
    Experiment(#[from] Error),
}

/// One contestant's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Placed {
    /// The median of the scores.
    #[serde(with = "null_is_nan")]
    pub median: f64,
    /// What it takes.
    #[serde(flatten)]
    pub cost: Cost,
    /// What was tried, and the score of each seed at the chosen rate.
    #[serde(flatten)]
    pub arm: Arm,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: &'static str,
    /// What a score is.
    pub metric: &'static str,
    /// Whether the larger score is the better.
    pub higher_is_better: bool,
    /// The learning rates.
    pub rates: Vec<f64>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// What the same test sequences allow, where that is known: names and scores, a seed each.
    pub bounds: Vec<Bound>,
    /// The contestants, the best first.
    pub contestants: Vec<Placed>,
}

/// The score of something that is no model, on the sequences that the models are asked.
#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    /// What it is.
    pub name: String,
    /// The score of each seed.
    pub scores: Vec<f64>,
}

impl Comparison {
    /// The picture: scores over learning rates, over bytes of state, over training speed, and over memory; a line or a point a
    /// contestant.
    ///
    /// # Errors
    /// [`Error::Plot`]; `path` only names the file there.
    pub fn draw(&self, path: &Path) -> Result<String, Error> {
        let panel = |x_label: &str, lines: Vec<Line>| Curve {
            what: format!("{} by {x_label}", self.metric),
            x_label: x_label.into(),
            y_label: self.metric.into(),
            log_x: true,
            log_y: false,
            lines,
        };
        let line = |c: &Placed| Line { name: c.arm.name.clone(), points: self.points(&c.arm) };
        let mut panels = vec![panel("learning rate", self.contestants.iter().map(line).collect())];
        let by_cost = |label: &str, x: &dyn Fn(&Cost) -> f64| {
            let point = |c: &Placed| Line {
                name: c.arm.name.clone(),
                points: vec![Point { x: x(&c.cost).max(1.0), per_seed: c.arm.scores.clone() }],
            };
            panel(label, self.contestants.iter().map(point).collect())
        };
        panels.push(by_cost("bytes of state of a sequence", &|c| c.state_bytes as f64));
        panels.push(by_cost("training, tokens/s", &|c| c.tokens_per_second));
        panels.push(by_cost("memory of a training step, bytes", &|c| c.step_bytes as f64));
        let best = self.contestants.first().map_or("", |c| &c.arm.name);
        plot::curves(&format!("{}: best is {best}", self.task), &panels, path)
    }

    fn points(&self, arm: &Arm) -> Vec<Point> {
        let at = |rate: f64| arm.trials.iter().filter(move |t| t.rate == rate).map(|t| t.score).collect();
        self.rates.iter().map(|&x| Point { x, per_seed: at(x) }).collect()
    }
}

/// Trains every contestant of `names` (mixers joined by `+`) on `subject`, under `budget`; `text` for the text task.
///
/// # Errors
/// A name that is no mixer, a budget that holds none, fewer than two contestants or three rates or seeds, no text; what
/// training returns.
pub fn compare(
    names: &[String],
    subject: Subject,
    budget: &Budget,
    text: &[std::path::PathBuf],
    settings: &Settings,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Comparison, CompareError> {
    let contestants = names.iter().map(|name| Contestant::new(name, subject, budget)).collect::<Result<Vec<_>, _>>()?;
    let corpus = match subject {
        Subject::Text => {
            let read = Corpus::read_bytes(text, &Documents::Files, Fractions::default());
            Some(Arc::new(read.map_err(Error::experiment)?))
        }
        _ => None,
    };
    let run = Run::new(&ABOUT, settings, progress)?;
    let figure = if subject.higher_is_better() { Figure::Accuracy } else { Figure::Nats };
    let training = Training { steps: budget.steps, batch: budget.batch, time: budget.time, measured: 16, figure };
    let arms: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = SweepPlan {
        what: subject.name(),
        arms: &arms,
        rates: &budget.rates,
        better: if subject.higher_is_better() { Better::Higher } else { Better::Lower },
        tune_on: TuneOn::EverySeed,
    };
    let swept = sweep(&run, plan, |name, rate, seed| {
        let Some(model) = contestants.iter().find(|c| c.name == name).map(|c| &c.model) else {
            return Err(Error::TooFewArms { what: subject.name().into() });
        };
        match &corpus {
            Some(corpus) => {
                let task = TextTask::new(corpus.clone(), budget.time, subject.vocabulary(budget.time), seed);
                training.trial(&run, model, &task.map_err(Error::experiment)?, rate, seed)
            }
            None if subject.is_selectivity() => {
                let task = subject.selectivity(budget, training.measured, seed)?;
                Ok(states::trial(&run, &training, model, &task, subject.noise(), rate, seed)?.0)
            }
            None => training.trial(&run, model, &subject.generated(budget, training.measured, seed)?, rate, seed),
        }
    })?;
    let mut bounds = Vec::new();
    if subject.is_selectivity() {
        let task = |seed: &u64| subject.selectivity(budget, training.measured, *seed);
        let tasks = settings.seeds.iter().map(task).collect::<Result<Vec<_>, _>>()?;
        bounds = states::bounds(&tasks, &training)?;
    }
    let costs = contestants.iter().map(|c| cost::of(&run, &training, c, subject)).collect::<Result<Vec<_>, _>>()?;
    Ok(ranked(subject, swept, costs, bounds, settings))
}

fn ranked(subject: Subject, swept: Sweep, costs: Vec<Cost>, bounds: Vec<Bound>, settings: &Settings) -> Comparison {
    let median = |scores: &[f64]| {
        let mut sorted = scores.to_vec();
        sorted.sort_by(f64::total_cmp);
        if sorted.iter().any(|x| x.is_nan()) { f64::NAN } else { sorted[sorted.len() / 2] }
    };
    let mut contestants: Vec<Placed> = swept
        .arms
        .into_iter()
        .zip(costs)
        .map(|(arm, cost)| Placed { median: median(&arm.scores), cost, arm })
        .collect();
    // What diverged comes last.
    let badness = |c: &Placed| match (c.median.is_nan(), subject.higher_is_better()) {
        (true, _) => f64::INFINITY,
        (false, true) => -c.median,
        (false, false) => c.median,
    };
    contestants.sort_by(|a, b| badness(a).total_cmp(&badness(b)));
    Comparison {
        task: subject.name(),
        metric: subject.metric(),
        higher_is_better: subject.higher_is_better(),
        rates: swept.rates,
        seeds: settings.seeds.clone(),
        bounds,
        contestants,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget {
            parameters: 20_000,
            steps: 30,
            batch: 16,
            time: 16,
            width: 16,
            layers: 2,
            rates: vec![3e-3, 1e-2, 3e-2],
        }
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everyone_gets_the_same_and_a_mixer_that_sees_the_past_predicts_better() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        // What comes next is in the letter two before: one token of context is not enough.
        let text: String = (0..6000).map(|i| ["ab", "cb", "db"][(i * i + i / 3) % 3]).flat_map(|w| [w, w]).collect();
        std::fs::write(file.path(), text).expect("written");
        let settings = Settings { threads: 1, ..Settings::default() };
        let arms = names(&["windowed_attention", "short_conv+gla"]);
        let budget = Budget { width: 32, ..budget() };
        let files = [file.path().to_path_buf()];
        let made = compare(&arms, Subject::Text, &budget, &files, &settings, &|_| ()).expect("they train");
        assert_eq!(made.contestants.len(), 2);
        for c in &made.contestants {
            assert!(c.arm.parameters <= budget.parameters && c.arm.parameters > budget.parameters * 95 / 100);
            assert_eq!((c.arm.steps, c.arm.trials.len(), c.arm.scores.len()), (30, 9, 3));
        }
        let [best, other] = &made.contestants[..] else { unreachable!("two, as counted above") };
        assert!(best.median <= other.median);
        // ln 2 / 2 + ln 6 / 2 = 1.242 nats is the entropy of the letters alone.
        assert!(best.arm.name == "short_conv+gla" && best.median < 1.2, "{}: {}", best.arm.name, best.median);
        let svg = made.draw(Path::new("x.svg")).expect("a picture");
        assert!(svg.starts_with("<svg") && svg.contains("short_conv+gla") && svg.contains("learning rate"));
    }

    #[test]
    fn every_task_is_learned_from_and_hidden_states_have_bounds() {
        let settings = Settings { threads: 1, ..Settings::default() };
        let budget = Budget { steps: 2, batch: 4, parameters: 40_000, ..budget() };
        for subject in SUBJECTS.into_iter().filter(|&s| s != Subject::Text) {
            let arms = names(&["gla", "gated_delta_net"]);
            let made = compare(&arms, subject, &budget, &[], &settings, &|_| ()).expect("they train");
            assert_eq!(made.bounds.is_empty(), !subject.is_selectivity(), "{subject:?}");
            for c in &made.contestants {
                assert!((0.0..=1.0).contains(&c.median), "{subject:?}: {}", c.median);
                assert!(c.cost.state_bytes > 0 && c.cost.step_bytes > 0 && c.cost.tokens_per_second > 0.0);
            }
            if let [filter, common, last @ ..] = &made.bounds[..] {
                assert!(filter.scores.iter().all(|&s| s > 0.8), "{subject:?}: {filter:?}");
                // Sequences of 16 steps with gaps of 10 have two symbols, so that the first alone tells much.
                assert!(common.scores.iter().zip(&filter.scores).all(|(c, f)| c < f), "{subject:?}: {common:?}");
                assert_eq!(last.len(), 4);
            }
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let settings = Settings { threads: 1, ..Settings::default() };
        let refused = |arms: &[&str], budget: Budget| {
            compare(&names(arms), Subject::Mqar, &budget, &[], &settings, &|_| ()).expect_err("refused").to_string()
        };
        let error = refused(&["gla", "atention"], budget());
        assert!(error.contains("atention") && error.contains("did you mean attention"), "{error}");
        let error = refused(&["gla", "attention"], Budget { parameters: 100, ..budget() });
        assert!(error.contains("budget of 100"), "{error}");
        let error = refused(&["gla"], budget());
        assert!(error.contains("mqar"), "{error}");
        let error = refused(&["gla", "attention"], Budget { rates: vec![1e-3], ..budget() });
        assert!(error.contains('3'), "{error}");
        let error = refused(&["gla+gla+gla", "attention"], budget());
        assert!(error.contains("3 mixers for 2 layers"), "{error}");
    }
}
