//! The laws that every claim keeps; run them on your own with [`check_plan`] and [`check_smoke`].

use std::collections::HashSet;

use crate::{Claim, Report, Scale, Settings, Verdict, reproduce, systems::systems};

/// The plan is whole before anything runs: the system is known, every check has its own name, a
/// unit and a finite bar, the falsifier stands against one of them, and the source is the claim's.
///
/// # Panics
/// Where the law is broken, with the claim's name.
pub fn check_plan(claim: &dyn Claim) {
    let about = claim.about();
    let name = about.name;
    assert!(
        systems().iter().any(|s| s.number == about.system && s.name == name),
        "{:02} {name}: not so in systems.toml",
        about.system
    );
    assert!(!about.checks.is_empty(), "{name}: a claim checks something");
    let mut seen = HashSet::new();
    for check in about.checks {
        assert!(seen.insert(check.what), "{name}: {:?} twice", check.what);
        assert!(!check.what.is_empty() && !check.unit.is_empty(), "{name}: a check without a name or a unit");
        assert!(check.bar.value.is_finite(), "{name}, {:?}: a bar is a finite number", check.what);
    }
    assert!(
        seen.contains(about.falsifier.against) && !about.falsifier.what.is_empty(),
        "{name}: the falsifier stands against one of the claim's own checks"
    );
    assert!(
        about.source.contains(&format!("\"{name}\"")) && about.source.contains("Claim for"),
        "{name}: its source is the text of another file"
    );
}

/// The wiring works: a run at smoke scale with one seed measures everything, says what it does, and
/// gives no verdict.
///
/// # Panics
/// Where the law is broken, with the claim's name.
pub fn check_smoke(claim: &dyn Claim, settings: &Settings) -> Report {
    let about = claim.about();
    let steps = std::cell::Cell::new(0u64);
    let settings = Settings { scale: Scale::Smoke, seeds: vec![1], ..settings.clone() };
    let nowhere = std::path::Path::new("a smoke run writes no result");
    let report = reproduce(claim, &settings, nowhere, &|progress| {
        assert!(progress.done <= progress.of, "{progress:?}");
        steps.set(steps.get() + 1);
    })
    .unwrap_or_else(|e| panic!("{}: {e}", about.name));
    assert!(steps.get() > 0, "{}: says nothing of its progress", about.name);
    assert_eq!(report.verdict, Verdict::Smoke, "{}", about.name);
    assert_eq!(report.checks.len(), about.checks.len(), "{}", about.name);
    assert!(!nowhere.exists(), "{}: a smoke run wrote a result", about.name);
    report
}
