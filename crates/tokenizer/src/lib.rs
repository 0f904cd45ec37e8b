//! Text ↔ token ids.
//!
//! **Holds** loading of every vocabulary the program meets (`tokenizer.json`, `tokenizer.model`, GGUF, llama2.c),
//! encoding, decoding whole or token by token, training, saving.
//! **Never** sees a model or a shard, and never turns text into a control token unless asked by name.
//! **Start reading at** [`Tokenizer`]; then `vocabulary.rs`, the one form every file is brought into.
//!
//! Exactness. `encode` gives the ids of the reference (SentencePiece, `tokenizers`, llama.cpp) for the same file, and
//! `decode` gives back the text, byte for byte, for any UTF-8. Three vocabularies cannot keep the second promise, and
//! there the reference's ids win: SentencePiece-style ones read `▁` (U+2581) as a space; ones with a normalizer (Qwen's
//! NFC) decode to the normalized text; byte-level ones without all 256 bytes drop those bytes
//! ([`Tokenizer::missing_bytes`]).
//!
//! Threads. Encoding runs on the caller's thread: long texts are handed to the encoder in stretches that are too short
//! for it to use threads of its own (see `cuts.rs`). To encode many documents, call from many threads.

mod added;
mod byte_level;
mod chat;
mod cuts;
mod engine;
mod gguf;
mod json;
mod llama2c;
mod load;
mod pre;
mod problem;
mod ranks;
mod save;
mod scored;
mod sentencepiece;
mod stream;
mod train;
mod vocabulary;

use added::{Matcher, Part};
pub use chat::Message;
use engine::Engine;
pub use problem::{Problem, TokenizerError};
pub use stream::StreamDecoder;
pub use train::{Kind, TrainOptions, train};
use vocabulary::{Family, PieceKind, Prefix, SPACE_MARK, Vocabulary};

/// A tokenizer, ready to encode and decode from any number of threads at once.
///
/// Encoding a text gives its *ordinary* ids: spellings of special tokens in it are text, and nothing is added at either
/// end. Callers put [`Tokenizer::bos`] and [`Tokenizer::eos`] where they want them.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    engine: Engine,
    /// The bytes of all pieces on end, and where each begins (one more than there are pieces).
    bytes: Vec<u8>,
    begins: Vec<u32>,
    /// Tokens that are found in any text.
    always: Matcher,
    /// These and the special ones.
    all: Matcher,
    original: Original,
    hash: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({:?}, {} pieces, {})", self.vocabulary.family, self.vocab_size(), self.hash)
    }
}

