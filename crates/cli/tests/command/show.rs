//! `memwall show` of each kind of file, and `memwall compare` and `bench` from outside.

use std::fs;
use std::path::Path;

use crate::tiny::Tiny;
use crate::{json, memwall, refused, text};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

const RECIPE: &str = r#"
name = "tiny"

[model]
vocab_size = 280
d_model = 16
max_context = 32

[[model.layers]]
mixer = { kind = "gla", heads = 2, key_width = 4, value_width = 8 }
channel = { kind = "glu", hidden = 32 }

[[model.layers]]
mixer = { kind = "attention", heads = 2, kv_heads = 1, head_dim = 8, rope = {} }
channel = { kind = "glu", hidden = 32 }

[data]
files = ["text.txt"]

[train]
steps = 2
batch = 2
window = 16
learning_rate = 1e-3
recompute = 2
"#;

#[test]
fn a_recipe_its_step_and_its_checkpoint_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("tiny.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let line = json(&["show", text(&recipe), "--json"]);
    assert_eq!((&line["kind"], &line["tokens"]), (&"recipe".into(), &64.into()));
    let (parameters, state) = (line["parameters"].as_u64().unwrap(), line["state_bytes"].as_u64().unwrap());
    assert_eq!(state, 3 * 4 * parameters);
    let people = memwall(&["show", text(&recipe)]);
    assert!(String::from_utf8_lossy(&people.stdout).contains("2 of 2 layers made again"));

    let svg = folder.path().join("step.svg");
    let drawn = json(&["show", text(&recipe), "--plan", text(&svg), "--json"]);
    assert_eq!(drawn["arena_bytes"], line["arena_bytes"], "the picture is of the plan");
    let picture = fs::read_to_string(&svg).unwrap();
    for part in ["done again", "silu·mul", "backward pass", "layers.1", "live bytes", "gla_backward"] {
        assert!(picture.contains(part), "no {part} in the picture");
    }

    let sentence = "the quick brown fox jumps over the lazy dog. ";
    fs::write(folder.path().join("text.txt"), sentence.repeat(200)).unwrap();
    let runs = folder.path().join("runs");
    let trained = memwall(&["train", text(&recipe), "--data", text(folder.path()), "-o", text(&runs), "--json"]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let line = json(&["show", text(&runs.join("checkpoint.safetensors")), "--json"]);
    assert_eq!((&line["kind"], &line["training"]["steps"]), (&"checkpoint".into(), &2.into()));
    assert!(line["training"]["recipe"].as_str().unwrap().contains("tiny"));
    // Weights and their two moments.
    assert_eq!(line["parameters"].as_u64().unwrap(), 3 * parameters);
}

#[test]
fn results_and_plans_are_shown_and_other_json_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let result = repository().join("results/12-zoology.json");
    let line = json(&["show", text(&result), "--json"]);
    assert_eq!((&line["kind"], &line["result"]["name"]), (&"result".into(), &"zoology".into()));
    let people = memwall(&["show", text(&result)]);
    assert!(String::from_utf8_lossy(&people.stdout).contains("falsifier"));

    let plan = folder.path().join("plan.json");
    let part = |bytes: u64| serde_json::json!({ "format": "Q8_0", "bytes": bytes });
    let given = serde_json::json!({
        "budget_bytes": 1 << 30, "feasible": true, "minimum_bytes": 1 << 20, "choices": [],
        "plan": { "weights": part(1 << 29), "kv": { "policy": "full", "k_format": "f16", "v_format": "q8_0", "bytes": 5 },
            "state_bytes": 0, "arena_bytes": 7, "other_bytes": 9, "total_bytes": 11, "context": 4096, "threads": 2,
            "predicted_decode_tps": 20.0, "predicted_prefill_tps": 100.0, "quality_tier": "as-stored" },
    });
    fs::write(&plan, given.to_string()).unwrap();
    let people = String::from_utf8(memwall(&["show", text(&plan)]).stdout).unwrap();
    for part in ["512MiB", "Q8_0", "f16 / q8_0", "context 4096", "20.0 tokens/s", "as-stored"] {
        assert!(people.contains(part), "no {part} in {people}");
    }
    fs::write(&plan, "{}").unwrap();
    refused(&["show", text(&plan)], &["plan.json", "neither", "verdict"]);
    fs::write(&plan, "{").unwrap();
    refused(&["show", text(&plan)], &["plan.json", "no JSON"]);
}

#[test]
fn mixers_are_compared_and_an_expectation_decides_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("plot.svg");
    let budget = ["--budget-params", "20000", "--budget-steps", "60", "--batch", "8", "--time", "16", "--width", "32"];
    let base = [&["compare", "short_conv+attention", "short_conv", "--task", "mqar", "-t", "1"][..], &budget].concat();
    let line = json(&[&base[..], &["--json", "--plot", text(&svg)]].concat());
    let contestants = line["contestants"].as_array().unwrap();
    assert_eq!(contestants.len(), 2);
    for c in contestants {
        assert_eq!((&c["steps"], &c["tokens"]), (&60.into(), &(60 * 8 * 16).into()));
        assert_eq!(c["trials"].as_array().unwrap().len(), 9, "three rates on three seeds");
        assert!(c["parameters"].as_u64().unwrap() <= 20_000);
    }
    let medians: Vec<f64> = contestants.iter().map(|c| c["median"].as_f64().unwrap()).collect();
    assert!(medians[0] >= medians[1], "the best comes first");
    assert!(fs::read_to_string(&svg).unwrap().contains("short_conv+attention"));
    // The one that came last is not the best.
    let last = contestants[1]["name"].as_str().unwrap();
    let output = memwall(&[&base[..], &["--json", "--expect", last]].concat());
    assert_eq!(output.status.code(), Some(1));
    refused(&["compare", "gla", "atention", "--task", "mqar"], &["atention", "did you mean attention"]);
    refused(&["compare", "gla", "attention", "--task", "mqar", "--expect", "x"], &["--expect x"]);
    refused(&["compare", "gla", "attention", "--task", "mqr"], &["mqar-forgetting"]);
    refused(&["compare", "gla", "attention", "--task", "mqar", "--rates", "1e-3,1e-2"], &["3"]);
}

#[test]
fn a_model_is_measured_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let line = json(&["bench", text(&path), "--threads", "1", "--json"]);
    let rates = line["rates"].as_array().unwrap();
    assert_eq!(rates[0]["what"], "prefill");
    for rate in rates {
        assert!(rate["tokens_per_second"].as_f64().unwrap() > 0.0);
    }
    assert!(line["read_gbps"].as_f64().unwrap() > 0.0);
    refused(&["bench"], &["--limits"]);
}
