//! What is printed: a row a tensor, then the whole, as a table or as JSON.

use std::io::Write;
use std::path::Path;

use memwall_formats::Dtype;
use memwall_formats::error::ErrorStatistics;
use memwall_store::format_size;
use serde_json::{Value, json};

use super::evaluate::Evaluation;
use super::sources::Source;

/// A tensor before it was converted.
pub(super) struct Before {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: u64,
}

impl From<&Source<'_>> for Before {
    fn from(s: &Source<'_>) -> Before {
        Before { name: s.name.clone(), shape: s.shape.clone(), dtype: s.dtype, bytes: s.stored.len() as u64 }
    }
}

/// A tensor of the output.
pub(super) struct Row {
    pub(super) source: Before,
    pub(super) dtype: Dtype,
    pub(super) bytes: u64,
    pub(super) statistics: ErrorStatistics,
    pub(super) method: &'static str,
    pub(super) predicted_kl: Option<f64>,
}

/// All that is printed.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    /// Transforms that came first, and how far logits were from the original's in f32.
    pub(super) transforms: Vec<(&'static str, f64)>,
    /// Predicted and measured KL of a plan.
    pub(super) plan: Option<(f64, f64)>,
    pub(super) evaluation: Option<Evaluation>,
}

impl Report {
    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn print(&self, output: &Path, format: &str, as_json: bool) -> anyhow::Result<()> {
        let all = self.rows.iter().fold(ErrorStatistics::default(), |all, row| all.merge(row.statistics));
        let before: u64 = self.rows.iter().map(|row| row.source.bytes).sum();
        let bytes: u64 = self.rows.iter().map(|row| row.bytes).sum();
        let weights: usize = self.rows.iter().map(|row| row.source.shape.iter().product::<usize>()).sum();
        let bits = 8.0 * bytes as f64 / weights.max(1) as f64;
        let mut out = std::io::stdout().lock();
        if as_json {
            let mut line = json!({
                "output": output,
                "format": format,
                "bytes_before": before,
                "bytes": bytes,
                "bits_per_weight": bits,
                "relative_rmse": finite(all.relative_rmse()),
                "tensors": self.rows.iter().map(Row::json).collect::<Vec<Value>>(),
            });
            if !self.transforms.is_empty() {
                let done = self.transforms.iter().map(|(name, off)| json!({ "name": name, "logits_off": off }));
                line["transforms"] = done.collect();
            }
            if let Some((predicted, measured)) = self.plan {
                line["plan"] = json!({ "predicted_kl": predicted, "measured_kl": measured });
            }
            if let Some(evaluation) = &self.evaluation {
                line["report"] = evaluation.json();
            }
            writeln!(out, "{line}")?;
            return Ok(());
        }
        for (name, off) in &self.transforms {
            writeln!(out, "{name}: logits in f32 are off by {off:.1e} of the largest")?;
        }
        let kl = if self.plan.is_some() { format!(" {:>10}", "KL") } else { String::new() };
        writeln!(
            out,
            "{:40} {:>6} {:>6} {:>10} {:>9} {:>6} {:>10}{kl}",
            "tensor", "from", "to", "size", "SQNR dB", "crest", "method"
        )?;
        for row in &self.rows {
            writeln!(out, "{}", row.line(self.plan.is_some()))?;
        }
        let (before, size) = (format_size(before as usize), format_size(bytes as usize));
        let error = 100.0 * all.relative_rmse();
        writeln!(
            out,
            "{}: {before} -> {size}, {bits:.2} bits a weight, relative error {error:.3} %",
            output.display()
        )?;
        if let Some((predicted, measured)) = self.plan {
            writeln!(out, "plan: mean KL {predicted:.6} nats predicted, {measured:.6} measured")?;
        }
        if let Some(evaluation) = &self.evaluation {
            write!(out, "{}", evaluation.lines())?;
        }
        Ok(())
    }
}

impl Row {
    fn json(&self) -> Value {
        let mut row = json!({
            "name": self.source.name,
            "shape": self.source.shape,
            "from": self.source.dtype.name(),
            "to": self.dtype.name(),
            "bytes": self.bytes,
            "method": self.method,
            "sqnr_db": finite(self.statistics.sqnr_db()),
            "crest_factor": finite(self.statistics.crest_factor()),
            "relative_rmse": finite(self.statistics.relative_rmse()),
            "max_abs_error": self.statistics.max_abs(),
        });
        if let Some(kl) = self.predicted_kl {
            row["predicted_kl"] = json!(kl);
        }
        row
    }

    fn line(&self, planned: bool) -> String {
        let number = |x: f64, none: &str| finite(x).map_or(none.to_string(), |x| format!("{x:.1}"));
        let kl = match (planned, self.predicted_kl) {
            (false, _) => String::new(),
            (true, Some(kl)) => format!(" {kl:>10.6}"),
            (true, None) => format!(" {:>10}", "-"),
        };
        format!(
            "{:40} {:>6} {:>6} {:>10} {:>9} {:>6} {:>10}{kl}",
            self.source.name,
            self.source.dtype.name(),
            self.dtype.name(),
            format_size(self.bytes as usize),
            number(self.statistics.sqnr_db(), "exact"),
            number(self.statistics.crest_factor(), "-"),
            self.method,
        )
    }
}

/// JSON has no infinity: an exact tensor has no ratio of signal to noise.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
