//! Folders that are quantized as the hub does it: written from GGUF and from folders, read back, refused.

use std::fs;
use std::path::Path;

use memwall_testdata::model_folder::{ModelFolder, Stored};
use serde_json::Value;

use crate::folder::write_tokenizer;
use crate::tiny::Tiny;
use crate::{ids, json, refused, text};

fn tokens(model: &Path) -> Vec<u64> {
    let line = json(&["run", text(model), "--token-ids", "1,50,7,9", "-n", "12", "--kv", "f32", "--json"]);
    ids(&line["token_ids"])
}

fn quantized(from: &Path, to: &Path, scheme: &str) -> Value {
    json(&["quantize", text(from), "--hub", scheme, "-o", text(to), "--json"])
}

#[test]
fn a_model_goes_to_the_hub_and_back_by_every_scheme() {
    let root = tempfile::tempdir().unwrap();
    let gguf = Tiny::new().write(root.path());
    let folder = root.path().join("folder");
    fs::create_dir(&folder).unwrap();
    ModelFolder::read("llama_grouped").write(&folder, Stored::F32, 1);
    write_tokenizer(&folder);
    for source in [&gguf, &folder] {
        for (scheme, method, least_db) in [
            ("fp8", "fp8", 30.0),
            ("fp8-block", "fp8", 30.0),
            ("mxfp4", "mxfp4", 15.0),
            ("nvfp4", "compressed-tensors", 17.0),
            ("nvfp4-modelopt", "modelopt", 17.0),
            ("bitnet", "bitnet", 3.0),
        ] {
            let out = root.path().join(format!("{scheme}-out"));
            let line = quantized(source, &out, scheme);
            let tensors = line["tensors"].as_array().unwrap();
            assert!(!tensors.is_empty(), "{scheme}: {line}");
            for tensor in tensors {
                assert!(tensor["sqnr_db"].as_f64().unwrap() > least_db, "{scheme}: {tensor}");
            }
            let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
            assert_eq!(config["quantization_config"]["quant_method"], method);
            assert_eq!(out.join("tokenizer.json").is_file(), source == &folder);
            // Back: the weights that the codes stand for, in F32, whichever way they go.
            let back = root.path().join("back.gguf");
            json(&["quantize", text(&out), "--format", "F32", "-o", text(&back), "--json"]);
            let again = root.path().join("again");
            let twice = json(&["quantize", text(&back), "--hub", scheme, "--requantize", "-o", text(&again), "--json"]);
            for tensor in twice["tensors"].as_array().unwrap() {
                let db = tensor["sqnr_db"].as_f64().unwrap_or(f64::INFINITY);
                assert!(db > 100.0, "{scheme}: what is on the grid stays there: {tensor}");
            }
            assert_eq!(tokens(&back).len(), 12, "{scheme}");
            [&out, &again].iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
        }
    }
}

#[test]
fn eight_bits_say_what_the_original_says_and_rows_keep_their_order() {
    let root = tempfile::tempdir().unwrap();
    let (folder, out, back) = (root.path().join("f"), root.path().join("out"), root.path().join("back.gguf"));
    fs::create_dir(&folder).unwrap();
    ModelFolder::read("llama").write(&folder, Stored::F32, 1);
    write_tokenizer(&folder);
    // By GGUF, where rotary pairs lie side by side, and back to a folder, where they do not.
    let gguf = root.path().join("plain.gguf");
    json(&["quantize", text(&folder), "--format", "F32", "-o", text(&gguf), "--json"]);
    quantized(&gguf, &out, "fp8-block");
    json(&["quantize", text(&out), "--format", "F32", "-o", text(&back), "--json"]);
    let words = root.path().join("words.txt");
    fs::write(&words, "the quick brown fox jumps over the lazy dog ".repeat(20)).unwrap();
    let line = json(&[
        "eval",
        text(&gguf),
        "--task",
        "perplexity",
        // It has no tokenizer: a folder made of a GGUF file has none.
        "--reference",
        text(&back),
        "--file",
        text(&words),
        "--context",
        "64",
        "--json",
    ]);
    assert!(line["mean_kl"].as_f64().unwrap() < 0.05, "{line}");
}

#[test]
fn what_the_hub_cannot_hold_or_has_quantized_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let gguf = Tiny::new().write(root.path());
    let out = root.path().join("out");
    refused(&["quantize", text(&gguf), "--hub", "fp9", "-o", text(&out)], &["fp9", "nvfp4-modelopt"]);
    refused(&["quantize", text(&gguf), "--hub", "fp8", "--format", "Q8_0", "-o", text(&out)], &["--format"]);
    quantized(&gguf, &out, "fp8");
    let again = root.path().join("again.gguf");
    refused(
        &["quantize", text(&out), "--format", "Q4_0", "-o", text(&again)],
        &["model.layers.0", "FP8", "--requantize"],
    );
    refused(&["quantize", text(&out), "--hub", "nvfp4", "-o", text(&again)], &["FP8", "--requantize"]);
    refused(&["quantize", text(&out), "--hub", "fp8", "--requantize", "-o", text(&out)], &["is being read"]);
    json(&["quantize", text(&out), "--format", "BF16", "-o", text(&again), "--json"]);
    // MXFP4 has the same values in GGUF.
    fs::remove_dir_all(&out).unwrap();
    quantized(&gguf, &out, "mxfp4");
    let line = json(&["quantize", text(&out), "--format", "MXFP4", "-o", text(&again), "--json"]);
    let q = line["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.attn_v.weight").unwrap();
    assert_eq!((&q["to"], &q["sqnr_db"]), (&"MXFP4".into(), &Value::Null), "exact");
    // A scale that is missing.
    let config = out.join("config.json");
    let broken = fs::read_to_string(&config).unwrap().replace("\"mxfp4\"", "\"fp8\", \"weight_block_size\": [0, 1]");
    fs::write(&config, broken).unwrap();
    refused(&["quantize", text(&out), "--format", "F32", "-o", text(&again)], &["weight_block_size"]);
}

#[test]
fn bitnet_is_packed_and_unpacked_without_a_change_of_what_it_says() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for name in ["bitnet", "bitnet_llama"] {
        let folder = path(name);
        fs::create_dir(&folder).unwrap();
        ModelFolder::read(name).write(&folder, Stored::F32, 1);
        // Weights rounded in every pass, then four a byte, then plain numbers.
        let online = tokens(&folder);
        let packed = path(&format!("{name}-packed"));
        quantized(&folder, &packed, "bitnet");
        let config: Value = serde_json::from_slice(&fs::read(packed.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["quantization_config"]["quantization_mode"], "offline");
        let back = path(&format!("{name}.gguf"));
        json(&["quantize", text(&packed), "--format", "F32", "-o", text(&back), "--json"]);
        assert_eq!(tokens(&back), online);
        if name == "bitnet" {
            let again = path("again");
            json(&["quantize", text(&back), "--hub", "bitnet", "--requantize", "-o", text(&again), "--json"]);
            let config: Value = serde_json::from_slice(&fs::read(again.join("config.json")).unwrap()).unwrap();
            assert_eq!((&config["model_type"], &config["hidden_act"]), (&"bitnet".into(), &"relu2".into()));
            let plain = path("plain.gguf");
            json(&["quantize", text(&again), "--format", "F32", "-o", text(&plain), "--json"]);
            assert_eq!(tokens(&plain), online);
        }
        refused(&["run", text(&packed), "--token-ids", "1", "-n", "1"], &["U8", "memwall quantize"]);
    }
}
