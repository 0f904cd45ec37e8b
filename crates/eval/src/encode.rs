//! Contexts and continuations as token ids, cut where the harness cuts them.

use crate::{EvalError, python};
use infer::rolling_windows;
use tokenizer::Tokenizer;

/// Whether a beginning-of-text token is put before texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BosMode {
    /// As the tokenizer says: the harness since version 0.4.9.2.
    Auto,
    /// Yes: `add_bos_token=True`.
    Always,
    /// No: the harness up to version 0.4.9.1.
    Never,
}

/// One sequence for the model: the last `scored` tokens of `ids` are to be predicted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Context and continuation, at most one more than the model's context.
    pub ids: Vec<u32>,
    /// Length of the continuation.
    pub scored: usize,
    /// Whether to find out if greedy decoding gives the continuation.
    pub greedy: bool,
}

/// Text → requests, for one model.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    prefix: u32,
    prefix_text: String,
    context: usize,
    /// The last text and its ids: continuations of one context come one after the other.
    last: Option<(String, Vec<u32>)>,
}

impl<'t> Encoder<'t> {
    /// For a model that reads up to `context` tokens.
    ///
    /// # Errors
    /// A vocabulary without the tokens that are needed.
    pub fn new(tokenizer: &'t Tokenizer, mode: BosMode, context: usize) -> Result<Self, EvalError> {
        let Some(prefix) = tokenizer.bos().or(tokenizer.eos()) else {
            return Err(EvalError::NoToken {
                token: "beginning- or end-of-text",
                purpose: "stands before a text that has no context",
            });
        };
        let bos = match mode {
            BosMode::Never => None,
            BosMode::Auto => tokenizer.bos().filter(|_| tokenizer.adds_bos()),
            BosMode::Always => Some(tokenizer.bos().ok_or(EvalError::NoToken {
                token: "beginning-of-text",
                purpose: "--bos always puts before every text; use --bos auto or --bos never",
            })?),
        };
        let eos = tokenizer.eos().filter(|_| mode == BosMode::Auto && tokenizer.adds_eos());
        let prefix_text = tokenizer.token_text(prefix).unwrap_or_default().to_owned();
        Ok(Self { tokenizer, bos, eos, prefix, prefix_text, context, last: None })
    }

