//! How well a model predicts a text, and how far it is from another model.
//!
//! As llama.cpp's `perplexity` does: the text is cut into windows of `context` tokens without overlap; the first token
//! of each is replaced by BOS if the vocabulary begins texts with it; in each window the tokens after the middle one are
//! scored. perplexity = exp(mean −ln p); KL = Σ p_reference ln(p_reference / p), the mean over scored positions.

use crate::{Engine, InferError, StepRows, Wanted};

/// What to score.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    /// The text.
    pub tokens: &'a [u32],
    /// Tokens of a window, at least 4.
    pub context: usize,
    /// Replaces the first token of each window.
    pub bos: Option<u32>,
}

/// A token that was scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its window, from 0.
    pub window: usize,
    /// Its place in the window, from 0.
    pub place: usize,
    /// −ln p of the model.
    pub nll: f64,
    /// −ln p of the reference, if there is one.
    pub reference_nll: Option<f64>,
}

/// How well a text was predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Tokens scored.
    pub tokens: usize,
    /// Σ −ln p over them.
    pub nll: f64,
    /// Σ KL(reference ‖ model), if there was a reference.
    pub kl: f64,
    /// Positions where both models' likeliest token is the same.
    pub same_top: usize,
}

impl Score {
    /// Mean −ln p.
    pub fn nll_per_token(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// exp of that.
    pub fn perplexity(&self) -> f64 {
        self.nll_per_token().exp()
    }

    /// Mean KL divergence from the reference.
    pub fn mean_kl(&self) -> f64 {
        self.kl / self.tokens as f64
    }

    /// Share of positions where both models' likeliest token is the same.
    pub fn top1_agreement(&self) -> f64 {
        self.same_top as f64 / self.tokens as f64
    }
}

impl Windows<'_> {
    /// The scored tokens, window by window.
    pub fn scored(&self) -> impl Iterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.context).map(|w| &w[self.context / 2 + 1..])
    }

    /// The tokens of each whole window, as they are read: with BOS in the place of the first.
    pub fn contexts(&self) -> impl Iterator<Item = Vec<u32>> {
        self.tokens.chunks_exact(self.context).map(|text| {
            let mut tokens = text.to_vec();
            if let Some(bos) = self.bos {
                tokens[0] = bos;
            }
            tokens
        })
    }

    /// Scores `engine` on the text, and against `reference` if given; `window` hears of each window done.
    ///
    /// # Errors
    /// If the text is shorter than a window, a window longer than the engines' context, or a token unknown.
    pub fn score(
        &self,
        engine: &mut Engine,
        reference: Option<&mut Engine>,
        window: impl FnMut(usize, &Score) -> bool,
    ) -> Result<Score, InferError> {
        self.score_tokens(engine, reference, window, |_| ())
    }

    /// [`Windows::score`]; `each` hears of every token that is scored.
    ///
    /// # Errors
    /// As [`Windows::score`].
    pub fn score_tokens(
        &self,
        engine: &mut Engine,
        mut reference: Option<&mut Engine>,
        mut window: impl FnMut(usize, &Score) -> bool,
        mut each: impl FnMut(ScoredToken),
    ) -> Result<Score, InferError> {
        let (context, have) = (self.context, self.tokens.len());
        if context < 4 {
            return Err(InferError::request(format!("windows of {context} tokens; at least 4 are needed")));
        }
        if have < context {
            let what = format!(
                "the text has {have} tokens, fewer than one window of {context}: give a longer text or a smaller --context"
            );
            return Err(InferError::request(what));
        }
        let mut score = Score::default();
        for (number, tokens) in self.contexts().enumerate() {
            let first = context / 2;
            for e in [Some(&mut *engine), reference.as_deref_mut()].into_iter().flatten() {
                e.clear(0)?;
                e.prefill(0, &tokens[..first])?;
            }
            // The last token's logits predict what is in no window.
            let rows = engine.options().outputs.min(engine.options().step);
            let rows = reference.as_ref().map_or(rows, |r| rows.min(r.options().outputs).min(r.options().step));
            for at in (first..context - 1).step_by(rows) {
                let part = &tokens[at..(at + rows).min(context - 1)];
                let next = &tokens[at + 1..=at + part.len()];
                let step = [StepRows { slot: 0, tokens: part }];
                let logits = engine.step(&step, Wanted::All)?;
                let vocab = logits.len() / part.len();
                let wanted = match reference.as_deref_mut() {
                    Some(reference) => {
                        let wanted = reference.step(&step, Wanted::All)?;
                        if wanted.len() != logits.len() {
                            let theirs = wanted.len() / part.len();
                            let what = format!(
                                "the reference has {theirs} tokens, the model {vocab}; they must share a vocabulary"
                            );
                            return Err(InferError::request(what));
                        }
                        Some(wanted)
                    }
                    None => None,
                };
                for (i, &token) in next.iter().enumerate() {
                    let row = &logits[i * vocab..(i + 1) * vocab];
                    let log_sum = log_sum_exp(row);
                    let nll = log_sum - f64::from(row[token as usize]);
                    let mut scored = ScoredToken { window: number, place: at + i + 1, nll, reference_nll: None };
                    score.tokens += 1;
                    score.nll += nll;
                    if let Some(wanted) = wanted {
                        let wanted = &wanted[i * vocab..(i + 1) * vocab];
                        let wanted_sum = log_sum_exp(wanted);
                        scored.reference_nll = Some(wanted_sum - f64::from(wanted[token as usize]));
                        score.kl += divergence(wanted, wanted_sum, row, log_sum);
                        score.same_top += usize::from(crate::sample::greedy(wanted) == crate::sample::greedy(row));
                    }
                    each(scored);
                }
            }
            if !window(number + 1, &score) {
                break;
            }
        }
        Ok(score)
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

fn divergence(p: &[f32], p_sum: f64, q: &[f32], q_sum: f64) -> f64 {
    p.iter()
        .zip(q)
        .map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
            let weight = p.exp();
            if weight == 0.0 { 0.0 } else { weight * (p - q) }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_for_equals_and_as_defined_otherwise() {
        let (p, q) = ([0.0_f32, 1.0, 2.0], [0.5_f32, -1.0, 0.25]);
        let (sp, sq) = (log_sum_exp(&p), log_sum_exp(&q));
        assert_eq!(divergence(&p, sp, &p, sp), 0.0);
        let share = |x: f32, s: f64| (f64::from(x) - s).exp();
        let want: f64 = p.iter().zip(q).map(|(&a, b)| share(a, sp) * (share(a, sp) / share(b, sq)).ln()).sum();
        assert!((divergence(&p, sp, &q, sq) - want).abs() < 1e-12);
        assert!((p.iter().map(|&x| share(x, sp)).sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_second_half_of_each_whole_window_is_scored() {
        let tokens: Vec<u32> = (0..20).collect();
        let windows = Windows { tokens: &tokens, context: 8, bos: None };
        let scored: Vec<&[u32]> = windows.scored().collect();
        assert_eq!(scored, [&[5, 6, 7][..], &[13, 14, 15]]);
    }
}
