//! A model file gives the same weights through every tier.

use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Container, Dtype};
use memwall_store::{Advice, Budget, Extents, Mapped, Ram, TensorId, Throttled, Tier};
use std::sync::Arc;

/// Rows, columns and format of each tensor.
const TENSORS: [(&str, usize, usize, Dtype); 4] = [
    ("token_embd.weight", 96, 256, Dtype::Q8_0),
    ("blk.0.attn_norm.weight", 1, 256, Dtype::F32),
    ("blk.0.attn_q.weight", 64, 256, Dtype::Q4_K),
    ("output.weight", 96, 256, Dtype::F16),
];

#[test]
fn a_model_file_gives_the_same_weights_through_every_tier() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let plan = |&(name, rows, columns, dtype): &(&str, usize, usize, Dtype)| TensorPlan {
        name: name.to_string(),
        dtype,
        shape: vec![rows, columns],
    };
    let plans: Vec<TensorPlan> = TENSORS.iter().map(plan).collect();
    let mut writer = Writer::create(&path, &Metadata::new(&path), plans.clone()).unwrap();
    for (i, plan) in plans.iter().enumerate() {
        let bytes = plan.bytes(&path).unwrap() as usize;
        writer.write(&(0..bytes).map(|at| (at * 31 + i * 7) as u8).collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();

    let container = Container::open(&path).unwrap();
    let extents = Extents::from(&container);
    let budget = Budget::unlimited();
    let ram = Arc::new(Ram::load(&budget, &extents).unwrap());
    let mapped = Mapped::open(&budget, extents.clone(), Advice::Normal).unwrap();
    let throttled = Throttled::new(ram.clone(), &budget, 1e12, 0);
    let tiers: [&dyn Tier; 3] = [&*ram, &mapped, &throttled];
    for (i, tensor) in container.tensors().iter().enumerate() {
        assert_eq!(extents.find(&tensor.name), Some(TensorId(i)));
        for tier in tiers {
            assert_eq!(&*tier.get(TensorId(i)).unwrap(), container.bytes(tensor), "{}", tensor.name);
        }
    }
    let norm = extents.find("blk.0.attn_norm.weight").unwrap();
    assert_eq!(ram.get(norm).unwrap().values::<f32>().unwrap().len(), 256);
}
