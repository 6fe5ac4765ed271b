//! Names of quantizers: `format` or `format:span`, in any case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Codes, FLOATS, Quantizer, Span};
use crate::dtype::most_alike;
use crate::scaled::PowerRule;
use crate::{Dtype, element::Float};

/// Why a name is none, or a quantizer does not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantizerError {
    /// No format has the name.
    #[error("there is no format {name}; did you mean {nearest}? There are {}", names().join(", "))]
    Format {
        /// What was asked for.
        name: String,
        /// What is most like it.
        nearest: String,
    },
    /// The format is cut otherwise.
    #[error("{format} does not take the span {span:?}; it has {takes}")]
    Span {
        /// The format.
        format: String,
        /// What was asked for.
        span: String,
        /// What it takes.
        takes: &'static str,
    },
    /// Rows are no whole blocks.
    #[error("rows of {cols} values are no whole blocks of {block} as {quantizer} needs")]
    Ragged {
        /// The quantizer.
        quantizer: Quantizer,
        /// Values in a row.
        cols: usize,
        /// Values in a block.
        block: usize,
    },
}

/// What follows the colon.
const SPANS: &str = "tensor, row or groupN with N from 1 on, e.g. int4:group32";
const NV_SPANS: &str = "tensor, row, or block for no second scale";
const NO_SPANS: &str = "blocks of its own and none besides";

/// Every format that is no type of files, with the span where none is named.
fn own() -> impl Iterator<Item = (String, Codes, Span)> {
    let rules = [("", PowerRule::Floor), ("_ceil", PowerRule::Ceil)];
    let ternary = [("ternary", false), ("ternary_f16", true)];
    let ternary = ternary.into_iter().map(|(name, half)| (name.to_string(), Codes::Ternary { half }, Span::Tensor));
    let integers = (2..=8).rev().map(|bits| (format!("int{bits}"), Codes::Integer { bits }, Span::Row));
    let floats = FLOATS.into_iter().map(|(name, float)| (name.to_string(), Codes::Float(float), Span::Row));
    let mx_integers = [8, 6, 4].into_iter().flat_map(move |bits| {
        rules.map(|(end, rule)| (format!("mxint{bits}{end}"), Codes::MxInteger { bits, rule }, Span::Group(super::MX)))
    });
    let mx_name = |name: &str| if name == "fp4_e2m1" { "mxfp4".to_string() } else { format!("mx{name}") };
    let mx_floats = FLOATS.into_iter().flat_map(move |(name, float): (&str, Float)| {
        rules.map(|(end, rule)| (mx_name(name) + end, Codes::MxFloat(float, rule), Span::Group(super::MX)))
    });
    let nv = [("nvfp4", Codes::NvFloat), ("nvint4", Codes::NvInteger)];
    let nv = nv.into_iter().map(|(name, codes)| (name.to_string(), codes, Span::Tensor));
    ternary.chain(integers).chain(floats).chain(mx_integers).chain(mx_floats).chain(nv)
}

/// Types of files that are no plain numbers of 32 bits and more, and whose names no format above has.
fn stored() -> impl Iterator<Item = Dtype> {
    let plain = [Dtype::F32, Dtype::F64, Dtype::I32, Dtype::MXFP4, Dtype::NVFP4];
    Dtype::ALL.into_iter().filter(move |d| !plain.contains(d))
}

/// Every name.
fn names() -> Vec<String> {
    own().map(|(name, ..)| name).chain(stored().map(|d| d.name().to_string())).collect()
}

/// The name that begins so, or that is most like it.
fn nearest(name: &str) -> String {
    let begins =
        |whole: &String| !name.is_empty() && whole.to_ascii_lowercase().starts_with(&name.to_ascii_lowercase());
    names().into_iter().find(begins).unwrap_or_else(|| most_alike(name, names()))
}

impl Quantizer {
    /// Every quantizer with the span that it has where none is named.
    pub fn all() -> impl Iterator<Item = Quantizer> {
        own().map(|(_, codes, span)| Quantizer { codes, span }).chain(stored().map(Quantizer::stored))
    }

