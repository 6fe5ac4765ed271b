//! The book has a page for every command, with its flags and exit codes.

use std::path::Path;

use crate::{json, memwall};

/// Flags that mean the same everywhere, as the page of the command itself says.
const EVERYWHERE: [&str; 4] = ["--help", "--version", "--json", "--threads"];

fn help(args: &[&str]) -> String {
    String::from_utf8(memwall(args).stdout).unwrap()
}

/// The first words of the lines under `Commands:`.
fn commands() -> Vec<String> {
    let help = help(&["--help"]);
    let lines = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    lines.filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help").map(str::to_string).collect()
}

/// The long flags of a command.
fn flags(command: &str) -> Vec<String> {
    let help = help(&[command, "--help"]);
    let lines = help.lines().map(str::trim_start).filter(|l| l.starts_with('-'));
    let long =
        |l: &str| l.split_whitespace().find(|w| w.starts_with("--")).map(|w| w.trim_end_matches(',').to_string());
    lines.filter_map(long).collect()
}

#[test]
fn every_command_has_a_page_with_its_flags_and_exit_codes() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/commands");
    let commands = commands();
    assert!(commands.len() >= 10, "{commands:?}");
    // Options of operators are documented by the command itself.
    let listed = json(&["op", "--list", "--json"]).to_string();
    let mut missing = Vec::new();
    for command in commands {
        let path = pages.join(format!("{command}.md"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(page.contains("Exit codes:"), "{command}.md names no exit codes");
        for flag in flags(&command).into_iter().filter(|f| !EVERYWHERE.contains(&f.as_str())) {
            let by_list = command == "op" && listed.contains(&format!("\"{flag}\""));
            if !(by_list || page.contains(&flag)) {
                missing.push(format!("{command} {flag}"));
            }
        }
    }
    assert!(missing.is_empty(), "flags without a word on their page: {}", missing.join(", "));
}
