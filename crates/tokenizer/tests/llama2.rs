//! The Llama-2 vocabulary, where the shared models are at hand.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use tokenizer::Tokenizer;

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

fn llama2() -> Option<Tokenizer> {
    Some(Tokenizer::load(&shared("models/llama2-tokenizer/tokenizer.model")?).unwrap())
}

#[test]
fn known_ids() {
    let Some(llama2) = llama2() else { return };
    assert_eq!(llama2.vocab_size(), 32_000);
    assert_eq!((llama2.bos(), llama2.eos(), llama2.unknown()), (Some(1), Some(2), Some(0)));
    assert_eq!(llama2.encode("Hello world"), [15043, 3186]);
    assert!(llama2.encode("").is_empty());
    assert_eq!(llama2.encode_with_specials("<s>Hello</s>"), [1, 15043, 2]);
    assert!(!llama2.encode("<s>Hello</s>").contains(&1));
    for text in [" ", "  a", "a ", "\n", "\r\n\0\u{FEFF}", "<0x0A>", "<s>", "😀 é", "日本"] {
        assert_eq!(llama2.decode(&llama2.encode(text)), text, "{text:?}");
    }
}
