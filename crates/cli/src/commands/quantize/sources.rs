//! What a GGUF file is made of: the tensors and keys of a file that has them already, or those that a folder of Hugging
//! Face's becomes.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::bail;
use memwall_formats::gguf::Metadata;
use memwall_formats::{ContainerFormat, Dtype, TensorInfo, format};
use memwall_infer::Model;
use memwall_nn::{Change, Extent, GgufForm};
use memwall_tokenizer::Tokenizer;

/// A tensor to write, and where its values are.
pub(super) struct Source<'a> {
    /// Its name in the output.
    pub(super) name: String,
    /// memwall's name of the weight, if the model reads it.
    pub(super) weight: Option<String>,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    pub(super) stored: Cow<'a, [u8]>,
    /// The form and memwall's name of the weight, where rows of it change places.
    regrouped: Option<(&'a GgufForm<'a>, String)>,
}

/// The tensors of the output: those of a file that has GGUF's names already, or what `form` makes of a folder's.
pub(super) fn tensors<'a>(model: &'a Model, form: Option<&'a GgufForm<'a>>) -> anyhow::Result<Vec<Source<'a>>> {
    let container = model.container();
    let stored = |t: &TensorInfo| Cow::Borrowed(container.bytes(t));
    let Some(form) = form else {
        if let Some(tensor) = container.unsupported().first() {
            let (file, kind) = (container.path().display(), tensor.stored_as);
            bail!("{file}: tensor {} is stored as {kind}, which memwall cannot read", tensor.name);
        }
        let weights: HashMap<&str, &String> =
            model.checkpoint().tensors.iter().map(|(weight, t)| (t.name.as_str(), weight)).collect();
        let plain = container.tensors().iter().map(|t| Source {
            name: t.name.clone(),
            weight: weights.get(t.name.as_str()).map(|weight| weight.to_string()),
            shape: t.shape.clone(),
            dtype: t.dtype,
            stored: stored(t),
            regrouped: None,
        });
        return Ok(plain.collect());
    };
    let mut sources = Vec::new();
    if let Some((name, factors)) = form.frequency_factors() {
        sources.push(Source {
            name: name.into(),
            weight: None,
            shape: vec![factors.len()],
            dtype: Dtype::F32,
            stored: Cow::Owned(factors.iter().flat_map(|x| x.to_le_bytes()).collect()),
            regrouped: None,
        });
    }
    for (name, shape) in model.checkpoint().weights() {
        let Some(tensor) = model.checkpoint().tensors.get(&name) else { bail!("weight {name} is missing") };
        let (dtype, stored) = match model.checkpoint().assembled.contains_key(&name) {
            true => assembled(model, &name, tensor)?,
            false => (tensor.dtype, stored(tensor)),
        };
        let mut source = Source {
            name: form.name(&name),
            weight: Some(name.clone()),
            shape,
            dtype,
            stored,
            regrouped: form.regroups(&name).then_some((form, name)),
        };
        if source.shape.len() == 1 && source.regrouped.is_some() {
            // A bias has an element a row.
            let regrouped = source.rows(0, &source.stored, tensor.dtype.block_bytes()).into_owned();
            source = Source { stored: Cow::Owned(regrouped), regrouped: None, ..source };
        }
        sources.push(source);
    }
    Ok(sources)
}

/// A weight that does not lie in the file as layers read it: its rows put together, or its values changed and then in f32.
fn assembled<'a>(model: &Model, name: &str, tensor: &TensorInfo) -> anyhow::Result<(Dtype, Cow<'a, [u8]>)> {
    let (container, checkpoint) = (model.container(), model.checkpoint());
    let mut bytes = Vec::with_capacity(tensor.bytes as usize);
    for Extent { file, offset, bytes: count } in checkpoint.extents(name, 0, tensor.bytes) {
        bytes.extend_from_slice(container.bytes(&TensorInfo { file, offset, bytes: count, ..tensor.clone() }));
    }
    let change = checkpoint.change(name);
    if change == Change::None {
        return Ok((tensor.dtype, Cow::Owned(bytes)));
    }
    let mut values = vec![0.0_f32; tensor.elements()];
    format(tensor.dtype).decode(tensor.shape.last().copied().unwrap_or(1), &bytes, &mut values)?;
    change.apply(&mut values);
    Ok((Dtype::F32, Cow::Owned(values.iter().flat_map(|x| x.to_le_bytes()).collect())))
}

impl Source<'_> {
    /// The rows from `first` on that the output has where `stored` lies in the file.
    pub(super) fn rows<'b>(&'b self, first: usize, stored: &'b [u8], row_bytes: usize) -> Cow<'b, [u8]> {
        let Some((form, name)) = &self.regrouped else { return Cow::Borrowed(stored) };
        let mut rows = Vec::with_capacity(stored.len());
        for row in first..first + stored.len() / row_bytes {
            let from = form.source_row(name, row) * row_bytes;
            rows.extend_from_slice(&self.stored[from..from + row_bytes]);
        }
        Cow::Owned(rows)
    }
}

/// The file's keys, without those that are of its parts, or what `form` says of the model; the tokenizer's where they lay
/// beside it.
pub(super) fn metadata(model: &Model, form: Option<&GgufForm<'_>>) -> anyhow::Result<Metadata> {
    let container = model.container();
    let mut metadata = match form {
        Some(_) => Metadata::new(container.path()),
        None => container.metadata().clone(),
    };
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    if let Some(form) = form {
        form.put_keys(&mut metadata);
    }
    if container.format() != ContainerFormat::Gguf {
        match Tokenizer::from_container(container) {
            Ok(tokenizer) => {
                tokenizer.put_gguf_keys(&mut metadata)?;
                Tokenizer::pad_gguf_vocabulary(&mut metadata, model.checkpoint().config.vocab_size)?;
            }
            Err(error) => eprintln!("memwall: warning: the output has no tokenizer: {error}"),
        }
    }
    Ok(metadata)
}
