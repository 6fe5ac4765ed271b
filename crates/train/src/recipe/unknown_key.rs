//! The key that was meant: the nearest of those that the parser says it expected.

/// Names below this likeness (Jaro-Winkler, 0 to 1) are not taken for a slip of the pen.
const LIKENESS: f64 = 0.7;

/// The name that was meant, of a message that names an unknown one and then those that there are.
pub(super) fn nearest(message: &str) -> Option<&str> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    // Names stand between backticks, the unknown one first.
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let likeness = |name: &str| strsim::jaro_winkler(unknown, name);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.filter(|name| likeness(name) >= LIKENESS)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_of_the_expected_names_is_suggested() {
        let message = "unknown field `warmup`, expected one of `steps`, `batch`, `warm_up`, `seed`";
        assert_eq!(nearest(message), Some("warm_up"));
        assert_eq!(nearest("unknown variant `atention`, expected `attention` or `gla`"), Some("attention"));
        assert_eq!(nearest("unknown field `zzz`, expected `steps`"), None);
        assert_eq!(nearest("missing field `steps`"), None);
    }
}
