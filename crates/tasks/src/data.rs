//! Where data sets live: `--data`, else `MEMWALL_DATA`; what is missing is named, with where to get it.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// A public data set and the files that are used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataSet {
    /// Its name.
    pub name: &'static str,
    /// Paths under the folder of data sets.
    pub files: &'static [&'static str],
    /// Where to get it.
    pub source: &'static str,
    /// The licence it is under.
    pub licence: &'static str,
}

/// Plays of Shakespeare, 1.1 MB of ASCII.
pub const TINY_SHAKESPEARE: DataSet = DataSet {
    name: "tinyshakespeare",
    files: &["text/tinyshakespeare.txt"],
    source: "https://github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt",
    licence: "public domain text",
};

/// The first 90 % of War and Peace, 2.9 MB of UTF-8.
pub const WAR_AND_PEACE: DataSet = DataSet {
    name: "warpeace",
    files: &["text/warpeace-first90.txt"],
    source: "the first 2,876,569 bytes of https://github.com/ThingsOfBeam/Corpus, warpeace_input.txt, with CR line ends as LF \
             and without its byte order mark",
    licence: "public domain text",
};

/// 200 kB of stories for children in few words.
pub const TINY_STORIES_SAMPLE: DataSet = DataSet {
    name: "tinystories-sample",
    files: &["text/tinystories-sample.txt", "text/tinystories-sample-delimited.txt"],
    source: "https://github.com/Niklas6/Mini_GPT, tinystories.txt, and https://github.com/stanford-cs336/assignment1-basics, \
             tests/fixtures/tinystories_sample.txt",
    licence: "CDLA-Sharing-1.0",
};

/// The validation part of WikiText-2, words separated by spaces.
pub const WIKITEXT2_VALID: DataSet = DataSet {
    name: "wikitext2-valid",
    files: &["text/wikitext2-valid.txt"],
    source: "https://github.com/pytorch/examples, word_language_model/data/wikitext-2/valid.txt",
    licence: "CC BY-SA 3.0",
};

/// A Llama of 0.26 million weights in f32 that tells stories, as llama2.c stores it, and its tokenizer.
pub const AIDREAMS_260K: DataSet = DataSet {
    name: "aidreams260K",
    files: &["models-llama2c/aidreams260K.bin", "models-llama2c/aidreams260K-tok512.bin"],
    source: "https://github.com/mc9625/ai-dreamer-esp32-s3_matrix, data/aidreams260K.bin and data/tok512.bin",
    licence: "MIT according to its README",
};

/// The texts that are known by name.
pub const DATA_SETS: [DataSet; 4] = [TINY_SHAKESPEARE, WAR_AND_PEACE, TINY_STORIES_SAMPLE, WIKITEXT2_VALID];

/// A data set that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DataError {
    /// Nobody said where data sets live.
    #[error(
        "{name} is needed: set --data (or MEMWALL_DATA) to a folder that holds {}; get it from {source_} ({licence})",
        files.join(", ")
    )]
    NoFolder {
        /// The data set.
        name: &'static str,
        /// Its files.
        files: &'static [&'static str],
        /// Where to get it.
        source_: &'static str,
        /// Its licence.
        licence: &'static str,
    },
    /// The folder does not exist.
    #[error("{given_by}: {} is not a folder", path.display())]
    NotAFolder {
        /// `--data` or `MEMWALL_DATA`.
        given_by: &'static str,
        /// The path that it gives.
        path: PathBuf,
    },
    /// Files of the data set are missing.
    #[error("{name} is needed, but {} has no {}; get it from {source_} ({licence})", folder.display(), missing.join(", "))]
    Missing {
        /// The data set.
        name: &'static str,
        /// The folder of data sets.
        folder: PathBuf,
        /// The files that are missing.
        missing: Vec<&'static str>,
        /// Where to get it.
        source_: &'static str,
        /// Its licence.
        licence: &'static str,
    },
}

