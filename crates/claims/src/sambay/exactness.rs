//! What must be the same: logits by three ways, differential attention by two.

use std::sync::Arc;

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, Memory, PlanOptions, Source};
use memwall_infer::{Engine, EngineOptions, StepRows, Wanted};
use memwall_kernels::Pool;
use memwall_kernels::attention::{Attention, attention_forward, attention_scratch};
use memwall_nn::{KeyValues, ModelConfig, Sequences, WeightTypes};
use memwall_tasks::Philox;
use memwall_train::initialize;

use super::models::{SAMBAY, Sizes, enlarge};
use crate::largest::largest;
use crate::random::normal;
use crate::{Error, Run};

const SIZES: Sizes =
    Sizes { vocabulary: 64, width: 32, layers: 12, heads: 4, context: 256, window: 16, differential: true };

/// Logits of whole sequences, in a memory that then has weights of `seed`.
fn whole(run: &Run, config: &ModelConfig, tokens: &[u32], seed: u64) -> Result<(Vec<f32>, Memory), Error> {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, tokens.len(), 1).map_err(Error::experiment)?;
    let (types, ids) = (WeightTypes::new(), seqs.ids);
    let hidden = config.hidden(&mut g, &types, &seqs).map_err(Error::experiment)?;
    let logits = config.logits(&mut g, &types, hidden, None).map_err(Error::experiment)?;
    g.output("logits", logits);
    let mut memory = Memory::within(run.budget());
    initialize(&g, &mut memory, config.layers.len(), seed).map_err(Error::experiment)?;
    let weights = g.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    let names: Vec<String> = weights.map(|(_, info)| info.name.to_string()).collect();
    enlarge(&mut memory, &names);
    let cu_seqlens = g.find("cu_seqlens").ok_or_else(|| Error::experiment("the graph has no offsets"))?;
    let pool = Arc::new(Pool::new(run.threads()));
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, pool).map_err(Error::experiment)?;
    e.input::<i32>(ids).iter_mut().zip(tokens).for_each(|(id, token)| *id = *token as i32);
    e.input::<i32>(cu_seqlens).copy_from_slice(&[0, tokens.len() as i32]);
    e.run(&mut memory).map_err(Error::experiment)?;
    let logits = e.output::<f32>("logits").to_vec();
    // Differences say nothing of a model that gives every token the same.
    let spread = logits.iter().fold(f32::MIN, |m, x| m.max(*x)) - logits.iter().fold(f32::MAX, |m, x| m.min(*x));
    if spread > 0.1 {
        Ok((logits, memory))
    } else {
        Err(Error::experiment(format!("logits spread over {spread} only")))
    }
}

fn tokens(seed: u64, count: usize) -> Vec<u32> {
    let mut rng = Philox::new(seed, 2);
    (0..count).map(|_| (rng.unit() * SIZES.vocabulary as f64) as u32 % SIZES.vocabulary as u32).collect()
}

fn engine(run: &Run, config: &ModelConfig, memory: Memory, outputs: usize) -> Result<Engine, Error> {
    let (context, threads, kv) = (SIZES.context, run.threads(), KvFormat::both(Dtype::F32));
    let options = EngineOptions { context, threads, kv, step: context, outputs, ..EngineOptions::default() };
    Engine::over(config, memory, options).map_err(Error::experiment)
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    largest(a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())))
}

/// Logits of a prompt's last token: of a step that computes all rows, of one that computes the last alone, and of prompts
/// cut in parts.
pub(super) fn skip(run: &Run, seed: u64) -> Result<f64, Error> {
    let config = SIZES.model(SAMBAY)?;
    let tokens = tokens(seed, SIZES.context);
    let memory = whole(run, &config, &tokens[..1], seed)?.1;
    let mut engine = engine(run, &config, memory, SIZES.context)?;
    let all = engine.step(&[StepRows { slot: 0, tokens: &tokens }], Wanted::All).map_err(Error::experiment)?;
    let want = all[all.len() - SIZES.vocabulary..].to_vec();
    let mut worst = 0.0;
    for part in [SIZES.context, 96, 17] {
        engine.clear(0).map_err(Error::experiment)?;
        let mut last = Vec::new();
        for tokens in tokens.chunks(part) {
            let made = engine.step(&[StepRows { slot: 0, tokens }], Wanted::Last).map_err(Error::experiment)?;
            last = made.to_vec();
        }
        worst = largest([worst, difference(&last, &want)]);
    }
    Ok(worst)
}

