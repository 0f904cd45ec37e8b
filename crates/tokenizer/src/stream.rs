//! Decoding one token at a time: bytes in, only whole characters out.

use crate::Tokenizer;

/// A decoder for tokens as they are generated. What it returned in all, with [`StreamDecoder::finish`], equals
/// [`Tokenizer::decode`] (or [`Tokenizer::decode_continuation`]) of all ids at once.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    /// Bytes that are the beginning of a character.
    held: Vec<u8>,
    /// The space that encoding put before the text is still to come.
    strip_space: bool,
}

impl<'t> StreamDecoder<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, strip_space: bool) -> Self {
        Self { tokenizer, held: Vec::new(), strip_space }
    }

    /// The characters that `id` completes; empty while a character lacks bytes, and for tokens that spell nothing.
    /// Bytes that can begin no character become U+FFFD, as in [`String::from_utf8_lossy`].
    pub fn push(&mut self, id: u32) -> String {
        let mut bytes = self.tokenizer.token_bytes(id);
        if self.strip_space && !bytes.is_empty() {
            if bytes.first() == Some(&b' ') {
                bytes.remove(0);
            }
            self.strip_space = false;
        }
        self.held.extend_from_slice(&bytes);
        self.take_whole()
    }

    /// The rest: a character that was never completed becomes U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }

    /// Removes from `held` everything but an unfinished last character.
    fn take_whole(&mut self) -> String {
        let mut whole = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    whole.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    whole.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    whole.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.held = rest.to_vec();
        whole
    }
}
