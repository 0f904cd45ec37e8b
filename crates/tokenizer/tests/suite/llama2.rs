//! The Llama-2 vocabulary, where the shared models are at hand.

use serde_json::Value;
use tokenizer::Tokenizer;

use crate::{golden, shared};

fn llama2() -> Option<Tokenizer> {
    Some(Tokenizer::load(&shared("models/llama2-tokenizer/tokenizer.model")?).unwrap())
}

#[test]
fn ids_equal_sentencepieces() {
    let Some(llama2) = llama2() else { return };
    assert_eq!(llama2.vocab_size(), 32_000);
    assert_eq!((llama2.bos(), llama2.eos(), llama2.unknown()), (Some(1), Some(2), Some(0)));
    let vectors: Value = serde_json::from_slice(&std::fs::read(golden("llama2.json")).unwrap()).unwrap();
    for (text, ids) in vectors["texts"].as_array().unwrap().iter().zip(vectors["ids"].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(llama2.encode(text), ids, "{text:?}");
        assert_eq!(llama2.decode(&ids), text.replace('\u{2581}', " "), "{text:?}");
    }
}

#[test]
fn specials_are_found_only_when_asked() {
    let Some(llama2) = llama2() else { return };
    assert_eq!(llama2.encode("Hello world"), [15043, 3186]);
    assert_eq!(llama2.encode_with_specials("<s>Hello</s>"), [1, 15043, 2]);
    assert!(!llama2.encode("<s>Hello</s>").contains(&1));
    assert_eq!(llama2.decode(&[1, 15043, 3186, 2]), "Hello world");
}

#[test]
fn a_continuation_keeps_its_space() {
    let Some(llama2) = llama2() else { return };
    let prompt = llama2.encode("The capital of France is");
    let whole = llama2.encode("The capital of France is Paris");
    let rest = &whole[prompt.len()..];
    assert_eq!(llama2.decode_continuation(rest), " Paris");
    assert_eq!(llama2.decode(rest), "Paris");
    assert_eq!(llama2.encode_continuation(" Paris"), rest);
    let mut stream = llama2.stream_continuation();
    assert_eq!(stream.push(rest[0]), " Paris");
}

#[test]
fn the_llama2c_vocabulary_is_read() {
    let Some(path) = shared("models/stories260k/tok512.bin") else { return };
    let tokenizer = Tokenizer::load(&path).unwrap();
    let text = "Once upon a time, there was a little girl named Lily.";
    let ids = tokenizer.encode(text);
    assert_eq!(ids[..4], [403, 407, 261, 378]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.decode(&ids)), (512, text.to_owned()));
}
