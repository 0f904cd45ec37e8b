//! Training a BPE vocabulary: words are counted in bounded memory, neighbours are merged, the result is a
//! [`Tokenizer`] like any other.
//!
//! The same documents in the same order give the same vocabulary: ties between equally frequent pairs go to the pair
//! whose pieces are older, and words are dropped for memory by their counts alone.

mod merge;
mod words;

use std::collections::HashMap;

use crate::byte_level;
use crate::pre::Pre;
use crate::problem::{Problem, TokenizerError};
use crate::sentencepiece;
use crate::vocabulary::{Added, Family, Piece, PieceKind, SPACE_MARK, Vocabulary};
use crate::{Original, Tokenizer};
use merge::Learned;
use words::WordCounts;

/// Share of all characters that get pieces of their own in SentencePiece style; the rest is spelled in bytes.
const CHARACTER_COVERAGE: f64 = 0.9995;
/// Longest SentencePiece-style piece in characters, as in SentencePiece.
const PIECE_CHARACTERS_MAX: usize = 16;
/// Characters that SentencePiece style always has: the space, and those that spell the byte pieces, so that `<0x0A>`
/// written in a text can be told from the byte.
const ALWAYS_CHARACTERS: &str = "\u{2581}<>0123456789ABCDEFx";

/// The two kinds of vocabulary that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GPT-2's: words by its regular expression, every byte is a piece.
    ByteLevel,
    /// Llama's: `▁` for spaces, a space before the text, single digits, 256 byte pieces for rare characters.
    SentencePieceStyle,
}

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Number of ids wanted; a small text may give fewer.
    pub vocab_size: usize,
    /// Which kind of vocabulary.
    pub kind: Kind,
    /// Bound on the memory that training takes, in bytes; least 16 MiB. Rare words are forgotten when it is reached.
    pub memory_bytes: u64,
    /// Spelling of the token that begins a text; may equal `eos`.
    pub bos: String,
    /// Spelling of the token that ends a text.
    pub eos: String,
    /// Spelling of the unknown token; SentencePiece style only, where transformers and llama.cpp expect one.
    pub unknown: String,
}

impl TrainOptions {
    /// The usual options of a kind: `<s>`, `</s>`, `<unk>`, or GPT-2's `<|endoftext|>` for both ends; 1 GiB.
    pub fn new(kind: Kind, vocab_size: usize) -> Self {
        let (bos, eos) = match kind {
            Kind::ByteLevel => ("<|endoftext|>", "<|endoftext|>"),
            Kind::SentencePieceStyle => ("<s>", "</s>"),
        };
        let (bos, eos, unknown) = (bos.to_owned(), eos.to_owned(), "<unk>".to_owned());
        Self { vocab_size, kind, memory_bytes: 1 << 30, bos, eos, unknown }
    }

    /// Spellings of the special tokens in the order of their ids.
    fn specials(&self) -> Result<Vec<&str>, Problem> {
        let mut specials = vec![self.bos.as_str()];
        if self.kind == Kind::SentencePieceStyle {
            specials.insert(0, &self.unknown);
        }
        if self.eos != self.bos {
            specials.push(&self.eos);
        }
        let repeated = |(at, spelling): &(usize, &&str)| spelling.is_empty() || specials[..*at].contains(spelling);
        match specials.iter().enumerate().find(repeated) {
            Some((_, spelling)) => Err(Problem::SpecialSpelling { spelling: (*spelling).to_owned() }),
            None => Ok(specials),
        }
    }
}

/// Trains a vocabulary on `documents`, calling `progress` with the bytes read so far after each.
pub fn train(
    options: &TrainOptions,
    documents: &mut dyn Iterator<Item = String>,
    progress: &dyn Fn(u64),
) -> Result<Tokenizer, TokenizerError> {
    let specials = options.specials()?;
    let always = if options.kind == Kind::ByteLevel { 0 } else { ALWAYS_CHARACTERS.chars().count() };
    let needed = specials.len() + 256 + always;
    if options.vocab_size < needed {
        return Err(Problem::VocabTooSmall { found: options.vocab_size, needed }.into());
    }
    // The merge loop holds about three times what the counts take.
    let mut counts = WordCounts::new(options.memory_bytes.max(16 << 20) / 4);
    let mut bytes_read = 0;
    for document in documents {
        match options.kind {
            Kind::ByteLevel => counts.count_byte_level(&document),
            Kind::SentencePieceStyle => counts.count_spaced(&document),
        }
        bytes_read += document.len() as u64;
        progress(bytes_read);
    }
    let words = counts.into_sorted();
    if words.is_empty() {
        return Err(Problem::NoText.into());
    }
    let vocabulary = match options.kind {
        Kind::ByteLevel => byte_level_vocabulary(options, &specials, &words),
        Kind::SentencePieceStyle => spaced_vocabulary(options, &specials, &words)?,
    };
    vocabulary.check()?;
    Ok(Tokenizer::build(vocabulary, Original::default())?)
}

