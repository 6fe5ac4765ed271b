//! Each bad Hugging Face folder gives an error that names the file, key or tensor, exit code 2, and never a panic.

use std::fs;
use std::path::Path;

use memwall_testdata::model_folder::{ModelFolder, Stored};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folder::write_tokenizer;
use crate::{memwall, refused, text};

fn written(model: &ModelFolder, shards: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path(), Stored::F32, shards);
    folder
}

#[track_caller]
fn run_is_refused(folder: &Path, parts: &[&str]) {
    refused(&["run", text(folder), "--token-ids", "1", "-n", "1", "--json"], parts);
}

#[test]
fn shards_that_are_missing_or_misnamed_are_named() {
    let model = ModelFolder::read("llama");
    let folder = written(&model, 3);
    let index = folder.path().join("model.safetensors.index.json");
    let whole = fs::read_to_string(&index).unwrap();
    fs::write(&index, whole.replace("model-00002-of-00003", "model-00009-of-00003")).unwrap();
    run_is_refused(folder.path(), &["model-00009-of-00003.safetensors"]);
    fs::write(&index, whole.replacen("model-00001-of-00003", "../../model", 1)).unwrap();
    run_is_refused(folder.path(), &["index.json", "../../model"]);
    fs::write(&index, whole.replacen("model-00001-of-00003", "model-00003-of-00003", 1)).unwrap();
    run_is_refused(folder.path(), &["index.json", "model.embed_tokens.weight", "model-00003-of-00003"]);
    fs::write(&index, &whole[..whole.len() / 2]).unwrap();
    run_is_refused(folder.path(), &["index.json", "JSON"]);
    fs::write(&index, &whole).unwrap();
    fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    run_is_refused(folder.path(), &["model-00002-of-00003.safetensors"]);
}

#[test]
fn a_shard_cut_anywhere_is_refused() {
    let folder = written(&ModelFolder::read("llama"), 1);
    let file = folder.path().join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    for part in 0..24 {
        fs::write(&file, &whole[..whole.len() * part / 24]).unwrap();
        run_is_refused(folder.path(), &["model.safetensors"]);
    }
}

#[test]
fn what_is_wrong_in_a_configuration_is_named() {
    let model = ModelFolder::read("llama");
    let folder = written(&model, 1);
    let file = folder.path().join("config.json");
    let with = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&model.config).unwrap();
        config[key] = value;
        fs::write(&file, config.to_string()).unwrap();
    };
    for (key, value, parts) in [
        ("model_type", json!("bert"), &["bert", "qwen3"][..]),
        ("model_type", Value::Null, &["model_type", "string"]),
        ("architectures", json!(["LlamaForSequenceClassification"]), &["architectures", "ForCausalLM"]),
        ("hidden_size", json!("32"), &["hidden_size", "\"32\"", "integer"]),
        ("hidden_size", json!(64), &["tensor model.embed_tokens.weight", "[80, 32]", "[80, 64]"]),
        ("hidden_size", json!(1_u64 << 60), &["d_model"]),
        ("num_attention_heads", json!(0), &["heads", "at least 1"]),
        ("num_attention_heads", json!(3), &["is 3", "kv_heads 4"]),
        ("num_hidden_layers", json!(3), &["model.layers.2.input_layernorm.weight"]),
        ("num_hidden_layers", json!(1_000_000), &["num_hidden_layers", "1000000"]),
        ("vocab_size", json!(81), &["model.embed_tokens.weight", "[81, 32]"]),
        ("hidden_act", json!("tanh"), &["hidden_act", "tanh", "silu"]),
        ("attention_bias", json!(true), &["q_proj.bias"]),
        ("attention_bias", json!("yes"), &["attention_bias", "true or false"]),
        (
            "rope_parameters",
            json!({ "rope_type": "dynamic", "factor": 2.0 }),
            &["rope_parameters.rope_type", "dynamic"],
        ),
        ("rope_parameters", json!({ "rope_type": "linear", "factor": 0.0 }), &["scaling.factor", "above 0"]),
        ("partial_rotary_factor", json!(0.5), &["partial_rotary_factor"]),
        ("max_position_embeddings", json!(0), &["max_context", "at least 1"]),
        ("quantization_config", json!({ "quant_method": "gptq" }), &["quantization_config", "gptq"]),
        ("tie_word_embeddings", json!(1), &["tie_word_embeddings", "true or false"]),
    ] {
        with(key, value);
        run_is_refused(folder.path(), parts);
    }
    fs::write(&file, "{\"model_type\": \"llama\"").unwrap();
    run_is_refused(folder.path(), &["config.json", "JSON"]);
    fs::write(&file, "[]").unwrap();
    run_is_refused(folder.path(), &["config.json", "JSON"]);
    fs::remove_file(&file).unwrap();
    run_is_refused(folder.path(), &["config.json"]);
}

