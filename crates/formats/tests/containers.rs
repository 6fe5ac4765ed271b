//! What the container formats promise: what is written is read back, other readers agree, and no damage panics.

use std::{collections::BTreeMap, fs, path::Path};

use memwall_formats::{
    Container, ContainerFormat, Dtype, FileError,
    gguf::{self, Array, GgmlType, Metadata, TensorPlan, Value},
    llama2c, rwkv_cpp, safetensors as st,
};
use memwall_testdata::data;
use proptest::prelude::*;

fn plan(name: &str, dtype: Dtype, shape: &[usize]) -> TensorPlan {
    TensorPlan { name: name.into(), dtype, shape: shape.to_vec() }
}

/// Bytes that differ from tensor to tensor.
fn fill(seed: usize, len: u64) -> Vec<u8> {
    (0..len as usize).map(|i| (i * 31 + seed * 7 + 1) as u8).collect()
}

fn every_value_type(path: &Path) -> Metadata {
    let mut metadata = Metadata::new(path);
    metadata.insert("general.architecture", "llama");
    metadata.insert("u8", 200u8);
    metadata.insert("i8", -100i8);
    metadata.insert("u16", 60000u16);
    metadata.insert("i16", -30000i16);
    metadata.insert("u32", u32::MAX);
    metadata.insert("i32", i32::MIN);
    metadata.insert("f32", 1.5f32);
    metadata.insert("bool", true);
    metadata.insert("string", "naïve ▁ text");
    metadata.insert("u64", u64::MAX);
    metadata.insert("i64", i64::MIN);
    metadata.insert("f64", -2.5f64);
    metadata.insert("a.u8", vec![1u8, 2]);
    metadata.insert("a.i8", vec![-1i8]);
    metadata.insert("a.u16", vec![3u16]);
    metadata.insert("a.i16", vec![-3i16]);
    metadata.insert("a.u32", Vec::<u32>::new());
    metadata.insert("a.i32", vec![1i32, -1]);
    metadata.insert("a.f32", vec![0.5f32]);
    metadata.insert("a.bool", vec![true, false]);
    metadata.insert("a.string", vec![String::new(), "x".to_string()]);
    metadata.insert("a.u64", vec![9u64]);
    metadata.insert("a.i64", vec![-9i64]);
    metadata.insert("a.f64", vec![0.25f64]);
    let nested = Array::Array(vec![Array::U8(vec![1]), Array::String(vec!["y".into()])]);
    metadata.insert("a.array", Value::Array(nested));
    metadata
}

fn some_tensors() -> Vec<TensorPlan> {
    vec![
        plan("token_embd.weight", Dtype::Q8_0, &[5, 64]),
        plan("norm", Dtype::F32, &[3]),
        plan("scalar", Dtype::F64, &[]),
        plan("empty", Dtype::F16, &[0, 4]),
        plan("cube", Dtype::BF16, &[2, 3, 4]),
        plan("blk.0.ffn", Dtype::Q4_K, &[2, 512]),
    ]
}

fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[TensorPlan]) {
    let mut writer = gguf::Writer::create(path, metadata, tensors.to_vec()).unwrap();
    for (seed, tensor) in tensors.iter().enumerate() {
        let bytes = fill(seed, tensor.bytes(path).unwrap());
        if !bytes.is_empty() {
            assert_eq!(writer.due(), Some(tensor));
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            writer.write(first).unwrap();
            writer.write(rest).unwrap();
        }
    }
    assert_eq!(writer.due(), None);
    writer.finish().unwrap();
}

fn assert_holds(container: &Container, tensors: &[TensorPlan]) {
    assert_eq!(container.tensors().len(), tensors.len());
    for (seed, tensor) in tensors.iter().enumerate() {
        let info = container.tensor(&tensor.name).unwrap();
        assert_eq!((info.dtype, &info.shape), (tensor.dtype, &tensor.shape));
        assert_eq!(container.bytes(info), fill(seed, info.bytes), "{}", tensor.name);
    }
}

