//! From logits to a token.
//!
//! The chain, in llama.cpp's order: repetition penalty, top-k, top-p, min-p, temperature, then a draw. Draws are
//! counter-based: draw `i` of a seed is the same whatever came before it.
//!
//! Sources: repetition penalty, Keskar et al. 2019 (arXiv:1909.05858) §4.1; top-p, Holtzman et al. 2019
//! (arXiv:1904.09751); min-p, Nguyen et al. 2024 (arXiv:2407.01082).

use std::cmp::Ordering;

/// The token with the largest logit; the first of equals. NaN never wins.
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] || logits[best].is_nan() {
            best = i;
        }
    }
    best as u32
}

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the largest.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 is all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability, in (0, 1]; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the most likely one, in [0, 1); 0 is all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by it if positive, multiplied otherwise; 1 is off.
    pub repeat_penalty: f32,
    /// How many recent tokens are penalized.
    pub repeat_last: usize,
    /// Fixes every draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.8, top_k: 0, top_p: 0.95, min_p: 0.0, repeat_penalty: 1.0, repeat_last: 64, seed: 0 }
    }
}

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{setting} is {value}; it should be {range}")]
pub struct SamplingError {
    /// The setting's name.
    pub setting: &'static str,
    /// What it was given.
    pub value: f32,
    /// What it may be.
    pub range: &'static str,
}

impl Sampling {
    /// Always the largest logit.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, repeat_last: 64, seed: 0 };

    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the first setting that is outside of its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min-p", self.min_p, (0.0..1.0).contains(&self.min_p), "at least 0 and below 1"),
            (
                "repeat-penalty",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite(),
                "above 0",
            ),
        ];
        match checks.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((setting, value, _, range)) => Err(SamplingError { setting, value, range }),
            None => Ok(()),
        }
    }
}

/// Draws tokens; allocates only when made.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    draws: u64,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler over a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// If a setting is outside its range.
    pub fn new(settings: Sampling, vocab: usize) -> Result<Sampler, SamplingError> {
        settings.check()?;
        Ok(Sampler { settings, draws: 0, candidates: Vec::with_capacity(vocab) })
    }

    /// The next token, after `history` (only its last tokens matter, for the repetition penalty).
    ///
    /// # Panics
    /// If `logits` is empty.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let s = self.settings;
        if s.temperature == 0.0 && s.repeat_penalty == 1.0 {
            return greedy(logits);
        }
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(|(id, &logit)| Candidate {
            id: id as u32,
            logit: if logit.is_nan() { f32::NEG_INFINITY } else { logit },
        }));
        self.penalize(history);
        if s.temperature == 0.0 {
            return self.candidates.iter().copied().min_by(likelier).map_or(0, |c| c.id);
        }
        if s.top_k > 0 && s.top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(s.top_k - 1, likelier);
            self.candidates.truncate(s.top_k);
        }
        if s.top_p < 1.0 {
            self.keep_top_p(s.top_p);
        }
        let largest = self.candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
        if s.min_p > 0.0 {
            let least = largest + s.min_p.ln();
            self.candidates.retain(|c| c.logit >= least);
        }
        self.draw(largest)
    }

    fn penalize(&mut self, history: &[u32]) {
        let s = self.settings;
        if s.repeat_penalty == 1.0 {
            return;
        }
        let recent = &history[history.len().saturating_sub(s.repeat_last)..];
        for (i, id) in recent.iter().enumerate() {
            // Once for each token, however often it came.
            if let Some(c) = self.candidates.get_mut(*id as usize)
                && !recent[..i].contains(id)
            {
                c.logit = if c.logit > 0.0 { c.logit / s.repeat_penalty } else { c.logit * s.repeat_penalty };
            }
        }
    }

    /// Keeps the likeliest tokens, sorted, up to the one that makes their probability reach `p`.
    fn keep_top_p(&mut self, p: f32) {
        let c = &mut self.candidates;
        let largest = c.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
        let weight = |c: &Candidate| f64::from(c.logit - largest).exp();
        let wanted = c.iter().map(weight).sum::<f64>() * f64::from(p);
        // Few tokens usually suffice: sort the head only, and more of it while it does not reach p.
        let mut head = 256.min(c.len());
        loop {
            if head < c.len() {
                c.select_nth_unstable_by(head - 1, likelier);
            }
            c[..head].sort_unstable_by(likelier);
            let mut sum = 0.0;
            let reached = c[..head].iter().position(|c| {
                sum += weight(c);
                sum >= wanted
            });
            if let Some(last) = reached {
                c.truncate(last + 1);
                return;
            }
            if head == c.len() {
                return;
            }
            head = (head * 4).min(c.len());
        }
    }

    fn draw(&mut self, largest: f32) -> u32 {
        let temperature = f64::from(self.settings.temperature);
        let weight = |c: &Candidate| (f64::from(c.logit - largest) / temperature).exp();
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut left = uniform(self.settings.seed, self.draws) * total;
        self.draws += 1;
        for c in &self.candidates {
            left -= weight(c);
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding, or no finite logit at all.
        self.candidates.iter().copied().min_by(likelier).map_or(0, |c| c.id)
    }
}

