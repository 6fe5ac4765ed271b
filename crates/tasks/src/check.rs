//! Checks of the settings of generators.

use crate::task::ConfigError;
use std::fmt::Display;

/// Names the setting in the errors of one task.
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    /// An error about `key` unless `holds`.
    pub(crate) fn that(
        &self,
        holds: bool,
        key: &'static str,
        value: impl Display,
        reason: impl FnOnce() -> String,
    ) -> Result<(), ConfigError> {
        if holds {
            return Ok(());
        }
        Err(ConfigError { task: self.0, key, value: value.to_string(), reason: reason() })
    }
}
