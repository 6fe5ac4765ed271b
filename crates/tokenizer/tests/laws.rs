//! What every tokenizer promises, over small vocabularies made here; no data sets are needed.

use std::{fs, path::Path, sync::OnceLock};

use memwall_formats::gguf::Metadata;
use memwall_tokenizer::{
    ChatTemplate, Message, StreamDecoder, TokenKind, Tokenizer, TokenizerError,
    train::{self, BpeSettings},
};
use proptest::prelude::*;

const TEXT: &str = "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.\n\
    Füchse jagen Hühner, 狐は鶏を追う. 12345 + 678 = 13023!\n\n    Indented, and\ttabbed.\r\n";

fn trained(folder: &Path, name: &str, vocab_size: usize) -> Tokenizer {
    let corpus = folder.join("corpus.txt");
    fs::write(&corpus, TEXT.repeat(3)).unwrap();
    let settings = BpeSettings { vocab_size, ..BpeSettings::default() };
    train::byte_level_bpe(&[corpus], &settings, folder.join(name)).unwrap()
}

/// The 256 bytes in the byte alphabet, in the order of the bytes.
fn byte_alphabet() -> Vec<String> {
    let prints = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100u32..;
    (0..=255u8)
        .map(|b| if prints(&b) { u32::from(b) } else { others.next().unwrap() })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect()
}

fn byte_level_keys(pre: &str) -> Metadata {
    let mut tokens = byte_alphabet();
    let merges = ["t h", "th e", "Ġ t", "Ġ the", "i n", "Ã ¼"];
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let mut types = vec![1i32; tokens.len()];
    for (name, kind) in [("<|bos|>", 3), ("<|im_end|>", 3), ("<extra>", 4)] {
        tokens.push(name.into());
        types.push(kind);
    }
    let mut metadata = Metadata::new("toy.gguf");
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", pre);
    metadata.insert("tokenizer.ggml.bos_token_id", tokens.len() as u32 - 3);
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.merges", merges.map(String::from).to_vec());
    metadata
}

fn sentencepiece_keys(with_bytes: bool) -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![2, 3, 3];
    if with_bytes {
        tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
        types.extend([6; 256]);
    }
    for piece in ["▁", "t", "h", "e", "th", "he", "the", "▁the", "▁t", "ü", "▁▁"] {
        tokens.push(piece.into());
        types.push(1);
    }
    let mut metadata = Metadata::new("toy.gguf");
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.scores", (0..tokens.len()).map(|i| -(i as f32)).collect::<Vec<_>>());
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata
}

/// Vocabularies that can say every byte.
fn lossless() -> &'static [(&'static str, Tokenizer)] {
    static ALL: OnceLock<Vec<(&'static str, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        vec![
            ("gguf gpt-2", Tokenizer::from_gguf(&byte_level_keys("gpt-2")).unwrap()),
            ("gguf llama-bpe", Tokenizer::from_gguf(&byte_level_keys("llama-bpe")).unwrap()),
            ("gguf deepseek-llm", Tokenizer::from_gguf(&byte_level_keys("deepseek-llm")).unwrap()),
            ("sentencepiece", Tokenizer::from_gguf(&sentencepiece_keys(true)).unwrap()),
            ("trained", trained(folder.path(), "tokenizer.json", 400)),
        ]
    })
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(text in "(\\PC|[ \t\r\n]|the| the|ü|<extra>|<s>|<\\|bos\\|>){0,30}") {
        for (name, tokenizer) in lossless() {
            // SentencePiece writes a space as ▁, so a ▁ in the text comes back as a space.
            let text = if *name == "sentencepiece" { text.replace('▁', " ") } else { text.clone() };
            for parse_special in [false, true] {
                let ids = tokenizer.encode(&text, true, parse_special).unwrap();
                // Parsed, the names of control tokens are tokens, which decoding leaves out.
                if !parse_special || !text.contains('<') {
                    prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.clone(), "{} {:?}", name, ids);
                }
            }
        }
    }

    #[test]
    fn special_tokens_come_back_when_shown(parts in prop::collection::vec("the|ü|<extra>|<\\|bos\\|>| x", 0..12)) {
        let text = parts.concat();
        for (name, tokenizer) in &lossless()[..3] {
            let ids = tokenizer.encode(&text, false, true).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.clone(), "{}", name);
        }
    }

    #[test]
    fn a_stream_is_the_whole_decoding_and_never_half_a_character(
        ids in prop::collection::vec(0u32..265, 0..40),
    ) {
        for (_, tokenizer) in lossless() {
            let mut stream = StreamDecoder::new(true);
            let mut streamed = String::new();
            for &id in &ids {
                let part = stream.push(tokenizer, id).unwrap();
                streamed.push_str(&part); // a String holds whole characters only
            }
            streamed.push_str(&stream.finish());
            prop_assert_eq!(streamed, tokenizer.decode(&ids, true).unwrap());
        }
        let plain = &lossless()[0].1;
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| plain.token_bytes(id).unwrap().into_owned()).collect();
        prop_assert_eq!(plain.decode(&ids, true).unwrap(), String::from_utf8_lossy(&bytes).into_owned());
    }
}

