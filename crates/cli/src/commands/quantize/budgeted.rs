//! `--memory`: the format of each tensor, for the least divergence within a number of bytes.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use memwall_formats::Dtype;
use memwall_infer::Model;
use memwall_quantize::plot::{self, Series};
use memwall_quantize::{Choice, Front, Measurement, Method, Plan, QuantizeError, Sensitivity};
use memwall_store::Budget;

use super::known::Text;
use super::sources::Source;

/// Windows that each weight's divergence is measured on.
pub(super) const WINDOWS: usize = 8;

/// Formats of fewer bits a value are for weights trained in them: what others lose there is not in proportion to an error,
/// and predictions fail.
const FEWEST_BITS: f64 = 2.5;

/// A plan, and what it was chosen from.
pub(super) struct Budgeted {
    /// The format of each tensor of the output.
    pub(super) formats: Vec<Dtype>,
    pub(super) predicted_kl: f64,
    sensitivities: Vec<Sensitivity>,
    plan: Plan,
    front: Front,
    /// Values of those that there is a choice for.
    values: usize,
}

impl Budgeted {
    /// Measures each matrix, and picks the best plan of at most `bytes`.
    pub(super) fn of(
        model: &Model,
        sources: &[Source<'_>],
        text: &Text,
        method: &'static dyn Method,
        bytes: u64,
        threads: usize,
        budget: &Budget,
        show: bool,
    ) -> anyhow::Result<Budgeted> {
        // FP6 makes files that no other program reads: not unasked.
        let formats: Vec<Dtype> = Dtype::ALL
            .into_iter()
            .filter(|d| *d != Dtype::FP6)
            .filter(|d| (d.is_block() && d.bits_per_value() > FEWEST_BITS) || matches!(d, Dtype::F16 | Dtype::BF16))
            .collect();
        let text = text.calibration();
        let measurement = Measurement { model, text, method, formats: &formats, windows: WINDOWS, threads };
        let mut number = 0;
        let sensitivities = measurement.run(budget, |s| {
            number += 1;
            if show {
                eprint!("\rmeasuring {number}: {:60}", s.weight);
            }
        })?;
        let chosen: HashMap<&str, usize> =
            sensitivities.iter().enumerate().map(|(i, s)| (s.weight.as_str(), i)).collect();
        let of = |source: &Source<'_>| source.weight.as_deref().and_then(|weight| chosen.get(weight)).copied();
        // Tensors that there is no choice for stay as they are.
        let fixed: u64 = sources.iter().filter(|s| of(s).is_none()).map(|s| s.stored.len() as u64).sum();
        let items: Vec<Vec<Choice>> = sensitivities.iter().map(|s| s.choices.clone()).collect();
        let front = Front::of(&items);
        let plan = match front.within(bytes.saturating_sub(fixed)) {
            Ok(plan) => plan,
            Err(QuantizeError::Impossible { smallest, .. }) => {
                return Err(QuantizeError::Impossible { asked: bytes, smallest: smallest + fixed })
                    .context("--memory: the tensors of the output, all together");
            }
            Err(other) => return Err(other.into()),
        };
        let format = |i: usize| sensitivities[i].formats[plan.choices[i]];
        let formats = sources.iter().map(|s| of(s).map_or(s.dtype, format)).collect();
        let values = sources.iter().filter(|s| of(s).is_some()).map(|s| s.shape.iter().product::<usize>()).sum();
        Ok(Budgeted { formats, predicted_kl: plan.loss, sensitivities, plan, front, values })
    }

    /// Predicted KL of the format of each tensor, by memwall's name of the weight.
    pub(super) fn predicted(&self, weight: &str) -> Option<f64> {
        let i = self.sensitivities.iter().position(|s| s.weight == weight)?;
        Some(self.sensitivities[i].choices[self.plan.choices[i]].loss)
    }

    /// Draws all plans, this one, and what each format would be for all tensors.
    pub(super) fn draw(&self, file: &Path, title: &str, measured: f64) -> anyhow::Result<()> {
        let bits = |bytes: u64| 8.0 * bytes as f64 / self.values as f64;
        let points = |(bytes, loss): (u64, f64)| (bits(bytes), loss);
        let series = |name: &str, points: Vec<(f64, f64)>, line| Series { name: name.into(), points, line };
        let uniform = Dtype::ALL.into_iter().filter_map(|dtype| self.uniform(dtype));
        let all = [
            series("best plans, predicted", self.front.sizes().map(points).collect(), true),
            series("this plan, measured", vec![points((self.plan.bytes, measured))], false),
            series("one format for all, predicted", uniform.map(points).collect(), false),
        ];
        let svg = plot::draw(title, &all).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
        std::fs::write(file, svg).with_context(|| format!("{}: cannot write the picture", file.display()))
    }

    /// Bytes and predicted KL of one format for all, if all rows can have it.
    fn uniform(&self, dtype: Dtype) -> Option<(u64, f64)> {
        self.sensitivities.iter().try_fold((0, 0.0), |(bytes, loss), s| {
            let choice = s.choices[s.formats.iter().position(|d| *d == dtype)?];
            Some((bytes + choice.bytes, loss + choice.loss))
        })
    }
}
