//! Token shards: a header of 256 bytes, then the tokens, little-endian, nothing else.
//!
//! | bytes | what |
//! |---|---|
//! | 0…8 | `SLMTOKEN` |
//! | 8…12 | version, u32: 1 |
//! | 12…16 | bytes per token, u32: 2 or 4 |
//! | 16…24 | vocabulary size, u64: every id is below it |
//! | 24…32 | number of tokens, u64 |
//! | 32…64 | BLAKE3 of the tokens' bytes |
//! | 64…96 | BLAKE3 of the tokenizer's hash as text |
//! | 96…256 | zero |

use formats::file::{self, FileError, MappedFile};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Bytes before the tokens.
pub(crate) const HEADER_BYTES: usize = 256;
/// First bytes of a shard.
pub(crate) const MAGIC: &[u8; 8] = b"SLMTOKEN";
/// Version of the layout.
pub(crate) const VERSION: u32 = 1;

/// How a token is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Two bytes: vocabularies of up to 65536.
    U16,
    /// Four bytes.
    U32,
}

impl Dtype {
    /// The narrowest that holds every id of a vocabulary.
    pub fn for_vocab(vocab: u64) -> Self {
        if vocab <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes per token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// Appends ids as they are stored. The caller has checked that they fit.
    pub(crate) fn store(self, ids: &[u32], out: &mut Vec<u8>) {
        match self {
            Self::U16 => out.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            Self::U32 => out.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    /// Appends the ids that `bytes` hold; a rest that is no whole token is ignored.
    pub(crate) fn fetch(self, bytes: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::U16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|id| u32::from(u16::from_le_bytes(*id)))),
            Self::U32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id))),
        }
    }
}

/// What is wrong with the bytes of a shard.
#[derive(Debug, thiserror::Error)]
pub enum ShardProblem {
    /// Shorter than a header.
    #[error("{found} bytes are fewer than the {HEADER_BYTES} of a shard's header; the file is cut short")]
    TooShort {
        /// Bytes there are.
        found: usize,
    },
    /// Something else than a shard.
    #[error("it starts with `{}`, not `SLMTOKEN`; this is not a token shard", found.escape_ascii())]
    BadMagic {
        /// The first bytes.
        found: [u8; 8],
    },
    /// Another layout.
    #[error("byte 8: version {found}, this program reads version {VERSION}; prepare the data again")]
    BadVersion {
        /// The version.
        found: u32,
    },
    /// A field with an impossible value.
    #[error("byte {at}: {what} is {found}, which cannot be; the header is damaged, prepare the data again")]
    BadField {
        /// Offset of the field.
        at: usize,
        /// Its name.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// The file's length is not what its header says.
    #[error("{found} bytes long, but its header promises {expected}; the file is cut short or damaged, prepare again")]
    BadLength {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The header does not say what the manifest says.
    #[error("{what} is {found}, but the manifest says {expected}; the file belongs to other data, prepare again")]
    Disagrees {
        /// The field.
        what: &'static str,
        /// In the shard.
        found: String,
        /// In the manifest.
        expected: String,
    },
    /// The tokens are not those that were written.
    #[error("its tokens do not hash to what its header says; the file is damaged, prepare the data again")]
    BadHash,
    /// An id beyond the vocabulary.
    #[error("token {at} has id {id}, but the vocabulary has {vocab}; the file is damaged, prepare the data again")]
    BadId {
        /// Index of the token in the shard.
        at: u64,
        /// Its id.
        id: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
}

/// A shard that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The disk's fault.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content's.
    #[error("{path}: {problem}")]
    Content {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        problem: ShardProblem,
    },
}

/// The header of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHeader {
    /// How tokens are stored.
    pub dtype: Dtype,
    /// Size of the vocabulary.
    pub vocab: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// BLAKE3 of the tokens' bytes.
    pub payload_hash: [u8; 32],
    /// BLAKE3 of the tokenizer's hash as text.
    pub tokenizer: [u8; 32],
}

impl ShardHeader {
    /// Reads a header from the first bytes of a file.
    ///
    /// # Errors
    /// [`ShardProblem`], for whatever is not a header of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, ShardProblem> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(ShardProblem::TooShort { found: bytes.len() });
        };
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let hash = |at: usize| std::array::from_fn(|i| header[at + i]);
        let magic: [u8; 8] = std::array::from_fn(|i| header[i]);
        if &magic != MAGIC {
            return Err(ShardProblem::BadMagic { found: magic });
        }
        if word(8) != VERSION {
            return Err(ShardProblem::BadVersion { found: word(8) });
        }
        let bad = |at, what, found| Err(ShardProblem::BadField { at, what, found });
        let dtype = match word(12) {
            2 => Dtype::U16,
            4 => Dtype::U32,
            found => return bad(12, "bytes per token", found.into()),
        };
        let (vocab, tokens) = (long(16), long(24));
        if vocab == 0 || vocab > 1 << 32 || Dtype::for_vocab(vocab) != dtype {
            return bad(16, "vocabulary size", vocab);
        }
        if tokens > (1 << 60) {
            return bad(24, "number of tokens", tokens);
        }
        if header[96..].iter().any(|&byte| byte != 0) {
            return bad(96, "reserved space", 1);
        }
        Ok(Self { dtype, vocab, tokens, payload_hash: hash(32), tokenizer: hash(64) })
    }

    /// The header as it stands in a file.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.dtype.bytes() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.vocab.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.payload_hash);
        bytes[64..96].copy_from_slice(&self.tokenizer);
        bytes
    }

    /// Length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.tokens * self.dtype.bytes() as u64
    }
}

