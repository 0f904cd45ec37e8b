//! The same tokenizer through every file format: equal hashes, equal ids.

use formats::gguf;
use tokenizer::{Kind, Tokenizer, TrainOptions, train};

use crate::{documents, golden, shared};

fn through_files(tokenizer: &Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let saved = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(saved.hash(), tokenizer.hash());
    assert_eq!((saved.bos(), saved.eos(), saved.unknown()), (tokenizer.bos(), tokenizer.eos(), tokenizer.unknown()));
    assert_eq!((saved.adds_bos(), saved.adds_eos()), (tokenizer.adds_bos(), tokenizer.adds_eos()));

    for tokenizer in [tokenizer, &saved] {
        let file = folder.path().join("vocabulary.gguf");
        gguf::write(&file, &tokenizer.gguf_entries().unwrap(), &[]).unwrap();
        let read = Tokenizer::load(&file).unwrap();
        assert_eq!(read.hash(), tokenizer.hash());
        assert_eq!((read.bos(), read.eos(), read.adds_bos()), (tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()));
        let text = " the cat  thought\n\n<s> 42 naïve 🦀";
        assert_eq!(read.encode(text), tokenizer.encode(text));
        assert_eq!(read.encode_with_specials(text), tokenizer.encode_with_specials(text));
    }
}

#[test]
fn trained_vocabularies() {
    for kind in [Kind::ByteLevel, Kind::SentencePieceStyle] {
        through_files(&train(&TrainOptions::new(kind, 400), &mut documents(), &|_| ()).unwrap());
    }
}

#[test]
fn loaded_vocabularies() {
    through_files(&Tokenizer::load(&golden("small.model")).unwrap());
    let Some(llama2) = shared("models/llama2-tokenizer/tokenizer.model") else { return };
    through_files(&Tokenizer::load(&llama2).unwrap());
    let Some(stories) = shared("models/stories260k/tok512.bin") else { return };
    through_files(&Tokenizer::load(&stories).unwrap());
}

#[test]
fn a_chat_template_beside_the_vocabulary_survives() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::copy(golden("bytes.json"), from.join("tokenizer.json")).unwrap();
    let settings = r#"{"eos_token": {"content": "<|end|>"}, "bos_token": null, "chat_template": "{{ messages }}"}"#;
    std::fs::write(from.join("tokenizer_config.json"), settings).unwrap();
    let tokenizer = Tokenizer::load(&from).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, tokenizer.special_id("<|end|>")));
    tokenizer.save(&to).unwrap();
    assert_eq!(std::fs::read_to_string(to.join("tokenizer_config.json")).unwrap(), settings);
}
