//! Folders whose weights are quantized as the hub does it: read into a plain folder beside the output, and written (`--hub`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use memwall_formats::error::ErrorStatistics;
use memwall_formats::hub::{self, HubWeight, Scheme, TernaryScale};
use memwall_formats::safetensors::{RawPlan, Writer};
use memwall_formats::{Container, ContainerFormat, Dtype, format};
use memwall_infer::Model;
use memwall_nn::{EMBEDDING, GgufForm};
use memwall_store::format_size;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::hub_config::config_json;

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const HEAD: &str = "lm_head.weight";
const QUANTIZATION: &str = "quantization_config";
/// What BitNet's says of norms before layers.
const NORM: [&str; 2] = ["use_rms_norm", "rms_norm_eps"];
/// What lies beside a model and goes where it goes.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// A plain folder that was made of a quantized one; it goes with this.
pub(super) struct Unpacked {
    folder: TempDir,
    /// Each quantized weight and how it was stored.
    pub(super) quantized: Vec<(String, &'static str)>,
}

impl Unpacked {
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Makes a plain folder of a quantized one: a weight at a time, in F32. `None` where nothing is quantized.
pub(super) fn unpacked(model: &Path, output: &Path) -> anyhow::Result<Option<Unpacked>> {
    let is_gguf = model.extension().is_some_and(|e| e == "gguf" || e == "bin");
    if is_gguf || !model.exists() {
        return Ok(None);
    }
    let container = Container::open(model)?;
    if container.format() != ContainerFormat::Safetensors {
        return Ok(None);
    }
    let config_file = container.folder().join(CONFIG);
    let mut config: Map<String, Value> = match fs::read(&config_file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| config_file.display().to_string())?,
        // What is missing is named when the model is opened.
        Err(_) => return Ok(None),
    };
    let method = config.remove(QUANTIZATION).unwrap_or(Value::Null);
    let block = block_size(&method).with_context(|| format!("{}: {QUANTIZATION}", config_file.display()))?;
    let ternary = match method["linear_class"].as_str() {
        Some("autobitlinear") => TernaryScale::Multiplies,
        _ => TernaryScale::Divides,
    };
    let Some(weights) = hub::weights(&container, block, ternary)? else { return Ok(None) };
    let beside = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new()
        .prefix(".memwall-plain-")
        .tempdir_in(beside)
        .with_context(|| format!("{}: cannot keep the plain weights there", beside.display()))?;
    let plans: Vec<RawPlan> =
        weights.iter().map(|w| RawPlan { name: w.name.clone(), stored_as: "F32", shape: w.shape.clone() }).collect();
    let mut writer = Writer::create_raw(folder.path().join(WEIGHTS), &BTreeMap::new(), &plans)?;
    for weight in &weights {
        writer.write(bytemuck::cast_slice(&weight.decode(&container)?))?;
    }
    writer.finish()?;
    if method["quant_method"] == "bitnet" {
        // Weights are plain numbers now, their scales in them; layers still round what they read.
        config.insert(QUANTIZATION.into(), offline(&method));
    }
    let text = serde_json::to_string_pretty(&config)?;
    fs::write(folder.path().join(CONFIG), text).with_context(|| folder.path().display().to_string())?;
    copy_companions(container.folder(), folder.path())?;
    let quantized = weights.iter().filter(|w| !w.is_plain());
    let quantized = quantized.map(|w: &HubWeight| (w.name.clone(), w.stored_as())).collect();
    Ok(Some(Unpacked { folder, quantized }))
}

/// What an unpacked model of BitNet's says of itself.
fn offline(method: &Value) -> Value {
    let mut offline = method.clone();
    offline["linear_class"] = json!("autobitlinear");
    offline["quantization_mode"] = json!("offline");
    offline
}

/// `weight_block_size`, if there is one.
fn block_size(method: &Value) -> anyhow::Result<Option<[usize; 2]>> {
    let Some(given) = method.get("weight_block_size").filter(|v| !v.is_null()) else { return Ok(None) };
    let sizes: Vec<u64> = given.as_array().map_or(Vec::new(), |list| list.iter().filter_map(Value::as_u64).collect());
    match sizes[..] {
        [rows, columns] if rows > 0 && columns > 0 => Ok(Some([rows as usize, columns as usize])),
        _ => bail!("weight_block_size is {given}; two numbers above 0 are needed"),
    }
}

fn copy_companions(from: &Path, to: &Path) -> anyhow::Result<()> {
    for name in COMPANIONS.iter().filter(|name| from.join(name).is_file()) {
        fs::copy(from.join(name), to.join(name)).with_context(|| format!("{}: cannot copy {name}", to.display()))?;
    }
    Ok(())
}

/// Writes the model as a folder of Hugging Face's: matrices that layers multiply with by `scheme`, the rest in F32; a weight
/// at a time.
pub(super) fn write(model: &Model, scheme: Scheme, output: &Path, as_json: bool) -> anyhow::Result<()> {
    let (checkpoint, container) = (model.checkpoint(), model.container());
    let is_folder = container.format() == ContainerFormat::Safetensors;
    if checkpoint.config.quantization.is_some() && scheme != Scheme::BitNet {
        bail!("this model rounds what its layers read, which only --hub bitnet has a configuration for");
    }
    let (mut config, half_split) = match is_folder {
        true => (own_config(container)?, None),
        false => config_json(&checkpoint.config, scheme)?,
    };
    let form = half_split.as_ref().map(GgufForm::of);
    fs::create_dir_all(output).with_context(|| output.display().to_string())?;
    let (mut plans, mut parts, mut kept) = (Vec::new(), Vec::new(), vec!["lm_head".to_string()]);
    for (weight, shape) in checkpoint.weights() {
        let name = if is_folder { checkpoint.name_in_file(&weight) } else { weight.clone() };
        let matrix = matches!(shape[..], [_, _]) && weight != EMBEDDING && weight != HEAD;
        let quantized = match shape[..] {
            [rows, columns] if matrix && scheme.fits(rows, columns) => {
                plans.extend(scheme.plans(&name, rows, columns));
                Some((rows, columns))
            }
            _ => {
                if matrix {
                    kept.push(name.trim_end_matches(".weight").to_string());
                }
                plans.push(RawPlan { name: name.clone(), stored_as: "F32", shape });
                None
            }
        };
        parts.push((weight, name, quantized));
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut writer = Writer::create_raw(output.join(WEIGHTS), &metadata, &plans)?;
    for (weight, name, quantized) in &parts {
        let values = values(model, form.as_ref(), weight)?;
        match *quantized {
            Some((rows, columns)) => {
                let parts = scheme.encode(rows, columns, &values).with_context(|| format!("tensor {name}"))?;
                parts.iter().try_for_each(|bytes| writer.write(bytes))?;
            }
            None => writer.write(bytemuck::cast_slice(&values))?,
        }
    }
    writer.finish()?;
    let mut method = scheme.config(&kept);
    if let Some(before) = config.get(QUANTIZATION).filter(|_| scheme == Scheme::BitNet) {
        for key in NORM.iter().filter(|key| before.get(**key).is_some()) {
            method[*key] = before[*key].clone();
        }
    }
    config.insert(QUANTIZATION.into(), method);
    let text = serde_json::to_string_pretty(&config)? + "\n";
    fs::write(output.join(CONFIG), text).with_context(|| output.display().to_string())?;
    match is_folder {
        true => copy_companions(container.folder(), output)?,
        false => {
            eprintln!("memwall: warning: the folder has no tokenizer.json: the model's tokenizer is not of that form")
        }
    }
    let written = Container::open(output)?;
    let weights = hub::weights(&written, None, TernaryScale::Multiplies)?.unwrap_or_default();
    let mut rows = Vec::new();
    for (weight, name, _) in parts.iter().filter(|(.., quantized)| quantized.is_some()) {
        let stored = weights.iter().find(|w| w.name == *name).with_context(|| format!("tensor {name} is not there"))?;
        let error = ErrorStatistics::of(&values(model, form.as_ref(), weight)?, &stored.decode(&written)?);
        rows.push((name.as_str(), error));
    }
    print(output, scheme, &rows, &kept, &written, as_json);
    Ok(())
}

/// A weight in F32, its rows in Hugging Face's order.
fn values(model: &Model, form: Option<&GgufForm<'_>>, weight: &str) -> anyhow::Result<Vec<f32>> {
    let tensor = &model.checkpoint().tensors[weight];
    let width = tensor.shape.last().copied().unwrap_or(1);
    let mut values = vec![0.0; tensor.elements()];
    format(tensor.dtype).decode(width, model.container().bytes(tensor), &mut values)?;
    Ok(match form.filter(|form| form.regroups(weight)) {
        Some(form) => in_halves(form, weight, if tensor.shape.len() > 1 { width } else { 1 }, &values),
        None => values,
    })
}

fn print(
    output: &Path,
    scheme: Scheme,
    rows: &[(&str, ErrorStatistics)],
    kept: &[String],
    written: &Container,
    as_json: bool,
) {
    let bytes: u64 = written.files().iter().map(|f| f.len() as u64).sum();
    if as_json {
        let tensors: Vec<Value> =
            rows.iter().map(|(name, error)| json!({ "name": name, "sqnr_db": finite(error.sqnr_db()) })).collect();
        println!(
            "{}",
            json!({ "output": output, "hub": scheme.name(), "bytes": bytes, "tensors": tensors, "kept": kept })
        );
        return;
    }
    println!("{:60} {:>14} {:>9}", "tensor", "as", "SQNR dB");
    for (name, error) in rows {
        let db = finite(error.sqnr_db()).map_or("exact".to_string(), |db| format!("{db:.1}"));
        println!("{name:60} {:>14} {db:>9}", scheme.name());
    }
    println!("{}: {}", output.display(), format_size(bytes as usize));
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

/// The configuration that lies beside the weights.
fn own_config(container: &Container) -> anyhow::Result<Map<String, Value>> {
    let file: PathBuf = container.folder().join(CONFIG);
    let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| file.display().to_string())
}

/// Rows in the order in which Hugging Face has them, from GGUF's.
fn in_halves(form: &GgufForm<'_>, weight: &str, width: usize, values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (row, from) in values.chunks(width).enumerate() {
        out[form.source_row(weight, row) * width..][..width].copy_from_slice(from);
    }
    out
}

/// Refuses to quantize anew what was quantized; a format that holds the same values is none.
pub(super) fn refuse_requantizing(
    unpacked: &Unpacked,
    to: Option<Dtype>,
    quantizes: bool,
    wanted: bool,
) -> anyhow::Result<()> {
    if wanted || !(quantizes || to.is_some_and(|to| to.is_block())) {
        return Ok(());
    }
    let again = unpacked.quantized.iter().find(|(_, stored)| !(*stored == "MXFP4" && to == Some(Dtype::MXFP4)));
    match again {
        Some((name, stored)) => bail!(
            "tensor {name} is stored as {stored}, which has lost precision already; quantized anew it would lose more than \
             the original would: say --format F32, F16 or BF16, or --requantize"
        ),
        None => Ok(()),
    }
}