/// The mark of a tokenizer in shard headers.
pub(crate) fn tokenizer_mark(tokenizer_hash: &str) -> [u8; 32] {
    *blake3::hash(tokenizer_hash.as_bytes()).as_bytes()
}

/// A shard, mapped for reading.
#[derive(Debug)]
pub struct Shard {
    map: MappedFile,
    header: ShardHeader,
}

impl Shard {
    /// Opens a shard; the header is checked, and the length of the file against it. [`Shard::verify`] reads all of it.
    ///
    /// # Errors
    /// [`ShardError`].
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        let map = MappedFile::open(path)?;
        let fail = |problem| ShardError::Content { path: path.into(), problem };
        let header = ShardHeader::parse(&map).map_err(fail)?;
        let (found, expected) = (map.len() as u64, header.file_bytes());
        if found != expected {
            return Err(fail(ShardProblem::BadLength { found, expected }));
        }
        Ok(Self { map, header })
    }

    /// The header.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Appends tokens `from..to` to `out`, as many of them as there are.
    ///
    /// # Errors
    /// [`ShardProblem::BadId`]: an id that the vocabulary lacks.
    pub fn read(&self, from: u64, to: u64, out: &mut Vec<u32>) -> Result<(), ShardError> {
        let (from, to) = (from.min(self.tokens()), to.min(self.tokens()));
        let width = self.header.dtype.bytes();
        let byte = |token: u64| HEADER_BYTES + token as usize * width; // within the map: its length was checked
        let bytes = self.map.get(byte(from)..byte(to)).unwrap_or_default();
        let start = out.len();
        self.header.dtype.fetch(bytes, out);
        let vocab = self.header.vocab;
        match out[start..].iter().position(|&id| u64::from(id) >= vocab) {
            None => Ok(()),
            Some(index) => {
                let (at, id) = (from + index as u64, out[start + index]);
                let problem = ShardProblem::BadId { at, id, vocab };
                Err(ShardError::Content { path: self.map.path().into(), problem })
            }
        }
    }

    /// Reads the whole shard and compares it with its header.
    ///
    /// # Errors
    /// [`ShardProblem::BadHash`], [`ShardProblem::BadId`].
    pub fn verify(&self) -> Result<(), ShardError> {
        let payload = &self.map[HEADER_BYTES..];
        if blake3::hash(payload).as_bytes() != &self.header.payload_hash {
            return Err(ShardError::Content { path: self.map.path().into(), problem: ShardProblem::BadHash });
        }
        const STEP: u64 = 1 << 16;
        let mut ids = Vec::new();
        for from in (0..self.tokens()).step_by(STEP as usize) {
            ids.clear();
            self.read(from, from + STEP, &mut ids)?;
        }
        Ok(())
    }
}

/// Writes a whole shard at once; preparing streams its shards instead.
///
/// # Errors
/// [`ShardError`], for an id that the vocabulary lacks too.
pub fn write(path: &Path, ids: &[u32], vocab: u64, tokenizer_hash: &str) -> Result<ShardHeader, ShardError> {
    if let Some(at) = ids.iter().position(|&id| u64::from(id) >= vocab) {
        let problem = ShardProblem::BadId { at: at as u64, id: ids[at], vocab };
        return Err(ShardError::Content { path: path.into(), problem });
    }
    let dtype = Dtype::for_vocab(vocab);
    let mut payload = Vec::with_capacity(ids.len() * dtype.bytes());
    dtype.store(ids, &mut payload);
    let header = ShardHeader {
        dtype,
        vocab,
        tokens: ids.len() as u64,
        payload_hash: *blake3::hash(&payload).as_bytes(),
        tokenizer: tokenizer_mark(tokenizer_hash),
    };
    file::write_atomic(path, |writer| {
        writer.write_all(&header.to_bytes())?;
        writer.write_all(&payload)
    })?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shards_come_back_as_written(ids in proptest::collection::vec(any::<u32>(), 0..300), wide in any::<bool>()) {
            let vocab = if wide { 1 << 32 } else { 1 << 16 };
            let ids: Vec<u32> = ids.into_iter().map(|id| if wide { id } else { id & 0xffff }).collect();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("shard.bin");
            let header = write(&path, &ids, vocab, "hash").unwrap();
            let shard = Shard::open(&path).unwrap();
            prop_assert_eq!(*shard.header(), header);
            let mut back = Vec::new();
            shard.read(0, u64::MAX, &mut back).unwrap();
            prop_assert_eq!(back, ids);
            shard.verify().unwrap();
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), keep in any::<bool>()) {
            if keep && bytes.len() >= 16 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            }
            if let Ok(header) = ShardHeader::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER_BYTES]);
            }
        }
    }

    #[test]
    fn damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard.bin");
        write(&path, &[1, 2, 3, 4], 10, "hash").unwrap();
        let whole = std::fs::read(&path).unwrap();
        let told = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            match Shard::open(&path).and_then(|shard| shard.verify()) {
                Ok(()) => panic!("damage was not seen"),
                Err(error) => error.to_string(),
            }
        };
        assert!(told(&whole[..263]).contains("263 bytes long, but its header promises 264"));
        assert!(told(&whole[..100]).contains("cut short"));
        assert!(told(b"PK\x03\x04").contains("4 bytes are fewer"));
        let mut flipped = whole.clone();
        flipped[258] ^= 1;
        assert!(told(&flipped).contains("do not hash"));
        let mut other = whole;
        other[..8].copy_from_slice(b"GGUF\0\0\0\0");
        assert!(told(&other).contains("not a token shard"));
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let message = write(&dir.path().join("shard.bin"), &[1, 10], 10, "hash").unwrap_err().to_string();
        assert!(message.contains("token 1 has id 10"), "{message}");
    }
}
