//! From a raw record to the text of a document, or the reason why there is none.

use crate::account::Reason;
use crate::read::{Block, DOCUMENT_LIMIT_BYTES, Fields, Parsed, Record, Shape};
use recipe::{Data, InvalidUtf8, Nul, Source};
use std::borrow::Cow;

/// The rules of one source.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    fields: Fields,
    min_chars: usize,
    max_chars: usize,
    nul: Nul,
    invalid_utf8: InvalidUtf8,
}

/// A text that passed, or the reason why not; either way with the bytes it had when it was read.
pub(crate) struct Judged<'a> {
    pub(crate) bytes: u64,
    pub(crate) text: Result<Passed<'a>, Reason>,
}

/// A text that passed.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) nul_removed: bool,
    pub(crate) utf8_replaced: bool,
}

impl Filter {
    pub(crate) fn new(data: &Data, source: &Source) -> Self {
        Self {
            fields: Fields::new(Some(&source.text), &source.drop_where),
            min_chars: data.min_chars,
            max_chars: data.max_chars,
            nul: data.nul,
            invalid_utf8: data.invalid_utf8,
        }
    }

    /// Judges a record of text or of a JSON line.
    pub(crate) fn judge<'a>(&self, block: &'a Block, record: &Record) -> Judged<'a> {
        let raw = &block.bytes[record.start..record.end];
        if let Some((reason, bytes)) = record.dropped {
            return Judged { bytes, text: Err(reason) };
        }
        if block.shape == Shape::Text {
            return Judged { bytes: raw.len() as u64, text: self.pass(Cow::Borrowed(raw)) };
        }
        let refuse = |reason| Judged { bytes: raw.len() as u64, text: Err(reason) };
        let Ok(line) = self.fields.parse(raw) else { return refuse(Reason::BadJson) };
        let text = match line.text {
            Parsed::Missing => return refuse(Reason::MissingText),
            Parsed::NotString => return refuse(Reason::TextNotString),
            Parsed::Text(text) => text,
        };
        let bytes = text.len() as u64;
        Judged { bytes, text: if line.rule_holds { Err(Reason::DropRule) } else { self.pass(text) } }
    }

    /// Applies the rules that look at the text itself.
    pub(crate) fn pass<'a>(&self, bytes: Cow<'a, [u8]>) -> Result<Passed<'a>, Reason> {
        if bytes.len() as u64 > DOCUMENT_LIMIT_BYTES {
            return Err(Reason::Oversized);
        }
        let (mut text, utf8_replaced) = match (utf8(bytes), self.invalid_utf8) {
            (Ok(text), _) => (text, false),
            (Err(bytes), InvalidUtf8::Replace) => (Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()), true),
            (Err(_), InvalidUtf8::Drop) => return Err(Reason::InvalidUtf8),
        };
        let mut nul_removed = false;
        if self.nul != Nul::Keep && text.as_bytes().contains(&0) {
            if self.nul == Nul::Drop {
                return Err(Reason::Nul);
            }
            text = Cow::Owned(text.replace('\0', ""));
            nul_removed = true;
        }
        if text.trim().is_empty() {
            return Err(Reason::Empty);
        }
        if self.min_chars > 1 || self.max_chars > 0 {
            let chars = text.chars().count();
            if chars < self.min_chars {
                return Err(Reason::TooShort);
            }
            if self.max_chars > 0 && chars > self.max_chars {
                return Err(Reason::TooLong);
            }
        }
        Ok(Passed { text, nul_removed, utf8_replaced })
    }
}

/// The bytes as text, or the bytes back.
fn utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Cow<'_, [u8]>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Cow::Borrowed(bytes)),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|error| Cow::Owned(error.into_bytes())),
    }
}

/// What identifies a text: equal texts are duplicates, and always fall into the same part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextHash {
    /// 128 bits of BLAKE3: among 10¹⁰ documents, two different ones collide with a chance of 10⁻¹⁹.
    pub(crate) identity: u128,
    /// Another 64 bits of it, uniform: where the text falls between training and validation.
    pub(crate) lot: u64,
}

impl TextHash {
    pub(crate) fn of(text: &[u8]) -> Self {
        let hash = *blake3::hash(text).as_bytes();
        Self {
            identity: u128::from_le_bytes(std::array::from_fn(|i| hash[i])),
            lot: u64::from_le_bytes(std::array::from_fn(|i| hash[16 + i])),
        }
    }

    /// Whether the text is held out.
    pub(crate) fn is_validation(&self, split: recipe::Split, fraction: f64) -> bool {
        match split {
            recipe::Split::Train => false,
            recipe::Split::Validation => true,
            recipe::Split::ByHash => (self.lot as f64) < fraction * 2f64.powi(64),
        }
    }
}
