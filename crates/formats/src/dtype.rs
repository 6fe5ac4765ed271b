//! The element types and block formats that a tensor can be stored in.

use std::borrow::Cow;
use std::fmt;

use crate::Layout;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants are the field's own names
#[allow(non_camel_case_types)]
pub enum Dtype {
    F32,
    F64,
    F16,
    BF16,
    I32,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
    FP6,
}

impl Dtype {
    /// Every type, in the order of declaration.
    pub const ALL: [Dtype; 24] = {
        use Dtype::*;
        [
            F32, F64, F16, BF16, I32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS,
            TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0, FP6,
        ]
    };

    /// Values in a block; 1 for scalar types.
    pub const fn block_len(self) -> usize {
        use Dtype::*;
        match self {
            F32 | F64 | F16 | BF16 | I32 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | IQ4_NL | MXFP4 => 32,
            NVFP4 | Q2_0 | FP6 => 64,
            Q1_0 => 128,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_XS | TQ1_0 | TQ2_0 => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        use Dtype::*;
        match self {
            F64 => 8,
            F32 | I32 => 4,
            F16 | BF16 => 2,
            MXFP4 => 17,
            Q4_0 | IQ4_NL | Q1_0 | Q2_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            NVFP4 => 36,
            FP6 => 50,
            TQ1_0 => 54,
            TQ2_0 => 66,
            Q2_K => 84,
            Q3_K => 110,
            Q4_K => 144,
            Q5_K => 176,
            Q6_K => 210,
            IQ4_XS => 136,
        }
    }

    /// Bytes of a row of `n` values, or `None` if the row is not a whole number of blocks.
    pub const fn row_bytes(self, n: usize) -> Option<usize> {
        if n.is_multiple_of(self.block_len()) { Some(n / self.block_len() * self.block_bytes()) } else { None }
    }

    /// Name, block length and block bytes together.
    pub const fn layout(self) -> Layout {
        Layout { name: Cow::Borrowed(self.name()), block_len: self.block_len(), block_bytes: self.block_bytes() }
    }

    /// True for formats whose values share scales in blocks.
    pub const fn is_block(self) -> bool {
        self.block_len() > 1
    }

    /// The name in the field's spelling, e.g. `Q4_K`.
    pub const fn name(self) -> &'static str {
        use Dtype::*;
        match self {
            F32 => "F32",
            F64 => "F64",
            F16 => "F16",
            BF16 => "BF16",
            I32 => "I32",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q2_K => "Q2_K",
            Q3_K => "Q3_K",
            Q4_K => "Q4_K",
            Q5_K => "Q5_K",
            Q6_K => "Q6_K",
            IQ4_NL => "IQ4_NL",
            IQ4_XS => "IQ4_XS",
            TQ1_0 => "TQ1_0",
            TQ2_0 => "TQ2_0",
            MXFP4 => "MXFP4",
            NVFP4 => "NVFP4",
            Q1_0 => "Q1_0",
            Q2_0 => "Q2_0",
            FP6 => "FP6",
        }
    }

    /// Bits that a value takes, scales included.
    pub const fn bits_per_value(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_len() as f64
    }

    /// The type whose name is most like `name`, for "did you mean".
    pub fn nearest_name(name: &str) -> &'static str {
        most_alike(name, Dtype::ALL.map(Dtype::name).into())
    }

    /// The type of that name in any case, or `None`.
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|d| d.name().eq_ignore_ascii_case(name))
    }
}

/// The first of the names that is most like `name`, case and separators aside.
pub(crate) fn most_alike<S: AsRef<str> + Default>(name: &str, names: Vec<S>) -> S {
    let plain = |s: &str| s.replace(['_', '-', ' '], "").to_ascii_uppercase();
    let name = plain(name);
    // The number of bits says more than the letters: fp16 is F16, not FP6.
    let digits = |s: &str| s.chars().filter(char::is_ascii_digit).collect::<String>();
    let shared =
        |candidate: &str| digits(candidate).chars().zip(digits(&name).chars()).take_while(|(a, b)| a == b).count();
    let score = |candidate: &S| {
        let candidate = candidate.as_ref();
        (shared(candidate), strsim::jaro_winkler(&plain(candidate), &name))
    };
    let order = |a: &(usize, f64), b: &(usize, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    names.into_iter().rev().max_by(|a, b| order(&score(a), &score(b))).unwrap_or_default()
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_type() {
        for d in Dtype::ALL {
            assert_eq!(Dtype::from_name(&d.name().to_lowercase()), Some(d));
        }
        assert_eq!(Dtype::from_name("Q4"), None);
    }

    #[test]
    fn the_nearest_name_is_the_one_meant() {
        for (typed, meant) in [
            ("q4k", "Q4_K"),
            ("Q4_K_M", "Q4_K"),
            ("q8", "Q8_0"),
            ("Q5-1", "Q5_1"),
            ("fp16", "F16"),
            ("bfloat16", "BF16"),
            ("bf-16", "BF16"),
            ("float32", "F32"),
            ("iq4xs", "IQ4_XS"),
            ("q6", "Q6_K"),
            ("tq2", "TQ2_0"),
            ("mxfp-4", "MXFP4"),
            ("nv_fp4", "NVFP4"),
        ] {
            assert_eq!(Dtype::nearest_name(typed), meant, "{typed}");
        }
    }
}
