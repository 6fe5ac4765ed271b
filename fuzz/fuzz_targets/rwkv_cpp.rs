//! Any bytes read as an rwkv.cpp checkpoint give tensors that lie in them one after the other, or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use memwall_fuzz::bounded;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = bounded(bytes.len(), || memwall_formats::rwkv_cpp::parse(Path::new("fuzz.bin"), bytes)) {
        let mut end = 24;
        for tensor in &header.tensors {
            assert!(tensor.offset > end && tensor.offset + tensor.bytes <= bytes.len() as u64);
            end = tensor.offset + tensor.bytes;
        }
        assert_eq!(end, bytes.len() as u64);
    }
});
