//! Address space from the operating system: reserved first, backed by memory in whole pages when committed.

use std::io;
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

/// `bytes` rounded up to whole pages, or `None` beyond the address space.
pub(crate) fn round_to_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(page_bytes())
}

/// A range of address space; its first `committed` bytes can be read and written, the rest faults.
pub(crate) struct Pages {
    base: NonNull<u8>,
    /// The mapping as the operating system knows it; `base` lies inside, aligned.
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    bytes: usize,
    committed: usize,
}

// SAFETY: the region is owned memory like a Vec's; access follows the borrow of `Pages`.
unsafe impl Send for Pages {}
// SAFETY: as above; `&Pages` gives only shared slices or pointers whose users state their own rules.
unsafe impl Sync for Pages {}

impl Pages {
    /// Reserves `bytes` (rounded up to pages) of address space at a multiple of `align` (a power of two), none committed.
    pub(crate) fn reserve(bytes: usize, align: usize) -> io::Result<Pages> {
        debug_assert!(align.is_power_of_two());
        let too_large = || io::Error::new(io::ErrorKind::OutOfMemory, "more bytes than the address space has");
        let bytes = round_to_pages(bytes.max(1)).ok_or_else(too_large)?;
        // A mapping starts at a page; only a larger alignment needs room to move.
        let room = if align > page_bytes() { align } else { 0 };
        let mapping_bytes = bytes.checked_add(room).ok_or_else(too_large)?;
        // SAFETY: a new anonymous mapping at an address of the system's choice overlaps nothing of ours.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), mapping_bytes, libc::PROT_NONE, FLAGS, -1, 0) };
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

    /// Bytes from the start that can be read and written, whole pages.
    pub(crate) fn committed(&self) -> usize {
        self.committed
    }

    /// The first byte; reads and writes below [`Pages::committed`] are valid.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Makes exactly the first `bytes` (rounded up to pages) readable and writable; new pages hold zeros, pages beyond are
    /// given back to the system.
    pub(crate) fn commit(&mut self, bytes: usize) -> io::Result<()> {
        let target = round_to_pages(bytes).filter(|&target| target <= self.bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{bytes} bytes of a region of {}", self.bytes))
        })?;
        let (low, high) = (target.min(self.committed), target.max(self.committed));
        if low == high {
            return Ok(());
        }
        // SAFETY: low < high <= self.bytes, inside the mapping.
        let start = unsafe { self.base.add(low) }.as_ptr().cast::<libc::c_void>();
        let failed = if target > self.committed {
            // SAFETY: the range lies inside our own mapping; allowing access to it breaks nobody's assumption.
            let rc = unsafe { libc::mprotect(start, high - low, libc::PROT_READ | libc::PROT_WRITE) };
            rc != 0
        } else {
            // SAFETY: the range lies inside our own mapping, and `&mut self` means that no slice of it is alive; mapping
            // over it drops its pages and forbids access.
            let rc = unsafe { libc::mmap(start, high - low, libc::PROT_NONE, FLAGS | libc::MAP_FIXED, -1, 0) };
            rc == libc::MAP_FAILED
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        COMMITTED.fetch_add(target, Ordering::Relaxed);
        COMMITTED.fetch_sub(self.committed, Ordering::Relaxed);
        self.committed = target;
        Ok(())
    }

    /// Asks for 2 MiB pages; only advice, so a refusal is not an error.
    pub(crate) fn advise_huge(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: the range is ours, and this advice changes no contents.
        unsafe {
            libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE);
        }
    }

    /// The committed bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the first `committed` bytes are readable and initialized (zeros from the system), and `&self` keeps
        // `commit` away; writers need `&mut self`, or `Views`, which borrows it mutably.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.committed) }
    }

    /// The committed bytes, to write.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as `as_slice`, and `&mut self` makes the slice the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.committed) }
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
