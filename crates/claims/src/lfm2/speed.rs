//! Prefill and decode of whole models, and one mixer over a sequence.

use std::time::Instant;

use memwall_cache::KvFormat;
use memwall_fit::EngineOptions;
use memwall_formats::Dtype;
use memwall_graph::{Graph, Memory};
use memwall_infer::{Engine, StepRows, Wanted};
use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, LayerConfig, Mixer, MixerConfig, ModelConfig, RopeConfig, Sequences,
    ShortConvConfig, WeightTypes,
};
use memwall_train::initialize;

use crate::block::{Block, Frame};
use crate::{Error, Run};

/// Where 350M attends; elsewhere it convolves.
const ATTENDS: [usize; 6] = [2, 5, 8, 10, 12, 14];
const LAYERS: usize = 16;
const HEAD: usize = 64;
/// Tokens that are decoded at each depth.
const DECODED: usize = 12;

/// Tokens a second, all attention first.
pub(super) struct Speeds {
    /// Up to the second depth.
    pub(super) prefill: [f64; 2],
    /// At each depth: the median of the tokens.
    pub(super) decode: [Vec<f64>; 2],
}

fn attention(width: usize) -> AttentionConfig {
    let heads = (width / HEAD).max(2);
    AttentionConfig {
        qk_norm: true,
        rope: Some(RopeConfig { theta: 1e6, ..RopeConfig::default() }),
        ..AttentionConfig::new(heads, heads / 2, width / heads)
    }
}

fn convolution() -> ShortConvConfig {
    ShortConvConfig { taps: 3, gated: true }
}

/// 16 layers of the shape of 350M at `width`; `all`: every one attends.
pub(super) fn model(width: usize, context: usize, all: bool) -> ModelConfig {
    let layer = |i: usize| LayerConfig {
        mixer: match all || ATTENDS.contains(&i) {
            true => MixerConfig::Attention(attention(width)),
            false => MixerConfig::ShortConv(convolution()),
        },
        channel: ChannelConfig::Glu { hidden: width * 9 / 2, activation: Activation::Silu, bias: false },
    };
    ModelConfig { tie_embeddings: true, ..ModelConfig::new(1024, width, context, (0..LAYERS).map(layer).collect()) }
}

/// The model with random weights, ready to run; steps of at most `step` rows.
pub(super) fn engine(config: &ModelConfig, threads: usize, step: usize, seed: u64) -> Result<Engine, Error> {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, 1, 1).map_err(Error::experiment)?;
    let hidden = config.hidden(&mut g, &WeightTypes::new(), &seqs).map_err(Error::experiment)?;
    config.logits(&mut g, &WeightTypes::new(), hidden, None).map_err(Error::experiment)?;
    let mut memory = Memory::new();
    initialize(&g, &mut memory, config.layers.len(), seed).map_err(Error::experiment)?;
    let options = EngineOptions {
        threads,
        context: config.max_context,
        step,
        kv: KvFormat::both(Dtype::F32),
        ..EngineOptions::default()
    };
    Engine::over(config, memory, options).map_err(Error::experiment)
}

/// Both models, taken in turns from one depth to the next.
pub(super) fn speeds(run: &Run, depths: &[usize], seed: u64) -> Result<Speeds, Error> {
    let (width, last) = (run.pick(64, 512, 1024), depths[depths.len() - 1]);
    let context = last + DECODED;
    let mut engines = Vec::new();
    for all in [true, false] {
        engines.push(engine(&model(width, context, all), run.threads(), 512, seed)?);
    }
    let text: Vec<u32> = (0..context as u32).map(|i| (i * 31 + 7 + seed as u32) % 1024).collect();
    let mut speeds = Speeds { prefill: [0.0; 2], decode: [Vec::new(), Vec::new()] };
    let (mut seconds, mut before, mut prefilled) = ([0.0; 2], 0, 0);
    for (i, &depth) in depths.iter().enumerate() {
        run.step("prefill and decode", i as u64, depths.len() as u64)?;
        for (which, engine) in engines.iter_mut().enumerate() {
            let start = Instant::now();
            engine.prefill(0, &text[before..depth]).map_err(Error::experiment)?;
            seconds[which] += start.elapsed().as_secs_f64();
        }
        prefilled += depth - before;
        if i == 1 {
            speeds.prefill = seconds.map(|s| prefilled as f64 / s);
        }
        let mut times = [Vec::new(), Vec::new()];
        for t in depth..depth + DECODED {
            for (engine, times) in engines.iter_mut().zip(&mut times) {
                let rows = [StepRows { slot: 0, tokens: &text[t..t + 1] }];
                let start = Instant::now();
                engine.step(&rows, Wanted::Last).map_err(Error::experiment)?;
                times.push(start.elapsed().as_secs_f64());
            }
        }
        for (times, decode) in times.iter_mut().zip(&mut speeds.decode) {
            times.sort_by(f64::total_cmp);
            decode.push(1.0 / times[times.len() / 2]);
        }
        before = depth + DECODED;
    }
    Ok(speeds)
}

/// Passes a second of a mixer of 350M over `tokens` tokens, attention and convolution: the fastest of some rounds.
pub(super) fn mixers(run: &Run, tokens: usize, seed: u64) -> Result<[f64; 2], Error> {
    let width = run.pick(64, 1024, 1024);
    let frame = Frame { tokens, width, hidden: 0, backward: false };
    let (types, threads) = (WeightTypes::new(), run.threads());
    let (attention, convolution) = (attention(width), convolution());
    let mut blocks = [
        Block::new(frame, threads, seed, |g, x, seqs| attention.forward(g, &types, "mixer", x, seqs)),
        Block::new(frame, threads, seed, |g, x, seqs| convolution.forward(g, &types, "mixer", x, seqs)),
    ]
    .into_iter()
    .collect::<Result<Vec<Block>, _>>()
    .map_err(Error::experiment)?;
    let (rounds, mut best) = (run.pick(1, 4, 8), [f64::INFINITY; 2]);
    for round in 0..=rounds {
        run.step("mixers", round, rounds)?;
        for (block, best) in blocks.iter_mut().zip(&mut best) {
            let seconds = block.seconds().map_err(Error::experiment)?;
            if round > 0 {
                *best = best.min(seconds);
            }
        }
    }
    Ok(best.map(|s| 1.0 / s))
}
