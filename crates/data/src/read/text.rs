//! Files that are one document each.

use super::{BLOCK_BYTES, Block, BlockReader, DOCUMENT_LIMIT_BYTES, HashedFile, ReadError, Record, Shape};
use crate::account::Reason;
use crate::corpus::doc_comments;
use crate::plan::Kind;
use formats::file::FileError;
use std::io::Read;
use std::path::PathBuf;

/// Reader of a run of text files.
pub(crate) struct Texts {
    paths: Vec<PathBuf>,
    kind: Kind,
    next: usize,
    position: u64,
    hashes: Vec<String>,
}

impl Texts {
    pub(crate) fn new(paths: Vec<PathBuf>, kind: Kind) -> Self {
        Self { paths, kind, next: 0, position: 0, hashes: Vec::new() }
    }

    fn append(&mut self, block: &mut Block) -> Result<(), ReadError> {
        let (input, path) = (self.next, &self.paths[self.next]);
        let mut file = HashedFile::open(path)?;
        let start = block.bytes.len();
        (&mut file)
            .take(DOCUMENT_LIMIT_BYTES + 1)
            .read_to_end(&mut block.bytes)
            .map_err(|cause| FileError::io("read it", path, cause))?;
        let mut dropped = None;
        if (block.bytes.len() - start) as u64 > DOCUMENT_LIMIT_BYTES {
            block.bytes.truncate(start);
        }
        self.hashes.push(file.finish()?); // reads to the end
        if file.read > DOCUMENT_LIMIT_BYTES {
            dropped = Some((Reason::Oversized, file.read));
        }
        let is_rust = path.extension().is_some_and(|ending| ending == "rs");
        if self.kind == Kind::RustDocs && is_rust {
            let docs = doc_comments(&block.bytes[start..]);
            block.bytes.truncate(start);
            block.bytes.extend_from_slice(&docs);
            if dropped.is_none() && docs.is_empty() {
                dropped = Some((Reason::Empty, 0));
            }
        }
        block.records.push(Record { start, end: block.bytes.len(), input, number: 0, dropped });
        self.position += file.read;
        self.next += 1;
        Ok(())
    }
}

impl BlockReader for Texts {
    fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        if self.next == self.paths.len() {
            return Ok(None);
        }
        let mut block = Block::new(Shape::Text);
        while self.next < self.paths.len() && block.bytes.len() < BLOCK_BYTES {
            self.append(&mut block)?;
        }
        block.position = self.position;
        Ok(Some(block))
    }

    fn hashes(&mut self) -> Result<Vec<String>, ReadError> {
        Ok(std::mem::take(&mut self.hashes))
    }
}
