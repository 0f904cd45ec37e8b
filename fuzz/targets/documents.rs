//! Any bytes are a file of documents (text, JSON Lines, parquet; plain or packed) or are refused. The first byte says how
//! the rest is to be read.
#![no_main]

use recipe::{Data, Format, Source};
use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder of this process; in memory where the system has one there.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let parent = if PathBuf::from("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let folder = parent.join(format!("slm-fuzz-documents-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the input");
    folder
});

/// The parquet reader catches its library's panics, but libFuzzer's hook would end the process before it can. A panic
/// that nobody catches still ends it.
static NO_HOOK: LazyLock<()> = LazyLock::new(|| std::panic::set_hook(Box::new(|_| {})));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    LazyLock::force(&NO_HOOK);
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let format = [Format::Text, Format::Jsonl, Format::Parquet][usize::from(kind % 3)];
    let ending = ["", ".gz", ".zst"][usize::from(kind / 3 % 3)];
    let path = FOLDER.join(format!("input{ending}"));
    std::fs::write(&path, bytes).expect("room for the input");
    let source = Source { name: "fuzz".into(), files: vec![path.display().to_string()], format, ..Source::default() };
    let data = Data { sources: vec![source], ..Data::default() };
    if let Ok(mut texts) = data::sample_texts(&data, 1 << 20, None) {
        let read: usize = texts.by_ref().map(|text| text.len()).sum();
        let _ = (read, texts.finish());
    }
});
