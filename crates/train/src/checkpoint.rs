//! Checkpoints: weights, moments and position in one safetensors file that appears whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use memwall_formats::gguf::TensorPlan;
use memwall_formats::{Container, Dtype, FileError, safetensors};
use memwall_nn::{ARCHITECTURE, CONFIG_KEY};

use crate::read::read;
use crate::trainer::Trainer;
use crate::update::{first_moment, second_moment};

const STEPS: &str = "memwall.steps";
const RECIPE: &str = "memwall.recipe";
const TEXT: &str = "memwall.text";

/// What a checkpoint belongs to, compared when training resumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The recipe, as TOML.
    pub recipe: String,
    /// What tells the tokens of the text from those of another.
    pub text: String,
}

/// Why a checkpoint does not continue this training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file belongs to another training.
    #[error("{file}: {problem}")]
    Other {
        /// The checkpoint.
        file: String,
        /// What differs.
        problem: String,
    },
}

/// Writes the trainer's weights, moments and number of steps, which is the position in the data.
///
/// It is a model file as well: `memwall.config` holds the configuration.
///
/// # Errors
/// If the file cannot be written; what stood there before stays.
pub fn save(path: &Path, trainer: &Trainer, origin: &Origin) -> Result<(), CheckpointError> {
    let names = names(trainer);
    let mut plans = Vec::new();
    for name in &names {
        let shape = shape(trainer, name);
        plans.push(TensorPlan { name: name.clone(), dtype: Dtype::F32, shape });
    }
    let config = serde_json::json!(trainer.config()).to_string();
    let metadata = [
        ("general.architecture", ARCHITECTURE.to_string()),
        (CONFIG_KEY, config),
        (STEPS, trainer.steps().to_string()),
        (RECIPE, origin.recipe.clone()),
        (TEXT, origin.text.clone()),
    ];
    let metadata: BTreeMap<String, String> = metadata.map(|(key, value)| (key.to_string(), value)).into();
    let mut writer = safetensors::Writer::create(path, &metadata, &plans)?;
    for name in &names {
        writer.write(trainer.memory().get::<u8>(name).unwrap_or(&[]))?;
    }
    Ok(writer.finish()?)
}

/// Loads what [`save`] wrote into a trainer of the same model, recipe and text.
///
/// # Errors
/// If the file is damaged or belongs to another recipe or text; the trainer may then hold some of its tensors.
pub fn load(path: &Path, trainer: &mut Trainer, origin: &Origin) -> Result<(), CheckpointError> {
    let container = Container::open(path)?;
    let other = |problem: String| CheckpointError::Other { file: path.display().to_string(), problem };
    let metadata = container.metadata();
    let saved: &str = metadata.require(RECIPE)?;
    if saved != origin.recipe {
        return Err(other("was made by another recipe; use another folder, or the recipe that made it".into()));
    }
    let saved: &str = metadata.require(TEXT)?;
    if saved != origin.text {
        let now = &origin.text;
        return Err(other(format!("was made of other text or by another tokenizer: {saved} then, {now} now")));
    }
    let steps: &str = metadata.require(STEPS)?;
    let steps = steps.parse().map_err(|_| other(format!("{STEPS} is {steps:?}, a number is needed")))?;
    for name in names(trainer) {
        let tensor = container.tensor(&name)?;
        let to = trainer.memory_mut().get_mut::<u8>(&name).ok_or_else(|| other(format!("{name} is not in memory")))?;
        if to.len() as u64 != tensor.bytes || tensor.dtype != Dtype::F32 {
            return Err(other(format!(
                "tensor {name} has {} bytes of {}, {} of F32 are needed",
                tensor.bytes,
                tensor.dtype,
                to.len()
            )));
        }
        read(&container, tensor, to)?;
    }
    trainer.set_steps(steps);
    Ok(())
}

/// What a checkpoint says of its training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Steps done.
    pub steps: u64,
    /// The recipe, as [`save`] was given it.
    pub recipe: String,
}

/// What a container says of the training that it continues, if it is a checkpoint.
pub fn about(container: &Container) -> Option<About> {
    let text = |key| container.metadata().find::<&str>(key).ok().flatten();
    Some(About { steps: text(STEPS)?.parse().ok()?, recipe: text(RECIPE)?.into() })
}

fn names(trainer: &Trainer) -> Vec<String> {
    trainer.parameters().flat_map(|w| [w.to_string(), first_moment(w), second_moment(w)]).collect()
}

fn shape(trainer: &Trainer, name: &str) -> Vec<usize> {
    let weight = name.trim_end_matches(".exp_avg_sq").trim_end_matches(".exp_avg");
    let g = trainer.graph();
    g.find(weight).map(|v| g.shape(v).dims().iter().filter_map(|d| d.known()).collect()).unwrap_or_default()
}
