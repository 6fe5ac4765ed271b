//! Contracts on models whose outputs are known.

use std::fs;

use serde_json::Value;

use crate::tiny::{Tiny, VOCAB};
use crate::{ids, json, memwall, text};

fn reference(name: &str) -> Option<Vec<u64>> {
    let path = memwall_testdata::data(&format!("models-llama2c/{name}-reference.json"))?;
    let reference: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Some(ids(&reference["ids_with_bos"]))
}

#[test]
fn greedy_ids_are_the_reference_also_through_f32_gguf() {
    for (name, file) in [("stories260K", "stories260K-restored"), ("aidreams260K", "aidreams260K")] {
        let Some(want) = reference(name) else { return };
        let Some(model) = memwall_testdata::data(&format!("models-llama2c/{file}.bin")) else { return };
        let folder = tempfile::tempdir().unwrap();
        let gguf = folder.path().join("f32.gguf");
        let report = json(&["quantize", text(&model), "--format", "f32", "-o", text(&gguf), "--json"]);
        assert_eq!(report["format"], "F32");
        for model in [&model, &gguf] {
            let line = json(&["run", text(model), "--token-ids", "1", "-n", "256", "--json"]);
            let made = ids(&line["token_ids"]);
            let n = made.len().min(want.len() - 1);
            assert!(n >= 127, "{name}: {n} tokens");
            assert_eq!(made[..n], want[1..=n], "{}", model.display());
        }
        // The logits of the checkpoint are held to the reference where the engine is tested.
        let prompt = want[..120].iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let logits = [&model, &gguf].map(|model| {
            let file = folder.path().join("logits.f32");
            let args = ["--token-ids", &prompt, "-n", "0", "--kv", "f32", "--logits", text(&file), "--json"];
            json(&[&["run", text(model)][..], &args].concat());
            let bytes = fs::read(&file).unwrap();
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<f32>>()
        });
        let worst = logits[0].iter().zip(&logits[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(logits[0].len() == 120 * 512 && worst < 1e-5, "{name}: {worst}");
    }
}

#[test]
fn a_run_says_what_the_contract_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let line = json(&["run", text(&path), "ab", "-n", "8", "--memory", "256MiB", "--json"]);
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = [
        "text",
        "token_ids",
        "prompt_tokens",
        "generated_tokens",
        "prefill_tps",
        "decode_tps",
        "plan_bytes",
        "peak_bytes",
        "rss_bytes",
        "bandwidth_share",
    ];
    assert_eq!(keys, wanted);
    // BOS, the space that SentencePiece puts first, a, b.
    let prompt = ids(&json(&["tokenize", text(&path), "ab", "--add-special", "--json"])["ids"]);
    assert_eq!(line["prompt_tokens"], prompt.len());
    assert_eq!(ids(&line["token_ids"]).len() as u64, line["generated_tokens"].as_u64().unwrap());
    assert!(line["rss_bytes"].as_u64().unwrap() <= 256 << 20);
    let again = json(&["run", text(&path), "ab", "-n", "8", "--threads", "1", "--json"]);
    assert_eq!(line["token_ids"], again["token_ids"], "greedy, on any number of threads");
}

#[test]
fn a_seed_fixes_what_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let run = |seed| {
        let args =
            ["run", text(&path), "--token-ids", "1,9", "-n", "20", "--json", "--temperature", "2", "--seed", seed];
        ids(&json(&args)["token_ids"])
    };
    assert_eq!(run("3"), run("3"));
    assert_ne!(run("3"), run("4"));
}