#[test]
fn a_stream_waits_for_the_rest_of_a_character() {
    let tokenizer = &lossless()[0].1;
    let mut stream = StreamDecoder::new(false);
    let parts: Vec<String> = "é狐".bytes().map(|b| stream.push(tokenizer, u32::from(b)).unwrap()).collect();
    assert_eq!(parts, ["", "é", "", "", "狐"]);
    let mut stream = StreamDecoder::new(false);
    assert_eq!(stream.push(tokenizer, 0xe7).unwrap(), "");
    assert_eq!(stream.push(tokenizer, u32::from(b'x')).unwrap(), "\u{fffd}x");
    assert_eq!(stream.push(tokenizer, 0xe7).unwrap(), "");
    assert_eq!(stream.push(tokenizer, tokenizer.bos().unwrap()).unwrap(), "\u{fffd}");
    assert_eq!(stream.push(tokenizer, 0xe7).unwrap(), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn a_space_added_at_the_begin_is_taken_off_and_one_within_a_reply_is_not() {
    let tokenizer = &lossless()[3].1;
    let prompt = tokenizer.encode("the", true, false).unwrap();
    let the = tokenizer.encode("the", false, false).unwrap();
    assert_eq!(tokenizer.token_bytes(the[0]).unwrap().as_ref(), b" the");
    let mut reply = StreamDecoder::after(tokenizer, &prompt, false);
    assert_eq!(reply.push(tokenizer, the[0]).unwrap(), " the");
    let mut from_the_begin = StreamDecoder::after(tokenizer, &[tokenizer.bos().unwrap()], false);
    assert_eq!(from_the_begin.push(tokenizer, the[0]).unwrap(), "the");
}

#[test]
fn special_tokens_are_text_unless_parsed_and_user_defined_ones_never_are() {
    let tokenizer = &lossless()[0].1;
    let bos = tokenizer.special("<|bos|>").unwrap();
    let extra = tokenizer.special("<extra>").unwrap();
    assert_eq!(tokenizer.encode("<|bos|>", false, true).unwrap(), [bos]);
    assert_eq!(tokenizer.encode("<|bos|>", false, false).unwrap().len(), 7);
    assert_eq!(tokenizer.encode("<extra>", false, false).unwrap(), [extra]);
    assert_eq!((tokenizer.kind(bos), tokenizer.kind(extra)), (Some(TokenKind::Control), Some(TokenKind::UserDefined)));
    assert!(tokenizer.is_end(tokenizer.special("<|im_end|>").unwrap()));
    assert_eq!(tokenizer.kind(100_000), None);
    let error = tokenizer.decode(&[100_000], false).unwrap_err().to_string();
    assert!(error.contains("100000") && error.contains("265"), "{error}");
}

#[test]
fn sentencepiece_merges_the_best_score_first() {
    let with_bytes = &lossless()[3].1;
    let name = |ids: Vec<u32>| -> Vec<String> {
        ids.iter().map(|&id| String::from_utf8_lossy(&with_bytes.token_bytes(id).unwrap()).into_owned()).collect()
    };
    // `th` scores above `he`, and so on up to `▁the`
    assert_eq!(name(with_bytes.encode("the", false, false).unwrap()), [" the"]);
    assert_eq!(name(with_bytes.encode("  thü", false, false).unwrap()), ["  ", " ", "th", "ü"]);
    let bytes = with_bytes.encode("é", false, false).unwrap();
    assert_eq!(bytes[1..], [3 + 0xc3, 3 + 0xa9]);
    let without = Tokenizer::from_gguf(&sentencepiece_keys(false)).unwrap();
    assert_eq!(without.encode("é", false, false).unwrap()[1..], [0, 0]);
}

#[test]
fn damaged_keys_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Metadata), words: &[&str]| {
        for keys in [byte_level_keys("gpt-2"), sentencepiece_keys(true)] {
            let mut keys = keys;
            change(&mut keys);
            if let Err(error) = Tokenizer::from_gguf(&keys) {
                let error = error.to_string();
                assert!(words.iter().all(|w| error.contains(w)) && error.contains("toy.gguf"), "{error}");
                return;
            }
        }
        panic!("should be refused with {words:?}");
    };
    refused(&|m| drop(m.remove("tokenizer.ggml.model")), &["tokenizer.ggml.model", "missing"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.model", "t5")), &["`t5`", "gpt2, llama and bert"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.pre", "novel")), &["`novel`", "qwen2"]);
    refused(&|m| drop(m.remove("tokenizer.ggml.merges")), &["tokenizer.ggml.merges", "missing"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.merges", vec!["ab".to_string()])), &["`ab`", "two parts"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.tokens", Vec::<String>::new())), &["0 tokens"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.token_type", vec![1i32])), &["1 entries for"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.bos_token_id", 99_999u32)), &["bos_token_id", "99999"]);
    refused(&|m| drop(m.insert("tokenizer.ggml.token_type", vec![9i32; 265])), &["from the future: 9"]);
    refused(&|m| drop(m.insert("tokenizer.chat_template", "{% if %}")), &["tokenizer.chat_template"]);
    let mut keys = sentencepiece_keys(true);
    keys.insert("tokenizer.ggml.scores", vec![0f32]);
    let error = Tokenizer::from_gguf(&keys).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.scores") && error.contains("1 entries"), "{error}");
}

