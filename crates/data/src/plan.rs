//! Which files a recipe names, and how the work on them is cut.

use crate::DataError;
use crate::corpus::{self, CorpusPlace};
use crate::manifest::Input;
use formats::file::{self, FileError};
use globset::GlobBuilder;
use recipe::{Data, Format, Source};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

/// Small text files are read together, up to so many bytes or files in a task.
const GROUP_BYTES: u64 = 8 << 20;
const GROUP_FILES: usize = 1024;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// Text; of Rust sources, the documentation comments only.
    RustDocs,
    Jsonl(Packing),
    Parquet,
    Litpkds,
    LlmC,
}

/// A file to read.
#[derive(Clone, Debug)]
pub(crate) struct InputPlan {
    pub(crate) path: PathBuf,
    pub(crate) entry: Input,
}

/// A file, or a run of small text files, read by one reader.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) inputs: Range<usize>,
    pub(crate) kind: Kind,
}

/// A source's files and tasks.
#[derive(Clone, Debug)]
pub(crate) struct SourcePlan<'r> {
    pub(crate) source: &'r Source,
    pub(crate) inputs: Vec<InputPlan>,
    pub(crate) tasks: Vec<Task>,
}

impl SourcePlan<'_> {
    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.entry.bytes).sum()
    }
}

/// Finds every source's files.
pub(crate) fn plan<'r>(data: &'r Data, corpus: Option<&CorpusPlace>) -> Result<Vec<SourcePlan<'r>>, DataError> {
    data.sources.iter().map(|source| source_plan(source, corpus)).collect()
}

fn source_plan<'r>(source: &'r Source, place: Option<&CorpusPlace>) -> Result<SourcePlan<'r>, DataError> {
    let inputs = match source.corpus {
        Some(corpus) => {
            let unknown = || DataError::CorpusUnknown { source_name: source.name.clone() };
            corpus::inputs(&source.name, corpus, place.ok_or_else(unknown)?)?
        }
        None => globbed(source)?,
    };
    let mut tasks: Vec<Task> = Vec::new();
    let mut group_bytes = 0;
    for (index, input) in inputs.iter().enumerate() {
        let kind = kind(source, &input.path);
        group_bytes += input.entry.bytes;
        match tasks.last_mut() {
            Some(last)
                if matches!(kind, Kind::Text | Kind::RustDocs)
                    && last.kind == kind
                    && last.inputs.len() < GROUP_FILES
                    && group_bytes <= GROUP_BYTES =>
            {
                last.inputs.end = index + 1;
            }
            _ => {
                group_bytes = input.entry.bytes;
                tasks.push(Task { inputs: index..index + 1, kind });
            }
        }
    }
    Ok(SourcePlan { source, inputs, tasks })
}

fn kind(source: &Source, path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let packing = match &*name {
        name if name.ends_with(".gz") => Packing::Gzip,
        name if name.ends_with(".zst") => Packing::Zstd,
        _ => Packing::None,
    };
    let bare = name.trim_end_matches(".gz").trim_end_matches(".zst");
    match source.format {
        _ if source.corpus == Some(recipe::Corpus::CratesProse) => Kind::RustDocs,
        Format::Text => Kind::Text,
        Format::Jsonl => Kind::Jsonl(packing),
        Format::Parquet => Kind::Parquet,
        Format::Litpkds => Kind::Litpkds,
        Format::LlmC => Kind::LlmC,
        Format::Auto if bare.ends_with(".jsonl") || bare.ends_with(".ndjson") => Kind::Jsonl(packing),
        Format::Auto if name.ends_with(".parquet") => Kind::Parquet,
        Format::Auto => Kind::Text,
    }
}

