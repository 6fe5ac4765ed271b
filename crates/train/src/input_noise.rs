//! Noise on the one-hot vectors of the inputs: every symbol's component of every token is raised by a number of [0, amplitude).
//!
//! An embedding takes ids, not vectors, so the noise goes through the embedding's table beside the token's own row. It is a
//! function of the batch's tokens and the seed: a step that is made again, and a training that is resumed, see the same.

use memwall_formats::Dtype;
use memwall_graph::ops::{self, matmul::MatMul};
use memwall_graph::{Dim, Executor, Graph, GraphError, Value};
use memwall_nn::{EMBEDDING, ModelConfig, Sequences, WeightTypes};
use memwall_tasks::Philox;

/// Name of the graph's input.
const NAME: &str = "input_noise";

/// How strong noise is, and on how many symbols.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputNoise {
    /// The numbers added are uniform from 0 to this.
    pub amplitude: f32,
    /// Ids whose components are raised, from 0; at most the vocabulary.
    pub ids: usize,
}

/// Adds the embedding of all rows, with noise: [N, D].
pub(crate) fn embed(
    g: &mut Graph,
    config: &ModelConfig,
    types: &WeightTypes,
    seqs: &Sequences,
    noise: Option<InputNoise>,
) -> Result<Value, GraphError> {
    let x = config.embed(g, types, seqs)?;
    if noise.is_none() {
        return Ok(x);
    }
    let raised = g.input(NAME, [seqs.tokens, Dim::from(config.vocab_size)], Dtype::F32)?;
    let table = g.weight(EMBEDDING, [config.vocab_size, config.d_model], g.elem())?;
    let product = MatMul { a_trans: false, b_trans: false, compute: g.compute() };
    let added = g.push1(product, &[raised, table])?;
    ops::add(g, x, added)
}

/// Gives a graph the noise of a batch of these tokens.
pub(crate) fn feed(e: &mut Executor, noise: InputNoise, tokens: &[i32], seed: u64) {
    let Some(input) = e.graph().find(NAME) else {
        return;
    };
    let mut rng = Philox::new(seed ^ 0x006E_6F69_7365, fingerprint(tokens));
    let values = e.input::<f32>(input);
    let width = values.len() / tokens.len();
    for row in values.chunks_exact_mut(width) {
        let (noisy, rest) = row.split_at_mut(noise.ids.min(width));
        noisy.iter_mut().for_each(|x| *x = noise.amplitude * (1.0 - rng.unit()) as f32);
        rest.fill(0.0);
    }
}

/// FNV-1a of the tokens.
fn fingerprint(tokens: &[i32]) -> u64 {
    let bytes = tokens.iter().flat_map(|t| t.to_le_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use memwall_graph::Memory;
    use memwall_kernels::gemm::Compute;
    use memwall_nn::{ChannelConfig, LayerConfig, MixerConfig, ShortConvConfig};

    use super::*;
    use crate::{Batch, Trainer, TrainerOptions};

    fn loss(noise: Option<InputNoise>, ids: [i32; 6]) -> f64 {
        let mixer = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
        let config = ModelConfig::new(8, 16, 6, vec![LayerConfig { mixer, channel: ChannelConfig::None }]);
        let options = TrainerOptions {
            tokens: 6,
            sequences: 1,
            threads: 1,
            compute: Compute::F32,
            recompute: 0,
            seed: 1,
            input_noise: noise,
            distillation: None,
            fences: true,
        };
        let mut trainer = Trainer::new(config, options, Memory::new()).unwrap();
        let batch = Batch { ids: ids.into(), targets: vec![1, 2, 3, 4, 5, 0], lengths: vec![6] };
        trainer.evaluate(&batch).unwrap().loss
    }

    #[test]
    fn noise_is_as_strong_as_said_and_the_same_for_the_same_tokens() {
        let noise = |amplitude, ids| Some(InputNoise { amplitude, ids });
        let quiet = loss(None, [1, 2, 3, 4, 5, 0]);
        assert_eq!(loss(noise(0.0, 8), [1, 2, 3, 4, 5, 0]), quiet);
        assert_eq!(loss(noise(0.2, 0), [1, 2, 3, 4, 5, 0]), quiet, "no symbol is raised");
        let noisy = loss(noise(0.2, 8), [1, 2, 3, 4, 5, 0]);
        assert_ne!(noisy, quiet);
        assert_eq!(noisy, loss(noise(0.2, 8), [1, 2, 3, 4, 5, 0]));
        assert_ne!(noisy, loss(noise(0.2, 4), [1, 2, 3, 4, 5, 0]));
        assert_ne!(noisy, loss(noise(0.4, 8), [1, 2, 3, 4, 5, 0]));
    }
}
