//! Prompts in pieces, and what a sequence keeps.

use memwall_cache::KvFormat;
use memwall_fit::{EngineOptions, is_cache, step_graph};
use memwall_formats::Dtype;
use memwall_graph::Source;
use memwall_infer::{StepRows, Wanted};
use memwall_nn::WeightTypes;

use super::speed::{engine, model};
use crate::{Error, Run};

/// Lengths of the pieces, again and again; 1 is decoding.
const PIECES: [usize; 6] = [1, 7, 2, 16, 3, 1];
const TOKENS: usize = 90;

/// The largest difference of the logits of all tokens, a small model.
pub(super) fn pieces(run: &Run, seed: u64) -> Result<f64, Error> {
    let config = model(64, TOKENS, false);
    let text: Vec<u32> = (0..TOKENS as u32).map(|i| (i * 131 + 17 * seed as u32) % 1024).collect();
    let mut whole = engine(&config, run.threads(), TOKENS, seed)?;
    let mut pieces = engine(&config, run.threads(), TOKENS, seed)?;
    let logits = whole.step(&[StepRows { slot: 0, tokens: &text }], Wanted::Last).map_err(Error::experiment)?.to_vec();
    let (mut at, mut last) = (0, Vec::new());
    for length in PIECES.into_iter().cycle() {
        if at == TOKENS {
            break;
        }
        let tokens = &text[at..(at + length).min(TOKENS)];
        last = pieces.step(&[StepRows { slot: 0, tokens }], Wanted::Last).map_err(Error::experiment)?.to_vec();
        at += tokens.len();
    }
    Ok(crate::largest::largest(logits.iter().zip(&last).map(|(a, b)| f64::from((a - b).abs()))))
}

/// Bytes of keys and values of a sequence, of all attention and of the hybrid.
pub(super) fn kept() -> Result<[usize; 2], Error> {
    let mut bytes = [0; 2];
    for (all, bytes) in [true, false].into_iter().zip(&mut bytes) {
        let options = EngineOptions { context: TOKENS, kv: KvFormat::both(Dtype::F32), ..EngineOptions::default() };
        let (g, _) = step_graph(&model(64, TOKENS, all), &WeightTypes::new(), &options).map_err(Error::experiment)?;
        let runs = g.max_sizes();
        let states = g.values().filter(|(_, info)| matches!(info.source, Source::State) && is_cache(&info.name));
        *bytes = states.map(|(_, info)| info.ty.bytes(&runs)).sum();
    }
    Ok(bytes)
}
