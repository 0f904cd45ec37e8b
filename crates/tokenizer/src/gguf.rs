//! The vocabulary inside a GGUF file: keys `tokenizer.ggml.*`, read and written.

use std::collections::HashMap;

use formats::gguf::{FromValue, Gguf, Strings, Value};

use crate::pre::Pre;
use crate::problem::{Problem, TokenizerError};
use crate::vocabulary::{Added, Family, Piece, PieceKind, Prefix, SPACE_MARK, Vocabulary, byte_of_piece};
use crate::{Original, Tokenizer, ranks, sentencepiece};

/// The key of the chat template.
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The score of runs of `▁` that tie in a merge list, below all others (as in Llama's own file).
const TIED_SCORE: f32 = -1e9;

impl Tokenizer {
    /// Takes the vocabulary out of a GGUF file: kinds `llama` (SentencePiece with scores) and `gpt2` (byte-level with
    /// merges and a named pre-tokenizer).
    pub fn from_gguf(file: &Gguf) -> Result<Self, TokenizerError> {
        let refused = |problem| TokenizerError::Refused { file: file.path().to_owned(), problem };
        let vocabulary = read(file).map_err(refused)?;
        let template = file.get(CHAT_TEMPLATE).and_then(<&str>::from_value).map(str::to_owned);
        Self::build(vocabulary, Original { chat_template: template, ..Original::default() }).map_err(refused)
    }

    /// The keys that make llama.cpp encode as this tokenizer does. A byte-level tokenizer whose pre-tokenizer has no
    /// name in GGUF, and merges that no scores can express, are refused.
    ///
    /// Two rules are unknown to llama.cpp and are left out, as its own converter does it: "a space unless there is
    /// one" becomes a space always, and NFC (Qwen) is not applied.
    pub fn gguf_entries(&self) -> Result<Vec<(String, Value)>, Problem> {
        let vocabulary = &self.vocabulary;
        let spelling = |(at, piece): (usize, &Piece)| match piece.text.as_str() {
            "" => format!("[PAD{at}]"),
            text => text.to_owned(),
        };
        let tokens: Vec<String> = vocabulary.pieces.iter().enumerate().map(spelling).collect();
        let kinds: Vec<i32> = vocabulary.pieces.iter().map(|piece| kind_number(piece.kind)).collect();
        let mut entries: Vec<(&str, Value)> = match vocabulary.family {
            Family::ByteLevel => byte_level_entries(vocabulary)?,
            Family::Spaced => spaced_entries(vocabulary)?,
        };
        entries.push(("tokens", tokens.into()));
        entries.push(("token_type", kinds.into()));
        let ids = [
            ("bos_token_id", vocabulary.bos),
            ("eos_token_id", vocabulary.eos),
            ("unknown_token_id", vocabulary.unknown),
        ];
        entries.extend(ids.into_iter().filter_map(|(key, id)| Some((key, id?.into()))));
        entries.push(("add_bos_token", self.adds_bos().into()));
        entries.push(("add_eos_token", self.adds_eos().into()));
        entries.push(("add_space_prefix", (vocabulary.prefix != Prefix::Never).into()));
        let mut entries: Vec<(String, Value)> =
            entries.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
        entries.extend(self.chat_template().map(|template| (CHAT_TEMPLATE.to_owned(), template.to_owned().into())));
        Ok(entries)
    }
}

/// A key that may be missing, as the type that belongs there.
fn find<'a, T: FromValue<'a>>(file: &'a Gguf, key: &'static str) -> Result<Option<T>, Problem> {
    let bad = Problem::GgufKey { key, expected: T::EXPECTED };
    file.get(key).map(|value| T::from_value(value).ok_or(bad)).transpose()
}

fn require<'a, T: FromValue<'a>>(file: &'a Gguf, key: &'static str) -> Result<T, Problem> {
    find(file, key)?.ok_or(Problem::GgufKey { key, expected: T::EXPECTED })
}

fn read(file: &Gguf) -> Result<Vocabulary, Problem> {
    let family = match require::<&str>(file, "tokenizer.ggml.model")? {
        "llama" => Family::Spaced,
        "gpt2" => Family::ByteLevel,
        found => return Err(Problem::UnknownModel { found: found.to_owned() }),
    };
    let mut vocabulary = Vocabulary::new(family);
    read_pieces(file, &mut vocabulary)?;
    let count = vocabulary.pieces.len();
    let id = |key| match find::<u32>(file, key)? {
        Some(id) if id as usize >= count => Err(Problem::IdOutOfRange { id: u64::from(id), count }),
        id => Ok(id),
    };
    vocabulary.bos = id("tokenizer.ggml.bos_token_id")?;
    vocabulary.eos = id("tokenizer.ggml.eos_token_id")?;
    if family == Family::Spaced {
        read_spaced(file, &mut vocabulary)?;
    } else {
        read_byte_level(file, &mut vocabulary)?;
        vocabulary.check()?;
    }
    let adds_bos = find(file, "tokenizer.ggml.add_bos_token")?.unwrap_or(family == Family::Spaced);
    vocabulary.adds_bos = adds_bos && vocabulary.bos.is_some();
    vocabulary.adds_eos = find(file, "tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    Ok(vocabulary)
}

fn read_pieces(file: &Gguf, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let tokens: &Strings = require(file, "tokenizer.ggml.tokens")?;
    let kinds: Vec<i64> = require(file, "tokenizer.ggml.token_type")?;
    if kinds.len() != tokens.len() {
        return Err(Problem::Lengths { what: "token types", found: kinds.len(), expected: tokens.len() });
    }
    for (id, (text, kind)) in tokens.iter().zip(kinds).enumerate() {
        let kind = match kind {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            6 => PieceKind::Byte(byte_of_piece(text).ok_or(Problem::BytePiece { id })?),
            _ => PieceKind::Unused,
        };
        vocabulary.pieces.push(Piece { text: text.to_owned(), kind });
    }
    Ok(())
}

fn read_spaced(file: &Gguf, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    vocabulary.scores = require::<&[f32]>(file, "tokenizer.ggml.scores")?.to_vec();
    let prefixed = find(file, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    vocabulary.prefix = if prefixed { Prefix::Always } else { Prefix::Never };
    if find(file, "tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false) {
        let found = "true".to_owned();
        return Err(Problem::Setting { setting: "remove_extra_whitespaces", found, expected: "false" });
    }
    sentencepiece::finish(vocabulary)
}

fn read_byte_level(file: &Gguf, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let name: &str = find(file, "tokenizer.ggml.pre")?.unwrap_or("default");
    let pre = Pre::from_gguf(name).ok_or_else(|| Problem::UnknownPre { found: name.to_owned() })?;
    vocabulary.pre_tokenizer = pre.to_json();
    vocabulary.ignore_merges = pre == Pre::Llama3;
    vocabulary.drops_late = true;
    let merges: &Strings = require(file, "tokenizer.ggml.merges")?;
    let ids = vocabulary.ids_by_text();
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let ids = merge.split_once(' ').and_then(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        pairs.push(ids.ok_or_else(|| Problem::Merge { rank, merge: merge.to_owned() })?);
    }
    let listed = |(id, piece): (u32, &Piece)| {
        let special = matches!(piece.kind, PieceKind::Control | PieceKind::Unknown);
        (special || piece.kind == PieceKind::UserDefined).then(|| Added::plain(id, &piece.text, special))
    };
    vocabulary.added = (0u32..).zip(&vocabulary.pieces).filter_map(listed).collect();
    vocabulary.unknown =
        (0u32..).zip(&vocabulary.pieces).find(|(_, piece)| piece.kind == PieceKind::Unknown).map(|(id, _)| id);
    vocabulary.merges = pairs;
    Ok(())
}

/// `tokenizer.ggml.token_type`.
fn kind_number(kind: PieceKind) -> i32 {
    match kind {
        PieceKind::Normal => 1,
        PieceKind::Unknown => 2,
        PieceKind::Control => 3,
        PieceKind::UserDefined => 4,
        PieceKind::Unused => 5,
        PieceKind::Byte(_) => 6,
    }
}

fn byte_level_entries(vocabulary: &Vocabulary) -> Result<Vec<(&'static str, Value)>, Problem> {
    let why = "its pre-tokenizer has no name there";
    let pre = Pre::from_json(&vocabulary.pre_tokenizer).ok_or(Problem::NotWritable { target: "GGUF", why })?;
    if vocabulary.prefix != Prefix::Never {
        return Err(Problem::NotWritable { target: "GGUF", why: "it puts a space before byte-level text" });
    }
    let piece = |id: u32| vocabulary.pieces[id as usize].text.as_str();
    let merges = vocabulary.merges.iter().map(|&(left, right)| format!("{} {}", piece(left), piece(right)));
    let merges: Vec<String> = merges.collect();
    Ok(vec![("model", "gpt2".into()), ("pre", pre.gguf_name().into()), ("merges", merges.into())])
}

fn spaced_entries(vocabulary: &Vocabulary) -> Result<Vec<(&'static str, Value)>, Problem> {
    let marked_inside =
        |piece: &Piece| piece.kind == PieceKind::Normal && piece.text.chars().skip(1).any(|c| c == SPACE_MARK);
    if !vocabulary.pre_tokenizer.is_null() && vocabulary.pieces.iter().any(marked_inside) {
        return Err(Problem::NotWritable { target: "GGUF", why: "it cuts words where its pieces would not" });
    }
    let scores = if vocabulary.scores.is_empty() { scores_from_merges(vocabulary)? } else { vocabulary.scores.clone() };
    Ok(vec![("model", "llama".into()), ("pre", "default".into()), ("scores", scores.into())])
}

/// Scores that give back the merges: falling with the rank of a piece's first merge, single characters last; merges of
/// runs of `▁` at the end of the list share the lowest score.
fn scores_from_merges(vocabulary: &Vocabulary) -> Result<Vec<f32>, Problem> {
    let ids: HashMap<&str, u32> = vocabulary.ids_by_text();
    let mut scored = vocabulary.clone();
    scored.scores = vec![0.0; vocabulary.pieces.len()];
    let product = |&(left, right): &(u32, u32)| {
        format!("{}{}", vocabulary.pieces[left as usize].text, vocabulary.pieces[right as usize].text)
    };
    let is_run = |text: &str| text.chars().all(|c| c == SPACE_MARK);
    let runs = vocabulary.merges.iter().rev().take_while(|merge| is_run(&product(merge))).count();
    let mut falling = 0.0;
    for (rank, merge) in vocabulary.merges.iter().enumerate() {
        let score = ids.get(product(merge).as_str()).and_then(|&id| scored.scores.get_mut(id as usize));
        if let Some(score) = score.filter(|score| **score == 0.0) {
            falling -= 1.0;
            *score = if rank + runs >= vocabulary.merges.len() && runs > 1 { TIED_SCORE } else { falling };
        }
    }
    for (piece, score) in vocabulary.pieces.iter().zip(&mut scored.scores) {
        if piece.kind == PieceKind::Normal && *score == 0.0 {
            falling -= 1.0;
            *score = falling;
        }
    }
    match ranks::merges_from_scores(&scored) {
        Ok(merges) if vocabulary.same_merges(&merges) => Ok(scored.scores),
        _ => Err(Problem::NotWritable { target: "GGUF", why: "no scores express its merges" }),
    }
}
