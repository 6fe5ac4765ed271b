//! The laws catch what they are there for: each tier here breaks one of them.

use memwall_store::{Budget, Counters, Extents, Guard, Ram, TensorId, Tier, TierError, laws};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// One thing that a tier does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// One bit of one tensor differs.
    WrongBit,
    /// The last byte of a tensor is missing.
    ShortTensor,
    /// Reads that are counted twice.
    CountsTooMuch,
    /// Reads that are not counted.
    CountsNothing,
    /// Gets that are not counted.
    ForgetsGets,
    /// The file is read when a tensor is asked for, whatever it holds by then.
    ReadsLate,
    /// Checksums are not looked at.
    IgnoresChecksums,
    /// An unknown tensor is empty.
    EmptyForUnknown,
    /// Weights that the budget does not know of.
    TakesNothing,
    /// A guard whose bytes are given back while it lives.
    GivesBackEarly,
    /// A short file is padded with zeros.
    PadsShortFiles,
}

struct Broken {
    ram: Ram,
    extents: Extents,
    fault: Fault,
    _early: Option<memwall_store::Reservation>,
}

fn make(fault: Fault, extents: &Extents, budget: &Budget) -> Result<Arc<dyn Tier>, TierError> {
    let mut given = extents.clone();
    if fault == Fault::IgnoresChecksums {
        given.tensors.iter_mut().for_each(|tensor| tensor.checksum = None);
    }
    if fault == Fault::PadsShortFiles {
        for tensor in &mut given.tensors {
            tensor.checksum = None;
            let len = std::fs::metadata(&given.files[tensor.file]).map_or(0, |m| m.len());
            tensor.bytes = tensor.bytes.min(len.saturating_sub(tensor.offset) as usize);
            tensor.offset = tensor.offset.min(len);
        }
    }
    let hidden = Budget::unlimited();
    let (ram, early) = match fault {
        Fault::TakesNothing => (Ram::load(&hidden, &given)?, None),
        Fault::GivesBackEarly => {
            let ram = Ram::load(&hidden, &given)?;
            (ram, Some(budget.take("weights", hidden.held())?))
        }
        _ => (Ram::load(budget, &given)?, None),
    };
    Ok(Arc::new(Broken { ram, extents: extents.clone(), fault, _early: early }))
}

fn owned(bytes: Vec<u8>) -> Guard {
    let range = 0..bytes.len();
    Guard::new(Arc::new(bytes), range)
}

impl Tier for Broken {
    fn tensors(&self) -> usize {
        self.ram.tensors()
    }

    fn get(&self, id: TensorId) -> Result<Guard, TierError> {
        if self.fault == Fault::EmptyForUnknown && id.0 >= self.tensors() {
            return Ok(owned(Vec::new()));
        }
        let guard = self.ram.get(id)?;
        Ok(match self.fault {
            Fault::WrongBit if id.0 == 6 => {
                let mut bytes = guard.to_vec();
                bytes[70_000] ^= 0x10;
                owned(bytes)
            }
            Fault::ShortTensor if id.0 == 6 => owned(guard[..guard.len() - 1].to_vec()),
            Fault::ReadsLate => {
                let tensor = &self.extents.tensors[id.0];
                let file = std::fs::read(&self.extents.files[tensor.file]).unwrap_or_default();
                let end = file.len().min(tensor.offset as usize + tensor.bytes);
                owned(file[(tensor.offset as usize).min(end)..end].to_vec())
            }
            _ => guard,
        })
    }

    fn prefetch(&self, id: TensorId) -> Result<(), TierError> {
        if self.fault == Fault::EmptyForUnknown { Ok(()) } else { self.ram.prefetch(id) }
    }

    fn counters(&self) -> Counters {
        let mut counters = self.ram.counters();
        match self.fault {
            Fault::CountsTooMuch => counters.bytes_read *= 2,
            Fault::CountsNothing => counters.bytes_read = 0,
            Fault::ForgetsGets => counters.gets /= 2,
            // Its late reads are counted right, so that only the file's change gives it away.
            Fault::ReadsLate => {
                let file = |file: &Path| std::fs::metadata(file).map_or(0, |m| m.len());
                let sizes: Vec<u64> = self.extents.files.iter().map(|path| file(path)).collect();
                counters.bytes_read += self.extents.tensors.iter().map(|tensor| sizes[tensor.file]).sum::<u64>();
            }
            _ => {}
        }
        counters
    }
}

#[test]
fn a_tier_without_fault_passes() {
    laws::tier(&|extents, budget| make(Fault::None, extents, budget));
}

#[test]
#[cfg(target_os = "linux")]
fn every_fault_is_caught_by_a_law() {
    let faults = [
        (Fault::WrongBit, "tensor 6 has the bytes of its file"),
        (Fault::ShortTensor, "tensor 6 has the bytes of its file"),
        (Fault::CountsTooMuch, "bytes read are those of the system's read calls"),
        (Fault::CountsNothing, "bytes read are those of the system's read calls"),
        (Fault::ForgetsGets, "every get is counted"),
        (Fault::ReadsLate, "a file truncated after opening gives an error or the right bytes"),
        (Fault::IgnoresChecksums, "a wrong checksum is an error"),
        (Fault::EmptyForUnknown, "unknown ids are errors"),
        (Fault::TakesNothing, "weights are taken from the budget"),
        (Fault::GivesBackEarly, "what a guard keeps in memory stays counted"),
        (Fault::PadsShortFiles, "a truncated file is refused at opening"),
    ];
    for (fault, law) in faults {
        let run = AssertUnwindSafe(|| laws::tier(&|extents, budget| make(fault, extents, budget)));
        let caught = catch_unwind(run).expect_err(&format!("{fault:?} passes all laws"));
        let shown = caught.downcast_ref::<String>().cloned();
        let shown = shown.or(caught.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
        assert!(shown.contains(law), "{fault:?} was caught by another law: {shown}");
    }
}
