//! BPE over one stretch of prepared text. Which library does the work is decided here and nowhere else.

use serde_json::{Map, Value, json};

use crate::byte_level;
use crate::cuts::Cuts;
use crate::problem::Problem;
use crate::scored::Scored;
use crate::vocabulary::{Family, PieceKind, Vocabulary};

/// The encoders, fastest first.
enum Encoder {
    Fast(Box<fastokens::Tokenizer>),
    General(Box<tokenizers::Tokenizer>),
    Scored(Box<Scored>),
}

/// In place of an id: what the vocabulary cannot spell.
const DROPPED: u32 = u32::MAX;

/// An encoder for text whose special tokens were already cut out and whose spaces were already marked.
pub(crate) struct Engine {
    encoder: Encoder,
    cuts: Cuts,
    /// Id of each of the encoder's own ids; empty where they are the same.
    ids: Vec<u32>,
    /// Some of the encoder's ids stand for bytes that the vocabulary cannot spell.
    drops: bool,
    /// Ids of single bytes, for text that the encoder fails on.
    bytes: Vec<Option<u32>>,
}

impl Engine {
    /// Builds the fastest encoder that is exact for this vocabulary.
    pub(crate) fn build(vocabulary: &Vocabulary) -> Result<Self, Problem> {
        let bytes = single_bytes(vocabulary);
        let cuts = Cuts::new(vocabulary);
        let reachable = Reachable::of(vocabulary);
        let scored_only = vocabulary.merges.is_empty() && !vocabulary.scores.is_empty();
        if vocabulary.family == Family::Spaced && (scored_only || reachable.hides_a_byte_piece(vocabulary)) {
            let encoder = Encoder::Scored(Box::new(Scored::new(vocabulary)));
            return Ok(Self { encoder, ids: Vec::new(), cuts, drops: false, bytes });
        }
        let value = reachable.to_json(vocabulary);
        let encoder = match fastokens::Tokenizer::from_json(value.clone()) {
            Ok(fast) => Encoder::Fast(Box::new(fast)),
            Err(reason) => {
                tracing::debug!(%reason, "fastokens refuses this tokenizer, using tokenizers");
                let general = tokenizers::Tokenizer::from_bytes(value.to_string().as_bytes());
                Encoder::General(Box::new(general.map_err(|error| Problem::Engine { what: error.to_string() })?))
            }
        };
        let drops = !reachable.missing.is_empty();
        Ok(Self { encoder, ids: reachable.into_map(), cuts, drops, bytes })
    }

    /// Appends the ids of `text`.
    pub(crate) fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (stretch, after) = self.cuts.first(rest);
            self.encode_stretch(stretch, out);
            rest = after;
        }
    }

    fn encode_stretch(&self, text: &str, out: &mut Vec<u32>) {
        let start = out.len();
        match &self.encoder {
            Encoder::Scored(scored) => scored.encode_into(text, out),
            Encoder::Fast(fast) => match fast.encode_ordinary(text) {
                Ok(ids) if out.is_empty() => *out = ids,
                Ok(ids) => out.extend_from_slice(&ids),
                Err(error) => self.encode_bytes(text, &error, out),
            },
            Encoder::General(general) => match general.encode_fast(text, false) {
                Ok(encoding) => out.extend_from_slice(encoding.get_ids()),
                Err(error) => return self.encode_bytes(text, &error, out),
            },
        }
        if !self.ids.is_empty() {
            for id in &mut out[start..] {
                *id = self.ids.get(*id as usize).copied().unwrap_or(DROPPED);
            }
            if self.drops {
                let mut kept = start;
                for at in start..out.len() {
                    out[kept] = out[at];
                    kept += usize::from(out[at] != DROPPED);
                }
                out.truncate(kept);
            }
        }
    }

    /// Spells `text` byte by byte: nothing is lost when a regular expression gives up, though the ids are more than need be.
    fn encode_bytes(&self, text: &str, reason: &dyn std::fmt::Display, out: &mut Vec<u32>) {
        tracing::error!(bytes = text.len(), %reason, "the encoder gave up on a text, which is spelled byte by byte instead");
        out.extend(text.bytes().filter_map(|byte| self.bytes[usize::from(byte)]));
    }
}

