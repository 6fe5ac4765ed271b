//! What one reproduction reports: the JSON line of `memwall reproduce`, field by field.
//!
//! [`Report`] is the contract with other programs; [`Record`], the file in `results/`, is the same
//! object with the [`Evidence`] behind it.

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;

/// How many seeds, steps and sizes a claim runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Seconds: shows that the wiring works and gives no verdict.
    Smoke,
    /// Minutes on two processors: gives the verdict.
    Desk,
    /// For a GPU or a large machine.
    Full,
}

impl std::fmt::Display for Scale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Scale::Smoke => "smoke",
            Scale::Desk => "desk",
            Scale::Full => "full",
        })
    }
}

impl std::str::FromStr for Scale {
    type Err = crate::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "smoke" => Ok(Scale::Smoke),
            "desk" => Ok(Scale::Desk),
            "full" => Ok(Scale::Full),
            _ => Err(crate::Error::UnknownScale(text.to_owned())),
        }
    }
}

/// How a figure is made of what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// ours / baseline.
    Ratio,
    /// ours − baseline.
    Difference,
    /// ours alone.
    Value,
}

impl Kind {
    /// The figure of one seed; `baseline` is ignored for [`Kind::Value`].
    pub fn figure(self, baseline: f64, ours: f64) -> f64 {
        match self {
            Kind::Ratio => ours / baseline,
            Kind::Difference => ours - baseline,
            Kind::Value => ours,
        }
    }

    /// The figure that says "no effect": 1 for a ratio, 0 for a difference.
    pub fn neutral(self) -> Option<f64> {
        match self {
            Kind::Ratio => Some(1.0),
            Kind::Difference => Some(0.0),
            Kind::Value => None,
        }
    }
}

/// A comparison with a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// At least.
    #[serde(rename = ">=")]
    AtLeast,
    /// More than.
    #[serde(rename = ">")]
    MoreThan,
    /// At most.
    #[serde(rename = "<=")]
    AtMost,
    /// Less than.
    #[serde(rename = "<")]
    LessThan,
    /// Exactly.
    #[serde(rename = "==")]
    Exactly,
}

impl Op {
    /// The sign as it is written in the report.
    pub fn sign(self) -> &'static str {
        match self {
            Op::AtLeast => ">=",
            Op::MoreThan => ">",
            Op::AtMost => "<=",
            Op::LessThan => "<",
            Op::Exactly => "==",
        }
    }
}

/// What a figure must meet; written before the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// The comparison.
    pub op: Op,
    /// The value, in the check's unit.
    pub value: f64,
}

impl Bar {
    /// `figure >= value`.
    pub const fn at_least(value: f64) -> Self {
        Bar { op: Op::AtLeast, value }
    }

    /// `figure > value`.
    pub const fn more_than(value: f64) -> Self {
        Bar { op: Op::MoreThan, value }
    }

    /// `figure <= value`.
    pub const fn at_most(value: f64) -> Self {
        Bar { op: Op::AtMost, value }
    }

    /// `figure < value`.
    pub const fn less_than(value: f64) -> Self {
        Bar { op: Op::LessThan, value }
    }

    /// `figure == value`.
    pub const fn exactly(value: f64) -> Self {
        Bar { op: Op::Exactly, value }
    }

    /// Whether `figure` meets the bar; a figure that is not finite meets none.
    pub fn met_by(self, figure: f64) -> bool {
        figure.is_finite()
            && match self.op {
                Op::AtLeast => figure >= self.value,
                Op::MoreThan => figure > self.value,
                Op::AtMost => figure <= self.value,
                Op::LessThan => figure < self.value,
                Op::Exactly => figure == self.value,
            }
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.op.sign(), self.value)
    }
}

/// One check of a claim, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// What was measured.
    pub what: String,
    /// How the figure is made.
    pub kind: Kind,
    /// The baseline of the median seed; `null` for a value.
    pub baseline: Option<f64>,
    /// Ours, of the median seed.
    #[serde(with = "null_is_nan")]
    pub ours: f64,
    /// The median over the seeds, attained by the seed whose `baseline` and `ours` stand above.
    #[serde(with = "null_is_nan")]
    pub figure: f64,
    /// The figure of each seed, in the order of the seeds.
    #[serde(with = "null_is_nan::list")]
    pub per_seed: Vec<f64>,
    /// The unit of what was measured.
    pub unit: String,
    /// What the median must meet.
    pub bar: Bar,
    /// Whether the median meets the bar and every seed has the right sign.
    pub holds: bool,
}

/// The control that must fail: the mechanism switched off, or a model deliberately damaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FalsifierReport {
    /// What was switched off or damaged.
    pub what: String,
    /// The median over the seeds of the figure of the check it stands against.
    #[serde(with = "null_is_nan")]
    pub figure: f64,
    /// The bar of that check.
    pub bar: Bar,
    /// Whether the figure is finite and misses the bar.
    pub fails_as_it_must: bool,
}

/// What a run says of its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Every check holds, and the falsifier fails as it must.
    #[serde(rename = "holds")]
    Holds,
    /// A check does not hold, or the falsifier passes.
    #[serde(rename = "does not hold")]
    DoesNotHold,
    /// The scale was smoke: no verdict.
    #[serde(rename = "smoke")]
    Smoke,
}

impl Verdict {
    /// The exit code of the command: 1 where the verdict failed.
    pub fn exit_code(self) -> u8 {
        u8::from(self == Verdict::DoesNotHold)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Holds => "holds",
            Verdict::DoesNotHold => "does not hold",
            Verdict::Smoke => "smoke",
        })
    }
}

/// The JSON line of one reproduction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The system's number, 1 to 54.
    pub system: u8,
    /// The system's name, as `memwall reproduce` takes it.
    pub name: String,
    /// The scale of the run.
    pub scale: Scale,
    /// The seeds, in the order of `per_seed`.
    pub seeds: Vec<u64>,
    /// Every check that the claim declares.
    pub checks: Vec<CheckReport>,
    /// The control that must fail.
    pub falsifier: FalsifierReport,
    /// What the run says of the claim.
    pub verdict: Verdict,
    /// Wall-clock seconds of the whole run.
    pub seconds: f64,
    /// The process's largest resident set during the run, in bytes.
    pub peak_bytes: u64,
    /// Processor, number of processors, instruction set, memory.
    pub machine: String,
    /// The version of memwall.
    pub version: String,
    /// SHA-256 of the claim's source file.
    pub source_hash: String,
}

/// The file in `results/`: the report, and the evidence behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The report.
    #[serde(flatten)]
    pub report: Report,
    /// What was measured and tried.
    pub evidence: Evidence,
}

/// JSON has no NaN: a figure that is not finite is written as `null` and read back as NaN.
pub(crate) mod null_is_nan {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
    }

    pub mod list {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        pub fn serialize<S: Serializer>(values: &[f64], s: S) -> Result<S::Ok, S::Error> {
            let values: Vec<Option<f64>> = values.iter().map(|v| v.is_finite().then_some(*v)).collect();
            values.serialize(s)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
            let values = Vec::<Option<f64>>::deserialize(d)?;
            Ok(values.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
        }
    }
}
