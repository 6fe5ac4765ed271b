//! On a disk that is full, or a folder that cannot be written, the old file stays and the error says what happened.
//!
//! Needs the right to mount a small file system (Linux, root); says so and passes without.

#![cfg(target_os = "linux")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use memwall_formats::{
    Dtype, atomic_file,
    gguf::{self, Metadata, TensorPlan},
};

/// A mounted tmpfs, unmounted when dropped.
struct Mount<'p>(&'p Path);

impl<'p> Mount<'p> {
    fn new(path: &'p Path, options: &str) -> Option<Mount<'p>> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a tmpfs needs root, so a full disk cannot be made here");
        }
        mounted.then_some(Mount(path))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(folder.path(), "size=64k") else { return };
    let path = folder.path().join("model.gguf");
    atomic_file::write(&path, b"the old model").unwrap();

    let error = atomic_file::write(&path, &vec![1; 1 << 20]).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("No space left"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"the old model");

    let plan = TensorPlan { name: "w".into(), dtype: Dtype::F32, shape: vec![1 << 18] };
    let mut writer = gguf::Writer::create(&path, &Metadata::new(&path), vec![plan]).unwrap();
    let error = writer.write(&vec![0; 1 << 20]).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("No space left"), "{error}");
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"the old model");
    assert_eq!(names(folder.path()), ["model.gguf"]);

    // Bytes still in the buffer when the disk fills up are found out by `commit`.
    let small = vec![2; 60 << 10];
    atomic_file::write(folder.path().join("filler"), &small).unwrap();
    let error = atomic_file::write(&path, &small).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"the old model");

    mount.remount("ro");
    let error = atomic_file::write(&path, b"new").unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("Read-only"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"the old model");
}
