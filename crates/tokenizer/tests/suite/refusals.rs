//! Bad files are refused in one sentence, and nothing panics.

use formats::gguf;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizer::{Kind, Tokenizer, TrainOptions, train};

use crate::{documents, golden};

fn refusal(value: &Value) -> String {
    Tokenizer::from_json_bytes(value.to_string().as_bytes()).unwrap_err().to_string()
}

fn bytes_json() -> Value {
    serde_json::from_slice(&std::fs::read(golden("bytes.json")).unwrap()).unwrap()
}

#[test]
fn json_is_refused_by_name() {
    let changed = |pointer: &str, to: Value| {
        let mut value = bytes_json();
        *value.pointer_mut(pointer).unwrap() = to;
        refusal(&value)
    };
    assert!(
        Tokenizer::from_json_bytes(b"{\"a\": ")
            .unwrap_err()
            .to_string()
            .starts_with("not valid JSON at line 1, column 6")
    );
    assert!(refusal(&json!([])).contains("`(top level)` is not an object"));
    assert!(changed("/model/type", json!("Unigram")).starts_with("a Unigram model, and only BPE is read"));
    assert!(
        changed("/model/merges/0", json!(["Ġ", "nowhere"]))
            .contains("merge 0 is `[\"Ġ\",\"nowhere\"]`, which is not two pieces")
    );
    assert!(changed("/model/merges/0", json!("Ġ zz")).contains("merge 0"));
    assert!(changed("/model/vocab", json!({})).contains("merge 0"));
    assert!(changed("/model/vocab/a", json!(4_000_000_000u32)).starts_with("id 4000000000 is named"));
    assert!(changed("/model/vocab/a", json!(9)).contains("share the id 9"));
    assert!(changed("/pre_tokenizer/type", json!("Whitespace")).contains("`pre_tokenizer` is Whitespace"));
    assert!(changed("/added_tokens/0/id", json!("x")).contains("`added_tokens[].id` is not an id"));
}

#[test]
fn models_are_refused_by_name() {
    let model = std::fs::read(golden("small.model")).unwrap();
    let refused = |bytes: &[u8]| Tokenizer::from_model_bytes(bytes).unwrap_err().to_string();
    assert!(refused(b"").contains("SentencePiece unigram"));
    assert!(refused(&model[..100]).starts_with("byte "), "{}", refused(&model[..100]));
    // Normalizer fields on end: the last one of a kind counts. 3: normalizer_spec, 4: remove_extra_whitespaces.
    let with = |tail: &[u8]| refused(&[&model[..], tail].concat());
    assert!(with(&[0x1A, 2, 0x20, 1]).contains("`remove_extra_whitespaces` is true, and only false is reproduced"));
    assert!(with(&[0x1A, 4, 0x12, 2, 1, 2]).contains("`normalizer_spec`"));
    assert!(with(&[0x12, 2, 0x18, 1]).contains("a SentencePiece unigram model"));
    assert!(with(&[0x0A, 5, 0x0A, 1, b'q', 0x18, 4]).contains("`piece` is type 4"));
    assert!(with(&[0x0A, 2, 0x0A, 9]).contains("a field is longer than what is left"));
}

type Change = fn(&mut gguf::Value);

/// What is said of a vocabulary in a GGUF file after a change of one key's value.
fn gguf_refusal(tokenizer: &Tokenizer, key: &str, change: Change) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.gguf");
    let mut entries = tokenizer.gguf_entries().unwrap();
    let key = format!("tokenizer.ggml.{key}");
    change(&mut entries.iter_mut().find(|(name, _)| *name == key).unwrap().1);
    gguf::write(&file, &entries, &[]).unwrap();
    let said = Tokenizer::load(&file).unwrap_err().to_string();
    said.strip_prefix(&format!("{}: ", file.display())).unwrap().to_owned()
}

/// Spells the piece for a newline otherwise.
fn respell(tokens: &mut gguf::Value, newline: &str) {
    let gguf::Value::Array(gguf::Array::Strings(pieces)) = tokens else { panic!("{tokens}") };
    let respelled = pieces.iter().map(|piece| if piece == "<0x0A>" { newline } else { piece }.to_owned());
    *tokens = respelled.collect::<Vec<_>>().into();
}

