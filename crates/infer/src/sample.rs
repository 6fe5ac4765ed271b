//! From logits to a token.

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
