//! Any bytes are a manifest of token shards or are refused; a manifest can be hashed and counted.
#![no_main]

use data::{Manifest, Part};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_bytes(bytes) {
        let _ = (manifest.content_hash(), manifest.tokens(Part::Train), manifest.documents(Part::Validation));
        let _ = (manifest.bytes_per_token(Part::Train), manifest.check("", 1));
    }
});
