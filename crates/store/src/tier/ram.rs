//! Weights in memory, read once into place: no second copy exists at any moment.

use super::{Counters, Extents, Guard, TensorId, Tier, TierError};
use crate::budget::{Budget, Reservation};
use crate::pages::{Pages, whole_pages};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every tensor starts at a multiple of it, a cache line.
const ALIGN: usize = 64;

/// All tensors in one slab of memory.
pub struct Ram {
    slab: Arc<Slab>,
    /// Name and place of each tensor.
    tensors: Vec<(String, Range<usize>)>,
    bytes_read: u64,
    gets: AtomicU64,
}

struct Slab {
    pages: Pages,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        self.pages.as_slice()
    }
}

/// Where the next tensor starts behind one of `bytes` at `start`.
fn after(start: usize, bytes: usize) -> usize {
    start.saturating_add(bytes).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX)
}

impl Ram {
    /// Bytes that tensors of these sizes take from a budget: whole pages.
    pub fn held_bytes(sizes: impl IntoIterator<Item = usize>) -> usize {
        whole_pages(sizes.into_iter().fold(0, after))
    }

    /// Reads every tensor from its file into its place; takes all bytes from the account `weights` first.
    ///
    /// # Errors
    /// Missing, short or unreadable files, wrong checksums, a budget without room.
    pub fn load(budget: &Budget, extents: &Extents) -> Result<Ram, TierError> {
        let files = extents.open()?;
        let sizes = extents.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.bytes)).collect();
        let mut ram = Ram::fill(budget, sizes, |id, place| {
            let extent = &extents.tensors[id.0];
            let (file, _) = &files[extent.file];
            file.read_exact_at(place, extent.offset).map_err(|source| {
                // The file had this length when it was opened, so it became shorter since.
                if source.kind() == io::ErrorKind::UnexpectedEof {
                    let has = file.metadata().map_or(0, |m| m.len());
                    let needs = extent.offset + extent.bytes as u64;
                    let path = extents.path(extent).to_path_buf();
                    TierError::Short { path, tensor: extent.name.clone(), needs, has }
                } else {
                    TierError::File { path: extents.path(extent).to_path_buf(), source }
                }
            })?;
            extents.check_sum(extent, place)
        })?;
        ram.bytes_read = extents.bytes() as u64;
        Ok(ram)
    }

    /// Makes tensors of these names and sizes in bytes and lets `write` fill each, in order, in its place (zeros before): for
    /// weights that are converted while loading, or come from elsewhere than a file.
    ///
    /// # Errors
    /// A budget without room, or the first error of `write`.
    pub fn fill<E: From<TierError>>(
        budget: &Budget,
        tensors: Vec<(String, usize)>,
        mut write: impl FnMut(TensorId, &mut [u8]) -> Result<(), E>,
    ) -> Result<Ram, E> {
        let mut end = 0usize;
        let tensors: Vec<(String, Range<usize>)> = tensors
            .into_iter()
            .map(|(name, bytes)| {
                let start = end;
                end = after(start, bytes);
                (name, start..start.saturating_add(bytes))
            })
            .collect();
        let reservation = budget.take("weights", whole_pages(end)).map_err(TierError::from)?;
        let memory = |source| TierError::Memory { bytes: end, source };
        let huge = end >= 2 << 20;
        let mut pages = Pages::reserve(end, if huge { 2 << 20 } else { ALIGN }).map_err(memory)?;
        if huge {
            pages.advise_huge();
        }
        pages.commit(reservation.bytes());
        for (id, (_, place)) in tensors.iter().enumerate() {
            write(TensorId(id), &mut pages.as_mut_slice()[place.clone()])?;
        }
        let slab = Arc::new(Slab { pages, _reservation: reservation });
        Ok(Ram { slab, tensors, bytes_read: 0, gets: AtomicU64::new(0) })
    }

    /// A tensor's bytes, to write: weights that are trained.
    ///
    /// # Errors
    /// An unknown id, or [`TierError::InUse`] while a guard of any tensor of this tier lives.
    pub fn get_mut(&mut self, id: TensorId) -> Result<&mut [u8], TierError> {
        let tensors = self.tensors.len();
        let (name, place) = self.tensors.get(id.0).ok_or(TierError::Unknown { id: id.0, tensors })?;
        let slab = Arc::get_mut(&mut self.slab).ok_or_else(|| TierError::InUse { tensor: name.clone() })?;
        Ok(&mut slab.pages.as_mut_slice()[place.clone()])
    }
}

impl Tier for Ram {
    fn tensors(&self) -> usize {
        self.tensors.len()
    }

    fn get(&self, id: TensorId) -> Result<Guard, TierError> {
        let (_, place) = self.tensors.get(id.0).ok_or(TierError::Unknown { id: id.0, tensors: self.tensors.len() })?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(Guard::new(self.slab.clone(), place.clone()))
    }

    fn prefetch(&self, id: TensorId) -> Result<(), TierError> {
        if id.0 < self.tensors.len() {
            Ok(())
        } else {
            Err(TierError::Unknown { id: id.0, tensors: self.tensors.len() })
        }
    }

    fn counters(&self) -> Counters {
        Counters { gets: self.gets.load(Ordering::Relaxed), bytes_read: self.bytes_read, ..Counters::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_law_of_a_tier_holds() {
        crate::laws::tier(&|extents, budget| Ok(Arc::new(Ram::load(budget, extents)?)));
    }

    #[test]
    fn filled_weights_can_be_read_and_written_but_not_at_once() {
        let sizes = vec![("a".to_string(), 12), ("b".to_string(), 8)];
        let mut ram = Ram::fill(&Budget::unlimited(), sizes, |id, place| {
            place.fill(id.0 as u8 + 1);
            Ok::<(), TierError>(())
        })
        .unwrap();
        let a = ram.get(TensorId(0)).unwrap();
        assert_eq!(&*a, &[1u8; 12][..]);
        assert_eq!(a.values::<u32>().unwrap(), [0x0101_0101; 3]);
        assert!(matches!(a.values::<u64>(), Err(TierError::Misaligned { .. })));
        assert!(matches!(ram.get_mut(TensorId(1)), Err(TierError::InUse { .. })));
        drop(a);
        ram.get_mut(TensorId(1)).unwrap().fill(9);
        assert_eq!(&*ram.get(TensorId(1)).unwrap(), &[9u8; 8][..]);
        assert!(ram.get_mut(TensorId(2)).is_err());
    }

    #[test]
    fn an_error_while_filling_is_returned_and_gives_everything_back() {
        #[derive(Debug)]
        struct Stop;
        impl From<TierError> for Stop {
            fn from(_: TierError) -> Stop {
                Stop
            }
        }
        let budget = Budget::unlimited();
        let sizes = vec![("a".to_string(), 12)];
        assert!(Ram::fill(&budget, sizes, |_, _| Err(Stop)).is_err());
        assert_eq!(budget.held(), 0);
    }
}
