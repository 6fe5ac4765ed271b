//! rwkv.cpp's small models against the logits that their author published.

use std::path::PathBuf;

use memwall_infer::{Engine, EngineOptions, InferError, Model, StepRows, Wanted};

/// The bytes `"in`, which are the tokens that the logits are of.
const PROMPT: [u32; 3] = [0x22, 0x69, 0x6e];

/// A file, the logits it should give, and how far its stored numbers may take them away: the published logits are those of
/// the F32 weights. The bounds of half-precision and block formats are what an f64 computation with the stored weights
/// differs by (0.12, 0.1, 0.3, 0.0035), with room for activations in int8 on each instruction set.
const FILES: [(&str, &str, f32); 9] = [
    ("tiny-rwkv-4v0-660K-FP32.bin", "4v0-660K", 1e-4),
    ("tiny-rwkv-4v0-660K-FP16.bin", "4v0-660K", 0.005),
    ("tiny-rwkv-4v0-660K-Q5_0.bin", "4v0-660K", 0.2),
    ("tiny-rwkv-4v0-660K-Q5_1.bin", "4v0-660K", 0.2),
    ("tiny-rwkv-5v1-730K-FP32.bin", "5v1-730K", 1e-4),
    ("tiny-rwkv-5v1-730K-Q5_1.bin", "5v1-730K", 0.5),
    ("tiny-rwkv-7v0-834K-FP32.bin", "7v0-834K", 1e-4),
    ("tiny-rwkv-7v0-834K-FP16.bin", "7v0-834K", 1e-4),
    ("tiny-rwkv-7v0-834K-Q5_0.bin", "7v0-834K", 0.01),
];

fn data(name: &str) -> Option<PathBuf> {
    memwall_testdata::data(&format!("models-rwkv/{name}"))
}

fn expected(version: &str) -> Option<Vec<f32>> {
    let bytes = std::fs::read(data(&format!("expected-logits-{version}.bin"))?).expect("readable");
    Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn engine(model: &Model, step: usize) -> Result<Engine, InferError> {
    Engine::new(model, EngineOptions { context: 64, step, outputs: step, slots: 2, ..Default::default() })
}

#[test]
fn published_logits_come_out_however_the_prompt_is_cut() -> Result<(), InferError> {
    for (file, version, bound) in FILES {
        let (Some(path), Some(want)) = (data(file), expected(version)) else { return Ok(()) };
        let model = Model::open(path)?;
        let mut one_by_one = engine(&model, 1)?;
        let mut logits = Vec::new();
        for token in PROMPT {
            logits = one_by_one.step(&[StepRows { slot: 0, tokens: &[token] }], Wanted::Last)?.to_vec();
        }
        let worst = logits.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{file}: logits differ by at most {worst:.2e}");
        assert!(logits.len() == want.len() && worst < bound, "{file}: logits differ by {worst}");
        // All at once beside another sequence: the same bits.
        let mut together = engine(&model, 16)?;
        let other: Vec<u32> = (0..9).collect();
        let rows = [StepRows { slot: 1, tokens: &other }, StepRows { slot: 0, tokens: &PROMPT }];
        let both = together.step(&rows, Wanted::Last)?;
        assert_eq!(both[want.len()..], logits, "{file}");
        // A slot that is emptied begins anew.
        together.clear(0)?;
        let again = together.step(&[StepRows { slot: 0, tokens: &PROMPT }], Wanted::Last)?;
        assert_eq!(*again, logits[..], "{file}");
    }
    Ok(())
}

/// Models of versions that have no published file: the equations in f64 are the reference (`golden_rwkv/make.py`).
#[test]
fn versions_5_2_and_6_equal_the_equations_in_f64() -> Result<(), InferError> {
    for name in ["rwkv5.2", "rwkv6"] {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden_rwkv");
        let model = Model::open(golden.join(format!("{name}.bin")))?;
        let bytes = std::fs::read(golden.join(format!("{name}.logits.bin")))?;
        let want: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let tokens: Vec<u32> = (0..8).map(|i| (7 * i * i + 3 * i) % 32).collect();
        let mut engine = engine(&model, 8)?;
        let logits = engine.step(&[StepRows { slot: 0, tokens: &tokens }], Wanted::All)?;
        let worst = logits.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: logits differ by at most {worst:.2e}");
        assert!(logits.len() == want.len() && worst < 1e-5, "{name}: logits differ by {worst}");
    }
    Ok(())
}

#[test]
fn a_file_cut_between_two_tensors_is_refused_by_the_name_of_what_is_missing() {
    let Some(path) = data("tiny-rwkv-7v0-834K-FP32.bin") else { return };
    let bytes = std::fs::read(path).expect("readable");
    let folder = tempfile::tempdir().expect("a folder");
    let cut = folder.path().join("cut.bin");
    let header = memwall_formats::rwkv_cpp::parse(&cut, &bytes).expect("the whole file");
    let ends: Vec<u64> = header.tensors.iter().map(|t| t.offset + t.bytes).collect();
    for end in ends.iter().rev().skip(1).step_by(7) {
        std::fs::write(&cut, &bytes[..*end as usize]).expect("written");
        let error = Model::open(&cut).expect_err("tensors are missing").to_string();
        assert!(
            error.contains("cut.bin")
                && ["missing", "no tensor", "but the file has"].iter().any(|of| error.contains(of)),
            "{error}"
        );
    }
}
