//! Inputs → blocks of documents.
//!
//! A *task* is a file, or a run of small text files. It is read from its beginning to its end as *blocks*: some
//! megabytes of documents each. Where blocks are cut depends on the input alone, never on threads or timing, so "block
//! 17 of task 3" means the same in every run: restarting and the order of results hang on that.

mod json;
mod lines;
mod parquet;
mod text;
mod tokens;

pub(crate) use json::{Fields, Parsed};

use crate::account::Reason;
use crate::plan::{InputPlan, Kind, Task};
use formats::file::{self, FileError};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Documents of more bytes than this are dropped as [`Reason::Oversized`]: memory stays bounded whatever the input.
pub const DOCUMENT_LIMIT_BYTES: u64 = 32 << 20;
/// A line may be longer than its text: JSON can spend six bytes on a character, but two are already rare.
pub(crate) const LINE_LIMIT_BYTES: usize = 2 * DOCUMENT_LIMIT_BYTES as usize;
/// Text in a block. Two megabytes are a tenth of a second of tokenizing: enough to make hand-overs free, little enough
/// that sixteen threads hold some dozens of megabytes.
pub(crate) const BLOCK_BYTES: usize = 2 << 20;

/// An input that cannot be read, or that does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk's.
    #[error(transparent)]
    File(#[from] FileError),
    /// A compressed file that cannot be unpacked.
    #[error(
        "{path}: cannot be unpacked after {at} bytes of text ({cause}); the file is cut short or damaged, fetch it again"
    )]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Bytes that came out before.
        at: u64,
        /// What the decoder says.
        cause: io::Error,
    },
    /// A parquet file that cannot be read.
    #[error("{path}: not a readable parquet file ({cause}); the file is cut short or damaged, fetch it again")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        cause: String,
    },
    /// A parquet file without the column.
    #[error("{path}: there is no column `{column}` of text (there are {columns}); correct `text`")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The recipe's column.
        column: String,
        /// Those that the file has.
        columns: String,
    },
    /// A token file whose header is not what it should be.
    #[error("{path}: byte {at}: {what} is {found}, expected {expected}; it is not a token file of this `format`")]
    TokenHeader {
        /// The file.
        path: PathBuf,
        /// Offset in the header.
        at: usize,
        /// Which field.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A token file that is shorter or longer than its header says.
    #[error(
        "{path}: {found} bytes long, but its header promises {expected}; the file is cut short or damaged, fetch it again"
    )]
    TokenLength {
        /// The file.
        path: PathBuf,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// A token file of another tokenizer.
    #[error(
        "{path}: token {at} has id {id}, but the tokenizer has {vocab} tokens; give the tokenizer it was made with"
    )]
    TokenId {
        /// The file.
        path: PathBuf,
        /// Index of the token.
        at: u64,
        /// Its id.
        id: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// A token file needs to be cut into documents.
    #[error("{path}: the tokenizer has no end token, by which documents in a token file are told apart; give another")]
    NoEnd {
        /// The file.
        path: PathBuf,
    },
}

/// How the records of a block are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each is a text.
    Text,
    /// Each is a JSON object on a line.
    JsonLine,
    /// Each is a run of token ids.
    Tokens,
}

/// One document, not yet looked into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Where it lies in the block's bytes (or ids).
    pub(crate) start: usize,
    /// Where it ends.
    pub(crate) end: usize,
    /// Index of its input in the task.
    pub(crate) input: usize,
    /// Line, or number of the document in its input, from 1; 0 where the input is the document.
    pub(crate) number: u64,
    /// Found out while reading: why it is dropped, and how many bytes it had.
    pub(crate) dropped: Option<(Reason, u64)>,
}

/// Some documents.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) shape: Shape,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ids: Vec<u32>,
    pub(crate) records: Vec<Record>,
    /// Bytes of the task's inputs that were read by its end.
    pub(crate) position: u64,
}

impl Block {
    fn new(shape: Shape) -> Self {
        Self { shape, bytes: Vec::new(), ids: Vec::new(), records: Vec::new(), position: 0 }
    }

    /// Memory it takes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.len() + self.ids.len() * 4 + self.records.len() * size_of::<Record>()
    }
}

/// Reads a task.
pub(crate) trait BlockReader: Send {
    /// The next block; `None` at the end.
    fn next_block(&mut self) -> Result<Option<Block>, ReadError>;

    /// After the end: the hash of each input's bytes.
    fn hashes(&mut self) -> Result<Vec<String>, ReadError>;
}

/// Opens a task. Token files need the tokenizer.
pub(crate) fn open(
    task: &Task,
    inputs: &[InputPlan],
    source: &recipe::Source,
    tokenizer: Option<&tokenizer::Tokenizer>,
) -> Result<Box<dyn BlockReader>, ReadError> {
    let inputs = inputs.get(task.inputs.clone()).unwrap_or_default();
    let Some(first) = inputs.first() else { return Ok(Box::new(text::Texts::new(Vec::new(), task.kind))) };
    let path = &first.path;
    Ok(match task.kind {
        Kind::Text | Kind::RustDocs => {
            Box::new(text::Texts::new(inputs.iter().map(|input| input.path.clone()).collect(), task.kind))
        }
        Kind::Jsonl(packing) => Box::new(lines::Lines::open(path, packing)?),
        Kind::Parquet => Box::new(parquet::Rows::open(path, source)?),
        Kind::Litpkds => Box::new(tokens::Runs::open(path, tokens::Layout::Litpkds, tokenizer)?),
        Kind::LlmC => Box::new(tokens::Runs::open(path, tokens::Layout::LlmC, tokenizer)?),
    })
}

/// A file whose bytes are hashed as they are read.
pub(crate) struct HashedFile {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    read: u64,
}

impl HashedFile {
    fn open(path: &Path) -> Result<Self, FileError> {
        Ok(Self { file: file::open_read(path)?, path: path.into(), hasher: blake3::Hasher::new(), read: 0 })
    }

    /// Reads what is left, for the hash.
    fn finish(&mut self) -> Result<String, FileError> {
        let mut rest = vec![0; 1 << 16];
        loop {
            match self.read(&mut rest) {
                Ok(0) => return Ok(self.hasher.finalize().to_hex().to_string()),
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(FileError::io("read it", &self.path, cause)),
            }
        }
    }
}

impl Read for HashedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read += count as u64;
        Ok(count)
    }
}

/// The hash of a whole file.
pub(crate) fn hash_file(path: &Path) -> Result<String, FileError> {
    HashedFile::open(path)?.finish()
}
