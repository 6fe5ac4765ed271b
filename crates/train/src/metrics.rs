//! `metrics.jsonl`: a line a step, each exactly once, whatever happened in between.
//!
//! A line reaches the operating system as a whole before the next step begins, and the disk before a
//! checkpoint of that step does. A training that resumes drops the lines beyond its checkpoint: it makes
//! them again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The lines of a training, open for writing and locked against another training.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

#[derive(Deserialize)]
struct Step {
    step: u64,
}

impl Metrics {
    /// Opens the file, which one training at a time may do.
    pub(crate) fn open(path: &Path) -> io::Result<Metrics> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let what =
                    "another training writes to this folder; wait for its end, or name another folder with --out";
                Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
            }
            // A file system without locks: nothing can be said.
            Err(TryLockError::Error(_)) | Ok(()) => Ok(Metrics { path: path.into(), file }),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the lines of the first `steps` steps and drops what comes after them.
    pub(crate) fn keep(&mut self, steps: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let (mut reader, mut line, mut end) = (BufReader::new(&self.file), Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            let whole = line.ends_with(b"\n");
            let step = serde_json::from_slice::<Step>(&line).ok().filter(|_| whole);
            if step.is_none_or(|s| s.step > steps) {
                break;
            }
            end += read as u64;
        }
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end)).map(drop)
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Waits until the lines are on the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_checkpoint_and_half_lines_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |step: u64| serde_json::json!({"step": step, "loss": 0.5});
        for (written, keep, want) in [("", 0, 0), ("", 3, 3), ("{\"step\":9", 9, 5), ("{\"ste", 5, 5), ("", 9, 5)] {
            std::fs::write(&path, "").unwrap();
            let mut metrics = Metrics::open(&path).unwrap();
            (1..=5).for_each(|step| metrics.add(&line(step)).unwrap());
            metrics.file.write_all(written.as_bytes()).unwrap();
            metrics.keep(keep).unwrap();
            metrics.add(&line(want + 1)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let steps: Vec<u64> =
                text.lines().map(|l| serde_json::from_str::<Step>(l).expect("a whole line").step).collect();
            assert_eq!(steps, (1..=want + 1).collect::<Vec<_>>(), "{written:?}, {keep}");
        }
    }

    #[test]
    fn two_trainings_do_not_write_to_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let first = Metrics::open(&path).unwrap();
        assert!(Metrics::open(&path).unwrap_err().to_string().contains("another training"));
        drop(first);
        Metrics::open(&path).unwrap();
    }
}
