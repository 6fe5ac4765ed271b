//! `memwall quantize`: methods, plans within a size, and the report.

use std::fs;
use std::path::{Path, PathBuf};

use memwall_testdata::data;
use serde_json::Value;

use crate::tiny::Tiny;
use crate::{json, memwall, refused, text};

/// A tiny model and a text that it can be calibrated on.
fn tiny() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny::new().write(folder.path());
    let words = folder.path().join("words.txt");
    let line = |i: usize| format!("{} birds flew over hill {}. ", i * 37 % 101, i * 53 % 89);
    fs::write(&words, (0..60).map(line).collect::<String>()).unwrap();
    (folder, model, words)
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf")
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn every_method_writes_a_model_that_runs_and_says_how_far_it_is_from_the_original() {
    let (folder, model, words) = tiny();
    let out = folder.path().join("out.gguf");
    for method in ["nearest", "importance", "clip", "gptq"] {
        let line = json(&[
            "quantize",
            text(&model),
            "--format",
            "Q4_0",
            "--method",
            method,
            "--calibrate",
            text(&words),
            "--context",
            "32",
            "--report",
            text(&words),
            "-o",
            text(&out),
            "--json",
        ]);
        let tensors = line["tensors"].as_array().unwrap();
        let of = |name: &str| tensors.iter().find(|t| t["name"] == name).unwrap();
        assert_eq!(
            (&of("blk.0.ffn_down.weight")["method"], &of("blk.0.ffn_down.weight")["to"]),
            (&method.into(), &"Q4_0".into())
        );
        // The tied embedding is the head, and has inputs as such; norms stay.
        assert_eq!(of("token_embd.weight")["method"], method);
        assert_eq!(of("blk.0.attn_norm.weight")["to"], "F32");
        assert!(number(of("blk.0.ffn_down.weight"), "crest_factor") > 1.0);
        let report = &line["report"];
        let kl = number(report, "mean_kl");
        assert!(kl > 0.0 && kl < 0.5 && number(report, "top1_agreement") > 0.3, "{method}: {report}");
        assert!(number(report, "perplexity") > 1.0 && number(report, "bits_per_byte") > 0.0, "{method}: {report}");
        let run = memwall(&["run", text(&out), "--token-ids", "1,50", "-n", "2", "--json"]);
        assert!(run.status.success(), "{method}");
    }
}

