//! Reading: the header is checked and taken apart, the data stay where they are.

use super::parse::Reader;
use super::table::{alignment, check_tensors, problem};
use super::value::{FromValue, Value};
use super::{ALIGNMENT_KEY, GgufError as Error, TensorProblem as Problem};
use crate::file::MappedFile;
use crate::{Encoding, StoredTensor};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// A tensor of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub encoding: Encoding,
    /// Outermost first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// Where its bytes begin, from the beginning of the data.
    pub offset: u64,
}

/// Everything before the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    entries: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    /// Indices of `tensors`, by name.
    by_name: Vec<usize>,
    /// Where in the file each tensor's bytes are.
    ranges: Vec<Range<usize>>,
}

/// A GGUF file, mapped.
#[derive(Debug)]
pub struct Gguf {
    file: MappedFile,
    header: Header,
}

impl Gguf {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// [`GgufError`](Error): the first thing that is wrong.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(path, &file)?;
        if let Some(parts) = header.find::<u64>(path, "split.count")?
            && parts > 1
        {
            return Err(Error::Split { file: path.into(), parts });
        }
        Ok(Self { file, header })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// All keys and values, sorted by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.header.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.entries.get(key)
    }

    /// The value of a key as a type (`find::<u32>`, `find::<&str>`, `find::<&Strings>`, …); `None` where it is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongValue`](Error::WrongValue).
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        self.header.find(self.path(), key)
    }

    /// [`find`](Self::find) for a key that must be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`](Error::MissingKey), [`GgufError::WrongValue`](Error::WrongValue).
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.find(key)?.ok_or_else(|| Error::MissingKey { file: self.path().into(), key: key.into() })
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        (0..self.header.tensors.len()).map(|index| self.stored(index))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.position(name).is_some()
    }

    /// A tensor that must be there; `get`-like questions go through [`contains`](Self::contains).
    ///
    /// # Errors
    /// [`TensorProblem::Missing`](Problem::Missing).
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, Error> {
        let index = self.header.position(name).ok_or_else(|| problem(self.path(), name, Problem::Missing))?;
        Ok(self.stored(index))
    }

    fn stored(&self, index: usize) -> StoredTensor<'_> {
        let info = &self.header.tensors[index];
        StoredTensor {
            name: info.name.clone(),
            encoding: info.encoding,
            shape: info.shape.clone(),
            bytes: &self.file[self.header.ranges[index].clone()],
        }
    }
}

impl Header {
    /// Takes a whole file's bytes apart; `file` is for messages.
    ///
    /// # Errors
    /// [`GgufError`](Error): the first thing that is wrong.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(file, bytes);
        let (tensor_count, key_count) = reader.preamble()?;
        let mut entries = BTreeMap::new();
        for _ in 0..key_count {
            let at = reader.at();
            let key = reader.string("a key")?.to_owned();
            let value = reader.value(&key)?;
            if entries.contains_key(&key) {
                return Err(Error::DuplicateKey { file: file.into(), at, key });
            }
            entries.insert(key, value);
        }
        let tensors = (0..tensor_count).map(|_| reader.tensor()).collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(file, entries.get(ALIGNMENT_KEY))?;
        let data_at = reader.at().next_multiple_of(alignment).min(bytes.len());
        let (by_name, ranges) = check_tensors(file, &tensors, alignment, bytes.len() - data_at)?;
        let ranges = ranges.into_iter().map(|range| data_at + range.start..data_at + range.end).collect();
        Ok(Self { entries, tensors, by_name, ranges })
    }

    /// The table of tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn position(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|&index| self.tensors[index].name.as_str().cmp(name)).ok()?;
        Some(self.by_name[found])
    }

    fn find<'a, T: FromValue<'a>>(&'a self, file: &Path, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        let found = T::from_value(value);
        let wrong = || Error::WrongValue {
            file: file.into(),
            key: key.into(),
            found: value.to_string(),
            expected: T::EXPECTED,
        };
        found.map(Some).ok_or_else(wrong)
    }
}
