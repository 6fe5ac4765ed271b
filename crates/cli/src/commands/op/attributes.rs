//! The options of operators: one list, from which flags, their help and the refusal of strangers are made.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::operator::Operator;

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On if the flag is there.
    Switch,
    /// A whole number from 0 on.
    Count,
    /// Any finite number.
    Number,
    /// A word, or JSON.
    Text,
}

/// An option of one or more operators.
pub struct Attribute {
    /// The flag without its dashes.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What it does, and its default.
    pub about: &'static str,
}

const fn attribute(name: &'static str, kind: Kind, about: &'static str) -> Attribute {
    Attribute { name, kind, about }
}

/// Every option, by name.
pub const ALL: &[Attribute] = &[
    attribute("a-trans", Kind::Switch, "a is stored transposed"),
    attribute("b-trans", Kind::Switch, "b is stored transposed"),
    attribute("beta1", Kind::Number, "decay of the first moment, in [0, 1); 0.9 if absent"),
    attribute("beta2", Kind::Number, "decay of the second moment, in [0, 1); 0.95 if absent"),
    attribute("block-cols", Kind::Count, "keys in a block of the mask; if absent, the mask spans the longest sequence"),
    attribute(
        "block-rows",
        Kind::Count,
        "queries in a block of the mask; if absent, the mask spans the longest sequence",
    ),
    attribute("cache", Kind::Text, "how a cache stores keys and values: f32 (if absent), f16, bf16 or q8_0"),
    attribute("causal", Kind::Switch, "a query sees keys up to its own position, aligned at the bottom right"),
    attribute("chunk", Kind::Count, "tokens of a chunk, a multiple of 16; 64 if absent"),
    attribute("columns", Kind::Switch, "blocks lie down the columns, not along the rows"),
    attribute("config", Kind::Text, "a layer's configuration as JSON, with the keys of a recipe"),
    attribute("constant", Kind::Number, "the constant of the function; required"),
    attribute("dropout", Kind::Number, "share of attention weights that is dropped, in [0, 1); 0 if absent"),
    attribute("eps", Kind::Number, "ε; 1e-5 if absent, for adamw 1e-8"),
    attribute("format", Kind::Text, "a number format, e.g. q4_k; required"),
    attribute("from", Kind::Count, "the first channel; required"),
    attribute("gradient-scale", Kind::Number, "what gradients are multiplied by first; 1 if absent"),
    attribute("growing-gates", Kind::Switch, "allows log-gates above 0, under which the state grows"),
    attribute("heads", Kind::Count, "how many heads; required"),
    attribute("interleaved", Kind::Switch, "channels 2i and 2i + 1 are a pair, rather than i and i + half"),
    attribute("learning-rate", Kind::Number, "η; required"),
    attribute("num-iter", Kind::Count, "steps of the iteration; 30 if absent"),
    attribute(
        "quantizer",
        Kind::Text,
        "what numbers are rounded to, format or format:span, e.g. ternary, int8:row, int4:group32, mxfp4, Q4_K; required",
    ),
    attribute("reached", Kind::Switch, "the gradient is 0 where the format clips; it passes everywhere if absent"),
    attribute("ridge-strength", Kind::Number, "a, the ridge as a share of the norm of H, above 0; 0.02 if absent"),
    attribute("rotary-dim", Kind::Count, "channels that are turned, an even number; all if absent"),
    attribute("scale", Kind::Number, "factor of the products of queries and keys; 1/√K if absent"),
    attribute(
        "scaling",
        Kind::Text,
        "how longer contexts are reached, as JSON: {\"kind\": \"linear\", \"factor\": 4}, llama3, yarn",
    ),
    attribute("seed", Kind::Count, "which weights dropout drops; 0 if absent"),
    attribute("silu", Kind::Switch, "SiLU after the convolution"),
    attribute("slots", Kind::Count, "E, tokens that the buffer holds, at least 1; required with a buffer"),
    attribute("softcap", Kind::Number, "c: scores become c·tanh(score/c); none if absent"),
    attribute("step", Kind::Count, "t, from 1 on; 1 if absent"),
    attribute("temperature", Kind::Number, "τ of the comparison within the teacher's ids, above 0; 1 if absent"),
    attribute("theta", Kind::Number, "base of the frequencies; 10000 if absent"),
    attribute("threshold", Kind::Number, "tokens of lower scores do not enter the buffer; all may if absent"),
    attribute("weight-decay", Kind::Number, "λ; 0 if absent"),
    attribute(
        "weight-format",
        Kind::Text,
        "the weight is stored in this format first, and not trained; as given if absent",
    ),
    attribute("width", Kind::Count, "how many channels; required"),
    attribute("window", Kind::Count, "W: a query sees its own token and the W − 1 before it, at least 1; required"),
    attribute(
        "window-left",
        Kind::Count,
        "a query at position p sees keys from p − this on, included; no bound if absent",
    ),
    attribute(
        "window-right",
        Kind::Count,
        "a query at position p sees keys up to p + this, included; no bound if absent",
    ),
];

/// The options that were given, by name.
#[derive(Clone, Debug, Default)]
pub struct Attributes(BTreeMap<&'static str, String>);

impl clap::Args for Attributes {
    fn augment_args(command: Command) -> Command {
        let command = command.next_help_heading("Options of operators (op --list says which has which)");
        ALL.iter().fold(command, |command, a| {
            let arg = Arg::new(a.name).long(a.name).help(a.about);
            command.arg(match a.kind {
                Kind::Switch => arg.action(ArgAction::SetTrue),
                Kind::Count => arg.value_name("N").value_parser(count),
                Kind::Number => arg.value_name("X").allow_negative_numbers(true).value_parser(number),
                Kind::Text => arg.value_name("TEXT"),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn count(text: &str) -> Result<String, String> {
    match text.parse::<u64>() {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("a whole number from 0 on is needed".into()),
    }
}

fn number(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(text.into()),
        _ => Err("a finite number is needed".into()),
    }
}

impl clap::FromArgMatches for Attributes {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |a: &'static Attribute| match a.kind {
            Kind::Switch => matches.get_flag(a.name).then(|| (a.name, String::new())),
            _ => matches.get_one::<String>(a.name).map(|text| (a.name, text.clone())),
        };
        Ok(Attributes(ALL.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Attributes {
    /// Refuses options that the operator does not have.
    ///
    /// # Errors
    /// Names the flag, and those that the operator has.
    pub fn check(&self, operator: &Operator) -> anyhow::Result<()> {
        let Some(stranger) = self.0.keys().find(|name| !operator.attributes.contains(*name)) else { return Ok(()) };
        let has: Vec<String> = operator.attributes.iter().map(|name| format!("--{name}")).collect();
        let has = if has.is_empty() { "no options".to_string() } else { has.join(", ") };
        bail!("--{stranger}: {} does not have it; it has {has}", operator.name)
    }

    /// Whether a switch is on.
    pub fn switch(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A word, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A whole number, if given.
    pub fn count<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// A number, if given.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok()
    }

    /// The value of an option that must be there.
    ///
    /// # Errors
    /// Names the flag.
    pub fn required<T>(&self, name: &str, value: Option<T>) -> anyhow::Result<T> {
        value.ok_or_else(|| anyhow::anyhow!("--{name} is missing"))
    }
}