#[test]
fn a_byte_that_no_token_can_say_is_an_error() {
    let mut keys = byte_level_keys("gpt-2");
    keys.insert("tokenizer.ggml.tokens", vec!["a".to_string(), "b".into()]);
    keys.insert("tokenizer.ggml.token_type", vec![1i32, 1]);
    keys.remove("tokenizer.ggml.bos_token_id");
    let tokenizer = Tokenizer::from_gguf(&keys).unwrap();
    assert_eq!(tokenizer.encode("ab", false, false).unwrap(), [0, 1]);
    assert!(matches!(tokenizer.encode("c", false, false), Err(TokenizerError::NoTokenForByte { byte: b'c' })));
}

#[test]
fn training_is_deterministic_and_gives_the_size_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let first = trained(folder.path(), "a.json", 300);
    trained(folder.path(), "b.json", 300);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("a.json"), read("b.json"));
    assert_eq!(first.vocab_size(), 300);
    let end = first.special("<|endoftext|>").unwrap();
    assert_eq!(end, 0);
    assert!(first.is_end(end) && first.eos() == Some(end));
    let ids = first.encode(TEXT, false, false).unwrap();
    assert!(ids.len() * 5 < TEXT.len() * 4, "{} tokens for {} bytes", ids.len(), TEXT.len());
    assert_eq!(first.decode(&ids, false).unwrap(), TEXT);
}

#[test]
fn impossible_training_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tokenizer.json");
    let corpus = folder.path().join("corpus.txt");
    fs::write(&corpus, [b'a', 0xff]).unwrap();
    let refused = |files: &[&Path], vocab_size, word: &str| {
        let files: Vec<_> = files.iter().map(|f| f.to_path_buf()).collect();
        let settings = BpeSettings { vocab_size, ..BpeSettings::default() };
        let error = train::byte_level_bpe(&files, &settings, &out).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(&[&corpus], 400, "corpus.txt: should be UTF-8");
    refused(&[&folder.path().join("absent.txt")], 400, "absent.txt");
    refused(&[], 100, "at least 257");
    assert!(!out.exists());
}