#[test]
fn gguf_written_is_gguf_read() {
    let folder = tempfile::tempdir().unwrap();
    for alignment in [None, Some(8u32), Some(4096)] {
        let path = folder.path().join("model.gguf");
        let mut metadata = every_value_type(&path);
        if let Some(alignment) = alignment {
            metadata.insert("general.alignment", alignment);
        }
        write_gguf(&path, &metadata, &some_tensors());
        let container = Container::open(&path).unwrap();
        assert_eq!(container.format(), ContainerFormat::Gguf);
        assert_eq!(container.metadata(), &metadata);
        assert_holds(&container, &some_tensors());
        for tensor in container.tensors() {
            assert!(tensor.offset.is_multiple_of(alignment.unwrap_or(32).into()));
        }
    }
}

#[test]
fn a_model_in_the_program_is_the_model_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, &every_value_type(Path::new("embedded.gguf")), &some_tensors());
    let bytes: &'static [u8] = fs::read(&path).unwrap().leak();
    let container = Container::from_static("embedded.gguf", bytes).unwrap();
    assert_holds(&container, &some_tensors());
    assert_eq!(container.metadata(), &every_value_type(Path::new("embedded.gguf")));
    refused(Container::from_static("embedded.gguf", &bytes[..100]), &["embedded.gguf", "cut short"]);
}

#[test]
fn version_2_is_read_as_version_3_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, &every_value_type(&path), &some_tensors());
    let mut bytes = fs::read(&path).unwrap();
    bytes[4] = 2;
    fs::write(&path, bytes).unwrap();
    assert_holds(&Container::open(&path).unwrap(), &some_tensors());
}

#[test]
fn a_split_model_is_the_whole_model_from_any_of_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.gguf");
    let (metadata, tensors) = (every_value_type(&path), some_tensors());
    let numbers: BTreeMap<_, _> = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
    let parts = gguf::write_split(&path, &metadata, tensors.clone(), 200, |plan, writer| {
        writer.write(&fill(numbers[&plan.name], plan.bytes(Path::new("")).unwrap()))
    })
    .unwrap();
    assert!(parts.len() >= 3, "{parts:?}");
    for part in &parts {
        let container = Container::open(part).unwrap();
        assert_eq!(container.files().len(), parts.len());
        assert_eq!(container.metadata().get("split.count"), None);
        assert_eq!(container.metadata().len(), metadata.len());
        assert_holds(&container, &tensors);
    }
    assert_holds(&Container::open(folder.path()).unwrap(), &tensors);
    fs::remove_file(&parts[1]).unwrap();
    let error = Container::open(&parts[0]).unwrap_err().to_string();
    assert!(error.contains("big-00002-of-"), "{error}");
}

/// A GGUF header by hand: keys and tensors as given, then `data` bytes of zeros, aligned to 32.
struct Raw {
    version: u32,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

impl Raw {
    fn new() -> Raw {
        Raw { version: 3, keys: vec![], tensors: vec![], data: 0 }
    }

    fn string(text: &[u8]) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text].concat()
    }

    fn key(mut self, name: &[u8], type_id: u32, value: &[u8]) -> Raw {
        self.keys.push([&Raw::string(name)[..], &type_id.to_le_bytes(), value].concat());
        self
    }

    fn tensor(mut self, name: &[u8], dims: &[u64], type_id: u32, offset: u64) -> Raw {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        self.tensors.push(
            [
                &Raw::string(name)[..],
                &(dims.len() as u32).to_le_bytes(),
                &dims_bytes,
                &type_id.to_le_bytes(),
                &offset.to_le_bytes(),
            ]
            .concat(),
        );
        self
    }

    fn data(mut self, bytes: usize) -> Raw {
        self.data = bytes;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        self.keys.iter().chain(&self.tensors).for_each(|b| out.extend(b));
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }

    #[track_caller]
    fn refused_with(&self, words: &[&str]) {
        refused(gguf::parse(Path::new("bad.gguf"), &self.bytes()), words);
    }
}

#[track_caller]
fn refused<T>(result: Result<T, FileError>, words: &[&str]) {
    let error = result.err().expect("it should be refused").to_string();
    assert!(words.iter().all(|w| error.contains(w)), "{error}\nshould contain {words:?}");
}

