//! The tokenizer against its references, against itself, and against bad files.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod golden;
mod llama2;
mod properties;
mod refusals;
mod roundtrip;

use std::path::{Path, PathBuf};

/// A file of the folder `shared` beside the repository, or of `SLM_SHARED`.
fn shared(path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("shared"));
    let found = std::env::var_os("SLM_SHARED").map(PathBuf::from).into_iter().chain(beside);
    let found = found.map(|root| root.join(path)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: {path} is in no folder `shared` beside the repository; set SLM_SHARED to it");
    }
    found
}

/// A file of `tests/golden`, made by `tests/golden/make_tokenizer.py` of the repository.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Documents to train small vocabularies on.
fn documents() -> impl Iterator<Item = String> {
    let words = "the cat sat on a mat and then the other cat thought about it; naïve café 日本 def f(x): return x + 42";
    let words: Vec<&str> = words.split(' ').collect();
    (0..400usize).map(move |at| {
        let word = |step: usize| words[(at * step + at / 7 + step) % words.len()];
        format!("{} {}\n    {} {}  {}", word(3), word(5), word(7), word(11), word(13))
    })
}
