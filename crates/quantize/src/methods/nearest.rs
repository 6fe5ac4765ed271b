//! `nearest`: the format's own encoder, which knows nothing of inputs.

use memwall_formats::Format;
use memwall_kernels::Pool;

use super::{Inputs, Method, RowEncoder};
use crate::QuantizeError;
use crate::statistics::Collect;

/// The format's own encoder.
#[derive(Clone, Copy, Debug)]
pub struct Nearest;

impl Method for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn collect(&self) -> Option<Collect> {
        None
    }

    fn encoder<'a>(
        &self,
        format: &'a dyn Format,
        _: Inputs<'a>,
        _: &Pool,
    ) -> Result<Box<dyn RowEncoder + 'a>, QuantizeError> {
        Ok(Box::new(format))
    }
}