#[test]
fn the_hand_made_header_is_sound() {
    let raw = Raw::new().key(b"k", 4, &[7, 0, 0, 0]).tensor(b"t", &[4, 2], 0, 0).data(32);
    let header = gguf::parse(Path::new("x"), &raw.bytes()).unwrap();
    assert_eq!(header.tensors[0].shape, [2, 4]);
    assert_eq!(header.metadata.require::<u32>("k").unwrap(), 7);
}

#[test]
fn impossible_gguf_headers_are_refused_by_name() {
    let number = &[1, 0, 0, 0][..];
    Raw { version: 4, ..Raw::new() }.refused_with(&["bad.gguf", "version 4", "future"]);
    Raw { version: 1, ..Raw::new() }.refused_with(&["version 1"]);
    Raw { version: 3u32.swap_bytes(), ..Raw::new() }.refused_with(&["big-endian", "version 3"]);
    Raw::new().key(b"k", 4, number).key(b"k", 4, number).refused_with(&["`k`", "twice"]);
    Raw::new().key(b"k", 13, number).refused_with(&["`k`", "future", "id 13"]);
    Raw::new().key(b"k", 7, &[2]).refused_with(&["`k`", "boolean"]);
    Raw::new().key(&[0xff, 0xfe], 4, number).refused_with(&["key 0", "UTF-8"]);
    Raw::new().key(b"k", 8, &Raw::string(&[0xc3])).refused_with(&["`k`", "UTF-8"]);
    Raw::new().key(b"k", 8, &u64::MAX.to_le_bytes()).refused_with(&["`k`", "cut short"]);
    let array = |type_id: u32, count: u64| [&type_id.to_le_bytes()[..], &count.to_le_bytes()].concat();
    for type_id in 0..=12 {
        Raw::new().key(b"k", 9, &array(type_id, 1 << 62)).refused_with(&["`k`", "cut short"]);
        Raw::new().key(b"k", 9, &array(type_id, u64::MAX)).refused_with(&["`k`", "cut short"]);
    }
    let deep: Vec<u8> = (0..10_000).flat_map(|_| array(9, 1)).collect();
    Raw::new().key(b"k", 9, &deep).refused_with(&["`k`", "deep"]);
    for alignment in [0u32, 1, 24, 7] {
        let raw = Raw::new().key(b"general.alignment", 4, &alignment.to_le_bytes());
        raw.refused_with(&["general.alignment", "power of two"]);
    }
    Raw::new().tensor(b"t", &[4], 0, 0).tensor(b"t", &[4], 0, 32).data(64).refused_with(&["`t`", "twice"]);
    Raw::new().tensor(b"t", &[4], 99, 0).data(64).refused_with(&["`t`", "a type from the future: id 99"]);
    Raw::new().tensor(b"t", &[4], 4, 0).data(64).refused_with(&["`t`", "withdrawn"]);
    Raw::new().tensor(b"t", &[1; 5], 0, 0).data(64).refused_with(&["`t`", "5 dimensions"]);
    Raw::new().tensor(b"t", &[1 << 40, 1 << 40], 0, 0).refused_with(&["`t`", "64 bits"]);
    Raw::new().tensor(b"t", &[u64::MAX], 0, 0).refused_with(&["`t`", "address space"]);
    Raw::new().tensor(b"t", &[33], 8, 0).data(64).refused_with(&["`t`", "multiple of 32"]);
    Raw::new().tensor(b"t", &[4], 0, 4).data(64).refused_with(&["`t`", "alignment"]);
    Raw::new().tensor(b"t", &[4], 0, 32).data(40).refused_with(&["`t`", "cut short"]);
    Raw::new().tensor(b"t", &[4], 0, u64::MAX - 31).data(40).refused_with(&["`t`", "64 bits"]);
    let overlap = Raw::new().tensor(b"a", &[16], 0, 0).tensor(b"b", &[4], 0, 32).data(64);
    overlap.refused_with(&["`b`", "`a`", "inside"]);
    refused(gguf::parse(Path::new("x.gguf"), b"tjgg\0\0\0\0"), &["before GGUF"]);
    refused(gguf::parse(Path::new("x.gguf"), b""), &["0 bytes"]);
}

