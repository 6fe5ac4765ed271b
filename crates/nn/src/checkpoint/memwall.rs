//! memwall's own models in GGUF, and its training checkpoints: any list of mixers, weights under memwall's names.
//!
//! `general.architecture` is `memwall`; the key `memwall.config` holds a [`ModelConfig`] as JSON.

use std::collections::BTreeMap;

use memwall_formats::Container;

use super::naming::OWN;
use super::{Checkpoint, CheckpointError};
use crate::config::ModelConfig;

/// The value of `general.architecture`.
pub const ARCHITECTURE: &str = "memwall";
/// The key that holds the configuration.
pub const CONFIG_KEY: &str = "memwall.config";
/// How the names of an optimizer's moments end, in a training's checkpoint: they are no weights.
const MOMENTS: [&str; 2] = [".exp_avg", ".exp_avg_sq"];

/// Whether the file says that it is one.
pub(super) fn is(container: &Container) -> bool {
    matches!(container.metadata().find::<&str>("general.architecture"), Ok(Some(ARCHITECTURE)))
}

pub(super) fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
    let m = container.metadata();
    let config: ModelConfig = serde_json::from_str(m.require::<&str>(CONFIG_KEY)?)
        .map_err(|error| m.wrong(CONFIG_KEY, format!("is no configuration of a model: {error}")))?;
    let weights = container.tensors().iter().filter(|t| !MOMENTS.iter().any(|end| t.name.ends_with(end)));
    let tensors = weights.map(|t| (t.name.clone(), t.clone())).collect();
    Ok(Checkpoint { config, tensors, unread: Vec::new(), assembled: BTreeMap::new(), naming: &OWN })
}
