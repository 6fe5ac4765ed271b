//! `results/`: what was last measured, one file a system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use memwall_formats::atomic_file;

use crate::{Error, plot, report::Record};

/// Writes `NN-name.json` and `NN-name.svg` into `folder`; a reader never sees half a file.
///
/// # Errors
/// [`Error::Io`], [`Error::Plot`].
pub fn write(folder: &Path, record: &Record) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let svg = path(folder, record, "svg");
    atomic_file::write(&svg, plot::draw(record, &svg)?.as_bytes())?;
    let json = path(folder, record, "json");
    let mut text = serde_json::to_string_pretty(record).map_err(|source| Error::Json { path: json.clone(), source })?;
    text.push('\n');
    Ok(atomic_file::write(&json, text.as_bytes())?)
}

/// Every result in `folder`, by rising number; none where there is no such folder.
///
/// # Errors
/// A file that cannot be read or does not hold a result.
pub fn read_all(folder: &Path) -> Result<Vec<Record>, Error> {
    let io_error = |source| Error::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(e)),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error)?.path();
        if path.extension().is_some_and(|e| e == "json") {
            records.push(read(&path)?);
        }
    }
    records.sort_by_key(|record| record.report.system);
    Ok(records)
}

/// The result in the file `path`.
///
/// # Errors
/// As [`read_all`].
pub fn read(path: &Path) -> Result<Record, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

fn path(folder: &Path, record: &Record, extension: &str) -> PathBuf {
    let report = &record.report;
    folder.join(format!("{:02}-{}.{extension}", report.system, report.name))
}
