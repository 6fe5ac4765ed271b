//! The laws of claims, over every registered claim.

use memwall_claims::{Settings, laws, registry::claims};
use memwall_tasks::data::DataDir;

#[test]
fn every_claim_is_planned_before_it_runs() {
    for claim in claims() {
        laws::check_plan(*claim);
    }
}

#[test]
fn claims_are_listed_by_rising_number() {
    let numbers: Vec<u8> = claims().iter().map(|c| c.about().system).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn every_claim_runs_at_smoke_scale() {
    for claim in claims() {
        let files = claim.about().data.iter().flat_map(|set| set.files);
        if files.map(|file| memwall_testdata::data(file)).all(|file| file.is_some()) {
            let data = DataDir::find(memwall_testdata::folder().as_deref()).unwrap();
            laws::check_smoke(*claim, &Settings { data, ..Settings::default() });
        }
    }
}
