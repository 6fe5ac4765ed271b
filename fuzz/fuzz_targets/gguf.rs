//! Any bytes read as GGUF give a header whose tensors lie in them, or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use memwall_fuzz::bounded;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = bounded(bytes.len(), || memwall_formats::gguf::parse(Path::new("fuzz.gguf"), bytes)) {
        for tensor in &header.tensors {
            assert!(tensor.bytes == 0 || tensor.offset + tensor.bytes <= bytes.len() as u64);
            assert_eq!(
                tensor.elements() / tensor.dtype.block_len() * tensor.dtype.block_bytes(),
                tensor.bytes as usize
            );
        }
    }
});
