//! Vocabularies of published models give the ids that were published with them. Needs the shared data sets
//! (`MEMWALL_DATA`); the tests say so and pass without.

use std::{fs, path::Path, time::Instant};

use memwall_formats::{Container, gguf::Metadata};
use memwall_testdata::data;
use memwall_tokenizer::{Message, StreamDecoder, Tokenizer};

fn open(folder: &Path, name: &str) -> Tokenizer {
    Tokenizer::open(folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap()
}

const NAMES: [&str; 6] = ["gpt-2", "falcon", "deepseek-coder", "llama-spm", "phi-3", "bert-bge"];

/// The strings with their ids, as published.
fn pairs(folder: &Path, name: &str) -> Vec<(String, Vec<u32>)> {
    let read = |what: &str| fs::read_to_string(folder.join(format!("ggml-vocab-{name}.gguf.{what}"))).unwrap();
    let (inputs, outputs) = (read("inp"), read("out"));
    let texts = inputs.split_terminator("\n__ggml_vocab_test__\n").map(String::from);
    let ids = outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    let pairs: Vec<_> = texts.zip(ids).collect();
    assert_eq!((pairs.len(), outputs.lines().count()), (46, 46));
    pairs
}

#[test]
fn every_published_string_has_its_published_ids() {
    let Some(folder) = data("tokenizers") else { return };
    let mut wrong = Vec::new();
    for name in NAMES {
        let tokenizer = open(&folder, name);
        for (text, ids) in pairs(&folder, name) {
            let got = tokenizer.encode(&text, false, false).unwrap();
            if got != ids {
                wrong.push(format!("{name}: {text:?}\n  got  {got:?}\n  want {ids:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} strings differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn published_strings_come_back_from_their_ids() {
    let Some(folder) = data("tokenizers") else { return };
    for name in NAMES.into_iter().filter(|n| *n != "bert-bge") {
        let tokenizer = open(&folder, name);
        for (text, ids) in pairs(&folder, name) {
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{name}");
            let mut stream = StreamDecoder::new(true);
            let mut streamed = String::new();
            for &id in &ids {
                streamed.push_str(&stream.push(&tokenizer, id).unwrap());
            }
            assert_eq!(streamed + &stream.finish(), text, "{name}");
        }
    }
}

#[test]
fn gpt2_in_hugging_face_form_is_gpt2_in_gguf() {
    let Some(folder) = data("tokenizers") else { return };
    let gguf = open(&folder, "gpt-2");
    let merges = fs::read_to_string(folder.join("gpt2-merges.txt")).unwrap();
    let vocab: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("gpt2-vocab.json")).unwrap()).unwrap();
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{"id": 50256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges.lines().skip(1).collect::<Vec<_>>()},
    });
    let hugging_face = Tokenizer::from_json(Path::new("tokenizer.json"), json.to_string().as_bytes()).unwrap();
    assert_eq!(hugging_face.vocab_size(), gguf.vocab_size());
    for id in 0..gguf.vocab_size() as u32 {
        assert_eq!(hugging_face.token_bytes(id), gguf.token_bytes(id));
        assert_eq!(hugging_face.is_end(id), gguf.is_end(id));
    }
    let mut texts: Vec<String> = pairs(&folder, "gpt-2").into_iter().map(|(text, _)| text).collect();
    texts.push(fs::read_to_string(folder.with_file_name("text").join("wikitext2-valid.txt")).unwrap());
    texts.push("a<|endoftext|>b <|endoftext|>".into());
    for text in texts {
        for parse_special in [false, true] {
            let ids = gguf.encode(&text, false, parse_special).unwrap();
            assert_eq!(hugging_face.encode(&text, false, parse_special).unwrap(), ids);
            assert_eq!(hugging_face.decode(&ids, true).unwrap(), text);
        }
    }
}

#[test]
fn llama2c_tokenizer_is_the_llama_vocabulary() {
    let Some(folder) = data("tokenizers") else { return };
    let llama2c = Tokenizer::open(folder.join("llama2c-tokenizer-32000.bin")).unwrap();
    let gguf = open(&folder, "llama-spm");
    assert_eq!((llama2c.vocab_size(), gguf.vocab_size()), (32000, 32000));
    for (text, ids) in pairs(&folder, "llama-spm") {
        assert_eq!(llama2c.encode(&text, false, false).unwrap(), ids);
        assert_eq!(llama2c.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn a_llama2c_checkpoint_finds_the_tokenizer_beside_it() {
    let Some(folder) = data("models-llama2c") else { return };
    let tokenizer = Tokenizer::open(folder.join("aidreams260K.bin")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 512);
    let text = "Once upon a time, there was a café.";
    let ids = tokenizer.encode(text, true, false).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    let error = Tokenizer::open(folder.join("stories260K-restored.bin")).unwrap_err().to_string();
    assert!(error.contains("stories260K-restored.bin") && error.contains("512 tokens"), "{error}");
}

#[test]
fn a_llama2c_tokenizer_is_the_same_through_gguf() {
    let Some(folder) = data("models-llama2c") else { return };
    let llama2c = Tokenizer::open(folder.join("aidreams260K-tok512.bin")).unwrap();
    let mut keys = Metadata::new("x.gguf");
    llama2c.put_gguf_keys(&mut keys).unwrap();
    let gguf = Tokenizer::from_gguf(&keys).unwrap();
    for text in ["Once upon a time, there was a café.", "", " \n  x", "日本"] {
        let ids = llama2c.encode(text, true, false).unwrap();
        assert_eq!(gguf.encode(text, true, false).unwrap(), ids);
        assert_eq!(gguf.decode(&ids, false).unwrap(), text);
    }
    assert_eq!(llama2c.ends(), gguf.ends());
}

#[test]
fn files_say_what_begins_and_ends_a_text() {
    let Some(folder) = data("tokenizers") else { return };
    let ends = |name: &str, text: &str| {
        let tokenizer = open(&folder, name);
        let plain = tokenizer.encode(text, false, false).unwrap();
        let all = tokenizer.encode(text, true, false).unwrap();
        let at = if tokenizer.add_bos() { 1 } else { 0 };
        assert_eq!(all[at..at + plain.len()], plain);
        (all[..at].to_vec(), all[at + plain.len()..].to_vec())
    };
    assert_eq!(ends("gpt-2", "Hello"), (vec![], vec![]));
    assert_eq!(ends("llama-spm", "Hello"), (vec![1], vec![]));
    assert_eq!(ends("phi-3", "Hello"), (vec![1], vec![]));
    assert_eq!(ends("deepseek-coder", "Hello"), (vec![32013], vec![]));
    assert_eq!(ends("bert-bge", "Hello"), (vec![101], vec![102]));
    let phi3 = open(&folder, "phi-3");
    let end_names: Vec<_> = phi3.ends().iter().map(|&id| phi3.token_bytes(id).unwrap().into_owned()).collect();
    assert_eq!(end_names, [b"</s>".to_vec(), b"<|endoftext|>".to_vec(), b"<|end|>".to_vec()]);
}

#[test]
fn a_template_from_a_file_writes_the_conversation_it_was_made_for() {
    let Some(folder) = data("tokenizers") else { return };
    let phi3 = open(&folder, "phi-3");
    let template = phi3.chat_template().unwrap();
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "Yes?"), Message::new("user", "Bye")];
    let text = template.render(&messages, true).unwrap();
    assert_eq!(text, "<s><|user|>\nHi<|end|>\n<|assistant|>\nYes?<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n");
    let ids = phi3.encode(&text, false, true).unwrap();
    assert_eq!(ids.iter().filter(|&&id| phi3.is_end(id)).count(), 3);
    assert_eq!(ids[0], 1);
}

#[test]
fn a_header_alone_is_enough() {
    let Some(folder) = data("tokenizers") else { return };
    let container = Container::open(folder.join("ggml-vocab-gpt-2.gguf")).unwrap();
    assert!(container.tensors().is_empty());
    assert_eq!(Tokenizer::from_container(&container).unwrap().vocab_size(), 50257);
}

/// Prints its figures; the bounds are generous, for a machine that does other work as well. Quadratic merging would take
/// minutes on the one word.
#[test]
fn a_megabyte_and_a_very_long_word_are_encoded_in_seconds_at_most() {
    let Some(folder) = data("tokenizers") else { return };
    let prose = fs::read_to_string(folder.with_file_name("text").join("wikitext2-valid.txt")).unwrap();
    let word: String = prose.chars().filter(char::is_ascii_lowercase).take(200_000).collect();
    let (spaces, line_ends) = (" ".repeat(200_000), "\n ".repeat(100_000) + "x");
    for name in NAMES {
        let tokenizer = open(&folder, name);
        for (kind, text) in [("prose", &prose), ("one word", &word), ("spaces", &spaces), ("line ends", &line_ends)] {
            let start = Instant::now();
            let ids = tokenizer.encode(text, false, false).unwrap();
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("{name}: {kind}: {} bytes, {} tokens, {seconds:.3} s", text.len(), ids.len());
            assert!(seconds < 20.0, "{name}: {kind}: {seconds} s");
        }
    }
}
