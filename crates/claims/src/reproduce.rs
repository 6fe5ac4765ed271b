//! One reproduction from end to end: run, measure, judge, write down.

use std::{path::Path, time::Instant};

use memwall_store::{ProcessMemory, reset_peak};
use sha2::{Digest, Sha256};

use crate::{
    Claim, Error, Run, machine,
    report::{Record, Report},
    results,
    run::{Progress, Settings},
    verdict::judge,
};

/// Runs `claim`, judges it, and at desk and full scale writes `NN-name.json` and `.svg` into
/// `results`.
///
/// # Errors
/// As [`Run::new`] and [`Claim::run`]; a measurement that the claim did not declare, or declared and
/// did not make; a result that cannot be written.
pub fn reproduce(
    claim: &dyn Claim,
    settings: &Settings,
    results: &Path,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Report, Error> {
    let about = claim.about();
    let run = Run::new(about, settings, progress)?;
    // Where the system refuses, the count goes on from the start of the process: never too small.
    let _ = reset_peak();
    let begin = Instant::now();
    let outcome = claim.run(&run)?;
    let seconds = begin.elapsed().as_secs_f64();
    let peak_bytes = ProcessMemory::read().map_or(0, |memory| memory.hwm as u64);
    let (checks, falsifier, verdict, evidence) = judge(about, settings.scale, settings.seeds.len(), outcome)?;
    let record = Record {
        report: Report {
            system: about.system,
            name: about.name.to_owned(),
            scale: settings.scale,
            seeds: settings.seeds.clone(),
            checks,
            falsifier,
            verdict,
            seconds,
            peak_bytes,
            machine: machine::describe(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source_hash: source_hash(about.source),
        },
        evidence,
    };
    if settings.scale != crate::Scale::Smoke {
        results::write(results, &record)?;
    }
    Ok(record.report)
}

/// SHA-256 of a claim's source, in hexadecimal; the same whatever line ends a checkout has.
pub fn source_hash(source: &str) -> String {
    Sha256::digest(source.replace("\r\n", "\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_hash_is_sha256_and_blind_to_line_ends() {
        assert_eq!(source_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(source_hash("a\r\nb"), source_hash("a\nb"));
    }
}
