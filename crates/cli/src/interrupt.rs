//! Ctrl-C: the first ends what is being generated, the second the process.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// The exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Catches Ctrl-C; the flag that it sets.
///
/// # Errors
/// If the operating system refuses.
pub fn catch() -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    })?;
    Ok(&STOP)
}
