//! Documents of a split: one JSON object a line, plain or packed.

use crate::{EvalError, Task};
use formats::file::{self, FileError};
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A document's columns.
pub(crate) type Document = Map<String, Value>;

/// More than any document of a benchmark.
const LINE_LIMIT_BYTES: u64 = 64 << 20;

/// The documents of a task's split.
pub(crate) struct Split {
    /// Where they come from.
    pub(crate) path: PathBuf,
    /// All of them that the task takes, in the order of the file.
    pub(crate) documents: Vec<Document>,
}

/// Reads a split of a task from a data folder.
///
/// # Errors
/// No file, or one that is damaged; no documents.
pub(crate) fn read(folder: &Path, task: &Task, split: &str) -> Result<Split, EvalError> {
    let path = find(folder, task, split)?;
    let mut documents = Vec::new();
    let mut reader = open(&path)?;
    for line in 1.. {
        let mut bytes = Vec::new();
        let read = reader.by_ref().take(LINE_LIMIT_BYTES).read_until(b'\n', &mut bytes);
        read.map_err(|cause| EvalError::Unpack { path: path.clone(), cause })?;
        if bytes.is_empty() {
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let document: Document = serde_json::from_slice(&bytes).map_err(|error| EvalError::NotJson {
            path: path.clone(),
            line,
            problem: error.to_string(),
        })?;
        if task.dataset_where.iter().all(|(column, value)| document.get(column) == Some(value)) {
            documents.push(document);
        }
    }
    if documents.is_empty() {
        return Err(EvalError::NoDocuments { task: task.name.clone(), path });
    }
    Ok(Split { path, documents })
}

/// `FOLDER/PATH/NAME/SPLIT.jsonl`, without a part of `PATH` before a slash and without `NAME` if that is not there;
/// the ending may be `.jsonl`, `.jsonl.gz` or `.jsonl.zst`.
fn find(folder: &Path, task: &Task, split: &str) -> Result<PathBuf, EvalError> {
    let last = task.dataset_path.rsplit('/').next().unwrap_or_default();
    let mut folders = Vec::new();
    for path in [task.dataset_path.as_str(), last] {
        folders.extend(task.dataset_name.iter().map(|name| folder.join(path).join(name)));
        folders.push(folder.join(path));
    }
    folders.dedup();
    let mut looked = Vec::new();
    for folder in folders {
        for ending in ["jsonl", "jsonl.gz", "jsonl.zst"] {
            let path = folder.join(format!("{split}.{ending}"));
            if file::is_file(&path) {
                return Ok(path);
            }
            if ending == "jsonl" {
                looked.push(format!("{}[.gz|.zst]", path.display()));
            }
        }
    }
    Err(EvalError::NoSplit { task: task.name.clone(), split: split.into(), looked: looked.join(", ") })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, EvalError> {
    let file = file::open_read(path)?;
    Ok(match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))),
        Some("zst") => {
            let decoder = zstd::Decoder::new(file).map_err(|cause| FileError::io("unpack it", path, cause))?;
            Box::new(BufReader::new(decoder))
        }
        _ => Box::new(BufReader::new(file)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    /// What is read of `sciq` if its file has these bytes.
    fn read_sciq(name: &str, bytes: &[u8]) -> Result<usize, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sciq").join(name);
        file::create_dir_all(path.parent().unwrap()).unwrap();
        file::write_bytes(&path, bytes).unwrap();
        let task = Catalog::builtin().unwrap().select(&["sciq".into()]).unwrap().tasks.remove(0);
        read(folder.path(), &task, "test").map(|split| split.documents.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn archives_are_read_and_those_that_are_cut_short_are_refused() {
        let lines: String = (0..500).map(|i| format!("{{\"question\": \"what is {}?\"}}\n", i * i * 7919)).collect();
        assert_eq!(read_sciq("test.jsonl", lines.as_bytes()), Ok(500));
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(lines.as_bytes()).unwrap();
        let packed = [
            ("test.jsonl.gz", gz.finish().unwrap()),
            ("test.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
        ];
        for (name, bytes) in packed {
            assert_eq!(read_sciq(name, &bytes), Ok(500), "{name}");
            for len in [bytes.len() - 1, bytes.len() / 2, 5] {
                let refused = read_sciq(name, &bytes[..len]).unwrap_err();
                assert!(refused.contains("cannot be unpacked") && !refused.contains('\n'), "{name}, {len}: {refused}");
            }
        }
        assert!(read_sciq("test.jsonl", b"\n \n").unwrap_err().contains("holds no documents"));
        assert!(read_sciq("test.jsonl", b"{}\n[1]\n").unwrap_err().contains("line 2: not a JSON object"));
    }
}