#[test]
fn a_saved_importance_matrix_gives_the_same_bytes_as_the_text_that_it_is_of() {
    let (folder, model, words) = tiny();
    let [matrix, a, b] = ["m.gguf", "a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    let common = ["quantize", text(&model), "--format", "Q4_0", "--method", "importance", "--context", "32", "--json"];
    json(&[&common[..], &["--calibrate", text(&words), "--save-imatrix", text(&matrix), "-o", text(&a)]].concat());
    json(&[&common[..], &["--imatrix", text(&matrix), "-o", text(&b)]].concat());
    let tensors = |file: &Path| {
        let container = memwall_formats::Container::open(file).unwrap();
        let mut all: Vec<(String, Vec<u8>)> =
            container.tensors().iter().map(|t| (t.name.clone(), container.bytes(t).to_vec())).collect();
        all.sort();
        all
    };
    assert!(tensors(&a) == tensors(&b), "the matrix in the file is not the one that was used");
}

#[test]
fn a_plan_keeps_to_its_size_and_the_smallest_that_a_refusal_names_works() {
    let (folder, model, words) = tiny();
    let [out, picture] = ["out.gguf", "plans.svg"].map(|name| folder.path().join(name));
    let args = ["quantize", text(&model), "--calibrate", text(&words), "--context", "32", "-o", text(&out), "--json"];
    let plan = |bytes: usize, more: &[&str]| {
        let size = bytes.to_string();
        json(&[&args[..], &["--memory", &size], more].concat())
    };
    let output = memwall(&[&args[..], &["--memory", "1KiB"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let smallest = said.split("the smallest possible has").nth(1).and_then(|s| s.split('(').nth(1)).expect("a size");
    let smallest: usize = smallest.split(' ').next().unwrap().parse().unwrap();
    let mut last = f64::INFINITY;
    for bytes in [smallest, smallest * 5 / 4, smallest * 3 / 2, smallest * 2, smallest * 4] {
        let line = plan(bytes, &["--plot", text(&picture)]);
        assert!(number(&line, "bytes") <= bytes as f64, "{bytes}: {line}");
        let kl = number(&line["plan"], "predicted_kl");
        assert!(kl <= last, "{bytes} bytes lose more than fewer: {kl} after {last}");
        assert!(number(&line["plan"], "measured_kl") >= 0.0);
        last = kl;
    }
    assert!(fs::read_to_string(&picture).unwrap().contains("best plans, predicted"));
}

#[test]
fn what_is_quantized_already_is_refused_unless_asked_for() {
    let (folder, model, words) = tiny();
    let [q8, out] = ["q8.gguf", "out.gguf"].map(|name| folder.path().join(name));
    json(&["quantize", text(&model), "--format", "Q8_0", "-o", text(&q8), "--json"]);
    let again = ["quantize", text(&q8), "-o", text(&out), "--json"];
    let to = |format: &'static str| [&again[..], &["--format", format]].concat();
    refused(&to("Q4_0"), &["blk.0.attn_q.weight", "Q8_0", "--requantize"]);
    let plan = ["--memory", "1MiB", "--calibrate", text(&words), "--context", "32"];
    refused(&[&again[..], &plan].concat(), &["Q8_0", "--requantize"]);
    assert!(!out.exists());
    // The same format, and floats, lose nothing.
    for format in ["Q8_0", "F16", "F32"] {
        json(&to(format));
    }
    json(&[&to("Q4_0")[..], &["--requantize"]].concat());
}

#[test]
fn methods_and_texts_that_do_not_do_are_refused_by_name() {
    let (folder, model, words) = tiny();
    let [out, matrix, short] = ["out.gguf", "m.gguf", "short.txt"].map(|name| folder.path().join(name));
    let args = ["quantize", text(&model), "--format", "Q4_0", "--context", "32", "-o", text(&out)];
    let with = |more: &[&'static str], files: &[&str]| {
        let mut all: Vec<String> = args.iter().map(|s| s.to_string()).collect();
        all.extend(more.iter().map(|s| s.to_string()));
        all.extend(files.iter().map(|s| s.to_string()));
        all
    };
    let said = |args: Vec<String>, parts: &[&str]| refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    said(with(&["--method", "gtpq"], &[]), &["gtpq", "did you mean gptq"]);
    said(with(&["--method", "gptq"], &[]), &["--calibrate"]);
    fs::write(&short, "too short").unwrap();
    said(with(&["--method", "importance", "--calibrate"], &[text(&short)]), &["short.txt", "tokens; 32 are needed"]);
    // One window is enough for mean squares, but not for second moments of 64 inputs.
    fs::write(&short, "just enough for one window, not two").unwrap();
    said(with(&["--method", "gptq", "--calibrate"], &[text(&short)]), &["64 are needed", "as many tokens"]);
    said(with(&["--report"], &[text(&folder.path().join("short2.txt"))]), &["short2.txt"]);
    fs::write(&short, "short").unwrap();
    said(with(&["--report"], &[text(&short)]), &["--report", "fewer than one window"]);
    said(with(&["--method", "clip", "--imatrix"], &[text(&model)]), &["tiny.gguf", "general.type"]);
    json(&[
        "quantize",
        text(&model),
        "--format",
        "Q4_0",
        "--context",
        "32",
        "-o",
        text(&out),
        "--json",
        "--calibrate",
        text(&words),
        "--save-imatrix",
        text(&matrix),
    ]);
    said(with(&["--method", "gptq", "--imatrix"], &[text(&matrix)]), &["gptq", "--calibrate"]);
    said(with(&["--save-imatrix"], &[text(&matrix)]), &["--calibrate"]);
    let mut tiny = Tiny::new();
    tiny.nan = Some("blk.0.attn_q.weight");
    fs::create_dir(folder.path().join("nan")).unwrap();
    let bad = tiny.write(&folder.path().join("nan"));
    refused(
        &[
            "quantize",
            text(&bad),
            "--format",
            "Q4_0",
            "--method",
            "clip",
            "--calibrate",
            text(&words),
            "-o",
            text(&out),
        ],
        &["blk.0.attn_q.weight", "NaN"],
    );
    let absent = folder.path().join("absent/m.gguf");
    said(with(&["--calibrate"], &[text(&words), "--save-imatrix", text(&absent)]), &["absent"]);
}

/// The shipped model on text that no training saw.
#[test]
fn plans_of_the_shipped_model_are_on_or_beyond_the_front_of_single_formats() {
    let (Some(calibration), Some(held_out)) = (data("text/warpeace-first90.txt"), data("text/tinyshakespeare.txt"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [out, last] = ["out.gguf", "last.txt"].map(|name| folder.path().join(name));
    let whole = fs::read_to_string(held_out).unwrap();
    fs::write(&last, &whole[whole.len() - 12_000..]).unwrap();
    let (shipped, calibration) = (shipped(), text(&calibration).to_string());
    let common = [
        "quantize",
        text(&shipped),
        "--requantize",
        "--calibrate",
        &calibration,
        "--calibrate-tokens",
        "4096",
        "--context",
        "256",
        "--report",
        text(&last),
        "-o",
        text(&out),
        "--json",
    ];
    let mut before = f64::INFINITY;
    for format in ["Q2_K", "Q3_K_S"] {
        let single = json(&[&common[..], &["--format", format]].concat());
        let bytes = single["bytes"].as_u64().unwrap().to_string();
        let mixed = json(&[&common[..], &["--memory", &bytes]].concat());
        assert!(number(&mixed, "bytes") <= number(&single, "bytes"));
        let kl = |line: &Value| number(&line["report"], "mean_kl");
        assert!(kl(&mixed) <= kl(&single), "{format}: {} with a plan, {} without", kl(&mixed), kl(&single));
        assert!(kl(&mixed) <= before, "{format}: more bytes lose more");
        before = kl(&mixed);
    }
}

#[test]
fn transforms_come_first_and_the_report_is_against_the_original() {
    let (folder, model, words) = tiny();
    let out = folder.path().join("out.gguf");
    let common = ["quantize", text(&model), "--calibrate", text(&words), "--context", "32", "-o", text(&out), "--json"];
    for transforms in
        ["rotate-residual", "rotate-heads", "smooth", "activation-aware", "smooth,rotate-residual,rotate-heads"]
    {
        for (format, method) in [("F32", "nearest"), ("Q4_0", "nearest"), ("Q4_0", "gptq")] {
            let more = ["--format", format, "--transform", transforms, "--method", method, "--report", text(&words)];
            let line = json(&[&common[..], &more].concat());
            let done = line["transforms"].as_array().unwrap();
            assert_eq!(done.len(), transforms.split(',').count(), "{line}");
            assert!(done.iter().all(|t| number(t, "logits_off") <= 1e-4), "{transforms}: {done:?}");
            let kl = number(&line["report"], "mean_kl");
            let most = if format == "F32" { 1e-6 } else { 0.5 };
            assert!(kl.abs() < most, "{transforms}, {format}, {method}: {kl}");
            // A head of its own, where the tied one would be another.
            let tensors = line["tensors"].as_array().unwrap();
            let has_head = tensors.iter().any(|t| t["name"] == "output.weight");
            assert_eq!(has_head, transforms.contains("residual"), "{transforms}");
        }
    }
    assert!(
        fs::read_dir(folder.path()).unwrap().all(|f| !f.unwrap().file_name().to_string_lossy().contains("transform"))
    );
    let plain = ["quantize", text(&model), "--format", "Q4_0", "-o", text(&out)];
    refused(&[&plain[..], &["--transform", "smooth"]].concat(), &["smooth", "text"]);
    refused(&[&plain[..], &["--transform", "rotate"]].concat(), &["rotate-heads", "rotate-residual"]);
}
