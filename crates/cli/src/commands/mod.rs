//! The subcommands, one file each.

pub mod bench;
pub mod chat;
pub mod compare;
pub mod eval;
pub mod fit;
pub mod op;
pub mod quantize;
pub mod reproduce;
pub mod run;
pub mod show;
pub mod simulate;
pub mod tokenize;
pub mod train;
mod train_progress;

use std::io;
use std::process::ExitCode;

/// Writes completions for `shell`.
pub fn completions<C: clap::CommandFactory>(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics when its output is closed.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut C::command(), "memwall", &mut text);
    io::Write::write_all(&mut io::stdout(), &text)?;
    Ok(ExitCode::SUCCESS)
}
