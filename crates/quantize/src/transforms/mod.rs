//! Transforms: a model of the same function whose weights lose less when they are quantized. One file a transform.
//!
//! A [`Transform`] looks at a model (and at what its layers read on a text) and says how to rewrite weights: factors that move from
//! one weight to another, rotations that cancel. Nothing changes in exact arithmetic, so a transform goes before any
//! [`Method`](crate::Method) and any format, and transforms go one after another.

mod activation_aware;
mod channel_scale;
mod links;
mod rewrite;
mod rotate_heads;
mod rotate_residual;
mod smooth;
mod stream;
mod verify;

use std::fmt::Debug;

use memwall_formats::Dtype;
use memwall_infer::Model;
use memwall_store::Budget;

use crate::calibrate::CalibrationText;
use crate::{QuantizeError, nearest_name};

pub use activation_aware::ActivationAware;
pub use channel_scale::ChannelScale;
pub use rewrite::{Edit, Rewrite};
pub use rotate_heads::RotateHeads;
pub use rotate_residual::RotateResidual;
pub use smooth::Smooth;
pub use verify::logits_difference;

/// What a transform looks at.
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Model,
    /// A text, for transforms that need one.
    pub text: Option<CalibrationText<'a>>,
    /// The format that a weight will have, by memwall's name.
    pub format: &'a dyn Fn(&str) -> Dtype,
    /// Threads.
    pub threads: usize,
    /// What memory is taken from.
    pub budget: &'a Budget,
}

/// A way to rewrite a model.
pub trait Transform: Debug + Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Whether it needs a text.
    fn reads_text(&self) -> bool;

    /// How the weights change.
    ///
    /// # Errors
    /// If the model has a layer that the transform does not commute with, the text is missing or too short, or the budget
    /// refuses.
    fn rewrite(&self, subject: &Subject<'_>) -> Result<Rewrite, QuantizeError>;
}

/// Every transform.
pub fn transforms() -> [&'static dyn Transform; 5] {
    [&RotateResidual { seed: 1 }, &RotateHeads { seed: 1 }, &Smooth { alpha: 0.5 }, &ActivationAware, &ChannelScale]
}

/// The transform of that name.
///
/// # Errors
/// With the name that is most like it, and all there are.
pub fn transform(name: &str) -> Result<&'static dyn Transform, String> {
    let names = transforms().map(|t| t.name());
    match transforms().into_iter().find(|t| t.name() == name.to_ascii_lowercase()) {
        Some(found) => Ok(found),
        None => Err(nearest_name(name, &names)),
    }
}

const ROUNDS: &str = "its linear layers round what they multiply";

impl Subject<'_> {
    /// Refuses models that round what their layers multiply: a rounding commutes with no factor and no rotation.
    fn does_not_round(&self, transform: &dyn Transform) -> Result<(), QuantizeError> {
        match self.model.checkpoint().config.quantization {
            None => Ok(()),
            Some(_) => Err(QuantizeError::Transform { transform: transform.name(), block: 0, why: ROUNDS.into() }),
        }
    }

    fn text(&self, transform: &dyn Transform) -> Result<CalibrationText<'_>, QuantizeError> {
        self.text.ok_or(QuantizeError::NoText { transform: transform.name() })
    }

    /// A weight's values in f32 [rows, columns].
    fn values(&self, weight: &str) -> Result<Vec<f32>, QuantizeError> {
        let tensor = &self.model.checkpoint().tensors[weight];
        let mut values = vec![0.0; tensor.elements()];
        let width = tensor.shape.last().copied().unwrap_or(1);
        memwall_formats::format(tensor.dtype).decode(width, self.model.container().bytes(tensor), &mut values)?;
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_transform_names_the_nearest_and_all() {
        let Err(why) = transform("smoth") else { panic!("there is no such transform") };
        assert!(why.starts_with("did you mean smooth?") && why.contains("rotate-residual"), "{why}");
        assert_eq!(transform("Rotate-Heads").map(|t| t.name()), Ok("rotate-heads"));
    }
}
