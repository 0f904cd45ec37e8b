//! Any bytes are the header of a token shard or are refused; a header comes back as it was.
#![no_main]

use data::ShardHeader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = ShardHeader::parse(bytes) {
        assert_eq!(header.to_bytes(), bytes[..header.to_bytes().len()]);
        assert!(header.file_bytes() > 0);
    }
});
