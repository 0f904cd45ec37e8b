//! Any bytes are a GGUF file or are refused; a file's blocks decode.
#![no_main]

use formats::{gguf::Header, quant};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse("fuzz.gguf".as_ref(), bytes) {
        for tensor in header.tensors() {
            let size = quant::tensor_bytes(tensor.encoding, &tensor.shape).expect("checked by the reader");
            quant::decode_all(tensor.encoding, &bytes[bytes.len() - size..]).expect("whole blocks");
        }
    }
});
