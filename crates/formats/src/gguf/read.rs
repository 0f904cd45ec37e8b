//! Reading: the header is checked and taken apart, the data stay where they are.

use super::types::{self, ARRAY, BOOL, STRING};
use super::value::{Array, FromValue, Strings, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError as Error, TensorProblem as Problem};
use crate::cursor::{Cursor, PastEnd};
use crate::file::MappedFile;
use crate::{Encoding, StoredTensor, quant};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Models have some dozens; with this limit the table stays below 16 MiB.
const KEY_LIMIT: u64 = 1 << 16;
/// Models have some hundreds, mixtures of experts some thousands; with this limit the table stays below 32 MiB.
const TENSOR_LIMIT: u64 = 1 << 17;
/// ggml's own limit is 63; 127 leaves room for forks.
const NAME_LIMIT_BYTES: usize = 127;
/// More than any disk or memory page asks for.
const ALIGNMENT_LIMIT: u32 = 1 << 20;

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
        let mut reader = Reader { file, cursor: Cursor::new(bytes) };
        let (tensor_count, key_count) = reader.preamble()?;
        let mut entries = BTreeMap::new();
        for _ in 0..key_count {
            let at = reader.cursor.at();
            let key = reader.string("a key")?.to_owned();
            let value = reader.value(&key)?;
            if entries.contains_key(&key) {
                return Err(Error::DuplicateKey { file: file.into(), at, key });
            }
            entries.insert(key, value);
        }
        let tensors = (0..tensor_count).map(|_| reader.tensor()).collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(file, entries.get(ALIGNMENT_KEY))?;
        let data_at = reader.cursor.at().next_multiple_of(alignment).min(bytes.len());
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

pub(super) fn problem(file: &Path, tensor: &str, problem: Problem) -> Error {
    Error::Tensor { file: file.into(), tensor: tensor.into(), problem }
}

fn alignment(file: &Path, value: Option<&Value>) -> Result<usize, Error> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(found)) if found.is_power_of_two() && *found <= ALIGNMENT_LIMIT => Ok(*found as usize),
        Some(other) => Err(Error::Alignment { file: file.into(), found: other.to_string() }),
    }
}

/// Every name once, every tensor aligned, inside `data` bytes and apart from the others. Returns the indices by name
/// and where each tensor is in the data.
pub(super) fn check_tensors(
    file: &Path,
    tensors: &[TensorInfo],
    alignment: usize,
    data: usize,
) -> Result<(Vec<usize>, Vec<Range<usize>>), Error> {
    let mut ranges = Vec::with_capacity(tensors.len());
    for info in tensors {
        let bytes = check_shape(file, info)?;
        if !info.offset.is_multiple_of(alignment as u64) {
            return Err(problem(file, &info.name, Problem::Misaligned { offset: info.offset, alignment }));
        }
        let start = usize::try_from(info.offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?)).filter(|range| range.end <= data);
        let outside = || problem(file, &info.name, Problem::OutOfFile { offset: info.offset, bytes, data });
        ranges.push(range.ok_or_else(outside)?);
    }

    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_unstable_by_key(|&index| &tensors[index].name);
    if let Some(pair) = by_name.windows(2).find(|pair| tensors[pair[0]].name == tensors[pair[1]].name) {
        return Err(problem(file, &tensors[pair[0]].name, Problem::Duplicate));
    }

    let mut by_offset: Vec<usize> = (0..tensors.len()).collect();
    by_offset.sort_unstable_by_key(|&index| ranges[index].start);
    if let Some(pair) = by_offset.windows(2).find(|pair| ranges[pair[0]].end > ranges[pair[1]].start) {
        let other = tensors[pair[0]].name.clone();
        return Err(problem(file, &tensors[pair[1]].name, Problem::Overlap(other)));
    }
    Ok((by_name, ranges))
}

/// Bytes of a tensor whose shape can be.
fn check_shape(file: &Path, info: &TensorInfo) -> Result<usize, Error> {
    let fail = |what| Err(problem(file, &info.name, what));
    let cols = match (info.shape.len(), info.shape.last()) {
        (1..=4, Some(&cols)) => cols,
        (count, _) => return fail(Problem::Dimensions(count as u32)),
    };
    if info.shape.contains(&0) {
        return fail(Problem::Empty);
    }
    let (encoding, block) = (info.encoding, quant::block_len(info.encoding));
    if !cols.is_multiple_of(block) {
        return fail(Problem::PartialBlock { cols, encoding, block });
    }
    quant::tensor_bytes(encoding, &info.shape).map_or_else(|| fail(Problem::TooLarge), Ok)
}

