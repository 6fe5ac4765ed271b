//! Models of characters in full precision, in ternary weights, and in ternary weights with a gated correction, with plain and
//! with differential attention.

use std::sync::Arc;

use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, CorrectionConfig, CorrectionGate, DifferentialConfig, GateSchedule,
    LayerConfig, MixerConfig, ModelConfig, QuantizationConfig, RopeConfig,
};
use memwall_tasks::data::TINY_SHAKESPEARE;
use memwall_tasks::{Corpus, Documents, Fractions, Split, TextTask};
use memwall_train::Trainer;

use crate::{
    Error, Run, Trial,
    trial::{Figure, Training},
};

pub(super) const FULL: &str = "full precision";
pub(super) const DIFFERENTIAL: &str = "full precision, differential attention";
pub(super) const BITNET: &str = "ternary";
pub(super) const WIDE: &str = "ternary, as many bytes";
/// All of it: ternary weights, the gated correction, differential attention.
pub(super) const HYBRID: &str = "hybrid";
pub(super) const PLAIN: &str = "hybrid with plain attention";
pub(super) const FIXED: &str = "hybrid, gates of 1";
pub(super) const SHUT: &str = "hybrid, gates of 0";
/// Arms with differential attention.
const DIFFERENTIALS: [&str; 4] = [DIFFERENTIAL, HYBRID, FIXED, SHUT];

/// r of the correction.
pub(super) const RANK: usize = 4;
/// Bits of a ternary weight as TQ1_0 packs it, and of a weight of the correction.
const TERNARY_BITS: f64 = 1.6875;
const CORRECTION_BITS: f64 = 16.0;

pub(super) struct Learning {
    corpus: Arc<Corpus>,
    training: Training,
    layers: usize,
    width: usize,
    hidden: usize,
}

/// A trial of a model, its gates, and what it loses when they are shut.
pub(super) struct Trained {
    pub(super) trial: Trial,
    /// Their mean; not a number of a model without any.
    pub(super) gates: f64,
    /// Loss with gates of 0.
    pub(super) with_gates_shut: f64,
}

impl Learning {
    pub(super) fn new(run: &Run) -> Result<Learning, Error> {
        let files = run.data(&TINY_SHAKESPEARE)?;
        let corpus = Corpus::read_bytes(&files, &Documents::Files, Fractions::default()).map_err(Error::experiment)?;
        Ok(Learning {
            corpus: Arc::new(corpus),
            training: Training {
                steps: run.pick(3, 500, 4000),
                batch: run.pick(2, 24, 32),
                time: run.pick(16, 48, 256),
                measured: run.pick(2, 24, 48),
                figure: Figure::Nats,
            },
            layers: run.pick(1, 3, 8),
            width: run.pick(16, 64, 256),
            hidden: run.pick(32, 160, 640),
        })
    }

    pub(super) fn task(&self, seed: u64) -> Result<TextTask, Error> {
        TextTask::new(self.corpus.clone(), self.training.time, 256, seed).map_err(Error::experiment)
    }