#[test]
fn a_folder_tells_bos_ends_and_template() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let corpus = at("corpus.txt");
    fs::write(&corpus, TEXT).unwrap();
    let special = ["<|start|>", "<|stop|>", "<|turn|>", "<|more|>"].map(String::from).to_vec();
    let settings = BpeSettings { vocab_size: 300, special, ..BpeSettings::default() };
    train::byte_level_bpe(&[corpus], &settings, at("tokenizer.json")).unwrap();
    fs::write(
        at("tokenizer_config.json"),
        r#"{"bos_token": "<|start|>", "eos_token": {"content": "<|stop|>"},
            "chat_template": [{"name": "tool_use", "template": "no"},
                              {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}]}"#,
    )
    .unwrap();
    fs::write(at("generation_config.json"), r#"{"eos_token_id": [1, 2, 99999]}"#).unwrap();
    fs::write(at("config.json"), r#"{"eos_token_id": 3}"#).unwrap();
    for path in [folder.path().to_path_buf(), at("tokenizer.json"), at("model.safetensors.index.json")] {
        let tokenizer = Tokenizer::open(path).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(1)));
        assert_eq!(tokenizer.ends().iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let text = tokenizer.chat_template().unwrap().render(&[Message::new("user", "hi")], false).unwrap();
        assert_eq!(text, "<|start|>hi<|stop|>");
    }
    fs::write(at("chat_template.jinja"), "from the file").unwrap();
    assert_eq!(Tokenizer::open(folder.path()).unwrap().chat_template().unwrap().source(), "from the file");
    fs::write(at("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("JSON"), "{error}");
    let error = Tokenizer::from_folder(at("absent")).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

/// The same text gives the same ids and the same text back.
fn assert_same(one: &Tokenizer, other: &Tokenizer, texts: &[&str]) {
    assert_eq!(one.vocab_size(), other.vocab_size());
    assert_eq!((one.bos(), one.eos(), one.ends()), (other.bos(), other.eos(), other.ends()));
    for text in texts {
        for (add_special, parse_special) in [(false, false), (true, false), (false, true)] {
            let ids = one.encode(text, add_special, parse_special).unwrap();
            assert_eq!(other.encode(text, add_special, parse_special).unwrap(), ids, "{text:?}");
            assert_eq!(one.decode(&ids, true).unwrap(), other.decode(&ids, true).unwrap());
        }
    }
}

#[test]
fn a_trained_vocabulary_is_the_same_through_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let trained = trained(folder.path(), "tokenizer.json", 350);
    let mut keys = Metadata::new("x.gguf");
    trained.put_gguf_keys(&mut keys).unwrap();
    assert_eq!(keys.require::<&str>("tokenizer.ggml.pre").unwrap(), "gpt-2");
    let gguf = Tokenizer::from_gguf(&keys).unwrap();
    assert_same(&trained, &gguf, &[TEXT, "", "<|endoftext|>x", "\u{0}\u{7f} ÿ狐狐  \n\t x"]);
    assert!(gguf.put_gguf_keys(&mut keys).is_err());
}

#[test]
fn a_sentencepiece_vocabulary_with_merges_is_the_same_through_gguf() {
    let pieces = ["▁", "t", "h", "e", "th", "▁t", "he", "▁the", "ü"];
    let mut vocab: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
    for name in
        ["<unk>".to_string(), "<s>".into(), "</s>".into()].into_iter().chain((0..=255).map(|b| format!("<0x{b:02X}>")))
    {
        vocab.insert(name, vocab.len().into());
    }
    for piece in pieces {
        vocab.insert(piece.into(), vocab.len().into());
    }
    let added = ["<unk>", "<s>", "</s>"].iter().enumerate().map(|(id, name)| {
        serde_json::json!({"id": id, "content": name, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    });
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "merges": ["h e", "▁ t", "▁t he", "t h"]},
    });
    let json = json.to_string();
    let hugging_face = Tokenizer::from_json(Path::new("tokenizer.json"), json.as_bytes()).unwrap();
    let mut keys = Metadata::new("x.gguf");
    hugging_face.put_gguf_keys(&mut keys).unwrap();
    keys.insert("tokenizer.ggml.eos_token_id", 2u32);
    let gguf = Tokenizer::from_gguf(&keys).unwrap();
    assert_eq!(gguf.encode("the the é", true, false).unwrap(), hugging_face.encode("the the é", true, false).unwrap());
    for text in ["the", " the  thü", "é", "th\ne", "a狐</s>"] {
        let ids = hugging_face.encode(text, false, false).unwrap();
        assert_eq!(gguf.encode(text, false, false).unwrap(), ids, "{text:?}");
        assert_eq!(hugging_face.decode(&ids, true).unwrap(), text);
        assert_eq!(gguf.decode(&ids, true).unwrap(), text);
    }
}

#[test]
fn a_tokenizer_may_be_shared_by_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Tokenizer>();
    let tokenizer = &lossless()[4].1;
    let want = tokenizer.encode(TEXT, true, true).unwrap();
    std::thread::scope(|scope| {
        for parse_special in [true, false, true, false] {
            let want = &want;
            scope.spawn(move || {
                for _ in 0..20 {
                    // Whether special tokens are parsed in one thread is nothing to another.
                    assert_eq!(&tokenizer.encode(TEXT, true, parse_special).unwrap(), want);
                    let marked = tokenizer.encode("<|endoftext|>", false, parse_special).unwrap();
                    assert_eq!(marked == [0], parse_special);
                }
            });
        }
    });
}

