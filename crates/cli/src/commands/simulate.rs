//! `memwall simulate`: what a modelled machine costs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use memwall_hardware::mac_gates::{Accumulator, Gates, Mac, Operand};
use serde_json::{Value, json};

/// A modelled machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MachineName {
    /// Gates of a multiply-accumulate unit for INT8 and every FP8
    MacGates,
}

/// Arguments of `memwall simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine
    #[arg(long, value_enum, value_name = "NAME")]
    machine: MachineName,
    /// Bits above the largest product in a fixed-point accumulator
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    headroom: u32,
    /// Gates of a cell of an array multiplier
    #[arg(long, value_name = "GATES", default_value_t = Gates::default().multiplier_cell)]
    multiplier_cell: f64,
    /// Gates of a bit of an adder
    #[arg(long, value_name = "GATES", default_value_t = Gates::default().adder_bit)]
    adder_bit: f64,
    /// Gates of a multiplexer of two inputs
    #[arg(long, value_name = "GATES", default_value_t = Gates::default().multiplexer)]
    multiplexer: f64,
    /// Gates of a bit of a leading-zero counter
    #[arg(long, value_name = "GATES", default_value_t = Gates::default().zero_counter_bit)]
    zero_counter_bit: f64,
    /// Gates of a bit of an incrementer
    #[arg(long, value_name = "GATES", default_value_t = Gates::default().incrementer_bit)]
    incrementer_bit: f64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the machine's costs.
///
/// # Errors
/// If a constant is no cost, or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let MachineName::MacGates = args.machine;
    let gates = Gates {
        multiplier_cell: args.multiplier_cell,
        adder_bit: args.adder_bit,
        multiplexer: args.multiplexer,
        zero_counter_bit: args.zero_counter_bit,
        incrementer_bit: args.incrementer_bit,
    };
    let fixed = Accumulator::Fixed { headroom: args.headroom };
    let int8 = gates.mac(Operand::Int8, fixed).context("--machine mac-gates")?;
    let mut macs = vec![int8.clone()];
    for operand in &Operand::ALL[1..] {
        for accumulator in [Accumulator::FP16, Accumulator::FP32, fixed] {
            macs.push(gates.mac(*operand, accumulator).context("--machine mac-gates")?);
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let units: Vec<Value> = macs.iter().map(|mac| unit(mac, int8.gates())).collect();
        writeln!(out, "{}", json!({ "machine": "mac-gates", "gates": gates, "units": units }))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{:6} {:>12} {:>7} {:>8}  parts", "unit", "accumulator", "gates", "/ INT8")?;
    for mac in &macs {
        let parts: Vec<String> =
            mac.parts.iter().map(|p| format!("{} ({} bits) {:.0}", p.name, p.bits, p.gates)).collect();
        let ratio = mac.gates() / int8.gates();
        let (operand, accumulator) = (mac.operand, mac.accumulator);
        writeln!(out, "{operand:6} {accumulator:>12} {:>7.0} {ratio:>8.2}  {}", mac.gates(), parts.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unit(mac: &Mac, int8: f64) -> Value {
    json!({
        "operand": mac.operand.to_string(),
        "accumulator": mac.accumulator.to_string(),
        "gates": mac.gates(),
        "ratio_to_int8": mac.gates() / int8,
        "parts": mac.parts,
    })
}
