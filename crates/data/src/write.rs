//! The shards of a source while they are being written.
//!
//! A shard grows in the work folder and moves to its place when it is full, header last. [`PartWriter::flush`] makes
//! what was appended durable and says where that is; [`PartWriter::resume`] goes back to such a point, also when the
//! shard has moved since.

use crate::DataError;
use crate::manifest::{Part, PartEntry, ShardEntry};
use crate::shard::{Dtype, HEADER_BYTES, ShardHeader};
use formats::file::{self, FileError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What all shards of a folder have in common.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) out: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) dtype: Dtype,
    pub(crate) vocab: u64,
    pub(crate) tokenizer_mark: [u8; 32],
    pub(crate) shard_tokens: u64,
}

/// How far a part has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartState {
    #[serde(flatten)]
    pub(crate) entry: PartEntry,
    /// Tokens in the shard that is not full yet.
    pub(crate) open_tokens: u64,
}

struct OpenShard {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    tokens: u64,
}

/// Writes the training or the validation shards of a source.
pub(crate) struct PartWriter<'l> {
    layout: &'l Layout,
    source: String,
    part: Part,
    pub(crate) entry: PartEntry,
    open: Option<OpenShard>,
}

impl<'l> PartWriter<'l> {
    /// Goes on from `state`, or begins with the default one.
    pub(crate) fn resume(layout: &'l Layout, source: &str, part: Part, state: PartState) -> Result<Self, DataError> {
        let mut writer = Self { layout, source: source.into(), part, entry: state.entry, open: None };
        let growing = writer.growing_path();
        let mut index = writer.entry.shards.len();
        let moved = layout.out.join(writer.file_name(index));
        if file::exists(&moved) {
            file::rename(&moved, &growing)?;
        }
        loop {
            index += 1;
            let later = layout.out.join(writer.file_name(index));
            if !file::exists(&later) {
                break;
            }
            file::remove_file(&later)?;
        }
        if state.open_tokens > 0 {
            writer.open = Some(writer.reopen(&growing, state.open_tokens)?);
        } else if file::exists(&growing) {
            file::remove_file(&growing)?;
        }
        Ok(writer)
    }

    fn file_name(&self, index: usize) -> String {
        format!("{}/{}-{index:05}.bin", self.source, self.part.name())
    }

    fn growing_path(&self) -> PathBuf {
        self.layout.work.join(format!("{}.{}.bin", self.source, self.part.name()))
    }

    fn reopen(&self, path: &Path, tokens: u64) -> Result<OpenShard, DataError> {
        let fail = |cause| FileError::io("read it", path, cause);
        let bytes = tokens * self.layout.dtype.bytes() as u64;
        let mut opened = file::open_update(path)?;
        let found = file::size_bytes(path)?;
        if found < HEADER_BYTES as u64 + bytes {
            let problem = format!("{found} bytes long, {} were written", HEADER_BYTES as u64 + bytes);
            return Err(DataError::BadJournal { path: path.into(), problem, dir: self.layout.out.clone() });
        }
        opened.set_len(HEADER_BYTES as u64 + bytes).map_err(fail)?;
        opened.seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(fail)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match opened.read(&mut buffer).map_err(fail)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            };
        }
        Ok(OpenShard { file: BufWriter::with_capacity(1 << 20, opened), hasher, tokens })
    }

    fn begin(&self, path: &Path) -> Result<OpenShard, DataError> {
        let mut file = BufWriter::with_capacity(1 << 20, file::create_file(path)?);
        file.write_all(&[0; HEADER_BYTES]).map_err(|cause| FileError::io("write it", path, cause))?;
        Ok(OpenShard { file, hasher: blake3::Hasher::new(), tokens: 0 })
    }

    /// Appends the tokens of a document, as they are stored.
    pub(crate) fn append(&mut self, mut stored: &[u8]) -> Result<(), DataError> {
        let width = self.layout.dtype.bytes();
        let path = self.growing_path();
        while !stored.is_empty() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.begin(&path)?,
            };
            let room = (self.layout.shard_tokens - open.tokens) as usize * width;
            let (now, later) = stored.split_at(room.min(stored.len()));
            open.hasher.update(now);
            open.file.write_all(now).map_err(|cause| FileError::io("write it", &path, cause))?;
            open.tokens += (now.len() / width) as u64;
            stored = later;
            if open.tokens == self.layout.shard_tokens {
                self.close(open)?;
            } else {
                self.open = Some(open);
            }
        }
        Ok(())
    }

    /// Writes the header and moves the shard to its place.
    fn close(&mut self, mut open: OpenShard) -> Result<(), DataError> {
        let path = self.growing_path();
        let fail = |cause| FileError::io("write it", &path, cause);
        let hash = open.hasher.finalize();
        let header = ShardHeader {
            dtype: self.layout.dtype,
            vocab: self.layout.vocab,
            tokens: open.tokens,
            payload_hash: *hash.as_bytes(),
            tokenizer: self.layout.tokenizer_mark,
        };
        open.file.seek(SeekFrom::Start(0)).map_err(fail)?;
        open.file.write_all(&header.to_bytes()).and_then(|()| open.file.flush()).map_err(fail)?;
        file::sync(open.file.get_ref(), &path)?;
        drop(open.file);
        let name = self.file_name(self.entry.shards.len());
        file::create_dir_all(&self.layout.out.join(&self.source))?;
        file::rename(&path, &self.layout.out.join(&name))?;
        self.entry.shards.push(ShardEntry { file: name, tokens: open.tokens, hash: hash.to_hex().to_string() });
        Ok(())
    }

    /// Makes everything durable; the state to go on from.
    pub(crate) fn flush(&mut self) -> Result<PartState, DataError> {
        let mut open_tokens = 0;
        let path = self.growing_path();
        if let Some(open) = &mut self.open {
            open.file.flush().map_err(|cause| FileError::io("write it", &path, cause))?;
            file::sync(open.file.get_ref(), &path)?;
            open_tokens = open.tokens;
        }
        Ok(PartState { entry: self.entry.clone(), open_tokens })
    }

    /// Closes the last shard.
    pub(crate) fn finish(&mut self) -> Result<(), DataError> {
        match self.open.take() {
            Some(open) => self.close(open),
            None => Ok(()),
        }
    }
}
