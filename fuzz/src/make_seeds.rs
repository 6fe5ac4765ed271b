//! Writes small valid files into `seeds/TARGET/`, from which the fuzzer starts.

use std::{collections::BTreeMap, fs, path::Path};

use memwall_formats::{
    Dtype,
    gguf::{self, Metadata, TensorPlan},
    safetensors,
};

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let folder = |name: &str| {
        fs::create_dir_all(seeds.join(name)).expect("the folder can be made");
        seeds.join(name)
    };
    let tensors = vec![
        TensorPlan { name: "token_embd.weight".into(), dtype: Dtype::Q8_0, shape: vec![2, 32] },
        TensorPlan { name: "norm".into(), dtype: Dtype::F32, shape: vec![3] },
    ];
    let mut metadata = Metadata::new("");
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.alignment", 32u32);
    metadata.insert("numbers", vec![1u16, 2]);
    metadata.insert("scale", 0.5f64);
    metadata.insert("flags", vec![true, false]);
    write_gguf(&folder("gguf").join("model.gguf"), &metadata, tensors);

    let mut bpe = Metadata::new("");
    bpe.insert("tokenizer.ggml.model", "gpt2");
    bpe.insert("tokenizer.ggml.pre", "gpt-2");
    bpe.insert("tokenizer.ggml.tokens", ["a", "b", "Ġ", "ab", "<s>"].map(String::from).to_vec());
    bpe.insert("tokenizer.ggml.token_type", vec![1, 1, 1, 1, 3i32]);
    bpe.insert("tokenizer.ggml.merges", vec!["a b".to_string()]);
    bpe.insert("tokenizer.ggml.bos_token_id", 4u32);
    bpe.insert("tokenizer.ggml.add_bos_token", true);
    bpe.insert("tokenizer.chat_template", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
    write_gguf(&folder("tokenizer_gguf").join("bpe.gguf"), &bpe, Vec::new());

    let mut spm = Metadata::new("");
    spm.insert("tokenizer.ggml.model", "llama");
    spm.insert("tokenizer.ggml.tokens", ["<unk>", "<s>", "</s>", "<0x61>", "▁", "a", "▁a"].map(String::from).to_vec());
    spm.insert("tokenizer.ggml.scores", vec![0f32, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0]);
    spm.insert("tokenizer.ggml.token_type", vec![2, 3, 3, 6, 1, 1, 1i32]);
    write_gguf(&folder("tokenizer_gguf").join("sentencepiece.gguf"), &spm, Vec::new());

    let mut wpm = Metadata::new("");
    wpm.insert("tokenizer.ggml.model", "bert");
    wpm.insert("tokenizer.ggml.tokens", ["[CLS]", "[SEP]", "[UNK]", "▁a", "b"].map(String::from).to_vec());
    wpm.insert("tokenizer.ggml.cls_token_id", 0u32);
    wpm.insert("tokenizer.ggml.seperator_token_id", 1u32);
    wpm.insert("tokenizer.ggml.unknown_token_id", 2u32);
    write_gguf(&folder("tokenizer_gguf").join("wordpiece.gguf"), &wpm, Vec::new());

    let scalars = [
        TensorPlan { name: "w".into(), dtype: Dtype::F32, shape: vec![2, 2] },
        TensorPlan { name: "b".into(), dtype: Dtype::BF16, shape: vec![2] },
    ];
    let path = folder("safetensors").join("model.safetensors");
    let about = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut writer = safetensors::Writer::create(&path, &about, &scalars).expect("the seed can be written");
    writer.write(&[0; 20]).expect("the seed can be written");
    writer.finish().expect("the seed can be written");

    let header = [2i32, 1, 1, 1, 1, 3, 1].iter().flat_map(|n| n.to_le_bytes());
    let checkpoint: Vec<u8> = header.chain([0; 4 * (6 + 2 + 4 * 4 + 2 + 3 * 2 + 2 + 2)]).collect();
    memwall_formats::llama2c::parse(Path::new("seed"), &checkpoint).expect("the seed is a checkpoint");
    fs::write(folder("llama2c").join("model.bin"), checkpoint).expect("the seed can be written");
    let mut tokenizer = 6i32.to_le_bytes().to_vec();
    let names = ["<unk>".into(), "\n<s>\n".into(), "\n</s>\n".into()].into_iter();
    for name in names.chain((0..=255).map(|b| format!("<0x{b:02X}>"))).chain(["a".into(), " a".into()]) {
        tokenizer.extend(0f32.to_le_bytes());
        tokenizer.extend((name.len() as i32).to_le_bytes());
        tokenizer.extend(name.as_bytes());
    }
    fs::write(folder("llama2c").join("tokenizer.bin"), tokenizer).expect("the seed can be written");

    let mut rwkv: Vec<u8> = [0x67676d66, 101, 2, 4, 1, 0].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
    for (name, sizes) in [("emb.weight", &[4, 2][..]), ("blocks.0.ln1.weight", &[4])] {
        let numbers = [sizes.len() as i32, name.len() as i32, 0].into_iter().chain(sizes.iter().copied());
        rwkv.extend(numbers.flat_map(i32::to_le_bytes));
        rwkv.extend(name.as_bytes());
        rwkv.extend(vec![0; 4 * sizes.iter().product::<i32>() as usize]);
    }
    memwall_formats::rwkv_cpp::parse(Path::new("seed"), &rwkv).expect("the seed is a checkpoint");
    fs::write(folder("rwkv_cpp").join("model.bin"), rwkv).expect("the seed can be written");

    let json = r#"{"version":"1.0","added_tokens":[{"id":3,"content":"<s>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}"#;
    fs::write(folder("tokenizer_json").join("bpe.json"), json).expect("the seed can be written");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/testdata/fixtures/hugging_face");
    for family in ["llama3", "mistral", "qwen2", "qwen3", "gla_grouped", "gla_hybrid"] {
        let seed = folder("config_json").join(format!("{family}.json"));
        fs::copy(fixtures.join(family).join("config.json"), seed).expect("the seed can be written");
    }
    // The messages of SentencePiece's file: pieces, a trainer whose model_type is BPE, a normalizer that keeps spaces.
    let piece = |text: &str, score: f32, kind: u8| {
        let inside =
            [&[0x0a, text.len() as u8], text.as_bytes(), &[0x15], &score.to_le_bytes(), &[0x18, kind]].concat();
        [&[0x0a, inside.len() as u8], &inside[..]].concat()
    };
    let pieces =
        [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<0x62>", 0.0, 6), ("▁", -3.0, 1), ("a", -2.0, 1)];
    let mut model: Vec<u8> = pieces.into_iter().flat_map(|(text, score, kind)| piece(text, score, kind)).collect();
    model.extend(piece("▁a", -1.0, 1));
    model.extend([0x12, 2, 0x18, 2, 0x1a, 2, 0x20, 0]);
    memwall_tokenizer::Tokenizer::from_sentencepiece_bytes(Path::new("seed"), &model)
        .expect("the seed is a vocabulary");
    fs::write(folder("tokenizer_model").join("bpe.model"), model).expect("the seed can be written");

    let template = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[' + m['content'].strip() + ']' }}{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}";
    fs::write(folder("chat_template").join("template.jinja"), template).expect("the seed can be written");
}

fn write_gguf(path: &Path, metadata: &Metadata, tensors: Vec<TensorPlan>) {
    let mut writer = gguf::Writer::create(path, metadata, tensors).expect("the seed can be written");
    while let Some(bytes) = writer.due().map(|plan| plan.bytes(path).expect("the seed has a size")) {
        writer.write(&vec![0; bytes as usize]).expect("the seed can be written");
    }
    writer.finish().expect("the seed can be written");
}
