//! Files that appear whole or not at all.
//!
//! What is written goes to a temporary file in the same folder, is synced, then renamed over the name wanted, and the
//! folder is synced: a crash, a full disk or a kill at any moment leaves either the old file or the new one. Every
//! writer of memwall goes through here.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use thiserror::Error;

/// A file could not be written; what had its name before is still there, unchanged.
#[derive(Debug, Error)]
#[error("{}: cannot {action}: {source}; the file of that name, if there was one, is unchanged", path.display())]
pub struct WriteError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What failed: `create a temporary file beside it`, `write`, `sync`, `rename into place`, …
    pub action: &'static str,
    /// The operating system's word.
    #[source]
    pub source: io::Error,
}

/// A file being written under a temporary name; [`AtomicFile::commit`] gives it its own, dropping it removes it.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts to write `path`. Symbolic links are followed: the file that they point to is the one replaced.
    ///
    /// # Errors
    /// When the folder is missing or not writable, or `path` is a folder.
    pub fn create(path: impl AsRef<Path>) -> Result<AtomicFile, WriteError> {
        let path = path.as_ref();
        let fail = |action, source| WriteError { path: path.to_path_buf(), action, source };
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if target.is_dir() {
            return Err(fail("replace a folder by a file", io::ErrorKind::IsADirectory.into()));
        }
        let Some(name) = target.file_name() else {
            return Err(fail("find a file name in the path", io::ErrorKind::InvalidInput.into()));
        };
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let mut hidden = hidden_prefix(name);
            hidden.push(format!("{}-{count}{UNFINISHED}", std::process::id()));
            let temporary = target.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    return Ok(AtomicFile { target, temporary, writer: Some(BufWriter::with_capacity(1 << 18, file)) });
                }
                // Left by a killed process that had the same number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(fail("create a temporary file beside it", e)),
            }
        }
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Syncs, renames into place, and syncs the folder.
    ///
    /// # Errors
    /// When any of that fails; the temporary file is then removed.
    pub fn commit(mut self) -> Result<(), WriteError> {
        let fail = |action, source| WriteError { path: self.target.clone(), action, source };
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let file = writer.into_inner().map_err(|e| fail("write", e.into_error()))?;
        if let Ok(old) = fs::metadata(&self.target) {
            file.set_permissions(old.permissions()).map_err(|e| fail("keep the permissions", e))?;
        }
        file.sync_all().map_err(|e| fail("sync", e))?;
        drop(file);
        fs::rename(&self.temporary, &self.target).map_err(|e| fail("rename into place", e))?;
        self.temporary = PathBuf::new();
        sync_folder(&self.target).map_err(|e| fail("sync the folder", e))
    }

    fn open(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.writer.as_mut().ok_or_else(|| io::Error::other("the file is already in place"))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.open()?.seek(to)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            drop(writer.into_parts());
        }
        if !self.temporary.as_os_str().is_empty() {
            // Nothing to tell anyone: the file is hidden and the error that led here is already on its way.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a whole file from a slice.
///
/// # Errors
/// As [`AtomicFile::create`] and [`AtomicFile::commit`], or when the disk is full.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), WriteError> {
    let mut file = AtomicFile::create(&path)?;
    file.write_all(bytes).map_err(|source| WriteError {
        path: path.as_ref().to_path_buf(),
        action: "write",
        source,
    })?;
    file.commit()
}

/// How the names of temporary files end.
const UNFINISHED: &str = ".part";

/// How the names of the temporary files of a file begin.
fn hidden_prefix(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden
}

/// Removes what killed processes have left of a file that they were writing; how many there were.
///
/// Only for a file that nobody is writing now: see to that by a lock.
///
/// # Errors
/// When the folder cannot be listed, or a file not be removed.
pub fn remove_unfinished(path: impl AsRef<Path>) -> io::Result<usize> {
    let path = path.as_ref();
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let Some(name) = target.file_name() else { return Ok(0) };
    let prefix = hidden_prefix(name);
    let mut removed = 0;
    for entry in fs::read_dir(folder_of(&target))? {
        let entry = entry?;
        let (found, wanted) = (entry.file_name(), prefix.as_encoded_bytes());
        let bytes = found.as_encoded_bytes();
        if bytes.starts_with(wanted) && bytes.ends_with(UNFINISHED.as_bytes()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_file: &Path) -> io::Result<()> {
    Ok(()) // other systems order the rename themselves and cannot open folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn the_new_file_replaces_the_old_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, b"old").unwrap();
        write(&path, b"new and longer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new and longer");
        assert_eq!(names(folder.path()), ["weights"]);
    }

    #[test]
    fn a_dropped_file_leaves_the_old_one_and_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["weights"]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, b"good").unwrap();
        // A killed process drops nothing.
        std::mem::forget(AtomicFile::create(&path).unwrap());
        fs::write(folder.path().join("weights.part"), b"").unwrap();
        assert_eq!(names(folder.path()).len(), 3);
        assert_eq!(remove_unfinished(&path).unwrap(), 1);
        assert_eq!(names(folder.path()), ["weights", "weights.part"]);
        assert_eq!(remove_unfinished(&path).unwrap(), 0);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path().join("absent/weights"), b"x").unwrap_err().to_string();
        assert!(error.contains("absent/weights") && error.contains("create a temporary file"), "{error}");
    }

    #[test]
    fn a_folder_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("replace a folder"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
