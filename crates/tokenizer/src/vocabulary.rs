//! The one form every tokenizer file is brought into: pieces by id, merges by rank, and the rules around them.

use std::collections::HashMap;

use serde_json::Value;

use crate::problem::Problem;

/// The mark that stands for a space in SentencePiece vocabularies (U+2581).
pub(crate) const SPACE_MARK: char = '\u{2581}';

/// Longest piece in bytes that is read; real vocabularies stay below 300, and building an encoder is quadratic in it.
pub(crate) const PIECE_BYTES_MAX: usize = 1024;

/// Most pieces that are read.
pub(crate) const PIECES_MAX: usize = 4_000_000;

/// How text and pieces relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// GPT-2: a piece spells bytes, one stand-in character per byte.
    ByteLevel,
    /// SentencePiece: a piece spells text in which `▁` is a space; characters without a piece become byte pieces.
    Spaced,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PieceKind {
    /// Ordinary text.
    Normal,
    /// One byte, for characters without a piece of their own (`<0x0A>`).
    Byte(u8),
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Begin, end and other marks that text never becomes.
    Control,
    /// Text that is always exactly this token, and that no merge crosses.
    UserDefined,
    /// Takes up an id and is never produced.
    Unused,
}

/// One entry of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    /// Spelling as in the file: byte-level stand-ins or `▁`, or the plain spelling of a special token.
    pub(crate) text: String,
    pub(crate) kind: PieceKind,
}

/// Whether encoding puts a space before the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    Never,
    /// Always one, before the text and before each stretch of text after a special token (SentencePiece, llama.cpp).
    Always,
    /// One before each stretch of text that does not start with a space.
    UnlessSpaced,
    /// One before the text if it does not start with a space.
    FirstUnlessSpaced,
}

/// How a special or added token is found in text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) special: bool,
    /// Swallows white space before it.
    pub(crate) strip_left: bool,
    /// Swallows white space after it.
    pub(crate) strip_right: bool,
    /// Is found only between characters that are no part of a word.
    pub(crate) single_word: bool,
}

impl Added {
    /// A token found wherever it is spelled.
    pub(crate) fn plain(id: u32, text: &str, special: bool) -> Self {
        Self { id, text: text.to_owned(), special, strip_left: false, strip_right: false, single_word: false }
    }
}

/// A tokenizer as data. Invariants, held by [`Vocabulary::check`]: ids are positions in `pieces`; merges name pieces;
/// the concatenation of a merge is a piece; no piece is longer than [`PIECE_BYTES_MAX`].
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    pub(crate) family: Family,
    pub(crate) pieces: Vec<Piece>,
    /// Pairs of ids, best first.
    pub(crate) merges: Vec<(u32, u32)>,
    /// SentencePiece scores by id, higher merges first; empty where the file has none.
    pub(crate) scores: Vec<f32>,
    pub(crate) added: Vec<Added>,
    pub(crate) prefix: Prefix,
    /// The 256 byte pieces spell characters without a piece.
    pub(crate) byte_fallback: bool,
    /// A run of characters that nothing spells becomes one unknown token.
    pub(crate) fuse_unknown: bool,
    /// A word that is a piece becomes it, whatever the merges say (Llama 3).
    pub(crate) ignore_merges: bool,
    /// Bytes without a piece are dropped after merging, so that nothing merges across them (llama.cpp), not before
    /// (`tokenizers`).
    pub(crate) drops_late: bool,
    /// `tokenizer.json` value of the step before BPE, without its prefix rule; null for none.
    pub(crate) pre_tokenizer: Value,
    /// `tokenizer.json` value of a rewriting of the text; null for none, always null in the spaced family.
    pub(crate) normalizer: Value,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unknown: Option<u32>,
    /// Whether the reference starts every text with `bos`.
    pub(crate) adds_bos: bool,
    /// Whether the reference ends every text with `eos`.
    pub(crate) adds_eos: bool,
}