/// Logits of 200 steps of a token each, and of the same tokens as one whole sequence.
pub(super) fn steps(run: &Run, seed: u64) -> Result<f64, Error> {
    let config = SIZES.model(SAMBAY)?;
    let tokens = tokens(seed, 200);
    let (want, memory) = whole(run, &config, &tokens, seed)?;
    let mut engine = engine(run, &config, memory, 1)?;
    let mut worst = 0.0;
    for (token, want) in tokens.iter().zip(want.chunks_exact(SIZES.vocabulary)) {
        let rows = StepRows { slot: 0, tokens: std::slice::from_ref(token) };
        let made = engine.step(&[rows], Wanted::Last).map_err(Error::experiment)?;
        worst = largest([worst, difference(made, want)]);
    }
    Ok(worst)
}

/// Outputs of differential attention without its norm's effect: in each pair of heads, maps of even and of odd heads over
/// values of even and of odd heads, by four calls of plain attention.
pub(super) fn four_attentions(seed: u64) -> Result<f64, Error> {
    let (tokens, heads, kv_heads, width, depth) = (61, 8, 4, 16, 5);
    let kernel = Attention {
        heads,
        kv_heads,
        key_width: width,
        value_width: width,
        scale: 1.0 / (width as f64).sqrt(),
        causal: true,
        ..Attention::default()
    };
    let mut rng = Philox::new(seed, 3);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| normal(&mut rng) as f32).collect() };
    let given = [heads, kv_heads, kv_heads].map(|heads| draw(tokens * heads * width));
    let lambdas = ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"]
        .map(|name| (name, draw(width).iter().map(|x| 0.1 * x).collect::<Vec<f32>>()));

    let config = memwall_nn::DifferentialConfig::new(depth);
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, tokens, 1).map_err(Error::experiment)?;
    let values = [("q", heads), ("k", kv_heads), ("v", kv_heads)]
        .map(|(name, heads)| g.input(name, [tokens, heads, width], Dtype::F32).map_err(Error::experiment));
    let [q, k, v] = values;
    let (q, k, v) = (q?, k?, v?);
    let o = config.attend(&mut g, "a", &kernel, q, KeyValues { k, v }, &seqs).map_err(Error::experiment)?;
    g.output("o", o);
    let cu_seqlens = g.find("cu_seqlens").ok_or_else(|| Error::experiment("the graph has no offsets"))?;
    let mut memory = Memory::new();
    for (name, values) in &lambdas {
        memory.set(&format!("a.{name}"), Dtype::F32, values).map_err(Error::experiment)?;
    }
    memory.set("a.subln.weight", Dtype::F32, &vec![1f32; 2 * width]).map_err(Error::experiment)?;
    let pool = Arc::new(Pool::new(1));
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, pool.clone()).map_err(Error::experiment)?;
    for (value, values) in [q, k, v].into_iter().zip(&given) {
        e.input::<f32>(value).copy_from_slice(values);
    }
    e.input::<i32>(cu_seqlens).copy_from_slice(&[0, tokens as i32]);
    e.run(&mut memory).map_err(Error::experiment)?;

    // Heads of one parity.
    let half = |x: &[f32], heads: usize, parity: usize| -> Vec<f32> {
        let head = |i: usize| &x[i * width..][..width];
        (0..tokens * heads).filter(|i| i % heads % 2 == parity).flat_map(|i| head(i).to_vec()).collect()
    };
    let one = Attention { heads: heads / 2, kv_heads: kv_heads / 2, ..kernel };
    let plain = |keys: usize, values: usize| -> Vec<f32> {
        let [q, k] = [(&given[0], heads), (&given[1], kv_heads)].map(|(x, heads)| half(x, heads, keys));
        let v = half(&given[2], kv_heads, values);
        let (mut o, mut lse) = (vec![0f32; q.len()], vec![0f32; tokens * one.heads]);
        let mut scratch = vec![0u8; attention_scratch::<f32>(&one, 1, 1)];
        let cu = [0, tokens as i32];
        attention_forward::<f32>(&pool, &one, &q, &k, &v, &cu, &cu, None, None, &mut o, &mut lse, &mut scratch);
        o
    };
    let maps = [[plain(0, 0), plain(0, 1)], [plain(1, 0), plain(1, 1)]];
    let dot = |a: usize| -> f64 {
        lambdas[a].1.iter().zip(&lambdas[a + 1].1).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
    };
    let lambda = dot(0).exp() - dot(2).exp() + config.lambda_init();
    let mut worst = 0.0;
    for (i, made) in e.output::<f32>("o").chunks_exact(2 * width).enumerate() {
        let of = |map: usize, half: usize, c: usize| f64::from(maps[map][half][i * width + c]);
        let pair: Vec<f64> =
            (0..2 * width).map(|c| of(0, c / width, c % width) - lambda * of(1, c / width, c % width)).collect();
        let mean = pair.iter().map(|x| x * x).sum::<f64>() / (2 * width) as f64;
        let factor = (1.0 - config.lambda_init()) / (mean + config.norm_eps).sqrt();
        worst = largest(made.iter().zip(&pair).map(|(y, x)| (f64::from(*y) - factor * x).abs()).chain([worst]));
    }
    Ok(worst)
}
