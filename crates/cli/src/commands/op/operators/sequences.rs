//! Sequences of an operator's inputs: B rows of T tokens, or packed ones that `cu_seqlens` cuts.

use anyhow::bail;
use memwall_graph::Value;

use crate::commands::op::builder::Builder;

/// Where the sequences of [B, T, ..] begin.
///
/// # Errors
/// If offsets are given for more than one row, or do not rise from 0 to T.
pub fn offsets(b: &Builder<'_>, name: &str, rows: usize, tokens: usize) -> anyhow::Result<Vec<i32>> {
    let Some(given) = b.integers(name) else {
        return Ok((0..=rows).map(|i| (i * tokens) as i32).collect());
    };
    if rows != 1 {
        bail!("{name} cuts the tokens of one row, but B is {rows}: use shapes [1, T, ..]");
    }
    let whole = given.first() == Some(&0) && given.last() == Some(&(tokens as i32)) && given.is_sorted();
    if !whole {
        bail!("{name} must rise from 0 to the {tokens} tokens, but is {given:?}");
    }
    Ok(given.to_vec())
}

/// The offsets as an input of the graph, and how many sequences there are.
///
/// # Errors
/// As [`offsets`].
pub fn cu_seqlens(b: &mut Builder<'_>) -> anyhow::Result<(Value, Vec<i32>)> {
    let offsets = offsets(b, "cu_seqlens", b.size('B'), b.size('T'))?;
    Ok((b.feed_integers("cu_seqlens", &[offsets.len()], &offsets)?, offsets))
}

/// Slot and position of each token: its sequence, and its place there.
pub fn slots(offsets: &[i32]) -> Vec<[i32; 2]> {
    let sequence = |(slot, ends): (usize, &[i32])| (0..ends[1] - ends[0]).map(move |p| [slot as i32, p]);
    offsets.windows(2).enumerate().flat_map(sequence).collect()
}

/// Tokens of the longest sequence.
pub fn longest(offsets: &[i32]) -> usize {
    offsets.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
}
