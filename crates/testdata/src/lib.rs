//! For tests only: where the shared data sets are, what a test does without them, and tiny models with reference
//! outputs ([`model_folder`]).
//!
//! Data sets are large, carry licences of their own, and are not part of the repository. A test
//! that needs one asks [`data`] for it and returns when there is none:
//!
//! ```
//! # fn a_test() {
//! let Some(model) = memwall_testdata::data("models-llama2c/stories260K-restored.bin") else { return };
//! # let _ = model;
//! # }
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `MEMWALL_DATA` | the folder that holds the data sets; unset: tests that need one skip |
//! | `MEMWALL_DATA_REQUIRED` | `1`: a test that would skip fails instead, so that "all passed" means all ran |

pub mod model_folder;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The folder of the data sets, or `None` when `MEMWALL_DATA` is unset.
///
/// A relative folder counts from the workspace root, where the command is typed: `cargo test` runs
/// each test in its own crate's folder.
pub fn folder() -> Option<PathBuf> {
    folder_of(env::var_os("MEMWALL_DATA"))
}

/// The path of `name` under `MEMWALL_DATA`, or `None` (and a line on standard error) when the
/// variable is unset.
///
/// # Panics
/// When the variable is set and `name` is not there, and when `MEMWALL_DATA_REQUIRED` is `1` and
/// `MEMWALL_DATA` is unset: a test must not pass because its data were mislaid.
#[track_caller]
pub fn data(name: &str) -> Option<PathBuf> {
    let required = env::var_os("MEMWALL_DATA_REQUIRED").is_some_and(|v| v == "1");
    match find(folder(), required, name) {
        Ok(path) => Some(path),
        Err(Absent::Skip) => {
            eprintln!("skipped: set MEMWALL_DATA to the data sets' folder; this test reads {name}");
            None
        }
        Err(Absent::Fail(why)) => panic!("{why}"),
    }
}

fn folder_of(variable: Option<OsString>) -> Option<PathBuf> {
    let folder = variable.filter(|f| !f.is_empty())?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Some(root.join(folder))
}

#[derive(Debug, PartialEq)]
enum Absent {
    Skip,
    Fail(String),
}

fn find(folder: Option<PathBuf>, required: bool, name: &str) -> Result<PathBuf, Absent> {
    let Some(folder) = folder else {
        return Err(if required {
            Absent::Fail(format!("MEMWALL_DATA_REQUIRED=1 but MEMWALL_DATA is unset: {name} cannot be read"))
        } else {
            Absent::Skip
        });
    };
    let path = folder.join(name);
    if path.exists() { Ok(path) } else { Err(Absent::Fail(format!("MEMWALL_DATA={} has no {name}", folder.display()))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_variable_a_test_skips() {
        assert_eq!(find(None, false, "x"), Err(Absent::Skip));
        assert_eq!(folder_of(None), None);
        assert_eq!(folder_of(Some("".into())), None);
    }

    #[test]
    fn without_the_variable_a_required_test_fails() {
        let Err(Absent::Fail(why)) = find(None, true, "text/a.txt") else {
            panic!("skipped although data are required")
        };
        assert!(why.contains("text/a.txt") && why.contains("MEMWALL_DATA"));
    }

    #[test]
    fn a_mislaid_file_fails_by_name() {
        let here = env!("CARGO_MANIFEST_DIR");
        assert!(find(Some(here.into()), false, "Cargo.toml").is_ok());
        let Err(Absent::Fail(why)) = find(Some(here.into()), false, "absent.bin") else {
            panic!("a missing file passed")
        };
        assert!(why.contains("absent.bin"));
    }

    #[test]
    fn a_relative_folder_counts_from_the_workspace_root() {
        let folder = folder_of(Some("crates/testdata".into())).unwrap();
        assert!(folder.join("src/lib.rs").exists());
        assert_eq!(folder_of(Some("/data".into())), Some("/data".into()));
    }
}
