//! What can go wrong in an evaluation.

use formats::file::FileError;
use infer::InferError;
use std::path::PathBuf;

/// Why a task could not be evaluated, or results not compared.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A task that is in no file.
    #[error("{name}: there is no such task{}; there are {known}", nearest.as_ref().map_or(String::new(), |name| format!(" (did you mean {name}?)")))]
    UnknownTask {
        /// What was asked for.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
        /// All names.
        known: String,
    },
    /// A task file that cannot be understood.
    #[error("{file}: {problem}")]
    TaskFile {
        /// The file.
        file: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A field that task files do not have.
    #[error("{file}: unknown field `{field}`{}", nearest.as_ref().map_or(String::new(), |name| format!(" (did you mean `{name}`?)")))]
    UnknownField {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// The most similar one.
        nearest: Option<String>,
    },
    /// A template that fails on a document.
    #[error("task {task}: {field} fails on document {document}: {problem}")]
    Document {
        /// The task.
        task: String,
        /// The field of the task file.
        field: &'static str,
        /// Index of the document in its split, from 0.
        document: usize,
        /// What went wrong.
        problem: String,
    },
    /// A column that the documents lack.
    #[error("task {task}: {field} needs the column `{column}`, which {path} does not have; its columns are {found}")]
    MissingColumn {
        /// The task.
        task: String,
        /// The field of the task file.
        field: &'static str,
        /// The column.
        column: String,
        /// The data file.
        path: PathBuf,
        /// The columns that are there.
        found: String,
    },
    /// A split whose file is not there.
    #[error(
        "task {task}: there is no file for the split `{split}`: looked for {looked}; name the data folder with --data"
    )]
    NoSplit {
        /// The task.
        task: String,
        /// The split.
        split: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A data file that does not unpack.
    #[error("{}: cannot be unpacked ({cause}); fetch it again", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A line that is no document.
    #[error("{}, line {line}: not a JSON object ({problem})", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// A split without documents for a task.
    #[error("task {task}: {} holds no documents for it", path.display())]
    NoDocuments {
        /// The task.
        task: String,
        /// The file.
        path: PathBuf,
    },
    /// More examples than there are documents.
    #[error("task {task}: {wanted} examples were asked for, but its split for them has {found} documents")]
    TooFewExamples {
        /// The task.
        task: String,
        /// How many are needed.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// A tokenizer that cannot begin a text.
    #[error("the tokenizer has no {token} token, which {purpose}")]
    NoToken {
        /// Which.
        token: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// A continuation that does not fit, or is nothing.
    #[error(
        "task {task}, document {document}: the continuation {text:?} is {tokens} tokens, but it must have 1 to {most}"
    )]
    Continuation {
        /// The task.
        task: String,
        /// Index of the document in its split, from 0.
        document: usize,
        /// Its beginning.
        text: String,
        /// Its length.
        tokens: usize,
        /// The model's context.
        most: usize,
    },
    /// A context that cannot hold what is to be generated.
    #[error(
        "task {task}: it generates up to {tokens} tokens, but the model's context is {context}; give a smaller --max-gen-toks"
    )]
    NoRoom {
        /// The task.
        task: String,
        /// Tokens of a text.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// Nothing to run programs with.
    #[error(
        "python3 was not found or does not work, and programs that a model wrote are run with it; install Python 3"
    )]
    NoPython,
    /// A kernel without walls.
    #[error(
        "programs that a model wrote are run in a sandbox only, and this system offers none ({reason}); --allow-unsafe-execution runs them without"
    )]
    NoSandbox {
        /// What the kernel refuses.
        reason: String,
    },
    /// An option outside its range.
    #[error("--{flag} is {value}, but it must be {rule}")]
    Option {
        /// The flag's name, without dashes.
        flag: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be.
        rule: &'static str,
    },
    /// Finished requests of another run.
    #[error("{}: holds finished requests of another model or precision ({differs}); give another --out, or remove it", path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// Which fact differs.
        differs: String,
    },
    /// The user wants to stop.
    #[error("stopped; {done} of {total} requests are kept, the same command goes on from there")]
    Stopped {
        /// Requests scored.
        done: usize,
        /// Requests in all.
        total: usize,
    },
    /// Results that cannot be compared.
    #[error("{}: {problem}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
