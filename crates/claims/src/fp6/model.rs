//! A model of characters whose matrices are stored after training, and what that costs on a text, on another text, and in what it writes.

use memwall_cache::KvFormat;
use memwall_fit::{EngineOptions, WeightTier};
use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Dtype, format};
use memwall_infer::{Engine, Model, StepRows, Wanted};
use memwall_kernels::Pool;
use memwall_nn::{ARCHITECTURE, AttentionConfig, CONFIG_KEY, ChannelConfig, MixerConfig, RopeConfig};
use memwall_quantize::{Calibration, CalibrationText, Collect, Gptq, InputStatistics, Inputs, Method, Row, Scales};
use memwall_tasks::{Split, TextTask, metrics};
use memwall_train::checkpoint::{Origin, save};
use tempfile::TempDir;

use super::weights::Kind;
use crate::characters::{self, Characters};
use crate::{Error, Run};

/// Sequences that run at the same time.
const SLOTS: usize = 8;
/// Characters of a prompt.
const PROMPT: usize = 32;

/// How matrices are stored; the embedding, which is the head too, stays as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Store {
    AsTheyAre,
    /// Decoded again, so that only the weights differ.
    Decoded(Kind),
    /// In the planes of FP6 with one scale a row, from which the model runs.
    Planes,
    /// The values of those planes.
    DecodedPlanes,
    /// Integers of four bits in blocks of 32, nearest or by GPTQ over the text of calibration.
    Nearest4,
    Gptq4,
}

/// A trained model in a file.
pub(super) struct Trained<'r> {
    run: &'r Run<'r>,
    folder: TempDir,
    model: Model,
    time: usize,
    statistics: Vec<InputStatistics>,
}

/// Windows of a text: token ids and the next ones.
pub(super) type Windows = Vec<(Vec<u32>, Vec<i32>)>;

