//! How much memory there is to plan with: the machine's, and what the control group of this process allows of it.

use crate::cgroup;
use crate::process_memory::{kib_field, read_proc};
use std::io;
use std::path::PathBuf;

/// Memory of the machine in bytes, as this process may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineMemory {
    /// Memory of the machine, or the smallest limit of a control group if that is less.
    pub total: usize,
    /// What can be taken now without swapping: the system's estimate, or what is left in the tightest control group.
    pub available: usize,
    /// The file of the control group that sets `total`, if one does.
    pub limited_by: Option<PathBuf>,
}

impl MachineMemory {
    /// Reads `/proc/meminfo` and the limits of the control groups (v1, v2) above this process.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where there is no `/proc` (only Linux has one).
    pub fn read() -> io::Result<MachineMemory> {
        let meminfo = read_proc("/proc/meminfo")?;
        let field = |name: &str| {
            kib_field(&meminfo, name)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {name}")))
        };
        let mut memory =
            MachineMemory { total: field("MemTotal:")?, available: field("MemAvailable:")?, limited_by: None };
        for group in cgroup::limits() {
            memory.available = memory.available.min(group.limit.saturating_sub(group.used));
            if group.limit < memory.total {
                memory.total = group.limit;
                memory.limited_by = Some(group.file);
            }
        }
        Ok(memory)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_part_of_what_there_is() {
        let memory = MachineMemory::read().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total, "{memory:?}");
    }
}