fn render(source: &str, messages: &[Message]) -> Result<String, TokenizerError> {
    ChatTemplate::new(source, Some("<s>".into()), Some("</s>".into()))?.render(messages, true)
}

#[test]
fn templates_may_use_what_pythons_jinja_has() {
    let hi = [Message::new("system", " be brief "), Message::new("user", "hi <b>")];
    let cases = [
        ("{{ bos_token }}{{ messages[0]['content'].strip() }}{{ eos_token }}", "<s>be brief</s>"),
        ("{%- for m in messages %}\n    {%- if loop.last %}{{ m.role | upper }}{% endif %}\n{%- endfor %}", "USER"),
        ("{% for m in messages %}\n    {% if m.role == 'user' %}\nU\n    {% endif %}\n{% endfor %}\n", "U\n"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ messages[1] | tojson }}", r#"{"role": "user", "content": "hi <b>"}"#),
        ("{{ messages[1:] | length }}{{ messages[-1].content.split(' ')[0] }}", "1hi"),
        ("{{ messages[1].content.startswith('hi') and not messages[0].content.endswith('x') }}", "True"),
        ("{% if tools is defined and tools %}T{% else %}-{% endif %}", "-"),
        (
            "{% for m in messages %}{% if loop.index0 == 0 %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
            "hi <b>",
        ),
        ("{% generation %}{{ messages[1].content }}{%- endgeneration -%}", "hi <b>"),
        ("{{ messages[0].get('name', 'none') }}{{ messages[0].items() | list | length }}", "none2"),
        ("{% macro say(x) %}[{{ x }}]{% endmacro %}{{ say('a') ~ say('b') }}", "[a][b]"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ];
    for (source, wanted) in cases {
        assert_eq!(render(source, &hi).unwrap(), wanted, "{source}");
    }
}

#[test]
fn templates_that_refuse_fail_or_never_end_are_errors() {
    let hi = [Message::new("user", "hi")];
    let error = render("{{ raise_exception('roles must alternate') }}", &hi).unwrap_err().to_string();
    assert!(error.contains("roles must alternate"), "{error}");
    assert!(render("{{ messages[0].content.no_such_method() }}", &hi).is_err());
    assert!(ChatTemplate::new("{% for %}", None, None).is_err());
    assert!(ChatTemplate::new("{%}{% if x %}", None, None).is_err());
    for enormous in [
        "{{ 'a' * 99999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ range(99999999999) | list }}",
        "{{ '%099999999999d' | format(1) }}",
        "{{ 'a' | indent(99999999999, true) }}",
        "{{ 'a' | center(99999999999) }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ 'a'.zfill(99999999999) }}",
    ] {
        assert!(render(enormous, &hi).is_err(), "{enormous}");
    }
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(render(endless, &hi).is_err());
}
