//! Any bytes read as a llama2.c checkpoint give tensors that lie in them, or an error; read as a llama2.c tokenizer they
//! give one that encodes, or an error.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use memwall_fuzz::bounded;
use memwall_tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = bounded(bytes.len(), || memwall_formats::llama2c::parse(Path::new("fuzz.bin"), bytes)) {
        for tensor in &header.tensors {
            assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_llama2c_bytes(Path::new("fuzz.bin"), bytes) {
        let ids = tokenizer.encode("a bé", true, true).expect("the vocabulary has all bytes");
        tokenizer.decode(&ids, true).expect("the ids are its own");
    }
});
