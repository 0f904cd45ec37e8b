//! From a recipe to a tokenizer and token shards: what `prepare`, `train` and the quickstart have in common.

use crate::env;
use crate::progress::PrepareProgress;
use anyhow::{Context, Result, bail};
use data::{Contamination, CorpusPlace, Manifest, PrepareOptions, TaskItems};
use eval::Catalog;
use formats::file;
use recipe::{Data, Decontaminate, Recipe, TokenizerChoice, TokenizerKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tokenizer::{Kind, Tokenizer, TrainOptions};

/// The packages that this program was built from: where the default corpus is looked for.
const CARGO_LOCK: &str = include_str!("../../Cargo.lock");

/// A tokenizer and the shards that were made with it.
pub(crate) struct Prepared {
    /// Folder of the shards and their manifest.
    pub data: PathBuf,
    /// Folder of the tokenizer's files.
    pub tokenizer_folder: PathBuf,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What was prepared.
    pub manifest: Manifest,
}

/// Where the default corpus is looked for.
pub(crate) fn corpus_place() -> CorpusPlace {
    CorpusPlace { lock: CARGO_LOCK.into(), cargo_home: env::cargo_home() }
}

/// Folder of a recipe's tokenizer and shards: its own, or `data` in the run folder.
pub(crate) fn data_folder(recipe: &Recipe, run: &Path) -> PathBuf {
    recipe.data.dir.clone().unwrap_or_else(|| run.join("data"))
}

/// Makes what is not there yet: the tokenizer in `folder/tokenizer`, then the shards in `folder/tokens`.
pub(crate) fn prepare(recipe: &Recipe, folder: &Path, threads: usize, stop: &AtomicBool) -> Result<Prepared> {
    let (tokenizer_folder, data) = (folder.join("tokenizer"), folder.join("tokens"));
    let tokenizer = tokenizer(recipe, &tokenizer_folder)?;
    let manifest = shards(&recipe.data, &tokenizer, &data, threads, stop)?;
    Ok(Prepared { data, tokenizer_folder, tokenizer, manifest })
}

/// The shards of `data` in `folder`, made unless they are there.
pub(crate) fn shards(
    data: &Data,
    tokenizer: &Tokenizer,
    folder: &Path,
    threads: usize,
    stop: &AtomicBool,
) -> Result<Manifest> {
    let progress = PrepareProgress::new(stop);
    let items = data.decontaminate.as_ref().map(|wanted| contamination(wanted, &[])).transpose()?;
    let options = PrepareOptions {
        threads,
        corpus: Some(corpus_place()),
        contamination: items.as_ref(),
        progress: &progress,
        ..PrepareOptions::default()
    };
    let manifest = data::prepare(data, tokenizer, folder, &options);
    progress.finish();
    Ok(manifest?)
}

/// The runs of words of the items of some tasks; `files` hold tasks that the program does not know.
pub(crate) fn contamination(wanted: &Decontaminate, files: &[PathBuf]) -> Result<Contamination> {
    let mut catalog = Catalog::builtin()?;
    for path in files {
        catalog.add_path(path)?;
    }
    let mut tasks = Vec::new();
    for task in &catalog.select(&wanted.tasks)?.tasks {
        tasks.push(TaskItems { name: task.name.clone(), texts: eval::item_texts(task, &wanted.dir)? });
    }
    Ok(Contamination::new(wanted.ngram, &tasks))
}

/// The tokenizer that a recipe names or trains, its files in `folder`.
fn tokenizer(recipe: &Recipe, folder: &Path) -> Result<Tokenizer> {
    if recipe.distill.is_some() {
        bail!("a draft has the tokenizer of its target, so its text is prepared by `slm distill`");
    }
    if let Some(path) = &recipe.tokenizer.path {
        let tokenizer = Tokenizer::load(path).context("tokenizer.path")?;
        if !file::exists(&folder.join("tokenizer.json")) {
            file::create_dir_all(folder)?;
            file::remove_leftovers(folder)?;
            tokenizer.save(folder)?;
        }
        return Ok(tokenizer);
    }
    trained_tokenizer(&recipe.tokenizer, &recipe.data, folder)
}

/// Trains the tokenizer of `choice` on a sample of `data`, unless `folder` holds it.
pub(crate) fn trained_tokenizer(choice: &TokenizerChoice, data: &Data, folder: &Path) -> Result<Tokenizer> {
    let origin = serde_json::to_string_pretty(&(choice, &data.sources))?;
    let origin_file = folder.join("trained_from.json");
    if file::exists(&origin_file) {
        if file::read_to_string(&origin_file)? != origin {
            bail!(
                "{}: the tokenizer there was trained from another recipe; give another --out or data.dir, or remove the folder",
                folder.display()
            );
        }
        return Ok(Tokenizer::load(folder)?);
    }
    let kind = match choice.kind {
        TokenizerKind::ByteLevel => Kind::ByteLevel,
        TokenizerKind::Sentencepiece => Kind::SentencePieceStyle,
    };
    let options = TrainOptions::new(kind, choice.train_vocab.unwrap_or(8192));
    let corpus = corpus_place();
    let mut texts = data::sample_texts(data, choice.train_bytes, Some(&corpus))?;
    let trained = tokenizer::train(&options, &mut texts, &|_| {});
    texts.finish()?;
    let trained = trained?;
    file::create_dir_all(folder)?;
    file::remove_leftovers(folder)?;
    trained.save(folder)?;
    file::write_bytes(&origin_file, origin.as_bytes())?;
    Ok(trained)
}