impl<'r> Trained<'r> {
    /// Trains a model on the text.
    pub(super) fn train(run: &'r Run<'r>, text: &Characters, seed: u64, rate: f64) -> Result<Trained<'r>, Error> {
        let width = run.pick(128, 256, 512);
        let rope = Some(RopeConfig::default());
        let attention = AttentionConfig { rope, ..AttentionConfig::new(4, 4, width / 4) };
        let mut config = text.model(MixerConfig::Attention(attention), width);
        for layer in &mut config.layers {
            // Rows of whole groups of 128.
            if let ChannelConfig::Glu { hidden, .. } = &mut layer.channel {
                *hidden = 3 * width;
            }
        }
        let mut trainer = text.training.trainer(run, &config, seed)?;
        text.training.train(run, &mut trainer, &text.task(seed)?, rate)?;
        let folder = tempfile::tempdir().map_err(Error::experiment)?;
        let file = folder.path().join("trained.safetensors");
        let origin = Origin { recipe: String::new(), text: String::new() };
        save(&file, &trainer, &origin).map_err(Error::experiment)?;
        let model = Model::open(&file).map_err(Error::experiment)?;
        Ok(Trained { run, folder, model, time: text.training.time, statistics: Vec::new() })
    }

    /// Learns what the matrices read on a text, for [`Store::Gptq4`].
    pub(super) fn calibrate(&mut self, windows: &Windows) -> Result<(), Error> {
        let tokens: Vec<u32> = windows.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
        let text = CalibrationText { tokens: &tokens, context: self.time, bos: None };
        let (run, collect) = (self.run, Collect::Moments);
        let mut calibration =
            Calibration::new(&self.model, text, collect, run.threads(), run.budget()).map_err(Error::experiment)?;
        while let Some(block) = calibration.next_block().map_err(Error::experiment)? {
            self.statistics.extend(block);
        }
        Ok(())
    }

    /// The model, its matrices stored so.
    fn stored(&self, store: Store) -> Result<Model, Error> {
        let checkpoint = self.model.checkpoint();
        let weights = checkpoint.weights();
        let mut tensors = Vec::new();
        for (name, shape) in &weights {
            let tensor = &checkpoint.tensors[name];
            let width = shape.last().copied().unwrap_or(1);
            let mut values = vec![0.0; tensor.elements()];
            format(tensor.dtype)
                .decode(width, self.model.container().bytes(tensor), &mut values)
                .map_err(Error::experiment)?;
            let kept = shape.len() < 2 || name.contains("embed");
            let (dtype, bytes) =
                if kept { (Dtype::F32, bits(&values)) } else { self.store(store, name, width, &values)? };
            tensors.push((TensorPlan { name: name.clone(), dtype, shape: shape.clone() }, bytes));
        }
        let file = self.folder.path().join("stored.gguf");
        let mut metadata = Metadata::new(&file);
        metadata.insert("general.architecture", ARCHITECTURE);
        metadata.insert(CONFIG_KEY, serde_json::to_string(&checkpoint.config).map_err(Error::experiment)?);
        let plans = tensors.iter().map(|(plan, _)| plan.clone()).collect();
        let mut writer = Writer::create(&file, &metadata, plans).map_err(Error::experiment)?;
        for (_, bytes) in &tensors {
            writer.write(bytes).map_err(Error::experiment)?;
        }
        writer.finish().map_err(Error::experiment)?;
        Model::open(&file).map_err(Error::experiment)
    }

    fn store(&self, store: Store, name: &str, width: usize, values: &[f32]) -> Result<(Dtype, Vec<u8>), Error> {
        let pool = Pool::new(self.run.threads());
        let encode = |method: &dyn Method, dtype: Dtype, inputs: Inputs<'_>| -> Result<Vec<u8>, Error> {
            let encoder = method.encoder(format(dtype), inputs, &pool).map_err(Error::experiment)?;
            memwall_quantize::rows::encode(&*encoder, dtype, width, values, pool.threads()).map_err(Error::experiment)
        };
        let nothing = Inputs { mean_squares: &vec![1.0; width], moments: None };
        Ok(match store {
            Store::AsTheyAre => (Dtype::F32, bits(values)),
            Store::Decoded(kind) => (Dtype::F32, bits(&kind.back(width, values)?)),
            Store::Planes => (Dtype::FP6, encode(&Row, Dtype::FP6, nothing)?),
            Store::DecodedPlanes => {
                let bytes = encode(&Row, Dtype::FP6, nothing)?;
                let mut back = vec![0.0; values.len()];
                format(Dtype::FP6).decode(width, &bytes, &mut back).map_err(Error::experiment)?;
                (Dtype::F32, bits(&back))
            }
            Store::Nearest4 => (Dtype::Q4_0, encode(&memwall_quantize::Nearest, Dtype::Q4_0, nothing)?),
            Store::Gptq4 => {
                let of = self.statistics.iter().find(|s| s.weights().iter().any(|weight| weight == name));
                let of = of.ok_or_else(|| Error::experiment(format!("nothing is known of what {name} reads")))?;
                let inputs = Inputs { mean_squares: &of.mean_squares(), moments: of.moments() };
                (Dtype::Q4_0, encode(&Gptq { scales: Scales::Own }, Dtype::Q4_0, inputs)?)
            }
        })
    }

    fn engine(&self, store: Store) -> Result<Engine, Error> {
        let rows = SLOTS * self.time;
        let options = EngineOptions {
            threads: self.run.threads(),
            context: self.time,
            slots: SLOTS,
            step: rows,
            outputs: rows,
            tier: WeightTier::Ram,
            kv: KvFormat::both(Dtype::F32),
            ..EngineOptions::default()
        };
        Engine::with_budget(&self.stored(store)?, options, self.run.budget()).map_err(Error::experiment)
    }

    /// Mean nats of a character of each of the texts.
    pub(super) fn losses<const N: usize>(&self, store: Store, texts: [&Windows; N]) -> Result<[f64; N], Error> {
        let mut engine = self.engine(store)?;
        let mut losses = [f64::NAN; N];
        for (loss, windows) in losses.iter_mut().zip(texts) {
            let (mut nats, mut count) = (0.0, 0.0);
            for batch in windows.chunks(SLOTS) {
                let rows = start(&mut engine, batch.iter().map(|(ids, _)| &ids[..]))?;
                let logits = engine.step(&rows, Wanted::All).map_err(Error::experiment)?;
                let targets = batch.iter().flat_map(|(_, targets)| targets);
                let vocab = logits.len() / batch.iter().map(|(ids, _)| ids.len()).sum::<usize>();
                let (of_batch, labels) = characters::nats(logits, vocab, targets);
                nats += of_batch;
                count += labels;
            }
            *loss = nats / count;
        }
        Ok(losses)
    }

    /// What the model writes after the beginning of each window, the likeliest character every time.
    pub(super) fn continuations(&self, store: Store, windows: &Windows, length: usize) -> Result<Vec<Vec<u32>>, Error> {
        let mut engine = self.engine(store)?;
        let prompt = PROMPT.min(self.time / 2);
        let mut all = Vec::with_capacity(windows.len());
        for batch in windows.chunks(SLOTS) {
            let rows = start(&mut engine, batch.iter().map(|(ids, _)| &ids[..prompt]))?;
            let mut last = likeliest(engine.step(&rows, Wanted::Last).map_err(Error::experiment)?, batch.len())?;
            let mut written = vec![Vec::with_capacity(length); batch.len()];
            loop {
                written.iter_mut().zip(&last).for_each(|(text, token)| text.push(*token));
                if written[0].len() == length {
                    break;
                }
                let rows: Vec<StepRows<'_>> =
                    last.chunks(1).enumerate().map(|(slot, tokens)| StepRows { slot, tokens }).collect();
                let next = likeliest(engine.step(&rows, Wanted::Last).map_err(Error::experiment)?, batch.len())?;
                last = next;
            }
            all.extend(written);
        }
        Ok(all)
    }
}

/// Empties the slots, and gives each sequence one.
fn start<'a>(engine: &mut Engine, sequences: impl Iterator<Item = &'a [u32]>) -> Result<Vec<StepRows<'a>>, Error> {
    for slot in 0..SLOTS {
        engine.clear(slot).map_err(Error::experiment)?;
    }
    Ok(sequences.enumerate().map(|(slot, tokens)| StepRows { slot, tokens }).collect())
}

fn likeliest(logits: &[f32], rows: usize) -> Result<Vec<u32>, Error> {
    let best = logits.chunks(logits.len() / rows).map(|row| metrics::argmax(row).map(|id| id as u32));
    best.collect::<Result<_, _>>().map_err(Error::experiment)
}

fn bits(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The first windows of a split.
pub(super) fn windows(task: &TextTask, split: Split, count: usize) -> Result<Windows, Error> {
    let whole = characters::windows(task, SLOTS, split, count, |_| Ok(()))?;
    let of = |ids: Vec<i32>| ids.into_iter().map(|id| id as u32).collect();
    Ok(whole.into_iter().take(count).map(|(ids, targets)| (of(ids), targets)).collect())
}

/// The share of texts that are the same.
pub(super) fn same(a: &[Vec<u32>], b: &[Vec<u32>]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}
