//! The largest of some errors, as a bar is held against it.

/// The largest of `errors`, 0 where there are none; NaN where one is no number, so that it meets no bar.
pub(crate) fn largest(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |top: f64, error| if top.is_nan() || error <= top { top } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_larger_than_all() {
        assert_eq!(largest([0.5, 2.0, 1.0]), 2.0);
        assert_eq!(largest([]), 0.0);
        for errors in [[f64::NAN, 1.0, 2.0], [1.0, f64::NAN, 2.0], [1.0, 2.0, f64::NAN]] {
            assert!(largest(errors).is_nan());
        }
        assert_eq!(largest([1.0, f64::INFINITY]), f64::INFINITY);
    }
}
