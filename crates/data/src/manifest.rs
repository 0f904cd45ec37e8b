//! The manifest that travels with token shards: what they were made from, how, and what they hold.

use crate::DataError;
use crate::account::{Account, Tally};
use crate::shard::{Dtype, Shard, ShardError, ShardProblem, tokenizer_mark};
use formats::file;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// What a manifest calls itself.
pub(crate) const FORMAT: &str = "slm-tokens";
/// Version of the manifest, of the shards' order and of the separator rule.
pub(crate) const VERSION: u32 = 1;
/// More than the manifest of a million inputs and shards needs.
const MANIFEST_LIMIT_BYTES: u64 = 1 << 30;

/// Which documents: those that are trained on, or those that are held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// For training.
    Train,
    /// Held out.
    Validation,
}

impl Part {
    /// As in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// What stands between documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeparatorIds {
    /// The recipe's rule.
    pub rule: recipe::Separator,
    /// The token before each document, if the rule wants one.
    pub bos: Option<u32>,
    /// The token after each document, if the rule wants one.
    pub eos: Option<u32>,
}

/// A file that text or tokens were read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// As the glob found it; for text of the build, below Cargo's sources.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, nanoseconds since 1970; absent for Cargo's sources, which never change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ns: Option<u64>,
    /// BLAKE3 of its bytes; absent where reading stopped before its end (`max_bytes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// One shard file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Path below the manifest's folder.
    pub file: String,
    /// Tokens in it.
    pub tokens: u64,
    /// BLAKE3 of its tokens' bytes.
    pub hash: String,
}

/// The shards of a source for training or for validation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Bytes of the text as it was tokenized.
    pub text_bytes: u64,
    /// In order: the token stream is their concatenation.
    pub shards: Vec<ShardEntry>,
}

impl PartEntry {
    /// Tokens in all shards.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.saturating_add(shard.tokens))
    }
}

/// One source of the recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// Its name.
    pub name: String,
    /// Whether reading stopped at the recipe's `max_bytes`.
    #[serde(default)]
    pub stopped_at_max_bytes: bool,
    /// What became of its documents.
    pub account: Account,
    /// Training shards.
    pub train: PartEntry,
    /// Validation shards.
    pub validation: PartEntry,
    /// The files it was read from.
    pub inputs: Vec<Input>,
}

impl SourceEntry {
    /// The shards of a part.
    pub fn part(&self, part: Part) -> &PartEntry {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
        }
    }

    /// The counts of a part.
    pub fn tally(&self, part: Part) -> Tally {
        match part {
            Part::Train => self.account.train,
            Part::Validation => self.account.validation,
        }
    }
}

/// Everything about a folder of token shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `slm-tokens`.
    pub format: String,
    /// Version of the manifest, of the shards and of their order.
    pub version: u32,
    /// Hash of the tokenizer.
    pub tokenizer_hash: String,
    /// Size of its vocabulary: every id is below it.
    pub vocab: u64,
    /// How tokens are stored.
    pub dtype: Dtype,
    /// What stands between documents.
    pub separator: SeparatorIds,
    /// The recipe's data section, without what does not change the shards (folder, weights, memory).
    pub recipe: recipe::Data,
    /// Sources, in the order of the recipe.
    pub sources: Vec<SourceEntry>,
}

/// What is wrong with the bytes of a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestProblem {
    /// Not the JSON of a manifest.
    #[error("not a manifest of token shards ({0}); prepare the data again")]
    Json(#[from] serde_json::Error),
    /// Another program's or another version's.
    #[error(
        "it is `{format}` version {version}, this program reads `{FORMAT}` version {VERSION}; prepare the data again"
    )]
    Format {
        /// What it calls itself.
        format: String,
        /// Its version.
        version: u32,
    },
    /// Two of its numbers contradict each other.
    #[error("{what} is {found}, but {expected} by {rule}; the file is damaged, prepare the data again")]
    Contradiction {
        /// Which number.
        what: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
        /// Why.
        rule: &'static str,
    },
    /// A path that leaves the folder.
    #[error("`{0}` is not a path below the manifest's folder; the file is damaged, prepare the data again")]
    BadPath(String),
}

