//! What B'MOJO becomes: attention to 2W tokens, attention to all, the fading memory alone; and steps of a token each.

use std::sync::Arc;

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, GraphError, Memory, PlanOptions};
use memwall_infer::{Engine, EngineOptions, StepRows, Wanted};
use memwall_kernels::attention::{Attention, attention_forward, attention_scratch};
use memwall_kernels::{Pool, Real};
use memwall_nn::{
    BmojoConfig, ChannelConfig, EideticConfig, GlaForm, LayerConfig, Mamba2Config, Mixer, MixerConfig, ModelConfig,
    RopeConfig, Sequences, WeightTypes,
};
use memwall_tasks::Philox;
use memwall_train::{Batch, initialize};

use super::exactness::{Sequence, error, sizes};
use crate::largest::largest;
use crate::random::normal;
use crate::trial::{Figure, Training};
use crate::{Error, Run};

/// The largest difference from the layers that special cases are.
pub(super) fn worst(pool: &Pool, seed: u64) -> Result<f64, Error> {
    let mut rng = Philox::new(seed, 1);
    let windows =
        [(5, 40), (40, 40), (64, 20)].map(|(window, tokens)| twice_the_window(pool, window, tokens, &mut rng));
    Ok(largest(windows.into_iter().chain([fading_alone(seed).map_err(Error::experiment)?])))
}

/// Attention of a plain layer.
fn plain<T: Real>(pool: &Pool, a: Attention, [q, k, v]: [&[T]; 3], cu: &[i32; 2]) -> Vec<T> {
    let (mut o, mut lse) = (vec![T::ZERO; q.len()], vec![T::ZERO; q.len() / a.key_width]);
    let mut scratch = vec![0; attention_scratch::<T>(&a, 1, pool.threads())];
    attention_forward(pool, &a, q, k, v, cu, cu, None, None, &mut o, &mut lse, &mut scratch);
    o
}

/// From attention to 2W tokens, and to all if the window holds them, where the fading memory gives what it is given.
fn twice_the_window(pool: &Pool, window: usize, tokens: usize, rng: &mut Philox) -> f64 {
    let mut sequence = Sequence::<f64>::new(pool, sizes(window, 1), tokens, rng);
    for set in 0..3 {
        sequence.tensors[3 + set] = sequence.tensors[set].clone();
    }
    let [o, _] = sequence.forward(pool, false);
    let recent = sequence.inputs(false).recent;
    let mut windows = vec![Some(2 * window - 1)];
    if window >= tokens {
        windows.push(None);
    }
    largest(windows.into_iter().map(|left| {
        let attention = Attention { window: (left, None), ..sequence.a.recent() };
        error(&o, &plain(pool, attention, recent, &sequence.cu))
    }))
}

/// Heads and their width of the layer that is its fading memory.
const HEADS: usize = 2;
const WIDTH: usize = 8;
const TOKENS: usize = 50;

/// The mixer of a graph in f64 over one sequence, under weights that `set` changes.
fn outputs(
    mixer: &dyn Mixer,
    name: &str,
    x: &[f64],
    seed: u64,
    set: impl FnOnce(&mut Memory),
) -> Result<Vec<f64>, GraphError> {
    let mut g = Graph::new(Dtype::F64);
    let seqs = Sequences::whole(&mut g, TOKENS, 1)?;
    let input = g.input("x", [TOKENS, HEADS * WIDTH], Dtype::F64)?;
    let y = mixer.forward(&mut g, &WeightTypes::new(), name, input, &seqs)?;
    g.output("y", y);
    let cu_seqlens = g.find("cu_seqlens").ok_or_else(|| g.refused("bmojo", "the graph has no offsets"))?;
    let mut memory = Memory::new();
    initialize(&g, &mut memory, 1, seed)?;
    set(&mut memory);
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(1)))?;
    e.input::<f64>(input).copy_from_slice(x);
    e.input::<i32>(cu_seqlens).copy_from_slice(&[0, TOKENS as i32]);
    e.run(&mut memory)?;
    Ok(e.output::<f64>("y").to_vec())
}

