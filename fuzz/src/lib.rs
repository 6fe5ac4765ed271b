//! What a header may cost: 64 times its bytes and a mebibyte, however much it claims to hold.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs `read` on an input of `bytes` bytes.
///
/// # Panics
/// If it holds more memory at once than the bound.
pub fn bounded<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let made = read();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak <= 64 * bytes + (1 << 20), "{peak} bytes at once for an input of {bytes}");
    made
}
