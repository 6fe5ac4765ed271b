//! A header never makes its reader allocate more than 64 times the file and a mebibyte, whatever it claims.
//!
//! One test in its own process, so that nothing else is counted.

use std::path::Path;

use memwall_formats::{
    Dtype, gguf,
    gguf::{Metadata, TensorPlan},
    llama2c, rwkv_cpp, safetensors,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Peak of bytes allocated while `file` is parsed as each format.
fn peak(bytes: &[u8]) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let name = Path::new("claims.bin");
    drop(gguf::parse(name, bytes));
    drop(safetensors::parse(name, bytes));
    drop(llama2c::parse(name, bytes));
    drop(rwkv_cpp::parse(name, bytes));
    ALLOCATOR.peak_usage() - before
}

#[track_caller]
fn assert_bounded(bytes: &[u8]) {
    let peak = peak(bytes);
    assert!(peak <= 64 * bytes.len() + (1 << 20), "{peak} bytes for a file of {}", bytes.len());
}

fn written(metadata: &Metadata, tensors: Vec<TensorPlan>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut writer = gguf::Writer::create(&path, metadata, tensors).unwrap();
    while let Some(bytes) = writer.due().map(|plan| plan.bytes(&path).unwrap()) {
        writer.write(&vec![0; bytes as usize]).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn parsing_allocates_in_proportion_to_the_file() {
    // Honest files of the kinds that cost most a byte: many empty strings, short keys, small tensors, nested arrays.
    let mut metadata = Metadata::new("");
    metadata.insert("strings", vec![String::new(); 200_000]);
    for i in 0..50_000u32 {
        metadata.insert(format!("{i}"), i as u8);
    }
    let nested = (0..50_000).map(|_| gguf::Array::U8(Vec::new())).collect();
    metadata.insert("nested", gguf::Value::Array(gguf::Array::Array(nested)));
    let tensors = (0..20_000).map(|i| TensorPlan { name: format!("{i}"), dtype: Dtype::F32, shape: vec![1] }).collect();
    let honest = written(&metadata, tensors);
    assert_bounded(&honest);

    // Every count and length of a small file, made enormous.
    let mut small = Metadata::new("");
    small.insert("k", vec!["a".to_string(), "b".to_string()]);
    small.insert("n", vec![1u64, 2]);
    let file = written(&small, vec![TensorPlan { name: "t".into(), dtype: Dtype::F32, shape: vec![4] }]);
    for at in 0..file.len().saturating_sub(8) {
        for claim in [u64::MAX, 1 << 62, 1 << 40, 1 << 32, u64::from(u32::MAX), 1 << 24] {
            let mut lying = file.clone();
            lying[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            assert_bounded(&lying);
        }
    }

    // The same for the others: a JSON header of many short names, and a model of two billion layers.
    let json = format!(
        "{{{}}}",
        (0..20_000)
            .map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
            .collect::<Vec<_>>()
            .join(",")
    );
    assert_bounded(&[&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat());
    assert_bounded(&[8u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat());
    let giant: Vec<u8> = [2, 1, i32::MAX, 1, 1, 3, 1].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
    assert_bounded(&giant);
}