#[test]
fn logits_of_the_prompt_are_written_whole_and_end_in_the_token_that_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let file = folder.path().join("logits.f32");
    let prompt: Vec<String> = (1..=40).map(|i| i.to_string()).collect();
    let prompt = prompt.join(",");
    let line = json(&["run", text(&path), "--token-ids", &prompt, "-n", "0", "--logits", text(&file), "--json"]);
    assert_eq!(line["generated_tokens"], 0);
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len(), 40 * VOCAB * 4);
    let last: Vec<f32> =
        bytes[39 * VOCAB * 4..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let likeliest = (0..VOCAB).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap() as u64;
    let line = json(&["run", text(&path), "--token-ids", &prompt, "-n", "1", "--json"]);
    let made = ids(&line["token_ids"]);
    assert!(made == [likeliest] || (made.is_empty() && likeliest == 2), "{made:?} {likeliest}");
}

#[test]
fn perplexity_of_a_model_against_itself_has_no_divergence_and_quantized_a_little() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let words = folder.path().join("text.txt");
    fs::write(&words, "a text of some words, none of them long; ".repeat(12)).unwrap();
    let eval = |model: &str, reference: &str| {
        json(&[
            "eval",
            model,
            "--task",
            "perplexity",
            "-f",
            text(&words),
            "-c",
            "32",
            "--reference",
            reference,
            "--json",
        ])
    };
    let line = eval(text(&path), text(&path));
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    assert_eq!((number(&line, "mean_kl"), number(&line, "top1_agreement")), (0.0, 1.0));
    assert!((number(&line, "nll_per_token").exp() / number(&line, "perplexity") - 1.0).abs() < 1e-9);
    let bits = number(&line, "nll_per_token") * number(&line, "tokens") / std::f64::consts::LN_2;
    assert!((bits / number(&line, "bytes") - number(&line, "bits_per_byte")).abs() < 1e-9);
    let quantized = folder.path().join("q8.gguf");
    let report = json(&["quantize", text(&path), "--format", "Q8_0", "-o", text(&quantized), "--json"]);
    assert_eq!(report["tensors"][0]["to"], "Q8_0");
    assert!(report["relative_rmse"].as_f64().unwrap() < 0.01, "{report}");
    let line = eval(text(&quantized), text(&path));
    assert!((0.0..0.01).contains(&number(&line, "mean_kl")) && number(&line, "mean_kl") > 0.0, "{line}");
}

#[test]
fn show_tells_a_file_and_draws_its_plan() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let line = json(&["show", text(&path), "--json"]);
    assert_eq!(line["container"], "gguf");
    assert_eq!(line["config"]["d_model"], 32);
    assert_eq!(line["metadata"]["llama.block_count"], 1);
    assert_eq!(line["tensors"].as_array().unwrap().len(), 11);
    let svg = folder.path().join("plan.svg");
    let line = json(&["show", text(&path), "--plan", text(&svg), "--json"]);
    let drawing = fs::read_to_string(&svg).unwrap();
    assert!(line["arena_bytes"].as_u64() >= line["lower_bound_bytes"].as_u64());
    assert!(drawing.starts_with("<svg") && drawing.contains("scratch") && drawing.ends_with("</svg>\n"));
}

#[test]
fn completions_and_help_are_there_without_colour_codes() {
    for shell in ["bash", "zsh", "fish"] {
        let output = memwall(&["completions", shell]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("memwall"));
    }
    let help = memwall(&["run", "--help"]);
    assert!(help.status.success() && !help.stdout.contains(&0x1b));
}

#[test]
fn without_a_model_the_one_that_ships_runs_inside_a_small_budget() {
    let line = json(&["run", "It was a dark night", "-n", "32", "--memory", "96MiB", "--json"]);
    assert_eq!(line["generated_tokens"], 32);
    assert!(!line["text"].as_str().unwrap().is_empty());
    let (plan, rss) = (line["plan_bytes"].as_u64().unwrap(), line["rss_bytes"].as_u64().unwrap());
    assert!(plan <= 96 << 20 && rss <= 96 << 20, "{line}");
    let lone = json(&["run", "--token-ids", "5", "-n", "2", "--json"]);
    assert_eq!(lone["prompt_tokens"], 1);
}

#[test]
fn a_reader_that_has_enough_ends_the_command_without_complaint() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_memwall"))
        .args(["run", "It was", "-n", "2000"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
