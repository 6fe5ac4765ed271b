//! Each bad input gives a clear error that names the culprit, exit code 2, and never a panic.

use std::fs;

use crate::tiny::{CONTEXT, Tiny};
use crate::{json, memwall, refused, text};

#[test]
fn a_file_that_is_missing_or_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    refused(&["run", "absent.gguf", "x"], &["absent.gguf"]);
    let other = folder.path().join("notes.gguf");
    fs::write(&other, "not a model at all, only some text that goes on for a while").unwrap();
    refused(&["run", text(&other), "x"], &["notes.gguf"]);
    refused(&["run", text(folder.path()), "x"], &[text(folder.path())]);
    fs::write(folder.path().join("empty.bin"), "").unwrap();
    refused(&["show", text(&folder.path().join("empty.bin"))], &["empty.bin"]);
}

/// Pseudo-random numbers below `most`.
fn numbers(most: usize) -> impl Iterator<Item = usize> {
    let step =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(1_u64), step).skip(1).map(move |state| (state >> 33) as usize % most)
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let whole = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.gguf");
    for length in numbers(whole.len()).take(200) {
        fs::write(&cut, &whole[..length]).unwrap();
        refused(&["run", text(&cut), "--token-ids", "1", "-n", "1", "--json"], &["cut.gguf"]);
    }
}

#[test]
fn a_byte_flipped_in_the_header_gives_a_model_or_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let whole = fs::read(&path).unwrap();
    let name = b"output_norm.weight";
    // The last description: its name, dimensions, type and offset.
    let header = whole.windows(name.len()).rposition(|w| w == name).unwrap() + name.len() + 4 + 8 + 4 + 8;
    let flipped = folder.path().join("flipped.gguf");
    let mut refusals = 0;
    for (at, bit) in numbers(header).zip(numbers(8).skip(1)).take(200) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        fs::write(&flipped, &bytes).unwrap();
        let output = memwall(&["run", text(&flipped), "--token-ids", "1", "-n", "1", "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "byte {at}, bit {bit}: {said}");
        match output.status.code() {
            Some(0) => {}
            Some(2) => {
                refusals += 1;
                assert!(said.contains("flipped.gguf") || said.contains("context"), "byte {at}, bit {bit}: {said}");
            }
            other => panic!("byte {at}, bit {bit}: exit {other:?}: {said}"),
        }
    }
    assert!(refusals >= 20, "{refusals} of 200 were refused");
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    let name = b"output_norm.weight";
    let offset = bytes.windows(name.len()).rposition(|w| w == name).unwrap() + name.len() + 4 + 8 + 4;
    bytes[offset..offset + 8].fill(0);
    fs::write(&path, bytes).unwrap();
    refused(&["run", text(&path), "--token-ids", "1"], &["tiny.gguf", "output_norm.weight", "token_embd.weight"]);
}

#[test]
fn what_is_wrong_in_a_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = |tiny: &Tiny, parts: &[&str]| {
        let path = tiny.write(folder.path());
        refused(&["run", text(&path), "--token-ids", "1", "--json"], parts);
    };
    let mut tiny = Tiny::new();
    tiny.metadata.insert("general.architecture", "lama");
    run(&tiny, &["tiny.gguf", "lama", "qwen3"]);
    let mut tiny = Tiny::new();
    tiny.tensors.retain(|t| t.name != "blk.0.ffn_up.weight");
    run(&tiny, &["tiny.gguf", "blk.0.ffn_up.weight", "[64, 32]"]);
    let mut tiny = Tiny::new();
    tiny.tensor("blk.0.attn_v.weight").shape = vec![8, 32];
    run(&tiny, &["blk.0.attn_v.weight", "[8, 32]", "[16, 32]"]);
    let mut tiny = Tiny::new();
    tiny.metadata.remove("llama.context_length");
    run(&tiny, &["llama.context_length"]);
    let mut tiny = Tiny::new();
    tiny.metadata.insert("llama.attention.head_count", 0_u32);
    run(&tiny, &["llama.attention.head_count"]);
    let mut tiny = Tiny::new();
    tiny.metadata.insert("memwall.config", "{\"vocab\": 3}");
    tiny.metadata.insert("general.architecture", "memwall");
    run(&tiny, &["memwall.config", "vocab"]);
}

#[test]
fn a_model_without_a_tokenizer_runs_on_ids_and_refuses_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.metadata.remove("tokenizer.ggml.model");
    let path = tiny.write(folder.path());
    refused(&["run", text(&path), "hello"], &["tokenizer"]);
    let line = json(&["run", text(&path), "--token-ids", "1,5", "-n", "3", "--json"]);
    assert_eq!(line["generated_tokens"], 3);
}