impl Vocabulary {
    /// An empty vocabulary of a family, with the family's usual rules.
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            pieces: Vec::new(),
            merges: Vec::new(),
            scores: Vec::new(),
            added: Vec::new(),
            prefix: if family == Family::Spaced { Prefix::Always } else { Prefix::Never },
            byte_fallback: false,
            fuse_unknown: family == Family::Spaced,
            ignore_merges: false,
            drops_late: false,
            pre_tokenizer: Value::Null,
            normalizer: Value::Null,
            bos: None,
            eos: None,
            unknown: None,
            adds_bos: false,
            adds_eos: false,
        }
    }

    /// Id of the piece with this spelling; the lowest where several share it.
    pub(crate) fn ids_by_text(&self) -> HashMap<&str, u32> {
        let mut ids = HashMap::with_capacity(self.pieces.len());
        for (piece, id) in self.pieces.iter().zip(0u32..) {
            ids.entry(piece.text.as_str()).or_insert(id);
        }
        ids
    }

    /// Whether any ordinary piece has more than one character.
    pub(crate) fn has_long_pieces(&self) -> bool {
        self.pieces.iter().any(|piece| piece.kind == PieceKind::Normal && piece.text.chars().nth(1).is_some())
    }

    /// The byte pieces by byte, if all 256 are there.
    pub(crate) fn byte_ids(&self) -> Option<[u32; 256]> {
        let mut ids = [u32::MAX; 256];
        for (piece, id) in self.pieces.iter().zip(0u32..) {
            if let PieceKind::Byte(byte) = piece.kind {
                ids[usize::from(byte)] = id;
            }
        }
        ids.iter().all(|&id| id != u32::MAX).then_some(ids)
    }

    /// Checks the invariants of the type; every reader ends here.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let count = self.pieces.len();
        if count == 0 {
            return Err(Problem::Empty);
        }
        if count > PIECES_MAX {
            return Err(Problem::TooManyPieces { found: count });
        }
        for (id, piece) in self.pieces.iter().enumerate() {
            if piece.text.len() > PIECE_BYTES_MAX {
                return Err(Problem::LongPiece { id, bytes: piece.text.len() });
            }
        }
        let known = |id: u32| (id as usize) < count;
        let named = [self.bos, self.eos, self.unknown];
        let added = self.added.iter().map(|token| token.id);
        if let Some(id) = named.into_iter().flatten().chain(added).find(|&id| !known(id)) {
            return Err(Problem::IdOutOfRange { id: u64::from(id), count });
        }
        if !self.scores.is_empty() && self.scores.len() != count {
            return Err(Problem::Lengths { what: "scores", found: self.scores.len(), expected: count });
        }
        if let Some(id) = self.scores.iter().position(|score| !score.is_finite()) {
            return Err(Problem::ScoreNotFinite { id });
        }
        if self.family == Family::Spaced && !self.pieces.iter().any(|piece| piece.text == "\u{2581}") {
            return Err(Problem::NoSpacePiece);
        }
        self.check_merges()
    }

    fn check_merges(&self) -> Result<(), Problem> {
        let ids = self.ids_by_text();
        let mut joined = String::new();
        for (rank, &(left, right)) in self.merges.iter().enumerate() {
            let (Some(left), Some(right)) = (self.pieces.get(left as usize), self.pieces.get(right as usize)) else {
                return Err(Problem::IdOutOfRange { id: u64::from(left.max(right)), count: self.pieces.len() });
            };
            joined.clear();
            joined.push_str(&left.text);
            joined.push_str(&right.text);
            if !ids.contains_key(joined.as_str()) {
                return Err(Problem::MergeProduct { rank, product: joined });
            }
        }
        Ok(())
    }

    /// Content hash that is equal for equal tokenizers, whichever file they came from: blake3, hexadecimal.
    /// Covers family, pieces with their kinds, the order of merges, and the rules before BPE; not file spellings.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(b"slm tokenizer 1");
        field(format!("{:?} {:?} {} {}", self.family, self.prefix, self.byte_fallback, self.ignore_merges).as_bytes());
        field(crate::pre::canonical(&self.pre_tokenizer).as_bytes());
        field(self.normalizer.to_string().as_bytes());
        for piece in &self.pieces {
            field(piece.text.as_bytes());
            field(format!("{:?}", piece.kind).as_bytes());
        }
        for (left, right) in self.grouped(&self.merges) {
            field(&left.to_le_bytes());
            field(&right.to_le_bytes());
        }
        // Where no merge list does what the scores say, the scores themselves count.
        if self.merges.is_empty() && self.has_long_pieces() {
            self.scores.iter().for_each(|score| field(&score.to_le_bytes()));
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Whether `merges` do what this vocabulary's merges do.
    pub(crate) fn same_merges(&self, merges: &[(u32, u32)]) -> bool {
        self.grouped(merges) == self.grouped(&self.merges)
    }

    /// The merges, with splits of one piece that follow each other in the order of their ids: files choose different
    /// orders there, without effect.
    fn grouped(&self, merges: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let text = |id: u32| self.pieces[id as usize].text.as_str();
        let same = |a: &(u32, u32), b: &(u32, u32)| {
            let bytes = |pair: &(u32, u32)| text(pair.0).bytes().chain(text(pair.1).bytes());
            let len = |pair: &(u32, u32)| text(pair.0).len() + text(pair.1).len();
            len(a) == len(b) && bytes(a).eq(bytes(b))
        };
        let mut grouped = merges.to_vec();
        for group in grouped.chunk_by_mut(same) {
            group.sort_unstable();
        }
        grouped
    }
}

/// The byte that a byte piece such as `<0x0A>` stands for.
pub(crate) fn byte_of_piece(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if digits.len() == 2 && upper { u8::from_str_radix(digits, 16).ok() } else { None }
}
