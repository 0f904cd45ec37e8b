//! What `--model`, `--text` and the like name: run folders, Hugging Face folders, GGUF files, prompts.

use anyhow::{Context, Result, bail};
use backend::{Backend, KvType, Precision};
use formats::{file, quant};
use model::{Model, Source};
use recipe::Recipe;
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// How the products of a model are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dtype {
    /// int8 where the file holds the weights in blocks, bf16 otherwise.
    Auto,
    /// The oracle.
    F32,
    /// Weights and inputs of every product rounded to bf16, sums in f32.
    Bf16,
    /// Weights in the file's blocks of 8 bits or fewer, inputs rounded to 8 bits.
    Int8,
}

impl Dtype {
    /// What that means for the weights of `source`.
    fn precision(self, source: &Source) -> Result<Precision> {
        let encoding = source.encoding()?;
        let in_blocks = quant::block_len(encoding) > 1;
        Ok(match self {
            Self::F32 => Precision::F32,
            Self::Auto | Self::Int8 if in_blocks => Precision::Int8,
            Self::Auto | Self::Bf16 => Precision::Bf16,
            Self::Int8 => bail!(
                "{}: int8 multiplies weights that the file holds in blocks, and this one holds {encoding}; take --dtype bf16",
                source.path().display()
            ),
        })
    }
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CacheType {
    /// As they were computed.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to half precision.
    F16,
    /// In 8 bits, with a scale for every 32.
    #[value(name = "q8_0")]
    Q8_0,
}

/// What was asked for, or the cache that goes with the products: f32 beside f32, bf16 beside all others.
pub(crate) fn kv_type(asked: Option<CacheType>, precision: Precision) -> KvType {
    match (asked, precision) {
        (Some(CacheType::F32), _) | (None, Precision::F32) => KvType::F32,
        (Some(CacheType::Bf16), _) | (None, _) => KvType::Bf16,
        (Some(CacheType::F16), _) => KvType::F16,
        (Some(CacheType::Q8_0), _) => KvType::Q8_0,
    }
}

/// The folder or file that `path` stands for: the latest checkpoint of a run folder, anything else as it is.
pub(crate) fn model_path(path: &Path) -> Result<PathBuf> {
    if !file::exists(path) {
        bail!(
            "{}: there is no such model; give a run folder, a Hugging Face folder, a GGUF file or a llama2.c file",
            path.display()
        );
    }
    let checkpoints = path.join("checkpoints");
    if !file::is_dir(&checkpoints) {
        return Ok(path.to_owned());
    }
    match train::latest_checkpoint(path)? {
        Some(checkpoint) => Ok(checkpoint),
        None => bail!("{}: this run has no checkpoint yet; train it further first", path.display()),
    }
}

/// The model at `path` ([`model_path`]).
pub(crate) fn load_model(b: &dyn Backend, path: &Path, dtype: Dtype) -> Result<Model> {
    let path = model_path(path)?;
    if file::is_dir(&path) && !file::exists(&path.join("config.json")) {
        bail!(
            "{}: neither a run (no `checkpoints`) nor a Hugging Face model (no `config.json`); give another folder",
            path.display()
        );
    }
    let source = Source::open(&path)?;
    Ok(Model::from_source(b, &source, dtype.precision(&source)?)?)
}

/// The tokenizer that comes with the model at `path`, or the one that was named instead.
pub(crate) fn load_tokenizer(path: &Path, instead: Option<&Path>) -> Result<Tokenizer> {
    if let Some(instead) = instead {
        return Ok(Tokenizer::load(instead)?);
    }
    let path = model_path(path)?;
    Tokenizer::load(&path).with_context(|| {
        format!("{}: no tokenizer could be loaded with this model; name one with --tokenizer", path.display())
    })
}

/// Token ids from a file that holds one JSON array.
pub(crate) fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let text = file::read_to_string(path)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: not a JSON array of token ids such as [1, 15043]", path.display()))
}

/// The vocabulary that the model will have: its own, or that of the tokenizer that is named or will be trained.
pub(crate) fn recipe_vocab(recipe: &Recipe) -> Result<usize> {
    if recipe.distill.is_some() {
        bail!("a draft's shape and vocabulary come from its target; `slm distill` tells them before the first step");
    }
    if recipe.model.vocab > 0 {
        return Ok(recipe.model.vocab);
    }
    match (&recipe.tokenizer.path, recipe.tokenizer.train_vocab) {
        (Some(path), _) => Ok(Tokenizer::load(path)?.vocab_size()),
        (None, vocab) => vocab.context("the recipe names no tokenizer"),
    }
}
