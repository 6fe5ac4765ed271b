//! A model of characters whose keys have loud channels.
//!
//! Channels are planted after training, without changing the function: rows of `k_proj` times twelve, rows of `q_proj` over twelve.

use std::sync::Arc;

use memwall_kernels::Pool;
use memwall_nn::{AttentionConfig, MixerConfig, ModelConfig, RopeConfig};
use memwall_tasks::{Philox, Split, distinct};
use memwall_train::Trainer;

use crate::characters::{Characters, Windows, windows};
use crate::decoder::{Decoder, name};
use crate::trial::packed;
use crate::{Error, Run};

/// How many times as large a planted channel is, and rotary pairs of a head that are.
const TIMES: f32 = 12.0;
const LOUD_PAIRS: usize = 2;
const HEADS: usize = 2;

/// A trained model, its channels planted.
pub(crate) struct Planted {
    pub(crate) decoder: Decoder,
    trainer: Trainer,
    pub(crate) seed: u64,
}

/// A model of `text` of this width.
pub(crate) fn config(text: &Characters, width: usize) -> ModelConfig {
    let rope = Some(RopeConfig::default());
    let attention = AttentionConfig { rope, ..AttentionConfig::new(HEADS, HEADS, width / HEADS) };
    text.model(MixerConfig::Attention(attention), width)
}

impl Planted {
    /// Trains a model of [`config`] and plants loud channels, chosen from stream `stream` of `seed`.
    pub(crate) fn train(
        run: &Run,
        text: &Characters,
        config: &ModelConfig,
        rate: f64,
        seed: u64,
        stream: u64,
    ) -> Result<Planted, Error> {
        let mut trainer = text.training.trainer(run, config, seed)?;
        text.training.train(run, &mut trainer, &text.task(seed)?, rate)?;
        let names: Vec<String> = trainer.parameters().map(str::to_owned).collect();
        let get = |name: &String| trainer.memory().get::<f32>(name).map(|w| (name.clone(), w.to_vec()));
        let mut decoder = Decoder {
            layers: config.layers.len(),
            width: config.d_model,
            heads: HEADS,
            vocab: config.vocab_size,
            eps: config.norm_eps,
            weights: names.iter().filter_map(get).collect(),
            pool: Arc::new(Pool::new(run.threads())),
        };
        plant(&mut decoder, &mut Philox::new(seed, stream))?;
        Ok(Planted { decoder, trainer, seed })
    }

    /// Windows of a split, at least `count`, and what the trained model itself loses there.
    pub(crate) fn windows(&mut self, text: &Characters, count: usize, split: Split) -> Result<(Windows, f64), Error> {
        let (mut loss, mut labels) = (0.0, 0.0);
        let windows = windows(&text.task(self.seed)?, text.training.batch, split, count, |batch| {
            let of_batch = batch.labels() as f64;
            loss += self.trainer.evaluate(&packed(batch)).map_err(Error::experiment)?.loss * of_batch;
            labels += of_batch;
            Ok(())
        })?;
        Ok((windows, loss / labels))
    }
}

fn plant(decoder: &mut Decoder, rng: &mut Philox) -> Result<(), Error> {
    let (width, head_dim) = (decoder.width, decoder.head_dim());
    for layer in 0..decoder.layers {
        for head in 0..decoder.heads {
            for pair in distinct(rng, head_dim / 2, LOUD_PAIRS) {
                for channel in [pair, pair + head_dim / 2] {
                    let row = (head * head_dim + channel) * width..(head * head_dim + channel + 1) * width;
                    for (part, factor) in [("k_proj", TIMES), ("q_proj", 1.0 / TIMES)] {
                        let name = name(layer, &format!("self_attn.{part}"));
                        let weight = decoder.weights.get_mut(&name);
                        let weight = weight.ok_or_else(|| Error::experiment(format!("no {name}")))?;
                        weight[row.clone()].iter_mut().for_each(|w| *w *= factor);
                    }
                }
            }
        }
    }
    Ok(())
}
