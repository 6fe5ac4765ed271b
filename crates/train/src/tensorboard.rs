//! TensorBoard event files: the scalars of each step, one record an event.
//!
//! A record is TFRecord's frame, all little-endian: u64 length, u32 masked CRC-32C of the length, the
//! bytes, u32 masked CRC-32C of the bytes. The bytes are a protobuf `Event` (tensorflow/core/util/event.proto).
//! Each run of a training writes a file of its own; its first event tells readers to forget what an
//! earlier run, which did not come to its checkpoint, wrote from this step on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// `SessionLog.SessionStatus.START`.
const SESSION_START: u64 = 1;

/// An event file being written; each record reaches the operating system before the call returns.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a file in `folder` for the steps after `step`.
    pub(crate) fn create(folder: &Path, step: u64) -> io::Result<EventFile> {
        let begin = now();
        let mut count = 0;
        let (path, file) = loop {
            let name = format!("events.out.tfevents.{:010}.memwall.{:010}.{count}", begin as u64, std::process::id());
            let path = folder.join(name);
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => count += 1,
                Err(e) => return Err(e),
            }
        };
        let mut events = EventFile { path, file };
        let mut version = Message::default();
        version.double(1, begin).bytes(3, b"brain.Event:2");
        events.put(&version)?;
        let (mut session, mut start) = (Message::default(), Message::default());
        session.varint(1, SESSION_START);
        start.double(1, begin).varint(2, step + 1).bytes(7, &session.0);
        events.put(&start)?;
        Ok(events)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// One event with these scalars.
    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes()).float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::default();
        event.double(1, now()).varint(2, step).bytes(5, &summary.0);
        self.put(&event)
    }

    fn put(&mut self, event: &Message) -> io::Result<()> {
        self.file.write_all(&record(&event.0))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// TFRecord's frame around `data`.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
    frame.extend_from_slice(data);
    frame.extend_from_slice(&masked_crc(data).to_le_bytes());
    frame
}

/// CRC-32C, turned and shifted so that a checksum of data with checksums in it stays a good one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protobuf message: fields by number.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u32, wire_type: u32) {
        self.raw_varint(u64::from(field << 3 | wire_type));
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u32, value: u64) -> &mut Message {
        self.key(field, 0);
        self.raw_varint(value);
        self
    }

    fn double(&mut self, field: u32, value: f64) -> &mut Message {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn float(&mut self, field: u32, value: f32) -> &mut Message {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Message {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_bytes_that_tensorboard_writes() {
        let (mut loss, mut norm) = (Message::default(), Message::default());
        loss.bytes(1, b"loss").float(2, 2.5);
        norm.bytes(1, b"gradient_norm").float(2, 0.125);
        let (mut summary, mut event) = (Message::default(), Message::default());
        summary.bytes(1, &loss.0).bytes(1, &norm.0);
        event.double(1, 1.5).varint(2, 300).bytes(5, &summary.0);
        // Event(wall_time=1.5, step=300, summary=…) through the writer of the Python package tensorboard.
        let want = "31000000000000009d8383e909000000000000f83f10ac022a230a0b0a046c6f7373150000204\
                    00a140a0d6772616469656e745f6e6f726d150000003eee831ef4";
        let hex: String = record(&event.0).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, want);
    }

    #[test]
    fn each_run_has_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 0).unwrap();
        let second = EventFile::create(folder.path(), 7).unwrap();
        assert_ne!(first.path(), second.path());
        assert!(std::fs::metadata(second.path()).unwrap().len() > 40);
    }
}