/// A cursor that knows the file's name.
struct Reader<'a> {
    file: &'a Path,
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    fn file(&self) -> PathBuf {
        self.file.into()
    }

    fn past_end(&self, reason: PastEnd) -> Error {
        Error::PastEnd { file: self.file(), reason }
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        self.cursor.u32(what).map_err(|reason| self.past_end(reason))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        self.cursor.u64(what).map_err(|reason| self.past_end(reason))
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, Error> {
        let at = self.cursor.at();
        match self.u64("a count")? {
            claims if claims > limit => Err(Error::Count { file: self.file(), at, what, claims, limit }),
            claims => Ok(claims),
        }
    }

    /// Counts of tensors and of pairs.
    fn preamble(&mut self) -> Result<(u64, u64), Error> {
        let found = self.cursor.array("the magic").map_err(|reason| self.past_end(reason))?;
        if &found != b"GGUF" {
            return Err(Error::BadMagic { file: self.file(), found });
        }
        let found = self.u32("the version")?;
        if !(2..=3).contains(&found) {
            return Err(Error::Version { file: self.file(), found });
        }
        Ok((self.count("tensors", TENSOR_LIMIT)?, self.count("keys", KEY_LIMIT)?))
    }

    fn string(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let length = self.u64(what)?;
        let at = self.cursor.at();
        let bytes = self.cursor.take(what, length).map_err(|reason| self.past_end(reason))?;
        std::str::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
            file: self.file(),
            at: at + error.valid_up_to(),
            what,
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, Error> {
        let at = self.cursor.at();
        let found = self.u32("a type")?;
        if found == ARRAY {
            return Ok(Value::Array(self.array(key)?));
        }
        if found == STRING {
            return Ok(Value::String(self.string("a string")?.into()));
        }
        let Some(size) = scalar_bytes(found) else {
            return Err(Error::ValueType { file: self.file(), at, key: key.into(), found });
        };
        let bytes = self.cursor.take("a value", size).map_err(|reason| self.past_end(reason))?;
        let array = self.scalars(key, found, bytes)?;
        Ok(match array {
            Array::U8(v) => Value::U8(v[0]),
            Array::I8(v) => Value::I8(v[0]),
            Array::U16(v) => Value::U16(v[0]),
            Array::I16(v) => Value::I16(v[0]),
            Array::U32(v) => Value::U32(v[0]),
            Array::I32(v) => Value::I32(v[0]),
            Array::U64(v) => Value::U64(v[0]),
            Array::I64(v) => Value::I64(v[0]),
            Array::F32(v) => Value::F32(v[0]),
            Array::F64(v) => Value::F64(v[0]),
            Array::Bool(v) => Value::Bool(v[0]),
            Array::Strings(strings) => Value::String(strings.iter().collect()), // not a scalar: cannot come
        })
    }

    fn array(&mut self, key: &str) -> Result<Array, Error> {
        let at = self.cursor.at();
        let found = self.u32("an array's type")?;
        let count = self.u64("an array's length")?;
        if found == STRING {
            return Ok(Array::Strings(self.strings(count)?));
        }
        let Some(size) = scalar_bytes(found) else {
            return Err(Error::ValueType { file: self.file(), at, key: key.into(), found });
        };
        let bytes = self.cursor.take_many("an array", count, size).map_err(|reason| self.past_end(reason))?;
        self.scalars(key, found, bytes)
    }

    /// Two walks: the first finds out how much there really is, the second copies.
    fn strings(&mut self, count: u64) -> Result<Strings, Error> {
        self.cursor.clone().take_many("an array of strings", count, 8).map_err(|reason| self.past_end(reason))?;
        let begin = self.cursor.clone();
        let mut bytes = 0;
        for _ in 0..count {
            bytes += self.string("a string of an array")?.len();
        }
        self.cursor = begin;
        let mut strings = Strings::with_capacity(count as usize, bytes); // 8 bytes each were there, so it fits
        for _ in 0..count {
            strings.push(self.string("a string of an array")?);
        }
        Ok(strings)
    }

    /// `bytes` as scalars of type `number`, which they are a whole number of.
    fn scalars(&self, key: &str, number: u32, bytes: &[u8]) -> Result<Array, Error> {
        Ok(match number {
            0 => Array::U8(bytes.to_vec()),
            1 => Array::I8(each(bytes, i8::from_le_bytes)),
            2 => Array::U16(each(bytes, u16::from_le_bytes)),
            3 => Array::I16(each(bytes, i16::from_le_bytes)),
            4 => Array::U32(each(bytes, u32::from_le_bytes)),
            5 => Array::I32(each(bytes, i32::from_le_bytes)),
            6 => Array::F32(each(bytes, f32::from_le_bytes)),
            BOOL => {
                if let Some(index) = bytes.iter().position(|&byte| byte > 1) {
                    let at = self.cursor.at() - bytes.len() + index;
                    return Err(Error::Boolean { file: self.file(), at, key: key.into(), found: bytes[index] });
                }
                Array::Bool(bytes.iter().map(|&byte| byte == 1).collect())
            }
            10 => Array::U64(each(bytes, u64::from_le_bytes)),
            11 => Array::I64(each(bytes, i64::from_le_bytes)),
            12 => Array::F64(each(bytes, f64::from_le_bytes)),
            _ => Array::U8(vec![]), // `scalar_bytes` knows no other
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo, Error> {
        let name = self.string("a tensor's name")?;
        if name.len() > NAME_LIMIT_BYTES {
            let begin: String = name.chars().take(32).chain(['…']).collect();
            return Err(problem(self.file, &begin, Problem::LongName(name.len())));
        }
        let name = name.to_owned();
        let dimensions = self.u32("a tensor's number of dimensions")?;
        if !(1..=4).contains(&dimensions) {
            return Err(problem(self.file, &name, Problem::Dimensions(dimensions)));
        }
        let mut shape = Vec::with_capacity(4);
        for _ in 0..dimensions {
            let dimension = usize::try_from(self.u64("a tensor's dimension")?);
            shape.push(dimension.map_err(|_| problem(self.file, &name, Problem::TooLarge))?);
        }
        shape.reverse();
        let encoding = types::encoding(self.u32("a tensor's type")?)
            .map_err(|found| problem(self.file, &name, Problem::ElementType(found)))?;
        let offset = self.u64("a tensor's offset")?;
        Ok(TensorInfo { name, encoding, shape, offset })
    }
}

/// Bytes of a value of a fixed-size type; `None` for other numbers.
fn scalar_bytes(number: u32) -> Option<u64> {
    match number {
        0 | 1 | BOOL => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn each<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
}
