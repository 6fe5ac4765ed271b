//! The harness on a claim whose truth is known: it holds, or does not, or its falsifier is broken.

use std::{fs, path::Path};

use memwall_claims::{
    About, Bar, Better, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Record, Report, Run, Scale, Settings,
    SweepPlan, Trial, TuneOn, Verdict,
    evidence::{Curve, Line, Point},
    reproduce, results, source_hash, sweep,
};

const RECALL: &str = "recall";
const ERROR: &str = "largest error";
const LOSS: &str = "loss";

static ABOUT: About = About {
    system: 12,
    name: "self-test",
    data: &[],
    checks: &[
        Check { what: RECALL, kind: Kind::Ratio, unit: "accuracy", bar: Bar::at_least(1.5) },
        Check { what: ERROR, kind: Kind::Value, unit: "relative", bar: Bar::at_most(1e-5) },
        Check { what: LOSS, kind: Kind::Difference, unit: "nats/token", bar: Bar::at_most(0.02) },
    ],
    falsifier: Falsifier { what: "the mechanism switched off", against: RECALL },
    source: include_str!("harness.rs"),
};

/// A mechanism whose recall is `gain` times the baseline's, and `gain_off` times when switched off.
struct SelfTest {
    gain: [f64; 3],
    gain_off: f64,
    loss: [f64; 3],
}

const TRUE: SelfTest = SelfTest { gain: [1.9, 1.6, 1.7], gain_off: 1.02, loss: [0.01, -0.02, 0.019] };

impl Claim for SelfTest {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let plan = SweepPlan {
            what: "a recall model",
            arms: &["baseline", "ours", "off"],
            rates: &[1e-3, 3e-3, 1e-2],
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        let swept = sweep(run, plan, |arm, rate, seed| {
            let at = seeds.iter().position(|s| *s == seed).expect("a seed of the run");
            let factor = match arm {
                "ours" => self.gain[at % 3],
                "off" => self.gain_off,
                _ => 1.0,
            };
            let recall = 0.4 * factor - (rate - 3e-3).abs() + 0.01 * at as f64;
            Ok(Trial { validation: recall, score: recall, parameters: 1000, tokens: 64, steps: 8 })
        })?;
        let scores = |arm| swept.scores(arm).expect("an arm of the sweep");
        let loss: Vec<f64> = (0..seeds.len()).map(|i| self.loss[i % 3]).collect();
        let lengths = [64.0, 256.0, 1024.0, 4096.0];
        let line = |name: &str, fall: f64| Line {
            name: name.to_owned(),
            points: lengths
                .iter()
                .map(|&x| Point {
                    x,
                    per_seed: (0..seeds.len()).map(|i| 1.0 - fall * f64::log2(x / 64.0) + 0.03 * i as f64).collect(),
                })
                .collect(),
        };
        Ok(Outcome::new()
            .check(RECALL, Measured::pairs(scores("baseline"), scores("ours")))
            .check(ERROR, Measured::values(&vec![3e-7; seeds.len()]))
            .check(LOSS, Measured::pairs(&vec![2.0; seeds.len()], &loss.iter().map(|l| 2.0 + l).collect::<Vec<_>>()))
            .falsifier(Measured::pairs(scores("baseline"), scores("off")))
            .curve(Curve {
                what: "recall over length".to_owned(),
                x_label: "tokens".to_owned(),
                y_label: "recall".to_owned(),
                log_x: true,
                log_y: false,
                lines: vec![line("baseline", 0.15), line("ours", 0.04)],
            })
            .sweep(swept)
            .note("nothing is trained here"))
    }
}

fn run(claim: &SelfTest, scale: Scale, results: &Path) -> Report {
    let settings = Settings { scale, seeds: vec![1, 2, 3], ..Settings::default() };
    reproduce(claim, &settings, results, &|_| ()).expect("the self-test runs")
}

