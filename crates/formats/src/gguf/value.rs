//! Values of keys, and how to ask for one by the type that its meaning has.

use std::fmt;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of values of one type; arrays of arrays are not read.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(Strings),
}

/// Many strings in two allocations: a vocabulary of 150 000 tokens costs what it costs in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// No strings, with room for `count` of `bytes` bytes in all.
    pub(super) fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Appends one.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.text.get(start..end)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|string| all.push(string.as_ref()));
        all
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Strings(v) => v.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Integers of any width as i64; `None` for other elements or where one does not fit.
    fn integers(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::U8(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I8(v) => v.iter().map(|&v| v.into()).collect(),
            Self::U16(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I16(v) => v.iter().map(|&v| v.into()).collect(),
            Self::U32(v) => v.iter().map(|&v| v.into()).collect(),
            Self::I32(v) => v.iter().map(|&v| v.into()).collect(),
            Self::U64(v) => v.iter().map(|&v| v.try_into().ok()).collect::<Option<_>>()?,
            Self::I64(v) => v.clone(),
            _ => return None,
        })
    }
}

impl Value {
    fn integer(&self) -> Option<i64> {
        match self {
            Self::U8(v) => Some((*v).into()),
            Self::I8(v) => Some((*v).into()),
            Self::U16(v) => Some((*v).into()),
            Self::I16(v) => Some((*v).into()),
            Self::U32(v) => Some((*v).into()),
            Self::I32(v) => Some((*v).into()),
            Self::U64(v) => (*v).try_into().ok(),
            Self::I64(v) => Some(*v),
            _ => None,
        }
    }
}

/// For messages: scalars in full, strings and arrays by their size.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => write!(f, "{v}"),
            Self::I8(v) => write!(f, "{v}"),
            Self::U16(v) => write!(f, "{v}"),
            Self::I16(v) => write!(f, "{v}"),
            Self::U32(v) => write!(f, "{v}"),
            Self::I32(v) => write!(f, "{v}"),
            Self::U64(v) => write!(f, "{v}"),
            Self::I64(v) => write!(f, "{v}"),
            Self::F32(v) => write!(f, "{v:?}"),
            Self::F64(v) => write!(f, "{v:?}"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::String(v) if v.len() <= 40 => write!(f, "{v:?}"),
            Self::String(v) => write!(f, "a string of {} bytes", v.len()),
            Self::Array(Array::Strings(v)) => write!(f, "an array of {} strings", v.len()),
            Self::Array(v) => write!(f, "an array of {} values", v.len()),
        }
    }
}

/// A type that a key can be asked for.
pub trait FromValue<'a>: Sized {
    /// Its name in messages.
    const EXPECTED: &'static str;

    /// The value as this type; `None` where it is another or does not fit.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $expected:literal, $value:ident => $convert:expr) => {
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value($value: &'a Value) -> Option<Self> {
                $convert
            }
        }
    };
}
// Writers differ in the width of integers, so any that fits will do.
from_value!(u32, "a whole number of 32 bits", value => value.integer()?.try_into().ok());
from_value!(u64, "a whole number", value => value.integer()?.try_into().ok());
from_value!(usize, "a whole number", value => value.integer()?.try_into().ok());
from_value!(i64, "an integer", value => value.integer());
from_value!(f32, "a number with fraction", value => match value {
    Value::F32(v) => Some(*v),
    Value::F64(v) => Some(*v as f32),
    _ => None,
});
from_value!(bool, "true or false", value => if let Value::Bool(v) = value { Some(*v) } else { None });
from_value!(&'a str, "a string", value => if let Value::String(v) = value { Some(v) } else { None });
from_value!(&'a Strings, "an array of strings", value => match value {
    Value::Array(Array::Strings(v)) => Some(v),
    _ => None,
});
from_value!(&'a [f32], "an array of 32-bit floats", value => match value {
    Value::Array(Array::F32(v)) => Some(v),
    _ => None,
});
from_value!(Vec<i64>, "an array of integers", value => match value {
    Value::Array(array) => array.integers(),
    _ => None,
});
from_value!(Vec<u32>, "an array of whole numbers of 32 bits", value => match value {
    Value::Array(array) => array.integers()?.into_iter().map(|v| v.try_into().ok()).collect(),
    _ => None,
});

macro_rules! into_value {
    ($type:ty, $value:ident => $convert:expr) => {
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $convert
            }
        }
    };
}
into_value!(u32, v => Self::U32(v));
into_value!(u64, v => Self::U64(v));
into_value!(i32, v => Self::I32(v));
into_value!(f32, v => Self::F32(v));
into_value!(bool, v => Self::Bool(v));
into_value!(&str, v => Self::String(v.into()));
into_value!(String, v => Self::String(v));
into_value!(Strings, v => Self::Array(Array::Strings(v)));
into_value!(Vec<String>, v => Self::Array(Array::Strings(v.into_iter().collect())));
into_value!(Vec<f32>, v => Self::Array(Array::F32(v)));
into_value!(Vec<i32>, v => Self::Array(Array::I32(v)));
into_value!(Vec<u32>, v => Self::Array(Array::U32(v)));
