//! Weights as the hub quantizes them, against torch and ml_dtypes, and there and back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memwall_formats::hub::{HubError, HubWeight, Scheme, TernaryScale, weights};
use memwall_formats::{Container, Dtype, format, safetensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/hub/{name}.safetensors"))
}

fn read(container: &Container, ternary: TernaryScale) -> Vec<HubWeight> {
    weights(container, None, ternary).expect("weights").expect("quantized ones")
}

#[test]
fn weights_are_what_torch_and_ml_dtypes_make_of_them() {
    let mut values = 0;
    for (name, ternary) in [
        ("fp8", TernaryScale::Divides),
        ("fp8-channel", TernaryScale::Divides),
        ("fp8-block", TernaryScale::Divides),
        ("mxfp4", TernaryScale::Divides),
        ("nvfp4", TernaryScale::Divides),
        ("nvfp4-modelopt", TernaryScale::Divides),
        ("bitnet-multiplies", TernaryScale::Multiplies),
        ("bitnet-divides", TernaryScale::Divides),
    ] {
        let container = Container::open(golden(name)).expect("a file");
        let all = read(&container, ternary);
        let weight = all.iter().find(|w| w.name == "w.weight").expect("the weight");
        let expected = all.iter().find(|w| w.name == "expected").expect("the oracle");
        assert!(!weight.is_plain() && expected.is_plain() && all.len() == 2, "{name}: {all:?}");
        assert_eq!(weight.shape, expected.shape, "{name}");
        let (got, want) = (weight.decode(&container).expect("values"), expected.decode(&container).expect("values"));
        values += got.len();
        for (i, (a, b)) in got.iter().zip(&want).enumerate() {
            assert!(a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0), "{name}, value {i}: {a}, oracle {b}");
        }
    }
    assert_eq!(values, 2 * 16 * 48 + 130 * 140 + 6 * 96 + 2 * 8 * 80 + 2 * 12 * 20);
}

/// Writes some tensors as one file.
fn written(folder: &Path, name: &str, scheme: Scheme, rows: usize, columns: usize, x: &[f32]) -> Container {
    let path = folder.join("model.safetensors");
    let plans = scheme.plans(name, rows, columns);
    let mut writer = safetensors::Writer::create_raw(&path, &BTreeMap::new(), &plans).expect("a file");
    let parts = scheme.encode(rows, columns, x).expect("tensors");
    assert_eq!(parts.len(), plans.len());
    parts.iter().for_each(|bytes| writer.write(bytes).expect("bytes"));
    writer.finish().expect("a whole file");
    Container::open(&path).expect("a container")
}

#[test]
fn what_is_written_is_read_back_as_near_as_the_format_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rows, columns) = (132, 160);
    let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919 % 10007) as f32 / 10007.0 - 0.5) * 0.1).collect();
    for (scheme, least_db) in [
        (Scheme::Fp8, 30.0),
        (Scheme::Fp8Block, 30.0),
        (Scheme::Mxfp4, 16.0),
        (Scheme::Nvfp4, 18.0),
        (Scheme::Nvfp4ModelOpt, 18.0),
        (Scheme::BitNet, 3.0),
    ] {
        assert!(scheme.fits(rows, columns));
        let container = written(folder.path(), "m.q_proj.weight", scheme, rows, columns, &x);
        let all = read(&container, TernaryScale::Multiplies);
        assert_eq!((all.len(), &*all[0].name, &all[0].shape[..]), (1, "m.q_proj.weight", &[rows, columns][..]));
        let once = all[0].decode(&container).expect("values");
        let noise: f64 = x.iter().zip(&once).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let signal: f64 = x.iter().map(|a| f64::from(*a).powi(2)).sum();
        let db = 10.0 * (signal / noise).log10();
        assert!(db > least_db, "{scheme:?}: {db} dB");
        // What came back is on the format's grid already; ternary ones have another mean magnitude.
        if scheme != Scheme::BitNet {
            let again = written(folder.path(), "m.q_proj.weight", scheme, rows, columns, &once);
            let twice = read(&again, TernaryScale::Multiplies)[0].decode(&again).expect("values");
            let off = once.iter().zip(&twice).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-7, "{scheme:?}: {off}");
        }
    }
    // MXFP4 has GGUF's values under the same rule.
    let container = written(folder.path(), "w.weight", Scheme::Mxfp4, rows, columns, &x);
    let hub = read(&container, TernaryScale::Divides)[0].decode(&container).expect("values");
    let mut bytes = vec![0; rows * Dtype::MXFP4.row_bytes(columns).expect("blocks")];
    format(Dtype::MXFP4).encode(columns, &hub, &mut bytes).expect("codes");
    let mut gguf = vec![0.0; x.len()];
    format(Dtype::MXFP4).decode(columns, &bytes, &mut gguf).expect("values");
    assert_eq!(hub, gguf, "what the hub's MXFP4 holds, GGUF's holds as well");
}

#[test]
fn zeros_stay_zeros() {
    let folder = tempfile::tempdir().expect("a folder");
    for scheme in Scheme::ALL {
        let container = written(folder.path(), "w.weight", scheme, 8, 32, &[0.0; 256]);
        let back = read(&container, TernaryScale::Multiplies)[0].decode(&container).expect("values");
        assert!(back.iter().all(|x| *x == 0.0), "{scheme:?}");
    }
}

#[test]
fn what_cannot_be_stored_or_read_is_refused_by_name() {
    let ragged = |scheme: Scheme, rows, columns| scheme.encode(rows, columns, &vec![0.5; rows * columns]);
    assert!(matches!(ragged(Scheme::Mxfp4, 4, 48), Err(HubError::Ragged { columns: 48, block: 32, .. })));
    assert!(matches!(ragged(Scheme::Nvfp4, 4, 24), Err(HubError::Ragged { columns: 24, block: 16, .. })));
    assert!(matches!(ragged(Scheme::BitNet, 6, 8), Err(HubError::Packing(_))));
    for scheme in Scheme::ALL {
        let nan = scheme.encode(4, 32, &[f32::NAN; 128]);
        assert!(matches!(nan, Err(HubError::NotFinite { index: 0, .. })), "{scheme:?}");
        assert_eq!(Scheme::from_name(scheme.name()), Ok(scheme));
    }
    assert!(Scheme::from_name("fp9").unwrap_err().contains("nvfp4-modelopt"));
    // A scale of another shape, and a plain file.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let mut plans = Scheme::Nvfp4.plans("w.weight", 4, 32);
    plans[1].shape = vec![2, 4];
    let mut writer = safetensors::Writer::create_raw(&path, &BTreeMap::new(), &plans).expect("a file");
    let parts = Scheme::Nvfp4.encode(4, 32, &[0.5; 128]).expect("tensors");
    parts.iter().for_each(|bytes| writer.write(bytes).expect("bytes"));
    writer.finish().expect("a whole file");
    let container = Container::open(&path).expect("a container");
    let error = read(&container, TernaryScale::Divides)[0].decode(&container).unwrap_err().to_string();
    assert!(error.contains("w.weight") && error.contains("[4, 2]") && error.contains("[2, 4]"), "{error}");
    let plain = [safetensors::RawPlan { name: "a".into(), stored_as: "F32", shape: vec![1] }];
    let mut writer = safetensors::Writer::create_raw(&path, &BTreeMap::new(), &plain).expect("a file");
    writer.write(&1f32.to_le_bytes()).expect("bytes");
    writer.finish().expect("a whole file");
    let container = Container::open(&path).expect("a container");
    assert_eq!(weights(&container, None, TernaryScale::Divides).expect("weights"), None);
}