/// Likelier first; the smaller id of equals first.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// A number in [0, 1) by seed and counter: SplitMix64's finalizer (Steele et al. 2014) over both.
fn uniform(seed: u64, counter: u64) -> f64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let golden = 0x9e37_79b9_7f4a_7c15u64;
    let bits = mix(mix(seed.wrapping_add(golden)).wrapping_add(counter.wrapping_mul(golden)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.0];

    fn frequencies(settings: Sampling) -> [f64; 5] {
        let mut sampler = Sampler::new(settings, 5).unwrap();
        let mut counts = [0.0; 5];
        let n = 20_000;
        for _ in 0..n {
            counts[sampler.sample(&LOGITS, &[]) as usize] += 1.0 / f64::from(n);
        }
        counts
    }

    fn softmax(temperature: f64, kept: &[usize]) -> [f64; 5] {
        let mut p = [0.0; 5];
        for &i in kept {
            p[i] = (f64::from(LOGITS[i]) / temperature).exp();
        }
        let sum: f64 = p.iter().sum();
        p.map(|x| x / sum)
    }

    fn close(a: [f64; 5], b: [f64; 5]) {
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() < 0.015, "{a:?} {b:?}");
        }
    }

    const ALL: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

    #[test]
    fn draws_follow_the_softmax_at_any_temperature() {
        close(frequencies(ALL), softmax(1.0, &[0, 1, 2, 3, 4]));
        close(frequencies(Sampling { temperature: 2.5, ..ALL }), softmax(2.5, &[0, 1, 2, 3, 4]));
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        close(frequencies(Sampling { top_k: 2, ..ALL }), softmax(1.0, &[1, 2]));
        // 0.64, 0.24, 0.09 …: 0.8 needs two tokens.
        close(frequencies(Sampling { top_p: 0.8, ..ALL }), softmax(1.0, &[1, 2]));
        // At least 0.2 of the likeliest: e^-1 does, e^-2 does not.
        close(frequencies(Sampling { min_p: 0.2, ..ALL }), softmax(1.0, &[1, 2]));
        close(frequencies(Sampling { top_p: 1e-6, ..ALL }), softmax(1.0, &[1]));
    }

    #[test]
    fn temperature_zero_is_greedy_and_penalties_still_count() {
        assert_eq!(Sampler::new(Sampling::GREEDY, 5).unwrap().sample(&LOGITS, &[1, 1]), 1);
        let penalized = Sampling { repeat_penalty: 2.0, ..Sampling::GREEDY };
        assert_eq!(Sampler::new(penalized, 5).unwrap().sample(&LOGITS, &[1, 1]), 2, "3 / 2 < 2, once only");
    }

    #[test]
    fn a_large_vocabulary_needs_no_whole_sort() {
        let flat: Vec<f32> = (0..5000).map(|i| (i * 37 % 5000) as f32 * 1e-4).collect();
        let mut sampler = Sampler::new(Sampling { top_p: 0.9, ..ALL }, 5000).unwrap();
        sampler.sample(&flat, &[]);
        let mut sorted: Vec<f64> = flat.iter().map(|&x| f64::from(x).exp()).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let wanted = sorted.iter().sum::<f64>() * f64::from(0.9_f32);
        let mut sum = 0.0;
        let kept = sorted.iter().position(|x| {
            sum += x;
            sum >= wanted
        });
        assert_eq!(sampler.candidates.len(), kept.unwrap() + 1);
    }

    #[test]
    fn a_seed_fixes_the_draws_and_another_changes_them() {
        let run = |seed| {
            let mut s = Sampler::new(Sampling { seed, ..ALL }, 5).unwrap();
            (0..50).map(|_| s.sample(&LOGITS, &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn nan_is_never_drawn_and_settings_outside_their_range_are_named() {
        let mut s = Sampler::new(ALL, 3).unwrap();
        for _ in 0..50 {
            assert_eq!(s.sample(&[f32::NAN, 1.0, f32::NEG_INFINITY], &[]), 1);
        }
        let error = Sampler::new(Sampling { top_p: 0.0, ..ALL }, 5).unwrap_err().to_string();
        assert!(error.contains("top-p is 0"), "{error}");
        assert!(Sampling { temperature: -1.0, ..ALL }.check().is_err());
        assert!(Sampling { temperature: f32::NAN, ..ALL }.check().is_err());
    }
}
