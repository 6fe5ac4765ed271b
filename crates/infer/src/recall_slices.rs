//! Where a text can be predicted by recalling what stands earlier in it: associative recall hits, and all other tokens.
//!
//! Token t of a context is a hit if the bigram (x_{t−1}, x_t) occurred earlier in the same context, unless it is frequent in
//! the training text, where it can be known by heart. "Zoology" (Arora et al., 2023, arXiv 2312.04927), section 3. Which
//! tokens are hits depends on the text alone, never on a model.

use std::collections::{HashMap, HashSet};

type Bigram = (u32, u32);

/// How often bigrams of a training text must occur for them not to count: more than in the paper's sample.
pub const FREQUENT: u64 = 1250;

/// The bigrams that occur more than `most` times in `text`.
pub fn frequent_bigrams(text: &[u32], most: u64) -> HashSet<Bigram> {
    let mut counts: HashMap<Bigram, u64> = HashMap::new();
    for pair in text.windows(2) {
        *counts.entry((pair[0], pair[1])).or_default() += 1;
    }
    counts.into_iter().filter(|(_, n)| *n > most).map(|(bigram, _)| bigram).collect()
}

/// Which tokens of a context are hits.
pub fn recall_hits(context: &[u32], frequent: &HashSet<Bigram>) -> Vec<bool> {
    let mut seen = HashSet::new();
    let bigrams = context.windows(2).map(|pair| (pair[0], pair[1]));
    // The first token ends no bigram.
    std::iter::once(false).chain(bigrams.map(|b| !seen.insert(b) && !frequent.contains(&b))).collect()
}

/// Tokens of one kind, and how well they were predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slice {
    /// Tokens.
    pub tokens: usize,
    /// Σ −ln p of the model over them.
    pub nll: f64,
    /// Σ −ln p of the reference, if there is one.
    pub reference_nll: f64,
}

impl Slice {
    fn add(&mut self, nll: f64, reference_nll: Option<f64>) {
        self.tokens += 1;
        self.nll += nll;
        self.reference_nll += reference_nll.unwrap_or(0.0);
    }

    /// exp of the mean −ln p; none without tokens.
    pub fn perplexity(&self) -> Option<f64> {
        (self.tokens > 0).then(|| (self.nll / self.tokens as f64).exp())
    }

    /// The reference's.
    pub fn reference_perplexity(&self) -> Option<f64> {
        (self.tokens > 0).then(|| (self.reference_nll / self.tokens as f64).exp())
    }
}

/// The scored tokens of a text, in two slices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RecallSlices {
    /// Associative recall hits.
    pub hits: Slice,
    /// All others.
    pub others: Slice,
}

impl RecallSlices {
    /// Counts a token in.
    pub fn add(&mut self, hit: bool, nll: f64, reference_nll: Option<f64>) {
        let slice = if hit { &mut self.hits } else { &mut self.others };
        slice.add(nll, reference_nll);
    }

    /// The share of the difference between model and reference, Σ −ln p of the one less that of the other, that lies on hits;
    /// none if they do not differ.
    pub fn gap_share(&self) -> Option<f64> {
        let [hits, others] = [self.hits, self.others].map(|s| s.nll - s.reference_nll);
        let share = hits / (hits + others);
        share.is_finite().then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_a_bigram_that_occurred_before_in_the_context() {
        let none = HashSet::new();
        //             1 2   3     1     2 is known after 1,    4, 2,    3 after 2
        let context = [1, 2, 3, 1, 2, 4, 2, 3];
        let want = [false, false, false, false, true, false, false, true];
        assert_eq!(recall_hits(&context, &none), want);
        assert_eq!(recall_hits(&[5, 5, 5], &none), [false, false, true]);
        assert_eq!(recall_hits(&[5], &none), [false]);
        // Known by heart: no hit.
        let frequent = HashSet::from([(1, 2)]);
        assert_eq!(recall_hits(&context, &frequent)[4..], [false, false, false, true]);
    }

    #[test]
    fn frequent_is_more_often_than_the_bound() {
        let text = [1, 2, 1, 2, 1, 2, 7];
        assert_eq!(frequent_bigrams(&text, 2), HashSet::from([(1, 2)]));
        assert_eq!(frequent_bigrams(&text, 3), HashSet::new());
        assert_eq!(frequent_bigrams(&text, 1), HashSet::from([(1, 2), (2, 1)]));
    }

    #[test]
    fn slices_add_up_and_the_gap_is_shared_out() {
        let mut slices = RecallSlices::default();
        for (hit, nll, reference) in [(true, 3.0, 1.0), (true, 2.0, 1.0), (false, 1.0, 0.5), (false, 0.5, 0.5)] {
            slices.add(hit, nll, Some(reference));
        }
        assert_eq!((slices.hits.tokens, slices.others.tokens), (2, 2));
        assert_eq!(slices.hits.nll + slices.others.nll, 6.5);
        assert_eq!(slices.gap_share(), Some(3.0 / 3.5));
        assert!((slices.hits.perplexity().unwrap() - 2.5f64.exp()).abs() < 1e-12);
        assert_eq!(RecallSlices::default().gap_share(), None);
        assert_eq!(Slice::default().perplexity(), None);
    }
}
