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
    _reservation: Reservation,
}

struct MappedFile {
    file: File,
    map: Arc<Mmap>,
    len: u64,
    modified: Option<SystemTime>,
}

impl Mapped {
    /// Maps the files; takes the bytes of every page that a tensor touches from the account `weights`, because all of them
    /// may be resident at once.
    ///
    /// # Errors
    /// Missing or short files, a budget without room.
    pub fn open(budget: &Budget, extents: Extents, advice: Advice) -> Result<Mapped, TierError> {
        let opened = extents.open()?;
        let reservation = budget.take("weights", touched_pages(&extents))?;
        let mut files = Vec::with_capacity(opened.len());
        for ((file, _), path) in opened.into_iter().zip(&extents.files) {
            let error = |source| TierError::File { path: path.clone(), source };
            let metadata = file.metadata().map_err(error)?;
            // SAFETY: the mapping is read-only and private to reading; that nobody changes the file meanwhile is the
            // documented condition of this tier, and `get` looks for it before it hands out bytes.
            let map = unsafe { Mmap::map(&file) }.map_err(error)?;
            advise(&map, advice).map_err(error)?;
            let modified = metadata.modified().ok();
            files.push(MappedFile { file, map: Arc::new(map), len: metadata.len(), modified });
        }
        for extent in &extents.tensors {
            // The file could have become shorter between the first look and the mapping.
            extents.check_end(extent, files[extent.file].map.len() as u64)?;
        }
        let checked = extents.tensors.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Mapped { extents, files, checked, gets: AtomicU64::new(0), _reservation: reservation })
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

/// Bytes of all pages that hold a byte of some tensor, each counted once.
fn touched_pages(extents: &Extents) -> usize {
    let page = page_bytes() as u64;
    let mut runs: Vec<(usize, u64, u64)> = extents
        .tensors
        .iter()
        .filter(|tensor| tensor.bytes > 0)
        .map(|tensor| (tensor.file, tensor.offset / page, (tensor.offset + tensor.bytes as u64).div_ceil(page)))
        .collect();
    runs.sort_unstable();
    let mut pages = 0;
    let mut covered = (usize::MAX, 0);
    for (file, first, end) in runs {
        let from = if covered.0 == file { first.max(covered.1) } else { first };
        pages += end.saturating_sub(from);
        covered = (file, if covered.0 == file { end.max(covered.1) } else { end });
    }
    usize::try_from(pages * page).unwrap_or(usize::MAX)
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
        let guard = Guard::new(mapped.map.clone(), start..start + extent.bytes);
        if extent.checksum.is_some() && !self.checked[id.0].load(Ordering::Acquire) {
            self.extents.check_sum(extent, &guard)?;
            self.checked[id.0].store(true, Ordering::Release);
        }
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(guard)
    }

    fn prefetch(&self, id: TensorId) -> Result<(), TierError> {
        let extent = self.extents.get(id)?;
        let map = &self.files[extent.file].map;
        // The advice is a hint: a system that does not take it reads the pages when they are touched.
        let _ = map.advise_range(memmap2::Advice::WillNeed, extent.offset as usize, extent.bytes);
        Ok(())
    }

    fn counters(&self) -> Counters {
        let bytes_mapped = self.files.iter().map(|file| resident_bytes(&file.map)).sum();
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
                self.files[extent.file].map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
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
    fn pages_shared_by_tensors_are_counted_once() {
        let page = page_bytes() as u64;
        let tensor = |file, offset, bytes| Extent { name: "w".into(), file, offset, bytes, checksum: None };
        let tensors = vec![
            tensor(0, 10, 20),
            tensor(0, 100, page as usize),
            tensor(1, 0, 1),
            tensor(0, 3 * page, 0),
            tensor(1, 5 * page - 1, 2),
            tensor(0, 50, 10),
        ];
        let extents = Extents { files: vec![], tensors };
        assert_eq!(touched_pages(&extents), (2 + 1 + 2) * page as usize);
    }
}
