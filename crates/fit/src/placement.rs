//! Which weight of the graph is which tensor of the file, and what holding it takes.

use std::sync::Arc;

use memwall_formats::{Dtype, TensorInfo};
use memwall_graph::{Graph, Source};
use memwall_nn::{Assembly, CheckpointError};
use memwall_store::{Embedded, Extent, Extents, Mapped, Ram};

use crate::{FitError, Header, WeightTier};

/// Values that are rewritten at once.
const PIECE: usize = 1 << 18;

/// A weight that a graph names.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Its name in the graph.
    pub name: Arc<str>,
    /// The tensor in the file.
    pub stored: &'a TensorInfo,
    /// The format that the graph wants.
    pub dtype: Dtype,
    /// Bytes in that format.
    pub bytes: usize,
    /// How it is made, if it is not that tensor as it lies in the file.
    pub assembly: Option<&'a Assembly>,
}

impl Placed<'_> {
    /// Whether it cannot be had as it lies in the file: its format is another, it does not lie there in one piece, or it must
    /// be moved to be read as numbers, because a safetensors file need not align them.
    pub fn is_rewritten(&self) -> bool {
        let stored = self.stored.dtype;
        let aligned = stored.is_block() || self.stored.offset.is_multiple_of(stored.block_bytes() as u64);
        self.dtype != stored || !aligned || self.assembly.is_some()
    }
}

/// The weights that `graph` names, each with its tensor.
///
/// # Errors
/// If one is missing or has another shape.
pub fn placements<'a>(header: Header<'a>, graph: &Graph) -> Result<Vec<Placed<'a>>, FitError> {
    let weights = graph.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    weights
        .map(|(_, info)| {
            let shape: Vec<usize> = info.ty.shape.dims().iter().filter_map(|d| d.known()).collect();
            let file = || header.container.path().display().to_string();
            let Some(stored) = header.checkpoint.tensors.get(&*info.name) else {
                return Err(CheckpointError::Missing { file: file(), name: info.name.to_string(), shape }.into());
            };
            if stored.shape != shape {
                let (name, found) = (stored.name.clone(), stored.shape.clone());
                return Err(CheckpointError::Shape { file: file(), name, found, shape }.into());
            }
            Ok(Placed {
                name: Arc::clone(&info.name),
                stored,
                dtype: info.ty.dtype,
                bytes: info.ty.bytes(&[]),
                assembly: header.checkpoint.assembled.get(&*info.name),
            })
        })
        .collect()
}

/// The extents of the weights that keep their format, in the order of `placed`.
pub fn kept_extents(header: Header<'_>, placed: &[Placed<'_>]) -> Extents {
    let kept = placed.iter().filter(|p| !p.is_rewritten());
    // A weight may be a part of a tensor.
    let extent = |p: &Placed<'_>| Extent {
        name: p.stored.name.clone(),
        file: p.stored.file,
        offset: p.stored.offset,
        // More than an address can count ends beyond any file, which opening a tier refuses.
        bytes: usize::try_from(p.stored.bytes).unwrap_or(usize::MAX),
        checksum: None,
    };
    let files = header.container.files().iter().map(|file| file.path().to_path_buf()).collect();
    Extents { files, tensors: kept.map(extent).collect() }
}

/// Rows of a tensor that are rewritten at once.
pub fn rows_at_once(tensor: &TensorInfo) -> usize {
    let width = tensor.shape.last().copied().unwrap_or(1).max(1);
    (PIECE / width).max(1).min((tensor.elements() / width).max(1))
}

/// Bytes that weights take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WeightBytes {
    /// For as long as the model is there.
    pub held: usize,
    /// While it is loaded: rows as stored, and their values.
    pub staging: usize,
}

pub(crate) fn weight_bytes(header: Header<'_>, placed: &[Placed<'_>], tier: WeightTier) -> WeightBytes {
    let kept = || placed.iter().filter(|p| !p.is_rewritten());
    let rewritten = || placed.iter().filter(|p| p.is_rewritten());
    let files = header.container.files();
    let embedded = files.iter().any(|f| f.embedded().is_some());
    let kept_bytes = match tier {
        WeightTier::Ram => Ram::held_bytes(kept().map(|p| p.bytes)),
        WeightTier::Mapped if embedded => {
            let slices: Vec<&'static [u8]> = kept().filter_map(|p| embedded_bytes(header, p.stored)).collect();
            Embedded::held_bytes(&slices)
        }
        WeightTier::Mapped => {
            let lens: Vec<u64> = files.iter().map(|f| f.len() as u64).collect();
            Mapped::held_bytes(&kept_extents(header, placed), &lens)
        }
    };
    let staging = rewritten().map(|p| {
        let width = p.stored.shape.last().copied().unwrap_or(1).max(1);
        let rows = rows_at_once(p.stored);
        let stored =
            if embedded && p.assembly.is_none() { 0 } else { rows * p.stored.dtype.row_bytes(width).unwrap_or(0) };
        stored + rows * width * size_of::<f32>()
    });
    WeightBytes {
        held: kept_bytes + Ram::held_bytes(rewritten().map(|p| p.bytes)),
        staging: staging.max().unwrap_or(0),
    }
}

impl Header<'_> {
    /// A tensor's bytes, if the file is part of the program.
    pub fn embedded(self, tensor: &TensorInfo) -> Option<&'static [u8]> {
        embedded_bytes(self, tensor)
    }
}

fn embedded_bytes(header: Header<'_>, tensor: &TensorInfo) -> Option<&'static [u8]> {
    let bytes = header.container.files().get(tensor.file)?.embedded()?;
    let begin = usize::try_from(tensor.offset).ok()?;
    bytes.get(begin..begin.checked_add(usize::try_from(tensor.bytes).ok()?)?)
}
