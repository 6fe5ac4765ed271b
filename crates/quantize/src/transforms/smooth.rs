//! `smooth`: outliers move from inputs to weights.
//!
//! Input j of the layers that share it is divided by `s_j = max |x_j|^α / max_i |W_ij|^(1-α)`, and their column j multiplied by
//! it; what made the input is divided by s_j beforehand. With α = 1/2 both have the same largest magnitude afterwards.
//!
//! Weights alone gain nothing by it; what multiplies 8-bit inputs does.
//!
//! Source: Xiao et al. 2022 (arXiv 2211.10438), equation 4.

use super::links::links;
use super::{Edit, Rewrite, Subject, Transform};
use crate::QuantizeError;
use crate::calibrate::Calibration;
use crate::statistics::Collect;

/// Migration of outliers.
#[derive(Clone, Copy, Debug)]
pub struct Smooth {
    /// How much of the outliers moves, 0 to 1.
    pub alpha: f32,
}

impl Transform for Smooth {
    fn name(&self) -> &'static str {
        "smooth"
    }

    fn reads_text(&self) -> bool {
        true
    }

    fn rewrite(&self, subject: &Subject<'_>) -> Result<Rewrite, QuantizeError> {
        subject.does_not_round(self)?;
        let config = &subject.model.checkpoint().config;
        let text = subject.text(self)?;
        let mut run = Calibration::new(subject.model, text, Collect::Squares, subject.threads, subject.budget)?;
        let mut rewrite = Rewrite::of(config);
        for i in 0..config.layers.len() {
            let Some(block) = run.next_block()? else { break };
            for link in links(subject.model, i)? {
                let Some(inputs) = block.iter().find(|s| s.weights().contains(&link.readers[0])) else { continue };
                let mut columns = vec![0f32; link.row.len()];
                for reader in &link.readers {
                    for row in subject.values(reader)?.chunks(columns.len()) {
                        columns.iter_mut().zip(row).for_each(|(most, w)| *most = most.max(w.abs()));
                    }
                }
                let x = link.by_row(inputs.largest(), 0.0, f32::max);
                let w = link.by_row(&columns, 0.0, f32::max);
                let factor = |(x, w): (&f32, &f32)| {
                    let s = x.powf(self.alpha) / w.powf(1.0 - self.alpha);
                    // What is never read, or never weighs, has nothing to move.
                    if s.is_normal() { s } else { 1.0 }
                };
                let factors: Vec<f32> = x.iter().zip(&w).map(factor).collect();
                rewrite.moves(&link, &factors);
            }
        }
        Ok(rewrite)
    }
}

impl Rewrite {
    /// Divides the rows of a link's producer by `factors` and multiplies the readers' columns.
    pub(super) fn moves(&mut self, link: &super::links::Link, factors: &[f32]) {
        let inverse: Vec<f32> = factors.iter().map(|s| 1.0 / s).collect();
        for weight in &link.producer {
            self.edit(weight, Edit::Rows(inverse.clone()));
        }
        for reader in &link.readers {
            self.edit(reader, Edit::Columns(link.by_input(factors)));
        }
    }
}