#[test]
fn vocabularies_in_gguf_are_refused_by_name() {
    let spaced = Tokenizer::load(&golden("small.model")).unwrap();
    let of_bytes = Tokenizer::load(&golden("bytes.json")).unwrap();
    let cases: [(&Tokenizer, &str, Change, &str); 13] = [
        (&spaced, "tokens", |v| respell(v, "<0x-1>"), "stands for a byte but is not spelled `<0xNN>`"),
        (&spaced, "tokens", |v| respell(v, "<0x100>"), "stands for a byte but is not spelled `<0xNN>`"),
        (&spaced, "tokens", |v| *v = 7u32.into(), "tokens` is missing or not an array of strings"),
        (&spaced, "bos_token_id", |v| *v = (-1i32).into(), "bos_token_id` is missing or not a whole number of 32 bits"),
        (&spaced, "eos_token_id", |v| *v = u32::MAX.into(), "id 4294967295 is named, but the ids are below"),
        (&spaced, "token_type", |v| *v = vec![1i32].into(), "1 token types for"),
        (
            &spaced,
            "token_type",
            |v| *v = gguf::Value::Array(gguf::Array::U64(vec![u64::MAX])),
            "not an array of integers",
        ),
        (&spaced, "scores", |v| *v = vec![0.5f32].into(), "1 scores for"),
        (&spaced, "scores", |v| *v = vec![f32::NAN; 700].into(), "the score of piece 0 is not a finite number"),
        (&spaced, "model", |v| *v = "bert".into(), "`tokenizer.ggml.model` is `bert`"),
        (&spaced, "add_bos_token", |v| *v = "yes".into(), "add_bos_token` is missing or not true or false"),
        (&of_bytes, "pre", |v| *v = "other".into(), "`tokenizer.ggml.pre` is `other`"),
        (&of_bytes, "merges", |v| *v = vec!["Ġ nowhere".to_owned()].into(), "merge 0 is `Ġ nowhere`"),
    ];
    for (tokenizer, key, change, named) in cases {
        let said = gguf_refusal(tokenizer, key, change);
        assert!(said.contains(named) && !said.contains('\n'), "{key}: {said}");
    }
}

#[test]
fn missing_files_and_empty_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("no tokenizer.json, tokenizer.model") && message.contains(folder.path().to_str().unwrap())
    );
    let message = Tokenizer::load(&folder.path().join("tokenizer.json")).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
}

#[test]
fn training_options_are_checked() {
    let message = |options: &TrainOptions| train(options, &mut documents(), &|_| ()).unwrap_err().to_string();
    let small = TrainOptions::new(Kind::SentencePieceStyle, 100);
    assert!(
        message(&small).starts_with("`vocab_size` is 100, but special tokens and single characters alone need 279")
    );
    let twice = TrainOptions { unknown: "<s>".into(), ..TrainOptions::new(Kind::SentencePieceStyle, 400) };
    assert!(message(&twice).starts_with("special token `<s>`"));
    let nothing = train(&TrainOptions::new(Kind::ByteLevel, 400), &mut std::iter::empty(), &|_| ());
    assert!(nothing.unwrap_err().to_string().starts_with("no text to train on"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A good file with some bytes changed or the end cut off loads or is refused; if it loads, it encodes.
    #[test]
    fn damaged_files_do_not_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in 0usize..40) {
        for name in ["small.model", "bytes.json", "spaced.json"] {
            let mut bytes = std::fs::read(golden(name)).unwrap();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(bytes.len() - cut / 4);
            let read = if name.ends_with("json") { Tokenizer::from_json_bytes(&bytes) } else { Tokenizer::from_model_bytes(&bytes) };
            if let Ok(tokenizer) = read {
                let ids = tokenizer.encode("the café <s> 42\n日本");
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                tokenizer.decode(&ids);
            }
        }
    }
}
