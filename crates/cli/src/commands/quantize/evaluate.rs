//! How far the model that was written is from its original, on a text.

use std::path::Path;

use memwall_fit::EngineOptions;
use memwall_infer::perplexity::{Score, Windows};
use memwall_infer::{Engine, Model};
use memwall_store::Budget;
use serde_json::{Value, json};

use super::known::Text;
use crate::commands::eval::scored_bytes;
use crate::load;

/// Rows of a step whose logits are held at once.
const LOGIT_ROWS: usize = 64;

/// What a text says of both.
pub(super) struct Evaluation {
    pub(super) written: Score,
    pub(super) original: Score,
    /// Bytes of the scored tokens.
    pub(super) bytes: usize,
}

impl Evaluation {
    /// Runs both over the first `most` windows of the text, each as it is stored.
    pub(super) fn of(
        output: &Path,
        original: &Model,
        text: &Text,
        most: usize,
        threads: usize,
        budget: &Budget,
    ) -> anyhow::Result<Evaluation> {
        let windows = Windows { tokens: &text.tokens, context: text.context, bos: text.bos };
        let options = EngineOptions { threads, context: text.context, outputs: LOGIT_ROWS, ..EngineOptions::default() };
        let mut reference = Engine::with_budget(original, options, budget)?;
        let alone = windows.score(&mut reference, None, |window, _| window < most)?;
        let model = Model::open(output)?;
        let mut engine = Engine::with_budget(&model, options, budget)?;
        let written = windows.score(&mut engine, Some(&mut reference), |window, _| window < most)?;
        let scored = text.tokens.len().min(most.saturating_mul(text.context));
        let windows = Windows { tokens: &text.tokens[..scored], ..windows };
        let bytes = scored_bytes(&windows, &load::tokenizer(original)?);
        Ok(Evaluation { written, original: alone, bytes })
    }

    fn bits_per_byte(&self, score: &Score) -> f64 {
        score.nll / std::f64::consts::LN_2 / self.bytes as f64
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "tokens": self.written.tokens,
            "bytes": self.bytes,
            "perplexity": self.written.perplexity(),
            "original_perplexity": self.original.perplexity(),
            "bits_per_byte": self.bits_per_byte(&self.written),
            "original_bits_per_byte": self.bits_per_byte(&self.original),
            "mean_kl": self.written.mean_kl(),
            "top1_agreement": self.written.top1_agreement(),
        })
    }

    pub(super) fn lines(&self) -> String {
        let (w, o) = (&self.written, &self.original);
        format!(
            "perplexity    {:.4}, the original's {:.4}, over {} tokens\n\
             bits per byte {:.4}, the original's {:.4}\n\
             mean KL       {:.6} nats from the original\n\
             same top-1    {:.2} %\n",
            w.perplexity(),
            o.perplexity(),
            w.tokens,
            self.bits_per_byte(w),
            self.bits_per_byte(o),
            w.mean_kl(),
            100.0 * w.top1_agreement(),
        )
    }
}
