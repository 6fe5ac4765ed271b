//! `memwall reproduce`: its line, its exit codes, and what it writes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{json, memwall, refused, text};

#[test]
fn smoke_prints_one_line_of_the_contract_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let line = json(&["reproduce", "zoology", "--scale", "smoke", "--json", "--results", text(folder.path())]);
    let keys: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = [
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
        "source_hash",
    ];
    assert_eq!(keys, BTreeSet::from(contract));
    assert_eq!((line["system"].as_u64(), line["verdict"].as_str()), (Some(12), Some("smoke")));
    assert_eq!(line["seeds"], serde_json::json!([1, 2, 3]));
    for check in line["checks"].as_array().unwrap() {
        assert_eq!(check["per_seed"].as_array().unwrap().len(), 3, "{check}");
        assert!(check["bar"]["op"].is_string() && check["bar"]["value"].is_number(), "{check}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_claim_that_cannot_be_run_does_not_stop_the_others_and_its_exit_code_wins() {
    let nowhere = tempfile::tempdir().unwrap();
    // Gated attention reads a text that is not in this folder; Zoology reads none.
    let output = memwall(&[
        "reproduce",
        "6",
        "12",
        "--scale",
        "smoke",
        "--seeds",
        "1",
        "--json",
        "--data",
        text(nowhere.path()),
    ]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("06 gated-attention: ") && error.contains("tinyshakespeare"), "{error}");
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect();
    assert_eq!(lines.iter().map(|line| line["system"].as_u64().unwrap()).collect::<Vec<_>>(), [12]);
}

#[test]
fn what_cannot_be_reproduced_is_refused_before_anything_runs() {
    refused(&["reproduce", "zoologie", "--scale", "smoke"], &["zoologie", "nearest: zoology (12)"]);
    refused(&["reproduce", "12", "54", "--scale", "smoke"], &["54 ", "no claim is written for it yet", "12 zoology"]);
    refused(&["reproduce"], &["SYSTEM is missing"]);
    refused(&["reproduce", "12", "--seeds", "1,2", "--scale", "desk"], &["3 different seeds", "--seeds 1,2,3"]);
    refused(&["reproduce", "12", "--seeds", "1,1", "--scale", "smoke"], &["seed 1 is given twice"]);
    refused(&["reproduce", "12", "--scale", "large"], &["smoke", "desk", "full"]);
}
