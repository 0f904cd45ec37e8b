//! Whether a draft speaks the target's language.

use crate::InferError;
use tokenizer::Tokenizer;

/// Checks that the ids which target and draft share stand for the same, and returns those of them that do not but need
/// not: marks, added tokens and padding differ between relatives (Qwen's sizes have the same 151,643 pieces and other
/// marks behind them). Such ids are never drafted ([`ModelDrafter::without`](crate::ModelDrafter::without)). Either
/// vocabulary may have further ids at its end (32 000 and 32 016 are such a pair): those only the draft has are never
/// proposed, and the draft reads a stand-in for those only the target has.
///
/// # Errors
/// [`InferError::OtherVocabulary`] for the first piece of text that differs.
pub fn check_vocabularies(target: &Tokenizer, draft: &Tokenizer) -> Result<Vec<u32>, InferError> {
    if target.hash() == draft.hash() {
        return Ok(Vec::new());
    }
    let shared = target.vocab_size().min(draft.vocab_size()) as u32;
    let foreign: Vec<u32> = (0..shared).filter(|&id| !same(target, draft, id)).collect();
    // Whatever is called an added token, a vocabulary that shares too little is another one.
    let most = (shared / 50).max(1) as usize;
    match foreign.iter().find(|&&id| foreign.len() > most || !(is_mark(target, id) || is_mark(draft, id))) {
        Some(&id) => {
            let text = |tokenizer: &Tokenizer| tokenizer.token_text(id).unwrap_or_default().to_owned();
            Err(InferError::OtherVocabulary { id, draft: text(draft), target: text(target) })
        }
        None => Ok(foreign),
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

/// Whether an id stands for no piece of text that was learnt: a mark, a token added later, or padding.
fn is_mark(tokenizer: &Tokenizer, id: u32) -> bool {
    let text = tokenizer.token_text(id).unwrap_or_default();
    tokenizer.is_special(id) || text.is_empty() || tokenizer.special_id(text) == Some(id) || text.starts_with("[PAD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(pieces: &[&str]) -> Tokenizer {
        with_added(pieces, &[])
    }

    /// Added tokens come behind the pieces.
    fn with_added(pieces: &[&str], added: &[&str]) -> Tokenizer {
        let added: Vec<String> = (pieces.len()..)
            .zip(added)
            .map(|(id, text)| {
                format!(
                    r#"{{"id": {id}, "content": "{text}", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": {}}}"#,
                    text.starts_with('<')
                )
            })
            .collect();
        let vocab: Vec<String> = pieces.iter().enumerate().map(|(id, piece)| format!("\"{piece}\": {id}")).collect();
        let json = format!(
            r#"{{"version": "1.0", "added_tokens": [{}], "normalizer": null,
                "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
                "post_processor": null,
                "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
                "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                           "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                           "vocab": {{{}}}, "merges": []}}}}"#,
            added.join(", "),
            vocab.join(", ")
        );
        Tokenizer::from_json_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn padding_is_accepted_and_another_spelling_refused() {
        let (short, padded) = (tokenizer(&["a", "b"]), tokenizer(&["a", "b", "c"]));
        assert!(check_vocabularies(&short, &padded).unwrap().is_empty());
        assert!(check_vocabularies(&padded, &short).unwrap().is_empty());
        let error = check_vocabularies(&short, &tokenizer(&["a", "x"])).unwrap_err().to_string();
        assert!(error.contains("id 1 is \"x\" to the draft and \"b\" to the target"), "{error}");
    }

    #[test]
    fn other_marks_behind_the_same_pieces_are_left_out() {
        let target = with_added(&["a", "b"], &["<end>", "tool", "<x>"]);
        let draft = with_added(&["a", "b"], &["<end>", "<pad>", "<y>"]);
        let few = check_vocabularies(&target, &draft).unwrap_err().to_string();
        assert!(few.contains("id 3"), "two of five are too many: {few}");
        let pieces: Vec<String> = (0..150).map(|index| char::from_u32(0x100 + index).unwrap().to_string()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let target = with_added(&pieces, &["<end>", "tool", "<x>"]);
        let draft = with_added(&pieces, &["<end>", "<pad>", "<y>"]);
        assert_eq!(check_vocabularies(&target, &draft).unwrap(), [151, 152]);
    }
}
