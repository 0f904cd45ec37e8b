//! Ids of small vocabularies, as SentencePiece and `tokenizers` give them.

use serde_json::Value;
use tokenizer::Tokenizer;

use crate::{documents, golden};

fn check(name: &str, tokenizer: &Tokenizer, vectors: &Value) {
    let texts = vectors["texts"].as_array().unwrap();
    let all_ids = vectors[name].as_array().unwrap();
    assert!(texts.len() == all_ids.len() && texts.len() > 150);
    for (text, ids) in texts.iter().zip(all_ids) {
        let text = text.as_str().unwrap();
        let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode(text), ids, "{name}: {text:?}");
    }
}

#[test]
fn ids_equal_the_references() {
    let vectors: Value = serde_json::from_slice(&std::fs::read(golden("vectors.json")).unwrap()).unwrap();
    for name in ["small.model", "spaced.json", "bytes.json"] {
        check(name, &Tokenizer::load(&golden(name)).unwrap(), &vectors);
    }
}

#[test]
fn a_saved_model_encodes_equally_and_has_the_same_hash() {
    let vectors: Value = serde_json::from_slice(&std::fs::read(golden("vectors.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let small = Tokenizer::load(&golden("small.model")).unwrap();
    small.save(folder.path()).unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("tokenizer.model")).unwrap(),
        std::fs::read(golden("small.model")).unwrap()
    );
    let saved = Tokenizer::load(folder.path()).unwrap();
    assert_eq!((saved.hash(), saved.bos(), saved.eos()), (small.hash(), small.bos(), small.eos()));
    check("small.model", &saved, &vectors);
}

/// The library that vocabularies are usually trained with learns the same one from the same words.
#[test]
fn training_learns_what_tokenizers_learns() {
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{AddedToken, Tokenizer as Reference};

    let options = tokenizer::TrainOptions::new(tokenizer::Kind::ByteLevel, 400);
    let ours = tokenizer::train(&options, &mut documents(), &|_| ()).unwrap();
    let mut reference = Reference::new(BPE::default());
    reference.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    let trainer = BpeTrainer::builder()
        .vocab_size(400)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    reference.train(&mut TrainerWrapper::from(trainer), documents()).unwrap();
    let theirs = reference.get_vocab(true);
    assert_eq!(theirs.len(), ours.vocab_size());
    for id in 0..ours.vocab_size() as u32 {
        assert_eq!(theirs.get(ours.token_text(id).unwrap()), Some(&id));
    }
}
