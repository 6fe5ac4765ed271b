//! `activation-aware`: weights of inputs that are large get finer levels.
//!
//! Column j of the layers that share an input is multiplied by `s_j = a_j^r`, a_j being the root mean square of input j, and what
//! makes the input is divided by it: relative to the block's scale, weights that matter are larger and lose less. The
//! exponent r is the one of 20 from 0 to 0.95 with the least Σ_j E[x_j²] (w_j - ŵ_j)² under the format that each layer will
//! have, inputs taken as independent; factors are divided by √(max s · min s).
//!
//! Source: Lin et al. 2023 (arXiv 2306.00978), section 3.2; there a is the mean magnitude, and the error that of the layer's
//! outputs.

use memwall_formats::{Dtype, format};

use super::links::links;
use super::{Rewrite, Subject, Transform};
use crate::calibrate::Calibration;
use crate::statistics::Collect;
use crate::{QuantizeError, rows};

/// Activation-aware scaling.
#[derive(Clone, Copy, Debug)]
pub struct ActivationAware;

/// Exponents that are tried, a twentieth apart.
const EXPONENTS: usize = 20;

impl Transform for ActivationAware {
    fn name(&self) -> &'static str {
        "activation-aware"
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
                let squares = crate::methods::damped(&inputs.mean_squares());
                let readers = link.readers.iter().map(|name| Ok((subject.values(name)?, (subject.format)(name))));
                let readers = readers.collect::<Result<Vec<_>, QuantizeError>>()?;
                let sum = link.by_row(&squares, 0.0, |a, b| a + b);
                let mut best = (f64::INFINITY, vec![1.0; sum.len()]);
                for step in 0..EXPONENTS {
                    let factors = factors(&sum, step as f32 / EXPONENTS as f32);
                    let columns = link.by_input(&factors);
                    let mut error = 0.0;
                    for (values, dtype) in &readers {
                        error += error_under(values, *dtype, &squares, &columns, subject.threads)?;
                    }
                    if error < best.0 {
                        best = (error, factors);
                    }
                }
                rewrite.moves(&link, &best.1);
            }
        }
        Ok(rewrite)
    }
}

/// `a^r`, centred so that the largest and the smallest are as far from 1.
fn factors(squares: &[f32], exponent: f32) -> Vec<f32> {
    let raw: Vec<f32> = squares.iter().map(|x| x.powf(0.5 * exponent)).collect();
    let (low, high) = raw.iter().fold((f32::INFINITY, 0f32), |(l, h), s| (l.min(*s), h.max(*s)));
    let middle = (low * high).sqrt();
    raw.iter().map(|s| if middle.is_normal() { s / middle } else { 1.0 }).collect()
}

/// Σ_j E[x_j²] Σ_i (w_ij - ŵ_ij)² of a weight whose columns are multiplied by `columns` while it is stored.
fn error_under(
    values: &[f32],
    dtype: Dtype,
    squares: &[f32],
    columns: &[f32],
    threads: usize,
) -> Result<f64, QuantizeError> {
    if !dtype.is_block() || dtype.row_bytes(columns.len()).is_none() {
        return Ok(0.0);
    }
    let width = columns.len();
    let scaled: Vec<f32> = values.chunks(width).flat_map(|row| row.iter().zip(columns).map(|(w, s)| w * s)).collect();
    let bytes = rows::encode(&format(dtype), dtype, width, &scaled, threads)?;
    let mut back = vec![0.0; scaled.len()];
    format(dtype).decode(width, &bytes, &mut back)?;
    let mut sum = 0.0;
    for (row, back) in scaled.chunks(width).zip(back.chunks(width)) {
        for ((w, y), (square, s)) in row.iter().zip(back).zip(squares.iter().zip(columns)) {
            let error = f64::from(w - y) / f64::from(*s);
            sum += f64::from(*square) * error * error;
        }
    }
    Ok(sum)
}
