//! Where a long text can be cut without changing its ids.
//!
//! Encoders are given stretches of some 32 KiB: what they hold stays in the cache, their memory does not grow with the
//! document, and fastokens, which spreads 64 KiB and more over threads of its own, stays on the caller's thread.

use crate::pre::Pre;
use crate::vocabulary::{Family, Vocabulary};

/// Shortest stretch that is cut off, in bytes; the cut is the first possible one after it.
const STRETCH_BYTES: usize = 32 << 10;

/// The rule for cutting.
pub(crate) enum Cuts {
    /// Nowhere: a pre-tokenizer or normalizer that might look across any place, or fused unknown tokens.
    Nowhere,
    /// Between two bytes that no piece has side by side: no merge can cross. One bit for each pair.
    Unjoined(Box<[u64; 1024]>),
    /// Before a space between words: a match of every known pre-tokenizer ends there.
    Spaces,
}

impl Cuts {
    pub(crate) fn new(vocabulary: &Vocabulary) -> Self {
        let normalizer = vocabulary.normalizer["type"].as_str();
        match vocabulary.family {
            Family::Spaced if vocabulary.byte_fallback && vocabulary.byte_ids().is_some() => {
                let mut joined = Box::new([0u64; 1024]);
                for piece in &vocabulary.pieces {
                    for two in piece.text.as_bytes().windows(2) {
                        let at = pair(two[0], two[1]);
                        joined[at / 64] |= 1 << (at % 64);
                    }
                }
                Self::Unjoined(joined)
            }
            Family::ByteLevel if vocabulary.normalizer.is_null() || normalizer == Some("NFC") => {
                Pre::from_json(&vocabulary.pre_tokenizer).map_or(Self::Nowhere, |_| Self::Spaces)
            }
            _ => Self::Nowhere,
        }
    }

    /// Cuts the first stretch off a text.
    pub(crate) fn first<'a>(&self, text: &'a str) -> (&'a str, &'a str) {
        let bytes = text.as_bytes();
        let at = (STRETCH_BYTES..bytes.len()).find(|&at| text.is_char_boundary(at) && self.is_at(bytes, at));
        text.split_at(at.unwrap_or(bytes.len()))
    }

    /// Whether there is a cut before byte `at`, which is neither the first nor after the last.
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Unjoined(joined) => {
                let pair = pair(bytes[at - 1], bytes[at]);
                joined[pair / 64] >> (pair % 64) & 1 == 0
            }
            Self::Spaces => {
                let next_is_letter = bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic);
                bytes[at] == b' ' && next_is_letter && bytes[at - 1].is_ascii_graphic()
            }
        }
    }
}

fn pair(left: u8, right: u8) -> usize {
    usize::from(left) << 8 | usize::from(right)
}
