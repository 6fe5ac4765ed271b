//! E2M1 elements as ggml reads and chooses them, for MXFP4 and NVFP4.
//!
//! Levels are twice the values of E2M1, so that they are integers, and scales half of what they say.

/// Twice the value of each code. Both zeros decode to +0.
pub(super) const LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The code whose level times `d` is nearest to `v`; of two as near the smaller magnitude, and never code 8, the other zero.
///
/// Between neighbouring levels both differences are exact, so that comparing with the middle chooses as comparing distances in
/// ascending order of codes does.
#[inline(always)]
pub(super) fn nearest(v: f32, d: f32) -> u8 {
    let a = v.abs();
    let above = |middle: f32| u8::from(a > middle * d);
    let code = above(0.5) + above(1.5) + above(2.5) + above(3.5) + above(5.0) + above(7.0) + above(10.0);
    let negative = u8::from((v < 0.0) & (code > 0)) << 3;
    if d > 0.0 { code | negative } else { 0 }
}
