//! What can be wrong with a tokenizer file, and what to do about it.

use std::path::PathBuf;

/// A tokenizer that could not be read, trained or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file that could not be read or written at all.
    #[error(transparent)]
    File(#[from] formats::file::FileError),
    /// A GGUF file that could not be read.
    #[error(transparent)]
    Gguf(#[from] formats::gguf::GgufError),
    /// A llama2.c tokenizer that could not be read.
    #[error(transparent)]
    Llama2c(#[from] formats::llama2c::Llama2cError),
    /// A file that was read and refused.
    #[error("{}: {problem}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
    /// A folder without any tokenizer file.
    #[error("{}: no tokenizer.json, tokenizer.model, *.gguf or tok*.bin in this folder; name the tokenizer file itself, or the folder of a model", folder.display())]
    NothingInFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Training options that cannot be met.
    #[error(transparent)]
    Train(#[from] Problem),
}

/// What is wrong with the content of a tokenizer file; the file is named by [`TokenizerError`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// Not JSON.
    #[error("not valid JSON at line {line}, column {column} ({what}); fetch the file again")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The parser's reason.
        what: String,
    },
    /// A JSON value of another type than the format says.
    #[error("`{key}` is not {expected}; this is no tokenizer.json that transformers would read, fetch the file again")]
    JsonType {
        /// Path of the key.
        key: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A model that is not BPE.
    #[error("a {found} model, and only BPE is read; convert it, or choose a model with a BPE tokenizer")]
    NotBpe {
        /// Type found.
        found: String,
    },
    /// A setting whose meaning cannot be reproduced.
    #[error(
        "`{setting}` is {found}, and only {expected} is reproduced exactly; use another tokenizer file of this model"
    )]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What the file has.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// A pre-tokenizer name in a GGUF file that is not known.
    #[error(
        "`tokenizer.ggml.pre` is `{found}`, which is not known here; put the model's tokenizer.json beside the file and name that"
    )]
    UnknownPre {
        /// The name.
        found: String,
    },
    /// A vocabulary kind in a GGUF file that is not known.
    #[error(
        "`tokenizer.ggml.model` is `{found}`, and only `llama` and `gpt2` are read; put the model's tokenizer.json beside the file and name that"
    )]
    UnknownModel {
        /// The name.
        found: String,
    },
    /// A GGUF key that is missing or of another type.
    #[error(
        "`{key}` is missing or not {expected}; the file holds no usable vocabulary, name the model's tokenizer.json"
    )]
    GgufKey {
        /// The key.
        key: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A vocabulary without entries.
    #[error("the vocabulary is empty; fetch the file again")]
    Empty,
    /// More entries than are read.
    #[error(
        "{found} pieces, more than the {} that are read; this is no vocabulary of a language model",
        crate::vocabulary::PIECES_MAX
    )]
    TooManyPieces {
        /// Entries found.
        found: usize,
    },
    /// An entry longer than is read.
    #[error(
        "piece {id} has {bytes} bytes, more than the {} that are read; the file is damaged or hostile",
        crate::vocabulary::PIECE_BYTES_MAX
    )]
    LongPiece {
        /// Its id.
        id: usize,
        /// Its length.
        bytes: usize,
    },
    /// A chat for a vocabulary that came without a chat template.
    #[error("no chat template came with this vocabulary, so a chat cannot be written; give a text instead")]
    NoChatTemplate,
    /// A chat template that cannot be rendered.
    #[error("the chat template cannot be rendered ({what}); give a text instead")]
    ChatTemplate {
        /// The template engine's reason.
        what: String,
    },
    /// A message that spells a control token.
    #[error("a message spells the control token `{token}`; take it out of the message")]
    ControlInMessage {
        /// The token.
        token: String,
    },
    /// An id that names no entry.
    #[error("id {id} is named, but the ids are below {count}; the file is damaged, fetch it again")]
    IdOutOfRange {
        /// The id.
        id: u64,
        /// Number of entries.
        count: usize,
    },
    /// Two entries with one id.
    #[error("pieces `{first}` and `{second}` share the id {id}; the file is damaged, fetch it again")]
    SharedId {
        /// The id.
        id: u32,
        /// One spelling.
        first: String,
        /// The other spelling.
        second: String,
    },
    /// Lists that should be equally long.
    #[error("{found} {what} for {expected} pieces; the file is damaged, fetch it again")]
    Lengths {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A score that is not a number.
    #[error("the score of piece {id} is not a finite number; the file is damaged, fetch it again")]
    ScoreNotFinite {
        /// The piece.
        id: usize,
    },
    /// A SentencePiece vocabulary that cannot spell a space.
    #[error("no piece `▁` for a space; text could not be decoded exactly, use a vocabulary that has it")]
    NoSpacePiece,
    /// A piece that is no text.
    #[error("piece {id} is not UTF-8; the file is damaged, fetch it again")]
    PieceNotUtf8 {
        /// Its id.
        id: usize,
    },
    /// A piece for a byte that does not say which.
    #[error("piece {id} stands for a byte but is not spelled `<0xNN>`; the file is damaged, fetch it again")]
    BytePiece {
        /// Its id.
        id: usize,
    },
    /// A merge of something that is not in the vocabulary.
    #[error(
        "merge {rank} is `{merge}`, which is not two pieces of the vocabulary; the file is damaged, fetch it again"
    )]
    Merge {
        /// Its place in the list, from 0.
        rank: usize,
        /// The merge as written.
        merge: String,
    },
    /// A merge whose result is not in the vocabulary.
    #[error("merge {rank} makes `{product}`, which is not in the vocabulary; the file is damaged, fetch it again")]
    MergeProduct {
        /// Its place in the list, from 0.
        rank: usize,
        /// What it makes.
        product: String,
    },
    /// A SentencePiece file that is not one.
    #[error("byte {at}: {what}; this is no SentencePiece model or it is cut short, fetch it again")]
    Protobuf {
        /// Offset in bytes.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The encoding library refused a vocabulary that passed the checks.
    #[error("the encoder cannot be built from it: {what}; use another tokenizer file of this model")]
    Engine {
        /// The library's reason.
        what: String,
    },
    /// A vocabulary that no tokenizer.json can express.
    #[error("this vocabulary cannot be written as {target} exactly ({why}); keep using the original file")]
    NotWritable {
        /// The format to write.
        target: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// Too small a vocabulary for what it must hold.
    #[error("`vocab_size` is {found}, but special tokens and single characters alone need {needed}; raise it")]
    VocabTooSmall {
        /// Asked for.
        found: usize,
        /// Least possible.
        needed: usize,
    },
    /// Special tokens that are spelled alike or not at all.
    #[error("special token `{spelling}` is empty or given twice; give bos, eos and unk different spellings")]
    SpecialSpelling {
        /// The spelling.
        spelling: String,
    },
    /// Nothing to train on.
    #[error(
        "no text to train on; check the globs of the recipe's sources, and that `text` names the key or column of the text"
    )]
    NoText,
}

impl Problem {
    /// A problem at an offset of a nested message, told by its offset in the file.
    pub(crate) fn shifted(self, by: usize) -> Self {
        match self {
            Self::Protobuf { at, what } => Self::Protobuf { at: at + by, what },
            other => other,
        }
    }
}
