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

#[test]
fn forms_of_gated_linear_attention_are_reported_with_the_one_that_is_chosen() {
    let output = memwall(&["bench", "--gla", "--tokens", "128", "--repeats", "1", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let of = |form: &str, pass: &str| lines.iter().filter(|l| l["form"] == form && l["pass"] == pass).count();
    for form in ["recurrent", "chunked"] {
        assert_eq!((of(form, "forward"), of(form, "forward and backward")), (1, 1), "{form}");
    }
    assert_eq!((of("step", "forward"), lines.len()), (1, 5));
    assert_eq!(lines.iter().filter(|l| l["chosen"] == true).count(), 2);
}

#[test]
fn options_of_another_measurement_are_refused() {
    refused(&["bench"], &["--limits", "--step", "--gla"]);
    refused(&["bench", "--gla", "--recompute"], &["--gla", "--recompute"]);
    refused(&["bench", "--gla", "--batch", "2"], &["--gla", "--batch"]);
    refused(&["bench", "--limits", "--tokens", "9"], &["--limits", "--tokens"]);
    refused(&["bench", "--limits", "--dtype", "bf16"], &["--limits"]);
    refused(&["bench", "--step", "--dtype", "f16"], &["f32 or bf16"]);
}