/// The file that a tokenizer came from, kept so that saving changes nothing.
#[derive(Default)]
struct Original {
    json: Option<Vec<u8>>,
    model: Option<Vec<u8>>,
    /// `tokenizer_config.json`, which may hold a chat template.
    settings: Option<Vec<u8>>,
    /// The chat template, from whichever file has it.
    chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads the content of a `tokenizer.json`. Begin and end tokens are guessed from their usual spellings, because
    /// the format does not name them; [`Tokenizer::load`] takes them from the files beside it.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        Self::build(json::read(bytes)?, Original { json: Some(bytes.to_vec()), ..Original::default() })
    }

    /// Reads the content of a SentencePiece `tokenizer.model`.
    pub fn from_model_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        Self::build(sentencepiece::read(bytes)?, Original { model: Some(bytes.to_vec()), ..Original::default() })
    }

    fn build(vocabulary: Vocabulary, original: Original) -> Result<Self, Problem> {
        let engine = Engine::build(&vocabulary)?;
        let (mut bytes, mut begins) = (Vec::new(), vec![0]);
        for piece in &vocabulary.pieces {
            match (piece.kind, vocabulary.family) {
                (PieceKind::Control | PieceKind::Unused, _) => {}
                (PieceKind::Byte(byte), _) => bytes.push(byte),
                (PieceKind::Unknown, _) => bytes.extend_from_slice("\u{FFFD}".as_bytes()),
                (PieceKind::UserDefined, _) => bytes.extend_from_slice(piece.text.as_bytes()),
                (PieceKind::Normal, Family::ByteLevel) => bytes.extend(byte_level::bytes_of(&piece.text)),
                (PieceKind::Normal, Family::Spaced) => bytes.extend(piece.text.replace(SPACE_MARK, " ").into_bytes()),
            }
            begins.push(bytes.len() as u32);
        }
        let always = Matcher::new(vocabulary.added.iter().filter(|token| !token.special).cloned());
        let all = Matcher::new(vocabulary.added.iter().cloned());
        let hash = vocabulary.hash();
        Ok(Self { vocabulary, engine, bytes, begins, always, all, original, hash })
    }

    /// Number of ids: every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.pieces.len()
    }

    /// The token that begins a text, if the vocabulary has one.
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// The token that ends a text, if the vocabulary has one.
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// The token for what the vocabulary cannot spell, if it has one.
    pub fn unknown(&self) -> Option<u32> {
        self.vocabulary.unknown
    }

    /// Whether the reference puts [`Tokenizer::bos`] before every prompt.
    pub fn adds_bos(&self) -> bool {
        self.vocabulary.adds_bos && self.vocabulary.bos.is_some()
    }

    /// Whether the reference puts [`Tokenizer::eos`] after every text.
    pub fn adds_eos(&self) -> bool {
        self.vocabulary.adds_eos && self.vocabulary.eos.is_some()
    }

    /// The ids of a text. Spellings of special tokens in it are text, and nothing is added.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_parts(text, &self.always, true)
    }

    /// The ids of a text that follows other text: as [`Tokenizer::encode`], but without the space that some
    /// vocabularies put before a text. [`Tokenizer::decode_continuation`] is its inverse.
    pub fn encode_continuation(&self, text: &str) -> Vec<u32> {
        self.encode_parts(text, &self.always, false)
    }

    /// The ids of a text in which spellings of special tokens become these tokens, as chat templates need. Never for
    /// text from outside.
    pub fn encode_with_specials(&self, text: &str) -> Vec<u32> {
        self.encode_parts(text, &self.all, true)
    }

    fn encode_parts(&self, text: &str, matcher: &Matcher, at_start: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        for part in matcher.split(text) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text { text, first } => {
                    let prefixed = self.is_prefixed(text, first, at_start);
                    self.engine.encode_into(&self.prepared(text, prefixed), &mut ids);
                }
            }
        }
        ids
    }

    /// Whether a space goes before a stretch of text.
    fn is_prefixed(&self, text: &str, first: bool, at_start: bool) -> bool {
        if first && !at_start {
            return false;
        }
        let spaced =
            text.starts_with(' ') || (self.vocabulary.family == Family::Spaced && text.starts_with(SPACE_MARK));
        match self.vocabulary.prefix {
            Prefix::Never => false,
            Prefix::Always => true,
            Prefix::UnlessSpaced => !spaced,
            Prefix::FirstUnlessSpaced => first && !spaced,
        }
    }

    /// The text as the engine takes it: with its prefix, and with spaces marked where the vocabulary marks them.
    fn prepared<'a>(&self, text: &'a str, prefixed: bool) -> std::borrow::Cow<'a, str> {
        if self.vocabulary.family == Family::ByteLevel {
            return if prefixed { format!(" {text}").into() } else { text.into() };
        }
        let mut marked = String::with_capacity(text.len() + text.len() / 2 + SPACE_MARK.len_utf8());
        if prefixed {
            marked.push(SPACE_MARK);
        }
        let mut words = text.split(' ');
        marked.push_str(words.next().unwrap_or_default());
        for word in words {
            marked.push(SPACE_MARK);
            marked.push_str(word);
        }
        marked.into()
    }

    /// The text of ids that are a whole text: the exact inverse of [`Tokenizer::encode`], so the one space that it put
    /// before the text is taken away again. Control tokens spell nothing; bytes that are no UTF-8, the unknown token
    /// and ids outside the vocabulary become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        lossy(self.decode_bytes(ids))
    }

    /// The text of ids that follow others, such as what a model wrote after a prompt: a space at its beginning belongs
    /// to it and stays.
    pub fn decode_continuation(&self, ids: &[u32]) -> String {
        lossy(self.decode_continuation_bytes(ids))
    }

    /// As [`Tokenizer::decode`], without the step to UTF-8.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = self.decode_continuation_bytes(ids);
        if self.strips_space() && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    /// As [`Tokenizer::decode_continuation`], without the step to UTF-8.
    pub fn decode_continuation_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.bytes_of(id));
        }
        bytes
    }

    /// Whether encoding may have put a space before the text.
    fn strips_space(&self) -> bool {
        self.vocabulary.prefix != Prefix::Never
    }

    /// Decodes the tokens of a whole text as they come.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self, self.strips_space())
    }

    /// Decodes tokens that follow others as they come, such as those generated after a prompt: a space at the
    /// beginning stays.
    pub fn stream_continuation(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self, false)
    }

    /// The bytes that one token adds to a text; none for control tokens.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.bytes_of(id).to_vec()
    }

    fn bytes_of(&self, id: u32) -> &[u8] {
        let at = id as usize;
        match (self.begins.get(at), self.begins.get(at + 1)) {
            (Some(&begin), Some(&end)) => &self.bytes[begin as usize..end as usize],
            _ => "\u{FFFD}".as_bytes(),
        }
    }

    /// The spelling of a token in the vocabulary's own writing (`▁the`, `Ġthe`, `<0x0A>`, `</s>`), to show it.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.pieces.get(id as usize).map(|piece| piece.text.as_str())
    }

    /// The id of a special token by its spelling.
    pub fn special_id(&self, spelling: &str) -> Option<u32> {
        self.vocabulary.added.iter().find(|token| token.text == spelling).map(|token| token.id)
    }

    /// Whether a token is a mark that stands for no text.
    pub fn is_special(&self, id: u32) -> bool {
        let kind = self.vocabulary.pieces.get(id as usize).map(|piece| piece.kind);
        matches!(kind, Some(PieceKind::Control | PieceKind::Unknown))
    }

    /// Content hash, hexadecimal: equal for the same tokenizer whichever of its files it was loaded from.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Bytes that this vocabulary cannot spell and that encoding therefore drops, as the reference does; empty for
    /// sound vocabularies.
    pub fn missing_bytes(&self) -> Vec<u8> {
        if self.vocabulary.family == Family::Spaced {
            return Vec::new();
        }
        let ids = self.vocabulary.ids_by_text();
        (0..=255).filter(|&byte| !ids.contains_key(byte_level::stand_in(byte).to_string().as_str())).collect()
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
