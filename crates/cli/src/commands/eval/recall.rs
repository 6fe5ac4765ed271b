//! What `memwall eval --task recall` reports: how well a model predicts what stands earlier in its context, and the rest.

use std::collections::HashSet;
use std::io::Write;

use anyhow::bail;
use memwall_infer::perplexity::{ScoredToken, Windows};
use memwall_infer::recall_slices::{RecallSlices, Slice, frequent_bigrams, recall_hits};
use memwall_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::Args;
use crate::commands::tokenize::read_text;

/// Which tokens of each window are hits, and what has been added up.
pub(super) struct Recall {
    hits: Vec<Vec<bool>>,
    excluded: Option<usize>,
    slices: RecallSlices,
}

impl Recall {
    /// Finds the hits of all windows; no model is asked.
    pub(super) fn new(args: &Args, windows: &Windows<'_>, tokenizer: &Tokenizer) -> anyhow::Result<Recall> {
        let (frequent, excluded) = match &args.train_file {
            Some(path) => {
                let frequent = frequent_bigrams(&tokenizer.encode(&read_text(path)?, false, false)?, args.frequent);
                let count = frequent.len();
                (frequent, Some(count))
            }
            None => (HashSet::new(), None),
        };
        if args.context < 4 {
            bail!("--context {}: at least 4 are needed", args.context);
        }
        let hits = windows.contexts().map(|context| recall_hits(&context, &frequent)).collect();
        Ok(Recall { hits, excluded, slices: RecallSlices::default() })
    }

    pub(super) fn add(&mut self, token: ScoredToken) {
        self.slices.add(self.hits[token.window][token.place], token.nll, token.reference_nll);
    }

    /// Adds the slices to `line`.
    pub(super) fn fill(&self, line: &mut Value, with_reference: bool) {
        let slice = |s: &Slice| {
            let mut of = json!({ "tokens": s.tokens, "nll": s.nll, "perplexity": s.perplexity() });
            if with_reference {
                of["reference_nll"] = json!(s.reference_nll);
                of["reference_perplexity"] = json!(s.reference_perplexity());
            }
            of
        };
        line["hits"] = slice(&self.slices.hits);
        line["others"] = slice(&self.slices.others);
        line["frequent_bigrams"] = json!(self.excluded);
        if with_reference {
            line["gap_share_of_hits"] = json!(self.slices.gap_share());
        }
    }

    /// The slices as text.
    pub(super) fn write(&self, out: &mut impl Write, with_reference: bool) -> std::io::Result<()> {
        let RecallSlices { hits, others } = &self.slices;
        let figure = |x: Option<f64>| x.map_or("none".to_owned(), |x| format!("{x:.4}"));
        for (name, slice) in [("recall hits", hits), ("others", others)] {
            write!(out, "{name:13} {} over {} tokens", figure(slice.perplexity()), slice.tokens)?;
            if with_reference {
                write!(out, ", the reference {}", figure(slice.reference_perplexity()))?;
            }
            writeln!(out)?;
        }
        match self.excluded {
            Some(n) => writeln!(out, "excluded      {n} bigrams that are frequent in the training text")?,
            None => writeln!(out, "excluded      nothing: no --train-file says which bigrams are frequent")?,
        }
        if with_reference {
            let share = self.slices.gap_share().map_or("none".to_owned(), |s| format!("{:.1} %", 100.0 * s));
            writeln!(out, "gap on hits   {share} of the difference to the reference")?;
        }
        Ok(())
    }
}
