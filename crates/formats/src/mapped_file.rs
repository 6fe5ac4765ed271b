//! A file as bytes in memory, read page by page when touched.
//!
//! The mapping is read-only and private. Nothing but the pages touched is read, so a header is read without its weights.

use std::{
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::container::FileError;

/// A read-only mapping of a whole file, or bytes that are part of the program.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl MappedFile {
    /// Maps a file. Memory is only used for the pages that are then read.
    ///
    /// # Errors
    /// When the file is missing, unreadable, a folder, or too large for the address space.
    pub fn open(path: impl AsRef<Path>) -> Result<MappedFile, FileError> {
        let path = path.as_ref();
        let io = |action| move |source| FileError::Io { file: path.to_path_buf(), action, source };
        let file = File::open(path).map_err(io("open"))?;
        if file.metadata().map_err(io("read the size of"))?.is_dir() {
            return Err(FileError::Io {
                file: path.to_path_buf(),
                action: "read a folder as a file:",
                source: std::io::ErrorKind::IsADirectory.into(),
            });
        }
        // SAFETY: the mapping is read-only, and we hand out its bytes as plain data only: no type with invalid bit
        // patterns is ever made from them. Another process that writes to the file while it is mapped changes the
        // values read (they are validated when parsed, and weights may be any value); one that truncates it ends this
        // process with SIGBUS, as with every program that maps its models.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        Ok(MappedFile { path: path.to_path_buf(), bytes: Bytes::Mapped(map) })
    }

    /// Bytes that are part of the program, under a name for messages.
    pub fn from_static(name: impl AsRef<Path>, bytes: &'static [u8]) -> MappedFile {
        MappedFile { path: name.as_ref().to_path_buf(), bytes: Bytes::Static(bytes) }
    }

    /// The bytes, if they are part of the program.
    pub fn embedded(&self) -> Option<&'static [u8]> {
        match self.bytes {
            Bytes::Mapped(_) => None,
            Bytes::Static(bytes) => Some(bytes),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(MappedFile::open(&path).unwrap().is_empty());
    }

    #[test]
    fn a_missing_file_and_a_folder_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = MappedFile::open(folder.path().join("absent.gguf")).unwrap_err().to_string();
        assert!(missing.contains("absent.gguf"), "{missing}");
        let is_folder = MappedFile::open(folder.path()).unwrap_err().to_string();
        assert!(is_folder.contains("folder"), "{is_folder}");
    }
}
