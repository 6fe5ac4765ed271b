//! Weights from a file into place: those that keep their format on a tier, the others converted row by row.
//!
//! A converted tensor is read, decoded and encoded some rows at a time, straight into its place: what loading takes beyond
//! the weights themselves are those rows, counted in the account `io`. The bytes are those that `memwall quantize` writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memwall_fit::{Placed, WeightTier, kept_extents, placements, rows_at_once};
use memwall_formats::{Dtype, FormatError, TensorInfo, format};
use memwall_graph::{Graph, Memory};
use memwall_nn::{Change, Extent};
use memwall_store::{Advice, Embedded, Mapped, Ram, TensorId, Tier, TierError};

use crate::{InferError, Model};

/// Puts a tier behind another one, e.g. [`memwall_store::Throttled`].
pub type Behind<'a> = &'a dyn Fn(Arc<dyn Tier>) -> Arc<dyn Tier>;

/// How weights are loaded.
#[derive(Clone, Copy)]
pub struct Loading<'a> {
    /// Where weights live that keep their format.
    pub tier: WeightTier,
    /// Threads that convert the others.
    pub threads: usize,
    /// What the tier is put behind, if anything.
    pub behind: Option<Behind<'a>>,
}

/// What was converted, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// Matrices whose format changed.
    pub matrices: usize,
    /// Time of reading and converting.
    pub time: Duration,
}

impl Model {
    /// Puts the weights that `graph` names into `memory`, in the formats that it names; all bytes are taken from the memory's
    /// budget.
    ///
    /// # Errors
    /// If a weight is missing, has another shape or cannot be read or converted, or the budget refuses.
    pub fn load(&self, graph: &Graph, memory: &mut Memory, how: Loading<'_>) -> Result<Conversion, InferError> {
        let placed = placements(self.header(), graph)?;
        let (converted, kept): (Vec<&Placed<'_>>, Vec<_>) = placed.iter().partition(|p| p.is_rewritten());
        let mut tier = self.tier(&placed, &kept, memory, how.tier)?;
        if let Some(behind) = how.behind {
            tier = behind(tier);
        }
        for (id, p) in kept.iter().enumerate() {
            memory.share(&p.name, p.dtype, tier.get(TensorId(id))?);
        }
        let begin = Instant::now();
        let sizes = converted.iter().map(|p| (p.name.to_string(), p.bytes)).collect();
        let source = Source::open(self)?;
        let budget = memory.budget().clone();
        let ram = Ram::fill(&budget, sizes, |id, place| {
            let p = converted[id.0];
            let (width, rows) = (width(p.stored), rows_at_once(p.stored));
            let stored_row = p.stored.dtype.row_bytes(width).ok_or_else(|| ragged(p.stored))?;
            let in_place = source.is_embedded() && p.assembly.is_none();
            let mut raw = vec![0; if in_place { 0 } else { rows * stored_row }];
            let mut values = vec![0.0_f32; rows * width];
            let _io = budget.take("io", raw.len() + size_of_val(&values[..]))?;
            let piece = rows * p.dtype.row_bytes(width).ok_or_else(|| ragged(p.stored))?;
            for (i, place) in place.chunks_mut(piece.max(1)).enumerate() {
                let stored = source.rows(p, i * rows * stored_row, rows * stored_row, &mut raw)?;
                let change = p.assembly.map_or(Change::None, |a| a.change);
                if p.dtype == p.stored.dtype && change == Change::None {
                    place.copy_from_slice(stored);
                    continue;
                }
                let values = &mut values[..stored.len() / stored_row.max(1) * width];
                convert(p, width, stored, values, place, how.threads)
                    .map_err(|error| InferError::Tensor { tensor: p.stored.name.clone(), error })?;
            }
            Ok::<(), InferError>(())
        })?;
        for (id, p) in converted.iter().enumerate() {
            memory.share(&p.name, p.dtype, ram.get(TensorId(id))?);
        }
        // Vectors are always f32 in memory: that is no change of the model's format.
        let changed = converted.iter().filter(|p| p.dtype != p.stored.dtype && p.stored.shape.len() > 1);
        let matrices = changed.count();
        Ok(Conversion { matrices, time: begin.elapsed() })
    }

    /// The tier of the weights that keep their format.
    fn tier(
        &self,
        placed: &[Placed<'_>],
        kept: &[&Placed<'_>],
        memory: &Memory,
        tier: WeightTier,
    ) -> Result<Arc<dyn Tier>, InferError> {
        let (header, budget) = (self.header(), memory.budget());
        let embedded: Vec<&'static [u8]> = kept.iter().filter_map(|p| header.embedded(p.stored)).collect();
        let is_embedded = !embedded.is_empty();
        Ok(match tier {
            WeightTier::Mapped if is_embedded => Arc::new(Embedded::new(budget, embedded)?),
            WeightTier::Ram if is_embedded => {
                let sizes = kept.iter().map(|p| (p.name.to_string(), p.bytes)).collect();
                Arc::new(Ram::fill(budget, sizes, |id, place| {
                    place.copy_from_slice(embedded[id.0]);
                    Ok::<(), TierError>(())
                })?)
            }
            WeightTier::Mapped => Arc::new(Mapped::open(budget, kept_extents(header, placed), Advice::Normal)?),
            WeightTier::Ram => Arc::new(Ram::load(budget, &kept_extents(header, placed))?),
        })
    }
}

fn width(tensor: &TensorInfo) -> usize {
    tensor.shape.last().copied().unwrap_or(1).max(1)
}

fn ragged(tensor: &TensorInfo) -> InferError {
    InferError::request(format!("tensor {}: rows of {} values are no whole blocks", tensor.name, width(tensor)))
}

/// Where rows as stored come from.
struct Source<'a> {
    model: &'a Model,
    /// None where the model is part of the program.
    files: Vec<File>,
}

impl Source<'_> {
    fn open(model: &Model) -> Result<Source<'_>, InferError> {
        let on_disk = model.container().files().iter().filter(|f| f.embedded().is_none());
        let open = |path: &std::path::Path| {
            File::open(path).map_err(|source| TierError::File { path: path.to_path_buf(), source })
        };
        Ok(Source { model, files: on_disk.map(|f| open(f.path())).collect::<Result<_, _>>()? })
    }