/// The piece of each single byte.
fn single_bytes(vocabulary: &Vocabulary) -> Vec<Option<u32>> {
    if let Some(ids) = vocabulary.byte_ids() {
        return ids.map(Some).to_vec();
    }
    let ids = vocabulary.ids_by_text();
    (0..=255).map(|byte| ids.get(byte_level::stand_in(byte).to_string().as_str()).copied()).collect()
}

/// The pieces that encoding can produce. An encoder is given these alone, so that no special spelling, unused entry or
/// gap between ids can come out of it.
struct Reachable {
    /// Ids in ascending order.
    ids: Vec<u32>,
    /// Stand-ins of bytes without a piece; they are numbered after the pieces.
    missing: Vec<String>,
}

impl Reachable {
    fn of(vocabulary: &Vocabulary) -> Self {
        let first = vocabulary.ids_by_text();
        let mut reached = vec![false; vocabulary.pieces.len()];
        for (id, piece) in vocabulary.pieces.iter().enumerate() {
            reached[id] = match piece.kind {
                PieceKind::Normal => {
                    first.get(piece.text.as_str()) == Some(&(id as u32))
                        && !piece.text.is_empty()
                        && (vocabulary.ignore_merges || piece.text.chars().nth(1).is_none())
                }
                PieceKind::Byte(_) => vocabulary.byte_fallback,
                PieceKind::Unknown => vocabulary.byte_ids().is_none() && !piece.text.is_empty(),
                PieceKind::Control | PieceKind::UserDefined | PieceKind::Unused => false,
            };
        }
        let mut joined = String::new();
        for &(left, right) in &vocabulary.merges {
            joined.clear();
            joined.push_str(&vocabulary.pieces[left as usize].text);
            joined.push_str(&vocabulary.pieces[right as usize].text);
            for id in [Some(left), Some(right), first.get(joined.as_str()).copied()].into_iter().flatten() {
                reached[id as usize] = true;
            }
        }
        let missing = |byte: u8| Some(byte_level::spell(&[byte])).filter(|text| !first.contains_key(text.as_str()));
        let missing = if vocabulary.drops_late { (0..=255).filter_map(missing).collect() } else { Vec::new() };
        Self { missing, ids: (0u32..).zip(&reached).filter(|(_, reached)| **reached).map(|(id, _)| id).collect() }
    }

    /// Whether some spelling such as `<0x0A>` or `<unk>` could be taken for its piece when it is written in the text:
    /// the encoder takes a text that is one whole piece for that piece, unless it sees that merges cannot make it.
    fn hides_a_byte_piece(&self, vocabulary: &Vocabulary) -> bool {
        let mut single = [0u8; 4];
        let ids = vocabulary.ids_by_text();
        let spelled = |text: &str, single: &mut [u8; 4]| {
            text.chars().all(|c| {
                let id = ids.get(&*c.encode_utf8(single)).copied();
                id.is_some_and(|id| self.ids.binary_search(&id).is_ok())
            })
        };
        self.ids.iter().map(|&id| &vocabulary.pieces[id as usize]).any(|piece| {
            matches!(piece.kind, PieceKind::Byte(_) | PieceKind::Unknown) && !spelled(&piece.text, &mut single)
        })
    }

    /// A `tokenizer.json` value with these pieces, numbered from 0 in the order of their ids.
    fn to_json(&self, vocabulary: &Vocabulary) -> Value {
        let piece = |id: u32| vocabulary.pieces[id as usize].text.as_str();
        let spelled = self.ids.iter().map(|&id| piece(id).to_owned()).chain(self.missing.iter().cloned());
        let vocab: Map<String, Value> = spelled.enumerate().map(|(at, text)| (text, Value::from(at))).collect();
        let merges: Vec<Value> =
            vocabulary.merges.iter().map(|&(left, right)| json!([piece(left), piece(right)])).collect();
        let unknown = vocabulary.unknown.filter(|id| self.ids.binary_search(id).is_ok()).map(piece);
        json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": vocabulary.normalizer,
            "pre_tokenizer": vocabulary.pre_tokenizer,
            "post_processor": null,
            "decoder": null,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": vocabulary.fuse_unknown,
                "byte_fallback": vocabulary.byte_fallback,
                "ignore_merges": vocabulary.ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        })
    }

    /// The id behind each number of [`Reachable::to_json`], or nothing if they are equal.
    fn into_map(self) -> Vec<u32> {
        let same = self.missing.is_empty() && self.ids.iter().zip(0u32..).all(|(&id, at)| id == at);
        if same { Vec::new() } else { self.ids }
    }
}
