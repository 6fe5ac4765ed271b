//! Methods: how the codes and scales of a weight are chosen. One file a method.

mod clip;
mod gptq;
mod importance;
mod nearest;
mod row;

use std::fmt::Debug;

use memwall_formats::{Format, FormatError};
use memwall_kernels::Pool;

use crate::statistics::Collect;
use crate::{QuantizeError, nearest_name};

pub use clip::Clip;
pub use gptq::{Gptq, Scales};
pub use importance::Importance;
pub use nearest::Nearest;
pub use row::Row;

/// What is known of a weight's inputs.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The mean square of each input, `[width]`.
    pub mean_squares: &'a [f32],
    /// XᵀX [width, width], if it was collected.
    pub moments: Option<&'a [f64]>,
}

/// Encodes rows of one weight.
pub trait RowEncoder: Sync {
    /// Encodes whole rows of `cols` values, each as if it were alone.
    ///
    /// # Errors
    /// As the format's own encoder.
    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError>;
}

/// A way to choose codes and scales.
pub trait Method: Debug + Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it must know of inputs; `None`: nothing.
    fn collect(&self) -> Option<Collect>;

    /// The encoder of a weight that reads `inputs`.
    ///
    /// # Errors
    /// If nothing can be made of the inputs.
    fn encoder<'a>(
        &self,
        format: &'a dyn Format,
        inputs: Inputs<'a>,
        pool: &Pool,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError>;
}

/// Every method, the simplest first.
pub fn methods() -> [&'static dyn Method; 5] {
    [&Nearest, &Importance, &Clip, &Gptq { scales: Scales::Searched }, &Row]
}

/// The method of that name.
///
/// # Errors
/// With the name that is most like it, and all there are.
pub fn method(name: &str) -> Result<&'static dyn Method, String> {
    if let Some(found) = methods().into_iter().find(|m| m.name() == name.to_ascii_lowercase()) {
        return Ok(found);
    }
    Err(nearest_name(name, &methods().map(|m| m.name())))
}

impl<F: Format + ?Sized> RowEncoder for &F {
    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        Format::encode(*self, cols, values, bytes)
    }
}

/// Share of the mean that is added to every input's mean square: an input that the text left silent still counts.
const DAMPING: f64 = 0.01;

/// Mean squares with the damping; all 1 if every input was silent.
pub(crate) fn damped(mean_squares: &[f32]) -> Vec<f32> {
    let mean = mean_squares.iter().map(|&x| f64::from(x)).sum::<f64>() / mean_squares.len().max(1) as f64;
    if mean == 0.0 {
        return vec![1.0; mean_squares.len()];
    }
    // In units of the mean, so that sums of weighted squares stay within f32.
    mean_squares.iter().map(|&x| (f64::from(x) / mean + DAMPING) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_names_the_nearest_and_all() {
        let Err(why) = method("gtpq") else { panic!("there is no such method") };
        assert!(why.starts_with("did you mean gptq?") && why.contains("nearest, importance, clip, gptq, row"), "{why}");
        assert_eq!(method("GPTQ").map(|m| m.name()), Ok("gptq"));
    }

    #[test]
    fn silent_inputs_count_a_hundredth_of_the_mean() {
        let w = damped(&[0.0, 2.0, 4.0]);
        assert_eq!(w, [0.01, 1.01, 2.01]);
        assert_eq!(damped(&[0.0, 0.0]), [1.0, 1.0]);
    }
}