    fn is_embedded(&self) -> bool {
        self.files.is_empty()
    }

    /// Up to `bytes` bytes of a weight as stored, from `from` on.
    fn rows<'b>(
        &'b self,
        p: &Placed<'_>,
        from: usize,
        bytes: usize,
        raw: &'b mut [u8],
    ) -> Result<&'b [u8], InferError> {
        let bytes = bytes.min((p.stored.bytes as usize).saturating_sub(from));
        if p.assembly.is_none()
            && let Some(all) = self.model.header().embedded(p.stored)
        {
            return Ok(&all[from..from + bytes]);
        }
        let raw = &mut raw[..bytes];
        let mut rest = &mut *raw;
        for extent in self.model.checkpoint().extents(&p.name, from as u64, bytes as u64) {
            let (part, left) = rest.split_at_mut(extent.bytes as usize);
            self.read(p.stored, extent, part)?;
            rest = left;
        }
        Ok(raw)
    }

    /// The bytes of `extent`, of what the tensor `of` is a part.
    fn read(&self, of: &TensorInfo, extent: Extent, to: &mut [u8]) -> Result<(), InferError> {
        let at = TensorInfo { file: extent.file, offset: extent.offset, bytes: extent.bytes, ..of.clone() };
        if let Some(bytes) = self.model.header().embedded(&at) {
            to.copy_from_slice(bytes);
            return Ok(());
        }
        let file = &self.files[extent.file];
        file.read_exact_at(to, extent.offset).map_err(|source| {
            let path = self.model.container().files()[extent.file].path().to_path_buf();
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let has = file.metadata().map_or(0, |m| m.len());
                TierError::Short { path, tensor: of.name.clone(), needs: extent.offset + extent.bytes, has }.into()
            } else {
                TierError::File { path, source }.into()
            }
        })
    }
}

/// Rows as stored to rows in place, each on its own, shared out among threads.
fn convert(
    p: &Placed<'_>,
    width: usize,
    stored: &[u8],
    values: &mut [f32],
    place: &mut [u8],
    threads: usize,
) -> Result<(), FormatError> {
    let rows = values.len() / width;
    let share = rows.div_ceil(threads.max(1)).max(1);
    let (stored_row, row) = (stored.len() / rows.max(1), place.len() / rows.max(1));
    let part = |stored: &[u8], values: &mut [f32], place: &mut [u8]| -> Result<(), FormatError> {
        format(p.stored.dtype).decode(width, stored, values)?;
        p.assembly.map_or(Change::None, |a| a.change).apply(values);
        format(p.dtype).encode(width, values, place)
    };
    if share >= rows {
        return part(stored, values, place);
    }
    std::thread::scope(|scope| {
        let parts = stored
            .chunks(share * stored_row)
            .zip(values.chunks_mut(share * width))
            .zip(place.chunks_mut(share * row))
            .map(|((stored, values), place)| scope.spawn(move || part(stored, values, place)));
        let working: Vec<_> = parts.collect();
        working.into_iter().try_for_each(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Whether some value of a float format is NaN or infinite; other formats are not looked at.
pub(crate) fn has_not_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    if dtype.is_block() || dtype == Dtype::I32 {
        return false;
    }
    let mut values = [0.0_f32; 1024];
    let size = dtype.block_bytes();
    bytes.chunks(values.len() * size).any(|bytes| {
        let values = &mut values[..bytes.len() / size];
        format(dtype).decode(values.len(), bytes, values).is_ok() && values.iter().any(|x| !x.is_finite())
    })
}