#[test]
fn keys_that_are_not_known_are_warned_of() {
    let model = ModelFolder::read("llama");
    let folder = written(&model, 1);
    let mut config: Value = serde_json::from_str(&model.config).unwrap();
    config["final_logit_softcapping"] = json!(30.0);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let output = memwall(&["run", text(folder.path()), "--token-ids", "1", "-n", "1", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("warning") && said.contains("final_logit_softcapping"), "{said}");
}

#[test]
fn weights_that_are_missing_of_another_shape_or_no_numbers_are_named() {
    let whole = ModelFolder::read("llama");
    let mut model = whole.clone();
    model.shapes.retain(|(name, _)| name != "model.layers.1.mlp.up_proj.weight");
    run_is_refused(written(&model, 1).path(), &["model.safetensors", "model.layers.1.mlp.up_proj.weight", "[48, 32]"]);
    let mut gla = ModelFolder::read("gla");
    gla.shapes.retain(|(name, _)| name != "model.layers.1.attn_norm.weight");
    run_is_refused(written(&gla, 1).path(), &["model.layers.1.attn_norm.weight"]);
    let mut model = whole.clone();
    for (name, shape) in &mut model.shapes {
        if name == "lm_head.weight" {
            *shape = vec![32, 80];
        }
    }
    run_is_refused(written(&model, 1).path(), &["lm_head.weight", "[32, 80]", "[80, 32]"]);

    let folder = written(&whole, 1);
    let file = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, &bytes).unwrap();
    let output = memwall(&["run", text(folder.path()), "--token-ids", "1", "-n", "1", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let last = &whole.shapes.last().unwrap().0;
    assert!(output.status.success() && said.contains("warning") && said.contains(last.as_str()), "{said}");
    // A type of the same size that is no float.
    let json =
        String::from_utf8(bytes[8..].iter().take_while(|b| b.is_ascii() && **b != 0).copied().collect()).unwrap();
    assert!(json.contains("\"F32\""));
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
    bytes[at..at + 5].copy_from_slice(b"\"I32\"");
    fs::write(&file, &bytes).unwrap();
    run_is_refused(folder.path(), &["I32", &whole.shapes[0].0]);
}

#[test]
fn a_tokenizer_that_is_missing_or_damaged_is_named() {
    let folder = written(&ModelFolder::read("llama"), 1);
    let model = text(folder.path());
    refused(&["run", model, "hello"], &["tokenizer.json", "tokenizer.model"]);
    write_tokenizer(folder.path());
    let file = folder.path().join("tokenizer.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    refused(&["run", model, "hello"], &["tokenizer.json", "JSON"]);
    fs::write(&file, String::from_utf8(whole.clone()).unwrap().replace("\"=\":79", "\"=\":79,\"==\":80")).unwrap();
    refused(&["run", model, "hello"], &["81 tokens", "80"]);
    fs::write(&file, whole).unwrap();
    fs::write(folder.path().join("generation_config.json"), "{").unwrap();
    refused(&["run", model, "hello"], &["generation_config.json", "JSON"]);
    fs::remove_file(&file).unwrap();
    fs::write(folder.path().join("tokenizer.model"), b"\x0a\x80\x80").unwrap();
    refused(&["run", model, "hello"], &["tokenizer.model", "SentencePiece"]);
}