/// The files of a source, sorted by path, each once.
fn globbed(source: &Source) -> Result<Vec<InputPlan>, DataError> {
    let mut paths = Vec::new();
    for glob in &source.files {
        let before = paths.len();
        let (folder, is_pattern) = fixed_part(glob);
        if is_pattern {
            let bad = |cause| DataError::BadGlob { source_name: source.name.clone(), glob: glob.clone(), cause };
            let matcher = GlobBuilder::new(glob).literal_separator(true).build().map_err(bad)?.compile_matcher();
            walk(&folder, &mut |path| {
                let shown = path.strip_prefix(".").unwrap_or(path);
                if matcher.is_match(shown) || matcher.is_match(path) {
                    paths.push(shown.to_owned());
                }
            })?;
        } else if file::is_file(Path::new(glob)) {
            paths.push(PathBuf::from(glob));
        }
        if paths.len() == before {
            return Err(DataError::NoFiles { source_name: source.name.clone(), glob: glob.clone(), folder });
        }
    }
    paths.sort();
    paths.dedup();
    paths.into_iter().map(input).collect()
}

fn input(path: PathBuf) -> Result<InputPlan, DataError> {
    let bytes = file::size_bytes(&path)?;
    let modified = file::modified(&path)?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let entry = Input {
        path: path.to_string_lossy().into_owned(),
        bytes,
        modified_ns: Some(modified.as_nanos() as u64),
        hash: None,
    };
    Ok(InputPlan { path, entry })
}

/// The folder below which a pattern looks, and whether it is a pattern at all.
fn fixed_part(glob: &str) -> (PathBuf, bool) {
    let is_special = |part: Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']);
    let path = Path::new(glob);
    let fixed: PathBuf = path.components().take_while(|part| !is_special(*part)).collect();
    let is_pattern = fixed != path;
    let folder = if is_pattern { fixed } else { path.parent().unwrap_or(path).to_owned() };
    (if folder.as_os_str().is_empty() { ".".into() } else { folder }, is_pattern)
}

/// Calls `found` with every file below `folder`, links followed. A folder that is not there holds none.
pub(crate) fn walk(folder: &Path, found: &mut dyn FnMut(&Path)) -> Result<(), DataError> {
    if !file::is_dir(folder) {
        return Ok(());
    }
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_owned();
            let cause = error.into_io_error().unwrap_or_else(|| std::io::Error::other("a link that leads to itself"));
            FileError::io("look into it", &path, cause)
        })?;
        if entry.file_type().is_file() {
            found(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[String]) -> Source {
        Source { name: "s".into(), files: files.to_vec(), ..Source::default() }
    }

    #[test]
    fn globs_find_files_sorted_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["b.txt", "a.txt", "deep/er/c.txt", "deep/d.md"] {
            let path = root.join(name);
            file::create_dir_all(path.parent().unwrap()).unwrap();
            file::write_bytes(&path, b"x").unwrap();
        }
        let found = |globs: &[&str]| {
            let globs: Vec<String> = globs.iter().map(|glob| format!("{}/{glob}", root.display())).collect();
            let inputs = globbed(&source(&globs))?;
            let name = |input: InputPlan| input.path.strip_prefix(root).unwrap().display().to_string();
            Ok::<_, DataError>(inputs.into_iter().map(name).collect::<Vec<_>>())
        };
        assert_eq!(found(&["*.txt"]).unwrap(), ["a.txt", "b.txt"]);
        assert_eq!(found(&["**/*.txt", "a.txt"]).unwrap(), ["a.txt", "b.txt", "deep/er/c.txt"]);
        assert_eq!(found(&["deep/*.{md,txt}"]).unwrap(), ["deep/d.md"]);
        let message = found(&["*.txt", "*.jsonl"]).unwrap_err().to_string();
        assert!(message.contains("no file matches") && message.contains("*.jsonl"), "{message}");
        assert!(found(&["[a.txt"]).unwrap_err().to_string().contains("not a pattern"));
    }

    #[test]
    fn endings_choose_the_reader() {
        let of = |name: &str| kind(&source(&[]), Path::new(name));
        assert_eq!(of("x.jsonl.zst"), Kind::Jsonl(Packing::Zstd));
        assert_eq!(of("X.JSONL.GZ"), Kind::Jsonl(Packing::Gzip));
        assert_eq!(of("x.jsonl"), Kind::Jsonl(Packing::None));
        assert_eq!(of("x.parquet"), Kind::Parquet);
        assert_eq!(of("x.rs"), Kind::Text);
    }
}
