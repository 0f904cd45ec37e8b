//! What holds for every text.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use tokenizer::{Kind, Tokenizer, TrainOptions, train};

use crate::{documents, golden};

/// One tokenizer of each kind that this crate makes or reads; all of them spell every byte.
static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let trained = |kind| train(&TrainOptions::new(kind, 400), &mut documents(), &|_| ()).unwrap();
    vec![
        trained(Kind::ByteLevel),
        trained(Kind::SentencePieceStyle),
        Tokenizer::load(&golden("small.model")).unwrap(),
        Tokenizer::load(&golden("bytes.json")).unwrap(),
    ]
});

/// Texts of ordinary words, odd characters and spellings of tokens; without `▁`, which is a space in some vocabularies.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ a-z]{0,8}",
        "\\PC{0,4}",
        any::<char>().prop_map(String::from),
        Just(" ".to_owned()),
        Just("\r\n\0\u{FEFF}".to_owned()),
        Just("<s></s><unk><0x0A><|end|><|endoftext|>".to_owned()),
        Just("👩\u{200D}👧é".to_owned()),
    ];
    vec(part, 0..8).prop_map(|parts| parts.concat().replace('\u{2581}', ""))
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in texts()) {
        for tokenizer in TOKENIZERS.iter() {
            let ids = tokenizer.encode(&text);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            prop_assert_eq!(&tokenizer.decode(&ids), &text);
            prop_assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
            let ids = tokenizer.encode_continuation(&text);
            prop_assert_eq!(&tokenizer.decode_continuation(&ids), &text);
        }
    }

    #[test]
    fn a_stream_gives_what_decoding_gives(ids in vec(0u32..800, 0..40)) {
        for tokenizer in TOKENIZERS.iter() {
            let (mut stream, mut continuation) = (tokenizer.stream(), tokenizer.stream_continuation());
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, tokenizer.decode(&ids));
            let mut text: String = ids.iter().map(|&id| continuation.push(id)).collect();
            text.push_str(&continuation.finish());
            prop_assert_eq!(text, tokenizer.decode_continuation(&ids));
        }
    }

    #[test]
    fn specials_in_a_text_are_found(text in texts()) {
        for tokenizer in TOKENIZERS.iter() {
            let ids = tokenizer.encode_with_specials(&text);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

#[test]
fn a_long_text_has_the_ids_of_its_parts() {
    for tokenizer in TOKENIZERS.iter() {
        let sentence = " the cat sat; naïve 42 日本\n\n\tand  then";
        let long = sentence.repeat(4_000);
        let ids = tokenizer.encode_continuation(&long);
        assert_eq!(tokenizer.decode_continuation(&ids), long);
        assert_eq!(ids, tokenizer.encode_continuation(sentence).repeat(4_000));
    }
}

#[test]
fn a_character_appears_when_its_last_byte_does() {
    let tokenizer = &TOKENIZERS[1];
    let ids = tokenizer.encode("🦀!");
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pieces.iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(), ["🦀", "!"]);
    let mut cut = tokenizer.stream();
    assert!(ids[..4].iter().all(|&id| cut.push(id).is_empty()));
    assert_eq!(cut.finish(), "\u{FFFD}");
}

#[test]
fn training_is_deterministic_and_holds_to_its_size() {
    for kind in [Kind::ByteLevel, Kind::SentencePieceStyle] {
        let options = TrainOptions::new(kind, 320);
        let hashes: Vec<String> =
            (0..3).map(|_| train(&options, &mut documents(), &|_| ()).unwrap().hash().to_owned()).collect();
        assert!(hashes[0] == hashes[1] && hashes[1] == hashes[2]);
        let size = train(&options, &mut documents(), &|_| ()).unwrap().vocab_size();
        assert!((315..=320).contains(&size), "{kind:?} {size}");
    }
}
