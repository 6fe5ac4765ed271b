//! Models of characters on plays: the text, the sizes and the training that claims share.

use std::sync::Arc;

use memwall_nn::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use memwall_tasks::data::TINY_SHAKESPEARE;
use memwall_tasks::{Batch, Batches, Corpus, Documents, Fractions, Position, Split, TextTask};

use crate::{
    Error, Run,
    trial::{Figure, Training},
};

/// A text, and what every model of it gets.
pub(crate) struct Characters {
    corpus: Arc<Corpus>,
    /// Steps, batch and length; figures are nats a character.
    pub(crate) training: Training,
    layers: usize,
    /// Width of the models.
    pub(crate) width: usize,
}

impl Characters {
    /// The text at the sizes of the run's scale: 0.8 million weights at desk scale.
    pub(crate) fn read(run: &Run) -> Result<Characters, Error> {
        let files = run.data(&TINY_SHAKESPEARE)?;
        let corpus = Corpus::read_bytes(&files, &Documents::Files, Fractions::default()).map_err(Error::experiment)?;
        Ok(Characters {
            corpus: Arc::new(corpus),
            training: Training {
                steps: run.pick(3, 400, 4000),
                batch: run.pick(2, 8, 32),
                time: run.pick(16, 128, 256),
                measured: run.pick(2, 24, 48),
                figure: Figure::Nats,
            },
            layers: run.pick(1, 4, 8),
            width: run.pick(16, 128, 256),
        })
    }

    /// Windows of the text in an order of `seed`.
    pub(crate) fn task(&self, seed: u64) -> Result<TextTask, Error> {
        TextTask::new(self.corpus.clone(), self.training.time, 256, seed).map_err(Error::experiment)
    }

    /// Blocks of `mixer` and a gated MLP, of `width`.
    pub(crate) fn model(&self, mixer: MixerConfig, width: usize) -> ModelConfig {
        let channel = ChannelConfig::Glu { hidden: width * 8 / 3, activation: Activation::Silu, bias: false };
        ModelConfig {
            norm_eps: 1e-6,
            tie_embeddings: true,
            ..ModelConfig::new(256, width, self.training.time, vec![LayerConfig { mixer, channel }; self.layers])
        }
    }
}

/// Windows of a text: token ids, and the next ones, below 0 where none is asked for.
pub(crate) type Windows = Vec<(Vec<i32>, Vec<i32>)>;

/// The first windows of a split, in whole batches of `batch`, at least `count` if there are so many; `each` is shown the batches.
pub(crate) fn windows(
    task: &TextTask,
    batch: usize,
    split: Split,
    count: usize,
    mut each: impl FnMut(&Batch) -> Result<(), Error>,
) -> Result<Windows, Error> {
    let batches = Batches::new(task, split, batch, Position::default()).map_err(Error::experiment)?;
    let mut windows = Windows::new();
    for batch in batches.rest_of_epoch() {
        let batch = batch.map_err(Error::experiment)?;
        each(&batch)?;
        let of = |ids: &[i32]| ids.chunks(batch.time).map(<[i32]>::to_vec).collect::<Vec<_>>();
        windows.extend(of(&batch.inputs).into_iter().zip(of(&batch.targets)));
        if windows.len() >= count {
            break;
        }
    }
    Ok(windows)
}

/// Nats that logits [T, V] give the targets, together, and how many are asked for.
pub(crate) fn nats<'t>(logits: &[f32], vocab: usize, targets: impl IntoIterator<Item = &'t i32>) -> (f64, f64) {
    let (mut nats, mut count) = (0.0, 0.0);
    for (row, target) in logits.chunks(vocab).zip(targets).filter(|(_, target)| **target >= 0) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - most).exp()).sum();
        nats += sum.ln() - f64::from(row[*target as usize] - most);
        count += 1.0;
    }
    (nats, count)
}
