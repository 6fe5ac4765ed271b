//! Weights mapped from their files: pages come when they are touched, and the system may drop them again.

use super::{Counters, Extents, Guard, TensorId, Tier, TierError};
use crate::budget::{Budget, Reservation};
use crate::pages::page_bytes;
use memmap2::{Mmap, UncheckedAdvice};
use std::fs::{File, Metadata};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// What to tell the operating system about how the mapping will be read; it changes speed only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Advice {
    /// Nothing.
    #[default]
    Normal,
    /// Read everything ahead now, in the background.
    WillNeed,
    /// Reading goes from the first byte to the last.
    Sequential,
    /// Reading jumps about: do not read ahead.
    Random,
}

/// Tensors as slices of mapped files.
///
/// A file must not be changed in place while it is mapped. [`Tier::get`] compares the file's length and time of change with
/// those at opening, so a file that was truncated or rewritten before a tensor is asked for is an error; one that is
/// truncated while a guard is being read ends the process, which no user of a mapping can prevent.
pub struct Mapped {
    extents: Extents,
    files: Vec<MappedFile>,
    /// Whether each tensor's checksum has been found right.
    checked: Vec<AtomicBool>,
    gets: AtomicU64,
}

struct MappedFile {
    file: File,
    mapping: Arc<Mapping>,
    len: u64,
    modified: Option<SystemTime>,
}

/// What a guard keeps: the mapping, and its place in the budget.
struct Mapping {
    map: Mmap,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    /// Bytes that these tensors take from a budget, in files of `lens` bytes.
    pub fn held_bytes(extents: &Extents, lens: &[u64]) -> usize {
        lens.iter().enumerate().map(|(file, &len)| resident_at_most(extents, file, len)).sum()
    }

    /// Maps the files; takes the bytes of every page that may become resident when all tensors are read from the account
    /// `weights`: those that a tensor touches, and those around that the system maps with them.
    ///
    /// # Errors
    /// Missing or short files, a budget without room.
    pub fn open(budget: &Budget, extents: Extents, advice: Advice) -> Result<Mapped, TierError> {
        let opened = extents.open()?;
        let mut reservations = Vec::with_capacity(opened.len());
        for (file, &(_, len)) in opened.iter().enumerate() {
            reservations.push(budget.take("weights", resident_at_most(&extents, file, len))?);
        }
        let mut files = Vec::with_capacity(opened.len());
        for (((file, _), reservation), path) in opened.into_iter().zip(reservations).zip(&extents.files) {
            let error = |source| TierError::File { path: path.clone(), source };
            let metadata = file.metadata().map_err(error)?;
            // SAFETY: the mapping is read-only and private to reading; that nobody changes the file meanwhile is the
            // documented condition of this tier, and `get` looks for it before it hands out bytes.
            let map = unsafe { Mmap::map(&file) }.map_err(error)?;
            advise(&map, advice).map_err(error)?;
            let modified = metadata.modified().ok();
            let mapping = Arc::new(Mapping { map, _reservation: reservation });
            files.push(MappedFile { file, mapping, len: metadata.len(), modified });
        }
        for extent in &extents.tensors {
            // The file could have become shorter between the first look and the mapping.
            extents.check_end(extent, files[extent.file].mapping.map.len() as u64)?;
        }
        let checked = extents.tensors.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Mapped { extents, files, checked, gets: AtomicU64::new(0) })
    }
}

fn advise(map: &Mmap, advice: Advice) -> std::io::Result<()> {
    match advice {
        Advice::Normal => Ok(()),
        Advice::WillNeed => map.advise(memmap2::Advice::WillNeed),
        Advice::Sequential => map.advise(memmap2::Advice::Sequential),
        Advice::Random => map.advise(memmap2::Advice::Random),
    }
}

/// A touched page brings along what the system has at hand of the folio that it lies in, which is at most as large as what
/// one entry of the page table's second level maps (2 MiB with pages of 4 KiB; measured on Linux 6.18, where the window is
/// not the documented 64 KiB).
fn fault_around() -> u64 {
    let page = page_bytes() as u64;
    page * page / 8
}

/// Bytes of all pages of a file of `len` bytes that may be resident after every tensor in it was read.
fn resident_at_most(extents: &Extents, file: usize, len: u64) -> usize {
    let page = page_bytes() as u64;
    let around = fault_around() / page - 1;
    let pages = len.div_ceil(page);
    let mut runs: Vec<(u64, u64)> = extents
        .tensors
        .iter()
        .filter(|tensor| tensor.file == file && tensor.bytes > 0)
        .map(|tensor| {
            let end = (tensor.offset + tensor.bytes as u64).div_ceil(page);
            ((tensor.offset / page).saturating_sub(around), (end + around).min(pages))
        })
        .collect();
    runs.sort_unstable();
    let (mut resident, mut covered) = (0, 0);
    for (first, end) in runs {
        resident += end.saturating_sub(first.max(covered));
        covered = covered.max(end);
    }
    usize::try_from(resident * page).unwrap_or(usize::MAX)
}

