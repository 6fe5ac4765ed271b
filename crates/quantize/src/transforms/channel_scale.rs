//! `channel-scale`: the columns of a weight are made alike, so that a group along a row holds values of one size.
//!
//! Column j of the layers that share an input is multiplied by `c_j = mean |W| / mean_i |W_ij|`, both means over all of these layers, and
//! what makes the input divided by it. Where several inputs come of one row (values of grouped heads), they share the mean of
//! their columns.
//!
//! Source: FireQ (arXiv 2505.20839), scale type 2, whose constant is one per model and kind of layer; here it is the mean of the
//! weights, so that their size stays.

use super::links::links;
use super::{Rewrite, Subject, Transform};
use crate::QuantizeError;

/// Columns of one size.
#[derive(Clone, Copy, Debug)]
pub struct ChannelScale;

impl Transform for ChannelScale {
    fn name(&self) -> &'static str {
        "channel-scale"
    }

    fn reads_text(&self) -> bool {
        false
    }

    fn rewrite(&self, subject: &Subject<'_>) -> Result<Rewrite, QuantizeError> {
        subject.does_not_round(self)?;
        let config = &subject.model.checkpoint().config;
        let mut rewrite = Rewrite::of(config);
        for i in 0..config.layers.len() {
            for link in links(subject.model, i)? {
                let mut columns = vec![0f32; link.row.len()];
                for reader in &link.readers {
                    for row in subject.values(reader)?.chunks(columns.len()) {
                        columns.iter_mut().zip(row).for_each(|(sum, w)| *sum += w.abs());
                    }
                }
                let rows = link.by_row(&columns, 0.0, |a, b| a + b);
                let mean = rows.iter().sum::<f32>() / rows.len() as f32;
                let factor = |sum: &f32| {
                    let c = mean / sum;
                    // A column of zeros has no size.
                    if c.is_normal() { c } else { 1.0 }
                };
                rewrite.moves(&link, &rows.iter().map(factor).collect::<Vec<f32>>());
            }
        }
        Ok(rewrite)
    }
}
