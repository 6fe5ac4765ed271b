//! `memwall fit`, and that `memwall run` keeps what it says.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::random_llama::RandomLlama;
use crate::tiny::{CONTEXT, Tiny};
use crate::{json, memwall, refused, text};

const MIB: u64 = 1 << 20;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn fit(model: &str, memory: u64, more: &[&str]) -> Value {
    let memory = memory.to_string();
    json(&[&["fit", model, "--memory", &memory, "--json"], more].concat())
}

#[test]
fn a_fit_says_what_the_contract_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let line = fit(text(&path), 256 * MIB, &["-t", "1"]);
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["budget_bytes", "feasible", "minimum_bytes", "plan", "choices"]);
    assert_eq!((number(&line["budget_bytes"]), &line["feasible"]), (256 * MIB, &Value::Bool(true)));
    let plan = &line["plan"];
    assert_eq!(plan["quality_tier"], "as-stored");
    assert_eq!(plan["weights"]["format"], "F32");
    assert_eq!((&plan["kv"]["policy"], &plan["kv"]["k_format"]), (&"full".into(), &"f16".into()));
    assert_eq!((number(&plan["context"]), number(&plan["threads"])), (CONTEXT as u64, 1));
    let parts = [&plan["weights"]["bytes"], &plan["kv"]["bytes"], &plan["state_bytes"], &plan["arena_bytes"]];
    let sum: u64 = parts.into_iter().chain([&plan["other_bytes"]]).map(number).sum();
    assert_eq!(number(&plan["total_bytes"]), sum);
    assert!(plan["predicted_decode_tps"].as_f64().unwrap() > 0.0);
    assert!(plan["predicted_prefill_tps"].as_f64().unwrap() > 0.0);
    let choices = line["choices"].as_array().unwrap();
    assert_eq!(&choices[0], plan);
    assert!(choices.iter().all(|c| number(&c["total_bytes"]) <= 256 * MIB && number(&c["threads"]) == 1));
    let formats: Vec<&str> = choices.iter().map(|c| c["weights"]["format"].as_str().unwrap()).collect();
    assert!(formats.contains(&"Q8_0") && formats.contains(&"Q4_0"), "{formats:?}");
}

#[test]
fn what_the_user_sets_is_fixed_in_every_choice() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let set = ["--weights", "Q8_0", "--kv", "f32", "--context", "33", "-t", "1", "--tier", "ram"];
    let line = fit(text(&path), 256 * MIB, &set);
    for choice in line["choices"].as_array().unwrap() {
        assert_eq!((&choice["weights"]["format"], &choice["weights"]["tier"]), (&"Q8_0".into(), &"ram".into()));
        assert_eq!((&choice["kv"]["v_format"], number(&choice["context"])), (&"f32".into(), 33));
    }
    refused(&["fit", text(&path), "--context", "65"], &["65", "1 to 64"]);
    refused(&["fit", text(&path), "--weights", "Q4_X"], &["--weights", "did you mean"]);
    refused(&["fit", text(&path), "--tier", "disk"], &["--tier", "mapped or in ram"]);
}

#[test]
fn a_budget_that_holds_nothing_is_refused_with_the_minimum_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    for budget in ["0", "1MiB"] {
        let output = memwall(&["fit", text(&path), "--memory", budget, "--json"]);
        assert_eq!(output.status.code(), Some(2));
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&line["feasible"], &line["plan"]), (&Value::Bool(false), &Value::Null));
        let minimum = number(&line["minimum_bytes"]);
        // The process is never twice exactly as large.
        assert_eq!(fit(text(&path), minimum + MIB, &[])["feasible"], true);
        refused(&["run", text(&path), "--token-ids", "1", "--memory", budget], &["minimum that would work"]);
    }
}

/// A number in 0..n by counter.
fn scrambled(i: u64, n: u64) -> u64 {
    (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % n.max(1)
}

/// `budgets` random ones between the minimum and a little more than the model can use.
fn budgets_are_kept(model: &Path, vocab: u64, budgets: u64, tier: &str) {
    let output = memwall(&["fit", text(model), "--memory", "1", "--tier", tier, "--json"]);
    let refusal: Value = serde_json::from_slice(&output.stdout).unwrap();
    let minimum = number(&refusal["minimum_bytes"]) + 2 * MIB;
    let most = number(&fit(text(model), 1 << 40, &["--tier", tier])["plan"]["total_bytes"]) + 4 * MIB;
    for i in 0..budgets {
        let budget = if i + 1 == budgets { most } else { minimum + scrambled(i + 1, most - minimum) };
        let plan = fit(text(model), budget, &["--tier", tier])["plan"].clone();
        let context = number(&plan["context"]);
        let prompt: Vec<String> = (0..context - context / 16).map(|i| (i * 7 % vocab).to_string()).collect();
        let (prompt, memory) = (prompt.join(","), budget.to_string());
        let args = ["--token-ids", &prompt, "-n", "1", "--memory", &memory, "--tier", tier, "--json"];
        let line = json(&[&["run", text(model)][..], &args[..]].concat());
        let (planned, rss) = (number(&line["plan_bytes"]), number(&line["rss_bytes"]));
        assert!(rss <= budget, "{rss} bytes in a budget of {budget}: {plan} {line}");
        assert!(number(&line["peak_bytes"]) <= planned, "{line}");
        for predicted in [planned, number(&plan["total_bytes"])] {
            let tolerance = (predicted / 20).max(16 * MIB);
            assert!(predicted.abs_diff(rss) <= tolerance, "predicted {predicted}, was {rss}: {plan} {line}");
        }
    }
}

#[test]
fn random_budgets_are_kept_and_predicted() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf");
    budgets_are_kept(&shipped, 1000, 8, "mapped");
    if let Some(stories) = memwall_testdata::data("models-llama2c/stories260K-restored.bin") {
        budgets_are_kept(&stories, 512, 8, "mapped");
    }
}

#[test]
fn random_budgets_are_kept_by_a_model_of_150_million_parameters() {
    let folder = tempfile::tempdir().unwrap();
    // 12 · (4 · 768² + 3 · 768 · 3072) + 32 000 · 768
    let model = RandomLlama { vocab: 32_000, width: 768, hidden: 3072, layers: 13, context: 256 };
    // In memory of its own: of a mapped file the system may take pages back before the last ones are read.
    budgets_are_kept(&model.write(folder.path()), 32_000, 4, "ram");
}

#[test]
fn weights_converted_while_loading_are_those_that_quantize_writes() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf");
    let (written, a, b) = (folder.path().join("small.gguf"), folder.path().join("a.f32"), folder.path().join("b.f32"));
    for format in ["Q4_K_M", "Q5_0", "F16"] {
        // The shipped model is Q8_0 already.
        let args = ["quantize", text(&shipped), "--format", format, "--requantize", "-o", text(&written), "--json"];
        json(&args);
        let run = |model: &Path, logits: &Path, more: &[&str]| {
            let ids = "5,300,12,7,40";
            let args = ["run", text(model), "--token-ids", ids, "-n", "0", "--logits", text(logits), "--json"];
            let output = memwall(&[&args[..], more].concat());
            assert!(output.status.success());
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        assert_eq!(run(&written, &a, &[]), "");
        for threads in ["1", "3"] {
            let told = run(&shipped, &b, &["--weights", format, "-t", threads]);
            assert!(told.contains(&format!("converted to {format} in")), "{told}");
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{format}");
        }
    }
}
