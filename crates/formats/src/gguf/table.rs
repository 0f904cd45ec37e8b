//! Whether the tensors of a table can be: names, shapes, places. Reader and writer ask the same.

use super::read::TensorInfo;
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, GgufError as Error, TensorProblem as Problem};
use crate::quant;
use std::ops::Range;
use std::path::Path;

/// More than any disk or memory page asks for.
const ALIGNMENT_LIMIT: u32 = 1 << 20;

pub(super) fn problem(file: &Path, tensor: &str, problem: Problem) -> Error {
    Error::Tensor { file: file.into(), tensor: tensor.into(), problem }
}

/// The alignment that the value of its key states.
pub(super) fn alignment(file: &Path, value: Option<&Value>) -> Result<usize, Error> {
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