impl MappedFile {
    fn unchanged(&self, metadata: &Metadata) -> bool {
        metadata.len() == self.len && metadata.modified().ok() == self.modified
    }
}

impl Tier for Mapped {
    fn tensors(&self) -> usize {
        self.extents.tensors.len()
    }

    fn get(&self, id: TensorId) -> Result<Guard, TierError> {
        let extent = self.extents.get(id)?;
        let mapped = &self.files[extent.file];
        let path = || self.extents.path(extent).to_path_buf();
        let metadata = mapped.file.metadata().map_err(|source| TierError::File { path: path(), source })?;
        self.extents.check_end(extent, metadata.len())?;
        if !mapped.unchanged(&metadata) {
            return Err(TierError::Changed { path: path(), tensor: extent.name.clone() });
        }
        let start = extent.offset as usize;
        let guard = Guard::new(mapped.mapping.clone(), start..start + extent.bytes);
        if extent.checksum.is_some() && !self.checked[id.0].load(Ordering::Acquire) {
            self.extents.check_sum(extent, &guard)?;
            self.checked[id.0].store(true, Ordering::Release);
        }
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(guard)
    }

    fn prefetch(&self, id: TensorId) -> Result<(), TierError> {
        let extent = self.extents.get(id)?;
        let map = &self.files[extent.file].mapping.map;
        // The advice is a hint: a system that does not take it reads the pages when they are touched.
        let _ = map.advise_range(memmap2::Advice::WillNeed, extent.offset as usize, extent.bytes);
        Ok(())
    }

    fn counters(&self) -> Counters {
        let bytes_mapped = self.files.iter().map(|file| resident_bytes(&file.mapping.map)).sum();
        Counters { gets: self.gets.load(Ordering::Relaxed), bytes_mapped, ..Counters::default() }
    }
}

impl Mapped {
    /// Lets the operating system drop the tensor's whole pages from this process; they come back from the file when touched.
    ///
    /// # Errors
    /// An unknown id.
    pub fn release(&self, id: TensorId) -> Result<(), TierError> {
        let extent = self.extents.get(id)?;
        let page = page_bytes();
        let start = (extent.offset as usize).next_multiple_of(page);
        let end = (extent.offset as usize + extent.bytes) / page * page;
        if start < end {
            // SAFETY: the mapping is of a file and never written, so a page dropped here reads the same bytes when it is
            // touched again. A refusal only means that the pages stay.
            let _ = unsafe {
                self.files[extent.file].mapping.map.unchecked_advise_range(
                    UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
        }
        Ok(())
    }
}

/// Bytes of the mapping in this process's resident set, from `/proc/self/smaps`; 0 where there is none.
fn resident_bytes(map: &Mmap) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let start = map.as_ptr().addr();
    let end = start + map.len().next_multiple_of(page_bytes());
    let mut inside = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some((from, to)) = address_range(line) {
            inside = start <= from && to <= end;
        } else if inside && let Some(rss) = crate::process_memory::kib_field(line, "Rss:") {
            bytes += rss as u64;
        }
    }
    bytes
}

/// The addresses of a header line `7f00-7f10 r--s …` of smaps.
fn address_range(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Extent;

    #[test]
    fn every_file_law_of_a_tier_holds_under_any_advice() {
        for advice in [Advice::Normal, Advice::WillNeed, Advice::Sequential, Advice::Random] {
            crate::laws::tier(&|extents, budget| Ok(Arc::new(Mapped::open(budget, extents.clone(), advice)?)));
        }
    }

    #[test]
    fn pages_that_may_be_resident_are_counted_once() {
        let page = page_bytes();
        let around = fault_around() as usize - page;
        let tensor = |file, offset: usize, bytes| Extent {
            name: "w".into(),
            file,
            offset: offset as u64,
            bytes,
            checksum: None,
        };
        let far = 100 * fault_around() as usize;
        let tensors = vec![
            tensor(0, far + 10, 20),
            tensor(0, far + 100, page),
            tensor(0, 3 * page, 0),
            tensor(0, far + 50, 10),
            tensor(1, 0, 1),
            tensor(1, far - 1, 2),
            tensor(2, 0, 3 * page),
        ];
        let extents = Extents { files: vec![], tensors };
        let at_most = |file, len: usize| resident_at_most(&extents, file, len as u64);
        assert_eq!(at_most(0, 2 * far), 2 * page + 2 * around, "one run of two pages");
        assert_eq!(at_most(0, far + page + 100), 2 * page + around, "nothing is resident beyond the end of the file");
        assert_eq!(at_most(1, 2 * far), page + around + 2 * page + 2 * around, "two runs, one at the start");
        assert_eq!((at_most(2, 3 * page), at_most(3, far)), (3 * page, 0));
    }
}