/// The folder of data sets, or nothing (the default) when nobody said where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataDir {
    folder: Option<PathBuf>,
}

impl DataDir {
    /// The folder of the flag `--data`, else of the variable `MEMWALL_DATA`, else none: what needs no data works without.
    ///
    /// # Errors
    /// When the path given is not a folder.
    pub fn find(flag: Option<&Path>) -> Result<DataDir, DataError> {
        DataDir::from_flag_or_variable(flag, std::env::var_os("MEMWALL_DATA").map(PathBuf::from))
    }

    fn from_flag_or_variable(flag: Option<&Path>, variable: Option<PathBuf>) -> Result<DataDir, DataError> {
        let variable = variable.filter(|path| !path.as_os_str().is_empty());
        let given = match (flag, variable) {
            (Some(flag), _) => Some(("--data", flag.to_path_buf())),
            (None, Some(variable)) => Some(("MEMWALL_DATA", variable)),
            (None, None) => None,
        };
        match given {
            Some((given_by, path)) if !path.is_dir() => Err(DataError::NotAFolder { given_by, path }),
            given => Ok(DataDir { folder: given.map(|(_, path)| path) }),
        }
    }

    /// The folder, if somebody said where it is.
    pub fn path(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The paths of the files of a data set, in its order.
    ///
    /// # Errors
    /// When there is no folder, or files are missing in it; the error says which, and where to get them.
    pub fn need(&self, set: &DataSet) -> Result<Vec<PathBuf>, DataError> {
        let &DataSet { name, files, source, licence } = set;
        let Some(folder) = &self.folder else {
            return Err(DataError::NoFolder { name, files, source_: source, licence });
        };
        let missing: Vec<&str> = files.iter().copied().filter(|file| !folder.join(file).is_file()).collect();
        if !missing.is_empty() {
            return Err(DataError::Missing { name, folder: folder.clone(), missing, source_: source, licence });
        }
        Ok(files.iter().map(|file| folder.join(file)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_comes_before_the_variable() {
        let (flag, variable) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let find = |f: Option<&Path>, v: Option<&Path>| DataDir::from_flag_or_variable(f, v.map(Path::to_path_buf));
        let both = find(Some(flag.path()), Some(variable.path())).unwrap();
        assert_eq!(both.folder.as_deref(), Some(flag.path()));
        assert_eq!(find(None, Some(variable.path())).unwrap().folder.as_deref(), Some(variable.path()));
        assert_eq!(find(None, Some(Path::new(""))).unwrap().folder, None);
        let error = find(Some(&flag.path().join("missing")), None).unwrap_err().to_string();
        assert!(error.starts_with("--data: ") && error.contains("missing"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named_with_where_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("text")).unwrap();
        std::fs::write(folder.path().join("text/tinystories-sample.txt"), "x").unwrap();
        let dir = DataDir::from_flag_or_variable(Some(folder.path()), None).unwrap();
        let error = dir.need(&TINY_STORIES_SAMPLE).unwrap_err().to_string();
        for part in
            ["tinystories-sample is needed", "no text/tinystories-sample-delimited.txt;", "stanford-cs336", "CDLA"]
        {
            assert!(error.contains(part), "{error}");
        }
        let nowhere = DataDir { folder: None }.need(&TINY_SHAKESPEARE).unwrap_err().to_string();
        for part in ["--data", "MEMWALL_DATA", "text/tinyshakespeare.txt", "karpathy/char-rnn"] {
            assert!(nowhere.contains(part), "{nowhere}");
        }
    }

    #[test]
    fn names_are_unique_and_files_stay_inside_the_folder() {
        for (i, set) in DATA_SETS.iter().enumerate() {
            assert!(DATA_SETS[..i].iter().all(|other| other.name != set.name));
            assert!(!set.files.is_empty() && set.files.iter().all(|f| Path::new(f).is_relative() && !f.contains("..")));
        }
    }
}
