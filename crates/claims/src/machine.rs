//! The machine that a figure was measured on, and the memory that the process took.

use std::fs;

/// Processor, number of processors, memory: `"AMD EPYC 9B45, 2 processors, 22.9 GiB"`.
pub fn describe() -> String {
    let processor = field("/proc/cpuinfo", "model name")
        .unwrap_or_else(|| format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!("{processor}, {count} processors");
    if let Some(bytes) = kilobytes("/proc/meminfo", "MemTotal") {
        text += &format!(", {:.1} GiB", bytes as f64 / f64::from(1 << 30));
    }
    text
}

/// Starts a new count of the largest resident set, where the system lets a process do so (Linux).
pub(crate) fn reset_peak_resident() {
    // Where it is refused the count goes on from the start of the process: never too small.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident set in bytes, as the operating system counts it; 0 where it does not say.
pub(crate) fn peak_resident_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmHWM").unwrap_or(0)
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let value = field(file, name)?;
    Some(value.strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_touched() {
        reset_peak_resident();
        let before = peak_resident_bytes();
        let touched = vec![1u8; 64 << 20];
        assert_eq!(std::hint::black_box(&touched)[7], 1);
        assert!(before > 0 && peak_resident_bytes() >= before + (60 << 20));
    }

    #[test]
    fn the_description_names_processors_and_memory() {
        let text = describe();
        assert!(text.contains("processors") && text.contains("GiB"), "{text}");
    }
}