    /// The model of an arm, its correction of rank `rank`.
    pub(super) fn model(&self, arm: &str, rank: usize) -> ModelConfig {
        let correction = |gate, initial| {
            let schedule = GateSchedule { hold: self.training.steps / 10, ..GateSchedule::default() };
            Some(CorrectionConfig { gate, initial, schedule, ..CorrectionConfig::new(rank) })
        };
        let bitnet = |correction| Some(QuantizationConfig { correction, ..QuantizationConfig::bitnet() });
        let quantization = match arm {
            FULL | DIFFERENTIAL => None,
            HYBRID | PLAIN => bitnet(correction(CorrectionGate::Sigmoid, 0.1)),
            FIXED => bitnet(correction(CorrectionGate::One, 1.0)),
            SHUT => {
                let mut shut = correction(CorrectionGate::Identity, 0.0);
                shut.iter_mut().for_each(|c| c.schedule.freeze = Some(0));
                bitnet(shut)
            }
            _ => bitnet(None),
        };
        let hidden = if arm == WIDE { self.wide_hidden(rank) } else { self.hidden };
        let layer = |depth| {
            let attention = AttentionConfig {
                rope: Some(RopeConfig::default()),
                differential: DIFFERENTIALS.contains(&arm).then(|| DifferentialConfig::new(depth)),
                ..AttentionConfig::new(4, 4, self.width / 4)
            };
            let channel = ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false };
            LayerConfig { mixer: MixerConfig::Attention(attention), channel }
        };
        ModelConfig {
            norm_eps: 1e-6,
            tie_embeddings: true,
            quantization,
            ..ModelConfig::new(256, self.width, self.training.time, (0..self.layers).map(layer).collect())
        }
    }

    /// The model of the hybrid without its correction.
    pub(super) fn uncorrected(&self) -> ModelConfig {
        let mut model = self.model(HYBRID, RANK);
        model.quantization.iter_mut().for_each(|q| q.correction = None);
        model
    }

    /// The hybrid with gates that begin elsewhere.
    pub(super) fn started(&self, gate: f64) -> ModelConfig {
        let mut model = self.model(HYBRID, RANK);
        if let Some(correction) = model.quantization.as_mut().and_then(|q| q.correction.as_mut()) {
            correction.initial = gate;
        }
        model
    }

    /// Ternary weights of a layer with an MLP of `hidden`.
    fn ternary(&self, hidden: usize) -> usize {
        4 * self.width * self.width + 3 * self.width * hidden
    }

    /// Weights of a layer's corrections.
    fn corrections(&self, rank: usize) -> usize {
        4 * rank * 2 * self.width + 3 * rank * (self.width + self.hidden)
    }

    /// The MLP's width at which ternary weights alone take the bytes of ternary weights and corrections.
    fn wide_hidden(&self, rank: usize) -> usize {
        let more = self.corrections(rank) as f64 * CORRECTION_BITS / TERNARY_BITS;
        self.hidden + (more / (3 * self.width) as f64).round() as usize
    }

    /// What layers take, packed.
    pub(super) fn bytes_note(&self) -> String {
        let kib = |ternary: usize, more: usize| {
            self.layers as f64 * (ternary as f64 * TERNARY_BITS + more as f64 * CORRECTION_BITS) / 8.0 / 1024.0
        };
        let (alone, both) = (kib(self.ternary(self.hidden), 0), kib(self.ternary(self.hidden), self.corrections(RANK)));
        format!(
            "layers take {alone:.1} KiB in ternary weights, {both:.1} KiB with the correction ({:.0} % more), {:.1} KiB in wider \
             ternary weights",
            100.0 * (both / alone - 1.0),
            kib(self.ternary(self.wide_hidden(RANK)), 0)
        )
    }

    pub(super) fn trainer(&self, run: &Run, model: &ModelConfig, seed: u64) -> Result<Trainer, Error> {
        self.training.trainer(run, model, seed)
    }

    /// Trains a model and measures it, with its gates as they are and shut.
    pub(super) fn trial(&self, run: &Run, model: &ModelConfig, rate: f64, seed: u64) -> Result<Trained, Error> {
        let (mut trainer, task) = (self.trainer(run, model, seed)?, self.task(seed)?);
        let figure = |trainer: &mut Trainer, split| self.training.measure(trainer, &task, split);
        let trial = self.training.trial_of(run, &mut trainer, &task, rate, figure)?;
        let gates = trainer.gates().map_or(f64::NAN, |gates| gates.mean);
        // B = 0 is what gates of 0 are, whatever gates are a function of.
        clear(&mut trainer, ".hgf_B.weight");
        let with_gates_shut =
            if trial.score.is_nan() { f64::NAN } else { self.training.measure(&mut trainer, &task, Split::Test)? };
        Ok(Trained { trial, gates, with_gates_shut })
    }
}

/// Sets the weights whose names end so to 0.
pub(super) fn clear(trainer: &mut Trainer, end: &str) {
    let names: Vec<String> = trainer.parameters().filter(|name| name.ends_with(end)).map(str::to_owned).collect();
    for name in names {
        if let Some(values) = trainer.memory_mut().get_mut::<f32>(&name) {
            values.fill(0.0);
        }
    }
}
