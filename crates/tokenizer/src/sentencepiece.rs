//! `tokenizer.model` (a SentencePiece protobuf) → vocabulary. Field numbers: sentencepiece_model.proto.

use crate::problem::Problem;
use crate::ranks;
use crate::vocabulary::{Added, Family, Piece, PieceKind, Prefix, Vocabulary, byte_of_piece};

/// Reads a BPE model whose rules this crate reproduces.
pub(crate) fn read(bytes: &[u8]) -> Result<Vocabulary, Problem> {
    let mut vocabulary = Vocabulary::new(Family::Spaced);
    let (mut trainer, mut normalizer, mut denormalizer) =
        (Trainer::default(), Normalizer::default(), Normalizer::default());
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(piece, at)) => read_piece(piece, at, &mut vocabulary)?,
            (2, Value::Bytes(spec, _)) => trainer.read(spec)?,
            (3, Value::Bytes(spec, _)) => normalizer.read(spec)?,
            (5, Value::Bytes(spec, _)) => denormalizer.read(spec)?,
            _ => {}
        }
    }
    trainer.check()?;
    normalizer.check("normalizer_spec")?;
    denormalizer.check_charsmap("denormalizer_spec")?;
    vocabulary.prefix = if normalizer.dummy_prefix { Prefix::Always } else { Prefix::Never };
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.pieces.len());
    let control = |id: &u32| vocabulary.pieces[*id as usize].kind == PieceKind::Control;
    (vocabulary.bos, vocabulary.eos) = (id(trainer.bos).filter(control), id(trainer.eos).filter(control));
    finish(&mut vocabulary)?;
    Ok(vocabulary)
}

/// What remains to do for any scored vocabulary: find unknown and byte pieces, list the special tokens, derive merges.
pub(crate) fn finish(vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    vocabulary.unknown = (0u32..).zip(&vocabulary.pieces).find(|(_, p)| p.kind == PieceKind::Unknown).map(|(id, _)| id);
    vocabulary.byte_fallback = vocabulary.byte_ids().is_some();
    vocabulary.adds_bos = vocabulary.bos.is_some();
    let special = |(id, piece): (u32, &Piece)| {
        let special = matches!(piece.kind, PieceKind::Control | PieceKind::Unknown);
        let listed = !piece.text.is_empty() && (special || piece.kind == PieceKind::UserDefined);
        listed.then(|| Added::plain(id, &piece.text, special))
    };
    vocabulary.added = (0u32..).zip(&vocabulary.pieces).filter_map(special).collect();
    vocabulary.check()?;
    match ranks::merges_from_scores(vocabulary) {
        Ok(merges) => vocabulary.merges = merges,
        Err(why) => tracing::debug!(why, "encoding by scores, no merge list does the same"),
    }
    Ok(())
}

fn read_piece(bytes: &[u8], at: usize, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, value)) = fields.next().map_err(|problem| problem.shifted(at))? {
        match (number, value) {
            (1, Value::Bytes(spelling, _)) => {
                let what = "a piece is not UTF-8";
                text = std::str::from_utf8(spelling).map_err(|_| Problem::Protobuf { at, what })?.to_owned();
            }
            (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Value::Varint(found)) => kind = found,
            _ => {}
        }
    }
    let kind = match kind {
        1 => PieceKind::Normal,
        2 => PieceKind::Unknown,
        3 => PieceKind::Control,
        6 => {
            PieceKind::Byte(byte_of_piece(&text).ok_or(Problem::Protobuf { at, what: "a byte piece is not `<0xNN>`" })?)
        }
        found => {
            let found = format!("type {found} (user-defined or unused)");
            return Err(Problem::Setting { setting: "piece", found, expected: "normal, unknown, control or byte" });
        }
    };
    vocabulary.pieces.push(Piece { text, kind });
    vocabulary.scores.push(score);
    Ok(())
}

/// `TrainerSpec`, as far as it says how to encode.
struct Trainer {
    model_type: u64,
    space_as_suffix: bool,
    bos: i32,
    eos: i32,
}

impl Default for Trainer {
    fn default() -> Self {
        Self { model_type: 1, space_as_suffix: false, bos: 1, eos: 2 }
    }
}

impl Trainer {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let mut fields = Fields { bytes, at: 0 };
        while let Some((number, value)) = fields.next()? {
            if let Value::Varint(value) = value {
                match number {
                    3 => self.model_type = value,
                    24 => self.space_as_suffix = value != 0,
                    41 => self.bos = value as i32,
                    42 => self.eos = value as i32,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Problem> {
        if self.model_type != 2 {
            let kinds = ["nameless", "unigram", "BPE", "word", "character"];
            let found = usize::try_from(self.model_type).ok().and_then(|at| kinds.get(at)).unwrap_or(&"nameless");
            return Err(Problem::NotBpe { found: format!("SentencePiece {found}") });
        }
        if self.space_as_suffix {
            let found = "true".to_owned();
            return Err(Problem::Setting { setting: "treat_whitespace_as_suffix", found, expected: "false" });
        }
        Ok(())
    }
}

/// `NormalizerSpec`.
struct Normalizer {
    name: String,
    charsmap_bytes: usize,
    dummy_prefix: bool,
    remove_extra_spaces: bool,
    escape_spaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            name: String::new(),
            charsmap_bytes: 0,
            dummy_prefix: true,
            remove_extra_spaces: true,
            escape_spaces: true,
        }
    }
}

impl Normalizer {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let mut fields = Fields { bytes, at: 0 };
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(name, _)) => self.name = String::from_utf8_lossy(name).into_owned(),
                (2, Value::Bytes(map, _)) => self.charsmap_bytes = map.len(),
                (3, Value::Varint(value)) => self.dummy_prefix = value != 0,
                (4, Value::Varint(value)) => self.remove_extra_spaces = value != 0,
                (5, Value::Varint(value)) => self.escape_spaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self, setting: &'static str) -> Result<(), Problem> {
        self.check_charsmap(setting)?;
        if self.remove_extra_spaces {
            let found = "true".to_owned();
            return Err(Problem::Setting { setting: "remove_extra_whitespaces", found, expected: "false" });
        }
        if !self.escape_spaces {
            let found = "false".to_owned();
            return Err(Problem::Setting { setting: "escape_whitespaces", found, expected: "true" });
        }
        Ok(())
    }

    /// Text must pass unchanged.
    fn check_charsmap(&self, setting: &'static str) -> Result<(), Problem> {
        if self.charsmap_bytes > 0 {
            return Err(Problem::Setting { setting, found: format!("`{}`", self.name), expected: "`identity`" });
        }
        Ok(())
    }
}

/// Fields of a protobuf message in order.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    /// The bytes, and where they begin in the message.
    Bytes(&'a [u8], usize),
    /// A fixed 64-bit number; no field read here has one.
    Other,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Problem> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = self.varint()?;
                let at = self.at;
                Value::Bytes(self.take(len)?, at)
            }
            5 => {
                let four = self.take(4)?;
                Value::Fixed32(four.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte)))
            }
            _ => return Err(self.bad("an unknown kind of field")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.bad("a number of more than 64 bits"))
    }

    /// The only way forward: no length is trusted beyond the end of the message.
    fn take(&mut self, len: u64) -> Result<&'a [u8], Problem> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or_else(|| self.bad("a field is longer than what is left"))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn bad(&self, what: &'static str) -> Problem {
        Problem::Protobuf { at: self.at, what }
    }
}
