//! The model that ships inside the command, if this build has one.

use anyhow::bail;
use memwall_infer::Model;

/// The bytes of the model, or `None` in a build without it.
const BYTES: Option<&[u8]> = None;

/// Opens it.
///
/// # Errors
/// If this build has none.
pub fn open() -> anyhow::Result<Model> {
    match BYTES {
        Some(bytes) => Ok(Model::from_static("memwall's own model", bytes)?),
        None => {
            bail!("MODEL is missing: this build ships no model; give a GGUF or llama2.c file, or a folder with one")
        }
    }
}
