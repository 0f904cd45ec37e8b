//! Whether a draft speaks the target's language.

use crate::InferError;

/// A tokenizer's vocabulary, as far as it matters here.
#[derive(Clone, Copy)]
pub struct Vocabulary<'a> {
    /// Ids are below it.
    pub size: usize,
    /// The bytes that an id stands for.
    pub spelling: &'a dyn Fn(u32) -> Vec<u8>,
}

/// Checks that the ids which target and draft share stand for the same bytes. Either may have further ids at its end
/// (32 000 and 32 016 are such a pair): those only the target has end the drafting, those only the draft has are never
/// proposed.
///
/// # Errors
/// [`InferError::OtherVocabulary`] for the first id that differs.
pub fn check_vocabularies(target: Vocabulary<'_>, draft: Vocabulary<'_>) -> Result<(), InferError> {
    for id in 0..target.size.min(draft.size) as u32 {
        let (ours, theirs) = ((target.spelling)(id), (draft.spelling)(id));
        if ours != theirs {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            return Err(InferError::OtherVocabulary { id, draft: text(theirs), target: text(ours) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_accepted_and_another_spelling_refused() {
        let plain = |id: u32| vec![id as u8];
        let other = |id: u32| if id == 7 { b"seven".to_vec() } else { plain(id) };
        let short = Vocabulary { size: 10, spelling: &plain };
        let padded = Vocabulary { size: 12, spelling: &plain };
        check_vocabularies(short, padded).unwrap();
        check_vocabularies(padded, short).unwrap();
        let error = check_vocabularies(short, Vocabulary { size: 10, spelling: &other }).unwrap_err().to_string();
        assert!(error.contains("id 7 is \"seven\" to the draft"), "{error}");
    }
}