#[test]
fn weights_that_are_no_numbers_are_warned_of_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.nan = Some("output_norm.weight");
    let path = tiny.write(folder.path());
    let output = memwall(&["run", text(&path), "--token-ids", "1", "-n", "2", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("warning") && said.contains("output_norm.weight"), "{said}");
}

#[test]
fn contexts_budgets_and_prompts_that_do_not_fit_are_refused_with_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let model = text(&path);
    let most = CONTEXT.to_string();
    refused(&["run", model, "--token-ids", "1", "-c", "65"], &["65", &most]);
    refused(&["run", model, "--token-ids", "1", "-c", "0"], &["context", &most]);
    let long = vec!["7"; 70].join(",");
    refused(&["run", model, "--token-ids", &long], &["70 tokens", &most]);
    refused(&["run", model, "--token-ids", "259"], &["--token-ids", "259"]);
    refused(&["run", model, "--token-ids", "1", "--memory", "0"], &["0", "minimum that would work"]);
    refused(&["run", model, "--token-ids", "1", "--memory", "2G"], &["--memory", "2G", "64MiB"]);
    refused(&["run", model, "--token-ids", "1", "--threads", "0"], &["threads"]);
    refused(&["run", model, "--token-ids", "1", "--top-p", "1.5"], &["top-p", "1.5"]);
    refused(&["run", model, "--token-ids", "1", "--kv", "q4_0"], &["q8_0"]);
    refused(&["run", model, "--token-ids", "1", "--temprature", "1"], &["--temprature", "--temperature"]);
    refused(&["tokenzie", "x"], &["tokenize"]);
}

#[test]
fn the_minimum_that_a_refusal_names_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let args = ["run", text(&path), "--token-ids", "1", "-n", "2", "--json", "--memory"];
    let output = memwall(&[&args[..], &["64KiB"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let minimum = said.split("would work is").nth(1).and_then(|s| s.split('(').nth(1)).unwrap();
    let minimum: usize = minimum.split(' ').next().unwrap().parse().unwrap();
    // The process itself is not of the same size to the page each time.
    let line = json(&[&args[..], &[&(minimum + (1 << 20)).to_string()]].concat());
    let bytes = |key: &str| line[key].as_u64().unwrap() as usize;
    assert!(bytes("plan_bytes") <= minimum + (1 << 20) && bytes("rss_bytes") <= minimum + (1 << 20), "{line}");
}

#[test]
fn outputs_that_cannot_be_written_are_named_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let absent = folder.path().join("absent/out.gguf");
    refused(&["quantize", text(&path), "--format", "f16", "-o", text(&absent)], &["absent"]);
    refused(&["run", text(&path), "--token-ids", "1", "-n", "0", "--logits", text(&absent)], &["absent"]);
    refused(&["quantize", text(&path), "--format", "f16", "-o", text(&path)], &["tiny.gguf"]);
    refused(&["quantize", text(&path), "--format", "q4km", "-o", "x"], &["q4km", "Q4_K_M"]);
    let mut tiny = Tiny::new();
    tiny.nan = Some("blk.0.attn_q.weight");
    let path = tiny.write(folder.path());
    let out = folder.path().join("out.gguf");
    refused(&["quantize", text(&path), "--format", "q8_0", "-o", text(&out)], &["blk.0.attn_q.weight", "NaN"]);
    assert!(!out.exists());
}

#[test]
fn texts_that_cannot_be_read_or_scored_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new().write(folder.path());
    let model = text(&path);
    let short = folder.path().join("short.txt");
    fs::write(&short, "short").unwrap();
    let eval = ["eval", model, "--task", "perplexity", "--file"];
    refused(&[&eval[..], &["absent.txt"]].concat(), &["absent.txt"]);
    refused(&[&eval[..], &[text(&short), "-c", "64"]].concat(), &["64"]);
    refused(&[&eval[..], &[text(&short)]].concat(), &["512", "64"]);
    refused(&[&eval[..], &[text(&short), "--train-file", text(&short)]].concat(), &["--train-file", "recall"]);
    let bytes = folder.path().join("bytes.txt");
    fs::write(&bytes, [0xff, 0xfe, 0x00]).unwrap();
    refused(&["run", model, "-f", text(&bytes)], &["bytes.txt", "UTF-8"]);
    refused(&["tokenize", model], &["TEXT"]);
}