fn byte_level_vocabulary(options: &TrainOptions, specials: &[&str], words: &[(String, u64)]) -> Vocabulary {
    // Single bytes in the order of their stand-ins, as in vocabularies trained by `tokenizers`.
    let mut alphabet: Vec<u8> = (0..=255).collect();
    alphabet.sort_by_key(|&byte| byte_level::stand_in(byte));
    let mut symbol = [0u32; 256];
    for (&byte, at) in alphabet.iter().zip(0u32..) {
        symbol[usize::from(byte)] = at;
    }
    let spelled = words
        .iter()
        .map(|(word, count)| (vec![word.bytes().map(|byte| symbol[usize::from(byte)]).collect::<Vec<u32>>()], *count));
    let singles = alphabet.iter().map(|&byte| byte_level::spell(&[byte])).collect();
    let learned = merge::learn(singles, spelled, options.vocab_size - specials.len(), usize::MAX);

    let mut vocabulary = Vocabulary::new(Family::ByteLevel);
    vocabulary.pre_tokenizer = Pre::Gpt2.to_json();
    push_specials(options, specials, &mut vocabulary);
    let offset = specials.len() as u32;
    vocabulary.pieces.extend(learned.pieces.into_iter().map(|text| Piece { text, kind: PieceKind::Normal }));
    vocabulary.merges = learned.merges.into_iter().map(|(left, right)| (left + offset, right + offset)).collect();
    vocabulary
}

fn spaced_vocabulary(
    options: &TrainOptions,
    specials: &[&str],
    words: &[(String, u64)],
) -> Result<Vocabulary, Problem> {
    let room = options.vocab_size - specials.len() - 256;
    let characters = frequent_characters(words, room);
    let symbol: HashMap<char, u32> = characters.iter().copied().zip(0u32..).collect();
    // A character without a piece ends a word: nothing merges across its bytes.
    let spelled = words.iter().map(|(word, count)| {
        let runs = word.split(|c| !symbol.contains_key(&c)).filter(|run| !run.is_empty());
        (runs.map(|run| run.chars().filter_map(|c| symbol.get(&c).copied()).collect()).collect(), *count)
    });
    let singles = characters.iter().map(char::to_string).collect();
    let Learned { mut pieces, .. } = merge::learn(singles, spelled, room, PIECE_CHARACTERS_MAX);

    let mut vocabulary = Vocabulary::new(Family::Spaced);
    push_specials(options, specials, &mut vocabulary);
    for byte in 0..=255u8 {
        vocabulary.pieces.push(Piece { text: format!("<0x{byte:02X}>"), kind: PieceKind::Byte(byte) });
    }
    vocabulary.scores = vec![0.0; vocabulary.pieces.len()];
    // SentencePiece's order: merged pieces as they were learned, then single characters, scores falling by one.
    pieces.rotate_left(characters.len());
    for (rank, text) in pieces.into_iter().enumerate() {
        vocabulary.pieces.push(Piece { text, kind: PieceKind::Normal });
        vocabulary.scores.push(-(rank as f32)); // exact: PIECES_MAX is below 2²⁴
    }
    sentencepiece::finish(&mut vocabulary)?;
    Ok(vocabulary)
}

fn push_specials(options: &TrainOptions, specials: &[&str], vocabulary: &mut Vocabulary) {
    let id = |spelling: &String| specials.iter().zip(0u32..).find(|(found, _)| *found == spelling).map(|(_, id)| id);
    (vocabulary.bos, vocabulary.eos) = (id(&options.bos), id(&options.eos));
    for (&text, at) in specials.iter().zip(0u32..) {
        let unknown = options.kind == Kind::SentencePieceStyle && text == options.unknown;
        let kind = if unknown { PieceKind::Unknown } else { PieceKind::Control };
        vocabulary.pieces.push(Piece { text: text.to_owned(), kind });
        vocabulary.added.push(Added::plain(at, text, true));
    }
}

/// The characters that get pieces: [`ALWAYS_CHARACTERS`], then the most frequent ones up to [`CHARACTER_COVERAGE`] and
/// half of the room; the more frequent first, ties by code point.
fn frequent_characters(words: &[(String, u64)], room: usize) -> Vec<char> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        for c in word.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    let total: u64 = counts.values().sum();
    let mut kept: Vec<char> = ALWAYS_CHARACTERS.chars().collect();
    let always = |c: &char| *c == SPACE_MARK || ALWAYS_CHARACTERS.contains(*c);
    let mut covered: u64 = counts.iter().filter(|(c, _)| always(c)).map(|(_, count)| count).sum();
    let mut others: Vec<(char, u64)> = counts.into_iter().filter(|(c, _)| !always(c)).collect();
    others.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    for (c, count) in others {
        if covered as f64 >= CHARACTER_COVERAGE * total as f64 || kept.len() >= room / 2 {
            break;
        }
        kept.push(c);
        covered += count;
    }
    kept
}
