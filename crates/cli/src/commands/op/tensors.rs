//! Named tensors from and to a safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use memwall_formats::{Dtype, atomic_file, format};
use safetensors::{Dtype as Stored, SafeTensors, tensor::TensorView};

/// The elements of a tensor, by what they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Real numbers, from F32, F16 or BF16.
    F32(Vec<f32>),
    /// Real numbers, from F64.
    F64(Vec<f64>),
    /// Integers, from I32, I64 or BOOL.
    I32(Vec<i32>),
    /// Encoded numbers, or a mask, from U8.
    U8(Vec<u8>),
}

/// A tensor: its shape, and its elements in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// What is in it.
    pub elements: Elements,
}

impl Tensor {
    /// The type's name, as safetensors spells it.
    pub fn type_name(&self) -> &'static str {
        match self.elements {
            Elements::F32(_) => "F32",
            Elements::F64(_) => "F64",
            Elements::I32(_) => "I32",
            Elements::U8(_) => "U8",
        }
    }

    /// Real numbers as f64, or `None` for integers and bytes.
    pub fn reals(&self) -> Option<Vec<f64>> {
        match &self.elements {
            Elements::F32(x) => Some(x.iter().map(|&x| f64::from(x)).collect()),
            Elements::F64(x) => Some(x.clone()),
            _ => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.elements {
            Elements::F32(x) => bytemuck::cast_slice(x),
            Elements::F64(x) => bytemuck::cast_slice(x),
            Elements::I32(x) => bytemuck::cast_slice(x),
            Elements::U8(x) => x,
        }
    }

    fn stored(&self) -> Stored {
        match self.elements {
            Elements::F32(_) => Stored::F32,
            Elements::F64(_) => Stored::F64,
            Elements::I32(_) => Stored::I32,
            Elements::U8(_) => Stored::U8,
        }
    }
}

/// Tensors with their names, in the order in which they are written.
pub type NamedTensors = Vec<(String, Tensor)>;

/// The tensors of a file, by name.
#[derive(Debug, Default)]
pub struct Tensors {
    /// Where they are from, for messages.
    pub file: PathBuf,
    /// The tensors.
    pub by_name: BTreeMap<String, Tensor>,
}

impl Tensors {
    /// Reads every tensor of a file.
    ///
    /// # Errors
    /// Names the file, and the tensor whose type operators do not take.
    pub fn read(file: &Path) -> anyhow::Result<Tensors> {
        let shown = file.display();
        let bytes = std::fs::read(file).with_context(|| shown.to_string())?;
        let parsed = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{shown}: is no safetensors file, or is damaged"))?;
        let mut by_name = BTreeMap::new();
        for (name, view) in parsed.tensors() {
            let elements = elements(&view).with_context(|| format!("{shown}: tensor {name}"))?;
            by_name.insert(name, Tensor { shape: view.shape().to_vec(), elements });
        }
        Ok(Tensors { file: file.into(), by_name })
    }
}

fn elements(view: &TensorView<'_>) -> anyhow::Result<Elements> {
    let bytes = view.data();
    let decoded = |dtype: Dtype| -> anyhow::Result<Elements> {
        let n = bytes.len() / dtype.block_bytes();
        let mut values = vec![0.0; n];
        format(dtype).decode(n.max(1), bytes, &mut values)?;
        Ok(Elements::F32(values))
    };
    let words = bytes.chunks_exact(8).map(|b| -> [u8; 8] { b.try_into().unwrap_or_default() });
    Ok(match view.dtype() {
        Stored::F32 => decoded(Dtype::F32)?,
        Stored::F16 => decoded(Dtype::F16)?,
        Stored::BF16 => decoded(Dtype::BF16)?,
        Stored::F64 => Elements::F64(words.map(f64::from_le_bytes).collect()),
        Stored::I32 => Elements::I32(bytemuck::pod_collect_to_vec(bytes)),
        Stored::I64 => {
            let narrow = |x: i64| i32::try_from(x).with_context(|| format!("{x} is beyond 32 bits"));
            Elements::I32(words.map(i64::from_le_bytes).map(narrow).collect::<anyhow::Result<_>>()?)
        }
        Stored::BOOL => Elements::I32(bytes.iter().map(|&b| i32::from(b != 0)).collect()),
        Stored::U8 => Elements::U8(bytes.to_vec()),
        other => bail!("is {other:?}; operators take F64, F32, F16, BF16, I32, I64, BOOL and U8"),
    })
}

/// Writes tensors; the file appears whole or not at all.
///
/// # Errors
/// Names the file.
pub fn write(file: &Path, tensors: &[(String, Tensor)]) -> anyhow::Result<()> {
    let views = tensors
        .iter()
        .map(|(name, t)| Ok((name.as_str(), TensorView::new(t.stored(), t.shape.clone(), t.bytes())?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let none: Option<HashMap<String, String>> = None;
    let bytes = safetensors::serialize(views, none).with_context(|| file.display().to_string())?;
    Ok(atomic_file::write(file, &bytes)?)
}