    fn format_name(&self) -> String {
        match self.codes {
            Codes::Stored(dtype) => dtype.name().to_string(),
            codes => own().find(|(_, other, _)| *other == codes).map(|(name, ..)| name).unwrap_or_default(),
        }
    }
}

impl FromStr for Quantizer {
    type Err = QuantizerError;

    fn from_str(text: &str) -> Result<Quantizer, QuantizerError> {
        let (name, span) = match text.split_once(':') {
            Some((name, span)) => (name, Some(span)),
            None => (text, None),
        };
        let refused = |takes| QuantizerError::Span {
            format: name.to_string(),
            span: span.unwrap_or_default().to_string(),
            takes,
        };
        if let Some((_, codes, default)) = own().find(|(own, ..)| own.eq_ignore_ascii_case(name)) {
            let takes = match codes {
                Codes::MxInteger { .. } | Codes::MxFloat(..) => NO_SPANS,
                Codes::NvFloat | Codes::NvInteger => NV_SPANS,
                _ => SPANS,
            };
            let Some(span) = span else { return Ok(Quantizer { codes, span: default }) };
            let group = || span.strip_prefix("group")?.parse().ok().filter(|n| *n > 0);
            let span = match (span, takes) {
                (_, NO_SPANS) => None,
                ("tensor", _) => Some(Span::Tensor),
                ("row", _) => Some(Span::Row),
                ("block", NV_SPANS) => Some(Span::Group(super::NV)),
                (_, SPANS) => group().map(Span::Group),
                _ => None,
            };
            return span.map(|span| Quantizer { codes, span }).ok_or_else(|| refused(takes));
        }
        match (stored().find(|d| d.name().eq_ignore_ascii_case(name)), span) {
            (Some(dtype), None) => Ok(Quantizer::stored(dtype)),
            (Some(_), Some(_)) => Err(refused(NO_SPANS)),
            (None, _) => Err(QuantizerError::Format { name: name.into(), nearest: nearest(name) }),
        }
    }
}

impl fmt::Display for Quantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.format_name();
        match (self.codes, self.span) {
            (Codes::MxInteger { .. } | Codes::MxFloat(..) | Codes::Stored(_), _) => f.pad(&name),
            (_, Span::Tensor) => f.pad(&format!("{name}:tensor")),
            (_, Span::Row) => f.pad(&format!("{name}:row")),
            (Codes::NvFloat | Codes::NvInteger, Span::Group(_)) => f.pad(&format!("{name}:block")),
            (_, Span::Group(n)) => f.pad(&format!("{name}:group{n}")),
        }
    }
}

impl Serialize for Quantizer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantizer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Quantizer, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_quantizer() {
        let spans = ["int8:tensor", "ternary:row", "INT4:group32", "fp8_e4m3:tensor", "nvfp4:block", "nvint4:row"];
        for q in Quantizer::all().map(|q| q.to_string()).chain(spans.map(str::to_string)) {
            let parsed: Quantizer = q.parse().unwrap_or_else(|e| panic!("{q}: {e}"));
            assert!(parsed.to_string().eq_ignore_ascii_case(&q), "{q} is {parsed}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_nearest() {
        let error = |text: &str| text.parse::<Quantizer>().expect_err(text).to_string();
        assert!(error("tenary").contains("did you mean ternary?"), "{}", error("tenary"));
        assert!(error("mxfp8").contains("did you mean mxfp8_e4m3"), "{}", error("mxfp8"));
        assert!(error("q4k").contains("did you mean Q4_K?"));
        assert!(error("int8:group0").contains("tensor, row or groupN"));
        assert!(error("int8:token").contains("tensor, row or groupN"));
        assert!(error("mxfp4:row").contains("blocks of its own"));
        assert!(error("Q4_0:row").contains("blocks of its own"));
        assert!(error("nvfp4:group8").contains("block for no second scale"));
    }
}
