//! Whether a file holds the weights that its configuration asks for, before any of them is touched.

use memwall_formats::{Dtype, UnsupportedTensor};
use memwall_graph::{Graph, GraphError, Source, ValueInfo};

use super::{Checkpoint, CheckpointError};
use crate::config::ModelConfig;
use crate::sequences::Sequences;
use crate::weights::WeightTypes;

/// Names and shapes of the weights that a model asks for, in the order in which they serve.
///
/// # Errors
/// If the layers do not fit each other.
pub(super) fn wanted(config: &ModelConfig) -> Result<Vec<(String, Vec<usize>)>, GraphError> {
    let mut g = Graph::new(Dtype::F32);
    let types = WeightTypes::new();
    let seqs = Sequences::whole(&mut g, 1, 1)?;
    let hidden = config.hidden(&mut g, &types, &seqs)?;
    config.logits(&mut g, &types, hidden, None)?;
    let weights = g.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    let shape = |info: &ValueInfo| info.ty.shape.dims().iter().filter_map(|d| d.known()).collect();
    Ok(weights.map(|(_, info)| (info.name.to_string(), shape(info))).collect())
}

/// Compares what the configuration asks for with what the file has.
///
/// # Errors
/// Names the first weight that is missing, of another shape, or of a type that layers do not compute with.
pub(super) fn check(
    checkpoint: &Checkpoint,
    file: &str,
    unsupported: &[UnsupportedTensor],
) -> Result<(), CheckpointError> {
    let file = file.to_string();
    let wanted = wanted(&checkpoint.config)
        .map_err(|error| CheckpointError::Graph { file: file.clone(), error: Box::new(error) })?;
    for (weight, shape) in wanted {
        let name = checkpoint.name_in_file(&weight);
        let Some(tensor) = checkpoint.tensors.get(&weight) else {
            return Err(match unsupported.iter().find(|t| t.name == name) {
                Some(there) => CheckpointError::Type { file, name, found: there.stored_as },
                None => CheckpointError::Missing { file, name, shape },
            });
        };
        if matches!(tensor.dtype, Dtype::F64 | Dtype::I32) {
            return Err(CheckpointError::Type { file, name, found: tensor.dtype.name() });
        }
        if tensor.shape != shape {
            return Err(CheckpointError::Shape { file, name, found: tensor.shape.clone(), shape });
        }
    }
    Ok(())
}
