//! A trained model as a GGUF file, its tokenizer inside.
//!
//! Keys, names and the order of rows are those of [`GgufForm`], as `memwall quantize` writes them: an architecture that
//! other engines read where the model is of one, else memwall's own.

use std::borrow::Cow;
use std::path::Path;

use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Dtype, FileError, FormatError, Quantizer, format};
use memwall_graph::Memory;
use memwall_nn::GgufForm;
use memwall_tokenizer::TokenizerError;

pub use crate::stored::Stored;

/// Why a model cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tokenizer has no GGUF form.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A weight does not fit the format.
    #[error("tensor {tensor}: {error}")]
    Format {
        /// The tensor.
        tensor: String,
        /// Why, and what would fit.
        error: FormatError,
    },
    /// A weight was trained rounded to what the format does not hold.
    #[error(
        "tensor {tensor} was trained as {quantizer}; {dtype} would change its values by up to {change:e} of the largest: \
         export it as {fits}"
    )]
    Changes {
        /// The tensor.
        tensor: String,
        /// What it was rounded to in training.
        quantizer: Quantizer,
        /// The format asked for.
        dtype: Dtype,
        /// The largest change, over the largest magnitude.
        change: f32,
        /// What holds the values.
        fits: Dtype,
    },
    /// A weight is not in memory.
    #[error("weight {name} is not in memory as f32")]
    Missing {
        /// The weight.
        name: String,
    },
}

/// Writes `weights` (names and shapes) of a model in the formats that `stored` says; vectors, and matrices whose rows are no
/// whole number of blocks, in f32. Weights that are rounded in training are written as they were rounded. `put_tokenizer` adds
/// the tokenizer's keys.
///
/// # Errors
/// If a value does not fit the format, or the file cannot be written.
pub fn gguf(
    path: &Path,
    name: &str,
    stored: &Stored,
    weights: &[(String, Vec<usize>)],
    memory: &Memory,
    put_tokenizer: impl FnOnce(&mut Metadata) -> Result<(), TokenizerError>,
) -> Result<(), ExportError> {
    let form = GgufForm::of(&stored.config);
    let mut m = Metadata::new(path);
    m.insert("general.name", name);
    form.put_keys(&mut m);
    put_tokenizer(&mut m)?;
    let mut plans: Vec<TensorPlan> = weights
        .iter()
        .map(|(name, shape)| TensorPlan {
            name: form.name(name),
            dtype: stored.dtype(name, shape),
            shape: shape.clone(),
        })
        .collect();
    let factors = form.frequency_factors();
    plans.extend(factors.iter().map(|(name, factors)| TensorPlan {
        name: name.to_string(),
        dtype: Dtype::F32,
        shape: vec![factors.len()],
    }));
    let mut writer = Writer::create(path, &m, plans)?;
    for (name, shape) in weights {
        let values = memory.get::<f32>(name).ok_or_else(|| ExportError::Missing { name: name.clone() })?;
        let dtype = stored.dtype(name, shape);
        let width = shape.last().copied().unwrap_or(1);
        // In the order of the graph, where a tensor's scale is one of all rows.
        let values: Cow<'_, [f32]> = stored.rounded(name, dtype, width, values)?;
        let values = &*values;
        let bytes = values.len() / dtype.block_len() * dtype.block_bytes();
        let regrouped =
            form.regroups(name).then(|| in_order(&form, name, if shape.len() > 1 { width } else { 1 }, values));
        let values = regrouped.as_deref().unwrap_or(values);
        let mut encoded = vec![0; bytes];
        format(dtype)
            .encode(width, values, &mut encoded)
            .map_err(|error| ExportError::Format { tensor: name.clone(), error })?;
        stored.check(name, dtype, width, values, &encoded)?;
        writer.write(&encoded)?;
    }
    if let Some((_, factors)) = &factors {
        // Floats are little endian on every machine that memwall builds for.
        writer.write(bytemuck::cast_slice(factors))?;
    }
    Ok(writer.finish()?)
}

/// The elements of a weight in the order of the file: rows of width `width` change places where the form asks for it.
fn in_order(form: &GgufForm, name: &str, width: usize, values: &[f32]) -> Vec<f32> {
    let rows = 0..values.len() / width.max(1);
    rows.flat_map(|row| &values[form.source_row(name, row) * width..][..width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use memwall_formats::Container;
    use memwall_nn::ModelConfig;

    #[test]
    fn rows_of_rotated_pairs_lie_as_the_architecture_has_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let values: Vec<f32> = (0..8 * 4).map(|i| i as f32).collect();
        for (interleaved, rows) in [(true, [0, 1, 2, 3, 4, 5, 6, 7]), (false, [0, 2, 1, 3, 4, 6, 5, 7])] {
            let config: ModelConfig = toml::from_str(&format!(
                "vocab_size = 9\nd_model = 4\nmax_context = 16\n[[layers]]\nmixer = {{ kind = \"attention\", heads = 2, \
                 kv_heads = 2, head_dim = 4, rope = {{ interleaved = {interleaved} }} }}\n\
                 channel = {{ kind = \"glu\", hidden = 8 }}\n"
            ))
            .expect("a model");
            let mut memory = Memory::new();
            let name = "model.layers.0.self_attn.q_proj.weight";
            memory.set(name, Dtype::F32, &values).expect("memory");
            let path = folder.path().join("model.gguf");
            let weights = [(name.to_string(), vec![8, 4])];
            let stored = Stored::plain(&config, Dtype::F32);
            gguf(&path, "x", &stored, &weights, &memory, |_| Ok(())).expect("written");
            let file = Container::open(&path).expect("a file");
            assert_eq!(file.metadata().find::<&str>("general.architecture").expect("a key"), Some("llama"));
            let tensor = &file.tensors()[0];
            assert_eq!(tensor.name, "blk.0.attn_q.weight");
            let want: Vec<f32> = rows.iter().flat_map(|&r| values[r * 4..][..4].to_vec()).collect();
            assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(file.bytes(tensor)), want, "interleaved: {interleaved}");
        }
    }
}
