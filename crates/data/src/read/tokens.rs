//! Token files of other programs: AMD's and TinyLlama's chunks (`LITPKDS`) and llm.c's `.bin`.
//!
//! Documents are told apart by the end token (and lose the separators, which the recipe's rule puts back). A document
//! that a file cuts in two is two documents.

use super::{BLOCK_BYTES, Block, BlockReader, DOCUMENT_LIMIT_BYTES, ReadError, Record, Shape, hash_file};
use crate::account::Reason;
use crate::shard::Dtype;
use formats::file::MappedFile;
use std::path::Path;
use tokenizer::Tokenizer;

/// Which program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `LITPKDS`, u64 version 1, u8 dtype (8: u16, 4: i32), u64 number of tokens; then the tokens.
    Litpkds,
    /// 256 i32: magic 20240520, version 1, number of tokens; then u16 tokens. Magic 20240801, version 7: u32 tokens.
    LlmC,
}

/// Where the tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    offset: usize,
    dtype: Dtype,
    tokens: u64,
}

/// A field of a header that is not what it should be.
struct BadHeader {
    at: usize,
    what: &'static str,
    found: String,
    expected: &'static str,
}

fn need(
    holds: bool,
    at: usize,
    what: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> Result<(), BadHeader> {
    if holds { Ok(()) } else { Err(BadHeader { at, what, found: found.to_string(), expected }) }
}

fn extent(bytes: &[u8], layout: Layout) -> Result<Extent, BadHeader> {
    let header_bytes = if layout == Layout::Litpkds { 24 } else { 1024 };
    need(bytes.len() >= header_bytes, bytes.len(), "the end of the file", "here", "a whole header")?;
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    match layout {
        Layout::Litpkds => {
            let magic = &bytes[..7];
            need(magic == b"LITPKDS", 0, "the magic", format!("`{}`", magic.escape_ascii()), "`LITPKDS`")?;
            need(long(7) == 1, 7, "the version", long(7), "1")?;
            let dtype = match bytes[15] {
                8 => Dtype::U16,
                4 => Dtype::U32,
                other => {
                    let (found, expected) = (other.to_string(), "8 (u16) or 4 (i32)");
                    return Err(BadHeader { at: 15, what: "the dtype", found, expected });
                }
            };
            Ok(Extent { offset: 24, dtype, tokens: long(16) })
        }
        Layout::LlmC => {
            let dtype = if word(0) == 20_240_801 { Dtype::U32 } else { Dtype::U16 };
            let known = word(0) == 20_240_520 || word(0) == 20_240_801;
            need(known, 0, "the magic", word(0), "20240520 (u16 tokens) or 20240801 (u32 tokens)")?;
            let version = if dtype == Dtype::U16 { 1 } else { 7 };
            need(word(4) == version, 4, "the version", word(4), if version == 1 { "1" } else { "7" })?;
            Ok(Extent { offset: 1024, dtype, tokens: word(8).into() })
        }
    }
}

/// Reader of documents in a token file.
pub(crate) struct Runs {
    map: MappedFile,
    extent: Extent,
    vocab: u64,
    bos: Option<u32>,
    eos: u32,
    next: u64,
    document: u64,
}

impl Runs {
    pub(crate) fn open(path: &Path, layout: Layout, tokenizer: Option<&Tokenizer>) -> Result<Self, ReadError> {
        let map = MappedFile::open(path)?;
        let extent = extent(&map, layout).map_err(|BadHeader { at, what, found, expected }| {
            ReadError::TokenHeader { path: path.into(), at, what, found, expected: expected.into() }
        })?;
        let width = extent.dtype.bytes() as u64;
        let (found, expected) =
            (map.len() as u64, extent.tokens.saturating_mul(width).saturating_add(extent.offset as u64));
        if found != expected {
            return Err(ReadError::TokenLength { path: path.into(), found, expected });
        }
        let no_end = || ReadError::NoEnd { path: path.into() };
        let tokenizer = tokenizer.ok_or_else(no_end)?;
        let eos = tokenizer.eos().ok_or_else(no_end)?;
        let vocab = tokenizer.vocab_size() as u64;
        Ok(Self { map, extent, vocab, bos: tokenizer.bos(), eos, next: 0, document: 0 })
    }

    /// Tokens `from..to` of the file, as many as there are.
    fn fetch(&self, from: u64, to: u64, out: &mut Vec<u32>) -> Result<(), ReadError> {
        let byte = |token: u64| self.extent.offset + token.min(self.extent.tokens) as usize * self.extent.dtype.bytes();
        let start = out.len();
        self.extent.dtype.fetch(&self.map[byte(from)..byte(to)], out);
        match out[start..].iter().position(|&id| u64::from(id) >= self.vocab) {
            None => Ok(()),
            Some(index) => Err(ReadError::TokenId {
                path: self.map.path().into(),
                at: from + index as u64,
                id: out[start + index],
                vocab: self.vocab,
            }),
        }
    }

    fn record(&mut self, block: &mut Block, start: usize, end: usize, beyond: u64) {
        let is_bos = |id: &u32| Some(*id) == self.bos;
        let ids = &block.ids[start..end];
        let (first, after) = (ids.iter().position(|id| !is_bos(id)), ids.iter().rposition(|id| !is_bos(id)));
        if let (Some(first), Some(after)) = (first, after) {
            self.document += 1;
            let dropped = (beyond > 0).then_some((Reason::Oversized, beyond));
            let (start, end) = (start + first, start + after + 1);
            block.records.push(Record { start, end, input: 0, number: self.document, dropped });
        }
    }
}

impl BlockReader for Runs {
    fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        const STEP: u64 = 1 << 16;
        let tokens_wanted = BLOCK_BYTES / 4;
        let limit = DOCUMENT_LIMIT_BYTES as usize / 4;
        let mut block = Block::new(Shape::Tokens);
        let (mut start, mut skipped) = (0, 0u64);
        while self.next < self.extent.tokens {
            let searched = block.ids.len();
            let from = self.next;
            self.fetch(from, from + STEP, &mut block.ids)?;
            self.next = (from + STEP).min(self.extent.tokens);
            let mut end_at = searched;
            while let Some(length) = block.ids[end_at..].iter().position(|&id| id == self.eos) {
                end_at += length;
                self.record(&mut block, start, end_at, skipped);
                skipped = 0;
                end_at += 1;
                start = end_at;
            }
            if start >= tokens_wanted {
                // What was read of the next document is read again with the next block.
                self.next -= (block.ids.len() - start) as u64;
                block.ids.truncate(start);
                break;
            }
            if block.ids.len() - start > limit {
                skipped += (block.ids.len() - start) as u64 * self.extent.dtype.bytes() as u64;
                block.ids.truncate(start);
            }
        }
        if start < block.ids.len() {
            let end = block.ids.len();
            self.record(&mut block, start, end, skipped);
        }
        block.position = self.extent.offset as u64 + self.next * self.extent.dtype.bytes() as u64;
        Ok((!block.records.is_empty()).then_some(block))
    }

    fn hashes(&mut self) -> Result<Vec<String>, ReadError> {
        Ok(vec![hash_file(self.map.path())?])
    }
}
