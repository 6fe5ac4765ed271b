//! How much of the machine's read bandwidth decoding uses.
//!
//! A decoded token reads every weight matrix once (of the embedding one row, unless it serves as the head) and the
//! cache. The limit is measured over the model's own bytes: no memory beyond the budget is needed for it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use memwall_nn::EMBEDDING;

use crate::{Engine, MemoryPlan, Model};

/// Bytes that a decoded token reads when `tokens` came before it.
pub fn bytes_per_token(model: &Model, engine: &Engine, plan: &MemoryPlan, tokens: usize) -> f64 {
    let tied = model.checkpoint().config.tie_embeddings;
    let read = engine.weights().filter(|(name, ..)| tied || *name != EMBEDDING);
    let weights: usize = read.map(|(.., bytes)| bytes.len()).sum();
    let share = tokens as f64 / plan.options.context as f64;
    weights as f64 + plan.state_bytes as f64 + plan.kv_bytes as f64 * share
}

/// Bytes a second at which as many threads as the engine has read its weights: the best of several passes, within a fifth
/// of a second where one pass is shorter.
pub fn read_bandwidth(engine: &Engine) -> f64 {
    let threads = engine.options().threads;
    let tensors: Vec<&[u8]> = engine.weights().map(|(.., bytes)| bytes).collect();
    // Pieces of equal size, dealt in turn.
    let pieces: Vec<&[u8]> = tensors.iter().flat_map(|t| t.chunks(1 << 18)).collect();
    let bytes: usize = pieces.iter().map(|p| p.len()).sum();
    let begin = Instant::now();
    let mut best = Duration::MAX;
    loop {
        let passes = ((8 << 20) / bytes.max(1)).clamp(1, 64);
        let pass = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let pieces = &pieces;
                scope.spawn(move || {
                    let mut sum = 0;
                    for _ in 0..passes {
                        sum ^= pieces.iter().skip(thread).step_by(threads).fold(0, |sum, p| sum ^ xor(black_box(p)));
                    }
                    black_box(sum)
                });
            }
        });
        best = best.min(pass.elapsed() / passes as u32);
        if begin.elapsed() > Duration::from_millis(200) {
            return bytes as f64 / best.as_secs_f64().max(1e-9);
        }
    }
}

/// The exclusive or of all 8-byte words: four streams of words, so that loads and not the chain bound it.
fn xor(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for block in bytes.chunks_exact(128) {
        for (sum, word) in sums.iter_mut().zip(block.chunks_exact(8)) {
            *sum ^= word.try_into().map_or(0, u64::from_le_bytes);
        }
    }
    sums.into_iter().fold(0, |a, b| a ^ b)
}

#[cfg(test)]
mod tests {
    use super::xor;

    #[test]
    fn every_word_is_read() {
        let bytes: Vec<u8> = (0..1024u32).map(|i| (i * 7 % 251) as u8).collect();
        let words = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap()));
        assert_eq!(xor(&bytes), words.fold(0, |a, b| a ^ b));
    }
}
