//! The eight formats of the study, with the scales that it gives them, and what a tensor loses in one.

use memwall_formats::element::{E2M1, E2M3, E4M3_FN};
use memwall_formats::error::ErrorStatistics;
use memwall_formats::scaled::{self, PowerRule, Scale, Scaled};
use memwall_formats::{Format, FormatError};

use crate::Error;

/// A format of the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    MxInt(u32),
    MxFp8,
    MxFp6,
    MxFp4,
    NvInt4,
    NvFp4,
}

/// Values of a block of the MX formats.
pub(super) const MX_BLOCK: usize = 32;

/// Powers of two that never clip: floats and integers alike, as the study has them.
const CEIL: Scale = Scale::Power(PowerRule::Ceil);

impl Kind {
    /// The format of a tensor whose largest magnitude is `amax`.
    ///
    /// # Errors
    /// Bits or a magnitude that no format has.
    pub(super) fn format(self, amax: f32) -> Result<Box<dyn Format>, Error> {
        Ok(match self {
            Kind::MxInt(bits) => {
                // Refuses the bits that no integer has.
                let element = scaled::mxint(bits).map_err(Error::experiment)?.element();
                boxed(Scaled::new(format!("MXINT{bits}"), element, MX_BLOCK, CEIL))?
            }
            Kind::MxFp8 => boxed(Scaled::new("MXFP8", E4M3_FN, MX_BLOCK, CEIL))?,
            Kind::MxFp6 => boxed(Scaled::new("MXFP6", E2M3, MX_BLOCK, CEIL))?,
            Kind::MxFp4 => boxed(Scaled::new("MXFP4", E2M1, MX_BLOCK, CEIL))?,
            Kind::NvInt4 => boxed(scaled::nvint4(amax))?,
            Kind::NvFp4 => boxed(scaled::nvfp4(amax))?,
        })
    }

    /// What rows of `cols` values lose.
    ///
    /// # Errors
    /// If the format cannot hold them.
    pub(super) fn loss(self, cols: usize, x: &[f32]) -> Result<ErrorStatistics, Error> {
        let format = self.format(largest_magnitude(x))?;
        Ok(ErrorStatistics::of(x, &back(&*format, cols, x).map_err(Error::experiment)?))
    }

    /// Signal to noise in dB of rows of `cols` values.
    ///
    /// # Errors
    /// If the format cannot hold them.
    pub(super) fn qsnr(self, cols: usize, x: &[f32]) -> Result<f64, Error> {
        Ok(self.loss(cols, x)?.sqnr_db())
    }
}

fn boxed<E: memwall_formats::element::Element + 'static>(
    made: Result<Scaled<E>, scaled::NoSuchFormat>,
) -> Result<Box<dyn Format>, Error> {
    Ok(Box::new(made.map_err(Error::experiment)?))
}

pub(super) fn largest_magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// Rows as they come back from a format.
///
/// # Errors
/// If the format cannot hold them.
pub(super) fn back(format: &dyn Format, cols: usize, x: &[f32]) -> Result<Vec<f32>, FormatError> {
    let layout = format.layout();
    let Some(row_bytes) = layout.row_bytes(cols) else {
        return Err(FormatError::RaggedRow { format: layout, cols });
    };
    let mut bytes = vec![0; x.len() / cols * row_bytes];
    format.encode(cols, x, &mut bytes)?;
    let mut y = vec![0.0; x.len()];
    format.decode(cols, &bytes, &mut y)?;
    Ok(y)
}