/// From the outputs of the fading memory, where queries see nothing else: a window of 1 token whose score is far below 0,
/// its own weights for the fading path, and identities around it. They come a window later.
fn fading_alone(seed: u64) -> Result<f64, GraphError> {
    let d = HEADS * WIDTH;
    let memory = Mamba2Config::new(4, WIDTH, 16);
    let layer = BmojoConfig {
        tie_attn_weights: false,
        ..BmojoConfig::new(HEADS, HEADS, WIDTH, 1, MixerConfig::Mamba2(memory.clone()))
    };
    let mut rng = Philox::new(seed, 2);
    // A channel that is 1 for all tokens makes the scores.
    let x: Vec<f64> = (0..TOKENS * d).map(|i| if i % d == 0 { 1.0 } else { normal(&mut rng) }).collect();
    let alone = outputs(&memory, "layer.mamba", &x, seed, |_| ())?;
    let made = outputs(&layer, "layer", &x, seed, |memory| {
        let mut put = |part: &str, of: &dyn Fn(usize, usize) -> f64| {
            if let Some(weight) = memory.get_mut::<f64>(&format!("layer.bmojo_attn.{part}.weight")) {
                weight.iter_mut().enumerate().for_each(|(i, w)| *w = of(i / d, i % d));
            }
        };
        let constant =
            |at: f64| move |row: usize, col: usize| if row.is_multiple_of(WIDTH) && col == 0 { at } else { 0.0 };
        let identity = |row: usize, col: usize| f64::from(u8::from(row == col));
        put("q_proj", &constant(60.0));
        put("k_proj", &constant(-60.0));
        put("q_proj_", &constant(0.0));
        put("v_proj_", &identity);
        put("o_proj", &identity);
    })?;
    // Outputs that are all small would say nothing.
    let size = largest(alone.iter().map(|y| y.abs()));
    Ok(error(&made[d..], &alone[..(TOKENS - 1) * d]) / size.min(1.0))
}

const CONTEXT: usize = 160;
const VOCABULARY: usize = 64;

/// Layers with and without a buffer, one of them with a threshold.
fn model() -> ModelConfig {
    // Left to itself, so short a sequence is read token by token.
    let chunks = Some(GlaForm::Chunked);
    let memory = || MixerConfig::Mamba2(Mamba2Config { form: chunks, ..Mamba2Config::new(4, 16, 16) });
    let layer = |eidetic| {
        let mixer =
            BmojoConfig { rope: Some(RopeConfig::default()), eidetic, ..BmojoConfig::new(2, 1, 16, 12, memory()) };
        let channel = ChannelConfig::Glu { hidden: 64, activation: Default::default(), bias: false };
        LayerConfig { mixer: MixerConfig::Bmojo(mixer), channel }
    };
    let threshold = EideticConfig { threshold: Some(0.5), ..EideticConfig::new(40) };
    let layers = [None, Some(EideticConfig::new(7)), Some(threshold)].map(layer);
    ModelConfig::new(VOCABULARY, 32, CONTEXT, layers.into())
}

/// Logits of a token at a time, and of whole sequences as training has them, relative to the largest.
pub(super) fn forms(run: &Run, seed: u64) -> Result<f64, Error> {
    let config = model();
    let training = Training { steps: 0, batch: 1, time: CONTEXT, measured: 0, figure: Figure::Nats };
    let mut trainer = training.trainer(run, &config, seed)?;
    let names: Vec<String> = trainer.parameters().map(String::from).collect();
    let mut memory = Memory::within(run.budget());
    for name in &names {
        let weights = trainer.memory_mut().get_mut::<f32>(name).unwrap_or_default();
        // Matrices begin small: layers must change what they read.
        if name.ends_with("proj.weight") {
            weights.iter_mut().for_each(|w| *w *= 6.0);
        }
        memory.set(name, Dtype::F32, weights).map_err(Error::experiment)?;
    }
    let mut rng = Philox::new(seed, 3);
    let tokens: Vec<u32> = (0..CONTEXT).map(|_| rng.below(VOCABULARY as u64) as u32).collect();
    let ids: Vec<i32> = tokens.iter().map(|&t| t as i32).collect();
    let whole = trainer
        .evaluate(&Batch { targets: ids.clone(), ids, lengths: vec![CONTEXT] })
        .map_err(Error::experiment)?
        .logits;
    let options = EngineOptions {
        context: CONTEXT,
        threads: run.threads(),
        kv: KvFormat::both(Dtype::F32),
        ..EngineOptions::default()
    };
    let mut engine = Engine::over(&config, memory, options).map_err(Error::experiment)?;
    let size = f64::from(whole.iter().fold(0f32, |top, x| top.max(x.abs())));
    let mut worst = Vec::new();
    for (token, want) in tokens.iter().zip(whole.chunks_exact(VOCABULARY)) {
        let rows = StepRows { slot: 0, tokens: std::slice::from_ref(token) };
        let made = engine.step(&[rows], Wanted::Last).map_err(Error::experiment)?;
        worst.extend(made.iter().zip(want).map(|(x, y)| f64::from((x - y).abs()) / size));
    }
    Ok(largest(worst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_cases_are_the_layers_that_they_are() {
        let worst = worst(&Pool::new(2), 9).unwrap();
        assert!(worst <= 1e-12, "{worst:.1e}");
    }
}
