//! What a container holds: a model, a training checkpoint, or tensors.

use std::io::Write;
use std::path::Path;

use memwall_formats::Container;
use memwall_formats::gguf::Value as Metadatum;
use memwall_infer::Model;
use memwall_store::format_size;
use memwall_train::checkpoint;
use serde_json::{Value, json};

/// Elements of a list that are shown.
const SHOWN: usize = 6;

/// Shows a container.
///
/// # Errors
/// If it cannot be read.
pub fn show(file: &Path, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let container = Container::open(file)?;
    let training = checkpoint::about(&container);
    // A container need not be a model: a file of tensors is shown all the same.
    let model = Model::open(file);
    let metadata: Vec<(String, Value)> = container
        .metadata()
        .iter()
        .filter(|(key, _)| training.is_none() || !key.starts_with("memwall."))
        .map(|(key, value)| (key.to_string(), shown(value)))
        .collect();
    let tensors: Vec<Value> = container
        .tensors()
        .iter()
        .map(|t| json!({ "name": t.name, "dtype": t.dtype.name(), "shape": t.shape, "bytes": t.bytes }))
        .chain(container.unsupported().iter().map(
            |t| json!({ "name": t.name, "dtype": t.stored_as, "shape": t.shape, "bytes": t.bytes, "unsupported": true }),
        ))
        .collect();
    let bytes: u64 = container.tensors().iter().map(|t| t.bytes).sum();
    let parameters: usize = container.tensors().iter().map(|t| t.elements()).sum();
    let format = format!("{:?}", container.format()).to_lowercase();
    if as_json {
        let line = json!({
            "file": file,
            "kind": if training.is_some() { "checkpoint" } else { "model" },
            "container": format,
            "training": training.as_ref().map(|t| json!({ "steps": t.steps, "recipe": t.recipe })),
            "metadata": metadata.into_iter().collect::<serde_json::Map<_, _>>(),
            "config": model.as_ref().ok().map(|m| serde_json::to_value(&m.checkpoint().config)).transpose()?,
            "not_a_model": model.as_ref().err().map(ToString::to_string),
            "parameters": parameters,
            "weight_bytes": bytes,
            "tensors": tensors,
        });
        return Ok(writeln!(out, "{line}")?);
    }
    writeln!(out, "{}: {format}, {parameters} parameters, {}", file.display(), format_size(bytes as usize))?;
    match (&training, &model) {
        (Some(training), _) => {
            writeln!(out, "\na training, stopped after {} steps; its recipe\n{}", training.steps, training.recipe)?;
        }
        (None, Ok(model)) => {
            writeln!(out, "\nconfiguration\n{}", serde_json::to_string_pretty(&model.checkpoint().config)?)?;
        }
        (None, Err(error)) => writeln!(out, "\nnot a model that runs: {error}")?,
    }
    writeln!(out, "\nmetadata")?;
    for (key, value) in &metadata {
        writeln!(out, "  {key} = {value}")?;
    }
    writeln!(out, "\ntensors")?;
    for t in &tensors {
        let size = format_size(t["bytes"].as_u64().unwrap_or_default() as usize);
        let text = |key: &str| t[key].as_str().unwrap_or_default();
        writeln!(out, "  {:44} {:>7} {:>10}  {}", text("name"), text("dtype"), size, t["shape"])?;
    }
    Ok(())
}

/// A value of the header; long ones are cut.
fn shown(value: &Metadatum) -> Value {
    match value {
        Metadatum::String(text) => json!(text),
        Metadatum::Array(array) => {
            let whole = format!("{array:?}");
            let cut: String = whole.split(", ").take(SHOWN).collect::<Vec<_>>().join(", ");
            json!(format!("{cut}{} [{} elements]", if cut.len() < whole.len() { ", …" } else { "" }, array.len()))
        }
        Metadatum::U8(x) => json!(x),
        Metadatum::I8(x) => json!(x),
        Metadatum::U16(x) => json!(x),
        Metadatum::I16(x) => json!(x),
        Metadatum::U32(x) => json!(x),
        Metadatum::I32(x) => json!(x),
        Metadatum::U64(x) => json!(x),
        Metadatum::I64(x) => json!(x),
        Metadatum::F32(x) => json!(x),
        Metadatum::F64(x) => json!(x),
        Metadatum::Bool(x) => json!(x),
    }
}
