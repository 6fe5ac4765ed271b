//! Tokens one after another, as text that never ends within a character.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memwall_tokenizer::{StreamDecoder, Tokenizer};

use crate::sample::Sampler;
use crate::{Engine, InferError, StepRows, Wanted};

/// When a generation ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The most tokens.
    pub tokens: usize,
    /// Ends when set, after the token in progress.
    pub stop: &'a AtomicBool,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so, with this token.
    End(u32),
    /// All tokens asked for are there.
    Length,
    /// The context is full.
    Context,
    /// The stop flag was set.
    Stopped,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Time of the prompt, up to the first logits.
    pub prefill: Duration,
    /// Time of the steps after it.
    pub decode: Duration,
    /// Steps after the prompt.
    pub steps: usize,
    /// Logits that are not finite came up.
    pub not_finite: bool,
}

impl Generated {
    /// Tokens a second after the prompt; 0 without any.
    pub fn decode_tps(&self) -> f64 {
        rate(self.steps, self.decode)
    }

    /// Tokens of the prompt a second.
    pub fn prefill_tps(&self, prompt: usize) -> f64 {
        rate(prompt, self.prefill)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 || time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// Continues slot 0 of `engine` with `prompt` and then with sampled tokens; hands text to `text` as it comes.
///
/// `history`: the tokens in the slot before the prompt, which the repetition penalty sees. Without a tokenizer there is
/// no text, and no token ends the generation.
///
/// # Errors
/// If the prompt is empty or does not fit the context, a token is not in the vocabulary, or `text` fails.
pub fn generate(
    engine: &mut Engine,
    tokenizer: Option<&Tokenizer>,
    history: &[u32],
    prompt: &[u32],
    sampler: &mut Sampler,
    limits: Limits<'_>,
    text: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<Generated, InferError> {
    let context = engine.options().context;
    let room = context.saturating_sub(engine.length(0));
    if prompt.len() > room {
        let tokens = prompt.len();
        return Err(InferError::request(format!(
            "the prompt has {tokens} tokens, but {room} of a context of {context} are left"
        )));
    }
    let mut all: Vec<u32> = Vec::with_capacity(history.len() + prompt.len() + limits.tokens.min(room));
    all.extend_from_slice(history);
    all.extend_from_slice(prompt);
    let before = all.len();
    let mut decoder = tokenizer.map(|t| (t, StreamDecoder::after(t, &all, false)));
    let mut out = String::new();

    let begin = Instant::now();
    let mut logits = engine.prefill(0, prompt)?;
    let prefill = begin.elapsed();
    let (mut steps, mut not_finite) = (0, false);
    let begin = Instant::now();
    let finish = loop {
        if all.len() - before == limits.tokens {
            break Finish::Length;
        }
        if limits.stop.load(Ordering::Relaxed) {
            break Finish::Stopped;
        }
        // Without an early end, so that it runs as wide as the registers are.
        not_finite |= logits.iter().fold(false, |found, x| found | !x.is_finite());
        let token = sampler.sample(logits, &all);
        if tokenizer.is_some_and(|t| t.is_end(token)) {
            break Finish::End(token);
        }
        all.push(token);
        if let Some((tokenizer, decoder)) = &mut decoder {
            let piece = decoder.push(tokenizer, token)?;
            if !piece.is_empty() {
                text(&piece)?;
                out.push_str(&piece);
            }
        }
        if all.len() - before == limits.tokens {
            break Finish::Length;
        }
        if engine.length(0) == context {
            break Finish::Context;
        }
        logits = engine.step(&[StepRows { slot: 0, tokens: &[token] }], Wanted::Last)?;
        steps += 1;
    };
    let decode = begin.elapsed();
    if let Some((_, decoder)) = decoder {
        let rest = decoder.finish();
        if !rest.is_empty() {
            text(&rest)?;
            out.push_str(&rest);
        }
    }
    let tokens = all.split_off(before);
    Ok(Generated { tokens, text: out, finish, prefill, decode, steps, not_finite })
}