fn desk(claim: &SelfTest) -> Report {
    let folder = tempfile::tempdir().unwrap();
    run(claim, Scale::Desk, folder.path())
}

#[test]
fn a_true_claim_holds() {
    let report = desk(&TRUE);
    assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
    assert_eq!(report.verdict.exit_code(), 0);
    let recall = &report.checks[0];
    let mut sorted = recall.per_seed.clone();
    sorted.sort_by(f64::total_cmp);
    assert_eq!(recall.figure, sorted[1]);
    assert_eq!(recall.figure, recall.ours / recall.baseline.unwrap());
    assert_eq!(report.checks[1].baseline, None);
    assert!(report.falsifier.fails_as_it_must);
    assert_eq!(report.falsifier.bar, recall.bar);
    assert_eq!(report.source_hash, source_hash(include_str!("harness.rs")));
    assert!(report.peak_bytes > 0 && report.seconds > 0.0 && !report.machine.is_empty());
}

#[test]
fn a_median_below_the_bar_does_not_hold() {
    let report = desk(&SelfTest { gain: [1.9, 1.4, 1.4], ..TRUE });
    assert_eq!(report.verdict, Verdict::DoesNotHold);
    assert_eq!(report.verdict.exit_code(), 1);
    assert!(!report.checks[0].holds && report.checks[1].holds);
}

#[test]
fn one_seed_of_the_wrong_sign_refuses_the_claim() {
    let report = desk(&SelfTest { gain: [1.9, 0.99, 1.7], ..TRUE });
    assert!(report.checks[0].bar.met_by(report.checks[0].figure));
    assert_eq!(report.verdict, Verdict::DoesNotHold);
}

#[test]
fn one_seed_beyond_the_bar_refuses_a_claim_of_no_harm() {
    let report = desk(&SelfTest { loss: [0.0, 0.0, 0.03], ..TRUE });
    assert!(report.checks[0].holds && !report.checks[2].holds);
    assert_eq!(report.verdict, Verdict::DoesNotHold);
}

#[test]
fn a_falsifier_that_passes_refuses_the_claim() {
    let report = desk(&SelfTest { gain_off: 1.6, ..TRUE });
    assert!(report.checks.iter().all(|c| c.holds));
    assert!(!report.falsifier.fails_as_it_must);
    assert_eq!(report.verdict, Verdict::DoesNotHold);
}

#[test]
fn a_falsifier_that_breaks_shows_nothing() {
    let report = desk(&SelfTest { gain_off: f64::NAN, ..TRUE });
    assert!(!report.falsifier.fails_as_it_must);
    assert_eq!(report.verdict, Verdict::DoesNotHold);
}

#[test]
fn a_figure_that_is_not_finite_does_not_hold_and_survives_json() {
    let folder = tempfile::tempdir().unwrap();
    let broken = SelfTest { gain: [f64::NAN; 3], ..TRUE };
    let report = run(&broken, Scale::Desk, folder.path());
    assert_eq!(report.verdict, Verdict::DoesNotHold);
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("\"figure\":null"), "{text}");
    let back: Report = serde_json::from_str(&text).unwrap();
    assert!(back.checks[0].figure.is_nan());
    let svg = fs::read_to_string(folder.path().join("12-self-test.svg")).unwrap();
    assert!(svg.contains("does not hold"));
}

