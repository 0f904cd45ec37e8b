//! The walk through the header, value by value.

use super::read::TensorInfo;
use super::table::problem;
use super::types::{self, ARRAY, BOOL, STRING};
use super::value::{Array, Strings, Value};
use super::{GgufError as Error, TensorProblem as Problem};
use crate::cursor::{Cursor, PastEnd};
use std::path::{Path, PathBuf};

/// Models have some dozens; with this limit the table stays below 16 MiB.
const KEY_LIMIT: u64 = 1 << 16;
/// Models have some hundreds, mixtures of experts some thousands; with this limit the table stays below 32 MiB.
const TENSOR_LIMIT: u64 = 1 << 17;
/// ggml's own limit is 63; 127 leaves room for forks.
const NAME_LIMIT_BYTES: usize = 127;

/// A cursor that knows the file's name.
pub(super) struct Reader<'a> {
    file: &'a Path,
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Self { file, cursor: Cursor::new(bytes) }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.cursor.at()
    }

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
    pub(super) fn preamble(&mut self) -> Result<(u64, u64), Error> {
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

    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let length = self.u64(what)?;
        let at = self.cursor.at();
        let bytes = self.cursor.take(what, length).map_err(|reason| self.past_end(reason))?;
        std::str::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
            file: self.file(),
            at: at + error.valid_up_to(),
            what,
        })
    }

    pub(super) fn value(&mut self, key: &str) -> Result<Value, Error> {
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

    pub(super) fn tensor(&mut self) -> Result<TensorInfo, Error> {
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