    /// The vocabulary.
    pub(crate) fn tokenizer(&self) -> &'t Tokenizer {
        self.tokenizer
    }

    /// Tokens that the model reads at most.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Ids of a text. A text that begins with the spelling of the first token does not get another.
    fn encode(&self, text: &str) -> Vec<u32> {
        let ids = self.tokenizer.encode_with_specials(text);
        if !self.prefix_text.is_empty() && text.starts_with(&self.prefix_text) {
            return ids;
        }
        self.bos.into_iter().chain(ids).chain(self.eos).collect()
    }

    fn encode_context(&mut self, text: &str) -> Vec<u32> {
        if let Some((_, ids)) = self.last.as_ref().filter(|last| last.0 == text) {
            return ids.clone();
        }
        let ids = self.encode(text);
        self.last = Some((text.to_owned(), ids.clone()));
        ids
    }

    /// The request for a continuation of a context, and how many tokens were cut from its left. White space at the end
    /// of the context goes to the continuation; both are encoded together, and what the context's own ids do not cover
    /// is the continuation.
    ///
    /// # Errors
    /// The continuation's length, if that is 0 or more than the model's context.
    pub fn pair(&mut self, context: &str, continuation: &str, greedy: bool) -> Result<(Request, usize), usize> {
        let (mut ids, scored) = if context.is_empty() {
            let ids = self.tokenizer.encode_with_specials(continuation);
            match ids.first() {
                Some(first) if *first == self.prefix => {
                    let scored = ids.len() - 1;
                    (ids, scored)
                }
                _ => {
                    let scored = ids.len();
                    ([&[self.prefix][..], &ids].concat(), scored)
                }
            }
        } else {
            let trimmed = context.trim_end_matches(python::is_space);
            let whole = self.encode(&format!("{context}{continuation}"));
            let before = self.encode_context(trimmed).len();
            let scored = whole.len().saturating_sub(before);
            (whole, scored)
        };
        if scored == 0 || scored > self.context || scored >= ids.len() {
            return Err(scored);
        }
        let cut = ids.len().saturating_sub(self.context + 1);
        ids.drain(..cut);
        Ok((Request { ids, scored, greedy }, cut))
    }

    /// The ids of a prompt that leave room for `room` more tokens, and how many were cut from its left; `None` if the
    /// context has no such room.
    pub fn prompt(&self, text: &str, room: usize) -> Option<(Vec<u32>, usize)> {
        let most = self.context.checked_sub(room).filter(|&most| most > 0)?;
        let mut ids = self.encode(text);
        if ids.is_empty() {
            ids.push(self.prefix);
        }
        let cut = ids.len().saturating_sub(most);
        ids.drain(..cut);
        Some((ids, cut))
    }

    /// The windows of a text of any length; every token is scored once, the first as what follows the prefix token.
    pub fn rolling(&self, text: &str) -> Vec<Request> {
        let ids: Vec<u32> = std::iter::once(self.prefix).chain(self.encode(text)).collect();
        let windows = rolling_windows(ids.len() - 1, self.context);
        windows
            .map(|window| Request {
                ids: ids[window.inputs.start..window.inputs.end + 1].to_vec(),
                scored: window.scored,
                greedy: false,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    /// A token for each byte (id = place in the byte-level alphabet), and these special ones from 256 on.
    fn tokenizer(special: &[&str]) -> Tokenizer {
        let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let letters =
            (0..256).filter(printable).chain(256..256 + (0..256).filter(|byte| !printable(byte)).count() as u32);
        let letters = letters.filter_map(char::from_u32).map(String::from);
        let vocab: Map<String, Value> = letters.enumerate().map(|(id, letter)| (letter, id.into())).collect();
        let added = special.iter().enumerate().map(|(index, text)| {
            json!({"id": 256 + index, "content": text, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        });
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let file = json!({"version": "1.0", "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
            "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}});
        Tokenizer::from_json_bytes(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn vocabularies_without_the_needed_tokens_are_refused() {
        let refused = |special: &[&str], mode| Encoder::new(&tokenizer(special), mode, 8).err().map(|e| e.to_string());
        let neither = refused(&[], BosMode::Auto).unwrap();
        assert!(neither.starts_with("the tokenizer has no beginning- or end-of-text token"), "{neither}");
        let begin = refused(&["</s>"], BosMode::Always).unwrap();
        assert!(begin.contains("--bos auto"), "{begin}");
        assert_eq!(refused(&["</s>"], BosMode::Auto), None);
        assert_eq!(refused(&["<s>"], BosMode::Always), None);
    }

    #[test]
    fn contexts_give_their_last_space_away_and_are_cut_from_the_left() {
        let tokenizer = tokenizer(&["<s>", "</s>"]);
        let mut encoder = Encoder::new(&tokenizer, BosMode::Always, 6).unwrap();
        let (request, cut) = encoder.pair("ab ", "cd", false).unwrap();
        assert_eq!((request.ids.len(), request.scored, cut), (6, 3, 0));
        assert_eq!(request.ids[0], 256);
        let (request, cut) = encoder.pair("abcdef", "gh", true).unwrap();
        assert_eq!(
            (request.ids.len(), request.scored, cut),
            (7, 2, 2),
            "one more than the context: the last is not read"
        );
        let (request, _) = encoder.pair("", "ab", false).unwrap();
        assert_eq!((request.ids[0], request.scored), (256, 2));
        assert_eq!(encoder.pair("ab", "cdefghi", false), Err(7));
        assert_eq!(encoder.pair("ab", "", false), Err(0));
        let mut bare = Encoder::new(&tokenizer, BosMode::Never, 6).unwrap();
        assert_eq!(bare.pair("ab", "c", false).unwrap().0.ids.len(), 3);
        assert_eq!(bare.pair("<s>ab", "c", false).unwrap().0.ids[0], 256, "special tokens may be spelled");
        let prompt = |encoder: &Encoder<'_>, text, room| encoder.prompt(text, room).map(|(ids, cut)| (ids.len(), cut));
        assert_eq!(prompt(&encoder, "abc", 2), Some((4, 0)));
        assert_eq!(prompt(&encoder, "abcdef", 4), Some((2, 5)), "a cut prompt keeps its end");
        assert_eq!(prompt(&bare, "", 4), Some((1, 0)));
        assert_eq!(prompt(&bare, "abc", 6), None);
        let rolling = bare.rolling("abcdefghij");
        assert_eq!(rolling.iter().map(|request| request.scored).sum::<usize>(), 10);
    }
}
