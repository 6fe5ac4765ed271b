//! Hugging Face folders: what works on a file works on a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use memwall_formats::gguf::TensorPlan;
use memwall_formats::{Container, safetensors};
use memwall_testdata::model_folder::{ModelFolder, Stored};
use serde_json::{Value, json};

use crate::{ids, json, refused, text};

/// Seventy-seven characters behind three special tokens.
const CHARACTERS: &str = "ĠabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-()/+*=";

/// Puts a byte-level vocabulary of single characters beside the model.
pub fn write_tokenizer(folder: &Path) {
    let names = ["<unk>", "<s>", "</s>"].map(String::from).into_iter();
    let vocabulary: serde_json::Map<String, Value> =
        names.chain(CHARACTERS.chars().map(String::from)).zip(0..).map(|(name, id)| (name, json!(id))).collect();
    assert_eq!(vocabulary.len(), 80);
    let added = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false })
    };
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({
        "bos_token": "<s>", "eos_token": { "content": "</s>" },
        "chat_template": "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}",
    });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

fn prompt(reference: &ModelFolder) -> String {
    reference.tokens[..reference.prompt].iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn continuation(model: &Path, reference: &ModelFolder) -> Vec<u64> {
    let line = json(&["run", text(model), "--token-ids", &prompt(reference), "-n", "64", "--kv", "f32", "--json"]);
    ids(&line["token_ids"])
}

#[test]
fn a_folder_and_the_gguf_that_quantize_makes_of_it_give_the_references_tokens() {
    for (name, architecture) in [
        ("llama_tied", "llama"),
        ("llama_grouped", "llama"),
        ("llama3", "llama"),
        ("llama_linear", "llama"),
        ("mistral", "llama"),
        ("qwen2", "memwall"),
        ("qwen3", "qwen3"),
        ("gla_grouped", "memwall"),
        ("gla_hybrid", "memwall"),
        ("rwkv6", "memwall"),
        ("rwkv7_hybrid", "memwall"),
    ] {
        let reference = ModelFolder::read(name);
        let folder = tempfile::tempdir().unwrap();
        reference.write(folder.path(), Stored::F32, 2);
        let want: Vec<u64> = reference.tokens[reference.prompt..].iter().map(|&id| u64::from(id)).collect();
        assert_eq!(continuation(folder.path(), &reference), want, "{name}");
        let gguf = folder.path().join("f32.gguf");
        json(&["quantize", text(folder.path()), "--format", "f32", "-o", text(&gguf), "--json"]);
        let shown = json(&["show", text(&gguf), "--json"]);
        assert_eq!(shown["metadata"]["general.architecture"], architecture, "{name}");
        assert_eq!(shown["not_a_model"], Value::Null, "{name}");
        assert_eq!(continuation(&gguf, &reference), want, "{name} as GGUF");
    }
}

#[test]
fn text_is_read_scored_and_ended_as_the_folders_files_say() {
    let reference = ModelFolder::read("llama");
    let folder = tempfile::tempdir().unwrap();
    reference.write(folder.path(), Stored::BF16, 1);
    write_tokenizer(folder.path());
    let model = text(folder.path());
    let shown = json(&["show", model, "--json"]);
    assert_eq!((&shown["container"], &shown["config"]["d_model"]), (&json!("safetensors"), &json!(32)));
    assert_eq!(shown["tensors"].as_array().unwrap().len(), reference.shapes.len());
    let line = json(&["tokenize", model, "ab <s>c", "--parse-special", "--json"]);
    assert_eq!(ids(&line["ids"]), [4, 5, 3, 1, 6]);
    let line = json(&["run", model, "Some words", "-n", "8", "--json"]);
    let first = ids(&line["token_ids"]);
    assert_eq!((line["prompt_tokens"].as_u64(), first.len()), (Some(10), 8));
    // Another end than the tokenizer's, and several of them.
    fs::write(folder.path().join("generation_config.json"), json!({ "eos_token_id": [2, first[5]] }).to_string())
        .unwrap();
    let cut = ids(&json(&["run", model, "Some words", "-n", "8", "--json"])["token_ids"]);
    let before_end = first.iter().position(|id| *id == first[5]).unwrap();
    assert_eq!(cut[..before_end], first[..before_end]);
    assert!(cut.len() <= before_end + 1, "{cut:?} of {first:?}");

    let words = folder.path().join("text.txt");
    fs::write(&words, "a text of some words, none of them long; ".repeat(8)).unwrap();
    let eval = |model: &str| json(&["eval", model, "--task", "perplexity", "-f", text(&words), "-c", "64", "--json"]);
    let of_folder = eval(model)["nll_per_token"].as_f64().unwrap();
    // In GGUF's order of rows, sums of q·k are taken in another order, which bf16 makes visible.
    for (format, bound) in [("bf16", 1e-3), ("q8_0", 0.1)] {
        let gguf = folder.path().join("quantized.gguf");
        json(&["quantize", model, "--format", format, "-o", text(&gguf), "--json"]);
        let shown = json(&["show", text(&gguf), "--json"]);
        assert!(shown["metadata"]["tokenizer.chat_template"].as_str().unwrap().contains("bos_token"));
        let of_file = eval(text(&gguf))["nll_per_token"].as_f64().unwrap();
        assert!((of_file - of_folder).abs() < bound, "{format}: {of_file} and {of_folder}");
        fs::remove_file(gguf).unwrap();
    }
}

#[test]
fn tokens_that_can_be_recalled_are_those_of_the_text_whatever_the_model() {
    let (words, folders) = (tempfile::NamedTempFile::new().unwrap(), ["llama", "qwen3"].map(ModelFolder::read));
    fs::write(words.path(), "a text of some words, none of them long; then of other words: ".repeat(8)).unwrap();
    let models = folders.map(|reference| {
        let folder = tempfile::tempdir().unwrap();
        reference.write(folder.path(), Stored::F32, 1);
        write_tokenizer(folder.path());
        folder
    });
    let paths = [text(models[0].path()), text(models[1].path())];
    let eval = |model: &str, more: &[&str]| {
        let usual = ["eval", model, "--task", "recall", "-f", text(words.path()), "-c", "64", "--json"];
        json(&[&usual[..], more].concat())
    };
    let slices = |line: &Value| ["hits", "others"].map(|slice| line[slice]["tokens"].as_u64().unwrap());
    let nll = |line: &Value, key: &str| ["hits", "others"].map(|slice| line[slice][key].as_f64().unwrap());
    let (one, two) = (eval(paths[0], &[]), eval(paths[1], &[]));
    assert_eq!(slices(&one), slices(&two));
    assert!(slices(&one).iter().all(|&n| n > 0), "{one}");
    let total = |line: &Value| line["nll_per_token"].as_f64().unwrap() * line["tokens"].as_f64().unwrap();
    for line in [&one, &two] {
        assert!((nll(line, "nll").iter().sum::<f64>() - total(line)).abs() < 1e-6 * total(line), "{line}");
    }
    // Against the other model, as when it is asked alone.
    let both = eval(paths[0], &["--reference", paths[1]]);
    assert_eq!(slices(&both), slices(&one));
    let gaps: Vec<f64> = nll(&both, "nll").iter().zip(nll(&both, "reference_nll")).map(|(a, b)| a - b).collect();
    let share = both["gap_share_of_hits"].as_f64().unwrap();
    assert!((share - gaps[0] / (gaps[0] + gaps[1])).abs() < 1e-9, "{both}");
    for (of_both, alone) in nll(&both, "reference_nll").iter().zip(nll(&two, "nll")) {
        assert!((of_both - alone).abs() < 1e-6 * alone, "{both} and {two}");
    }
    // What is frequent in the training text is known by heart.
    let known = eval(paths[0], &["--train-file", text(words.path()), "--frequent", "3"]);
    assert!(slices(&known)[0] < slices(&one)[0] && known["frequent_bigrams"].as_u64().unwrap() > 0, "{known}");
    assert_eq!(slices(&known).iter().sum::<u64>(), slices(&one).iter().sum::<u64>());
}

#[test]
fn a_model_of_any_list_of_mixers_runs_from_a_folder() {
    let reference = ModelFolder::read("gla_hybrid");
    let folder = tempfile::tempdir().unwrap();
    reference.write(folder.path(), Stored::F32, 1);
    let gguf = folder.path().join("own.gguf");
    json(&["quantize", text(folder.path()), "--format", "f32", "-o", text(&gguf), "--json"]);
    // The same weights under memwall's names, with its configuration as JSON.
    let own = tempfile::tempdir().unwrap();
    let container = Container::open(&gguf).unwrap();
    let config: Value = serde_json::from_str(container.metadata().require("memwall.config").unwrap()).unwrap();
    let config = json!({ "model_type": "memwall", "memwall": { "config": config } });
    fs::write(own.path().join("config.json"), config.to_string()).unwrap();
    let plans: Vec<TensorPlan> = container
        .tensors()
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() })
        .collect();
    let file = own.path().join("model.safetensors");
    let mut writer = safetensors::Writer::create(&file, &BTreeMap::new(), &plans).unwrap();
    for tensor in container.tensors() {
        writer.write(container.bytes(tensor)).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(continuation(own.path(), &reference), continuation(&gguf, &reference));
    fs::write(own.path().join("config.json"), json!({ "model_type": "memwall", "memwall": {} }).to_string()).unwrap();
    refused(&["run", text(own.path()), "--token-ids", "1"], &["config.json", "memwall.config"]);
}
