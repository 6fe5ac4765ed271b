//! What the operating system says this process holds.

use std::io;

/// Memory of this process in bytes, from `/proc/self/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident set now (VmRSS).
    pub rss: usize,
    /// The largest resident set so far (VmHWM).
    pub hwm: usize,
    /// The anonymous part of the resident set (RssAnon): heap, arenas, caches.
    pub rss_anon: usize,
    /// The part of the resident set that maps files (RssFile): code, mapped weights.
    pub rss_file: usize,
}

impl ProcessMemory {
    /// Reads the figures now.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where there is no `/proc` (only Linux has one).
    pub fn read() -> io::Result<ProcessMemory> {
        ProcessMemory::parse(&read_proc("/proc/self/status")?)
    }

    fn parse(status: &str) -> io::Result<ProcessMemory> {
        let field = |name: &str| {
            kib_field(status, name)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/status has no {name}")))
        };
        Ok(ProcessMemory {
            rss: field("VmRSS:")?,
            hwm: field("VmHWM:")?,
            rss_anon: field("RssAnon:")?,
            rss_file: field("RssFile:")?,
        })
    }
}

/// Sets the largest resident set (VmHWM) back to the resident set of now, so that a later reading is a peak since here.
///
/// # Errors
/// Where the operating system does not offer it.
pub fn reset_peak() -> io::Result<()> {
    std::fs::write("/proc/self/clear_refs", "5")
}

/// The value in bytes of a line `Name:  123 kB`.
pub(crate) fn kib_field(text: &str, name: &str) -> Option<usize> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

pub(crate) fn read_proc(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            io::Error::new(io::ErrorKind::Unsupported, format!("{path} does not exist on this system"))
        } else {
            error
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_field_is_an_error_that_names_it() {
        assert!(ProcessMemory::parse("VmRSS: 12 kB\n").unwrap_err().to_string().contains("VmHWM"));
    }
}
