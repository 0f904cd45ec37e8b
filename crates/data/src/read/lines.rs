//! Lines of a file that may be packed; each line is one JSON object.

use super::{BLOCK_BYTES, Block, BlockReader, HashedFile, LINE_LIMIT_BYTES, ReadError, Record, Shape};
use crate::account::Reason;
use crate::plan::Packing;
use flate2::read::MultiGzDecoder;
use formats::file::FileError;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// What is read from the decoder at once.
const STEP_BYTES: usize = 256 << 10;

enum Decoder {
    Plain(HashedFile),
    Gzip(Box<MultiGzDecoder<HashedFile>>),
    Zstd(zstd::Decoder<'static, BufReader<HashedFile>>),
}

impl Decoder {
    fn file(&mut self) -> &mut HashedFile {
        match self {
            Self::Plain(file) => file,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Reader of lines.
pub(crate) struct Lines {
    decoder: Decoder,
    path: PathBuf,
    packed: bool,
    /// The beginning of a line whose end has not been read.
    carry: Vec<u8>,
    /// Bytes of a line that is too long and is being skipped; 0 otherwise.
    skipped: u64,
    unpacked: u64,
    line: u64,
    ended: bool,
}

impl Lines {
    pub(crate) fn open(path: &Path, packing: Packing) -> Result<Self, ReadError> {
        let file = HashedFile::open(path)?;
        let decoder = match packing {
            Packing::None => Decoder::Plain(file),
            Packing::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(file))),
            Packing::Zstd => {
                let decoder = zstd::Decoder::new(file).map_err(|cause| FileError::io("unpack it", path, cause))?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self {
            decoder,
            path: path.into(),
            packed: packing != Packing::None,
            carry: Vec::new(),
            skipped: 0,
            unpacked: 0,
            line: 0,
            ended: false,
        })
    }

    /// Reads up to [`STEP_BYTES`] onto `bytes`; returns how many.
    fn step(&mut self, bytes: &mut Vec<u8>) -> Result<usize, ReadError> {
        let start = bytes.len();
        bytes.resize(start + STEP_BYTES, 0);
        let count = loop {
            match self.decoder.read(&mut bytes[start..]) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        bytes.truncate(start + count.as_ref().map_or(0, |count| *count));
        let (path, at) = (self.path.clone(), self.unpacked);
        let count = count.map_err(|cause| match self.packed {
            true => ReadError::Unpack { path, at, cause },
            false => FileError::io("read it", &self.path, cause).into(),
        })?;
        self.unpacked += count as u64;
        Ok(count)
    }

    /// Appends the whole lines of `bytes[from..]` to the records; returns where the last one ends.
    fn cut(&mut self, block: &mut Block, mut from: usize) -> usize {
        while let Some(length) = block.bytes[from..].iter().position(|&byte| byte == b'\n') {
            self.record(block, from, from + length);
            from += length + 1;
        }
        from
    }

    fn record(&mut self, block: &mut Block, start: usize, end: usize) {
        self.line += 1;
        let skipped = std::mem::take(&mut self.skipped);
        let dropped = (skipped > 0).then(|| (Reason::Oversized, skipped + (end - start) as u64));
        let blank = block.bytes[start..end].trim_ascii().is_empty(); // blank lines are no documents
        if dropped.is_some() || !blank {
            block.records.push(Record { start, end, input: 0, number: self.line, dropped });
        }
    }

    fn fill(&mut self, block: &mut Block) -> Result<(), ReadError> {
        let mut whole = 0; // bytes up to the end of the last whole line
        while whole < BLOCK_BYTES && !self.ended {
            let searched = block.bytes.len();
            if self.step(&mut block.bytes)? == 0 {
                self.ended = true;
                if whole < block.bytes.len() || self.skipped > 0 {
                    self.record(block, whole, block.bytes.len());
                }
                return Ok(());
            }
            if block.bytes[searched..].contains(&b'\n') {
                whole = self.cut(block, whole);
            } else if block.bytes.len() - whole > LINE_LIMIT_BYTES || self.skipped > 0 {
                self.skipped += (block.bytes.len() - whole) as u64;
                block.bytes.truncate(whole);
            }
        }
        self.carry = block.bytes.split_off(whole);
        Ok(())
    }
}

impl BlockReader for Lines {
    fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        while !self.ended {
            let mut block = Block::new(Shape::JsonLine);
            block.bytes = std::mem::take(&mut self.carry);
            self.fill(&mut block)?;
            block.position = self.decoder.file().read;
            if !block.records.is_empty() {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    fn hashes(&mut self) -> Result<Vec<String>, ReadError> {
        Ok(vec![self.decoder.file().finish()?])
    }
}
