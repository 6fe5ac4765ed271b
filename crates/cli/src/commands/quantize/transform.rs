//! `--transform`: the same function with weights that lose less, as a file beside the output while it is made.

use std::path::Path;

use anyhow::{Context, bail};
use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{ContainerFormat, Dtype, format};
use memwall_infer::Model;
use memwall_kernels::Pool;
use memwall_nn::{ARCHITECTURE, CONFIG_KEY, GgufForm, ModelConfig};
use memwall_quantize::{Rewrite, Subject, Transform, logits_difference};
use memwall_store::Budget;
use tempfile::TempDir;

use super::known::Text;
use super::sources::{Source, metadata, tensors};

/// Tokens on which the transformed model is compared with the original.
const COMPARED: usize = 64;
/// The most that logits may differ by, relative to the largest, before the transform is refused.
const TOLERANCE: f64 = 1e-3;

/// A transformed model; its file goes with it.
pub(super) struct Transformed {
    pub(super) model: Model,
    /// Each transform, and how far the model's logits were from the original's after it.
    pub(super) done: Vec<(&'static str, f64)>,
    _folder: TempDir,
}

/// Makes the transforms one after another, each on what the one before left.
pub(super) fn transformed(
    original: &Model,
    transforms: &[&'static dyn Transform],
    text: Option<&Text>,
    formats: &dyn Fn(&Model) -> anyhow::Result<Vec<Dtype>>,
    output: &Path,
    threads: usize,
    budget: &Budget,
) -> anyhow::Result<Option<Transformed>> {
    if transforms.is_empty() {
        return Ok(None);
    }
    if let Some(weight) = original.checkpoint().assembled.keys().next() {
        bail!(
            "--transform: weight {weight} is put together of several tensors of the file; such models are not transformed"
        );
    }
    let beside = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new()
        .prefix(".memwall-transform-")
        .tempdir_in(beside)
        .with_context(|| format!("{}: cannot keep the transformed model there", beside.display()))?;
    let vocabulary = original.checkpoint().config.vocab_size as u32;
    let tokens: Vec<u32> = match text {
        Some(text) => text.tokens.iter().copied().take(text.context.min(COMPARED)).collect(),
        None => {
            (0..original.checkpoint().config.max_context.min(COMPARED) as u32).map(|i| i * 7 % vocabulary).collect()
        }
    };
    let mut done = Vec::new();
    let mut last: Option<Model> = None;
    for (number, transform) in transforms.iter().enumerate() {
        let model = last.as_ref().unwrap_or(original);
        let form = form(model, &model.checkpoint().config);
        let sources = tensors(model, form.as_ref())?;
        let formats = formats(model)?;
        let format = |weight: &str| {
            let at = sources.iter().position(|s| s.weight.as_deref() == Some(weight));
            at.map_or(Dtype::F32, |at| formats[at])
        };
        let subject = Subject { model, text: text.map(Text::calibration), format: &format, threads, budget };
        let rewrite = transform.rewrite(&subject).with_context(|| format!("--transform {}", transform.name()))?;
        let file = folder.path().join(format!("{number}.gguf"));
        write(model, &rewrite, &sources, &file, threads)?;
        let model = Model::open(&file).with_context(|| format!("--transform {}", transform.name()))?;
        let off = logits_difference(original, &model, &tokens, threads, budget)?;
        if off.is_nan() || off > TOLERANCE {
            bail!(
                "--transform {}: logits differ by {off:.1e} of the largest, more than rounding can explain; this model is not \
                 transformed by it",
                transform.name()
            );
        }
        done.push((transform.name(), off));
        last = Some(model);
    }
    Ok(last.map(|model| Transformed { model, done, _folder: folder }))
}

/// How a model is written that has not GGUF's names yet.
pub(super) fn form<'a>(model: &Model, config: &'a ModelConfig) -> Option<GgufForm<'a>> {
    (model.container().format() == ContainerFormat::Safetensors).then(|| GgufForm::of(config))
}

/// Writes a rewritten model: what changes in F32, the rest as it is.
fn write(model: &Model, rewrite: &Rewrite, sources: &[Source<'_>], file: &Path, threads: usize) -> anyhow::Result<()> {
    let form = form(model, &rewrite.config);
    let mut metadata = metadata(model, form.as_ref())?;
    if rewrite.config != model.checkpoint().config {
        describe(&mut metadata, &rewrite.config)?;
    }
    let changes = |source: &Source<'_>| source.weight.as_deref().is_some_and(|weight| rewrite.changes(weight));
    let plan = |name: &str, source: &Source<'_>, changes: bool| TensorPlan {
        name: name.to_string(),
        dtype: if changes { Dtype::F32 } else { source.dtype },
        shape: source.shape.clone(),
    };
    let mut plans: Vec<TensorPlan> = sources.iter().map(|s| plan(&s.name, s, changes(s))).collect();
    let mut added = Vec::new();
    for (weight, from) in rewrite.added() {
        let name = match &form {
            Some(form) => form.name(weight),
            None => model.checkpoint().name_in_file(weight),
        };
        let source = sources.iter().find(|s| s.weight.as_deref() == Some(from));
        let source = source.with_context(|| format!("weight {from} is missing"))?;
        plans.push(plan(&name, source, true));
        added.push((weight, source));
    }
    let mut writer = Writer::create(file, &metadata, plans)?;
    let pool = Pool::new(threads);
    for source in sources {
        match &source.weight {
            Some(weight) if rewrite.changes(weight) => {
                writer.write(bytemuck::cast_slice(&rewritten(source, rewrite, weight, &pool)?))?;
            }
            _ => {
                let row_bytes = source.dtype.row_bytes(source.shape.last().copied().unwrap_or(1)).unwrap_or(1);
                writer.write(&source.rows(0, &source.stored, row_bytes))?;
            }
        }
    }
    for (weight, source) in added {
        writer.write(bytemuck::cast_slice(&rewritten(source, rewrite, weight, &pool)?))?;
    }
    Ok(writer.finish()?)
}

/// The values of `source` after the edits of `weight`.
fn rewritten(source: &Source<'_>, rewrite: &Rewrite, weight: &str, pool: &Pool) -> anyhow::Result<Vec<f32>> {
    let width = source.shape.last().copied().unwrap_or(1).max(1);
    let Some(row_bytes) = source.dtype.row_bytes(width) else {
        bail!("tensor {}: rows of {width} values are no whole blocks", source.name);
    };
    let stored = source.rows(0, &source.stored, row_bytes);
    let mut values = vec![0.0; stored.len() / row_bytes * width];
    format(source.dtype).decode(width, &stored, &mut values)?;
    rewrite.apply(weight, &source.shape, &mut values, pool);
    Ok(values)
}

/// Says what changed of the configuration, where the file says it.
fn describe(metadata: &mut Metadata, config: &ModelConfig) -> anyhow::Result<()> {
    // Other architectures tell a head of its own by its tensor.
    if metadata.find::<&str>("general.architecture")? == Some(ARCHITECTURE) {
        metadata.insert(CONFIG_KEY, serde_json::to_string(config)?);
    }
    Ok(())
}
