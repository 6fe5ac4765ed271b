//! Sizes as people write them: `64MiB`, `1.5GiB`, `512KB` (decimal), or plain bytes.

use thiserror::Error;

/// Unit names in lower case with the bytes each stands for.
const UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("bytes", 1),
];

/// A size that cannot be read; names the flag or key that it was given for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{flag}: `{text}` is not a size: {reason}; write bytes or a number with a unit, as in 64MiB, 1.5GiB, 512KB")]
pub struct SizeError {
    /// The flag or key, as the user wrote it.
    pub flag: String,
    /// The text that was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a size in bytes; a fraction of a byte is dropped.
///
/// KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB powers of 1000; capitals do not matter.
///
/// # Errors
/// No number, a negative one, an unknown unit (a bare `G` is one: GiB and GB differ), a fraction without a unit, or more
/// bytes than an address can count. The error names `flag`.
pub fn parse_size(flag: &str, text: &str) -> Result<usize, SizeError> {
    let error = |reason: String| SizeError { flag: flag.to_string(), text: text.to_string(), reason };
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..end], trimmed[end..].trim().to_ascii_lowercase());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if trimmed.starts_with('-') {
        return Err(error("it is negative".into()));
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(error("it has no number".into()));
    }
    if fraction.contains('.') {
        return Err(error("it has two decimal points".into()));
    }
    let Some(&(_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(error(match unit.as_str() {
            "k" | "m" | "g" | "t" => {
                let u = unit.to_ascii_uppercase();
                format!("`{u}` alone could mean {u}iB (powers of 1024) or {u}B (powers of 1000)")
            }
            _ => format!("`{unit}` is not a unit"),
        }));
    };
    if scale == 1 && !fraction.is_empty() {
        return Err(error("a byte has no fraction".into()));
    }
    let too_large = || error("it is more than an address can count".into());
    let digits = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<u128>().ok() };
    // Beyond 18 places a fraction of a tebibyte is less than a byte.
    let fraction = &fraction[..fraction.len().min(18)];
    let places = 10u128.pow(fraction.len() as u32);
    let whole = digits(whole).and_then(|w| w.checked_mul(u128::from(scale))).ok_or_else(too_large)?;
    let part = digits(fraction).ok_or_else(too_large)? * u128::from(scale) / places;
    whole.checked_add(part).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(too_large)
}

/// Writes a size in the largest binary unit that it reaches, with at most two decimals (`64MiB`, `1.50GiB`, `900B`).
pub fn format_size(bytes: usize) -> String {
    const STEPS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let bytes = bytes as u64;
    for (unit, scale) in STEPS {
        if bytes >= scale {
            return if bytes.is_multiple_of(scale) {
                format!("{}{unit}", bytes / scale)
            } else {
                format!("{:.2}{unit}", bytes as f64 / scale as f64)
            };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_mean_what_the_contract_says() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("512KB", 512_000),
            ("4096", 4096),
            ("0", 0),
            (" 2 gib ", 2 << 30),
            (".5KiB", 512),
            ("0.0009765625KiB", 1),
            ("1TB", 1_000_000_000_000),
            ("17B", 17),
        ] {
            assert_eq!(parse_size("--memory", text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn errors_name_the_flag_and_the_text() {
        for text in
            ["", "GiB", "-1", "2G", "3 MiBs", "1.5", "1..5KiB", "99999999999999999999TiB", "1e9", "12QB", "½GiB"]
        {
            let error = parse_size("--memory", text).unwrap_err();
            let shown = error.to_string();
            assert!(shown.starts_with("--memory: ") && shown.contains(&format!("`{text}`")), "{shown}");
        }
        assert!(parse_size("--memory", "2G").unwrap_err().to_string().contains("GiB"));
    }

    proptest! {
        #[test]
        fn whole_units_survive_printing(n in 1usize..1024, exponent in 0u32..5) {
            let bytes = n << (10 * exponent);
            prop_assert_eq!(parse_size("x", &format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn printed_sizes_are_within_a_hundredth_of_their_unit(bytes in 0usize..1 << 50) {
            let read = parse_size("x", &format_size(bytes)).unwrap();
            prop_assert!(read.abs_diff(bytes) as f64 <= 0.01 * bytes as f64);
        }

        #[test]
        fn any_text_gives_a_size_or_an_error(text in "\\PC{0,24}") {
            let _ = parse_size("--memory", &text);
        }
    }
}
