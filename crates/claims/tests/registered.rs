//! The laws of claims, over every registered claim.

use memwall_claims::{Settings, laws, registry::claims};

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
        if claim.about().data.iter().all(|set| memwall_testdata::data(set).is_some()) {
            let settings = Settings { data: memwall_testdata::folder(), ..Settings::default() };
            laws::check_smoke(*claim, &settings);
        }
    }
}
