//! Whether a draft speaks the target's language.

use crate::InferError;
use tokenizer::Tokenizer;

/// Checks that the ids which target and draft share stand for the same. Either may have further ids at its end (32 000
/// and 32 016 are such a pair): those only the target has end the drafting, those only the draft has are never
/// proposed.
///
/// # Errors
/// [`InferError::OtherVocabulary`] for the first id that differs.
pub fn check_vocabularies(target: &Tokenizer, draft: &Tokenizer) -> Result<(), InferError> {
    if target.hash() == draft.hash() {
        return Ok(());
    }
    let shared = target.vocab_size().min(draft.vocab_size());
    match (0..shared as u32).find(|&id| !same(target, draft, id)) {
        Some(id) => {
            let text = |tokenizer: &Tokenizer| tokenizer.token_text(id).unwrap_or_default().to_owned();
            Err(InferError::OtherVocabulary { id, draft: text(draft), target: text(target) })
        }
        None => Ok(()),
    }
}

/// Text tokens by the bytes they add, since spellings differ between formats; marks by their names.
fn same(target: &Tokenizer, draft: &Tokenizer, id: u32) -> bool {
    match (target.is_special(id), draft.is_special(id)) {
        (false, false) => target.token_bytes(id) == draft.token_bytes(id),
        (true, true) => target.token_text(id) == draft.token_text(id),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(pieces: &[&str]) -> Tokenizer {
        let vocab: Vec<String> = pieces.iter().enumerate().map(|(id, piece)| format!("\"{piece}\": {id}")).collect();
        let json = format!(
            r#"{{"version": "1.0", "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
                "post_processor": null,
                "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
                "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                           "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                           "vocab": {{{}}}, "merges": []}}}}"#,
            vocab.join(", ")
        );
        Tokenizer::from_json_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn padding_is_accepted_and_another_spelling_refused() {
        let (short, padded) = (tokenizer(&["a", "b"]), tokenizer(&["a", "b", "c"]));
        check_vocabularies(&short, &padded).unwrap();
        check_vocabularies(&padded, &short).unwrap();
        let error = check_vocabularies(&short, &tokenizer(&["a", "x"])).unwrap_err().to_string();
        assert!(error.contains("id 1 is \"x\" to the draft and \"b\" to the target"), "{error}");
    }
}
