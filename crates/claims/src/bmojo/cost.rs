//! What a long context costs: bytes that an engine holds, and the time of a layer.

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::Memory;
use memwall_infer::{Engine, EngineOptions};
use memwall_kernels::Pool;
use memwall_nn::{
    AttentionConfig, BmojoConfig, EideticConfig, LayerConfig, Mamba2Config, Mixer, MixerConfig, ModelConfig,
    WeightTypes,
};
use memwall_store::Budget;

use crate::block::{Block, Frame};
use crate::evidence::{Curve, Line, Point};
use crate::{Error, Run};

/// Channels of a head.
const HEAD: usize = 64;

/// A layer of as many channels as its heads have.
fn layer(heads: usize, window: usize) -> BmojoConfig {
    let memory = MixerConfig::Mamba2(Mamba2Config::new(2 * heads, HEAD, 16));
    BmojoConfig::new(heads, heads, HEAD, window, memory)
}

/// The most bytes that an engine of one layer has held when its context is full.
fn held(run: &Run, config: &ModelConfig, context: usize, seed: u64) -> Result<usize, Error> {
    let budget = Budget::unlimited();
    let kv = KvFormat::both(Dtype::F32);
    let options = EngineOptions { context, step: 64, threads: run.threads(), kv, ..EngineOptions::default() };
    let (graph, _) = memwall_fit::step_graph(config, &WeightTypes::new(), &options).map_err(Error::experiment)?;
    let mut memory = Memory::within(&budget);
    memwall_train::initialize(&graph, &mut memory, config.layers.len(), seed).map_err(Error::experiment)?;
    let mut engine = Engine::over(config, memory, options).map_err(Error::experiment)?;
    let tokens: Vec<u32> = (0..context as u32).map(|i| i * i % 61).collect();
    engine.prefill(0, &tokens).map_err(Error::experiment)?;
    Ok(budget.report().accounts.iter().map(|account| account.peak).sum())
}

/// How many bytes more a long context needs than a short one, both of several windows, a seed each.
pub(super) fn bytes_over_context(run: &Run) -> Result<Vec<f64>, Error> {
    let contexts = run.pick([128, 256], [1024, 16_384], [1024, 65_536]);
    let mixer = BmojoConfig { eidetic: Some(EideticConfig::new(32)), ..layer(1, 16) };
    let layers = vec![LayerConfig { mixer: MixerConfig::Bmojo(mixer), channel: Default::default() }];
    let config = ModelConfig::new(64, HEAD, contexts[1], layers);
    let of = |&seed: &u64| {
        let [short, long] = contexts.map(|context| held(run, &config, context, seed));
        Ok(long? as f64 - short? as f64)
    };
    run.seeds().iter().map(of).collect()
}

/// Seconds of a forward pass over one sequence, a seed each.
pub(super) struct Times {
    /// Of attention to all tokens.
    pub(super) full: Vec<f64>,
    /// Of B'MOJO-F.
    pub(super) ours: Vec<f64>,
    /// How many times faster, over the width.
    pub(super) curve: Curve,
}

/// Layers as wide as their heads; the first width is that of the check.
const HEADS: [usize; 3] = [1, 2, 4];

/// Times of whole layers in turns, the fastest of some rounds: full attention, B'MOJO-F.
pub(super) fn times(run: &Run) -> Result<Times, Error> {
    let (tokens, window) = run.pick((256, 32), (8192, 256), (8192, 256));
    let pool = Pool::new(run.threads());
    let mut seconds = [[vec![], vec![]], [vec![], vec![]], [vec![], vec![]]];
    for (i, &seed) in run.seeds().iter().enumerate() {
        for (heads, seconds) in HEADS.into_iter().zip(&mut seconds) {
            run.step("times", i as u64, run.seeds().len() as u64)?;
            let frame = Frame { tokens, width: heads * HEAD, hidden: 0, backward: false };
            let (full, ours) = (AttentionConfig::new(heads, heads, HEAD), layer(heads, window));
            let mixers: [&dyn Mixer; 2] = [&full, &ours];
            let blocks = mixers.map(|mixer| {
                Block::new(frame, pool.threads(), seed, |g, x, seqs| {
                    mixer.forward(g, &WeightTypes::new(), "mixer", x, seqs)
                })
            });
            let mut best = [f64::INFINITY; 2];
            let [a, b] = blocks;
            let mut blocks = [a.map_err(Error::experiment)?, b.map_err(Error::experiment)?];
            // The first round warms up.
            for round in 0..=run.pick(1, 3, 5) {
                for (block, best) in blocks.iter_mut().zip(&mut best) {
                    let time = block.seconds().map_err(Error::experiment)?;
                    *best = if round == 0 { *best } else { best.min(time) };
                }
            }
            seconds.iter_mut().zip(best).for_each(|(seconds, best)| seconds.push(best));
        }
    }
    let ratios = |[full, ours]: &[Vec<f64>; 2]| full.iter().zip(ours).map(|(full, ours)| full / ours).collect();
    let points = HEADS.iter().zip(&seconds).map(|(heads, s)| Point { x: (heads * HEAD) as f64, per_seed: ratios(s) });
    let curve = Curve {
        what: format!("forward pass of {tokens} tokens: B'MOJO-F, window {window}, against attention to all"),
        x_label: "width of the layer".into(),
        y_label: "times faster".into(),
        log_x: true,
        log_y: false,
        lines: vec![Line { name: "B'MOJO-F".into(), points: points.collect() }],
    };
    let [[full, ours], ..] = seconds;
    Ok(Times { full, ours, curve })
}