#[test]
fn smoke_gives_no_verdict_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let report = run(&SelfTest { gain: [0.1; 3], ..TRUE }, Scale::Smoke, folder.path());
    assert_eq!(report.verdict, Verdict::Smoke);
    assert_eq!(report.verdict.exit_code(), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_line_has_the_fields_of_the_contract_in_order() {
    let line = serde_json::to_value(desk(&TRUE)).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(
        keys(&line),
        [
            "system",
            "name",
            "scale",
            "seeds",
            "checks",
            "falsifier",
            "verdict",
            "seconds",
            "peak_bytes",
            "machine",
            "version",
            "source_hash"
        ]
    );
    assert_eq!(
        keys(&line["checks"][0]),
        ["what", "kind", "baseline", "ours", "figure", "per_seed", "unit", "bar", "holds"]
    );
    assert_eq!(keys(&line["falsifier"]), ["what", "figure", "bar", "fails_as_it_must"]);
    assert_eq!(line["checks"][0]["kind"], "ratio");
    assert_eq!(line["checks"][0]["bar"]["op"], ">=");
    assert_eq!(line["verdict"], "holds");
    assert_eq!(line["scale"], "desk");
}

#[test]
fn the_record_keeps_everything_that_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let report = run(&TRUE, Scale::Desk, folder.path());
    let record: Record = results::read(&folder.path().join("12-self-test.json")).unwrap();
    assert_eq!(record.report, report);
    let sweep = &record.evidence.sweeps[0];
    assert_eq!(sweep.arms.len(), 3);
    assert!(sweep.arms.iter().all(|arm| arm.trials.len() == 3 + 2 && arm.chosen_rate == 3e-3));
    assert_eq!(record.evidence.checks[0].ours.len(), 3);
    assert_eq!(record.evidence.notes, ["nothing is trained here"]);
    assert_eq!(results::read_all(folder.path()).unwrap(), [record]);
}

#[test]
fn a_new_result_replaces_the_old_one_whole() {
    let folder = tempfile::tempdir().unwrap();
    run(&TRUE, Scale::Desk, folder.path());
    run(&SelfTest { gain: [0.5; 3], ..TRUE }, Scale::Desk, folder.path());
    let records = results::read_all(folder.path()).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].report.verdict, Verdict::DoesNotHold);
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["12-self-test.json", "12-self-test.svg"]);
}

#[test]
fn a_result_that_is_none_is_refused_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("06-broken.json"), "{\"system\": 6}").unwrap();
    let error = results::read_all(folder.path()).unwrap_err().to_string();
    assert!(error.contains("06-broken.json"), "{error}");
}

/// An outcome that differs from the plan, whatever it measured.
struct OffPlan(Measure);

type Measure = fn(Outcome, &[f64]) -> Outcome;

impl Claim for OffPlan {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let ones = vec![1.0; run.seeds().len()];
        Ok((self.0)(Outcome::new(), &ones))
    }
}

#[test]
fn an_outcome_off_the_plan_is_refused() {
    let whole = |o: Outcome, v: &[f64]| {
        o.check(RECALL, Measured::pairs(v, v)).check(ERROR, Measured::values(v)).check(LOSS, Measured::pairs(v, v))
    };
    let off_plan: [(Measure, &str); 6] = [
        (|o, _| o, "\"recall\" exactly once"),
        (|o, v| o.check("another", Measured::values(v)), "\"another\""),
        (|o, v| o.check(RECALL, Measured::pairs(v, v)).check(RECALL, Measured::pairs(v, v)), "\"recall\" exactly once"),
        (|o, v| o.check(RECALL, Measured::values(v)), "baselines"),
        (|o, v| o.check(RECALL, Measured::pairs(&v[1..], &v[1..])), "3 seeds"),
        (whole, "switched off\" exactly once"),
    ];
    for (outcome, culprit) in off_plan {
        let got = reproduce(
            &OffPlan(outcome),
            &Settings { scale: Scale::Desk, seeds: vec![1, 2, 3], ..Settings::default() },
            Path::new("nothing is written"),
            &|_| (),
        );
        let message = got.expect_err(culprit).to_string();
        assert!(message.contains(culprit), "{message}");
    }
}

#[test]
fn the_plan_of_a_registered_claim_is_known_to_systems() {
    let broken = std::panic::catch_unwind(|| memwall_claims::laws::check_plan(&TRUE));
    assert!(broken.is_err(), "12 is not called self-test");
    memwall_claims::laws::check_smoke(&TRUE, &Settings::default());
}
