//! Reading: one file, or the shards that an index names.

use super::SafetensorsError as Error;
use crate::file::{self, MappedFile};
use crate::{Encoding, StoredTensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// The file of a model that is in one piece.
pub const SINGLE_NAME: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// The format's own limit on the header.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;
/// An index names each tensor once, so it is no longer than the headers.
const INDEX_LIMIT_BYTES: u64 = HEADER_LIMIT_BYTES;

/// The weights of a model, mapped: nothing is read before it is asked for.
#[derive(Debug)]
pub struct Weights {
    origin: PathBuf,
    shards: Vec<MappedFile>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Weights {
    /// Opens a folder (`model.safetensors`, else the shards of `model.safetensors.index.json`), one `.safetensors`
    /// file, or an index.
    ///
    /// # Errors
    /// [`SafetensorsError`](Error): the first thing that is wrong, with its file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut weights =
            Self { origin: path.into(), shards: vec![], entries: BTreeMap::new(), metadata: BTreeMap::new() };
        if file::is_dir(path) {
            let (single, index) = (path.join(SINGLE_NAME), path.join(INDEX_NAME));
            if file::exists(&single) {
                weights.add(&single)?;
            } else if file::exists(&index) {
                weights.add_shards(&index)?;
            } else {
                let other_format = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
                let other_format = other_format.iter().any(|name| file::exists(&path.join(name)));
                return Err(Error::NoWeights { folder: path.into(), other_format });
            }
        } else if path.extension().is_some_and(|extension| extension == "json") {
            weights.add_shards(path)?;
        } else {
            weights.add(path)?;
        }
        Ok(weights)
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.origin
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name, of whatever type.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor; `None` where there is none of this name with numbers of a type that we read.
    pub fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        self.tensor(name).ok()
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// [`SafetensorsError::Missing`](Error::Missing), [`SafetensorsError::Dtype`](Error::Dtype).
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, Error> {
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::Missing { file: self.origin.clone(), tensor: name.into() });
        };
        let shard = &self.shards[entry.shard];
        let encoding = match entry.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::F16 => Encoding::F16,
            Dtype::BF16 => Encoding::Bf16,
            dtype => return Err(Error::Dtype { file: shard.path().into(), tensor: name.into(), dtype }),
        };
        let bytes = &shard[entry.bytes.clone()];
        Ok(StoredTensor { name: name.into(), encoding, shape: entry.shape.clone(), bytes })
    }

    /// What the files say of themselves (`format` → `pt`, …), later shards winning.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let mapped = MappedFile::open(path)?;
        let (data_at, header) = parse_header(path, &mapped)?;
        let shard = self.shards.len();
        for (name, info) in header.tensors() {
            // In bounds: the header's crate has checked that offsets ascend up to `data_len`, and `parse_header` that
            // this is the end of the file.
            let bytes = data_at + info.data_offsets.0..data_at + info.data_offsets.1;
            self.entries.insert(name, Entry { shard, dtype: info.dtype, shape: info.shape.clone(), bytes });
        }
        self.metadata.extend(header.metadata().clone().unwrap_or_default());
        self.shards.push(mapped);
        Ok(())
    }

    fn add_shards(&mut self, index: &Path) -> Result<(), Error> {
        let map = parse_index(index, &file::read(index, INDEX_LIMIT_BYTES)?)?;
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut shards: Vec<&str> = map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in &shards {
            self.add(&folder.join(shard))?;
        }
        for (tensor, shard) in &map {
            let held = self.entries.get(tensor).is_some_and(|entry| shards[entry.shard] == shard);
            if !held {
                return Err(Error::NotInShard { file: folder.join(shard), tensor: tensor.clone() });
            }
        }
        Ok(())
    }
}

/// Checks a whole file's bytes as [`Weights::open`] would; returns the number of tensors. `file` is for messages.
///
/// # Errors
/// [`SafetensorsError`](Error).
pub fn check(file: &Path, bytes: &[u8]) -> Result<usize, Error> {
    Ok(parse_header(file, bytes)?.1.tensors().len())
}

/// Checks the text of an index as [`Weights::open`] would; returns the number of tensors. `file` is for messages.
///
/// # Errors
/// [`SafetensorsError`](Error).
pub fn check_index(file: &Path, bytes: &[u8]) -> Result<usize, Error> {
    Ok(parse_index(file, bytes)?.len())
}

/// Where the data begin, and the header, whose tensors then are inside `bytes`.
///
/// Not the crate's `read_metadata`: that adds the header's length to the end of the last tensor unchecked, which
/// overflows on a header that claims almost 2⁶⁴ bytes of data.
fn parse_header(file: &Path, bytes: &[u8]) -> Result<(usize, Metadata), Error> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::TooShort { file: file.into(), bytes: bytes.len() });
    };
    let claims = u64::from_le_bytes(*length);
    let header = usize::try_from(claims).ok().and_then(|length| rest.get(..length));
    let Some(header) = header.filter(|_| claims <= HEADER_LIMIT_BYTES) else {
        return Err(Error::HeaderLength { file: file.into(), claims, left: rest.len() });
    };
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|reason| Error::Header { file: file.into(), reason })?;
    let found = rest.len() - header.len();
    if metadata.data_len() != found {
        return Err(Error::DataLength { file: file.into(), claims: metadata.data_len(), found });
    }
    Ok((8 + header.len(), metadata))
}

/// Tensor → shard, every shard a plain file name.
fn parse_index(file: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|reason| Error::Index { file: file.into(), reason })?;
    for (tensor, shard) in &index.weight_map {
        let mut parts = Path::new(shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        // Separators of either system, whatever the one that reads.
        if !plain || shard.contains(['/', '\\', ':', '\0']) {
            return Err(Error::ShardName { file: file.into(), tensor: tensor.clone(), shard: shard.clone() });
        }
    }
    Ok(index.weight_map)
}
