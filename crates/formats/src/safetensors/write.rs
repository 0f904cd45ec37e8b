//! Writing: the header first, then every tensor when its turn has come.

use super::SafetensorsError as Error;
use crate::file;
use crate::{Encoding, StoredTensor, TensorPlan};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// Facts about a file, kept in its header. [`write()`] adds `format` = `pt`, without which transformers refuses a file.
pub type Metadata = BTreeMap<String, String>;

/// Writes tensors that are in memory; atomic.
///
/// # Errors
/// [`SafetensorsError`](Error).
pub fn write(path: &Path, tensors: &[StoredTensor<'_>], metadata: &Metadata) -> Result<(), Error> {
    let plan = |tensor: &StoredTensor<'_>| TensorPlan {
        name: tensor.name.clone(),
        encoding: tensor.encoding,
        shape: tensor.shape.clone(),
    };
    let plans: Vec<TensorPlan> = tensors.iter().map(plan).collect();
    write_with(path, &plans, metadata, |index, writer| writer.write_all(tensors[index].bytes))
}

/// Writes tensors one after the other; atomic. `bytes(i, writer)` writes exactly the bytes of `plans[i]`; it is called
/// once for each, in the order of the file: wider types first, then by name, so that every tensor is aligned.
///
/// # Errors
/// [`SafetensorsError`](Error); an error of `bytes` becomes [`SafetensorsError::File`](Error::File).
pub fn write_with(
    path: &Path,
    plans: &[TensorPlan],
    metadata: &Metadata,
    mut bytes: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let (header, order) = header(path, plans, metadata)?;
    let mut wrong = None;
    let written = file::write_atomic(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        for &index in &order {
            let mut counter = Counter { writer, bytes: 0 };
            bytes(index, &mut counter)?;
            if Some(counter.bytes) != plans[index].bytes() {
                wrong = Some(plans[index].name.clone());
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    });
    match wrong {
        Some(tensor) => Err(unwritable(path, &tensor, "got more or fewer bytes than its shape takes")),
        None => Ok(written?),
    }
}

/// The padded header, and the order in which the tensors follow.
fn header(path: &Path, plans: &[TensorPlan], metadata: &Metadata) -> Result<(Vec<u8>, Vec<usize>), Error> {
    let mut order = Vec::with_capacity(plans.len());
    for (index, plan) in plans.iter().enumerate() {
        let dtype = match plan.encoding {
            Encoding::F32 => Dtype::F32,
            Encoding::F16 => Dtype::F16,
            Encoding::Bf16 => Dtype::BF16,
            encoding => {
                return Err(Error::NotStorable { file: path.into(), tensor: plan.name.clone(), encoding });
            }
        };
        order.push((std::cmp::Reverse(dtype), &plan.name, index));
    }
    order.sort_unstable();

    let mut at = 0usize;
    let mut infos = Vec::with_capacity(plans.len());
    for &(dtype, name, index) in &order {
        let end = plans[index].bytes().and_then(|bytes| at.checked_add(bytes));
        let end = end.ok_or_else(|| unwritable(path, name, "is too large for this machine"))?;
        if infos.last().is_some_and(|(last, _)| *last == name) {
            return Err(unwritable(path, name, "is there twice"));
        }
        let info = TensorInfo { dtype: dtype.0, shape: plans[index].shape.clone(), data_offsets: (at, end) };
        infos.push((name, info));
        at = end;
    }

    let mut all = metadata.clone();
    all.entry("format".into()).or_insert_with(|| "pt".into());
    let mut header = serde_json::to_vec(&Header { metadata: &all, tensors: &infos })
        .map_err(|reason| Error::Header { file: path.into(), reason })?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok((header, order.into_iter().map(|(.., index)| index).collect()))
}

fn unwritable(path: &Path, tensor: &str, problem: &'static str) -> Error {
    Error::Unwritable { file: path.into(), tensor: tensor.into(), problem }
}

/// The header's JSON in a fixed order; the crate's own would put the metadata in an order that changes from run to run.
struct Header<'a> {
    metadata: &'a Metadata,
    tensors: &'a [(&'a String, TensorInfo)],
}

impl Serialize for Header<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("__metadata__", self.metadata)?;
        for (name, info) in self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// Counts what goes through.
pub(crate) struct Counter<'a> {
    pub(crate) writer: &'a mut dyn Write,
    pub(crate) bytes: usize,
}

impl Write for Counter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(buffer)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
