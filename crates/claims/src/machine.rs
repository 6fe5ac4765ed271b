//! The machine that a figure was measured on.

use std::fs;

use memwall_store::{MachineMemory, format_size};

/// Processor, number of processors, instruction set, memory.
pub fn describe() -> String {
    let processor = processor().unwrap_or_else(|| format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let isa = memwall_kernels::isa().name();
    let memory = MachineMemory::read().map_or_else(|_| String::new(), |m| format!(", {}", format_size(m.total)));
    format!("{processor}, {count} processors, {isa}{memory}")
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    })
}
