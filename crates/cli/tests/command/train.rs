//! `memwall train` from outside: what it refuses, keeps to, and leaves.

use std::fs;

use memwall_formats::Container;

use crate::training::{Left, Training, files, recipe};
use crate::{json, refused, text};

#[test]
fn a_training_says_what_it_did_and_leaves_a_model_that_runs() {
    let training = Training::new(&format!(
        "{}validate_every = 4\ncheckpoint_every = 5\n[sample]\nevery = 6\nprompt = \"the cat\"\ntokens = 8\n",
        recipe(64, 12, "")
    ));
    let out = training.path().join("out");
    let lines = training.run(&out, &["--export", "Q8_0"]);
    let (summary, steps) = lines.split_last().expect("lines");
    assert_eq!(steps.len(), 12);
    for (i, line) in steps.iter().enumerate() {
        let step = i + 1;
        assert_eq!((&line["step"], &line["steps"]), (&step.into(), &12.into()));
        assert!(line["loss"].as_f64().unwrap() > 0.0 && line["gradient_norm"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["tokens_per_second"].as_f64().unwrap() > 0.0 && line["rate"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!(line["validation_bits_per_byte"].is_f64(), step % 4 == 0, "{line}");
        assert_eq!(line["sample"].is_string(), step % 6 == 0, "{line}");
    }
    let number = |key: &str| summary[key].as_f64().unwrap_or_else(|| panic!("{key} in {summary}"));
    assert!(number("test_bits_per_byte") > 0.0 && number("parameters") > 40_000.0 && number("rss_bytes") > 1e6);
    assert_eq!(Left::of(&out).lines.len(), 12);
    assert!(files(&out).iter().any(|f| text(f).contains("events.out.tfevents")));

    let model = out.join("model.gguf");
    let line = json(&["run", text(&model), "the cat", "-n", "4", "--json"]);
    assert_eq!(line["generated_tokens"], 4);
    let line = json(&["run", text(&out.join("checkpoint.safetensors")), "the cat", "-n", "4", "--json"]);
    assert_eq!(line["generated_tokens"], 4, "a checkpoint is a model too");

    training.refused(&out, &[], &["has a checkpoint", "--resume", "--out"]);
    // Resumed at its end: nothing is left to do, and nothing changes.
    let before = Left::of(&out);
    training.run(&out, &["--resume", "--export", "Q8_0"]);
    Left::of(&out).assert_equals(&before);
}

#[test]
fn a_budget_is_kept_by_recomputing_and_refused_with_the_minimum_before_that() {
    let more = "accumulate = 2\n[sample]\nevery = 2\nprompt = \"the cat\"\ntokens = 8\n";
    let training = Training::new(&recipe(256, 3, more).replace("batch = 2\nwindow = 32", "batch = 8\nwindow = 128"));
    let whole = training.run(&training.path().join("whole"), &[]);
    let plan = whole.last().unwrap()["plan_bytes"].as_u64().unwrap();
    let least = {
        let args = training.args(&training.path().join("least"), &["--memory", "1MiB"]);
        let output = crate::memwall(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("weights") && said.contains("moments") && said.contains("gradients"), "{said}");
        let minimum = said.split("would work is").nth(1).and_then(|s| s.split('(').nth(1)).expect("a minimum");
        minimum.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(least < plan, "recomputing needs less: {least} of {plan}");
    // The process itself is not of the same size to the page each time.
    let limit = least + (1 << 20);
    let tight_out = training.path().join("tight");
    let tight = training.run(&tight_out, &["--memory", &limit.to_string()]);
    let summary = tight.last().unwrap();
    assert!(summary["recompute"].as_u64().unwrap() > 0, "{summary}");
    for key in ["plan_bytes", "rss_bytes"] {
        assert!(summary[key].as_u64().unwrap() <= limit, "{key} of {limit}: {summary}");
    }
    Left::of(&tight_out).assert_equals(&Left::of(&training.path().join("whole")));
}

#[test]
fn weights_that_explode_name_an_operator_and_leave_the_last_good_checkpoint() {
    // λ η = 10: every step makes the weights nine times larger.
    let explodes = "checkpoint_every = 1\n[optimizer]\nweight_decay = 10.0\n";
    let training = Training::new(&recipe(64, 200, explodes).replace("3e-3", "1.0"));
    let out = training.path().join("out");
    let checkpoint = out.join("checkpoint.safetensors");
    let said = ["step ", " made ", "in output 0", "layers.", "the last good checkpoint is", text(&checkpoint)];
    training.refused(&out, &[], &said);
    let kept = fs::read(&checkpoint).expect("a checkpoint");
    let container = Container::open(&checkpoint).expect("a checkpoint");
    for tensor in container.tensors() {
        let values = container.bytes(tensor).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        assert!(values.into_iter().all(f32::is_finite), "{}", tensor.name);
    }
    training.refused(&out, &["--resume"], &said);
    assert!(fs::read(&checkpoint).expect("a checkpoint") == kept);

    // At the first step already: nothing is kept.
    let training = Training::new(&recipe(64, 200, "checkpoint_every = 1\n").replace("3e-3", "1e36"));
    training.refused(&out.with_file_name("none"), &[], &["step 1", "in output 0", "there is no checkpoint yet"]);
    assert!(!out.with_file_name("none").join("checkpoint.safetensors").exists(), "weights of no use are not kept");
}

#[test]
fn two_trainings_in_one_folder_are_refused() {
    let training = Training::new(&recipe(64, 100_000, ""));
    let out = training.path().join("out");
    let mut first = training.spawn(&out);
    let begun = || fs::metadata(out.join("metrics.jsonl")).is_ok_and(|m| m.len() > 0);
    while !begun() {
        assert!(first.try_wait().unwrap().is_none(), "the first training runs");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    training.refused(&out, &["--resume"], &["metrics.jsonl", "another training"]);
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn what_is_wrong_is_named() {
    let training = Training::new(&recipe(64, 4, ""));
    let out = training.path().join("out");
    training.refused(&out, &["--memory", "2G"], &["--memory", "2G", "64MiB"]);
    training.refused(&out, &["--export", "q9_0"], &["--export", "q9_0", "did you mean"]);
    training.refused(&out, &["--resum"], &["--resum", "--resume"]);
    let file = training.path().join("file");
    fs::write(&file, "").unwrap();
    training.refused(&file, &[], &["file"]);
    refused(&["train", "absent.toml"], &["absent.toml"]);

    let path = training.path().join("recipe.toml");
    let good = fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str, parts: &[&str]| {
        assert!(good.contains(from), "{from}");
        fs::write(&path, good.replace(from, to)).unwrap();
        training.refused(&out, &[], parts);
    };
    with("batch = 2", "bach = 2", &["recipe.toml", "bach", "did you mean `batch`"]);
    with("text.txt", "absent.txt", &["absent.txt"]);
    with("vocab_size = 280", "vocab_size = 20", &["20"]);
    with("[data]", "[sample]\nevery = 1\nprompt = \"the\"\ntokens = 500\n[data]", &["sample.tokens", "128"]);
    with(
        "[data]",
        "[[optimizer.groups]]\nweights = [\"model.nrm.weight\"]\nweight_decay = 0\n[data]",
        &["optimizer.groups.0.weights", "model.nrm.weight", "model.norm.weight"],
    );
    with("name = \"small\"", "name = \"small\"\nfrom = \"absent.gguf\"", &["absent.gguf"]);
}
