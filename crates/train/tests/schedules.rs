//! The law of schedules on whole training steps: threads and recomputation change no bit of a gradient.

use memwall_graph::Memory;
use memwall_kernels::gemm::Compute;
use memwall_nn::{
    AttentionConfig, ChannelConfig, GateConfig, GlaConfig, LayerConfig, MixerConfig, ModelConfig, RopeConfig,
    ShortConvConfig,
};
use memwall_train::{Batch, Optimizer, Trainer, TrainerOptions};

const WIDTH: usize = 48;
const LAYERS: usize = 3;

fn model(mixers: [MixerConfig; LAYERS]) -> ModelConfig {
    let channel = ChannelConfig::Glu { hidden: 80, activation: Default::default(), bias: false };
    ModelConfig {
        tie_embeddings: true,
        ..ModelConfig::new(97, WIDTH, 64, mixers.map(|mixer| LayerConfig { mixer, channel: channel.clone() }).into())
    }
}

/// A Qwen3-like transformer, gated linear attention throughout, and a hybrid with a gated layer and a convolution.
fn models() -> [(&'static str, ModelConfig); 3] {
    let rope = Some(RopeConfig::default());
    let attention = AttentionConfig { rope, qk_norm: true, ..AttentionConfig::new(4, 2, 12) };
    let gated = AttentionConfig { gate: Some(GateConfig::default()), ..attention.clone() };
    let gla = MixerConfig::Gla(GlaConfig::new(2, 12, 24));
    let convolution = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
    let plain = MixerConfig::Attention(attention);
    [
        ("transformer", model([plain.clone(), plain.clone(), plain])),
        ("gated linear attention", model([gla.clone(), gla.clone(), gla.clone()])),
        ("hybrid", model([gla, MixerConfig::Attention(gated), convolution])),
    ]
}

/// Bits of every first moment after a step of two micro-batches, which are a tenth of the gradients, and the arena's bytes.
fn gradients(config: &ModelConfig, threads: usize, recompute: usize, fences: bool) -> (Vec<u32>, usize) {
    let o = TrainerOptions {
        tokens: 128,
        sequences: 3,
        threads,
        compute: Compute::F32,
        recompute,
        seed: 5,
        input_noise: None,
        distillation: None,
        fences,
    };
    let mut trainer = Trainer::new(config.clone(), o, Memory::new()).expect("a trainer");
    let batch = |from: i32, lengths: &[usize]| {
        let n: usize = lengths.iter().sum();
        let ids: Vec<i32> = (from..=from + n as i32).map(|i| (i * i * 7 + i) % 97).collect();
        Batch { ids: ids[..n].to_vec(), targets: ids[1..].to_vec(), lengths: lengths.to_vec() }
    };
    let batches = [batch(0, &[50, 1, 64]), batch(500, &[64, 51])];
    let optimizer = Optimizer { clip: None, ..Optimizer::default() };
    trainer.step(&batches, 1e-3, &optimizer).expect("a step");
    let names: Vec<String> = trainer.parameters().map(|p| format!("{p}.exp_avg")).collect();
    let all = names.iter().flat_map(|n| trainer.memory().get::<u32>(n).expect("a gradient").to_vec()).collect();
    (all, trainer.plan().arena_bytes)
}

#[test]
fn gradients_do_not_depend_on_threads_or_on_what_is_recomputed() {
    for (name, config) in models() {
        let (want, kept) = gradients(&config, 1, 0, false);
        assert!(want.iter().any(|&bits| f32::from_bits(bits) != 0.0));
        for threads in [1, 2] {
            for recompute in 0..=LAYERS {
                let (got, bytes) = gradients(&config, threads, recompute, recompute == 2);
                assert!(got == want, "{name}: {threads} threads, {recompute} layers made again");
                let less = recompute < LAYERS || threads > 1 || bytes < kept;
                assert!(less, "{name}: {bytes} bytes with recomputation, {kept} without");
            }
        }
    }
}
