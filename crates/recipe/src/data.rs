//! The `[data]` section.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Text in, token shards out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Folder of the token shards and their manifest. Absent: `data` inside the run folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Where the text comes from; each source has its own shards, so weights can change without preparing again.
    pub sources: Vec<Source>,
    /// What stands between documents.
    pub separator: Separator,
    /// Share of documents, chosen by a hash of their text, that is held out for validation: 0…0.5.
    pub validation_fraction: f64,
    /// Documents of fewer characters are dropped.
    pub min_chars: usize,
    /// Documents of more characters are dropped; 0 is no limit.
    pub max_chars: usize,
    /// What happens to a document with NUL characters.
    pub nul: Nul,
    /// What happens to a document that is not UTF-8.
    pub invalid_utf8: InvalidUtf8,
    /// Whether byte-equal documents are kept once only, over all sources.
    pub dedup: bool,
    /// Documents that share runs of words with these benchmarks' items are dropped. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decontaminate: Option<Decontaminate>,
    /// Tokens in a shard file.
    pub shard_tokens: usize,
    /// Memory that preparing may use, in MiB.
    pub memory_mib: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            dir: None,
            sources: Vec::new(),
            separator: Separator::Eos,
            validation_fraction: 0.01,
            min_chars: 1,
            max_chars: 0,
            nul: Nul::Drop,
            invalid_utf8: InvalidUtf8::Drop,
            dedup: true,
            decontaminate: None,
            shard_tokens: 16 << 20,
            memory_mib: 768,
        }
    }
}

/// The `[data.decontaminate]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decontaminate {
    /// Tasks, groups or tags of `slm eval`.
    pub tasks: Vec<String>,
    /// The folder with the tasks' documents.
    pub dir: PathBuf,
    /// Words in a run.
    pub ngram: usize,
}

impl Default for Decontaminate {
    fn default() -> Self {
        Self { tasks: Vec::new(), dir: PathBuf::new(), ngram: 13 }
    }
}

/// One `[[data.sources]]` entry: either `files` or `corpus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Unique name; letters, digits, `-` and `_`. Names the source's folder of shards.
    pub name: String,
    /// Globs of files, relative to the working directory (`**` crosses folders).
    pub files: Vec<String>,
    /// Instead of `files`: text that the build has put on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<Corpus>,
    /// How the files are read; `auto` goes by the ending.
    pub format: Format,
    /// Column (parquet) or key (JSON Lines) that holds the text; dots enter objects.
    pub text: String,
    /// Share of this source in a batch, relative to the other sources' weights. 0 takes it in proportion to its
    /// tokens, so that each is seen once an epoch.
    pub weight: f64,
    /// Documents are dropped where any of these holds.
    pub drop_where: Vec<DropRule>,
    /// Whether its documents are divided by hash, or are all for training or all for validation.
    pub split: Split,
    /// Stop after about this many bytes of text; 0 is all of it.
    pub max_bytes: u64,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            name: String::new(),
            files: Vec::new(),
            corpus: None,
            format: Format::Auto,
            text: "text".into(),
            weight: 0.0,
            drop_where: Vec::new(),
            split: Split::ByHash,
            max_bytes: 0,
        }
    }
}

/// Real text that needs no download: the packages of Cargo.lock in Cargo's home, in the order of Cargo.lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corpus {
    /// README, CHANGELOG and other Markdown files, and the documentation comments of `.rs` files.
    CratesProse,
    /// `.rs` files.
    CratesCode,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// By the file's ending; anything unknown is text.
    Auto,
    /// The file is one document.
    Text,
    /// One JSON object a line; `.gz` and `.zst` are unpacked.
    Jsonl,
    /// Parquet.
    Parquet,
    /// AMD's and TinyLlama's token chunks (`LITPKDS`); they must fit the tokenizer.
    Litpkds,
    /// llm.c's token files (`.bin`, magic 20240520); they must fit the tokenizer.
    LlmC,
}

/// `field` equals `equals` ⇒ the document is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRule {
    /// Column or key; dots enter objects (a parquet column that holds JSON text is entered as well).
    pub field: String,
    /// The value that is dropped.
    pub equals: String,
}

/// Which split a source's documents go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// By a hash of the text and `validation_fraction`.
    ByHash,
    /// All for training.
    Train,
    /// All for validation.
    Validation,
}

/// What stands between documents; written into the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    /// Each document ends with the end-of-sequence token (AMD's and TinyLlama's rule).
    Eos,
    /// Each document begins with the beginning-of-sequence token.
    Bos,
    /// Both.
    BosEos,
}

/// What happens to a document with NUL characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nul {
    /// It is dropped, and counted.
    Drop,
    /// The NULs are removed, and the document counted as changed.
    Remove,
    /// It stays as it is.
    Keep,
}

/// What happens to a document that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidUtf8 {
    /// It is dropped, and counted.
    Drop,
    /// Bad bytes become U+FFFD, and the document is counted as changed.
    Replace,
}
