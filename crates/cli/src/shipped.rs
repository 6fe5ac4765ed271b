//! The model that ships inside the command, if the repository had one when it was built.

use anyhow::bail;
use memwall_infer::Model;

/// Its bytes, aligned as kernels want them; GGUF aligns tensors relative to the file's begin.
#[cfg(shipped_model)]
static BYTES: Option<&[u8]> = {
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);
    static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/memwall-books.gguf"));
    Some(&FILE.0)
};
#[cfg(not(shipped_model))]
static BYTES: Option<&[u8]> = None;

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