#[test]
fn a_type_without_arithmetic_is_listed_and_refused_only_when_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let raw = Raw::new().tensor(b"ids", &[4], 27, 0).tensor(b"w", &[4], 0, 32).data(64);
    fs::write(&path, raw.bytes()).unwrap();
    let container = Container::open(&path).unwrap();
    assert_eq!(container.unsupported()[0].stored_as, "I64");
    assert!(container.tensor("w").is_ok());
    refused(container.tensor("ids"), &["x.gguf", "`ids`", "I64", "Q8_0"]);
    refused(container.tensor("W"), &["no tensor `W`", "`w`"]);
}

#[test]
fn a_writer_refuses_wrong_amounts_and_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, "old").unwrap();
    let one = vec![plan("w", Dtype::F32, &[4])];
    let mut writer = gguf::Writer::create(&path, &Metadata::new(&path), one.clone()).unwrap();
    refused(writer.write(&[0; 17]), &["`w`", "17 bytes", "16 were due"]);
    writer.write(&[0; 12]).unwrap();
    refused(writer.finish(), &["`w`", "12 of its 16"]);
    let twice = [one.clone(), one].concat();
    refused(gguf::Writer::create(&path, &Metadata::new(&path), twice), &["`w`", "twice"]);
    let ragged = vec![plan("w", Dtype::Q4_K, &[100])];
    refused(gguf::Writer::create(&path, &Metadata::new(&path), ragged), &["`w`", "multiple of 256"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn some_scalars() -> Vec<TensorPlan> {
    vec![
        plan("model.embed_tokens.weight", Dtype::BF16, &[5, 3]),
        plan("scalar", Dtype::F32, &[]),
        plan("half", Dtype::F16, &[2, 2]),
        plan("empty", Dtype::F32, &[0, 2]),
        plan("ids", Dtype::I32, &[3]),
        plan("double", Dtype::F64, &[2]),
    ]
}

fn write_safetensors(path: &Path, tensors: &[TensorPlan]) {
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut writer = st::Writer::create(path, &metadata, tensors).unwrap();
    for (seed, tensor) in tensors.iter().enumerate() {
        writer.write(&fill(seed, tensor.bytes(path).unwrap())).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn safetensors_written_is_safetensors_read_by_us_and_by_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &some_scalars());
    for place in [path.as_path(), folder.path()] {
        let container = Container::open(place).unwrap();
        assert_eq!(container.format(), ContainerFormat::Safetensors);
        assert_eq!(container.metadata().require::<&str>("format").unwrap(), "pt");
        assert_holds(&container, &some_scalars());
    }
    let bytes = fs::read(&path).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (seed, tensor) in some_scalars().iter().enumerate() {
        let view = reference.tensor(&tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        assert_eq!(view.data(), fill(seed, view.data().len() as u64));
    }
}

#[test]
fn a_sharded_model_is_found_through_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tensors = some_scalars();
    let (first, second) = tensors.split_at(2);
    write_safetensors(&at("model-00001-of-00002.safetensors"), first);
    write_safetensors(&at("model-00002-of-00002.safetensors"), second);
    let map = |extra: Option<(&str, &str)>| {
        let shard = |n: usize| format!("model-{n:05}-of-00002.safetensors");
        let mut map: BTreeMap<String, String> = first.iter().map(|t| (t.name.clone(), shard(1))).collect();
        map.extend(second.iter().map(|t| (t.name.clone(), shard(2))));
        map.extend(extra.map(|(k, v)| (k.to_string(), v.to_string())));
        serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()
    };
    let index = at("model.safetensors.index.json");
    fs::write(&index, map(None)).unwrap();
    for place in [index.as_path(), folder.path()] {
        let container = Container::open(place).unwrap();
        assert_eq!(container.tensors().len(), tensors.len());
        let info = container.tensor("ids").unwrap();
        assert_eq!((info.file, container.bytes(info)), (1, &fill(2, 12)[..]));
    }
    fs::write(&index, map(Some(("absent", "model-00001-of-00002.safetensors")))).unwrap();
    refused(Container::open(&index), &["index.json", "`absent`"]);
    fs::write(&index, map(Some(("absent", "model-00003-of-00002.safetensors")))).unwrap();
    refused(Container::open(&index), &["model-00003-of-00002.safetensors", "open"]);
    fs::write(&index, map(Some(("absent", "../model.safetensors")))).unwrap();
    refused(Container::open(&index), &["in the folder of the index"]);
    fs::write(&index, "{}").unwrap();
    refused(Container::open(&index), &["weight_map"]);
}

fn raw_safetensors(json: &str, data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn impossible_safetensors_headers_are_refused_by_name() {
    let parse = |json: &str, data| st::parse(Path::new("bad.safetensors"), &raw_safetensors(json, data));
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#""t": {{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = tensor("F32", "[2]", "[0,8]");
    assert!(parse(&format!("{{{one}}}"), 8).is_ok());
    refused(parse(&format!("{{{one}}}"), 7), &["`t`", "cut short"]);
    refused(parse(&format!("{{{one}}}"), 9), &["no gaps"]);
    refused(parse(&format!("{{{one},{one}}}"), 8), &["`t`", "twice"]);
    refused(parse(&format!("{{{}}}", tensor("F31", "[2]", "[0,8]")), 8), &["`t`", "F31", "BF16"]);
    refused(parse(&format!("{{{}}}", tensor("F32", "[3]", "[0,8]")), 8), &["`t`", "12 bytes"]);
    refused(parse(&format!("{{{}}}", tensor("F32", "[2]", "[8,0]")), 8), &["`t`", "data_offsets"]);
    refused(parse(&format!("{{{}}}", tensor("F32", "[-2]", "[0,8]")), 8), &["`t`", "integer `-2`"]);
    let huge = tensor("F32", "[4611686018427387904,4]", "[0,8]");
    refused(parse(&format!("{{{huge}}}"), 8), &["`t`", "64 bits"]);
    let overlap = format!(r#"{{{one}, "u": {{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}}}"#);
    refused(parse(&overlap, 12), &["`u`", "`t`", "inside"]);
    refused(parse("[]", 0), &["bad.safetensors", "tensor names"]);
    refused(parse(r#"{"t": {"dtype":"F32"}}"#, 0), &["`t`", "missing field"]);
    refused(parse(r#"{"__metadata__": {"a": 1}}"#, 0), &["bad.safetensors"]);
    refused(st::parse(Path::new("b"), &[0xff; 16]), &["no safetensors file"]);
    refused(st::parse(Path::new("b"), &[1]), &["cut short"]);
    let wide = tensor("I64", "[1]", "[0,8]");
    assert_eq!(parse(&format!("{{{wide}}}"), 8).unwrap().unsupported[0].stored_as, "I64");
}

fn llama2c_bytes(vocab: i32) -> Vec<u8> {
    let (dim, hidden, layers, heads, kv_heads, seq) = (8, 12, 2, 4, 2, 5);
    let head_dim = dim / heads;
    let v = vocab.abs();
    let mut values = v * dim
        + layers * (2 * dim + 2 * dim * dim + 2 * dim * kv_heads * head_dim + 3 * dim * hidden)
        + dim
        + seq * head_dim;
    values += if vocab < 0 { v * dim } else { 0 };
    let mut out: Vec<u8> =
        [dim, hidden, layers, heads, kv_heads, vocab, seq].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
    (0..values).for_each(|i| out.extend((i as f32).to_le_bytes()));
    out
}

#[test]
fn a_llama2c_checkpoint_is_seen_through_gguf_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stories.bin");
    for (vocab, last) in [(6, "output_norm.weight"), (-6, "output.weight")] {
        fs::write(&path, llama2c_bytes(vocab)).unwrap();
        let container = Container::open(&path).unwrap();
        assert_eq!(container.format(), ContainerFormat::Llama2c);
        assert_eq!(container.tensors().last().unwrap().name, last);
        assert_eq!(container.tensors().len(), 1 + 9 * 2 + 1 + usize::from(vocab < 0));
        // values count up through the file, so the first value of a tensor says where it lies
        let first = |name: &str| {
            let bytes = container.bytes(container.tensor(name).unwrap());
            f32::from_le_bytes(bytes[..4].try_into().unwrap())
        };
        assert_eq!(first("blk.0.attn_norm.weight"), 48.0);
        assert_eq!(first("blk.1.attn_norm.weight"), 56.0);
        assert_eq!(first("blk.0.attn_q.weight"), 64.0);
        assert_eq!(first("blk.1.attn_k.weight"), 64.0 + 128.0 + 32.0);
        assert_eq!(container.tensor("blk.0.attn_k.weight").unwrap().shape, [4, 8]);
        assert_eq!(container.tensor("blk.1.ffn_down.weight").unwrap().shape, [8, 12]);
        assert_eq!(container.metadata().require::<u32>("llama.attention.head_count_kv").unwrap(), 2);
    }
}

#[test]
fn impossible_llama2c_headers_are_refused() {
    let file = Path::new("bad.bin");
    let with = |field: usize, value: i32| {
        let mut bytes = llama2c_bytes(6);
        bytes[4 * field..4 * field + 4].copy_from_slice(&value.to_le_bytes());
        llama2c::parse(file, &bytes)
    };
    refused(with(0, 0), &["bad.bin", "dim is 0"]);
    refused(with(2, -3), &["n_layers is -3"]);
    refused(with(3, 3), &["3 heads"]);
    refused(with(4, 3), &["3 kv heads"]);
    refused(with(5, i32::MIN), &["vocab_size"]);
    refused(with(6, i32::MAX), &["bytes, but the file has"]);
    refused(with(2, i32::MAX), &["bytes, but the file has"]);
    refused(llama2c::parse(file, &[0; 20]), &["cut short"]);
}

fn rwkv_cpp_bytes() -> Vec<u8> {
    let mut out: Vec<u8> = [0x67676d66, 101, 3, 32, 1, 7].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
    let mut tensor = |name: &str, kind: i32, sizes: &[i32], bytes: usize| {
        let numbers = [sizes.len() as i32, name.len() as i32, kind].into_iter().chain(sizes.iter().copied());
        out.extend(numbers.flat_map(i32::to_le_bytes));
        out.extend(name.as_bytes());
        out.extend((0..bytes).map(|i| i as u8));
    };
    tensor("emb.weight", 1, &[32, 3], 2 * 96);
    tensor("blocks.0.att.time_decay", 0, &[1, 1, 8], 4 * 8);
    tensor("blocks.0.att.key.weight", 7, &[64, 2], 4 * 22);
    out
}

#[test]
fn an_rwkv_cpp_checkpoint_keeps_its_names_and_shapes_are_outermost_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rwkv.bin");
    fs::write(&path, rwkv_cpp_bytes()).unwrap();
    let container = Container::open(&path).unwrap();
    assert_eq!(container.format(), ContainerFormat::RwkvCpp);
    let all: Vec<_> = container.tensors().iter().map(|t| (t.name.as_str(), t.dtype, &t.shape[..])).collect();
    let want: [(&str, Dtype, &[usize]); 3] = [
        ("emb.weight", Dtype::F16, &[3, 32]),
        ("blocks.0.att.time_decay", Dtype::F32, &[8, 1, 1]),
        ("blocks.0.att.key.weight", Dtype::Q5_0, &[2, 64]),
    ];
    assert_eq!(all, want);
    for tensor in container.tensors() {
        let bytes = container.bytes(tensor);
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == i as u8), "{}: its bytes count from 0", tensor.name);
    }
    for (key, n) in [(rwkv_cpp::VOCAB_KEY, 3), (rwkv_cpp::EMBED_KEY, 32), (rwkv_cpp::LAYER_KEY, 1)] {
        assert_eq!(container.metadata().require::<u32>(key).unwrap(), n);
    }
}

#[test]
fn impossible_rwkv_cpp_headers_and_records_are_refused() {
    let with = |field: usize, value: i32| {
        let mut bytes = rwkv_cpp_bytes();
        bytes[4 * field..4 * field + 4].copy_from_slice(&value.to_le_bytes());
        rwkv_cpp::parse(Path::new("bad.bin"), &bytes)
    };
    refused(with(0, 0x67676d6c), &["bad.bin", "0x67676d6c", "0x67676d66"]);
    refused(with(1, 99), &["version", "99"]);
    refused(with(2, 0), &["n_vocab", "0"]);
    refused(with(4, -1), &["n_layer", "-1"]);
    // The record of the first tensor: dimensions, key length, type, sizes.
    refused(with(6, 5), &["tensor 0", "5 dimensions"]);
    refused(with(6, 0), &["tensor 0", "0 dimensions"]);
    refused(with(7, -1), &["tensor 0", "key has -1 bytes"]);
    refused(with(7, i32::MAX), &["tensor 0", "1024"]);
    refused(with(8, 4), &["`emb.weight`", "data type is 4"]);
    refused(with(9, -2), &["tensor 0", "below 1"]);
    refused(with(9, i32::MAX), &["`emb.weight`", "cut short"]);
    refused(with(1, 100), &["`blocks.0.att.key.weight`", "Q5_0", "version 100", "again"]);
    let mut twice = rwkv_cpp_bytes();
    twice.extend_from_within(24..24 + 20 + 10 + 192);
    refused(rwkv_cpp::parse(Path::new("bad.bin"), &twice), &["`emb.weight`", "twice"]);
    refused(rwkv_cpp::parse(Path::new("bad.bin"), &rwkv_cpp_bytes()[..24]), &["ends after its header"]);
}

/// Whole small files of every format, with a parser each.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let gguf_path = folder.path().join("m.gguf");
    write_gguf(&gguf_path, &every_value_type(Path::new("m")), &some_tensors());
    let st_path = folder.path().join("m.safetensors");
    write_safetensors(&st_path, &some_scalars());
    vec![
        ("gguf", fs::read(gguf_path).unwrap()),
        ("safetensors", fs::read(st_path).unwrap()),
        ("llama2c", llama2c_bytes(-6)),
        ("rwkv_cpp", rwkv_cpp_bytes()),
    ]
}

fn parse_all(bytes: &[u8]) {
    let file = Path::new("damaged");
    let headers =
        [gguf::parse(file, bytes), st::parse(file, bytes), llama2c::parse(file, bytes), rwkv_cpp::parse(file, bytes)];
    for header in headers.into_iter().flatten() {
        for tensor in header.tensors {
            assert!(tensor.bytes == 0 || tensor.offset + tensor.bytes <= bytes.len() as u64);
            assert_eq!(
                tensor.bytes as usize,
                tensor.elements() / tensor.dtype.block_len() * tensor.dtype.block_bytes()
            );
        }
    }
}

#[test]
fn no_truncation_panics_and_a_cut_header_is_refused() {
    for (format, bytes) in samples() {
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            parse_all(cut);
            let file = Path::new("cut");
            // GGUF may end in padding or in an empty tensor, so only its last few bytes may be missing.
            match format {
                "gguf" => assert!(gguf::parse(file, cut).is_err() || length + 32 > bytes.len(), "{length}"),
                "safetensors" => assert!(st::parse(file, cut).is_err(), "{length}"),
                // Tensors follow until the file ends: a cut between two of them is a file of fewer.
                "rwkv_cpp" => {
                    let header = rwkv_cpp::parse(file, cut);
                    assert!(header.is_err() || header.unwrap().tensors.len() < 3, "{length}");
                }
                _ => assert!(llama2c::parse(file, cut).is_err(), "{length}"),
            }
        }
    }
}

#[test]
fn no_single_flipped_bit_panics() {
    for (_, bytes) in samples() {
        let mut damaged = bytes.clone();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                damaged[at] ^= 1 << bit;
                parse_all(&damaged);
                damaged[at] = bytes[at];
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn no_damage_panics(
        sample in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        splice in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let (_, mut bytes) = samples_once()[sample].clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let at = cut.index(bytes.len());
        bytes.splice(at..at, splice);
        parse_all(&bytes);
    }

    #[test]
    fn safetensors_accepted_by_the_reference_are_read_the_same(
        shapes in prop::collection::vec((prop::collection::vec(0usize..5, 0..4), 0usize..5), 0..6),
    ) {
        let kinds = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::I32];
        let names = [safetensors::Dtype::F32, safetensors::Dtype::F64, safetensors::Dtype::F16,
            safetensors::Dtype::BF16, safetensors::Dtype::I32];
        let data: Vec<Vec<u8>> = shapes.iter().enumerate().map(|(i, (shape, kind))| {
            fill(i, (shape.iter().product::<usize>() * kinds[*kind].block_bytes()) as u64)
        }).collect();
        let views: Vec<_> = shapes.iter().zip(&data).enumerate().map(|(i, ((shape, kind), data))| {
            (format!("t{i}"), safetensors::tensor::TensorView::new(names[*kind], shape.clone(), data).unwrap())
        }).collect();
        let file = safetensors::serialize(views, None).unwrap();
        let header = st::parse(Path::new("x"), &file).unwrap();
        prop_assert_eq!(header.tensors.len(), shapes.len());
        for tensor in &header.tensors {
            let i: usize = tensor.name[1..].parse().unwrap();
            prop_assert_eq!(tensor.dtype, kinds[shapes[i].1]);
            prop_assert_eq!(&tensor.shape, &shapes[i].0);
            let begin = tensor.offset as usize;
            prop_assert_eq!(&file[begin..begin + tensor.bytes as usize], &data[i][..]);
        }
    }
}

fn samples_once() -> &'static [(&'static str, Vec<u8>)] {
    static SAMPLES: std::sync::OnceLock<Vec<(&'static str, Vec<u8>)>> = std::sync::OnceLock::new();
    SAMPLES.get_or_init(samples)
}

#[test]
fn every_known_size_only_type_has_whole_blocks() {
    for id in 0..64 {
        if let Some(known) = GgmlType::from_id(id) {
            let (len, bytes) = known.block();
            assert!(len > 0 && bytes > 0, "{}", known.name());
        }
    }
}

#[test]
fn published_vocabularies_are_read() {
    let Some(folder) = data("tokenizers") else { return };
    for (name, tokens) in [
        ("gpt-2", 50257),
        ("llama-spm", 32000),
        ("phi-3", 32064),
        ("deepseek-coder", 32256),
        ("falcon", 65024),
        ("bert-bge", 30522),
    ] {
        let container = Container::open(folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap();
        assert_eq!(container.metadata().require::<&[String]>("tokenizer.ggml.tokens").unwrap().len(), tokens);
    }
}

#[test]
fn published_weights_are_read() {
    let Some(gru) = data("models-gru-tinystories/puregru-f32.safetensors") else { return };
    let gru = Container::open(gru).unwrap();
    assert_eq!(gru.tensors().iter().map(|t| t.elements()).sum::<usize>(), 211_147);
    let ttm = Container::open(data("models-ttm").unwrap()).unwrap();
    assert!(!ttm.tensors().is_empty());
    for (name, layers, kv_heads) in [("stories260K-restored.bin", 5, 4), ("aidreams260K.bin", 4, 4)] {
        let model = Container::open(data("models-llama2c").unwrap().join(name)).unwrap();
        assert_eq!(model.metadata().require::<u32>("llama.block_count").unwrap(), layers);
        assert_eq!(model.metadata().require::<u32>("llama.attention.head_count_kv").unwrap(), kv_heads);
        // A trained norm's gains are near one: a wrong offset would land in some matrix instead.
        for layer in 0..layers {
            let norm = model.bytes(model.tensor(&format!("blk.{layer}.attn_norm.weight")).unwrap());
            let gains: Vec<f32> = norm.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let mean = gains.iter().sum::<f32>() / gains.len() as f32;
            assert!((0.2..5.0).contains(&mean), "layer {layer}: {mean}");
        }
    }
}
