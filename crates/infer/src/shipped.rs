//! The model that ships inside the program.

use crate::{InferError, Model};

/// Its bytes, aligned as kernels want them; GGUF aligns tensors relative to the file's begin.
static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/memwall-books.gguf"));

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

impl Model {
    /// Opens the model that ships.
    ///
    /// # Errors
    /// If the file that was built in is damaged.
    pub fn shipped() -> Result<Model, InferError> {
        Model::from_static("memwall's own model", &BYTES.0)
    }
}
