//! What can go wrong between text and samples.

use crate::compare::Difference;
use crate::manifest::ManifestProblem;
use crate::read::ReadError;
use crate::shard::ShardError;
use formats::file::FileError;
use std::path::PathBuf;

/// An error of preparing or loading data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The disk's.
    #[error(transparent)]
    File(#[from] FileError),
    /// An input that cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A token shard that cannot be used.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A manifest that cannot be used.
    #[error("{path}: {problem}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        problem: ManifestProblem,
    },
    /// The shards are of another tokenizer, or of more tokens than the model knows.
    #[error("the token shards do not fit: `{field}` is {found}, wanted {wanted}; prepare the data with this tokenizer")]
    Unfit {
        /// Which field of the manifest.
        field: &'static str,
        /// What it is.
        found: String,
        /// What is needed.
        wanted: String,
    },
    /// The user wants to stop looking.
    #[error("stopped")]
    ScanStopped,
    /// Benchmarks are named, but their items were not given: a fault of the caller.
    #[error("data.decontaminate names tasks, but nobody has read their items")]
    NoItems,
    /// The counts do not add up: a fault of this program.
    #[error(
        "source `{source_name}`: {read} {what} were read but {counted} accounted for; this is a fault of the program, \
         please report it"
    )]
    Unbalanced {
        /// The source.
        source_name: String,
        /// Documents, bytes or tokens.
        what: &'static str,
        /// How many came in.
        read: u64,
        /// How many were dropped or written.
        counted: u64,
    },
    /// A bad pattern of file names.
    #[error("source `{source_name}`: `{glob}` is not a pattern of file names ({cause}); correct `files`")]
    BadGlob {
        /// The source.
        source_name: String,
        /// The pattern.
        glob: String,
        /// What the parser says.
        cause: globset::Error,
    },
    /// Nothing matches a pattern.
    #[error("source `{source_name}`: no file matches `{glob}` (looked below {folder}); correct `files`")]
    NoFiles {
        /// The source.
        source_name: String,
        /// The pattern.
        glob: String,
        /// Where the search began.
        folder: PathBuf,
    },
    /// A source whose files hold no document that is kept.
    #[error("source `{source_name}`: no document was kept of {read} read{why}; check `files`, `text` and the filters")]
    NothingKept {
        /// The source.
        source_name: String,
        /// Documents read.
        read: u64,
        /// The reasons, with counts and a place.
        why: String,
    },
    /// The text of the build is not there.
    #[error(
        "source `{source_name}`: none of the packages of Cargo.lock was found below {place}, so there is no text to \
         learn from; name your own with `--text GLOB --code GLOB`"
    )]
    NoCorpus {
        /// The source.
        source_name: String,
        /// Where it was looked for.
        place: PathBuf,
    },
    /// A recipe wants the text of the build, and nobody said where that is.
    #[error(
        "source `{source_name}` is text of Cargo's home, but its place is not known; name your own text with `files`"
    )]
    CorpusUnknown {
        /// The source.
        source_name: String,
    },
    /// A tokenizer is to be trained on token files.
    #[error("no training source is text, so no tokenizer can be trained on it; give `tokenizer.path`")]
    NoText,
    /// The separator rule asks for a token that the tokenizer lacks.
    #[error("data.separator is `{rule}`, but the tokenizer has no {token} token; choose another rule or tokenizer")]
    NoSeparator {
        /// The recipe's rule.
        rule: &'static str,
        /// What is missing.
        token: &'static str,
    },
    /// The output folder holds other data.
    #[error("{dir}: {}; remove it or choose another folder (`data.dir`)", differs(.differences))]
    OtherData {
        /// The folder.
        dir: PathBuf,
        /// Where the two differ, at least one.
        differences: Vec<Difference>,
    },
    /// The output folder holds something that this program did not put there.
    #[error("{dir}: not empty, and there is no token data in it; choose another folder (`data.dir`)")]
    NotOurs {
        /// The folder.
        dir: PathBuf,
    },
    /// What was half prepared cannot be continued.
    #[error("{path}: {problem}; remove {dir} to prepare from the beginning")]
    BadJournal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// The folder.
        dir: PathBuf,
    },
    /// Somebody asked to stop; what is done is kept.
    #[error("{dir}: stopped as asked; the same command goes on from here")]
    Stopped {
        /// The folder.
        dir: PathBuf,
    },
    /// Not enough tokens for a single sample.
    #[error(
        "{dir}: {source_name} has {tokens} training tokens, too few for a sample of {sequence} + 1; add text or shorten \
         `train.sequence`"
    )]
    TooFewTokens {
        /// The folder of the shards.
        dir: PathBuf,
        /// The source.
        source_name: String,
        /// Tokens there are.
        tokens: u64,
        /// Positions of a sample.
        sequence: usize,
    },
    /// A weight for something that is not there.
    #[error("{dir}: there are no shards of source `{source_name}`; prepare the data again")]
    UnknownSource {
        /// The folder of the shards.
        dir: PathBuf,
        /// The source.
        source_name: String,
    },
    /// A thread of this program failed.
    #[error("{what} failed inside; this is a fault of the program, please report it")]
    Internal {
        /// What was being done.
        what: String,
    },
}

/// "holds other token data: `a` is 1, wanted 2".
fn differs(differences: &[Difference]) -> String {
    let Some(first) = differences.first() else { return "holds other token data".into() };
    let more = match differences.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    format!("holds other token data: `{}` is {} there, wanted {}{more}", first.field, first.found, first.wanted)
}
