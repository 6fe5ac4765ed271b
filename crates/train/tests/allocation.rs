//! A training step allocates nothing: the law of the graph holds up to the optimizer.

use memwall_graph::Memory;
use memwall_kernels::gemm::Compute;
use memwall_nn::{AttentionConfig, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use memwall_store::CountingAllocator;
use memwall_train::{Batch, Optimizer, Trainer, TrainerOptions};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

#[test]
fn a_step_allocates_nothing_alone_or_over_several_micro_batches() {
    let channel = ChannelConfig::Mlp { hidden: 64, activation: Default::default(), bias: false };
    let layer = LayerConfig { mixer: MixerConfig::Attention(AttentionConfig::new(2, 1, 16)), channel };
    let config = ModelConfig { tie_embeddings: true, ..ModelConfig::new(64, 32, 16, vec![layer; 2]) };
    let batch = |seed: i32| {
        let ids: Vec<i32> = (0..33).map(|i| (i * i * 7 + i + seed) % 64).collect();
        Batch { ids: ids[..32].to_vec(), targets: ids[1..].to_vec(), lengths: vec![16, 16] }
    };
    let batches = [batch(0), batch(1), batch(2)];
    for compute in [Compute::F32, Compute::Bf16] {
        for recompute in [0, 2] {
            let options = TrainerOptions {
                tokens: 32,
                sequences: 2,
                threads: 2,
                compute,
                recompute,
                seed: 1,
                input_noise: None,
                distillation: None,
                fences: false,
            };
            let mut trainer = Trainer::new(config.clone(), options, Memory::new()).expect("a trainer");
            let optimizer = Optimizer::default();
            for batches in [&batches[..1], &batches] {
                // The first step over several micro-batches takes the memory for their sum.
                trainer.step(batches, 1e-2, &optimizer).expect("a step");
                // What a step allocates, every step does; a thread of the harness may once.
                let allocations = (0..5).map(|_| {
                    let before = ALLOCATOR.allocations();
                    trainer.step(batches, 1e-2, &optimizer).expect("a step");
                    ALLOCATOR.allocations() - before
                });
                assert_eq!(
                    allocations.min(),
                    Some(0),
                    "{compute:?}, {recompute} blocks recomputed, {} micro-batches",
                    batches.len()
                );
            }
        }
    }
}
