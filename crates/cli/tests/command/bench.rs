//! What `memwall bench` measures, not how fast.

use serde_json::Value;

use crate::{json, memwall, refused};

#[test]
fn a_training_step_learns_and_recomputing_its_blocks_changes_no_bit() {
    let step = |dtype: &str, more: &[&str]| {
        let args = ["bench", "--step", "--batch", "2", "--tokens", "32", "--repeats", "1", "--json", "--dtype", dtype];
        json(&[&args[..], more].concat())
    };
    let kept = step("f32", &[]);
    let again = step("f32", &["--recompute"]);
    let loss = |line: &Value, key: &str| line[key].as_f64().expect("a number");
    assert!((loss(&kept, "first_loss") - (4096.0_f64).ln()).abs() < 0.2, "{kept}");
    assert!(loss(&kept, "last_loss") < loss(&kept, "first_loss") - 0.2, "{kept}");
    assert_eq!(kept["last_loss"], again["last_loss"]);
    // What grows is what was planned, the moments, and little else.
    let planned = kept["arena_bytes"].as_u64().expect("bytes") + 8 * kept["parameters"].as_u64().expect("a number");
    let grown = kept["rss_growth_bytes"].as_u64().expect("bytes");
    assert!(grown < planned + (16 << 20), "{grown} bytes grown, {planned} planned");
    let bf16 = step("bf16", &[]);
    assert_ne!(kept["last_loss"], bf16["last_loss"], "bf16 rounds");
}

fn mixers(names: &str, more: &[&str]) -> Vec<Value> {
    let args = ["bench", "--mixers", names, "--tokens", "128", "--repeats", "1", "--json"];
    let output = memwall(&[&args[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

#[test]
fn forms_of_every_mixer_are_reported_with_the_one_that_is_chosen() {
    let lines = mixers("all", &[]);
    let mut names: Vec<&str> = lines.iter().filter_map(|l| l["what"].as_str()).collect();
    names.dedup();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let of = |test: &dyn Fn(&Value) -> bool| lines.iter().filter(|l| l["what"] == name && test(l)).count();
        assert_eq!(of(&|l| l["chosen"] == true), 2, "{name}: one form, forward and with its backward pass");
        assert_eq!(of(&|l| l["form"] == "step"), usize::from(name != "attention"), "{name}");
        assert_eq!(
            of(&|l| l["pass"] == "forward and backward"),
            of(&|l| l["pass"] == "forward" && l["form"] != "step")
        );
        assert_eq!(of(&|l| l["tokens_per_second"].as_f64().is_none_or(|x| x <= 0.0)), 0, "{name}");
    }
}

#[test]
fn one_form_of_two_mixers_is_what_is_measured_if_it_is_asked_for() {
    let lines = mixers("gla,delta", &["--form", "chunked"]);
    assert!(lines.iter().all(|l| l["form"] == "chunked"), "{lines:?}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn options_of_another_measurement_are_refused() {
    refused(&["bench"], &["--limits", "--step", "--mixers"]);
    refused(&["bench", "--mixers", "gla", "--recompute"], &["--mixers", "--recompute"]);
    refused(&["bench", "--mixers", "gla", "--batch", "2"], &["--mixers", "--batch"]);
    refused(&["bench", "--mixers", "mamba"], &["--mixers", "selective_scan"]);
    refused(&["bench", "--limits", "--tokens", "9"], &["--limits", "--tokens"]);
    refused(&["bench", "--limits", "--dtype", "bf16"], &["--limits"]);
    refused(&["bench", "--step", "--dtype", "f16"], &["f32 or bf16"]);
}
