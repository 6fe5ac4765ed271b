//! memwall trains and runs sequence models inside the memory you have.
//!
//! The command: parses, calls, prints. Each subcommand is a file in `commands`.

mod commands;
mod interrupt;
mod load;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use memwall_infer::InferError;

/// Trains and runs sequence models inside the memory you have.
#[derive(Debug, Parser)]
#[command(name = "memwall", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 a verdict or comparison failed; 2 an error.\n\
    Sizes: 64MiB, 1.5GiB, 512KB (decimal), or bytes. NO_COLOR turns colours off.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what a model needs, and what fits into a number of bytes; reads its header only
    Fit(commands::fit::Args),
    /// Plan, and generate text: from a prompt, a file, or in a conversation
    Run(commands::run::Args),
    /// Print the token ids of a text, as the model sees them
    Tokenize(commands::tokenize::Args),
    /// Train a model by a recipe; resume where it stopped
    Train(commands::train::Args),
    /// Train mixers under one budget, and compare them on a task
    Compare(commands::compare::Args),
    /// Run the claim of a system as an experiment, against its baseline
    Reproduce(commands::reproduce::Args),
    /// Measure this machine's limits, kernels, or a model
    Bench(commands::bench::Args),
    /// Measure how well a model predicts a text, alone or against another model
    Eval(commands::eval::Args),
    /// Write a model in another number format, and say what it costs
    Quantize(commands::quantize::Args),
    /// Cost of a modelled machine
    Simulate(commands::simulate::Args),
    /// Run one operator, mixer or number format on tensors of a file
    Op(commands::op::Args),
    /// Show what a model, checkpoint, recipe, plan or result holds, or draw the memory of a step
    Show(commands::show::Args),
    /// Write the shell's completions to standard output
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Fit(args) => commands::fit::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Tokenize(args) => commands::tokenize::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Reproduce(args) => commands::reproduce::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Quantize(args) => commands::quantize::run(&args),
        Command::Simulate(args) => commands::simulate::run(&args),
        Command::Op(args) => commands::op::run(&args),
        Command::Show(args) => commands::show::run(&args),
        Command::Completions { shell } => commands::completions::<Cli>(shell),
    };
    match done {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memwall: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whoever read our output has enough of it.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = match cause.downcast_ref::<InferError>() {
            Some(InferError::Output(io)) => Some(io),
            _ => cause.downcast_ref::<std::io::Error>(),
        };
        io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