impl Manifest {
    /// Reads a manifest and checks that it agrees with itself; the shards are not looked at.
    ///
    /// # Errors
    /// [`ManifestProblem`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestProblem> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(ManifestProblem::Format { format: head.format, version: head.version });
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check_sums()?;
        Ok(manifest)
    }

    /// Reads `dir/manifest.json`, checks that it agrees with itself and that every shard is there, has the right
    /// length, and is of this tokenizer. The tokens themselves are read by [`Manifest::verify`] only.
    ///
    /// # Errors
    /// [`DataError::Manifest`], [`DataError::Shard`], [`DataError::File`].
    pub fn load(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = file::read(&path, MANIFEST_LIMIT_BYTES)?;
        let manifest = Self::from_bytes(&bytes).map_err(|problem| DataError::Manifest { path, problem })?;
        for source in &manifest.sources {
            for part in [Part::Train, Part::Validation] {
                manifest.open_shards(dir, source, part)?;
            }
        }
        Ok(manifest)
    }

    /// Reads every shard and compares it with its hash and the vocabulary.
    ///
    /// # Errors
    /// [`DataError::Shard`].
    pub fn verify(&self, dir: &Path) -> Result<(), DataError> {
        for source in &self.sources {
            for part in [Part::Train, Part::Validation] {
                self.open_shards(dir, source, part)?.iter().try_for_each(Shard::verify)?;
            }
        }
        Ok(())
    }

    /// Opens the shards of a source.
    pub(crate) fn open_shards(&self, dir: &Path, source: &SourceEntry, part: Part) -> Result<Vec<Shard>, DataError> {
        let open = |entry: &ShardEntry| {
            let path = dir.join(&entry.file);
            let shard = Shard::open(&path)?;
            self.compare_header(entry, &shard).map_err(|problem| ShardError::Content { path, problem })?;
            Ok(shard)
        };
        source.part(part).shards.iter().map(open).collect()
    }

    fn compare_header(&self, entry: &ShardEntry, shard: &Shard) -> Result<(), ShardProblem> {
        let header = shard.header();
        let hex = |hash: &[u8; 32]| blake3::Hash::from_bytes(*hash).to_hex().to_string();
        let mark = hex(&tokenizer_mark(&self.tokenizer_hash));
        for (what, found, expected) in [
            ("the number of tokens", header.tokens.to_string(), entry.tokens.to_string()),
            ("the vocabulary size", header.vocab.to_string(), self.vocab.to_string()),
            ("the hash of the tokens", hex(&header.payload_hash), entry.hash.clone()),
            ("the mark of the tokenizer", hex(&header.tokenizer), mark),
        ] {
            if found != expected {
                return Err(ShardProblem::Disagrees { what, found, expected });
            }
        }
        Ok(())
    }

    /// That a model of `vocab` tokens with this tokenizer can be trained on these shards.
    ///
    /// # Errors
    /// [`DataError::Unfit`], naming the field that differs.
    pub fn check(&self, tokenizer_hash: &str, vocab: usize) -> Result<(), DataError> {
        let unfit = |field: &'static str, found: String, wanted: String| DataError::Unfit { field, found, wanted };
        if self.tokenizer_hash != tokenizer_hash {
            return Err(unfit("tokenizer_hash", self.tokenizer_hash.clone(), tokenizer_hash.into()));
        }
        if self.vocab > vocab as u64 {
            return Err(unfit("vocab", self.vocab.to_string(), format!("at most {vocab}, the model's")));
        }
        Ok(())
    }

    /// A hash of what the shards hold, the same wherever and whenever they were made: the order of samples hangs on it.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("slm 2026 content of token shards v1");
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        text(&self.tokenizer_hash);
        text(&format!("{:?}", self.separator));
        for source in &self.sources {
            text(&source.name);
            for part in [Part::Train, Part::Validation] {
                text(part.name());
                for shard in &source.part(part).shards {
                    text(&shard.hash);
                    text(&shard.tokens.to_string());
                }
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Tokens of all sources.
    pub fn tokens(&self, part: Part) -> u64 {
        self.sources.iter().fold(0, |sum, source| sum.saturating_add(source.part(part).tokens()))
    }

    /// Documents of all sources.
    pub fn documents(&self, part: Part) -> u64 {
        self.sources.iter().fold(0, |sum, source| sum.saturating_add(source.tally(part).documents))
    }

    /// Bytes of text that a token stands for, on average, separators counted as tokens: what turns nats per token into
    /// bits per byte (`nats / ln 2 / bytes_per_token`). `None` where there are no tokens.
    pub fn bytes_per_token(&self, part: Part) -> Option<f64> {
        let bytes = self.sources.iter().fold(0u64, |sum, source| sum.saturating_add(source.part(part).text_bytes));
        let tokens = self.tokens(part);
        (tokens > 0).then(|| bytes as f64 / tokens as f64)
    }

    /// Writes the manifest.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), DataError> {
        let path = dir.join(MANIFEST_FILE);
        let json = serde_json::to_vec_pretty(self)
            .map_err(|problem| DataError::Manifest { path: path.clone(), problem: problem.into() })?;
        file::write_bytes(&path, &json)?;
        Ok(())
    }

    fn check_sums(&self) -> Result<(), ManifestProblem> {
        let contradiction = |what: String, found: String, expected: String, rule| {
            Err(ManifestProblem::Contradiction { what, found, expected, rule })
        };
        if self.vocab == 0 || self.vocab > 1 << 32 || Dtype::for_vocab(self.vocab) != self.dtype {
            let rule = "the vocabulary's size";
            return contradiction("dtype".into(), format!("{:?}", self.dtype), "another".into(), rule);
        }
        for id in [self.separator.bos, self.separator.eos].into_iter().flatten() {
            if u64::from(id) >= self.vocab {
                return contradiction(
                    "separator".into(),
                    id.to_string(),
                    "below vocab".into(),
                    "the vocabulary's size",
                );
            }
        }
        for source in &self.sources {
            if let Err(DataError::Unbalanced { what, read, counted, .. }) = source.account.check_balance(&source.name) {
                let what = format!("sources.{}.account.read.{what}", source.name);
                return contradiction(what, read.to_string(), counted.to_string(), "what was dropped and written");
            }
            for part in [Part::Train, Part::Validation] {
                let (found, expected) = (source.part(part).tokens(), source.tally(part).tokens);
                if found != expected {
                    let what = format!("sources.{}.{}: the sum of its shards' tokens", source.name, part.name());
                    return contradiction(what, found.to_string(), expected.to_string(), "its account");
                }
                source.part(part).shards.iter().try_for_each(|shard| check_path(&shard.file))?;
            }
        }
        Ok(())
    }
}

/// A relative path without `..`.
fn check_path(path: &str) -> Result<(), ManifestProblem> {
    let plain = PathBuf::from(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain && !path.is_empty() { Ok(()) } else { Err(ManifestProblem::BadPath(path.into())) }
}
