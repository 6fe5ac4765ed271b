//! Address space from the operating system: reserved first, backed by memory in whole pages when committed.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes committed by all live regions of this process.
static COMMITTED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of pages that arenas, weights and reserved regions of this process hold; a global allocator does not see them.
pub fn committed_bytes() -> usize {
    COMMITTED.load(Ordering::Relaxed)
}

/// Bytes of a page of this machine.
pub fn page_bytes() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(4096)
    })
}

/// `bytes` rounded up to whole pages: what arenas, regions and weights in memory take from a budget. The most there is
/// where that is beyond the address space.
pub fn whole_pages(bytes: usize) -> usize {
    bytes.checked_next_multiple_of(page_bytes()).unwrap_or(usize::MAX)
}

/// A range of address space that reads as zeros and holds memory where it was written.
pub(crate) struct Pages {
    base: NonNull<u8>,
    /// The mapping as the operating system knows it; `base` lies inside, aligned.
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    bytes: usize,
    /// Bytes of pages that count as held.
    committed: usize,
}

// SAFETY: the region is owned memory like a Vec's; access follows the borrow of `Pages`.
unsafe impl Send for Pages {}
// SAFETY: as above; `&Pages` gives only shared slices.
unsafe impl Sync for Pages {}

impl Pages {
    /// Reserves `bytes` (rounded up to pages) of address space at a multiple of `align` (a power of two), none
    /// committed.
    pub(crate) fn reserve(bytes: usize, align: usize) -> io::Result<Pages> {
        debug_assert!(align.is_power_of_two());
        let too_large = || io::Error::new(io::ErrorKind::OutOfMemory, "more bytes than the address space has");
        let bytes = whole_pages(bytes.max(1));
        // A mapping starts at a page; only a larger alignment needs room to move.
        let room = if align > page_bytes() { align } else { 0 };
        let mapping_bytes = bytes.checked_add(room).ok_or_else(too_large)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the system's choice overlaps nothing of ours.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), mapping_bytes, access, FLAGS, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(address.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let shift = mapping.as_ptr().align_offset(align);
        debug_assert!(shift <= room);
        // SAFETY: shift <= room, so the aligned region of `bytes` bytes lies inside the mapping.
        let base = unsafe { mapping.add(shift) };
        Ok(Pages { base, mapping, mapping_bytes, bytes, committed: 0 })
    }

    /// Counts `bytes` as held from now on; pages themselves come when they are written.
    pub(crate) fn commit(&mut self, bytes: usize) {
        COMMITTED.fetch_add(bytes, Ordering::Relaxed);
        COMMITTED.fetch_sub(self.committed, Ordering::Relaxed);
        self.committed = bytes;
    }

    /// Gives the whole pages of `range` back to the system; they read as zeros again.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn release(&mut self, range: Range<usize>) -> io::Result<()> {
        debug_assert!(range.start.is_multiple_of(page_bytes()) && range.end.is_multiple_of(page_bytes()));
        let range = range.start..range.end.min(self.bytes);
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: inside our own mapping, and `&mut self` means that no slice of it is alive; a fresh mapping over it drops
        // its pages and reads as zeros.
        let rc = unsafe {
            let start = self.base.add(range.start).as_ptr().cast::<libc::c_void>();
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(start, range.len(), access, FLAGS | libc::MAP_FIXED, -1, 0)
        };
        if rc == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Asks for 2 MiB pages; only advice, so a refusal is not an error.
    pub(crate) fn advise_huge(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: the range is ours, and this advice changes no contents.
        unsafe {
            libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE);
        }
    }

    /// All of it.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the whole region is readable and initialized (zeros from the system); writers need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// All of it, to write.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as `as_slice`, and `&mut self` makes the slice the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Drop for Pages {
    fn drop(&mut self) {
        COMMITTED.fetch_sub(self.committed, Ordering::Relaxed);
        // SAFETY: exactly the mapping made in `reserve`; no slice of it outlives `self`.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
    }
}
