//! Shapes as they are documented, `B T H K`, are what inputs are checked against: the first use of a letter sets it.
//!
//! An axis is a letter, a letter and a number (`W-1`, `S+1`), or a number; `...` in front stands for any axes; ` | ` is or.

use std::collections::BTreeMap;

/// The sizes that letters stand for.
#[derive(Clone, Debug, Default)]
pub struct Letters(BTreeMap<char, usize>);

impl Letters {
    /// The size of a letter, if an input has set it.
    pub fn get(&self, letter: char) -> Option<usize> {
        self.0.get(&letter).copied()
    }

    /// Fits a shape to a pattern; letters that are new get their sizes.
    ///
    /// # Errors
    /// Says what the shape would have to be.
    pub fn fit(&mut self, pattern: &str, shape: &[usize]) -> Result<(), String> {
        for one in pattern.split(" | ") {
            let mut letters = self.clone();
            if letters.fits(one, shape) {
                *self = letters;
                return Ok(());
            }
        }
        let known = |c: &char| self.get(*c).map(|n| format!("{c} = {n}"));
        let mut letters: Vec<char> = pattern.chars().filter(char::is_ascii_uppercase).collect();
        letters.sort_unstable();
        letters.dedup();
        let known: Vec<String> = letters.iter().filter_map(known).collect();
        let known = if known.is_empty() { String::new() } else { format!(" with {}", known.join(", ")) };
        Err(format!("has shape {shape:?}; {}{known} is needed", documented(pattern)))
    }

    fn fits(&mut self, pattern: &str, shape: &[usize]) -> bool {
        let mut axes: Vec<&str> = pattern.split_whitespace().collect();
        let mut shape = shape;
        if axes.first() == Some(&"...") {
            axes.remove(0);
            if shape.len() < axes.len() {
                return false;
            }
            shape = &shape[shape.len() - axes.len()..];
        }
        axes.len() == shape.len() && axes.iter().zip(shape).all(|(axis, &n)| self.axis(axis, n))
    }

    fn axis(&mut self, axis: &str, n: usize) -> bool {
        if let Ok(fixed) = axis.parse::<usize>() {
            return fixed == n;
        }
        let (letter, offset) = axis.split_at(1);
        let Some(letter) = letter.chars().next() else { return false };
        let Some(size) = n.checked_add_signed(-offset.parse::<isize>().unwrap_or(0)) else { return false };
        *self.0.entry(letter).or_insert(size) == size
    }
}

/// A pattern as documentation shows it: `[B, T, H, K]`.
pub fn documented(pattern: &str) -> String {
    let one = |p: &str| format!("[{}]", p.split_whitespace().collect::<Vec<_>>().join(", "));
    pattern.split(" | ").map(one).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_set_once_and_checked_after() {
        let mut l = Letters::default();
        l.fit("B T H K", &[2, 5, 4, 8]).expect("fits");
        l.fit("T B+1", &[5, 3]).expect("fits");
        l.fit("... K", &[7, 1, 8]).expect("fits");
        l.fit("B T | B T K", &[2, 5, 8]).expect("fits");
        assert_eq!((l.get('B'), l.get('W')), (Some(2), None));
        l.fit("W-1 2", &[3, 2]).expect("fits");
        assert_eq!(l.get('W'), Some(4));
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let mut l = Letters::default();
        l.fit("B T", &[2, 5]).expect("fits");
        let error = l.fit("B T K | B", &[3, 5, 8]).expect_err("B is 2");
        assert_eq!(error, "has shape [3, 5, 8]; [B, T, K] or [B] with B = 2, T = 5 is needed");
        assert_eq!(l.get('K'), None, "a pattern that does not fit sets nothing");
        assert!(l.fit("B+9", &[3]).is_err());
    }
}
