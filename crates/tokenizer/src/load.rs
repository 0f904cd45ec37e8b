//! From a path to a tokenizer: which file it is, and which files beside it name its special tokens.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::problem::{Problem, TokenizerError};
use crate::vocabulary::Vocabulary;
use crate::{Original, Tokenizer, json, sentencepiece};

/// Largest tokenizer file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Largest settings file beside it that is read.
const SETTINGS_BYTES_MAX: u64 = 16 << 20;

impl Tokenizer {
    /// Loads a tokenizer from a `tokenizer.json`, a SentencePiece `tokenizer.model`, a GGUF file, a llama2.c
    /// `tok*.bin`, or a folder that holds one of them.
    ///
    /// Begin and end tokens are taken from `tokenizer_config.json` beside a `tokenizer.json` where there is one.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let file = if path.is_dir() { find_in_folder(path)? } else { path.to_owned() };
        let refused = |problem| TokenizerError::Refused { file: file.clone(), problem };
        let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let bytes = read(&file, FILE_BYTES_MAX)?;
        match extension.as_str() {
            "json" => {
                let mut vocabulary = json::read(&bytes).map_err(refused)?;
                let config = file.with_file_name("tokenizer_config.json");
                if config.is_file() {
                    let settings = read(&config, SETTINGS_BYTES_MAX)?;
                    let refused = |problem| TokenizerError::Refused { file: config, problem };
                    apply_settings(&settings, &mut vocabulary).map_err(refused)?;
                }
                Self::build(vocabulary, Original { json: Some(bytes), model: None }).map_err(refused)
            }
            _ => {
                let vocabulary = sentencepiece::read(&bytes).map_err(refused)?;
                Self::build(vocabulary, Original { json: None, model: Some(bytes) }).map_err(refused)
            }
        }
    }
}

fn read(path: &Path, _limit: u64) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(path).map_err(|cause| TokenizerError::File { file: path.to_owned(), cause })
}

/// The tokenizer file of a folder: `tokenizer.json` before `tokenizer.model`.
fn find_in_folder(folder: &Path) -> Result<PathBuf, TokenizerError> {
    let candidates = ["tokenizer.json", "tokenizer.model"].map(|name| folder.join(name));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| TokenizerError::NothingInFolder { folder: folder.to_owned() })
}

/// Takes begin, end and unknown tokens from a `tokenizer_config.json`.
fn apply_settings(bytes: &[u8], vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let settings: Value = json::parse(bytes)?;
    let ids = vocabulary.ids_by_text();
    let spelling = |key: &str| settings[key].as_str().or_else(|| settings[key]["content"].as_str());
    let token = |key: &str| spelling(key).and_then(|text| ids.get(text).copied());
    let (bos, eos) = (token("bos_token"), token("eos_token"));
    if settings.get("bos_token").is_some() {
        vocabulary.bos = bos;
    }
    if settings.get("eos_token").is_some() {
        vocabulary.eos = eos;
    }
    if let Some(adds) = settings["add_bos_token"].as_bool() {
        vocabulary.adds_bos = adds;
    }
    if let Some(adds) = settings["add_eos_token"].as_bool() {
        vocabulary.adds_eos = adds;
    }
    Ok(())
}
