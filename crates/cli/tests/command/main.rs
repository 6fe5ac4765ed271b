//! The command from outside: its contracts, and what it says of bad input.

mod bad_folder;
mod bad_input;
mod bench;
mod fit;
mod folder;
mod golden;
mod hub;
mod kill;
mod op;
mod op_bmojo;
mod pages;
mod quantize;
mod random_llama;
mod reproduce;
mod shipped;
mod show;
mod simulate;
mod tiny;
mod train;
mod training;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `memwall` with these arguments and an empty standard input.
fn memwall(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_memwall")).args(args).stdin(Stdio::null()).output().expect("the command starts")
}

/// The one JSON object of a run that must succeed.
fn json(args: &[&str]) -> Value {
    let output = memwall(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Runs what must be refused: exit code 2, no panic, and a message with each of `parts`.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let output = memwall(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{args:?}: no {part:?} in: {text}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|v| v.as_u64().expect("an id")).collect()
}
