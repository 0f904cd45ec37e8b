//! Writing: version 3, alignment 32, tensors in the given order.

use super::read::TensorInfo;
use super::table::{check_tensors, problem};
use super::types::{self, ARRAY, BOOL, STRING};
use super::value::{Array, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError as Error, TensorProblem as Problem};
use crate::file;
use crate::safetensors::Counter;
use crate::{StoredTensor, TensorPlan};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// Writes pairs and tensors that are in memory; atomic.
///
/// # Errors
/// [`GgufError`](Error).
pub fn write(path: &Path, entries: &[(String, Value)], tensors: &[StoredTensor<'_>]) -> Result<(), Error> {
    let plan = |tensor: &StoredTensor<'_>| TensorPlan {
        name: tensor.name.clone(),
        encoding: tensor.encoding,
        shape: tensor.shape.clone(),
    };
    let plans: Vec<TensorPlan> = tensors.iter().map(plan).collect();
    write_with(path, entries, &plans, |index, writer| writer.write_all(tensors[index].bytes))
}

/// Writes tensors one after the other; atomic. `bytes(i, writer)` writes exactly the bytes of `plans[i]`; it is called
/// once for each, in order.
///
/// # Errors
/// [`GgufError`](Error); an error of `bytes` becomes [`GgufError::File`](Error::File).
pub fn write_with(
    path: &Path,
    entries: &[(String, Value)],
    plans: &[TensorPlan],
    mut bytes: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let header = header(path, entries, plans)?;
    let mut wrong = None;
    let written = file::write_atomic(path, |writer| {
        writer.write_all(&header)?;
        for (index, plan) in plans.iter().enumerate() {
            let mut counter = Counter { writer, bytes: 0 };
            bytes(index, &mut counter)?;
            let count = counter.bytes;
            if Some(count) != plan.bytes() {
                wrong = Some(plan.name.clone());
                return Err(io::ErrorKind::InvalidData.into());
            }
            writer.write_all(&[0; DEFAULT_ALIGNMENT][..padded(count) - count])?;
        }
        Ok(())
    });
    match wrong {
        Some(tensor) => Err(problem(path, &tensor, Problem::WrongBytes)),
        None => Ok(written?),
    }
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(DEFAULT_ALIGNMENT)
}

/// Everything before the data, padded.
fn header(path: &Path, entries: &[(String, Value)], plans: &[TensorPlan]) -> Result<Vec<u8>, Error> {
    let infos = place(path, plans)?;
    // Pairs copied from another file may state that file's alignment; here it is the default and goes unsaid.
    let entries: Vec<_> = entries.iter().filter(|(key, _)| key != ALIGNMENT_KEY).collect();
    let mut out = Vec::new();
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((plans.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    let mut seen = BTreeSet::new();
    for (key, value) in &entries {
        let at = out.len();
        if !seen.insert(key) {
            return Err(Error::DuplicateKey { file: path.into(), at, key: key.clone() });
        }
        put_string(&mut out, key);
        put_value(&mut out, value);
    }
    for info in infos {
        put_string(&mut out, &info.name);
        out.extend((info.shape.len() as u32).to_le_bytes());
        info.shape.iter().rev().for_each(|&dimension| out.extend((dimension as u64).to_le_bytes()));
        out.extend(types::number(info.encoding).to_le_bytes());
        out.extend(info.offset.to_le_bytes());
    }
    out.resize(padded(out.len()), 0);
    Ok(out)
}

/// Gives every tensor its place, and holds the table against the reader's own rules.
fn place(path: &Path, plans: &[TensorPlan]) -> Result<Vec<TensorInfo>, Error> {
    let mut at = 0usize;
    let mut infos = Vec::with_capacity(plans.len());
    for plan in plans {
        let TensorPlan { name, encoding, shape } = plan.clone();
        infos.push(TensorInfo { name, encoding, shape, offset: at as u64 });
        // A tensor without a size is refused by the rules below, whatever its place.
        at = at.saturating_add(plan.bytes().unwrap_or(0)).checked_next_multiple_of(DEFAULT_ALIGNMENT).unwrap_or(at);
    }
    check_tensors(path, &infos, DEFAULT_ALIGNMENT, at)?;
    Ok(infos)
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |number: u32, bytes: &[u8]| {
        out.extend(number.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(BOOL, &[u8::from(*v)]),
        Value::String(v) => {
            put(STRING, &[]);
            put_string(out, v);
        }
        Value::Array(array) => {
            put(ARRAY, &[]);
            put_array(out, array);
        }
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    let (number, len) = (array_type(array), array.len() as u64);
    out.extend(number.to_le_bytes());
    out.extend(len.to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        Array::Strings(v) => v.iter().for_each(|v| put_string(out, v)),
        Array::U64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
    }
}

fn array_type(array: &Array) -> u32 {
    match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => BOOL,
        Array::Strings(_) => STRING,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    }
}
