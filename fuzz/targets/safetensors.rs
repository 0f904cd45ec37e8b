//! Any bytes are a safetensors file, an index of shards, or are refused.
#![no_main]

use formats::safetensors::{check, check_index};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = check("fuzz.safetensors".as_ref(), bytes);
    let _ = check_index("fuzz.safetensors.index.json".as_ref(), bytes);
});
